"""Connecting to a server once, to see whether it works: nothing of it is offered to anyone."""

import asyncio
from dataclasses import dataclass

from agent.tools.ending import end
from agent.tools.mcp_config import Keeping, McpServerConfig, Timing


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of it."""

    connected: bool
    protocol: str | None
    tools: tuple[tuple[str, str], ...]
    """Names and descriptions."""
    problems: tuple[str, ...]


async def try_once(config: McpServerConfig, keeping: Keeping, timing: Timing | None = None) -> Trial:
    """Connect, list the tools, and let go."""
    from agent.tools.mcp_server import McpServer

    server = McpServer(config, timing or Timing(), keeping)
    running = asyncio.create_task(server.run(_nobody))
    try:
        await asyncio.wait({running, tried := asyncio.create_task(server.ready())}, return_when=asyncio.FIRST_COMPLETED)
        tried.cancel()
        tools = tuple((tool.spec.original_name, tool.spec.description) for tool in server.tools())
        return Trial(server.connected, server.protocol, tools, tuple(server.problems().values()))
    finally:
        await end([running])


async def _nobody() -> None:
    return
