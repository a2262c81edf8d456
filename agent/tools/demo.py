"""Three tools to try opsagent with: their effects are simulated, and they say so."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from agent.tools.base import CallContext, Outcome, Source, Tool, ToolResult, ToolSpec, schema_hash, tool_id

_SERVICE = {"type": "string", "minLength": 1, "maxLength": 100, "description": "The service's name"}
_REASON = {"type": "string", "maxLength": 500, "default": "", "description": "Why, for the record"}


@dataclass(frozen=True, slots=True)
class _DemoTool:
    spec: ToolSpec
    effect: Callable[[Mapping[str, Any]], ToolResult]

    async def run(self, args: Mapping[str, Any], context: CallContext) -> ToolResult:
        return self.effect(args)


class DemoTools:
    """A simulated fleet: what `restart_service` does, `service_status` shows."""

    def __init__(self) -> None:
        self.restarts: dict[str, list[str]] = {}
        status = "Show how a service is doing (demo: a simulated service)."
        restart = "Restart a service (demo: a simulated service)."
        rotate = "Rotate a service's logs (demo: always fails)."
        self._tools: list[Tool] = [
            _demo_tool("service_status", status, {"service": _SERVICE}, self._status, read_only=True),
            _demo_tool("restart_service", restart, {"service": _SERVICE, "reason": _REASON}, self._restart),
            _demo_tool("rotate_logs", rotate, {"service": _SERVICE}, self._rotate),
        ]

    def tools(self) -> list[Tool]:
        return list(self._tools)

    def problems(self) -> dict[str, str]:
        return {}

    async def run(self, changed: Callable[[], Awaitable[None]]) -> None:
        """Nothing to keep alive."""

    async def ready(self) -> None:
        return

    def _status(self, args: Mapping[str, Any]) -> ToolResult:
        reasons = self.restarts.get(args["service"], [])
        if not reasons:
            return ToolResult(f"(demo) {args['service']} is running and was never restarted.")
        last = f" Last reason: {reasons[-1]}" if reasons[-1] else ""
        return ToolResult(f"(demo) {args['service']} is running. Restarts: {len(reasons)}.{last}")

    def _restart(self, args: Mapping[str, Any]) -> ToolResult:
        self.restarts.setdefault(args["service"], []).append(args.get("reason", ""))
        return ToolResult(f"(demo) Restarted {args['service']}. Nothing real was touched.")

    def _rotate(self, args: Mapping[str, Any]) -> ToolResult:
        return ToolResult(
            f"(demo) The logs of {args['service']} were not rotated: the simulated disk is full. Free some space.",
            Outcome.FAILED,
        )


def _demo_tool(
    name: str,
    description: str,
    properties: dict[str, Any],
    effect: Callable[[Mapping[str, Any]], ToolResult],
    *,
    read_only: bool = False,
) -> Tool:
    schema = {"type": "object", "properties": properties, "required": ["service"], "additionalProperties": False}
    spec = ToolSpec(
        tool_id=tool_id(Source.DEMO, None, name),
        name=name,
        original_name=name,
        description=description,
        source=Source.DEMO,
        server=None,
        input_schema=schema,
        schema_hash=schema_hash(name, description, schema),
        annotations={"readOnlyHint": read_only},
        read_only=read_only,
        timeout_s=5,
    )
    return _DemoTool(spec, effect)
