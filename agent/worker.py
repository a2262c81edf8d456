"""What runs turns: `advance(session_id)` empties one thread's mail; the sweeps beside it leave nothing behind."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog
from langchain_core.messages import AIMessage, HumanMessage, ToolCall, ToolMessage
from langgraph.errors import GraphDrained
from langgraph.runtime import RunControl
from langgraph.types import Overwrite

from agent import sessions, throttle, transcript, turns, users
from agent.approvals import store
from agent.endings import Endings
from agent.graph.build import build
from agent.graph.nodes import Nodes
from agent.house import OutsidersMayNotChat
from agent.models.errors import ModelError
from agent.ports import DirectoryUnavailable, ProfileDirectory
from agent.reminders import Reminders
from agent.run import Limits, Run
from agent.toolcalls import ToolCalls, Waiting
from agent.turns import OpenTurn
from agent.types import EventKind, TurnStatus, Usage
from db import dispatch
from db.checkpoints import LeanSaver, Pool
from db.database import Database, Fenced, Tx

log = structlog.get_logger()

_TROUBLE = "Something went wrong on our side, and trying again didn't help. It is logged under {turn_id}."


@dataclass(slots=True)
class _Hand:
    """The turn that this process has in hand for a thread."""

    turn_id: UUID
    task: asyncio.Task[Any]
    cancelled: bool = False


class TurnWorker:
    """Advances threads. All state is in the database: any worker can go on where another stopped."""

    def __init__(
        self,
        database: Database,
        pool: Pool,
        nodes: Nodes,
        calls: ToolCalls,
        endings: Endings,
        *,
        limits: Limits,
        profiles: ProfileDirectory | None,
        outsiders_may_chat: bool = False,
    ) -> None:
        self._database = database
        self._pool = pool
        self._graph = build(nodes)
        self._calls = calls
        self._endings = endings
        self._limits = limits
        self._profiles = profiles
        self._outsiders_may_chat = outsiders_may_chat
        self._in_hand: dict[UUID, _Hand] = {}
        self._controls: set[RunControl] = set()
        self._cancels: set[asyncio.Task[None]] = set()
        self._draining = False

    def drain(self) -> None:
        """Start no further step: turns in hand stop at their next checkpoint, for another worker to go on."""
        self._draining = True
        self._calls.drain()
        for control in self._controls:
            control.request_drain()

    def cancel_requested(self, session_id: UUID | None) -> None:
        """Stop a turn in hand that was cancelled, or deleted with its session; None: look at all of them."""
        for in_hand_of, hand in list(self._in_hand.items()):
            if session_id in (None, in_hand_of):
                task = asyncio.get_running_loop().create_task(self._cancel(hand))
                self._cancels.add(task)  # the loop itself holds tasks only weakly
                task.add_done_callback(self._cancels.discard)

    async def _cancel(self, hand: _Hand) -> None:
        async with self._database.connection() as connection:
            if await connection.fetchval(turns.sql.is_over, hand.turn_id):
                hand.cancelled = True
                hand.task.cancel()

    async def advance(self, session_id: UUID) -> None:
        """Empty the thread's mail, in order, until there is none or people must decide."""
        epoch: int | None = None
        try:
            while not self._draining:
                if epoch is not None and not await self._has_mail(session_id):
                    return
                async with self._database.transaction() as tx:
                    # The job's first statement: from here on the one who had the thread before writes nothing of it.
                    if epoch is not None:
                        await sessions.fence(tx, session_id, epoch)
                    elif (epoch := await sessions.raise_epoch(tx, session_id)) is None:
                        return
                    found = await self._next(tx, session_id, epoch)
                if found is None:
                    return
                if not await self._take(found, epoch):
                    return
        except Fenced:
            log.info("worker.fenced", session_id=str(session_id))
            return
        await self._hand_over(session_id)

    async def _has_mail(self, session_id: UUID) -> bool:
        """Whether there is more to do. What comes behind this look brings a job of its own."""
        async with self._database.connection() as connection:
            return await connection.fetchval(turns.sql.has_open, session_id)

    async def _hand_over(self, session_id: UUID) -> None:
        """Wake the thread for whoever works after us."""
        async with self._database.transaction() as tx:
            await tx.execute(sessions.sql.lock, session_id)
            await dispatch.wake(tx, session_id)

    async def _next(self, tx: Tx, session_id: UUID, epoch: int) -> OpenTurn | None:
        """Choose what to do under the thread's lock: go on with the turn in hand, or start the oldest mail."""
        while found := await turns.open_of_session(tx, session_id):
            turn = found[0].turn
            if found[0].cancel_requested:
                await self._endings.cancelled(tx, turn, epoch=epoch)
                continue
            if turn.status is TurnStatus.AWAITING_APPROVAL and not found[0].is_decided:
                return None
            if found[0].attempts >= self._limits.attempts:
                error = _TROUBLE.format(turn_id=turn.turn_id)
                await self._endings.failed(tx, turn, error, epoch=epoch)
                continue
            if await tx.fetchval(turns.sql.start, turn.turn_id) is None:
                return None
            if turn.status is TurnStatus.QUEUED:
                await self._begin(tx, found[0], epoch)
            return found[0]
        return None

    async def _begin(self, tx: Tx, found: OpenTurn, epoch: int) -> None:
        turn = found.turn
        if found.kind == "message":
            await transcript.append(
                tx, turn.session_id, message_id=turn.turn_id, turn_id=turn.turn_id, role="user", content=turn.text
            )
        await self._endings.tell(tx, turn, EventKind.TURN_STARTED, epoch=epoch)

    async def _take(self, found: OpenTurn, epoch: int) -> bool:
        """Take a turn as far as it goes; False where the thread must be left alone for now."""
        turn = found.turn
        task = asyncio.create_task(self._go(found, epoch))
        hand = self._in_hand[turn.session_id] = _Hand(turn.turn_id, task)
        # A cancellation that was heard just before was heard of a turn that was not in hand yet.
        self.cancel_requested(turn.session_id)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not hand.cancelled:
                # This worker is being stopped: the turn goes on elsewhere.
                task.cancel()
                await asyncio.wait([task])
                await self._hand_over(turn.session_id)
                raise
            async with self._database.transaction() as tx:
                await sessions.fence(tx, turn.session_id, epoch)
                await self._endings.cancelled(tx, turn, epoch=epoch)
            return True
        finally:
            # After a freeze it may be another run's by now: the thread's next job can come to the same process.
            if self._in_hand.get(turn.session_id) is hand:
                del self._in_hand[turn.session_id]

    async def _go(self, found: OpenTurn, epoch: int) -> bool:
        turn = found.turn
        limit = asyncio.timeout(self._limits.seconds)
        try:
            run = await self._run(found, epoch)
            async with run.clock.within(limit):
                if found.kind == "call":
                    return await self._call(run, found)
                return await self._converse(run, found)
        except Fenced:
            raise
        except OutsidersMayNotChat as refusal:
            return await self._fail(found, epoch, refusal.message)
        except GraphDrained:
            async with self._database.transaction() as tx:
                await sessions.fence(tx, turn.session_id, epoch)
                await tx.execute(turns.sql.progressed, turn.turn_id)
            return True
        except ModelError as error:
            log.warning("turn.model_failed", turn_id=str(turn.turn_id), error=error.sentence)
            return await self._fail(found, epoch, error.sentence)
        except Exception as error:
            if isinstance(error, TimeoutError) and limit.expired():
                minutes = f"{self._limits.seconds / 60:g}"
                return await self._fail(found, epoch, f"This took longer than {minutes} minutes, so I stopped it.")
            log.exception("turn.error", turn_id=str(turn.turn_id), attempt=found.attempts + 1)
            return await self._back_off(found, epoch)

    async def _run(self, found: OpenTurn, epoch: int) -> Run:
        turn, requester = found.turn, found.requester
        if requester.chat_user and requester.display_name is None:
            await self._look_up(requester.user_id)
            async with self._database.connection() as connection:
                requester = await users.read(connection, turn.requester_id)
        if requester.external and not self._outsiders_may_chat:
            raise OutsidersMayNotChat
        return Run(turn.session_id, turn.turn_id, epoch, requester)

    async def _look_up(self, user_id: UUID) -> None:
        """Ask the chat platform who this is; whom nobody knows may be a guest, and guests are not let in unseen."""
        try:
            await users.refresh_profile(self._database, self._profiles, user_id)
        except DirectoryUnavailable:
            if not self._outsiders_may_chat:
                raise

    async def _converse(self, run: Run, found: OpenTurn) -> bool:
        """Invoke the graph: always with the same input under the same run id, be it a start, a crash or a decision."""
        control = RunControl()
        self._controls.add(control)
        if self._draining:
            control.request_drain()
        try:
            result = await self._graph.copy({"checkpointer": LeanSaver(self._pool, run.session_id, run.epoch)}).ainvoke(
                {"messages": Overwrite([HumanMessage(found.turn.text, id=str(run.turn_id))])},
                {
                    "configurable": {"thread_id": str(run.session_id)},
                    "metadata": {"run_id": str(run.turn_id)},
                },
                context=run,
                durability="sync",
                version="v2",
                control=control,
            )
        finally:
            self._controls.discard(control)
        messages = result.value["messages"]
        usage = sum((_usage(message) for message in messages if isinstance(message, AIMessage)), Usage())
        if result.interrupts:
            return await self._park(run, found, usage)
        await self._complete(run, found, str(messages[-1].text), usage)
        return True

    async def _call(self, run: Run, found: OpenTurn) -> bool:
        """A call that was asked for without the model."""
        async with self._database.connection() as connection:
            approval = await store.of_single_turn(connection, run.turn_id)
        call = ToolCall(type="tool_call", name=approval.tool_name, args=approval.args, id=approval.tool_call_id)
        outcome = await self._calls.step(run, call)
        if isinstance(outcome, Waiting):
            return await self._park(run, found, Usage())
        await self._complete(run, found, _text(outcome), Usage())
        return True

    async def _park(self, run: Run, found: OpenTurn, usage: Usage) -> bool:
        """Leave the turn to people, unless a decision came while it ran: then there is more to do."""
        async with self._database.transaction() as tx:
            await sessions.fence(tx, run.session_id, run.epoch)
            if await tx.fetchval(store.sql.unhandled, run.session_id, run.turn_id):
                await tx.execute(turns.sql.progressed, run.turn_id)
                return True
            await turns.park(tx, run.turn_id, usage)
            pending = await store.of_turn(tx, run.turn_id)
            ids = [str(approval.approval_id) for approval in pending]
            await self._endings.tell(tx, found.turn, EventKind.TURN_WAITING, epoch=run.epoch, approval_ids=ids)
        return False

    async def _complete(self, run: Run, found: OpenTurn, reply: str, usage: Usage) -> None:
        async with self._database.transaction() as tx:
            await sessions.fence(tx, run.session_id, run.epoch)
            await self._endings.completed(tx, found, reply, usage, epoch=run.epoch)

    async def _fail(self, found: OpenTurn, epoch: int, error: str) -> bool:
        async with self._database.transaction() as tx:
            await sessions.fence(tx, found.turn.session_id, epoch)
            await self._endings.failed(tx, found.turn, error, epoch=epoch)
        return True

    async def _back_off(self, found: OpenTurn, epoch: int) -> bool:
        """Leave the turn to a later attempt; after the last one, end it."""
        if found.attempts + 1 >= self._limits.attempts:
            return await self._fail(found, epoch, _TROUBLE.format(turn_id=found.turn.turn_id))
        async with self._database.transaction() as tx:
            await sessions.fence(tx, found.turn.session_id, epoch)
            await tx.execute(turns.sql.back_off, found.turn.turn_id, float(2 ** (found.attempts + 1)))
        return False


def _usage(message: AIMessage) -> Usage:
    used = message.usage_metadata
    if not used:
        return Usage(model_calls=1)
    cached = (used.get("input_token_details") or {}).get("cache_read") or 0
    return Usage(used["input_tokens"], used["output_tokens"], cached, 1)


def _text(message: ToolMessage) -> str:
    return str(message.text)


class Sweeps:
    """What no wake-up does: rescue dead workers' threads, find mail without a job, end what has run out of time."""

    def __init__(self, database: Database, endings: Endings, reminders: Reminders, *, every_s: float = 1.0) -> None:
        self._database = database
        self._endings = endings
        self._reminders = reminders
        self._every_s = every_s

    async def run(self) -> None:
        """Sweep until cancelled; every step is safe to repeat, and beside other replicas."""
        steps: list[Callable[[], Any]] = [
            lambda: dispatch.rescue(self._database),
            lambda: dispatch.sweep(self._database),
            self._endings.expire_approvals,
            self._reminders.remind,
            self._reminders.escalate,
            self._endings.expire_sessions,
            self._endings.expire_attachments,
            lambda: throttle.drop_old(self._database),
        ]
        while True:
            for step in steps:
                try:
                    await step()
                except Exception as error:  # noqa: BLE001 - one sweep; the next one tries again
                    log.warning("sweep.failed", error=f"{type(error).__name__}: {error}")
            await asyncio.sleep(self._every_s)
