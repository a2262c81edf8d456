"""Ways round the verbs of an approval's life: each test is named by its attack, and nothing runs that may not."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agent.approvals.life import AlreadyResolved, BadApprovers, NotYours, OnlyAdminsWiden
from agent.approvals.people import UnknownApprover
from agent.approvals.policy import Rule
from agent.approvals.types import (
    Action,
    Approval,
    ApprovalStatus,
    ChangedMeanwhile,
    Decision,
    DeniedByPolicy,
    Door,
    ExecutionStatus,
    NotAnApprover,
    OwnRequest,
)
from agent.house import Disabled
from agent.sessions import SessionNotFound
from agent.toolbox import ToolPatch
from agent.tools.base import Outcome, ToolResult
from agent.tools.catalogue import ToolWithheld
from agent.types import ChatUser, EventKind, Role
from tests.integration.conftest import ADMIN, ALICE, BOB, CAROL
from tests.integration.test_approvals import DENIED, GROUP, Still, still
from tests.integration.test_resolutions import audited, read, resolve, told, unknown

__all__ = ["still"]

EVERY = list(Action)


def asking(**terms: Any) -> Rule:
    return Rule(auto_execute=False, approval_required=True, **terms)


async def nothing_ran(still: Still, approval: Approval) -> None:
    """Advance the thread, and find the outcome as unknown as before."""
    await still.advance()
    after = await read(still.floor, approval)
    assert (still.ran, after.execution) == (["web"], ExecutionStatus.UNKNOWN)


# Outcomes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", EVERY)
@pytest.mark.parametrize(
    "by",
    [ALICE, ChatUser("T0TEAM", "U2BOB", external=True), ChatUser("T0TEAM", "U7GUS")],
    ids=["the requester", "a guest", "a stranger"],
)
async def test_somebody_who_may_not_decide_resolves(still: Still, action: Action, by: ChatUser) -> None:
    approval = await unknown(still)
    with pytest.raises(NotAnApprover):
        await resolve(still, approval, action, by=by)
    await nothing_ran(still, approval)
    assert await told(still.floor, still.session_id, EventKind.APPROVAL_RESOLVED) == []


@pytest.mark.parametrize("action", EVERY)
async def test_the_requester_resolves_their_own_under_four_eyes(still: Still, action: Action) -> None:
    await still.rule(asking(four_eyes=True))
    approval = await unknown(still, by=CAROL)
    with pytest.raises(OwnRequest):
        await resolve(still, approval, action, by=CAROL)
    await nothing_ran(still, approval)


@pytest.mark.parametrize("action", EVERY)
async def test_an_approver_of_one_team_resolves_what_another_team_decides(still: Still, action: Action) -> None:
    await still.rule(asking(approvers=(GROUP,)))
    still.groups.members_of[GROUP] = ["U2BOB"]
    approval = await unknown(still)
    for by in (CAROL, await still.floor.user("erin", Role.APPROVER)):
        with pytest.raises(NotAnApprover):
            await resolve(still, approval, action, by=by)
    await nothing_ran(still, approval)


async def _other_schema(still: Still) -> None:
    await still.floor.tools.change("restart")
    await still.floor.core.publish_once(alone=True)


async def _disabled_tool(still: Still) -> None:
    tool_id = still.floor.tools["restart"].spec.tool_id
    await still.service.update_tool(tool_id, ToolPatch(enabled=False), by=ADMIN)


async def _denied(still: Still) -> None:
    await still.rule(DENIED)


async def _disabled_requester(still: Still) -> None:
    await still.floor.sql("UPDATE users SET disabled = true WHERE slack_user_id = 'U1ALICE'")


async def _deleted_session(still: Still) -> None:
    await still.service.delete_session(still.session_id, by=ADMIN)


@pytest.mark.parametrize(
    ("meanwhile", "refusal"),
    [
        (_other_schema, ChangedMeanwhile),
        (_disabled_tool, ToolWithheld),
        (_denied, DeniedByPolicy),
        (_disabled_requester, DeniedByPolicy),
        (_deleted_session, SessionNotFound),
    ],
)
async def test_a_call_is_run_again_that_could_not_be_made_now(
    still: Still, meanwhile: Callable[[Still], Awaitable[None]], refusal: type[Exception]
) -> None:
    approval = await unknown(still)
    await meanwhile(still)
    with pytest.raises(refusal):
        await resolve(still, approval, Action.RUN_AGAIN)
    await nothing_ran(still, approval)
    assert (await resolve(still, approval, Action.DONE)).execution is ExecutionStatus.SUCCEEDED


async def _other_args(still: Still) -> None:
    await still.floor.sql("""UPDATE approvals SET args = '{"service":"everything"}'""")


async def _other_digest_too(still: Still) -> None:
    await _other_args(still)
    args = """encode(sha256('{"service":"everything"}'), 'hex')"""
    await still.floor.sql(f"UPDATE approvals SET args_digest = {args}")


async def _gone_tool(still: Still) -> None:
    still.floor.tools.remove("restart")
    await still.floor.core.publish_once(alone=True)


async def _disabled_resolver(still: Still) -> None:
    await still.floor.sql("UPDATE users SET disabled = true WHERE slack_user_id = 'U2BOB'")


async def _resolver_lost_standing(still: Still) -> None:
    await still.rule(asking(approvers=(GROUP,)))


async def _four_eyes_by_now(still: Still) -> None:
    await still.rule(asking(four_eyes=True))
    await still.floor.sql(
        "UPDATE approvals SET requested_by = (SELECT user_id FROM users WHERE slack_user_id = 'U2BOB')"
    )


@pytest.mark.parametrize(
    ("meanwhile", "why"),
    [
        (_other_schema, "changed since the call was approved"),
        (_disabled_tool, "switched off by an admin"),
        (_denied, "Policy denies this call by now"),
        (_disabled_requester, "Policy denies this call by now"),
        (_other_args, "not the ones of the call"),
        (_other_digest_too, "not the ones of the call"),
        (_gone_tool, "not connected any more"),
        (_disabled_resolver, "may not decide this any more"),
        (_resolver_lost_standing, "may not decide this any more"),
        (_four_eyes_by_now, "may not decide this any more"),
    ],
)
async def test_the_world_changes_between_the_word_and_the_run(
    still: Still, meanwhile: Callable[[Still], Awaitable[None]], why: str
) -> None:
    approval = await unknown(still)
    await resolve(still, approval, Action.RUN_AGAIN)
    await meanwhile(still)
    await nothing_ran(still, approval)
    assert why in (await told(still.floor, still.session_id, EventKind.TURN_COMPLETED))[-1]["reply"]
    # The word was not spent, and is over with its turn: another turn can't use it, and people can say something else.
    assert (await resolve(still, approval, Action.FAILED, by=ADMIN)).execution is ExecutionStatus.FAILED


async def test_the_same_run_is_asked_for_twice(still: Still) -> None:
    approval = await unknown(still)
    answers = await asyncio.gather(
        *(resolve(still, approval, Action.RUN_AGAIN, by=by) for by in (BOB, CAROL, BOB, ADMIN)), return_exceptions=True
    )
    assert sum(isinstance(answer, Approval) for answer in answers) == 1
    for _ in range(3):
        await still.advance()
    assert still.ran == ["web", "web"]
    with pytest.raises(AlreadyResolved):
        await resolve(still, approval, Action.RUN_AGAIN)
    await still.advance()
    assert still.ran == ["web", "web"]


async def test_a_stopped_run_is_started_by_the_word_it_was_stopped_with(still: Still) -> None:
    approval = await unknown(still)
    await resolve(still, approval, Action.RUN_AGAIN)
    await still.floor.sql("UPDATE turns SET cancel_requested = true WHERE kind = 'call'")
    await nothing_ran(still, approval)
    await still.advance()
    await nothing_ran(still, approval)


# Instead ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "by", [ChatUser("T0TEAM", "U2BOB", external=True), ALICE], ids=["a guest", "somebody without standing"]
)
async def test_a_message_gets_in_with_a_rejection(still: Still, by: ChatUser) -> None:
    approval = await still.ask(by=ChatUser("T0TEAM", "U7GUS"))
    with pytest.raises(NotAnApprover):
        await still.floor.decide(approval, Decision.REJECT, by=by, instead='{{tool uptime {"service": "db"}}}')
    await still.advance()
    assert len(await still.floor.sql("SELECT 1 FROM turns")) == 1
    assert (await read(still.floor, approval)).status is ApprovalStatus.PENDING


async def test_what_comes_instead_runs_under_somebody_elses_policy(still: Still) -> None:
    bob = await still.service.principal_of_chat(BOB)
    await still.service.set_tool_approval(
        still.floor.tools["uptime"].spec.tool_id, DENIED, by=ADMIN, user_id=bob.user_id
    )
    approval = await still.ask(by=ALICE)
    await still.floor.decide(approval, Decision.REJECT, by=BOB, instead='{{tool uptime {"service": "db"}}}')
    await still.advance()
    assert still.floor.tools.ran("uptime") == []


# Time and people --------------------------------------------------------------------------------------------------


async def test_others_cancel_extend_or_hand_on(still: Still) -> None:
    approval = await still.ask(by=ALICE)
    stranger, gus = ChatUser("T0TEAM", "U7GUS"), await still.floor.user("gus")
    for by in (stranger, gus):
        with pytest.raises(NotYours):
            await still.service.cancel_approval(approval.approval_id, by=by)
        with pytest.raises(NotAnApprover):
            await still.service.extend_approval(approval.approval_id, 10**6, by=by)
        with pytest.raises(NotAnApprover):
            await still.service.reassign_approval(approval.approval_id, ["gus"], by=by)
    dora = await still.floor.user("dora")
    await still.floor.sql("UPDATE users SET disabled = true WHERE username = 'dora'")
    with pytest.raises(Disabled):
        await still.service.extend_approval(approval.approval_id, 10**6, by=dora)


async def test_an_approver_brings_in_a_friend_by_two_steps(still: Still) -> None:
    friend = await still.floor.user("friend")
    approval = await still.ask(by=ALICE)
    await still.service.reassign_approval(approval.approval_id, ["U2BOB"], by=BOB)
    for named in (["friend"], ["U2BOB", "friend"], ["U2BOB", "role:member"], [GROUP]):
        with pytest.raises(OnlyAdminsWiden):
            await still.service.reassign_approval(approval.approval_id, named, by=BOB)
    with pytest.raises(NotAnApprover):
        await still.floor.decide(approval, by=friend)


async def test_a_rule_escalates_to_a_name_that_a_stranger_registers(still: Still) -> None:
    with pytest.raises(UnknownApprover, match="mallory"):
        await still.rule(asking(escalate_after_s=60, escalate_to=("mallory",)))


async def test_a_users_own_rule_escalates_to_themselves(still: Still) -> None:
    alice = await still.service.principal_of_chat(ALICE)
    own = asking(escalate_after_s=1, escalate_to=("U1ALICE",))
    tool_id = still.floor.tools["restart"].spec.tool_id
    await still.service.set_tool_approval(tool_id, own, by=alice, user_id=alice.user_id)
    approval = await still.ask(by=ALICE)
    await still.floor.sql("UPDATE approvals SET escalate_at = now() - interval '1 s'")
    await still.floor.core.sweeps._reminders.escalate()
    with pytest.raises(NotAnApprover):
        await still.floor.decide(approval, by=ALICE)


async def test_both_runs_of_a_call_give_more_than_the_model_reads(still: Still) -> None:
    async def long(_args: Any) -> ToolResult:
        return ToolResult("half of it\n" * 20_000, Outcome.UNKNOWN)

    async def longer(_args: Any) -> ToolResult:
        return ToolResult("all of it\n" * 20_000)

    still.floor.tools["restart"].effect = long
    approval = await still.ask(by=ALICE)
    await still.floor.decide(approval, by=BOB)
    await still.finished(approval)
    still.floor.tools["restart"].effect = longer
    await resolve(still, approval, Action.RUN_AGAIN, door=Door.API)
    await still.advance()
    after = await read(still.floor, approval)
    assert (still.ran, after.execution) == (["web", "web"], ExecutionStatus.SUCCEEDED)
    (said,) = await audited(still.floor, approval, "approval.resolved")
    assert said["data"]["door"] == "api"
    assert [shown.kind.value for shown in after.attachments] == ["text", "text"]


@pytest.mark.parametrize("entry", ["channel:general", "channel:", "channel:c0ops"])
async def test_an_admin_hands_a_call_to_a_channel_that_can_be_none(still: Still, entry: str) -> None:
    approval = await still.ask(by=ALICE)
    with pytest.raises(BadApprovers, match="no approver"):
        await still.service.reassign_approval(approval.approval_id, [entry], by=ADMIN)


async def test_a_rule_tightened_after_the_word_keeps_the_call_from_running_again(still: Still) -> None:
    approval = await unknown(still)
    await resolve(still, approval, Action.RUN_AGAIN, door=Door.SLACK)
    await still.rule(Rule(auto_execute=False, approval_required=True, doors=(Door.WEB,), fresh_login_s=60))
    await still.advance()
    assert len(still.ran) == 1
    assert (await read(still.floor, approval)).execution is ExecutionStatus.UNKNOWN
