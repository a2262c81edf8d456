"""The way of one tool call: policy, approval, claim, run, record. The rows are the authority at every step."""

import asyncio
import json
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID, uuid4

import structlog
from langchain_core.messages import ToolCall, ToolMessage

from agent import audit, call_records, ledger, reruns, sessions, users
from agent.approvals import grants, resolutions, store
from agent.approvals.grants import Grant
from agent.approvals.policy import Verdict
from agent.approvals.types import Approval, ApprovalStatus, Decision, ExecutionStatus, InvalidArguments, Vote
from agent.audit import Kind
from agent.ports import DirectoryUnavailable, GroupDirectory
from agent.questions import store as questions
from agent.questions.asking import Asking, CallHost
from agent.questions.types import QuestionStatus
from agent.rechecks import Groups, Rechecks
from agent.run import Limits, Run
from agent.tools import catalogue
from agent.tools.base import CallContext, Outcome, Tool, ToolResult
from agent.tools.registry import Registry, validate
from agent.types import EventKind
from db.database import Database, Tx

log = structlog.get_logger()

UNKNOWN_OUTCOME = (
    "The outcome of this call is unknown: the process stopped while it ran, and it was not run again. It may or may "
    "not have taken effect. Say so to the people, and don't call it again unless they ask for it."
)
UNPARSABLE = "_unparsable"
"""The key under which arguments travel that were no exact JSON."""
_NOT_EXACT = (
    "The arguments of this call were not JSON that can be read exactly, so nothing was run. Send very large numbers "
    "as strings, and neither NaN nor Infinity."
)
_TOOL_RETURNS_S = 10.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """The call needs people; nothing has run."""

    approval_id: UUID


@dataclass(frozen=True, slots=True)
class _Claimed:
    """The call is this worker's to run, with exactly these arguments."""

    tool: Tool
    args: dict[str, Any]
    approval: Approval | None


@dataclass(frozen=True, slots=True)
class _NeedsGroups:
    """Whether the approvers have standing depends on these user groups."""

    group_ids: list[str]


_Step = ToolMessage | Waiting | _Claimed | _NeedsGroups


class ToolCalls:
    """Takes tool calls as far as they can go. Every step is safe to repeat after a crash."""

    def __init__(
        self,
        database: Database,
        registry: Registry,
        *,
        approvers: tuple[str, ...],
        groups: GroupDirectory | None,
        limits: Limits,
        asking: Asking,
    ) -> None:
        self._database = database
        self._registry = registry
        self._asking = asking
        self._approvers = approvers
        self._rechecks = Rechecks(approvers, limits)
        self._groups = groups

    def drain(self) -> None:
        """Have no call wait for an answer any more."""
        self._asking.drain()

    async def step(self, run: Run, call: ToolCall) -> ToolMessage | Waiting:
        """Take the call to its result, or to where people must decide."""
        tool = await self._find(call["name"])
        groups: Groups = None
        while True:
            async with run.looking, self._database.transaction() as tx:
                await sessions.fence(tx, run.session_id, run.epoch)
                step = await self._look(tx, run, call, tool, groups)
            if not isinstance(step, _NeedsGroups):
                break
            groups = await self._fresh_groups(step.group_ids)
        if isinstance(step, _Claimed):
            return await self._execute(run, call, step)
        return step

    async def _find(self, name: str) -> Tool | None:
        """Return the tool; one that is known but not connected gets a moment to come back."""
        tool = self._registry.by_name(name)
        if tool is not None:
            return tool
        async with self._database.connection() as connection:
            if not any(listed.spec.name == name for listed in await catalogue.read_all(connection)):
                return None
        for _ in range(int(_TOOL_RETURNS_S / 0.2)):
            await asyncio.sleep(0.2)
            if (tool := self._registry.by_name(name)) is not None:
                return tool
        return None

    async def _fresh_groups(self, group_ids: list[str]) -> dict[str, frozenset[str]]:
        try:
            return await users.fresh_groups(self._database, self._groups, group_ids)
        except DirectoryUnavailable:
            # Fail closed: with nobody in the group, the approvers have no standing and the call is refused.
            log.warning("toolcall.groups_unavailable", groups=group_ids)
            return {group_id: frozenset[str]() for group_id in group_ids}

    async def _look(self, tx: Tx, run: Run, call: ToolCall, tool: Tool | None, groups: Groups) -> _Step:
        call_id = str(call["id"])
        entry, was_asked = await ledger.read(tx, run.session_id, call_id)
        approval = await store.read_of_call(tx, run.session_id, call_id) if was_asked else None
        if approval is not None:
            tool = self._registry.get(approval.tool_id)
        if approval is not None and entry is not None and entry.status is ExecutionStatus.UNKNOWN:
            word = await resolutions.of_turn(tx, run.turn_id)
            if word is not None and word.approval_id == approval.approval_id:
                return await self._again(tx, run, call, tool, approval, entry, word, groups)
        if entry is not None and entry.is_finished:
            return call_records.message(call, entry.result or "", failed=entry.status is not ExecutionStatus.SUCCEEDED)
        if entry is not None:
            return await self._take_up(tx, run, call, tool, approval, entry, groups)
        if approval is not None:
            return await self._decided(tx, run, call, tool, approval, groups)
        return await self._first(tx, run, call, tool, groups)

    async def _first(self, tx: Tx, run: Run, call: ToolCall, tool: Tool | None, groups: Groups) -> _Step:
        """A call nobody has looked at yet."""
        if tool is None:
            return await call_records.refused(tx, run, call, f"There is no tool named {call['name']!r} here.")
        if UNPARSABLE in call["args"]:
            return await call_records.refused(tx, run, call, _NOT_EXACT)
        try:
            canonical = store.canonical(call["args"])
        except InvalidArguments as error:
            return await call_records.refused(tx, run, call, error.message)
        args = json.loads(canonical)
        if (wrong := validate(tool.spec, args)) is not None:
            return await call_records.refused(tx, run, call, wrong)
        if (withheld := await catalogue.withheld(tx, tool.spec)) is not None:
            return await call_records.refused(tx, run, call, withheld)
        ruling = await self._rechecks.ruling(tx, tool, args, run.requester.user_id)
        if ruling.verdict is Verdict.DENY:
            name, digest = tool.spec.name, store.digest(canonical)
            refused = await call_records.refused(tx, run, call, f"Policy denies {name} here. Don't try it again.")
            await call_records.note(tx, run, call, Kind.CALL_DENIED, name, None, digest=digest)
            return refused
        if ruling.verdict is Verdict.AUTO:
            return await self._claim(tx, run, call, tool, args, approval=None)
        grant = await self._rechecks.grant(
            tx, tool, args, ruling, groups, requester_id=run.requester.user_id, session_id=run.session_id
        )
        if isinstance(grant, list):
            return _NeedsGroups(grant)
        approval_id = uuid4()
        await store.insert(
            tx,
            approval_id=approval_id,
            session_id=run.session_id,
            turn_id=run.turn_id,
            tool_call_id=str(call["id"]),
            tool_id=tool.spec.tool_id,
            tool_name=tool.spec.name,
            schema_hash=tool.spec.schema_hash,
            args=canonical,
            requested_by=run.requester.user_id,
            ruling=ruling,
        )
        await call_records.tell(tx, run, EventKind.APPROVAL_OPENED, approval_id=str(approval_id))
        if grant is not None:
            return await self._spared(tx, run, call, tool, approval_id, grant, groups)
        opened = {"tool_name": tool.spec.name, "args_digest": store.digest(canonical), "status": "pending"}
        if (missing := tool.spec.unsandboxed) is not None:
            opened["unsandboxed"] = missing
        await audit.record(tx, Kind.APPROVAL_OPENED, actor=run.requester.user_id, subject=approval_id, data=opened)
        return Waiting(approval_id)

    async def _spared(
        self,
        tx: Tx,
        run: Run,
        call: ToolCall,
        tool: Tool,
        approval_id: UUID,
        grant: Grant,
        groups: Groups,
    ) -> _Step:
        """Approve the call as its grant says, by the vote of whoever gave it; all that is checked of a vote follows."""
        asked = await store.read(tx, approval_id)
        reason = f"Not asked again: {grant.granted_by.display_name or grant.granted_by.username} said so before."
        vote = Vote(grant.granted_by, Decision.APPROVE, reason, asked.args_digest, asked.created_at)
        approval = replace(
            asked,
            status=ApprovalStatus.APPROVED,
            votes=(vote,),
            decided_by=grant.granted_by,
            decided_at=asked.created_at,
            reason=reason,
        )
        await store.save(tx, asked, approval)
        await tx.execute(grants.sql.use, grant.grant_id, approval_id)
        opened: dict[str, Any] = {
            "tool_name": approval.tool_name,
            "args_digest": approval.args_digest,
            "status": "approved",
            "grant_id": grant.grant_id,
        }
        if (missing := tool.spec.unsandboxed) is not None:
            opened["unsandboxed"] = missing
        await audit.record(tx, Kind.APPROVAL_OPENED, actor=run.requester.user_id, subject=approval_id, data=opened)
        return await self._decided(tx, run, call, tool, approval, groups)

    async def _decided(
        self,
        tx: Tx,
        run: Run,
        call: ToolCall,
        tool: Tool | None,
        approval: Approval,
        groups: Groups,
    ) -> _Step:
        """A call with an approval: read the decision from the row, and check again all that it was bound to."""
        if approval.status is ApprovalStatus.PENDING:
            return Waiting(approval.approval_id)
        if approval.status is not ApprovalStatus.APPROVED:
            return await call_records.refused(tx, run, call, call_records.why_not(approval), approval)
        why = await self._rechecks.obstacle(tx, tool, approval, groups)
        if isinstance(why, list):
            return _NeedsGroups(why)
        if why is not None:
            return await call_records.void(tx, run, call, approval, why)
        assert tool
        return await self._claim(tx, run, call, tool, approval.args, approval=approval)

    async def _claim(
        self, tx: Tx, run: Run, call: ToolCall, tool: Tool, args: dict[str, Any], *, approval: Approval | None
    ) -> _Step:
        approval_id, digest = approval.approval_id if approval else None, store.digest(store.canonical(args))
        won = await ledger.claim(
            tx,
            run.session_id,
            str(call["id"]),
            turn_id=run.turn_id,
            approval_id=approval_id,
            tool_id=tool.spec.tool_id,
            tool_name=tool.spec.name,
            args_digest=digest,
        )
        if not won:
            raise RuntimeError("The ledger has a claim that was not there a moment ago, under the thread's lock.")
        if approval_id is not None:
            await tx.execute(store.sql.handle, approval_id)
        await call_records.tell_execution(tx, run, call, EventKind.EXECUTION_STARTED, tool.spec.name, approval_id)
        used = call_records.identity(tool)
        await call_records.note(
            tx, run, call, Kind.EXECUTION_STARTED, tool.spec.name, approval_id, digest=digest, **used
        )
        return _Claimed(tool, args, approval)

    async def _take_up(
        self,
        tx: Tx,
        run: Run,
        call: ToolCall,
        tool: Tool | None,
        approval: Approval | None,
        entry: ledger.Entry,
        groups: Groups,
    ) -> _Step:
        """A call that was claimed and never recorded: its worker died, or lost the thread, in between."""
        args = approval.args if approval else json.loads(store.canonical(call["args"]))
        again: bool | list[str] = False
        if tool is not None and tool.spec.repeatable:
            again = await self._rechecks.may_repeat(tx, tool, args, approval, entry, run.requester.user_id, groups)
        if isinstance(again, list):
            return _NeedsGroups(again)
        closed = await self._close_questions(tx, run, call)
        step: _Step
        if tool is not None and again:
            await ledger.claim_again(tx, run.session_id, str(call["id"]))
            step = _Claimed(tool, args, approval)
        else:
            unknown = ToolResult(UNKNOWN_OUTCOME, Outcome.UNKNOWN)
            step = await call_records.record(tx, run, call, unknown, tool, approval)
        await self._note_closed(tx, closed)
        return step

    async def _again(
        self,
        tx: Tx,
        run: Run,
        call: ToolCall,
        tool: Tool | None,
        approval: Approval,
        entry: ledger.Entry,
        word: resolutions.Word,
        groups: Groups,
    ) -> _Step:
        """A call of unknown outcome that a person had run again, in the turn made for that."""
        why: str | list[str] | None = await reruns.obstacle(tx, tool, approval, entry, word)
        if tool is not None and why is None:
            ruling = await self._rechecks.ruling(tx, tool, approval.args, approval.requested_by.user_id)
            why = await reruns.may(tx, approval, word, ruling, approvers=self._approvers, groups=groups)
            if isinstance(why, list):
                return _NeedsGroups(why)
        if tool is None or why is not None:
            text = why or UNKNOWN_OUTCOME
            await reruns.note(tx, run, approval, text)
            return call_records.message(call, text, failed=True)
        digest = approval.args_digest
        if not await ledger.claim_resolved(
            tx, run.session_id, str(call["id"]), turn_id=run.turn_id, args_digest=digest
        ):
            raise RuntimeError("The ledger has a claim that was not there a moment ago, under the thread's lock.")
        name, approval_id = tool.spec.name, approval.approval_id
        await call_records.tell_execution(tx, run, call, EventKind.EXECUTION_STARTED, name, approval_id)
        resolution = {"resolution_id": word.resolution_id, "resolved_by": word.resolved_by}
        await call_records.note(tx, run, call, Kind.EXECUTION_STARTED, name, approval_id, digest=digest, **resolution)
        return _Claimed(tool, approval.args, approval)

    async def _execute(self, run: Run, call: ToolCall, claimed: _Claimed) -> ToolMessage:
        host = CallHost(self._asking, run, call, claimed.tool.spec)
        context = CallContext(
            session_id=run.session_id,
            tool_call_id=str(call["id"]),
            approval_id=claimed.approval.approval_id if claimed.approval else None,
            requester_id=run.requester.user_id,
            host=host,
            clock=host.clock,
        )
        try:
            result = await self._registry.call(claimed.tool, claimed.args, context)
        finally:
            await host.end()
        result = replace(result, text=host.with_notes(result.text))
        if claimed.approval and claimed.approval.args != claimed.approval.args_proposed:
            shown = json.dumps(claimed.approval.args, ensure_ascii=False)
            result = replace(result, text=f"(The approver changed the arguments to {shown}.)\n{result.text}")
        async with self._database.transaction() as tx:
            await sessions.fence(tx, run.session_id, run.epoch)
            closed = await self._close_questions(tx, run, call) if host.asked else []
            message = await call_records.record(tx, run, call, result, claimed.tool, claimed.approval)
            await self._note_closed(tx, closed)
            return message

    async def _close_questions(self, tx: Tx, run: Run, call: ToolCall) -> list[UUID]:
        """Leave none open of a call that waits no more."""
        return await questions.close_of_call(tx, run.session_id, run.turn_id, str(call["id"]), epoch=run.epoch)

    async def _note_closed(self, tx: Tx, closed: list[UUID]) -> None:
        for question_id in closed:
            await questions.note_settled(tx, question_id, QuestionStatus.CANCELLED, reason="The call ended.")
