"""The product as a subject: its core on the instant model, with the Slack door and its own HTTP server if asked for.

BENCH_WORK=0 leaves out the worker, BENCH_DOOR=1 adds the door of the SLACK_ settings, BENCH_HTTP=1 the HTTP server
alone, BENCH_MODEL_S delays the model, BENCH_TOOLS=50x20 adds so many MCP servers with so many tools each.
"""

import asyncio
import os
import socket
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID, uuid4

import uvicorn
from pydantic import SecretStr

from agent import sessions
from agent.approvals.types import Decision
from agent.tools.mcp import McpManager, McpServerConfig, Timing
from agent.types import EventKind, ThreadKey, TurnStatus
from agent.users import api_key_principal
from api.asgi import build_asgi
from api.identity import KeyRing
from api.routes.health import Readiness
from benchmarks.instant import InstantModel
from benchmarks.instant_tools import InstantTools
from benchmarks.subject import obey, quiet, timed
from opsagent import parts
from opsagent.compose import Core, open_core
from opsagent.config import load_settings
from opsagent.processes import SlackDoor, loop

ADMIN = api_key_principal()
API_KEY = "bench-not-a-key"


class Product:
    """What the parent may have done."""

    def __init__(self, core: Core, tools: InstantTools, port: int) -> None:
        self._core = core
        self._service = core.service
        self._tools = tools
        self._port = port
        self._streams: list[asyncio.Task[None]] = []

    async def port(self) -> dict[str, Any]:
        return {"port": self._port}

    async def _sessions(self, n: int) -> list[UUID]:
        return [(await self._service.create_session(by=ADMIN)).session_id for _ in range(n)]

    async def _turn(self, session_id: UUID, text: str = "hello there") -> None:
        sent = await self._service.submit_message(session_id, text, by=ADMIN)
        assert sent is not None
        view = await self._service.wait_turn(sent.turn.turn_id, timeout=60)
        assert view.turn.status is TurnStatus.COMPLETED, view.turn

    async def turns(self, n: int) -> dict[str, Any]:
        """Messages to their answers, each in a session of its own."""
        return await timed(self._turn, await self._sessions(n))

    async def _ask(self, session_id: UUID) -> tuple[UUID, UUID]:
        sent = await self._service.submit_message(session_id, "restart web", by=ADMIN)
        assert sent is not None
        view = await self._service.wait_turn(sent.turn.turn_id, timeout=60)
        return sent.turn.turn_id, view.pending_approvals[0].approval_id

    async def cycles(self, n: int) -> dict[str, Any]:
        """Messages to their cards, the decision, the answer."""

        async def cycle(session_id: UUID) -> None:
            turn_id, approval_id = await self._ask(session_id)
            await self._service.decide_approval(approval_id, Decision.APPROVE, by=ADMIN)
            await self._final(session_id, turn_id)

        return await timed(cycle, await self._sessions(n))

    async def _final(self, session_id: UUID, turn_id: UUID) -> None:
        async with self._service.watch(session_id, EventKind.TURN_COMPLETED) as changed, asyncio.timeout(60):
            while True:
                changed.clear()
                if (await self._service.read_turn(session_id, turn_id, by=ADMIN)).turn.status.is_final:
                    return
                await changed.wait()

    async def thread(self, n: int, chars: int) -> dict[str, Any]:
        """Turns of one session, of so many characters each way."""
        (session_id,) = await self._sessions(1)
        texts = [(f"{index:05d} " + "lorem ipsum dolor sit amet " * (chars // 20 + 1))[:chars] for index in range(n)]
        return {**await timed(lambda text: self._turn(session_id, text), texts), "session_id": str(session_id)}

    async def more(self, session_id: str, n: int, chars: int) -> dict[str, Any]:
        """More turns of a session."""
        return await timed(lambda _: self._turn(UUID(session_id), "lorem ipsum " * (chars // 12)), [None] * n)

    async def fill(self, n: int, asks: bool) -> dict[str, Any]:
        """Sessions with one finished turn each, or one that waits for people."""
        turn: Any = self._ask if asks else self._turn
        limit = asyncio.Semaphore(16)

        async def one(session_id: UUID) -> None:
            async with limit:
                await turn(session_id)

        await asyncio.gather(*(one(session_id) for session_id in await self._sessions(n)))
        return {}

    async def asked(self, n: int) -> dict[str, Any]:
        """Approvals without a model, each in a Slack thread of its own; return their ids and the threads."""
        tool_id = self._tools.restart.spec.tool_id
        threads = [ThreadKey("T0OPS", "C0OPS", f"1700000000.{uuid4().int % 10**12}") for _ in range(n)]
        ids: list[str] = []
        for thread in threads:
            async with self._core.database.transaction() as tx:
                await sessions.open_thread(tx, thread, user_id=ADMIN.user_id, title="restart", address=None)
            asked = await self._service.ask_approval(
                tool_id, {"service": "web"}, by=ADMIN, session_id=thread.session_id
            )
            ids.append(str(asked.approval_id))
        return {"ids": ids, "threads": [thread.root for thread in threads]}

    async def mail(self, threads: int, each: int) -> dict[str, Any]:
        """Fill the inboxes of so many threads."""
        for session_id in await self._sessions(threads):
            for _ in range(each):
                await self._service.submit_message(session_id, "hello there", by=ADMIN)
        return {}

    async def stream(self, n: int) -> dict[str, Any]:
        """Keep so many turns running, one after another in each thread; 0 stops them."""
        for task in self._streams:
            task.cancel()
        await asyncio.gather(*self._streams, return_exceptions=True)

        async def keep(session_id: UUID) -> None:
            while True:
                await self._turn(session_id)

        self._streams = [asyncio.create_task(keep(session_id)) for session_id in await self._sessions(n)]
        return {}

    async def tool_starts(self) -> dict[str, Any]:
        """When the tool was started, since this was asked last."""
        found, self._tools.restart.started = self._tools.restart.started, []
        return {"at": found}


def _serve(core: Core, slack_handler: Any) -> tuple[uvicorn.Server, socket.socket]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))

    async def readiness() -> Readiness:
        return Readiness(True, {})

    keys = KeyRing(api_key=SecretStr(API_KEY), signing=(SecretStr("bench-not-a-secret-" * 3),))
    app = build_asgi(core.service, keys=keys, readiness=readiness, slack_handler=slack_handler)
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1)
    return uvicorn.Server(config), listener


def _servers() -> list[McpServerConfig]:
    if not (asked := os.environ.get("BENCH_TOOLS")):
        return []
    from benchmarks.tool_side import configs

    servers, _, tools = asked.partition("x")
    return configs(int(servers), int(tools))


async def main() -> None:
    works, has_door = os.environ.get("BENCH_WORK", "1") == "1", os.environ.get("BENCH_DOOR") == "1"
    settings, tools, servers = load_settings(), InstantTools(), _servers()
    slack = parts.slack_parts(settings) if has_door else None
    async with AsyncExitStack() as stack:
        core = await stack.enter_async_context(
            open_core(
                os.environ["BENCH_DSN"],
                model=InstantModel(delay_s=float(os.environ.get("BENCH_MODEL_S", "0"))),
                sources=[tools],
                mcp=McpManager(servers, Timing(connect_s=60)) if servers else None,
                file_servers=servers,
                approvers=settings.approvers,
                groups=slack.groups if slack else None,
                profiles=slack.profiles if slack else None,
                concurrency=settings.worker_concurrency,
                asyncpg_pool=settings.asyncpg_pool_size,
                psycopg_pool=settings.psycopg_pool_size,
            )
        )
        loops: list[Any] = [core.hub.run(), core.registry.run()]
        port = 0
        if slack:
            door = SlackDoor(settings, core)
            server, listener = _serve(core, door.http_handler())
            port = listener.getsockname()[1]
            loops.append(server.serve(sockets=[listener]))
            if works:
                loops.append(door.presenter())
        elif os.environ.get("BENCH_HTTP") == "1":
            server, listener = _serve(core, None)
            port = listener.getsockname()[1]
            loops.append(server.serve(sockets=[listener]))
        if servers:
            loops.append(core.publish_tools(alone=True))
        else:
            await core.publish_once(alone=True)
        if works:
            loops += [core.worker.run(), core.sweeps.run()]
        running = [asyncio.create_task(loop) for loop in loops]
        await asyncio.sleep(0.5)
        async with asyncio.timeout(90):
            while servers and len(core.registry.tools()) < 10 * len(servers):
                await asyncio.sleep(0.1)
        subject = Product(core, tools, port)
        names = ("port", "turns", "cycles", "thread", "more", "fill", "asked", "mail", "stream", "tool_starts")
        try:
            await obey({name: getattr(subject, name) for name in names})
        finally:
            core.turns.drain()
            for task in running:
                task.cancel()
            await asyncio.wait(running, timeout=8)


if __name__ == "__main__":
    quiet()
    with asyncio.Runner(loop_factory=loop) as runner:  # the product's own
        runner.run(main())
