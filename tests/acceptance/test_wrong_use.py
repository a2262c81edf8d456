"""Whatever an operator gets wrong is told in one sentence that names it and the mend; nothing is left running."""

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
import pytest_asyncio

from tests.acceptance.world import World, cloned, on_server
from tests.fakes.mcp_servers import free_port
from tests.fakes.product import Finished, Product, run_command

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(server: str, template: str) -> AsyncIterator[World]:
    """Right settings, of which each test spoils one."""
    async with cloned(server, template) as dsn, World(dsn, start=False) as world:
        yield world


def complaint(finished: Finished) -> str:
    """The one sentence on stderr; log lines, which are JSON, may stand beside it but hold no traceback."""
    lines = finished.err.splitlines()
    prose = [line for line in lines if not line.startswith("{")]
    assert finished.code == 1, finished.said
    assert len(prose) == 1, finished.err
    assert prose[0].startswith("opsagent: ")
    assert prose[0].endswith((".", "example")) or "for example " in prose[0]
    assert "Traceback" not in finished.said
    assert not [line for line in lines if line.startswith("{") and json.loads(line)["level"] in ("error", "critical")]
    return prose[0]


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize(
    "words",
    [[], ["dance"], ["up", "--fast"], ["approvals"], ["approvals", "approve"], ["tools", "eat"], ["up", "now"]],
    ids=" ".join,
)
async def test_wrong_use_exits_with_2_and_the_usage(world: World, words: list[str]) -> None:
    finished = await run_command(world.home, *words)
    assert finished.code == 2
    assert finished.err.startswith("usage: opsagent")
    assert finished.out == ""


async def test_help_lists_every_command(world: World) -> None:
    shown = await run_command(world.home, "--help")
    assert shown.code == 0
    for word in ("up", "serve", "work", "migrate", "doctor", "chat", "tools", "approvals", "keys"):
        assert f"\n    {word}" in shown.out


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "mysql://u:canary-database-password@localhost/x"),
        ("DATABASE_URL", "postgresql://u:canary-database-password@localhost:port/x"),
        ("SECRET_KEY", "canary-short"),
        ("LOG_LEVEL", "LOUD"),
        ("TONGYI_BASE_URL", "https://dashscope.example/compatible-mode/v1"),
        ("SLACK_BOT_TOKEN", "xapp-canary-bot-token"),
        ("SLACK_APP_TOKEN", "xoxb-canary-app-token"),
        ("SLACK_API_URL", "slack.example"),
        ("APPROVERS", "alice bob"),
        ("TOOLS_DIR", "/no/such/folder"),
        ("MCP_CONFIG", "/no/such/file.json"),
        ("OPEN_REGISTRATION", "perhaps"),
        ("HOST", "http://localhost"),
        ("PORT", "eighty"),
        ("PORT", "70000"),
        ("OPSAGENT_HOME", "/dev/null/home"),
        ("OPSAGENT_WORKER_CONCURRENCY", "0"),
        ("SLACK_CLIENT_ID", "12.34"),
        ("SLACK_SIGNING_SECRET", ""),
    ],
)
async def test_a_wrong_setting_is_named_with_a_right_example(world: World, name: str, value: str) -> None:
    spoiled = {name: value} if value else {"SLACK_APP_TOKEN": ""}  # neither of the two ways for Slack to reach us
    said = complaint(await world.command("up", **spoiled))
    assert name in said
    assert "canary" not in said
    assert "Error" not in said


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not valid JSON"),
        ("[]", "mcpServers"),
        ('{"mcpServers": {"x": {}}}', "command"),
        ('{"mcpServers": {"x": {"url": "ftp://canary-mcp-header-value"}}}', "http"),
        ('{"mcpServers": {"x": {"url": "http://x", "tools": {"t": {"readonly": true}}}}}', "readonly"),
    ],
)
async def test_a_wrong_mcp_config_is_told_with_its_path(world: World, content: str, says: str) -> None:
    path = world.home / "wrong.json"
    path.write_text(content)
    said = complaint(await world.command("tools", "check", MCP_CONFIG=str(path)))
    assert str(path) in said
    assert says in said
    assert "canary" not in said


async def test_a_wrong_mcp_config_ends_the_start_and_the_database_that_it_brought(world: World) -> None:
    path, port = world.home / "wrong.json", free_port()
    path.write_text("{")
    said = complaint(await world.command("up", MCP_CONFIG=str(path), DATABASE_URL="", PORT=str(port)))
    assert str(path) in said
    assert not listens(port)
    assert not (world.home / "postgres" / "data" / "postmaster.pid").exists()


async def test_an_mcp_config_that_may_not_be_read_is_told(world: World) -> None:
    path = world.home / "secret.json"
    path.write_text("{}")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("whoever runs this may read everything")
    assert "MCP_CONFIG" in complaint(await world.command("up", MCP_CONFIG=str(path)))


@pytest.mark.parametrize("command", ["up", "work", "chat"])
async def test_a_database_that_is_not_there_is_told_without_its_password(world: World, command: str) -> None:
    url = f"postgresql://opsagent:canary-database-password@127.0.0.1:{free_port()}/opsagent"
    port = free_port()
    finished = await world.command(command, DATABASE_URL=url, PORT=str(port))
    said = complaint(finished)
    assert "DATABASE_URL" in said
    assert "canary" not in finished.said
    assert not listens(port)


async def test_a_database_that_does_not_exist_is_told(world: World) -> None:
    said = complaint(await world.command("up", DATABASE_URL=world.dsn.replace("/acceptance_", "/missing_")))
    assert "DATABASE_URL" in said


async def test_a_port_that_is_taken_is_told(world: World) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        said = complaint(await world.command("up", PORT=str(port)))
    assert str(port) in said
    assert "PORT" in said


async def test_of_two_that_start_at_once_on_one_port_one_says_that_it_is_taken(world: World) -> None:
    port = str(free_port())
    first, second = (Product(world.home, {**world.settings, "PORT": port}) for _ in range(2))
    await asyncio.gather(first.start(ready=False), second.start(ready=False))
    await world.until(lambda: first.process.poll() is not None or second.process.poll() is not None, what="an end")
    loser, winner = (first, second) if first.process.poll() is not None else (second, first)
    try:
        assert loser.process.returncode == 1
        assert "opsagent: Nothing can listen on" in loser.logs()
        assert "Traceback" not in loser.logs()
        await winner.ready()
    finally:
        await asyncio.gather(first.close(), second.close())


async def test_a_database_with_too_few_connections_is_told(world: World, server: str) -> None:
    role = f"few_{uuid4().hex[:8]}"
    await on_server(server, f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 1 IN ROLE pg_read_all_data")
    try:
        said = complaint(await world.command("up", DATABASE_URL=world.dsn.replace("//postgres:", f"//{role}:")))
    finally:
        await on_server(server, f"DROP ROLE {role}")
    assert "DATABASE_URL" in said
    assert "canary" not in said


async def test_a_wrong_env_file_is_told(world: World) -> None:
    path = world.home / ".env"
    path.write_text("LOG_LEVEL=LOUD\n")
    try:
        assert "LOG_LEVEL" in complaint(await world.command("up", LOG_LEVEL=""))
        path.write_bytes(b"\xff\xfe")
        assert ".env" in complaint(await world.command("up"))
    finally:
        path.unlink()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SLACK_BOT_TOKEN", "xoxb-canary-wrong-token"),
        ("SLACK_APP_TOKEN", "xapp-canary-wrong-token"),
        ("TONGYI_API_KEY", "canary-wrong-model-key"),
    ],
)
async def test_a_key_that_is_not_taken_ends_the_start_with_its_name(world: World, name: str, value: str) -> None:
    port = free_port()
    finished = await world.command("up", PORT=str(port), LOG_LEVEL="INFO", **{name: value})
    said = complaint(finished)
    assert name in said
    assert "canary" not in finished.said
    assert not listens(port)


@pytest.mark.parametrize("command", ["serve", "work"])
@pytest.mark.parametrize("name", ["DATABASE_URL", "SECRET_KEY"])
async def test_processes_that_share_a_database_want_its_address_and_the_key(
    world: World, command: str, name: str
) -> None:
    said = complaint(await world.command(command, **{name: ""}))
    assert name in said
    assert f"opsagent {command}" in said


async def test_an_unknown_approval_is_told(world: World) -> None:
    assert "approvals list" in complaint(await world.command("approvals", "approve", "nonsense"))
    unknown = "00000000-0000-4000-8000-000000000000"
    complaint(await world.command("approvals", "reject", unknown))


async def test_an_unknown_status_is_wrong_use(world: World) -> None:
    finished = await world.command("approvals", "list", "--status", "lost")
    assert finished.code == 2
    assert "lost" in finished.err


async def test_the_doctor_finds_everything_right(world: World) -> None:
    found = await world.command("doctor")
    assert found.code == 0, found.said
    assert [line[:5] for line in found.out.splitlines()] == ["ok   "] * 6
    assert world.leaked(found.said) == []


async def test_the_doctor_names_all_that_is_wrong_at_once_and_the_mend_of_each(world: World) -> None:
    wrong = {
        "DATABASE_URL": f"postgresql://opsagent:canary-database-password@127.0.0.1:{free_port()}/opsagent",
        "TONGYI_API_KEY": "canary-wrong-model-key",
        "SLACK_BOT_TOKEN": "xoxb-canary-wrong-token",
        "SLACK_APP_TOKEN": "xapp-canary-wrong-token",
        "MCP_CONFIG": str(world.home / "nobody.json"),
    }
    (world.home / "nobody.json").write_text(json.dumps({"mcpServers": {"nobody": {"url": "http://127.0.0.1:9/mcp"}}}))
    found = await world.command("doctor", **wrong)
    assert found.code == 1
    lines = {line[6:].split(":")[0]: line for line in found.out.splitlines()}
    assert {name for name, line in lines.items() if line.startswith("MEND")} == {
        "database",
        "model",
        "tools",
        "slack",
        "slack socket",
    }
    for part, setting in [
        ("database", "DATABASE_URL"),
        ("model", "TONGYI_API_KEY"),
        ("slack", "SLACK_BOT_TOKEN"),
        ("slack socket", "SLACK_APP_TOKEN"),
    ]:
        assert setting in lines[part]
    assert "nobody" in lines["tools"]
    assert "canary" not in found.said
    assert found.err == ""


async def test_tools_check_loads_the_operators_files_and_fails_where_one_is_wrong(world: World) -> None:
    folder = world.home / "tools"
    folder.mkdir()
    right = await world.command("tools", "check", TOOLS_DIR=str(folder))
    assert right.code == 0, right.said
    assert "ok\trestart" in right.out.splitlines()
    (folder / "broken.py").write_text("this is no python")
    wrong = await world.command("tools", "check", TOOLS_DIR=str(folder))
    assert wrong.code == 1
    assert any(line.startswith("bad\tbroken") for line in wrong.out.splitlines()), wrong.said
    assert "Traceback" not in wrong.said


async def test_keys_rotate_puts_a_new_key_before_the_old_one(world: World) -> None:
    made = await world.command("keys", "rotate", SECRET_KEY="")
    assert made.code == 0, made.err
    path = world.home / "secret_key"
    first = path.read_text().strip().split(",")
    again = await world.command("keys", "rotate", SECRET_KEY="")
    second = path.read_text().strip().split(",")
    assert second[1:] == first
    assert second[0] not in made.said + again.said
    assert path.stat().st_mode & 0o777 == 0o600
    assert "SECRET_KEY" in complaint(await world.command("keys", "rotate"))


async def test_migrate_says_what_it_found(world: World) -> None:
    done = await world.command("migrate")
    assert (done.code, done.err) == (0, "")
    assert "already" in done.out


async def test_migrate_grants_a_role_the_rights_of_the_service_and_the_doctor_sees_it(world: World) -> None:
    role = f"service_{uuid4().hex[:12]}"
    assert "there is no role" in complaint(await world.command("migrate", "--grant-to", role))
    await on_server(world.dsn, f"CREATE ROLE {role} LOGIN")
    try:
        granted = await world.command("migrate", "--grant-to", role)
        assert (granted.code, granted.err) == (0, "")
        assert role in granted.out
        before, _, behind = world.dsn.partition("://")
        as_role = f"{before}://{role}:unused@{behind.rpartition('@')[2]}"
        assert f"the role {role} can add to the audit log" in (await world.command("doctor", DATABASE_URL=as_role)).out
        assert "could change the audit log" in (await world.command("doctor")).out
    finally:
        await on_server(world.dsn, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


async def test_rights_in_the_embedded_database_are_refused_in_a_sentence(world: World) -> None:
    assert "DATABASE_URL" in complaint(await world.command("migrate", "--grant-to", "service", DATABASE_URL=""))
