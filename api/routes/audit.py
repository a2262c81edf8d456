"""The audit log: reading it, and checking that it is what was written."""

from typing import Annotated
from uuid import UUID

from fastapi import Query

from agent.audit import Kind
from api.accounts import EntryOut, VerdictOut
from api.door import Actor, Cursor, Limit, Service, Storable, guarded_router
from api.problems import Problem
from api.schemas import ListOut, listed

router = guarded_router("/api/audit", "audit", reading="admin", writing="admin")


@router.get(
    "",
    summary="Read the audit log",
    description="Admins only; newest first. Give one of the filters at a time.",
    operation_id="list_audit",
)
async def index(
    service: Service,
    actor: Actor,
    kind: Annotated[Kind | None, Query(description="What is told of.")] = None,
    by: Annotated[UUID | None, Query(alias="actor", description="The user who did it.")] = None,
    subject: Annotated[
        str | None, Storable, Query(min_length=1, max_length=200, description="The id of what it is about.")
    ] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> ListOut[EntryOut]:
    if sum(given is not None for given in (kind, by, subject)) > 1:
        raise Problem(422, "one_filter", "Give one filter: kind, actor or subject.")
    found = await service.read_audit(
        by=actor, kind=kind.value if kind else None, actor=by, subject=subject, limit=limit, cursor=cursor
    )
    return listed(found, EntryOut.of)


@router.get(
    "/verify",
    summary="Check the audit log",
    description="Admins only. Computes the whole chain again; `wrong` is the first entry that was tampered with.",
    operation_id="verify_audit",
)
async def verify(service: Service, actor: Actor) -> VerdictOut:
    return VerdictOut.of(await service.verify_audit(by=actor))
