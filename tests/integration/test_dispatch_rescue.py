"""Dead workers' threads go to the living, failed turns come back, and nobody's mail stays without a job."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from structlog.testing import capture_logs

from agent.run import Limits
from agent.types import TurnStatus
from db import dispatch
from db.checkpoints import make_pool
from db.database import Database
from tests.fakes.scripted_model import ScriptedModel
from tests.integration.conftest import ADMIN, Floor, running

_DEAD = "INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now() - interval '1 minute') RETURNING id"
_ALIVE = "INSERT INTO procrastinate_workers DEFAULT VALUES RETURNING id"
_FETCH = "SELECT (procrastinate_fetch_job_v2(NULL, $1)).id"
_JOBS = "SELECT id, status FROM procrastinate_jobs WHERE task_name = 'advance' ORDER BY id"


@pytest.fixture
async def asleep(dsn: str) -> AsyncIterator[Floor]:
    async with running(dsn, work=False) as floor:
        yield floor


async def fetched(floor: Floor, worker: str = _DEAD) -> tuple[int, int]:
    """Have a worker fetch the oldest job; return the worker's id and the job's."""
    ((worker_id,),) = await floor.sql(worker)
    ((job_id,),) = await floor.sql(_FETCH, worker_id)
    return worker_id, job_id


async def no_jobs(floor: Floor) -> None:
    async with asyncio.timeout(45):
        while await floor.sql(_JOBS):
            await asyncio.sleep(0.02)


async def statuses(floor: Floor) -> list[str]:
    return [row["status"] for row in await floor.sql("SELECT status FROM turns ORDER BY ordinal")]


@pytest.mark.parametrize("row_is_gone", [False, True], ids=["silent", "pruned"])
@pytest.mark.parametrize("mail_is_queued", [False, True], ids=["no mail", "mail queued"])
async def test_a_dead_workers_thread_is_taken_over_under_a_new_job(
    asleep: Floor, dsn: str, *, mail_is_queued: bool, row_is_gone: bool
) -> None:
    session_id = await asleep.session()
    await asleep.service.submit_message(session_id, "first", by=ADMIN)
    worker_id, stalled = await fetched(asleep)
    if mail_is_queued:
        await asleep.service.submit_message(session_id, "second", by=ADMIN)
    if row_is_gone:
        await asleep.sql("DELETE FROM procrastinate_workers WHERE id = $1", worker_id)

    assert await dispatch.rescue(asleep.core.database) == [session_id]

    ((job_id, status),) = await asleep.sql(_JOBS)
    assert (job_id > stalled, status) == (True, "todo")
    with pytest.raises(asyncpg.RaiseError, match="not found"):  # what the dead one does, should it wake up
        await asleep.sql("SELECT procrastinate_finish_job_v1($1, 'succeeded', true)", stalled)
    assert await asleep.sql(_JOBS) == [(job_id, "todo")]
    async with running(dsn):
        await no_jobs(asleep)
    assert set(await statuses(asleep)) == {"completed"}


async def test_a_living_workers_job_is_left_alone(asleep: Floor) -> None:
    session_id = await asleep.session()
    await asleep.service.submit_message(session_id, "first", by=ADMIN)
    _, job_id = await fetched(asleep, _ALIVE)
    assert await dispatch.rescue(asleep.core.database) == []
    assert await dispatch.sweep(asleep.core.database) == []
    assert await asleep.sql(_JOBS) == [(job_id, "doing")]


async def test_sweepers_and_rescuers_at_once_wake_every_thread_once(asleep: Floor, dsn: str) -> None:
    threads = [await asleep.session() for _ in range(20)]
    for session_id in threads:
        await asleep.service.submit_message(session_id, "hello", by=ADMIN)
    for _ in threads[:10]:
        await fetched(asleep)
    await asleep.sql("DELETE FROM procrastinate_jobs WHERE status = 'todo'")
    other = Database(dsn)
    await other.open()
    try:
        both = (asleep.core.database, other)
        rescued = await asyncio.gather(*(dispatch.rescue(database) for database in both))
        swept = await asyncio.gather(*(dispatch.sweep(database) for database in both))
    finally:
        await other.close()
    assert sorted([*rescued[0], *rescued[1]]) == sorted(threads[:10])  # each by one of the two
    assert {*swept[0], *swept[1]} == set(threads[10:])
    locks = await asleep.sql("SELECT lock, count(*) FROM procrastinate_jobs WHERE task_name = 'advance' GROUP BY lock")
    assert {UUID(lock): count for lock, count in locks} == dict.fromkeys(threads, 1)
    async with running(dsn):
        await no_jobs(asleep)
    assert await statuses(asleep) == ["completed"] * len(threads)


async def test_a_thread_whose_row_is_locked_does_not_hold_up_the_rescue_of_others(asleep: Floor, dsn: str) -> None:
    stuck, free = await asleep.session(), await asleep.session()
    for session_id in (stuck, free):
        await asleep.service.submit_message(session_id, "hello", by=ADMIN)
        await fetched(asleep)
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            await connection.execute("SELECT 1 FROM user_sessions WHERE session_id = $1 FOR UPDATE", stuck)
            async with asyncio.timeout(45):
                assert await dispatch.rescue(asleep.core.database) == [free]
        assert await dispatch.rescue(asleep.core.database) == [stuck]
    finally:
        await connection.close()


async def test_a_job_that_raised_leaves_its_mail_to_the_sweeper(asleep: Floor, dsn: str) -> None:
    session_id = await asleep.session()
    await asleep.service.submit_message(session_id, "hello", by=ADMIN)

    async def advance(_session_id: UUID) -> None:
        raise ZeroDivisionError

    async with make_pool(dsn) as pool:
        loop = asyncio.create_task(dispatch.Worker(pool, advance, concurrency=1).run())
        await no_jobs(asleep)  # the engine deletes it, and that is all it does
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)
    assert await statuses(asleep) == ["queued"]
    async with running(dsn):
        async with asyncio.timeout(45):
            while await statuses(asleep) != ["completed"]:
                await asyncio.sleep(0.05)


class BrokenModel(ScriptedModel):
    """A model with a bug: it raises what no model error stands for, as often as it is told."""

    _times: int = 99

    async def _astream(self, *args: Any, **kwargs: Any) -> Any:
        if self._times:
            self._times -= 1
            raise ZeroDivisionError("a bug of ours")
        async for chunk in super()._astream(*args, **kwargs):
            yield chunk


@pytest.fixture
async def unswept(dsn: str) -> AsyncIterator[Floor]:
    """A core that works, whose sweeps a test makes by hand, and whose model has a bug."""
    broken = running(dsn, work=False, model=BrokenModel(), limits=Limits(attempts=3))
    with capture_logs() as logs:
        async with broken as floor:
            loop = asyncio.create_task(floor.core.worker.run())
            yield floor
            loop.cancel()
            await asyncio.gather(loop, return_exceptions=True)
    errors = [entry for entry in logs if entry["event"] == "turn.error"]
    assert all(entry["exc_info"] and entry["turn_id"] for entry in errors)
    assert errors


async def attempt(floor: Floor) -> list[Any]:
    """Let the back-off end and sweep; return the turn's row once no job is left."""
    await floor.sql("UPDATE turns SET retry_at = now() - interval '1 second' WHERE retry_at IS NOT NULL")
    assert len(await dispatch.sweep(floor.core.database)) == 1
    await no_jobs(floor)
    return await floor.sql("SELECT status, attempts, retry_at > now() AS waits FROM turns ORDER BY ordinal")


async def test_a_failing_turn_backs_off_longer_each_time_and_ends_with_a_sentence(unswept: Floor) -> None:
    session_id = await unswept.session()
    sent = await unswept.service.submit_message(session_id, "hello", by=ADMIN)
    await no_jobs(unswept)
    ((first,),) = await unswept.sql("SELECT extract(epoch FROM retry_at - started_at)::float FROM turns")
    assert await dispatch.sweep(unswept.core.database) == []  # its time has not come
    assert await attempt(unswept) == [("running", 2, True)]
    ((second,),) = await unswept.sql("SELECT extract(epoch FROM retry_at - now())::float FROM turns")
    assert second > first - 1 > 0
    assert await attempt(unswept) == [("failed", 3, None)]

    failed = await unswept.done(sent.turn.turn_id)
    assert failed.turn.error == (
        f"Something went wrong on our side, and trying again didn't help. It is logged under {sent.turn.turn_id}."
    )
    told = await unswept.service.read_events(session_id)
    assert [event.data["error"] for event in told if event.kind == "turn.failed"] == [failed.turn.error]
    unswept.model._times = 0
    answered = await unswept.say(session_id, "and now?")
    assert answered.turn.status is TurnStatus.COMPLETED


async def test_mail_that_comes_during_the_back_off_does_not_use_up_the_attempts(unswept: Floor) -> None:
    session_id = await unswept.session()
    await unswept.service.submit_message(session_id, "hello", by=ADMIN)
    await no_jobs(unswept)
    for number in range(5):
        await unswept.service.submit_message(session_id, f"are you there? {number}", by=ADMIN)
        await no_jobs(unswept)
    assert (await unswept.sql("SELECT status, attempts FROM turns ORDER BY ordinal"))[0] == ("running", 1)
    unswept.model._times = 0
    assert [row["status"] for row in await attempt(unswept)] == ["completed"] * 6


async def test_a_turn_that_backs_off_can_be_cancelled_at_once(unswept: Floor) -> None:
    session_id = await unswept.session()
    await unswept.service.submit_message(session_id, "hello", by=ADMIN)
    await no_jobs(unswept)
    await unswept.service.cancel_turn(session_id, by=ADMIN)
    await no_jobs(unswept)
    assert await statuses(unswept) == ["cancelled"]
