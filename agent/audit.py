"""The audit log: hash-chained and append-only, written in the transaction of what it tells of."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from db import queries
from db.database import Database, Tx

sql = queries.load("audit")
_PART = 5_000


class Kind(StrEnum):
    """What is told of."""

    APPROVAL_OPENED = "approval.opened"
    APPROVAL_VOTED = "approval.voted"
    APPROVAL_SETTLED = "approval.settled"
    APPROVAL_WITHDRAWN = "approval.withdrawn"
    APPROVAL_EXTENDED = "approval.extended"
    APPROVAL_REASSIGNED = "approval.reassigned"
    APPROVAL_REMINDED = "approval.reminded"
    APPROVAL_ESCALATED = "approval.escalated"
    APPROVAL_RESOLVED = "approval.resolved"
    QUESTION_OPENED = "question.opened"
    QUESTION_SETTLED = "question.settled"
    EXECUTION_STARTED = "execution.started"
    EXECUTION_FINISHED = "execution.finished"
    POLICY_SET = "policy.set"
    POLICY_DELETED = "policy.deleted"
    SERVER_ADDED = "server.added"
    SERVER_CHANGED = "server.changed"
    SERVER_REMOVED = "server.removed"
    SERVER_TESTED = "server.tested"
    SERVER_AUTHORIZATION_STARTED = "server.authorization_started"
    SERVER_AUTHORIZED = "server.authorized"
    TOOL_ACCEPTED = "tool.accepted"
    TOOL_KEPT = "tool.kept"
    TOOL_QUARANTINED = "tool.quarantined"
    TOOL_CHANGED = "tool.changed"
    TOOLS_RELOADED = "tools.reloaded"
    SECRETS_RESEALED = "secrets.resealed"
    USER_CREATED = "user.created"
    USER_CHANGED = "user.changed"
    USER_LINKED = "user.linked"
    LOGIN = "user.login"
    LOGIN_FAILED = "user.login_failed"
    LOGOUT = "user.logout"
    TOKEN_CREATED = "token.created"  # noqa: S105
    TOKEN_REVOKED = "token.revoked"  # noqa: S105


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the log; `hash` (hex) covers it and the hash of the line before."""

    id: int
    at: datetime
    kind: str
    actor_id: UUID | None
    subject: str
    data: dict[str, Any]
    hash: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check of the chain found; `wrong` names the first entry that isn't what was written."""

    ok: bool
    entries: int
    wrong: int | None = None
    reason: str | None = None


async def record(tx: Tx, kind: Kind, *, actor: UUID | None, subject: UUID | str, data: Mapping[str, Any]) -> None:
    """Append one entry. It takes the one lock that all writers share: call it last in the transaction."""
    body = json.dumps(dict(data), sort_keys=True, separators=(",", ":"), default=str)
    await tx.execute(sql.append, kind.value, actor, str(subject), body)


async def read(
    tx: Tx,
    *,
    before: int,
    limit: int,
    kind: str | None = None,
    actor: UUID | None = None,
    subject: str | None = None,
) -> list[Entry]:
    """Return entries, newest first, by at most one filter."""
    if actor is not None:
        rows = await tx.fetch(sql.list_of_actor, before, limit, actor)
    elif subject is not None:
        rows = await tx.fetch(sql.list_of_subject, before, limit, subject)
    elif kind is not None:
        rows = await tx.fetch(sql.list_of_kind, before, limit, kind)
    else:
        rows = await tx.fetch(sql.list, before, limit)
    return [_entry(row) for row in rows]


async def read_on(tx: Tx, *, behind: int, limit: int) -> list[Entry]:
    """Return the entries behind an id, oldest first."""
    return [_entry(row) for row in await tx.fetch(sql.list_on, behind, limit)]


def _entry(r: Any) -> Entry:
    return Entry(r["id"], r["at"], r["kind"], r["actor_id"], r["subject"], json.loads(r["data"]), r["hash"])


async def verify(database: Database) -> Verdict:
    """Compute the whole chain again, part by part."""
    last, before, checked = 0, b"\x00", 0
    async with database.connection() as connection:
        head = await connection.fetchrow(sql.head)
        while last < head["id"]:
            part = await connection.fetchrow(sql.check_part, last, _PART, before)
            if part["wrong"] is not None:
                reason = "This entry, or the one before it, is not what was written."
                return Verdict(False, checked, part["wrong"], reason)
            if part["last"] is None:
                return Verdict(False, checked, last + 1, "The end of the log is missing from this entry on.")
            last, before, checked = part["last"], part["last_hash"], checked + part["checked"]
    if last == head["id"] and before != head["hash"]:
        return Verdict(False, checked, last, "The last entry is not the one that was written.")
    return Verdict(True, checked)
