"""The console's pages and its login: static files from the package, one cookie."""

import hashlib
from importlib.resources import files

import structlog
from fastapi import APIRouter, FastAPI, Request, Response
from pydantic import Field

from agent.types import Principal
from api.console.login import COOKIE, COOKIE_LIFE_S, ConsoleCookie, OneTimeTokens
from api.door import Actor, OpenRoute, address_of, door_of, guarded_router
from api.identity import CSRF_HEADER, CSRF_VALUE
from api.problems import Problem
from api.schemas import Body, ConsoleOut, PersonOut

log = structlog.get_logger()

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/console/console.css": ("console.css", "text/css; charset=utf-8"),
    "/console/icon.svg": ("icon.svg", "image/svg+xml"),
    "/favicon.ico": ("icon.svg", "image/svg+xml"),
} | {
    f"/console/{name}.js": (f"{name}.js", "text/javascript; charset=utf-8")
    for name in ("console", "session", "approvals", "relogin", "markdown", "calls", "dom")
}


class LoginIn(Body):
    """One of the two: the token of the link, or the API key."""

    token: str | None = Field(None, max_length=200)
    api_key: str | None = Field(None, max_length=1_000)


def mount_console(app: FastAPI, *, tokens: OneTimeTokens, cookie: ConsoleCookie, demo: bool, version: str) -> None:
    """Add the console's pages, its login and what it asks about itself."""
    for path, (name, media_type) in _FILES.items():
        _serve(app, path, name, media_type)
    app.include_router(_login_router(tokens, cookie))
    info = guarded_router("/api/console", "console", writing="admin")

    @info.get("/info", summary="What the console shows of itself", operation_id="read_console_info")
    async def read_info(actor: Actor) -> ConsoleOut:
        return _info(actor, demo=demo, version=version)

    app.include_router(info)


def _info(actor: Principal, *, demo: bool, version: str) -> ConsoleOut:
    return ConsoleOut(demo=demo, version=version, user=PersonOut.of(actor.person), role=actor.role)


def _serve(app: FastAPI, path: str, name: str, media_type: str) -> None:
    content = files("api.console").joinpath("static", name).read_bytes()
    etag = f'"{hashlib.sha256(content).hexdigest()[:20]}"'
    headers = {"ETag": etag, "Cache-Control": "no-cache", "Content-Security-Policy": _POLICY}

    async def page(request: Request) -> Response:
        if etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=media_type, headers=headers)

    app.add_api_route(path, page, methods=["GET", "HEAD"], include_in_schema=False)


def _login_router(tokens: OneTimeTokens, cookie: ConsoleCookie) -> APIRouter:
    router = APIRouter(prefix="/console", route_class=OpenRoute, include_in_schema=False)

    @router.post("/login", status_code=204)
    async def login(body: LoginIn, request: Request) -> Response:
        _same_site(request)
        door_of(request).take_stranger(request)
        let_in = _lets_in(body, request, tokens)
        await door_of(request).service.note_console_login(
            with_key=body.api_key is not None, let_in=let_in, address=address_of(request)
        )
        if not let_in:
            log.warning("console.login_refused", client=address_of(request))
            detail = "This link was used already or is too old. Run `opsagent up` again for a new one."
            if body.api_key is not None:
                detail = "This is not the API key: compare it with the operator's API_KEY."
            raise Problem(401, "login_refused", detail, headers={"WWW-Authenticate": 'Bearer realm="opsagent"'})
        response = Response(status_code=204, headers={"Cache-Control": "no-store"})
        _set(response, request, cookie.issue(), COOKIE_LIFE_S)
        return response

    @router.post("/logout", status_code=204)
    async def logout(request: Request) -> Response:
        _same_site(request)
        response = Response(status_code=204)
        _set(response, request, "", 0)
        return response

    return router


def _lets_in(body: LoginIn, request: Request, tokens: OneTimeTokens) -> bool:
    if body.token is not None:
        return tokens.redeem(body.token)
    return body.api_key is not None and door_of(request).identity.is_api_key(body.api_key)


def _same_site(request: Request) -> None:
    if request.headers.get(CSRF_HEADER) != CSRF_VALUE:
        raise Problem(403, "csrf_header_missing", f"The console's calls carry {CSRF_HEADER}: {CSRF_VALUE}.")


def _set(response: Response, request: Request, value: str, life_s: int) -> None:
    # A proxy's word is good enough here: whoever makes it up only makes their own cookie stricter.
    secure = "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))
    response.set_cookie(COOKIE, value, max_age=life_s, httponly=True, samesite="strict", secure=secure)
