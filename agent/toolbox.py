"""The service's part for tools and the policy rows on them."""

from dataclasses import asdict, dataclass, field, replace
from uuid import UUID

from agent import audit, pins, users
from agent.accounts import AdminsOnly
from agent.approvals import people, policy
from agent.approvals.policy import Row, Rule, Verdict
from agent.audit import Kind
from agent.errors import Conflict, Invalid, NotAllowed
from agent.house import Part
from agent.pins import Change
from agent.tools import catalogue
from agent.tools.base import ToolSpec
from agent.tools.catalogue import Listed, ToolApproval, ToolNotFound, Usage
from agent.tools.redaction import pattern_problem
from agent.tools.registry import NAME as TOOL_NAME
from agent.types import Principal, Role
from db.database import Tx


@dataclass(frozen=True, slots=True)
class ToolView:
    """A tool, and what policy says of it to whoever asks."""

    spec: ToolSpec
    status: str
    auto_execute: bool
    approval_required: bool
    enabled: bool = True
    usage: Usage = field(default_factory=Usage)
    change: Change | None = None
    """Of a quarantined tool, where one is read alone: what an admin has to judge."""


@dataclass(frozen=True, slots=True)
class ToolPatch:
    """What an admin says of a tool; None leaves it, an empty text gives the source's own back."""

    enabled: bool | None = None
    name: str | None = None
    description: str | None = None
    redact: tuple[str, ...] | None = None


class BadToolName(Invalid):
    code = "bad_tool_name"


class ToolNameTaken(Conflict):
    code = "tool_name_taken"


class BadPattern(Invalid):
    code = "bad_pattern"


class PolicyNotYours(NotAllowed):
    code = "policy_not_yours"


class Toolbox(Part):
    """The catalogue and its policy."""

    async def list_tools(self, *, by: Principal) -> list[ToolView]:
        async with self._database.connection() as connection:
            rows = await catalogue.rows_of_user(connection, by.user_id)
            listed = await catalogue.read_all(connection)
            used = await catalogue.usage(connection, [tool.spec.tool_id for tool in listed])
        return [_view(t, *rows.get(t.spec.tool_id, (None, None)), used.get(t.spec.tool_id)) for t in listed]

    async def read_tool(self, tool_id: UUID, *, by: Principal) -> ToolView:
        async with self._database.connection() as connection:
            return await self._read(connection, tool_id, by)

    async def _read(self, tx: Tx, tool_id: UUID, by: Principal) -> ToolView:
        listed = await catalogue.read(tx, tool_id)
        used = await catalogue.usage(tx, [tool_id])
        view = _view(listed, *await catalogue.rows(tx, tool_id, by.user_id), used.get(tool_id))
        return replace(view, change=await pins.change(tx, tool_id))

    async def update_tool(self, tool_id: UUID, patch: ToolPatch, *, by: Principal) -> ToolView:
        """Enable or disable a tool, give it another name or description for the model, or redact its results."""
        _check(patch)
        async with self._database.transaction() as tx:
            admin = await self._admin_of_tools(tx, by)
            row = await tx.fetchrow(catalogue.sql.own_values, tool_id)
            if row is None:
                raise ToolNotFound
            given = patch.name if patch.name is not None else row["given_name"]
            if given and await tx.fetchval(catalogue.sql.name_taken, tool_id, given):
                raise ToolNameTaken(f"There is another tool named {given}.")
            enabled = row["enabled"] if patch.enabled is None else patch.enabled
            description = row["given_description"] if patch.description is None else patch.description
            redact = list(row["redact"] if patch.redact is None else patch.redact)
            await tx.execute(catalogue.sql.govern, tool_id, enabled, given or None, description or None, redact)
            view = await self._read(tx, tool_id, admin)
            said = {"tool_name": view.spec.name, "enabled": enabled, "name": given, "description": description}
            await audit.record(tx, Kind.TOOL_CHANGED, actor=admin.user_id, subject=tool_id, data=said)
        return view

    async def reload_tools(self, *, by: Principal) -> None:
        """Have every worker read its tool files again."""
        async with self._database.transaction() as tx:
            admin = await self._admin_of_tools(tx, by)
            await tx.execute(catalogue.sql.notify, "reload")
            await audit.record(tx, Kind.TOOLS_RELOADED, actor=admin.user_id, subject="tools", data={})

    async def _admin_of_tools(self, tx: Tx, by: Principal) -> Principal:
        acting = await self._acting(tx, by)
        if acting.role is not Role.ADMIN:
            raise AdminsOnly("Only an admin may change tools.")
        return acting

    async def set_tool_approval(
        self, tool_id: UUID, rule: Rule, *, by: Principal, user_id: UUID | None = None
    ) -> ToolApproval:
        """Set the default row or a user's; an admin's word counts as it is, a user's own can only tighten."""
        policy.check(rule)
        async with self._database.transaction() as tx:
            acting = await self._acting(tx, by)
            is_admin = acting.role is Role.ADMIN
            if not is_admin and user_id != acting.user_id:
                raise PolicyNotYours("Only an admin may set this; you may tighten your own with your user_id.")
            await tx.execute(catalogue.sql.lock, tool_id)
            spec = (await catalogue.read(tx, tool_id)).spec
            await people.require_known(tx, (*(rule.approvers or ()), *(rule.escalate_to or ())))
            if user_id is not None:
                await users.hold(tx, user_id)
            _, own = await catalogue.rows(tx, tool_id, user_id or acting.user_id)
            beneath = None if is_admin or own is None else own.rule if own.by_admin else own.beneath
            at = await catalogue.save_row(tx, spec, rule, user_id=user_id, by_admin=is_admin, beneath=beneath)
            data = {"tool_name": spec.name, "user_id": user_id, "rule": asdict(rule)}
            await audit.record(tx, Kind.POLICY_SET, actor=acting.user_id, subject=tool_id, data=data)
        return ToolApproval(tool_id, spec.name, user_id, rule, at)


def _check(patch: ToolPatch) -> None:
    if patch.name and not TOOL_NAME.fullmatch(patch.name):
        raise BadToolName("A tool's name for the model takes 1 to 64 letters, digits, dashes and underscores.")
    for pattern in patch.redact or ():
        if problem := pattern_problem(pattern):
            raise BadPattern(f"`redact`: {problem}.")


def _view(listed: Listed, default: Row | None, own: Row | None, usage: Usage | None = None) -> ToolView:
    ruling = policy.rule_on(None, read_only=listed.spec.read_only, default=default, own=own)
    return ToolView(
        spec=listed.spec,
        status=listed.status,
        auto_execute=ruling.verdict is Verdict.AUTO,
        approval_required=ruling.verdict is Verdict.ASK,
        enabled=listed.enabled,
        usage=usage or Usage(),
    )
