"""REST's side: what telling who calls costs, and how soon the first piece of an answer reaches a client."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from statistics import median
from typing import Any

import asyncpg
import httpx
from websockets.asyncio.client import connect

from agent import events
from agent.types import EventKind
from agent.users import API_KEY_USER, api_key_principal
from api.identity import Credential
from api.quotas import Quotas
from benchmarks.database import Server
from benchmarks.figures import Figure, at_most, milliseconds, paired, percentile, spread, times
from benchmarks.instant import InstantModel
from opsagent.compose import Core, open_core
from tests.fakes.rest import OPERATOR, bearer, door_over, serving

ROUNDS = 9
EACH = 60
_NOTIFY = "SELECT pg_notify('bench', 'x')"
_INSERT = (
    "WITH kept AS (INSERT INTO bench_events (text) VALUES ('A piece.') RETURNING 1) "
    "SELECT pg_notify('bench', 'x') FROM kept"
)


@asynccontextmanager
async def _core(server: Server) -> AsyncIterator[Core]:
    name = await server.fresh()
    try:
        async with open_core(server.address(name), model=InstantModel(), sources=[]) as core:
            hub = asyncio.create_task(core.hub.run())
            try:
                yield core
            finally:
                hub.cancel()
                await asyncio.wait([hub])
    finally:
        await server.drop(name)


async def token_check(server: Server) -> list[Figure]:
    """Telling who a token is, against the whole of a request that does nothing else; over a socket."""
    found: list[float] = []
    requests: list[float] = []
    async with _core(server) as core:
        app = door_over(core.service, quotas=Quotas(factor=1_000_000))
        identity = app.state.door.identity
        token = core.service._house.signer.sign(API_KEY_USER, 0, now=datetime.now(UTC))
        async with serving(app) as port, httpx.AsyncClient(headers=bearer(token)) as client:
            url = f"http://127.0.0.1:{port}/api/console/info"
            for number in range(-1, ROUNDS):
                taken = [await _timed(client.get(url)) for _ in range(EACH)]
                begun = time.perf_counter()
                for _ in range(EACH):
                    await identity.check(Credential(token))
                check = (time.perf_counter() - begun) * 1000 / EACH
                if number >= 0:
                    found.append(check)
                    requests.append(median(taken))
    shown = f" (check {median(found) * 1000:.0f} µs, request p50 {milliseconds(median(requests))})"
    ratio = paired(found, requests)
    return [
        at_most("token check of an empty authenticated request", ratio * 100, 10, lambda v: f"{v:.1f} %", with_=shown)
    ]


async def _timed(step: Any) -> float:
    begun = time.perf_counter()
    answer = await step
    assert answer.status_code == 200, answer.text
    return (time.perf_counter() - begun) * 1000


async def first_token(server: Server) -> list[Figure]:
    """A piece of an answer from the worker's append to a WebSocket client, against bare LISTEN/NOTIFY round trips."""
    found: dict[str, list[float]] = {"ours": [], "notify": [], "insert": []}
    everything: list[float] = []
    async with AsyncExitStack() as stack:
        core = await stack.enter_async_context(_core(server))
        port = await stack.enter_async_context(serving(door_over(core.service)))
        session = await core.service.create_session(by=api_key_principal())
        url = f"ws://127.0.0.1:{port}/api/sessions/{session.session_id}/ws"
        line = await stack.enter_async_context(connect(url, additional_headers=OPERATOR))
        await line.recv()
        notifier, listener = [await asyncpg.connect(core.database.dsn) for _ in range(2)]
        stack.push_async_callback(notifier.close)
        stack.push_async_callback(listener.close)
        await notifier.execute("CREATE TABLE bench_events (at timestamptz NOT NULL DEFAULT now(), text text NOT NULL)")
        heard: asyncio.Queue[float] = asyncio.Queue()
        await listener.add_listener("bench", lambda *_: heard.put_nowait(time.perf_counter()))
        for number in range(-1, ROUNDS):
            sides = {
                "ours": [await _piece(core, session.session_id, line) for _ in range(EACH)],
                "notify": [await _notified(notifier, heard, _NOTIFY) for _ in range(EACH)],
                "insert": [await _notified(notifier, heard, _INSERT) for _ in range(EACH)],
            }
            if number >= 0:
                for name, values in sides.items():
                    found[name].append(median(values))
                everything += sides["ours"]
    shown = f"p50 {milliseconds(median(found['ours']))}, p99 {milliseconds(percentile(everything, 0.99))}"
    return [
        _first(f"a bare LISTEN/NOTIFY round trip{what}", found["ours"], found[side], shown)
        for side, what in (("notify", ""), ("insert", " that commits a row, as an event does"))
    ]


def _first(against: str, ours: list[float], bare: list[float], shown: str) -> Figure:
    name = f"first piece of an answer at a WebSocket client against {against}"
    told = f" ({shown}; bare {median(bare):.2f} ms; rounds {spread(ours, bare)})"
    return at_most(name, paired(ours, bare), 3.0, times, with_=told)


async def _piece(core: Core, session_id: Any, line: Any) -> float:
    begun = time.perf_counter()
    async with core.database.connection() as connection:
        await events.append(connection, session_id, EventKind.ANSWER_DELTA, {"text": "A piece."}, turn_id=None)
    told = json.loads(await line.recv())
    assert told["text"] == "A piece."
    return (time.perf_counter() - begun) * 1000


async def _notified(notifier: asyncpg.Connection, heard: "asyncio.Queue[float]", statement: str) -> float:
    begun = time.perf_counter()
    await notifier.execute(statement)
    return (await heard.get() - begun) * 1000
