"""Power cuts and stops: no call runs twice, nothing that was asked is forgotten, people learn what nobody can know."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.acceptance.world import World, cloned
from tests.fakes.slack import ALICE, BOB, OPS
from tests.fakes.tongyi import Answer


@pytest.fixture
async def world(server: str, template: str) -> AsyncIterator[World]:
    async with cloned(server, template) as dsn, World(dsn) as world:
        yield world


async def test_after_a_power_cut_the_running_call_is_explained_and_the_waiting_one_goes_on(world: World) -> None:
    slack = world.slack
    running = await slack.say(ALICE, '{{tool slow {"seconds": 40}}}')
    waiting = await slack.say(ALICE, '{{tool restart {"service": "web"}}}')
    card = await slack.card(OPS, waiting["ts"])
    await slack.click(BOB, OPS, await slack.card(OPS, running["ts"]), "approval_approve")
    await world.until(lambda: world.probe.count("slow") == 1, what="the running call")

    world.product.kill()
    await world.run()

    await slack.click(BOB, OPS, card, "approval_approve")
    await slack.bot_message(OPS, waiting["ts"], containing="tools said: restarted web", timeout=45)
    told = await slack.bot_message(OPS, running["ts"], containing="tools said:", timeout=45)
    assert "unknown" in slack.rendered(told)
    shown = "\n".join(slack.rendered(message) for message in slack.bot_says(OPS, running["ts"]))
    assert "Nobody can tell whether it ran" in shown
    assert world.probe.count("slow") == 1
    assert world.probe.count("restart") == 1


async def test_a_stop_lets_the_running_call_end_and_leaves_the_rest_to_the_next_start(world: World) -> None:
    await world.allow("slow")
    calling, thinking = await world.session(), await world.session()
    called = await submitted(world, calling, '{{tool slow {"seconds": 2}}}')
    await world.until(lambda: world.probe.count("slow") == 1, what="the running call")
    world.tongyi.queue.append(Answer(text="too late", delay=60))
    thought = await submitted(world, thinking, "think about it")
    await world.until(lambda: world.tongyi.asked("think about it") == 1, what="the model's work")

    assert await world.product.stop(within=25) == 0
    await world.run()

    assert "done at last" in (await world.turn(calling, called))["reply"]
    assert (await world.turn(thinking, thought))["reply"] == "answer 1: think about it"
    assert world.probe.count("slow") == 1


async def submitted(world: World, session_id: str, message: str) -> str:
    path = f"/api/sessions/{session_id}/execute?wait=false"
    return (await world.product.call("POST", path, {"message": message}, expect=202))["turn_id"]


async def test_a_stop_while_nothing_runs_loses_no_message_that_slack_keeps(world: World) -> None:
    slack = world.slack
    assert await world.product.stop(within=25) == 0
    await slack.until(lambda: not slack.sockets, what="the end of the connection")
    asked = await slack.say(ALICE, "while you were away")
    await asyncio.wait_for(slack.until(lambda: slack.failures, what="a failed delivery"), 45)
    await world.run()
    await slack.bot_message(OPS, asked["ts"], containing="answer 1: while you were away", timeout=45)
    assert len(slack.bot_says(OPS, asked["ts"])) == 1
