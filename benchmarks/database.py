"""One PostgreSQL for a whole run: a database for each subject, and what the server says of the work in it."""

import asyncio
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg

from db.migrate import migrate
from opsagent.embedded import EmbeddedPostgres

_STATEMENT = re.compile(r"^\[(\w+)\] LOG:  (?:statement|execute [^:]*):\s+(?:--.*\s+)*(\w+)", re.MULTILINE)
_FRAMES = {"BEGIN", "COMMIT", "ROLLBACK"}


@dataclass(frozen=True, slots=True)
class Work:
    """What a database was asked: statements without transaction frames, and commits of either kind."""

    statements: int
    frames: int


@dataclass(frozen=True, slots=True)
class Server:
    """The server of this run."""

    home: Path
    dsn: str
    version: str

    def address(self, database: str) -> str:
        head, _, query = self.dsn.partition("?")
        return f"{head.rsplit('/', 1)[0]}/{database}" + (f"?{query}" if query else "")

    async def ask(self, statement: str, database: str = "postgres") -> Any:
        """Run one statement outside a transaction; return the first value of its answer."""
        connection = await asyncpg.connect(self.address(database))
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    async def fresh(self) -> str:
        """Return the name of a new database at this release's schema."""
        name = f"bench_{uuid4().hex[:10]}"
        await self.ask(f"CREATE DATABASE {name} TEMPLATE bench_template")
        return name

    async def drop(self, name: str) -> None:
        await self.ask(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    async def wal(self) -> int:
        """Return how many bytes of write-ahead log there have been."""
        return int(await self.ask("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"))

    async def size(self, name: str) -> int:
        """Return the bytes of a database's tables and indexes, once what was deleted may be used again."""
        await self.ask("VACUUM", name)
        return await self.ask(
            "SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class "
            "WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace",
            name,
        )

    async def tables(self, name: str) -> dict[str, int]:
        """Return each table's bytes with its indexes, largest first."""
        connection = await asyncpg.connect(self.address(name))
        try:
            rows = await connection.fetch(
                "SELECT relname, pg_total_relation_size(oid) AS bytes FROM pg_class "
                "WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 2 DESC"
            )
        finally:
            await connection.close()
        return {row["relname"]: row["bytes"] for row in rows}

    @asynccontextmanager
    async def counted(self, name: str) -> AsyncIterator[Counter[str]]:
        """Count the statements of a database by their first word; slow, so never while the clock runs."""
        log, found = self.home / "postgres" / "server.log", Counter[str]()
        await self._log_statements("'all'")
        start = log.stat().st_size
        yield found
        await self._log_statements("'none'")
        with log.open("rb") as lines:
            lines.seek(start)
            text = lines.read().decode(errors="replace")
        found.update(word.upper() for database, word in _STATEMENT.findall(text) if database == name)

    async def _log_statements(self, which: str) -> None:
        await self.ask("ALTER SYSTEM SET log_line_prefix = '[%d] '")
        await self.ask(f"ALTER SYSTEM SET log_statement = {which}")
        await self.ask("SELECT pg_reload_conf()")
        await asyncio.sleep(0.3)


def split(found: Counter[str]) -> Work:
    """Return how many statements there were, and how many of them only framed a transaction."""
    frames = sum(found[word] for word in _FRAMES)
    return Work(sum(found.values()) - frames, frames)


@asynccontextmanager
async def server() -> AsyncIterator[Server]:
    """A server of this run's own; it and all its data are gone afterwards."""
    home = Path(tempfile.mkdtemp(prefix="opsagent-benchmarks-"))
    postgres = EmbeddedPostgres()
    try:
        dsn = await asyncio.to_thread(postgres.start, home)
        made = Server(home, dsn, "")
        await made.ask("CREATE DATABASE bench_template")
        await migrate(made.address("bench_template"))
        yield Server(home, dsn, await made.ask("SHOW server_version"))
    finally:
        await asyncio.to_thread(postgres.stop)
        shutil.rmtree(home, ignore_errors=True)
