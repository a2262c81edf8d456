"""Tools whose effects are counted: what ran, how often, with which arguments."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from agent.tools.base import CallContext, Outcome, Source, Tool, ToolResult, ToolSpec, schema_hash, tool_id

_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"service": {"type": "string"}, "reason": {"type": "string"}},
    "required": ["service"],
}


@dataclass
class CountingTool:
    """One tool; `effect` runs inside the call, `gate` holds it up."""

    spec: ToolSpec
    effects: list[dict[str, Any]]
    effect: Callable[[Mapping[str, Any]], Awaitable[ToolResult | None]] | None = None
    contexts: list[CallContext] = field(default_factory=list)
    previewed: list[dict[str, Any]] = field(default_factory=list)
    says: Callable[[Mapping[str, Any]], Awaitable[ToolResult | None]] | None = None

    async def run(self, args: Mapping[str, Any], context: CallContext) -> ToolResult:
        self.contexts.append(context)
        self.effects.append({"tool": self.spec.original_name, **args})
        if self.effect and (result := await self.effect(args)):
            return result
        return ToolResult(f"{self.spec.original_name}ed {args['service']}")

    async def preview(self, args: Mapping[str, Any], context: CallContext) -> ToolResult | None:
        self.contexts.append(context)
        self.previewed.append(dict(args))
        return await self.says(args) if self.says else ToolResult(f"would {self.spec.original_name} {args['service']}")


class CountingTools:
    """`restart` asks, `uptime` is read-only, `slow` waits for `gate`, `crash` fails, `repeat` is idempotent."""

    def __init__(self) -> None:
        self.effects: list[dict[str, Any]] = []
        self.gate = asyncio.Event()
        self.entered = asyncio.Event()
        self._changed: Callable[[], Awaitable[None]] | None = None
        self._tools = {
            name: self._tool(name, **more)
            for name, more in {
                "restart": {},
                "uptime": {"read_only": True},
                "slow": {},
                "crash": {},
                "repeat": {"idempotent": True},
            }.items()
        }
        self._tools["slow"].effect = self._wait
        self._tools["crash"].effect = self._fail

    def __getitem__(self, name: str) -> CountingTool:
        return self._tools[name]

    def changed(self, name: str, **more: Any) -> CountingTool:
        """Put another tool in a tool's place, with something else in its spec."""
        tool = self._tools[name]
        self._tools[name] = replace(tool, spec=replace(tool.spec, **more))
        return self._tools[name]

    def with_preview(self, name: str) -> CountingTool:
        """Have a tool say what it would do."""
        return self.changed(name, previews=True)

    def ran(self, name: str) -> list[str]:
        return [effect["service"] for effect in self.effects if effect["tool"] == name]

    def _tool(self, name: str, **more: Any) -> CountingTool:
        spec = ToolSpec(
            tool_id=tool_id(Source.CUSTOM, None, name),
            name=name,
            original_name=name,
            description=f"{name} a service",
            source=Source.CUSTOM,
            server=None,
            input_schema=_SCHEMA,
            schema_hash=schema_hash(name, f"{name} a service", _SCHEMA),
            **more,
        )
        return CountingTool(spec, self.effects)

    async def _wait(self, _args: Mapping[str, Any]) -> ToolResult | None:
        self.entered.set()
        await self.gate.wait()
        return None

    async def _fail(self, _args: Mapping[str, Any]) -> ToolResult:
        return ToolResult("it broke", Outcome.FAILED)

    async def change(self, name: str) -> None:
        """Give a tool another description, as a server does that changes under its users."""
        tool = self._tools[name]
        spec = replace(tool.spec, description="other", schema_hash=schema_hash(name, "other", _SCHEMA))
        self._tools[name] = replace(tool, spec=spec)
        if self._changed:
            await self._changed()

    def remove(self, name: str) -> None:
        del self._tools[name]

    def tools(self) -> list[Tool]:
        return list(self._tools.values())

    def problems(self) -> dict[str, str]:
        return {}

    async def run(self, changed: Callable[[], Awaitable[None]]) -> None:
        self._changed = changed
        await asyncio.Event().wait()

    async def ready(self) -> None:
        return
