"""LangGraph's checkpointer on a shared psycopg pool: lean, and fenced by the thread's epoch."""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID
from weakref import WeakKeyDictionary

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
CHECKED_S = 0.25
_ONLY_TASK = "~__pregel_pull"
"""How the path of a task begins that has its step to itself, as the model's has."""


def make_pool(dsn: str, *, min_size: int = 1, max_size: int = 8, check_every_s: float = CHECKED_S) -> Pool:
    """Return the process's psycopg pool, closed: autocommit, and a connection that rested is checked before use."""
    return AsyncConnectionPool(
        dsn,
        min_size=min_size,
        max_size=max_size,
        open=False,
        configure=_prepare,
        check=_Checks(check_every_s).check,
        timeout=10,
        name="checkpoints",
    )


class _Checks:
    """Checks connections before use, but not one that was checked a moment ago: each check is a round trip."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._checked: WeakKeyDictionary[psycopg.AsyncConnection[Any], float] = WeakKeyDictionary()

    async def check(self, connection: psycopg.AsyncConnection[Any]) -> None:
        now = time.monotonic()
        if now - self._checked.get(connection, float("-inf")) > self._every_s:
            await AsyncConnectionPool.check_connection(connection)
            self._checked[connection] = now


async def _prepare(connection: psycopg.AsyncConnection[Any]) -> None:
    # Not in the pool's kwargs: procrastinate passes its own autocommit beside them when it opens its listener.
    await connection.set_autocommit(True)
    # A database that crashes loses at most its newest commits. Whatever `Database` commits waits for the disk, with
    # all that was committed before it: a claim is never there without the checkpoints that led to it.
    await connection.execute("SET synchronous_commit = off")
    if connection.info.server_version >= 170000:
        # Frozen between a fence and the sync behind it, a process holds the thread's row in no idle transaction.
        await connection.execute("SELECT set_config('transaction_timeout', %s, false)", (f"{IDLE_S}s",))


class LeanSaver(AsyncPostgresSaver):
    """A saver for one run of one thread.

    It writes only while `epoch` is the session's: a worker that froze past its lease changes nothing. It leaves out
    the two checkpoints that hold nothing but a run's input: the run is always invoked with that input again, under
    the same run id, so nothing is lost with them. Nor does it write down what a step's only task has written: the
    step's own checkpoint follows at once, and holds it.
    """

    def __init__(self, pool: Pool, session_id: UUID | None = None, epoch: int = 0) -> None:
        super().__init__(pool, serde=JsonPlusSerializer(allowed_msgpack_modules=None))
        self._session_id = session_id
        self._epoch = epoch
        self._left_out: tuple[str, str | None, ChannelVersions] | None = None
        self._has_entered = False

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        configurable: dict[str, Any] = config.get("configurable", {})
        if metadata.get("source") == "input" and "run_id" in config.get("metadata", {}):
            return self._leave_out(checkpoint, configurable, configurable.get("checkpoint_id"), new_versions)
        if self._left_out and configurable.get("checkpoint_id") == self._left_out[0]:
            _, parent, versions = self._left_out
            if not self._has_entered:
                self._has_entered = True
                return self._leave_out(checkpoint, configurable, parent, {**versions, **new_versions})
            config = {**config, "configurable": {**configurable, "checkpoint_id": parent}}
            new_versions = {**versions, **new_versions}
            self._left_out = None
        return await super().aput(config, checkpoint, metadata, new_versions)

    def _leave_out(
        self, checkpoint: Checkpoint, configurable: dict[str, Any], parent: str | None, versions: ChannelVersions
    ) -> RunnableConfig:
        self._left_out = (checkpoint["id"], parent, versions)
        return {"configurable": {**configurable, "checkpoint_id": checkpoint["id"]}}

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        if task_path.startswith(_ONLY_TASK):
            return
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
