"""What surrounds every request: its id, its line in the log, and faults that show nothing."""

import logging
import re

import httpx
import pytest
import structlog
from fastapi import FastAPI

from tests.fakes.memory_service import MemoryService
from tests.fakes.rest import serving
from tests.unit.api.conftest import API_KEY


async def test_a_request_id_comes_back_as_it_was_given_or_is_made(api: httpx.AsyncClient) -> None:
    given = await api.get("/api/sessions", headers={"X-Request-Id": "trace-1.a_B"})
    assert given.headers["x-request-id"] == "trace-1.a_B"
    for bad in ("", "a b", "x" * 65, "a\tb", "<script>"):
        made = await api.get("/api/nothing", headers={"X-Request-Id": bad})
        assert re.fullmatch("[0-9a-f]{32}", made.headers["x-request-id"]), bad


async def test_a_request_leaves_one_line_that_says_who_what_and_how(api: httpx.AsyncClient) -> None:
    with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        answer = await api.get("/api/sessions?limit=2&token=fake-secret")
        await api.get("/api/nothing", headers={"X-API-Key": "wrong"})
    first, second = [line for line in lines if line["event"] == "request.done"]
    assert {key: first[key] for key in ("method", "path", "status", "principal", "log_level")} == {
        "method": "GET",
        "path": "/api/sessions",
        "status": 200,
        "principal": "api-key",
        "log_level": "info",
    }
    assert first["request_id"] == answer.headers["x-request-id"]
    assert first["ms"] >= 0
    assert (second["status"], second["principal"]) == (404, None)
    assert "fake-secret" not in str(lines)


async def test_probes_do_not_fill_the_log(anyone: httpx.AsyncClient) -> None:
    with structlog.testing.capture_logs() as lines:
        await anyone.get("/healthz")
    assert [line["log_level"] for line in lines] == ["debug"]


async def test_what_happens_within_a_request_carries_its_id(api: httpx.AsyncClient, service: MemoryService) -> None:
    service.explode = RuntimeError("obviously fake")
    with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        answer = await api.get("/api/sessions", headers={"X-Request-Id": "trace-2"})
    assert answer.headers["x-request-id"] == "trace-2"
    failed = next(line for line in lines if line["event"] == "request.failed")
    assert failed["request_id"] == "trace-2"
    assert failed["error_id"] == answer.json()["error_id"]


async def test_a_fault_is_logged_once_and_wears_the_safe_headers(
    app: FastAPI, service: MemoryService, caplog: pytest.LogCaptureFixture
) -> None:
    service.explode = RuntimeError("obviously fake")
    caplog.set_level(logging.DEBUG)
    with structlog.testing.capture_logs() as lines:
        async with serving(app) as port, httpx.AsyncClient() as client:
            answer = await client.get(f"http://127.0.0.1:{port}/api/sessions", headers={"X-API-Key": API_KEY})
    assert answer.status_code == 500
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-type"] == "application/problem+json"
    assert [line["event"] for line in lines].count("request.failed") == 1
    assert not [record for record in caplog.records if record.name.startswith("uvicorn") and record.exc_info]


async def test_too_many_headers_are_refused(api: httpx.AsyncClient) -> None:
    many = [(f"X-H{n}", "1") for n in range(101)]
    for headers in (many, [("X-Long", "a" * 40_000)]):
        answer = await api.get("/api/sessions", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (431, "headers_too_large")
        assert answer.headers["connection"] == "close"


async def test_a_refused_method_names_all_that_the_address_takes(api: httpx.AsyncClient) -> None:
    answer = await api.patch("/api/sessions")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")
    assert (await api.put("/api/users/login")).headers["allow"] == "POST"


async def test_two_keys_that_differ_are_nobody(anyone: httpx.AsyncClient) -> None:
    right = {"X-API-Key": API_KEY, "Authorization": f"Bearer {API_KEY}"}
    assert (await anyone.get("/api/sessions", headers=right)).status_code == 200
    for wrong in ({"X-API-Key": "wrong"}, {"Authorization": "Bearer wrong"}):
        assert (await anyone.get("/api/sessions", headers={**right, **wrong})).status_code == 401


async def test_nobody_approves_other_arguments_than_they_saw(api: httpx.AsyncClient, session: str) -> None:
    turn = await api.post(f"{session}/execute", json={"message": "call restart db"})
    pending = turn.json()["pending_approvals"][0]
    for path in (f"/api/approvals/{pending['approval_id']}", f"/api/tools/approvals/{pending['approval_id']}"):
        for verb in ("approve", "reject"):
            stale = await api.post(f"{path}/{verb}", json={"args_digest": "0" * 64})
            assert (stale.status_code, stale.json()["code"]) == (409, "changed_meanwhile")
    done = await api.post(f"{path}/approve", json={"args_digest": pending["args_digest"]})
    assert done.json()["status"] == "approved"
