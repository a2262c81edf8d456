"""What arrives twice counts once, whoever brings it and however close together."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from agent.turns import IdempotencyKeyReused
from agent.types import Address, ChatUser, ThreadKey
from tests.integration.conftest import ADMIN, ALICE, Floor, running

AT_ONCE = 20


@pytest.fixture
async def replicas(dsn: str) -> AsyncIterator[list[Floor]]:
    """Two processes' worth of pools on one database; neither works."""
    async with running(dsn, work=False) as one, running(dsn, work=False) as other:
        yield [one, other]


async def test_one_message_under_many_events_starts_one_turn(replicas: list[Floor]) -> None:
    key = ThreadKey("T0TEAM", "C1", "1.0")
    sent = await asyncio.gather(
        *(
            replicas[number % 2].service.submit_message(
                key,
                "hello",
                by=ALICE,
                event_key=f"event {number}",
                message_key="T0TEAM/C1/1.0",
                address=Address("slack", {"channel": "C1"}),
            )
            for number in range(AT_ONCE)
        )
    )
    assert [submitted.is_new for submitted in sent].count(True) == 1
    assert len({submitted.turn.turn_id for submitted in sent}) == 1
    assert await replicas[0].sql("SELECT count(*) FROM turns") == [(1,)]
    assert await replicas[0].sql("SELECT count(*) FROM user_sessions") == [(1,)]
    assert await replicas[0].sql("SELECT kind, count(*) FROM events GROUP BY kind") == [("turn.queued", 1)]
    assert await replicas[0].sql("SELECT count(*) FROM procrastinate_jobs WHERE task_name = 'advance'") == [(1,)]


async def test_first_contacts_of_one_person_at_the_same_time_make_one_user(replicas: list[Floor]) -> None:
    for person in range(60):
        contacts = [replicas[n % 2].service.principal_of_chat(ChatUser("T0TEAM", f"U{person}")) for n in range(AT_ONCE)]
        assert len({principal.user_id for principal in await asyncio.gather(*contacts)}) == 1


async def test_one_event_delivered_many_times_starts_one_turn(replicas: list[Floor]) -> None:
    session_id = await replicas[0].session()
    sent = await asyncio.gather(
        *(
            replicas[number % 2].service.submit_message(
                session_id, "hello", by=ADMIN, event_key="the key", idempotency_digest="the digest"
            )
            for number in range(AT_ONCE)
        )
    )
    assert [submitted.is_new for submitted in sent].count(True) == 1
    assert len({submitted.turn.turn_id for submitted in sent}) == 1
    assert await replicas[0].sql("SELECT count(*) FROM turns") == [(1,)]


async def test_one_key_with_many_bodies_starts_one_turn_and_refuses_the_others(replicas: list[Floor]) -> None:
    session_id = await replicas[0].session()

    async def submit(number: int) -> UUID | None:
        try:
            submitted = await replicas[number % 2].service.submit_message(
                session_id, f"body {number}", by=ADMIN, event_key="the key", idempotency_digest=f"digest {number}"
            )
        except IdempotencyKeyReused:
            return None
        return submitted.turn.turn_id

    turn_ids = await asyncio.gather(*(submit(number) for number in range(AT_ONCE)))
    assert turn_ids.count(None) == AT_ONCE - 1
    assert await replicas[0].sql("SELECT count(*) FROM turns") == [(1,)]


async def test_a_redelivery_after_the_session_was_cleared_still_counts_once(replicas: list[Floor]) -> None:
    session_id = await replicas[0].session()
    first = await replicas[0].service.submit_message(session_id, "hello", by=ADMIN, event_key="the key")
    await replicas[1].service.clear_messages(session_id, by=ADMIN)
    again = await replicas[1].service.submit_message(session_id, "hello", by=ADMIN, event_key="the key")
    assert (again.is_new, again.turn.turn_id) == (False, first.turn.turn_id)
