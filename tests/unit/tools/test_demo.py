"""The demo tools: their effects are simulated, and they say so."""

from typing import Any
from uuid import UUID

from agent.tools.base import CallContext, Outcome, ToolResult
from agent.tools.demo import DemoTools
from agent.tools.registry import Registry

CONTEXT = CallContext(UUID(int=1), "call_1", None, UUID(int=3))


async def call(registry: Registry, name: str, /, **args: Any) -> ToolResult:
    tool = registry.by_name(name)
    assert tool
    return await registry.call(tool, args, CONTEXT)


async def test_a_restart_shows_in_the_status() -> None:
    registry = Registry([DemoTools()])
    before = await call(registry, "service_status", service="web")
    restarted = await call(registry, "restart_service", service="web", reason="memory leak")
    after = await call(registry, "service_status", service="web")
    other = await call(registry, "service_status", service="db")
    assert "never restarted" in before.text
    assert "Restarts: 1" in after.text
    assert "memory leak" in after.text
    assert "never restarted" in other.text
    assert all(result.text.startswith("(demo)") for result in (before, restarted, after, other))


async def test_rotating_logs_fails_with_a_reason() -> None:
    result = await call(Registry([DemoTools()]), "rotate_logs", service="web")
    assert result.outcome is Outcome.FAILED
    assert "disk is full" in result.text


async def test_only_the_status_may_run_unasked() -> None:
    specs = {tool.spec.name: tool.spec for tool in Registry([DemoTools()]).tools()}
    assert {name for name, spec in specs.items() if spec.read_only} == {"service_status"}
    assert all("demo" in spec.description for spec in specs.values())
