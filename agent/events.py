"""The event log: facts in order per session, and who is told of new ones."""

import asyncio
from collections import Counter, defaultdict
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
    return [_event(row) for row in await tx.fetch(sql.read, session_id, after, limit)]


async def read_with_session(tx: Tx, session_id: UUID, *, after: int, limit: int) -> tuple[Any, list[Event]]:
    """Return the session's row, None where there is none, and its events, in one round trip."""
    rows = await tx.fetch(sql.read_with_session, session_id, after, limit)
    return (rows[0] if rows else None), [_event(row) for row in rows if row["seq"] is not None]


def _event(row: Any) -> Event:
    return Event(row["session_id"], row["seq"], EventKind(row["kind"]), row["data"], row["at"])


class Hub:
    """Tells this process's waiters of new events, cancellations and changed users, over one LISTEN connection."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sessions: defaultdict[UUID, dict[asyncio.Event, frozenset[str]]] = defaultdict(dict)
        self._doors: defaultdict[str, set[asyncio.Queue[UUID | None]]] = defaultdict(set)
        self.heard: Counter[str] = Counter()
        """Events by kind, since this process listens."""
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
        session, what, door = payload.split(" ")
        session_id, kind = UUID(session), what.partition(":")[2]
        self.heard[kind] += 1
        for event, kinds in self._sessions.get(session_id, {}).items():
            if not kinds or kind in kinds:
                event.set()
        for queue in self._doors.get(door, ()):
            queue.put_nowait(session_id)

    @asynccontextmanager
    async def watch(self, session_id: UUID, *kinds: EventKind) -> AsyncGenerator[asyncio.Event]:
        """An asyncio.Event that is set whenever the session has new events, of these kinds if any are named.

        Clear it before reading them.
        """
        event = asyncio.Event()
        self._sessions[session_id][event] = frozenset(kinds)
        try:
            yield event
        finally:
            del self._sessions[session_id][event]
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
