"""Who may decide what, once and only once, and what is checked again before an approved call runs."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest

from agent.approvals.policy import Rule, When
from agent.approvals.store import ApprovalNotFound
from agent.approvals.types import (
    AlreadySettled,
    Approval,
    ApprovalExpired,
    ApprovalStatus,
    Decision,
    DeniedByPolicy,
    InvalidArguments,
    NotAnApprover,
    OwnRequest,
)
from agent.house import Disabled
from agent.ports import DirectoryUnavailable
from agent.types import ChatUser, Principal, Role, Turn, TurnStatus
from tests.fakes.counting_tools import CountingTools
from tests.integration.conftest import ADMIN, ALICE, BOB, CAROL, Floor, running

RESTART = '{{tool restart {"service": "web"}}}'
GROUP = "S9OPS"
ASKS = Rule(auto_execute=False, approval_required=True)
AUTO = Rule(auto_execute=True, approval_required=False)
DENIED = Rule(auto_execute=False, approval_required=False)


class Groups:
    """A directory of user groups that counts how often it is asked, and may be down."""

    def __init__(self) -> None:
        self.members_of: dict[str, list[str]] = {GROUP: ["U3CAROL"]}
        self.asked = 0
        self.down = False

    async def members(self, group_id: str) -> list[str]:
        self.asked += 1
        if self.down:
            raise DirectoryUnavailable("Slack is down.")
        return self.members_of.get(group_id, [])


class Still:
    """A floor whose worker moves only when told to: what happens between a click and the run can be put there."""

    def __init__(self, floor: Floor, groups: Groups) -> None:
        self.floor = floor
        self.groups = groups
        self.session_id = UUID(int=0)

    @property
    def service(self) -> Any:
        return self.floor.service

    async def ask(self, text: str = RESTART, *, by: Any = ADMIN) -> Approval:
        """Say what needs one approval; return it."""
        person = await self.service.principal_of_chat(by) if isinstance(by, ChatUser) else by
        self.session_id = await self.floor.session(person)
        sent = await self.service.submit_message(self.session_id, text, by=by)
        await self.advance()
        view = await self.service.read_turn(self.session_id, sent.turn.turn_id, by=ADMIN)
        assert view.turn.status is TurnStatus.AWAITING_APPROVAL
        (approval,) = view.pending_approvals
        return approval

    async def advance(self) -> None:
        await self.floor.core.turns.advance(self.session_id)

    async def finished(self, approval: Approval) -> tuple[Approval, Turn]:
        """Let the worker act on the decision; return what became of it."""
        await self.advance()
        turn = (await self.service.read_turn(self.session_id, approval.turn_id, by=ADMIN)).turn
        assert turn.status is TurnStatus.COMPLETED
        return await self.service.read_approval(approval.approval_id, by=ADMIN), turn

    async def rule(self, rule: Rule, **more: Any) -> None:
        await self.service.set_tool_approval(self.floor.tools["restart"].spec.tool_id, rule, by=ADMIN, **more)

    @property
    def ran(self) -> list[str]:
        return self.floor.tools.ran("restart")


@pytest.fixture
async def still(dsn: str) -> AsyncIterator[Still]:
    groups = Groups()
    async with running(dsn, work=False, approvers=("U2BOB", GROUP, "dora"), groups=groups) as floor:
        yield Still(floor, groups)


@asynccontextmanager
async def working(dsn: str, tools: CountingTools, **more: Any) -> AsyncIterator[Floor]:
    """A process that works without the sweeps, which would hide a lost wake-up."""
    async with running(dsn, tools=tools, work=False, **more) as floor:
        worker = asyncio.create_task(floor.core.worker.run())
        try:
            yield floor
        finally:
            worker.cancel()
            await asyncio.wait([worker])


# Exactly one decision ---------------------------------------------------------------------------------------------


async def test_one_of_twenty_concurrent_decisions_settles_and_the_others_hear_by_whom(dsn: str) -> None:
    tools = CountingTools()
    async with working(dsn, tools) as one, working(dsn, tools) as other:
        people = [await one.user(f"approver{i}", Role.APPROVER) for i in range(20)]
        session_id = await one.session()
        for round_ in range(3):
            asked = await one.say(session_id, RESTART)
            (approval,) = asked.pending_approvals
            before = len(tools.effects)
            answers = await asyncio.gather(
                *(
                    (one, other)[i % 2].decide(
                        approval, (Decision.APPROVE, Decision.REJECT)[i % 3 == round_], by=person
                    )
                    for i, person in enumerate(people)
                ),
                return_exceptions=True,
            )
            settled = [answer for answer in answers if isinstance(answer, Approval)]
            late = [answer for answer in answers if isinstance(answer, AlreadySettled)]
            assert (len(settled), len(late)) == (1, 19), answers
            winner = settled[0].decided_by
            assert winner is not None
            assert {refused.approval.decided_by for refused in late} == {winner}
            assert all(winner.username in refused.message for refused in late)
            await one.done(asked.turn.turn_id)
            approved = settled[0].status is ApprovalStatus.APPROVED
            assert len(tools.effects) - before == approved
            runs = await one.sql("SELECT 1 FROM executions WHERE approval_id = $1", approval.approval_id)
            assert len(runs) == approved


async def test_two_approvals_of_a_turn_decided_at_one_instant_never_leave_it_stuck(dsn: str) -> None:
    tools = CountingTools()
    async with working(dsn, tools) as one, working(dsn, tools) as other:
        for round_ in range(12):
            session_id = await one.session()
            text = f'{{{{tool restart {{"service": "a{round_}"}}}}}} {{{{tool restart {{"service": "b{round_}"}}}}}}'
            asked = await one.say(session_id, text)
            first, second = (await one.parked(asked.turn.turn_id, 2)).pending_approvals
            await asyncio.gather(one.decide(first), other.decide(second))
            done = await one.done(asked.turn.turn_id)
            assert done.turn.status is TurnStatus.COMPLETED
            assert sorted(tools.ran("restart")[-2:]) == [f"a{round_}", f"b{round_}"]
    assert len(tools.ran("restart")) == 24


async def test_the_same_click_sent_twice_counts_once(still: Still) -> None:
    approval = await still.ask(by=ALICE)
    await still.floor.decide(approval, by=BOB)
    with pytest.raises(AlreadySettled, match="already approved by slack:T0TEAM:U2BOB"):
        await still.floor.decide(approval, by=BOB)
    await still.finished(approval)
    assert still.ran == ["web"]


async def test_a_decision_waits_for_the_threads_lock_before_it_takes_the_approvals(still: Still) -> None:
    approval = await still.ask(by=ALICE)
    async with still.floor.core.database.transaction() as tx:
        await tx.execute("SELECT 1 FROM user_sessions WHERE session_id = $1 FOR UPDATE", still.session_id)
        deciding = asyncio.create_task(still.floor.decide(approval, by=BOB))
        waits = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        async with asyncio.timeout(45):
            while not await still.floor.sql(waits):
                await asyncio.sleep(0.02)
        # What the worker locks next: had the decision taken it, each would wait for the other.
        await tx.execute("SELECT 1 FROM approvals WHERE approval_id = $1 FOR UPDATE NOWAIT", approval.approval_id)
    assert (await deciding).status is ApprovalStatus.APPROVED


# Checked again before the run -------------------------------------------------------------------------------------


async def _other_args(still: Still) -> None:
    await still.floor.sql("""UPDATE approvals SET args = '{"service":"everything"}'""")


async def _other_schema(still: Still) -> None:
    await still.floor.tools.change("restart")


async def _gone_tool(still: Still) -> None:
    still.floor.tools.remove("restart")
    await still.floor.core.publish_once(alone=True)


async def _denied(still: Still) -> None:
    await still.rule(DENIED)


async def _denied_by_condition(still: Still) -> None:
    web = {"properties": {"service": {"const": "web"}}}
    await still.rule(Rule(auto_execute=True, approval_required=False, when=(When(web, "deny"),)))


async def _disabled_requester(still: Still) -> None:
    await still.floor.sql("UPDATE users SET disabled = true WHERE slack_user_id = 'U1ALICE'")


@pytest.mark.parametrize(
    ("meanwhile", "why"),
    [
        (_other_args, "not the ones that were approved"),
        (_other_schema, "changed after the call was approved"),
        (_gone_tool, "not connected any more"),
        (_denied, "Policy denies this call by now"),
        (_denied_by_condition, "Policy denies this call by now"),
        (_disabled_requester, "Policy denies this call by now"),
    ],
)
async def test_an_approved_call_does_not_run_once_it_is_another_call(
    still: Still, meanwhile: Callable[[Still], Awaitable[None]], why: str
) -> None:
    approval = await still.ask(by=ALICE)
    await still.floor.decide(approval, by=BOB)
    await meanwhile(still)
    after, turn = await still.finished(approval)
    assert still.ran == []
    assert (after.status, after.execution.value) == (ApprovalStatus.CANCELLED, "none")
    assert why in (after.reason or "")
    assert why in (turn.reply or "")


async def _disabled_approver(still: Still) -> None:
    await still.floor.sql("UPDATE users SET disabled = true WHERE slack_user_id = 'U3CAROL' OR username = 'erin'")


async def _external_approver(still: Still) -> None:
    await still.floor.sql("UPDATE users SET external = true WHERE slack_user_id = 'U3CAROL' OR username = 'erin'")


async def _demoted_and_out_of_the_group(still: Still) -> None:
    await still.floor.sql("UPDATE users SET role = 'member' WHERE username = 'erin'")
    still.groups.members_of[GROUP] = []
    await still.floor.sql("UPDATE usergroups SET fetched_at = now() - interval '61 seconds'")


async def _no_longer_named_for_the_tool(still: Still) -> None:
    await still.rule(Rule(auto_execute=False, approval_required=True, approvers=("U2BOB",)))


@pytest.mark.parametrize(
    "meanwhile", [_disabled_approver, _external_approver, _demoted_and_out_of_the_group, _no_longer_named_for_the_tool]
)
@pytest.mark.parametrize("approver", ["a member of the group", "an approver by role"])
async def test_an_approval_counts_for_nothing_once_its_approver_may_not_decide(
    still: Still, meanwhile: Callable[[Still], Awaitable[None]], approver: str
) -> None:
    by = CAROL if approver == "a member of the group" else await still.floor.user("erin", Role.APPROVER)
    approval = await still.ask(by=ALICE)
    await still.floor.decide(approval, by=by)
    await meanwhile(still)
    after, turn = await still.finished(approval)
    assert still.ran == []
    assert after.status is ApprovalStatus.CANCELLED
    assert "may not decide it any more" in (turn.reply or "")


async def test_an_approval_counts_for_nothing_once_approvers_says_otherwise(dsn: str) -> None:
    async with running(dsn, work=False, approvers=("U2BOB",)) as floor:
        still = Still(floor, Groups())
        approval = await still.ask(by=ALICE)
        await floor.decide(approval, by=BOB)
    async with running(dsn, work=False, approvers=("U3CAROL",)) as floor:
        again = Still(floor, Groups())
        again.session_id = still.session_id
        after, _ = await again.finished(approval)
        assert (again.ran, after.status) == ([], ApprovalStatus.CANCELLED)


async def test_a_rejected_call_never_runs_though_policy_allows_it_meanwhile(still: Still) -> None:
    approval = await still.ask(by=ALICE)
    await still.rule(AUTO)
    await still.floor.decide(approval, Decision.REJECT, by=BOB, reason="not now")
    after, turn = await still.finished(approval)
    assert (still.ran, after.status) == ([], ApprovalStatus.REJECTED)
    assert "not now" in (turn.reply or "")


async def test_a_pending_call_still_waits_though_policy_allows_it_meanwhile(still: Still) -> None:
    approval = await still.ask(by=ALICE)
    await still.rule(AUTO)
    await still.advance()
    assert still.ran == []
    assert (await still.service.read_approval(approval.approval_id, by=ADMIN)).status is ApprovalStatus.PENDING


# Time -------------------------------------------------------------------------------------------------------------


async def test_an_approval_whose_time_is_over_can_not_be_given_and_is_no_rejection(still: Still) -> None:
    approval = await still.ask(by=ALICE)
    await still.floor.sql("UPDATE approvals SET expires_at = now() - interval '1 second'")
    with pytest.raises(ApprovalExpired):
        await still.floor.decide(approval, by=BOB)
    await still.floor.core.sweeps._endings.expire_approvals()
    with pytest.raises(ApprovalExpired):
        await still.floor.decide(approval, by=BOB)
    after, turn = await still.finished(approval)
    assert (still.ran, after.status, after.decided_by) == ([], ApprovalStatus.EXPIRED, None)
    assert "Nobody rejected it" in (turn.reply or "")


async def test_the_policy_row_says_how_long_an_approval_may_be_given(still: Still) -> None:
    await still.rule(Rule(auto_execute=False, approval_required=True, expires_in_s=60))
    approval = await still.ask(by=ALICE)
    assert (approval.expires_at - approval.created_at).total_seconds() == 60


# Who and how many -------------------------------------------------------------------------------------------------


async def test_four_eyes_refuses_the_requester_even_as_an_admin_but_lets_them_reject(still: Still) -> None:
    await still.rule(Rule(auto_execute=False, approval_required=True, four_eyes=True))
    approval = await still.ask(by=ADMIN)
    with pytest.raises(OwnRequest):
        await still.floor.decide(approval, by=ADMIN)
    await still.floor.decide(approval, Decision.REJECT, by=ADMIN)
    assert (await still.finished(approval))[0].status is ApprovalStatus.REJECTED
    assert still.ran == []


async def test_a_quorum_of_two_needs_two_people(still: Still) -> None:
    await still.rule(Rule(auto_execute=False, approval_required=True, quorum=2))
    approval = await still.ask(by=ALICE)
    for _ in range(2):
        assert (await still.floor.decide(approval, by=BOB)).status is ApprovalStatus.PENDING
    await still.advance()
    assert still.ran == []
    settled = await still.floor.decide(approval, by=CAROL)
    assert settled.status is ApprovalStatus.APPROVED
    assert {vote.by.chat_user for vote in settled.votes} == {"U2BOB", "U3CAROL"}
    await still.finished(approval)
    assert still.ran == ["web"]


async def test_a_quorum_that_lost_one_of_its_voters_is_none(still: Still) -> None:
    await still.rule(Rule(auto_execute=False, approval_required=True, quorum=2))
    approval = await still.ask(by=ALICE)
    await still.floor.decide(approval, by=BOB)
    await still.floor.decide(approval, by=CAROL)
    await still.floor.sql("UPDATE users SET disabled = true WHERE slack_user_id = 'U2BOB'")
    assert (await still.finished(approval))[0].status is ApprovalStatus.CANCELLED
    assert still.ran == []


async def test_one_reject_is_a_veto(still: Still) -> None:
    await still.rule(Rule(auto_execute=False, approval_required=True, quorum=2))
    approval = await still.ask(by=ALICE)
    await still.floor.decide(approval, by=BOB)
    assert (await still.floor.decide(approval, Decision.REJECT, by=CAROL)).status is ApprovalStatus.REJECTED
    await still.finished(approval)
    assert still.ran == []


async def test_edited_arguments_void_the_votes_on_what_they_were(still: Still) -> None:
    await still.rule(Rule(auto_execute=False, approval_required=True, quorum=2))
    approval = await still.ask(by=ALICE)
    await still.floor.decide(approval, by=BOB)
    edited = await still.floor.decide(approval, by=CAROL, args={"service": "canary"})
    assert edited.status is ApprovalStatus.PENDING
    assert (edited.args, edited.args_proposed) == ({"service": "canary"}, {"service": "web"})
    assert edited.args_digest != approval.args_digest
    assert (await still.floor.decide(approval, by=BOB)).status is ApprovalStatus.APPROVED
    _, turn = await still.finished(approval)
    assert still.ran == ["canary"]
    assert "approver changed the arguments" in (turn.reply or "")


async def test_a_decision_made_in_another_session_finds_no_approval(still: Still) -> None:
    approval = await still.ask()
    elsewhere = await still.floor.session()
    for decision in Decision:
        with pytest.raises(ApprovalNotFound):
            await still.floor.decide(approval, decision, by=BOB, within=elsewhere)
    settled = await still.floor.decide(approval, by=BOB, within=approval.session_id)
    assert settled.status is ApprovalStatus.APPROVED


async def test_edited_arguments_must_fit_the_tool_and_its_policy(still: Still) -> None:
    production = {"properties": {"service": {"const": "production"}}}
    await still.rule(Rule(auto_execute=False, approval_required=True, when=(When(production, "deny"),)))
    approval = await still.ask(by=ALICE)
    for args in ({"service": 1}, {"service": "web", "approved": True}, {"service": "web", "reason": float("nan")}):
        with pytest.raises(InvalidArguments):
            await still.floor.decide(approval, by=BOB, args=args)
    with pytest.raises(DeniedByPolicy):
        await still.floor.decide(approval, by=BOB, args={"service": "production"})
    with pytest.raises(NotAnApprover):
        await still.floor.decide(approval, by=ALICE, args={"service": 1})
    unchanged = await still.service.read_approval(approval.approval_id, by=ADMIN)
    assert (unchanged.status, unchanged.args, unchanged.votes) == (ApprovalStatus.PENDING, {"service": "web"}, ())


@pytest.mark.parametrize(
    "by",
    [
        ALICE,
        ChatUser("T0TEAM", "U2BOB", external=True),
        ChatUser("T0TEAM", "U3CAROL", external=True),
    ],
)
async def test_members_and_people_from_outside_never_decide(still: Still, by: ChatUser) -> None:
    approval = await still.ask(by=ChatUser("T0TEAM", "U7GUS"))
    for decision in Decision:
        with pytest.raises(NotAnApprover):
            await still.floor.decide(approval, decision, by=by)


@pytest.mark.parametrize("username", ["u2bob", "U2BOB", GROUP, GROUP.lower(), "dora2", "role:approver"])
async def test_an_account_named_like_a_chat_id_or_a_role_never_decides(still: Still, username: str) -> None:
    dora = await still.floor.user("dora")
    await still.rule(
        Rule(auto_execute=False, approval_required=True, approvers=("U2BOB", GROUP, "dora", "role:approver"))
    )
    approval = await still.ask(by=ALICE)
    with pytest.raises(NotAnApprover):
        await still.floor.decide(approval, by=await still.floor.user(username))
    assert (await still.floor.decide(approval, by=dora)).status is ApprovalStatus.APPROVED


async def test_a_display_name_never_makes_an_approver(still: Still) -> None:
    approval = await still.ask(by=ALICE)
    await still.floor.sql("UPDATE users SET display_name = 'dora' WHERE slack_user_id = 'U1ALICE'")
    with pytest.raises(NotAnApprover):
        await still.floor.decide(approval, by=ALICE)


async def test_a_disabled_approver_is_told_so(still: Still) -> None:
    approval = await still.ask(by=ALICE)
    dora = await still.floor.user("dora")
    await still.floor.sql("UPDATE users SET disabled = true WHERE username = 'dora'")
    with pytest.raises(Disabled):
        await still.floor.decide(approval, by=dora)


async def test_a_role_that_a_token_still_claims_is_read_from_the_row(still: Still) -> None:
    approval = await still.ask(by=ALICE)
    erin = await still.floor.user("erin", Role.MEMBER)
    with pytest.raises(NotAnApprover):
        await still.floor.decide(approval, by=Principal(erin.user_id, "erin", Role.ADMIN))


async def test_the_approvers_of_a_tool_replace_the_approvers_of_the_house(still: Still) -> None:
    await still.rule(Rule(auto_execute=False, approval_required=True, approvers=("U1ALICE", "role:approver")))
    approval = await still.ask(by=ALICE)
    with pytest.raises(NotAnApprover):
        await still.floor.decide(approval, by=BOB)
    assert (await still.floor.decide(approval, by=ALICE)).status is ApprovalStatus.APPROVED


# User groups ------------------------------------------------------------------------------------------------------


async def test_members_of_a_group_are_asked_for_once_in_sixty_seconds(still: Still) -> None:
    for _ in range(3):
        approval = await still.ask(by=ALICE)
        await still.floor.decide(approval, by=CAROL)
        await still.finished(approval)
    assert (len(still.ran), still.groups.asked) == (3, 1)


async def test_who_left_the_group_more_than_sixty_seconds_ago_does_not_decide(still: Still) -> None:
    first, second = await still.ask(by=ALICE), await still.ask(by=ALICE)
    await still.floor.decide(first, by=CAROL)
    still.groups.members_of[GROUP] = []
    await still.floor.sql("UPDATE usergroups SET fetched_at = now() - interval '61 seconds'")
    with pytest.raises(NotAnApprover):
        await still.floor.decide(second, by=CAROL)


@pytest.mark.parametrize("known", [False, True])
async def test_a_vote_that_needs_a_group_is_refused_while_nobody_can_be_asked(still: Still, known: bool) -> None:
    if known:
        await still.floor.decide(await still.ask(by=ALICE), by=CAROL)
        await still.floor.sql("UPDATE usergroups SET fetched_at = now() - interval '61 seconds'")
    approval = await still.ask(by=ALICE)
    still.groups.down = True
    with pytest.raises(NotAnApprover, match="Slack can't be asked"):
        await still.floor.decide(approval, by=CAROL)
    assert (await still.floor.decide(approval, by=BOB)).status is ApprovalStatus.APPROVED


async def test_an_approved_call_is_refused_while_nobody_can_tell_who_is_in_the_group(still: Still) -> None:
    approval = await still.ask(by=ALICE)
    await still.floor.decide(approval, by=CAROL)
    await still.floor.sql("UPDATE usergroups SET fetched_at = now() - interval '61 seconds'")
    still.groups.down = True
    assert (await still.finished(approval))[0].status is ApprovalStatus.CANCELLED
    assert still.ran == []


# Without the model ------------------------------------------------------------------------------------------------


async def test_a_call_asked_for_without_the_model_runs_once_approved(still: Still) -> None:
    tool_id = still.floor.tools["restart"].spec.tool_id
    approval = await still.service.ask_approval(tool_id, {"service": "web"}, by=ADMIN, reason="it hangs")
    still.session_id = approval.session_id
    await still.advance()
    assert (still.ran, approval.status) == ([], ApprovalStatus.PENDING)
    await still.floor.decide(approval, by=BOB)
    after, _ = await still.finished(approval)
    assert (still.ran, after.execution.value, after.result) == (["web"], "succeeded", "restarted web")


async def test_what_policy_allowed_and_allows_no_more_is_not_run(still: Still) -> None:
    await still.rule(AUTO)
    tool_id = still.floor.tools["restart"].spec.tool_id
    approval = await still.service.ask_approval(tool_id, {"service": "web"}, by=ADMIN)
    assert (approval.status, approval.reason) == (ApprovalStatus.APPROVED, "policy")
    await still.rule(ASKS)
    still.session_id = approval.session_id
    assert (await still.finished(approval))[0].status is ApprovalStatus.CANCELLED
    assert still.ran == []


@pytest.mark.parametrize("amount", [1e20, 2.0**53, 10**30, float("inf")])
async def test_a_number_that_would_be_another_when_read_again_is_refused_before_anybody_is_asked(
    still: Still, amount: float
) -> None:
    tool = still.floor.tools.changed("restart", input_schema={"type": "object"})
    with pytest.raises(InvalidArguments, match="very large numbers as strings"):
        await still.service.ask_approval(tool.spec.tool_id, {"amount": amount}, by=ADMIN)
    assert await still.floor.sql("SELECT 1 FROM approvals") == []


async def test_requests_with_one_key_at_one_instant_ask_once(still: Still) -> None:
    tool_id = still.floor.tools["restart"].spec.tool_id
    asked = await asyncio.gather(
        *(still.service.ask_approval(tool_id, {"service": "web"}, by=ADMIN, idempotency_key="key-1") for _ in range(8))
    )
    assert len({approval.approval_id for approval in asked}) == 1
    assert len(await still.floor.sql("SELECT 1 FROM user_sessions")) == 1
