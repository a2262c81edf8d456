"""Say something to the agent, wait for what it answers, look at it later, stop it."""

import hashlib
from typing import Annotated, Any
from uuid import UUID

from fastapi import Header, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from agent.service import AgentService, Submitted
from agent.types import Principal, TurnStatus
from api.door import Actor, IdempotencyKey, Service, door_of, guarded_router
from api.problems import documented
from api.quotas import EXECUTES
from api.routes.stream import turn_events
from api.schemas import CancelOut, MessageIn, TurnOut

router = guarded_router("/api/sessions/{session_id}", "turns", writing="chat")

_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The turn has ended, or waits for an approval. As text/event-stream: the turn's events.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    },
    202: {"model": TurnOut, "description": "The turn goes on without you; Location says where to look."},
    **documented(409, 410),
}


@router.post(
    "/execute",
    response_model=TurnOut,
    responses=_ANSWERS,
    summary="Send a message to the agent",
    description="Waits until the turn has ended or waits for an approval. Going away does not stop the turn.",
    operation_id="execute",
)
async def execute(
    service: Service,
    actor: Actor,
    session_id: UUID,
    body: MessageIn,
    request: Request,
    wait: Annotated[bool, Query(description="False: answer 202 at once.")] = True,
    wait_s: Annotated[float, Query(ge=0, le=300, description="How long to wait before answering 202.")] = 120,
    idempotency_key: IdempotencyKey = None,
    last_event_id: Annotated[int, Header(ge=0, le=2**53, description="Of a stream: where to go on.")] = 0,
) -> Response:
    door_of(request).take(EXECUTES, actor)
    submitted = await submit(service, session_id, body.message, by=actor, key=idempotency_key)
    turn_id = submitted.turn.turn_id
    if "text/event-stream" in request.headers.get("accept", ""):
        events = turn_events(service, submitted.turn, by=actor, after=last_event_id)
        return StreamingResponse(events, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
    if wait:
        view = await service.wait_turn(turn_id, timeout=wait_s)
    else:
        view = await service.read_turn(session_id, turn_id, by=actor)
    status = view.turn.status
    done = wait and (status.is_final or status is TurnStatus.AWAITING_APPROVAL)
    where = {} if done else {"Location": f"/api/sessions/{session_id}/turns/{turn_id}"}
    return JSONResponse(TurnOut.of_view(view).model_dump(mode="json"), 200 if done else 202, headers=where)


@router.get("/turns/{turn_id}", summary="Read a turn", operation_id="read_turn", responses=documented(410))
async def read_turn(service: Service, actor: Actor, session_id: UUID, turn_id: UUID) -> TurnOut:
    return TurnOut.of_view(await service.read_turn(session_id, turn_id, by=actor))


@router.post("/cancel", summary="Stop the running turn", operation_id="cancel_turn", responses=documented(410))
async def cancel(service: Service, actor: Actor, session_id: UUID) -> CancelOut:
    turn = await service.cancel_turn(session_id, by=actor)
    return CancelOut(turn=TurnOut.of(turn) if turn else None)


async def submit(service: AgentService, session_id: UUID, message: str, *, by: Principal, key: str | None) -> Submitted:
    """Store a message, once for each key of the session."""
    submitted = await service.submit_message(
        session_id,
        message,
        by=by,
        event_key=None if key is None else f"rest:{session_id}:{key}",
        idempotency_digest=None if key is None else hashlib.sha256(message.encode()).hexdigest(),
    )
    assert submitted is not None  # only a chat thread that nobody started answers None
    return submitted
