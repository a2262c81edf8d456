"""The main job in Slack, over both of its wires: ask, see the card, click, read the answer."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.acceptance.world import World, cloned
from tests.fakes.slack import ALICE, BOB, CAROL, OPS

pytestmark = pytest.mark.asyncio(loop_scope="module")
RESTART = '{{tool restart {"service": "%s"}}}'


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["socket", "http"])
async def world(request: pytest.FixtureRequest, server: str, template: str) -> AsyncIterator[World]:
    async with cloned(server, template) as dsn, World(dsn, http=request.param == "http") as world:
        yield world


async def settled(world: World) -> None:
    await asyncio.wait_for(world.slack.settled(), 45)


async def test_a_mention_gets_a_card_and_the_approvers_click_runs_the_tool_once(world: World) -> None:
    slack, before = world.slack, world.probe.count("restart")
    asked = await slack.say(ALICE, RESTART % "web")
    card = await slack.card(OPS, asked["ts"])
    assert '"web"' in slack.rendered(card)
    assert world.probe.count("restart") == before

    acks = await slack.click(BOB, OPS, card, "approval_approve", repeat=3)

    assert all(ack is not None for ack in acks)
    await slack.bot_message(OPS, asked["ts"], containing="tools said: restarted web")
    await settled(world)
    assert world.probe.count("restart") == before + 1
    now = slack.find(OPS, card["ts"])
    assert now is not None
    assert not slack.buttons(now)
    assert "Approved by" in slack.rendered(now)
    assert slack.refused == []
    assert slack.failures == []


async def test_a_click_of_somebody_who_may_not_decide_is_refused_to_them_alone(world: World) -> None:
    slack, before = world.slack, world.probe.count("restart")
    asked = await slack.say(ALICE, RESTART % "db")
    card = await slack.card(OPS, asked["ts"])

    await slack.click(ALICE, OPS, card, "approval_approve")

    told = await slack.until(lambda: [m for m in slack.ephemerals if m["to"] == ALICE], what="a reason for Alice")
    assert slack.rendered(told[-1])
    assert world.probe.count("restart") == before
    await slack.click(CAROL, OPS, card, "approval_reject")  # one of the user group in APPROVERS
    await slack.bot_message(OPS, asked["ts"], containing="tools said:")
    assert world.probe.count("restart") == before


async def test_a_reply_in_the_thread_needs_no_mention_and_is_answered_with_memory(world: World) -> None:
    slack = world.slack
    asked = await slack.say(ALICE, "first words")
    await slack.bot_message(OPS, asked["ts"], containing="answer 1: first words")

    await slack.say(CAROL, "second words", thread_ts=asked["ts"], mention=False)

    await slack.bot_message(OPS, asked["ts"], containing="answer 2: second words")
    newest = world.tongyi.requests[-1]["input"]["messages"]
    assert any("answer 1: first words" in str(message["content"]) for message in newest)


async def test_a_direct_message_is_answered_where_it_was_written(world: World) -> None:
    slack = world.slack
    dm = slack.dm(ALICE)
    asked = await slack.say(ALICE, "just us", dm)
    await slack.bot_message(dm, asked["ts"], containing="answer 1: just us")
    await settled(world)
    assert len(slack.bot_says(dm, asked["ts"])) == 1


async def test_what_comes_while_auth_test_is_broken_is_acked_kept_and_answered(world: World) -> None:
    slack, before, effects = world.slack, len(world.slack.failures), world.probe.count("restart")
    asked = await slack.say(ALICE, RESTART % "cache")
    card = await slack.card(OPS, asked["ts"])
    slack.auth_test_broken = True
    try:
        others = [await slack.say(CAROL, f"during the outage {n}") for n in range(3)]
        acks = await slack.click(BOB, OPS, card, "approval_approve")
        await settled(world)
        assert all(ack is not None for ack in acks)
        assert len(slack.failures) == before
        for n, other in enumerate(others):
            await slack.bot_message(OPS, other["ts"], containing=f"answer 1: during the outage {n}")
        await slack.bot_message(OPS, asked["ts"], containing="tools said: restarted cache")
    finally:
        slack.auth_test_broken = False
    assert world.probe.count("restart") == effects + 1
    for other in others:
        assert len(slack.bot_says(OPS, other["ts"])) == 1
