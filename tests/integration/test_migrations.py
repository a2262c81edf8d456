"""Migrations: from nothing to this release, once, whoever else tries at the same time."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest

from db.migrate import HEAD, LOCK, MigrationFailed, is_current, migrate
from tests.conftest import in_database, run_on

_SCHEMA = """
    SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns
     WHERE table_schema = 'public' ORDER BY table_name, ordinal_position
"""


@pytest.fixture
async def empty(server: str) -> AsyncIterator[str]:
    """A database with nothing in it."""
    name = f"empty_{uuid4().hex[:12]}"
    await run_on(server, f"CREATE DATABASE {name}")
    yield in_database(server, name)
    await run_on(server, f"DROP DATABASE {name} WITH (FORCE)")


async def schema(dsn: str) -> list[tuple[str, ...]]:
    connection = await asyncpg.connect(dsn)
    try:
        return [tuple(row) for row in await connection.fetch(_SCHEMA)]
    finally:
        await connection.close()


async def test_an_empty_database_is_brought_to_this_release_and_then_left_alone(empty: str, dsn: str) -> None:
    assert await is_current(empty) is False
    assert await migrate(empty) is True
    assert await is_current(empty) is True
    made = await schema(empty)
    assert await migrate(empty) is False
    assert await schema(empty) == made == await schema(dsn)
    assert {"users", "user_sessions", "tool_approval_config", "checkpoints", "procrastinate_jobs"} <= {
        row[0] for row in made
    }


async def test_an_older_revision_is_not_current_and_running_again_changes_nothing(dsn: str) -> None:
    before = await schema(dsn)
    await run_on(dsn, "UPDATE opsagent_schema SET revision = '0000'")
    assert await is_current(dsn) is False
    assert await migrate(dsn) is True
    assert await is_current(dsn) is True
    assert await schema(dsn) == before


async def test_replicas_that_migrate_at_once_do_not_disturb_each_other(empty: str) -> None:
    assert any(await asyncio.gather(*(migrate(empty) for _ in range(3))))
    assert await is_current(empty) is True
    connection = await asyncpg.connect(empty)
    try:
        assert [tuple(row) for row in await connection.fetch("SELECT revision FROM opsagent_schema")] == [(HEAD,)]
        assert await connection.fetchval("SELECT count(*) FROM users WHERE username = 'api-key'") == 1
        broken = "SELECT count(*) FROM pg_index WHERE NOT indisvalid"  # what an interrupted CONCURRENTLY leaves
        assert await connection.fetchval(broken) == 0
    finally:
        await connection.close()


async def test_a_replica_that_waits_for_its_turn_does_not_hold_up_the_one_that_migrates(dsn: str) -> None:
    await run_on(dsn, "DELETE FROM opsagent_schema")
    first = await asyncpg.connect(dsn)
    try:
        await first.execute("SELECT pg_advisory_lock($1)", LOCK)
        second = asyncio.create_task(migrate(dsn))
        async with asyncio.timeout(45):
            while not await first.fetch(
                "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%advisory_lock%' AND pid <> pg_backend_pid()"
            ):
                await asyncio.sleep(0.02)
        # What LangGraph's own migrations do; it waits for every statement that was running when it began.
        await first.execute("CREATE INDEX CONCURRENTLY another ON checkpoints (thread_id)")
        assert not second.done()
        await first.execute("SELECT pg_advisory_unlock($1)", LOCK)
        assert await second is True
    finally:
        await first.close()


async def test_a_migration_that_fails_says_why_and_leaves_nothing_behind(empty: str) -> None:
    await run_on(empty, "CREATE TABLE user_sessions (id integer)")
    with pytest.raises(MigrationFailed, match='relation "user_sessions" already exists'):
        await migrate(empty)
    assert await is_current(empty) is False
    assert [row[0] for row in await schema(empty)] == ["user_sessions"]
