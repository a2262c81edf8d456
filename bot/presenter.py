"""The presenter: takes what Slack has not yet seen of each session, renders it in order, and says how far it came."""

import asyncio
import contextlib
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import aiohttp
import structlog
from slack_sdk.web.async_client import AsyncWebClient

from bot.client import TryLater, web_client
from bot.errands import Errands
from bot.payloads import DOOR, Place
from bot.posting import Poster
from bot.rendering import HAS_SEQUEL, Renderer, drawings
from bot.status import ThreadStatus

if TYPE_CHECKING:
    from agent.deliveries import Delivery
    from agent.service import AgentService

log = structlog.get_logger()

SWEEP_S = 5.0
RENEW_S = 5.0
AT_ONCE = 20
"""Deliveries under way at the same time."""
GRACE_S = 5.0
_LONGEST_WAIT_S = 60.0
_REQUEST_TIMEOUT_S = 30.0
SEQUEL_S = 0.05


class Presenter:
    """Tails the event log for Slack. Any number may run: each session is leased to one of them."""

    def __init__(self, service: "AgentService", client: AsyncWebClient, errands: Errands) -> None:
        self._service = service
        own = web_client(client.token, client.base_url)
        self._poster = Poster(service, own)
        self._renderer = Renderer(
            service, self._poster, ThreadStatus(web_client(client.token, client.base_url, repeats=False), errands)
        )
        self._owner = uuid4()
        self._under_way: dict[UUID, asyncio.Task[None]] = {}
        self._crowded = False

    async def run(self) -> None:
        """Deliver until cancelled; what is being delivered then is finished, or left to whoever comes next."""
        timeout = aiohttp.ClientTimeout(total=_REQUEST_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            for client in self._poster.clients:
                client.session = session
            try:
                async with self._service.watch_door(DOOR) as news:
                    await self._follow(news)
            finally:
                await self._finish()

    async def _follow(self, news: "asyncio.Queue[UUID | None]") -> None:
        news.put_nowait(None)
        while True:
            for only in await _heard(news):
                await self._sweep(news, only)

    async def _sweep(self, news: "asyncio.Queue[UUID | None]", only: UUID | None) -> None:
        free = AT_ONCE - len(self._under_way)
        if free <= 0:
            self._crowded = True
            return
        try:
            leased = await self._service.lease_deliveries(DOOR, self._owner, limit=free, only=only)
        except Exception as error:  # noqa: BLE001 - one sweep: the next comes in seconds
            log.warning("delivery.sweep_failed", error=type(error).__name__)
            return
        self._crowded = self._crowded or len(leased) == free
        for delivery in leased:
            self._start(news, delivery)

    def _start(self, news: "asyncio.Queue[UUID | None]", delivery: "Delivery") -> None:
        # One that has just given its lease back may still be on its last lines.
        before = self._under_way.get(delivery.session_id)
        task = asyncio.create_task(self._deliver(delivery, before))
        self._under_way[delivery.session_id] = task

        def ended(_: asyncio.Task[None]) -> None:
            if self._under_way.get(delivery.session_id) is task:
                del self._under_way[delivery.session_id]
            if self._crowded:
                self._crowded = False
                news.put_nowait(None)

        task.add_done_callback(ended)

    async def _deliver(self, delivery: "Delivery", before: asyncio.Task[None] | None) -> None:
        """Render a session's events until there are no more; keep the lease meanwhile."""
        task = asyncio.current_task()
        assert task is not None
        keeper = asyncio.create_task(self._keep(delivery.session_id, task))
        progress = _Progress(delivery.delivered_seq)
        try:
            if before is not None:
                await asyncio.wait([before])
            await self._render(delivery, progress)
        except TryLater as error:
            await self._later(delivery, progress, reason=str(error))
        except asyncio.CancelledError:
            await self._later(delivery, progress, reason="stopped", after_s=0.0)
        except Exception as error:  # one delivery: the others go on, and it comes back
            log.error("delivery.failed", session_id=str(delivery.session_id), exc_info=error)
            await self._later(delivery, progress, reason=type(error).__name__)
        finally:
            keeper.cancel()

    async def _render(self, delivery: "Delivery", progress: "_Progress") -> None:
        session_id = delivery.session_id
        place = Place.of(delivery.address)
        more = True
        while more:
            events = await self._service.read_events(session_id, after=progress.seq)
            if events and events[-1].kind in HAS_SEQUEL:
                # Drawn a moment later, the card is drawn once for all of it, and the call starts undisturbed.
                await asyncio.sleep(SEQUEL_S)
                events = await self._service.read_events(session_id, after=progress.seq)
            drawn = drawings(events)
            for event in events:
                await self._renderer.render(place, event, draws=drawn.get(event.seq, ()))
                progress.seq = event.seq
            more = await self._service.finish_delivery(session_id, self._owner, delivered_seq=progress.seq)
            if more and not events:
                # What was to come has been cleared meanwhile: ask again at leisure, not in a loop.
                raise TryLater("nothing_to_read")

    async def _later(
        self, delivery: "Delivery", progress: "_Progress", *, reason: str, after_s: float | None = None
    ) -> None:
        wait = min(_LONGEST_WAIT_S, 2.0 ** min(delivery.attempts, 6)) if after_s is None else after_s
        log.info("delivery.postponed", session_id=str(delivery.session_id), reason=reason, after_s=wait)
        try:
            await self._service.retry_delivery(
                delivery.session_id, self._owner, delivered_seq=progress.seq, after_s=wait
            )
        except Exception as error:  # noqa: BLE001 - one delivery: its lease runs out, and a sweep finds it
            log.warning("delivery.not_returned", session_id=str(delivery.session_id), error=type(error).__name__)

    async def _keep(self, session_id: UUID, delivery: asyncio.Task[None]) -> None:
        """Renew the lease; a delivery that lost it stops, as another presenter may be at it."""
        while True:
            await asyncio.sleep(RENEW_S)
            try:
                kept = await self._service.renew_delivery(session_id, self._owner)
            except Exception as error:  # noqa: BLE001 - one delivery: the lease outlasts two failed renewals
                log.warning("delivery.renewal_failed", session_id=str(session_id), error=type(error).__name__)
                continue
            if not kept:
                log.warning("delivery.lease_lost", session_id=str(session_id))
                delivery.cancel()
                return

    async def _finish(self) -> None:
        tasks = set(self._under_way.values())
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=GRACE_S)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)


class _Progress:
    """How far a delivery has come."""

    def __init__(self, seq: int) -> None:
        self.seq = seq


async def _heard(news: "asyncio.Queue[UUID | None]") -> list[UUID | None]:
    """Return which sessions have news, each once; None alone, after a while of silence or when all may have."""
    heard: set[UUID | None] = set()
    # Not wait_for: until Python 3.12 it swallows a cancellation that comes together with the news.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SWEEP_S):
            heard.add(await news.get())
    while not news.empty():
        heard.add(news.get_nowait())
    return [None] if not heard or None in heard else list(heard)
