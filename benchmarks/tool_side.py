"""The sides of the comparisons of tools: the product's own source of MCP tools, the SDK's bare client, tool workers."""

import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
from mcp import Client, StdioServerParameters

from agent.sandbox.policy import Mode, SandboxSpec
from agent.sandbox.workers import TOOL_FILES, WorkerPool
from agent.tools.base import CallContext, Outcome
from agent.tools.mcp import McpManager, McpServerConfig, Timing, ToolMarks
from agent.tools.registry import Registry
from benchmarks.subject import obey, quiet, timed
from opsagent.processes import loop
from tests.fakes.mcp_servers import hostile

SERVER = str(Path(__file__).with_name("instant_server.py"))
CONTEXT = CallContext(UUID(int=1), "call_1", UUID(int=2), UUID(int=3))
ARGS = {"text": "hello there"}
TOOL = '''
from langchain_core.tools import tool

@tool
def give_back(text: str) -> str:
    """Gives a text back."""
    return text
'''
HOSTILE: dict[str, tuple[str, str | None]] = {
    "remote references, backtracking patterns": ("bad_tools", "backtracking"),
    "a schema of 10 MB": ("vast_schema", None),
    "JSON 5000 levels deep": ("calls", "deep"),
    "a result of 80 MB": ("calls", "vast"),
    "a million empty objects": ("calls", "crumbs"),
    "progress without end": ("calls", "endless"),
    "100,000 tools": ("many", None),
    "a cursor without end": ("endless_pages", None),
}


def configs(servers: int, tools: int) -> list[McpServerConfig]:
    """So many servers with so many tools each, as MCP_CONFIG names them."""
    command = ("-I", "-S", SERVER, str(tools))
    return [
        McpServerConfig(f"s{number}", command=sys.executable, args=(*command, f"tool{number}"))
        for number in range(servers)
    ]


@asynccontextmanager
async def connected(servers: list[McpServerConfig], timing: Timing | None = None) -> AsyncIterator[Registry]:
    registry = Registry([McpManager(servers, timing or Timing(connect_s=60, list_s=60))])
    task = asyncio.create_task(registry.run())
    try:
        await registry.ready(60)
        yield registry
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _bare(config: McpServerConfig) -> Client:
    return Client(StdioServerParameters(command=config.command or "", args=list(config.args)))


class Sides:
    """What the parent may have done."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._ours: Registry | None = None
        self._bare: Client | None = None
        self._pools: dict[str, WorkerPool] = {}

    async def calls(self, n: int) -> dict[str, Any]:
        """Calls through the product's persistent connection."""
        registry = self._ours = self._ours or await self._stack.enter_async_context(connected(configs(1, 10)))
        tool = registry.by_name("tool0_0")
        assert tool, registry.problems()

        async def call(_: Any) -> None:
            result = await registry.call(tool, ARGS, CONTEXT)
            assert result.text == "hello there", result

        return await timed(call, [None] * n)

    async def bare_calls(self, n: int) -> dict[str, Any]:
        """The same calls through the SDK's client, as persistent."""
        client = self._bare = self._bare or await self._stack.enter_async_context(_bare(configs(1, 10)[0]))

        async def call(_: Any) -> None:
            result = await client.call_tool("tool0_0", ARGS)
            assert not result.is_error

        return await timed(call, [None] * n)

    async def ready(self, servers: int, tools: int) -> dict[str, Any]:
        """From nothing to all tools of all servers on offer."""
        begun = time.perf_counter()
        async with connected(configs(servers, tools)) as registry:
            assert len(registry.tools()) == servers * tools, registry.problems()
            return {"ms": (time.perf_counter() - begun) * 1000}

    async def bare_ready(self, servers: int, tools: int) -> dict[str, Any]:
        """The same with bare clients, all connected and asked at once, each until all are there."""
        begun, listed, all_ = time.perf_counter(), 0, asyncio.Event()

        async def one(config: McpServerConfig) -> None:
            nonlocal listed
            async with _bare(config) as client:
                offered = (await client.list_tools()).tools
                listed += len(offered)
                if listed == servers * tools:
                    all_.set()
                await all_.wait()

        tasks = [asyncio.create_task(one(config)) for config in configs(servers, tools)]
        async with asyncio.timeout(60):
            await all_.wait()
        taken = (time.perf_counter() - begun) * 1000
        await asyncio.gather(*tasks)
        return {"ms": taken}

    async def worker_calls(self, n: int, sandboxed: bool) -> dict[str, Any]:
        """Calls of a Python tool in a warm worker, held or not."""
        mode = Mode.BEST_EFFORT if sandboxed else Mode.OFF
        pool = self._pools.get(mode.value)
        if pool is None:
            folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="opsagent-benchmarks-")))
            (folder / "tools.py").write_text(TOOL)
            pool = self._pools[mode.value] = WorkerPool(TOOL_FILES, SandboxSpec(), 1, mode=mode, calls=1_000_000)
            self._stack.push_async_callback(pool.close)
            await pool.load([folder / "tools.py"])

        async def call(_: Any) -> None:
            result = await pool.call("give_back", ARGS, CONTEXT, 30)
            assert result.outcome is Outcome.SUCCEEDED, result

        return {**await timed(call, [None] * n), "missing": list(pool.protections.missing) if pool.protections else []}

    async def stall(self) -> dict[str, Any]:
        """Each hostile server in turn, once unmeasured: the loop's longest stall, and how far memory went up."""
        timing = Timing(connect_s=20, list_s=20)
        found: dict[str, Any] = {}
        for what in ("", *HOSTILE):
            mode, name = HOSTILE.get(what, ("calls", "fine"))
            watch = asyncio.create_task(_watch(lead := {"ms": 0.0, "cpu_ms": 0.0, "mb": 0.0}))
            marks = {name: ToolMarks(timeout_s=3)} if name else {}
            async with connected([hostile(mode, tools=marks)], timing) as registry:
                tool = registry.by_name(name) if name else None
                if tool:
                    args = {"text": "a" * 5_000 + "b"} if name == "backtracking" else {}
                    await registry.call(tool, args, CONTEXT)
                await asyncio.sleep(0.5)
            watch.cancel()
            if what:
                found[what] = lead
        return found


async def _watch(lead: dict[str, float]) -> None:
    process = psutil.Process()
    memory = process.memory_info().rss
    last, cpu = time.perf_counter(), time.thread_time()
    while True:
        await asyncio.sleep(0.002)
        now, spent = time.perf_counter(), time.thread_time()
        lead["ms"] = max(lead["ms"], (now - last) * 1000 - 2)
        lead["cpu_ms"] = max(lead["cpu_ms"], (spent - cpu) * 1000)
        lead["mb"] = max(lead["mb"], (process.memory_info().rss - memory) / 2**20)
        last, cpu = now, spent


async def main() -> None:
    async with AsyncExitStack() as stack:
        sides = Sides(stack)
        commands: list[Callable[..., Any]] = [
            *(sides.calls, sides.bare_calls, sides.ready, sides.bare_ready, sides.worker_calls, sides.stall)
        ]
        await obey({command.__name__: command for command in commands})


if __name__ == "__main__":
    quiet()
    with asyncio.Runner(loop_factory=loop) as runner:  # the product's own, for both sides
        runner.run(main())
