"""The ledger: one entry per tool call that was ever claimed."""

from dataclasses import dataclass
from uuid import UUID

from agent.approvals.types import ExecutionStatus
from agent.transcript import clean
from db import queries
from db.database import Tx

sql = queries.load("executions")


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of one call's execution."""

    tool_call_id: str
    approval_id: UUID | None
    args_digest: str
    status: ExecutionStatus
    result: str | None
    runs: int

    @property
    def is_finished(self) -> bool:
        return self.status is not ExecutionStatus.RUNNING


async def read(tx: Tx, session_id: UUID, tool_call_id: str) -> tuple[Entry | None, bool]:
    """Return a call's entry, if it has one, and whether it has an approval."""
    row = await tx.fetchrow(sql.read, session_id, tool_call_id)
    if row["tool_call_id"] is None:
        return None, row["was_asked"]
    entry = Entry(
        row["tool_call_id"],
        row["approval_id"],
        row["args_digest"],
        ExecutionStatus(row["status"]),
        row["result"],
        row["runs"],
    )
    return entry, row["was_asked"]


async def claim(
    tx: Tx,
    session_id: UUID,
    tool_call_id: str,
    *,
    turn_id: UUID,
    approval_id: UUID | None,
    tool_id: UUID,
    tool_name: str,
    args_digest: str,
) -> bool:
    """Return whether the call is the caller's to run: at most one caller ever hears True."""
    won = await tx.fetchval(sql.claim, session_id, tool_call_id, turn_id, approval_id, tool_id, tool_name, args_digest)
    return won is not None


async def claim_again(tx: Tx, session_id: UUID, tool_call_id: str) -> None:
    """Note another run of a call whose tool may run again."""
    await tx.execute(sql.claim_again, session_id, tool_call_id)


async def claim_resolved(tx: Tx, session_id: UUID, tool_call_id: str, *, turn_id: UUID, args_digest: str) -> bool:
    """Spend a person's word that a call of unknown outcome runs again, in the turn made for it; once."""
    return await tx.fetchval(sql.claim_resolved, session_id, tool_call_id, turn_id, args_digest) is not None


async def resolve(tx: Tx, session_id: UUID, tool_call_id: str, *, status: ExecutionStatus, result: str) -> bool:
    """Record what a person found out of a call whose outcome is unknown."""
    return await tx.fetchval(sql.resolve, session_id, tool_call_id, status.value, clean(result)) is not None


async def finish(tx: Tx, session_id: UUID, tool_call_id: str, *, status: ExecutionStatus, result: str) -> None:
    await tx.execute(sql.finish, session_id, tool_call_id, status.value, clean(result))


async def lose(tx: Tx, session_id: UUID, turn_id: UUID, *, why: str) -> list[tuple[str, UUID | None, str]]:
    """Mark what was claimed and never recorded as unknown; return (call, approval, tool) of each."""
    rows = await tx.fetch(sql.lose, session_id, turn_id, why)
    return [(row["tool_call_id"], row["approval_id"], row["tool_name"]) for row in rows]
