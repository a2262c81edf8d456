"""The first five minutes: no settings at all, an embedded database, a demo model, and every way to look at it."""

import asyncio
import json
import re
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from api.identity import CSRF_HEADER, CSRF_VALUE
from tests.fakes.mcp_servers import StdioProbe
from tests.fakes.product import Finished, Product, make_home, remove_home, run_command

pytestmark = pytest.mark.asyncio(loop_scope="module")
NOTHING = {"API_KEY": "", "SECRET_KEY": ""}


class Newcomer:
    """Somebody who typed `opsagent up` and reads what it prints."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.product = Product(home, NOTHING)

    @property
    def key(self) -> str:
        return (self.home / "api_key").read_text().strip()

    async def type(self, *words: str, typed: str = "") -> Finished:
        return await run_command(self.home, *words, typed=typed)

    async def say(self, session_id: str, message: str) -> dict[str, object]:
        path = f"/api/sessions/{session_id}/execute"
        return await self.product.call("POST", path, {"message": message}, key=self.key)

    async def session(self) -> str:
        return (await self.product.call("POST", "/api/sessions", key=self.key, expect=201))["session_id"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def newcomer() -> AsyncIterator[Newcomer]:
    newcomer = Newcomer(make_home())
    try:
        await newcomer.product.start()
        yield newcomer
    finally:
        await newcomer.product.close()
        remove_home(newcomer.home)


async def test_a_question_is_answered_a_change_is_approved_and_then_it_shows(newcomer: Newcomer) -> None:
    call, key = newcomer.product.call, newcomer.key
    session_id = await newcomer.session()
    asked = await newcomer.say(session_id, "status of web")
    assert asked["status"] == "completed"
    assert "web is running and was never restarted" in str(asked["reply"])
    assert "Demo model" in str(asked["reply"])

    waits = await newcomer.say(session_id, "restart web because it leaks memory")
    assert waits["status"] == "awaiting_approval"
    (pending,) = (await call("GET", "/api/approvals", key=key))["items"]
    assert pending["args"] == {"service": "web", "reason": "it leaks memory"}
    await call("POST", f"/api/approvals/{pending['approval_id']}/approve", {}, key=key)

    path = f"/api/sessions/{session_id}/turns/{waits['turn_id']}"
    async with asyncio.timeout(45):
        while (turn := await call("GET", path, key=key))["status"] != "completed":
            await asyncio.sleep(0.05)
    assert "Restarted web" in turn["reply"]
    assert "Restarts: 1" in str((await newcomer.say(session_id, "status of web"))["reply"])


async def test_the_start_says_what_it_is_and_where_the_keys_are_and_never_a_key(newcomer: Newcomer) -> None:
    said = newcomer.product.logs()
    assert f"opsagent is up at {newcomer.product.url}" in said
    assert "demo model" in said
    assert "Slack is off" in said
    for name in ("api_key", "secret_key"):
        path = newcomer.home / name
        assert str(path) in said
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.read_text().strip() not in said


async def test_the_printed_link_opens_the_console_once(newcomer: Newcomer) -> None:
    found = re.search(r"(http://\S+/)#token=(\S+)", newcomer.product.logs())
    assert found is not None
    assert found[1] == f"{newcomer.product.url}/"
    assert "<html" in (await newcomer.product.http.get("/")).text
    headers = {CSRF_HEADER: CSRF_VALUE}
    first = await newcomer.product.http.post("/console/login", json={"token": found[2]}, headers=headers)
    assert first.status_code == 204
    cookie = "; ".join(f"{name}={value}" for name, value in first.cookies.items())
    second = await newcomer.product.http.post("/console/login", json={"token": found[2]}, headers=headers)
    assert second.status_code == 401
    newcomer.product.http.cookies.clear()
    inside = await newcomer.product.http.get("/api/sessions", headers={**headers, "Cookie": cookie})
    assert inside.status_code == 200
    assert (await newcomer.product.http.get("/api/sessions")).status_code == 401


async def test_approvals_are_listed_and_decided_in_another_terminal(newcomer: Newcomer) -> None:
    session_id = await newcomer.session()
    for service in ("red", "green"):
        turn = await newcomer.say(await newcomer.session(), f"restart {service} because of the test")
        assert turn["status"] == "awaiting_approval"
    listed = await newcomer.type("approvals", "list")
    assert listed.code == 0, listed.err
    rows = listed.out.splitlines()
    ids = {service: next(row.split("\t")[0] for row in rows if f'"{service}"' in row) for service in ("red", "green")}

    approved = await newcomer.type("approvals", "approve", ids["green"], "--reason", "go")
    assert (approved.code, approved.out) == (0, "approved\trestart_service\n")
    rejected = await newcomer.type("approvals", "reject", ids["red"], "--reason", "no")
    assert (rejected.code, rejected.out) == (0, "rejected\trestart_service\n")
    again = await newcomer.type("approvals", "approve", ids["red"])
    assert one_sentence(again), again.said
    async with asyncio.timeout(45):
        while "Restarts: 1" not in str((await newcomer.say(session_id, "status of green"))["reply"]):
            await asyncio.sleep(0.2)
    assert "never restarted" in str((await newcomer.say(session_id, "status of red"))["reply"])
    assert (await newcomer.type("approvals", "list")).out == ""


def one_sentence(finished: Finished) -> bool:
    return finished.code == 1 and len(finished.err.splitlines()) == 1 and finished.err.startswith("opsagent: ")


async def test_tools_and_doctor_and_migrate_work_beside_it(newcomer: Newcomer) -> None:
    tools = await newcomer.type("tools", "list")
    assert tools.code == 0, tools.err
    rows = {line.split("\t")[0]: line.split("\t")[2] for line in tools.out.splitlines()}
    assert rows == {"restart_service": "ask", "rotate_logs": "ask", "service_status": "auto"}
    doctor = await newcomer.type("doctor")
    assert doctor.code == 0, doctor.said
    assert "ok    database: ok, embedded" in doctor.out
    assert "MEND" not in doctor.out
    migrated = await newcomer.type("migrate")
    assert migrated.code == 0, migrated.err


async def test_chat_asks_answers_and_takes_an_approval_in_the_terminal(newcomer: Newcomer) -> None:
    talked = await newcomer.type("chat", typed="status of chat-web\nrestart chat-web because of a leak\ny\n\n")
    assert talked.code == 0, talked.err
    assert "chat-web is running" in talked.out
    assert "restart_service needs your approval" in talked.out
    assert "Restarted chat-web" in talked.out
    assert talked.err == ""


async def test_after_a_power_cut_everything_is_still_there_and_a_stop_ends_the_database_too(newcomer: Newcomer) -> None:
    session_id = await newcomer.session()
    waits = await newcomer.say(session_id, "restart phoenix because of a power cut")
    newcomer.product.kill()
    await newcomer.product.close()
    newcomer.product = Product(newcomer.home, NOTHING)
    await newcomer.product.start()

    pending = (await newcomer.product.call("GET", "/api/approvals", key=newcomer.key))["items"]
    (asked,) = [approval for approval in pending if approval["session_id"] == session_id]
    await newcomer.product.call("POST", f"/api/approvals/{asked['approval_id']}/approve", {}, key=newcomer.key)
    path = f"/api/sessions/{session_id}/turns/{waits['turn_id']}"
    async with asyncio.timeout(45):
        while "Restarted phoenix" not in str(await newcomer.product.call("GET", path, key=newcomer.key)):
            await asyncio.sleep(0.1)

    assert (newcomer.home / "postgres" / "data" / "postmaster.pid").exists()
    assert await newcomer.product.stop() == 0
    assert not (newcomer.home / "postgres" / "data" / "postmaster.pid").exists()


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_tool_servers_that_it_started_end_with_it(newcomer: Newcomer, how: str) -> None:
    probe = StdioProbe(newcomer.home / f"effects-{how}.jsonl")
    entry = probe.config()
    config = newcomer.home / "mcp.json"
    config.write_text(json.dumps({"mcpServers": {"probe": {"command": entry.command, "args": list(entry.args)}}}))
    product = Product(newcomer.home, NOTHING | {"MCP_CONFIG": str(config)})
    await product.start()
    try:
        assert processes_of(probe)
        if how == "kill":
            product.kill()
        else:
            assert await product.stop() == 0
        async with asyncio.timeout(45):
            while processes_of(probe):
                await asyncio.sleep(0.05)
    finally:
        await product.close()


def processes_of(probe: StdioProbe) -> list[int]:
    return [p.pid for p in psutil.process_iter(["cmdline"]) if str(probe.path) in (p.info["cmdline"] or [])]
