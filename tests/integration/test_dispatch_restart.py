"""The database dies and comes back in the middle of the work: the same worker process goes on by itself."""

import asyncio
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import asyncpg
import psutil
import pytest

from db.migrate import migrate
from opsagent.embedded import EmbeddedPostgres
from tests.fakes.worker_process import started
from tests.integration.conftest import ADMIN, Floor, running

THREADS, EACH = 10, 6


class OwnServer:
    """A server that a test may kill."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._users: list[EmbeddedPostgres] = []
        self.dsn = self.start()

    def start(self) -> str:
        self._users.append(EmbeddedPostgres())
        return self._users[-1].start(self._home)

    def kill(self) -> None:
        """Immediate shutdown: what was not committed is gone, and nobody is told."""
        pid = int((self._home / "postgres" / "data" / "postmaster.pid").read_text().splitlines()[0])
        postmaster = psutil.Process(pid)
        os.kill(pid, signal.SIGQUIT)
        while postmaster.is_running() and postmaster.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)

    def stop(self) -> None:
        for user in self._users:
            user.stop()


@pytest.fixture
def own_server() -> Iterator[OwnServer]:
    # Not under tmp_path: each pytest that starts closes its root to other users, and as root the server runs as one.
    home = Path(tempfile.mkdtemp(prefix="opsagent-tests-"))
    server = OwnServer(home)
    yield server
    server.stop()
    shutil.rmtree(home, ignore_errors=True)


async def send(floor: Floor, session_id: UUID, text: str) -> None:
    """Submit until it is stored, as a client with an idempotency key does."""
    async with asyncio.timeout(240):
        while True:
            try:
                await floor.service.submit_message(session_id, text, by=ADMIN, event_key=f"{session_id}/{text}")
                return
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
                await asyncio.sleep(0.2)


async def test_every_message_is_answered_once_across_a_restart_of_the_database(
    own_server: OwnServer, tmp_path: Path
) -> None:
    await migrate(own_server.dsn)
    async with running(own_server.dsn, work=False) as floor, started(own_server.dsn, tmp_path) as worker:
        threads = [await floor.session() for _ in range(THREADS)]
        steps = '{{tool uptime {"service": "web"}}} {{next tool uptime {"service": "db"}}}'

        async def talk(session_id: UUID) -> None:
            for number in range(EACH):
                await send(floor, session_id, f"{number} {steps}")

        talking = asyncio.gather(*(talk(session_id) for session_id in threads))
        async with asyncio.timeout(45):
            while len(worker.ran()) < 5:
                await asyncio.sleep(0.01)
        await asyncio.wait_for(asyncio.to_thread(own_server.kill), 45)
        async with asyncio.timeout(45):
            while not worker.logged("database.listen_lost"):
                await asyncio.sleep(0.05)
        await asyncio.to_thread(own_server.start)
        await talking
        await _all_final(floor)

        assert worker.is_running, worker.log()
        assert await floor.sql("SELECT status, count(*) FROM turns GROUP BY status") == [("completed", THREADS * EACH)]
        for session_id in threads:
            said = await floor.sql(
                "SELECT content FROM messages WHERE session_id = $1 AND role = 'user' ORDER BY position", session_id
            )
            assert [row["content"] for row in said] == [f"{number} {steps}" for number in range(EACH)]
        answers = await floor.sql(
            "SELECT turn_id FROM messages WHERE role = 'assistant' AND tool_calls IS NULL"
            " GROUP BY turn_id HAVING count(*) = 1"
        )
        assert len(answers) == THREADS * EACH


async def _all_final(floor: Floor) -> None:
    async with asyncio.timeout(240):
        while True:
            try:
                if not await floor.sql("SELECT 1 FROM turns WHERE finished_at IS NULL LIMIT 1"):
                    return
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                pass
            await asyncio.sleep(0.1)
