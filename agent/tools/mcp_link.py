"""One connection to an MCP server: what is heard on it, and what ends it."""

import asyncio
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import mcp_types as types
from mcp import Client, MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from agent.tools.mcp_asking import Inquiry
from agent.tools.mcp_config import Timing


@dataclass(slots=True, eq=False)
class Link:
    """One connection, from connect to loss."""

    wake: asyncio.Event = field(default_factory=asyncio.Event)
    lost: str | None = None
    stale: bool = False
    client: Client | None = None
    inquiries: dict[str, Inquiry] = field(default_factory=dict[str, Inquiry])
    """The calls under way, by their progress tokens."""

    def lose(self, reason: str) -> None:
        self.lost = self.lost or reason
        self.wake.set()

    def check(self) -> None:
        """Have the tools listed again, which also finds out whether the connection still works."""
        self.stale = True
        self.wake.set()

    def asking(self, said: Inquiry | None) -> Inquiry | None:
        """Return the call for which the server asks: the one its stream belongs to, or the only one under way."""
        under_way = list(self.inquiries.values())
        if said is not None:
            return said if said in under_way else None
        return under_way[0] if len(under_way) == 1 else None

    def progressed(self, params: dict[str, Any]) -> None:
        token = params.get("progressToken")
        if isinstance(token, str) and (inquiry := self.inquiries.get(token)) is not None:
            inquiry.progressed(params)

    async def heard(self, message: types.ServerNotification | Exception) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            self.check()

    async def listen(self, timing: Timing) -> None:
        """Hear of changed tools from servers that tell it only on a stream of its own; earlier ones just say so."""
        client, (first, longest) = self.client, timing.backoff_s
        if client is None or client.protocol_version not in MODERN_PROTOCOL_VERSIONS:
            return
        acknowledged, delay = False, first
        while True:
            with suppress(MCPError, RuntimeError, TimeoutError):
                async with AsyncExitStack() as stack:
                    async with asyncio.timeout(timing.list_s):
                        news = await stack.enter_async_context(client.listen(tools_list_changed=True))
                    if not news.honored.tools_list_changed:
                        return
                    # Nothing is replayed: what changed while nobody listened is found by listing again.
                    if acknowledged:
                        self.check()
                    acknowledged, delay = True, first
                    async for _ in news:
                        self.check()
            if not acknowledged:
                return
            self.check()
            await asyncio.sleep(delay)
            delay = min(delay * 2, longest)
