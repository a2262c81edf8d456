"""Attacks on the REST door, each by its name, against the real service and a real database."""

import asyncio
import json
import logging
import re
import struct
import zlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import httpx
import jwt
import pytest
import structlog
from pytest_mock import MockerFixture

from agent import tokens
from agent.tokens import Signer
from api.console.login import COOKIE
from tests.fakes.rest import API_KEY, OPERATOR, bearer, client_of, door_over, serving
from tests.integration.conftest import ADMIN, Floor, running
from tests.integration.test_rest import PASSWORD, called, person

NOBODYS = "0b0d5000-0000-4000-8000-000000000000"
"""An id that nothing has; fixed, since test ids must not change from worker to worker."""

KEY = "obviously-fake-signing-key-of-the-attacks"
JSON = {"Content-Type": "application/json"}


@pytest.fixture
async def floor(dsn: str) -> AsyncIterator[Floor]:
    async with running(dsn, signing_keys=(KEY,)) as floor:
        yield floor


@pytest.fixture
async def api(floor: Floor) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(door_over(floor.service)) as client:
        yield client


# Other people's things (IDOR) -------------------------------------------------------------------------------------


async def test_other_peoples_ids_are_404_like_those_that_do_not_exist(api: httpx.AsyncClient, floor: Floor) -> None:
    made, alice = await person(api, "alice")
    _, mallory = await person(api, "mallory")
    session = (await called(api, "POST", "/api/sessions", {}, expect=201, **alice))["session_id"]
    turn = await called(
        api, "POST", f"/api/sessions/{session}/execute", {"message": '{{tool restart {"service": "a"}}}'}, **alice
    )
    approval = turn["pending_approvals"][0]["approval_id"]
    tool = str(floor.tools["restart"].spec.tool_id)
    attempts: list[tuple[str, str, Any]] = [
        ("GET", f"/api/sessions/{session}", None),
        ("DELETE", f"/api/sessions/{session}", None),
        ("GET", f"/api/sessions/{session}/messages", None),
        ("DELETE", f"/api/sessions/{session}/messages", None),
        ("POST", f"/api/sessions/{session}/execute", {"message": "hi"}),
        ("POST", f"/api/sessions/{session}/cancel", None),
        ("GET", f"/api/sessions/{session}/turns/{turn['turn_id']}", None),
        ("POST", "/api/approvals", {"tool_id": tool, "args": {"service": "a"}, "session_id": session}),
        ("GET", f"/api/approvals/{approval}", None),
    ]
    for method, path, body in attempts:
        theirs = await called(api, method, path, body, expect=404, **mallory)
        for real in (session, approval):
            path = path.replace(real, str(uuid4()))
            body = json.loads(json.dumps(body).replace(real, str(uuid4())))
        assert await called(api, method, path, body, expect=404, **mallory) == theirs, f"{method} {path}"
    assert (await called(api, "GET", "/api/approvals", **mallory))["items"] == []
    assert (await called(api, "GET", "/api/sessions", **mallory))["items"] == []
    assert (await called(api, "GET", f"/api/sessions/{session}", **alice))["user_id"] == made["user_id"]


async def test_a_turn_is_not_found_through_another_session(api: httpx.AsyncClient) -> None:
    _, alice = await person(api, "alice")
    one, other = [(await called(api, "POST", "/api/sessions", {}, expect=201, **alice))["session_id"] for _ in range(2)]
    turn = (await called(api, "POST", f"/api/sessions/{one}/execute", {"message": "hi"}, **alice))["turn_id"]
    await called(api, "GET", f"/api/sessions/{other}/turns/{turn}", expect=404, **alice)


# Nobody, and the wrong role ---------------------------------------------------------------------------------------


async def test_anonymous_callers_get_401_everywhere(api: httpx.AsyncClient) -> None:
    document = (await api.get("/openapi.json")).json()
    for path, calls in document["paths"].items():
        for method, call in calls.items():
            if not path.startswith("/api/") or call["operationId"] == "login":
                continue
            answer = await api.request(method.upper(), re.sub(r"{\w+}", str(uuid4()), path))
            assert answer.status_code == 401, f"{method} {path}"


async def test_a_member_who_acts_as_an_admin_is_403(api: httpx.AsyncClient, floor: Floor) -> None:
    made, mallory = await person(api, "mallory")
    tool = floor.tools["restart"].spec.tool_id
    rule = {"auto_execute": True, "approval_required": False}
    attempts: list[tuple[str, str, Any]] = [
        ("GET", "/api/users", None),
        ("POST", "/api/users", {"username": "m2", "email": "m@example.com", "password": PASSWORD}),
        ("PATCH", f"/api/users/{made['user_id']}", {"role": "admin"}),
        ("POST", f"/api/users/{made['user_id']}/link", {"slack_user_id": "U2BOB"}),
        ("GET", "/api/tokens", None),
        ("POST", "/api/tokens", {"name": "x", "scopes": ["admin"], "role": "admin"}),
        ("DELETE", f"/api/tokens/{NOBODYS}", None),
        ("GET", "/api/audit", None),
        ("GET", "/api/audit/verify", None),
        ("PUT", f"/api/tools/{tool}/approval", rule),
        ("PUT", f"/api/tools/{tool}/approval", {**rule, "user_id": str(ADMIN.user_id)}),
    ]
    for method, path, body in attempts:
        await called(api, method, path, body, expect=403, **mallory)
    assert (await called(api, "GET", "/api/users/profile", **mallory))["role"] == "member"


async def test_a_member_who_loosens_their_own_row_is_still_asked(api: httpx.AsyncClient, floor: Floor) -> None:
    made, mallory = await person(api, "mallory")
    where = f"/api/tools/{floor.tools['restart'].spec.tool_id}/approval"
    rule = {"auto_execute": True, "approval_required": False, "user_id": made["user_id"]}
    await called(api, "PUT", where, rule, **mallory)
    session = (await called(api, "POST", "/api/sessions", {}, expect=201, **mallory))["session_id"]
    say = {"message": '{{tool restart {"service": "a"}}}'}
    turn = await called(api, "POST", f"/api/sessions/{session}/execute", say, **mallory)
    assert turn["status"] == "awaiting_approval"
    assert floor.tools.effects == []


# Forged tokens ----------------------------------------------------------------------------------------------------


def forged(name: str) -> str:
    signer, now = Signer((KEY,)), datetime.now(UTC)
    secret = signer._keys[tokens.key_id(KEY)]
    head = {"kid": tokens.key_id(KEY)}
    claims: dict[str, Any] = {
        "sub": str(ADMIN.user_id),
        "ver": 0,
        "iss": tokens.ISSUER,
        "aud": tokens.AUDIENCE,
        "iat": now,
        "exp": now + timedelta(hours=1),
    }

    def signed(drop: str = "", **change: Any) -> str:
        body = {key: value for key, value in {**claims, **change}.items() if key != drop}
        return jwt.encode(body, secret, algorithm="HS256", headers=head)

    good = signed()
    parts = good.split(".")
    made = {
        "good": good,
        "alg none": jwt.encode(claims, "", algorithm="none", headers=head),
        "alg none, signature kept": ".".join((jwt.encode({}, "", algorithm="none").split(".")[0], *parts[1:])),
        "another algorithm": jwt.encode(claims, secret * 2, algorithm="HS512", headers=head),
        "another key": jwt.encode(claims, "x" * 32, algorithm="HS256", headers=head),
        "wrong audience": signed(aud="another-api"),
        "wrong issuer": signed(iss="another"),
        "expired": signed(exp=now - timedelta(seconds=1), iat=now - timedelta(hours=1)),
        "not yet valid": signed(iat=now + timedelta(hours=1)),
        "no expiry": signed(drop="exp"),
        "no audience": signed(drop="aud"),
        "no subject": signed(drop="sub"),
        "no version": signed(drop="ver"),
        "an old version": signed(ver=-1),
        "a subject that is no id": signed(sub="api-key"),
        "kid as a path": jwt.encode(claims, "0" * 32, algorithm="HS256", headers={"kid": "../../../../dev/null"}),
        "kid as SQL": jwt.encode(claims, "x" * 32, algorithm="HS256", headers={"kid": "' OR 1=1 --"}),
        "no kid": jwt.encode(claims, secret, algorithm="HS256"),
        "tampered claims": f"{parts[0]}.{parts[1][:-4]}AAAA.{parts[2]}",
        "no signature": f"{parts[0]}.{parts[1]}.",
        "a service token's shape": "ops_" + "A" * 43,
        "SQL": "ops_' OR '1'='1",
    }
    return made[name]


FORGERIES = [
    *("alg none", "alg none, signature kept", "another algorithm", "another key", "wrong audience", "wrong issuer"),
    *("expired", "not yet valid", "no expiry", "no audience", "no subject", "no version", "an old version"),
    *("a subject that is no id", "kid as a path", "kid as SQL", "no kid", "tampered claims", "no signature"),
    *("a service token's shape", "SQL"),
]


@pytest.mark.parametrize("name", FORGERIES)
async def test_a_forged_token_is_401(api: httpx.AsyncClient, name: str) -> None:
    await called(api, "GET", "/api/users", **bearer(forged("good")))
    await called(api, "GET", "/api/users", expect=401, **bearer(forged(name)))


# Mass assignment --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "field"),
    [
        ("PUT", "/api/users/profile", {"role": "admin"}),
        ("PUT", "/api/users/profile", {"user_id": str(UUID(int=1))}),
        ("PUT", "/api/users/profile", {"disabled": False}),
        ("PUT", "/api/users/profile", {"token_version": 0}),
        ("PUT", "/api/users/profile", {"slack_user_id": "U2BOB"}),
        ("POST", "/api/users", {"role": "admin"}),
        ("POST", "/api/users/login", {"role": "admin"}),
        ("POST", "/api/sessions", {"user_id": str(UUID(int=1))}),
        ("POST", "/api/sessions", {"source": "slack"}),
        ("POST", "/api/approvals", {"status": "approved"}),
        ("POST", "/api/approvals", {"decided_by": str(UUID(int=1))}),
        ("POST", f"/api/approvals/{NOBODYS}/approve", {"quorum": 0}),
        ("POST", "/api/tokens", {"user_id": str(UUID(int=1))}),
        ("PATCH", f"/api/users/{NOBODYS}", {"username": "root"}),
    ],
)
async def test_a_field_that_is_not_for_callers_is_422(
    api: httpx.AsyncClient, method: str, path: str, field: dict[str, Any]
) -> None:
    fit = {
        "/api/users": {"username": "m2", "email": "m@example.com", "password": PASSWORD},
        "/api/users/login": {"username": "m", "password": "x"},
        "/api/approvals": {"tool_id": NOBODYS, "args": {}},
        "/api/tokens": {"name": "x", "scopes": ["read"]},
    }.get(path, {})
    refused = await called(api, method, path, {**fit, **field}, expect=422, **OPERATOR)
    assert [error["where"] for error in refused["errors"]] == list(field)


async def test_both_policy_flags_at_once_are_422(api: httpx.AsyncClient, floor: Floor) -> None:
    where = f"/api/tools/{floor.tools['restart'].spec.tool_id}/approval"
    await called(api, "PUT", where, {"auto_execute": True, "approval_required": True}, expect=422, **OPERATOR)


# Guessing passwords -----------------------------------------------------------------------------------------------


async def test_the_twelfth_wrong_password_is_429_and_so_is_the_right_one_then(api: httpx.AsyncClient) -> None:
    await person(api, "alice")
    guess = {"username": "alice", "password": "wrong-password"}
    codes = [(await api.post("/api/users/login", json=guess)).status_code for _ in range(12)]
    assert codes == [401] * 10 + [429] * 2
    refused = await api.post("/api/users/login", json={**guess, "password": PASSWORD})
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) > 0


async def test_a_header_gives_the_guesser_no_new_address(api: httpx.AsyncClient, floor: Floor) -> None:
    guess = {"username": "nobody-here", "password": "wrong-password"}
    async with serving(door_over(floor.service)) as port, httpx.AsyncClient() as client:
        headers = {"X-Forwarded-For": "203.0.113.7", "Forwarded": "for=203.0.113.7"}
        await client.post(f"http://127.0.0.1:{port}/api/users/login", json=guess, headers=headers)
    entry = (await called(api, "GET", "/api/audit?kind=user.login_failed", **OPERATOR))["items"][0]
    assert entry["data"]["address"] == "127.0.0.1"


async def test_an_unknown_user_and_a_wrong_password_get_the_same_answer(api: httpx.AsyncClient) -> None:
    await person(api, "alice")
    answers = [
        await called(api, "POST", "/api/users/login", {"username": name, "password": "wrong-password"}, expect=401)
        for name in ("alice", "nobody-here")
    ]
    assert answers[0] == answers[1]


async def test_a_duplicate_username_is_409_whatever_its_case(api: httpx.AsyncClient) -> None:
    await person(api, "alice")
    body = {"username": "ALICE", "email": "a@example.com", "password": PASSWORD}
    assert (await called(api, "POST", "/api/users", body, expect=409, **OPERATOR))["code"] == "username_taken"


async def test_guesses_at_the_consoles_login_run_out(api: httpx.AsyncClient) -> None:
    page = {"X-Requested-With": "opsagent"}
    codes = [
        (await api.post("/console/login", json={"api_key": f"guess-{n}"}, headers=page)).status_code for n in range(61)
    ]
    assert (set(codes[:60]), codes[60]) == ({401}, 429)
    assert (await api.post("/console/login", json={"api_key": API_KEY}, headers=page)).status_code == 429


# Bodies and heads that hurt ---------------------------------------------------------------------------------------


async def test_a_body_of_30_mb_is_413(api: httpx.AsyncClient) -> None:
    body = b'{"title": "' + b"x" * 30_000_000 + b'"}'
    answer = await api.post("/api/sessions", content=body, headers={**OPERATOR, **JSON})
    assert answer.status_code == 413


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
async def test_json_20000_levels_deep_is_422(api: httpx.AsyncClient, opening: bytes) -> None:
    body = b'{"tool_id": "' + str(uuid4()).encode() + b'", "args": {"a": ' + opening * 20_000
    closing = b"]" if opening == b"[" else b"}"
    for content in (body, body + b"1" + closing * 20_000 + b"}}"):
        answer = await api.post("/api/approvals", content=content, headers={**OPERATOR, **JSON})
        assert answer.status_code in {400, 422}, answer.text


async def test_a_compressed_bomb_is_not_unpacked(api: httpx.AsyncClient) -> None:
    bomb = zlib.compress(b"[" * 50_000_000)
    answer = await api.post("/api/sessions", content=bomb, headers={**OPERATOR, **JSON, "Content-Encoding": "deflate"})
    assert answer.status_code == 415


async def test_keys_that_stand_twice_are_400(api: httpx.AsyncClient, floor: Floor) -> None:
    tool = floor.tools["restart"].spec.tool_id
    body = f'{{"tool_id": "{tool}", "args": {{"service": "web", "service": "db"}}}}'
    assert (await api.post("/api/approvals", content=body, headers={**OPERATOR, **JSON})).status_code == 400


@pytest.mark.parametrize("text", ["a\\u0000b", "\\ud800", "\\udc00\\ud800"])
async def test_nul_and_half_surrogates_are_422_wherever_they_stand(
    api: httpx.AsyncClient, floor: Floor, text: str
) -> None:
    tool = floor.tools["restart"].spec.tool_id
    for path, body in (
        ("/api/sessions", f'{{"title": "{text}"}}'),
        ("/api/approvals", f'{{"tool_id": "{tool}", "args": {{"service": "{text}"}}}}'),
        ("/api/approvals", f'{{"tool_id": "{tool}", "args": {{"service": "x", "{text}": 1}}}}'),
        ("/api/users/login", f'{{"username": "{text}", "password": "x"}}'),
    ):
        answer = await api.post(path, content=body, headers={**OPERATOR, **JSON})
        assert (answer.status_code, answer.json()["code"]) == (422, "unstorable_text"), path


@pytest.mark.parametrize(
    "query",
    [
        "/api/audit?kind=' OR 1=1 --",
        "/api/audit?actor='; DROP TABLE users; --",
        "/api/audit?subject=%00",
        "/api/approvals?status=pending' OR '1'='1",
        "/api/users?slack_user_id=' UNION SELECT password_hash FROM users --",
        "/api/users?slack_user_id=%25",
        "/api/users?limit=1; DELETE FROM users",
        "/api/sessions?cursor=' OR 1=1 --",
        "/api/sessions?cursor=WyIxIiwiMiJd",
        "/api/audit?cursor=WyI5OTk5OTk5OTk5OTk5OTk5OTk5OTk5Il0",
        "/api/sessions?cursor=WyIwMDAxLTAxLTAxVDAwOjAwOjAwKzIzOjU5IiwgIjAwMDAwMDAwLTAwMDAtMDAwMC0wMDAwLTAwMDAwMDAwMDAwMCJd",
    ],
)
async def test_sql_in_filters_is_422(api: httpx.AsyncClient, query: str) -> None:
    path, _, rest = query.partition("?")
    name, _, value = rest.partition("=")
    await called(api, "GET", f"{path}?{name}={quote(value, safe='%')}", expect=422, **OPERATOR)


async def test_sql_that_is_a_fair_text_finds_nothing(api: httpx.AsyncClient) -> None:
    found = await called(api, "GET", f"/api/audit?subject={quote(chr(39) + ' OR 1=1 --')}", **OPERATOR)
    assert found["items"] == []


async def test_headers_without_end_are_431(floor: Floor) -> None:
    async with serving(door_over(floor.service)) as port:
        for head in (b"X-A: 1\r\n" * 101, b"X-A: " + b"a" * 40_000 + b"\r\n"):
            answer = await raw(port, b"GET /healthz HTTP/1.1\r\nHost: t\r\n" + head + b"\r\n")
            assert answer.startswith(b"HTTP/1.1 431"), answer[:200]
            assert b"headers_too_large" in answer
        _reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: t\r\nX-A: ")
        sent = 0
        async with asyncio.timeout(45):
            try:
                while sent < 10_000_000:  # never a line's end
                    writer.write(b"a" * 8_192)
                    await writer.drain()
                    sent += 8_192
            except ConnectionError:
                pass
        assert sent < 10_000_000
        writer.close()


async def raw(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    async with asyncio.timeout(45):
        answer = await reader.read()
    writer.close()
    return answer


async def test_a_body_that_trickles_in_is_408_and_changes_nothing(floor: Floor, mocker: MockerFixture) -> None:
    mocker.patch("api.bodies._SLOWEST_S", 0.5)
    async with serving(door_over(floor.service)) as port:
        head = f"POST /api/sessions HTTP/1.1\r\nHost: t\r\nX-API-Key: {API_KEY}\r\nContent-Type: application/json\r\n"
        answer = await raw(port, f'{head}Content-Length: 100\r\n\r\n{{"title": '.encode())
    assert answer.startswith(b"HTTP/1.1 408"), answer[:200]
    assert b"body_too_slow" in answer
    assert await floor.sql("SELECT 1 FROM user_sessions") == []


async def test_a_frame_that_claims_to_be_huge_is_not_waited_for(floor: Floor) -> None:
    session_id = await floor.session()
    async with serving(door_over(floor.service)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            f"GET /api/sessions/{session_id}/ws HTTP/1.1\r\nHost: t\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
            f"X-API-Key: {API_KEY}\r\n\r\n".encode()
        )
        await reader.readuntil(b'"ready"')
        writer.write(b"\x81\xff" + struct.pack("!Q", 2**40) + b"\0\0\0\0")
        async with asyncio.timeout(45):
            assert struct.pack("!H", 1009) in await reader.read()
        writer.close()


# Browsers ---------------------------------------------------------------------------------------------------------


async def test_no_other_site_is_let_in_by_cors(api: httpx.AsyncClient) -> None:
    evil = {"Origin": "https://evil.example"}
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}
    for answer in (
        await api.options("/api/sessions", headers={**evil, **asked}),
        await api.get("/api/sessions", headers={**evil, **OPERATOR}),
    ):
        assert not [name for name in answer.headers if name.startswith("access-control-")]


async def test_the_cookie_alone_changes_nothing_here_either(floor: Floor) -> None:
    app = door_over(floor.service)
    cookie = {"Cookie": f"{COOKIE}={app.state.door.identity._cookie.issue()}"}
    async with client_of(app, **cookie) as client:
        assert (await client.get("/api/sessions")).status_code == 200
        for method, path in (("POST", "/api/tokens"), ("PUT", "/api/users/profile"), ("POST", "/api/users")):
            refused = await client.request(method, path, json={})
            assert (refused.status_code, refused.json()["code"]) == (403, "csrf_header_missing")


# Secrets ----------------------------------------------------------------------------------------------------------


async def test_no_secret_reaches_the_log_or_the_audit_log(
    api: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.WARNING, logger="httpx")  # the client's own lines, not the product's
    body = {"username": "alice", "email": "a@example.com", "password": "canary-password-1"}
    with structlog.testing.capture_logs() as lines:
        await called(api, "POST", "/api/users", body, expect=201, **OPERATOR)
        login = {"username": "alice", "password": "canary-password-1"}
        token = (await called(api, "POST", "/api/users/login", login))["access_token"]
        await called(api, "POST", "/api/users/login", {**login, "password": "canary-wrong"}, expect=401)
        made = await called(api, "POST", "/api/tokens", {"name": "ci", "scopes": ["read"]}, expect=201, **OPERATOR)
        await api.get(f"/api/sessions?token={token}&key={API_KEY}", headers=bearer(token))
        await called(api, "GET", "/api/sessions", expect=401, **bearer(token + "x"))
    audit = await called(api, "GET", "/api/audit", **OPERATOR)
    told = json.dumps([lines, audit], default=str) + caplog.text + "".join(capsys.readouterr())
    assert "request.done" in told
    for secret in ("canary-password-1", "canary-wrong", token, made["token"], API_KEY):
        assert secret not in told
