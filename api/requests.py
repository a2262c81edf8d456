"""ASGI middleware around every request: an id, a line in the log, bounded headers, and faults that show nothing."""

import re
import time
from typing import Any
from uuid import uuid4

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

from api.problems import problem_response

log = structlog.get_logger()

REQUEST_ID = "X-Request-Id"
HEAD_LIMIT = 32 * 1024
_HEADERS = 100
_GOOD_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_PROBES = {"/healthz", "/readyz", "/metrics"}


class RequestLog:
    """Gives each request an id, which every log line of it carries, and tells how it ended."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID, "")
        request_id = given if _GOOD_ID.fullmatch(given) else uuid4().hex
        status, begun = 0, time.perf_counter()

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            elif message["type"] == "websocket.accept":
                status = 101
            elif message["type"] == "websocket.close":
                status = message.get("code", 1000) if status else 403
            await send(message)

        with bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, told)
            finally:
                taken_s = time.perf_counter() - begun
                _tell(scope, status, taken_s)
                if scope["type"] == "http":
                    scope["app"].state.metrics.count(scope, status, taken_s)


def _tell(scope: Scope, status: int, taken_s: float) -> None:
    tell = log.debug if scope["path"] in _PROBES and status < 400 else log.info
    caller: Any = scope.get("state", {}).get("caller")
    tell(
        "request.done",
        method=scope.get("method", "WS"),
        # Without the query: what people search for, and what they wrongly put there, stays out of the log.
        path=scope["path"][:200],
        status=status,
        ms=round(taken_s * 1000, 1),
        principal=caller.principal.username if caller else None,
    )


class Faults:
    """Answers what nobody foresaw with an id: the log has the rest, once."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except Exception as error:
            error_id = str(uuid4())
            log.error("request.failed", error_id=error_id, method=scope["method"], path=scope["path"], exc_info=error)
            if started:
                raise
            detail = f"Something went wrong on our side. The operator finds it in the log under {error_id}."
            answer = problem_response(500, "internal_error", detail, more={"error_id": error_id})
            await answer(scope, receive, send)


class HeadLimit:
    """Refuses headers that are too many or too long."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: list[tuple[bytes, bytes]] = scope.get("headers", [])
        size = sum(len(name) + len(value) for name, value in headers) + len(scope.get("raw_path") or b"")
        if scope["type"] == "http" and (len(headers) > _HEADERS or size > HEAD_LIMIT):
            detail = f"The headers are more than {_HEADERS}, or longer than {HEAD_LIMIT // 1024} KiB: send less."
            refusal = problem_response(431, "headers_too_large", detail, headers={"Connection": "close"})
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)
