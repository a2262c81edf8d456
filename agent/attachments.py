"""What people are shown of results, as rows: written with the call's record, gone with the transcript or in a week."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from agent.errors import NotFound
from agent.tools.attachments import Attachment, Kind, Shown, clean_name
from agent.tools.base import ToolResult
from db import queries
from db.database import Tx

sql = queries.load("attachments")

KEPT_DAYS = 7
SESSION_LIMIT = 50 * 1024 * 1024
"""Bytes that one session may hold; what comes on top is not kept."""


class AttachmentNotFound(NotFound):
    code = "attachment_not_found"

    def __init__(self) -> None:
        super().__init__("There is no such attachment; they are kept for a week.")


async def keep(
    tx: Tx, session_id: UUID, turn_id: UUID, tool_call_id: str, tool_name: str, result: ToolResult, *, decided: bool
) -> tuple[list[dict[str, str]], str]:
    """Store what people are to see of the result; return it as an event tells of it, and the line that the model reads.

    `decided`: people approved the call, so they see its table and its whole text. Files are always for people.
    """
    parts = _parts(tool_name, result, full=decided or result.for_people)
    if not parts:
        return [], ""
    room = SESSION_LIMIT - await tx.fetchval(sql.size_of_session, session_id)
    first = await tx.fetchval(sql.next_position, session_id, tool_call_id)  # a call may run again
    told: list[dict[str, str]] = []
    names: list[str] = []
    for position, (kind, file, described) in enumerate(parts, first):
        room -= len(file.content)
        if room < 0:
            names.append(f"not {described}, as this session has no room for more files")
            continue
        key, size = uuid4(), len(file.content)
        await tx.execute(
            sql.insert,
            *(key, session_id, turn_id, tool_call_id, position, kind.value, file.name, file.media_type, size),
            file.content,
        )
        told.append({"attachment_id": str(key), "kind": kind.value})
        names.append(described)
    return told, f"[Shown to the people beside this: {'; '.join(names)}]"


def _parts(tool_name: str, result: ToolResult, *, full: bool) -> list[tuple[Kind, Attachment, str]]:
    parts = [(Kind.FILE, file, file.described) for file in result.attachments]
    table = result.table if full else None
    if table is not None:
        made = Attachment(clean_name(f"{tool_name}.json"), "application/json", table.as_json())
        parts.append((Kind.TABLE, made, table.described))
    text = result.whole
    if text is None and (table.left_out if table else result.for_people):
        text = result.text
    if full and text:
        made = Attachment(clean_name(f"{tool_name}.txt"), "text/plain", text.encode("utf-8", "replace"))
        parts.append((Kind.TEXT, made, f"the text, {len(text)} characters"))
    return parts


async def read(tx: Tx, session_id: UUID, attachment_id: UUID) -> tuple[Shown, bytes]:
    """Return an attachment of the session with its content; raises AttachmentNotFound."""
    row = await tx.fetchrow(sql.read, attachment_id, session_id)
    if row is None:
        raise AttachmentNotFound
    return shown(row), row["content"]


async def of_turn(tx: Tx, turn_id: UUID) -> list[Shown]:
    return [shown(row) for row in await tx.fetch(sql.of_turn, turn_id)]


def of_extras(found: Sequence[dict[str, Any]] | None) -> tuple[Shown, ...]:
    """Return the attachments that the extras of an approval tell of."""
    return tuple(
        shown(
            {
                **row,
                "attachment_id": UUID(row["attachment_id"]),
                "created_at": datetime.fromisoformat(row["created_at"]),
            }
        )
        for row in found or ()
    )


def shown(row: Any) -> Shown:
    return Shown(
        attachment_id=row["attachment_id"],
        kind=Kind(row["kind"]),
        name=row["name"],
        media_type=row["media_type"],
        size=row["size"],
        tool_call_id=row["tool_call_id"],
        created_at=row["created_at"],
    )
