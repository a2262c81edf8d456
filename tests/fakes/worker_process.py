"""A worker as a process of its own: `python -m tests.fakes.worker_process` works until SIGTERM, `started` runs it.

Its tools append one line for each effect to a file; `slow` and `repeat` then wait until a file named `gate` exists.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import structlog

from agent.run import Limits
from agent.tools.base import ToolResult
from opsagent.compose import open_core
from tests.fakes.counting_tools import CountingTools
from tests.fakes.scripted_model import ScriptedModel

_REPOSITORY = Path(__file__).parents[2]
_TOOLS = ("restart", "uptime", "slow", "repeat")
_GATED = ("slow", "repeat")


class WorkerProcess:
    """One worker process, with what it logged and what its tools did."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path, effects: Path) -> None:
        self.process = process
        self._log = log
        self._effects = effects

    @property
    def is_running(self) -> bool:
        return self.process.returncode is None

    def logged(self, event: str, **fields: str) -> bool:
        """Whether some line of its log holds the event and the fields."""
        wanted = [event, *(f"{name}={value}" for name, value in fields.items())]
        return any(all(part in line for part in wanted) for line in self.log().splitlines())

    def log(self) -> str:
        return self._log.read_text()

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def open_gate(self) -> None:
        (self._effects.parent / "gate").touch()

    def ran(self) -> list[str]:
        """`tool service` for each effect, in order; of all processes that share the folder."""
        return self._effects.read_text().splitlines() if self._effects.exists() else []


@asynccontextmanager
async def started(dsn: str, folder: Path, *, name: str = "worker") -> AsyncIterator[WorkerProcess]:
    """A worker process that is ready to work; killed at the end of the block."""
    log = folder / f"{name}.log"
    environment = {**os.environ, "WORKER_DSN": dsn, "WORKER_FOLDER": str(folder), "NO_COLOR": "1"}
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.fakes.worker_process",
            cwd=_REPOSITORY,
            env=environment,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
        )
    worker = WorkerProcess(process, log, folder / "effects")
    try:
        async with asyncio.timeout(45):
            while not worker.logged("ready"):
                assert worker.is_running, worker.log()
                await asyncio.sleep(0.02)
        yield worker
    finally:
        if worker.is_running:
            process.kill()
        await process.wait()


def _tools(folder: Path) -> CountingTools:
    tools = CountingTools()
    for name in _TOOLS:

        async def effect(args: Mapping[str, Any], name: str = name) -> ToolResult | None:
            with (folder / "effects").open("a") as effects:
                effects.write(f"{name} {args['service']}\n")
            while name in _GATED and not (folder / "gate").exists():
                await asyncio.sleep(0.02)
            return None

        tools[name].effect = effect
    return tools


async def _work(dsn: str, folder: Path) -> None:
    model = ScriptedModel()
    async with open_core(dsn, model=model, sources=[_tools(folder)], limits=Limits(seconds=120)) as core:
        loops = [core.hub.run(), core.registry.run(), core.worker.run(), core.sweeps.run()]
        tasks = [asyncio.create_task(loop) for loop in loops]
        await core.publish_once(alone=False)
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        structlog.get_logger().info("ready")
        stopped = asyncio.create_task(stop.wait())
        # A loop that ends is a worker that has died: the process goes with it, for the test to see.
        await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
        core.turns.drain()
        for task in [stopped, *tasks]:
            task.cancel()
        await asyncio.gather(stopped, *tasks, return_exceptions=True)
        if not stop.is_set():
            raise SystemExit("A loop of the worker has ended.")


if __name__ == "__main__":
    asyncio.run(_work(os.environ["WORKER_DSN"], Path(os.environ["WORKER_FOLDER"])))
