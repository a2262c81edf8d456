"""Ways to get standing, room or silence that nobody gave: each test is named by its attack."""

import asyncio
from typing import Any

import pytest

from agent.accounts import LinkRefused, WrongCredentials
from agent.approvals.people import UnknownApprover
from agent.approvals.policy import Rule
from agent.approvals.types import ChangedMeanwhile
from agent.authentication import BadTokenName
from agent.house import OutsidersMayNotChat
from agent.ports import ChatProfile
from agent.throttle import TooMany
from agent.turns import IdempotencyKeyReused
from agent.types import Address, ChatUser, Role, ThreadKey, TurnStatus
from tests.integration.conftest import ADMIN, ALICE, CAROL, Floor, floor, running
from tests.integration.test_accounts import PASSWORD, account

__all__ = ["floor"]

ASK = Rule(auto_execute=False, approval_required=True)
DENY = Rule(auto_execute=False, approval_required=False)
RESTART = '{{tool restart {"service": "web"}}}'


def asking(**terms: Any) -> Rule:
    return Rule(auto_execute=False, approval_required=True, **terms)


async def test_a_stranger_registers_the_name_that_a_rule_gives_standing(floor: Floor) -> None:
    tool = floor.tools["restart"].spec.tool_id
    with pytest.raises(UnknownApprover, match="mallory"):
        await floor.service.set_tool_approval(tool, asking(approvers=("mallory", "U2BOB", "role:approver")), by=ADMIN)
    await account(floor, "mallory")
    await floor.service.set_tool_approval(tool, asking(approvers=("Mallory", "U2BOB")), by=ADMIN)


async def test_a_disabled_chat_user_gets_standing_back_through_a_link(floor: Floor) -> None:
    chat = await floor.service.principal_of_chat(ALICE)
    alice = await account(floor, "alice")
    await floor.service.update_account(chat.user_id, by=ADMIN, disabled=True)
    with pytest.raises(LinkRefused, match="disabled"):
        await floor.service.link_account(alice.user_id, "U1ALICE", by=ADMIN)


async def test_a_link_sheds_what_an_admin_has_imposed(floor: Floor) -> None:
    tool = floor.tools["uptime"].spec.tool_id
    chat = await floor.service.principal_of_chat(ChatUser("T0TEAM", "U1ALICE", external=True))
    await floor.service.set_tool_approval(tool, DENY, by=ADMIN, user_id=chat.user_id)
    alice = await account(floor, "alice")
    await floor.service.link_account(alice.user_id, "U1ALICE", by=ADMIN)
    view = await floor.service.read_tool(tool, by=alice)
    assert (view.auto_execute, view.approval_required) == (False, False)
    assert (await floor.service.principal_of_chat(ALICE)).external


async def test_a_link_lets_the_looser_of_two_rows_win(floor: Floor) -> None:
    tool = floor.tools["restart"].spec.tool_id
    chat = await floor.service.principal_of_chat(ALICE)
    alice = await account(floor, "alice")
    await floor.service.set_tool_approval(tool, DENY, by=ADMIN, user_id=chat.user_id)
    await floor.service.set_tool_approval(tool, ASK, by=ADMIN, user_id=alice.user_id)
    with pytest.raises(LinkRefused, match="restart"):
        await floor.service.link_account(alice.user_id, "U1ALICE", by=ADMIN)
    await floor.service.set_tool_approval(tool, DENY, by=ADMIN, user_id=alice.user_id)
    await floor.service.link_account(alice.user_id, "U1ALICE", by=ADMIN)


async def test_fifty_guesses_at_once_find_more_room_than_ten(floor: Floor) -> None:
    await account(floor, "alice")

    async def guess(password: str) -> type[Exception] | None:
        try:
            await floor.service.login("alice", password, address="127.0.0.1")
        except (WrongCredentials, TooMany) as refused:
            return type(refused)
        return None

    answers = await asyncio.gather(*(guess(f"wrong-password-{n}") for n in range(50)))
    assert answers.count(WrongCredentials) == 10
    assert answers.count(TooMany) == 40
    assert await guess(PASSWORD) is TooMany


async def test_guessing_at_names_without_end_leaves_nothing_behind(floor: Floor) -> None:
    await floor.sql(
        "INSERT INTO rate_limits (key, count, expires_at) SELECT 'name ' || n, 1, now() - interval '1 second'"
        " FROM generate_series(1, 1500) n"
    )
    await floor.sql("INSERT INTO rate_limits (key, count, expires_at) VALUES ('fresh', 1, now() + interval '1 hour')")
    async with asyncio.timeout(45):
        while len(rows := await floor.sql("SELECT key FROM rate_limits")) > 1:
            await asyncio.sleep(0.05)
    assert [row["key"] for row in rows] == ["fresh"]


async def test_many_right_logins_do_not_use_up_an_address(floor: Floor) -> None:
    await account(floor, "alice")
    for _ in range(3):
        await floor.service.login("alice", PASSWORD, address="127.0.0.1")
    (row,) = await floor.sql("SELECT coalesce(sum(count), 0) AS count FROM rate_limits")
    assert row["count"] == 0


class Guests:
    """A ProfileDirectory for whom everybody is a guest."""

    async def profile(self, team: str, user: str) -> ChatProfile:
        return ChatProfile(display_name=user, email=None, is_guest=True, is_bot=False, deleted=False)


def thread(ts: str) -> dict[str, Any]:
    return {"session": ThreadKey("T0TEAM", "C0OPS", ts), "address": Address("test", {})}


async def test_someone_of_another_workspace_chats_without_leave(dsn: str) -> None:
    async with running(dsn) as floor:
        with pytest.raises(OutsidersMayNotChat):
            await floor.service.submit_message(
                text="hello", by=ChatUser("T0TEAM", "U7OUT", external=True), **thread("1.1")
            )
        assert await floor.sql("SELECT 1 FROM turns") == []


async def test_a_guest_whom_nobody_has_looked_up_yet_chats_without_leave(dsn: str) -> None:
    async with running(dsn, profiles=Guests()) as floor:
        sent = await floor.service.submit_message(text='{{tool uptime {"service": "db"}}}', by=CAROL, **thread("1.1"))
        done = await floor.done(sent.turn.turn_id)
        assert done.turn.status is TurnStatus.FAILED
        assert "Guests" in done.turn.error
        assert floor.tools.effects == []


async def test_guests_chat_where_the_operator_lets_them(dsn: str) -> None:
    async with running(dsn, profiles=Guests(), outsiders_may_chat=True) as floor:
        sent = await floor.service.submit_message(text="hello", by=CAROL, **thread("1.1"))
        assert (await floor.done(sent.turn.turn_id)).turn.reply == "answer 1: hello"


@pytest.mark.parametrize("tightened", [{"quorum": 2}, {"four_eyes": True}])
async def test_a_requester_approves_alone_after_policy_asked_for_more(floor: Floor, tightened: dict[str, Any]) -> None:
    tool = floor.tools["restart"].spec.tool_id
    bob = await account(floor, "bob", Role.APPROVER)
    session_id = await floor.session(bob)
    asked = await floor.say(session_id, RESTART, by=bob)
    await floor.service.set_tool_approval(tool, asking(**tightened), by=ADMIN)
    await floor.decide(asked.pending_approvals[0], by=bob)
    await floor.done(asked.turn.turn_id)
    assert floor.tools.ran("restart") == []


async def test_a_vote_counts_for_arguments_that_its_voter_never_saw(floor: Floor) -> None:
    tool = floor.tools["restart"].spec.tool_id
    await floor.service.set_tool_approval(tool, asking(quorum=2), by=ADMIN)
    one, other = await account(floor, "one", Role.APPROVER), await account(floor, "other", Role.APPROVER)
    (shown,) = (await floor.say(await floor.session(), RESTART)).pending_approvals
    await floor.decide(shown, by=one, args={"service": "prod-db"})
    with pytest.raises(ChangedMeanwhile):
        await floor.decide(shown, by=other, expected_digest=shown.args_digest)
    assert floor.tools.ran("restart") == []


async def test_a_cancelled_approval_and_a_lost_call_leave_no_trace_in_the_log(floor: Floor) -> None:
    await floor.service.set_tool_approval(
        floor.tools["slow"].spec.tool_id, Rule(auto_execute=True, approval_required=False), by=ADMIN
    )
    session_id = await floor.session()
    sent = await floor.service.submit_message(
        session_id, '{{tool restart {"service": "a"}}} {{tool slow {"service": "b"}}}', by=ADMIN
    )
    await asyncio.wait_for(floor.tools.entered.wait(), 45)
    async with asyncio.timeout(45):
        while not await floor.sql("SELECT 1 FROM approvals"):
            await asyncio.sleep(0.02)
    await floor.service.cancel_turn(session_id, by=ADMIN)
    await floor.done(sent.turn.turn_id)
    entries = (await floor.service.read_audit(by=ADMIN)).items
    assert "cancelled" in [entry.data.get("status") for entry in entries if entry.kind == "approval.settled"]
    (lost,) = [entry for entry in entries if entry.kind == "execution.finished"]
    assert lost.data["status"] == "outcome_unknown"
    resolvable = await floor.service.read_approval(lost.subject, by=ADMIN)
    assert (resolvable.status, resolvable.execution, resolvable.reason) == ("approved", "outcome_unknown", "policy")
    assert (await floor.service.verify_audit(by=ADMIN)).ok


async def test_one_idempotency_key_serves_two_different_requests(floor: Floor) -> None:
    tool = floor.tools["restart"].spec.tool_id
    first = await floor.service.ask_approval(
        tool, {"service": "web"}, by=ADMIN, reason="one", idempotency_key="rest:ask:1"
    )
    again = await floor.service.ask_approval(
        tool, {"service": "web"}, by=ADMIN, reason="one", idempotency_key="rest:ask:1"
    )
    assert again.approval_id == first.approval_id
    for other in ({"reason": "other"}, {"reason": "one", "session_id": await floor.session()}):
        with pytest.raises(IdempotencyKeyReused):
            await floor.service.ask_approval(tool, {"service": "web"}, by=ADMIN, idempotency_key="rest:ask:1", **other)


async def test_a_member_whom_one_rule_names_cannot_see_what_waits_for_them(floor: Floor) -> None:
    member, stranger = await account(floor, "member"), await account(floor, "stranger")
    tool = floor.tools["restart"].spec.tool_id
    await floor.service.set_tool_approval(tool, asking(approvers=("Member",)), by=ADMIN)
    (waits,) = (await floor.say(await floor.session(), RESTART)).pending_approvals
    assert [a.approval_id for a in (await floor.service.list_approvals(by=member)).items] == [waits.approval_id]
    assert (await floor.service.list_approvals(by=stranger)).items == []


async def test_whoever_asked_in_somebodys_thread_cannot_stop_their_own_turn(dsn: str) -> None:
    async with running(dsn) as floor:
        await floor.service.submit_message(text="hello", by=ALICE, **thread("1.1"))
        sent = await floor.service.submit_message(text=RESTART, by=CAROL, **thread("1.1"))
        await floor.parked(sent.turn.turn_id, 1)
        carol = await floor.service.principal_of_chat(CAROL)
        await floor.service.cancel_turn(ThreadKey("T0TEAM", "C0OPS", "1.1").session_id, by=carol)
        assert (await floor.done(sent.turn.turn_id)).turn.status is TurnStatus.CANCELLED


async def test_a_tokens_name_forges_a_row_of_the_list(floor: Floor) -> None:
    with pytest.raises(BadTokenName):
        await floor.service.create_token(by=ADMIN, name="a\nb", scopes=("read",), role=Role.MEMBER, expires_in_days=1)
