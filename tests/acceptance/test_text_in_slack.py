"""What models and tools write arrives in Slack whole, within Slack's limits, and never comes alive."""

import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.acceptance.world import World, cloned
from tests.fakes.slack import ALICE, BOB, OPS
from tests.fakes.tongyi import Answer

pytestmark = pytest.mark.asyncio(loop_scope="module")
OURS = ("<@U0ALICE>", "<@U0BOB>", "<!date^")
"""Whom a card names, and its times: the only entities that are ours."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(server: str, template: str) -> AsyncIterator[World]:
    async with cloned(server, template) as dsn, World(dsn) as world:
        yield world


async def test_a_long_answer_with_code_and_tables_arrives_whole_in_parts_that_slack_takes(world: World) -> None:
    slack = world.slack
    rows = "\n".join(f"| row {n:05} | number {n * 7:06} |" for n in range(950))
    code = "\n".join(f"print('code line {n:05}')" for n in range(950))
    text = f"# Long\n\n```python\n{code}\n```\n\n| name | number |\n|---|---|\n{rows}\n\nThe very end."
    assert len(text) > 50_000
    world.tongyi.queue.append(Answer(text=text))

    asked = await slack.say(ALICE, "tell me everything")

    await slack.bot_message(OPS, asked["ts"], containing="The very end.", timeout=45)
    said = "\n".join(slack.rendered(message) for message in slack.bot_says(OPS, asked["ts"]))
    places = [said.find(f"code line {n:05}") for n in range(950)] + [said.find(f"row {n:05}") for n in range(950)]
    assert -1 not in places
    assert places == sorted(places)
    assert all(f"number {n * 7:06}" in said for n in range(950))
    assert slack.refused == []


async def test_hostile_text_in_arguments_and_answers_does_not_come_alive(world: World) -> None:
    slack = world.slack
    evil = "<!channel> <!here> <@U0CAROL> <!subteam^S0SRE> <https://evil.example|our bank> @channel"
    hidden = "\u202egnp.exe\u200b \u2066x"
    args = json.dumps({"service": f"{evil} {hidden}", "reason": f"one\n{evil}"})

    asked = await slack.say(ALICE, f"{{{{tool restart {args}}}}}")
    card = await slack.card(OPS, asked["ts"])

    seen = slack.rendered(card)
    assert evil in seen
    assert not set(hidden) & set("\u202e\u200b\u2066") & set(seen)
    assert "\\u202egnp.exe\\u200b" in seen
    await slack.click(BOB, OPS, card, "approval_approve")
    answer = await slack.bot_message(OPS, asked["ts"], containing="tools said: restarted")
    assert "U0CAROL" in slack.rendered(answer)
    assert not set("\u202e\u200b\u2066") & set(slack.rendered(answer))
    for message in slack.bot_says(OPS, asked["ts"]):
        assert [ping for ping in slack.pings(message) if not ping.startswith(OURS)] == []
    assert slack.refused == []


async def test_an_answer_that_calls_everybody_calls_nobody(world: World) -> None:
    slack = world.slack
    evil = "<!channel> <!everyone|x> <@U0CAROL|carol> &lt;!here&gt; [bank](https://evil.example) @here `<!channel>`"
    world.tongyi.queue.append(Answer(text=f"{evil}\n```\n<!channel>\n```\n> <@U0CAROL>"))

    asked = await slack.say(ALICE, "be nasty")

    answer = await slack.bot_message(OPS, asked["ts"])
    assert "U0CAROL" in slack.rendered(answer)
    assert slack.pings(answer) == []


async def test_a_picture_of_an_mcp_server_arrives_as_a_file_and_the_model_hears_of_it(world: World) -> None:
    slack = world.slack

    asked = await slack.say(ALICE, "{{tool chart {}}}")
    await slack.click(BOB, OPS, await slack.card(OPS, asked["ts"]), "approval_approve")

    answer = await slack.bot_message(OPS, asked["ts"], containing="tools said:", timeout=45)
    assert "Shown to the people beside this: image.png (image/png, 72 bytes)" in slack.rendered(answer)
    names = [file["name"] for message in slack.bot_says(OPS, asked["ts"]) for file in message.get("files", [])]
    assert names == ["image.png"]
    assert slack.refused == []
