"""Workers that freeze or are told to stop in the middle of a turn: another goes on, and nothing happens twice."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.tools.base import ToolResult
from agent.types import TurnStatus
from db import dispatch
from db.checkpoints import make_pool
from tests.fakes.counting_tools import CountingTools
from tests.fakes.worker_process import started
from tests.integration.conftest import ADMIN, Floor, running

_AUTO = """
    INSERT INTO tool_approval_config (tool_id, tool_name, auto_execute, approval_required) VALUES ($1, $2, true, false)
"""
_KEPT = {
    "turns": "turn_id",
    "messages": "position",
    "events": "session_id, seq",
    "executions": "session_id, tool_call_id",
    "approvals": "approval_id",
    "checkpoints": "thread_id, checkpoint_id",
    "checkpoint_blobs": "thread_id, channel, version",
    "checkpoint_writes": "thread_id, checkpoint_id, task_id, idx",
    "user_sessions": "session_id",
    "procrastinate_jobs": "id",
}
"""What a worker that lost its threads must not change, and an order to compare it in."""


async def allow(floor: Floor, *names: str) -> None:
    """Let tools run without approval."""
    for name in names:
        await floor.sql(_AUTO, floor.tools[name].spec.tool_id, name)


async def until(condition: Callable[[], bool], timeout: float = 45) -> None:
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.05)


async def everything(floor: Floor) -> dict[str, list[Any]]:
    return {
        table: [tuple(row) for row in await floor.sql(f"SELECT * FROM {table} ORDER BY {order}")]
        for table, order in _KEPT.items()
    }


async def finished(floor: Floor, count: int) -> None:
    async with asyncio.timeout(45):
        while (await floor.sql("SELECT count(*) FROM turns WHERE finished_at IS NOT NULL"))[0][0] < count:
            await asyncio.sleep(0.1)
        while await floor.sql("SELECT 1 FROM procrastinate_jobs WHERE task_name = 'advance' LIMIT 1"):
            await asyncio.sleep(0.05)


async def test_a_worker_that_froze_in_the_middle_of_turns_changes_nothing_when_it_wakes(
    dsn: str, tmp_path: Path
) -> None:
    async with running(dsn, work=False) as floor, started(dsn, tmp_path, name="frozen") as frozen:
        await allow(floor, "slow", "repeat", "restart")
        asked = {
            name: await floor.session() for name in ("thinking", "calling", "repeating", "done before", "nothing yet")
        }

        async def send(name: str, text: str) -> None:
            await floor.service.submit_message(asked[name], text, by=ADMIN)

        await send("done before", '{{tool restart {"service": "web"}}}')
        await finished(floor, 1)
        await send("thinking", '{{tool restart {"service": "api"}}} {{wait 1.5}}')
        await send("calling", '{{tool slow {"service": "db"}}}')
        await send("repeating", '{{tool repeat {"service": "dns"}}}')
        await until(lambda: {"slow db", "repeat dns"} <= set(frozen.ran()))
        frozen.freeze()
        await send("nothing yet", "hello")

        frozen.open_gate()
        async with started(dsn, tmp_path, name="living") as living:
            await finished(floor, 5)
            before = await everything(floor)
            frozen.thaw()
            taken = [asked[name] for name in ("thinking", "calling", "repeating")]
            await until(lambda: all(frozen.logged("worker.fenced", session_id=str(thread)) for thread in taken))
            assert await everything(floor) == before
            assert living.is_running
        assert {row["status"] for row in await floor.sql("SELECT status FROM turns")} == {"completed"}
        assert sorted(frozen.ran()) == ["repeat dns", "repeat dns", "restart api", "restart web", "slow db"]
        ledger = await floor.sql("SELECT tool_name, status, runs FROM executions ORDER BY tool_name, status")
        assert [tuple(row) for row in ledger] == [
            ("repeat", "succeeded", 2),
            ("restart", "succeeded", 1),
            ("restart", "succeeded", 1),
            ("slow", "outcome_unknown", 1),
        ]

        # The living one is gone; the one that froze works again, as a new worker.
        assert frozen.is_running
        answered = await floor.say(asked["nothing yet"], "are you back?", timeout=45)
        assert answered.turn.reply == "answer 2: are you back?"


STEPS = " ".join(f'{{{{{"next " if n else ""}tool restart {{"service": "step {n}"}}}}}}' for n in range(5))
ALL_STEPS = [f"step {n}" for n in range(5)]


class GatedTools(CountingTools):
    """`restart` stops at one of its calls until the gate opens."""

    def __init__(self, stop_at: str) -> None:
        super().__init__()
        self._stop_at = stop_at
        self["restart"].effect = self._hold

    async def _hold(self, args: Mapping[str, Any]) -> ToolResult | None:
        if args["service"] == self._stop_at:
            self.entered.set()
            await self.gate.wait()
        return None


async def test_a_drained_worker_hands_a_turn_over_after_its_step_and_no_tool_runs_twice(dsn: str) -> None:
    tools = GatedTools("step 2")
    async with running(dsn, work=False, tools=tools) as leaving:
        await allow(leaving, "restart")
        session_id = await leaving.session()
        sent = await leaving.service.submit_message(session_id, STEPS, by=ADMIN)
        queued = await leaving.service.submit_message(session_id, "and then?", by=ADMIN)
        loop = asyncio.create_task(leaving.core.worker.run())
        await asyncio.wait_for(tools.entered.wait(), 45)
        leaving.core.turns.drain()
        loop.cancel()
        tools.gate.set()
        await asyncio.gather(loop, return_exceptions=True)
        assert tools.ran("restart") == ALL_STEPS[:3]
        ((status, attempts),) = await leaving.sql(
            "SELECT status, attempts FROM turns WHERE turn_id = $1", sent.turn.turn_id
        )
        assert (status, attempts) == ("running", 0)  # a drain is no failure
        assert await leaving.sql("SELECT status FROM procrastinate_jobs WHERE task_name = 'advance'") == [("todo",)]

        async with running(dsn) as staying:
            done = await staying.done(sent.turn.turn_id)
            after = await staying.done(queued.turn.turn_id)
        assert done.turn.reply == f"tools said: {' | '.join(f'restarted {step}' for step in ALL_STEPS)}"
        assert staying.tools.ran("restart") == ALL_STEPS[3:]
        assert after.turn.status is TurnStatus.COMPLETED


async def test_a_turn_cut_off_when_the_grace_is_over_goes_on_elsewhere_with_that_call_unknown(dsn: str) -> None:
    tools = GatedTools("step 1")
    async with running(dsn, work=False, tools=tools) as leaving, make_pool(dsn) as pool:
        await allow(leaving, "restart")
        sent = await leaving.service.submit_message(await leaving.session(), STEPS, by=ADMIN)
        worker = dispatch.Worker(pool, leaving.core.turns.advance, concurrency=1, grace_s=0.1)
        loop = asyncio.create_task(worker.run())
        await asyncio.wait_for(tools.entered.wait(), 45)
        leaving.core.turns.drain()
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)
        assert tools.ran("restart") == ALL_STEPS[:2]
        assert await leaving.sql("SELECT status FROM procrastinate_jobs WHERE task_name = 'advance'") == [("todo",)]

        async with running(dsn) as staying:
            done = await staying.done(sent.turn.turn_id)
        assert done.turn.status is TurnStatus.COMPLETED
        assert staying.tools.ran("restart") == ALL_STEPS[2:]
        ledger = await leaving.sql("SELECT status FROM executions ORDER BY claimed_at")
        assert [row["status"] for row in ledger] == ["succeeded", "outcome_unknown", *["succeeded"] * 3]


@pytest.mark.parametrize("text", ["hello", STEPS], ids=["answer", "steps"])
async def test_a_turn_that_begins_while_its_worker_is_drained_is_handed_over_untouched(dsn: str, text: str) -> None:
    async with running(dsn, work=False) as leaving:
        await allow(leaving, "restart")
        sent = await leaving.service.submit_message(await leaving.session(), text, by=ADMIN)
        leaving.core.turns.drain()
        await leaving.core.turns.advance(sent.turn.session_id)
        assert leaving.model.requests == []
        async with running(dsn) as staying:
            done = await staying.done(sent.turn.turn_id)
        assert done.turn.status is TurnStatus.COMPLETED
        assert staying.tools.ran("restart") == (ALL_STEPS if text == STEPS else [])
