"""The Slack door as it stands in a process: the real Bolt app on a loopback port, and a fake Slack that signs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from slack_bolt.async_app import AsyncApp, AsyncBoltRequest

from bot.bolt import build_bolt
from bot.errands import Errands
from tests.fakes.slack import FakeSlack


@dataclass
class Door:
    """The door, with what it stands between."""

    slack: FakeSlack
    service: Any
    app: AsyncApp
    errands: Errands

    async def serve(self, request: web.Request) -> web.Response:
        """Hand an HTTP request to Bolt, and its response back."""
        raw = (await request.read()).decode()
        answer = await self.app.async_dispatch(AsyncBoltRequest(body=raw, headers=dict(request.headers)))
        headers = answer.first_headers_without_set_cookie()
        kind = headers.pop("content-type", "text/plain").split(";")[0]
        return web.Response(status=answer.status, text=answer.body, content_type=kind)


@asynccontextmanager
async def open_door(slack: FakeSlack, service: Any) -> AsyncIterator[Door]:
    """The Bolt app before this service, and the fake Slack posting signed requests to it."""
    errands = Errands()
    app = build_bolt(
        service, token=slack.bot_token, signing_secret=slack.signing_secret, api_url=slack.api_url, errands=errands
    )
    door = Door(slack, service, app, errands)
    site = web.Application()
    site.router.add_post("/slack/events", door.serve)
    runner = web.AppRunner(site, shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    slack.http_target = f"http://{host}:{port}"
    slack.retry_delays_s = (0.05, 0.05)
    yield door
    await slack.settled()
    await errands.drain()
    await runner.cleanup()
