"""How much one caller may ask of this process: token buckets, so short bursts pass and floods don't."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from uuid import UUID

from agent.throttle import TooMany

_KEPT = 10_000


@dataclass(frozen=True, slots=True)
class Quota:
    """So many a minute on average, and as many at once."""

    per_minute: int
    what: str

    def times(self, factor: int) -> "Quota":
        return replace(self, per_minute=self.per_minute * factor)


REQUESTS = Quota(600, "requests")
EXECUTES = Quota(60, "messages to the agent")
STRANGERS = Quota(60, "tries without an account")
OPERATOR = 1_000
"""The API key is the operator's own: what it may do is bounded only against a runaway loop."""


class Quotas:
    """Takes from the buckets of one process; `factor` widens them all."""

    def __init__(self, *, factor: int = 1, now: Callable[[], float] = time.monotonic) -> None:
        self._factor = factor
        self._now = now
        self._left: dict[tuple[str, UUID | str], tuple[float, float]] = {}

    def take(self, quota: Quota, who: UUID | str, *, factor: int = 1) -> None:
        """Take one, or raise TooMany with the seconds until there is one again."""
        most = quota.per_minute * self._factor * factor
        now, key = self._now(), (quota.what, who)
        left, at = self._left.get(key, (float(most), now))
        left = min(float(most), left + (now - at) * most / 60)
        if left < 1:
            wait = max(1, math.ceil((1 - left) * 60 / most))
            raise TooMany(f"Too many {quota.what}: {most} a minute is the most. Try again in {wait} s.", wait)
        if key not in self._left and len(self._left) >= _KEPT:
            self._forget(now)
        self._left[key] = (left - 1, now)

    def _forget(self, now: float) -> None:
        # A bucket that nobody touched for a minute is full again, which is what an unknown one is.
        kept = {key: entry for key, entry in self._left.items() if now - entry[1] < 60}
        self._left = dict(list(kept.items())[-_KEPT // 2 :])
