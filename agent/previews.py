"""Previews: while people decide, a tool that can says what the call would do; once for each approval and arguments."""

import asyncio
from dataclasses import dataclass
from uuid import UUID

import structlog

from agent import audit, events, users
from agent.approvals import policy, store
from agent.approvals.policy import Verdict
from agent.approvals.types import Approval
from agent.audit import Kind
from agent.tools import catalogue
from agent.tools.base import CallContext, Outcome, Tool, ToolResult
from agent.tools.ending import end
from agent.tools.registry import Registry
from agent.types import EventKind
from db import queries
from db.database import Database, Tx

sql = queries.load("previews")
log = structlog.get_logger()

AT_ONCE = 4
_LOST = "it did not end in time, or its process ended while it ran."
_SILENT = "It ended well and said nothing."


@dataclass(frozen=True, slots=True)
class _Claimed:
    """A preview that is this process's to make; `why_not` where its call may not be run anyway."""

    approval: Approval
    tool: Tool
    why_not: str | None


class Previews:
    """Makes previews beside the turns, which never wait for one. Any number of processes may: each is claimed first.

    Nothing of it goes through the ledger, and a process that dies meanwhile leaves its preview unmade.
    """

    def __init__(self, database: Database, registry: Registry, *, every_s: float = 1.0) -> None:
        self._database = database
        self._registry = registry
        self._every_s = every_s
        self._making: dict[UUID, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Look for calls that wait without a preview, until cancelled; what is being made then ends with it."""
        try:
            while True:
                try:
                    await self._look()
                except Exception as error:  # noqa: BLE001 - one look; the next one tries again
                    log.warning("previews.not_read", error=f"{type(error).__name__}: {error}")
                await asyncio.sleep(self._every_s)
        finally:
            await end(self._making.values())

    async def _look(self) -> None:
        offered = [tool.spec for tool in self._registry.tools() if tool.spec.previews]
        if not offered or len(self._making) >= AT_ONCE:
            return
        async with self._database.connection() as connection:
            due = await connection.fetch(sql.due, [s.tool_id for s in offered], [s.schema_hash for s in offered])
        for row in due:
            approval_id = row["approval_id"]
            if approval_id not in self._making and len(self._making) < AT_ONCE:
                task = self._making[approval_id] = asyncio.create_task(self._make_safely(approval_id))
                task.add_done_callback(lambda _, done=approval_id: self._making.pop(done))

    async def _make_safely(self, approval_id: UUID) -> None:
        try:
            await self.make(approval_id)
        except Exception as error:  # noqa: BLE001 - one preview: the call waits for people without it
            log.warning("preview.not_made", approval_id=str(approval_id), error=f"{type(error).__name__}: {error}")

    async def make(self, approval_id: UUID) -> None:
        """Make the preview of a call that waits, unless somebody has claimed it."""
        async with self._database.transaction() as tx:
            claimed = await self._claim(tx, approval_id)
        if claimed is None:
            return
        result = await self._ask(claimed)
        if result is None:
            return
        async with self._database.transaction() as tx:
            await self._keep(tx, claimed.approval, result)

    async def _claim(self, tx: Tx, approval_id: UUID) -> _Claimed | None:
        approval = await store.read(tx, approval_id)
        tool = self._registry.get(approval.tool_id)
        if tool is None or not tool.spec.previews or tool.spec.schema_hash != approval.schema_hash:
            return None
        if await tx.fetchval(sql.claim, approval_id, approval.args_digest) is None:
            return None
        return _Claimed(approval, tool, await _why_not(tx, tool, approval))

    async def _ask(self, claimed: _Claimed) -> ToolResult | None:
        """Return what the tool says; it is told neither the approval's id nor the call's, which are keys of the run."""
        if claimed.why_not is not None:
            return ToolResult(claimed.why_not, Outcome.FAILED)
        approval = claimed.approval
        context = CallContext(
            session_id=approval.session_id,
            tool_call_id=f"preview_{approval.approval_id.hex}",
            approval_id=None,
            requester_id=approval.requested_by.user_id,
        )
        return await self._registry.preview(claimed.tool, approval.args, context)

    async def _keep(self, tx: Tx, approval: Approval, result: ToolResult) -> None:
        ok = result.outcome is Outcome.SUCCEEDED
        text = _LOST if result.outcome is Outcome.UNKNOWN else result.text.strip() or _SILENT
        await store.lock_session(tx, approval.approval_id)
        if await tx.fetchval(sql.save, approval.approval_id, approval.args_digest, ok, text) is None:
            return
        now = await store.read(tx, approval.approval_id)
        if not now.is_settled and now.args_digest == approval.args_digest:
            data = {"approval_id": str(approval.approval_id), "status": now.status.value}
            await events.append(tx, approval.session_id, EventKind.APPROVAL_CHANGED, data, turn_id=approval.turn_id)
        noted = {
            "tool_name": approval.tool_name,
            "args_digest": approval.args_digest,
            "ok": ok,
            "text_digest": store.digest(text),
        }
        await audit.record(tx, Kind.APPROVAL_PREVIEWED, actor=None, subject=approval.approval_id, data=noted)


async def _why_not(tx: Tx, tool: Tool, approval: Approval) -> str | None:
    """Return why the call may not run even if people approve it: then its tool is not asked anything either."""
    if (withheld := await catalogue.withheld(tx, tool.spec, since=approval.created_at)) is not None:
        return withheld
    requester = await users.read(tx, approval.requested_by.user_id)
    default, own = await catalogue.rows(tx, approval.tool_id, requester.user_id)
    ruling = policy.rule_on(approval.args, read_only=tool.spec.read_only, default=default, own=own)
    if ruling.verdict is Verdict.DENY or requester.disabled:
        return f"policy denies {approval.tool_name} with these arguments by now."
    return None
