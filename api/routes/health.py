"""Liveness and readiness."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

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
