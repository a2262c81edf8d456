"""Attacks by way of OAuth: servers that lead elsewhere, answers that are replayed or swapped, tokens of others."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import pytest

from agent.egress import EgressPolicy
from agent.sealing import CannotOpen, Sealer
from agent.server_logins import LoginFailed, UnknownAuthorization
from agent.servers import Patch, SecretsUnreadable
from agent.tools import mcp_oauth_rows
from agent.tools.mcp_checks import Wanted
from agent.tools.mcp_oauth import Grant, Login, NotLoggedIn, OAuthSettings
from agent.tools.mcp_oauth_web import Web
from agent.types import Role
from tests.fakes.authorization import Issuer, Protected, consent, issuing, listening, protected, query_of
from tests.fakes.mcp_floor import KEY, following, offered, register
from tests.fakes.rest import client_of, door_over
from tests.integration.conftest import ADMIN, Floor
from tests.integration.test_oauth import PUBLIC, SECRET, allow, by_itself, by_person, call, eventually, problems

METADATA = "http://169.254.169.254/latest/meta-data"


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with issuing() as issuer:
        yield issuer


@pytest.fixture
async def guarded(issuer: Issuer) -> AsyncIterator[Protected]:
    async with protected(issuer) as server:
        yield server


@pytest.fixture
async def floor(dsn: str) -> AsyncIterator[Floor]:
    async with following(dsn, public_url=PUBLIC) as floor:
        yield floor


@asynccontextmanager
async def inside() -> AsyncIterator[tuple[str, list[str]]]:
    """Something on the inner network that answers everybody; yields its address, and what was asked of it."""
    asked: list[str] = []

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            asked.append(scope["path"])
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"{}"})

    async with listening(app) as port:
        yield f"http://127.0.0.1:{port}", asked


def only(*servers: str) -> EgressPolicy:
    return EgressPolicy.of([f"127.0.0.1:{urlsplit(server).port}" for server in servers])


def answered(started: Any, **changes: str) -> str:
    return f"/api/mcp-servers/oauth/callback?{httpx.QueryParams({**query_of(started), **changes})}"


# Row 18: where a server leads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("grant", ["client_credentials", "authorization_code"])
@pytest.mark.parametrize(
    "lie",
    [
        "resource_metadata",
        "resource_metadata_redirect",
        "authorization_servers",
        "token_endpoint",
        "registration_endpoint",
        "authorization_endpoint",
        "cloud_metadata",
    ],
)
async def test_a_refusal_that_leads_to_an_inner_address_reaches_nothing_there(
    dsn: str, issuer: Issuer, guarded: Protected, lie: str, grant: str
) -> None:
    async with inside() as (inner, asked), following(dsn, egress=only(issuer.url, guarded.url)) as floor:
        match lie:
            case "resource_metadata":
                guarded.leads_to = f"{inner}/resource"
            case "cloud_metadata":
                guarded.leads_to = METADATA
            case "resource_metadata_redirect":

                async def away(scope: Any, _receive: Any, send: Any) -> None:
                    if scope["type"] == "http":
                        where = [(b"location", inner.encode())]
                        await send({"type": "http.response.start", "status": 307, "headers": where})
                        await send({"type": "http.response.body", "body": b""})

                async with listening(away) as port:
                    guarded.leads_to = f"http://127.0.0.1:{port}/resource"
                    await _tried(dsn, only(issuer.url, guarded.url, guarded.leads_to), guarded, issuer, grant)
                assert asked == []
                return
            case "authorization_servers":
                guarded.resource = {"authorization_servers": [inner]}
            case _:
                issuer.metadata = {lie: f"{inner}/{lie}"}
        said = await _attempt(floor, issuer, guarded, grant)
        harmless = {("registration_endpoint", "client_credentials"), ("authorization_endpoint", "client_credentials")}
        if (lie, grant) in harmless:
            assert said == ""
        elif (lie, grant) == ("token_endpoint", "authorization_code"):
            assert "where tools may not go" in said
            assert issuer.grants == []
        else:
            assert "where tools may not go" in said, said
        assert asked == []


async def _tried(dsn: str, egress: EgressPolicy, server: Protected, issuer: Issuer, grant: str) -> None:
    """A redirect off the origin is taken for an answer that isn't there: the well-known address is asked instead."""
    async with following(dsn, egress=egress) as floor:
        await _attempt(floor, issuer, server, grant)


async def _attempt(floor: Floor, issuer: Issuer, server: Protected, grant: str) -> str:
    """Log in by that grant as far as it goes; returns what is said to be wrong."""
    if grant == "client_credentials":
        view = await register(floor, by_itself(issuer, server))
        key = view.server.server_id

        async def settled() -> str | None:
            if (await floor.service.read_server(key, by=ADMIN)).health.connected:
                return "connected"
            return await problems(floor, key)

        said = await eventually(settled)
        return "" if said == "connected" else said
    view = await register(floor, by_person(server))
    try:
        started = await floor.service.start_server_login(view.server.server_id, by=ADMIN)
    except LoginFailed as error:
        return error.message
    back = query_of(await consent(started.authorization_url))
    try:
        await floor.service.finish_server_login(back["state"], code=back["code"], iss=back["iss"], error=None)
    except LoginFailed as error:
        return error.message
    return ""


async def test_an_https_server_can_not_have_secrets_sent_without_tls() -> None:
    async with httpx_client() as client:
        with pytest.raises(NotLoggedIn, match="without TLS"):
            await Web(client, https_only=True).send(_request("http://issuer.example.com/token"))


async def test_an_issuer_that_leads_in_circles_or_floods_is_left() -> None:
    async def flood(scope: Any, _receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(400):
                await send({"type": "http.response.body", "body": b"x" * 1024, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    async with listening(flood) as port, httpx_client() as client:
        web = Web(client, https_only=False)
        with pytest.raises(NotLoggedIn, match="more than"):
            await web.send(_request(f"http://127.0.0.1:{port}/"))
        for _ in range(39):
            await web.send(_request(f"http://127.0.0.1:{port}/"), head_only=True)
        with pytest.raises(NotLoggedIn, match="without end"):
            await web.send(_request(f"http://127.0.0.1:{port}/"), head_only=True)


def httpx_client() -> Any:
    import httpx2

    return httpx2.AsyncClient(trust_env=False)


def _request(url: str) -> Any:
    import httpx2

    return httpx2.Request("GET", url)


@pytest.mark.parametrize("known", ["given", "found"])
async def test_a_server_that_names_another_issuer_is_not_shown_the_client_secret(
    floor: Floor, issuer: Issuer, guarded: Protected, known: str
) -> None:
    """AS mix-up: the secret belongs to the first issuer, wherever the server leads later."""
    async with issuing() as evil:
        evil.register(secret=SECRET)
        more = {"issuer": issuer.url} if known == "given" else {}
        view = await register(floor, by_itself(issuer, guarded, **more), offers="echo")
        guarded.resource = {"authorization_servers": [evil.url]}
        issuer.revoke()
        assert "was not run" in await call(floor, "echo", '{"text": "db"}')
        said = await eventually(lambda: problems(floor, view.server.server_id))
        assert "leads to another authorization server" in said
        assert evil.asked == []


async def test_metadata_that_claims_to_be_another_issuers_is_refused(
    floor: Floor, issuer: Issuer, guarded: Protected
) -> None:
    issuer.metadata = {"issuer": "https://login.example.com"}
    said = await _attempt(floor, issuer, guarded, "authorization_code")
    assert "issuer mismatch" in said


async def test_a_token_for_another_resource_is_not_asked_for(floor: Floor, issuer: Issuer, guarded: Protected) -> None:
    guarded.resource = {"resource": "https://bank.example.com/"}
    said = await _attempt(floor, issuer, guarded, "client_credentials")
    assert "does not match" in said
    assert issuer.asked == []


async def test_an_issuer_without_pkce_is_refused(floor: Floor, issuer: Issuer, guarded: Protected) -> None:
    issuer.metadata = {"code_challenge_methods_supported": ["plain"]}
    assert "PKCE" in await _attempt(floor, issuer, guarded, "authorization_code")


async def test_a_server_that_refuses_good_tokens_does_not_set_off_a_storm(
    floor: Floor, issuer: Issuer, guarded: Protected
) -> None:
    view = await register(floor, by_itself(issuer, guarded), offers="echo")
    guarded.is_deaf = True
    before, refused = len(issuer.asked), guarded.refused
    assert "was not run" in await call(floor, "echo", '{"text": "db"}')
    key = view.server.server_id
    await floor.service.update_server(key, Patch(enabled=False), by=ADMIN)
    # At most one renewal for each request that was refused, and never a second try after it.
    assert len(issuer.asked) - before <= guarded.refused - refused


# The callback: CSRF, replay, injection ------------------------------------------------------------------------------


async def begun(floor: Floor, server: Protected, name: str = "web") -> tuple[UUID, str]:
    """Start an authorization and have a person say yes; returns the server's id and the way back."""
    view = await register(floor, by_person(server, name))
    started = await floor.service.start_server_login(view.server.server_id, by=ADMIN)
    return view.server.server_id, await consent(started.authorization_url)


async def test_a_state_that_nobody_started_or_that_was_used_admits_nothing(
    floor: Floor, issuer: Issuer, guarded: Protected
) -> None:
    _, back = await begun(floor, guarded)
    async with client_of(door_over(floor.service)) as browser:
        for forged in (answered(back, state="x" * 43), answered(back, state=""), "/api/mcp-servers/oauth/callback"):
            page = await browser.get(forged)
            assert page.status_code == 404
            assert "used already, or never started here" in page.text
        assert (await browser.get(answered(back, state="a\0b"))).status_code == 422
        assert issuer.asked == []
        first = await browser.get(answered(back))
        assert (first.status_code, first.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert "script" not in first.text
        assert first.headers["cache-control"] == "no-store"
        again = await browser.get(answered(back))
        assert again.status_code == 404
    assert issuer.count("authorization_code") == 1


async def test_of_callbacks_with_one_state_at_once_one_is_taken(
    floor: Floor, issuer: Issuer, guarded: Protected
) -> None:
    _, back = await begun(floor, guarded)
    query = query_of(back)
    asked = [
        floor.service.finish_server_login(query["state"], code=query["code"], iss=query["iss"], error=None)
        for _ in range(5)
    ]
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["UnknownAuthorization"] * 4 + ["str"]
    assert issuer.count("authorization_code") == 1


async def test_a_state_ends_after_ten_minutes(floor: Floor, issuer: Issuer, guarded: Protected) -> None:
    _, back = await begun(floor, guarded)
    await floor.sql("UPDATE mcp_oauth_starts SET expires_at = expires_at - interval '601 seconds'")
    async with client_of(door_over(floor.service)) as browser:
        page = await browser.get(answered(back))
    assert page.status_code == 410
    assert "more than ten minutes ago" in page.text
    assert issuer.asked == []


async def test_an_answer_of_another_issuer_is_refused(floor: Floor, issuer: Issuer, guarded: Protected) -> None:
    for iss in ("https://evil.example.com", ""):
        _, back = await begun(floor, guarded, f"web {len(iss)}")
        query = {name: value for name, value in query_of(back).items() if name != "iss"}
        wrong = f"/api/mcp-servers/oauth/callback?{httpx.QueryParams({**query, **({'iss': iss} if iss else {})})}"
        async with client_of(door_over(floor.service)) as browser:
            page = await browser.get(wrong)
            assert page.status_code == 422
            assert "did not come from the authorization server that was asked" in page.text
            assert (await browser.get(answered(back))).status_code == 404
    assert issuer.asked == []


async def test_a_no_is_told_and_no_text_of_the_answer_is_shown(
    floor: Floor, issuer: Issuer, guarded: Protected
) -> None:
    issuer.refuses = "access_denied"
    _, back = await begun(floor, guarded)
    async with client_of(door_over(floor.service)) as browser:
        page = await browser.get(answered(back))
        assert page.status_code == 403
        assert "the authorization server said access_denied" in page.text
        issuer.refuses = "<script>alert(1)</script>"
        _, back = await begun(floor, guarded, "other")
        page = await browser.get(answered(back))
    assert page.status_code == 403
    assert "script" not in page.text


async def test_a_code_is_worth_nothing_with_the_state_of_another_server(
    floor: Floor, issuer: Issuer, guarded: Protected
) -> None:
    """Code injection: the code of one authorization, brought back with the state of another."""
    async with protected(issuer) as second:
        one, back = await begun(floor, guarded, "one")
        two, other = await begun(floor, second, "two")
        async with client_of(door_over(floor.service)) as browser:
            page = await browser.get(answered(back, code=query_of(other)["code"]))
            assert page.status_code == 409
            assert "refuses the code (HTTP 400, invalid_grant)" in page.text
        for key in (one, two):
            oauth = (await floor.service.read_server(key, by=ADMIN)).server.oauth
            assert oauth is not None
            assert not oauth.authorized
        assert issuer.grants == []


async def test_an_authorization_counts_only_while_whoever_started_it_is_an_admin(
    floor: Floor, issuer: Issuer, guarded: Protected
) -> None:
    view = await register(floor, by_person(guarded))
    ann = await floor.user("ann", Role.ADMIN)
    started = await floor.service.start_server_login(view.server.server_id, by=ann)
    back = await consent(started.authorization_url)
    await floor.sql("UPDATE users SET role = 'member' WHERE username = 'ann'")
    async with client_of(door_over(floor.service)) as browser:
        page = await browser.get(answered(back))
    assert page.status_code == 403
    assert issuer.asked == []


async def test_an_authorization_does_not_pass_to_what_the_server_became_meanwhile(
    floor: Floor, issuer: Issuer, guarded: Protected
) -> None:
    key, back = await begun(floor, guarded)
    await floor.service.update_server(key, Patch(url=guarded.url + "/"), by=ADMIN)
    async with client_of(door_over(floor.service)) as browser:
        page = await browser.get(answered(back))
    assert page.status_code == 409
    assert "was changed since this authorization was started" in page.text
    assert issuer.asked == []


async def test_guessing_states_is_slowed_down(floor: Floor) -> None:
    async with client_of(door_over(floor.service)) as browser:
        statuses = {(await browser.get(f"/api/mcp-servers/oauth/callback?state={n}")).status_code for n in range(300)}
    assert statuses == {404, 429}


# Rows 28 and 29: what is stored -------------------------------------------------------------------------------------


async def test_a_login_that_was_moved_to_another_row_is_never_used(
    floor: Floor, issuer: Issuer, guarded: Protected
) -> None:
    async with protected(issuer) as second:
        one = (await register(floor, by_itself(issuer, guarded, "one"), offers="echo")).server.server_id
        two = (await register(floor, by_person(second, "two"))).server.server_id
        await floor.sql(
            "UPDATE mcp_oauth SET login = (SELECT login FROM mcp_oauth WHERE server_id = $1), obtained_at = now(), "
            "generation = generation + 1 WHERE server_id = $2",
            one,
            two,
        )
        async with asyncio.timeout(60):
            while "was changed, or sealed for another place" not in await problems(floor, two):
                await asyncio.sleep(0.05)
        assert second.seen == []
        await floor.sql("UPDATE mcp_oauth SET client_secret = login WHERE server_id = $1", one)
        with pytest.raises(SecretsUnreadable, match="another place"):
            await floor.service.update_server(one, Patch(enabled=False), by=ADMIN)


@pytest.mark.parametrize("column", ["client_secret", "login", "flow"])
async def test_a_plain_text_in_a_sealed_column_of_a_login_is_refused(
    floor: Floor, issuer: Issuer, guarded: Protected, column: str
) -> None:
    key, back = await begun(floor, guarded)
    table = "mcp_oauth_starts" if column == "flow" else "mcp_oauth"
    planted = '{"url": "' + guarded.url + '", "token": {"access_token": "planted-token"}}'
    await floor.sql(f"UPDATE {table} SET {column} = $1", planted)
    if column == "login":
        await floor.sql("UPDATE mcp_oauth SET obtained_at = now(), generation = generation + 1")
        async with asyncio.timeout(60):
            while "it is not sealed" not in await problems(floor, key):
                await asyncio.sleep(0.05)
    else:
        async with client_of(door_over(floor.service)) as browser:
            page = await browser.get(answered(back))
        assert page.status_code == 409
        assert "it is not sealed" in page.text
        assert "planted" not in page.text
    assert guarded.seen == []
    assert issuer.asked == []


def test_a_login_counts_for_its_own_address_alone() -> None:
    sealer, key = Sealer((KEY,)), UUID(int=7)
    login = Login("https://one.example.com/mcp", token={"access_token": "x"})
    row = {"server_id": key, "login": mcp_oauth_rows.sealed_login(sealer, key, login)}
    assert mcp_oauth_rows.login_of(row, sealer, "https://one.example.com/mcp") == login
    assert mcp_oauth_rows.login_of(row, sealer, "https://one.example.com/other") is None
    with pytest.raises(CannotOpen):
        mcp_oauth_rows.login_of({**row, "server_id": UUID(int=8)}, sealer, login.url)
    assert "x" not in repr(login).replace("example", "")


# Row 34: whose rights a call uses -----------------------------------------------------------------------------------


async def test_a_call_uses_its_own_servers_account_whoever_asks_and_the_audit_names_both(
    floor: Floor, issuer: Issuer, guarded: Protected
) -> None:
    """Confused deputy: neither user nor arguments choose a token, and no server gets another's."""
    async with issuing() as elsewhere, protected(elsewhere) as second:
        await register(floor, by_itself(issuer, guarded, "one"), offers="echo")
        await register(floor, by_itself(elsewhere, second, "two"), offers="two_echo")
        await offered(floor, "one_echo")
        ann, bob = await floor.user("ann"), await floor.user("bob")
        for tool in ("one_echo", "two_echo"):
            await allow(floor, tool)
        for user, tool in ((ann, "one_echo"), (bob, "two_echo")):
            session = await floor.session(by=user)
            done = await floor.say(session, f'{{{{tool {tool} {{"text": "db"}}}}}}', by=user, timeout=60)
            assert done.turn.reply == "tools said: db"
        assert set(guarded.seen) <= issuer.secrets
        assert set(second.seen) <= elsewhere.secrets
        assert set(guarded.seen).isdisjoint(second.seen)
        entries = (await floor.service.read_audit(by=ADMIN, kind="execution.started", limit=50)).items
        found = {(e.actor_id, e.data["tool_name"], e.data["server"], e.data["credentials"]) for e in entries}
        assert found == {
            (ann.user_id, "one_echo", "one", "oauth:client_credentials"),
            (bob.user_id, "two_echo", "two", "oauth:client_credentials"),
        }
        for user in (ann, bob):
            for view in await floor.service.list_servers(by=ADMIN):
                with pytest.raises(Exception, match="Only an admin"):
                    await floor.service.start_server_login(view.server.server_id, by=user)


async def test_a_token_goes_to_its_servers_own_origin_only(floor: Floor, issuer: Issuer) -> None:
    """An event-stream server that names an endpoint elsewhere: the token stays here."""
    async with inside() as (inner, asked):

        async def app(scope: Any, _receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                headers = [(b"content-type", b"text/event-stream")]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                body = f"event: endpoint\ndata: {inner}/messages\n\n".encode()
                await send({"type": "http.response.body", "body": body, "more_body": True})
                await asyncio.sleep(0.5)
                await send({"type": "http.response.body", "body": b""})

        guard = Protected(issuer, "/sse")
        async with listening(guard.wrap(app)) as port:
            guard.url = f"http://127.0.0.1:{port}/sse"
            client = issuer.register(secret=SECRET)
            oauth = OAuthSettings(Grant.CLIENT_CREDENTIALS, client.client_id, SECRET)
            view = await register(floor, Wanted("old", "sse", url=guard.url, oauth=oauth))
            await eventually(lambda: problems(floor, view.server.server_id))
            assert guard.seen
        assert asked == []


async def test_an_unknown_state_is_a_refusal_of_the_service_too(floor: Floor) -> None:
    with pytest.raises(UnknownAuthorization):
        await floor.service.finish_server_login("x" * 43, code="y", iss=None, error=None)
