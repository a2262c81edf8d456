"""Operators' figures in Prometheus' text format: of this process, and of all that waits in the database."""

import asyncio
import time
from collections.abc import Iterator

import structlog
from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import Scope
from typing_extensions import override

from agent.figures import Figures
from agent.service import AgentService

log = structlog.get_logger()

FRESH_S = 2.0
"""How old the database's counts may be: whoever asks more often gets the same again."""
_READ_S = 5.0
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """What one HTTP app has counted, and what it can read of the rest."""

    def __init__(self, service: AgentService, release: str) -> None:
        self._service = service
        self._registry = CollectorRegistry()
        self._reading = asyncio.Lock()
        self._read_at = float("-inf")
        self._figures: Figures | None = None
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)
        Info("opsagent_build", "The release that runs.", registry=self._registry).info({"version": release})
        self._requests = Histogram(
            "opsagent_http_request_seconds",
            "Time to the end of an HTTP answer, by route.",
            ["method", "route", "status"],
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._registry.register(_Reported(self))

    @property
    def figures(self) -> Figures | None:
        """What was read last; None where the database could not be asked."""
        return self._figures

    def count(self, scope: Scope, status: int, taken_s: float) -> None:
        """Note one answered request, under its route's pattern: a path would make as many series as there are ids."""
        method = scope["method"] if scope["method"] in _METHODS else "other"
        route = getattr(scope.get("route"), "path", None) or "other"
        self._requests.labels(method, route, str(status)).observe(taken_s)

    async def render(self) -> bytes:
        """Return everything in the text format."""
        async with self._reading:
            if time.monotonic() - self._read_at > FRESH_S:
                self._figures = await self._read()
                self._read_at = time.monotonic()
            return generate_latest(self._registry)

    async def _read(self) -> Figures | None:
        try:
            async with asyncio.timeout(_READ_S):
                return await self._service.read_figures()
        except Exception as error:  # noqa: BLE001 - a scrape tells of a database that is away, it does not fail with it
            log.warning("metrics.not_read", error=type(error).__name__)
            return None


class _Reported(Collector):
    """The figures that were read last, as metrics."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    @override
    def collect(self) -> Iterator[Metric]:
        found = self._metrics.figures
        yield GaugeMetricFamily("opsagent_database_up", "Whether the database answered.", value=int(found is not None))
        if found is None:
            return
        yield _by("opsagent_turns", "Turns that aren't final.", "status", found.turns)
        yield GaugeMetricFamily("opsagent_approvals_pending", "Calls that wait for people.", value=found.approvals)
        yield GaugeMetricFamily(
            "opsagent_approvals_oldest_seconds", "How long the first of them has waited.", value=found.oldest_approval_s
        )
        yield GaugeMetricFamily(
            "opsagent_deliveries_behind", "Sessions of which Slack lacks something.", value=found.deliveries
        )
        yield GaugeMetricFamily("opsagent_jobs_waiting", "Threads that wait for a worker.", value=found.jobs)
        yield GaugeMetricFamily(
            "opsagent_tools_quarantined", "Changed tools that wait for an admin.", value=found.quarantined
        )
        servers = {"true": found.servers_up, "false": found.servers_down}
        yield _by("opsagent_mcp_servers", "MCP servers, by whether every worker reaches them.", "connected", servers)
        events = CounterMetricFamily(
            "opsagent_events", "Events of all sessions that this process heard of.", labels=["kind"]
        )
        for kind, count in sorted(found.events.items()):
            events.add_metric([kind], count)
        yield events
        yield CounterMetricFamily(
            "opsagent_pool_waited_seconds", "Time spent waiting for a database connection.", value=found.pool_waited_s
        )
        yield CounterMetricFamily(
            "opsagent_pool_acquired", "Database connections taken from the pool.", value=found.pool_acquired
        )


def _by(name: str, says: str, label: str, values: dict[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, says, labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    return family
