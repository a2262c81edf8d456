"""MCP servers that nobody here wrote: run as an admin would register them, called, and killed in mid-call."""

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil

from agent.sandbox.policy import Mode
from agent.tools.base import CallContext, ToolResult
from agent.tools.mcp import Keeping, McpManager, McpServerConfig, Timing
from agent.tools.registry import Registry

CONTEXT = CallContext(UUID(int=1), "call_1", UUID(int=2), UUID(int=3))
TIMING = Timing(connect_s=60, list_s=30, wait_s=60, backoff_s=(0.05, 0.5))


@contextlib.asynccontextmanager
async def running(config: McpServerConfig) -> AsyncIterator[Registry]:
    manager = McpManager([config], TIMING, Keeping(mode=Mode.BEST_EFFORT))
    registry = Registry([manager])
    task = asyncio.create_task(registry.run())
    try:
        await registry.ready(90)
        assert manager.health()[0].connected, manager.problems()
        yield registry
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def call(registry: Registry, name: str, /, **args: Any) -> ToolResult:
    tool = registry.by_name(name)
    assert tool, f"no {name}: {[tool.spec.name for tool in registry.tools()]} {registry.problems()}"
    return await registry.call(tool, args, CONTEXT)


def processes_of(config: McpServerConfig) -> list[int]:
    """Return our processes with its command in theirs: the program itself, and those that keep it."""
    words = {config.command, *config.args}
    found: list[int] = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if words <= set(process.cmdline()):
                found.append(process.pid)
    return found


async def killed_in_mid_call(registry: Registry, frozen: list[int], tool: str, **args: Any) -> ToolResult:
    """Freeze the server's processes, call it, kill them; return what the call gave."""
    assert frozen
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    pending = asyncio.create_task(call(registry, tool, **args))
    await asyncio.sleep(0.5)  # the request has left: nobody can answer it
    assert not pending.done()
    for pid in frozen:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return await pending


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that a sandboxed program may be given: whichever account it runs as."""
    folder = Path(tempfile.mkdtemp(prefix="opsagent-real-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
