"""The service's part for tools and the policy rows on them."""

from dataclasses import asdict, dataclass
from uuid import UUID

from agent import audit, users
from agent.approvals import policy
from agent.approvals.policy import Row, Rule, Verdict
from agent.audit import Kind
from agent.errors import NotAllowed
from agent.house import Part
from agent.tools import catalogue
from agent.tools.base import ToolSpec
from agent.tools.catalogue import Listed, ToolApproval
from agent.types import Principal, Role


@dataclass(frozen=True, slots=True)
class ToolView:
    """A tool, and what policy says of it to whoever asks."""

    spec: ToolSpec
    status: str
    auto_execute: bool
    approval_required: bool


class PolicyNotYours(NotAllowed):
    code = "policy_not_yours"


class Toolbox(Part):
    """The catalogue and its policy."""

    async def list_tools(self, *, by: Principal) -> list[ToolView]:
        async with self._database.connection() as connection:
            rows = await catalogue.rows_of_user(connection, by.user_id)
            listed = await catalogue.read_all(connection)
        return [_view(tool, *rows.get(tool.spec.tool_id, (None, None))) for tool in listed]

    async def read_tool(self, tool_id: UUID, *, by: Principal) -> ToolView:
        async with self._database.connection() as connection:
            listed = await catalogue.read(connection, tool_id)
            return _view(listed, *await catalogue.rows(connection, tool_id, by.user_id))

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
            if user_id is not None:
                await users.read(tx, user_id)
            _, own = await catalogue.rows(tx, tool_id, user_id or acting.user_id)
            beneath = None if is_admin or own is None else own.rule if own.by_admin else own.beneath
            at = await catalogue.save_row(tx, spec, rule, user_id=user_id, by_admin=is_admin, beneath=beneath)
            data = {"tool_name": spec.name, "user_id": user_id, "rule": asdict(rule)}
            await audit.record(tx, Kind.POLICY_SET, actor=acting.user_id, subject=tool_id, data=data)
        return ToolApproval(tool_id, spec.name, user_id, rule, at)


def _view(listed: Listed, default: Row | None, own: Row | None) -> ToolView:
    ruling = policy.rule_on(None, read_only=listed.spec.read_only, default=default, own=own)
    return ToolView(
        spec=listed.spec,
        status="available" if listed.available else "unavailable",
        auto_execute=ruling.verdict is Verdict.AUTO,
        approval_required=ruling.verdict is Verdict.ASK,
    )
