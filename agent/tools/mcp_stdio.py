"""The stdio side of MCP: one server process, its pipes, and bounds on what it may say."""

import asyncio
import gc
import os
import re
import signal
from collections.abc import Callable
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any

import anyio
import mcp_types as types
from mcp.client.stdio import get_default_environment
from mcp.shared.message import SessionMessage
from pydantic_core import from_json

from agent.sandbox import capability, run
from agent.sandbox.policy import Mode, SandboxSpec
from agent.tools.ending import outlast
from agent.tools.mcp_config import McpServerConfig, Sandboxing
from agent.tools.mcp_http import ATTEMPT, MESSAGE_LIMIT, PARTS_LIMIT, parts

GRACE_S = 2.0
STDERR_BYTES = 4096
_TELLING = re.compile(r"(?i)(error|exception|fatal|panic)\b|permission denied")
_NO_ROOM = re.compile(r"(?i)out of memory|(cannot|could not|failed to) (allocate|reserve)")
_ID = re.compile(rb'"id"\s*:\s*(\d+|"[^"\\]{1,100}")')


class StdioTransport:
    """A server's process from start to end: a clean environment, a process group of its own, lines of bounded length.

    Not bounded here: its memory and its CPU time.
    """

    def __init__(self, config: McpServerConfig, ended: Callable[[], None], mode: Mode = Mode.BEST_EFFORT) -> None:
        self._config = config
        self._ended = ended
        self._mode = mode
        self._stderr = b""
        self._folder = ExitStack()
        self.missing: tuple[str, ...] = ()
        """The protections that the sandbox could not give, where there is to be one."""

    async def __aenter__(self) -> Any:
        try:
            return await self._start()
        except BaseException:
            self._folder.close()
            raise

    async def _start(self) -> Any:
        config = self._config
        command, env = [config.command or "", *config.args], {**get_default_environment(), **config.env}
        if config.sandbox is not None:
            given = config.sandbox
            spec = SandboxSpec(
                read_paths=given.read_paths,
                write_paths=given.write_paths,
                network=given.network,
                env=config.env,
                memory_mb=given.memory_mb,
                cpu_s=None,
            )
            able = await asyncio.to_thread(capability.current)
            wrapped = self._folder.enter_context(run.wrap(command, spec, self._mode, capability=able))
            command, env, self.missing = wrapped.argv, {}, wrapped.protections.missing
        self._process = await asyncio.create_subprocess_exec(
            *command,
            env=env,
            cwd="/" if config.sandbox is not None else None,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            limit=MESSAGE_LIMIT,
        )
        self._listening = asyncio.create_task(self._keep_stderr())
        return _Lines(self._process, self._ended), _Writer(self._process)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stopping = asyncio.create_task(self._stop())
        # Whoever is cancelled here must not leave the process behind; every wait inside is bounded.
        try:
            with anyio.CancelScope(shield=True):
                await outlast([stopping])
            stopping.result()
        finally:
            self._folder.close()

    def last_words(self) -> str:
        """Return the line of the server's stderr that best tells why it ended, and what an admin may do about it."""
        lines = [line.strip() for line in self._stderr.decode("utf-8", "replace").splitlines() if line.strip()]
        if not lines:
            return ""
        # Node and Go write a stack and their version behind the error.
        told = next((line for line in reversed(lines) if _TELLING.search(line)), lines[-1])
        return self._config.masked(told)[:200] + _advice(told, self._config.sandbox)

    async def _keep_stderr(self) -> None:
        assert self._process.stderr
        while chunk := await self._process.stderr.read(STDERR_BYTES):
            self._stderr = (self._stderr + chunk)[-STDERR_BYTES:]

    async def _stop(self) -> None:
        process = self._process
        if process.stdin:
            process.stdin.close()
        for sign in (None, signal.SIGTERM, signal.SIGKILL):
            if sign is not None:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, sign)
            if await _exited(process):
                break
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)
        # A grandchild may hold the pipes open; nothing public closes our ends.
        transport = getattr(process, "_transport", None)
        if transport is not None:
            with suppress(PermissionError):
                transport.close()
        await asyncio.sleep(0)


def _advice(told: str, sandbox: Sandboxing | None) -> str:
    if sandbox is None:
        return ""
    if sandbox.memory_mb is not None and _NO_ROOM.search(told):
        return f"; its sandbox has memory_mb {sandbox.memory_mb}: set it to null for Node, Go and Java"
    if "permission denied" in told.lower():
        return "; name what it reads in read_paths of its sandbox, and what it writes in write_paths"
    return ""


async def _exited(process: asyncio.subprocess.Process) -> bool:
    # Not process.wait(): it also waits for the pipes, which a grandchild may hold.
    deadline = asyncio.get_running_loop().time() + GRACE_S
    while process.returncode is None:
        if asyncio.get_running_loop().time() >= deadline:
            return False
        await asyncio.sleep(0.01)
    return True


class _Lines:
    """What the server says, a message a line; a line too long or not a message costs only the call it answers."""

    def __init__(self, process: asyncio.subprocess.Process, ended: Callable[[], None]) -> None:
        assert process.stdout
        self._reader = process.stdout
        self._ended = ended

    async def receive(self) -> SessionMessage | Exception:
        while True:
            line, whole = await self._line()
            if not line and whole:
                self._ended()
                raise anyio.EndOfStream
            if not whole:
                return _unusable(line, f"the answer is larger than {MESSAGE_LIMIT} bytes")
            if line.strip():
                return _parsed(line)

    async def _line(self) -> tuple[bytes, bool]:
        """Return the next line, or the start of one that is too long; empty at the end."""
        start = b""
        while True:
            try:
                line = await self._reader.readuntil(b"\n")
            except asyncio.LimitOverrunError as error:
                skipped = await self._reader.readexactly(error.consumed)
                start = start or skipped[:300]
            except (asyncio.IncompleteReadError, ConnectionError):
                return b"", True
            else:
                return (start, False) if start else (line, True)

    async def aclose(self) -> None:
        return

    def __aiter__(self) -> "_Lines":
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> "_Lines":
        return self

    async def __aexit__(self, *error: object) -> None:
        return


class _Writer:
    """What we say to the server; a request counts as sent once any of it may have left."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin
        self._process, self._writer = process, process.stdin

    async def send(self, item: SessionMessage, /) -> None:
        if self._process.returncode is not None or self._writer.is_closing():
            raise anyio.ClosedResourceError
        line = item.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n"
        if isinstance(item.message, types.JSONRPCRequest) and (attempt := ATTEMPT.get()):
            attempt.sent = True
        try:
            self._writer.write(line)
            await self._writer.drain()
        except (OSError, RuntimeError) as error:
            raise anyio.ClosedResourceError from error

    async def aclose(self) -> None:
        self._writer.close()

    async def __aenter__(self) -> "_Writer":
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()


def _parsed(line: bytes) -> SessionMessage | Exception:
    if parts(line) > PARTS_LIMIT:
        return _unusable(line, f"the answer has more than {PARTS_LIMIT} parts")
    try:
        return SessionMessage(types.jsonrpc_message_adapter.validate_python(_read(line), by_name=False))
    except (ValueError, RecursionError):
        return _unusable(line, "the answer is not a JSON-RPC message")


def _read(line: bytes) -> Any:
    """Return what the JSON says: in a tenth of the time that validating while reading takes for many small parts."""
    was_on = gc.isenabled()
    gc.disable()  # it would go through all that was read again and again, and none of it can be garbage yet
    try:
        return from_json(line)
    finally:
        if was_on:
            gc.enable()


def _unusable(line: bytes, why: str) -> SessionMessage | Exception:
    """Return an error in the answer's place if its id can be made out, so that nobody waits for it in vain."""
    found = _ID.search(line[:300])
    if found is None or b'"method"' in line[:300]:
        return ValueError(why)
    text = found[1].decode("utf-8", "replace")
    request_id = text.strip('"') if text.startswith('"') else int(text)
    error = types.ErrorData(code=types.PARSE_ERROR, message=why)
    return SessionMessage(types.JSONRPCError(jsonrpc="2.0", id=request_id, error=error))
