"""What only a process that runs turns has: graph, checkpoints, queue, sweeps. Half of its memory are their imports."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from langchain_core.language_models import BaseChatModel

from agent.endings import Endings
from agent.events import Hub
from agent.graph.nodes import Nodes
from agent.ports import GroupDirectory, ProfileDirectory
from agent.previews import Previews
from agent.questions.asking import Asking
from agent.reminders import Reminders
from agent.run import Limits
from agent.toolcalls import ToolCalls
from agent.tools.registry import Registry
from agent.worker import Sweeps, TurnWorker
from db.checkpoints import make_pool
from db.database import Database
from db.dispatch import Worker


@dataclass(frozen=True, slots=True)
class Work:
    """The loops of a process that runs turns."""

    turns: TurnWorker
    worker: Worker
    sweeps: Sweeps
    previews: Previews


@asynccontextmanager
async def open_work(
    database: Database,
    hub: Hub,
    endings: Endings,
    registry: Registry,
    *,
    model: BaseChatModel,
    approvers: tuple[str, ...],
    limits: Limits,
    groups: GroupDirectory | None,
    profiles: ProfileDirectory | None,
    outsiders_may_chat: bool,
    redact: tuple[str, ...],
    concurrency: int,
    psycopg_pool: int,
) -> AsyncGenerator[Work]:
    """Build them all over one psycopg pool; nothing runs yet."""
    pool = make_pool(database.dsn, max_size=psycopg_pool)
    await pool.open()
    try:
        # Half of the worker's places are never taken by threads that wait for answers.
        asking = Asking(database, hub, limits, room=max(1, concurrency // 2), redact=redact)
        calls = ToolCalls(database, registry, approvers=approvers, groups=groups, limits=limits, asking=asking)
        turns = TurnWorker(
            database,
            pool,
            Nodes(database, model, registry, calls, hub, limits),
            calls,
            endings,
            limits=limits,
            profiles=profiles,
            outsiders_may_chat=outsiders_may_chat,
        )
        hub.on_cancel = turns.cancel_requested
        yield Work(
            turns=turns,
            worker=Worker(pool, turns.advance, concurrency=concurrency),
            sweeps=Sweeps(database, endings, Reminders(database, approvers)),
            previews=Previews(database, registry),
        )
    finally:
        await pool.close()
