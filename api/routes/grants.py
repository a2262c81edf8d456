"""Grants: what need not be asked again, for a while."""

from uuid import UUID

from api.door import Actor, Cursor, Limit, Service, guarded_router
from api.problems import documented
from api.schemas import GrantOut, ListOut, listed

router = guarded_router("/api/grants", "approvals", writing="approve")


@router.get(
    "",
    summary="List grants",
    description="Newest first, ended ones too: what you gave, and what spares you questions; admins see all.",
    operation_id="list_grants",
)
async def index(service: Service, actor: Actor, limit: Limit = 50, cursor: Cursor = None) -> ListOut[GrantOut]:
    return listed(await service.list_grants(by=actor, limit=limit, cursor=cursor), GrantOut.of)


@router.delete(
    "/{grant_id}",
    summary="Revoke a grant",
    description="At once: the next such call asks again. Who gave it, who profits from it, and admins may.",
    operation_id="revoke_grant",
    responses=documented(409),
)
async def revoke(service: Service, actor: Actor, grant_id: UUID) -> GrantOut:
    return GrantOut.of(await service.revoke_grant(grant_id, by=actor))
