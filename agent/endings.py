"""How turns end, and what ends with them: each in one transaction under the thread's lock."""

from typing import Any
from uuid import UUID

from agent import attachments, audit, events, ledger, sessions, transcript, turns
from agent.approvals import grants, store
from agent.approvals.types import ApprovalStatus
from agent.questions import store as questions
from agent.turns import OpenTurn
from agent.types import EventKind, Turn, TurnStatus, Usage
from db import dispatch
from db.database import Database, Tx

Notes = list[tuple[audit.Kind, UUID | str, dict[str, Any]]]
"""Audit entries to write when the transaction has done all else."""

_LOST = "The outcome of this call is unknown: its turn was stopped while it ran."


class Endings:
    """The last transaction of a turn, an approval's time, a session."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def tell(self, tx: Tx, turn: Turn, kind: EventKind, *, epoch: int | None = None, **data: Any) -> None:
        await events.append(tx, turn.session_id, kind, data, turn_id=turn.turn_id, epoch=epoch)

    async def completed(self, tx: Tx, found: OpenTurn, reply: str, usage: Usage, *, epoch: int) -> None:
        """The answer: transcript, turn, event and pruned checkpoint at once."""
        turn = found.turn
        if found.kind == "message":
            await transcript.append(
                tx,
                turn.session_id,
                message_id=transcript.step_id(turn.turn_id, "answer"),
                turn_id=turn.turn_id,
                role="assistant",
                content=reply,
            )
        if await self._end(tx, turn, TurnStatus.COMPLETED, reply=transcript.clean(reply), used=usage):
            shown = {
                "input_tokens": usage.input_tokens,
                "output_tokens": usage.output_tokens,
                "cached_tokens": usage.cached_tokens,
                "model_calls": usage.model_calls,
            }
            await self.tell(tx, turn, EventKind.TURN_COMPLETED, epoch=epoch, reply=transcript.clean(reply), usage=shown)

    async def failed(self, tx: Tx, turn: Turn, error: str, *, epoch: int) -> None:
        if await self._end(tx, turn, TurnStatus.FAILED, error=error):
            notes = await self._leave_nothing_open(tx, turn, "The turn failed.")
            await self.tell(tx, turn, EventKind.TURN_FAILED, epoch=epoch, error=error)
            await _write(tx, notes)

    async def cancelled(self, tx: Tx, turn: Turn, *, epoch: int | None = None) -> None:
        """Stop a turn; what it had claimed and not recorded is unknown, what it had asked for is cancelled."""
        await _write(tx, await self._cancel(tx, turn, epoch=epoch))

    async def _cancel(self, tx: Tx, turn: Turn, *, epoch: int | None = None) -> Notes:
        if not await self._end(tx, turn, TurnStatus.CANCELLED):
            return []
        notes = await self._leave_nothing_open(tx, turn, "The turn was stopped.")
        await self.tell(tx, turn, EventKind.TURN_CANCELLED, epoch=epoch)
        return notes

    async def _end(
        self,
        tx: Tx,
        turn: Turn,
        status: TurnStatus,
        *,
        reply: str | None = None,
        error: str | None = None,
        used: Usage | None = None,
    ) -> bool:
        first_seq = await turns.finish(tx, turn.turn_id, status, reply=reply, error=error, used=used)
        if first_seq is None:
            return False
        await tx.execute(events.sql.drop_deltas, turn.session_id, first_seq, turn.turn_id)
        await sessions.prune_checkpoints(tx, turn.session_id)
        return True

    async def _leave_nothing_open(self, tx: Tx, turn: Turn, why: str) -> Notes:
        notes: Notes = []
        lost = await ledger.lose(tx, turn.session_id, turn.turn_id, why=_LOST)
        unanswered = await transcript.unanswered(tx, turn.session_id, turn.turn_id)
        for call in unanswered:
            ran = call["id"] in {call_id for call_id, _, _ in lost}
            await transcript.append(
                tx,
                turn.session_id,
                message_id=transcript.step_id(turn.turn_id, "tool", call["id"]),
                turn_id=turn.turn_id,
                role="tool",
                content=_LOST if ran else f"{why} This call was not run.",
                tool_call_id=call["id"],
                tool_name=call["name"],
            )
        asked = {call["id"]: call["args"] for call in unanswered}
        for call_id, known_approval, name in lost:
            approval_id = known_approval
            if approval_id is None and call_id in asked:
                approval_id = await self._resolvable(tx, turn, call_id, asked[call_id])
            data = {"tool_name": name, "tool_call_id": call_id, "status": "outcome_unknown", "reason": why}
            notes.append((audit.Kind.EXECUTION_FINISHED, approval_id or call_id, data))
            await self.tell(
                tx,
                turn,
                EventKind.EXECUTION_FINISHED,
                tool_call_id=call_id,
                tool_name=name,
                approval_id=str(approval_id) if approval_id else None,
                status="outcome_unknown",
            )
        for question_id in await questions.close_of_turn(tx, turn.session_id, turn.turn_id):
            notes.append((audit.Kind.QUESTION_SETTLED, question_id, {"status": "cancelled", "reason": why}))
        for row in await tx.fetch(store.sql.leave_none_open, turn.session_id, why, turn.turn_id):
            if row["status"] != ApprovalStatus.CANCELLED:
                continue
            await self.tell(
                tx,
                turn,
                EventKind.APPROVAL_CHANGED,
                approval_id=str(row["approval_id"]),
                status=ApprovalStatus.CANCELLED.value,
            )
            data = {"status": ApprovalStatus.CANCELLED.value, "reason": why}
            notes.append((audit.Kind.APPROVAL_SETTLED, row["approval_id"], data))
        return notes

    async def _resolvable(self, tx: Tx, turn: Turn, call_id: str, args: dict[str, Any]) -> UUID:
        """Give an automatic call that was lost an approval row, so that people can see it."""
        tool = await tx.fetchrow(ledger.sql.tool_of, turn.session_id, call_id)
        approval_id = await store.insert_automatic(
            tx,
            session_id=turn.session_id,
            turn_id=turn.turn_id,
            tool_call_id=call_id,
            tool_id=tool["tool_id"],
            tool_name=tool["tool_name"],
            schema_hash=tool["schema_hash"],
            args=store.canonical(args),
            requested_by=turn.requester_id,
        )
        await tx.execute(ledger.sql.attach, turn.session_id, call_id, approval_id)
        await self.tell(tx, turn, EventKind.APPROVAL_OPENED, approval_id=str(approval_id))
        return approval_id

    async def _stop_all(self, tx: Tx, session_id: UUID) -> Notes:
        """Cancel the running turn and all mail of a session whose row the caller has locked."""
        notes: Notes = []
        for found in await turns.open_of_session(tx, session_id, limit=10_000):
            notes += await self._cancel(tx, found.turn)
        return notes

    async def expire_approvals(self) -> None:
        """Settle approvals whose time is over; expiry is an outcome of its own."""
        async with self._database.connection() as connection:
            due = await connection.fetch(store.sql.expired)
        for row in due:
            async with self._database.transaction() as tx:
                if not await tx.fetchval(dispatch.sql.try_lock_session, row["session_id"]):
                    continue
                turn_id = await tx.fetchval(store.sql.expire, row["approval_id"])
                if turn_id is None:
                    continue
                data = {"approval_id": str(row["approval_id"]), "status": ApprovalStatus.EXPIRED.value}
                await events.append(tx, row["session_id"], EventKind.APPROVAL_CHANGED, data, turn_id=turn_id)
                await dispatch.wake(tx, row["session_id"])
                settled = {"status": ApprovalStatus.EXPIRED.value}
                await audit.record(
                    tx, audit.Kind.APPROVAL_SETTLED, actor=None, subject=row["approval_id"], data=settled
                )

    async def expire_sessions(self) -> None:
        """Delete sessions whose time is over, as their owner would."""
        async with self._database.connection() as connection:
            due = await connection.fetch(sessions.sql.expired)
        for row in due:
            async with self._database.transaction() as tx:
                if not await tx.fetchval(dispatch.sql.try_lock_session, row["session_id"]):
                    continue
                await self.delete(tx, row["session_id"])

    async def expire_attachments(self) -> None:
        """Remove what has been kept for long enough."""
        async with self._database.connection() as connection:
            await connection.execute(attachments.sql.expire, attachments.KEPT_DAYS)

    async def delete(self, tx: Tx, session_id: UUID) -> None:
        """Remove a session whose row the caller has locked: approvals, ledger and turns' rows stay."""
        await tx.execute(sessions.sql.delete, session_id)
        await self.forget(tx, session_id)

    async def forget(self, tx: Tx, session_id: UUID) -> None:
        """Stop everything and remove what was said, and checkpoints; the epoch throws out whoever works on it."""
        notes = await self._stop_all(tx, session_id)
        await sessions.raise_epoch(tx, session_id)
        await tx.execute(transcript.sql.forget, session_id)
        await tx.execute(attachments.sql.forget, session_id)
        await tx.execute(store.sql.forget_previews, session_id)
        await tx.execute(events.sql.forget, session_id)
        await tx.execute(turns.sql.forget, session_id)
        await tx.execute(questions.sql.forget, session_id)
        await tx.execute(grants.sql.end_of_session, session_id)
        await sessions.forget_checkpoints(tx, session_id)
        await tx.execute(turns.sql.notify_cancel, str(session_id))
        await _write(tx, notes)


async def _write(tx: Tx, notes: Notes) -> None:
    """Write audit entries; last, since all writers of the log share one lock."""
    for kind, subject, data in notes:
        await audit.record(tx, kind, actor=None, subject=subject, data=data)
