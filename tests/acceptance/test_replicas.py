"""Several processes on one database: doors and workers come and go, and nobody outside can tell."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.acceptance.world import World, cloned, on_server
from tests.fakes.product import Product
from tests.fakes.slack import ALICE, OPS, TEAM
from tests.fakes.tongyi import Answer


@pytest.fixture
async def world(server: str, template: str) -> AsyncIterator[World]:
    async with cloned(server, template) as dsn, World(dsn, http=True, start=False) as world:
        yield world


async def test_doors_and_workers_are_interchangeable_and_a_killed_workers_turn_is_taken_over(world: World) -> None:
    door, other, first = await asyncio.gather(world.run("serve"), world.run("serve"), world.run("work"))
    session_id = (await door.call("POST", "/api/sessions", expect=201))["session_id"]
    turn = await world.execute(session_id, '{{tool restart {"service": "web"}}}', via=door)
    assert turn["status"] == "awaiting_approval"
    approval_id = turn["pending_approvals"][0]["approval_id"]
    await other.call("POST", f"/api/approvals/{approval_id}/approve", {})
    assert "restarted web" in (await world.turn(session_id, turn["turn_id"], via=other))["reply"]

    world.tongyi.queue.append(Answer(text="from the grave", delay=60))
    path = f"/api/sessions/{session_id}/execute?wait=false"
    busy = await other.call("POST", path, {"message": "think"}, expect=202)
    await world.until(lambda: world.tongyi.asked("think") == 1, what="the first worker's work")
    second = await world.run("work")
    first.kill()
    taken = await world.turn(session_id, busy["turn_id"], via=door)
    assert taken["reply"] == "answer 2: think"

    await world.run("work")
    sessions = [(await door.call("POST", "/api/sessions", expect=201))["session_id"] for _ in range(6)]
    doors = [door, other] * 3
    turns = await asyncio.gather(
        *(world.execute(s, f"message {n}", via=via) for n, (s, via) in enumerate(zip(sessions, doors, strict=True)))
    )
    assert [turn["reply"] for turn in turns] == [f"answer 1: message {n}" for n in range(6)]
    assert [world.tongyi.asked(f"message {n}") for n in range(6)] == [1] * 6
    assert world.probe.count("restart") == 1
    assert await second.stop(within=25) == 0


async def test_one_event_under_two_ids_at_two_doors_at_once_is_answered_once(world: World) -> None:
    doors = await asyncio.gather(world.run("serve"), world.run("serve"), world.run("work"))
    slack = world.slack
    said = slack.store(OPS, {"user": ALICE, "team": TEAM, "text": "<@U0OPSAGENT> only once"})
    event = {**said, "channel": OPS, "channel_type": "channel", "event_ts": said["ts"]}
    bodies = [slack.event_body(event), slack.event_body(event), slack.event_body({**event, "type": "app_mention"})]

    sent = [handed(world, door, body) for body in bodies * 2 for door in doors[:2]]
    assert set(await asyncio.gather(*sent)) == {200}

    await slack.bot_message(OPS, said["ts"], containing="only once")
    await slack.say(ALICE, "done?", thread_ts=said["ts"])
    await slack.bot_message(OPS, said["ts"], containing="answer 2: ")
    assert len(slack.bot_says(OPS, said["ts"])) == 2
    assert world.tongyi.asked("only once") == 1


async def handed(world: World, door: Product, body: dict[str, Any]) -> int:
    text = json.dumps(body)
    headers = {"Content-Type": "application/json", **world.slack.sign(text)}
    return (await door.http.post("/slack/events", content=text, headers=headers)).status_code


async def test_an_event_that_comes_while_the_database_is_down_is_not_acked_and_counts_once(
    world: World, server: str
) -> None:
    await world.run()
    slack = world.slack
    name = world.dsn.split("?")[0].rsplit("/", 1)[-1]
    await on_server(
        server,
        f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false",
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'",
    )
    asked = await slack.say(ALICE, "during the outage")
    await slack.until(lambda: len(slack.failures) >= 2, what="a refused delivery")
    assert not slack.acks
    await on_server(server, f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true")

    await slack.bot_message(OPS, asked["ts"], containing="answer 1: during the outage", timeout=45)
    await slack.settled()
    await slack.redeliver(asked["ts"], same_event_id=False)
    await slack.say(ALICE, "and now?", thread_ts=asked["ts"])
    await slack.bot_message(OPS, asked["ts"], containing="answer 2: and now?", timeout=45)
    assert len(slack.bot_says(OPS, asked["ts"])) == 2
    assert world.product.process.poll() is None
