"""Questions as rows."""

from datetime import datetime
from typing import Any
from uuid import UUID

from agent import audit, events
from agent.approvals.store import canonical, digest
from agent.questions.types import Question, QuestionNotFound, QuestionStatus
from agent.types import EventKind, Person
from db import queries
from db.database import Tx

sql = queries.load("questions")


async def read(tx: Tx, question_id: UUID) -> Question:
    """Return a question. Where the caller holds its session's row lock, it stays so until the transaction's end."""
    row = await tx.fetchrow(sql.read, question_id)
    if row is None:
        raise QuestionNotFound
    return _question(row)


async def list_by_status(
    tx: Tx, status: QuestionStatus, *, before: tuple[datetime, UUID], limit: int, asked_of: UUID | None
) -> list[Question]:
    if asked_of is None:
        rows = await tx.fetch(sql.list, status.value, *before, limit)
    else:
        rows = await tx.fetch(sql.list_of_person, status.value, *before, limit, asked_of)
    return [_question(row) for row in rows]


async def settle(
    tx: Tx, question_id: UUID, status: QuestionStatus, *, by: UUID | None = None, content: dict[str, Any] | None = None
) -> bool:
    """Return whether the question is the caller's to settle: of several at once, one hears True."""
    return await tx.fetchval(sql.settle, question_id, status.value, by, content) is not None


async def tell_settled(
    tx: Tx, session_id: UUID, turn_id: UUID, question_id: UUID, status: QuestionStatus, *, epoch: int | None = None
) -> None:
    data = {"question_id": str(question_id), "status": status.value}
    await events.append(tx, session_id, EventKind.QUESTION_SETTLED, data, turn_id=turn_id, epoch=epoch)


async def note_settled(
    tx: Tx,
    question_id: UUID,
    status: QuestionStatus,
    *,
    by: UUID | None = None,
    content: dict[str, Any] | None = None,
    **more: Any,
) -> None:
    """Write the audit entry, with a digest of what was answered and never the answer; last in its transaction."""
    data = {"status": status.value, **more}
    if content is not None:
        data["content_digest"] = digest(canonical(content))
    await audit.record(tx, audit.Kind.QUESTION_SETTLED, actor=by, subject=question_id, data=data)


async def close_of_call(
    tx: Tx, session_id: UUID, turn_id: UUID, tool_call_id: str, *, epoch: int | None = None
) -> list[UUID]:
    """Cancel what a call leaves open; the caller writes the audit entries of what is returned."""
    rows = await tx.fetch(sql.close_of_call, session_id, tool_call_id)
    return await _closed(tx, session_id, turn_id, rows, epoch)


async def close_of_turn(tx: Tx, session_id: UUID, turn_id: UUID) -> list[UUID]:
    """Cancel what a turn leaves open; the caller writes the audit entries of what is returned."""
    return await _closed(tx, session_id, turn_id, await tx.fetch(sql.close_of_turn, session_id, turn_id), None)


async def _closed(tx: Tx, session_id: UUID, turn_id: UUID, rows: list[Any], epoch: int | None) -> list[UUID]:
    closed = [row["question_id"] for row in rows]
    for question_id in closed:
        await tell_settled(tx, session_id, turn_id, question_id, QuestionStatus.CANCELLED, epoch=epoch)
    return closed


def _question(row: Any) -> Question:
    return Question(
        question_id=row["question_id"],
        session_id=row["session_id"],
        turn_id=row["turn_id"],
        tool_call_id=row["tool_call_id"],
        tool_name=row["tool_name"],
        server=row["server"],
        message=row["message"],
        schema=row["schema"],
        asked_of=Person(row["asked_of"], row["asked_username"], row["asked_display_name"], row["asked_chat_user"]),
        status=QuestionStatus(row["status"]),
        settled_by=Person(
            row["settled_by"], row["settler_username"], row["settler_display_name"], row["settler_chat_user"]
        )
        if row["settled_by"]
        else None,
        settled_at=row["settled_at"],
        expires_at=row["expires_at"],
        created_at=row["created_at"],
    )
