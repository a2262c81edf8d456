"""The service's part for sessions, messages and turns."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from agent import attachments, events, sessions, transcript, turns
from agent.approvals import store
from agent.approvals.types import Approval
from agent.errors import Invalid
from agent.house import Part, after, before, cursor_of
from agent.sessions import SessionNotFound
from agent.tools.attachments import Shown
from agent.types import (
    Address,
    ChatUser,
    Event,
    EventKind,
    Message,
    Page,
    Principal,
    Role,
    Session,
    ThreadKey,
    Turn,
    TurnStatus,
)
from db import dispatch
from db.database import Tx

MESSAGE_LIMIT = 40_000
_TITLE = 80
_ENDS_A_WAIT = (
    EventKind.TURN_WAITING,
    EventKind.TURN_COMPLETED,
    EventKind.TURN_FAILED,
    EventKind.TURN_CANCELLED,
)


@dataclass(frozen=True, slots=True)
class Submitted:
    """A stored message's turn; `waits` says that it is queued behind pending approvals."""

    turn: Turn
    is_new: bool
    waits: bool


@dataclass(frozen=True, slots=True)
class TurnView:
    """A turn with what people still have to decide in it."""

    turn: Turn
    pending_approvals: list[Approval]
    attachments: list[Shown] = field(default_factory=list[Shown])


class EmptyMessage(Invalid):
    code = "empty_message"


class MessageTooLong(Invalid):
    code = "message_too_long"


def checked(text: str) -> str:
    """Return a message as it is stored; raises EmptyMessage or MessageTooLong."""
    if not text.strip():
        raise EmptyMessage("The message is empty.")
    if len(text) > MESSAGE_LIMIT:
        raise MessageTooLong(f"The message has {len(text)} characters; {MESSAGE_LIMIT} is the most.")
    return transcript.clean(text)


async def tell_queued(tx: Tx, turn: Turn, by: Principal, *, waits: bool, **more: str) -> None:
    """Tell that a message has become mail."""
    who = {"user_id": str(by.user_id), "username": by.username}
    data = {"text": turn.text, "by": who, "waits": waits, **more}
    await events.append(tx, turn.session_id, EventKind.TURN_QUEUED, data, turn_id=turn.turn_id)


class Conversations(Part):
    """Sessions, messages, turns and their events."""

    async def create_session(
        self, *, by: Principal, title: str | None = None, expires_in_s: int | None = None, source: str = "rest"
    ) -> Session:
        async with self._database.transaction() as tx:
            user = await self._acting(tx, by)
            return await sessions.create(
                tx, user_id=user.user_id, title=title, source=source, expires_in_s=expires_in_s
            )

    async def list_sessions(self, *, by: Principal, limit: int = 50, cursor: str | None = None) -> Page[Session]:
        """Return the caller's sessions, newest first; an admin's list holds everybody's."""
        async with self._database.connection() as connection:
            if by.role is Role.ADMIN:
                rows = await connection.fetch(sessions.sql.list_all, *before(cursor), limit + 1)
            else:
                rows = await connection.fetch(sessions.sql.list_of_user, by.user_id, *before(cursor), limit + 1)
        found = [sessions.session(row) for row in rows[:limit]]
        more = len(rows) > limit
        return Page(found, cursor_of(found[-1].created_at, found[-1].session_id) if more else None)

    async def read_session(self, session_id: UUID, *, by: Principal) -> Session:
        async with self._database.connection() as connection:
            return sessions.visible(await sessions.read(connection, session_id), by)

    async def delete_session(self, session_id: UUID, *, by: Principal) -> None:
        """Cancel what runs and waits, remove transcript and checkpoints; approvals, ledger and audit stay."""
        async with self._database.transaction() as tx:
            sessions.visible(await sessions.lock(tx, session_id), by)
            await self._house.endings.delete(tx, session_id)

    async def clear_messages(self, session_id: UUID, *, by: Principal) -> None:
        """The same as deleting the session, but the session stays."""
        async with self._database.transaction() as tx:
            sessions.visible(await sessions.lock(tx, session_id), by)
            await self._house.endings.forget(tx, session_id)

    async def read_messages(
        self, session_id: UUID, *, by: Principal, limit: int = 200, cursor: str | None = None
    ) -> Page[Message]:
        async with self._database.connection() as connection:
            sessions.visible(await sessions.read(connection, session_id), by)
            rows = await transcript.read(connection, session_id, after=after(cursor), limit=limit + 1)
        more = len(rows) > limit
        rows = rows[:limit]
        return Page([message for _, message in rows], cursor_of(rows[-1][0]) if more else None)

    async def submit_message(
        self,
        session: UUID | ThreadKey,
        text: str,
        *,
        by: Principal | ChatUser,
        event_key: str | None = None,
        message_key: str | None = None,
        idempotency_digest: str | None = None,
        address: Address | None = None,
        start: bool = True,
    ) -> Submitted | None:
        """Store a message as mail and wake its thread, in one transaction; what was stored before counts once.

        None: the thread has no session, and `start` says not to make one.
        """
        text = checked(text)
        async with self._database.transaction() as tx:
            user = await self._acting(tx, by)
            self._admit(user)
            session_id = await self._lock(tx, session, user, text, address, start=start)
            if session_id is None:
                return None
            turn = await turns.insert(
                tx,
                turn_id=uuid4(),
                session_id=session_id,
                requester_id=user.user_id,
                text=text,
                event_key=event_key,
                message_key=message_key,
                digest=idempotency_digest,
            )
            waits = await tx.fetchval(turns.sql.waits_for_people, session_id)
            if turn is None:
                first = await turns.by_key(tx, event_key=event_key, message_key=message_key, digest=idempotency_digest)
                if first is None:
                    raise SessionNotFound
                return Submitted(first, is_new=False, waits=waits and first.status is TurnStatus.QUEUED)
            await tell_queued(tx, turn, user, waits=waits)
            await dispatch.wake(tx, session_id)
            return Submitted(turn, is_new=True, waits=waits)

    async def _lock(
        self, tx: Tx, session: UUID | ThreadKey, user: Principal, text: str, address: Address | None, *, start: bool
    ) -> UUID | None:
        if isinstance(session, UUID):
            return sessions.visible(await sessions.lock(tx, session), user).session_id
        if start:
            title = " ".join(text.split())[:_TITLE]
            return await sessions.open_thread(tx, session, user_id=user.user_id, title=title, address=address)
        try:
            return (await sessions.lock(tx, session.session_id)).session_id
        except SessionNotFound:
            return None

    async def read_turn(self, session_id: UUID, turn_id: UUID, *, by: Principal) -> TurnView:
        async with self._database.connection() as connection:
            sessions.visible(await sessions.read(connection, session_id), by)
            turn = await turns.read(connection, turn_id)
            if turn.session_id != session_id:
                raise turns.TurnNotFound
            return await self._view(connection, turn)

    async def wait_turn(self, turn_id: UUID, *, timeout: float) -> TurnView:
        """Return the turn once it is final, waits for people or for those before it that do, or at the timeout."""
        async with self._database.connection() as connection:
            session_id = (await turns.read(connection, turn_id)).session_id
        deadline = asyncio.get_running_loop().time() + timeout
        async with self._house.hub.watch(session_id, *_ENDS_A_WAIT) as changed:
            while True:
                changed.clear()
                async with self._database.connection() as connection:
                    turn = await turns.read(connection, turn_id)
                    waits = turn.status is TurnStatus.QUEUED and await connection.fetchval(
                        turns.sql.waits_for_people, session_id
                    )
                    left = deadline - asyncio.get_running_loop().time()
                    if turn.status.is_final or turn.status is TurnStatus.AWAITING_APPROVAL or waits or left <= 0:
                        return await self._view(connection, turn)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(left, 5)):
                        await changed.wait()

    async def _view(self, connection: Tx, turn: Turn) -> TurnView:
        asks = [] if turn.status.is_final else await store.of_turn(connection, turn.turn_id)
        pending = await self._shown(connection, *asks) if asks else []
        return TurnView(turn, pending, await attachments.of_turn(connection, turn.turn_id))

    async def read_attachment(
        self, session_id: UUID, attachment_id: UUID, *, by: Principal | None
    ) -> tuple[Shown, bytes]:
        """Return what a tool gave to people, with its bytes; `by` None is a door's own presenter."""
        async with self._database.connection() as connection:
            if by is not None:
                sessions.visible(await sessions.read(connection, session_id), by)
            return await attachments.read(connection, session_id, attachment_id)

    async def cancel_turn(self, session_id: UUID, *, by: Principal) -> Turn | None:
        """Stop the running turn, wherever it runs; None: nothing was running."""
        async with self._database.transaction() as tx:
            found = await sessions.lock(tx, session_id)
            in_hand = await turns.open_of_session(tx, session_id)
            if not in_hand or in_hand[0].turn.requester_id != by.user_id:  # one's own turn, in whoever's thread
                sessions.visible(found, by)
            turn_id = await tx.fetchval(turns.sql.request_cancel, session_id)
            if turn_id is None:
                return None
            await tx.execute(turns.sql.notify_cancel, str(session_id))
            await dispatch.wake(tx, session_id)
            return await turns.read(tx, turn_id)

    async def read_events(
        self, session_id: UUID, *, after: int = 0, limit: int = 500, by: Principal | None = None
    ) -> list[Event]:
        """Return events behind a seq. `by` None is a door's own presenter, which renders for the whole thread."""
        async with self._database.connection() as connection:
            if by is None:
                return await events.read(connection, session_id, after=after, limit=limit)
            row, found = await events.read_with_session(connection, session_id, after=after, limit=limit)
            sessions.visible(sessions.live(row), by)
            return found

    async def last_seq(self, session_id: UUID, *, by: Principal) -> int:
        """Return the seq of the session's newest event, 0 where there is none."""
        async with self._database.connection() as connection:
            sessions.visible(await sessions.read(connection, session_id), by)
            return await connection.fetchval(events.sql.last, session_id)

    @asynccontextmanager
    async def watch(self, session_id: UUID, *kinds: EventKind) -> AsyncGenerator[asyncio.Event]:
        """An asyncio.Event that is set whenever the session has new events, of these kinds if any are named.

        Clear it before reading.
        """
        async with self._house.hub.watch(session_id, *kinds) as changed:
            yield changed
