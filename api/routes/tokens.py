"""Service tokens: what programs log in with."""

from uuid import UUID

from fastapi import Response

from api.accounts import NewTokenOut, TokenIn, TokenOut
from api.door import Actor, Cursor, Limit, Service, guarded_router
from api.problems import documented
from api.schemas import ListOut, listed

router = guarded_router("/api/tokens", "tokens", reading="admin", writing="admin")


@router.get("", summary="List service tokens", description="Admins only; newest first.", operation_id="list_tokens")
async def index(service: Service, actor: Actor, limit: Limit = 50, cursor: Cursor = None) -> ListOut[TokenOut]:
    return listed(await service.list_tokens(by=actor, limit=limit, cursor=cursor), TokenOut.of)


@router.post(
    "",
    status_code=201,
    summary="Make a service token",
    description="Admins only. The secret stands in this answer and nowhere else.",
    operation_id="create_token",
    responses=documented(409),
)
async def create(service: Service, actor: Actor, body: TokenIn, response: Response) -> NewTokenOut:
    made, secret = await service.create_token(
        by=actor, name=body.name, scopes=tuple(body.scopes), role=body.role, expires_in_days=body.expires_in_days
    )
    response.headers["Location"] = f"/api/tokens/{made.token_id}"
    return NewTokenOut(**TokenOut.of(made).model_dump(), token=secret)


@router.delete(
    "/{token_id}",
    status_code=204,
    summary="Revoke a service token",
    description="Admins only. It ends at once, on every replica; revoking it again changes nothing.",
    operation_id="revoke_token",
)
async def revoke(service: Service, actor: Actor, token_id: UUID) -> None:
    await service.revoke_token(token_id, by=actor)
