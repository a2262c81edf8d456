"""A real PostgreSQL for every test that asks for one: one embedded server a process, one cloned database a test."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
import structlog

from db.migrate import migrate
from opsagent.embedded import EmbeddedPostgres

os.environ.setdefault("LANGGRAPH_STRICT_MSGPACK", "true")
# The default renderer prints rich tracebacks with every local variable: seconds of CPU for each expected failure.
structlog.configure(
    processors=[structlog.processors.format_exc_info, structlog.processors.KeyValueRenderer(key_order=["event"])]
)


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The DSN of a server's maintenance database."""
    home = Path(tempfile.mkdtemp(prefix="opsagent-tests-"))
    postgres = EmbeddedPostgres()
    try:
        yield postgres.start(home)
    finally:
        postgres.stop()
        shutil.rmtree(home, ignore_errors=True)


def in_database(dsn: str, name: str) -> str:
    """The same server, another database."""
    head, _, query = dsn.partition("?")
    base = head.rsplit("/", 1)[0]
    return f"{base}/{name}" + (f"?{query}" if query else "")


async def run_on(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture(scope="session")
def template(server: str) -> str:
    """The name of a migrated database to clone."""

    async def make() -> None:
        await run_on(server, "CREATE DATABASE template_opsagent")
        await migrate(in_database(server, "template_opsagent"))

    asyncio.run(make())
    return "template_opsagent"


@pytest.fixture
async def dsn(server: str, template: str) -> AsyncIterator[str]:
    """A migrated database of the test's own."""
    name = f"test_{uuid4().hex[:12]}"
    await run_on(server, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield in_database(server, name)
    await run_on(server, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
