"""Time limits that stand still while people are waited for."""

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager


class Clock:
    """Holds the limits of one run, or of one call within it; stopping a call's clock stops its run's as well."""

    def __init__(self, above: "Clock | None" = None) -> None:
        self._above = above
        self._left: dict[asyncio.Timeout, float | None] = {}
        self._stops = 0

    @asynccontextmanager
    async def within(self, limit: asyncio.Timeout) -> AsyncGenerator[None]:
        """Run the block under the limit, not counting the time for which this clock is stopped."""
        async with limit:
            self._left[limit] = None
            if self._stops:
                self._stop(limit)
            try:
                yield
            finally:
                del self._left[limit]

    @contextmanager
    def stopped(self) -> Generator[None]:
        """Stop the clock for the block; it goes on when the last of several such blocks has ended."""
        self._stops += 1
        if self._stops == 1:
            for limit in self._left:
                self._stop(limit)
        try:
            if self._above is None:
                yield
            else:
                with self._above.stopped():
                    yield
        finally:
            self._stops -= 1
            if self._stops == 0:
                for limit, left in self._left.items():
                    if left is not None and not limit.expired():
                        limit.reschedule(asyncio.get_running_loop().time() + left)

    def _stop(self, limit: asyncio.Timeout) -> None:
        when = limit.when()
        if when is not None and not limit.expired():
            self._left[limit] = when - asyncio.get_running_loop().time()
            limit.reschedule(None)
