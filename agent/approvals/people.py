"""Who approver entries are: for people who read of them, and for whoever mentions them."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from typing import Any
from uuid import UUID

from agent import users
from agent.approvals import policy
from agent.approvals.policy import ROLE_PREFIX
from agent.approvals.types import Approval, Approver
from agent.errors import Invalid
from agent.types import Principal
from db.database import Tx


class UnknownApprover(Invalid):
    code = "unknown_approver"


async def require_known(tx: Tx, entries: Collection[str]) -> None:
    """Raise UnknownApprover for a name that whoever registered it later would have the standing of."""
    if unknown := await users.unknown_names(tx, policy.usernames(entries)):
        raise UnknownApprover(f"There is no account named {unknown[0]!r}: make it first, then name it here.")


async def named(tx: Tx, entries: Collection[str]) -> list[Principal]:
    """Return the people whom entries name one by one; of groups and roles nobody."""
    names = policy.usernames(entries)
    return await users.named(tx, names, sorted({*entries} - {*names, *policy.groups_needed(entries)}))


async def shown(tx: Tx, approvals: Sequence[Approval], approvers: tuple[str, ...]) -> list[Approval]:
    """Return the approvals with who may decide them, as people read it."""
    entries = {entry for approval in approvals for entry in policy.entries(approval, approvers)}
    people = await named(tx, entries) if entries else []
    return [
        replace(approval, deciders=tuple(_approver(entry, people) for entry in _once(approval, approvers)))
        for approval in approvals
    ]


def _once(approval: Approval, approvers: tuple[str, ...]) -> list[str]:
    return list(dict.fromkeys(policy.entries(approval, approvers)))


def _approver(entry: str, people: Collection[Principal]) -> Approver:
    if entry.startswith(ROLE_PREFIX):
        return Approver("role", entry, f"everyone with the role {entry.removeprefix(ROLE_PREFIX)}")
    if policy.groups_needed([entry]):
        return Approver("group", entry, entry, entry)
    is_account, found = bool(policy.usernames([entry])), _of(entry, people)
    if not found:
        return Approver("user", entry, entry, None if is_account else entry)
    by_default = found[0].username if is_account else entry
    return Approver("user", entry, found[0].display_name or by_default, found[0].chat_user)


def _of(entry: str, people: Collection[Principal]) -> list[Principal]:
    return [person for person in people if entry == person.chat_user or entry.lower() == person.username.lower()]


async def to_tell(tx: Tx, approval: Approval, entries: Collection[str]) -> list[dict[str, Any]]:
    """Return whom an event tells of these entries: neither who has approved already, nor who may not decide."""
    people = await named(tx, entries)
    done = {vote.by.user_id for vote in policy.valid_approvals(approval)}
    told: list[Approver] = []
    for entry in entries:
        found = _of(entry, people)
        if entry.startswith(ROLE_PREFIX):
            holders = await users.of_role(tx, entry.removeprefix(ROLE_PREFIX))
            told += [_approver(p.chat_user, holders) for p in holders if p.chat_user and _asked(p, approval, done)]
        elif not found or any(_asked(person, approval, done) for person in found):
            told.append(_approver(entry, people))
    return [asdict(approver) for approver in {approver.chat or approver.id: approver for approver in told}.values()]


def _asked(person: Principal, approval: Approval, done: Collection[UUID]) -> bool:
    is_own = approval.four_eyes and person.user_id == approval.requested_by.user_id
    return not (person.disabled or person.external or person.user_id in done or is_own)
