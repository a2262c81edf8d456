"""Pure decisions on what else befalls an approval: votes taken back, time, other approvers, a word after."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from agent.approvals.policy import (
    LONGEST_S,
    ROLE_PREFIX,
    entries,
    groups_needed,
    has_standing,
    require_open,
    usernames,
)
from agent.approvals.types import Action, Approval, ApprovalStatus, ExecutionStatus, NotAnApprover, OwnRequest
from agent.errors import Conflict, Invalid, NotAllowed
from agent.types import Principal, Role


class NoVote(Conflict):
    code = "no_vote"


class NotLonger(Invalid):
    code = "not_longer"


class NotYours(NotAllowed):
    code = "not_yours"


class OnlyAdminsWiden(NotAllowed):
    code = "only_admins_widen"


class BadApprovers(Invalid):
    code = "bad_approvers"


class NotUnknown(Conflict):
    """Nobody needs to say how the call ended."""

    code = "outcome_known"


class AlreadyResolved(Conflict):
    code = "already_resolved"


@dataclass(frozen=True, slots=True)
class Known:
    """What decides about standing: APPROVERS, the members of groups, and the people whom entries name."""

    approvers: tuple[str, ...]
    groups: Mapping[str, Collection[str]]
    people: Collection[Principal] = ()

    def standing(self, by: Principal, approval: Approval) -> bool:
        return has_standing(by, approval, approvers=self.approvers, groups=self.groups)


def withdraw(approval: Approval, *, by: Principal, now: datetime) -> Approval:
    """Return the approval without this person's vote."""
    require_open(approval, now=now)
    votes = tuple(vote for vote in approval.votes if vote.by.user_id != by.user_id)
    if len(votes) == len(approval.votes):
        raise NoVote("You have no vote on this that you could take back.")
    return replace(approval, votes=votes)


def extend(approval: Approval, seconds: int, *, standing: bool, now: datetime) -> Approval:
    """Return the approval with so much time from now on; never less than it had, nor more than 90 days in all."""
    if not standing:
        raise NotAnApprover("You may not extend this: it takes one of its approvers.")
    require_open(approval, now=now)
    until = now + timedelta(seconds=seconds)
    if until <= approval.expires_at:
        raise NotLonger(f"It has time until {approval.expires_at:%Y-%m-%d %H:%M} UTC already: ask for more than that.")
    if until > approval.created_at + timedelta(seconds=LONGEST_S):
        raise NotLonger("An approval can be open for 90 days in all: ask for less, or for the call anew.")
    return replace(approval, expires_at=until)


def reassign(
    approval: Approval, named: tuple[str, ...], *, by: Principal, requester: Principal, known: Known, now: datetime
) -> Approval:
    """Return the approval with other approvers, without the votes of whom they leave no standing.

    Only an admin may give standing to somebody who had none; nobody gives it to the requester under four eyes.
    """
    if not known.standing(by, approval):
        raise NotAnApprover("You may not hand this on: it takes one of its approvers.")
    require_open(approval, now=now)
    if approval.four_eyes and by.user_id == requester.user_id and by.role is not Role.ADMIN:
        raise OwnRequest("Someone else must choose who decides what you asked for.")
    if approval.four_eyes and _is_named(requester, named):
        raise OwnRequest("Someone else than the requester must approve this: name others.")
    if by.role is not Role.ADMIN and (wider := [entry for entry in named if not _has_it(entry, approval, known)]):
        raise OnlyAdminsWiden(f"{wider[0]} may not decide this now; only an admin may add them.")
    changed = replace(approval, approvers=named)
    voters = {person.user_id: person for person in known.people}
    kept = [v for v in approval.votes if v.by.user_id in voters and known.standing(voters[v.by.user_id], changed)]
    return replace(changed, votes=tuple(kept))


def _is_named(person: Principal, named: Collection[str]) -> bool:
    return person.chat_user in named or person.username.lower() in {name.lower() for name in usernames(named)}


def _has_it(entry: str, approval: Approval, known: Known) -> bool:
    """Whether an entry gives standing to nobody who lacks it."""
    current = entries(approval, known.approvers)
    if entry in current:
        return True
    if entry.startswith(ROLE_PREFIX) or groups_needed([entry]):
        return False
    people = [person for person in known.people if _is_named(person, [entry])]
    if not people:
        return any(entry in known.groups.get(group, ()) for group in groups_needed(current))
    return all(known.standing(person, approval) for person in people)


def cancel(approval: Approval, *, by: Principal, reason: str | None, now: datetime) -> Approval:
    """Return the approval as its requester, or an admin, ends it."""
    if by.role is not Role.ADMIN and by.user_id != approval.requested_by.user_id:
        raise NotYours("Only whoever asked for it, or an admin, may cancel this; an approver may reject it.")
    require_open(approval, now=now)
    return replace(approval, status=ApprovalStatus.CANCELLED, decided_by=by.person, decided_at=now, reason=reason)


def require_unknown(approval: Approval, *, by: Principal, standing: bool, under_way: bool) -> None:
    """Raise why this person may not say how the call ended: who may approve it alone may, and once."""
    if not standing:
        raise NotAnApprover("You may not resolve this: it needs one of its approvers.")
    if approval.four_eyes and by.user_id == approval.requested_by.user_id:
        raise OwnRequest("Someone else must say what became of what you asked for.")
    if under_way or (approval.execution is not ExecutionStatus.UNKNOWN and approval.resolutions):
        raise AlreadyResolved(_said_before(approval))
    if approval.execution is not ExecutionStatus.UNKNOWN:
        raise NotUnknown("Nothing is unknown about this call: " + _KNOWN[approval.execution])


def _said_before(approval: Approval) -> str:
    last = approval.resolutions[-1]
    who = last.by.display_name or last.by.username
    return f"{who} {SAID[last.action]} at {last.at:%Y-%m-%d %H:%M} UTC already."


SAID = {
    Action.RUN_AGAIN: "had it run again",
    Action.DONE: "said that it was done",
    Action.FAILED: "said that it failed",
}
_KNOWN = {
    ExecutionStatus.NONE: "it was not started.",
    ExecutionStatus.RUNNING: "it is running.",
    ExecutionStatus.SUCCEEDED: "it succeeded.",
    ExecutionStatus.FAILED: "it failed.",
    ExecutionStatus.UNKNOWN: "nobody can tell how it ended.",
}
