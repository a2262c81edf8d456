"""Policy as a whole: trying out what it says, and its rows."""

from typing import Annotated
from uuid import UUID

from fastapi import Query

from api.door import Actor, Cursor, Limit, Service, guarded_router
from api.policywire import PolicyOut, SimulatedOut, SimulateIn
from api.schemas import ListOut, listed

asking = guarded_router("/api/policies", "policy", writing="read")
"""A POST that changes nothing: whoever may read may ask."""
rows = guarded_router("/api/policies", "policy", reading="admin", writing="admin")


@asking.post(
    "/simulate",
    summary="Explain what policy says of a call",
    description="Answers what would come of a call, and why, without making it. Members ask for themselves, admins for "
    "anybody. Arguments that the tool would refuse are 422 `invalid_arguments`, as they would be in a call.",
    operation_id="simulate_policy",
)
async def simulate(service: Service, actor: Actor, body: SimulateIn) -> SimulatedOut:
    found = await service.simulate_policy(
        body.args,
        by=actor,
        tool_id=body.tool_id,
        tool_name=body.tool_name,
        user_id=body.user_id,
        username=body.username,
    )
    return SimulatedOut.of(found)


@rows.get("", summary="List policy rows", description="Admins only; newest first.", operation_id="list_policies")
async def index(
    service: Service,
    actor: Actor,
    tool_id: Annotated[UUID | None, Query(description="Only rows of this tool.")] = None,
    user_id: Annotated[UUID | None, Query(description="Only rows of this user.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> ListOut[PolicyOut]:
    found = await service.list_policies(by=actor, tool_id=tool_id, user_id=user_id, limit=limit, cursor=cursor)
    return listed(found, PolicyOut.of)


@rows.delete(
    "/{policy_id:uuid}",
    status_code=204,
    summary="Delete a policy row",
    description="Admins only. What counts without it counts again; of a user's own row over an admin's, the admin's "
    "stays. Approvals that wait keep their terms, and are checked against the rules again before they run.",
    operation_id="delete_policy",
)
async def delete(service: Service, actor: Actor, policy_id: UUID) -> None:
    await service.delete_policy(policy_id, by=actor)
