"""What is written down of a tool call, in the transaction of whoever takes it on: results, refusals, events, audit."""

from dataclasses import replace
from typing import Any
from uuid import UUID

from langchain_core.messages import ToolCall, ToolMessage

from agent import attachments, audit, events, ledger, reruns, transcript
from agent.approvals import store
from agent.approvals.types import Approval, ApprovalStatus, ExecutionStatus
from agent.audit import Kind
from agent.run import Run
from agent.tools.base import Outcome, Tool, ToolResult
from agent.types import EventKind
from db.database import Tx


async def record(
    tx: Tx, run: Run, call: ToolCall, result: ToolResult, tool: Tool | None, approval: Approval | None
) -> ToolMessage:
    """What came of the call: ledger, transcript, what it gave to people, event, audit."""
    call_id, name = str(call["id"]), tool.spec.name if tool else call["name"]
    approval_id = approval.approval_id if approval else None
    if result.outcome is Outcome.UNKNOWN and approval_id is None and tool is not None:
        approval_id = await _resolvable(tx, run, call, tool)
    decided = approval is not None
    kept, line = await attachments.keep(tx, run.session_id, run.turn_id, call_id, name, result, decided=decided)
    if line:
        result = replace(result, text=f"{result.text}\n{line}")
    await ledger.finish(tx, run.session_id, call_id, status=ExecutionStatus(result.outcome), result=result.text)
    if approval is not None and approval.turn_id != run.turn_id:
        await reruns.note(tx, run, approval, result.text)
    else:
        await _append(tx, run, call, result.text)
    told: dict[str, Any] = {"status": result.outcome.value, **({"attachments": kept} if kept else {})}
    await tell_execution(tx, run, call, EventKind.EXECUTION_FINISHED, name, approval_id, **told)
    await note(
        tx,
        run,
        call,
        Kind.EXECUTION_FINISHED,
        name,
        approval_id,
        status=result.outcome.value,
        result_digest=store.digest(result.text),
        **identity(tool),
    )
    return message(call, result.text, failed=result.outcome is not Outcome.SUCCEEDED)


async def _resolvable(tx: Tx, run: Run, call: ToolCall, tool: Tool) -> UUID:
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
    await tell(tx, run, EventKind.APPROVAL_OPENED, approval_id=str(approval_id))
    return approval_id


async def void(tx: Tx, run: Run, call: ToolCall, approval: Approval, why: str) -> ToolMessage:
    """An approval that may not be acted on: it ends as cancelled, with the reason."""
    await store.save(tx, approval, replace(approval, status=ApprovalStatus.CANCELLED, reason=why))
    await tell(
        tx,
        run,
        EventKind.APPROVAL_CHANGED,
        approval_id=str(approval.approval_id),
        status=ApprovalStatus.CANCELLED.value,
    )
    told = await refused(tx, run, call, why, approval)
    data = {"status": ApprovalStatus.CANCELLED.value, "tool_name": approval.tool_name, "reason": why}
    await audit.record(tx, Kind.APPROVAL_SETTLED, actor=None, subject=approval.approval_id, data=data)
    return told


async def refused(tx: Tx, run: Run, call: ToolCall, why: str, approval: Approval | None = None) -> ToolMessage:
    """The call does not run; the model and the transcript are told why."""
    if approval is not None:
        await tx.execute(store.sql.handle, approval.approval_id)
    await _append(tx, run, call, why)
    return message(call, why, failed=True)


async def _append(tx: Tx, run: Run, call: ToolCall, text: str) -> None:
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


async def note(tx: Tx, run: Run, call: ToolCall, kind: Kind, name: str, approval_id: UUID | None, **data: Any) -> None:
    """Write the audit entry; it comes last in its transaction."""
    body = {"tool_name": name, "tool_call_id": call["id"], "session_id": run.session_id, **data}
    await audit.record(tx, kind, actor=run.requester.user_id, subject=approval_id or str(call["id"]), data=body)


async def tell(tx: Tx, run: Run, kind: EventKind, **data: Any) -> None:
    await events.append(tx, run.session_id, kind, data, turn_id=run.turn_id, epoch=run.epoch)


async def tell_execution(
    tx: Tx, run: Run, call: ToolCall, kind: EventKind, name: str, approval_id: UUID | None, **data: Any
) -> None:
    shown = str(approval_id) if approval_id else None
    await tell(tx, run, kind, tool_call_id=call["id"], tool_name=name, approval_id=shown, **data)


def identity(tool: Tool | None) -> dict[str, Any]:
    """Whose rights the call uses beside its requester's word: a server's service account, never another person's."""
    if tool is None or tool.spec.server is None:
        return {}
    return {"server": tool.spec.server, "credentials": tool.spec.credentials}


def message(call: ToolCall, text: str, *, failed: bool) -> ToolMessage:
    return ToolMessage(text, tool_call_id=str(call["id"]), name=call["name"], status="error" if failed else "success")


def why_not(approval: Approval) -> str:
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
