"""Wire models of policy: what it would say of a call, and its rows."""

from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import BaseModel, Field

from agent.approvals.policy import Look, Scope, Verdict
from agent.approvals.types import Door
from agent.policies import Simulated, StoredRow
from api.door import Storable
from api.schemas import Body, RuleIO, Time, rule_fields

Name = Annotated[str, Storable, Field(min_length=1, max_length=256)]


class SimulateIn(Body):
    """A call as somebody would make it: the tool by id or by name, and the user too; without one it is you."""

    tool_id: UUID | None = None
    tool_name: Name | None = None
    args: dict[str, Any]
    user_id: UUID | None = None
    username: Name | None = None


class DecidedByOut(BaseModel):
    """The rule that decides."""

    scope: Scope = Field(
        description="Whose rule: the tool's default row, one that an admin set for the user, the user's "
        "own, or the tool's declaration."
    )
    when: int | None = Field(description="The index of the condition that decides; null: the rule's flags do.")
    condition: dict[str, Any] | None = Field(description="That condition's JSON Schema.")

    @classmethod
    def of(cls, look: Look) -> Self:
        index = look.deciding
        return cls(scope=look.scope, when=index, condition=None if index is None else look.rule.when[index].args)


class SimulatedOut(BaseModel):
    """What would come of the call. Nothing was changed, and nothing was asked of anybody."""

    tool_id: UUID
    tool_name: str
    user_id: UUID
    username: str
    decision: Verdict
    decided_by: DecidedByOut
    approvers: list[str] | None = Field(description="null: APPROVERS, and everybody with the role approver.")
    quorum: int
    four_eyes: bool
    expires_in_s: int
    doors: list[Door] | None = Field(description="Where it may be approved; null: everywhere.")
    fresh_login_s: int | None
    remind_after_s: int | None
    escalate_after_s: int | None
    escalate_to: list[str] | None
    remember_max_s: int = Field(description="How long an approval of it may spare later ones; 0: never.")
    refused: str | None = Field(
        description="Why it would be refused whatever policy says: the tool is disabled or in "
        "quarantine, or the user is disabled."
    )
    reasons: list[str] = Field(
        description="Sentences in order of precedence: which rules count, and which don't and why."
    )

    @classmethod
    def of(cls, found: Simulated) -> Self:
        ruling = found.ruling
        return cls(
            tool_id=found.tool_id,
            tool_name=found.tool_name,
            user_id=found.user_id,
            username=found.username,
            decision=ruling.verdict,
            decided_by=DecidedByOut.of(found.decided_by),
            approvers=None if ruling.approvers is None else list(ruling.approvers),
            quorum=ruling.quorum,
            four_eyes=ruling.four_eyes,
            expires_in_s=ruling.expires_in_s,
            doors=None if ruling.doors is None else list(ruling.doors),
            fresh_login_s=ruling.fresh_login_s,
            remind_after_s=ruling.remind_after_s,
            escalate_after_s=ruling.escalate_after_s,
            escalate_to=None if ruling.escalate_to is None else list(ruling.escalate_to),
            remember_max_s=ruling.remember_max_s,
            refused=found.refused,
            reasons=list(found.reasons),
        )


class PolicyOut(RuleIO):
    """A policy row."""

    policy_id: UUID
    tool_id: UUID
    tool_name: str
    user_id: UUID | None = Field(description="null: the default for everyone.")
    username: str | None
    set_by_admin: bool = Field(description="False: the user's own, which can only tighten.")
    over: RuleIO | None = Field(description="Of a user's own row: the one that an admin set for them, beneath it.")
    created_at: Time
    updated_at: Time

    @classmethod
    def of(cls, found: StoredRow) -> Self:
        row = found.row
        return cls(
            policy_id=found.policy_id,
            tool_id=found.tool_id,
            tool_name=found.tool_name,
            user_id=found.user_id,
            username=found.username,
            set_by_admin=row.by_admin,
            over=RuleIO(**rule_fields(row.beneath)) if row.beneath else None,
            created_at=found.created_at,
            updated_at=found.updated_at,
            **rule_fields(row.rule),
        )
