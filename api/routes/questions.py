"""Questions: what running tools ask of their requester, and answering them."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import Query
from pydantic import Field

from agent.questions.types import QuestionStatus
from api.door import Actor, Cursor, Limit, Service, guarded_router
from api.problems import documented
from api.schemas import Body, ListOut, Out, PersonOut, Time, listed

router = guarded_router("/api/questions", "questions", writing="chat")


class QuestionOut(Out):
    """What a running tool asks. `message` and the texts in `schema` are the tool's words: never show them as ours."""

    question_id: UUID
    status: QuestionStatus
    session_id: UUID
    turn_id: UUID
    tool_call_id: str
    tool_name: str
    server: str | None
    message: str
    # `schema` by its own name would hide a method of pydantic's.
    form: dict[str, Any] = Field(
        validation_alias="schema",
        serialization_alias="schema",
        description="JSON Schema of the answer: flat, of texts, numbers, booleans and choices (`oneOf`).",
    )
    asked_of: PersonOut
    settled_by: PersonOut | None
    settled_at: Time | None
    expires_at: Time
    created_at: Time


class AnswerIn(Body):
    content: dict[str, Any] = Field(description="The fields by their names, as `schema` wants them. Never a password.")


@router.get("", summary="List questions", operation_id="list_questions")
async def index(
    service: Service,
    actor: Actor,
    status: Annotated[QuestionStatus, Query(description="How they stand.")] = QuestionStatus.OPEN,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> ListOut[QuestionOut]:
    return listed(await service.list_questions(by=actor, status=status, limit=limit, cursor=cursor), QuestionOut.of)


@router.get("/{question_id}", summary="Read a question", operation_id="read_question")
async def read(service: Service, actor: Actor, question_id: UUID) -> QuestionOut:
    return QuestionOut.of(await service.read_question(question_id, by=actor))


@router.post(
    "/{question_id}/answer",
    summary="Answer a question",
    description="Only whom it asks may. The waiting tool gets the answer, and it is stored nowhere after that.",
    operation_id="answer_question",
    responses=documented(409, 410),
)
async def answer(service: Service, actor: Actor, question_id: UUID, body: AnswerIn) -> QuestionOut:
    return QuestionOut.of(await service.answer_question(question_id, body.content, by=actor))


@router.post(
    "/{question_id}/decline",
    summary="Decline to answer",
    description="The tool hears that nobody answers. Whom it asks may, and admins.",
    operation_id="decline_question",
    responses=documented(409, 410),
)
async def decline(service: Service, actor: Actor, question_id: UUID) -> QuestionOut:
    return QuestionOut.of(await service.decline_question(question_id, by=actor))
