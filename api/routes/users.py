"""People: registering, logging in, profiles, roles, and the link with Slack."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request

from api.accounts import (
    CodeIn,
    LinkIn,
    LoginIn,
    LoginOut,
    ProfileIn,
    RegisterIn,
    SentOut,
    SlackUser,
    StandingIn,
    UserOut,
)
from api.door import (
    Actor,
    Caller,
    Cursor,
    Limit,
    OpenRoute,
    RegistrationRoute,
    Service,
    address_of,
    door_of,
    guarded_router,
)
from api.identity import SECURITY
from api.problems import documented
from api.schemas import ListOut, listed

open_router = APIRouter(prefix="/api/users", tags=["users"])
own = guarded_router("/api/users", "users", writing="admin")
router = guarded_router("/api/users", "users", reading="admin", writing="admin")


async def register(service: Service, request: Request, caller: Caller, body: RegisterIn) -> UserOut:
    made = await service.register(
        username=body.username,
        email=body.email,
        password=body.password,
        by=caller.principal if caller else None,
        open_to_all=door_of(request).open_registration,
    )
    return UserOut.of(made)


open_router.add_api_route(
    "",
    register,
    methods=["POST"],
    status_code=201,
    summary="Make an account",
    description="Takes an admin, unless OPEN_REGISTRATION is set; the new user is a member.",
    operation_id="create_user",
    dependencies=SECURITY,
    responses=documented(400, 401, 403, 409, 413, 415, 422, 429, 500),
    route_class_override=RegistrationRoute,
)


async def login(service: Service, request: Request, body: LoginIn) -> LoginOut:
    token = await service.login(body.username, body.password, address=address_of(request))
    return LoginOut(access_token=token.access_token, expires_in=token.expires_in)


open_router.add_api_route(
    "/login",
    login,
    methods=["POST"],
    summary="Log in",
    description="Answers an access token. An unknown user and a wrong password get the same 401; after ten wrong "
    "ones for an account it is 429 for up to 15 minutes.",
    operation_id="login",
    responses=documented(400, 401, 413, 415, 422, 429, 500),
    route_class_override=OpenRoute,
)


@own.post(
    "/logout",
    status_code=204,
    summary="Log out everywhere",
    description="Ends every access token of yours, on every replica. Service tokens stay: an admin revokes those.",
    operation_id="logout",
)
async def logout(service: Service, actor: Actor) -> None:
    await service.logout(by=actor)


@own.get("/profile", summary="Read your profile", operation_id="read_profile")
async def profile(service: Service, actor: Actor) -> UserOut:
    return UserOut.of(await service.read_account(actor.user_id))


@own.put(
    "/profile",
    summary="Change your profile",
    description="A new password takes the current one, and ends every access token of yours.",
    operation_id="update_profile",
)
async def change_profile(service: Service, actor: Actor, body: ProfileIn) -> UserOut:
    changed = await service.update_profile(
        by=actor,
        email=body.email,
        display_name=body.display_name,
        password=body.password,
        current_password=body.current_password,
    )
    return UserOut.of(changed)


@own.post(
    "/profile/link",
    status_code=202,
    summary="Ask for a code in Slack",
    description="The bot sends a one-time code to that Slack user; whoever reads it there may link the two.",
    operation_id="send_link_code",
)
async def send_code(service: Service, actor: Actor, body: LinkIn) -> SentOut:
    await service.send_link_code(body.slack_user_id, by=actor)
    return SentOut(sent=True)


@own.post(
    "/profile/link/confirm",
    summary="Link with Slack",
    description="Takes the code that the bot sent. A code is worth five tries, for ten minutes.",
    operation_id="confirm_link",
    responses=documented(409),
)
async def confirm(service: Service, actor: Actor, body: CodeIn) -> UserOut:
    return UserOut.of(await service.confirm_link(body.code, by=actor))


@router.get("", summary="List users", description="Admins only; newest first.", operation_id="list_users")
async def index(
    service: Service,
    actor: Actor,
    slack_user_id: Annotated[SlackUser | None, Query(description="Only the user with this Slack id.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> ListOut[UserOut]:
    found = await service.list_accounts(by=actor, slack_user_id=slack_user_id, limit=limit, cursor=cursor)
    return listed(found, UserOut.of)


@router.patch(
    "/{user_id:uuid}",
    summary="Set a role or disable",
    description="Admins only. Counts at once: for tokens, for votes, and for calls that are about to run.",
    operation_id="update_user",
    responses=documented(409),
)
async def update(service: Service, actor: Actor, user_id: UUID, body: StandingIn) -> UserOut:
    return UserOut.of(await service.update_account(user_id, by=actor, role=body.role, disabled=body.disabled))


@router.post(
    "/{user_id:uuid}/link",
    summary="Link a user with Slack",
    description="Admins only. The account takes over the Slack user's sessions and requests.",
    operation_id="link_user",
    responses=documented(409),
)
async def link(service: Service, actor: Actor, user_id: UUID, body: LinkIn) -> UserOut:
    return UserOut.of(await service.link_account(user_id, body.slack_user_id, by=actor))
