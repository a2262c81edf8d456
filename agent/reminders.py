"""Reminders and escalation: who may decide is told again, then others are asked; each once, by the database's clock."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from agent import audit, events
from agent.approvals import people, policy, store
from agent.approvals.types import Approval
from agent.types import EventKind
from db import dispatch
from db.database import Database, Tx


@dataclass(frozen=True, slots=True)
class _Step:
    """One thing that time does to an approval: what is due, the compare-and-set of it, and how it is told."""

    due: str
    claim: str
    event: EventKind
    kind: audit.Kind


_REMIND = _Step(store.sql.to_remind, store.sql.remind, EventKind.APPROVAL_REMINDED, audit.Kind.APPROVAL_REMINDED)
_ESCALATE = _Step(
    store.sql.to_escalate, store.sql.escalate, EventKind.APPROVAL_ESCALATED, audit.Kind.APPROVAL_ESCALATED
)


class Reminders:
    """Part of the sweeps. Any number may run: a row that was set by one is left alone by the others."""

    def __init__(self, database: Database, approvers: tuple[str, ...]) -> None:
        self._database = database
        self._approvers = approvers

    async def remind(self) -> None:
        """Tell those who may decide that they are waited for."""
        await self._sweep(_REMIND)

    async def escalate(self) -> None:
        """Ask the next ones, who may decide from then on as well."""
        await self._sweep(_ESCALATE)

    async def _sweep(self, step: _Step) -> None:
        async with self._database.connection() as connection:
            due = await connection.fetch(step.due)
        for row in due:
            await self._take(step, row["approval_id"], row["session_id"])

    async def _take(self, step: _Step, approval_id: UUID, session_id: UUID) -> None:
        async with self._database.transaction() as tx:
            if await tx.fetchval(dispatch.sql.try_lock_session, session_id):
                await self._tell(tx, step, approval_id)

    async def _tell(self, tx: Tx, step: _Step, approval_id: UUID) -> None:
        # Looked at again under the thread's lock: another sweep may have told it since, or somebody have decided.
        if await tx.fetchval(step.claim, approval_id) is None:
            return
        approval = await store.read(tx, approval_id)
        told = await people.to_tell(tx, approval, self._entries(step, approval))
        data: dict[str, Any] = {"approval_id": str(approval_id), "tool_name": approval.tool_name, "to": told}
        await events.append(tx, approval.session_id, step.event, data, turn_id=approval.turn_id)
        if step is _ESCALATE:  # the card names who may decide
            changed = {"approval_id": str(approval_id), "status": approval.status.value}
            await events.append(tx, approval.session_id, EventKind.APPROVAL_CHANGED, changed, turn_id=approval.turn_id)
        asked = {"tool_name": approval.tool_name, "to": [one["id"] for one in told]}
        await audit.record(tx, step.kind, actor=None, subject=approval_id, data=asked)

    def _entries(self, step: _Step, approval: Approval) -> tuple[str, ...]:
        return approval.escalate_to if step is _ESCALATE else policy.entries(approval, self._approvers)
