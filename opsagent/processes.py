"""up(), serve() and work(): one process each, its long-lived loops, signals, and a graceful stop."""

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Coroutine, Generator
from dataclasses import dataclass, field
from typing import Any

import structlog
import uvicorn
from pydantic import SecretStr

from api.asgi import build_asgi
from api.connections import bounded
from api.console.login import OneTimeTokens
from api.identity import KeyRing
from api.routes.health import Readiness
from opsagent import parts
from opsagent.compose import Core
from opsagent.config import Settings
from opsagent.failures import CannotStart

log = structlog.get_logger()

TRIED_WITHIN_S = 10.0
HTTP_GRACE_S = 3
CHECK_AGAIN_S = 60.0
_BACKLOG = 2048


@dataclass(frozen=True, slots=True)
class Roles:
    """What a process does: take in what people say, run turns, or both."""

    serves: bool
    works: bool

    @property
    def alone(self) -> bool:
        return self.serves and self.works


@dataclass(slots=True)
class State:
    """How the parts of a process are, for /readyz."""

    ready: bool = False
    parts: dict[str, str] = field(default_factory=dict[str, str])
    core: Core | None = None

    async def readiness(self) -> Readiness:
        """Once ready, later trouble of a part shows in its sentence and takes nothing back."""
        found = dict(self.parts)
        if self.core is not None:
            found["database"] = await parts.check_database(self.core.database)
            found |= {f"tools: {name}": problem for name, problem in self.core.registry.problems().items()}
        return Readiness(self.ready, found)


class _Server(uvicorn.Server):
    """uvicorn inside our own loop: signals are ours."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


def bind(settings: Settings) -> socket.socket:
    """Return the listening socket; raises CannotStart where the port is taken."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise _taken(settings, error) from error
    return listener


def _taken(settings: Settings, error: OSError) -> CannotStart:
    return CannotStart(
        f"Nothing can listen on {settings.host}:{settings.port} ({error.strerror}): set HOST or PORT to a free one."
    )


class SlackDoor:
    """Slack's loops and handler for one process."""

    def __init__(self, settings: Settings, core: Core) -> None:
        from bot.bolt import build_bolt
        from bot.errands import Errands

        self._settings = settings
        self._service = core.service
        self._errands = Errands()
        self._bolt = build_bolt(
            core.service,
            token=_plain(settings.slack_bot_token),
            signing_secret=_plain(settings.slack_signing_secret) or None,
            api_url=settings.slack_api_url,
            errands=self._errands,
        )

    def http_handler(self) -> Any:
        """What answers POST /slack/events, or None in Socket Mode."""
        from bot.http import SlackEndpoint

        return SlackEndpoint(self._bolt).handle if self._settings.slack_mode == "http" else None

    def socket(self) -> Coroutine[Any, Any, None]:
        from bot.socket import run

        return run(self._bolt, _plain(self._settings.slack_app_token))

    def presenter(self) -> Coroutine[Any, Any, None]:
        from bot.presenter import Presenter

        return Presenter(self._service, self._bolt.client, self._errands).run()

    def change_cards(self) -> Coroutine[Any, Any, None]:
        from bot.pins import ChangeCards

        return ChangeCards(self._service, self._bolt.client).run()

    async def drain(self) -> None:
        await self._errands.drain()


def _plain(secret: SecretStr | None) -> str:
    return secret.get_secret_value() if secret else ""


class Process:
    """The loops of one process: started together, ended together."""

    def __init__(self, settings: Settings, roles: Roles) -> None:
        self._settings = settings
        self._roles = roles
        self._state = State()
        self._stop = asyncio.Event()
        self._loops: dict[str, asyncio.Task[None]] = {}
        self._tokens = OneTimeTokens()
        self._server: _Server | None = None

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT; raises CannotStart with one sentence."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        listener = bind(self._settings) if self._roles.serves else None
        try:
            slack = parts.slack_parts(self._settings)
            async with (
                parts.open_database(self._settings) as dsn,
                parts.open_product(self._settings, dsn, slack, tools=self._roles.works) as (core, model),
            ):
                self._state.core = core
                try:
                    await self._live(core, model, slack, listener)
                finally:
                    await self._end(core)
        finally:
            if listener:
                listener.close()

    async def _live(
        self, core: Core, model: Any, slack: parts.SlackParts | None, listener: socket.socket | None
    ) -> None:
        self._start("hub", core.hub.run())
        slack_door = SlackDoor(self._settings, core) if slack else None
        if listener:
            self._serve(core, listener, slack_door.http_handler() if slack_door else None)
        if slack_door and self._roles.serves and self._settings.slack_mode == "socket":
            self._start("socket", slack_door.socket())
        if slack_door and self._roles.works:
            self._start("presenter", slack_door.presenter())
            self._start("change cards", slack_door.change_cards())
        try:
            await self._tried(core, model)
            await self._until_stopped()
        finally:
            if slack_door:
                await slack_door.drain()

    async def _tried(self, core: Core, model: Any) -> None:
        """Try everything once, at most ten seconds; then take work, and say so."""
        if self._roles.works:
            await core.follow_servers()
            self._start("tools", core.registry.run())
        checks = asyncio.gather(self._check_model(model), self._check_slack(), core.registry.ready(TRIED_WITHIN_S))
        stopped = asyncio.create_task(self._stop.wait())
        await asyncio.wait(
            [checks, stopped, *self._loops.values()],
            timeout=TRIED_WITHIN_S + 2,
            return_when=asyncio.FIRST_COMPLETED,
        )
        stopped.cancel()
        if checks.done():
            checks.result()
        else:
            checks.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await checks
        if self._roles.works:
            await core.publish_once(alone=self._roles.alone)
            self._start("catalogue", core.publish_tools(alone=self._roles.alone))
            self._start("worker", core.worker.run())
            self._start("sweeps", core.sweeps.run())
            self._start("previews", core.previews.run())
        for name, problem in core.registry.problems().items():
            log.warning("tools.problem", source=name, problem=problem)
        self._start("checks", self._check_again())
        self._state.ready = True
        self._announce()

    async def _check_again(self) -> None:
        """Look after Slack every minute, for /readyz: what was down at the start may be up by now."""
        while True:
            await asyncio.sleep(CHECK_AGAIN_S)
            with contextlib.suppress(CannotStart):
                await self._check_slack()

    async def _check_model(self, model: Any) -> None:
        if self._roles.works:
            self._state.parts["model"] = await parts.check_model(model)

    async def _check_slack(self) -> None:
        self._state.parts["slack"] = await parts.check_slack(self._settings)

    def _serve(self, core: Core, listener: socket.socket, slack_handler: Any) -> None:
        settings = self._settings
        if settings.api_key is None:
            raise CannotStart("API_KEY is not set: set it to a long random value.")
        try:
            # Two that start at the same moment can both bind; only one can listen.
            listener.listen(_BACKLOG)
        except OSError as error:
            raise _taken(settings, error) from error
        app = build_asgi(
            core.service,
            keys=KeyRing(api_key=settings.api_key, signing=settings.secret_keys),
            readiness=self._state.readiness,
            tokens=self._tokens,
            slack_handler=slack_handler,
            demo=parts.is_demo(settings),
            open_registration=settings.open_registration,
        )
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=HTTP_GRACE_S,
            timeout_keep_alive=30,
            **bounded(),
        )
        self._server = _Server(config)
        self._start("http", self._server.serve(sockets=[listener]))

    def _announce(self) -> None:
        settings = self._settings
        if not self._roles.serves:
            log.info("work.ready")
            return
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        url = f"http://{host}:{settings.port}"
        log.info("serve.ready", url=url)
        if not self._roles.alone:
            return
        print(f"\nopsagent is up at {url}", flush=True)
        if parts.is_demo(settings):
            print("  A demo model answers: rules, not AI. Set TONGYI_API_KEY for a real one.", flush=True)
        if settings.slack_bot_token is None:
            print("  Slack is off: set SLACK_BOT_TOKEN and SLACK_APP_TOKEN to connect it.", flush=True)
        link = f"{url}/#token={self._tokens.issue()}"
        print(f"  Open the console (this link works once, for 15 minutes):\n  {link}\n", flush=True)

    def _start(self, name: str, loop: Coroutine[Any, Any, None]) -> None:
        self._loops[name] = asyncio.create_task(loop, name=name)

    async def _until_stopped(self) -> None:
        """Wait for a signal, or for a loop that ends though none should."""
        stopped = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait([stopped, *self._loops.values()], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
        for name, task in self._loops.items():
            if task.done() and not self._stop.is_set():
                raise _ended(name, task)
        log.info("stopping")

    async def _end(self, core: Core) -> None:
        """Take no more in, let turns reach their next checkpoint, deliver what is written, then let go."""
        self._state.ready = False
        if core.work:
            core.turns.drain()
        if self._server:
            self._server.should_exit = True
        for names in (
            ("socket", "worker"),
            ("sweeps", "previews", "catalogue", "checks", "presenter", "change cards", "http"),
            ("tools", "hub"),
        ):
            ending = [self._loops[name] for name in names if name in self._loops]
            for task in ending:
                if task.get_name() != "http":
                    task.cancel()
            if ending:
                await asyncio.wait(ending, timeout=9)
        for name, task in self._loops.items():
            if not task.done():
                log.warning("stop.late", loop=name)
                task.cancel()


def _ended(name: str, task: "asyncio.Task[None]") -> Exception:
    error = None if task.cancelled() else task.exception()
    if error is not None and type(error).__name__ == "SlackTokenRejected":
        return CannotStart(str(error))
    log.error("loop.ended", loop=name, exc_info=error)
    return CannotStart(f"The part {name!r} of this process ended ({type(error).__name__}); see the log above.")


def up(settings: Settings) -> None:
    """Everything in one process."""
    _run(Process(settings, Roles(serves=True, works=True)))


def serve(settings: Settings) -> None:
    """The doors alone: what people say is stored and shown, `work` runs it."""
    _run(Process(settings, Roles(serves=True, works=False)))


def work(settings: Settings) -> None:
    """Turns alone."""
    _run(Process(settings, Roles(serves=False, works=True)))


def _run(process: Process) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(process.run())


def loop() -> asyncio.AbstractEventLoop:
    """Return the lighter uvloop; Windows has none, and psycopg needs another than the default there."""
    if sys.platform == "win32":
        return asyncio.SelectorEventLoop()
    import uvloop

    return uvloop.new_event_loop()
