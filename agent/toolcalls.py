"""The way of one tool call: policy, approval, claim, run, record. The rows are the authority at every step."""

import asyncio
import json
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID, uuid4

import structlog
from langchain_core.messages import ToolCall, ToolMessage

from agent import attachments, audit, events, ledger, reruns, sessions, transcript, users
from agent.approvals import doors, grants, policy, resolutions, store
from agent.approvals.grants import Grant
from agent.approvals.policy import Ruling, Verdict
from agent.approvals.types import Approval, ApprovalStatus, Decision, ExecutionStatus, InvalidArguments, Vote
from agent.audit import Kind
from agent.ports import DirectoryUnavailable, GroupDirectory
from agent.questions import store as questions
from agent.questions.asking import Asking, CallHost
from agent.questions.types import QuestionStatus
from agent.run import Limits, Run
from agent.tools import catalogue
from agent.tools.base import CallContext, Outcome, Tool, ToolResult
from agent.tools.registry import Registry, validate
from agent.types import EventKind, Role
from db.database import Database, Tx

log = structlog.get_logger()

UNKNOWN_OUTCOME = (
    "The outcome of this call is unknown: the process stopped while it ran, and it was not run again. It may or may "
    "not have taken effect. Say so to the people, and don't call it again unless they ask for it."
)
UNPARSABLE = "_unparsable"
"""The key under which arguments travel that were no exact JSON."""
_NOT_EXACT = (
    "The arguments of this call were not JSON that can be read exactly, so nothing was run. Send very large integers "
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
        self._groups = groups
        self._limits = limits

    def drain(self) -> None:
        """Have no call wait for an answer any more."""
        self._asking.drain()

    async def step(self, run: Run, call: ToolCall) -> ToolMessage | Waiting:
        """Take the call to its result, or to where people must decide."""
        tool = await self._find(call["name"])
        groups: dict[str, frozenset[str]] | None = None
        while True:
            async with self._database.transaction() as tx:
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

    async def _look(
        self, tx: Tx, run: Run, call: ToolCall, tool: Tool | None, groups: dict[str, frozenset[str]] | None
    ) -> _Step:
        call_id = str(call["id"])
        entry = await ledger.read(tx, run.session_id, call_id)
        approval = await store.read_of_call(tx, run.session_id, call_id)
        if approval is not None:
            tool = self._registry.get(approval.tool_id)
        if approval is not None and entry is not None and entry.status is ExecutionStatus.UNKNOWN:
            word = await resolutions.of_turn(tx, run.turn_id)
            if word is not None and word.approval_id == approval.approval_id:
                return await self._again(tx, run, call, tool, approval, entry, word, groups)
        if entry is not None and entry.is_finished:
            return _message(call, entry.result or "", failed=entry.status is not ExecutionStatus.SUCCEEDED)
        if entry is not None:
            return await self._take_up(tx, run, call, tool, approval, entry)
        if approval is not None:
            return await self._decided(tx, run, call, tool, approval, groups)
        return await self._first(tx, run, call, tool, groups)

    async def _first(
        self, tx: Tx, run: Run, call: ToolCall, tool: Tool | None, groups: dict[str, frozenset[str]] | None
    ) -> _Step:
        """A call nobody has looked at yet."""
        if tool is None:
            return await self._refused(tx, run, call, f"There is no tool named {call['name']!r} here.")
        if UNPARSABLE in call["args"]:
            return await self._refused(tx, run, call, _NOT_EXACT)
        try:
            canonical = store.canonical(call["args"])
        except InvalidArguments as error:
            return await self._refused(tx, run, call, error.message)
        args = json.loads(canonical)
        if (wrong := validate(tool.spec, args)) is not None:
            return await self._refused(tx, run, call, wrong)
        if (withheld := await catalogue.withheld(tx, tool.spec)) is not None:
            return await self._refused(tx, run, call, withheld)
        default, own = await catalogue.rows(tx, tool.spec.tool_id, run.requester.user_id)
        ruling = self._ruling(args, tool, default, own)
        if ruling.verdict is Verdict.DENY:
            refused = await self._refused(tx, run, call, f"Policy denies {tool.spec.name} here. Don't try it again.")
            await self._note(tx, run, call, Kind.CALL_DENIED, tool.spec.name, None, digest=store.digest(canonical))
            return refused
        if ruling.verdict is Verdict.AUTO:
            return await self._claim(tx, run, call, tool, args, approval=None)
        grant = await self._granted(tx, run, tool, args, ruling, groups)
        if isinstance(grant, _NeedsGroups):
            return grant
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
        await self._tell(tx, run, EventKind.APPROVAL_OPENED, approval_id=str(approval_id))
        if grant is not None:
            return await self._spared(tx, run, call, tool, approval_id, grant, groups)
        opened = {"tool_name": tool.spec.name, "args_digest": store.digest(canonical), "status": "pending"}
        if (missing := tool.spec.unsandboxed) is not None:
            opened["unsandboxed"] = missing
        await audit.record(tx, Kind.APPROVAL_OPENED, actor=run.requester.user_id, subject=approval_id, data=opened)
        return Waiting(approval_id)

    async def _granted(
        self,
        tx: Tx,
        run: Run,
        tool: Tool,
        args: dict[str, Any],
        ruling: Ruling,
        groups: dict[str, frozenset[str]] | None,
    ) -> Grant | _NeedsGroups | None:
        """Return somebody's word that such a call need not be asked for, if they could give it for this one now."""
        if ruling.quorum > 1 or ruling.doors is not None or ruling.fresh_login_s is not None:
            return None
        entries = policy.entries_of(ruling.approvers, self._approvers)
        for grant in await grants.covering(
            tx,
            args,
            requester=run.requester.user_id,
            tool_id=tool.spec.tool_id,
            schema_hash=tool.spec.schema_hash,
            session_id=run.session_id,
            max_age_s=ruling.remember_max_s,
        ):
            if groups is None and (needed := policy.groups_needed(entries)):
                return _NeedsGroups(needed)
            granter = await users.read(tx, grant.granted_by.user_id)
            own = ruling.four_eyes and granter.user_id == run.requester.user_id
            if own or not policy.may_decide(granter, entries, groups=groups or {}):
                continue
            if await catalogue.withheld(tx, tool.spec, since=grant.created_at) is not None:
                continue  # given for the tool's server as it was before
            if granter.role is Role.ADMIN or await self._is_the_same_call(tx, grant, args):
                return grant
        return None

    async def _is_the_same_call(self, tx: Tx, grant: Grant, args: dict[str, Any]) -> bool:
        """Return whether the grant was given with exactly these arguments: all that one by a non-admin covers."""
        given = await store.read(tx, grant.approval_id)
        return given.args_digest == store.digest(store.canonical(args))

    async def _spared(
        self,
        tx: Tx,
        run: Run,
        call: ToolCall,
        tool: Tool,
        approval_id: UUID,
        grant: Grant,
        groups: dict[str, frozenset[str]] | None,
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

    def _ruling(self, args: dict[str, Any], tool: Tool, default: policy.Row | None, own: policy.Row | None) -> Ruling:
        return policy.rule_on(
            args,
            read_only=tool.spec.read_only,
            default=default,
            own=own,
            default_expiry_s=self._limits.approval_expires_s,
        )

    async def _decided(
        self,
        tx: Tx,
        run: Run,
        call: ToolCall,
        tool: Tool | None,
        approval: Approval,
        groups: dict[str, frozenset[str]] | None,
    ) -> _Step:
        """A call with an approval: read the decision from the row, and check again all that it was bound to."""
        if approval.status is ApprovalStatus.PENDING:
            return Waiting(approval.approval_id)
        if approval.status is not ApprovalStatus.APPROVED:
            return await self._refused(tx, run, call, _why_not(approval), approval)
        if tool is None:
            why = f"{approval.tool_name} is not connected any more, so the approved call was not run."
            return await self._void(tx, run, call, approval, why)
        if tool.spec.schema_hash != approval.schema_hash:
            why = f"{approval.tool_name} changed after the call was approved, so it was not run. Ask again."
            return await self._void(tx, run, call, approval, why)
        if (withheld := await catalogue.withheld(tx, tool.spec, since=approval.created_at)) is not None:
            return await self._void(tx, run, call, approval, f"The approved call was not run: {withheld}")
        if store.digest(store.canonical(approval.args)) != approval.args_digest:
            why = "The arguments are not the ones that were approved, so the call was not run."
            return await self._void(tx, run, call, approval, why)
        requester = await users.read(tx, approval.requested_by.user_id)
        default, own = await catalogue.rows(tx, approval.tool_id, requester.user_id)
        ruling = self._ruling(approval.args, tool, default, own)
        if ruling.verdict is Verdict.DENY or requester.disabled:
            return await self._void(tx, run, call, approval, "Policy denies this call by now, so it was not run.")
        if approval.decided_by is None:
            if ruling.verdict is not Verdict.AUTO:
                return await self._void(tx, run, call, approval, "Policy asks for this call by now; ask again.")
        else:
            asked_now = ruling if ruling.verdict is Verdict.ASK else None
            standing = await self._standing(tx, approval, asked_now, groups or {})
            needed_now = max(approval.quorum, asked_now.quorum if asked_now else 1)
            if standing < needed_now:
                terms = policy.terms_now(approval, asked_now)
                entries = {entry for named in terms for entry in policy.entries(named, self._approvers)}
                if groups is None and (needed := policy.groups_needed(entries)):
                    return _NeedsGroups(needed)
                why = "Who approved this may not decide it any more, so it was not run. Ask again."
                if asked_now is not None and not all(
                    doors.counts(v, asked_now) for v in policy.valid_approvals(approval)
                ):
                    why = f"The rules changed since this was approved, so it was not run. {doors.where(asked_now)}"
                if standing >= approval.quorum:
                    why = f"Policy asks for {needed_now} approvals of this by now, so it was not run. Ask again."
                return await self._void(tx, run, call, approval, why)
        return await self._claim(tx, run, call, tool, approval.args, approval=approval)

    async def _standing(
        self, tx: Tx, approval: Approval, asked_now: Ruling | None, groups: dict[str, frozenset[str]]
    ) -> int:
        """Return how many of the approving votes are by people who may decide now: under the terms it was asked
        under, and under those of today."""
        ways = [approval, asked_now] if asked_now else [approval]
        votes = [vote for vote in policy.valid_approvals(approval) if all(doors.counts(vote, way) for way in ways)]
        voters = await users.read_many(tx, [vote.by.user_id for vote in votes])
        terms = policy.terms_now(approval, asked_now)
        four_eyes = approval.four_eyes or (asked_now is not None and asked_now.four_eyes)
        return sum(
            all(policy.has_standing(voter, named, approvers=self._approvers, groups=groups) for named in terms)
            and not (four_eyes and voter.user_id == approval.requested_by.user_id)
            for voter in voters.values()
        )

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
        await self._tell_execution(tx, run, call, EventKind.EXECUTION_STARTED, tool.spec.name, approval_id)
        used = _identity(tool)
        await self._note(tx, run, call, Kind.EXECUTION_STARTED, tool.spec.name, approval_id, digest=digest, **used)
        return _Claimed(tool, args, approval)

    async def _take_up(
        self, tx: Tx, run: Run, call: ToolCall, tool: Tool | None, approval: Approval | None, entry: ledger.Entry
    ) -> _Step:
        """A call that was claimed and never recorded: its worker died, or lost the thread, in between."""
        args = approval.args if approval else json.loads(store.canonical(call["args"]))
        step: _Step
        closed = await self._close_questions(tx, run, call)
        if tool is not None and tool.spec.repeatable and await self._may_repeat(tx, run, tool, args, approval, entry):
            await ledger.claim_again(tx, run.session_id, str(call["id"]))
            step = _Claimed(tool, args, approval)
        else:
            step = await self._record(tx, run, call, ToolResult(UNKNOWN_OUTCOME, Outcome.UNKNOWN), tool, approval)
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
        groups: dict[str, frozenset[str]] | None,
    ) -> _Step:
        """A call of unknown outcome that a person had run again, in the turn made for that."""
        why: str | list[str] | None = await reruns.obstacle(tx, tool, approval, entry, word)
        if tool is not None and why is None:
            default, own = await catalogue.rows(tx, approval.tool_id, approval.requested_by.user_id)
            ruling = self._ruling(approval.args, tool, default, own)
            why = await reruns.may(tx, approval, word, ruling, approvers=self._approvers, groups=groups)
            if isinstance(why, list):
                return _NeedsGroups(why)
        if tool is None or why is not None:
            text = why or UNKNOWN_OUTCOME
            await reruns.note(tx, run, approval, text)
            return _message(call, text, failed=True)
        digest = approval.args_digest
        if not await ledger.claim_resolved(
            tx, run.session_id, str(call["id"]), turn_id=run.turn_id, args_digest=digest
        ):
            raise RuntimeError("The ledger has a claim that was not there a moment ago, under the thread's lock.")
        name, approval_id = tool.spec.name, approval.approval_id
        await self._tell_execution(tx, run, call, EventKind.EXECUTION_STARTED, name, approval_id)
        resolution = {"resolution_id": word.resolution_id, "resolved_by": word.resolved_by}
        await self._note(tx, run, call, Kind.EXECUTION_STARTED, name, approval_id, digest=digest, **resolution)
        return _Claimed(tool, approval.args, approval)

    async def _may_repeat(
        self, tx: Tx, run: Run, tool: Tool, args: dict[str, Any], approval: Approval | None, entry: ledger.Entry
    ) -> bool:
        """Return whether it is still the call that was claimed, of a tool that is still the same and not denied."""
        if store.digest(store.canonical(args)) != entry.args_digest:
            return False
        if approval is not None and approval.schema_hash != tool.spec.schema_hash:
            return False
        if await catalogue.withheld(tx, tool.spec) is not None:
            return False
        requester = await users.read(tx, approval.requested_by.user_id if approval else run.requester.user_id)
        default, own = await catalogue.rows(tx, tool.spec.tool_id, requester.user_id)
        return self._ruling(args, tool, default, own).verdict is not Verdict.DENY and not requester.disabled

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
            message = await self._record(tx, run, call, result, claimed.tool, claimed.approval)
            await self._note_closed(tx, closed)
            return message

    async def _close_questions(self, tx: Tx, run: Run, call: ToolCall) -> list[UUID]:
        """Leave none open of a call that waits no more."""
        return await questions.close_of_call(tx, run.session_id, run.turn_id, str(call["id"]), epoch=run.epoch)

    async def _note_closed(self, tx: Tx, closed: list[UUID]) -> None:
        for question_id in closed:
            await questions.note_settled(tx, question_id, QuestionStatus.CANCELLED, reason="The call ended.")

    async def _record(
        self, tx: Tx, run: Run, call: ToolCall, result: ToolResult, tool: Tool | None, approval: Approval | None
    ) -> ToolMessage:
        call_id, name = str(call["id"]), tool.spec.name if tool else call["name"]
        approval_id = approval.approval_id if approval else None
        if result.outcome is Outcome.UNKNOWN and approval_id is None and tool is not None:
            approval_id = await self._resolvable(tx, run, call, tool)
        decided = approval is not None
        kept, line = await attachments.keep(tx, run.session_id, run.turn_id, call_id, name, result, decided=decided)
        if line:
            result = replace(result, text=f"{result.text}\n{line}")
        await ledger.finish(tx, run.session_id, call_id, status=ExecutionStatus(result.outcome), result=result.text)
        if approval is not None and approval.turn_id != run.turn_id:
            await reruns.note(tx, run, approval, result.text)
        else:
            await self._append(tx, run, call, result.text)
        told: dict[str, Any] = {"status": result.outcome.value, **({"attachments": kept} if kept else {})}
        await self._tell_execution(tx, run, call, EventKind.EXECUTION_FINISHED, name, approval_id, **told)
        await self._note(
            tx,
            run,
            call,
            Kind.EXECUTION_FINISHED,
            name,
            approval_id,
            status=result.outcome.value,
            result_digest=store.digest(result.text),
            **_identity(tool),
        )
        return _message(call, result.text, failed=result.outcome is not Outcome.SUCCEEDED)

    async def _resolvable(self, tx: Tx, run: Run, call: ToolCall, tool: Tool) -> UUID:
        """Give an automatic call whose outcome is unknown an approval row, so people can see and resolve it."""
        approval_id = await store.insert_automatic(
            tx,
            session_id=run.session_id,
            turn_id=run.turn_id,
            tool_call_id=str(call["id"]),
            tool_id=tool.spec.tool_id,
            tool_name=tool.spec.name,
            schema_hash=tool.spec.schema_hash,
            args=store.canonical(call["args"]),
            requested_by=run.requester.user_id,
        )
        await tx.execute(ledger.sql.attach, run.session_id, str(call["id"]), approval_id)
        await self._tell(tx, run, EventKind.APPROVAL_OPENED, approval_id=str(approval_id))
        return approval_id

    async def _void(self, tx: Tx, run: Run, call: ToolCall, approval: Approval, why: str) -> ToolMessage:
        """An approval that may not be acted on: it ends as cancelled, with the reason."""
        await store.save(tx, approval, replace(approval, status=ApprovalStatus.CANCELLED, reason=why))
        await self._tell(
            tx,
            run,
            EventKind.APPROVAL_CHANGED,
            approval_id=str(approval.approval_id),
            status=ApprovalStatus.CANCELLED.value,
        )
        message = await self._refused(tx, run, call, why, approval)
        data = {"status": ApprovalStatus.CANCELLED.value, "tool_name": approval.tool_name, "reason": why}
        await audit.record(tx, Kind.APPROVAL_SETTLED, actor=None, subject=approval.approval_id, data=data)
        return message

    async def _refused(
        self, tx: Tx, run: Run, call: ToolCall, why: str, approval: Approval | None = None
    ) -> ToolMessage:
        """The call does not run; the model and the transcript are told why."""
        if approval is not None:
            await tx.execute(store.sql.handle, approval.approval_id)
        await self._append(tx, run, call, why)
        return _message(call, why, failed=True)

    async def _append(self, tx: Tx, run: Run, call: ToolCall, text: str) -> None:
        await transcript.append(
            tx,
            run.session_id,
            message_id=transcript.step_id(run.turn_id, "tool", call["id"]),
            turn_id=run.turn_id,
            role="tool",
            content=text,
            tool_call_id=str(call["id"]),
            tool_name=call["name"],
        )

    async def _note(
        self, tx: Tx, run: Run, call: ToolCall, kind: Kind, name: str, approval_id: UUID | None, **data: Any
    ) -> None:
        """Write the audit entry; it comes last in its transaction."""
        body = {"tool_name": name, "tool_call_id": call["id"], "session_id": run.session_id, **data}
        await audit.record(tx, kind, actor=run.requester.user_id, subject=approval_id or str(call["id"]), data=body)

    async def _tell(self, tx: Tx, run: Run, kind: EventKind, **data: Any) -> None:
        await events.append(tx, run.session_id, kind, data, turn_id=run.turn_id, epoch=run.epoch)

    async def _tell_execution(
        self, tx: Tx, run: Run, call: ToolCall, kind: EventKind, name: str, approval_id: UUID | None, **data: Any
    ) -> None:
        shown = str(approval_id) if approval_id else None
        await self._tell(tx, run, kind, tool_call_id=call["id"], tool_name=name, approval_id=shown, **data)


def _identity(tool: Tool | None) -> dict[str, Any]:
    """Whose rights the call uses beside its requester's word: a server's service account, never another person's."""
    if tool is None or tool.spec.server is None:
        return {}
    return {"server": tool.spec.server, "credentials": tool.spec.credentials}


def _message(call: ToolCall, text: str, *, failed: bool) -> ToolMessage:
    return ToolMessage(text, tool_call_id=str(call["id"]), name=call["name"], status="error" if failed else "success")


def _why_not(approval: Approval) -> str:
    """Say to the model what people decided; an expiry is not a rejection."""
    if approval.status is ApprovalStatus.EXPIRED:
        return "Nobody decided this in time: the approval expired and the call was not run. Nobody rejected it."
    who = approval.decided_by.display_name or approval.decided_by.username if approval.decided_by else "an approver"
    said = f' They said: "{approval.reason}".' if approval.reason else ""
    if approval.status is ApprovalStatus.CANCELLED:
        if approval.decided_by is None:
            return approval.reason or "This call was cancelled and not run."
        return f"Cancelled by {who} before it was decided; the call was not run, and nobody rejected it.{said}"
    return f"Rejected by {who}; the call was not run.{said} Don't call it again unless you are asked to."
