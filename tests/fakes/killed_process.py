"""Runs as the process that dies: lives one story on a real database, and ends by os._exit at one point of it.

A point is the n-th time of one of POINTS: before or after commit, a write of a checkpoint, an effect of a tool, an
answer of the model. It reads one JSON plan a line, and forks for each, so that only the first pays for the imports.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from langchain_core.outputs import ChatGenerationChunk
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

from agent.approvals.types import Decision
from agent.tools.base import ToolResult
from agent.users import api_key_principal
from db.database import Database, Tx
from opsagent.compose import Core, open_core
from tests.fakes.counting_tools import CountingTools
from tests.fakes.scripted_model import ScriptedModel

KILLED = 9
POINTS = [
    f"{side} {what}" for what in ("commit", "aput", "aput_writes", "effect", "answer") for side in ("before", "after")
]


class Points:
    """Counts the points of one name as the story reaches them, and ends the process at the chosen one."""

    def __init__(self, name: str = "", time: int = 0) -> None:
        self._name = name
        self._left = time

    def reach(self, name: str) -> None:
        if name == self._name:
            self._left -= 1
            if self._left == 0:
                os._exit(KILLED)


class DeadlyDatabase(Database):
    """Points before and after each commit."""

    points = Points()

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Tx]:
        async with super().transaction() as tx:
            yield tx
            self.points.reach("before commit")
        self.points.reach("after commit")


class DeadlyModel(ScriptedModel):
    """Points before and after each answer."""

    _reach: Callable[[str], None] = lambda _label: None

    async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        self._reach("before answer")
        async for chunk in super()._astream(*args, **kwargs):
            yield chunk
        self._reach("after answer")


def written_to(path: str, points: Points | None = None) -> CountingTools:
    """Tools whose effects are lines of a file, which outlives its process."""
    tools = CountingTools()

    async def effect(args: Mapping[str, Any]) -> ToolResult | None:
        if points:
            points.reach("before effect")
        with open(path, "a") as file:
            file.write(f"{args['service']}\n")
        if points:
            points.reach("after effect")
        return None

    for name in ("restart", "repeat"):
        tools[name].effect = effect
    return tools


def deadly_saver(points: Points) -> None:
    """Points before and after each write of LangGraph's own saver, beneath ours."""
    for name in ("aput", "aput_writes"):

        def around(write: Callable[..., Any], name: str = name) -> Callable[..., Any]:
            async def written(*args: Any, **kwargs: Any) -> Any:
                points.reach(f"before {name}")
                done = await write(*args, **kwargs)
                points.reach(f"after {name}")
                return done

            return written

        setattr(AsyncPostgresSaver, name, around(getattr(AsyncPostgresSaver, name)))


async def live(plan: Mapping[str, Any]) -> None:
    """Say the message, then decide one approval after the other, going on after each step."""
    points = Points(*plan["point"])
    deadly_saver(points)
    database, model = DeadlyDatabase(plan["dsn"]), DeadlyModel()
    database.points, model._reach = points, points.reach
    session_id = UUID(plan["session_id"])
    async with open_core(
        plan["dsn"], model=model, sources=[written_to(plan["effects"], points)], database=database
    ) as core:
        await core.service.submit_message(session_id, plan["text"], by=api_key_principal(), event_key=plan["key"])
        await core.turns.advance(session_id)
        while await approve_next(core, plan["key"]):
            await core.turns.advance(session_id)


async def approve_next(core: Core, event_key: str) -> bool:
    """Approve the first pending approval of a message's turn; False where none is pending."""
    async with core.database.connection() as connection:
        approval_id = await connection.fetchval(
            "SELECT approval_id FROM approvals JOIN turns USING (turn_id) WHERE event_key = $1"
            " AND approvals.status = 'pending' ORDER BY args LIMIT 1",
            event_key,
        )
    if approval_id is None:
        return False
    await core.service.decide_approval(approval_id, Decision.APPROVE, by=api_key_principal())
    return True


def main() -> None:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                asyncio.run(live(json.loads(line)))
                code = 0
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        os.write(1, f"{os.waitstatus_to_exitcode(status)}\n".encode())


if __name__ == "__main__":
    main()
