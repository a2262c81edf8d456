"""Liveness, readiness and figures."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from api.metrics import Metrics
from api.problems import documented, problem_response

router = APIRouter(tags=["health"])


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether traffic may come, and how each part is: "ok", or a sentence about its trouble."""

    ready: bool
    parts: dict[str, str] = field(default_factory=dict[str, str])


ReadinessCheck = Callable[[], Awaitable[Readiness]]


@router.get("/healthz", summary="Is the process alive?", operation_id="healthz")
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


@router.get(
    "/readyz", summary="May traffic come?", operation_id="readyz", responses=documented(503), response_model=None
)
async def readyz(request: Request) -> JSONResponse:
    """Later trouble of Slack or of tools shows in `parts`, still with 200."""
    check: ReadinessCheck = request.app.state.readiness
    state = await check()
    if not state.ready:
        detail = "Not everything was there yet; `parts` says what is missing."
        return problem_response(503, "not_ready", detail, headers={"Retry-After": "1"}, more={"parts": state.parts})
    return JSONResponse({"status": "ready", "parts": state.parts}, headers={"Cache-Control": "no-store"})


@router.get(
    "/metrics",
    summary="Figures in Prometheus' text format",
    operation_id="metrics",
    response_class=PlainTextResponse,
    response_model=None,
)
async def metrics(request: Request) -> Response:
    """Counts without names: open turns, pending approvals, events by kind, HTTP answers by route."""
    found: Metrics = request.app.state.metrics
    return Response(await found.render(), headers={"Content-Type": CONTENT_TYPE_LATEST})
