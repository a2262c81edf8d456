"""Many messages over many threads and two worker processes: each once, in order, with none left."""

import asyncio
from pathlib import Path

from tests.fakes.worker_process import started
from tests.integration.conftest import ADMIN, Floor, running

THREADS = 50
EACH = 40


async def test_two_worker_processes_answer_every_message_once_and_in_order(dsn: str, tmp_path: Path) -> None:
    async with (
        running(dsn, work=False) as floor,
        started(dsn, tmp_path, name="one") as one,
        started(dsn, tmp_path, name="two") as two,
    ):
        threads = [await floor.session() for _ in range(THREADS)]

        async def send(thread: int) -> None:
            for number in range(EACH):
                await floor.service.submit_message(threads[thread], f"{number} in {thread}", by=ADMIN)

        await asyncio.gather(*(send(thread) for thread in range(THREADS)))
        await _all_final(floor)

        assert one.is_running
        assert two.is_running
        assert await floor.sql("SELECT status, count(*) FROM turns GROUP BY status") == [("completed", THREADS * EACH)]
        for thread, session_id in enumerate(threads):
            said = await floor.sql(
                "SELECT role, content FROM messages WHERE session_id = $1 ORDER BY position", session_id
            )
            expected = []
            for number in range(EACH):
                expected += [
                    ("user", f"{number} in {thread}"),
                    ("assistant", f"answer {number + 1}: {number} in {thread}"),
                ]
            assert [tuple(row) for row in said] == expected
        assert await floor.sql("SELECT 1 FROM procrastinate_jobs WHERE task_name = 'advance'") == []


async def _all_final(floor: Floor) -> None:
    async with asyncio.timeout(240):
        while await floor.sql("SELECT 1 FROM turns WHERE finished_at IS NULL LIMIT 1"):
            await asyncio.sleep(0.1)
        while await floor.sql("SELECT 1 FROM procrastinate_jobs WHERE task_name = 'advance' LIMIT 1"):
            await asyncio.sleep(0.05)
