"""Ways around the rules: each test is named by its attack, and ends with what did not run."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from agent.approvals.policy import Rule, When
from agent.approvals.types import (
    AlreadySettled,
    Approval,
    ApprovalExpired,
    ApprovalStatus,
    Decision,
    Door,
    FreshLoginNeeded,
    NotAnApprover,
    WrongDoor,
)
from agent.errors import Invalid
from agent.ports import ChatProfile
from agent.tokens import Signer
from agent.toolbox import ToolPatch
from agent.types import ChatUser, Role
from tests.fakes.rest import API_KEY, OPERATOR, bearer, client_of, door_over
from tests.integration.conftest import ADMIN, BOB, CAROL, running
from tests.integration.test_approvals import ASKS, AUTO, DENIED, Groups, Still
from tests.integration.test_rest import called, person

CHANNEL = "channel:C0OPS"
KEY = "obviously-fake-signing-key-of-the-policy-attacks"
CONSOLE = {"X-Requested-With": "opsagent"}
DAVE = ChatUser("T0TEAM", "U4DAVE")


class Profiles:
    """Everybody is a member, but for those who are named."""

    def __init__(self, **guests: str) -> None:
        self.guests = guests

    async def profile(self, team: str, user: str) -> ChatProfile:
        kind = self.guests.get(user)
        return ChatProfile(user, None, is_guest=kind == "guest", is_bot=kind == "bot", deleted=kind == "deleted")


@pytest.fixture
async def still(dsn: str) -> AsyncIterator[Still]:
    groups = Groups()
    groups.members_of[CHANNEL] = ["U3CAROL", "U4DAVE", "U5GUEST", "U6BOT"]
    profiles = Profiles(U5GUEST="guest", U6BOT="bot")
    async with running(dsn, work=False, groups=groups, profiles=profiles, signing_keys=(KEY,)) as floor:
        yield Still(floor, groups)


@pytest.fixture
async def api(still: Still) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(door_over(still.service)) as client:
        yield client


def asking(**terms: Any) -> Rule:
    return Rule(auto_execute=False, approval_required=True, **terms)


async def voided(still: Still, approval: Approval, why: str) -> None:
    after, _ = await still.finished(approval)
    assert after.status is ApprovalStatus.CANCELLED
    assert why in (after.reason or "")
    assert still.ran == []


# Row 10: the policy flips while a call waits ----------------------------------------------------------------------


@pytest.mark.parametrize("flip_first", [True, False])
async def test_a_rejected_call_runs_because_policy_allows_it_meanwhile(still: Still, flip_first: bool) -> None:
    approval = await still.ask()
    if flip_first:
        await still.rule(AUTO)
    await still.floor.decide(approval, Decision.REJECT)
    await still.rule(AUTO)
    after, _ = await still.finished(approval)
    assert after.status is ApprovalStatus.REJECTED
    assert still.ran == []


async def test_a_waiting_call_runs_undecided_because_policy_allows_it_meanwhile(still: Still) -> None:
    approval = await still.ask()
    await still.rule(AUTO)
    await still.advance()
    assert (await still.service.read_approval(approval.approval_id, by=ADMIN)).status is ApprovalStatus.PENDING
    assert still.ran == []


@pytest.mark.parametrize("when", [(), (When({"properties": {"service": {"const": "web"}}}, "deny"),)])
async def test_an_approved_call_runs_though_policy_denies_it_by_now(still: Still, when: tuple[When, ...]) -> None:
    approval = await still.ask()
    await still.floor.decide(approval)
    await still.rule(asking(when=when) if when else DENIED)
    await voided(still, approval, "Policy denies")


async def test_a_call_that_policy_released_runs_after_policy_asks_again(still: Still) -> None:
    await still.rule(AUTO)
    tool = still.floor.tools["restart"].spec.tool_id
    approval = await still.service.ask_approval(tool, {"service": "web"}, by=ADMIN)
    still.session_id = approval.session_id
    await still.rule(ASKS)
    await voided(still, approval, "Policy asks")


async def test_deleting_the_row_that_tightened_releases_what_waits(still: Still) -> None:
    await still.rule(ASKS)
    approval = await still.ask()
    await still.rule(AUTO)
    (row,) = (await still.service.list_policies(by=ADMIN)).items
    await still.service.delete_policy(row.policy_id, by=ADMIN)
    await still.advance()
    assert still.ran == []
    await still.floor.decide(approval)
    await still.finished(approval)
    assert still.ran == ["web"]


# Row 11: approving what is over -----------------------------------------------------------------------------------


async def test_approving_after_the_expiry(still: Still) -> None:
    approval = await still.ask()
    await still.floor.sql("UPDATE approvals SET expires_at = now() - interval '1 second'")
    with pytest.raises(ApprovalExpired):
        await still.floor.decide(approval)
    assert still.ran == []


async def test_approving_after_the_turn_was_cancelled(still: Still) -> None:
    approval = await still.ask()
    await still.service.cancel_turn(still.session_id, by=ADMIN)
    await still.advance()
    with pytest.raises(AlreadySettled, match="cancelled"):
        await still.floor.decide(approval)
    assert still.ran == []


async def test_approving_after_the_tool_was_disabled(still: Still) -> None:
    approval = await still.ask()
    tool = still.floor.tools["restart"].spec.tool_id
    await still.service.update_tool(tool, ToolPatch(enabled=False), by=ADMIN)
    await still.floor.decide(approval)
    await voided(still, approval, "switched off")


# Row 20: conditions that cost -------------------------------------------------------------------------------------


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"properties": {"a": schema}}
    return schema


DOUBLING = {
    "$ref": "#/$defs/a0",
    "$defs": {f"a{i}": {"allOf": [{"$ref": f"#/$defs/a{i + 1}"}] * 2} for i in range(12)} | {"a12": {}},
}
COSTLY = {
    "a remote reference": {"$ref": "https://evil.example/schema.json"},
    "another kind of schema": {"$schema": "https://evil.example/meta.json"},
    "a file": {"$ref": "file:///etc/passwd"},
    "another base": {"$id": "https://evil.example/", "$ref": "#/$defs/a", "$defs": {"a": {}}},
    "a dynamic reference": {"$dynamicRef": "#a"},
    "itself": {"anyOf": [{"properties": {"a": {"$ref": "#"}}}, {"properties": {"b": {"$ref": "#"}}}]},
    "references that double": DOUBLING,
    "a look-ahead": {"properties": {"service": {"pattern": "^(?=(a+)+$)"}}},
    "a back-reference": {"properties": {"service": {"pattern": r"^(a+)\1$"}}},
    "a huge pattern": {"properties": {"service": {"pattern": "((a{100}){100}){10}"}}},
    "a huge schema": {"enum": ["x" * 70_000]},
    "many parts": {"enum": list(range(6_000))},
    "a deep schema": nested(40),
    "no schema": {"type": "nonsense"},
}


@pytest.mark.parametrize("name", COSTLY)
@pytest.mark.parametrize("by_admin", [True, False])
async def test_a_condition_that_holds_up_every_call(still: Still, name: str, by_admin: bool) -> None:
    """Members write conditions too, on their own rows; all of them run on the event loop."""
    mia = await still.floor.user("mia")
    tool = still.floor.tools["restart"].spec.tool_id
    with pytest.raises(Invalid) as refused:
        await still.service.set_tool_approval(
            tool,
            asking(when=(When(COSTLY[name], "deny"),)),
            by=ADMIN if by_admin else mia,
            user_id=None if by_admin else mia.user_id,
        )
    assert refused.value.message.startswith(("when[0].args is", "The conditions have"))
    assert refused.value.message.endswith(".")
    assert await still.floor.sql("SELECT 1 FROM tool_approval_config") == []


async def test_a_pattern_that_backtracks_elsewhere_is_matched_in_linear_time(still: Still) -> None:
    await still.rule(asking(when=(When({"properties": {"service": {"pattern": "^(a+)+$"}}}, "deny"),)))
    tool = still.floor.tools["restart"].spec.tool_id
    found = await still.service.simulate_policy({"service": "a" * 5_000 + "!"}, by=ADMIN, tool_id=tool)
    assert found.ruling.verdict == "ask"


async def test_more_conditions_than_a_rule_takes(still: Still) -> None:
    with pytest.raises(Invalid, match="200 conditions"):
        await still.rule(asking(when=(When({}, "ask"),) * 201))


async def test_a_schema_nested_beyond_what_a_body_may_be(api: httpx.AsyncClient, still: Still) -> None:
    tool = still.floor.tools["restart"].spec.tool_id
    deep = '{"properties":{"a":' * 3_000 + "{}" + "}}" * 3_000
    body = f'{{"auto_execute":false,"approval_required":true,"when":[{{"args":{deep},"decision":"auto"}}]}}'
    answer = await api.put(
        f"/api/tools/{tool}/approval", content=body, headers={**OPERATOR, "Content-Type": "application/json"}
    )
    assert 400 <= answer.status_code < 500
    assert await still.floor.sql("SELECT 1 FROM tool_approval_config") == []


# Row 35: widening -------------------------------------------------------------------------------------------------


async def test_an_approved_call_is_asked_for_again_with_one_argument_more(still: Still) -> None:
    """Neither an approval nor a condition covers arguments that nobody wrote down."""
    narrow = {
        "properties": {"service": {"const": "web"}},
        "required": ["service"],
        "additionalProperties": False,
    }
    await still.rule(asking(when=(When(narrow, "auto"),)))
    tool = still.floor.tools["restart"].spec.tool_id
    exact = await still.service.simulate_policy({"service": "web"}, by=ADMIN, tool_id=tool)
    wider = await still.service.simulate_policy({"service": "web", "reason": "--all"}, by=ADMIN, tool_id=tool)
    assert (exact.ruling.verdict, wider.ruling.verdict) == ("auto", "ask")
    first = await still.ask('{{tool restart {"service": "web", "reason": "one"}}}')
    await still.floor.decide(first)
    await still.finished(first)
    second = await still.ask('{{tool restart {"service": "web", "reason": "one --all"}}}')
    assert second.status is ApprovalStatus.PENDING
    assert still.ran == ["web"]


async def test_editing_the_arguments_into_what_policy_denies(still: Still) -> None:
    await still.rule(asking(when=(When({"properties": {"service": {"const": "db"}}}, "deny"),)))
    approval = await still.ask()
    with pytest.raises(Exception, match="Policy denies"):
        await still.floor.decide(approval, args={"service": "db"})
    assert still.ran == []


# Doors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("door", [Door.SLACK, Door.API, Door.CLI, None])
async def test_approving_through_a_door_that_the_rule_does_not_name(still: Still, door: Door | None) -> None:
    await still.rule(asking(doors=(Door.WEB,), approvers=("U2BOB",)))
    approval = await still.ask()
    by = BOB if door is Door.SLACK else ADMIN
    with pytest.raises(WrongDoor, match="only in the web console"):
        await still.floor.decide(approval, by=by, door=door)
    assert (await still.service.read_approval(approval.approval_id, by=ADMIN)).votes == ()
    rejected = await still.floor.decide(approval, Decision.REJECT, by=by, door=door)
    assert rejected.status is ApprovalStatus.REJECTED


async def test_a_stranger_learns_from_the_wrong_door_where_to_go(still: Still) -> None:
    await still.rule(asking(doors=(Door.WEB,), approvers=("U2BOB",)))
    approval = await still.ask()
    with pytest.raises(NotAnApprover):
        await still.floor.decide(approval, by=CAROL, door=Door.SLACK)


async def test_an_api_key_a_service_token_and_a_stale_login_pass_for_a_fresh_one(
    api: httpx.AsyncClient, still: Still
) -> None:
    await still.rule(asking(fresh_login_s=300))
    made, fresh = await person(api, "alice", "approver")
    _, secret = await still.service.create_token(
        by=ADMIN, name="ci", scopes=("approve",), role=Role.ADMIN, expires_in_days=1
    )
    signer, now = Signer((KEY,)), datetime.now(UTC)
    stale = signer.sign(made["user_id"], 0, now=now - timedelta(minutes=20))
    where = f"/api/approvals/{(await still.ask()).approval_id}/approve"
    for credential in (API_KEY, secret, stale):
        refused = await called(api, "POST", where, expect=403, **bearer(credential))
        assert refused["code"] == "fresh_login_needed"
        assert "username and password within the last 5 minutes" in refused["detail"]
    assert (await called(api, "POST", where, **fresh))["status"] == "approved"


async def test_a_login_in_the_middle_of_a_quorum_covers_the_others(api: httpx.AsyncClient, still: Still) -> None:
    await still.rule(asking(fresh_login_s=300, quorum=2))
    _, alice = await person(api, "alice", "approver")
    where = f"/api/approvals/{(await still.ask()).approval_id}/approve"
    assert (await called(api, "POST", where, **alice))["status"] == "pending"
    assert (await called(api, "POST", where, expect=403, **OPERATOR))["code"] == "fresh_login_needed"


async def test_a_token_without_the_console_passes_for_the_console(api: httpx.AsyncClient, still: Still) -> None:
    await still.rule(asking(doors=(Door.WEB,), fresh_login_s=300))
    _, alice = await person(api, "alice", "approver")
    where = f"/api/approvals/{(await still.ask()).approval_id}/approve"
    tries = [alice, {**alice, **CONSOLE}, {**alice, **CONSOLE, "Cookie": "opsagent_console=v1.9999999999.x.y"}]
    for headers in tries:
        assert (await called(api, "POST", where, expect=403, **headers))["code"] == "wrong_door"
    login = await api.post("/console/login", json={"api_key": API_KEY}, headers=CONSOLE)
    assert login.status_code == 204
    assert (await called(api, "POST", where, expect=403, **alice))["code"] == "wrong_door"
    assert (await called(api, "POST", where, expect=403, **CONSOLE))["code"] == "fresh_login_needed"
    assert (await called(api, "POST", where, **alice, **CONSOLE))["status"] == "approved"
    after = await still.service.read_approval(where.split("/")[3], by=ADMIN)
    assert [(vote.by.username, vote.door) for vote in after.votes] == [("alice", Door.WEB)]


@pytest.mark.parametrize("tightened", [{"doors": (Door.WEB,)}, {"fresh_login_s": 60}])
async def test_a_vote_counts_though_its_door_was_closed_before_the_call_ran(
    still: Still, tightened: dict[str, Any]
) -> None:
    approval = await still.ask()
    login = datetime.now(UTC) - timedelta(minutes=10)
    settled = await still.floor.decide(approval, door=Door.API, login_at=login)
    assert settled.status is ApprovalStatus.APPROVED
    await still.rule(asking(**tightened))
    await voided(still, approval, "may be approved only")


async def test_a_door_that_is_opened_later_saves_a_vote_that_was_closed_out(still: Still) -> None:
    await still.rule(asking(doors=(Door.WEB,)))
    approval = await still.ask()
    await still.rule(ASKS)
    with pytest.raises(WrongDoor):
        await still.floor.decide(approval, door=Door.API)
    await still.floor.sql("UPDATE approvals SET status = 'approved', decided_by = $1", ADMIN.user_id)
    await voided(still, approval, "not run")


async def test_a_password_that_was_fresh_at_the_vote_still_counts_when_the_call_runs_late(still: Still) -> None:
    await still.rule(asking(doors=(Door.WEB,), fresh_login_s=60))
    approval = await still.ask()
    await still.floor.decide(approval, door=Door.WEB, login_at=datetime.now(UTC))
    await still.floor.sql("UPDATE votes SET at = at - interval '1 hour', login_at = login_at - interval '1 hour'")
    await still.finished(approval)
    assert still.ran == ["web"]


async def test_a_user_opens_a_door_for_themselves(still: Still) -> None:
    tool = still.floor.tools["restart"].spec.tool_id
    await still.rule(asking(doors=(Door.WEB,), fresh_login_s=60))
    mia = await still.floor.user("mia")
    mine = asking(doors=(Door.WEB, Door.SLACK), fresh_login_s=3600)
    await still.service.set_tool_approval(tool, mine, by=mia, user_id=mia.user_id)
    approval = await still.ask(by=mia)
    assert (approval.doors, approval.fresh_login_s) == ((Door.WEB,), 60)
    with pytest.raises(FreshLoginNeeded):
        await still.floor.decide(approval, door=Door.WEB, login_at=datetime.now(UTC) - timedelta(minutes=30))


# Members of a channel ---------------------------------------------------------------------------------------------


async def test_someone_outside_the_channel_decides(still: Still) -> None:
    await still.rule(asking(approvers=(CHANNEL,)))
    approval = await still.ask()
    with pytest.raises(NotAnApprover):
        await still.floor.decide(approval, by=BOB, door=Door.SLACK)
    assert (await still.floor.decide(approval, by=CAROL, door=Door.SLACK)).status is ApprovalStatus.APPROVED
    await still.finished(approval)
    assert still.ran == ["web"]


@pytest.mark.parametrize("user", ["U5GUEST", "U6BOT"])
async def test_a_guest_or_a_bot_in_the_channel_decides(still: Still, user: str) -> None:
    await still.rule(asking(approvers=(CHANNEL,)))
    approval = await still.ask()
    with pytest.raises(NotAnApprover):
        await still.floor.decide(approval, by=ChatUser("T0TEAM", user), door=Door.SLACK)


async def test_someone_of_another_workspace_in_the_channel_decides(still: Still) -> None:
    await still.rule(asking(approvers=(CHANNEL,)))
    approval = await still.ask()
    with pytest.raises(NotAnApprover):
        await still.floor.decide(approval, by=ChatUser("T0TEAM", "U3CAROL", external=True), door=Door.SLACK)


async def test_someone_leaves_the_channel_between_the_click_and_the_run(still: Still) -> None:
    await still.rule(asking(approvers=(CHANNEL,)))
    approval = await still.ask()
    await still.floor.decide(approval, by=CAROL, door=Door.SLACK)
    still.groups.members_of[CHANNEL] = ["U4DAVE"]
    await still.floor.sql("UPDATE usergroups SET fetched_at = fetched_at - interval '61 seconds'")
    await voided(still, approval, "may not decide it any more")


async def test_someone_who_left_the_channel_a_minute_ago_still_decides(still: Still) -> None:
    await still.rule(asking(approvers=(CHANNEL,)))
    first = await still.ask()
    await still.floor.decide(first, by=CAROL, door=Door.SLACK)
    await still.finished(first)
    still.groups.members_of[CHANNEL] = ["U4DAVE"]
    await still.floor.sql("UPDATE usergroups SET fetched_at = fetched_at - interval '61 seconds'")
    second = await still.ask()
    with pytest.raises(NotAnApprover):
        await still.floor.decide(second, by=CAROL, door=Door.SLACK)


@pytest.mark.parametrize("at_the_run", [False, True])
async def test_a_channel_that_cannot_be_asked_lets_everybody_in(still: Still, at_the_run: bool) -> None:
    await still.rule(asking(approvers=(CHANNEL,)))
    approval = await still.ask()
    if not at_the_run:
        still.groups.down = True
        with pytest.raises(NotAnApprover, match="can't be asked"):
            await still.floor.decide(approval, by=DAVE, door=Door.SLACK)
        assert still.ran == []
        return
    await still.floor.decide(approval, by=DAVE, door=Door.SLACK)
    still.groups.down = True
    await still.floor.sql("UPDATE usergroups SET fetched_at = fetched_at - interval '61 seconds'")
    await voided(still, approval, "may not decide it any more")


@pytest.mark.parametrize("entry", ["channel:", "channel:general", "channel:#ops", "channel:U1ALICE", "channel:C0ops"])
async def test_a_channel_by_a_name_that_anybody_can_take(still: Still, entry: str) -> None:
    with pytest.raises(Invalid, match="is no channel"):
        await still.rule(asking(approvers=(entry,)))


# Asking what policy would say -------------------------------------------------------------------------------------


async def test_a_member_reads_others_rules_through_the_simulator(api: httpx.AsyncClient, still: Still) -> None:
    alice, mallory = await person(api, "alice"), await person(api, "mallory")
    asked = {"tool_name": "restart", "args": {"service": "web"}}
    for whose in ({"user_id": alice[0]["user_id"]}, {"username": "alice"}, {"username": "nobody"}):
        refused = await called(api, "POST", "/api/policies/simulate", {**asked, **whose}, expect=403, **mallory[1])
        assert refused["code"] == "policy_not_yours"
    for method, path in (("GET", "/api/policies"), ("DELETE", f"/api/policies/{alice[0]['user_id']}")):
        assert (await called(api, method, path, expect=403, **mallory[1]))["code"] == "admins_only"


async def test_the_simulator_leaves_something_behind(still: Still) -> None:
    tables = "approvals", "turns", "user_sessions", "audit_log", "tool_approval_config", "events", "executions"
    count = "SELECT " + ", ".join(f"(SELECT count(*) FROM {table})" for table in tables)
    before = await still.floor.sql(count)
    await still.service.simulate_policy({"service": "web"}, by=ADMIN, tool_name="restart")
    assert await still.floor.sql(count) == before
    assert still.ran == []
