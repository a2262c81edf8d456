"""Rate limits whose counters live in PostgreSQL, so that all replicas count together."""

import asyncpg
from limits import RateLimitItem
from limits.aio.storage import Storage
from limits.aio.strategies import FixedWindowRateLimiter
from typing_extensions import override

from agent.errors import Refusal
from db import queries
from db.database import Database

sql = queries.load("accounts")


class TooMany(Refusal):
    """Too much of something; `retry_after_s` says when to try again."""

    code = "too_many_requests"

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class PostgresStorage(Storage):
    """The counters of `limits`, in a table."""

    STORAGE_SCHEME = ["opsagent-postgres"]  # noqa: RUF012 - the library's own form

    def __init__(self, database: Database) -> None:
        super().__init__()
        self._database = database

    @property
    @override
    def base_exceptions(self) -> type[Exception] | tuple[type[Exception], ...]:
        return asyncpg.PostgresError

    @override
    async def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        async with self._database.connection() as connection:
            return await connection.fetchval(sql.hit, key, amount, float(expiry))

    @override
    async def get(self, key: str) -> int:
        async with self._database.connection() as connection:
            return await connection.fetchval(sql.hits, key) or 0

    @override
    async def get_expiry(self, key: str) -> float:
        async with self._database.connection() as connection:
            return await connection.fetchval(sql.hits_expire, key) or 0.0

    @override
    async def check(self) -> bool:
        return True

    @override
    async def reset(self) -> int | None:
        return None

    @override
    async def clear(self, key: str) -> None:
        async with self._database.connection() as connection:
            await connection.execute(sql.drop_hits, key)


async def drop_old(database: Database) -> None:
    """Remove counters whose window is over: strangers can make as many as they think of names."""
    async with database.connection() as connection:
        await connection.execute(sql.drop_old_hits)


class Throttle:
    """Counts what must not come too often."""

    def __init__(self, database: Database) -> None:
        self._storage = PostgresStorage(database)
        self._limiter = FixedWindowRateLimiter(self._storage)

    async def take(self, limit: RateLimitItem, *identifiers: str, message: str) -> None:
        """Count one more, or raise TooMany."""
        if not await self._limiter.hit(limit, *identifiers):
            raise TooMany(message, limit.get_expiry())

    async def give_back(self, limit: RateLimitItem, *identifiers: str) -> None:
        """Count one less: what was taken turned out to be nothing to count."""
        await self._storage.incr(limit.key_for(*identifiers), limit.get_expiry(), -1)

    async def forget(self, limit: RateLimitItem, *identifiers: str) -> None:
        await self._limiter.clear(limit, *identifiers)
