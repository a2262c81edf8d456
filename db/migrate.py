"""Brings a database to this release's schema: Alembic's revisions, LangGraph's tables, under one advisory lock.

`python -m db.migrate` reads the DSN from the environment variable below; the product runs it in a process of its own,
because Alembic and SQLAlchemy cost 50 MB that a server need not keep.
"""

import asyncio
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import asyncpg

DSN_VARIABLE = "OPSAGENT_MIGRATE_DSN"
_HERE = Path(__file__).parent / "migrations"
_ERROR = re.compile(r"[a-zA-Z_][\w.]*\.\w+: |\w*(?:Error|Exception): ")
LOCK = 5_214_003_201  # an arbitrary key of our own for pg_advisory_lock
HEAD = max(path.name[:4] for path in (_HERE / "versions").glob("[0-9]*.py"))


class MigrationFailed(Exception):
    """The schema could not be brought up to date; the message says why."""


async def is_current(dsn: str) -> bool:
    """Return whether the database stands at this release's revision."""
    connection = await asyncpg.connect(dsn)
    try:
        if await connection.fetchval("SELECT to_regclass('opsagent_schema')") is None:
            return False
        return await connection.fetchval("SELECT revision FROM opsagent_schema") == HEAD
    finally:
        await connection.close()


async def migrate(dsn: str) -> bool:
    """Bring the database up to date; return False where there was nothing to do."""
    if await is_current(dsn):
        return False
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "db.migrate",
        env={**os.environ, DSN_VARIABLE: dsn},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise MigrationFailed(f"The database could not be migrated: {_reason(output.decode(errors='replace'))}")
    return True


async def grant(dsn: str, role: str) -> None:
    """Give a role what the service needs, and nothing that could change the audit log; raises MigrationFailed."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("SELECT opsagent_grant($1)", role)
    except asyncpg.PostgresError as error:
        raise MigrationFailed(f"The rights could not be granted: {error}.") from error
    finally:
        await connection.close()


def _reason(output: str) -> str:
    """Return the line of a traceback that names its error; PostgreSQL's own go on with where and what else."""
    lines = output.strip().splitlines() or ["it said nothing"]
    return next((line for line in reversed(lines) if _ERROR.match(line)), lines[-1])


def _is_ours(row: dict[str, Any] | None) -> bool:
    return row is not None and row["ours"]


def _upgrade(dsn: str) -> None:
    import psycopg
    from alembic import command
    from alembic.config import Config
    from langgraph.checkpoint.postgres import PostgresSaver
    from psycopg.rows import dict_row
    from sqlalchemy import create_engine, pool

    # The lock lives on a connection without a transaction, and who waits for it asks again and again: LangGraph builds
    # its indexes CONCURRENTLY, which waits for every open statement, and would wait for the lock's own for ever.
    connect = psycopg.Connection[dict[str, Any]].connect
    with connect(dsn, autocommit=True, row_factory=dict_row) as lock:
        while not _is_ours(lock.execute("SELECT pg_try_advisory_lock(%s) AS ours", (LOCK,)).fetchone()):
            time.sleep(0.2)
        engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn), poolclass=pool.NullPool)
        config = Config()
        config.set_main_option("script_location", str(_HERE))
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
        PostgresSaver(lock).setup()
        with lock.transaction():
            lock.execute("CREATE TABLE IF NOT EXISTS opsagent_schema (revision text NOT NULL)")
            lock.execute("DELETE FROM opsagent_schema")
            lock.execute("INSERT INTO opsagent_schema VALUES (%s)", (HEAD,))


if __name__ == "__main__":
    _upgrade(os.environ[DSN_VARIABLE])
