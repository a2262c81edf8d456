"""How votes settle an approval, and who may cast one."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from agent.approvals.policy import has_standing, may_decide, settle, valid_approvals
from agent.approvals.types import (
    AlreadySettled,
    Approval,
    ApprovalExpired,
    ApprovalStatus,
    Decision,
    ExecutionStatus,
    NotAnApprover,
    OwnRequest,
)
from agent.types import Principal, Role

NOW = datetime(2026, 11, 1, tzinfo=UTC)
ASKER = Principal(UUID(int=1), "asker", Role.MEMBER)
ADA = Principal(UUID(int=2), "ada", Role.APPROVER)
BEN = Principal(UUID(int=3), "ben", Role.APPROVER, display_name="Ben")


def pending(**more: Any) -> Approval:
    approval = Approval(
        approval_id=uuid4(),
        session_id=uuid4(),
        turn_id=uuid4(),
        tool_call_id="call_1",
        tool_id=uuid4(),
        tool_name="restart",
        schema_hash="hash",
        args={"service": "web"},
        args_digest="digest",
        args_proposed={"service": "web"},
        requested_by=ASKER.person,
        requested_reason=None,
        status=ApprovalStatus.PENDING,
        execution=ExecutionStatus.NONE,
        result=None,
        quorum=1,
        four_eyes=False,
        approvers=None,
        decided_by=None,
        decided_at=None,
        reason=None,
        expires_at=NOW + timedelta(hours=1),
        created_at=NOW,
    )
    return replace(approval, **more)


def vote(approval: Approval, by: Principal, decision: Decision = Decision.APPROVE, **more: Any) -> Approval:
    return settle(approval, decision, by=by, **{"standing": True, "now": NOW, **more})


def test_one_approval_settles_and_names_who_when_and_why() -> None:
    settled = vote(pending(), ADA, reason="go")
    assert (settled.status, settled.decided_by, settled.decided_at) == (ApprovalStatus.APPROVED, ADA.person, NOW)
    assert settled.reason == "go"


def test_who_has_no_standing_hears_only_that() -> None:
    for approval in (pending(), vote(pending(), ADA), pending(expires_at=NOW)):
        with pytest.raises(NotAnApprover):
            vote(approval, ASKER, standing=False)


@pytest.mark.parametrize("decision", list(Decision))
def test_what_is_settled_stays_and_says_by_whom(decision: Decision) -> None:
    settled = vote(pending(), BEN, decision)
    with pytest.raises(AlreadySettled, match=f"{settled.status} by Ben") as refused:
        vote(settled, ADA, now=NOW + timedelta(days=2))
    assert refused.value.approval is settled


@pytest.mark.parametrize("decision", list(Decision))
def test_time_is_over_at_the_very_second_and_stays_so_once_it_is_noted(decision: Decision) -> None:
    for approval in (pending(expires_at=NOW), pending(status=ApprovalStatus.EXPIRED)):
        with pytest.raises(ApprovalExpired):
            vote(approval, ADA, decision)


def test_four_eyes_is_about_approving_alone() -> None:
    approval = pending(four_eyes=True)
    with pytest.raises(OwnRequest):
        vote(approval, ASKER)
    assert vote(approval, ASKER, Decision.REJECT).status is ApprovalStatus.REJECTED
    assert vote(pending(), ASKER).status is ApprovalStatus.APPROVED


def test_a_quorum_counts_people_not_votes() -> None:
    once = vote(pending(quorum=2), ADA)
    twice = vote(once, ADA)
    assert (twice.status, len(twice.votes)) == (ApprovalStatus.PENDING, 1)
    assert vote(twice, BEN).status is ApprovalStatus.APPROVED


def test_one_reject_outweighs_the_approvals_before_it() -> None:
    assert vote(vote(pending(quorum=3), ADA), BEN, Decision.REJECT).status is ApprovalStatus.REJECTED


def test_votes_on_other_arguments_do_not_count() -> None:
    edited = replace(vote(pending(quorum=2), ADA), args_digest="other")
    assert valid_approvals(edited) == []
    assert vote(edited, BEN).status is ApprovalStatus.PENDING


@pytest.mark.parametrize(
    ("by", "may"),
    [
        (Principal(uuid4(), "root", Role.ADMIN), True),
        (Principal(uuid4(), "dora", Role.MEMBER), True),
        (Principal(uuid4(), "DORA", Role.MEMBER), True),
        (Principal(uuid4(), "any", Role.APPROVER), True),
        (Principal(uuid4(), "any", Role.MEMBER), False),
        (Principal(uuid4(), "u2bob", Role.MEMBER), False),
        (Principal(uuid4(), "s9ops", Role.MEMBER), False),
        (Principal(uuid4(), "slack:T:U2BOB", Role.MEMBER, "T", "U2BOB"), True),
        (Principal(uuid4(), "slack:T:U3CAROL", Role.MEMBER, "T", "U3CAROL"), True),
        (Principal(uuid4(), "slack:T:U4EVE", Role.MEMBER, "T", "U4EVE"), False),
        (Principal(uuid4(), "slack:T:U4EVE", Role.MEMBER, "T", "U4EVE", display_name="dora"), False),
        (Principal(uuid4(), "dora", Role.MEMBER, "T", "U5LINKED"), True),
    ],
)
def test_who_may_decide_by_default(by: Principal, may: bool) -> None:
    entries, groups = ("U2BOB", "S9OPS", "dora"), {"S9OPS": ["U3CAROL"], "S8OTHER": ["U4EVE"]}
    assert has_standing(by, pending(), approvers=entries, groups=groups) is may
    for never in (replace(by, disabled=True), replace(by, external=True)):
        assert not has_standing(never, pending(), approvers=entries, groups=groups)


def test_entries_for_a_tool_stand_alone() -> None:
    approval = pending(approvers=("ada",))
    assert has_standing(ADA, approval, approvers=("U2BOB",), groups={})
    assert not has_standing(BEN, approval, approvers=("ben",), groups={})
    assert has_standing(BEN, pending(approvers=("role:approver",)), approvers=(), groups={})
    assert not may_decide(Principal(uuid4(), "role:approver", Role.MEMBER), ["role:approver"], groups={})
