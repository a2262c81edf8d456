"""The worker's side of questions: a running call asks its requester, and waits holding no connection."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Any
from uuid import UUID, uuid4

import anyio
import structlog
from langchain_core.messages import ToolCall

from agent import audit, events, sessions
from agent.clock import Clock
from agent.events import Hub
from agent.progress import Progress
from agent.questions import form, store
from agent.questions.form import Unaskable
from agent.questions.types import Answer, QuestionStatus
from agent.run import Limits, Run
from agent.tools.base import ToolSpec
from agent.tools.redaction import redacted
from agent.types import EventKind
from db.database import Database, Fenced

log = structlog.get_logger()

_CLOSING_S = 5.0
_CANCELLED = Answer(QuestionStatus.CANCELLED)


class Asking:
    """What all calls of a process share: how many of its threads may wait for answers at the same time.

    A waiting call keeps its thread's place in the worker; `room` leaves the others to threads that work.
    """

    def __init__(
        self, database: Database, hub: Hub, limits: Limits, *, room: int, redact: tuple[str, ...] = ()
    ) -> None:
        self.database = database
        self.hub = hub
        self.limits = limits
        self.redact = redact
        self.stopping = asyncio.Event()
        self._room = room
        self._waiting: Counter[UUID] = Counter()

    def drain(self) -> None:
        """End all waiting: the tools hear that nobody answers, so their calls can still end in good order."""
        self.stopping.set()

    def enter(self, session_id: UUID) -> bool:
        """Take a place for a thread that waits; False where too many do."""
        if session_id not in self._waiting and len(self._waiting) >= self._room:
            log.warning("question.no_room", waiting=len(self._waiting))
            return False
        self._waiting[session_id] += 1
        return True

    def leave(self, session_id: UUID) -> None:
        self._waiting[session_id] -= 1
        if not self._waiting[session_id]:
            del self._waiting[session_id]


class CallHost:
    """What one running call may ask of its requester, and tell people meanwhile."""

    def __init__(self, asking: Asking, run: Run, call: ToolCall, spec: ToolSpec) -> None:
        self._asking = asking
        self._run = run
        self._call_id = str(call["id"])
        self._spec = spec
        self._progress = Progress(asking.database, run, self._call_id, spec.name)
        self._in_turn = asyncio.Lock()
        self._notes: dict[str, None] = {}
        self.clock = Clock(run.clock)
        self.asked = 0

    def tell(self, progress: float, total: float | None, message: str | None) -> None:
        if message is not None:
            message = self._redacted(message[:1_000])
        self._progress.tell(progress, total, message)

    def note(self, sentence: str) -> None:
        self._notes[sentence] = None

    def with_notes(self, text: str) -> str:
        """Return a result's text behind what people and the model must know of how it came about."""
        return "\n".join([*(f"({note})" for note in self._notes), text])

    async def end(self) -> None:
        await self._progress.end()

    async def ask(self, message: str, schema: Mapping[str, Any]) -> Answer:
        asking, limits = self._asking, self._asking.limits
        if self.asked >= limits.questions:
            self.note(f"The tool wanted to ask more than {limits.questions} questions; the others were not asked.")
            return _CANCELLED
        self.asked += 1
        try:
            shape = form.read(schema)
        except Unaskable as error:
            self.note(f"The tool asked for a form that {error}; it was not shown to anybody.")
            return _CANCELLED
        shown = form.shown(self._redacted(message[: 2 * form.MESSAGE_LIMIT]), form.MESSAGE_LIMIT)
        with self.clock.stopped():
            async with self._in_turn:  # one form at a time, whatever the tool does
                if asking.stopping.is_set() or not asking.enter(self._run.session_id):
                    self.note("The tool's question was not asked: too many calls wait for answers. Try again later.")
                    return _CANCELLED
                try:
                    return await self._ask(shown, shape)
                finally:
                    asking.leave(self._run.session_id)

    def _redacted(self, text: str) -> str:
        return redacted(text, (*self._asking.redact, *self._spec.redact))

    async def _ask(self, message: str, shape: dict[str, Any]) -> Answer:
        question_id = uuid4()
        async with self._asking.hub.watch(self._run.session_id, EventKind.QUESTION_SETTLED) as changed:
            try:
                await self._open(question_id, message, shape)
                status = await self._wait(question_id, changed)
            except asyncio.CancelledError:
                with anyio.CancelScope(shield=True):
                    await self._withdraw(question_id)
                raise
        if status is QuestionStatus.EXPIRED:
            minutes = f"{self._asking.limits.question_s / 60:g}"
            self.note(f"The tool asked its requester something, and there was no answer within {minutes} minutes.")
        elif status is QuestionStatus.DECLINED:
            self.note("The tool asked its requester something, and they declined to answer.")
        elif status is QuestionStatus.CANCELLED:
            self.note("The tool's question was withdrawn before anybody answered.")
        content = await self._take(question_id) if status is QuestionStatus.ANSWERED else None
        return Answer(status, content) if content is not None or status is not QuestionStatus.ANSWERED else _CANCELLED

    async def _open(self, question_id: UUID, message: str, shape: dict[str, Any]) -> None:
        run, spec = self._run, self._spec
        async with self._asking.database.transaction() as tx:
            await sessions.fence(tx, run.session_id, run.epoch)
            await tx.execute(
                store.sql.insert,
                question_id,
                run.session_id,
                run.turn_id,
                self._call_id,
                spec.name,
                spec.server,
                message,
                shape,
                run.requester.user_id,
                float(self._asking.limits.question_s),
            )
            named = {"tool_call_id": self._call_id, "tool_name": spec.name, "server": spec.server}
            await events.append(
                tx,
                run.session_id,
                EventKind.QUESTION_OPENED,
                {"question_id": str(question_id), **named},
                turn_id=run.turn_id,
                epoch=run.epoch,
            )
            await audit.record(
                tx, audit.Kind.QUESTION_OPENED, actor=run.requester.user_id, subject=question_id, data=named
            )

    async def _wait(self, question_id: UUID, changed: asyncio.Event) -> QuestionStatus:
        """Return how the question was settled; at the end of its time, settle it."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._asking.limits.question_s
        while True:
            changed.clear()
            async with self._asking.database.connection() as connection:
                status = QuestionStatus(await connection.fetchval(store.sql.status, question_id))
            if status is not QuestionStatus.OPEN:
                return status
            if self._asking.stopping.is_set():
                await self._settle(question_id, QuestionStatus.CANCELLED)
            elif loop.time() >= deadline:
                await self._settle(question_id, QuestionStatus.EXPIRED)
            else:
                await self._news(changed, deadline - loop.time())

    async def _news(self, changed: asyncio.Event, seconds: float) -> None:
        waits = [asyncio.ensure_future(changed.wait()), asyncio.ensure_future(self._asking.stopping.wait())]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _withdraw(self, question_id: UUID) -> None:
        """Close what the tool withdrew, or whose turn was stopped."""
        try:
            async with asyncio.timeout(_CLOSING_S):
                await self._settle(question_id, QuestionStatus.CANCELLED)
        except Fenced:
            pass
        except Exception as error:  # noqa: BLE001 - one delivery; the turn's end, or who takes the call up, closes it
            log.warning("question.not_withdrawn", question_id=str(question_id), error=type(error).__name__)

    async def _settle(self, question_id: UUID, status: QuestionStatus) -> None:
        """Settle it unless somebody else was first: an answer that came in time counts."""
        run = self._run
        async with self._asking.database.transaction() as tx:
            await sessions.fence(tx, run.session_id, run.epoch)
            if await store.settle(tx, question_id, status):
                await store.tell_settled(tx, run.session_id, run.turn_id, question_id, status, epoch=run.epoch)
                await store.note_settled(tx, question_id, status)

    async def _take(self, question_id: UUID) -> dict[str, Any] | None:
        async with self._asking.database.transaction() as tx:
            await sessions.fence(tx, self._run.session_id, self._run.epoch)
            return await tx.fetchval(store.sql.take, question_id)
