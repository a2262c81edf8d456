"""Who tokens are, remembered for seconds and never past a change."""

import time
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from agent.tokens import hashed
from agent.types import Principal

_CACHED_S = 30.0
_CACHED = 10_000


@dataclass(frozen=True, slots=True)
class Authenticated:
    """Who a credential is; `scopes` None means all that the role may do."""

    principal: Principal
    scopes: frozenset[str] | None
    expires_at: datetime | None
    login_at: datetime | None = None
    """When a password was entered for it; None for keys and service tokens."""


class Identities:
    """Who tokens are, remembered briefly; a change of a user's row, on any replica, forgets them at once."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[float, Authenticated]] = {}
        self.generation = 0

    def get(self, token: str) -> Authenticated | None:
        entry = self._known.get(hashed(token))
        if entry is None or entry[0] < time.monotonic() or _is_over(entry[1]):
            return None
        return entry[1]

    def put(self, token: str, found: Authenticated, seen: int) -> None:
        """Remember, unless some user's row changed since `seen`: what was read may be older than the change."""
        if seen != self.generation:
            return
        if len(self._known) >= _CACHED:
            self._known.clear()
        self._known[hashed(token)] = (time.monotonic() + _CACHED_S, found)

    def forget(self, user_id: UUID | None) -> None:
        """Forget a user, or everybody where it can't be told who changed."""
        self.generation += 1
        if user_id is None:
            self._known.clear()
            return
        self._known = {key: entry for key, entry in self._known.items() if entry[1].principal.user_id != user_id}


def _is_over(found: Authenticated) -> bool:
    return found.expires_at is not None and found.expires_at.timestamp() <= time.time()
