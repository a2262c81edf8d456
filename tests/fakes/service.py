"""An AgentService in memory, for tests of a door: stores, dedupes, refuses, leases and counts, without a database."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from agent.approvals import grants, life, store
from agent.approvals.grants import Remember
from agent.approvals.types import (
    Action,
    AlreadySettled,
    Approval,
    ApprovalStatus,
    ChangedMeanwhile,
    Decision,
    Door,
    ExecutionStatus,
    InvalidArguments,
    NotAnApprover,
    Seen,
    Vote,
)
from agent.deliveries import Delivery, Post
from agent.errors import NotFound, Refusal
from agent.questions import form
from agent.questions.types import NotAsked, Question, QuestionNotFound, QuestionSettled, QuestionStatus, WrongAnswer
from agent.remembering import Offer
from agent.service import ToolView
from agent.tools.arguments import validate
from agent.tools.base import Source, ToolSpec
from agent.types import Address, ChatUser, Event, EventKind, Person, Principal, Role, ThreadKey

_PROMPT_RETRIES = 10
"""So many retries come at once; a later one would come after the presenter's own sweep."""
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"service": {"type": "string"}}, "required": ["service"]}
NOW = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
HOUR = 3600


@dataclass(frozen=True, slots=True)
class Submission:
    """A message that was stored."""

    session_id: UUID
    text: str
    by: ChatUser
    event_key: str
    message_key: str
    address: Address


@dataclass
class FakeSession:
    """A session's events, its address, and how far its door has come."""

    session_id: UUID
    address: Address
    events: list[Event] = field(default_factory=list[Event])
    delivered_seq: int = 0
    owner: UUID | None = None
    attempts: int = 0
    postponed: float | None = None
    cleared_to: int = 0
    posts: dict[str, Post] = field(default_factory=dict[str, Post])


def approval(**changes: Any) -> Approval:
    """A pending approval of `restart`, asked for by Alice."""
    args = changes.pop("args", {"service": "web"})
    made = Approval(
        approval_id=uuid4(),
        session_id=uuid4(),
        turn_id=uuid4(),
        tool_call_id="call_1",
        tool_id=uuid4(),
        tool_name="restart",
        schema_hash="f" * 64,
        args=args,
        args_digest="0123456789abcdef" * 4,
        args_proposed=args,
        requested_by=Person(uuid4(), "alice", "Alice", "U0ALICE"),
        requested_reason=None,
        status=ApprovalStatus.PENDING,
        execution=ExecutionStatus.NONE,
        result=None,
        quorum=1,
        four_eyes=False,
        approvers=None,
        decided_by=None,
        decided_at=None,
        reason=None,
        expires_at=NOW + timedelta(hours=1),
        created_at=NOW,
    )
    return replace(made, **changes)


def question(**changes: Any) -> Question:
    """An open question of `deploy`, asked of Alice."""
    properties: dict[str, Any] = changes.pop("properties", {"region": {"type": "string"}})
    shape = {"type": "object", "properties": properties, "required": changes.pop("required", [])}
    made = Question(
        question_id=uuid4(),
        session_id=uuid4(),
        turn_id=uuid4(),
        tool_call_id="call_1",
        tool_name="deploy",
        server="cluster",
        message="Where to?",
        schema=form.read(shape),
        asked_of=Person(uuid4(), "alice", "Alice", "U0ALICE"),
        status=QuestionStatus.OPEN,
        settled_by=None,
        settled_at=None,
        expires_at=NOW + timedelta(minutes=10),
        created_at=NOW,
    )
    return replace(made, **changes)


class FakeService:
    """What the Slack door asks of the service. `down` makes every call fail as a lost database does."""

    def __init__(self, *, approvers: tuple[str, ...] = ("U0BOB", "U0CAROL", "U0ADMIN")) -> None:
        self.approvers = approvers
        self.down = False
        self.refusals: dict[str, Refusal] = {}
        self.submitted: list[Submission] = []
        self.decisions: list[tuple[UUID, Decision, ChatUser]] = []
        self.verbs: list[tuple[Any, ...]] = []
        """What befell approvals beside decisions: the verb, the approval, who, and what they said."""
        self.also: list[str | Remember] = []
        self.admin = "U0ADMIN"
        self.schema, self.schema_hash = SCHEMA, "f" * 64
        self.cancelled: list[UUID] = []
        self.shown: list[tuple[UUID, str, str, str, ChatUser | None]] = []
        self.sessions: dict[UUID, FakeSession] = {}
        self.approvals: dict[UUID, Approval] = {}
        self.questions: dict[UUID, Question] = {}
        self.answers: list[tuple[UUID, dict[str, Any] | None, str]] = []
        self.crash_before_record: set[str] = set()
        self.renewable = True
        self.gates: dict[str, asyncio.Event] = {}
        """A message with this text is stored only once its gate is set."""
        self._doors: list[asyncio.Queue[UUID | None]] = []

    def _reach(self) -> None:
        if self.down:
            raise ConnectionError("the database is gone")

    # ---- messages -------------------------------------------------------------------------------------------------

    async def submit_message(
        self,
        session: ThreadKey,
        text: str,
        *,
        by: ChatUser,
        event_key: str,
        message_key: str,
        address: Address,
        start: bool = True,
    ) -> Submission | None:
        self._reach()
        if text in self.gates:
            await self.gates[text].wait()
        if by.user in self.refusals:
            raise self.refusals[by.user]
        known = [s for s in self.submitted if event_key == s.event_key or message_key == s.message_key]
        if known:
            return known[0]
        if session.session_id not in self.sessions and not start:
            return None
        self.sessions.setdefault(session.session_id, FakeSession(session.session_id, address))
        made = Submission(session.session_id, text, by, event_key, message_key, address)
        self.submitted.append(made)
        return made

    async def principal_of_chat(self, user: ChatUser) -> Principal:
        self._reach()
        return Principal(uuid4(), user.user.lower(), Role.MEMBER, user.team, user.user, user.external)

    async def cancel_turn(self, session_id: UUID, *, by: Principal) -> None:
        self._reach()
        if session_id not in self.sessions:
            raise NotFound("There is no such session.")
        self.cancelled.append(session_id)

    # ---- approvals ------------------------------------------------------------------------------------------------

    def open(self, session_id: UUID, **changes: Any) -> Approval:
        """Have the session ask for an approval."""
        made = approval(session_id=session_id, **changes)
        self.approvals[made.approval_id] = made
        self.append(session_id, EventKind.APPROVAL_OPENED, approval_id=str(made.approval_id))
        return made

    def change(self, approval_id: UUID, kind: EventKind = EventKind.APPROVAL_CHANGED, **changes: Any) -> Approval:
        """Store the approval changed, with the event that tells it."""
        changed = replace(self.approvals[approval_id], **changes)
        self.approvals[approval_id] = changed
        self.append(changed.session_id, kind, approval_id=str(approval_id))
        return changed

    async def read_approval(self, approval_id: UUID, *, by: Principal | None) -> Approval:
        self._reach()
        if approval_id not in self.approvals:
            raise NotFound("There is no such approval.")
        return self.approvals[approval_id]

    async def read_tool(self, tool_id: UUID, *, by: Principal) -> ToolView:
        """Every tool is `restart`, and takes what `schema` says."""
        self._reach()
        spec = ToolSpec(tool_id, "restart", "restart", "Restarts.", Source.DEMO, None, self.schema, self.schema_hash)
        return ToolView(spec, "available", auto_execute=False, approval_required=True)

    async def decide_approval(
        self,
        approval_id: UUID,
        decision: Decision,
        *,
        by: ChatUser,
        reason: str | None = None,
        args: dict[str, Any] | None = None,
        expected_digest: str | None = None,
        within: UUID | None = None,
        door: Door | None = None,
        instead: str | None = None,
        remember: Remember | None = None,
    ) -> Approval:
        found = await self.read_approval(approval_id, by=None)
        if within not in (None, found.session_id):
            raise NotFound("There is no such approval.")
        if by.external or by.user not in self.approvers:
            raise NotAnApprover("Only an approver may decide this.")
        if found.is_settled:
            raise AlreadySettled(f"Already {found.status}.", found)
        if expected_digest and not found.args_digest.rpartition(":")[2].startswith(expected_digest):
            raise ChangedMeanwhile("The arguments were changed since you saw them; look at them again.")
        changes: dict[str, Any] = {}
        if args is not None:
            if wrong := validate((await self.read_tool(found.tool_id, by=await self.principal_of_chat(by))).spec, args):
                raise InvalidArguments(wrong)
            changes = {"args": args, "args_digest": store.digest(store.canonical(args))}
        who = Person(uuid4(), by.user[2:].lower(), None, by.user)
        assert door is Door.SLACK, "a door says which one it is"
        if remember is not None:
            grants.schema(found.args, remember.args, widens=by.user == self.admin)
        self.decisions.append((approval_id, decision, by))
        self.also += [said for said in (instead, remember) if said is not None]
        vote = Vote(who, decision, reason, changes.get("args_digest", found.args_digest), NOW)
        votes = (*found.votes, vote)
        if decision is Decision.REJECT or len(votes) >= found.quorum:
            status = ApprovalStatus.APPROVED if decision is Decision.APPROVE else ApprovalStatus.REJECTED
            changes |= {"status": status, "decided_by": who, "decided_at": NOW, "reason": reason}
        return self.change(approval_id, votes=votes, **changes)

    async def withdraw_vote(self, approval_id: UUID, *, by: ChatUser, seen: Seen) -> Approval:
        found = self._befalls("withdraw", approval_id, by, seen)
        votes = tuple(vote for vote in found.votes if vote.by.chat_user != by.user)
        if len(votes) == len(found.votes):
            raise life.NoVote("You have no vote on this that you could take back.")
        return self.change(approval_id, votes=votes)

    async def cancel_approval(self, approval_id: UUID, *, by: ChatUser, seen: Seen) -> Approval:
        if by.user != self.approvals[approval_id].requested_by.chat_user:
            raise life.NotYours("Only whoever asked for it, or an admin, may cancel this.")
        self._befalls("cancel", approval_id, by, seen)
        return self.change(approval_id, status=ApprovalStatus.CANCELLED)

    async def extend_approval(self, approval_id: UUID, expires_in_s: int, *, by: ChatUser, seen: Seen) -> Approval:
        self._stands(by)
        if expires_in_s <= HOUR:
            raise life.NotLonger("It has time until then already: ask for more than that.")
        self._befalls("extend", approval_id, by, seen, expires_in_s)
        return self.change(approval_id, expires_at=NOW + timedelta(seconds=expires_in_s))

    async def reassign_approval(self, approval_id: UUID, approvers: list[str], *, by: ChatUser, seen: Seen) -> Approval:
        self._stands(by)
        if not approvers:
            raise life.BadApprovers("Name 1 to 100 approvers.")
        self._befalls("reassign", approval_id, by, seen, approvers)
        return self.change(approval_id, approvers=tuple(approvers))

    async def resolve_approval(
        self,
        approval_id: UUID,
        action: Action,
        *,
        by: ChatUser,
        reason: str | None = None,
        result: str | None = None,
        door: Door,
        seen: Seen,
    ) -> Approval:
        assert door is Door.SLACK, "a door says which one it is"
        self._stands(by)
        self._befalls("resolve", approval_id, by, seen, (action, reason, result))
        ended = {Action.DONE: ExecutionStatus.SUCCEEDED, Action.FAILED: ExecutionStatus.FAILED}
        return self.change(approval_id, execution=ended.get(action, ExecutionStatus.RUNNING))

    async def offer_to_remember(self, approval_id: UUID, *, by: ChatUser) -> Offer:
        found = self.approvals[approval_id]
        is_own = by.user == found.requested_by.chat_user
        scopes = (grants.Scope.THREAD, grants.Scope.ME) if is_own else (grants.Scope.THREAD,)
        return Offer(8 * HOUR, scopes, grants.exactly(found.args), may_widen=by.user == self.admin)

    async def revoke_grant(self, grant_id: UUID, *, by: ChatUser, shown_on: UUID, seen: Seen) -> None:
        found = self._befalls("revoke", shown_on, by, seen, grant_id)
        assert found.sparing is not None
        self.change(shown_on, EventKind.GRANT_REVOKED, sparing=replace(found.sparing, revoked_at=NOW))

    def _stands(self, by: ChatUser) -> None:
        if by.external or by.user not in self.approvers:
            raise NotAnApprover("Only an approver may do this.")

    def _befalls(self, verb: str, approval_id: UUID, by: ChatUser, seen: Seen, *said: Any) -> Approval:
        self._reach()
        found = self.approvals.get(approval_id)
        if found is None or found.session_id != seen.session_id:
            raise NotFound("There is no such approval.")
        if seen.digest and not found.args_digest.startswith(seen.digest):
            raise ChangedMeanwhile("The arguments were changed since you saw them; look at them again.")
        self.verbs.append((verb, approval_id, by.user, *said))
        return found

    # ---- questions ------------------------------------------------------------------------------------------------

    def ask(self, session_id: UUID, **changes: Any) -> Question:
        """Have a tool of the session ask something."""
        made = question(session_id=session_id, **changes)
        self.questions[made.question_id] = made
        self.append(session_id, EventKind.QUESTION_OPENED, question_id=str(made.question_id))
        return made

    def settle(self, question_id: UUID, status: QuestionStatus, by: str | None = None) -> Question:
        who = Person(uuid4(), by, None, by) if by else None
        changed = replace(self.questions[question_id], status=status, settled_by=who, settled_at=NOW)
        self.questions[question_id] = changed
        self.append(changed.session_id, EventKind.QUESTION_SETTLED, question_id=str(question_id), status=status.value)
        return changed

    async def read_question(self, question_id: UUID, *, by: Principal | None) -> Question:
        self._reach()
        if question_id not in self.questions:
            raise QuestionNotFound
        return self.questions[question_id]

    async def question_to_answer(self, question_id: UUID, *, by: ChatUser) -> Question:
        found = await self.read_question(question_id, by=None)
        if by.user != found.asked_of.chat_user:
            raise NotAsked("Only Alice is asked this, since the tool runs for them.")
        if not found.is_open:
            raise QuestionSettled(f"This question is {found.status} already.")
        return found

    async def answer_question(self, question_id: UUID, content: dict[str, Any], *, by: ChatUser) -> Question:
        found = await self.question_to_answer(question_id, by=by)
        if wrong := form.check(found.schema, content):
            raise WrongAnswer(wrong)
        self.answers.append((question_id, content, by.user))
        return self.settle(question_id, QuestionStatus.ANSWERED, by.user)

    async def decline_question(self, question_id: UUID, *, by: ChatUser) -> Question:
        await self.question_to_answer(question_id, by=by)
        self.answers.append((question_id, None, by.user))
        return self.settle(question_id, QuestionStatus.DECLINED, by.user)

    async def note_shown(
        self, approval_id: UUID, *, door: str, form: str, args_digest: str, rendered_digest: str, to: ChatUser | None
    ) -> None:
        self._reach()
        seen = (approval_id, form, args_digest, rendered_digest, to)
        if seen not in self.shown:
            self.shown.append(seen)

    # ---- events and deliveries ------------------------------------------------------------------------------------

    def session(self, channel: str, thread_ts: str, team: str = "T0OPS") -> UUID:
        """Have a session of that thread."""
        address = Address("slack", {"channel": channel, "thread_ts": thread_ts})
        made = FakeSession(ThreadKey(team, channel, thread_ts).session_id, address)
        self.sessions[made.session_id] = made
        return made.session_id

    def append(self, session_id: UUID, kind: EventKind, *, quietly: bool = False, **data: Any) -> Event:
        """Append an event; `quietly` leaves it to a sweep to find it."""
        session = self.sessions[session_id]
        event = Event(session_id, len(session.events) + 1, kind, data, NOW)
        session.events.append(event)
        if not quietly:
            for queue in self._doors:
                queue.put_nowait(session_id)
        return event

    def delivered(self, session_id: UUID) -> bool:
        session = self.sessions[session_id]
        return session.delivered_seq == len(session.events) and session.owner is None

    async def read_events(self, session_id: UUID, *, after: int = 0, limit: int = 500) -> list[Event]:
        self._reach()
        session = self.sessions[session_id]
        return [e for e in session.events if e.seq > max(after, session.cleared_to)][:limit]

    def clear(self, session_id: UUID) -> None:
        """Have its owner clear the session's history, also what no door has rendered yet."""
        self.sessions[session_id].cleared_to = len(self.sessions[session_id].events)

    async def lease_deliveries(
        self, door: str, owner: UUID, *, limit: int = 20, only: UUID | None = None
    ) -> list[Delivery]:
        self._reach()
        free = [s for s in self.sessions.values() if s.address.door == door and s.owner is None]
        due = [s for s in free if s.delivered_seq < len(s.events) and only in (None, s.session_id)][:limit]
        for session in due:
            session.owner = owner
        return [Delivery(s.session_id, s.address, s.delivered_seq, s.attempts) for s in due]

    async def renew_delivery(self, session_id: UUID, owner: UUID) -> bool:
        self._reach()
        return self.renewable and self.sessions[session_id].owner == owner

    async def finish_delivery(self, session_id: UUID, owner: UUID, *, delivered_seq: int) -> bool:
        self._reach()
        session = self.sessions[session_id]
        session.delivered_seq = max(session.delivered_seq, delivered_seq)
        if session.owner != owner:
            return False
        if session.delivered_seq < len(session.events):
            return True
        session.owner, session.attempts = None, 0
        return False

    async def retry_delivery(self, session_id: UUID, owner: UUID, *, delivered_seq: int, after_s: float) -> None:
        self._reach()
        session = self.sessions[session_id]
        session.delivered_seq = max(session.delivered_seq, delivered_seq)
        if session.owner == owner:
            session.owner, session.attempts, session.postponed = None, session.attempts + 1, after_s
            for queue in self._doors if session.attempts < _PROMPT_RETRIES else ():
                queue.put_nowait(None)

    async def begin_post(self, session_id: UUID, key: str, digest: str) -> Post:
        self._reach()
        posts = self.sessions[session_id].posts
        if key in posts:
            return replace(posts[key], begun_before=True)
        posts[key] = Post(key, None, digest, begun_before=False)
        return posts[key]

    async def record_post(self, session_id: UUID, key: str, ref: dict[str, Any], digest: str) -> None:
        self._reach()
        if key in self.crash_before_record:
            self.crash_before_record.discard(key)
            raise RuntimeError("crashed before the post was recorded")
        self.sessions[session_id].posts[key] = Post(key, ref, digest)

    async def find_post(self, session_id: UUID, key: str) -> Post | None:
        self._reach()
        return self.sessions[session_id].posts.get(key)

    @contextlib.asynccontextmanager
    async def watch_door(self, door: str) -> AsyncIterator[asyncio.Queue[UUID | None]]:
        queue: asyncio.Queue[UUID | None] = asyncio.Queue()
        self._doors.append(queue)
        try:
            yield queue
        finally:
            self._doors.remove(queue)
