"""A real core behind the real Slack door, in this process, with FakeSlack on the other side."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from slack_bolt.async_app import AsyncBoltRequest

from bot.bolt import build_bolt
from bot.client import web_client
from bot.errands import Errands
from bot.pins import ChangeCards
from bot.presenter import Presenter
from tests.fakes.slack import FakeSlack

WITHIN_S = 45.0


class Looped:
    """A loop of the door that a test can kill and start again, as another process would."""

    def __init__(self, make: Any) -> None:
        self._make = make
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._make().run())

    async def kill(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._task = None


@asynccontextmanager
async def slack_door(slack: FakeSlack, service: Any) -> AsyncIterator[tuple[Looped, Looped]]:
    """Yield the presenter and the cards about changed tools; both are at work."""
    errands = Errands()
    app = build_bolt(
        service, token=slack.bot_token, signing_secret=slack.signing_secret, api_url=slack.api_url, errands=errands
    )

    async def serve(request: web.Request) -> web.Response:
        raw = (await request.read()).decode()
        answer = await app.async_dispatch(AsyncBoltRequest(body=raw, headers=dict(request.headers)))
        return web.Response(status=answer.status, text=answer.body, content_type="application/json")

    site = web.Application()
    site.router.add_post("/slack/events", serve)
    runner = web.AppRunner(site, shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    slack.http_target = f"http://{host}:{port}"
    client = web_client(slack.bot_token, slack.api_url)
    presenter = Looped(lambda: Presenter(service, client, errands))
    cards = Looped(lambda: ChangeCards(service, client))
    presenter.start()
    cards.start()
    try:
        yield presenter, cards
    finally:
        await presenter.kill()
        await cards.kill()
        await slack.settled()
        await errands.drain()
        await runner.cleanup()
