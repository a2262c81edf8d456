"""The folder as a source: what is offered, and what a reload changes."""

import asyncio

from agent.tools.base import Outcome, Source
from agent.tools.registry import Registry
from tests.unit.declared.conftest import Folder, context

TOOL = """
tools:
  - name: say_{name}
    kind: argv
    description: Says a word of one's choice.
    risk: {risk}
    read_only: true
    write_paths: [/var/tmp/out]
    parameters: {{word: {{type: string, pattern: '^[a-z]+$'}}}}
    argv: {{command: [echo, {text}, '{{word}}']}}
"""


def tool(name: str = "hello", text: str = "hi", risk: str = "low") -> str:
    return TOOL.format(name=name, text=text, risk=risk)


def test_the_spec_says_what_was_declared(folder: Folder) -> None:
    folder.write(tool(risk="critical"))
    (found,) = folder.source().tools()
    assert (found.spec.source, found.spec.server, found.spec.read_only) == (Source.DECLARED, None, True)
    assert found.spec.annotations["risk"] == "critical"
    assert found.spec.annotations["destructiveHint"] is True
    assert found.spec.annotations["writes"] == ["/var/tmp/out"]
    assert found.spec.input_schema["additionalProperties"] is False
    assert found.spec.input_schema["required"] == ["word"]


def test_a_changed_command_is_another_hash_under_the_same_id(folder: Folder) -> None:
    folder.write(tool())
    (before,) = folder.source().tools()
    folder.write(tool(text="bye"))
    (after,) = folder.source().tools()
    assert before.spec.tool_id == after.spec.tool_id
    assert before.spec.input_schema == after.spec.input_schema
    assert before.spec.schema_hash != after.spec.schema_hash


async def test_a_reload_brings_new_tools_and_tells_of_a_change_once(folder: Folder) -> None:
    folder.write(tool())
    source = folder.source()
    (kept,) = source.tools()
    told: list[int] = []

    async def changed() -> None:
        told.append(len(source.tools()))

    running = asyncio.create_task(source.run(changed))
    await asyncio.sleep(0)
    await source.reload()
    assert told == []
    assert source.tools()[0] is kept
    folder.write(tool("other"), "other.yaml")
    await source.reload()
    assert told == [2]
    assert kept in source.tools()
    (folder.path / "other.yaml").write_text("tools: [")
    await source.reload()
    assert told == [2, 1]
    assert set(source.problems()) == {"other.yaml"}
    running.cancel()


async def test_the_registry_checks_and_runs_it(folder: Folder) -> None:
    folder.write(tool())
    registry = Registry([folder.source()])
    found = registry.by_name("say_hello")
    assert found
    good = await registry.call(found, {"word": "there"}, context())
    assert (good.outcome, good.text) == (Outcome.SUCCEEDED, "hi -- there")
    for bad in ({}, {"word": "Not This"}, {"word": "x", "approved": True}):
        assert (await registry.call(found, bad, context())).outcome is Outcome.FAILED
