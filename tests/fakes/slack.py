"""FakeSlack: a workspace on loopback as strict as the real one, in which people act and tests look."""

import asyncio
from collections.abc import Callable
from typing import Any, Self

import aiohttp
from aiohttp import web

from tests.fakes import block_reading
from tests.fakes.slack_api import ALL_SCOPES, METHOD_SCOPES
from tests.fakes.slack_people import People
from tests.fakes.slack_workspace import (
    ADMIN,
    ALICE,
    BOB,
    BOT,
    BOT_USER,
    CAROL,
    GUEST,
    OPS,
    PRIVATE,
    QUIET,
    SRE,
    STRANGER,
    TEAM,
    Call,
    Json,
)

__all__ = [
    "ADMIN",
    "ALICE",
    "ALL_SCOPES",
    "BOB",
    "BOT",
    "BOT_USER",
    "CAROL",
    "GUEST",
    "METHOD_SCOPES",
    "OPS",
    "PRIVATE",
    "QUIET",
    "SRE",
    "STRANGER",
    "TEAM",
    "FakeSlack",
]


class FakeSlack(People):
    """`async with FakeSlack() as slack`, then point an app at `slack.api_url`."""

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=20_000_000)
        app.router.add_route("*", "/api/{method}", self.serve_api)
        app.router.add_get("/socket/{ticket}", self.serve_socket)
        app.router.add_post("/response/{key}", self.serve_response_url)
        app.router.add_post("/upload/{file_id}", self.serve_upload)
        self._runner = web.AppRunner(app, shutdown_timeout=0.5)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self._base_url = f"http://{host}:{port}"
        self._http = aiohttp.ClientSession()
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in list(self._deliveries):
            task.cancel()
        await asyncio.gather(*self._deliveries, return_exceptions=True)
        await self.disconnect()
        await self._runner.cleanup()
        assert self._http is not None
        await self._http.close()

    @property
    def base_url(self) -> str:
        return self._base_url

    @property
    def api_url(self) -> str:
        """What `SLACK_API_URL` should be."""
        return f"{self._base_url}/api/"

    @property
    def refused(self) -> list[Call]:
        """The calls that the app got an error for."""
        return [c for c in self.calls if c.error not in (None, "dropped")]

    def called(self, method: str) -> list[Call]:
        return [c for c in self.calls if c.method == method]

    def bot_says(self, channel: str, root: str) -> list[Json]:
        """The bot's messages in a thread, oldest first."""
        return [m for m in self.thread(channel, root) if m.get("user") == BOT_USER]

    def rendered(self, message: Json) -> str:
        """All a person reads: the blocks where there are any, else the text; attachments and file names too."""
        words = [
            block_reading.visible(message["blocks"] if message.get("blocks") else {"text": message.get("text", "")})
        ]
        words += [
            block_reading.visible(a.get("blocks") or {"text": a.get("text", "")})
            for a in message.get("attachments", [])
        ]
        words += [f["title"] for f in message.get("files", [])]
        return "\n".join(words)

    def pings(self, message: Json) -> list[str]:
        """Whom the message would notify: its live mentions, in the text as well as in the blocks."""
        return block_reading.pings(message.get("text"), message.get("blocks"))

    def buttons(self, message: Json) -> dict[str, Json]:
        """Everything that can be pressed, by action_id."""
        return {e["action_id"]: e for _, e in block_reading.pressables(message.get("blocks"))}

    def screen(self, user: str) -> Json | None:
        """The modal this person sees."""
        stack = self.stacks.get(user)
        return self.views[stack[-1]] if stack else None

    async def until(self, condition: Callable[[], Any], timeout: float = 45.0, *, what: str = "it") -> Any:
        """Return the condition's first true value; look whenever something happens here, and every 20 ms.

        If it never comes, the AssertionError tells what was there instead.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        while not (found := condition()):
            if asyncio.get_running_loop().time() > deadline:
                raise AssertionError(f"{what} did not come within {timeout:g} s. {self._account()}")
            try:
                await asyncio.wait_for(self.changed.wait(), 0.02)
            except TimeoutError:
                continue
        return found

    def _account(self) -> str:
        said = [f"{m.get('user', 'bot')}: {self.rendered(m)[:300]!r}" for ms in self.messages.values() for m in ms[-6:]]
        refused = [f"{c.method}: {c.error}" for c in self.refused[-5:]]
        unheard = [f"{f.kind}: {f.reason}" for f in self.failures[-5:]]
        return f"Messages: {said}. Refused calls: {refused}. Failed deliveries: {unheard}."

    async def bot_message(self, channel: str, root: str, *, containing: str = "", timeout: float = 45.0) -> Json:
        """The bot's first message in the thread in which a person reads this."""
        said = lambda: next((m for m in self.bot_says(channel, root) if containing in self.rendered(m)), None)  # noqa: E731
        return await self.until(said, timeout, what=f"A bot message with {containing!r}")

    async def card(self, channel: str, root: str, *, action: str = "approval_approve", timeout: float = 45.0) -> Json:
        """The thread's newest message that offers this action."""
        offers = lambda: next((m for m in self.bot_says(channel, root)[::-1] if action in self.buttons(m)), None)  # noqa: E731
        return await self.until(offers, timeout, what=f"A card with {action}")

    async def connected(self, count: int = 1, timeout: float = 45.0) -> None:
        """Wait until so many sockets are open."""
        await self.until(lambda: len(self.sockets) >= count, timeout, what=f"{count} open sockets")
