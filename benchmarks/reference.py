"""The reference: a bare LangGraph graph with LangGraph's own Postgres saver, durability async, and nothing else."""

import asyncio
import os
from typing import Any
from uuid import uuid4

from langchain_core.messages import HumanMessage
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.types import Command
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from benchmarks.bare_graph import build
from benchmarks.subject import obey, quiet, timed


class Reference:
    """What the parent may have done."""

    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool
        self._graph = build(AsyncPostgresSaver(pool))

    async def _invoke(self, given: Any, thread: str) -> dict[str, Any]:
        return await self._graph.ainvoke(given, {"configurable": {"thread_id": thread}}, durability="async")

    async def _insert(self, thread: str, status: str) -> None:
        async with self._pool.connection() as connection:
            await connection.execute("INSERT INTO bench_inbox VALUES (%s, %s)", (thread, status))

    async def _settle(self, thread: str) -> None:
        async with self._pool.connection() as connection:
            settle = "UPDATE bench_inbox SET status = 'approved' WHERE id = %s AND status = 'pending' RETURNING id"
            assert await (await connection.execute(settle, (thread,))).fetchone()

    async def turns(self, n: int) -> dict[str, Any]:
        """Turns without a tool, each in a thread of its own."""
        return await timed(
            lambda thread: self._invoke({"messages": [HumanMessage("hello there")]}, thread), _threads(n)
        )

    async def turns_with_insert(self, n: int) -> dict[str, Any]:
        """The same behind one insert, for the message that is stored first."""

        async def turn(thread: str) -> None:
            await self._insert(thread, "queued")
            await self._invoke({"messages": [HumanMessage("hello there")]}, thread)

        return await timed(turn, _threads(n))

    async def interrupts(self, n: int) -> dict[str, Any]:
        """Turns to an interrupt, then their resumes."""
        threads = _threads(n)
        asked = await timed(lambda thread: self._invoke({"messages": [HumanMessage("restart web")]}, thread), threads)
        resumed = await timed(lambda thread: self._invoke(Command(resume=True), thread), threads)
        return {"asked": asked, "resumed": resumed}

    async def cycles(self, n: int) -> dict[str, Any]:
        """Turns to an interrupt, one compare-and-set, resume to the end."""
        threads = _threads(n)
        for thread in threads:
            await self._insert(thread, "pending")

        async def cycle(thread: str) -> None:
            await self._invoke({"messages": [HumanMessage("restart web")]}, thread)
            await self._settle(thread)
            done = await self._invoke(Command(resume=True), thread)
            assert done["messages"][-1].content == "It is done."

        return await timed(cycle, threads)


def _threads(n: int) -> list[str]:
    return [str(uuid4()) for _ in range(n)]


async def main() -> None:
    kwargs = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    async with AsyncConnectionPool(os.environ["BENCH_DSN"], min_size=2, max_size=10, kwargs=kwargs, open=False) as pool:
        async with pool.connection() as connection:
            await connection.execute("CREATE TABLE bench_inbox (id text PRIMARY KEY, status text NOT NULL)")
        subject = Reference(pool)
        await obey(
            {
                "turns": subject.turns,
                "turns_with_insert": subject.turns_with_insert,
                "interrupts": subject.interrupts,
                "cycles": subject.cycles,
            }
        )


if __name__ == "__main__":
    quiet()
    asyncio.run(main())
