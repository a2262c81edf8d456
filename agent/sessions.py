"""Sessions as rows, and the thread's lock and epoch."""

from typing import Any
from uuid import UUID, uuid4

from agent.errors import Expired, NotFound
from agent.types import Address, Principal, Role, Session, ThreadKey
from db import queries
from db.database import Tx

sql = queries.load("sessions")


class SessionNotFound(NotFound):
    code = "session_not_found"

    def __init__(self) -> None:
        super().__init__("There is no such session.")


class SessionExpired(Expired):
    code = "session_expired"

    def __init__(self) -> None:
        super().__init__("This session has expired; start a new one.")


def session(row: Any) -> Session:
    return Session(
        session_id=row["session_id"],
        user_id=row["user_id"],
        title=row["title"],
        source=row["source"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        address=Address(row["door"], row["address"]) if row["door"] else None,
    )


async def create(tx: Tx, *, user_id: UUID, title: str | None, source: str, expires_in_s: int | None) -> Session:
    return session(await tx.fetchrow(sql.create, uuid4(), user_id, title, source, expires_in_s))


async def open_thread(tx: Tx, key: ThreadKey, *, user_id: UUID, title: str, address: Address | None) -> UUID:
    """Lock the thread's session, made here if it is the first message."""
    return await tx.fetchval(
        sql.open_thread,
        key.session_id,
        user_id,
        title,
        "slack",
        address.door if address else None,
        address.where if address else None,
    )


async def lock(tx: Tx, session_id: UUID) -> Session:
    """Lock and return a live session; raises SessionNotFound or SessionExpired."""
    row = await tx.fetchrow(sql.lock, session_id)
    if row is None or row["deleted_at"] is not None:
        raise SessionNotFound
    if row["expired"]:
        raise SessionExpired
    return session(row)


async def read(tx: Tx, session_id: UUID) -> Session:
    """Return a live session; raises SessionNotFound or SessionExpired."""
    return live(await tx.fetchrow(sql.read, session_id))


def live(row: Any) -> Session:
    """Return the session of a row that is there and not expired; raises SessionNotFound or SessionExpired."""
    if row is None:
        raise SessionNotFound
    if row["expired"]:
        raise SessionExpired
    return session(row)


def visible(found: Session, by: Principal) -> Session:
    """Return the session to its owner and to admins; for others there is no such session."""
    if by.role is not Role.ADMIN and found.user_id != by.user_id:
        raise SessionNotFound
    return found


async def raise_epoch(tx: Tx, session_id: UUID) -> int | None:
    """Take the thread over: whoever had it before can write nothing of it any more."""
    return await tx.fetchval(sql.raise_epoch, session_id)


async def fence(tx: Tx, session_id: UUID, epoch: int) -> None:
    """Lock the thread for a worker's own writes; raises Fenced where another has taken it over."""
    await tx.execute(sql.fence, session_id, epoch)


async def forget_checkpoints(tx: Tx, session_id: UUID) -> None:
    for statement in (sql.forget_checkpoints, sql.forget_blobs, sql.forget_writes):
        await tx.execute(statement, str(session_id))


async def prune_checkpoints(tx: Tx, session_id: UUID) -> None:
    """Leave one checkpoint of a finished turn."""
    await tx.execute(sql.prune_checkpoints, str(session_id))
