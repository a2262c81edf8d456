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
    APPROVAL_SHOWN = "approval.shown"
    APPROVAL_PREVIEWED = "approval.previewed"
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
    CALL_DENIED = "call.denied"
    EXECUTION_STARTED = "execution.started"
    EXECUTION_FINISHED = "execution.finished"
    GRANT_CREATED = "grant.created"
    GRANT_REVOKED = "grant.revoked"
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
    """What a check of the chain found; `wrong` names the first entry that isn't what was written, or isn't there."""

    ok: bool
    entries: int
    wrong: int | None = None
    reason: str | None = None


async def record(tx: Tx, kind: Kind, *, actor: UUID | None, subject: UUID | str, data: Mapping[str, Any]) -> None:
    """Append one entry. It takes the one lock that all writers share: call it last in the transaction."""
    await tx.execute(sql.append, kind.value, actor, str(subject), _body(data))


async def record_once(tx: Tx, kind: Kind, *, actor: UUID | None, subject: UUID | str, data: Mapping[str, Any]) -> None:
    """Append one entry, unless the same one is there."""
    await tx.execute(sql.append_once, kind.value, actor, str(subject), _body(data))


def _body(data: Mapping[str, Any]) -> str:
    return json.dumps(dict(data), sort_keys=True, separators=(",", ":"), default=str)


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
    """Compute the whole chain again, part by part, as it stands at one instant."""
    async with (
        database.connection() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        return await _check(connection)


async def _check(tx: Tx) -> Verdict:
    head = await tx.fetchrow(sql.head)
    if head is None:
        return Verdict(False, 0, None, "The row that says where the log ends is missing.")
    if head["first_id"] is not None and head["first_id"] < 1:
        return Verdict(False, 0, head["first_id"], "This entry was not written here: the log starts at 1.")
    last, before, checked = 0, b"\x00", 0
    while (part := await tx.fetchrow(sql.check_part, last, _PART, before))["checked"]:
        if (wrong := part["wrong"]) is not None:
            if wrong > head["id"]:
                break
            reason = "This entry is missing." if wrong == part["missing"] else "This entry is not what was written."
            return Verdict(False, checked, wrong, reason)
        last, before, checked = part["last"], part["last_hash"], checked + part["checked"]
    if last < head["id"]:
        return Verdict(False, checked, last + 1, "The end of the log is missing from this entry on.")
    if last > head["id"] or part["checked"]:
        return Verdict(False, checked, head["id"] + 1, "This entry was not written here: the log ends before it.")
    if before != head["hash"]:
        return Verdict(False, checked, last, "The last entry is not the one that was written.")
    return Verdict(True, checked)


async def powers(database: Database) -> tuple[str, str | None]:
    """Return the service's role, and how it could change the log, or None where it can only append."""
    async with database.connection() as connection:
        row = await connection.fetchrow(sql.powers)
    how = "is a superuser" if row["is_superuser"] else "owns it" if row["owns"] else None
    return row["role"], how or ("may write its tables" if row["writes"] else None)
