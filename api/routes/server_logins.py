"""Where browsers come back from an authorization server: a page for people, without a login of ours."""

from collections.abc import Callable, Coroutine
from html import escape
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from typing_extensions import override

from agent.errors import Refusal
from agent.throttle import TooMany
from api.door import OpenRoute, Service, Storable, door_of
from api.problems import status_of

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>opsagent</title></head>
<body><h1>{title}</h1><p>{text}</p></body></html>
"""
Given = Annotated[str | None, Storable, Query(max_length=4_000)]


class PageRoute(OpenRoute):
    """A route whose refusals are pages too: whoever stands before them has a browser."""

    @override
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def shown(request: Request) -> Response:
            try:
                door_of(request).take_stranger(request)
                return await handle(request)
            except TooMany as refusal:
                headers = {"Retry-After": str(max(1, refusal.retry_after_s))}
                return _page("Not now", refusal.message, status_of(refusal), headers)
            except Refusal as refusal:
                return _page("Not authorized", refusal.message, status_of(refusal))
            except RequestValidationError:
                return _page("Not authorized", "This address is not one that an authorization server sends to.", 422)

        return shown


router = APIRouter(prefix="/api/mcp-servers/oauth", route_class=PageRoute, include_in_schema=False)


@router.get("/callback")
async def callback(
    service: Service, state: Given = None, code: Given = None, iss: Given = None, error: Given = None
) -> Response:
    name = await service.finish_server_login(state or "", code=code, iss=iss, error=error)
    return _page("Authorized", f"opsagent may use the MCP server {name} now. You can close this page.", 200)


@router.get("/client.json")
async def client(service: Service) -> Response:
    return JSONResponse(service.client_document(), headers={"Cache-Control": "max-age=300"})


def _page(title: str, text: str, status: int, headers: dict[str, str] | None = None) -> HTMLResponse:
    return HTMLResponse(_PAGE.format(title=escape(title), text=escape(text)), status, headers)
