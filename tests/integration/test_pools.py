"""What the pools promise: whose commits wait for the disk, when connections are checked, what a thread holds."""

import pytest
from pytest_mock import MockerFixture

from agent.types import TurnStatus
from db.checkpoints import make_pool
from db.database import Database
from tests.integration.conftest import Floor


async def test_the_ledgers_commits_wait_for_the_disk_and_the_checkpoints_do_not(dsn: str) -> None:
    database, pool = Database(dsn), make_pool(dsn)
    await database.open()
    await pool.open()
    try:
        async with database.connection() as ours, pool.connection() as theirs:
            assert await ours.fetchval("SHOW synchronous_commit") == "on"
            assert await (await theirs.execute("SHOW synchronous_commit")).fetchone() == ("off",)
    finally:
        await pool.close()
        await database.close()


@pytest.mark.parametrize(("every_s", "checks"), [(3600.0, 1), (-1.0, 3)])
async def test_a_connection_that_was_just_checked_is_not_checked_again(
    dsn: str, mocker: MockerFixture, every_s: float, checks: int
) -> None:
    check = mocker.patch("psycopg_pool.AsyncConnectionPool.check_connection")
    pool = make_pool(dsn, max_size=1, check_every_s=every_s)
    await pool.open()
    try:
        for _ in range(3):
            async with pool.connection():
                pass
        assert check.await_count == checks
    finally:
        await pool.close()


async def test_a_thread_that_waits_for_people_holds_one_checkpoint(floor: Floor) -> None:
    session_id = await floor.session()
    asked = await floor.say(session_id, '{{tool restart {"service": "web"}}}')
    assert asked.turn.status is TurnStatus.AWAITING_APPROVAL
    held = await floor.sql("SELECT count(*) FROM checkpoints WHERE thread_id = $1", str(session_id))
    assert held[0][0] == 1
