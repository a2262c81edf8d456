"""The service's part for operators: what waits, over all processes, and what this one has seen."""

from dataclasses import dataclass

from agent.house import Part
from agent.servers import FRESH_S
from agent.types import TurnStatus
from db import queries

sql = queries.load("figures")


@dataclass(frozen=True, slots=True)
class Figures:
    """Counts without names; everything but the last three is the same wherever it is asked."""

    turns: dict[str, int]
    """Those that aren't final, by status."""
    approvals: int
    oldest_approval_s: float
    """0 where nothing waits for people."""
    deliveries: int
    """Sessions of which a door has not shown everything."""
    jobs: int
    """Threads that wait for a worker."""
    quarantined: int
    servers_up: int
    servers_down: int
    events: dict[str, int]
    """Events of all sessions by kind, since this process listens."""
    pool_waited_s: float
    pool_acquired: int


class Reporting(Part):
    """Telling operators how much there is of what."""

    async def read_figures(self) -> Figures:
        """Return the figures of now; a handful of index reads."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow(sql.read)
            servers = await connection.fetchrow(sql.servers, FRESH_S)
        waiting = (TurnStatus.QUEUED, TurnStatus.RUNNING, TurnStatus.AWAITING_APPROVAL)
        return Figures(
            turns={status.value: row[status.value] for status in waiting},
            approvals=row["approvals"],
            oldest_approval_s=row["oldest_approval_s"],
            deliveries=row["deliveries"],
            jobs=row["jobs"],
            quarantined=row["quarantined"],
            servers_up=servers["up"],
            servers_down=servers["down"],
            events=dict(self._house.hub.heard),
            pool_waited_s=self._database.waited,
            pool_acquired=self._database.acquired,
        )
