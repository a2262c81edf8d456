"""MCP servers registered over REST: hot on every replica, sealed, guarded, and gone when removed."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from agent.accounts import AdminsOnly
from agent.approvals.policy import Rule
from agent.approvals.types import Decision
from agent.egress import EgressPolicy
from agent.sealing import Sealer
from agent.servers import FromFile, NameTaken, Patch, SecretsNeeded, SecretsUnreadable
from agent.tools.mcp import McpManager, McpServerConfig
from agent.tools.mcp_checks import NotConfirmed, Wanted
from agent.tools.publishing import Followed
from tests.fakes.mcp_floor import KEY, OTHER_KEY, following, names, offered, open_probe, register, wanted
from tests.fakes.mcp_servers import HttpProbe, StdioProbe
from tests.fakes.product import Product, make_home, remove_home, run_command
from tests.fakes.rest import OPERATOR, client_of, door_over
from tests.integration.conftest import ADMIN, Floor

AUTO = Rule(auto_execute=True, approval_required=False)
LOCAL = EgressPolicy.of(["127.0.0.1", "localhost"])
SECRET = "obviously-fake-server-secret"


@pytest.fixture
def probe() -> Iterator[StdioProbe]:
    with open_probe() as probe:
        yield probe


@pytest.fixture
async def floor(dsn: str) -> AsyncIterator[Floor]:
    async with following(dsn) as floor:
        yield floor


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[HttpProbe]:
    probe = HttpProbe(tmp_path / "effects.jsonl")
    await probe.start()
    yield probe
    probe.kill()


def at(probe: HttpProbe, **more: Any) -> Wanted:
    return Wanted("web", "streamable_http", url=f"http://127.0.0.1:{probe.port}/mcp", **more)


async def tool_id(floor: Floor, name: str) -> UUID:
    return next(t.spec.tool_id for t in await floor.service.list_tools(by=ADMIN) if t.spec.name == name)


# Hot on every replica -----------------------------------------------------------------------------------------------


async def test_a_registered_server_is_called_in_its_sandbox_without_a_restart(floor: Floor, probe: StdioProbe) -> None:
    view = await register(floor, wanted(probe), offers="echo")
    await floor.service.set_tool_approval(await tool_id(floor, "echo"), AUTO, by=ADMIN)
    done = await floor.say(await floor.session(), '{{tool echo {"text": "db"}}}', timeout=45)
    assert done.turn.reply == "tools said: db"
    health = (await floor.service.read_server(view.server.server_id, by=ADMIN)).health
    assert (health.connected, health.workers, health.problems) == (True, 1, ())
    assert health.tools >= 8


async def test_a_second_worker_follows_what_is_registered_changed_and_removed(
    dsn: str, floor: Floor, http: HttpProbe
) -> None:
    async with following(dsn) as other:
        view = await register(floor, at(http), offers="echo")
        await offered(other, "echo")
        key = view.server.server_id
        await floor.service.update_server(key, Patch(enabled=False), by=ADMIN)
        for each in (floor, other):
            await offered(each, "echo", is_offered=False)
        await floor.service.update_server(key, Patch(enabled=True), by=ADMIN)
        await offered(other, "echo")
        await other.service.remove_server(key, by=ADMIN)
        for each in (floor, other):
            await offered(each, "echo", is_offered=False)


async def test_what_was_allowed_of_a_removed_server_does_not_pass_to_the_next_of_its_name(
    floor: Floor, http: HttpProbe
) -> None:
    view = await register(floor, at(http), offers="web_restart")
    await floor.service.set_tool_approval(await tool_id(floor, "web_restart"), AUTO, by=ADMIN)
    await floor.service.remove_server(view.server.server_id, by=ADMIN)
    await offered(floor, "web_restart", is_offered=False)
    await register(floor, at(http), offers="web_restart")
    listed = [t for t in await floor.service.list_tools(by=ADMIN) if t.spec.name == "web_restart"]
    assert [(t.auto_execute, t.approval_required) for t in listed] == [(False, True)]


async def test_an_event_stream_server_works_and_its_loss_is_noticed(floor: Floor, tmp_path: Path) -> None:
    probe = HttpProbe(tmp_path / "effects.jsonl", sse=True)
    await probe.start()
    try:
        url = f"http://127.0.0.1:{probe.port}/sse"
        view = await register(floor, Wanted("old", "sse", url=url), offers="echo")
        await floor.service.set_tool_approval(await tool_id(floor, "echo"), AUTO, by=ADMIN)
        session_id = await floor.session()
        done = await floor.say(session_id, '{{tool echo {"text": "db"}}}', timeout=45)
        assert done.turn.reply == "tools said: db"
        probe.kill()
        async with asyncio.timeout(45):
            while (await floor.service.read_server(view.server.server_id, by=ADMIN)).health.connected:
                await asyncio.sleep(0.1)
        await probe.start()
        async with asyncio.timeout(45):
            while not (await floor.service.read_server(view.server.server_id, by=ADMIN)).health.connected:
                await asyncio.sleep(0.1)
        done = await floor.say(session_id, '{{tool echo {"text": "web"}}}', timeout=45)
        assert done.turn.reply == "tools said: web"
    finally:
        probe.kill()


async def test_a_server_of_the_file_is_shown_and_changed_only_there(dsn: str, http: HttpProbe) -> None:
    async with following(dsn, of_file=(http.config("desk"),)) as floor:
        await offered(floor, "echo")
        (view,) = await floor.service.list_servers(by=ADMIN)
        assert (view.server.name, view.server.is_file, view.health.connected) == ("desk", True, True)
        with pytest.raises(FromFile):
            await floor.service.remove_server(view.server.server_id, by=ADMIN)
        with pytest.raises(NameTaken):
            await floor.service.register_server(replace(at(http), name="Desk"), by=ADMIN)


async def test_what_was_approved_of_a_server_of_the_file_counts_no_more_once_it_stands_elsewhere(
    dsn: str, http: HttpProbe
) -> None:
    asks = '{{tool echo {"text": "db"}}}'
    async with following(dsn, of_file=(http.config("desk"),), work=False) as floor:
        await offered(floor, "echo")
        session_id, decided_in = await floor.session(), await floor.session()
        for session in (session_id, decided_in):
            await floor.service.submit_message(session, asks, by=ADMIN)
            await floor.core.turns.advance(session)
        pending, decided = [
            (await floor.sql("SELECT approval_id FROM approvals WHERE session_id = $1", session))[0]["approval_id"]
            for session in (session_id, decided_in)
        ]
        await floor.service.decide_approval(decided, Decision.APPROVE, by=ADMIN)
    async with following(dsn, of_file=(http.config("desk"),), work=False) as floor:
        assert await floor.sql("SELECT 1 FROM audit_log WHERE kind = 'server.changed'") == []
    other = replace(http.config("desk"), url=f"http://localhost:{http.port}/mcp")
    async with following(dsn, of_file=(other,), work=False) as floor:
        await offered(floor, "echo")
        await floor.core.turns.advance(decided_in)
        for approval_id in (pending, decided):
            async with asyncio.timeout(45):
                while (now := await floor.service.read_approval(approval_id, by=ADMIN)).status.value != "cancelled":
                    await asyncio.sleep(0.05)
            assert now.execution.value == "none"
        (entry,) = await floor.sql("SELECT data FROM audit_log WHERE kind = 'server.changed'")
        assert json.loads(entry["data"]) == {"name": "desk", "transport": "streamable_http", "moved": True}
        assert http.count("echo") == 0


@pytest.mark.parametrize("was_in_file", [True, False])
async def test_nor_once_another_server_has_its_name_be_it_the_files_or_a_registered_one(
    dsn: str, http: HttpProbe, was_in_file: bool
) -> None:
    file = http.config("desk")
    registered = replace(at(http), name="desk", url=f"http://localhost:{http.port}/mcp")
    async with following(dsn, of_file=(file,) if was_in_file else (), egress=LOCAL, work=False) as floor:
        if not was_in_file:
            await floor.service.register_server(registered, by=ADMIN)
        await offered(floor, "echo")
        session_id = await floor.session()
        await floor.service.submit_message(session_id, '{{tool echo {"text": "db"}}}', by=ADMIN)
        await floor.core.turns.advance(session_id)
        ((approval_id,),) = await floor.sql("SELECT approval_id FROM approvals")
    async with following(dsn, of_file=() if was_in_file else (file,), egress=LOCAL, work=False) as floor:
        if was_in_file:
            await floor.sql("DELETE FROM mcp_health")  # as minutes later: nobody has the old one any more
            await floor.service.register_server(registered, by=ADMIN)
        await offered(floor, "echo")
        async with asyncio.timeout(45):
            while (await floor.service.read_approval(approval_id, by=ADMIN)).status.value != "cancelled":
                await asyncio.sleep(0.05)


def of_file(floor: Floor, port: int, *names: str) -> Followed:
    """A replica whose file says that these servers are at this port."""
    file = [McpServerConfig(name, url=f"http://127.0.0.1:{port}/mcp") for name in names]
    return Followed(floor.core.database, Sealer((KEY,)), McpManager(file), file)


async def test_a_replica_with_another_file_voids_what_was_approved_once_and_not_whenever_it_looks(floor: Floor) -> None:
    old, new = of_file(floor, 1, "desk"), of_file(floor, 2, "desk")
    for replica in (old, new, old, new, old):
        await replica.follow()
    assert len(await floor.sql("SELECT 1 FROM audit_log WHERE kind = 'server.changed'")) == 1


async def test_replicas_that_name_moved_servers_in_another_order_do_not_wait_for_each_other(floor: Floor) -> None:
    await of_file(floor, 1, "one", "two").follow()
    for port in range(2, 22, 2):
        one, two = of_file(floor, port, "one", "two"), of_file(floor, port + 1, "two", "one")
        await asyncio.gather(one.follow(), two.follow())
    assert len(await floor.sql("SELECT 1 FROM audit_log WHERE kind = 'server.changed'")) == 40


async def test_a_trial_tells_what_a_server_offers_and_what_is_wrong(floor: Floor, http: HttpProbe) -> None:
    view = await register(floor, at(http, enabled=False))
    trial = await floor.service.test_server(view.server.server_id, by=ADMIN)
    assert trial.connected
    assert "echo" in [name for name, _ in trial.tools]
    http.kill()
    failed = await floor.service.test_server(view.server.server_id, by=ADMIN)
    assert (failed.connected, failed.tools) == (False, ())
    assert "no connection" in " ".join(failed.problems)
    assert names(floor).isdisjoint({"echo"})


COUNTED = '''
from langchain_core.tools import tool

@tool
def first() -> str:
    """Be there."""
    return "first"
first.metadata = {"read_only": True}
'''


async def test_the_product_runs_files_and_registered_servers_reloads_rotates_and_starts_again(
    tmp_path: Path, http: HttpProbe
) -> None:
    home, tools = make_home(), tmp_path / "tools"
    tools.mkdir()
    (tools / "ours.py").write_text(COUNTED)
    settings = {"TOOLS_DIR": str(tools), "OPSAGENT_ALLOW_HOSTS": "127.0.0.1", "SECRET_KEY": ""}
    try:
        product = await Product(home, settings).start()
        body = {"name": "web", "transport": "streamable_http", "url": f"http://127.0.0.1:{http.port}/mcp"}
        body["headers"] = {"X-Token": SECRET}  # type: ignore[assignment]
        await product.call("POST", "/api/mcp-servers", body, expect=201)
        await listed(product, {"first", "echo"})
        (tools / "ours.py").write_text(COUNTED.replace("first", "second"))
        await product.call("POST", "/api/tools/reload", expect=202)
        await listed(product, {"second", "echo"})
        rotated = await run_command(home, "keys", "rotate", settings=settings)
        assert rotated.code == 0, rotated.said
        assert "1 stored secrets were sealed anew" in rotated.out
        await listed(product, {"second", "echo"})
        assert await product.stop() == 0
        await product.close()
        product = await Product(home, settings).start()
        await listed(product, {"second", "echo"})
        (server,) = (await product.call("GET", "/api/mcp-servers"))["items"]
        assert (await product.call("POST", f"/api/mcp-servers/{server['server_id']}/test"))["connected"]
        assert SECRET not in product.logs()
        await product.close()
    finally:
        remove_home(home)


async def listed(product: Product, wanted: set[str]) -> None:
    async with asyncio.timeout(45):
        while not wanted <= {tool["name"] for tool in (await product.call("GET", "/api/tools"))["items"]}:
            await asyncio.sleep(0.1)


# Who may, and what must be confirmed --------------------------------------------------------------------------------


async def test_only_admins_see_or_change_servers(floor: Floor, http: HttpProbe) -> None:
    ann = await floor.user("ann")
    view = await register(floor, at(http))
    key = view.server.server_id
    for attempt in (
        floor.service.register_server(at(http), by=ann),
        floor.service.list_servers(by=ann),
        floor.service.read_server(key, by=ann),
        floor.service.update_server(key, Patch(enabled=False), by=ann),
        floor.service.remove_server(key, by=ann),
        floor.service.accept_tools(key, by=ann),
        floor.service.test_server(key, by=ann),
        floor.service.reseal_secrets(by=ann),
        floor.service.reload_tools(by=ann),
    ):
        with pytest.raises(AdminsOnly):
            await attempt


async def test_a_command_runs_only_as_it_was_confirmed_to_the_letter(floor: Floor, probe: StdioProbe) -> None:
    asked = wanted(probe)
    for line in (None, "", asked.address + " ", asked.address.replace("stdio", "stdi")):
        with pytest.raises(NotConfirmed) as refused:
            await floor.service.register_server(asked, by=ADMIN, confirm_command=line)
        assert asked.address in refused.value.message
    view = await register(floor, asked)
    with pytest.raises(NotConfirmed):
        await floor.service.update_server(view.server.server_id, Patch(args=("-c", "print()")), by=ADMIN)


# Secrets ------------------------------------------------------------------------------------------------------------


async def test_secrets_are_sealed_in_the_database_and_never_shown_again(floor: Floor, http: HttpProbe) -> None:
    app = door_over(floor.service)
    body = {
        "name": "web",
        "transport": "streamable_http",
        "url": f"http://127.0.0.1:{http.port}/mcp",
        "headers": {"Authorization": f"Bearer {SECRET}"},
    }
    async with client_of(app, **OPERATOR) as api:
        made = await api.post("/api/mcp-servers", json=body)
        assert made.status_code == 201, made.text
        where = made.headers["Location"]
        texts = [made.text, (await api.get(where)).text, (await api.get("/api/mcp-servers")).text]
        texts.append((await api.patch(where, json={"enabled": True})).text)
        texts.append((await api.get("/api/audit")).text)
    assert made.json()["header_names"] == ["Authorization"]
    rows = await floor.sql("SELECT row_to_json(s)::text AS text FROM mcp_servers s")
    rows += await floor.sql("SELECT row_to_json(a)::text AS text FROM audit_log a")
    for text in [*texts, *(row["text"] for row in rows)]:
        assert SECRET not in text
    await offered(floor, "echo")


async def test_a_new_address_takes_no_stored_secret_along(floor: Floor, http: HttpProbe) -> None:
    view = await register(floor, at(http, headers={"X-Token": SECRET}))
    elsewhere = Patch(url="http://127.0.0.1:9999/mcp")
    with pytest.raises(SecretsNeeded, match="X-Token"):
        await floor.service.update_server(view.server.server_id, elsewhere, by=ADMIN)
    moved = await floor.service.update_server(
        view.server.server_id, replace(elsewhere, headers={"X-Token": None}), by=ADMIN
    )
    assert moved.server.header_names == ()


async def test_after_a_rotation_everything_is_sealed_with_the_newest_key(dsn: str, http: HttpProbe) -> None:
    async with following(dsn) as floor:
        view = await register(floor, at(http, headers={"X-Token": SECRET}))
    async with following(dsn, keys=(OTHER_KEY, KEY)) as floor:
        assert await floor.service.reseal_secrets(by=ADMIN) == 1
        assert await floor.service.reseal_secrets(by=ADMIN) == 0
    async with following(dsn, keys=(OTHER_KEY,)) as floor:
        assert (await floor.service.test_server(view.server.server_id, by=ADMIN)).connected
    async with following(dsn, keys=(KEY,)) as floor:
        with pytest.raises(SecretsUnreadable, match="SECRET_KEY does not list"):
            await floor.service.test_server(view.server.server_id, by=ADMIN)


async def test_a_worker_that_lacks_the_new_key_keeps_the_connection_it_has(dsn: str, http: HttpProbe) -> None:
    async with following(dsn) as floor:
        await register(floor, at(http, headers={"X-Token": SECRET}), offers="echo")
        async with following(dsn, keys=(OTHER_KEY, KEY)) as newer:
            await newer.service.reseal_secrets(by=ADMIN)
        await floor.core.follow_servers()
        assert "echo" in names(floor)


# Tools as admins want them ------------------------------------------------------------------------------------------


async def test_a_renamed_tool_is_called_by_its_new_name_and_a_taken_name_is_refused(floor: Floor) -> None:
    async with client_of(door_over(floor.service), **OPERATOR) as api:
        key = floor.tools["uptime"].spec.tool_id
        changed = await api.patch(f"/api/tools/{key}", json={"name": "how_long", "description": "How long it is up."})
        assert changed.json()["name"] == "how_long"
        taken = await api.patch(f"/api/tools/{key}", json={"name": "restart"})
        assert (taken.status_code, taken.json()["code"]) == (409, "tool_name_taken")
        bad = await api.patch(f"/api/tools/{key}", json={"name": "a b"})
        assert bad.status_code == 422
    await offered(floor, "how_long")
    done = await floor.say(await floor.session(), '{{tool how_long {"service": "db"}}}')
    assert done.turn.reply == "tools said: uptimeed db"


async def test_a_disabled_tool_is_not_offered_and_a_call_of_it_refused(floor: Floor) -> None:
    async with client_of(door_over(floor.service), **OPERATOR) as api:
        key = floor.tools["uptime"].spec.tool_id
        assert (await api.patch(f"/api/tools/{key}", json={"enabled": False})).json()["status"] == "disabled"
        done = await floor.say(await floor.session(), '{{tool uptime {"service": "db"}}}')
        assert "switched off by an admin" in (done.turn.reply or "")
        asked = await api.post("/api/approvals", json={"tool_id": str(key), "args": {"service": "db"}})
        assert (asked.status_code, asked.json()["code"]) == (409, "tool_withheld")
        await offered(floor, "uptime", is_offered=False)
        await api.patch(f"/api/tools/{key}", json={"enabled": True})
        await offered(floor, "uptime")
    assert floor.tools.ran("uptime") == []


async def test_a_tool_shows_how_its_calls_went(floor: Floor) -> None:
    crash = floor.tools["crash"].spec.tool_id
    await floor.service.set_tool_approval(crash, AUTO, by=ADMIN)
    session_id = await floor.session()
    await floor.say(session_id, '{{tool crash {"service": "a"}}}')
    async with client_of(door_over(floor.service), **OPERATOR) as api:
        shown = (await api.get(f"/api/tools/{crash}")).json()
        unused = (await api.get(f"/api/tools/{floor.tools['repeat'].spec.tool_id}")).json()
    assert (shown["calls"], shown["error_rate"], bool(shown["last_used_at"])) == (1, 1.0, True)
    assert (unused["calls"], unused["error_rate"], unused["last_used_at"]) == (0, None, None)


async def test_what_admins_and_well_known_forms_name_never_leaves_a_result(floor: Floor) -> None:
    async def leak(_args: Any) -> Any:
        from agent.tools.base import ToolResult

        return ToolResult("token xoxb-1234567890-obviouslyfake and ticket OPS-4711, AKIAABCDEFGHIJKLMNOP")

    floor.tools["uptime"].effect = leak
    async with client_of(door_over(floor.service), **OPERATOR) as api:
        where = f"/api/tools/{floor.tools['uptime'].spec.tool_id}"
        assert (await api.patch(where, json={"redact": [r"OPS-\d+"]})).status_code == 200
        assert (await api.patch(where, json={"redact": ["("]})).json()["code"] == "bad_pattern"
    await floor.until(lambda: floor.core.registry.by_name("uptime").spec.redact != ())  # type: ignore[union-attr]
    done = await floor.say(await floor.session(), '{{tool uptime {"service": "a"}}}')
    assert done.turn.reply == "tools said: token [redacted] and ticket [redacted], [redacted]"
