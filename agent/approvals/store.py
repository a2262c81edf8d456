"""Approvals as rows."""

import hashlib
import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import rfc8785

from agent import attachments
from agent.approvals.policy import Ruling, Verdict
from agent.approvals.types import (
    Action,
    Approval,
    ApprovalStatus,
    Decision,
    Door,
    ExecutionStatus,
    InvalidArguments,
    Preview,
    Resolution,
    Vote,
)
from agent.errors import NotFound
from agent.types import Person
from db import queries
from db.database import Tx

sql = queries.load("approvals")


class ApprovalNotFound(NotFound):
    code = "approval_not_found"

    def __init__(self) -> None:
        super().__init__("There is no such approval.")


def canonical(args: dict[str, Any]) -> str:
    """Return the canonical JSON (RFC 8785) of arguments; raises InvalidArguments for what it can't express."""
    try:
        exact = rfc8785.dumps(args).decode()
        json.loads(exact, parse_int=_readable)
        return exact
    except (ValueError, UnicodeError, RecursionError) as error:
        raise InvalidArguments(
            f"These arguments have no exact JSON form ({error}): send very large numbers as strings."
        ) from error


def _readable(digits: str) -> int:
    """A float of 2^53 or more is written as an integer, which nobody could write again."""
    if abs(number := int(digits)) >= 2**53:
        raise ValueError(f"{digits} is too large")
    return number


def digest(canonical_args: str) -> str:
    return hashlib.sha256(canonical_args.encode()).hexdigest()


async def insert(
    tx: Tx,
    *,
    approval_id: UUID,
    session_id: UUID,
    turn_id: UUID,
    tool_call_id: str,
    tool_id: UUID,
    tool_name: str,
    schema_hash: str,
    args: str,
    requested_by: UUID,
    ruling: Ruling,
    requested_reason: str | None = None,
    status: ApprovalStatus = ApprovalStatus.PENDING,
    reason: str | None = None,
    now: datetime | None = None,
    handled: bool = False,
) -> None:
    """Write the row of a call; `now` and `reason` where it is settled from the start."""
    await tx.execute(
        sql.insert,
        approval_id,
        session_id,
        turn_id,
        tool_call_id,
        tool_id,
        tool_name,
        schema_hash,
        args,
        digest(args),
        requested_by,
        requested_reason,
        status.value,
        list(ruling.approvers) if ruling.approvers is not None else None,
        ruling.quorum,
        ruling.four_eyes,
        reason,
        now,
        now if handled else None,
        float(ruling.expires_in_s),
        list(ruling.doors) if ruling.doors is not None else None,
        ruling.fresh_login_s,
        ruling.remind_after_s,
        ruling.escalate_after_s,
        list(ruling.escalate_to) if ruling.escalate_to else None,
    )


async def read(tx: Tx, approval_id: UUID) -> Approval:
    """Return an approval. Where the caller holds its session's row lock, it stays so until the transaction's end."""
    row = await tx.fetchrow(sql.read, approval_id)
    if row is None:
        raise ApprovalNotFound
    return _approval(row)


async def read_of_call(tx: Tx, session_id: UUID, tool_call_id: str) -> Approval | None:
    row = await tx.fetchrow(sql.read_of_call, session_id, tool_call_id)
    return _approval(row) if row else None


async def insert_automatic(tx: Tx, *, requested_by: UUID, **call: Any) -> UUID:
    """Write the row of an automatic call whose outcome is unknown, so that people can see it; return its id."""
    approval_id = uuid4()
    await insert(
        tx,
        approval_id=approval_id,
        requested_by=requested_by,
        ruling=Ruling(Verdict.AUTO),
        status=ApprovalStatus.APPROVED,
        reason="policy",
        now=datetime.now(UTC),
        handled=True,
        **call,
    )
    return approval_id


async def lock_session(tx: Tx, approval_id: UUID) -> None:
    """Lock the session of an approval, before anything of the approval is read in order to write."""
    if await tx.fetchval(sql.lock_session, approval_id) is None:
        raise ApprovalNotFound


async def clock(tx: Tx) -> datetime:
    """Return the time by which everybody is early or late: the database's."""
    return await tx.fetchval(sql.clock)


async def of_turn(tx: Tx, turn_id: UUID, status: ApprovalStatus = ApprovalStatus.PENDING) -> list[Approval]:
    return [_approval(row) for row in await tx.fetch(sql.of_turn, turn_id, status.value)]


async def of_single_turn(tx: Tx, turn_id: UUID) -> Approval:
    """Return the approval of a turn that is one call asked for without the model."""
    row = await tx.fetchrow(sql.of_single_turn, turn_id)
    if row is None:
        raise ApprovalNotFound
    return _approval(row)


async def list_by_status(
    tx: Tx, status: ApprovalStatus, *, before: tuple[datetime, UUID], limit: int, requester: UUID | None = None
) -> list[Approval]:
    """Return approvals, newest first: everybody's, or one requester's."""
    if requester is None:
        rows = await tx.fetch(sql.list, status.value, *before, limit)
    else:
        rows = await tx.fetch(sql.list_of_requester, status.value, *before, limit, requester)
    return [_approval(row) for row in rows]


async def save(tx: Tx, before: Approval, after: Approval) -> None:
    """Write what a decision changed: the approval's row, and the votes that are new in it or gone from it."""
    await tx.execute(
        sql.save,
        after.approval_id,
        after.status.value,
        canonical(after.args),
        after.args_digest,
        after.decided_by.user_id if after.decided_by else None,
        after.decided_at,
        after.reason,
    )
    voters = {vote.by.user_id for vote in after.votes}
    if gone := [vote.by.user_id for vote in before.votes if vote.by.user_id not in voters]:
        await tx.execute(sql.drop_votes, after.approval_id, gone)
    for vote in after.votes:
        if vote not in before.votes:
            await tx.execute(
                sql.save_vote,
                after.approval_id,
                vote.by.user_id,
                vote.decision.value,
                vote.reason,
                vote.args_digest,
                vote.at,
                vote.door,
                vote.login_at,
            )


def _approval(row: Any) -> Approval:
    extras = row.get("extras") or {}
    return Approval(
        approval_id=row["approval_id"],
        session_id=row["session_id"],
        turn_id=row["turn_id"],
        tool_call_id=row["tool_call_id"],
        tool_id=row["tool_id"],
        tool_name=row["tool_name"],
        schema_hash=row["schema_hash"],
        args=json.loads(row["args"]),
        args_digest=row["args_digest"],
        args_proposed=json.loads(row["args_proposed"]),
        requested_by=Person(
            row["requested_by"], row["requester_username"], row["requester_display_name"], row["requester_chat_user"]
        ),
        requested_reason=row["requested_reason"],
        status=ApprovalStatus(row["status"]),
        execution=ExecutionStatus(row["execution"] or "none"),
        result=row["result"],
        quorum=row["quorum"],
        four_eyes=row["four_eyes"],
        approvers=_entries(row["approvers"]),
        decided_by=_decider(row),
        decided_at=row["decided_at"],
        reason=row["reason"],
        expires_at=row["expires_at"],
        created_at=row["created_at"],
        votes=tuple(_vote(vote) for vote in row["votes"] or ()),
        doors=tuple(Door(door) for door in row["doors"]) if row["doors"] is not None else None,
        fresh_login_s=row["fresh_login_s"],
        unsandboxed=extras.get("unsandboxed"),
        attachments=attachments.of_extras(extras.get("attachments")),
        escalate_to=tuple(row["escalate_to"] or ()),
        escalated_at=row["escalated_at"],
        is_overruled=row["overruled"] is not None,
        overruled=_entries((row["overruled"] or {}).get("approvers")),
        resolutions=tuple(_resolution(word) for word in row["resolutions"] or ()),
        preview=_preview(extras.get("preview")),
    )


def _entries(named: list[str] | None) -> tuple[str, ...] | None:
    return None if named is None else tuple(named)


def _decider(row: Any) -> Person | None:
    if row["decided_by"] is None:
        return None
    return Person(row["decided_by"], row["decider_username"], row["decider_display_name"], row["decider_chat_user"])


def _person(found: dict[str, Any]) -> Person:
    return Person(UUID(found["user_id"]), found["username"], found["display_name"], found["chat_user"])


def _preview(found: dict[str, Any] | None) -> Preview | None:
    if found is None:
        return None
    return Preview(found["text"], found["ok"], found["args_digest"], datetime.fromisoformat(found["made_at"]))


def _resolution(word: dict[str, Any]) -> Resolution:
    return Resolution(
        resolution_id=UUID(word["resolution_id"]),
        by=_person(word),
        action=Action(word["action"]),
        reason=word["reason"],
        at=datetime.fromisoformat(word["at"]),
    )


def _vote(vote: dict[str, Any]) -> Vote:
    return Vote(
        by=_person(vote),
        decision=Decision(vote["decision"]),
        reason=vote["reason"],
        args_digest=vote["args_digest"],
        at=datetime.fromisoformat(vote["at"]),
        door=Door(vote["door"]) if vote["door"] else None,
        login_at=datetime.fromisoformat(vote["login_at"]) if vote["login_at"] else None,
    )
