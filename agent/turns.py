"""Turns as rows: a thread's mail, the turn in hand, and what became of it."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from agent import users
from agent.errors import Invalid, NotFound
from agent.types import Principal, Turn, TurnStatus, Usage
from db import queries
from db.database import Tx

sql = queries.load("turns")


class TurnNotFound(NotFound):
    code = "turn_not_found"

    def __init__(self) -> None:
        super().__init__("There is no such turn.")


class IdempotencyKeyReused(Invalid):
    code = "idempotency_key_reused"

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key was used with another body; use a new key for a new request.")


@dataclass(frozen=True, slots=True)
class OpenTurn:
    """A turn that isn't final, with what a worker needs to know of it."""

    turn: Turn
    requester: Principal
    kind: str
    attempts: int
    cancel_requested: bool
    is_decided: bool
    """Whether it waits for people no more: one of its approvals was settled, and nobody has acted on it yet."""


def turn(row: Any) -> Turn:
    return Turn(
        turn_id=row["turn_id"],
        session_id=row["session_id"],
        requester_id=row["requester_id"],
        status=TurnStatus(row["status"]),
        text=row["text"],
        reply=row["reply"],
        error=row["error"],
        usage=usage(row),
        created_at=row["created_at"],
        finished_at=row["finished_at"],
    )


def usage(row: Any) -> Usage:
    return Usage(row["input_tokens"], row["output_tokens"], row["cached_tokens"], row["model_calls"])


async def insert(
    tx: Tx,
    *,
    turn_id: UUID,
    session_id: UUID,
    requester_id: UUID,
    text: str,
    kind: str = "message",
    event_key: str | None = None,
    message_key: str | None = None,
    digest: str | None = None,
) -> Turn | None:
    """Store mail; None where its event or its message was stored before."""
    row = await tx.fetchrow(sql.insert, turn_id, session_id, requester_id, kind, text, event_key, message_key, digest)
    return turn(row) if row else None


async def by_key(tx: Tx, *, event_key: str | None, message_key: str | None, digest: str | None) -> Turn | None:
    """Return the turn that was stored under a key; raises IdempotencyKeyReused where it was another request."""
    row = await tx.fetchrow(sql.by_key, event_key, message_key)
    if row and digest is not None and row["request_digest"] != digest:
        raise IdempotencyKeyReused
    return turn(row) if row else None


async def read(tx: Tx, turn_id: UUID) -> Turn:
    row = await tx.fetchrow(sql.read, turn_id)
    if row is None:
        raise TurnNotFound
    return turn(row)


async def open_of_session(tx: Tx, session_id: UUID, limit: int = 1) -> list[OpenTurn]:
    """Return the turn in hand, if any, then the mail in order."""
    return [
        OpenTurn(
            turn=turn(row),
            requester=users.principal(row),
            kind=row["kind"],
            attempts=row["attempts"],
            cancel_requested=row["cancel_requested"],
            is_decided=row["is_decided"],
        )
        for row in await tx.fetch(sql.open_of_session, session_id, limit)
    ]


async def park(tx: Tx, turn_id: UUID, used: Usage) -> None:
    """Have the turn wait for people, and write what it has used so far."""
    await tx.execute(sql.park, turn_id, *_counts(used))


async def finish(
    tx: Tx,
    turn_id: UUID,
    status: TurnStatus,
    *,
    reply: str | None = None,
    error: str | None = None,
    used: Usage | None = None,
) -> int | None:
    """Make a turn final, with what it used if that is known; return its first event's seq, None if it was final."""
    return await tx.fetchval(sql.finish, turn_id, status.value, reply, error, *(_counts(used) if used else [None] * 4))


def _counts(used: Usage) -> tuple[int, int, int, int]:
    return used.input_tokens, used.output_tokens, used.cached_tokens, used.model_calls
