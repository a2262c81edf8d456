"""Deliveries: one presenter at a time renders a session, and no event is left behind unrendered."""

import asyncio
import random
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import asyncpg
import pytest

from agent import deliveries, events
from agent.types import Address, EventKind, ThreadKey
from tests.integration.conftest import ALICE, Floor, running

_APPEND = "SELECT opsagent_append_event($1, NULL, NULL, 'turn.started', '{}')"


@pytest.fixture
async def floor(dsn: str) -> AsyncIterator[Floor]:
    async with running(dsn, work=False) as floor:
        yield floor


async def told(floor: Floor, root: int = 1) -> UUID:
    """A chat thread with one event that nobody has rendered."""
    key = ThreadKey("T0TEAM", "C1", f"{root}.0")
    await floor.service.submit_message(key, "hello", by=ALICE, address=Address("slack", {"channel": "C1"}))
    return key.session_id


async def append(floor: Floor, session_id: UUID) -> int:
    async with floor.core.database.transaction() as tx:
        return await events.append(tx, session_id, EventKind.TURN_STARTED, {}, turn_id=None)


async def test_presenters_at_once_never_share_a_session(floor: Floor) -> None:
    threads = {await told(floor, number) for number in range(30)}
    owners = [uuid4() for _ in range(6)]
    leased = await asyncio.gather(*(floor.service.lease_deliveries("slack", owner, limit=8) for owner in owners))
    taken = [delivery.session_id for batch in leased for delivery in batch]
    assert len(taken) == len(set(taken))
    rest = await floor.service.lease_deliveries("slack", owners[0], limit=100)
    assert set(taken) | {delivery.session_id for delivery in rest} == threads
    assert await floor.service.lease_deliveries("slack", uuid4(), limit=100) == []
    assert await floor.service.lease_deliveries("teams", uuid4(), limit=100) == []


async def test_an_event_that_comes_before_the_end_of_a_delivery_keeps_the_lease(floor: Floor) -> None:
    session_id, owner = await told(floor), uuid4()
    (delivery,) = await floor.service.lease_deliveries("slack", owner)
    assert delivery.delivered_seq == 0
    seq = await append(floor, session_id)
    assert await floor.service.finish_delivery(session_id, owner, delivered_seq=seq - 1) is True
    assert await floor.service.lease_deliveries("slack", uuid4()) == []
    assert await floor.service.finish_delivery(session_id, owner, delivered_seq=seq) is False
    assert await floor.sql("SELECT 1 FROM deliveries") == []


async def test_an_event_that_is_being_written_while_a_delivery_ends_is_not_lost(floor: Floor, dsn: str) -> None:
    session_id, owner = await told(floor), uuid4()
    await floor.service.lease_deliveries("slack", owner)
    writer = await asyncpg.connect(dsn)
    try:
        writing = writer.transaction()
        await writing.start()
        await writer.fetchval(_APPEND, session_id)  # it found the delivery's row, and has not committed
        ending = asyncio.create_task(floor.service.finish_delivery(session_id, owner, delivered_seq=1))
        await _waits(floor, ending)
        await writing.commit()
        assert await ending is True
    finally:
        await writer.close()


async def test_a_delivery_that_is_ending_while_an_event_is_written_is_made_anew(floor: Floor, dsn: str) -> None:
    session_id, owner = await told(floor), uuid4()
    await floor.service.lease_deliveries("slack", owner)
    async with floor.core.database.transaction() as tx:
        assert await deliveries.finish(tx, session_id, owner, delivered_seq=1) is False
        appending = asyncio.create_task(append(floor, session_id))
        await _waits(floor, appending)
    await appending
    (again,) = await floor.service.lease_deliveries("slack", uuid4())
    assert again.delivered_seq == 1


async def _waits(floor: Floor, task: asyncio.Task[object]) -> None:
    """Return once the task waits for a row, or is done, which is what must not happen."""
    async with asyncio.timeout(45):
        while not task.done() and not await floor.sql("SELECT 1 FROM pg_locks WHERE NOT granted"):
            await asyncio.sleep(0.01)
    assert not task.done()


async def test_events_and_deliveries_at_random_end_with_everything_rendered(floor: Floor) -> None:
    session_id = await told(floor)
    rendered: dict[UUID, int] = {}
    writing = True

    async def present() -> None:
        owner = uuid4()
        while True:
            for delivery in await floor.service.lease_deliveries("slack", owner):
                seq = delivery.delivered_seq
                while True:
                    for event in await floor.service.read_events(delivery.session_id, after=seq, limit=3):
                        assert event.seq == rendered.get(delivery.session_id, 0) + 1  # in order, nothing twice
                        rendered[delivery.session_id] = seq = event.seq
                    if not await floor.service.finish_delivery(delivery.session_id, owner, delivered_seq=seq):
                        break
            if not writing and not await floor.sql("SELECT 1 FROM deliveries"):
                return
            await asyncio.sleep(random.random() * 0.003)

    presenters = [asyncio.create_task(present()) for _ in range(3)]
    for _ in range(300):
        last = await append(floor, session_id)
        await asyncio.sleep(random.random() * 0.006)
    writing = False
    await asyncio.wait_for(asyncio.gather(*presenters), 45)
    assert rendered == {session_id: last}


async def test_a_dead_presenters_lease_ends_and_it_can_not_end_its_successors(floor: Floor) -> None:
    session_id, dead, successor = await told(floor), uuid4(), uuid4()
    await floor.service.lease_deliveries("slack", dead)
    await floor.sql("UPDATE deliveries SET leased_until = now() - interval '1 second'")
    (delivery,) = await floor.service.lease_deliveries("slack", successor)
    assert delivery.delivered_seq == 0
    assert await floor.service.renew_delivery(session_id, dead) is False
    assert await floor.service.finish_delivery(session_id, dead, delivered_seq=1) is False
    await floor.service.retry_delivery(session_id, dead, delivered_seq=1, after_s=60)
    assert await floor.sql("SELECT owner, attempts, retry_at FROM deliveries") == [(successor, 0, None)]
    assert await floor.service.renew_delivery(session_id, successor) is True


async def test_a_delivery_that_failed_comes_back_after_its_time_with_its_cursor(floor: Floor) -> None:
    session_id, owner = await told(floor), uuid4()
    await floor.service.lease_deliveries("slack", owner)
    seq = await append(floor, session_id)
    await floor.service.retry_delivery(session_id, owner, delivered_seq=1, after_s=60)
    assert await floor.service.lease_deliveries("slack", owner) == []
    await floor.sql("UPDATE deliveries SET retry_at = now()")
    (delivery,) = await floor.service.lease_deliveries("slack", uuid4(), only=session_id)
    assert (delivery.delivered_seq, delivery.attempts, seq) == (1, 1, 2)
