"""MemoryService: an AgentService without a database or a model, for tests of the doors."""

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import rfc8785

from agent.approvals.grants import Remember
from agent.approvals.policy import Rule, check
from agent.approvals.types import (
    AlreadySettled,
    Approval,
    ApprovalExpired,
    ApprovalStatus,
    ChangedMeanwhile,
    Decision,
    Door,
    ExecutionStatus,
    InvalidArguments,
    NotAnApprover,
    Vote,
)
from agent.errors import Expired, Invalid, NotAllowed, NotFound
from agent.identities import Authenticated
from agent.service import Submitted, ToolView, TurnView
from agent.tokens import BadToken
from agent.tools.base import Source, ToolSpec, schema_hash, tool_id
from agent.tools.catalogue import ToolApproval
from agent.types import Event, EventKind, Message, Page, Principal, Role, Session, Turn, TurnStatus, Usage

ADMIN = Principal(UUID(int=1), "api-key", Role.ADMIN)
CALLING = "call "


class KeyReused(Invalid):
    code = "idempotency_key_reused"


class EmptyMessage(Invalid):
    code = "empty_message"


@dataclass
class Kept:
    """A session with what belongs to it."""

    session: Session
    messages: list[Message]
    turns: list[Turn]
    events: list[Event]


def spec(name: str, properties: dict[str, Any], *, description: str = "A tool.") -> ToolSpec:
    schema = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    digest = schema_hash(name, description, schema)
    return ToolSpec(
        tool_id(Source.DEMO, None, name), name, name, description, Source.DEMO, None, schema, digest, {"title": name}
    )


class MemoryService:
    """Answers at once by echoing; a message `call NAME ARG` waits for an approval, `wait` runs until told.

    `hold` keeps turns that start with "wait" running until it is set.
    """

    def __init__(self, *tools: ToolSpec) -> None:
        self.tools = {tool.tool_id: tool for tool in tools or (spec("restart", {"service": {"type": "string"}}),)}
        self.rules: dict[UUID, Rule] = {}
        self.kept: dict[UUID, Kept] = {}
        self.approvals: dict[UUID, Approval] = {}
        self.keys: dict[str, tuple[Turn, str | None]] = {}
        self.asked: dict[str, UUID] = {}
        self.hold = asyncio.Event()
        self.actor = ADMIN
        self.explode: Exception | None = None
        self.tokens: dict[str, Authenticated] = {}
        self.console_logins: list[tuple[bool, bool]] = []
        self._watchers: defaultdict[UUID, set[asyncio.Event]] = defaultdict(set)
        self._running: set[asyncio.Task[None]] = set()

    def api_key_principal(self) -> Principal:
        return self.actor

    async def authenticate(self, token: str) -> Authenticated:
        if (found := self.tokens.get(token)) is None or (found.expires_at and found.expires_at <= datetime.now(UTC)):
            raise BadToken
        return found

    # Sessions

    async def note_console_login(self, *, with_key: bool, let_in: bool, address: str) -> None:
        self.console_logins.append((with_key, let_in))

    async def create_session(
        self, *, by: Principal, title: str | None = None, expires_in_s: int | None = None, source: str = "rest"
    ) -> Session:
        now = datetime.now(UTC)
        until = None if expires_in_s is None else now + timedelta(seconds=expires_in_s)
        session = Session(uuid4(), by.user_id, title, source, now, until)
        self.kept[session.session_id] = Kept(session, [], [], [])
        return session

    async def list_sessions(self, *, by: Principal, limit: int = 50, cursor: str | None = None) -> Page[Session]:
        if self.explode:
            raise self.explode
        own = [kept.session for kept in self.kept.values() if kept.session.user_id == by.user_id]
        return _page(own[::-1], limit, cursor)

    async def read_session(self, session_id: UUID, *, by: Principal) -> Session:
        return self._find(session_id, by).session

    async def delete_session(self, session_id: UUID, *, by: Principal) -> None:
        self._find(session_id, by)
        del self.kept[session_id]
        self._wake(session_id)

    async def clear_messages(self, session_id: UUID, *, by: Principal) -> None:
        self._find(session_id, by).messages.clear()

    async def read_messages(
        self, session_id: UUID, *, by: Principal, limit: int = 200, cursor: str | None = None
    ) -> Page[Message]:
        return _page(self._find(session_id, by).messages, limit, cursor)

    # Turns

    async def submit_message(
        self,
        session: UUID,
        text: str,
        *,
        by: Principal,
        event_key: str | None = None,
        idempotency_digest: str | None = None,
    ) -> Submitted | None:
        kept = self._find(session, by)
        if not text.strip():
            raise EmptyMessage("The message is empty.")
        if event_key in self.keys:
            turn, digest = self.keys[event_key]
            if digest != idempotency_digest:
                raise KeyReused("This Idempotency-Key was used with another body: take a new key.")
            return Submitted(self._turn(turn.turn_id), is_new=False, waits=False)
        waits = any(turn.status is TurnStatus.AWAITING_APPROVAL for turn in kept.turns)
        turn = Turn(uuid4(), session, by.user_id, TurnStatus.QUEUED, text, None, None, Usage(), datetime.now(UTC), None)
        kept.turns.append(turn)
        if event_key:
            self.keys[event_key] = (turn, idempotency_digest)
        self._tell(turn, EventKind.TURN_QUEUED, text=text, waits=waits)
        if not waits:
            task = asyncio.create_task(self._advance(turn, by))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        return Submitted(turn, is_new=True, waits=waits)

    async def wait_turn(self, turn_id: UUID, *, timeout: float) -> TurnView:
        turn = self._turn(turn_id)
        try:
            async with asyncio.timeout(timeout), self.watch(turn.session_id) as news:
                while not self._stands(turn_id):
                    await news.wait()
                    news.clear()
        except TimeoutError:
            pass
        return self._view(turn_id)

    async def read_turn(self, session_id: UUID, turn_id: UUID, *, by: Principal) -> TurnView:
        if not any(turn.turn_id == turn_id for turn in self._find(session_id, by).turns):
            raise NotFound("There is no such turn in this session.")
        return self._view(turn_id)

    async def cancel_turn(self, session_id: UUID, *, by: Principal) -> Turn | None:
        for turn in self._find(session_id, by).turns:
            if not turn.status.is_final:
                return self._end(turn, TurnStatus.CANCELLED, EventKind.TURN_CANCELLED)
        return None

    # Events

    async def read_events(
        self, session_id: UUID, *, after: int = 0, limit: int = 500, by: Principal | None = None
    ) -> list[Event]:
        kept = self._find(session_id, by) if by else self.kept[session_id]
        return [event for event in kept.events if event.seq > after][:limit]

    async def last_seq(self, session_id: UUID, *, by: Principal) -> int:
        return len(self._find(session_id, by).events)

    @asynccontextmanager
    async def watch(self, session_id: UUID) -> AsyncIterator[asyncio.Event]:
        news = asyncio.Event()
        self._watchers[session_id].add(news)
        try:
            yield news
        finally:
            self._watchers[session_id].discard(news)

    # Approvals

    async def list_approvals(
        self, *, by: Principal, status: str = "pending", limit: int = 50, cursor: str | None = None
    ) -> Page[Approval]:
        found = [approval for approval in self.approvals.values() if approval.status == status]
        return _page(found, limit, cursor)

    async def read_approval(self, approval_id: UUID, *, by: Principal | None) -> Approval:
        if approval_id not in self.approvals:
            raise NotFound("There is no such approval.")
        return self.approvals[approval_id]

    async def decide_approval(
        self,
        approval_id: UUID,
        decision: Decision,
        *,
        by: Principal,
        reason: str | None = None,
        args: dict[str, Any] | None = None,
        expected_digest: str | None = None,
        door: Door | None = None,
        login_at: datetime | None = None,
        instead: str | None = None,
        remember: Remember | None = None,
    ) -> Approval:
        assert remember is None
        approval = await self.read_approval(approval_id, by=by)
        now = datetime.now(UTC)
        if by.role is Role.MEMBER:
            raise NotAnApprover("You are not among those who may decide this.")
        if approval.is_settled:
            name = approval.decided_by.username if approval.decided_by else "nobody"
            raise AlreadySettled(f"Already {approval.status} by {name}.", approval)
        if now >= approval.expires_at:
            raise ApprovalExpired("This approval has expired; ask the agent again.")
        if expected_digest is not None and not approval.args_digest.startswith(expected_digest):
            raise ChangedMeanwhile("The arguments were changed since you saw them; look at them again.")
        if args is not None:
            self._check_args(approval.tool_id, args)
            approval = replace(approval, args=args, args_digest=_digest(args))
        approved = decision is Decision.APPROVE
        settled = replace(
            approval,
            status=ApprovalStatus.APPROVED if approved else ApprovalStatus.REJECTED,
            execution=ExecutionStatus.SUCCEEDED if approved else ExecutionStatus.NONE,
            result=f"Done: {approval.args}" if approved else None,
            decided_by=by.person,
            decided_at=now,
            reason=reason,
            votes=(Vote(by.person, decision, reason, approval.args_digest, now),),
        )
        self.approvals[approval_id] = settled
        self._settled(settled)
        if instead is not None:
            await self.submit_message(settled.session_id, instead, by=by)
        return settled

    async def ask_approval(
        self,
        tool_id: UUID,
        args: dict[str, Any],
        *,
        by: Principal,
        session_id: UUID | None = None,
        reason: str | None = None,
        idempotency_key: str | None = None,
    ) -> Approval:
        if idempotency_key in self.asked:
            return self.approvals[self.asked[idempotency_key]]
        tool = (await self.read_tool(tool_id, by=by)).spec
        self._check_args(tool_id, args)
        if session_id is None:
            session_id = (await self.create_session(by=by, source="approval")).session_id
        approval = self._open(self._find(session_id, by).session, uuid4(), tool, args, by, reason)
        if idempotency_key:
            self.asked[idempotency_key] = approval.approval_id
        return approval

    # Tools

    async def list_tools(self, *, by: Principal) -> list[ToolView]:
        return [await self.read_tool(found, by=by) for found in self.tools]

    async def read_tool(self, tool_id: UUID, *, by: Principal) -> ToolView:
        if tool_id not in self.tools:
            raise NotFound("There is no such tool.")
        rule = self.rules.get(tool_id, Rule(auto_execute=False, approval_required=True))
        return ToolView(self.tools[tool_id], "available", rule.auto_execute, rule.approval_required)

    async def set_tool_approval(
        self, tool_id: UUID, rule: Rule, *, by: Principal, user_id: UUID | None = None
    ) -> ToolApproval:
        tool = (await self.read_tool(tool_id, by=by)).spec
        if by.role is not Role.ADMIN and user_id != by.user_id:
            raise NotAllowed("Only an admin may set the rule for others.")
        self.rules[tool_id] = check(rule)
        return ToolApproval(tool_id, tool.name, user_id, rule, datetime.now(UTC))

    # Inside

    def expire(self, session_id: UUID) -> None:
        kept = self.kept[session_id]
        kept.session = replace(kept.session, expires_at=datetime.now(UTC) - timedelta(seconds=1))

    def _find(self, session_id: UUID, by: Principal) -> Kept:
        kept = self.kept.get(session_id)
        if kept is None or (kept.session.user_id != by.user_id and by.role is not Role.ADMIN):
            raise NotFound("There is no such session.")
        until = kept.session.expires_at
        if until and until <= datetime.now(UTC):
            raise Expired("This session has expired: start a new one.")
        return kept

    async def _advance(self, turn: Turn, by: Principal) -> None:
        turn = self._change(turn, status=TurnStatus.RUNNING)
        self._tell(turn, EventKind.TURN_STARTED)
        self._say(turn, "user", turn.text)
        if turn.text.startswith("wait"):
            await self.hold.wait()
        if turn.text.startswith(CALLING):
            self._call(turn, by, turn.text.removeprefix(CALLING))
            return
        reply = f"You said: {turn.text}"
        self._say(turn, "assistant", reply)
        self._tell(turn, EventKind.ANSWER_DELTA, text=reply)
        self._end(turn, TurnStatus.COMPLETED, EventKind.TURN_COMPLETED, reply=reply)

    def _call(self, turn: Turn, by: Principal, wanted: str) -> None:
        name, _, value = wanted.partition(" ")
        tool = next(tool for tool in self.tools.values() if tool.name == name)
        args = dict.fromkeys(tool.input_schema["properties"], value)
        session = self.kept[turn.session_id].session
        approval = self._open(session, turn.turn_id, tool, args, by, None)
        self._say(turn, "assistant", "", calls=[{"id": approval.tool_call_id, "name": name, "args": args}])
        turn = self._change(turn, status=TurnStatus.AWAITING_APPROVAL)
        self._tell(turn, EventKind.TURN_WAITING, approval_ids=[str(approval.approval_id)])

    def _open(
        self, session: Session, turn_id: UUID, tool: ToolSpec, args: dict[str, Any], by: Principal, reason: str | None
    ) -> Approval:
        now = datetime.now(UTC)
        approval = Approval(
            approval_id=uuid4(),
            session_id=session.session_id,
            turn_id=turn_id,
            tool_call_id=f"call_{len(self.approvals) + 1}",
            tool_id=tool.tool_id,
            tool_name=tool.name,
            schema_hash=tool.schema_hash,
            args=args,
            args_digest=_digest(args),
            args_proposed=args,
            requested_by=by.person,
            requested_reason=reason,
            status=ApprovalStatus.PENDING,
            execution=ExecutionStatus.NONE,
            result=None,
            quorum=1,
            four_eyes=False,
            approvers=None,
            decided_by=None,
            decided_at=None,
            reason=None,
            expires_at=now + timedelta(hours=24),
            created_at=now,
        )
        self.approvals[approval.approval_id] = approval
        return approval

    def _settled(self, approval: Approval) -> None:
        kept = self.kept.get(approval.session_id)
        turn = next((t for t in kept.turns if t.turn_id == approval.turn_id), None) if kept else None
        if turn is None or turn.status.is_final:
            return
        result = approval.result or f"Rejected: {approval.reason or 'no reason given'}"
        self._tell(turn, EventKind.APPROVAL_CHANGED, approval_id=str(approval.approval_id), status=approval.status)
        self._say(turn, "tool", result, call=approval.tool_call_id)
        self._say(turn, "assistant", f"It was {approval.status}.")
        self._end(turn, TurnStatus.COMPLETED, EventKind.TURN_COMPLETED, reply=f"It was {approval.status}.")

    def _check_args(self, tool_id: UUID, args: dict[str, Any]) -> None:
        if set(args) != set(self.tools[tool_id].input_schema["properties"]):
            raise InvalidArguments("The arguments don't fit the tool's schema.")

    def _turn(self, turn_id: UUID) -> Turn:
        return next(turn for kept in self.kept.values() for turn in kept.turns if turn.turn_id == turn_id)

    def _view(self, turn_id: UUID) -> TurnView:
        pending = [a for a in self.approvals.values() if a.turn_id == turn_id and not a.is_settled]
        return TurnView(self._turn(turn_id), pending)

    def _stands(self, turn_id: UUID) -> bool:
        turn = self._turn(turn_id)
        if turn.status is TurnStatus.QUEUED:
            return any(t.status is TurnStatus.AWAITING_APPROVAL for t in self.kept[turn.session_id].turns)
        return turn.status.is_final or turn.status is TurnStatus.AWAITING_APPROVAL

    def _change(self, turn: Turn, **changes: Any) -> Turn:
        turns = self.kept[turn.session_id].turns
        index = next(i for i, kept in enumerate(turns) if kept.turn_id == turn.turn_id)
        turns[index] = replace(turns[index], **changes)
        return turns[index]

    def _end(self, turn: Turn, status: TurnStatus, kind: EventKind, **data: Any) -> Turn:
        ended = self._change(
            turn, status=status, finished_at=datetime.now(UTC), usage=Usage(12, 3, 0, 1), reply=data.get("reply")
        )
        self._tell(ended, kind, **data)
        return ended

    def _say(
        self, turn: Turn, role: str, content: str, *, calls: list[dict[str, Any]] | None = None, call: str | None = None
    ) -> None:
        message = Message(uuid4(), turn.turn_id, role, content, datetime.now(UTC), calls or [], call)
        self.kept[turn.session_id].messages.append(message)

    def _tell(self, turn: Turn, kind: EventKind, **data: Any) -> None:
        events = self.kept[turn.session_id].events
        body = {"turn_id": str(turn.turn_id), **data}
        events.append(Event(turn.session_id, len(events) + 1, kind, body, datetime.now(UTC)))
        self._wake(turn.session_id)

    def _wake(self, session_id: UUID) -> None:
        for news in self._watchers[session_id]:
            news.set()


def _digest(args: dict[str, Any]) -> str:
    return hashlib.sha256(rfc8785.dumps(args)).hexdigest()


def _page(items: list[Any], limit: int, cursor: str | None) -> Page[Any]:
    start = int(cursor or 0)
    more = start + limit < len(items)
    return Page(items[start : start + limit], str(start + limit) if more else None)
