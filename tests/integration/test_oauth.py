"""Logins at MCP servers by OAuth: both grants end to end, renewed, shared by replicas, and shown to nobody."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import pytest

from agent.approvals.policy import Rule
from agent.egress import EgressPolicy
from agent.sealing import Sealer
from agent.server_logins import NothingToAuthorize
from agent.servers import Patch, SecretsNeeded
from agent.tools import mcp_oauth_rows
from agent.tools.mcp_checks import Wanted
from agent.tools.mcp_oauth import Grant, NotLoggedIn, OAuthSettings
from agent.tools.mcp_oauth_keeper import access_of
from db.database import Database
from tests.fakes.authorization import Issuer, Protected, consent, issuing, protected, query_of
from tests.fakes.mcp_floor import KEY, LOOPBACK, OTHER_KEY, following, names, offered, register
from tests.fakes.product import Product, make_home, remove_home
from tests.fakes.rest import OPERATOR, client_of, door_over
from tests.integration.conftest import ADMIN, Floor

AUTO = Rule(auto_execute=True, approval_required=False)
SECRET = "obviously-fake-client-secret"
PUBLIC = "http://opsagent.test"


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


def by_itself(at: Issuer, server: Protected, name: str = "web", **more: Any) -> Wanted:
    client = at.register(secret=SECRET)
    oauth = OAuthSettings(Grant.CLIENT_CREDENTIALS, client.client_id, SECRET, **more)
    transport = "sse" if server.path == "/sse" else "streamable_http"
    return Wanted(name, transport, url=server.url, oauth=oauth)


def by_person(server: Protected, name: str = "web", **more: Any) -> Wanted:
    return Wanted(name, "streamable_http", url=server.url, oauth=OAuthSettings(Grant.AUTHORIZATION_CODE, **more))


async def authorize(floor: Floor, server_id: UUID) -> str:
    """Start an authorization, give it as a person, and bring it back; returns the page."""
    started = await floor.service.start_server_login(server_id, by=ADMIN)
    back = urlsplit(await consent(started.authorization_url))
    async with client_of(door_over(floor.service)) as browser:
        page = await browser.get(f"{back.path}?{back.query}")
    assert page.status_code == 200, page.text
    return page.text


async def call(floor: Floor, tool: str, args: str) -> str:
    """Call a tool that runs at once; returns what it said."""
    await allow(floor, tool)
    done = await floor.say(await floor.session(), f"{{{{tool {tool} {args}}}}}", timeout=60)
    return (done.turn.reply or "").removeprefix("tools said: ")


async def allow(floor: Floor, tool: str) -> None:
    """Have everyone's calls of the tool run at once."""

    async def listed() -> list[UUID]:
        return [t.spec.tool_id for t in await floor.service.list_tools(by=ADMIN) if t.spec.name == tool]

    (tool_id,) = await eventually(listed)
    await floor.service.set_tool_approval(tool_id, AUTO, by=ADMIN)


async def eventually(condition: Callable[[], Any]) -> Any:
    async with asyncio.timeout(60):
        while not (found := await condition()):
            await asyncio.sleep(0.05)
        return found


async def problems(floor: Floor, server_id: UUID) -> str:
    return " ".join((await floor.service.read_server(server_id, by=ADMIN)).health.problems)


async def stored(floor: Floor) -> str:
    """Everything that the database holds, as text."""
    tables = await floor.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return "\n".join([repr(list(map(tuple, await floor.sql(f'SELECT * FROM "{t[0]}"')))) for t in tables])


# Both grants ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sse", [False, True])
async def test_a_server_is_called_with_a_token_that_opsagent_got_by_itself(
    floor: Floor, issuer: Issuer, sse: bool
) -> None:
    async with protected(issuer, sse=sse) as server:
        view = await register(floor, by_itself(issuer, server), offers="echo")
        assert await call(floor, "echo", '{"text": "db"}') == "db"
        seen = (await floor.service.read_server(view.server.server_id, by=ADMIN)).server.oauth
        assert seen is not None
        assert (seen.authorized, seen.has_client_secret, seen.issuer) == (True, True, issuer.url)
        assert issuer.count("client_credentials") == 1
        assert issuer.asked[0]["resource"] == server.url
        await floor.service.remove_server(view.server.server_id, by=ADMIN)
        await offered(floor, "echo", is_offered=False)


async def test_a_server_waits_for_an_admin_and_works_as_soon_as_it_is_authorized(
    dsn: str, floor: Floor, issuer: Issuer, guarded: Protected
) -> None:
    async with following(dsn, public_url=PUBLIC) as other:
        view = await register(floor, by_person(guarded))
        key = view.server.server_id
        said = await eventually(lambda: problems(floor, key))
        assert said == (
            "MCP server web needs authorization: an admin has to call "
            f"POST /api/mcp-servers/{key}/oauth/start and open the address in its answer."
        )
        assert guarded.visits == issuer.visits == []
        page = await authorize(other, key)
        assert "opsagent may use the MCP server web now" in page
        for each in (floor, other):
            await offered(each, "echo")
            assert await call(each, "echo", '{"text": "db"}') == "db"
        found = (await floor.service.read_server(key, by=ADMIN)).server.oauth
        assert found is not None
        assert (found.authorized, found.authorized_by, found.issuer) == (True, ADMIN.user_id, issuer.url)
        assert len(issuer.clients) == 1
        kinds = [entry.kind for entry in (await floor.service.read_audit(by=ADMIN)).items]
        assert {"server.authorization_started", "server.authorized"} <= set(kinds)


async def test_a_client_that_the_admin_registered_is_used_and_the_scope_is_the_admins(
    floor: Floor, issuer: Issuer, guarded: Protected
) -> None:
    client = issuer.register(f"{PUBLIC}/api/mcp-servers/oauth/callback", secret=SECRET)
    asked = by_person(guarded, client_id=client.client_id, client_secret=SECRET, scope="least", issuer=issuer.url)
    view = await register(floor, asked)
    started = await floor.service.start_server_login(view.server.server_id, by=ADMIN)
    query = query_of(started.authorization_url)
    assert (query["client_id"], query["scope"]) == (client.client_id, "least")
    assert (query["code_challenge_method"], query["resource"]) == ("S256", guarded.url)
    assert len(query["state"]) >= 32
    await authorize(floor, view.server.server_id)
    await offered(floor, "echo")
    assert "/register" not in issuer.visits


async def test_an_https_opsagent_names_itself_by_its_own_document(dsn: str, issuer: Issuer, guarded: Protected) -> None:
    issuer.metadata = {"client_id_metadata_document_supported": True}
    async with following(dsn, public_url="https://opsagent.test") as floor:
        view = await register(floor, by_person(guarded))
        started = await floor.service.start_server_login(view.server.server_id, by=ADMIN)
        where = query_of(started.authorization_url)["client_id"]
        async with client_of(door_over(floor.service)) as anyone:
            document = (await anyone.get(urlsplit(where).path)).json()
        assert document["client_id"] == where == "https://opsagent.test/api/mcp-servers/oauth/client.json"
        assert document["redirect_uris"] == ["https://opsagent.test/api/mcp-servers/oauth/callback"]
        await authorize(floor, view.server.server_id)
        await offered(floor, "echo")


# Renewal ----------------------------------------------------------------------------------------------------------


async def test_a_token_is_renewed_when_it_ends_or_is_refused(floor: Floor, issuer: Issuer, guarded: Protected) -> None:
    issuer.lifetime = 1
    view = await register(floor, by_person(guarded))
    await authorize(floor, view.server.server_id)
    await offered(floor, "echo")

    async def renewed() -> bool:
        assert await call(floor, "echo", '{"text": "db"}') == "db"
        return issuer.count("refresh_token") > 1

    await eventually(renewed)
    issuer.lifetime = None
    issuer.expire()
    assert await call(floor, "echo", '{"text": "db"}') == "db"
    assert issuer.count("authorization_code") == 1


async def test_a_token_of_its_own_is_asked_for_anew_when_it_is_refused(
    floor: Floor, issuer: Issuer, guarded: Protected
) -> None:
    await register(floor, by_itself(issuer, guarded), offers="echo")
    issuer.revoke()
    assert await call(floor, "echo", '{"text": "db"}') == "db"
    assert issuer.count("client_credentials") == 2


async def test_two_replicas_that_renew_at_once_use_a_refresh_token_once(
    dsn: str, issuer: Issuer, guarded: Protected
) -> None:
    """The issuer ends the grant when a refresh token comes twice, as OAuth 2.1 has it."""
    async with following(dsn, public_url=PUBLIC) as floor:
        view = await register(floor, by_person(guarded, "slow"))
        key = view.server.server_id
        await floor.service.update_server(key, Patch(enabled=False), by=ADMIN)
        await authorize(floor, key)
        issuer.expire()
        issuer.gate = asyncio.Event()
        tokens = [await opened(Database(dsn), key) for _ in range(2)]
        try:
            old = await tokens[0][1].token()
            both = [asyncio.create_task(keeper.token(rejected=old)) for _, keeper in tokens]
            async with asyncio.timeout(45):
                while issuer.count("refresh_token") < 1:
                    await asyncio.sleep(0.02)
            # The other one has had its time to ask too, had it not been held off.
            await asyncio.sleep(0.5)
            issuer.gate.set()
            first, second = await asyncio.gather(*both)
        finally:
            for database, _ in tokens:
                await database.close()
        assert first == second != old
        assert issuer.count("refresh_token") == 1
        assert issuer.grant_of(first) is not None


async def opened(database: Database, server_id: UUID) -> tuple[Database, Any]:
    await database.open()
    async with database.connection() as connection:
        server = await connection.fetchrow(
            "SELECT server_id, name, url, transport FROM mcp_servers WHERE server_id = $1", server_id
        )
        row = await connection.fetchrow(mcp_oauth_rows.sql.read, server_id)
    access = access_of(database, Sealer((KEY,)), LOOPBACK, server, row)
    assert access is not None
    return database, access.tokens


async def test_a_replica_that_died_while_it_renewed_holds_nobody_up(
    dsn: str, floor: Floor, issuer: Issuer, guarded: Protected
) -> None:
    view = await register(floor, by_itself(issuer, guarded), offers="echo")
    key = view.server.server_id
    await floor.sql(
        "UPDATE mcp_oauth SET renewing_by = gen_random_uuid(), renewing_until = now() - interval '1 second'"
    )
    database, keeper = await opened(Database(dsn), key)
    try:
        old = await keeper.token()
        assert await keeper.token(rejected=old) != old
    finally:
        await database.close()


async def test_whoever_is_cancelled_while_a_token_is_renewed_loses_no_token(
    dsn: str, floor: Floor, issuer: Issuer, guarded: Protected
) -> None:
    view = await register(floor, by_person(guarded))
    key = view.server.server_id
    await floor.service.update_server(key, Patch(enabled=False), by=ADMIN)
    await authorize(floor, key)
    issuer.gate = asyncio.Event()
    database, keeper = await opened(Database(dsn), key)
    try:
        old = await keeper.token()
        asking = asyncio.create_task(keeper.token(rejected=old))
        async with asyncio.timeout(45):
            while issuer.count("refresh_token") < 1:
                await asyncio.sleep(0.02)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        issuer.gate.set()
        new = await keeper.token(rejected=old)
        assert issuer.grant_of(new) is not None
        assert issuer.count("refresh_token") == 1
    finally:
        await database.close()


async def test_an_authorization_that_was_taken_back_is_asked_of_an_admin_again(
    floor: Floor, issuer: Issuer, guarded: Protected
) -> None:
    view = await register(floor, by_person(guarded))
    key = view.server.server_id
    await authorize(floor, key)
    await offered(floor, "echo")
    issuer.revoke()
    said = await call(floor, "echo", '{"text": "db"}')
    assert "was not run" in said
    assert "needs authorization by an admin" in said
    await eventually(lambda: problems(floor, key))
    asked = issuer.count("refresh_token")
    assert await call(floor, "echo", '{"text": "db"}') != "db"
    assert issuer.count("refresh_token") == asked
    await authorize(floor, key)

    async def works() -> bool:
        return await call(floor, "echo", '{"text": "db"}') == "db"

    await eventually(works)
    assert len(issuer.clients) == 1


async def test_an_authorization_server_that_is_away_takes_no_authorization_with_it(
    dsn: str, floor: Floor, issuer: Issuer, guarded: Protected
) -> None:
    view = await register(floor, by_person(guarded))
    key = view.server.server_id
    await floor.service.update_server(key, Patch(enabled=False), by=ADMIN)
    await authorize(floor, key)
    database, keeper = await opened(Database(dsn), key)
    try:
        old = await keeper.token()
        issuer.status = 503
        with pytest.raises(NotLoggedIn, match="HTTP 503, server_error") as trouble:
            await keeper.token(rejected=old)
        assert not trouble.value.needs_person
        issuer.status = None

        async def renewed() -> bool:
            try:
                return await keeper.token(rejected=old) != old
            except NotLoggedIn:
                return False

        await eventually(renewed)
    finally:
        await database.close()


async def test_a_slow_call_does_not_hold_up_the_others(floor: Floor, issuer: Issuer, guarded: Protected) -> None:
    await register(floor, by_itself(issuer, guarded), offers="wait")
    await allow(floor, "wait")
    slow = asyncio.create_task(floor.say(await floor.session(), '{{tool wait {"seconds": 20}}}', timeout=60))
    assert await call(floor, "echo", '{"text": "db"}') == "db"
    assert not slow.done()
    slow.cancel()
    await asyncio.gather(slow, return_exceptions=True)


# Settings and secrets -------------------------------------------------------------------------------------------------


async def test_other_settings_or_another_address_end_what_was_authorized(
    floor: Floor, issuer: Issuer, guarded: Protected
) -> None:
    view = await register(floor, by_person(guarded))
    key = view.server.server_id
    await authorize(floor, key)
    await offered(floor, "echo")
    moved = await floor.service.update_server(key, Patch(url=guarded.url + "/"), by=ADMIN)
    assert moved.server.oauth is not None
    assert not moved.server.oauth.authorized
    client = issuer.register(secret=SECRET)
    again = OAuthSettings(Grant.CLIENT_CREDENTIALS, client.client_id, SECRET)
    changed = Patch(url=guarded.url, changes_oauth=True, oauth=again)
    await floor.service.update_server(key, changed, by=ADMIN)
    await eventually(lambda: is_authorized(floor, key))
    with pytest.raises(SecretsNeeded, match="oauth"):
        await floor.service.update_server(key, Patch(url="http://127.0.0.1:9999/mcp"), by=ADMIN)
    with pytest.raises(NothingToAuthorize):
        await floor.service.start_server_login(key, by=ADMIN)
    without = await floor.service.update_server(key, Patch(changes_oauth=True), by=ADMIN)
    assert without.server.oauth is None


async def is_authorized(floor: Floor, server_id: UUID) -> bool:
    oauth = (await floor.service.read_server(server_id, by=ADMIN)).server.oauth
    return oauth is not None and oauth.authorized


async def test_wrong_settings_are_refused_with_a_sentence(floor: Floor, guarded: Protected) -> None:
    whole = {"grant": "client_credentials", "client_id": "a", "client_secret": SECRET}
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"oauth": {"grant": "client_credentials", "client_id": "a"}}, "needs `client_id` and `client_secret`"),
        ({"oauth": {"grant": "authorization_code", "client_secret": SECRET}}, "belongs to a `client_id`"),
        ({"oauth": {**whole, "scope": "a  b"}}, "one space between them"),
        ({"oauth": {**whole, "client_secret": "a\nb"}}, "plain ASCII on one line"),
        ({"oauth": {**whole, "issuer": "file:///etc"}}, "not a scheme"),
        ({"oauth": whole, "headers": {"authorization": "x"}}, "opsagent's own"),
        ({"oauth": {**whole, "token_endpoint": "x"}}, "token_endpoint"),
        ({"oauth": {"grant": "password"}}, "oauth.grant"),
    ]
    async with client_of(door_over(floor.service), **OPERATOR) as api:
        for more, sentence in wrong:
            body = {"name": "web", "transport": "streamable_http", "url": guarded.url, **more}
            answer = await api.post("/api/mcp-servers", json=body)
            assert answer.status_code == 422, answer.text
            assert sentence in answer.json()["detail"]
            assert SECRET not in answer.text
        assert (await api.get("/api/mcp-servers")).json()["items"] == []


async def test_keys_rotate_covers_every_secret_of_a_login(dsn: str, issuer: Issuer, guarded: Protected) -> None:
    async with following(dsn, public_url=PUBLIC) as floor:
        await register(floor, by_itself(issuer, guarded, "one"), offers="echo")
        view = await register(floor, by_person(guarded, "two"))
        key = view.server.server_id
        started = await floor.service.start_server_login(key, by=ADMIN)
    async with following(dsn, public_url=PUBLIC, keys=(OTHER_KEY, KEY)) as floor:
        # The secret and the login of the first, and the flow that the second has under way.
        assert await floor.service.reseal_secrets(by=ADMIN) == 3
        assert await floor.service.reseal_secrets(by=ADMIN) == 0
    async with following(dsn, public_url=PUBLIC, keys=(OTHER_KEY,)) as floor:
        await offered(floor, "echo")
        back = query_of(await consent(started.authorization_url))
        name = await floor.service.finish_server_login(back["state"], code=back["code"], iss=back["iss"], error=None)
        assert name == "two"


async def test_nothing_secret_of_a_login_is_shown_logged_or_stored_in_plain_text(
    floor: Floor, issuer: Issuer, guarded: Protected, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="agent")
    client = issuer.register(secret=SECRET)
    body = {
        "name": "web",
        "transport": "streamable_http",
        "url": guarded.url,
        "oauth": {"grant": "client_credentials", "client_id": client.client_id, "client_secret": SECRET},
    }
    texts: list[str] = []
    async with client_of(door_over(floor.service), **OPERATOR) as api:
        made = await api.post("/api/mcp-servers", json=body)
        assert made.status_code == 201, made.text
        await offered(floor, "tell")
        where = made.headers["Location"]
        person = {"name": "two", "url": guarded.url, "transport": "streamable_http"}
        other = await api.post("/api/mcp-servers", json={**person, "oauth": {"grant": "authorization_code"}})
        started = await api.post(f"{other.headers['Location']}/oauth/start")
        back = urlsplit(await consent(started.json()["authorization_url"]))
        kept = await stored(floor)
        page = await api.get(f"{back.path}?{back.query}")
        assert page.status_code == 200
        said = await call(floor, "web_tell", '{"text": "It is"}')
        assert said == "It is: Bearer ***"
        issuer.status = 400
        issuer.expire()
        failed = await call(floor, "web_tell", '{"text": "It is"}')
        assert "was not run" in failed
        trial = await api.post(f"{where}/test")
        assert "HTTP 400, server_error" in trial.text
        for path in ("/api/mcp-servers", where, "/api/audit", "/api/tools"):
            texts.append((await api.get(path)).text)
    texts += [made.text, other.text, page.text, trial.text, failed, caplog.text, kept, await stored(floor)]
    state = query_of(started.json()["authorization_url"])["state"]
    assert len(issuer.secrets) >= 4
    for text in texts:
        for secret in (SECRET, state, *issuer.secrets):
            assert secret not in text


async def test_the_product_authorizes_and_keeps_its_logs_and_its_database_clean(
    dsn: str, issuer: Issuer, guarded: Protected
) -> None:
    home = make_home()
    settings = {"OPSAGENT_ALLOW_HOSTS": "127.0.0.1", "DATABASE_URL": dsn, "LOG_LEVEL": "DEBUG"}
    products: list[Product] = []
    try:
        products.append(worker := await Product(home, settings, "work").start())
        # Another process than the one that holds the connection takes the answer.
        products.append(door := await Product(home, settings, "serve").start())
        oauth = {"grant": "authorization_code"}
        body = {"name": "web", "transport": "streamable_http", "url": guarded.url, "oauth": oauth}
        made = await door.call("POST", "/api/mcp-servers", body, expect=201)
        started = await door.call("POST", f"/api/mcp-servers/{made['server_id']}/oauth/start")
        back = await consent(started["authorization_url"])
        assert back.startswith(f"{door.url}/api/mcp-servers/oauth/callback?")
        page = await door.http.get(back)
        assert page.status_code == 200

        async def connected() -> bool:
            server = await door.call("GET", f"/api/mcp-servers/{made['server_id']}")
            return server["health"]["connected"]

        await eventually(connected)
        issuer.status = 400
        issuer.expire()
        await door.call("POST", f"/api/mcp-servers/{made['server_id']}/test")
        said = door.logs() + worker.logs()
        state = query_of(started["authorization_url"])["state"]
        for secret in (state, *issuer.secrets):
            assert secret not in said
    finally:
        for product in products:
            await product.close()
        remove_home(home)


async def test_an_unguarded_issuer_elsewhere_is_not_asked(dsn: str, issuer: Issuer, guarded: Protected) -> None:
    port = urlsplit(guarded.url).port
    async with following(dsn, egress=EgressPolicy.of([f"127.0.0.1:{port}"])) as floor:
        view = await register(floor, by_itself(issuer, guarded))
        said = await eventually(lambda: problems(floor, view.server.server_id))
        assert "leads to where tools may not go" in said
        assert issuer.visits == []
        assert names(floor).isdisjoint({"echo"})
