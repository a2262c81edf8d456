"""The REST door: routers, error table, limits, OpenAPI."""

from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any, cast

from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agent.service import AgentService
from api.bodies import SizeLimit
from api.console.login import ConsoleCookie, OneTimeTokens
from api.console.routes import mount_console
from api.door import Door
from api.identity import Identity, KeyRing
from api.problems import ProblemDocument, handle_problems
from api.routes import approvals, execute, health, sessions, tools
from api.routes.health import ReadinessCheck

SlackHandler = Callable[[Request], Awaitable[Response]]

_TAGS = [
    {"name": "sessions", "description": "Conversations and their transcripts."},
    {"name": "turns", "description": "One run of the agent: from a message until it answers, fails, or waits."},
    {"name": "approvals", "description": "The human decisions that tool calls wait for."},
    {"name": "tools", "description": "What the agent may call, and what a human must see first."},
    {"name": "console", "description": "What the web console asks about itself."},
    {"name": "health", "description": "Liveness and readiness; no key needed."},
]


def build_asgi(
    service: AgentService,
    *,
    keys: KeyRing,
    readiness: ReadinessCheck,
    tokens: OneTimeTokens | None = None,
    slack_handler: SlackHandler | None = None,
    demo: bool = False,
) -> FastAPI:
    """Return the ASGI app over `service`; `tokens` are the console's one-time links."""
    release = version("opsagent")
    app = FastAPI(
        title="opsagent",
        version=release,
        summary="A ChatOps agent that asks a human before anything that matters.",
        openapi_tags=_TAGS,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    cookie = ConsoleCookie(keys.signing, keys.api_key)
    app.state.door = Door(service, Identity(service, keys, cookie))
    app.state.readiness = readiness
    handle_problems(app)
    app.add_middleware(SizeLimit)
    app.add_middleware(SafeHeaders)
    for router in (sessions.router, execute.router, approvals.aliases, approvals.router, tools.router, health.router):
        app.include_router(router)
    mount_console(app, tokens=tokens or OneTimeTokens(), cookie=cookie, demo=demo, version=release)
    if slack_handler is not None:
        app.add_api_route("/slack/events", _slack_route(slack_handler), methods=["POST"], include_in_schema=False)
    app.openapi = _with_problems(app)  # FastAPI's documented way to extend the document
    return app


class SafeHeaders:
    """ASGI middleware: nothing is sniffed, framed, referred to, or cached unless it says so itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def safe(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
                headers["Cross-Origin-Opener-Policy"] = "same-origin"
                headers["Cross-Origin-Resource-Policy"] = "same-origin"
                headers.setdefault("Cache-Control", "no-store")
                headers.setdefault("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
            await send(message)

        await self._app(scope, receive, safe if scope["type"] == "http" else send)


def _slack_route(handler: SlackHandler) -> Callable[[Request], Awaitable[Response]]:
    async def slack_events(request: Request) -> Response:
        return await handler(request)

    return slack_events


def _with_problems(app: FastAPI) -> Callable[[], dict[str, Any]]:
    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title, version=app.version, summary=app.summary, routes=app.routes, tags=app.openapi_tags
            )
            schemas = cast(dict[str, Any], document["components"]["schemas"])
            schemas["Problem"] = ProblemDocument.model_json_schema(ref_template="#/components/schemas/{model}")
            app.openapi_schema = document
        return app.openapi_schema

    return openapi
