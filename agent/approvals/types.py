"""The nouns of approvals, and why one may be refused."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal
from uuid import UUID

from agent.errors import Conflict, Expired, Invalid, NotAllowed
from agent.tools.attachments import Shown
from agent.types import Person


class Decision(StrEnum):
    """What one person says of one call."""

    APPROVE = "approve"
    REJECT = "reject"


class Door(StrEnum):
    """Where a decision comes from: Slack, REST, the web console, or the command line."""

    SLACK = "slack"
    API = "api"
    WEB = "web"
    CLI = "cli"


class ApprovalStatus(StrEnum):
    """How an approval stands; all but the first are settled."""

    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class ExecutionStatus(StrEnum):
    """How the ledger stands for the call."""

    NONE = "none"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    UNKNOWN = "outcome_unknown"


@dataclass(frozen=True, slots=True)
class Vote:
    """One person's word on the arguments whose digest it names."""

    by: Person
    decision: Decision
    reason: str | None
    args_digest: str
    at: datetime
    door: Door | None = None
    login_at: datetime | None = None
    """When the person had last entered a password; None for keys, service tokens, and doors without passwords."""


@dataclass(frozen=True, slots=True)
class Preview:
    """What the tool says that the call would do with the arguments whose digest it names; it has changed nothing."""

    text: str
    ok: bool
    args_digest: str
    made_at: datetime


class Action(StrEnum):
    """What one person says of a call whose outcome is unknown."""

    RUN_AGAIN = "run_again"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Resolution:
    """One person's word on an unknown outcome."""

    resolution_id: UUID
    by: Person
    action: Action
    reason: str | None
    at: datetime


@dataclass(frozen=True, slots=True)
class Sparing:
    """The grant that was given with an approval, or that spared it its question."""

    grant_id: UUID
    by: Person
    expires_at: datetime
    revoked_at: datetime | None
    is_given: bool
    """It was given with this approval; else it spared this one."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What somebody acted on: the session that showed it, and the start of the digest of the arguments shown."""

    session_id: UUID
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Approver:
    """An approver entry as people read it; `chat` is what a chat platform mentions it by."""

    kind: Literal["user", "group", "role"]
    id: str
    name: str
    chat: str | None = None


@dataclass(frozen=True, slots=True)
class Approval:
    """The human decision that one tool call needs, bound to tool, schema hash and exact arguments.

    `args` is what will run, parsed from the stored canonical JSON whose SHA-256 is `args_digest`; `args_proposed` is
    what was asked for. `approvers` are entries as in APPROVERS, or None for whoever may decide by default; `deciders`
    are the same with those that it was escalated to, for people to read.
    """

    approval_id: UUID
    session_id: UUID
    turn_id: UUID
    tool_call_id: str
    tool_id: UUID
    tool_name: str
    schema_hash: str
    args: dict[str, Any]
    args_digest: str
    args_proposed: dict[str, Any]
    requested_by: Person
    requested_reason: str | None
    status: ApprovalStatus
    execution: ExecutionStatus
    result: str | None
    quorum: int
    four_eyes: bool
    approvers: tuple[str, ...] | None
    decided_by: Person | None
    decided_at: datetime | None
    reason: str | None
    expires_at: datetime
    created_at: datetime
    votes: tuple[Vote, ...] = field(default_factory=tuple)
    doors: tuple[Door, ...] | None = None
    """Where it may be approved; None: everywhere."""
    fresh_login_s: int | None = None
    """How long ago its approvers may have logged in with a password; None: they need not."""
    unsandboxed: str | None = None
    """What of a whole sandbox the tool runs without where it runs now, as words."""
    attachments: tuple[Shown, ...] = field(default_factory=tuple)
    escalate_to: tuple[str, ...] = ()
    escalated_at: datetime | None = None
    is_overruled: bool = False
    """An admin gave this approval approvers of its own, over what policy said: `overruled`."""
    overruled: tuple[str, ...] | None = None
    resolutions: tuple[Resolution, ...] = ()
    deciders: tuple[Approver, ...] = ()
    preview: Preview | None = None
    """Of the arguments as they are now; None where there is none, or not yet."""
    sparing: Sparing | None = None

    @property
    def is_settled(self) -> bool:
        return self.status is not ApprovalStatus.PENDING

    @property
    def escalated(self) -> tuple[str, ...]:
        """The entries that have standing since it was escalated."""
        return self.escalate_to if self.escalated_at is not None else ()


class NotAnApprover(NotAllowed):
    code = "not_an_approver"


class OwnRequest(NotAllowed):
    code = "four_eyes"


class WrongDoor(NotAllowed):
    code = "wrong_door"


class FreshLoginNeeded(NotAllowed):
    code = "fresh_login_needed"


class DeniedByPolicy(NotAllowed):
    code = "denied_by_policy"


class AlreadySettled(Conflict):
    """Carries the approval, so a door can say by whom and when."""

    code = "already_settled"

    def __init__(self, message: str, approval: Approval) -> None:
        super().__init__(message)
        self.approval = approval


class ChangedMeanwhile(Conflict):
    """The arguments are other ones than the person saw."""

    code = "changed_meanwhile"


class ApprovalExpired(Expired):
    code = "approval_expired"


class InvalidArguments(Invalid):
    code = "invalid_arguments"
