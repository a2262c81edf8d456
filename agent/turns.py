"""Turns as rows: a thread's mail, the turn in hand, and what became of it."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from agent.errors import Invalid, NotFound
from agent.types import Turn, TurnStatus, Usage
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
    kind: str
    attempts: int
    cancel_requested: bool


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
    rows = await tx.fetch(sql.open_of_session, session_id, limit)
    return [OpenTurn(turn(row), row["kind"], row["attempts"], row["cancel_requested"]) for row in rows]


async def use(tx: Tx, turn_id: UUID, usage: Usage) -> None:
    """Write what the turn has used so far."""
    await tx.execute(sql.use, turn_id, usage.input_tokens, usage.output_tokens, usage.cached_tokens, usage.model_calls)


async def finish(
    tx: Tx, turn_id: UUID, status: TurnStatus, *, reply: str | None = None, error: str | None = None
) -> tuple[Usage, int] | None:
    """Make a turn final; return its usage and the seq of its first event, or None where it was final already."""
    row = await tx.fetchrow(sql.finish, turn_id, status.value, reply, error)
    return (usage(row), row["first_seq"]) if row else None
