"""Grants: a person's word that calls like the one they approve need not be asked for again, for a while."""

import json
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal
from uuid import UUID, uuid4

import rfc8785

from agent.approvals import conditions
from agent.approvals.conditions import When
from agent.approvals.types import Approval, Sparing
from agent.errors import Invalid, NotFound
from agent.types import Person
from db import queries
from db.database import Tx

sql = queries.load("grants")


class Scope(StrEnum):
    """Whose calls a grant spares: always the requester's, in this thread or in all of theirs."""

    THREAD = "thread"
    ME = "me"
    """Only for who asked for the call themselves."""


@dataclass(frozen=True, slots=True)
class Remember:
    """What an approver wants not to be asked again; `args` is a JSON Schema, None for exactly these arguments."""

    scope: Scope
    expires_in_s: int
    args: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """One such word, bound to requester, tool and schema hash. `session_id` None: every thread of the requester's."""

    grant_id: UUID
    tool_id: UUID
    tool_name: str
    schema_hash: str
    session_id: UUID | None
    requester: Person
    args_schema: dict[str, Any]
    granted_by: Person
    approval_id: UUID
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None
    uses: int
    last_used_at: datetime | None

    @property
    def scope(self) -> Scope:
        return Scope.ME if self.session_id is None else Scope.THREAD


class GrantRefused(Invalid):
    """`part` is what of the wish is wrong, where it is one."""

    code = "grant_refused"

    def __init__(self, message: str, part: Literal["scope", "expires_in_s", "args"] | None = None) -> None:
        super().__init__(message)
        self.part = part


class GrantNotFound(NotFound):
    code = "grant_not_found"

    def __init__(self) -> None:
        super().__init__("There is no such grant.")


def exactly(args: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON Schema that these arguments fit, and no others."""
    return {
        "type": "object",
        "properties": {name: {"const": value} for name, value in args.items()},
        "required": list(args),
        "additionalProperties": False,
    }


def schema(args: dict[str, Any], wanted: dict[str, Any] | None, *, widens: bool) -> dict[str, Any]:
    """Return what the grant will match; raises GrantRefused.

    Unless they may widen it, whatever people send only narrows the call's own constants: both must match.
    """
    if wanted is None:
        return exactly(args)
    condition = When(wanted, "auto")
    if (wrong := conditions.problem((condition,))) is not None:
        raise GrantRefused(wrong.replace("when[0].args", "remember.args", 1), "args")
    if not condition.matches(args):
        raise GrantRefused(
            "remember.args does not fit the call that you approve, so it can't be what you mean.", "args"
        )
    try:
        rfc8785.dumps(wanted)
    except (rfc8785.CanonicalizationError, UnicodeError) as error:
        raise GrantRefused(f"remember.args can't be kept exactly as it is: {error}", "args") from error
    if widens:
        return wanted
    if conditions.problem((When({"allOf": [{}, wanted]}, "auto"),)) is not None:
        raise GrantRefused(
            "remember.args refers to a part of itself, which only an admin's may: write the part out.", "args"
        )
    return {"allOf": [exactly(args), wanted]}


async def insert(tx: Tx, approval: Approval, remember: Remember, matches: dict[str, Any], granted_by: UUID) -> UUID:
    grant_id = uuid4()
    await tx.execute(
        sql.insert,
        grant_id,
        approval.tool_id,
        approval.tool_name,
        approval.schema_hash,
        approval.session_id if remember.scope is Scope.THREAD else None,
        approval.requested_by.user_id,
        rfc8785.dumps(matches).decode(),
        granted_by,
        approval.approval_id,
        float(remember.expires_in_s),
    )
    return grant_id


async def covering(
    tx: Tx, args: dict[str, Any], *, requester: UUID, tool_id: UUID, schema_hash: str, session_id: UUID, max_age_s: int
) -> list[Grant]:
    """Return the live grants for a call, newest first; none of them can be revoked before the transaction's end."""
    rows = await tx.fetch(sql.live, requester, tool_id, schema_hash, session_id, float(max_age_s))
    if not rows:
        return []
    found = [_grant(row) for row in await tx.fetch(sql.details, [row["grant_id"] for row in rows])]
    return [grant for grant in found if When(grant.args_schema, "auto").matches(args)]


async def read(tx: Tx, grant_id: UUID) -> Grant:
    rows = await tx.fetch(sql.details, [grant_id])
    if not rows:
        raise GrantNotFound
    return _grant(rows[0])


async def of_approvals(tx: Tx, approval_ids: list[UUID]) -> dict[UUID, Sparing]:
    """Return the grants that were given with these approvals, or spared them their question."""
    return {
        row["shown_with"]: Sparing(
            grant_id=row["grant_id"],
            by=Person(
                row["granted_by"], row["granter_username"], row["granter_display_name"], row["granter_chat_user"]
            ),
            expires_at=row["expires_at"],
            revoked_at=row["revoked_at"],
            is_given=row["is_given"],
        )
        for row in await tx.fetch(sql.of_approvals, approval_ids)
    }


async def page(tx: Tx, *, before: tuple[datetime, UUID], limit: int, of: UUID | None) -> list[Grant]:
    """Return grants, newest first: everybody's, or those that one person gave or profits from."""
    rows = await (tx.fetch(sql.list, *before, limit) if of is None else tx.fetch(sql.list_of, *before, limit, of))
    return [_grant(row) for row in rows]


def _grant(row: Any) -> Grant:
    return Grant(
        grant_id=row["grant_id"],
        tool_id=row["tool_id"],
        tool_name=row["tool_name"],
        schema_hash=row["schema_hash"],
        session_id=row["session_id"],
        requester=Person(
            row["requester_id"], row["requester_username"], row["requester_display_name"], row["requester_chat_user"]
        ),
        args_schema=json.loads(row["args_schema"]),
        granted_by=Person(
            row["granted_by"], row["granter_username"], row["granter_display_name"], row["granter_chat_user"]
        ),
        approval_id=row["approval_id"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        uses=row["uses"],
        last_used_at=row["last_used_at"],
    )
