"""From nothing to ready, and the memory of a process that rests."""

import asyncio
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import psutil

from benchmarks.database import Server
from benchmarks.figures import Figure, at_most, megabytes, paired, spread, times

ROUNDS = 5
REST_S = 5.0
_OURS = ("-m", "opsagent", "up")


async def cold_start(server: Server) -> list[Figure]:
    """`opsagent up` against the small server, each on a database that is there; and `up` with its embedded one."""
    database = await server.fresh()
    small_env = {"BENCH_DSN": server.address(database)}
    ours: list[float] = []
    small: list[float] = []
    embedded: list[float] = []
    with tempfile.TemporaryDirectory(prefix="opsagent-benchmarks-") as folder:
        env = {"DATABASE_URL": server.address(database), "OPSAGENT_HOME": folder}
        kept = {"OPSAGENT_HOME": str(Path(folder) / "embedded")}
        await _start(_OURS, env)
        await _start(("-m", "benchmarks.small_server"), small_env)
        await _start(_OURS, kept)
        for number in range(ROUNDS):
            for side in ("ours", "small") if number % 2 else ("small", "ours"):
                if side == "ours":
                    ours.append(await _start(_OURS, env))
                else:
                    small.append(await _start(("-m", "benchmarks.small_server"), small_env))
            embedded.append(await _start(_OURS, kept))
    await server.drop(database)
    seconds = f" ({min(ours):.2f} s and {min(small):.2f} s at best; rounds {spread(ours, small)})"
    return [
        at_most("`opsagent up` ready against a small server's start", paired(ours, small), 1.8, times, with_=seconds),
        Figure("`opsagent up` with its embedded database against the same", times(paired(embedded, small))),
    ]


async def memory(server: Server) -> list[Figure]:
    """Resident memory some seconds after the start, without the database's processes."""
    database = await server.fresh()
    with tempfile.TemporaryDirectory(prefix="opsagent-benchmarks-") as folder:
        shared = {
            "DATABASE_URL": server.address(database),
            "SECRET_KEY": "bench-not-a-secret-" * 3,
            "OPSAGENT_HOME": folder,
        }
        up = await _resident(_OURS, {"OPSAGENT_HOME": str(Path(folder) / "embedded")})
        serve = await _resident(("-m", "opsagent", "serve"), shared)
        small = await _resident(("-m", "benchmarks.small_server"), {"BENCH_DSN": server.address(database)})
    await server.drop(database)
    return [
        at_most("memory of an idle keyless `up`", up, 170, megabytes),
        at_most("memory of `serve` alone", serve, 120, megabytes),
        Figure("memory of the small server", megabytes(small)),
    ]


async def _start(command: tuple[str, ...], env: dict[str, str]) -> float:
    async with _running(command, env) as (_, taken):
        return taken


async def _resident(command: tuple[str, ...], env: dict[str, str]) -> float:
    async with _running(command, env) as (pid, _):
        await asyncio.sleep(REST_S)
        return psutil.Process(pid).memory_info().rss / 1_000_000


@asynccontextmanager
async def _running(command: tuple[str, ...], env: dict[str, str]) -> AsyncIterator[tuple[int, float]]:
    """A process that says on /readyz that it is ready, and the seconds that took."""
    port = free_port()
    begun = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *command,
            env={**os.environ, "HOST": "127.0.0.1", "PORT": str(port), **env},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        try:
            await _ready(f"http://127.0.0.1:{port}/readyz", process)
            yield process.pid, time.perf_counter() - begun
        except BaseException:
            output.seek(0)
            sys.stderr.write(output.read().decode(errors="replace")[-2000:])
            raise
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
                try:
                    await asyncio.wait_for(process.wait(), 15)
                except TimeoutError:
                    process.kill()
                    await process.wait()


async def _ready(url: str, process: asyncio.subprocess.Process) -> None:
    async with aiohttp.ClientSession() as http, asyncio.timeout(60):
        while True:
            try:
                async with http.get(url) as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                if process.returncode is not None:
                    raise RuntimeError(f"It ended with {process.returncode} before it was ready.") from None
            await asyncio.sleep(0.01)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
