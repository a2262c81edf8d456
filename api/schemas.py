"""Wire models: what goes over REST, apart from the domain types."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, Literal, Self, TypeVar
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema

from agent.approvals.conditions import MOST, When
from agent.approvals.doors import LONGEST_LOGIN_S
from agent.approvals.grants import Remember, Scope
from agent.approvals.policy import Rule
from agent.approvals.types import Action, Approval, ApprovalStatus, Decision, Door, ExecutionStatus
from agent.conversations import MESSAGE_LIMIT
from agent.service import TurnView
from agent.tools.attachments import Kind, Shown
from agent.tools.catalogue import ToolApproval
from agent.types import Page, Role, Turn, TurnStatus

T = TypeVar("T")
M = TypeVar("M")

YEAR_S = 31_536_000
RULE_S = 7_776_000


def moment(at: datetime) -> str:
    """Return RFC 3339 in UTC with a Z."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


Time = Annotated[
    datetime,
    PlainSerializer(moment, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
DIGEST = "^[0-9a-f]{12,64}$"
Seen = Annotated[
    str,
    Field(
        pattern=DIGEST,
        description="`args_digest` as you saw it (at least its first 12 characters): if the arguments were changed "
        "meanwhile, they are not approved, and the answer is 409 `changed_meanwhile`. A rejection counts all the same.",
    ),
]
Reason = Annotated[str, Field(max_length=2_000, description="Why, for whoever reads the record.")]


def _number(value: object) -> object:
    if isinstance(value, bool | str):
        raise ValueError("send a number")
    return value


A_NUMBER = BeforeValidator(_number)
"""Of an integer: what JSON Schema calls one, 60 and 60.0, but neither "60" nor true. Bounds stand before it."""
Whole = Annotated[int, A_NUMBER]


class Body(BaseModel):
    """What a caller sends: an unknown field is a mistake, never ignored."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class ListOut(BaseModel, Generic[T]):
    """A part of a list; `next_cursor` asks for the next part."""

    items: list[T]
    next_cursor: str | None = None


def listed(page: Page[M], wire: Callable[[M], T]) -> ListOut[T]:
    return ListOut(items=[wire(item) for item in page.items], next_cursor=page.next_cursor)


class Out(BaseModel):
    """What a caller gets, read off the domain value whose fields have the same names."""

    model_config = ConfigDict(from_attributes=True)

    @classmethod
    def of(cls, value: object) -> Self:
        return cls.model_validate(value)


class PersonOut(Out):
    user_id: UUID
    username: str


class SessionOut(Out):
    session_id: UUID
    user_id: UUID
    title: str | None
    created_at: Time
    expires_at: Time | None
    source: str


class VoteOut(Out):
    by: PersonOut
    decision: Decision
    reason: str | None
    at: Time


class AttachmentOut(Out):
    """What a tool gave to people: a file, a table as JSON, or a long text; kept for a week."""

    attachment_id: UUID
    kind: Kind
    name: str
    media_type: str
    size: int
    tool_call_id: str
    created_at: Time


class ApproverOut(Out):
    """Somebody who may decide: a user, a Slack user group, or everyone with a role."""

    kind: Literal["user", "group", "role"]
    id: str = Field(description="The entry as a rule names it.")
    name: str


class ResolutionOut(Out):
    by: PersonOut
    action: Action
    reason: str | None
    at: Time


class PreviewOut(Out):
    """What the tool says that the call would do; nothing has been changed for it."""

    text: str = Field(description="Where it failed, why.")
    ok: bool
    args_digest: str
    made_at: Time


class ApprovalOut(Out):
    """The decision that one tool call needs: `args` and `args_digest` are what will run."""

    approval_id: UUID
    status: ApprovalStatus
    execution: ExecutionStatus
    tool_id: UUID
    tool_name: str
    args: dict[str, Any]
    args_digest: str = Field(description="SHA-256 of the canonical JSON (RFC 8785) of `args`.")
    args_proposed: dict[str, Any]
    requested_by: PersonOut
    requested_reason: str | None
    session_id: UUID
    turn_id: UUID
    tool_call_id: str
    quorum: int
    four_eyes: bool
    doors: list[Door] | None = Field(description="Where it may be approved; null: everywhere.")
    fresh_login_s: int | None = Field(
        description="How many seconds ago its approvers may have entered their password at most; null: they need not."
    )
    votes: list[VoteOut]
    decided_by: PersonOut | None
    decided_at: Time | None
    reason: str | None
    expires_at: Time
    result: str | None
    created_at: Time
    unsandboxed: str | None = Field(
        description="What of a whole sandbox its tool runs without where it runs; null: nothing."
    )
    attachments: list[AttachmentOut] = Field(description="What its call gave to people beside the text.")
    approvers: list[ApproverOut] = Field(
        validation_alias="deciders", description="Who may decide it, also whom it was escalated to; admins always may."
    )
    escalated_at: Time | None
    resolutions: list[ResolutionOut] = Field(description="What people said while its outcome was unknown.")
    preview: PreviewOut | None = Field(
        description="What it would do with `args` as they are; null: not made (yet), or its tool offers none."
    )


class UsageOut(Out):
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    model_calls: int


class TurnOut(BaseModel):
    """A turn as it stands; the last three statuses are final."""

    turn_id: UUID
    session_id: UUID
    status: TurnStatus
    reply: str | None
    error: str | None = Field(description="Of a failed turn: one sentence for people.")
    pending_approvals: list[ApprovalOut]
    attachments: list[AttachmentOut] = Field(description="What its calls gave to people beside the reply.")
    usage: UsageOut
    created_at: Time
    finished_at: Time | None

    @classmethod
    def of(cls, turn: Turn, pending: Sequence[Approval] = (), given: Sequence[Shown] = ()) -> Self:
        return cls(
            turn_id=turn.turn_id,
            session_id=turn.session_id,
            status=turn.status,
            reply=turn.reply,
            error=turn.error,
            pending_approvals=[ApprovalOut.of(approval) for approval in pending],
            attachments=[AttachmentOut.of(shown) for shown in given],
            usage=UsageOut.of(turn.usage),
            created_at=turn.created_at,
            finished_at=turn.finished_at,
        )

    @classmethod
    def of_view(cls, view: TurnView) -> Self:
        return cls.of(view.turn, view.pending_approvals, view.attachments)


class CancelOut(BaseModel):
    """`turn` is the one that was stopped; null: nothing was running."""

    turn: TurnOut | None


class MessageOut(Out):
    message_id: UUID
    turn_id: UUID | None
    role: str
    content: str
    tool_calls: list[dict[str, Any]] | None = Field(None, exclude_if=lambda calls: not calls)
    tool_call_id: str | None = Field(None, exclude_if=lambda call: call is None)
    created_at: Time


class FlagsOut(BaseModel):
    """Both false: the tool is denied."""

    auto_execute: bool
    approval_required: bool


class SessionIn(Body):
    title: str | None = Field(default=None, max_length=200)
    expires_in_s: Annotated[int, Field(ge=1, le=YEAR_S), A_NUMBER] | None = Field(
        default=None, description="Unset: it does not expire."
    )


class MessageIn(Body):
    # The service judges the text, with codes of its own; here it is only told of.
    message: str = Field(
        description="What you say, as plain text.",
        examples=["What is the state of the web service?"],
        json_schema_extra={"minLength": 1, "maxLength": MESSAGE_LIMIT, "pattern": r"\S"},
    )


class AskIn(Body):
    tool_id: UUID
    args: dict[str, Any]
    session_id: UUID | None = Field(None, description="Unset: the approval gets a session of its own.")
    reason: Reason | None = None


class RememberIn(Body):
    """Do not ask again: for calls of the same tool by the same person whose arguments fit."""

    scope: Scope = Field(description="thread: in this session; me: in all of mine, for what I ask for.")
    expires_in_s: Annotated[int, Field(ge=60, le=2_592_000), A_NUMBER]
    args: dict[str, Any] | None = Field(
        None,
        description="A JSON Schema that later arguments must fit; unset: exactly these arguments. Unless an admin "
        "sends it, it only narrows these very arguments.",
    )

    def wanted(self) -> Remember:
        return Remember(self.scope, self.expires_in_s, self.args)


class GrantOut(Out):
    """A word that calls need not be asked for; it counts for the tool as it was when the word was given."""

    grant_id: UUID
    scope: Scope
    tool_id: UUID
    tool_name: str
    session_id: UUID | None
    requester: PersonOut
    args_schema: dict[str, Any]
    granted_by: PersonOut
    approval_id: UUID
    created_at: Time
    expires_at: Time
    revoked_at: Time | None
    uses: int
    last_used_at: Time | None


class ApproveIn(Body):
    args: dict[str, Any] | None = Field(
        default=None, description="Edited arguments, instead of those that were asked for."
    )
    reason: Reason | None = None
    args_digest: Seen | None = None
    remember: RememberIn | None = Field(default=None, description="Approve, and don't ask again for calls like this.")


Instead = Annotated[
    str,
    Field(
        description="What to do instead: it becomes the session's next message, by you, once the rejection was heard.",
        json_schema_extra={"minLength": 1, "maxLength": MESSAGE_LIMIT, "pattern": r"\S"},
    ),
]


class RejectIn(Body):
    reason: Reason | None = None
    args_digest: Seen | None = None
    instead: Instead | None = None


class WhenIO(Body):
    """A case within a rule: calls whose arguments fit the JSON Schema `args`."""

    args: dict[str, Any]
    decision: Literal["auto", "ask", "deny"]


class RuleIO(Body):
    """How calls of a tool are decided. Both flags false: denied; both true contradicts itself."""

    auto_execute: bool = Field(strict=True)
    approval_required: bool = Field(strict=True)
    approvers: list[str] | None = Field(None, max_length=100)
    quorum: Annotated[int, Field(ge=1, le=100), A_NUMBER] | None = None
    four_eyes: bool | None = Field(None, strict=True)
    expires_in_s: Annotated[int, Field(ge=1, le=RULE_S), A_NUMBER] | None = None
    doors: Annotated[list[Door], Field(min_length=1, max_length=len(Door))] | None = Field(
        None, description="Where its calls may be approved; null: everywhere. Rejecting is always possible."
    )
    fresh_login_s: Annotated[int, Field(ge=1, le=LONGEST_LOGIN_S), A_NUMBER] | None = Field(
        None, description="Who approves must have entered their password so many seconds ago at most; keys don't count."
    )
    when: list[WhenIO] = Field(default_factory=list[WhenIO], max_length=MOST)
    remind_after_s: Annotated[int, Field(ge=1, le=RULE_S), A_NUMBER] | None = Field(
        None, description="When those who may decide are told again, once."
    )
    escalate_after_s: Annotated[int, Field(ge=1, le=RULE_S), A_NUMBER] | None = Field(
        None, description="When `escalate_to` are asked, once; from then on they may decide as well."
    )
    escalate_to: list[str] | None = Field(None, max_length=100)
    remember_max_s: Annotated[int, Field(ge=0, le=2_592_000), A_NUMBER] | None = Field(
        None, description="How long an approval may spare later ones; 0: never, unset: 28800 (8 hours)."
    )


class ToolApprovalIn(RuleIO):
    user_id: UUID | None = Field(None, description="Whose rule; null: the default for everyone.")

    def rule(self) -> Rule:
        return Rule(
            auto_execute=self.auto_execute,
            approval_required=self.approval_required,
            approvers=None if self.approvers is None else tuple(self.approvers),
            quorum=self.quorum,
            four_eyes=self.four_eyes,
            expires_in_s=self.expires_in_s,
            doors=None if self.doors is None else tuple(dict.fromkeys(self.doors)),
            fresh_login_s=self.fresh_login_s,
            remember_max_s=self.remember_max_s,
            when=tuple(When(case.args, case.decision) for case in self.when),
            remind_after_s=self.remind_after_s,
            escalate_after_s=self.escalate_after_s,
            escalate_to=None if self.escalate_to is None else tuple(self.escalate_to),
        )


def rule_fields(rule: Rule) -> dict[str, Any]:
    """Return a rule as the fields of RuleIO."""
    return {
        "auto_execute": rule.auto_execute,
        "approval_required": rule.approval_required,
        "approvers": None if rule.approvers is None else list(rule.approvers),
        "quorum": rule.quorum,
        "four_eyes": rule.four_eyes,
        "expires_in_s": rule.expires_in_s,
        "doors": None if rule.doors is None else list(rule.doors),
        "fresh_login_s": rule.fresh_login_s,
        "when": [WhenIO(args=case.args, decision=case.decision) for case in rule.when],
        "remind_after_s": rule.remind_after_s,
        "escalate_after_s": rule.escalate_after_s,
        "escalate_to": None if rule.escalate_to is None else list(rule.escalate_to),
        "remember_max_s": rule.remember_max_s,
    }


class ToolApprovalOut(RuleIO):
    tool_id: UUID
    tool_name: str
    user_id: UUID | None
    updated_at: Time

    @classmethod
    def of(cls, row: ToolApproval) -> Self:
        rule = row.rule
        return cls(
            tool_id=row.tool_id,
            tool_name=row.tool_name,
            user_id=row.user_id,
            **rule_fields(rule),
            updated_at=row.updated_at,
        )


class ConsoleOut(BaseModel):
    """What the console needs to know before it shows anything."""

    demo: bool = Field(description="True: the built-in demo model answers, by rules.")
    version: str
    user: PersonOut
    role: Role
