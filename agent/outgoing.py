"""The service's part for doors that render events into places of their own, such as Slack threads."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from agent import deliveries
from agent.deliveries import LEASE_S, Delivery, Post
from agent.house import Part


class Outgoing(Part):
    """Deliveries and posts: what a presenter needs so that nothing is lost and nothing is posted twice."""

    async def lease_deliveries(
        self, door: str, owner: UUID, *, limit: int = 20, only: UUID | None = None
    ) -> list[Delivery]:
        """Take sessions with events that the door has not rendered; exclusive over all replicas for 30 s."""
        async with self._database.connection() as connection:
            return await deliveries.lease(connection, door, owner, limit=limit, only=only)

    async def renew_delivery(self, session_id: UUID, owner: UUID) -> bool:
        """Return False where the lease is another's by now."""
        async with self._database.connection() as connection:
            return await connection.fetchval(deliveries.sql.renew, session_id, owner, LEASE_S) is not None

    async def finish_delivery(self, session_id: UUID, owner: UUID, *, delivered_seq: int) -> bool:
        """Advance the cursor; True where more events have come meanwhile, and the lease is kept."""
        async with self._database.transaction() as tx:
            return await deliveries.finish(tx, session_id, owner, delivered_seq=delivered_seq)

    async def retry_delivery(self, session_id: UUID, owner: UUID, *, delivered_seq: int, after_s: float) -> None:
        async with self._database.transaction() as tx:
            await deliveries.retry(tx, session_id, owner, delivered_seq=delivered_seq, after_s=after_s)

    async def begin_post(self, session_id: UUID, key: str, digest: str) -> Post:
        """Record the intention before the post is made. Begun before and without a ref: a crash lay between post and
        record, so look before posting again."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow(deliveries.sql.begin_post, session_id, key, digest)
            return Post(row["key"], row["ref"], row["digest"], row["begun_before"])

    async def record_post(self, session_id: UUID, key: str, ref: dict[str, Any], digest: str) -> None:
        async with self._database.connection() as connection:
            await connection.execute(deliveries.sql.record_post, session_id, key, ref, digest)

    async def find_post(self, session_id: UUID, key: str) -> Post | None:
        async with self._database.connection() as connection:
            row = await connection.fetchrow(deliveries.sql.find_post, session_id, key)
            return Post(row["key"], row["ref"], row["digest"]) if row else None

    @asynccontextmanager
    async def watch_door(self, door: str) -> AsyncGenerator[asyncio.Queue[UUID | None]]:
        """A queue of sessions with new events for the door; None means: look at everything."""
        async with self._house.hub.watch_door(door) as queue:
            yield queue
