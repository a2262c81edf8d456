"""Reminders and escalation: at most once each, whoever sweeps, and told to exactly the people who may decide."""

import asyncio
from typing import Any

import pytest

from agent.approvals.policy import Rule, check
from agent.approvals.types import Approval, ApprovalStatus, NotAnApprover
from agent.errors import Invalid
from agent.reminders import Reminders
from agent.types import ChatUser, EventKind, Role
from tests.integration.conftest import ADMIN, ALICE, BOB, CAROL, running
from tests.integration.test_approvals import GROUP, Still, still
from tests.integration.test_resolutions import audited, told

__all__ = ["still"]

DAVE = ChatUser("T0TEAM", "U4DAVE")
LADDER = Rule(
    auto_execute=False,
    approval_required=True,
    approvers=("U2BOB",),
    remind_after_s=60,
    escalate_after_s=120,
    escalate_to=("U4DAVE", GROUP),
)


def sweeps(still: Still) -> Reminders:
    return still.floor.core.sweeps._reminders


async def pass_time(still: Still, seconds: int) -> None:
    back = f"interval '{seconds} s'"
    await still.floor.sql(f"UPDATE approvals SET remind_at = remind_at - {back}, escalate_at = escalate_at - {back}")


async def asked(still: Still, rule: Rule = LADDER, *, by: Any = ALICE) -> Approval:
    await still.rule(rule)
    return await still.ask(by=by)


async def chats(still: Still, kind: EventKind) -> list[list[str]]:
    return [
        [one["chat"] or one["id"] for one in data["to"]] for data in await told(still.floor, still.session_id, kind)
    ]


async def test_people_are_reminded_once_and_then_others_are_asked_once(still: Still) -> None:
    approval = await asked(still)
    for seconds, reminded, escalated in ((59, 0, 0), (2, 1, 0), (30, 1, 0), (30, 1, 1), (600, 1, 1)):
        await pass_time(still, seconds)
        await sweeps(still).remind()
        await sweeps(still).escalate()
        counts = [len(await chats(still, kind)) for kind in (EventKind.APPROVAL_REMINDED, EventKind.APPROVAL_ESCALATED)]
        assert counts == [reminded, escalated]
    assert await chats(still, EventKind.APPROVAL_REMINDED) == [["U2BOB"]]
    assert await chats(still, EventKind.APPROVAL_ESCALATED) == [["U4DAVE", GROUP]]
    assert len(await audited(still.floor, approval, "approval.reminded")) == 1
    assert len(await audited(still.floor, approval, "approval.escalated")) == 1


async def test_sweeps_of_many_replicas_tell_once(dsn: str, still: Still) -> None:
    approvals = [await asked(still) for _ in range(15)]
    await pass_time(still, 600)
    async with running(dsn, work=False, approvers=("U2BOB",)) as other:
        both = [sweeps(still), other.core.sweeps._reminders] * 4
        await asyncio.gather(*(sweep.remind() for sweep in both), *(sweep.escalate() for sweep in both))
        # What another held just then is left to the next sweep, which finds all that was told told.
        await asyncio.gather(*(sweep.remind() for sweep in both))
        await asyncio.gather(*(sweep.escalate() for sweep in both))
    for approval in approvals:
        for kind in (EventKind.APPROVAL_REMINDED, EventKind.APPROVAL_ESCALATED):
            assert len(await told(still.floor, approval.session_id, kind)) == 1


async def test_a_sweep_that_looked_before_another_told_tells_nobody_again(still: Still) -> None:
    approval = await asked(still)
    await pass_time(still, 600)
    late = Late(still)
    looked = asyncio.create_task(late.remind())
    await late.has_looked.wait()
    await sweeps(still).remind()
    late.go.set()
    await looked
    assert len(await chats(still, EventKind.APPROVAL_REMINDED)) == 1
    assert len(await audited(still.floor, approval, "approval.reminded")) == 1


class Late(Reminders):
    """A sweep that has seen what is due, and comes to it late."""

    def __init__(self, still: Still) -> None:
        super().__init__(still.floor.core.database, ())
        self.has_looked, self.go = asyncio.Event(), asyncio.Event()

    async def _take(self, *what: Any) -> None:
        self.has_looked.set()
        await self.go.wait()
        await super()._take(*what)


async def test_whom_it_was_escalated_to_may_decide_from_then_on(still: Still) -> None:
    approval = await asked(still)
    for by in (DAVE, CAROL):
        with pytest.raises(NotAnApprover):
            await still.floor.decide(approval, by=by)
    await pass_time(still, 600)
    await sweeps(still).escalate()
    dave = await still.service.principal_of_chat(DAVE)
    assert [a.approval_id for a in (await still.service.list_approvals(by=dave)).items] == [approval.approval_id]
    decided = await still.floor.decide(approval, by=CAROL)
    assert (decided.status, [who.id for who in decided.deciders]) == (
        ApprovalStatus.APPROVED,
        ["U2BOB", "U4DAVE", GROUP],
    )
    await still.finished(approval)
    assert still.ran == ["web"]


async def test_an_escalation_that_policy_has_taken_back_gives_no_standing_at_the_run(still: Still) -> None:
    approval = await asked(still)
    await pass_time(still, 600)
    await sweeps(still).escalate()
    await still.floor.decide(approval, by=DAVE)
    await still.rule(Rule(auto_execute=False, approval_required=True, approvers=("U2BOB",)))
    after, _ = await still.finished(approval)
    assert (after.status, still.ran) == (ApprovalStatus.CANCELLED, [])


async def test_those_without_a_list_are_reached_by_role_and_who_has_voted_is_left_alone(still: Still) -> None:
    erin = await still.floor.user("erin", Role.APPROVER)
    for username, chat, disabled in (("erin", "U5ERIN", False), ("fred", "U6FRED", True)):
        if username != "erin":
            await still.floor.user(username, Role.APPROVER)
        await still.floor.sql(
            "UPDATE users SET slack_team_id = 'T0TEAM', slack_user_id = $2, disabled = $3 WHERE username = $1",
            username,
            chat,
            disabled,
        )
    rule = Rule(auto_execute=False, approval_required=True, quorum=3, four_eyes=True, remind_after_s=60)
    approval = await asked(still, rule, by=BOB)
    await pass_time(still, 600)
    await sweeps(still).remind()
    assert await chats(still, EventKind.APPROVAL_REMINDED) == [[GROUP, "dora", "U5ERIN"]]
    second = await asked(still, rule, by=ALICE)
    await still.floor.decide(second, by=erin)
    await pass_time(still, 600)
    await sweeps(still).remind()
    assert await chats(still, EventKind.APPROVAL_REMINDED) == [["U2BOB", GROUP, "dora"]]
    assert approval.approval_id != second.approval_id


async def test_nobody_is_reminded_of_what_is_settled_or_over(still: Still) -> None:
    settled = await asked(still)
    await still.floor.decide(settled, by=BOB)
    over = await asked(still)
    await still.floor.sql("UPDATE approvals SET expires_at = now() WHERE approval_id = $1", over.approval_id)
    await pass_time(still, 600)
    await sweeps(still).remind()
    await sweeps(still).escalate()
    for approval in (settled, over):
        for kind in (EventKind.APPROVAL_REMINDED, EventKind.APPROVAL_ESCALATED):
            assert await told(still.floor, approval.session_id, kind) == []


async def test_a_users_own_rule_asks_nobody_but_whom_an_admin_named(still: Still) -> None:
    alice = await still.service.principal_of_chat(ALICE)
    tool_id = still.floor.tools["restart"].spec.tool_id
    await still.rule(LADDER)
    own = Rule(
        auto_execute=False, approval_required=True, remind_after_s=1, escalate_after_s=1, escalate_to=("U1ALICE",)
    )
    await still.service.set_tool_approval(tool_id, own, by=alice, user_id=alice.user_id)
    await still.ask(by=ALICE)
    await pass_time(still, 600)
    await sweeps(still).escalate()
    assert await chats(still, EventKind.APPROVAL_ESCALATED) == [["U4DAVE", GROUP]]


@pytest.mark.parametrize(
    "terms",
    [
        {"escalate_after_s": 60},
        {"escalate_to": ("U2BOB",)},
        {"remind_after_s": 0},
        {"escalate_after_s": 60, "escalate_to": ()},
    ],
    ids=["nobody", "never", "at once", "empty"],
)
def test_half_a_ladder_is_refused(terms: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        check(Rule(auto_execute=False, approval_required=True, **terms))


async def test_the_running_sweeps_remind_and_escalate(dsn: str) -> None:
    async with running(dsn, approvers=("U2BOB",)) as floor:
        rule = Rule(
            auto_execute=False, approval_required=True, remind_after_s=1, escalate_after_s=1, escalate_to=("U4DAVE",)
        )
        await floor.service.set_tool_approval(floor.tools["restart"].spec.tool_id, rule, by=ADMIN)
        session_id = await floor.session()
        await floor.say(session_id, '{{tool restart {"service": "web"}}}')
        async with asyncio.timeout(45):
            while not all(
                [await told(floor, session_id, k) for k in (EventKind.APPROVAL_REMINDED, EventKind.APPROVAL_ESCALATED)]
            ):
                await asyncio.sleep(0.05)
