"""Approvals: what waits for a human, asking for a call, and deciding one."""

from typing import Annotated
from uuid import UUID

from fastapi import Query, Request, Response

from agent.approvals.types import ApprovalStatus, Decision
from api.door import Actor, CameBy, Cursor, IdempotencyKey, Known, Limit, Service, door_of, guarded_router
from api.identity import allow
from api.problems import documented
from api.quotas import EXECUTES
from api.schemas import ApprovalOut, ApproveIn, AskIn, ListOut, RejectIn, listed

router = guarded_router("/api/approvals", "approvals", writing="approve")
aliases = guarded_router("/api/tools", "approvals", writing="approve")
"""The same calls where callers look for them under tools."""


@router.get("", summary="List approvals", operation_id="list_approvals")
async def index(
    service: Service,
    actor: Actor,
    status: Annotated[ApprovalStatus, Query(description="How they stand.")] = ApprovalStatus.PENDING,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> ListOut[ApprovalOut]:
    found = await service.list_approvals(by=actor, status=status.value, limit=limit, cursor=cursor)
    return listed(found, ApprovalOut.of)


@aliases.get("/pending-approvals", summary="List pending approvals", operation_id="list_pending_approvals")
async def pending(service: Service, actor: Actor, limit: Limit = 50, cursor: Cursor = None) -> ListOut[ApprovalOut]:
    return await index(service, actor, ApprovalStatus.PENDING, limit, cursor)


@router.post(
    "",
    status_code=201,
    summary="Ask for a call",
    description="Asks for one tool call without the model. Approved, it runs, and its result is on the approval.",
    operation_id="ask_approval",
    responses=documented(409, 410),
)
async def ask(
    service: Service, actor: Actor, body: AskIn, response: Response, idempotency_key: IdempotencyKey = None
) -> ApprovalOut:
    approval = await service.ask_approval(
        body.tool_id,
        body.args,
        by=actor,
        session_id=body.session_id,
        reason=body.reason,
        idempotency_key=None if idempotency_key is None else f"rest:ask:{actor.user_id}:{idempotency_key}",
    )
    response.headers["Location"] = f"/api/approvals/{approval.approval_id}"
    return ApprovalOut.of(approval)


@router.get("/{approval_id:uuid}", summary="Read an approval", operation_id="read_approval")
async def read(service: Service, actor: Actor, approval_id: UUID) -> ApprovalOut:
    return ApprovalOut.of(await service.read_approval(approval_id, by=actor))


@router.post(
    "/{approval_id}/approve",
    summary="Approve a call",
    description="With `args`, what runs are these arguments; earlier votes are void then. Where the rule names doors "
    "or asks for a fresh login, another way is 403 `wrong_door` or `fresh_login_needed`.",
    operation_id="approve",
    responses=documented(409, 410),
)
@aliases.post(
    "/approvals/{approval_id}/approve",
    summary="Approve a call",
    operation_id="approve_tool_call",
    responses=documented(409, 410),
)
async def approve(
    service: Service, actor: Actor, came: CameBy, approval_id: UUID, body: ApproveIn | None = None
) -> ApprovalOut:
    said = body or ApproveIn()
    settled = await service.decide_approval(
        approval_id,
        Decision.APPROVE,
        by=actor,
        reason=said.reason,
        args=said.args,
        expected_digest=said.args_digest,
        **came,
        remember=said.remember.wanted() if said.remember else None,
    )
    return ApprovalOut.of(settled)


@router.post(
    "/{approval_id}/reject",
    summary="Reject a call",
    description="One rejection settles it; the model hears the reason and goes on without the call. `instead` becomes "
    "the session's next message, as if you had sent it; a token needs the scope `chat` for it.",
    operation_id="reject",
    responses=documented(409, 410),
)
@aliases.post(
    "/approvals/{approval_id}/reject",
    summary="Reject a call",
    description="The same as under /api/approvals.",
    operation_id="reject_tool_call",
    responses=documented(409, 410),
)
async def reject(
    service: Service, caller: Known, came: CameBy, approval_id: UUID, request: Request, body: RejectIn | None = None
) -> ApprovalOut:
    said = body or RejectIn()
    if said.instead is not None:
        allow(caller, "chat")
        door_of(request).take(EXECUTES, caller.principal)
    settled = await service.decide_approval(
        approval_id,
        Decision.REJECT,
        by=caller.principal,
        reason=said.reason,
        expected_digest=said.args_digest,
        instead=said.instead,
        **came,
    )
    return ApprovalOut.of(settled)
