"""Run a program in the sandbox to its end, or make the command that others start in it."""

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from agent.sandbox import capability as machine
from agent.sandbox import plan, supervisor
from agent.sandbox.confinement import COMPLAINT, FAILED
from agent.sandbox.policy import Capability, Finished, Mode, Protections, SandboxSpec, SandboxUnavailable

OUTPUT_LIMIT = 1 << 20
_DISCARD_LIMIT = 32 << 20
"""Bytes over the limit that are read and dropped before a program that won't be quiet is ended."""
_PIECE = 1 << 16
_PATIENCE_S = 8.0
"""More than the supervisor takes to end everything."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A command to be started from this very process, with pipes of the caller's and best with an empty environment.

    It passes on what the program reads, writes and ends with. SIGTERM ends program and descendants within about a
    second, SIGQUIT at once. It also ends when the thread that started it does: start it from one that lasts.
    """

    argv: list[str]
    temp: str
    """The program's own folder, its HOME and TMPDIR."""
    protections: Protections


@contextmanager
def wrap(
    command: Sequence[str], spec: SandboxSpec, mode: Mode = Mode.STRICT, *, capability: Capability | None = None
) -> Generator[Wrapped]:
    """Yield the command that runs `command` in the sandbox; it can be started again until the block ends.

    Raise SandboxUnavailable where strict can't be kept, FileNotFoundError where there is no such program. Leave the
    block once the process has ended: its folder goes.
    """
    able = capability or machine.current()
    base = Path(tempfile.mkdtemp(prefix="opsagent-sandbox-"))
    try:
        temp = base / "tmp"
        temp.mkdir(mode=0o700)
        if able.account and mode is not Mode.OFF:
            base.chmod(0o711)
            os.chown(temp, able.account.uid, able.account.gid)
        made = plan.make(command, spec, mode, able, str(temp))
        config = base / "config.json"  # not on the command line, which every process can read
        config.touch(mode=0o600)
        config.write_text(json.dumps(made.config))
        argv = [sys.executable, "-I", "-S", str(plan.LAUNCHER), str(config), "--", *made.command]
        yield Wrapped(argv, str(temp), made.protections)
    finally:
        _remove(base)


async def run(
    command: Sequence[str],
    spec: SandboxSpec,
    *,
    stdin: bytes | None = None,
    output_limit: int = OUTPUT_LIMIT,
    mode: Mode = Mode.STRICT,
    capability: Capability | None = None,
) -> Finished:
    """Run the command to its end or its time's, with all that it started, and return how it ended.

    No more than `output_limit` bytes of each output are kept. Raise as `wrap` does.
    """
    able = capability or await asyncio.to_thread(machine.current)
    with wrap(command, spec, mode, capability=able) as wrapped:
        process = await asyncio.create_subprocess_exec(
            *wrapped.argv,
            stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd="/",
            env={},
            start_new_session=True,
        )
        out, err = _Kept(output_limit), _Kept(output_limit)
        timed_out = False
        try:
            async with asyncio.timeout(spec.wall_s):
                await _converse(process, stdin, out, err)
        except TimeoutError:
            timed_out = True
        except _Flooded:
            log.warning("sandbox.output_flood", program=Path(command[0]).name)
        finally:
            await end(process)
    return _finished(process, out, err, timed_out=timed_out, held=wrapped.protections)


async def end(process: asyncio.subprocess.Process) -> None:
    """End a wrapped process and all that it started, at once and even if the caller is cancelled meanwhile."""
    ending = asyncio.ensure_future(_end(process))
    cancelled: asyncio.CancelledError | None = None
    while not ending.done():
        try:
            await asyncio.shield(ending)
        except asyncio.CancelledError as error:
            cancelled = error
    ending.result()
    if cancelled:
        raise cancelled


async def _end(process: asyncio.subprocess.Process) -> None:
    for sign in (supervisor.AT_ONCE, signal.SIGKILL):
        if process.returncode is not None:
            break
        with suppress(ProcessLookupError):
            process.send_signal(sign)
        await _exited(process)
    transport = getattr(process, "_transport", None)  # nothing public closes our ends of the pipes
    if transport is not None:
        with suppress(PermissionError):
            transport.close()
    await asyncio.sleep(0)


async def _exited(process: asyncio.subprocess.Process) -> None:
    # Not process.wait(): it also waits for the pipes, which may be full.
    deadline = asyncio.get_running_loop().time() + _PATIENCE_S
    while process.returncode is None:
        if asyncio.get_running_loop().time() >= deadline:
            return
        await asyncio.sleep(0.002)


async def _converse(process: asyncio.subprocess.Process, stdin: bytes | None, out: "_Kept", err: "_Kept") -> None:
    assert process.stdout
    assert process.stderr
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_feed(process.stdin, stdin or b""))
            group.create_task(out.read(process.stdout))
            group.create_task(err.read(process.stderr))
    except* _Flooded:
        raise _Flooded from None
    await process.wait()


async def _feed(writer: asyncio.StreamWriter | None, data: bytes) -> None:
    if writer is None:
        return
    with suppress(ConnectionError):  # it may end, or close its input, before it has read everything
        writer.write(data)
        await writer.drain()
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


class _Flooded(Exception):
    """The program says far more than anyone keeps."""


class _Kept:
    """The first bytes of an output, and how many followed."""

    def __init__(self, limit: int) -> None:
        self.data = bytearray()
        self._limit = limit
        self.dropped = 0

    async def read(self, reader: asyncio.StreamReader) -> None:
        while piece := await reader.read(_PIECE):
            room = self._limit - len(self.data)
            self.data += piece[:room]
            self.dropped += max(0, len(piece) - room)
            if self.dropped > _DISCARD_LIMIT:
                raise _Flooded


def _finished(
    process: asyncio.subprocess.Process, out: _Kept, err: _Kept, *, timed_out: bool, held: Protections
) -> Finished:
    code = process.returncode
    if code == FAILED and err.data.startswith(COMPLAINT.encode()):
        why = err.data[len(COMPLAINT) :].decode(errors="replace").strip()
        raise SandboxUnavailable(f"The sandbox could not start the program: {why.rstrip('.')}.")
    return Finished(
        returncode=-9 if code is None else code,
        stdout=bytes(out.data),
        stderr=bytes(err.data),
        truncated=bool(out.dropped or err.dropped),
        timed_out=timed_out,
        protections=held,
    )


def _remove(base: Path) -> None:
    """Remove the folder with whatever the program left in it, also folders that it closed to us."""
    with suppress(OSError):
        shutil.rmtree(base)
        return
    for folder, inner, _ in os.walk(base):
        for path in (Path(folder, name) for name in inner):
            if not path.is_symlink():
                with suppress(OSError):
                    path.chmod(0o700)
    shutil.rmtree(base, ignore_errors=True)
    if base.exists():
        log.warning("sandbox.temp_left", folder=str(base))
