"""The REST door over the real service and a real database: people, tokens, scopes, audit."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from agent.tokens import Signer
from agent.types import Role
from api.quotas import Quotas
from tests.fakes.rest import API_KEY, OPERATOR, bearer, client_of, door_over
from tests.integration.conftest import ADMIN, ALICE, Floor, running
from tests.integration.test_accounts import Letters

NOBODYS = "0b0d5000-0000-4000-8000-000000000000"
"""An id that nothing has; fixed, since test ids must not change from worker to worker."""

PASSWORD = "not-a-real-password-1"


@pytest.fixture
async def api(floor: Floor) -> AsyncIterator[httpx.AsyncClient]:
    """A client that shows nothing by itself."""
    async with client_of(door_over(floor.service)) as client:
        yield client


async def called(
    api: httpx.AsyncClient, method: str, path: str, body: Any = None, *, expect: int = 200, **headers: str
) -> Any:
    """Make a call, hold its status against what is expected, and return its JSON."""
    answer = await api.request(method, path, json=body, headers=headers)
    assert answer.status_code == expect, f"{method} {path}: {answer.status_code} {answer.text}"
    if expect >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
    return answer.json() if answer.content else None


async def person(api: httpx.AsyncClient, name: str, role: str | None = None) -> tuple[dict[str, Any], dict[str, str]]:
    """Make an account; return it, and the headers that say who it is."""
    body = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
    made = await called(api, "POST", "/api/users", body, expect=201, **OPERATOR)
    if role:
        made = await called(api, "PATCH", f"/api/users/{made['user_id']}", {"role": role}, **OPERATOR)
    token = await called(api, "POST", "/api/users/login", {"username": name, "password": PASSWORD})
    assert token["token_type"] == "bearer"
    assert 0 < token["expires_in"] <= 3600
    return made, bearer(token["access_token"])


async def until(api: httpx.AsyncClient, path: str, status: int, **who: str) -> httpx.Response:
    """Ask until the answer has this status: the notification that ends a cached identity takes moments."""
    async with asyncio.timeout(45):
        while (answer := await api.get(path, headers=who)).status_code != status:
            await asyncio.sleep(0.02)
    return answer


async def token(api: httpx.AsyncClient, *scopes: str, role: str = "member", name: str = "ci") -> dict[str, str]:
    made = await called(
        api, "POST", "/api/tokens", {"name": name, "scopes": list(scopes), "role": role}, expect=201, **OPERATOR
    )
    return bearer(made["token"])


# People -----------------------------------------------------------------------------------------------------------


async def test_an_account_is_made_logs_in_and_reads_its_profile(api: httpx.AsyncClient) -> None:
    made, alice = await person(api, "alice")
    assert (made["username"], made["role"], made["disabled"]) == ("alice", "member", False)
    assert "password" not in str(made)
    assert await called(api, "GET", "/api/users/profile", **alice) == made


async def test_the_api_key_has_a_profile_of_its_own(api: httpx.AsyncClient) -> None:
    row = await called(api, "GET", "/api/users/profile", **OPERATOR)
    assert (row["username"], row["role"], row["email"]) == ("api-key", "admin", None)


async def test_a_profile_is_changed_field_by_field(api: httpx.AsyncClient) -> None:
    _, alice = await person(api, "alice")
    changed = await called(api, "PUT", "/api/users/profile", {"display_name": "Alice A."}, **alice)
    assert (changed["display_name"], changed["email"]) == ("Alice A.", "alice@example.com")
    changed = await called(api, "PUT", "/api/users/profile", {"email": "a@example.com"}, **alice)
    assert (changed["display_name"], changed["email"]) == ("Alice A.", "a@example.com")


async def test_a_new_password_takes_the_old_one(api: httpx.AsyncClient) -> None:
    _, alice = await person(api, "alice")
    new = "another-fake-password-2"
    for current in (None, "wrong-password"):
        body = {"password": new, "current_password": current}
        refused = await called(api, "PUT", "/api/users/profile", body, expect=422, **alice)
        assert refused["code"] == "bad_password"
    await called(api, "PUT", "/api/users/profile", {"password": new, "current_password": PASSWORD}, **alice)
    await called(api, "POST", "/api/users/login", {"username": "alice", "password": PASSWORD}, expect=401)
    await called(api, "POST", "/api/users/login", {"username": "alice", "password": new})


async def test_registration_is_closed_unless_it_was_opened(floor: Floor, api: httpx.AsyncClient) -> None:
    body = {"username": "mallory", "email": "m@example.com", "password": PASSWORD}
    await called(api, "POST", "/api/users", body, expect=401)
    _, alice = await person(api, "alice")
    refused = await called(api, "POST", "/api/users", body, expect=403, **alice)
    assert refused["code"] == "registration_closed"
    async with client_of(door_over(floor.service, open_registration=True)) as opened:
        made = await called(opened, "POST", "/api/users", body, expect=201)
        assert made["role"] == "member"
        # Who shows something must be who they say, also where anyone may come.
        await called(opened, "POST", "/api/users", {**body, "username": "m2"}, expect=401, **bearer("nonsense"))


async def test_admins_list_people_page_by_page_and_by_their_slack_id(floor: Floor, api: httpx.AsyncClient) -> None:
    for name in ("alice", "bob", "carol"):
        await person(api, name)
    await floor.service.principal_of_chat(ALICE)
    seen: list[str] = []
    cursor = ""
    while True:
        page = await called(api, "GET", f"/api/users?limit=2{cursor}", **OPERATOR)
        seen += [user["username"] for user in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == ["slack:T0TEAM:U1ALICE", "carol", "bob", "alice", "api-key"]
    found = await called(api, "GET", "/api/users?slack_user_id=U1ALICE", **OPERATOR)
    assert [user["slack_team_id"] for user in found["items"]] == ["T0TEAM"]


async def test_a_disabled_user_and_one_who_logged_out_are_out(floor: Floor, api: httpx.AsyncClient) -> None:
    made, alice = await person(api, "alice")
    _, bob = await person(api, "bob")
    await called(api, "PATCH", f"/api/users/{made['user_id']}", {"disabled": True}, **OPERATOR)
    await called(api, "POST", "/api/users/logout", expect=204, **bob)
    for who in (alice, bob):
        await until(api, "/api/sessions", 401, **who)
    await called(api, "POST", "/api/users/login", {"username": "alice", "password": PASSWORD}, expect=401)


async def test_an_account_is_linked_with_slack_by_a_code_or_by_an_admin(dsn: str) -> None:
    letters = Letters()
    async with AsyncExitStack() as stack:
        floor = await stack.enter_async_context(running(dsn, courier=letters))
        api = await stack.enter_async_context(client_of(door_over(floor.service)))
        _, alice = await person(api, "alice")
        asked = await called(api, "POST", "/api/users/profile/link", {"slack_user_id": "U1ALICE"}, expect=404, **alice)
        assert asked["code"] == "chat_user_not_found"
        await floor.service.principal_of_chat(ALICE)
        body = {"slack_user_id": "U1ALICE"}
        assert await called(api, "POST", "/api/users/profile/link", body, expect=202, **alice) == {"sent": True}
        code = letters.sent[0][2].split()[0]
        wrong = await called(api, "POST", "/api/users/profile/link/confirm", {"code": "WRONG"}, expect=422, **alice)
        assert wrong["code"] == "bad_code"
        linked = await called(api, "POST", "/api/users/profile/link/confirm", {"code": code}, **alice)
        assert linked["slack_user_id"] == "U1ALICE"
        bob, _ = await person(api, "bob")
        taken = await called(api, "POST", f"/api/users/{bob['user_id']}/link", body, expect=409, **OPERATOR)
        assert taken["code"] == "already_linked"


# Programs ---------------------------------------------------------------------------------------------------------


async def test_a_service_token_is_shown_once_listed_without_it_and_revoked(api: httpx.AsyncClient) -> None:
    body = {"name": "ci", "scopes": ["read"], "expires_in_days": 30}
    made = await called(api, "POST", "/api/tokens", body, expect=201, **OPERATOR)
    assert made["token"].startswith("ops_")
    for header in (bearer(made["token"]), {"X-API-Key": made["token"]}):
        assert (await called(api, "GET", "/api/users/profile", **header))["user_id"] == made["user_id"]
    (listed,) = (await called(api, "GET", "/api/tokens", **OPERATOR))["items"]
    assert listed == {key: value for key, value in made.items() if key != "token"}
    await called(api, "DELETE", f"/api/tokens/{made['token_id']}", expect=204, **OPERATOR)
    await until(api, "/api/sessions", 401, **bearer(made["token"]))
    (listed,) = (await called(api, "GET", "/api/tokens", **OPERATOR))["items"]
    assert listed["revoked_at"]


SCOPED = {
    "read": [("GET", "/api/sessions"), ("GET", "/api/approvals"), ("GET", "/api/tools"), ("GET", "/api/users/profile")],
    "chat": [
        ("POST", "/api/sessions"),
        ("DELETE", f"/api/sessions/{NOBODYS}"),
        ("POST", f"/api/sessions/{NOBODYS}/execute"),
        ("POST", f"/api/sessions/{NOBODYS}/cancel"),
        ("DELETE", f"/api/sessions/{NOBODYS}/messages"),
    ],
    "approve": [
        ("POST", "/api/approvals"),
        ("POST", f"/api/approvals/{NOBODYS}/approve"),
        ("POST", f"/api/approvals/{NOBODYS}/reject"),
        ("POST", f"/api/tools/approvals/{NOBODYS}/approve"),
        ("POST", f"/api/tools/approvals/{NOBODYS}/reject"),
    ],
    "admin": [
        ("GET", "/api/users"),
        ("POST", "/api/users"),
        ("PATCH", f"/api/users/{NOBODYS}"),
        ("PUT", "/api/users/profile"),
        ("GET", "/api/tokens"),
        ("POST", "/api/tokens"),
        ("DELETE", f"/api/tokens/{NOBODYS}"),
        ("PUT", f"/api/tools/{NOBODYS}/approval"),
        ("GET", "/api/audit"),
        ("GET", "/api/audit/verify"),
    ],
}


@pytest.mark.parametrize("scope", SCOPED)
async def test_a_token_opens_what_its_scope_says_and_nothing_else(api: httpx.AsyncClient, scope: str) -> None:
    with_it = await token(api, scope, role="admin")
    others = [other for other in SCOPED if other != scope]
    without = await token(api, *others, role="admin", name="others")
    for method, path in SCOPED[scope]:
        assert (await api.request(method, path, headers=with_it)).status_code not in {401, 403}, f"{method} {path}"
        refused = await called(api, method, path, expect=403, **without)
        assert refused["code"] == "scope_missing"
        assert f"'{scope}'" in refused["detail"]


async def test_a_scope_gives_no_more_than_the_role(api: httpx.AsyncClient) -> None:
    member = await token(api, "read", "chat", "approve", "admin")
    for path in ("/api/users", "/api/tokens", "/api/audit"):
        assert (await called(api, "GET", path, expect=403, **member))["code"] == "admins_only"


async def test_every_bad_token_gets_the_same_answer(floor: Floor, api: httpx.AsyncClient) -> None:
    _, alice = await person(api, "alice")
    good = alice["Authorization"].removeprefix("Bearer ")
    foreign = Signer(("another-fake-key" * 3,)).sign(ADMIN.user_id, 0, now=datetime.now(UTC))
    signer = floor.service._house.signer
    expired = signer.sign(ADMIN.user_id, 0, now=datetime.now(UTC) - timedelta(days=1))
    stranger = signer.sign(uuid4(), 0, now=datetime.now(UTC))
    bad = [good[:-3] + "abc", foreign, expired, stranger, "ops_unknown", API_KEY[:-1], "x", "x" * 10_000]
    answers = [await called(api, "GET", "/api/sessions", expect=401, **bearer(one)) for one in bad]
    assert all(answer == answers[0] for answer in answers)


# Audit ------------------------------------------------------------------------------------------------------------


async def test_the_audit_log_is_read_filtered_paged_and_checked(floor: Floor, api: httpx.AsyncClient) -> None:
    made, alice = await person(api, "alice", "approver")
    kinds = [entry["kind"] for entry in (await called(api, "GET", "/api/audit", **OPERATOR))["items"]]
    assert kinds == ["user.login", "user.changed", "user.created"]
    of_kind = await called(api, "GET", "/api/audit?kind=user.changed", **OPERATOR)
    assert [entry["data"]["after"]["role"] for entry in of_kind["items"]] == ["approver"]
    of_actor = await called(api, "GET", f"/api/audit?actor={made['user_id']}", **OPERATOR)
    assert [entry["kind"] for entry in of_actor["items"]] == ["user.login"]
    first = await called(api, "GET", f"/api/audit?subject={made['user_id']}&limit=2", **OPERATOR)
    rest = await called(
        api, "GET", f"/api/audit?subject={made['user_id']}&limit=2&cursor={first['next_cursor']}", **OPERATOR
    )
    assert [entry["kind"] for entry in first["items"] + rest["items"]] == kinds
    await called(api, "GET", "/api/audit?kind=user.login&subject=x", expect=422, **OPERATOR)
    await called(api, "GET", "/api/audit", expect=403, **alice)
    verdict = await called(api, "GET", "/api/audit/verify", **OPERATOR)
    assert verdict == {"ok": True, "entries": 3, "wrong": None, "reason": None}
    await floor.sql("ALTER TABLE audit_log DISABLE TRIGGER append_only")
    await floor.sql("UPDATE audit_log SET data = '{}' WHERE id = 2")
    verdict = await called(api, "GET", "/api/audit/verify", **OPERATOR)
    assert (verdict["ok"], verdict["wrong"]) == (False, 2)


# Decisions --------------------------------------------------------------------------------------------------------


async def test_nobody_approves_other_arguments_than_they_saw(api: httpx.AsyncClient, floor: Floor) -> None:
    rule = {"auto_execute": False, "approval_required": True, "quorum": 2}
    tool = floor.tools["restart"].spec.tool_id
    await called(api, "PUT", f"/api/tools/{tool}/approval", rule, **OPERATOR)
    _, bob = await person(api, "bob", "approver")
    asked = await called(
        api, "POST", "/api/approvals", {"tool_id": str(tool), "args": {"service": "web"}}, expect=201, **OPERATOR
    )
    where = f"/api/approvals/{asked['approval_id']}"
    await called(api, "POST", f"{where}/approve", {"args": {"service": "db"}}, **OPERATOR)
    stale = await called(api, "POST", f"{where}/approve", {"args_digest": asked["args_digest"]}, expect=409, **bob)
    assert stale["code"] == "changed_meanwhile"
    now = await called(api, "GET", where, **bob)
    assert now["args"] == {"service": "db"}
    done = await called(api, "POST", f"{where}/approve", {"args_digest": now["args_digest"]}, **bob)
    assert done["status"] == "approved"


PRECEDENCE = [
    # default, set by an admin for the user, set by the user: what counts
    (None, None, None, "ask"),
    ("auto", None, None, "auto"),
    ("deny", None, None, "deny"),
    ("ask", "auto", None, "auto"),
    ("auto", "deny", None, "deny"),
    ("deny", "auto", None, "auto"),
    ("auto", None, "ask", "ask"),
    ("auto", None, "deny", "deny"),
    ("ask", None, "auto", "ask"),
    ("deny", None, "auto", "deny"),
    ("ask", "auto", "ask", "ask"),
    ("ask", "deny", "auto", "deny"),
]
_FLAGS = {"auto": (True, False), "ask": (False, True), "deny": (False, False)}


@pytest.mark.parametrize(("default", "by_admin", "by_user", "counts"), PRECEDENCE)
async def test_a_users_own_row_only_tightens_and_an_admins_replaces(
    api: httpx.AsyncClient, floor: Floor, default: str, by_admin: str, by_user: str, counts: str
) -> None:
    made, alice = await person(api, "alice")
    where = f"/api/tools/{floor.tools['restart'].spec.tool_id}"
    for word, whose, who in (
        (default, None, OPERATOR),
        (by_admin, made["user_id"], OPERATOR),
        (by_user, made["user_id"], alice),
    ):
        if word is not None:
            auto, asks = _FLAGS[word]
            body = {"auto_execute": auto, "approval_required": asks, "user_id": whose}
            await called(api, "PUT", f"{where}/approval", body, **who)
    flags = (await called(api, "GET", where, **alice))["approval"]
    assert (flags["auto_execute"], flags["approval_required"]) == _FLAGS[counts]


# Too much ---------------------------------------------------------------------------------------------------------


async def test_one_caller_can_not_use_up_another_ones_share(floor: Floor) -> None:
    now = [0.0]
    async with client_of(door_over(floor.service, quotas=Quotas(now=lambda: now[0]))) as api:
        _, alice = await person(api, "alice")
        _, bob = await person(api, "bob")
        codes = [(await api.get("/api/sessions", headers=alice)).status_code for _ in range(601)]
        assert (codes.count(200), codes[-1]) == (600, 429)
        refused = await api.get("/api/sessions", headers=alice)
        assert refused.json()["code"] == "too_many_requests"
        assert refused.headers["retry-after"] == "1"
        for other in (bob, OPERATOR):
            await called(api, "GET", "/api/sessions", **other)
        now[0] += 1.0
        await called(api, "GET", "/api/sessions", **alice)


async def test_messages_to_the_agent_have_a_limit_of_their_own(floor: Floor) -> None:
    async with client_of(door_over(floor.service, quotas=Quotas(now=lambda: 0.0))) as api:
        _, alice = await person(api, "alice")
        where = f"/api/sessions/{NOBODYS}/execute"
        codes = [(await api.post(where, json={"message": "hi"}, headers=alice)).status_code for _ in range(61)]
        assert (codes.count(404), codes[-1]) == (60, 429)
        await called(api, "GET", "/api/sessions", **alice)


async def test_roles_are_what_they_are_at_the_moment_of_the_call(api: httpx.AsyncClient) -> None:
    made, alice = await person(api, "alice", Role.ADMIN.value)
    await called(api, "GET", "/api/users", **alice)
    await called(api, "PATCH", f"/api/users/{made['user_id']}", {"role": "member"}, **OPERATOR)
    assert (await until(api, "/api/users", 403, **alice)).json()["code"] == "admins_only"
