"""The catalogue: names, arguments, time, and everything a tool can do wrong."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest

from agent.tools.base import (
    RESULT_LIMIT,
    CallContext,
    Outcome,
    Source,
    Tool,
    ToolResult,
    ToolSource,
    ToolSpec,
    schema_hash,
    tool_id,
)
from agent.tools.registry import Registry, validate

CONTEXT = CallContext(UUID(int=1), "call_1", None, UUID(int=3))
SERVICE = {"type": "object", "properties": {"service": {"type": "string"}}, "required": ["service"]}

Run = Callable[[Mapping[str, Any]], Awaitable[ToolResult]]


async def answer(args: Mapping[str, Any]) -> ToolResult:
    return ToolResult("done")


@dataclass(eq=False)
class FakeTool:
    spec: ToolSpec
    body: Run = answer

    async def run(self, args: Mapping[str, Any], context: CallContext) -> ToolResult:
        return await self.body(args)


def fake(name: str, server: str | None = "probe", body: Run = answer, schema: Any = None, **more: Any) -> FakeTool:
    schema = SERVICE if schema is None else schema
    source = Source.MCP if server else Source.CUSTOM
    digest = schema_hash(name, "A tool.", schema)
    return FakeTool(
        ToolSpec(tool_id(source, server, name), name, name, "A tool.", source, server, schema, digest, **more), body
    )


@dataclass
class FakeSource:
    offered: list[Tool] = field(default_factory=list)
    wrong: dict[str, str] = field(default_factory=dict)
    changes: asyncio.Event = field(default_factory=asyncio.Event)

    def tools(self) -> list[Tool]:
        return self.offered

    def problems(self) -> dict[str, str]:
        return self.wrong

    async def run(self, changed: Callable[[], Awaitable[None]]) -> None:
        while True:
            await self.changes.wait()
            self.changes.clear()
            await changed()

    async def ready(self) -> None:
        return


class BrokenSource(FakeSource):
    async def run(self, changed: Callable[[], Awaitable[None]]) -> None:
        raise OSError("no such socket")

    async def ready(self) -> None:
        await asyncio.Event().wait()


def names(*tools: Tool) -> dict[str, str]:
    offered = Registry([FakeSource(list(tools))]).tools()
    return {f"{tool.spec.server}/{tool.spec.original_name}": tool.spec.name for tool in offered}


async def call(tool: FakeTool, **args: Any) -> ToolResult:
    registry = Registry([FakeSource([tool])])
    return await registry.call(registry.tools()[0], args, CONTEXT)


def test_a_unique_valid_name_is_offered_as_it_is() -> None:
    assert names(fake("restart"), fake("scale", "k8s")) == {"probe/restart": "restart", "k8s/scale": "scale"}


def test_a_name_that_two_servers_have_gets_the_server_before_it() -> None:
    assert names(fake("restart"), fake("restart", "k8s")) == {
        "probe/restart": "probe_restart",
        "k8s/restart": "k8s_restart",
    }


def test_a_server_can_not_take_over_a_custom_tools_name() -> None:
    assert names(fake("restart", None), fake("restart")) == {
        "None/restart": "custom_restart",
        "probe/restart": "probe_restart",
    }


def test_a_name_with_forbidden_characters_is_made_valid() -> None:
    assert names(fake("restart it \u202e<!channel>", "web 1")) == {
        "web 1/restart it \u202e<!channel>": "web_1_restart_it____channel_"
    }


def test_names_that_still_collide_end_in_their_ids_start_and_never_displace_an_own_name() -> None:
    tools = [fake("a b", "s"), fake("a.b", "s"), fake("s_a_b", "other"), fake("x" * 80, "s"), fake("x" * 90, "s")]
    offered = names(*tools)
    assert offered["other/s_a_b"] == "s_a_b"
    assert len(set(offered.values())) == 5
    assert all(len(name) <= 64 for name in offered.values())
    assert offered == names(*reversed(tools))


def test_a_tool_keeps_its_id_and_hash_under_another_name() -> None:
    alone = Registry([FakeSource([fake("restart")])]).tools()[0].spec
    registry = Registry([FakeSource([fake("restart"), fake("restart", "k8s")])])
    shared = registry.get(alone.tool_id)
    assert shared
    assert shared.spec.name == "probe_restart"
    assert shared.spec.schema_hash == alone.schema_hash
    assert registry.by_name("probe_restart") is shared
    assert registry.by_name("restart") is None


def test_tools_that_come_and_go_are_seen_at_once() -> None:
    source = FakeSource([fake("restart")])
    registry = Registry([source])
    assert registry.by_name("restart")
    source.offered = [fake("scale")]
    assert [tool.spec.name for tool in registry.tools()] == ["scale"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"service": "web", "approved": True}, "no argument `approved`; it takes `service`"),
        ({"service": 5}, "`service`"),
        ({}, "required"),
    ],
)
async def test_arguments_that_do_not_fit_never_reach_the_tool(args: dict[str, Any], said: str) -> None:
    async def never(args: Mapping[str, Any]) -> ToolResult:
        raise AssertionError("it ran")

    result = await call(fake("restart", body=never), **args)
    assert result.outcome is Outcome.FAILED
    assert said in result.text
    assert "it ran" not in result.text


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "allOf": [{"properties": {"service": {"type": "string"}}}]},
        {"$schema": "http://json-schema.org/draft-07/schema#", **SERVICE},
        {"$ref": "#/$defs/args", "$defs": {"args": SERVICE}},
    ],
)
def test_unknown_arguments_are_refused_however_the_known_ones_are_declared(schema: dict[str, Any]) -> None:
    spec = fake("restart", schema=schema).spec
    assert validate(spec, {"service": "web"}) is None
    assert validate(spec, {"service": "web", "approved": True})


def test_a_tool_that_declares_free_arguments_gets_them() -> None:
    spec = fake("query", schema={"type": "object", "additionalProperties": {"type": "string"}}).spec
    assert validate(spec, {"anything": "goes"}) is None
    assert validate(spec, {"anything": 1})


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1:9/x"}}},
        {"type": "object", "properties": {"a": {"pattern": "(?=x)"}}},
        {"type": "nonsense"},
        {"$schema": "http://127.0.0.1:9/meta"},
    ],
)
async def test_a_schema_that_can_not_be_used_is_a_failed_call(schema: dict[str, Any]) -> None:
    result = await call(fake("odd", schema=schema), a="x")
    assert result.outcome is Outcome.FAILED
    assert "can't be checked" in result.text


def test_a_backtracking_pattern_is_checked_in_linear_time() -> None:
    schema = {"type": "object", "properties": {"text": {"type": "string", "pattern": "^(a+)+$"}}}
    assert validate(fake("match", schema=schema).spec, {"text": "a" * 50_000 + "b"})


@pytest.mark.parametrize("args", [{"service": float("nan")}, {"service": 10**400}, {"service": "\ud800"}])
def test_odd_values_are_judged_and_never_raise(args: dict[str, Any]) -> None:
    validate(fake("restart").spec, args)


async def hang(args: Mapping[str, Any]) -> ToolResult:
    await asyncio.Event().wait()
    raise AssertionError


async def test_a_call_without_an_answer_in_time_is_unknown() -> None:
    result = await call(fake("slow", body=hang, timeout_s=0.01), service="web")
    assert result.outcome is Outcome.UNKNOWN
    assert "not known" in result.text


@pytest.mark.parametrize("mark", ["read_only", "idempotent"])
async def test_a_repeatable_call_without_an_answer_in_time_failed(mark: str) -> None:
    tool = fake("slow", body=hang, timeout_s=0.01, **{mark: True})
    assert (await call(tool, service="web")).outcome is Outcome.FAILED


async def test_an_exception_is_a_failed_result_in_one_line() -> None:
    async def explode(args: Mapping[str, Any]) -> ToolResult:
        raise KeyError("first\nsecond")

    result = await call(fake("boom", body=explode), service="web")
    assert result.outcome is Outcome.FAILED
    assert "KeyError" in result.text
    assert "\n" not in result.text


async def test_a_timeout_inside_the_tool_is_its_own_failure() -> None:
    async def late(args: Mapping[str, Any]) -> ToolResult:
        raise TimeoutError("the database was slow")

    assert (await call(fake("late", body=late), service="web")).outcome is Outcome.FAILED


async def test_cancellation_passes_through() -> None:
    task = asyncio.create_task(call(fake("slow", body=hang), service="web"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_result_is_capped_and_fit_for_storing() -> None:
    async def odd(args: Mapping[str, Any]) -> ToolResult:
        return ToolResult("\x00\ud800" + "x" * 100_000)

    text = (await call(fake("odd", body=odd), service="web")).text
    assert text.startswith("\ufffd\ufffdx")
    assert len(text) < RESULT_LIMIT + 200
    assert "characters cut" in text


async def test_changes_reach_every_subscriber_also_after_one_that_fails() -> None:
    source = FakeSource()
    broken: ToolSource = BrokenSource()
    registry = Registry([broken, source])
    told = asyncio.Event()

    async def fail() -> None:
        raise RuntimeError("a subscriber's bug")

    async def tell() -> None:
        told.set()

    registry.subscribe(fail)
    unsubscribe = registry.subscribe(tell)
    task = asyncio.create_task(registry.run())
    try:
        source.changes.set()
        await asyncio.wait_for(told.wait(), 45)
        assert "OSError" in registry.problems()["BrokenSource"]
        unsubscribe()
        told.clear()
        source.changes.set()
        while source.changes.is_set():
            await asyncio.sleep(0)
        assert not told.is_set()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_ready_does_not_wait_for_ever() -> None:
    await asyncio.wait_for(Registry([BrokenSource(), FakeSource()]).ready(0.01), 45)


def test_problems_of_all_sources_are_told() -> None:
    registry = Registry([FakeSource(wrong={"a.py": "One."}), FakeSource(wrong={"web": "Two."})])
    assert registry.problems() == {"a.py": "One.", "web": "Two."}
