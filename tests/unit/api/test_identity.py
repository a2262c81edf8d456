"""Who gets in: the API key, and the console's cookie."""

import re
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from api.console.login import COOKIE, COOKIE_LIFE_S, ConsoleCookie, OneTimeTokens
from tests.fakes.memory_service import MemoryService
from tests.unit.api.conftest import API_KEY, KEYS
from tests.unit.api.test_refusals import problem

PAGE = {"X-Requested-With": "opsagent"}


@pytest.mark.parametrize(
    "headers",
    [{"X-API-Key": API_KEY}, {"Authorization": f"Bearer {API_KEY}"}, {"Authorization": f"bearer  {API_KEY} "}],
)
async def test_the_api_key_gets_in_either_way(anyone: httpx.AsyncClient, headers: dict[str, str]) -> None:
    assert (await anyone.get("/api/sessions", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": ""},
        {"X-API-Key": API_KEY[:-1]},
        {"X-API-Key": API_KEY + "x"},
        {"X-API-Key": b"caf\xe9"},
        {"X-API-Key": "wrong", "Authorization": f"Bearer {API_KEY}"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer"},
        {"Authorization": f"Basic {API_KEY}"},
        {"Authorization": API_KEY},
        {"Cookie": f"{COOKIE}={API_KEY}"},
        {"Cookie": f"{COOKIE}=v1.99999999999.x.{'0' * 64}"},
        {"Cookie": f"{COOKIE}="},
    ],
)
@pytest.mark.parametrize("path", ["/api/sessions", "/api/tools", "/api/approvals", "/api/console/info"])
async def test_everyone_else_is_401(anyone: httpx.AsyncClient, headers: dict[str, str], path: str) -> None:
    answer = await anyone.get(path, headers=headers)
    body = answer.json()
    assert problem(answer, 401, body["code"])
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert API_KEY not in answer.text


async def test_strangers_are_told_nothing_about_their_bodies(anyone: httpx.AsyncClient) -> None:
    answer = await anyone.post("/api/sessions", content=b"{", headers={"Content-Type": "application/json"})
    problem(answer, 401, "unauthorized")


async def test_every_route_but_the_public_ones_needs_a_key(app: FastAPI, anyone: httpx.AsyncClient) -> None:
    public = {"/healthz", "/readyz", "/metrics", "/api/users/login"}
    for path, calls in app.openapi()["paths"].items():
        for method in calls:
            answer = await anyone.request(method.upper(), re.sub(r"{\w+}", str(uuid4()), path))
            assert (answer.status_code != 401) == (path in public), f"{method} {path}: {answer.status_code}"


async def test_a_one_time_link_opens_the_console_once(anyone: httpx.AsyncClient, tokens: OneTimeTokens) -> None:
    token = tokens.issue()
    first = await anyone.post("/console/login", json={"token": token}, headers=PAGE)
    assert first.status_code == 204
    cookie = first.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert f"Max-Age={COOKIE_LIFE_S}" in cookie
    assert token not in cookie
    info = await anyone.get("/api/console/info")
    assert info.json()["demo"] is True
    assert info.json()["user"]["username"] == "api-key"
    anyone.cookies.clear()
    problem(await anyone.post("/console/login", json={"token": token}, headers=PAGE), 401, "login_refused")


async def test_the_cookie_is_secure_where_the_page_is(app: FastAPI, tokens: OneTimeTokens) -> None:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="https://opsagent.test", headers=PAGE) as client:
        answer = await client.post("/console/login", json={"token": tokens.issue()})
    assert "Secure" in answer.headers["set-cookie"]


async def test_the_api_key_opens_the_console_too(anyone: httpx.AsyncClient, service: MemoryService) -> None:
    wrong = await anyone.post("/console/login", json={"api_key": "wrong"}, headers=PAGE)
    problem(wrong, 401, "login_refused")
    assert (await anyone.post("/console/login", json={"api_key": API_KEY}, headers=PAGE)).status_code == 204
    assert (await anyone.get("/api/sessions")).status_code == 200
    assert service.console_logins == [(True, False), (True, True)]


async def test_signing_out_ends_the_cookie(anyone: httpx.AsyncClient, tokens: OneTimeTokens) -> None:
    await anyone.post("/console/login", json={"token": tokens.issue()}, headers=PAGE)
    assert (await anyone.post("/console/logout", headers=PAGE)).status_code == 204
    assert (await anyone.get("/api/sessions")).status_code == 401


async def test_the_cookie_alone_changes_nothing(
    anyone: httpx.AsyncClient, tokens: OneTimeTokens, service: MemoryService
) -> None:
    await anyone.post("/console/login", json={"token": tokens.issue()}, headers=PAGE)
    problem(await anyone.post("/api/sessions", json={}), 403, "csrf_header_missing")
    assert not service.kept
    assert (await anyone.post("/api/sessions", json={}, headers=PAGE)).status_code == 201
    assert (await anyone.get("/api/sessions")).status_code == 200


async def test_another_site_can_not_sign_anyone_in(anyone: httpx.AsyncClient, tokens: OneTimeTokens) -> None:
    token = tokens.issue()
    problem(await anyone.post("/console/login", json={"token": token}), 403, "csrf_header_missing")
    assert tokens.redeem(token)


async def test_a_login_with_nothing_in_it_is_refused(anyone: httpx.AsyncClient) -> None:
    problem(await anyone.post("/console/login", json={}, headers=PAGE), 401, "login_refused")


def test_a_one_time_token_lasts_fifteen_minutes() -> None:
    now = [0.0]
    tokens = OneTimeTokens(now=lambda: now[0])
    early, late = tokens.issue(), tokens.issue()
    now[0] = 899.0
    assert tokens.redeem(early)
    now[0] = 900.0
    assert not tokens.redeem(late)
    assert not tokens.redeem("never issued")


def test_one_time_tokens_do_not_pile_up() -> None:
    now = [0.0]
    tokens = OneTimeTokens(now=lambda: now[0])
    for _ in range(1_500):
        last = tokens.issue()
    assert len(tokens._until) == 1_000
    assert tokens.redeem(last)
    now[0] = 1_000.0
    tokens.issue()
    assert len(tokens._until) == 1


def test_a_cookie_ends_after_twelve_hours() -> None:
    now = [1_000_000.0]
    cookie = ConsoleCookie(KEYS.signing, KEYS.api_key, now=lambda: now[0])
    value = cookie.issue()
    now[0] += 12 * 3600 - 1
    assert cookie.is_valid(value)
    now[0] += 1
    assert not cookie.is_valid(value)


def test_a_cookie_outlives_a_new_signing_key_and_no_new_api_key() -> None:
    newest, oldest = KEYS.signing
    value = ConsoleCookie([oldest], KEYS.api_key).issue()
    assert ConsoleCookie([newest, oldest], KEYS.api_key).is_valid(value)
    assert not ConsoleCookie([newest], KEYS.api_key).is_valid(value)
    assert not ConsoleCookie([oldest], SecretStr("another-fake-key")).is_valid(value)


@pytest.mark.parametrize("field", [0, 1, 2, 3])
def test_a_changed_cookie_is_worthless(field: int) -> None:
    cookie = ConsoleCookie(KEYS.signing, KEYS.api_key)
    parts = cookie.issue().split(".")
    parts[field] = "9" + parts[field][1:] if parts[field][0] != "9" else "8" + parts[field][1:]
    assert not cookie.is_valid(".".join(parts))


def test_there_is_no_cookie_without_a_key() -> None:
    with pytest.raises(ValueError, match="signing key"):
        ConsoleCookie([], KEYS.api_key)
