"""How far a running call is: its latest word in the event log, a new one at most each second."""

import asyncio
import math

from agent import events
from agent.run import Run
from agent.tools.base import cleaned
from agent.types import EventKind
from db.database import Database, Fenced

EVERY_S = 1.0
MESSAGE_LIMIT = 200


class Progress:
    """Takes any number of words, at once; whoever tells them never waits."""

    def __init__(self, database: Database, run: Run, tool_call_id: str, tool_name: str) -> None:
        self._database = database
        self._run = run
        self._call = {"tool_call_id": tool_call_id, "tool_name": tool_name}
        self._latest: tuple[float, float | None, str | None] | None = None
        self._more = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._seq: int | None = None

    def tell(self, progress: float, total: float | None, message: str | None) -> None:
        """Take the latest word; one that is no number is none."""
        if not _is_finite(progress):
            return
        total = total if total is not None and _is_finite(total) else None
        self._latest = (float(progress), total, message[: MESSAGE_LIMIT * 2] if message else None)
        self._more.set()
        if self._writer is None:
            self._writer = asyncio.create_task(self._write())

    async def end(self) -> None:
        """Say no more; what is being written then is finished or undone."""
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.wait([self._writer])

    async def _write(self) -> None:
        while True:
            await self._more.wait()
            self._more.clear()
            latest, self._latest = self._latest, None
            if latest is not None:
                try:
                    await self._append(*latest)
                except Fenced:
                    return
            await asyncio.sleep(EVERY_S)

    async def _append(self, progress: float, total: float | None, message: str | None) -> None:
        run = self._run
        text = cleaned(" ".join(message.split()))[:MESSAGE_LIMIT] if message else None
        data = {**self._call, "progress": progress, "total": total, "message": text}
        async with self._database.transaction() as tx:
            # The new event first: its fence locks the thread.
            seq = await events.append(
                tx, run.session_id, EventKind.TOOL_PROGRESS, data, turn_id=run.turn_id, epoch=run.epoch
            )
            if self._seq is not None:
                await tx.execute(events.sql.drop_progress, run.session_id, self._seq)
        self._seq = seq


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an integer of a server's that no float holds
        return False
