"""Ways to have a grant spare more than its giver could spare: each test is named by its attack or accident."""

import asyncio
from typing import Any

import pytest

from agent import accounts, audit, pins, sessions
from agent.approvals import grants
from agent.approvals.grants import GrantRefused, Remember, Scope
from agent.approvals.policy import Rule
from agent.approvals.types import Action, ApprovalStatus, OwnRequest
from agent.audit import Kind
from agent.types import ChatUser, Role
from tests.integration.conftest import ADMIN, ALICE, BOB
from tests.integration.test_approvals import RESTART, Still
from tests.integration.test_grants import ANY_SERVICE, HOUR, OTHER, again, granted, only_grant, still
from tests.integration.test_resolutions import resolve, unknown

__all__ = ["still"]


async def somebody_waits(still: Still) -> None:
    """Return once a transaction of this database waits for another one's lock."""
    async with asyncio.timeout(45):
        while not await still.floor.sql(
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ):
            await asyncio.sleep(0.02)


async def test_the_server_moves_to_another_address_under_the_same_schema(still: Still) -> None:
    await granted(still)
    tool = still.floor.tools["restart"].spec
    async with still.floor.core.database.transaction() as tx:
        await tx.execute(pins.sql.accept_first, tool.tool_id, "moved", tool.schema_hash, {}, ADMIN.user_id)
        await tx.execute("UPDATE tool_pins SET accepted_at = now() - interval '1 day'")
    assert await again(still) is None
    await still.floor.sql(pins.sql.accept_anew, "moved", ADMIN.user_id)
    assert await again(still) is not None


async def test_an_admin_who_widened_it_is_one_no_more(still: Still) -> None:
    ann = await still.floor.user("ann", Role.ADMIN)
    await granted(still, ann, args=ANY_SERVICE)
    assert await again(still, OTHER) is None
    await still.floor.sql("UPDATE users SET role = 'approver' WHERE user_id = $1", ann.user_id)
    assert await again(still, OTHER) is not None
    assert await again(still, RESTART) is None


@pytest.mark.parametrize(
    "args",
    [
        {"$ref": "#/$defs/any", "$defs": {"any": {}}},
        {"properties": {"service": {"$ref": "#/$defs/any"}}, "$defs": {"any": {"type": "string"}}},
    ],
    ids=["at the top", "below"],
)
async def test_a_narrowing_schema_that_would_not_be_one_beside_the_arguments(still: Still, args: Any) -> None:
    asked = await still.ask()
    with pytest.raises(GrantRefused, match="write the part out"):
        await still.floor.decide(asked, by=BOB, remember=Remember(Scope.THREAD, HOUR, args))
    assert (await still.service.read_approval(asked.approval_id, by=ADMIN)).status is ApprovalStatus.PENDING


@pytest.mark.parametrize(
    "args", [{"maxProperties": 2**53 + 1}, {"title": "\ud800"}], ids=["a number", "half a character"]
)
@pytest.mark.parametrize("by", [ADMIN, BOB], ids=["admin", "approver"])
async def test_a_schema_that_no_canonical_json_can_hold(still: Still, args: Any, by: Any) -> None:
    asked = await still.ask()
    with pytest.raises(GrantRefused, match=r"^remember\.args"):
        await still.floor.decide(asked, by=by, remember=Remember(Scope.THREAD, HOUR, args))


async def test_two_threads_use_one_grant_at_one_instant(still: Still) -> None:
    ann = await still.floor.user("ann", Role.APPROVER)
    await granted(still, ann, asked_by=ann, scope=Scope.ME)
    grant = await only_grant(still)
    async with still.floor.core.database.transaction() as tx:
        key: dict[str, Any] = {"requester": ann.user_id, "tool_id": grant.tool_id, "schema_hash": grant.schema_hash}
        await grants.covering(tx, {"service": "web"}, session_id=still.session_id, max_age_s=HOUR, **key)
        other = asyncio.create_task(again(still, by=ann, session_id=await still.floor.session(ann)))
        await somebody_waits(still)
        await tx.execute(grants.sql.use, grant.grant_id, grant.approval_id)
    assert await other is None
    assert (await only_grant(still)).uses == 2


async def test_an_admin_changes_the_requester_while_their_call_is_remembered(still: Still) -> None:
    """All writers take the audit's lock last: one that has it must not want another's row any more."""
    ann = await still.floor.user("ann")
    asked = await still.ask(by=ann)
    async with still.floor.core.database.transaction() as tx:
        await tx.fetchrow(accounts.sql.lock, ann.user_id)
        deciding = asyncio.create_task(still.floor.decide(asked, by=BOB, remember=Remember(Scope.THREAD, HOUR)))
        await somebody_waits(still)
        await audit.record(tx, Kind.USER_CHANGED, actor=ADMIN.user_id, subject=ann.user_id, data={})
    assert (await deciding).status is ApprovalStatus.APPROVED


@pytest.mark.parametrize("action", list(Action))
async def test_the_requester_links_their_account_and_resolves_their_own_under_four_eyes(
    still: Still, action: Action
) -> None:
    await still.rule(Rule(auto_execute=False, approval_required=True, four_eyes=True))
    approval = await unknown(still, by=ALICE)
    ann = await still.floor.user("ann", Role.APPROVER)
    await still.service.link_account(ann.user_id, "U1ALICE", by=ADMIN)
    with pytest.raises(OwnRequest):
        await resolve(still, approval, action, by=ann)


async def test_what_was_approved_before_the_requester_linked_their_account_still_runs(still: Still) -> None:
    approval = await still.ask(by=ALICE)
    await still.floor.decide(approval, by=BOB)
    ann = await still.floor.user("ann")
    await still.service.link_account(ann.user_id, "U1ALICE", by=ADMIN)
    await still.finished(approval)
    assert still.ran == ["web"]


async def test_a_chat_user_is_linked_while_somebody_decides_in_their_thread(still: Still) -> None:
    """Threads are locked before people: who decides has the thread, and refers to people."""
    await still.ask(by=ALICE)
    alice = await still.service.principal_of_chat(ALICE)
    ann = await still.floor.user("ann")
    async with still.floor.core.database.transaction() as tx:
        await sessions.lock(tx, still.session_id)
        linking = asyncio.create_task(still.service.link_account(ann.user_id, "U1ALICE", by=ADMIN))
        await somebody_waits(still)
        await tx.execute("SELECT 1 FROM users WHERE user_id = $1 FOR KEY SHARE", alice.user_id)
    assert (await linking).slack_user_id == "U1ALICE"


async def test_a_grant_for_a_guest_spares_nothing_that_guests_may_not_ask_for(still: Still) -> None:
    await granted(still, asked_by=ALICE)
    await still.floor.sql("UPDATE users SET external = true WHERE slack_user_id = 'U1ALICE'")
    with pytest.raises(Exception, match="Guests"):
        await again(still, by=ChatUser("T0TEAM", "U1ALICE", external=True))
    assert len(still.ran) == 1


async def test_one_person_under_two_names_is_one_vote(still: Still) -> None:
    await still.rule(Rule(auto_execute=False, approval_required=True, quorum=2))
    approval = await still.ask()
    await still.floor.decide(approval, by=BOB)
    account = await still.floor.user("robert", Role.APPROVER)
    await still.service.link_account(account.user_id, "U2BOB", by=ADMIN)
    voted = await still.floor.decide(approval, by=account)
    assert voted.status is ApprovalStatus.PENDING
    assert [vote.by.username for vote in voted.votes] == ["robert"]


async def test_a_thread_that_was_cleared_asks_anew(still: Still) -> None:
    await granted(still)
    assert await again(still) is None
    await still.service.clear_messages(still.session_id, by=ADMIN)
    assert await again(still) is not None
