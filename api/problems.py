"""Errors as RFC 9457 problem documents: one table from refusal kind to status, and the handlers that use it."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.routing import Match

from agent.accounts import WrongCredentials
from agent.approvals.types import AlreadySettled
from agent.errors import Conflict, Expired, Invalid, NotAllowed, NotFound, Refusal
from agent.questions.types import WrongAnswer
from agent.throttle import TooMany
from api.schemas import PersonOut, moment

MEDIA_TYPE = "application/problem+json"
STATUS_OF: dict[type[Refusal], int] = {
    NotFound: 404,
    NotAllowed: 403,
    Conflict: 409,
    Expired: 410,
    Invalid: 422,
    TooMany: 429,
}

# Code and sentence for what the framework refuses by itself.
_PLAIN: dict[int, tuple[str, str]] = {
    404: ("no_such_route", "There is nothing at this address; /openapi.json lists what there is."),
    405: ("method_not_allowed", "This address does not take this method; the Allow header lists those it takes."),
}

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_MEANING = {
    400: "The body is not JSON.",
    401: "Nobody known calls: no key or token, a wrong one, or one that has ended.",
    403: "The caller may not do this, or their token lacks the scope (`scope_missing`).",
    404: "There is no such thing, or it is somebody else's.",
    409: "What is stored contradicts this; `code` and the further members say how.",
    410: "It was there, and its time is over.",
    413: "The body is larger than 1 MiB.",
    415: "The body does not say that it is JSON.",
    422: "The request is JSON, but not one that fits; `errors` says where.",
    429: "Too many requests; Retry-After says when to go on.",
    500: "A fault of ours; `error_id` is what the operator finds in the log.",
    503: "Not everything is there yet; `parts` says what is missing.",
}


class ProblemDocument(BaseModel):
    """What every refusal answers; more members may follow."""

    model_config = ConfigDict(title="Problem", extra="allow")

    type: str = Field("about:blank", description="Always about:blank: branch on `code`.")
    title: str = Field(description="The status in words.")
    status: int = Field(description="The HTTP status, repeated.")
    code: str = Field(description="Stable; what programs branch on.", examples=["not_found"])
    detail: str = Field(description="A sentence for the person who asked: what is wrong, and what to do.")
    errors: list[dict[str, Any]] | None = Field(None, description="Of a 422: what is wrong, and where.")


class Problem(HTTPException):
    """A refusal that this door makes by itself."""

    def __init__(self, status: int, code: str, detail: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, detail, headers)
        self.code = code


def problem_response(
    status: int,
    code: str,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    more: Mapping[str, object] | None = None,
) -> JSONResponse:
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "code": code, "detail": detail}
    kept = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", **(headers or {})}
    return JSONResponse({**jsonable_encoder(more or {}), **body}, status, headers=kept, media_type=MEDIA_TYPE)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return OpenAPI entries for the problems a route may answer."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    found: dict[int | str, dict[str, Any]] = {
        status: {"description": _MEANING.get(status, HTTPStatus(status).phrase), "content": content}
        for status in statuses
    }
    if 429 in found:
        wait = {"description": "Seconds until it may be tried again.", "schema": {"type": "integer", "minimum": 1}}
        found[429]["headers"] = {"Retry-After": wait}
    return found


def handle_problems(app: FastAPI) -> None:
    """Make every error of `app` a problem document."""
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _unfit)
    app.add_exception_handler(WrongCredentials, _wrong_credentials)


def status_of(refusal: Refusal) -> int:
    return next((status for kind, status in STATUS_OF.items() if isinstance(refusal, kind)), 400)


async def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refusal)
    headers = {"Retry-After": str(max(1, error.retry_after_s))} if isinstance(error, TooMany) else None
    return problem_response(status_of(error), error.code, error.message, headers=headers, more=_more(error))


def _more(error: Refusal) -> dict[str, object]:
    if isinstance(error, WrongAnswer):
        return {"errors": [{"where": name, "message": why, "type": error.code} for name, why in error.wrong.items()]}
    if not isinstance(error, AlreadySettled):
        return {}
    settled = error.approval
    return {
        "approval_id": settled.approval_id,
        "approval_status": settled.status,
        "decided_by": PersonOut.of(settled.decided_by) if settled.decided_by else None,
        "decided_at": moment(settled.decided_at) if settled.decided_at else None,
        "reason": settled.reason,
    }


def problem_of(error: Refusal) -> ProblemDocument:
    """Return the document of a refusal that stands within an answer."""
    status = status_of(error)
    title = HTTPStatus(status).phrase
    return ProblemDocument.model_validate(
        {**jsonable_encoder(_more(error)), "type": "about:blank", "title": title, "status": status}
        | {"code": error.code, "detail": error.message}
    )


async def _wrong_credentials(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, WrongCredentials)
    headers = {"WWW-Authenticate": 'Bearer realm="opsagent"'}
    return problem_response(401, "wrong_credentials", error.message, headers=headers)


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    headers = error.headers
    if isinstance(error, Problem):
        return problem_response(error.status_code, error.code, error.detail, headers=headers)
    if error.status_code == 405:
        headers = {"Allow": ", ".join(method for method in _METHODS if _takes(request, method))}
    phrase = HTTPStatus(error.status_code).phrase
    code, detail = _PLAIN.get(error.status_code, (phrase.lower().replace(" ", "_"), str(error.detail)))
    return problem_response(error.status_code, code, detail, headers=headers)


def _takes(request: Request, method: str) -> bool:
    # Starlette itself names the methods of only the first route that has this path.
    scope = {**request.scope, "method": method}
    return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)


async def _unfit(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    # Without `input`: what was sent may hold a secret.
    errors = places(error.errors())
    first = errors[0]
    rest = f" ({len(errors) - 1} more in `errors`.)" if len(errors) > 1 else ""
    detail = f"`{first['where']}` is wrong: {first['message']}.{rest}"
    return problem_response(422, "validation_failed", detail, more={"errors": errors})


def places(errors: Sequence[Any]) -> list[dict[str, str]]:
    """Return what is wrong and where, of pydantic's errors."""
    return [{"where": _where(e["loc"]), "message": e["msg"], "type": e["type"]} for e in errors]


def _where(place: Sequence[object]) -> str:
    parts = [str(part) for part in place]
    return ".".join(parts[1:] if parts[:1] == ["body"] and len(parts) > 1 else parts)
