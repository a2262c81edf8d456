"""The tool of the product's side: it does nothing but say when it was started."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from agent.tools.base import CallContext, Source, Tool, ToolResult, ToolSpec, schema_hash, tool_id

_SCHEMA: dict[str, Any] = {"type": "object", "properties": {"service": {"type": "string"}}, "required": ["service"]}


class Restart:
    """A tool that asks for an approval, and notes when it was started."""

    def __init__(self) -> None:
        self.spec = ToolSpec(
            tool_id=tool_id(Source.CUSTOM, None, "restart"),
            name="restart",
            original_name="restart",
            description="Restart a service",
            source=Source.CUSTOM,
            server=None,
            input_schema=_SCHEMA,
            schema_hash=schema_hash("restart", "Restart a service", _SCHEMA),
        )
        self.started: list[float] = []

    async def run(self, args: Mapping[str, Any], context: CallContext) -> ToolResult:
        self.started.append(time.time())
        return ToolResult(f"restarted {args['service']}")


class InstantTools:
    """The source of that one tool."""

    def __init__(self) -> None:
        self.restart = Restart()

    def tools(self) -> list[Tool]:
        return [self.restart]

    def problems(self) -> dict[str, str]:
        return {}

    async def run(self, changed: Callable[[], Awaitable[None]]) -> None:
        await asyncio.Event().wait()

    async def ready(self) -> None:
        return
