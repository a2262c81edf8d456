"""Wake-ups: mail whose wake-up collapses into a job that is already being fetched is never lost."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from agent import turns
from db import dispatch
from db.checkpoints import make_pool
from tests.integration.conftest import ADMIN, Floor, running

# The mail's transaction has done all its work and stands right before its commit until the test lets go of the lock.
_PAUSE = """
    CREATE FUNCTION pause() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN IF NEW.text LIKE ''held%'' THEN PERFORM pg_advisory_xact_lock(77); END IF; RETURN NULL; END';
    CREATE CONSTRAINT TRIGGER pause AFTER INSERT ON turns DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION pause()
"""
_DAWDLE = """
    CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_sleep(random() * 0.02); RETURN NULL; END';
    CREATE CONSTRAINT TRIGGER dawdle AFTER INSERT ON turns DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION dawdle()
"""
_WAITING_FOR = "SELECT 1 FROM pg_locks WHERE NOT granted AND locktype = $1"


@pytest.fixture
async def asleep(dsn: str) -> AsyncIterator[Floor]:
    """A core that neither works nor sweeps: what is lost stays lost."""
    async with running(dsn, work=False) as floor:
        yield floor


@asynccontextmanager
async def working(floor: Floor) -> AsyncIterator[None]:
    """The floor's worker runs, and no sweeper mends anything behind it."""
    loop = asyncio.create_task(floor.core.worker.run())
    try:
        yield
    finally:
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)


@asynccontextmanager
async def commits_held(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn)
    await connection.execute(_PAUSE)
    await connection.execute("SELECT pg_advisory_lock(77)")
    try:
        yield connection
    finally:
        await connection.close()


async def seen(floor: Floor, statement: str, *args: Any) -> None:
    """Wait until the statement returns a row."""
    async with asyncio.timeout(45):
        while not await floor.sql(statement, *args):
            await asyncio.sleep(0.01)


async def no_jobs(floor: Floor) -> None:
    async with asyncio.timeout(240):
        while await floor.sql("SELECT 1 FROM procrastinate_jobs WHERE task_name = 'advance' LIMIT 1"):
            await asyncio.sleep(0.02)


async def unanswered(floor: Floor) -> list[str]:
    return [
        row["text"] for row in await floor.sql("SELECT text FROM turns WHERE status <> 'completed' ORDER BY ordinal")
    ]


async def submit_without_lock(floor: Floor, session_id: UUID, text: str) -> None:
    """What submitting would be without the session's lock: mail and wake-up in one transaction, and no more."""
    async with floor.core.database.transaction() as tx:
        await turns.insert(tx, turn_id=uuid4(), session_id=session_id, requester_id=ADMIN.user_id, text=text)
        await dispatch.wake(tx, session_id)


async def test_mail_whose_wake_up_collapsed_into_a_finished_job_is_not_lost(asleep: Floor, dsn: str) -> None:
    session_id = await asleep.session()
    await asleep.service.submit_message(session_id, "first", by=ADMIN)
    async with commits_held(dsn) as holder:
        late = asyncio.create_task(asleep.service.submit_message(session_id, "held: second", by=ADMIN))
        await seen(asleep, _WAITING_FOR, "advisory")  # its wake-up has collapsed into the first one's job
        async with working(asleep):
            await seen(asleep, "SELECT 1 FROM procrastinate_jobs WHERE task_name = 'advance' AND status = 'doing'")
            await seen(asleep, _WAITING_FOR, "transactionid")  # the job waits for the mail instead of overtaking it
            await holder.execute("SELECT pg_advisory_unlock(77)")
            await late
            await no_jobs(asleep)
    assert await unanswered(asleep) == []


async def test_without_the_lock_the_same_interleaving_loses_the_mail(asleep: Floor, dsn: str) -> None:
    """Proves that the test above plays the race it is about."""
    session_id = await asleep.session()
    await asleep.service.submit_message(session_id, "first", by=ADMIN)
    async with commits_held(dsn) as holder:
        late = asyncio.create_task(submit_without_lock(asleep, session_id, "held: second"))
        await seen(asleep, _WAITING_FOR, "advisory")
        async with working(asleep):
            await no_jobs(asleep)
            await holder.execute("SELECT pg_advisory_unlock(77)")
            await late
            await no_jobs(asleep)
    assert await unanswered(asleep) == ["held: second"]
    assert await dispatch.sweep(asleep.core.database) == [session_id]  # the sweeper is what finds such mail


async def test_mail_that_dawdles_before_its_commit_is_never_left_behind(asleep: Floor) -> None:
    async with asleep.core.database.connection() as connection:
        await connection.execute(_DAWDLE)
    threads = [await asleep.session() for _ in range(25)]

    async def send(number: int) -> None:
        await asyncio.sleep(random.random() * 0.05)
        await asleep.service.submit_message(threads[number % len(threads)], f"message {number}", by=ADMIN)

    async with working(asleep):
        for wave in range(0, 1000, 100):
            await asyncio.gather(*(send(wave + number) for number in range(100)))
        await no_jobs(asleep)
    assert await unanswered(asleep) == []
    assert await asleep.sql("SELECT count(*) FROM messages WHERE role = 'assistant'") == [(1000,)]


async def test_a_thread_is_never_advanced_twice_at_the_same_time(asleep: Floor, dsn: str) -> None:
    session_id = await asleep.session()
    busy: list[int] = []
    most = 0

    async def advance(_session_id: UUID) -> None:
        nonlocal most
        busy.append(1)
        most = max(most, len(busy))
        await asyncio.sleep(0.01)
        busy.pop()

    async with make_pool(dsn) as pool:
        workers = [dispatch.Worker(pool, advance, concurrency=5) for _ in range(2)]
        loops = [asyncio.create_task(worker.run()) for worker in workers]
        for number in range(40):
            await asleep.service.submit_message(session_id, f"message {number}", by=ADMIN)
        await no_jobs(asleep)
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
    assert most == 1
