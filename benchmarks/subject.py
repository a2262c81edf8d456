"""A subject: one side of a comparison, in a process of its own that does what it is told, a line of JSON each."""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import structlog

from benchmarks.database import Server

Command = Callable[..., Awaitable[dict[str, Any]]]
_LINE = 64 * 1024 * 1024


class Subject:
    """The parent's hold on a subject."""

    def __init__(self, process: asyncio.subprocess.Process, database: str) -> None:
        self._process = process
        self.database = database

    @property
    def pid(self) -> int:
        return self._process.pid

    async def do(self, command: str, **args: Any) -> dict[str, Any]:
        """Have it do something; return what it measured."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": command, **args}).encode() + b"\n")
        return await self.answer()

    async def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        async with asyncio.timeout(180):
            line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"The subject ended with {await self._process.wait()}; see what it wrote above.")
        return json.loads(line)

    async def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), 12)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


@asynccontextmanager
async def started(server: Server, module: str, *, database: str | None = None, **env: str) -> AsyncIterator[Subject]:
    """A subject that is ready, on a database of its own unless it is given one to share."""
    async with AsyncExitStack() as stack:
        name = database or await server.fresh()
        if database is None:
            stack.push_async_callback(server.drop, name)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            f"benchmarks.{module}",
            env={**os.environ, "LANGGRAPH_STRICT_MSGPACK": "true", "BENCH_DSN": server.address(name), **env},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LINE,
        )
        subject = Subject(process, name)
        stack.push_async_callback(subject.end)
        await subject.answer()
        yield subject


async def obey(commands: dict[str, Command]) -> None:
    """The subject's side: say that it is ready, and do what comes until nothing more comes."""
    reader = asyncio.StreamReader(limit=_LINE)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    print(json.dumps({"ready": True}), flush=True)
    while line := await reader.readline():
        asked = json.loads(line)
        print(json.dumps(await commands[asked.pop("do")](**asked)), flush=True)


async def timed(step: Callable[[Any], Awaitable[Any]], things: list[Any]) -> dict[str, Any]:
    """Take each step by itself; return the milliseconds of each, and the mean of the process's CPU time."""
    taken: list[float] = []
    cpu = time.process_time()
    for thing in things:
        begun = time.perf_counter()
        await step(thing)
        taken.append((time.perf_counter() - begun) * 1000)
    return {"ms": taken, "cpu_ms": (time.process_time() - cpu) * 1000 / len(things)}


def quiet() -> None:
    """Send warnings and worse to stderr: stdout is for the answers."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(30), logger_factory=structlog.PrintLoggerFactory(sys.stderr)
    )
