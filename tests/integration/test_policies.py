"""Policy as a whole over REST and on the command line: what it would say, its rows, and taking one away."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from agent.approvals.policy import Rule, When
from tests.fakes.product import make_home, remove_home, run_command
from tests.fakes.rest import OPERATOR, client_of, door_over
from tests.integration.conftest import ADMIN, Floor
from tests.integration.test_rest import called, person

ASK = Rule(auto_execute=False, approval_required=True)
AUTO = Rule(auto_execute=True, approval_required=False)
DENY = Rule(auto_execute=False, approval_required=False)
PRODUCTION = {"properties": {"service": {"pattern": "^prod-"}}, "required": ["service"]}


@pytest.fixture
async def api(floor: Floor) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(door_over(floor.service), **OPERATOR) as client:
        yield client


async def simulated(api: httpx.AsyncClient, *, expect: int = 200, **body: Any) -> Any:
    asked = {"tool_name": "restart", "args": {"service": "prod-db"}, **body}
    return await called(api, "POST", "/api/policies/simulate", asked, expect=expect)


async def test_the_answer_names_rule_condition_terms_and_reasons(floor: Floor, api: httpx.AsyncClient) -> None:
    tool = str(floor.tools["restart"].spec.tool_id)
    rule = {
        "auto_execute": True,
        "approval_required": False,
        "approvers": ["role:approver", "channel:C0OPS"],
        "quorum": 2,
        "four_eyes": True,
        "expires_in_s": 600,
        "doors": ["web"],
        "fresh_login_s": 300,
        "when": [{"args": PRODUCTION, "decision": "ask"}],
    }
    stored = await called(api, "PUT", f"/api/tools/{tool}/approval", rule)
    assert {name: stored[name] for name in rule} == rule
    found = await simulated(api)
    assert found["decision"] == "ask"
    assert found["decided_by"] == {"scope": "default", "when": 0, "condition": PRODUCTION}
    terms = ("approvers", "quorum", "four_eyes", "expires_in_s", "doors", "fresh_login_s")
    assert {name: found[name] for name in terms} == {name: rule[name] for name in terms}
    assert found["reasons"][0].startswith("The tool's default row says ask: the arguments fit its condition when[0]")
    assert (found["tool_id"], found["username"], found["refused"]) == (tool, "api-key", None)
    other = await simulated(api, args={"service": "test-db"})
    assert (other["decision"], other["decided_by"]["when"]) == ("auto", None)


async def test_what_is_simulated_is_what_then_happens(floor: Floor, api: httpx.AsyncClient) -> None:
    tool = floor.tools["restart"].spec.tool_id
    rules = Rule(
        auto_execute=True, approval_required=False, when=(When(PRODUCTION, "ask"), When({"maxProperties": 0}, "deny"))
    )
    await floor.service.set_tool_approval(tool, rules, by=ADMIN)
    for service in ("prod-db", "test-db"):
        found = await simulated(api, args={"service": service})
        made = await called(
            api, "POST", "/api/approvals", {"tool_id": str(tool), "args": {"service": service}}, expect=201
        )
        assert {"ask": "pending", "auto": "approved"}[found["decision"]] == made["status"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"tool_name": "no_such_tool"}, 404, "tool_not_found"),
        ({"username": "nobody"}, 404, "user_not_found"),
        ({"args": {}}, 422, "invalid_arguments"),
        ({"args": {"service": "a", "force": True}}, 422, "invalid_arguments"),
        ({"args": {"service": 1}}, 422, "invalid_arguments"),
        ({"args": {"service": "a", "n": 2**60}}, 422, "invalid_arguments"),
        ({"tool_id": "0b0d5000-0000-4000-8000-000000000000"}, 422, "one_of_two"),
        ({"tool_name": None}, 422, "one_of_two"),
        ({"username": "api-key", "user_id": "0b0d5000-0000-4000-8000-000000000000"}, 422, "one_of_two"),
    ],
)
async def test_what_can_not_be_asked_is_refused_with_a_sentence(
    api: httpx.AsyncClient, body: dict[str, Any], status: int, code: str
) -> None:
    refused = await simulated(api, expect=status, **body)
    assert refused["code"] == code
    if code == "invalid_arguments":
        assert refused["detail"].startswith("The call would be refused for its arguments")


async def test_an_admin_asks_for_a_user_and_a_user_for_themselves(floor: Floor, api: httpx.AsyncClient) -> None:
    alice, token = await person(api, "alice")
    tool = floor.tools["restart"].spec.tool_id
    await called(
        api,
        "PUT",
        f"/api/tools/{tool}/approval",
        {"auto_execute": False, "approval_required": False, "user_id": alice["user_id"]},
    )
    body = {"tool_id": str(tool), "args": {"service": "web"}}
    own = client_of(door_over(floor.service), **token)
    async with own as client:
        for_herself = await called(client, "POST", "/api/policies/simulate", body)
    for whose in ({"user_id": alice["user_id"]}, {"username": "ALICE"}):
        found = await called(api, "POST", "/api/policies/simulate", {**body, **whose})
        assert found == for_herself
    assert (found["decision"], found["decided_by"]["scope"]) == ("deny", "user_by_admin")
    assert (await called(api, "POST", "/api/policies/simulate", body))["decision"] == "ask"


async def test_a_tool_that_is_switched_off_is_said_to_be(floor: Floor, api: httpx.AsyncClient) -> None:
    tool = floor.tools["restart"].spec.tool_id
    await called(api, "PATCH", f"/api/tools/{tool}", {"enabled": False})
    found = await simulated(api)
    assert found["decision"] == "ask"
    assert "switched off" in found["refused"]
    assert "switched off" in found["reasons"][0]


async def test_rows_are_listed_newest_first_by_tool_and_user_and_page_by_page(
    floor: Floor, api: httpx.AsyncClient
) -> None:
    mia = await floor.user("mia")
    restart, crash = (floor.tools[name].spec.tool_id for name in ("restart", "crash"))
    await floor.service.set_tool_approval(restart, ASK, by=ADMIN)
    await floor.service.set_tool_approval(crash, DENY, by=ADMIN)
    await floor.service.set_tool_approval(restart, AUTO, by=ADMIN, user_id=mia.user_id)
    await floor.service.set_tool_approval(restart, DENY, by=mia, user_id=mia.user_id)
    first = await called(api, "GET", "/api/policies?limit=2")
    rest = await called(api, "GET", f"/api/policies?limit=2&cursor={first['next_cursor']}")
    shown = [(row["tool_name"], row["username"]) for row in first["items"] + rest["items"]]
    assert shown == [("restart", "mia"), ("crash", None), ("restart", None)]
    assert rest["next_cursor"] is None
    newest = first["items"][0]
    assert (newest["set_by_admin"], newest["over"]["auto_execute"]) == (False, True)
    of_tool = await called(api, "GET", f"/api/policies?tool_id={restart}")
    of_user = await called(api, "GET", f"/api/policies?user_id={mia.user_id}")
    both = await called(api, "GET", f"/api/policies?user_id={mia.user_id}&tool_id={crash}")
    assert [len(found["items"]) for found in (of_tool, of_user, both)] == [2, 1, 0]


async def test_without_a_row_what_was_beneath_it_counts_again(floor: Floor, api: httpx.AsyncClient) -> None:
    mia = await floor.user("mia")
    tool = floor.tools["restart"].spec.tool_id
    await floor.service.set_tool_approval(tool, DENY, by=ADMIN)
    await floor.service.set_tool_approval(tool, AUTO, by=ADMIN, user_id=mia.user_id)
    await floor.service.set_tool_approval(tool, ASK, by=mia, user_id=mia.user_id)
    said = []
    for _ in range(3):
        found = await simulated(api, username="mia")
        said.append((found["decision"], found["decided_by"]["scope"]))
        rows = (await called(api, "GET", "/api/policies"))["items"]
        newest = next((row for row in rows if row["user_id"]), rows[0])
        await called(api, "DELETE", f"/api/policies/{newest['policy_id']}", expect=204)
    found = await simulated(api, username="mia")
    assert said == [("ask", "own"), ("auto", "user_by_admin"), ("deny", "default")]
    assert (found["decision"], found["decided_by"]["scope"]) == ("ask", "declaration")
    await called(api, "DELETE", f"/api/policies/{uuid4()}", expect=404)
    told = (await called(api, "GET", "/api/audit?kind=policy.deleted"))["items"]
    assert [entry["data"]["tool_name"] for entry in told] == ["restart"] * 3


async def test_a_row_that_a_user_writes_while_an_admin_deletes_is_not_lost_half(floor: Floor) -> None:
    """Without the lock on the tool's row an own row written meanwhile is deleted, or replaced by what was beneath."""
    tool = floor.tools["restart"].spec.tool_id
    for index in range(20):
        mia = await floor.user(f"mia{index}")
        await floor.service.set_tool_approval(tool, ASK, by=ADMIN, user_id=mia.user_id)
        (row,) = (await floor.service.list_policies(by=ADMIN, user_id=mia.user_id)).items
        await asyncio.gather(
            floor.service.set_tool_approval(tool, DENY, by=mia, user_id=mia.user_id),
            floor.service.delete_policy(row.policy_id, by=ADMIN),
        )
        left = (await floor.service.list_policies(by=ADMIN, user_id=mia.user_id)).items
        shapes = [(row.row.by_admin, row.row.rule.approval_required, row.row.beneath) for row in left]
        assert shapes in ([(False, False, None)], [(True, True, None)])


async def test_the_command_line_says_the_same_for_people_and_programs(floor: Floor, dsn: str) -> None:
    tool = floor.tools["restart"].spec.tool_id
    rule = Rule(auto_execute=True, approval_required=False, when=(When(PRODUCTION, "deny"),))
    await floor.service.set_tool_approval(tool, rule, by=ADMIN)
    home = make_home()
    settings = {"DATABASE_URL": dsn, "SECRET_KEY": "obviously-fake-secret-key-for-the-command-line"}

    async def explain(*words: str) -> tuple[int, str, str]:
        done = await run_command(home, "policy", "explain", *words, settings=settings, within=90)
        return done.code, done.out, done.err

    try:
        code, out, _ = await explain("restart", "--args", '{"service": "prod-db"}')
        assert (code, out.splitlines()[0]) == (0, "deny: restart, called by api-key")
        assert out.splitlines()[1].startswith("1. The tool's default row says deny")
        code, out, _ = await explain("restart", "--args", '{"service": "web"}', "--json")
        shown = json.loads(out)
        assert (code, shown["decision"], shown["decided_by"]["scope"]) == (0, "auto", "default")
        wrong = (("nothing", "There is no such tool"), ("restart", "refused for its arguments"))
        for words, said in wrong:
            code, out, err = await explain(words)
            assert (code, out) == (1, "")
            assert said in err
        code, out, err = await explain("restart", "--args", "[1]")
        assert (code, out) == (2, "")
        assert "JSON object" in err
    finally:
        remove_home(home)
