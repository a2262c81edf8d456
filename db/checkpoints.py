"""LangGraph's checkpointer on a shared psycopg pool: lean, and fenced by the thread's epoch."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import psycopg
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import ChannelVersions, Checkpoint, CheckpointMetadata
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from psycopg import AsyncCursor
from psycopg.rows import DictRow
from psycopg_pool import AsyncConnectionPool

from db.database import FENCED, IDLE_S, Fenced

Pool = AsyncConnectionPool[Any]


def make_pool(dsn: str, *, min_size: int = 1, max_size: int = 8) -> Pool:
    """Return the process's psycopg pool, closed: autocommit, and every connection checked before use."""
    return AsyncConnectionPool(
        dsn,
        min_size=min_size,
        max_size=max_size,
        open=False,
        configure=_autocommit,
        check=AsyncConnectionPool.check_connection,
        timeout=10,
        name="checkpoints",
    )


async def _autocommit(connection: psycopg.AsyncConnection[Any]) -> None:
    # Not in the pool's kwargs: procrastinate passes its own autocommit beside them when it opens its listener.
    await connection.set_autocommit(True)
    if connection.info.server_version >= 170000:
        # Frozen between a fence and the sync behind it, a process holds the thread's row in no idle transaction.
        await connection.execute(f"SET transaction_timeout = '{IDLE_S}s'")


class LeanSaver(AsyncPostgresSaver):
    """A saver for one run of one thread.

    It writes only while `epoch` is the session's: a worker that froze past its lease changes nothing. It leaves out
    the checkpoint that holds nothing but a run's input: the run is always invoked with that input again, under the
    same run id, so nothing is lost with it.
    """

    def __init__(self, pool: Pool, session_id: UUID | None = None, epoch: int = 0) -> None:
        super().__init__(pool, serde=JsonPlusSerializer(allowed_msgpack_modules=None))
        self._session_id = session_id
        self._epoch = epoch
        self._left_out: tuple[str, str | None, ChannelVersions] | None = None

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        configurable: dict[str, Any] = config.get("configurable", {})
        if metadata.get("source") == "input" and "run_id" in config.get("metadata", {}):
            self._left_out = (checkpoint["id"], configurable.get("checkpoint_id"), new_versions)
            return {"configurable": {**configurable, "checkpoint_id": checkpoint["id"]}}
        if self._left_out and configurable.get("checkpoint_id") == self._left_out[0]:
            _, parent, versions = self._left_out
            config = {**config, "configurable": {**configurable, "checkpoint_id": parent}}
            new_versions = {**versions, **new_versions}
            self._left_out = None
        return await super().aput(config, checkpoint, metadata, new_versions)

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        if self._left_out and config.get("configurable", {}).get("checkpoint_id") == self._left_out[0]:
            return
        await super().aput_writes(config, writes, task_id, task_path)

    @asynccontextmanager
    async def _cursor(self, *, pipeline: bool = False) -> AsyncGenerator[AsyncCursor[DictRow]]:
        try:
            async with super()._cursor(pipeline=pipeline) as cursor:
                if pipeline and self._session_id is not None:
                    # In the same implicit transaction as the writes behind it: the pipeline's one sync ends both.
                    await cursor.execute("SELECT opsagent_fence(%s, %s)", (self._session_id, self._epoch))
                yield cursor
        except psycopg.Error as error:
            if error.sqlstate == FENCED:
                raise Fenced(str(error)) from error
            raise
