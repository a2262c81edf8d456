"""What is done for someone after their request was answered: held, logged, and waited for at shutdown."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

log = structlog.get_logger()


class Errands:
    """Background tasks that neither the garbage collector nor a shutdown loses."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def run(self, errand: Coroutine[Any, Any, None]) -> None:
        """Start it now; a failure is logged and harms nobody."""
        task = asyncio.create_task(self._watched(errand))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def drain(self, timeout: float = 5.0) -> None:
        """Wait for what is under way; what takes longer is cancelled."""
        if not self._tasks:
            return
        _, late = await asyncio.wait(set(self._tasks), timeout=timeout)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def _watched(self, errand: Coroutine[Any, Any, None]) -> None:
        try:
            await errand
        except Exception as error:  # noqa: BLE001 - one delivery: nobody waits for it who could be told
            log.warning("slack.errand_failed", errand=errand.__qualname__, error=type(error).__name__)
