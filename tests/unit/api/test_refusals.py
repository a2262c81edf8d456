"""Whatever is refused is a problem document with a stable code."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from agent.errors import Conflict, Expired, Invalid, NotAllowed, NotFound
from agent.types import Role
from api.bodies import LIMIT
from tests.fakes.memory_service import ADMIN, MemoryService

JSON = {"Content-Type": "application/json"}


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    body = answer.json()
    assert (answer.status_code, body["status"], body["code"]) == (status, status, code), body
    assert body["title"]
    assert body["detail"]
    return body


@pytest.mark.parametrize(
    ("kind", "status"), [(NotFound, 404), (NotAllowed, 403), (Conflict, 409), (Expired, 410), (Invalid, 422)]
)
async def test_each_kind_of_refusal_has_its_status(
    api: httpx.AsyncClient, service: MemoryService, kind: type, status: int
) -> None:
    class Feature(kind):
        code = "of_a_feature"

    service.explode = Feature("Why not, and what to do.")
    assert problem(await api.get("/api/sessions"), status, "of_a_feature")["detail"] == "Why not, and what to do."


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/sessions/{}"),
        ("DELETE", "/api/sessions/{}"),
        ("POST", "/api/sessions/{}/execute"),
        ("GET", "/api/sessions/{}/turns/{}"),
        ("POST", "/api/sessions/{}/cancel"),
        ("GET", "/api/sessions/{}/messages"),
        ("DELETE", "/api/sessions/{}/messages"),
        ("GET", "/api/approvals/{}"),
        ("POST", "/api/approvals/{}/approve"),
        ("POST", "/api/approvals/{}/reject"),
        ("POST", "/api/tools/approvals/{}/approve"),
        ("POST", "/api/tools/approvals/{}/reject"),
        ("GET", "/api/tools/{}"),
        ("PUT", "/api/tools/{}/approval"),
    ],
)
async def test_unknown_ids_are_not_found(api: httpx.AsyncClient, method: str, path: str) -> None:
    body: dict[str, Any] | None = None
    if path.endswith("/execute"):
        body = {"message": "hi"}
    if method == "PUT":
        body = {"auto_execute": True, "approval_required": False}
    answer = await api.request(method, path.replace("{}", str(uuid4())), json=body)
    problem(answer, 404, "not_found")


BAD_BODIES = {
    "no JSON": (b"{", 400, "malformed_json"),
    "not UTF-8": (b'{"message": "\xff"}', 400, "malformed_json"),
    "a key twice": (b'{"message": "a", "message": "b"}', 400, "malformed_json"),
    "NaN": (b'{"message": NaN}', 400, "malformed_json"),
    "a number of 5000 digits": (b'{"message": ' + b"1" * 5000 + b"}", 400, "malformed_json"),
    "an infinite number": (b'{"message": 1e999}', 422, "number_out_of_range"),
    "too deep": (b"[" * 200 + b"]" * 200, 422, "nested_too_deep"),
    "deeper than a parser can": (b'{"message":' + b"[" * 400_000, 422, "nested_too_deep"),
    "NUL": (b'{"message": "a\\u0000b"}', 422, "unstorable_text"),
    "NUL in a key": (b'{"mess\\u0000age": "a"}', 422, "unstorable_text"),
    "half a surrogate pair": (b'{"message": "\\ud800"}', 422, "unstorable_text"),
    "nothing": (b"", 422, "validation_failed"),
    "a list": (b"[]", 422, "validation_failed"),
    "null": (b"null", 422, "validation_failed"),
    "a number for a text": (b'{"message": 5}', 422, "validation_failed"),
    "no message": (b"{}", 422, "validation_failed"),
    "an unknown field": (b'{"message": "a", "role": "admin"}', 422, "validation_failed"),
    "blank": (b'{"message": "  "}', 422, "empty_message"),
}


@pytest.mark.parametrize("name", BAD_BODIES)
async def test_bad_bodies_are_refused(api: httpx.AsyncClient, session: str, service: MemoryService, name: str) -> None:
    content, status, code = BAD_BODIES[name]
    problem(await api.post(f"{session}/execute", content=content, headers=JSON), status, code)
    assert not service.kept[UUID(session.rsplit("/", 1)[1])].turns


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/sessions", {"title": 5}),
        ("POST", "/api/sessions", {"title": "x" * 201}),
        ("POST", "/api/sessions", {"expires_in_s": "60"}),
        ("POST", "/api/sessions", {"expires_in_s": 0}),
        ("POST", "/api/sessions", {"expires_in_s": True}),
        ("POST", "/api/sessions", {"owner_id": str(UUID(int=2))}),
        ("POST", "/api/approvals", {"tool_id": "restart", "args": {}}),
        ("POST", "/api/approvals", {"tool_id": str(UUID(int=2)), "args": []}),
        ("POST", "/api/approvals", {"tool_id": str(UUID(int=2)), "args": {}, "status": "approved"}),
        ("POST", f"/api/approvals/{UUID(int=2)}/approve", {"args": "x"}),
        ("POST", f"/api/approvals/{UUID(int=2)}/reject", {"args": {}}),
        ("PUT", f"/api/tools/{UUID(int=2)}/approval", {"auto_execute": True}),
        ("PUT", f"/api/tools/{UUID(int=2)}/approval", {"auto_execute": "yes", "approval_required": False}),
        ("PUT", f"/api/tools/{UUID(int=2)}/approval", {"auto_execute": 1, "approval_required": 0}),
        ("GET", "/api/approvals?status=open", None),
        ("GET", "/api/sessions?limit=0", None),
        ("GET", "/api/sessions?limit=x", None),
        ("GET", "/api/sessions?cursor=%00", None),
        ("GET", "/api/sessions/not-an-id", None),
    ],
)
async def test_what_does_not_fit_names_its_place(
    api: httpx.AsyncClient, method: str, path: str, body: dict[str, Any] | None
) -> None:
    found = problem(await api.request(method, path, json=body), 422, "validation_failed")
    assert found["errors"]
    for error in found["errors"]:
        assert error.keys() == {"where", "message", "type"}
    assert f"`{found['errors'][0]['where']}`" in found["detail"]


async def test_what_was_sent_is_not_repeated(api: httpx.AsyncClient) -> None:
    answer = await api.post("/api/sessions", json={"title": {"password": "fake-hunter2"}, "x": "fake-hunter3"})
    assert answer.status_code == 422
    assert "hunter" not in answer.text


async def test_a_rule_that_contradicts_itself_is_refused(api: httpx.AsyncClient) -> None:
    tool = (await api.get("/api/tools")).json()["items"][0]
    body = {"auto_execute": True, "approval_required": True}
    problem(await api.put(f"/api/tools/{tool['tool_id']}/approval", json=body), 422, "invalid")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
async def test_bodies_that_do_not_say_json_are_refused(api: httpx.AsyncClient, session: str, kind: str) -> None:
    answer = await api.post(f"{session}/execute", content=b'{"message": "hi"}', headers={"Content-Type": kind})
    problem(answer, 415, "not_json")


async def test_compressed_bodies_are_refused(api: httpx.AsyncClient, session: str) -> None:
    headers = {**JSON, "Content-Encoding": "gzip"}
    problem(await api.post(f"{session}/execute", content=b"\x1f\x8b", headers=headers), 415, "not_json")


async def test_a_body_that_says_it_is_too_large_is_refused_unread(api: httpx.AsyncClient, session: str) -> None:
    answer = await api.post(f"{session}/execute", json={"message": "x" * LIMIT})
    problem(answer, 413, "body_too_large")
    absurd = await api.post(f"{session}/execute", content=b"{}", headers={**JSON, "Content-Length": "9" * 5000})
    problem(absurd, 413, "body_too_large")


async def test_a_body_in_chunks_is_refused_where_it_gets_too_large(api: httpx.AsyncClient, session: str) -> None:
    sent = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(100):
            sent += 64 * 1024
            yield b" " * 64 * 1024

    answer = await api.post(f"{session}/execute", content=chunks(), headers=JSON)
    problem(answer, 413, "body_too_large")
    assert sent < 2 * LIMIT


async def test_a_body_of_the_limit_is_read(api: httpx.AsyncClient) -> None:
    body = json.dumps({"title": "t"}).encode()
    answer = await api.post("/api/sessions", content=body + b" " * (LIMIT - len(body)), headers=JSON)
    assert answer.status_code == 201


async def test_unknown_routes_and_methods_are_problems_too(api: httpx.AsyncClient) -> None:
    problem(await api.get("/api/nothing"), 404, "no_such_route")
    problem(await api.get("/api/sessions/"), 404, "no_such_route")
    problem(await api.post("/slack/events"), 404, "no_such_route")
    answer = await api.patch("/api/sessions")
    problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"]


async def test_a_fault_of_ours_shows_an_id_and_nothing_else(api: httpx.AsyncClient, service: MemoryService) -> None:
    service.explode = RuntimeError("postgresql://user:fake-password@db")
    answer = await api.get("/api/sessions")
    found = problem(answer, 500, "internal_error")
    assert found["error_id"] in found["detail"]
    assert "fake-password" not in answer.text
    assert "Traceback" not in answer.text


async def test_a_second_decision_hears_of_the_first(api: httpx.AsyncClient, session: str) -> None:
    answer = await api.post(f"{session}/execute", json={"message": "call restart db"})
    where = f"/api/approvals/{answer.json()['pending_approvals'][0]['approval_id']}"
    await api.post(f"{where}/reject", json={"reason": "no"})
    found = problem(await api.post(f"{where}/approve"), 409, "already_settled")
    assert found["decided_by"] == {"user_id": str(ADMIN.user_id), "username": "api-key"}
    assert found["approval_status"] == "rejected"
    assert found["decided_at"].endswith("Z")


async def test_who_may_not_decide_is_told(api: httpx.AsyncClient, session: str, service: MemoryService) -> None:
    answer = await api.post(f"{session}/execute", json={"message": "call restart db"})
    service.actor = replace(ADMIN, role=Role.MEMBER)
    where = f"/api/approvals/{answer.json()['pending_approvals'][0]['approval_id']}/approve"
    problem(await api.post(where), 403, "not_an_approver")


async def test_an_expired_approval_is_gone(api: httpx.AsyncClient, session: str, service: MemoryService) -> None:
    answer = await api.post(f"{session}/execute", json={"message": "call restart db"})
    approval_id = UUID(answer.json()["pending_approvals"][0]["approval_id"])
    past = datetime.now(UTC) - timedelta(seconds=1)
    service.approvals[approval_id] = replace(service.approvals[approval_id], expires_at=past)
    problem(await api.post(f"/api/approvals/{approval_id}/approve"), 410, "approval_expired")


async def test_an_expired_session_is_gone(api: httpx.AsyncClient, session: str, service: MemoryService) -> None:
    service.expire(UUID(session.rsplit("/", 1)[1]))
    problem(await api.get(session), 410, "expired")
    problem(await api.post(f"{session}/execute", json={"message": "hi"}), 410, "expired")


async def test_edited_arguments_must_fit(api: httpx.AsyncClient, session: str) -> None:
    answer = await api.post(f"{session}/execute", json={"message": "call restart db"})
    where = f"/api/approvals/{answer.json()['pending_approvals'][0]['approval_id']}"
    problem(await api.post(f"{where}/approve", json={"args": {"nonsense": 1}}), 422, "invalid_arguments")
    assert (await api.get(where)).json()["status"] == "pending"


@pytest.mark.parametrize("key", ["", "x" * 201, "caf\xe9"])
async def test_an_idempotency_key_is_short_and_plain(api: httpx.AsyncClient, session: str, key: str) -> None:
    headers = {"Idempotency-Key": key.encode("latin-1")}
    answer = await api.post(f"{session}/execute", json={"message": "hi"}, headers=headers)
    problem(answer, 422, "validation_failed")
