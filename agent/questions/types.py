"""The nouns of questions, and why an answer may be refused."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from agent.errors import Conflict, Expired, Invalid, NotAllowed, NotFound
from agent.types import Person


class QuestionStatus(StrEnum):
    """How a question stands; all but the first are settled."""

    OPEN = "open"
    ANSWERED = "answered"
    DECLINED = "declined"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a question; `content` only where it was answered."""

    status: QuestionStatus
    content: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """What a running call wants to know from its requester. `message` and `schema` are a tool's words, not ours.

    `schema` is the form in a shape of our own (see agent.questions.form), whatever the tool sent.
    """

    question_id: UUID
    session_id: UUID
    turn_id: UUID
    tool_call_id: str
    tool_name: str
    server: str | None
    message: str
    schema: dict[str, Any]
    asked_of: Person
    status: QuestionStatus
    settled_by: Person | None
    settled_at: datetime | None
    expires_at: datetime
    created_at: datetime

    @property
    def is_open(self) -> bool:
        return self.status is QuestionStatus.OPEN


class QuestionNotFound(NotFound):
    code = "question_not_found"

    def __init__(self) -> None:
        super().__init__("There is no such question.")


class NotAsked(NotAllowed):
    code = "not_asked"


class QuestionSettled(Conflict):
    code = "question_settled"


class QuestionExpired(Expired):
    code = "question_expired"


class WrongAnswer(Invalid):
    """`wrong` says what is wrong by the field's name; '' is the answer as a whole."""

    code = "wrong_answer"

    def __init__(self, wrong: dict[str, str]) -> None:
        name, why = next(iter(wrong.items()))
        super().__init__(f"`{name}`: {why}" if name else why)
        self.wrong = wrong
