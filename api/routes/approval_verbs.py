"""What else people do with approvals: many at once, votes taken back, time, other approvers, words on outcomes."""

from typing import Annotated, Self
from uuid import UUID

from pydantic import BaseModel, Field

from agent.approval_verbs import BATCH_LIMIT, MOST_APPROVERS, RESULT_LIMIT, Answer, Item
from agent.approvals.types import Action, Approval, Decision
from agent.errors import Refusal
from api.door import Actor, CameBy, Service, Storable, guarded_router
from api.problems import ProblemDocument, documented, problem_of, status_of
from api.schemas import A_NUMBER, RULE_S, ApprovalOut, Body, Reason

router = guarded_router("/api/approvals", "approvals", writing="approve")


class ItemIn(Body):
    approval_id: UUID
    decision: Decision
    args_digest: str = Field(
        pattern="^[0-9a-f]{64}$", description="All of it, as you saw it: other arguments are 409 `changed_meanwhile`."
    )
    reason: Reason | None = None


class BatchIn(Body):
    decisions: list[ItemIn] = Field(min_length=1, max_length=BATCH_LIMIT)


class AnswerOut(BaseModel):
    """What the call for this one alone would have answered."""

    approval_id: UUID
    status: int = Field(description="The HTTP status.")
    approval: ApprovalOut | None = None
    problem: ProblemDocument | None = None

    @classmethod
    def of(cls, answer: Answer) -> Self:
        if isinstance(answer.outcome, Refusal):
            problem = problem_of(answer.outcome)
            return cls(approval_id=answer.approval_id, status=status_of(answer.outcome), problem=problem)
        return cls(approval_id=answer.approval_id, status=200, approval=ApprovalOut.of(answer.outcome))


class BatchOut(BaseModel):
    results: list[AnswerOut] = Field(description="In the order of `decisions`.")


class CancelIn(Body):
    reason: Reason | None = None


class ExtendIn(Body):
    expires_in_s: Annotated[int, Field(ge=1, le=RULE_S), A_NUMBER] = Field(description="From now on.")


class ReassignIn(Body):
    approvers: list[Annotated[str, Storable, Field(min_length=1, max_length=100)]] = Field(
        min_length=1, max_length=MOST_APPROVERS, description="Entries as in a tool's rule."
    )
    reason: Reason | None = None


class ResolveIn(Body):
    action: Action
    reason: Reason | None = None
    result: Annotated[str, Storable, Field(min_length=1, max_length=RESULT_LIMIT)] | None = Field(
        None, description="What came of the call, as far as you found out; with done and failed."
    )


@router.post(
    "/batch",
    summary="Decide several",
    description="Each is decided alone, and answered as its own call would be; what is refused changes nothing else.",
    operation_id="decide_batch",
)
async def batch(service: Service, actor: Actor, came: CameBy, body: BatchIn) -> BatchOut:
    items = [Item(one.approval_id, one.decision, one.args_digest, one.reason) for one in body.decisions]
    return BatchOut(
        results=[AnswerOut.of(answer) for answer in await service.decide_approvals(items, by=actor, **came)]
    )


@router.post(
    "/{approval_id}/withdraw",
    summary="Take a vote back",
    description="Your own, while nothing is settled.",
    operation_id="withdraw_vote",
    responses=documented(409, 410),
)
async def withdraw(service: Service, actor: Actor, approval_id: UUID) -> ApprovalOut:
    return _out(await service.withdraw_vote(approval_id, by=actor))


@router.post(
    "/{approval_id}/cancel",
    summary="Cancel what you asked for",
    description="Whoever asked for it, or an admin. The model hears that it was cancelled.",
    operation_id="cancel_approval",
    responses=documented(409, 410),
)
async def cancel(service: Service, actor: Actor, approval_id: UUID, body: CancelIn | None = None) -> ApprovalOut:
    return _out(await service.cancel_approval(approval_id, by=actor, reason=(body or CancelIn()).reason))


@router.post(
    "/{approval_id}/extend",
    summary="Give more time",
    description="Approvers only. It can be open for 90 days in all.",
    operation_id="extend_approval",
    responses=documented(409, 410),
)
async def extend(service: Service, actor: Actor, approval_id: UUID, body: ExtendIn) -> ApprovalOut:
    return _out(await service.extend_approval(approval_id, body.expires_in_s, by=actor))


@router.post(
    "/{approval_id}/reassign",
    summary="Have others decide",
    description="Approvers hand it on to some of those who may decide it; an admin to anybody. Votes of people who may "
    "not decide it any more are void.",
    operation_id="reassign_approval",
    responses=documented(409, 410),
)
async def reassign(service: Service, actor: Actor, approval_id: UUID, body: ReassignIn) -> ApprovalOut:
    return _out(await service.reassign_approval(approval_id, body.approvers, by=actor, reason=body.reason))


@router.post(
    "/{approval_id}/resolve",
    summary="Resolve an unknown outcome",
    description="For `execution: outcome_unknown`: say that the call was done or failed, or have exactly it run again, "
    "once, after everything was checked anew. Its approvers may, each alone.",
    operation_id="resolve_approval",
    responses=documented(409, 410),
)
async def resolve(service: Service, actor: Actor, came: CameBy, approval_id: UUID, body: ResolveIn) -> ApprovalOut:
    resolved = await service.resolve_approval(
        approval_id, body.action, by=actor, reason=body.reason, result=body.result, **came
    )
    return _out(resolved)


def _out(approval: Approval) -> ApprovalOut:
    return ApprovalOut.of(approval)
