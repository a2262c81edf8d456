"""People's words on unknown outcomes, as rows."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from agent.approvals.types import Action, Door
from db import queries
from db.database import Tx

sql = queries.load("resolutions")


@dataclass(frozen=True, slots=True)
class Word:
    """That a call runs again: who said so, and of which arguments. Not spent yet."""

    resolution_id: UUID
    approval_id: UUID
    resolved_by: UUID
    args_digest: str
    at: datetime
    door: Door | None
    login_at: datetime | None


async def insert(
    tx: Tx,
    *,
    resolution_id: UUID,
    approval_id: UUID,
    action: Action,
    resolved_by: UUID,
    reason: str | None,
    args_digest: str,
    turn_id: UUID | None,
    door: Door | None,
    login_at: datetime | None,
) -> None:
    row = (resolution_id, approval_id, action.value, resolved_by, reason, args_digest, turn_id, door, login_at)
    await tx.execute(sql.insert, *row)


async def of_turn(tx: Tx, turn_id: UUID) -> Word | None:
    """Return the word that a turn was made for, while it is not spent."""
    row = await tx.fetchrow(sql.of_turn, turn_id)
    if row is None:
        return None
    return Word(
        resolution_id=row["resolution_id"],
        approval_id=row["approval_id"],
        resolved_by=row["resolved_by"],
        args_digest=row["args_digest"],
        at=row["at"],
        door=Door(row["door"]) if row["door"] else None,
        login_at=row["login_at"],
    )


async def is_under_way(tx: Tx, approval_id: UUID) -> bool:
    """Return whether the call is about to run again."""
    return await tx.fetchval(sql.under_way, approval_id)
