"""The nouns of the product, as values: no I/O, no door, no driver."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar
from uuid import UUID, uuid5

T = TypeVar("T")

SESSION_NAMESPACE = UUID("9b3a1c60-7d0e-5f4b-8a57-3a4d1f0c6e21")


class Role(StrEnum):
    """What a user may do. Each includes the one before."""

    MEMBER = "member"
    APPROVER = "approver"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Person:
    """A user as others see them."""

    user_id: UUID
    username: str
    display_name: str | None = None
    chat_user: str | None = None
    """The id a chat platform mentions them by, for the door that renders it."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who acts: a known user with the role that was read for this request."""

    user_id: UUID
    username: str
    role: Role
    chat_team: str | None = None
    chat_user: str | None = None
    external: bool = False
    """From another workspace, a guest, or a bot: never decides."""
    disabled: bool = False
    display_name: str | None = None

    @property
    def person(self) -> Person:
        return Person(self.user_id, self.username, self.display_name, self.chat_user)

    @property
    def shown_name(self) -> str:
        return self.display_name or self.username


@dataclass(frozen=True, slots=True)
class ChatUser:
    """Someone whom a chat platform vouches for; becomes a user on first contact."""

    team: str
    user: str
    external: bool = False


@dataclass(frozen=True, slots=True)
class Address:
    """Where a session's answers go; only the door named in it understands `where`."""

    door: str
    where: dict[str, str]


@dataclass(frozen=True, slots=True)
class ThreadKey:
    """A thread of a chat platform; names the session before its row exists."""

    team: str
    channel: str
    root: str

    @property
    def session_id(self) -> UUID:
        """UUIDv5 of team, channel and root, so two replicas never race to create it."""
        return uuid5(SESSION_NAMESPACE, f"{self.team}/{self.channel}/{self.root}")


@dataclass(frozen=True, slots=True)
class Session:
    """One conversation; its id is LangGraph's thread_id."""

    session_id: UUID
    user_id: UUID
    title: str | None
    source: str
    created_at: datetime
    expires_at: datetime | None
    address: Address | None = None


class TurnStatus(StrEnum):
    """How far a turn is; the last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    AWAITING_APPROVAL = "awaiting_approval"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self in (TurnStatus.COMPLETED, TurnStatus.FAILED, TurnStatus.CANCELLED)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a turn's model calls."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    model_calls: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_tokens + other.cached_tokens,
            self.model_calls + other.model_calls,
        )


@dataclass(frozen=True, slots=True)
class Turn:
    """One run of the agent: from a message until it answers, fails, or waits."""

    turn_id: UUID
    session_id: UUID
    requester_id: UUID
    status: TurnStatus
    text: str
    reply: str | None
    error: str | None
    usage: Usage
    created_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class Message:
    """One entry of the transcript."""

    message_id: UUID
    turn_id: UUID | None
    role: str
    content: str
    created_at: datetime
    tool_calls: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    tool_call_id: str | None = None


class EventKind(StrEnum):
    """The facts that doors render from; `data` of each is described beside it."""

    TURN_QUEUED = "turn.queued"  # turn_id, text, by, waits: bool (behind a pending approval), instead_of? (approval_id)
    TURN_STARTED = "turn.started"  # turn_id
    ANSWER_DELTA = "answer.delta"  # turn_id, text (a piece; gone from the log once the turn has ended)
    TOOL_CALLED = "tool.called"  # turn_id, tool_call_id, tool_name, args
    APPROVAL_OPENED = "approval.opened"  # turn_id, approval_id
    APPROVAL_CHANGED = "approval.changed"  # turn_id, approval_id, status, resolution_id? (a vote, a decision, an end)
    APPROVAL_REASSIGNED = "approval.reassigned"  # turn_id, approval_id, by, to: [{kind, id, name, chat}]
    APPROVAL_REMINDED = "approval.reminded"  # turn_id, approval_id, to: who may decide
    APPROVAL_ESCALATED = "approval.escalated"  # turn_id, approval_id, to: who may decide from now on as well
    APPROVAL_RESOLVED = "approval.resolved"  # turn_id, approval_id, resolution_id, action, by
    GRANT_REVOKED = "grant.revoked"  # turn_id, approval_id (on which it was read), grant_id
    EXECUTION_STARTED = "execution.started"  # turn_id, tool_call_id, tool_name, approval_id | null
    EXECUTION_FINISHED = "execution.finished"  # ... and status: succeeded | failed | outcome_unknown
    QUESTION_OPENED = "question.opened"  # turn_id, question_id, tool_call_id, tool_name, server | null
    QUESTION_SETTLED = "question.settled"  # turn_id, question_id, status: answered | declined | expired | cancelled
    TOOL_PROGRESS = "tool.progress"  # turn_id, tool_call_id, tool_name, progress, total, message (the latest)
    TURN_WAITING = "turn.waiting"  # turn_id, approval_ids
    TURN_COMPLETED = "turn.completed"  # turn_id, reply, usage
    TURN_FAILED = "turn.failed"  # turn_id, error (one sentence for people)
    TURN_CANCELLED = "turn.cancelled"  # turn_id


@dataclass(frozen=True, slots=True)
class Event:
    """One fact of a session; `seq` rises by one from 1."""

    session_id: UUID
    seq: int
    kind: EventKind
    data: dict[str, Any]
    at: datetime


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a list, and where the next part starts."""

    items: list[T]
    next_cursor: str | None = None
