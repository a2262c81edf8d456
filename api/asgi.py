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
from api.door import Door, Patience
from api.identity import Identity, KeyRing
from api.metrics import Metrics
from api.problems import ProblemDocument, handle_problems
from api.quotas import Quotas
from api.requests import Faults, HeadLimit, RequestLog
from api.routes import (
    approval_verbs,
    approvals,
    audit,
    execute,
    grants,
    health,
    live,
    mcp_servers,
    policies,
    questions,
    server_logins,
    sessions,
    tokens,
    tools,
    users,
)
from api.routes.health import ReadinessCheck

SlackHandler = Callable[[Request], Awaitable[Response]]

_DESCRIPTION = """JSON over HTTP. Show a key or token as `Authorization: Bearer ...` or as `X-API-Key`: the operator's
API key, an access token from `POST /api/users/login`, or a service token. Errors are RFC 9457 problem documents: branch
on `code`. Lists answer `{items, next_cursor}`; pass `next_cursor` as `cursor` for the next part. Every answer carries
X-Request-Id. `GET /api/sessions/{session_id}/ws` upgrades to a WebSocket with the session's live events; docs/api.md
describes it."""

_TAGS = [
    {"name": "users", "description": "People: accounts, logins, roles, and their Slack identity."},
    {"name": "tokens", "description": "What programs log in with: named, scoped, expiring, shown once."},
    {"name": "sessions", "description": "Conversations and their transcripts."},
    {"name": "turns", "description": "One run of the agent: from a message until it answers, fails, or waits."},
    {"name": "approvals", "description": "The human decisions that tool calls wait for."},
    {"name": "questions", "description": "What running tools ask of whoever they run for."},
    {"name": "tools", "description": "What the agent may call, and what a human must see first."},
    {"name": "policy", "description": "What the rules would say of a call, and the rows they stand in."},
    {"name": "mcp servers", "description": "Where tools come from: registered, tried out, and accepted by admins."},
    {"name": "audit", "description": "Who did what: append-only, and each entry's hash covers the one before it."},
    {"name": "console", "description": "What the web console asks about itself."},
    {"name": "health", "description": "Liveness, readiness and figures; no key needed."},
]

_ROUTERS = (
    users.open_router,
    users.own,
    users.router,
    tokens.router,
    sessions.router,
    execute.router,
    live.router,
    approvals.aliases,
    approvals.router,
    questions.router,
    approval_verbs.router,
    grants.router,
    tools.router,
    server_logins.router,
    policies.asking,
    policies.rows,
    mcp_servers.router,
    audit.router,
    health.router,
)


def build_asgi(
    service: AgentService,
    *,
    keys: KeyRing,
    readiness: ReadinessCheck,
    tokens: OneTimeTokens | None = None,
    slack_handler: SlackHandler | None = None,
    demo: bool = False,
    open_registration: bool = False,
    quotas: Quotas | None = None,
    patience: Patience | None = None,
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
    app.state.door = Door(
        service,
        Identity(service, keys, cookie),
        quotas or Quotas(),
        patience or Patience(),
        open_registration=open_registration,
    )
    app.state.readiness = readiness
    app.state.metrics = Metrics(service, release)
    handle_problems(app)
    # The last one added is the outermost.
    for middleware in (SizeLimit, Faults, HeadLimit, SafeHeaders, RequestLog):
        app.add_middleware(middleware)
    for router in _ROUTERS:
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
                title=app.title,
                version=app.version,
                summary=app.summary,
                description=_DESCRIPTION,
                routes=app.routes,
                tags=app.openapi_tags,
            )
            schemas = cast(dict[str, Any], document["components"]["schemas"])
            schemas["Problem"] = ProblemDocument.model_json_schema(ref_template="#/components/schemas/{model}")
            app.openapi_schema = document
        return app.openapi_schema

    return openapi
