"""The verbs of an approval's life as callers see them: over REST, on the line, and from the command line."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any
from uuid import UUID

import httpx
import pytest
from pydantic import SecretStr

from agent.approvals.types import Action
from agent.tools.base import Outcome, ToolResult
from agent.types import EventKind
from api.door import Patience
from opsagent import scripts
from opsagent.config import Settings
from opsagent.failures import CannotStart
from tests.fakes.rest import OPERATOR, bearer, door_over, serving
from tests.integration.conftest import ADMIN, BOB, Floor
from tests.integration.test_live import live
from tests.integration.test_resolutions import told
from tests.integration.test_rest import api, called, person

__all__ = ["api"]

RESTART = '{{tool restart {"service": "web"}}}'


@pytest.fixture
async def port(floor: Floor) -> AsyncIterator[int]:
    async with serving(door_over(floor.service, patience=Patience())) as port:
        yield port


async def opened(floor: Floor, *, by: Any = ADMIN) -> dict[str, Any]:
    """Have a call wait for people; return its approval as the service has it."""
    session_id = await floor.session(by)
    asked = await floor.say(session_id, RESTART, by=by, timeout=45)
    (approval,) = asked.pending_approvals
    return {"id": str(approval.approval_id), "digest": approval.args_digest, "session_id": session_id}


async def lost(floor: Floor) -> dict[str, Any]:
    """The same, approved, and with an outcome that nobody knows."""

    async def vanish(_args: Mapping[str, Any]) -> ToolResult:
        return ToolResult("no answer came", Outcome.UNKNOWN)

    floor.tools["restart"].effect = vanish
    found = await opened(floor)
    approval = await floor.service.read_approval(UUID(found["id"]), by=ADMIN)
    await floor.decide(approval, by=BOB)
    await floor.done(approval.turn_id, timeout=45)
    floor.tools["restart"].effect = None
    return found


async def test_an_approval_says_who_can_decide_and_its_requester_cancels_it(
    floor: Floor, api: httpx.AsyncClient
) -> None:
    made, alice = await person(api, "alice")
    session = await called(api, "POST", "/api/sessions", expect=201, **alice)
    turn = await called(api, "POST", f"/api/sessions/{session['session_id']}/execute", {"message": RESTART}, **alice)
    (approval,) = turn["pending_approvals"]
    assert [(who["kind"], who["id"]) for who in approval["approvers"]] == [("user", "U2BOB"), ("role", "role:approver")]
    where = f"/api/approvals/{approval['approval_id']}"
    problem = await called(api, "POST", f"{where}/extend", {"expires_in_s": 10**6}, expect=403, **alice)
    assert problem["code"] == "not_an_approver"
    cancelled = await called(api, "POST", f"{where}/cancel", {"reason": "no need"}, **alice)
    assert (cancelled["status"], cancelled["decided_by"]["user_id"]) == ("cancelled", made["user_id"])
    late = await called(api, "POST", f"{where}/withdraw", expect=409, **OPERATOR)
    assert (late["code"], late["decided_by"]["username"], late["approval_status"]) == (
        "already_settled",
        "alice",
        "cancelled",
    )
    assert late["decided_at"].endswith("Z")


async def test_time_and_approvers_are_changed_over_rest(floor: Floor, api: httpx.AsyncClient) -> None:
    where = f"/api/approvals/{(await opened(floor))['id']}"
    await person(api, "erin", "approver")
    longer = await called(api, "POST", f"{where}/extend", {"expires_in_s": 604_800}, **OPERATOR)
    assert longer["expires_at"] > longer["created_at"]
    short = await called(api, "POST", f"{where}/extend", {"expires_in_s": 60}, expect=422, **OPERATOR)
    assert short["code"] == "not_longer"
    moved = await called(api, "POST", f"{where}/reassign", {"approvers": ["erin"], "reason": "away"}, **OPERATOR)
    assert moved["approvers"] == [{"kind": "user", "id": "erin", "name": "erin"}]
    nobody = await called(api, "POST", f"{where}/reassign", {"approvers": ["nobody"]}, expect=422, **OPERATOR)
    assert nobody["code"] == "unknown_approver"


async def test_a_batch_answers_each_as_its_own_call_would(floor: Floor, api: httpx.AsyncClient) -> None:
    first, second = await opened(floor), await opened(floor)
    body = {
        "decisions": [
            {"approval_id": first["id"], "decision": "approve", "args_digest": first["digest"]},
            {"approval_id": second["id"], "decision": "reject", "args_digest": "0" * 64, "reason": "no"},
            {"approval_id": str(ADMIN.user_id), "decision": "approve", "args_digest": first["digest"]},
        ]
    }
    answered = (await called(api, "POST", "/api/approvals/batch", body, **OPERATOR))["results"]
    assert [answer["status"] for answer in answered] == [200, 409, 404]
    assert answered[0]["approval"]["status"] == "approved"
    assert [answer["problem"]["code"] for answer in answered[1:]] == ["changed_meanwhile", "approval_not_found"]
    for wrong in ([], body["decisions"][:1] * 51, [{**body["decisions"][0], "args_digest": first["digest"][:12]}]):
        await called(api, "POST", "/api/approvals/batch", {"decisions": wrong}, expect=422, **OPERATOR)


async def test_an_unknown_outcome_is_resolved_over_rest(floor: Floor, api: httpx.AsyncClient) -> None:
    where = f"/api/approvals/{(await lost(floor))['id']}"
    _, alice = await person(api, "alice")
    await called(api, "POST", f"{where}/resolve", {"action": "done"}, expect=403, **alice)
    await called(api, "POST", f"{where}/resolve", {"action": "again"}, expect=422, **OPERATOR)
    wrong = await called(
        api, "POST", f"{where}/resolve", {"action": "run_again", "result": "x"}, expect=422, **OPERATOR
    )
    assert wrong["code"] == "bad_result"
    queued = await called(api, "POST", f"{where}/resolve", {"action": "run_again", "reason": "hangs"}, **OPERATOR)
    assert [word["action"] for word in queued["resolutions"]] == ["run_again"]
    async with asyncio.timeout(45):
        while (await called(api, "GET", where, **OPERATOR))["execution"] != "succeeded":
            await asyncio.sleep(0.05)
    again = await called(api, "POST", f"{where}/resolve", {"action": "run_again"}, expect=409, **OPERATOR)
    assert again["code"] == "already_resolved"
    assert floor.tools.ran("restart") == ["web", "web"]


async def test_instead_takes_a_token_that_may_chat(floor: Floor, api: httpx.AsyncClient, port: int) -> None:
    found = await opened(floor)
    body = {"name": "deciders", "scopes": ["read", "approve"], "role": "admin"}
    token = (await called(api, "POST", "/api/tokens", body, expect=201, **OPERATOR))["token"]
    where = f"/api/approvals/{found['id']}/reject"
    for path in (where, where.replace("/api/", "/api/tools/")):
        refused = await called(api, "POST", path, {"instead": "hello"}, expect=403, **bearer(token))
        assert refused["code"] == "scope_missing"
    async with live(port, found["session_id"], headers=bearer(token)) as line:
        await line.next()
        await line.say(type="reject", approval_id=found["id"], instead="hello")
        assert (await line.until("error"))["code"] == "scope_missing"
    rejected = await called(api, "POST", where, {"instead": "hello", "reason": "not web"}, **OPERATOR)
    assert rejected["status"] == "rejected"
    (queued,) = [e for e in await told(floor, found["session_id"], EventKind.TURN_QUEUED) if "instead_of" in e]
    done = await floor.done(UUID(queued["turn_id"]), timeout=45)
    assert done.turn.text == "hello"


async def test_what_to_do_instead_is_said_and_heard_on_the_line(floor: Floor, port: int) -> None:
    found = await opened(floor)
    async with live(port, found["session_id"], headers=OPERATOR) as line:
        await line.next()
        await line.say(type="approve", approval_id=found["id"], instead="hello")
        assert (await line.until("error"))["code"] == "only_with_reject"
        await line.say(type="reject", approval_id=found["id"], instead="hello there")
        queued = await line.until("turn.queued")
        assert (queued["text"], queued["instead_of"]) == ("hello there", found["id"])
        while (await line.until("turn.completed"))["turn_id"] != queued["turn_id"]:
            pass


async def test_the_command_line_has_the_same_verbs(
    floor: Floor, dsn: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings(
        database_url=SecretStr(dsn), secret_key=SecretStr("obviously-fake-" + "s" * 32), opsagent_home=tmp_path
    )
    unknown, first, second = (await lost(floor))["id"], (await opened(floor))["id"], (await opened(floor))["id"]
    await floor.user("erin")
    await scripts.resolve(settings, unknown, action=Action.FAILED, reason="looked", result="it never started")
    await scripts.extend(settings, first, seconds=604_800)
    await scripts.reassign(settings, first, approvers=["erin"], reason=None)
    await scripts.cancel(settings, first, reason="no need")
    await scripts.decide(settings, second, word="reject", reason=None, digest=None, instead="hello")
    said = [line for line in capsys.readouterr().out.splitlines() if "\t" in line]
    assert [said[0], *said[2:]] == [
        "failed\trestart",
        "user\terin\terin",
        "cancelled\trestart",
        "rejected\trestart",
    ]
    assert said[1].endswith("Z\trestart")
    for late in (
        scripts.withdraw(settings, first),
        scripts.resolve(settings, unknown, action=Action.DONE, reason=None, result=None),
        scripts.extend(settings, "no id", seconds=1),
    ):
        with pytest.raises(CannotStart):
            await late
