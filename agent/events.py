"""The event log: facts in order per session, and who is told of new ones."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from agent.types import Event, EventKind
from db import queries
from db.database import Database, Tx

sql = queries.load("events")


async def append(
    tx: Tx, session_id: UUID, kind: EventKind, data: dict[str, Any], *, turn_id: UUID | None, epoch: int | None = None
) -> int:
    """Append one fact; return its seq. With an epoch, raises Fenced where the thread was taken over."""
    body = {"turn_id": str(turn_id), **data} if turn_id else data
    return await tx.fetchval(sql.append, session_id, epoch, turn_id, kind.value, body)


async def read(tx: Tx, session_id: UUID, *, after: int, limit: int) -> list[Event]:
    rows = await tx.fetch(sql.read, session_id, after, limit)
    return [Event(row["session_id"], row["seq"], EventKind(row["kind"]), row["data"], row["at"]) for row in rows]


class Hub:
    """Tells this process's waiters of new events, cancellations and changed users, over one LISTEN connection."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sessions: defaultdict[UUID, set[asyncio.Event]] = defaultdict(set)
        self._doors: defaultdict[str, set[asyncio.Queue[UUID | None]]] = defaultdict(set)
        self.on_cancel: Callable[[UUID | None], None] = lambda _session_id: None
        self.on_user_change: Callable[[UUID | None], None] = lambda _user_id: None
        self.on_tools_change: Callable[[str | None], None] = lambda _what: None

    async def run(self) -> None:
        """Listen until cancelled; after a lost connection everyone is told to look again."""
        await self._database.listen(
            {
                "opsagent_events": self._heard,
                "opsagent_cancel": self._cancelled,
                "opsagent_users": self._user_changed,
                "opsagent_tools": self._tools_changed,
            }
        )

    def _cancelled(self, payload: str | None) -> None:
        self.on_cancel(UUID(payload) if payload else None)

    def _user_changed(self, payload: str | None) -> None:
        self.on_user_change(UUID(payload) if payload else None)

    def _tools_changed(self, payload: str | None) -> None:
        self.on_tools_change(payload)

    def _heard(self, payload: str | None) -> None:
        if payload is None:
            for waiting in self._sessions.values():
                for event in waiting:
                    event.set()
            for queues in self._doors.values():
                for queue in queues:
                    queue.put_nowait(None)
            return
        session, _, door = payload.split(" ")
        session_id = UUID(session)
        for event in self._sessions.get(session_id, ()):
            event.set()
        for queue in self._doors.get(door, ()):
            queue.put_nowait(session_id)

    @asynccontextmanager
    async def watch(self, session_id: UUID) -> AsyncGenerator[asyncio.Event]:
        """An asyncio.Event that is set whenever the session has new events; clear it before reading them."""
        event = asyncio.Event()
        self._sessions[session_id].add(event)
        try:
            yield event
        finally:
            self._sessions[session_id].discard(event)
            if not self._sessions[session_id]:
                del self._sessions[session_id]

    @asynccontextmanager
    async def watch_door(self, door: str) -> AsyncGenerator[asyncio.Queue[UUID | None]]:
        """A queue of sessions with new events for a door; None means: look at everything."""
        queue: asyncio.Queue[UUID | None] = asyncio.Queue()
        self._doors[door].add(queue)
        try:
            yield queue
        finally:
            self._doors[door].discard(queue)
