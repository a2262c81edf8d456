"""Turns and approvals a second through REST, against Aegra: 16 clients, each side one process, one PostgreSQL."""

import asyncio
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import psutil

from benchmarks.database import Server
from benchmarks.figures import Figure, at_least, paired, spread, times
from benchmarks.product import API_KEY
from benchmarks.starting import free_port
from benchmarks.subject import started

ROUNDS = 5
CLIENTS = 16
TURNS = 160
APPROVALS = 80
WARM = 32
AEGRA = "0.6.0"
_POLL_S = 0.1
_INSTALL = (
    f"not measured: set BENCH_AEGRA_PYTHON to the Python of an environment of its own "
    f"that holds aegra-api=={AEGRA} and greenlet"
)


class Ours:
    """The product's REST door."""

    def __init__(self, http: aiohttp.ClientSession, port: int, pid: int) -> None:
        self._http = http
        self._url = f"http://127.0.0.1:{port}/api"
        self.process = psutil.Process(pid)

    async def _post(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        async with self._http.post(self._url + path, json=body or {}, headers={"X-API-Key": API_KEY}) as answer:
            return await _read(answer)

    async def turn(self) -> None:
        session_id = (await self._post("/sessions"))["session_id"]
        done = await self._post(f"/sessions/{session_id}/execute", {"message": "hello there"})
        assert done["reply"] == "ereht olleh", done

    async def approval(self) -> None:
        session_id = (await self._post("/sessions"))["session_id"]
        asked = await self._post(f"/sessions/{session_id}/execute", {"message": "restart web"})
        await self._post(f"/approvals/{asked['pending_approvals'][0]['approval_id']}/approve")
        turn = f"{self._url}/sessions/{session_id}/turns/{asked['turn_id']}"
        while True:
            async with self._http.get(turn, headers={"X-API-Key": API_KEY}) as answer:
                done = await _read(answer)
            if done["status"] == "completed":
                break
            await asyncio.sleep(_POLL_S)
        assert done["reply"] == "It is done.", done


class Aegra:
    """Aegra's REST door: the bare graph, which keeps no policy, votes, ledger or audit."""

    def __init__(self, http: aiohttp.ClientSession, port: int, pid: int) -> None:
        self._http = http
        self._url = f"http://127.0.0.1:{port}"
        self.process = psutil.Process(pid)

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        async with self._http.post(self._url + path, json=body) as answer:
            return await _read(answer)

    async def _run(self, thread_id: str, **given: Any) -> Any:
        done = await self._post(f"/threads/{thread_id}/runs/wait", {"assistant_id": "agent", **given})
        return done["messages"][-1]

    async def turn(self) -> None:
        thread_id = (await self._post("/threads", {}))["thread_id"]
        last = await self._run(thread_id, input=_said("hello there"))
        assert last["content"] == "ereht olleh", last

    async def approval(self) -> None:
        thread_id = (await self._post("/threads", {}))["thread_id"]
        asked = await self._run(thread_id, input=_said("restart web"))
        assert asked["tool_calls"], asked
        done = await self._run(thread_id, command={"resume": True})
        assert done["content"] == "It is done.", done


def _said(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


async def _read(answer: aiohttp.ClientResponse) -> dict[str, Any]:
    text = await answer.text()
    if answer.status >= 300:
        raise RuntimeError(f"{answer.url.path} answered {answer.status}: {text[:300]}")
    return json.loads(text)


async def against_aegra(server: Server) -> list[Figure]:
    """Sessions made and turns answered a second, and the same with an approval in each."""
    python = os.environ.get("BENCH_AEGRA_PYTHON")
    if not python or not Path(python).exists():
        return [Figure(f"REST against Aegra {AEGRA}", _INSTALL)]
    async with AsyncExitStack() as stack:
        # Each client waits on its own connection, as 16 programs would.
        http = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CLIENTS)))
        product = await stack.enter_async_context(started(server, "product", BENCH_HTTP="1"))
        ours = Ours(http, (await product.do("port"))["port"], product.pid)
        theirs = await stack.enter_async_context(_aegra(server, http, python))
        found = await _rounds(ours, theirs)
    return [
        *_figures("turns", found, "turn"),
        *_figures("approval cycles", found, "approval"),
    ]


async def _rounds(ours: Ours, theirs: Aegra) -> dict[str, list[float]]:
    found: dict[str, list[float]] = defaultdict(list)
    sides: list[tuple[str, Any]] = [("ours", ours), ("aegra", theirs)]
    for number in range(-1, ROUNDS):
        for name, side in sides if number % 2 else sides[::-1]:
            for what, n in (("turn", TURNS), ("approval", APPROVALS)):
                rate, cpu = await _rate(getattr(side, what), n if number >= 0 else WARM, side.process)
                if number >= 0:
                    found[f"{name} {what}"].append(rate)
                    found[f"{name} {what} cpu"].append(cpu)
    return found


async def _rate(step: Callable[[], Awaitable[None]], n: int, process: psutil.Process) -> tuple[float, float]:
    """Take so many steps with 16 clients; return how many a second, and the process's CPU milliseconds for each."""
    left = iter(range(n))

    async def client() -> None:
        for _ in left:
            await step()

    cpu, begun = process.cpu_times(), time.perf_counter()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    taken, after = time.perf_counter() - begun, process.cpu_times()
    return n / taken, (after.user + after.system - cpu.user - cpu.system) * 1000 / n


def _figures(name: str, found: dict[str, list[float]], what: str) -> list[Figure]:
    mine, theirs = found[f"ours {what}"], found[f"aegra {what}"]
    cpu, their_cpu = median(found[f"ours {what} cpu"]), median(found[f"aegra {what} cpu"])
    shown = f" ({median(mine):.0f} and {median(theirs):.0f} a second; rounds {spread(mine, theirs)})"
    return [
        at_least(
            f"REST, {CLIENTS} clients: {name} against Aegra {AEGRA}", paired(mine, theirs), 4.0, times, with_=shown
        ),
        Figure(f"the same, CPU of the process for each of the {name}", f"{cpu:.1f} ms and {their_cpu:.1f} ms"),
    ]


async def _provide_uuids(server: Server) -> None:
    """Give the server what Aegra's migrations want of uuid-ossp, which the embedded PostgreSQL does not bring along."""
    if await server.ask("SELECT count(*) FROM pg_available_extensions WHERE name = 'uuid-ossp'"):
        return
    folder = server.home / "extensions" / "extension"
    folder.mkdir(parents=True)
    (folder / "uuid-ossp.control").write_text("default_version = '1.1'\nrelocatable = true\n")
    (folder / "uuid-ossp--1.1.sql").write_text(
        "CREATE FUNCTION uuid_generate_v4() RETURNS uuid LANGUAGE sql RETURN gen_random_uuid();\n"
    )
    await server.ask(f"ALTER SYSTEM SET extension_control_path = '{folder.parent}:$system'")
    await server.ask("SELECT pg_reload_conf()")
    await asyncio.sleep(0.3)


@asynccontextmanager
async def _aegra(server: Server, http: aiohttp.ClientSession, python: str) -> AsyncIterator[Aegra]:
    """Aegra with its defaults on an empty database, serving the bare graph."""
    root, port, name = Path(__file__).parents[1], free_port(), f"bench_aegra_{os.getpid()}"
    await server.ask(f"CREATE DATABASE {name} TEMPLATE template0")
    await _provide_uuids(server)
    with tempfile.TemporaryDirectory(prefix="opsagent-aegra-") as folder, tempfile.TemporaryFile() as output:
        config = Path(folder) / "aegra.json"
        config.write_text(json.dumps({"graphs": {"agent": f"{root / 'benchmarks' / 'aegra_graph.py'}:graph"}}))
        env = {key: value for key, value in os.environ.items() if not key.startswith("VIRTUAL_ENV")}
        process = await asyncio.create_subprocess_exec(
            python,
            *("-m", "uvicorn", "aegra_api.main:app", "--host", "127.0.0.1", "--port", str(port)),
            cwd=folder,
            env={
                **env,
                "PYTHONPATH": str(root),
                "AEGRA_CONFIG": str(config),
                "DATABASE_URL": server.address(name),
            },
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        try:
            await _answers(http, f"http://127.0.0.1:{port}/health", process)
            yield Aegra(http, port, process.pid)
        except BaseException:
            output.seek(0)
            sys.stderr.write(output.read().decode(errors="replace")[-3000:])
            raise
        finally:
            if process.returncode is None:
                process.terminate()
                try:
                    await asyncio.wait_for(process.wait(), 10)
                except TimeoutError:
                    process.kill()
                    await process.wait()
            await server.drop(name)


async def _answers(http: aiohttp.ClientSession, url: str, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                async with http.get(url) as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                if process.returncode is not None:
                    raise RuntimeError(f"Aegra ended with {process.returncode} before it was ready.") from None
            await asyncio.sleep(0.1)
