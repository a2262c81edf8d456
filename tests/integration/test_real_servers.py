"""MCP servers that nobody here wrote, as an admin would register them: called, killed in mid-call, and back."""

import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from agent.tools.base import Outcome
from agent.tools.mcp import McpServerConfig, Sandboxing, ToolMarks
from tests.fakes.real_servers import call, killed_in_mid_call, open_folder, processes_of, running

PROGRAMS = Path(sys.executable).parent


def real(name: str, *args: str, sandbox: Sandboxing | None = None, **more: Any) -> McpServerConfig:
    command = str(PROGRAMS / f"mcp-server-{name}")
    return McpServerConfig(name, command=command, args=args, sandbox=sandbox or Sandboxing(), **more)


@pytest.fixture
def place() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


async def test_the_time_server_answers_and_comes_back(place: Path) -> None:
    # Its time zone is what its processes are told apart by.
    config = real("time", "--local-timezone=Antarctica/Troll")
    async with running(config) as registry:
        answer = await call(registry, "convert_time", source_timezone="UTC", time="12:00", target_timezone="Asia/Tokyo")
        assert "21:00" in answer.text
        lost = await killed_in_mid_call(registry, processes_of(config), "get_current_time", timezone="UTC")
        assert lost.outcome is Outcome.UNKNOWN
        assert "UTC" in (await call(registry, "get_current_time", timezone="UTC")).text


async def test_the_git_server_reads_the_repository_that_it_was_given_and_comes_back(place: Path) -> None:
    repository = place / "fleet"
    repository.mkdir()
    who = ("-c", "user.name=Ann", "-c", "user.email=ann@example.com")
    for command in (("init", "-q", "-b", "main"), (*who, "commit", "-q", "--allow-empty", "-m", "Raise the limit")):
        subprocess.run(["git", *command], cwd=repository, check=True)
    for folder in (repository, *repository.rglob("*")):
        folder.chmod(0o777 if folder.is_dir() else 0o666)
    marks = {"git_log": ToolMarks(read_only=True)}
    sandbox = Sandboxing(read_paths=(str(repository),), memory_mb=None)
    # git refuses a repository of another account, which the sandbox's may be.
    trust = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
    # It stops at settings that it may not read: these lie outside of its sandbox.
    trust["GIT_CONFIG_NOSYSTEM"] = "1"
    config = real("git", f"--repository={repository}", sandbox=sandbox, env=trust, tools=marks)
    async with running(config) as registry:
        assert "Raise the limit" in (await call(registry, "git_log", repo_path=str(repository))).text
        elsewhere = await call(registry, "git_log", repo_path=str(place))
        assert elsewhere.outcome is Outcome.FAILED
        lost = await killed_in_mid_call(registry, processes_of(config), "git_log", repo_path=str(repository))
        assert lost.outcome is Outcome.FAILED
        assert "Raise the limit" in (await call(registry, "git_log", repo_path=str(repository))).text


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"<html><body><p>All systems are up.</p></body></html>"
        self.send_response(200 if self.path == "/status" else 404)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        return


@pytest.fixture
def page() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/status"
        server.shutdown()


async def test_the_fetch_server_fetches_with_the_network_and_not_without_it_and_comes_back(page: str) -> None:
    agent = f"--user-agent=opsagent-test-{page.rpartition(':')[2][:-7]}"
    config = real("fetch", agent, "--allow-private-ips", sandbox=Sandboxing(network=True, memory_mb=None))
    async with running(config) as registry:
        assert "All systems are up." in (await call(registry, "fetch", url=page, raw=True)).text
        lost = await killed_in_mid_call(registry, processes_of(config), "fetch", url=page, raw=True)
        assert lost.outcome is Outcome.UNKNOWN
        assert "All systems are up." in (await call(registry, "fetch", url=page, raw=True)).text
    async with running(real("fetch", agent, "--allow-private-ips", sandbox=Sandboxing(memory_mb=None))) as registry:
        alone = await call(registry, "fetch", url=page, raw=True)
        assert alone.outcome is Outcome.FAILED
