"""Pure decisions: what policy says of a call, who may decide it, and how a vote settles it."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from agent.approvals import conditions, doors
from agent.approvals.conditions import When
from agent.approvals.types import (
    AlreadySettled,
    Approval,
    ApprovalExpired,
    ApprovalStatus,
    Decision,
    Door,
    NotAnApprover,
    OwnRequest,
    Vote,
)
from agent.errors import Invalid
from agent.types import Principal, Role

DEFAULT_EXPIRY_S = 24 * 3600
LONGEST_S = 90 * 24 * 3600
REMEMBER_S, LONGEST_GRANT_S = 8 * 3600, 30 * 24 * 3600
"""How long an approval may spare later ones where nobody set another ceiling."""
ROLE_PREFIX = "role:"
CHANNEL_PREFIX = "channel:"
_CHANNEL = re.compile(rf"{CHANNEL_PREFIX}[CG](?=[A-Z0-9]*[0-9])[A-Z0-9]+")
_CHAT_ID = re.compile(r"[SUW](?=[A-Z0-9]*[0-9])[A-Z0-9]+")


class Verdict(StrEnum):
    """What policy says of one call; the order is from loose to strict."""

    AUTO = "auto"
    ASK = "ask"
    DENY = "deny"


_STRICTNESS = list(Verdict)
_TOO_LATE = "This approval has expired; ask the agent again."


@dataclass(frozen=True, slots=True)
class Rule:
    """One policy row. Both flags true is refused; both false means the tool is denied."""

    auto_execute: bool
    approval_required: bool
    approvers: tuple[str, ...] | None = None
    quorum: int | None = None
    four_eyes: bool | None = None
    expires_in_s: int | None = None
    doors: tuple[Door, ...] | None = None
    fresh_login_s: int | None = None
    remember_max_s: int | None = None
    """How long an approval may spare later ones; 0: never."""
    when: tuple[When, ...] = ()
    remind_after_s: int | None = None
    escalate_after_s: int | None = None
    escalate_to: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Ruling:
    """What counts for a call, and the terms under which it may be approved."""

    verdict: Verdict
    approvers: tuple[str, ...] | None = None
    quorum: int = 1
    four_eyes: bool = False
    expires_in_s: int = DEFAULT_EXPIRY_S
    doors: tuple[Door, ...] | None = None
    fresh_login_s: int | None = None
    remind_after_s: int | None = None
    escalate_after_s: int | None = None
    escalate_to: tuple[str, ...] | None = None
    remember_max_s: int = REMEMBER_S


@dataclass(frozen=True, slots=True)
class Row:
    """A stored rule and whose word it is: an admin's, or the user's own tightening of `beneath`."""

    rule: Rule
    by_admin: bool = True
    beneath: Rule | None = None


class Scope(StrEnum):
    """Whose rule it is, in order of precedence."""

    OWN = "own"
    USER_BY_ADMIN = "user_by_admin"
    DEFAULT = "default"
    DECLARATION = "declaration"


@dataclass(frozen=True, slots=True)
class Look:
    """What one rule says of a call, and the conditions that match (all of them, by index)."""

    scope: Scope
    rule: Rule
    verdict: Verdict
    matching: tuple[int, ...] = ()

    @property
    def deciding(self) -> int | None:
        """The condition that decides, or None where the flags do."""
        return next((i for i in self.matching if self.rule.when[i].decision == self.verdict), None)


@dataclass(frozen=True, slots=True)
class Explanation:
    """A ruling, and how it came about: the rules that count (a user's own before what it tightens), those that are
    there and don't, and the one that decides."""

    ruling: Ruling
    counted: tuple[Look, ...]
    passed_over: tuple[Scope, ...]
    decided_by: Look


def check(rule: Rule) -> Rule:
    """Return the rule, or raise Invalid with why it can't be one."""
    if rule.auto_execute and rule.approval_required:
        raise Invalid("auto_execute and approval_required can't both be true: choose one (both false denies the tool).")
    if rule.quorum is not None and rule.quorum < 1:
        raise Invalid("quorum must be 1 or more.")
    if (wrong := _times_problem(rule)) is not None:
        raise Invalid(wrong)
    for entry in (*(rule.approvers or ()), *(rule.escalate_to or ())):
        if entry.startswith(CHANNEL_PREFIX) and not _CHANNEL.fullmatch(entry):
            raise Invalid(f"The approver {entry[:80]!r} is no channel: write channel: and the channel's id (C...).")
    if problem := doors.problem(rule) or conditions.problem(rule.when):
        raise Invalid(problem)
    return rule


def _times_problem(rule: Rule) -> str | None:
    for name in ("expires_in_s", "remind_after_s", "escalate_after_s"):
        seconds = getattr(rule, name)
        if seconds is not None and not 1 <= seconds <= LONGEST_S:
            return f"{name} must lie between 1 and {LONGEST_S} (90 days)."
    if rule.remember_max_s is not None and not 0 <= rule.remember_max_s <= LONGEST_GRANT_S:
        return f"remember_max_s must lie between 0 (never) and {LONGEST_GRANT_S} (30 days)."
    if (rule.escalate_after_s is None) != (not rule.escalate_to):
        return "escalate_after_s and escalate_to belong together: when to ask others, and whom."
    return None


def declared(*, read_only: bool) -> Rule:
    """Return what counts for a tool nobody configured: it asks, unless its operator declared it read-only."""
    return Rule(auto_execute=read_only, approval_required=not read_only)


def rule_on(
    args: Mapping[str, Any] | None,
    *,
    read_only: bool,
    default: Row | None,
    own: Row | None,
    default_expiry_s: int = DEFAULT_EXPIRY_S,
) -> Ruling:
    """Return what counts for a user's call with these arguments (None: for the tool as such, conditions unseen)."""
    return explain(args, read_only=read_only, default=default, own=own, default_expiry_s=default_expiry_s).ruling


def explain(
    args: Mapping[str, Any] | None,
    *,
    read_only: bool,
    default: Row | None,
    own: Row | None,
    default_expiry_s: int = DEFAULT_EXPIRY_S,
) -> Explanation:
    """Return what counts for a user's call, and why: the only place that knows the precedence.

    A row that an admin set for the user replaces the default, looser or stricter. One that the user set can only
    tighten: the stricter of it and of what would count without it. Else the default, else the tool's declaration.
    """
    given = dict(args) if args is not None else None
    there = [(Scope.DEFAULT, default.rule)] if default else []
    there.append((Scope.DECLARATION, declared(read_only=read_only)))
    if own is not None and (of_admin := own.rule if own.by_admin else own.beneath) is not None:
        there.insert(0, (Scope.USER_BY_ADMIN, of_admin))
    (scope, rule), *others = there
    base, passed_over = _look(scope, rule, given), tuple(scope for scope, _ in others)
    ruling = _ruling(base, default_expiry_s)
    if own is None or own.by_admin:
        return Explanation(ruling, (base,), passed_over, base)
    mine = _look(Scope.OWN, own.rule, given)
    decides = mine if _STRICTNESS.index(mine.verdict) > _STRICTNESS.index(base.verdict) else base
    stricter = _stricter(_ruling(mine, default_expiry_s), ruling)
    return Explanation(stricter, (mine, base), passed_over, decides)


def _look(scope: Scope, rule: Rule, args: dict[str, Any] | None) -> Look:
    """Return what one rule says: matching conditions beat its flags, and the strictest of them counts."""
    if args is not None:
        matching = tuple(index for index, when in enumerate(rule.when) if when.matches(args))
        if matching:
            verdicts = [Verdict(rule.when[index].decision) for index in matching]
            return Look(scope, rule, max(verdicts, key=_STRICTNESS.index), matching)
    if rule.auto_execute:
        return Look(scope, rule, Verdict.AUTO)
    return Look(scope, rule, Verdict.ASK if rule.approval_required else Verdict.DENY)


def _ruling(look: Look, default_expiry_s: int) -> Ruling:
    rule = look.rule
    return Ruling(
        verdict=look.verdict,
        approvers=rule.approvers,
        quorum=rule.quorum or 1,
        four_eyes=bool(rule.four_eyes),
        expires_in_s=rule.expires_in_s or default_expiry_s,
        doors=rule.doors,
        fresh_login_s=rule.fresh_login_s,
        remind_after_s=rule.remind_after_s,
        escalate_after_s=rule.escalate_after_s,
        escalate_to=rule.escalate_to,
        remember_max_s=REMEMBER_S if rule.remember_max_s is None else rule.remember_max_s,
    )


def _stricter(one: Ruling, other: Ruling) -> Ruling:
    """Return the stricter verdict under the stricter terms; `other`, an admin's word, names who decides and when."""
    return Ruling(
        verdict=max(one.verdict, other.verdict, key=_STRICTNESS.index),
        approvers=other.approvers,
        quorum=max(one.quorum, other.quorum),
        four_eyes=one.four_eyes or other.four_eyes,
        expires_in_s=min(one.expires_in_s, other.expires_in_s),
        doors=doors.both(one.doors, other.doors),
        fresh_login_s=doors.sooner(one.fresh_login_s, other.fresh_login_s),
        remind_after_s=other.remind_after_s,
        escalate_after_s=other.escalate_after_s,
        escalate_to=other.escalate_to,
        remember_max_s=min(one.remember_max_s, other.remember_max_s),
    )


def groups_needed(entries: Collection[str]) -> list[str]:
    """Return the entries whose members the chat platform knows: its user groups, and channels as `channel:<id>`."""
    return sorted(
        entry for entry in entries if (entry[:1] == "S" and _CHAT_ID.fullmatch(entry)) or _CHANNEL.fullmatch(entry)
    )


def may_decide(by: Principal, approvers: Collection[str], *, groups: Mapping[str, Collection[str]]) -> bool:
    """Return whether a person has standing under these entries: chat user ids, group ids, `channel:<id>`, usernames,
    `role:<role>`.

    Chat display names never match, and a chat user who has no account here has no username that could.
    """
    if by.disabled or by.external:
        return False
    if by.role is Role.ADMIN or f"{ROLE_PREFIX}{by.role}" in approvers:
        return True
    if by.chat_user is not None and (
        by.chat_user in approvers or any(by.chat_user in groups.get(group, ()) for group in groups_needed(approvers))
    ):
        return True
    return by.username.lower() in {entry.lower() for entry in approvers if _is_username(entry)}


def usernames(entries: Collection[str]) -> list[str]:
    """Return the usernames of accounts among approver entries."""
    return sorted(entry for entry in entries if _is_username(entry))


def _is_username(entry: str) -> bool:
    return not (_CHAT_ID.fullmatch(entry) or entry.startswith((ROLE_PREFIX, CHANNEL_PREFIX)))


def has_standing(
    by: Principal, approval: Approval, *, approvers: Collection[str], groups: Mapping[str, Collection[str]]
) -> bool:
    """Return whether a person may decide this approval: those its tool names, else APPROVERS and the approver role;
    and whom it was escalated to."""
    return may_decide(by, entries(approval, approvers), groups=groups)


def entries(approval: Approval, approvers: Collection[str]) -> tuple[str, ...]:
    """Return the entries that give standing on an approval now."""
    return (*entries_of(approval.approvers, approvers), *approval.escalated)


def entries_of(named: Collection[str] | None, approvers: Collection[str]) -> tuple[str, ...]:
    """Return the entries that a rule names; None: APPROVERS and the approver role."""
    return (*approvers, f"{ROLE_PREFIX}{Role.APPROVER}") if named is None else tuple(named)


def terms_now(approval: Approval, asked_now: Ruling | None) -> list[Approval]:
    """Return the approval under each set of terms that must hold when its call runs: its own, and those of today."""
    if asked_now is None or (approval.is_overruled and asked_now.approvers == approval.overruled):
        return [approval]
    return [approval, replace(approval, approvers=asked_now.approvers, escalate_to=asked_now.escalate_to or ())]


def settle(
    approval: Approval,
    decision: Decision,
    *,
    by: Principal,
    standing: bool,
    now: datetime,
    reason: str | None = None,
    door: Door | None = None,
    login_at: datetime | None = None,
) -> Approval:
    """Return the approval with this person's vote, settled where the vote settles it, or raise why it may not be cast.

    One reject is a veto; approvals count per person and only for the arguments as they stand.
    """
    if not standing:
        raise NotAnApprover("You may not decide this: it needs one of its approvers.")
    if approval.status is ApprovalStatus.EXPIRED:
        raise ApprovalExpired(_TOO_LATE)
    if approval.is_settled:
        raise already(approval)
    if approval.four_eyes and decision is Decision.APPROVE and by.user_id == approval.requested_by.user_id:
        raise OwnRequest("Someone else must approve what you asked for.")
    if now >= approval.expires_at:
        raise ApprovalExpired(_TOO_LATE)
    vote = Vote(by.person, decision, reason, approval.args_digest, now, door, login_at)
    votes = (*(v for v in approval.votes if v.by.user_id != by.user_id), vote)
    voted = replace(approval, votes=votes)
    if decision is Decision.REJECT:
        return replace(voted, status=ApprovalStatus.REJECTED, decided_by=by.person, decided_at=now, reason=reason)
    if len(valid_approvals(voted)) >= voted.quorum:
        return replace(voted, status=ApprovalStatus.APPROVED, decided_by=by.person, decided_at=now, reason=reason)
    return voted


def already(approval: Approval) -> AlreadySettled:
    """Return the refusal of whoever comes after the decision."""
    who = f" by {approval.decided_by.display_name or approval.decided_by.username}" if approval.decided_by else ""
    return AlreadySettled(f"This was already {approval.status}{who}.", approval)


def require_open(approval: Approval, *, now: datetime) -> None:
    """Raise ApprovalExpired or AlreadySettled where there is nothing left to decide."""
    if approval.status is ApprovalStatus.EXPIRED or (not approval.is_settled and now >= approval.expires_at):
        raise ApprovalExpired(_TOO_LATE)
    if approval.is_settled:
        raise already(approval)


def valid_approvals(approval: Approval) -> list[Vote]:
    """Return the votes that count for running the call: approving, and on exactly the arguments that would run."""
    return [v for v in approval.votes if v.decision is Decision.APPROVE and v.args_digest == approval.args_digest]
