"""The service's part for the audit log."""

from collections.abc import AsyncGenerator
from uuid import UUID

from agent import audit
from agent.accounts import AdminsOnly
from agent.audit import Entry, Verdict
from agent.house import Part, after, cursor_of
from agent.types import Page, Principal, Role

_NEWEST = 2**62


class Records(Part):
    """Reading and checking the audit log; it is written where things happen."""

    async def read_audit(
        self,
        *,
        by: Principal,
        kind: str | None = None,
        actor: UUID | None = None,
        subject: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page[Entry]:
        """Return entries, newest first; of several filters, actor counts before subject before kind."""
        _admin(by)
        async with self._database.connection() as connection:
            found = await audit.read(
                connection, before=after(cursor) or _NEWEST, limit=limit + 1, kind=kind, actor=actor, subject=subject
            )
        more = len(found) > limit
        return Page(found[:limit], cursor_of(found[limit - 1].id) if more else None)

    async def export_audit(self, *, by: Principal) -> AsyncGenerator[Entry]:
        """Yield every entry, oldest first, in parts of its own transactions."""
        _admin(by)
        last = 0
        while True:
            async with self._database.connection() as connection:
                part = await audit.read_on(connection, behind=last, limit=1000)
            for entry in part:
                yield entry
            if not part:
                return
            last = part[-1].id

    async def verify_audit(self, *, by: Principal) -> Verdict:
        """Compute the whole chain again."""
        _admin(by)
        return await audit.verify(self._database)


def _admin(by: Principal) -> None:
    if by.role is not Role.ADMIN:
        raise AdminsOnly("Only an admin may see the audit log.")
