"""Ending tasks that hold something: nobody leaves before they have let go."""

import asyncio
from collections.abc import Iterable
from typing import Any


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel the tasks and wait until all have ended, also while being cancelled ourselves."""
    ending = {task for task in tasks if not task.done()}
    for task in ending:
        task.cancel()
    await outlast(ending)


async def outlast(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Wait until all tasks have ended; a cancellation meanwhile is raised only then."""
    pending = {task for task in tasks if not task.done()}
    cancelled: asyncio.CancelledError | None = None
    while pending:
        try:
            _, pending = await asyncio.wait(pending)
        except asyncio.CancelledError as again:
            cancelled = again
            pending = {task for task in pending if not task.done()}
    if cancelled is not None:
        raise cancelled
