"""Slack, the model service, a countable MCP server and the product, wired as an operator wires them."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import asyncpg
import yaml

from tests.fakes.mcp_servers import HttpProbe, free_port
from tests.fakes.product import API_KEY, SECRET_KEY, Finished, Product, make_home, remove_home, run_command
from tests.fakes.slack import BOB, SRE, FakeSlack
from tests.fakes.tongyi import FakeTongyi

MANIFEST = yaml.safe_load((Path(__file__).parents[2] / "manifest.yml").read_text())
DB_PASSWORD = "canary-database-password"
MCP_SECRET = "canary-mcp-header-value"


class World:
    """`async with World(dsn) as world`; products of the same world share home and database."""

    def __init__(
        self,
        dsn: str,
        *,
        http: bool = False,
        slack: bool = True,
        start: bool = True,
        workspace: type[FakeSlack] = FakeSlack,
        **settings: str,
    ) -> None:
        self.dsn = dsn.replace("postgres@", f"postgres:{DB_PASSWORD}@", 1)
        self.slack = workspace(
            bot_token="xoxb-canary-bot-token",
            app_token="xapp-canary-app-token",
            signing_secret="canary-signing-secret",
            scopes=set(MANIFEST["oauth_config"]["scopes"]["bot"]),
            retry_delays_s=(0.2, 1.0, 1.0, 2.0, 4.0),
        )
        self.tongyi = FakeTongyi(api_key="canary-tongyi-key")
        self.home = make_home()
        self.probe = HttpProbe(self.home / "effects.jsonl")
        self.products: list[Product] = []
        self._http, self._with_slack, self._start, self._more = http, slack, start, settings
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._stack.callback(remove_home, self.home)
        try:
            await self._stack.enter_async_context(self.slack)
            await self._stack.enter_async_context(self.tongyi)
            self._stack.callback(self.probe.kill)
            await self.probe.start()
            (self.home / "mcp.json").write_text(json.dumps({"mcpServers": {"probe": self._mcp_entry()}}))
            if self._start:
                await self.run()
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._end()

    async def _end(self) -> None:
        logs: list[str] = []
        self._stack.callback(lambda: logs.extend(product.logs() for product in self.products))
        self._stack.push_async_callback(self._stop)
        await self._stack.aclose()
        assert not self.leaked("\n".join(logs)), f"secrets stand in the logs: {self.leaked(''.join(logs))}"

    async def _stop(self) -> None:
        await asyncio.gather(*(product.close() for product in self.products))

    def _mcp_entry(self) -> dict[str, Any]:
        return {
            "url": f"http://127.0.0.1:{self.probe.port}/mcp",
            "headers": {"X-Probe-Key": MCP_SECRET},
            "tools": {"uptime": {"read_only": True}},
        }

    @property
    def settings(self) -> dict[str, str]:
        settings = {
            "DATABASE_URL": self.dsn,
            "LOG_LEVEL": "DEBUG",
            "TONGYI_API_KEY": self.tongyi.api_key,
            "TONGYI_BASE_URL": self.tongyi.base_url,
            "MCP_CONFIG": str(self.home / "mcp.json"),
            "APPROVERS": f"{BOB},{SRE}",
        }
        if self._with_slack:
            settings |= {"SLACK_API_URL": self.slack.api_url, "SLACK_BOT_TOKEN": self.slack.bot_token}
            door = ("SLACK_SIGNING_SECRET", "signing_secret") if self._http else ("SLACK_APP_TOKEN", "app_token")
            settings[door[0]] = getattr(self.slack, door[1])
        return settings | self._more

    @property
    def product(self) -> Product:
        """The newest."""
        return self.products[-1]

    @property
    def secrets(self) -> dict[str, str]:
        return {
            "API_KEY": API_KEY,
            "SECRET_KEY": SECRET_KEY,
            "DATABASE_URL's password": DB_PASSWORD,
            "TONGYI_API_KEY": self.tongyi.api_key,
            "SLACK_BOT_TOKEN": self.slack.bot_token,
            "SLACK_APP_TOKEN": self.slack.app_token,
            "SLACK_SIGNING_SECRET": self.slack.signing_secret,
            "a header in MCP_CONFIG": MCP_SECRET,
        }

    def leaked(self, text: str) -> list[str]:
        """The names of the secrets that stand in a text."""
        return [name for name, value in self.secrets.items() if value in text]

    async def run(self, command: str = "up", *, ready: bool = True, **more: str) -> Product:
        """Start a product; one that serves is who Slack talks to from now on."""
        product = Product(self.home, self.settings | more, command)
        self.products.append(product)
        await product.start(ready=ready)
        if self._with_slack and product.serves and ready:
            if self._http:
                self.slack.http_target = product.url
            else:
                await self.slack.connected()
        return product

    async def command(self, *words: str, typed: str = "", **more: str) -> Finished:
        """Run another command of the product with this world's settings."""
        keys = {"API_KEY": API_KEY, "SECRET_KEY": SECRET_KEY, "PORT": str(free_port())}
        given = {name: value for name, value in {**keys, **self.settings, **more}.items() if value}
        return await run_command(self.home, *words, settings=given, typed=typed)

    async def until(self, condition: Callable[[], Any], timeout: float = 45, *, what: str = "it") -> Any:
        """Return the condition's first true value."""
        return await self.slack.until(condition, timeout, what=what)

    async def pending(self, count: int = 1) -> list[dict[str, Any]]:
        """Wait until that many approvals wait for people."""
        async with asyncio.timeout(45):
            while len(found := (await self.product.call("GET", "/api/approvals"))["items"]) != count:
                await asyncio.sleep(0.05)
        return found

    async def allow(self, tool: str) -> None:
        """Let that tool run without asking anybody."""
        found = (await self.product.call("GET", "/api/tools"))["items"]
        tool_id = next(t["tool_id"] for t in found if t["name"] == tool)
        rule = {"auto_execute": True, "approval_required": False}
        await self.product.call("PUT", f"/api/tools/{tool_id}/approval", rule)

    async def session(self) -> str:
        return (await self.product.call("POST", "/api/sessions", expect=201))["session_id"]

    async def execute(
        self, session_id: str, message: str, *, via: Product | None = None, **more: Any
    ) -> dict[str, Any]:
        path = f"/api/sessions/{session_id}/execute"
        return await (via or self.product).call("POST", path, {"message": message}, **more)

    async def turn(
        self, session_id: str, turn_id: str, *, via: Product | None = None, within: float = 45
    ) -> dict[str, Any]:
        """Wait until the turn has ended."""
        path = f"/api/sessions/{session_id}/turns/{turn_id}"
        async with asyncio.timeout(within):
            while (found := await (via or self.product).call("GET", path))["status"] not in _FINAL:
                await asyncio.sleep(0.05)
        return found


_FINAL = {"completed", "failed", "cancelled"}


@asynccontextmanager
async def cloned(server: str, template: str) -> AsyncIterator[str]:
    """The DSN of a migrated database of its own on the tests' server."""
    name = f"acceptance_{uuid4().hex[:12]}"
    await on_server(server, f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        yield server.replace("/postgres?", f"/{name}?", 1)
    finally:
        await on_server(server, f"DROP DATABASE {name} WITH (FORCE)")


async def on_server(server: str, *statements: str) -> None:
    connection = await asyncpg.connect(server)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()
