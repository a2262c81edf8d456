"""All MCP servers as one source of tools, each connected and mended on its own."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.tools.base import Tool
from agent.tools.ending import end
from agent.tools.mcp_config import Keeping, McpServerConfig, Sandboxing, Timing, ToolMarks, load_config

if TYPE_CHECKING:
    from agent.tools.mcp_server import McpServer

__all__ = [
    "Keeping",
    "McpManager",
    "McpServerConfig",
    "Sandboxing",
    "ServerHealth",
    "Timing",
    "ToolMarks",
    "load_config",
]


@dataclass(frozen=True, slots=True)
class ServerHealth:
    """How one server is doing."""

    name: str
    config: McpServerConfig
    connected: bool
    protocol: str | None
    tools: int
    problems: list[str]


class McpManager:
    """The servers of a configuration, which may be replaced while it runs."""

    def __init__(
        self, config: Iterable[McpServerConfig], timing: Timing | None = None, keeping: Keeping | None = None
    ) -> None:
        self._timing = timing or Timing()
        self._keeping = keeping or Keeping()
        self._servers: dict[str, McpServer] = {}
        self._new = asyncio.Event()
        self.configure(config)

    def configure(self, config: Iterable[McpServerConfig]) -> None:
        """Have exactly these servers: new and changed ones start, missing ones stop, the others go on untouched."""
        wanted = {entry.name: entry for entry in config}
        if wanted:
            # The SDK takes most of a second to import: only who has a server pays for it.
            from agent.tools.mcp_server import McpServer

            kept = {name: server for name, server in self._servers.items() if wanted.get(name) == server.config}
            self._servers = {
                name: kept.get(name) or McpServer(entry, self._timing, self._keeping) for name, entry in wanted.items()
            }
        else:
            self._servers = {}
        self._new.set()

    def tools(self) -> list[Tool]:
        return [tool for server in self._servers.values() for tool in server.tools()]

    def problems(self) -> dict[str, str]:
        return {key: text for server in self._servers.values() for key, text in server.problems().items()}

    def health(self) -> list[ServerHealth]:
        """Return how each server is doing, by name."""
        return [
            ServerHealth(
                name,
                server.config,
                server.connected,
                server.protocol,
                len(server.tools()),
                list(server.problems().values()),
            )
            for name, server in sorted(self._servers.items())
        ]

    async def run(self, changed: Callable[[], Awaitable[None]]) -> None:
        """Keep every server connected until cancelled."""
        running: dict[McpServer, asyncio.Task[None]] = {}
        try:
            while True:
                self._new.clear()
                current = set(self._servers.values())
                gone = running.keys() - current
                for server in current - running.keys():
                    running[server] = asyncio.create_task(server.run(changed))
                await end([running[server] for server in gone])
                for server in gone:
                    del running[server]
                if gone:
                    await changed()
                await self._watch(running)
        finally:
            await end(running.values())

    async def ready(self) -> None:
        await asyncio.gather(*(server.ready() for server in self._servers.values()))

    async def _watch(self, running: "dict[McpServer, asyncio.Task[None]]") -> None:
        """Return when the configuration changed; a server's task that failed is a bug and ends the source."""
        new = asyncio.create_task(self._new.wait())
        try:
            done, _ = await asyncio.wait({new, *running.values()}, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {new}:
                task.result()
        finally:
            new.cancel()
