"""A real process is killed at every point of a turn, and another goes on: nothing runs twice, nothing is left open."""

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from agent import transcript
from agent.approvals.policy import Rule
from agent.models.wire import wire_messages
from agent.toolcalls import UNKNOWN_OUTCOME
from agent.types import TurnStatus
from opsagent.compose import Core
from tests.fakes.killed_process import KILLED, POINTS, approve_next, written_to
from tests.fakes.model_script import refusal
from tests.integration.conftest import ADMIN, Floor, running

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Story:
    """A message, the services its calls touch, and whether its tool may run again."""

    text: str
    services: tuple[str, ...]
    auto: bool = False
    repeatable: bool = False


STORIES = {
    "an automatic call": Story('{{tool restart {"service": "a"}}}', ("a",), auto=True),
    "an approved call": Story('{{tool restart {"service": "a"}}}', ("a",)),
    "two approved calls, decided one after the other": Story(
        '{{tool restart {"service": "a"}}} {{tool restart {"service": "b"}}}', ("a", "b")
    ),
    "an approved call that may run again": Story('{{tool repeat {"service": "a"}}}', ("a",), repeatable=True),
}


@pytest.fixture
async def mortal() -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that forks one that dies for each plan it reads."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.fakes.killed_process",
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


async def dies(process: asyncio.subprocess.Process, plan: dict[str, Any]) -> bool:
    """Live the plan until its point; False where the story ended before it."""
    assert process.stdin
    assert process.stdout
    process.stdin.write(json.dumps(plan).encode() + b"\n")
    code = int(await asyncio.wait_for(process.stdout.readline(), 30))
    assert code in (0, KILLED), "the process died of something else than its point"
    return code == KILLED


async def go_on(core: Core, session_id: UUID, story: Story, key: str) -> Any:
    """Do what the living do: redeliver the message, advance the thread, approve what is still pending."""
    sent = await core.service.submit_message(session_id, story.text, by=ADMIN, event_key=key)
    while True:
        await core.turns.advance(session_id)
        if not await approve_next(core, key):
            break
    return (await core.service.read_turn(session_id, sent.turn.turn_id, by=ADMIN)).turn


async def outcomes(floor: Floor, session_id: UUID, story: Story, ran: Counter[str], turn_id: UUID) -> list[str]:
    """Check what must hold wherever the process died; return what became of the calls."""
    messages = (await floor.service.read_messages(session_id, by=ADMIN)).items
    asked = {call["id"]: call["args"]["service"] for m in messages for call in m.tool_calls}
    answers = {m.tool_call_id: m.content for m in messages if m.role == "tool"}
    assert sorted(asked.values()) == list(story.services)
    assert sum(m.role == "tool" for m in messages) == len(answers) == len(asked), "one result for each call"
    assert [m.role for m in messages].count("user") == 1
    ledger = {
        row["tool_call_id"]: row["status"]
        for row in await floor.sql("SELECT tool_call_id, status FROM executions WHERE turn_id = $1", turn_id)
    }
    for call_id, service in asked.items():
        if ledger[call_id] == "succeeded":
            assert ran[service] == 1 or (story.repeatable and ran[service] == 2)
            assert f"ed {service}" in answers[call_id]
        else:
            assert ledger[call_id] == "outcome_unknown"
            assert answers[call_id] == UNKNOWN_OUTCOME
            assert ran[service] <= 1
    # Straight from the transcript, unrepaired: the service would take it.
    async with floor.core.database.connection() as connection:
        history = await transcript.window(connection, session_id, before=uuid4(), tokens=24_000)
    assert refusal(wire_messages(history)) is None
    return list(ledger.values())


@pytest.mark.parametrize("name", STORIES)
async def test_a_turn_killed_anywhere_goes_on_and_runs_nothing_twice(
    name: str, dsn: str, tmp_path: Path, mortal: asyncio.subprocess.Process
) -> None:
    story, met, found = STORIES[name], Counter[str](), Counter[str]()
    effects = tmp_path / "effects"
    async with running(dsn, tools=written_to(str(effects)), work=False) as floor:
        if story.auto:
            rule = Rule(auto_execute=True, approval_required=False)
            await floor.service.set_tool_approval(floor.tools["restart"].spec.tool_id, rule, by=ADMIN)
        for point in POINTS:
            died = True
            while died:
                effects.write_text("")
                session_id, key = await floor.session(), uuid4().hex
                plan = {"dsn": dsn, "session_id": str(session_id), "text": story.text, "key": key}
                died = await dies(mortal, {**plan, "point": (point, met[point] + 1), "effects": str(effects)})
                met[point] += died
                async with asyncio.timeout(45):
                    turn = await go_on(floor.core, session_id, story, key)
                ran = Counter(effects.read_text().split())
                try:
                    assert (turn.status, turn.error) == (TurnStatus.COMPLETED, None)
                    found.update(await outcomes(floor, session_id, story, ran, turn.turn_id))
                except AssertionError as error:
                    error.add_note(f"killed {point} {met[point]}; ran {dict(ran)}")
                    raise
    assert all(met[point] >= len(story.services) for point in POINTS), met
    assert (found["outcome_unknown"] > 0) is not story.repeatable
    assert found["succeeded"] > found["outcome_unknown"]
