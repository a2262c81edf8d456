"""Wake-ups and the worker: the only file that knows the queue (procrastinate) and its tables."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING
from uuid import UUID

import procrastinate
import psycopg
import structlog
from procrastinate.exceptions import ConnectorException

from db import queries
from db.database import Database, Tx

if TYPE_CHECKING:
    from db.checkpoints import Pool

log = structlog.get_logger()
sql = queries.load("dispatch")

POLL_S = 0.2
HEARTBEAT_S = 2.0
STALLED_S = 8.0
# Below STALLED_S: a worker that shuts down stops its heartbeat first.
GRACE_S = 6.0

Advance = Callable[[UUID], Awaitable[None]]


async def wake(tx: Tx, session_id: UUID) -> None:
    """Have some worker advance the thread. The caller holds the session's row lock in this transaction, and has
    written in it what the worker shall find."""
    await tx.execute(sql.wake, session_id)


class Worker:
    """Runs `advance(session_id)` for woken threads, at most one at a time for each."""

    def __init__(self, pool: "Pool", advance: Advance, *, concurrency: int, grace_s: float = GRACE_S) -> None:
        self._pool = pool
        self._concurrency = concurrency
        self._grace_s = min(grace_s, GRACE_S)
        self._app = procrastinate.App(connector=procrastinate.PsycopgConnector())

        @self._app.task(name="advance", queue="turns", pass_context=False)
        async def advance_session(session_id: str) -> None:  # pyright: ignore[reportUnusedFunction]
            await advance(UUID(session_id))

        # Without a periodic task the worker's monitor ends at its start, and a dead heartbeat goes unseen.
        @self._app.periodic(cron="*/5 * * * *")
        @self._app.task(name="tick", queue="turns", queueing_lock="tick")
        async def tick(timestamp: int) -> None:  # pyright: ignore[reportUnusedFunction]
            log.debug("worker.tick", timestamp=timestamp)

    async def run(self) -> None:
        """Work until cancelled, then let running jobs finish for the grace time.

        The engine's own loop returns or raises when the database restarts: it is started again.
        """
        async with self._app.open_async(self._pool):
            while True:
                try:
                    await self._app.run_worker_async(
                        concurrency=self._concurrency,
                        fetch_job_polling_interval=POLL_S,
                        abort_job_polling_interval=3600,
                        update_heartbeat_interval=HEARTBEAT_S,
                        stalled_worker_timeout=STALLED_S,
                        shutdown_graceful_timeout=self._grace_s,
                        delete_jobs="always",
                        install_signal_handlers=False,
                    )
                    log.warning("worker.ended", next="started again")
                except (ConnectorException, psycopg.Error, OSError) as error:
                    log.warning("worker.lost_database", error=type(error).__name__)
                await asyncio.sleep(0.5)


async def rescue(database: Database) -> list[UUID]:
    """Give the threads of dead workers to the living; return their ids.

    A stalled job is never retried: that would fail for ever beside a queued wake-up, and its id would let the dead
    worker, should it wake up, end the rescued run. It is deleted, and the thread woken under a new one.
    """
    rescued: list[UUID] = []
    async with database.connection() as connection:
        stalled = await connection.fetch(sql.stalled, STALLED_S)
    for job in stalled:
        async with database.transaction() as tx:
            if job["session_id"] and not await tx.fetchval(sql.try_lock_session, job["session_id"]):
                continue
            if await tx.fetchval(sql.delete_stalled, job["id"], STALLED_S) and job["session_id"]:
                await wake(tx, job["session_id"])
                rescued.append(job["session_id"])
    return rescued


async def sweep(database: Database) -> list[UUID]:
    """Wake every thread that has something to do and no job; return their ids."""
    async with database.connection() as connection:
        idle = await connection.fetch(sql.idle_with_mail)
    woken: list[UUID] = []
    for row in idle:
        async with database.transaction() as tx:
            if await tx.fetchval(sql.try_lock_session, row["session_id"]):
                await wake(tx, row["session_id"])
                woken.append(row["session_id"])
    return woken
