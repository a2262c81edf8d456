"""The thread's status in Slack's own interface: a courtesy that delays nothing and may fail."""

import asyncio

import structlog
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient

from bot.client import FAILURES, code_of
from bot.errands import Errands
from bot.payloads import Place

log = structlog.get_logger()

PROCESSING, SUSPENDED, ACTIVE = "processing", "suspended", "active"
_TIMEOUT_S = 10.0


class ThreadStatus:
    """Tells Slack the newest status of each thread; what was overtaken meanwhile is never sent."""

    def __init__(self, client: AsyncWebClient, errands: Errands) -> None:
        self._client = client
        self._errands = errands
        self._wanted: dict[Place, str] = {}
        self._logged: set[str] = set()

    def show(self, place: Place, status: str) -> None:
        """Have the thread show this status soon; returns at once."""
        under_way = place in self._wanted
        self._wanted[place] = status
        if not under_way:
            self._errands.run(self._send(place))

    async def _send(self, place: Place) -> None:
        sent = None
        try:
            while (status := self._wanted[place]) != sent:
                await self._tell(place, status)
                sent = status
        finally:
            del self._wanted[place]

    async def _tell(self, place: Place, status: str) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await self._client.agents_sessions_setStatus(
                    channel_id=place.channel, thread_ts=place.thread_ts, status=status
                )
        except FAILURES as error:
            reason = code_of(error) if isinstance(error, SlackApiError) else type(error).__name__
            if reason not in self._logged:
                self._logged.add(reason)
                log.info("slack.status_failed", reason=reason)
