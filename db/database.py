"""Our tables' door: one asyncpg pool, transactions, and LISTEN on a connection of its own."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
import structlog

log = structlog.get_logger()

Tx = Any  # asyncpg's pooled connection inside a transaction; its stubs name no public type for it
FENCED = "OP001"
IDLE_S = 10


class DatabaseUnreachable(Exception):
    """No connection could be made; the message says to what and why, without a password."""


class Fenced(Exception):
    """This worker's lease on the thread is over: another one has it, and nothing was written."""


class Database:
    """The pool of one process; `waited` sums the seconds that queries waited for a connection."""

    def __init__(self, dsn: str, *, min_size: int = 2, max_size: int = 10) -> None:
        self.dsn = dsn
        self._sizes = (min_size, max_size)
        self._pool: asyncpg.Pool | None = None
        self.waited = 0.0
        self.acquired = 0

    async def open(self) -> None:
        """Connect; raises DatabaseUnreachable with one sentence."""
        try:
            self._pool = await asyncpg.create_pool(
                self.dsn,
                min_size=self._sizes[0],
                max_size=self._sizes[1],
                command_timeout=30,
                timeout=10,
                init=_prepare,
                reset=_leave,
            )
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError, ValueError) as error:
            raise DatabaseUnreachable(
                f"The database cannot be reached ({type(error).__name__}: {error}): "
                "check DATABASE_URL and that PostgreSQL runs."
            ) from error

    async def close(self) -> None:
        if self._pool:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._pool.close(), 5)
            self._pool.terminate()
            self._pool = None

    @property
    def pool(self) -> asyncpg.Pool:
        if self._pool is None:
            raise RuntimeError("The database is not open.")
        return self._pool

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[Tx]:
        """A pooled connection, each statement its own transaction."""
        begun = time.monotonic()
        async with self.pool.acquire() as connection:
            self.waited += time.monotonic() - begun
            self.acquired += 1
            try:
                yield connection
            except asyncpg.PostgresError as error:
                if getattr(error, "sqlstate", None) == FENCED:
                    raise Fenced(str(error)) from error
                raise

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Tx]:
        """One transaction; committed at the end of the block, rolled back by an exception."""
        async with self.connection() as connection, connection.transaction():
            yield connection

    async def listen(self, heard: dict[str, Callable[[str | None], None]]) -> None:
        """Call `heard[channel](payload)` for each notification until cancelled, and each with None after a (re)connect,
        because whatever was notified in between was missed."""
        while True:
            connection: Any = None
            try:
                connection = await asyncpg.connect(self.dsn, timeout=10)
                for channel in heard:
                    await connection.add_listener(channel, lambda *args: heard[args[2]](str(args[3])))
                for tell in heard.values():
                    tell(None)
                while not connection.is_closed():
                    await asyncio.sleep(2)
                    await connection.execute("SELECT 1", timeout=10)
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
                log.warning("database.listen_lost", error=type(error).__name__)
                await asyncio.sleep(0.5)
            finally:
                if connection is not None:
                    connection.terminate()


async def _prepare(connection: Any) -> None:
    # A process that freezes inside a transaction must not keep its thread's row locked for ever.
    await connection.execute(f"SET idle_in_transaction_session_timeout = '{IDLE_S}s'")
    for name in ("json", "jsonb"):
        await connection.set_type_codec(name, encoder=json.dumps, decoder=json.loads, schema="pg_catalog")


async def _leave(_connection: Any) -> None:
    """Give a connection back as it is: asyncpg has ended its transaction, nothing of ours outlives one, and its own
    reset would cost a round trip for each use."""
