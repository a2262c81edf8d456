"""One tool worker as the agent sees it: a sandboxed process that answers one request at a time."""

import asyncio
import itertools
import json
import struct
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self

from agent.sandbox import plan, run
from agent.sandbox.policy import Capability, Mode, Protections, SandboxSpec
from agent.sandbox.worker import FRAME_LIMIT

_SCRIPT = str(Path(__file__).with_name("worker.py"))
_START_S = 60.0
"""A cold import of LangChain on a busy machine takes seconds."""
_KEPT = 4096


class WorkerLost(Exception):
    """The worker ended, or said what no worker says, before it had answered; its request may have had its effect."""


class WorkerFailed(Exception):
    """The worker answered that the request failed."""


class WorkerProcess:
    """A worker that has started and imported its target; end it with `close`."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        folder: AbstractContextManager[run.Wrapped],
        protections: Protections,
    ) -> None:
        self.protections = protections
        self.calls = 0
        self._process = process
        self._folder = folder
        self._ids = itertools.count(1)
        self._stderr = b""
        self._listening = asyncio.create_task(self._keep_stderr())
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, target: str, spec: SandboxSpec, mode: Mode, capability: Capability) -> Self:
        """Return a worker that is ready; raise WorkerLost, with its last words, if it never was."""
        folder = run.wrap(plan.python_command(_SCRIPT, target), spec, mode, capability=capability)
        wrapped = folder.__enter__()
        try:
            process = await asyncio.create_subprocess_exec(
                *wrapped.argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                cwd="/",
                env={},
                start_new_session=True,
            )
        except BaseException:
            folder.__exit__(None, None, None)
            raise
        worker = cls(process, folder, wrapped.protections)
        try:
            async with asyncio.timeout(_START_S):
                await worker._receive()
        except (WorkerLost, TimeoutError):
            await worker.close()
            said = worker.last_words()
            raise WorkerLost(f"A tool worker did not start{f': {said}' if said else '.'}") from None
        except BaseException:
            await worker.close()
            raise
        return worker

    async def ask(self, do: str, **arguments: Any) -> Any:
        """Return what the worker answers; cancelled or failed with WorkerLost, it must be closed."""
        self.calls += 1
        number = next(self._ids)
        body = json.dumps({"id": number, "do": do, "with": arguments}).encode()
        assert self._process.stdin
        try:
            self._process.stdin.write(struct.pack(">I", len(body)) + body)
            await self._process.stdin.drain()
        except (OSError, RuntimeError):
            raise WorkerLost("The tool worker has ended.") from None
        reply = await self._receive()
        if reply.get("id") != number:
            raise WorkerLost("The tool worker answered something else than it was asked.")
        if "error" in reply:
            raise WorkerFailed(str(reply["error"]))
        return reply["result"]

    async def wait(self) -> None:
        """Return once the process has ended, by itself or not."""
        await self._process.wait()

    @property
    def is_alive(self) -> bool:
        return self._process.returncode is None and self._closing is None

    def last_words(self) -> str:
        """Return the last line that it wrote to stderr."""
        lines = self._stderr.decode(errors="replace").split("\n")
        return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")

    async def close(self) -> None:
        """Kill it with all that it started, remove its folder; returns only then, also when called twice."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        try:
            await run.end(self._process)
        finally:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
            await asyncio.to_thread(self._folder.__exit__, None, None, None)

    async def _receive(self) -> dict[str, Any]:
        assert self._process.stdout
        try:
            (length,) = struct.unpack(">I", await self._process.stdout.readexactly(4))
            if length > FRAME_LIMIT:
                raise WorkerLost("The tool worker's answer is too large.")
            reply = json.loads(await self._process.stdout.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError, ValueError, RecursionError):
            raise WorkerLost("The tool worker has ended.") from None
        if not isinstance(reply, dict):
            raise WorkerLost("The tool worker's answer is none.")
        return reply

    async def _keep_stderr(self) -> None:
        assert self._process.stderr
        while piece := await self._process.stderr.read(_KEPT):
            self._stderr = (self._stderr + piece)[-_KEPT:]
