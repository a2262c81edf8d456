"""Socket Mode: Slack's requests over a connection that this side opens."""

import asyncio
from typing import Any

import structlog
from slack_bolt.adapter.socket_mode.aiohttp import AsyncSocketModeHandler
from slack_bolt.async_app import AsyncApp
from slack_sdk.errors import SlackApiError

from bot.check import SlackTokenRejected
from bot.client import FAILURES, TOKEN_REJECTED, code_of, web_client

log = structlog.get_logger()

PING_S = 10.0
GRACE_S = 3.0
_LONGEST_WAIT_S = 30.0


async def run(app: AsyncApp, app_token: str) -> None:
    """Keep a connection to Slack until cancelled. Raises SlackTokenRejected where the app token is wrong."""
    url = await _first_url(app, app_token)
    handler = _Handler(app, app_token, web_client=web_client(None, app.client.base_url), ping_interval=PING_S)
    try:
        handler.client.wss_uri = url
        await handler.connect_async()
        log.info("slack.connected")
        await asyncio.Event().wait()
    finally:
        await handler.close()


async def _first_url(app: AsyncApp, app_token: str) -> str:
    """Ask for the first connection ourselves: the client would repeat a wrong token for ever."""
    client = web_client(None, app.client.base_url)
    wait = 1.0
    while True:
        try:
            return str((await client.apps_connections_open(app_token=app_token))["url"])
        except FAILURES as error:
            code = code_of(error) if isinstance(error, SlackApiError) else type(error).__name__
            if code in TOKEN_REJECTED | {"missing_scope"}:
                raise SlackTokenRejected(
                    f"Slack rejects SLACK_APP_TOKEN ({code}): make an app-level token with the scope connections:write."
                ) from error
            log.warning("slack.connect_failed", reason=code, again_in_s=wait)
        await asyncio.sleep(wait)
        wait = min(wait * 2, _LONGEST_WAIT_S)


class _Handler(AsyncSocketModeHandler):
    """Bolt's handler, which also finishes and acks what is under way when it closes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._under_way: set[asyncio.Task[Any]] = set()

    async def handle(self, client: Any, req: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._under_way.add(task)
        try:
            await super().handle(client, req)
        finally:
            self._under_way.discard(task)

    async def close(self) -> None:
        if self._under_way:
            await asyncio.wait(set(self._under_way), timeout=GRACE_S)
        await self.close_async()
