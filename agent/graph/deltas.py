"""The answer while it is being written: pieces in the event log, the first at once, then at most four a second."""

import asyncio
from types import TracebackType

from agent import events
from agent.run import Run
from agent.types import EventKind
from db.database import Database

EVERY_S = 0.25


class Deltas:
    """Writes coalesced pieces beside the stream, which never waits for them."""

    def __init__(self, database: Database, run: Run) -> None:
        self._database = database
        self._run = run
        self._text: list[str] = []
        self._more = asyncio.Event()
        self._writing = asyncio.Lock()
        self._writer: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Deltas":
        return self

    def add(self, text: str) -> None:
        """Take a piece of the answer."""
        if not text:
            return
        self._text.append(text)
        self._more.set()
        if self._writer is None:
            self._writer = asyncio.create_task(self._write())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the pieces: one that is being written is finished, so none comes after the answer itself."""
        if self._writer is None:
            return
        async with self._writing:
            self._writer.cancel()
        await asyncio.wait([self._writer])
        if not self._writer.cancelled() and (failure := self._writer.exception()) and error is None:
            raise failure

    async def _write(self) -> None:
        while True:
            await self._more.wait()
            self._more.clear()
            async with self._writing:
                piece, self._text = "".join(self._text), []
                await self._append(piece)
            await asyncio.sleep(EVERY_S)

    async def _append(self, piece: str) -> None:
        async with self._database.connection() as connection:
            await events.append(
                connection,
                self._run.session_id,
                EventKind.ANSWER_DELTA,
                {"text": piece},
                turn_id=self._run.turn_id,
                epoch=self._run.epoch,
            )
