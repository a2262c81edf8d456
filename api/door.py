"""What every route has in common: who calls is settled before the body is read, and the body is read strictly."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, ClassVar, TypedDict, cast

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.routing import APIRoute
from pydantic import AfterValidator
from starlette.requests import HTTPConnection
from typing_extensions import override

from agent.approvals.types import Door as DecisionDoor
from agent.identities import Authenticated
from agent.service import AgentService
from agent.types import Principal
from agent.users import API_KEY_USER
from api.bodies import StrictRequest
from api.identity import SECURITY, Identity, Scope, allow, shown
from api.problems import documented
from api.quotas import OPERATOR, REQUESTS, STRANGERS, Quota, Quotas


class Way(TypedDict):
    """How a decision comes in: from the console or not, and when its maker last entered a password."""

    door: DecisionDoor
    login_at: datetime | None


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a live connection is waited for, and how often it is checked again."""

    auth_s: float = 10.0
    stall_s: float = 10.0
    recheck_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Door:
    """What the routes stand on."""

    service: AgentService
    identity: Identity
    quotas: Quotas = field(default_factory=Quotas)
    patience: Patience = field(default_factory=Patience)
    open_registration: bool = False

    def take(self, quota: Quota, by: Principal) -> None:
        """Count one more for a caller; raises TooMany."""
        self.quotas.take(quota, by.user_id, factor=OPERATOR if by.user_id == API_KEY_USER else 1)

    def take_stranger(self, request: HTTPConnection) -> None:
        """Count one more for an address that nobody known calls from; raises TooMany."""
        self.quotas.take(STRANGERS, address_of(request))


def door_of(request: HTTPConnection) -> Door:
    return cast(Door, request.app.state.door)


def address_of(request: HTTPConnection) -> str:
    """Return the peer of the socket: what a header says of it could be anybody's word."""
    return request.client.host if request.client else "unknown"


class OpenRoute(APIRoute):
    """A route for anyone; its body is read strictly."""

    @override
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handle(await StrictRequest(request.scope, request.receive).checked())

        return strict


class GuardedRoute(OpenRoute):
    """A route for known principals: nothing of the body is read for others."""

    reading: ClassVar[Scope] = "read"
    writing: ClassVar[Scope] = "admin"

    @override
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            await self.enter(request)
            return await handle(request)

        return guarded

    async def enter(self, request: Request) -> None:
        """Settle who calls, whether their token is for this, and whether they call too often."""
        door = door_of(request)
        caller = await door.identity.caller(request, request.method)
        request.state.caller = caller
        allow(caller, self.reading if request.method == "GET" else self.writing)
        door.take(REQUESTS, caller.principal)


class RegistrationRoute(GuardedRoute):
    """A guarded route that lets strangers in where registration is open; who shows something must be who they say."""

    @override
    async def enter(self, request: Request) -> None:
        door = door_of(request)
        if shown(request) is None and door.open_registration:
            door.take_stranger(request)
            request.state.caller = None
        else:
            await super().enter(request)


def guarded_router(prefix: str, tag: str, *, reading: Scope = "read", writing: Scope) -> APIRouter:
    """A router whose GETs take one scope of a service token, and its other calls another."""
    route = type("ScopedRoute", (GuardedRoute,), {"reading": reading, "writing": writing})
    return APIRouter(
        prefix=prefix,
        tags=[tag],
        route_class=route,
        dependencies=SECURITY,
        responses=documented(400, 401, 403, 404, 413, 415, 422, 429, 500),
        redirect_slashes=False,
    )


async def _service(request: Request) -> AgentService:
    return door_of(request).service


async def _caller(request: Request) -> Authenticated | None:
    return cast(Authenticated | None, request.state.caller)


async def _known(request: Request) -> Authenticated:
    return cast(Authenticated, request.state.caller)


async def _way(request: Request) -> Way:
    caller = cast(Authenticated, request.state.caller)
    web = door_of(request).identity.comes_from_console(request)
    return {"door": DecisionDoor.WEB if web else DecisionDoor.API, "login_at": caller.login_at}


async def _actor(request: Request) -> Principal:
    return cast(Authenticated, request.state.caller).principal


def _storable(text: str | None) -> str | None:
    if text is not None and "\0" in text:
        raise ValueError("it holds a NUL character")
    return text


Service = Annotated[AgentService, Depends(_service)]
Caller = Annotated[Authenticated | None, Depends(_caller)]
Known = Annotated[Authenticated, Depends(_known)]
Actor = Annotated[Principal, Depends(_actor)]
CameBy = Annotated[Way, Depends(_way)]
Limit = Annotated[int, Query(ge=1, le=200, description="How many at most.")]
Storable = AfterValidator(_storable)
Cursor = Annotated[
    str | None,
    Storable,
    Query(
        max_length=1024, min_length=1, pattern="^[A-Za-z0-9_-]+$", description="`next_cursor` of the part before this."
    ),
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
