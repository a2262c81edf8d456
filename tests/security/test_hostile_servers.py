"""Row 20: servers that lie, flood and never end cost themselves their tools, and nobody else anything."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio
import mcp_types as types
import psutil
import pytest
from mcp.shared.message import SessionMessage

from agent.tools.base import CallContext, Outcome, ToolResult
from agent.tools.mcp import McpManager, McpServerConfig, Timing, ToolMarks
from agent.tools.mcp_listing import Sieve, Sieved
from agent.tools.registry import Registry
from tests.fakes.mcp_servers import StdioProbe, hostile

CONTEXT = CallContext(UUID(int=1), "call_1", UUID(int=2), UUID(int=3))
MEMORY = 64 * 1024 * 1024
STALL_S = 5.0
"""Far over what is wanted, which `python -m benchmarks hostile` measures: the machine may be busy."""


class Watch:
    """What the process paid: its longest stall, its memory, its CPU time."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self.stall = 0.0
        self.grown = 0
        self._before = self._process.memory_info().rss

    async def beat(self) -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.01)
            now = time.monotonic()
            self.stall, last = max(self.stall, now - last), now
            self.grown = max(self.grown, self._process.memory_info().rss - self._before)


@contextlib.asynccontextmanager
async def beside_a_neighbour(folder: Path, *servers: McpServerConfig) -> AsyncIterator[tuple[Registry, McpManager]]:
    """The servers and an honest one, whose calls must go through before, meanwhile and afterwards."""
    manager = McpManager([StdioProbe(folder / "effects.jsonl").config(), *servers], Timing(connect_s=30, list_s=20))
    registry = Registry([manager])
    watch = Watch()
    tasks = [asyncio.create_task(registry.run()), asyncio.create_task(watch.beat())]
    try:
        await registry.ready(90)
        assert (await call(registry, "echo", text="before")).text == "before"
        yield registry, manager
        assert (await call(registry, "echo", text="after")).text == "after"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert watch.stall < STALL_S
    assert watch.grown < MEMORY


async def call(registry: Registry, name: str, /, **args: str) -> ToolResult:
    tool = registry.by_name(name)
    assert tool, f"no {name}: {registry.problems()}"
    return await registry.call(tool, args, CONTEXT)


def of_hostile(manager: McpManager) -> list[str]:
    return [tool.spec.name for tool in manager.tools() if tool.spec.server == "hostile"]


async def test_a_schema_of_ten_megabytes_is_not_read(tmp_path: Path) -> None:
    async with beside_a_neighbour(tmp_path, hostile("vast_schema")) as (_, manager):
        assert of_hostile(manager) == []
        assert "larger than" in manager.problems()["hostile"]


async def test_a_schema_that_refers_elsewhere_is_not_fetched(tmp_path: Path) -> None:
    visited: list[bytes] = []

    async def elsewhere(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visited.append(await reader.readline())
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        writer.close()

    server = await asyncio.start_server(elsewhere, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/schema"
    async with server, beside_a_neighbour(tmp_path, hostile("refers", url)) as (registry, manager):
        assert of_hostile(manager) == ["honest"]
        assert "remote" in " ".join(manager.problems().values())
        assert (await call(registry, "honest", text="x")).outcome is Outcome.SUCCEEDED
    assert visited == []


async def test_a_pattern_that_backtracks_for_ever_is_judged_in_linear_time(tmp_path: Path) -> None:
    async with beside_a_neighbour(tmp_path, hostile("bad_tools")) as (registry, _):
        refused = await call(registry, "backtracking", text="a" * 5_000 + "b")
        assert refused.outcome is Outcome.FAILED
        assert refused.text.startswith("Argument `text` of `backtracking`")


async def test_a_hundred_thousand_tools_are_a_thousand(tmp_path: Path) -> None:
    async with beside_a_neighbour(tmp_path, hostile("many")) as (_, manager):
        assert len(of_hostile(manager)) == 1000
        assert "more than 1000 tools" in " ".join(manager.problems().values())


async def test_a_cursor_without_end_ends(tmp_path: Path) -> None:
    async with beside_a_neighbour(tmp_path, hostile("endless_pages")) as (_, manager):
        assert len(of_hostile(manager)) == 100
        assert "100 pages" in " ".join(manager.problems().values())


@pytest.mark.parametrize(("tool", "said"), [("deep", "not a JSON-RPC"), ("vast", "larger"), ("crumbs", "parts")])
async def test_an_answer_that_nobody_can_hold_is_unknown_at_once(tmp_path: Path, tool: str, said: str) -> None:
    """3000 levels and more, 80 MB, and a million empty objects."""
    async with beside_a_neighbour(tmp_path, hostile("calls")) as (registry, _):
        result = await call(registry, tool)
        assert result.outcome is Outcome.UNKNOWN
        assert said in result.text
        assert (await call(registry, "fine")).text == "fine ran"


@pytest.mark.parametrize("tool", ["endless", "babble"])
async def test_progress_without_end_leaves_the_neighbours_their_turn(tmp_path: Path, tool: str) -> None:
    """And so do answers to what nobody asked."""
    server = hostile("calls", tools={tool: ToolMarks(timeout_s=3)})
    async with beside_a_neighbour(tmp_path, server) as (registry, _):
        pending = asyncio.create_task(call(registry, tool))
        while not pending.done():
            assert (await call(registry, "echo", text="meanwhile")).text == "meanwhile"
            await asyncio.sleep(0.1)
        assert (await pending).outcome is Outcome.UNKNOWN


NEWS = types.JSONRPCNotification(jsonrpc="2.0", method="notifications/progress", params={"progress": 1})
STRAY = types.JSONRPCResponse(jsonrpc="2.0", id=987654, result={})


class Flood:
    """A connection on which the next message is always there already."""

    def __init__(self, message: types.JSONRPCMessage) -> None:
        self._message = message
        self.read = 0

    async def __aenter__(self) -> tuple["Flood", None]:
        return self, None

    async def __aexit__(self, *error: object) -> None:
        return

    async def receive(self) -> SessionMessage:
        self.read += 1
        if self.read > 100_000:
            raise anyio.EndOfStream
        return SessionMessage(self._message)


@pytest.mark.parametrize("message", [NEWS, STRAY], ids=["progress", "answers to nothing"])
async def test_what_nobody_asked_for_is_read_slowly(message: types.JSONRPCMessage) -> None:
    flood: Any = Flood(message)
    stream, _ = await Sieved(flood, Sieve(lambda _: None)).__aenter__()

    async def read_all() -> None:
        while True:
            await stream.receive()

    task = asyncio.create_task(read_all())
    for _ in range(1_000):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    # A few hundred in a second, and this is over in much less.
    assert flood.read < 5_000
