"""Deliveries: sessions whose door has not rendered every event, and what a door has posted."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from agent.types import Address
from db import queries
from db.database import Tx

sql = queries.load("deliveries")

LEASE_S = 15.0


@dataclass(frozen=True, slots=True)
class Delivery:
    """A session with events that its door has not rendered, leased to one presenter."""

    session_id: UUID
    address: Address
    delivered_seq: int
    attempts: int


@dataclass(frozen=True, slots=True)
class Post:
    """Something a door has posted, or was about to: `ref` is the door's own word for where it stands."""

    key: str
    ref: dict[str, Any] | None
    digest: str | None
    begun_before: bool = True


async def lease(tx: Tx, door: str, owner: UUID, *, limit: int, only: UUID | None) -> list[Delivery]:
    rows = await tx.fetch(sql.lease, door, owner, LEASE_S, only, limit)
    return [
        Delivery(row["session_id"], Address(door, row["address"] or {}), row["delivered_seq"], row["attempts"])
        for row in rows
    ]


async def finish(tx: Tx, session_id: UUID, owner: UUID, *, delivered_seq: int) -> bool:
    """Advance the cursor; end the lease, or keep it and return True where more has come meanwhile."""
    # The session's row first: an event that is being appended holds it while it looks for the delivery's row.
    more = await tx.fetchval(sql.advance, session_id, delivered_seq)
    more = more and await tx.fetchval(sql.behind_cursor, session_id)
    if more and await tx.fetchval(sql.lock, session_id, owner) is not None:
        await tx.execute(sql.keep, session_id, owner, LEASE_S)
        return True
    await tx.execute(sql.finish, session_id, owner)
    return False


async def retry(tx: Tx, session_id: UUID, owner: UUID, *, delivered_seq: int, after_s: float) -> None:
    await tx.fetchval(sql.advance, session_id, delivered_seq)
    await tx.execute(sql.retry, session_id, owner, after_s)
