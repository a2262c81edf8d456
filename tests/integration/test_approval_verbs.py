"""What else befalls an approval: votes taken back, time, other approvers, an end by who asked, batches, instead."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from agent.approval_verbs import Item
from agent.approvals.life import BadApprovers, NotLonger, NotYours, NoVote, OnlyAdminsWiden
from agent.approvals.people import UnknownApprover
from agent.approvals.policy import LONGEST_S, Rule
from agent.approvals.store import ApprovalNotFound
from agent.approvals.types import (
    AlreadySettled,
    Approval,
    ApprovalExpired,
    ApprovalStatus,
    ChangedMeanwhile,
    Decision,
    NotAnApprover,
    OwnRequest,
)
from agent.conversations import EmptyMessage
from agent.decisions import OnlyWithReject
from agent.types import EventKind, Role, TurnStatus
from tests.integration.conftest import ADMIN, ALICE, BOB, CAROL
from tests.integration.test_approvals import GROUP, Still, still
from tests.integration.test_resolutions import audited, told

__all__ = ["still"]

BOTH = Rule(auto_execute=False, approval_required=True, quorum=2)


def asking(**terms: Any) -> Rule:
    return Rule(auto_execute=False, approval_required=True, **terms)


async def now(still: Still, approval: Approval) -> Approval:
    return await still.service.read_approval(approval.approval_id, by=ADMIN)


# Votes ------------------------------------------------------------------------------------------------------------


async def test_a_vote_that_was_taken_back_counts_no_more(still: Still) -> None:
    await still.rule(BOTH)
    approval = await still.ask(by=ALICE)
    await still.floor.decide(approval, by=BOB)
    taken = await still.service.withdraw_vote(approval.approval_id, by=BOB)
    assert (taken.status, taken.votes) == (ApprovalStatus.PENDING, ())
    assert (await still.floor.decide(approval, by=CAROL)).status is ApprovalStatus.PENDING
    with pytest.raises(NoVote):
        await still.service.withdraw_vote(approval.approval_id, by=BOB)
    assert (await still.floor.decide(approval, by=BOB)).status is ApprovalStatus.APPROVED
    with pytest.raises(AlreadySettled, match="already approved by slack:T0TEAM:U2BOB") as late:
        await still.service.withdraw_vote(approval.approval_id, by=CAROL)
    assert late.value.approval.decided_at is not None
    (entry,) = await audited(still.floor, approval, "approval.withdrawn")
    assert entry["data"]["votes_dropped"] == [str(entry["actor_id"])]


async def test_a_vote_is_taken_back_or_settles_but_never_both(still: Still) -> None:
    await still.rule(BOTH)
    for _ in range(8):
        approval = await still.ask(by=ALICE)
        await still.floor.decide(approval, by=BOB)
        withdrawn, decided = await asyncio.gather(
            still.service.withdraw_vote(approval.approval_id, by=BOB),
            still.floor.decide(approval, by=CAROL),
            return_exceptions=True,
        )
        after = await now(still, approval)
        if isinstance(withdrawn, AlreadySettled):
            assert (after.status, len(after.votes)) == (ApprovalStatus.APPROVED, 2)
        else:
            assert isinstance(decided, Approval)
            assert (after.status, len(after.votes)) == (ApprovalStatus.PENDING, 1)


# Instead ----------------------------------------------------------------------------------------------------------


async def test_what_to_do_instead_is_the_next_message_by_whoever_rejected(still: Still) -> None:
    approval = await still.ask(by=ALICE)
    await still.floor.decide(
        approval, Decision.REJECT, by=BOB, reason="not web", instead='{{tool uptime {"service": "db"}}}'
    )
    bob = await still.service.principal_of_chat(BOB)
    (queued,) = [e for e in await told(still.floor, still.session_id, EventKind.TURN_QUEUED) if "instead_of" in e]
    assert (queued["instead_of"], queued["waits"]) == (str(approval.approval_id), False)
    assert queued["by"]["user_id"] == str(bob.user_id)
    await still.finished(approval)
    rows = await still.floor.sql("SELECT requester_id, status, reply FROM turns ORDER BY ordinal")
    assert [row["status"] for row in rows] == ["completed", "completed"]
    assert "not web" in rows[0]["reply"]
    assert (rows[1]["requester_id"], rows[1]["reply"]) == (bob.user_id, "tools said: uptimeed db")
    assert (still.ran, still.floor.tools.ran("uptime")) == ([], ["db"])
    (entry,) = await audited(still.floor, approval, "approval.settled")
    assert entry["data"]["instead_turn"] == queued["turn_id"]
    with pytest.raises(AlreadySettled):
        await still.floor.decide(approval, Decision.REJECT, by=BOB, instead="again")
    assert len(await still.floor.sql("SELECT 1 FROM turns")) == 2


async def test_what_comes_instead_waits_for_the_turns_other_approvals(still: Still) -> None:
    still.session_id = await still.floor.session()
    text = '{{tool restart {"service": "a"}}} {{tool restart {"service": "b"}}}'
    sent = await still.service.submit_message(still.session_id, text, by=ADMIN)
    await still.advance()
    view = await still.service.read_turn(still.session_id, sent.turn.turn_id, by=ADMIN)
    first, second = view.pending_approvals
    await still.floor.decide(first, Decision.REJECT, by=BOB, instead="hello")
    (queued,) = [e for e in await told(still.floor, still.session_id, EventKind.TURN_QUEUED) if "instead_of" in e]
    assert queued["waits"] is True
    await still.advance()
    assert (await still.service.read_turn(still.session_id, sent.turn.turn_id, by=ADMIN)).turn.status is (
        TurnStatus.AWAITING_APPROVAL
    )
    await still.floor.decide(second, Decision.REJECT, by=BOB)
    await still.advance()
    rows = await still.floor.sql("SELECT status FROM turns")
    assert [row["status"] for row in rows] == ["completed", "completed"]


async def test_instead_takes_a_rejection_and_a_message(still: Still) -> None:
    approval = await still.ask(by=ALICE)
    with pytest.raises(OnlyWithReject):
        await still.floor.decide(approval, by=BOB, instead="something else")
    with pytest.raises(EmptyMessage):
        await still.floor.decide(approval, Decision.REJECT, by=BOB, instead=" ")
    assert (await now(still, approval)).status is ApprovalStatus.PENDING


# Time -------------------------------------------------------------------------------------------------------------


async def test_more_time_is_counted_from_now_and_never_less(still: Still) -> None:
    await still.rule(asking(expires_in_s=3600))
    approval = await still.ask(by=ALICE)
    later = await still.service.extend_approval(approval.approval_id, 7200, by=BOB)
    assert timedelta(hours=1.9) < later.expires_at - approval.created_at < timedelta(hours=2.1)
    assert (await now(still, approval)).expires_at == later.expires_at
    with pytest.raises(NotLonger, match="ask for more"):
        await still.service.extend_approval(approval.approval_id, 3600, by=BOB)
    with pytest.raises(NotAnApprover):
        await still.service.extend_approval(approval.approval_id, 9000, by=ALICE)
    await still.floor.sql("UPDATE approvals SET created_at = now() - interval '1 day'")
    with pytest.raises(NotLonger, match="90 days"):
        await still.service.extend_approval(approval.approval_id, LONGEST_S, by=ADMIN)
    (entry,) = await audited(still.floor, approval, "approval.extended")
    assert entry["data"]["expires_in_s"] == 7200
    await still.floor.decide(approval, by=BOB)
    with pytest.raises(AlreadySettled):
        await still.service.extend_approval(approval.approval_id, 9000, by=BOB)


async def test_the_databases_clock_says_what_is_too_late(still: Still) -> None:
    approval = await still.ask(by=ALICE)
    await still.floor.sql("UPDATE approvals SET expires_at = clock_timestamp() - interval '1 ms'")
    for late in (
        still.service.extend_approval(approval.approval_id, 60, by=BOB),
        still.service.cancel_approval(approval.approval_id, by=ALICE),
        still.service.withdraw_vote(approval.approval_id, by=BOB),
        still.service.reassign_approval(approval.approval_id, ["U2BOB"], by=BOB),
        still.floor.decide(approval, by=BOB),
    ):
        with pytest.raises(ApprovalExpired):
            await late


async def test_who_waited_for_the_threads_lock_past_the_end_is_too_late(still: Still) -> None:
    approval = await still.ask(by=ALICE)
    waits = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with still.floor.core.database.transaction() as tx:
        await tx.execute("SELECT 1 FROM user_sessions WHERE session_id = $1 FOR UPDATE", still.session_id)
        deciding = asyncio.create_task(still.floor.decide(approval, by=BOB))
        async with asyncio.timeout(45):
            while not await still.floor.sql(waits):
                await asyncio.sleep(0.02)
        # It ends while the click waits: that it began in time counts for nothing.
        await tx.execute("UPDATE approvals SET expires_at = clock_timestamp()")
    with pytest.raises(ApprovalExpired):
        await deciding


async def test_an_approval_is_extended_or_expires_but_never_both(still: Still) -> None:
    outcomes: set[ApprovalStatus] = set()
    for round_ in range(12):
        approval = await still.ask(by=ALICE)
        ends = f"clock_timestamp() + interval '{round_} ms'"
        await still.floor.sql(f"UPDATE approvals SET expires_at = {ends} WHERE approval_id = $1", approval.approval_id)
        extended, *_ = await asyncio.gather(
            still.service.extend_approval(approval.approval_id, 3600, by=BOB),
            *(still.floor.core.sweeps._endings.expire_approvals() for _ in range(4)),
            return_exceptions=True,
        )
        await still.floor.core.sweeps._endings.expire_approvals()
        after = await now(still, approval)
        outcomes.add(after.status)
        is_extended = isinstance(extended, Approval)
        assert (after.status is ApprovalStatus.PENDING) is is_extended, (round_, extended)
        assert is_extended or isinstance(extended, ApprovalExpired)
    assert ApprovalStatus.EXPIRED in outcomes


# Other approvers --------------------------------------------------------------------------------------------------


async def test_an_approver_hands_on_to_some_who_may_decide_it_and_no_further(still: Still) -> None:
    erin = await still.floor.user("erin", Role.APPROVER)
    await still.floor.user("mallory")
    await still.service.principal_of_chat(CAROL)
    approval = await still.ask(by=ALICE)
    for wider in (["U7GUS"], ["mallory"], ["role:member"], ["S9OTHER"], ["erin", "mallory"]):
        with pytest.raises(OnlyAdminsWiden):
            await still.service.reassign_approval(approval.approval_id, wider, by=BOB)
    with pytest.raises(UnknownApprover):
        await still.service.reassign_approval(approval.approval_id, ["nobody"], by=BOB)
    for bad in ([], [""], ["role:king"], ["x" * 101]):
        with pytest.raises(BadApprovers):
            await still.service.reassign_approval(approval.approval_id, bad, by=ADMIN)
    with pytest.raises(NotAnApprover):
        await still.service.reassign_approval(approval.approval_id, ["U2BOB"], by=ALICE)
    changed = await still.service.reassign_approval(approval.approval_id, ["erin", "U3CAROL"], by=BOB, reason="away")
    assert [who.name for who in changed.deciders] == ["erin", "U3CAROL"]
    with pytest.raises(NotAnApprover):
        await still.floor.decide(approval, by=BOB)
    assert (await still.floor.decide(approval, by=erin)).status is ApprovalStatus.APPROVED
    await still.finished(approval)
    assert still.ran == ["web"]
    (entry,) = await audited(still.floor, approval, "approval.reassigned")
    assert (entry["data"]["approvers"], entry["data"]["reason"]) == (["erin", "U3CAROL"], "away")


async def test_what_an_admin_adds_holds_until_policy_says_otherwise(still: Still) -> None:
    await still.rule(asking(approvers=("U2BOB",)))
    gus = await still.floor.user("gus")
    for meanwhile, ran in ((None, 1), (asking(approvers=("U3CAROL",)), 1), (asking(four_eyes=True), 1)):
        approval = await still.ask(by=ALICE)
        await still.service.reassign_approval(approval.approval_id, ["gus"], by=ADMIN)
        assert (await still.floor.decide(approval, by=gus)).status is ApprovalStatus.APPROVED
        if meanwhile is not None:
            await still.rule(meanwhile)
        after, _ = await still.finished(approval)
        assert len(still.ran) == ran
        assert after.status is (ApprovalStatus.APPROVED if meanwhile is None else ApprovalStatus.CANCELLED)
        await still.rule(asking(approvers=("U2BOB",)))


async def test_votes_of_people_who_lost_their_standing_count_no_more(still: Still) -> None:
    await still.rule(BOTH)
    erin = await still.floor.user("erin", Role.APPROVER)
    approval = await still.ask(by=ALICE)
    await still.floor.decide(approval, by=BOB)
    changed = await still.service.reassign_approval(approval.approval_id, [GROUP, "erin"], by=erin)
    assert changed.votes == ()
    assert (await still.floor.decide(approval, by=CAROL)).status is ApprovalStatus.PENDING
    kept = await still.service.reassign_approval(approval.approval_id, ["U3CAROL", "erin"], by=erin)
    assert [vote.by.chat_user for vote in kept.votes] == ["U3CAROL"]
    assert (await still.floor.decide(approval, by=erin)).status is ApprovalStatus.APPROVED


async def test_a_vote_and_a_new_list_at_one_instant_never_leave_a_vote_without_standing(still: Still) -> None:
    await still.rule(BOTH)
    erin = await still.floor.user("erin", Role.APPROVER)
    for _ in range(8):
        approval = await still.ask(by=ALICE)
        voted, changed = await asyncio.gather(
            still.floor.decide(approval, by=BOB),
            still.service.reassign_approval(approval.approval_id, ["erin"], by=erin),
            return_exceptions=True,
        )
        assert isinstance(changed, Approval)
        assert isinstance(voted, Approval | NotAnApprover)
        assert (await now(still, approval)).votes == ()


async def test_nobody_makes_the_requester_an_approver_under_four_eyes(still: Still) -> None:
    await still.rule(asking(four_eyes=True))
    alice = await still.service.principal_of_chat(ALICE)
    approval = await still.ask(by=ALICE)
    for named in (["U1ALICE"], ["U2BOB", "U1ALICE"], [alice.username]):
        with pytest.raises(OwnRequest):
            await still.service.reassign_approval(approval.approval_id, named, by=ADMIN)


async def test_the_requester_does_not_choose_who_decides_under_four_eyes(still: Still) -> None:
    await still.rule(asking(four_eyes=True))
    approval = await still.ask(by=BOB)
    with pytest.raises(OwnRequest):
        await still.service.reassign_approval(approval.approval_id, [GROUP], by=BOB)


# The requester ----------------------------------------------------------------------------------------------------


async def test_who_asked_sees_who_can_decide_and_may_cancel(still: Still) -> None:
    await still.floor.user("dora")
    bob = await still.service.principal_of_chat(BOB)
    await still.floor.sql("UPDATE users SET display_name = 'Bob' WHERE user_id = $1", bob.user_id)
    approval = await still.ask(by=ALICE)
    alice = await still.service.principal_of_chat(ALICE)
    seen = await still.service.read_approval(approval.approval_id, by=alice)
    assert [(who.kind, who.id, who.name) for who in seen.deciders] == [
        ("user", "U2BOB", "Bob"),
        ("group", GROUP, GROUP),
        ("user", "dora", "dora"),
        ("role", "role:approver", "everyone with the role approver"),
    ]
    with pytest.raises(NotYours):
        await still.service.cancel_approval(approval.approval_id, by=BOB)
    cancelled = await still.service.cancel_approval(approval.approval_id, by=ALICE, reason="no need")
    assert (cancelled.status, cancelled.decided_by) == (ApprovalStatus.CANCELLED, alice.person)
    with pytest.raises(AlreadySettled, match="already cancelled by"):
        await still.floor.decide(approval, by=BOB)
    after, turn = await still.finished(approval)
    assert (after.status, still.ran) == (ApprovalStatus.CANCELLED, [])
    assert "Cancelled by slack:T0TEAM:U1ALICE" in (turn.reply or "")
    assert '"no need"' in (turn.reply or "")
    (entry,) = await audited(still.floor, approval, "approval.settled")
    assert (entry["actor_id"], entry["data"]["status"]) == (alice.user_id, "cancelled")


# Many at once -----------------------------------------------------------------------------------------------------


async def test_each_of_a_batch_is_answered_alone(still: Still) -> None:
    good, rejected, stale, settled, expired = [await still.ask(by=ALICE) for _ in range(5)]
    await still.rule(asking(approvers=("U3CAROL",)))
    foreign = await still.ask(by=ALICE)
    await still.floor.decide(settled, by=BOB)
    late = "UPDATE approvals SET expires_at = now() - interval '1 s' WHERE approval_id = $1"
    await still.floor.sql(late, expired.approval_id)
    items = [
        Item(good.approval_id, Decision.APPROVE, good.args_digest),
        Item(rejected.approval_id, Decision.REJECT, rejected.args_digest, "no"),
        Item(stale.approval_id, Decision.REJECT, "0" * 64),
        Item(settled.approval_id, Decision.APPROVE, settled.args_digest),
        Item(expired.approval_id, Decision.APPROVE, expired.args_digest),
        Item(foreign.approval_id, Decision.APPROVE, foreign.args_digest),
        Item(ADMIN.user_id, Decision.APPROVE, good.args_digest),
        Item(good.approval_id, Decision.REJECT, good.args_digest),
    ]
    answers = await still.service.decide_approvals(items, by=BOB)
    assert [type(answer.outcome) for answer in answers] == [
        Approval,
        Approval,
        ChangedMeanwhile,
        AlreadySettled,
        ApprovalExpired,
        NotAnApprover,
        ApprovalNotFound,
        AlreadySettled,
    ]
    assert [(await now(still, approval)).status for approval in (good, rejected, stale, foreign)] == [
        ApprovalStatus.APPROVED,
        ApprovalStatus.REJECTED,
        ApprovalStatus.PENDING,
        ApprovalStatus.PENDING,
    ]
