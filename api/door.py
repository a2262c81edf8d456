"""What every route has in common: who calls is settled before the body is read, and the body is read strictly."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.routing import APIRoute
from pydantic import AfterValidator

from agent.service import AgentService
from agent.types import Principal
from api.bodies import StrictRequest
from api.identity import SECURITY, Identity
from api.problems import documented


@dataclass(frozen=True, slots=True)
class Door:
    """What the routes stand on."""

    service: AgentService
    identity: Identity


def door_of(request: Request) -> Door:
    return cast(Door, request.app.state.door)


class OpenRoute(APIRoute):
    """A route for anyone; its body is read strictly."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handle(await StrictRequest(request.scope, request.receive).checked())

        return strict


class GuardedRoute(OpenRoute):
    """A route for known principals: nothing of the body is read for others."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            request.state.principal = await door_of(request).identity.principal(request)
            return await handle(request)

        return guarded


def guarded_router(prefix: str, tag: str) -> APIRouter:
    return APIRouter(
        prefix=prefix,
        tags=[tag],
        route_class=GuardedRoute,
        dependencies=SECURITY,
        responses=documented(400, 401, 403, 404, 413, 415, 422, 500),
        redirect_slashes=False,
    )


async def _service(request: Request) -> AgentService:
    return door_of(request).service


async def _actor(request: Request) -> Principal:
    return cast(Principal, request.state.principal)


def _storable(text: str) -> str:
    if "\0" in text:
        raise ValueError("it holds a NUL character")
    return text


Service = Annotated[AgentService, Depends(_service)]
Actor = Annotated[Principal, Depends(_actor)]
Limit = Annotated[int, Query(ge=1, le=200, description="How many at most.")]
Cursor = Annotated[
    str | None, AfterValidator(lambda c: c if c is None else _storable(c)), Query(max_length=1024, min_length=1)
]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        pattern=r"^[\x20-\x7e]+$",
        description="The same key again answers what the first call made; with another body it is refused.",
    ),
]
