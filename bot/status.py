"""The thread's status in Slack's own interface: a courtesy that delays nothing and may fail."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable

import structlog
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient

from bot.client import FAILURES, code_of
from bot.errands import Errands
from bot.payloads import Place

log = structlog.get_logger()

PROCESSING, SUSPENDED, ACTIVE = "processing", "suspended", "active"
_TIMEOUT_S = 10.0
EVERY_S = 1.0
"""The pause between two lines of one thread."""
_THREADS = 1_000
"""Threads whose line is remembered, to be taken away at the end."""


class ThreadStatus:
    """Tells Slack the newest status of each thread; what was overtaken meanwhile is never sent."""

    def __init__(self, client: AsyncWebClient, errands: Errands) -> None:
        self._client = client
        self._errands = errands
        self._wanted: dict[Place, str] = {}
        self._lines: dict[Place, str] = {}
        self._said: OrderedDict[Place, None] = OrderedDict()
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

    def say(self, place: Place, text: str) -> None:
        """Have the line under the thread read like this soon, and be gone where it is empty; returns at once."""
        if not text and place not in self._said:
            return
        self._said[place] = None
        self._said.move_to_end(place)
        if len(self._said) > _THREADS:
            self._said.popitem(last=False)
        under_way = place in self._lines
        self._lines[place] = text
        if not under_way:
            self._errands.run(self._send_line(place))

    async def _send_line(self, place: Place) -> None:
        sent = None
        try:
            while (text := self._lines[place]) != sent:
                await self._attempt(
                    self._client.assistant_threads_setStatus(
                        channel_id=place.channel, thread_ts=place.thread_ts, status=text
                    )
                )
                sent = text
                if not text:
                    self._said.pop(place, None)
                await asyncio.sleep(EVERY_S)
        finally:
            del self._lines[place]

    async def _tell(self, place: Place, status: str) -> None:
        await self._attempt(
            self._client.agents_sessions_setStatus(channel_id=place.channel, thread_ts=place.thread_ts, status=status)
        )

    async def _attempt(self, call: Awaitable[object]) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await call
        except FAILURES as error:
            reason = code_of(error) if isinstance(error, SlackApiError) else type(error).__name__
            if reason not in self._logged:
                self._logged.add(reason)
                log.info("slack.status_failed", reason=reason)
