"""Approvals that spare later ones: whose calls, which arguments, until when, and what ends them."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest
import rfc8785

from agent.approvals import grants, store
from agent.approvals.grants import GrantNotFound, GrantRefused, Remember, Scope
from agent.approvals.policy import Rule
from agent.approvals.types import Approval, ApprovalStatus
from agent.remembering import AlreadyRevoked
from agent.types import Principal, Role, TurnStatus
from tests.integration.conftest import ADMIN, BOB, CAROL
from tests.integration.test_approvals import ASKS, DENIED, RESTART, Groups, Still, running

HOUR = 3600
OTHER = '{{tool restart {"service": "database"}}}'
ANY_SERVICE = {"type": "object", "properties": {"service": {"type": "string"}}, "additionalProperties": False}


@pytest.fixture
async def still(dsn: str) -> Any:
    groups = Groups()
    async with running(dsn, work=False, approvers=("U2BOB", "S9OPS"), groups=groups) as floor:
        yield Still(floor, groups)


async def granted(still: Still, by: Any = BOB, *, asked_by: Any = ADMIN, **more: Any) -> Approval:
    """Have a call approved and remembered; return its approval once it has run."""
    asked = await still.ask(by=asked_by)
    remember = Remember(**{"scope": Scope.THREAD, "expires_in_s": HOUR, **more})
    settled = await still.floor.decide(asked, by=by, remember=remember)
    await still.finished(settled)
    return settled


async def again(still: Still, text: str = RESTART, *, by: Any = ADMIN, session_id: Any = None) -> Approval | None:
    """Say it again; return the approval that waits, or None where it ran without asking."""
    still.session_id = session_id or still.session_id
    sent = await still.service.submit_message(still.session_id, text, by=by)
    await still.advance()
    view = await still.service.read_turn(still.session_id, sent.turn.turn_id, by=ADMIN)
    if view.turn.status is TurnStatus.COMPLETED:
        return None
    assert view.turn.status is TurnStatus.AWAITING_APPROVAL
    (approval,) = view.pending_approvals
    await still.service.cancel_turn(still.session_id, by=ADMIN)
    await still.advance()
    return approval


async def only_grant(still: Still, by: Principal = ADMIN) -> Any:
    (grant,) = (await still.service.list_grants(by=by)).items
    return grant


async def test_the_same_call_in_the_same_thread_runs_without_asking_again(still: Still) -> None:
    await granted(still)
    assert await again(still) is None
    assert len(still.ran) == 2
    grant = await only_grant(still)
    assert (grant.uses, grant.scope, grant.granted_by.chat_user) == (1, Scope.THREAD, "U2BOB")
    spared = (await still.service.list_approvals(by=ADMIN, status="approved")).items[0]
    assert spared.decided_by.chat_user == "U2BOB"
    assert spared.reason.startswith("Not asked again")
    assert [vote.by.chat_user for vote in spared.votes] == ["U2BOB"]


async def test_other_arguments_another_thread_and_another_person_are_asked_for(still: Still) -> None:
    await granted(still)
    thread = still.session_id
    assert await again(still, OTHER) is not None
    assert await again(still, session_id=await still.floor.session()) is not None
    other = await still.floor.user("olga", Role.ADMIN)
    assert await again(still, by=other, session_id=thread) is not None
    assert len(still.ran) == 1


async def test_for_me_holds_in_every_thread_of_the_requester_and_of_nobody_else(still: Still) -> None:
    ann = await still.floor.user("ann", Role.APPROVER)
    await granted(still, ann, asked_by=ann, scope=Scope.ME)
    assert await again(still, by=ann, session_id=await still.floor.session(ann)) is None
    assert await again(still, session_id=await still.floor.session()) is not None


async def test_for_me_is_refused_for_what_somebody_else_asked_for_and_nothing_is_decided(still: Still) -> None:
    asked = await still.ask()
    with pytest.raises(GrantRefused, match="asked for yourself"):
        await still.floor.decide(asked, by=BOB, remember=Remember(Scope.ME, HOUR))
    assert (await still.service.read_approval(asked.approval_id, by=ADMIN)).status is ApprovalStatus.PENDING


async def test_an_approver_can_only_narrow_and_an_admin_can_widen(still: Still) -> None:
    await granted(still, BOB, args=ANY_SERVICE)
    assert await again(still, OTHER) is not None
    await again(still)
    await granted(still, ADMIN, args=ANY_SERVICE)
    assert await again(still, OTHER) is None


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ({"properties": {"service": {"const": "database"}}}, "does not fit"),
        ({"$ref": "http://127.0.0.1:1/schema"}, "not a JSON Schema"),
        ({"type": 12}, "not a JSON Schema"),
    ],
)
async def test_a_schema_that_is_not_of_this_call_is_refused(still: Still, args: dict[str, Any], why: str) -> None:
    asked = await still.ask()
    with pytest.raises(GrantRefused, match=why):
        await still.floor.decide(asked, by=ADMIN, remember=Remember(Scope.THREAD, HOUR, args))
    assert (await still.service.read_approval(asked.approval_id, by=ADMIN)).status is ApprovalStatus.PENDING


@pytest.mark.parametrize("ceiling", [0, 600])
async def test_an_admin_sets_the_ceiling(still: Still, ceiling: int) -> None:
    await still.rule(Rule(auto_execute=False, approval_required=True, remember_max_s=ceiling))
    asked = await still.ask()
    with pytest.raises(GrantRefused, match="every time" if ceiling == 0 else "600 seconds is the most"):
        await still.floor.decide(asked, by=BOB, remember=Remember(Scope.THREAD, HOUR))


async def test_a_ceiling_lowered_later_ends_what_is_older(still: Still) -> None:
    await granted(still)
    await still.floor.sql("UPDATE approval_grants SET created_at = now() - interval '10 minutes'")
    assert await again(still) is None
    await still.rule(Rule(auto_execute=False, approval_required=True, remember_max_s=60))
    assert await again(still) is not None


async def test_a_call_that_needs_several_approvals_is_never_remembered(still: Still) -> None:
    await still.rule(Rule(auto_execute=False, approval_required=True, quorum=2))
    asked = await still.ask()
    with pytest.raises(GrantRefused, match="more approvals"):
        await still.floor.decide(asked, by=BOB, remember=Remember(Scope.THREAD, HOUR))
    await still.floor.decide(asked, by=BOB)
    with pytest.raises(GrantRefused, match="several approvals every time"):
        await still.floor.decide(asked, by=ADMIN, remember=Remember(Scope.THREAD, HOUR))


# What ends it -------------------------------------------------------------------------------------------------------


async def test_it_ends_when_its_time_is_over(still: Still) -> None:
    await granted(still)
    await still.floor.sql("UPDATE approval_grants SET expires_at = now()")
    assert await again(still) is not None


async def test_it_ends_when_it_is_revoked_and_the_audit_tells_of_all(still: Still) -> None:
    await granted(still)
    grant = await only_grant(still)
    revoked = await still.service.revoke_grant(grant.grant_id, by=ADMIN)
    assert revoked.revoked_at is not None
    with pytest.raises(AlreadyRevoked):
        await still.service.revoke_grant(grant.grant_id, by=ADMIN)
    assert await again(still) is not None
    told = (await still.service.read_audit(by=ADMIN, subject=str(grant.grant_id))).items
    assert [entry.kind for entry in told] == ["grant.revoked", "grant.created"]
    digest = store.digest(rfc8785.dumps(grant.args_schema).decode())
    assert told[1].data["args_schema_digest"] == digest
    (heard,) = await still.floor.sql("SELECT data FROM events WHERE kind = 'grant.revoked'")
    assert heard["data"]["approval_id"] == str(grant.approval_id)  # its card is drawn anew
    assert "web" not in str(told[1].data)  # arguments may hold what must be erasable, and the log is for ever


async def test_only_who_gave_it_or_profits_or_an_admin_sees_and_revokes_it(still: Still) -> None:
    ann = await still.floor.user("ann")
    await granted(still, asked_by=ann)
    grant = await only_grant(still)
    stranger = await still.floor.user("mallory", Role.APPROVER)
    assert (await still.service.list_grants(by=stranger)).items == []
    with pytest.raises(GrantNotFound):
        await still.service.revoke_grant(grant.grant_id, by=stranger)
    with pytest.raises(GrantNotFound):
        await still.service.revoke_grant(uuid4(), by=ADMIN)
    bob = await still.service.principal_of_chat(BOB)
    assert (await only_grant(still, bob)).grant_id == (await only_grant(still, ann)).grant_id
    await still.service.revoke_grant(grant.grant_id, by=ann)


async def test_it_does_not_outlive_the_standing_of_who_gave_it(still: Still) -> None:
    eve = await still.floor.user("eve", Role.APPROVER)
    await granted(still, eve)
    assert await again(still) is None
    await still.floor.sql("UPDATE users SET role = 'member' WHERE user_id = $1", eve.user_id)
    assert await again(still) is not None
    await still.floor.sql("UPDATE users SET role = 'approver', disabled = true WHERE user_id = $1", eve.user_id)
    assert await again(still) is not None


async def test_who_gave_it_by_a_group_must_still_be_in_the_group(still: Still) -> None:
    await granted(still, CAROL)
    await still.floor.sql("UPDATE usergroups SET fetched_at = now() - interval '1 hour'")
    assert await again(still) is None
    still.groups.members_of["S9OPS"] = []
    await still.floor.sql("UPDATE usergroups SET fetched_at = now() - interval '1 hour'")
    assert await again(still) is not None


async def test_policy_that_denies_or_asks_for_more_beats_it(still: Still) -> None:
    await granted(still)
    await still.rule(Rule(auto_execute=False, approval_required=True, quorum=2))
    assert await again(still) is not None
    await still.rule(DENIED)
    assert await again(still) is None
    assert len(still.ran) == 1


async def test_four_eyes_set_later_stops_what_people_spared_themselves(still: Still) -> None:
    ann = await still.floor.user("ann", Role.APPROVER)
    await granted(still, ann, asked_by=ann, scope=Scope.ME)
    await still.rule(Rule(auto_execute=False, approval_required=True, four_eyes=True))
    assert await again(still, by=ann) is not None


async def test_a_tool_that_changed_is_asked_for(still: Still) -> None:
    await granted(still)
    await still.floor.sql("UPDATE approval_grants SET schema_hash = 'of the tool before it changed'")
    assert await again(still) is not None


async def test_revoking_waits_for_a_call_that_is_being_let_through_and_the_next_one_asks(still: Still) -> None:
    """The call holds the grant's row until its claim is written: it is counted before the revocation, or asked for."""
    await granted(still)
    grant = await only_grant(still)
    async with still.floor.core.database.transaction() as tx:
        held = await grants.covering(
            tx,
            {"service": "web"},
            requester=grant.requester.user_id,
            tool_id=grant.tool_id,
            schema_hash=grant.schema_hash,
            session_id=still.session_id,
            max_age_s=HOUR,
        )
        assert [found.grant_id for found in held] == [grant.grant_id]
        revoking = asyncio.create_task(still.service.revoke_grant(grant.grant_id, by=ADMIN))
        await asyncio.sleep(0.2)
        assert not revoking.done()
    await revoking
    await still.rule(ASKS)
    assert await again(still) is not None
