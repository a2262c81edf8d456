"""Previews of custom tools: functions of the same file, in workers that may do less than the tool's own."""

from pathlib import Path
from typing import Any

import pytest

from agent.sandbox.capability import current
from agent.sandbox.policy import Mode, Protections, SandboxSpec, protections
from agent.tools.base import Outcome, ToolResult
from agent.tools.registry import Registry
from tests.unit.sandbox.conftest import open_folder
from tests.unit.tools.test_custom import CONTEXT, loaded

__all__ = ["open_folder"]

HELD = not protections(current(), SandboxSpec(), Mode.BEST_EFFORT).missing
needs_sandbox = pytest.mark.skipif(not HELD, reason="this machine has no whole sandbox")
FILE = """
import asyncio, os, socket
from langchain_core.tools import ToolException, tool

def would_restart(service: str, force: bool = False) -> str:
    return f"would restart {service} in {os.getpid()}, force={force}"

async def would_await(service: str) -> dict:
    await asyncio.sleep(0)
    return {"service": service}

def refuses(service: str) -> str:
    raise ToolException("Not during the freeze.")

def breaks(service: str) -> str:
    raise ValueError("no such service")

def writes(service: str) -> str:
    with open(service, "w") as file:
        file.write("x")
    return "written"

def connects(service: str) -> str:
    socket.create_connection(("127.0.0.1", int(service)), 5)
    return "connected"

def tells(service: str) -> str:
    return str(os.environ.get("PAGER_TOKEN"))

@tool
def restart(service: str, force: bool = False) -> str:
    '''Restart a service.'''
    return "restarted"
restart.metadata = METADATA
"""


def file(metadata: str) -> str:
    return FILE.replace("METADATA", metadata)


async def previewed(registry: Registry, **args: Any) -> ToolResult | None:
    tool = registry.by_name("restart")
    assert tool, registry.problems()
    assert tool.spec.previews
    return await registry.preview(tool, args, CONTEXT)


@needs_sandbox
@pytest.mark.parametrize(
    ("function", "outcome", "text"),
    [
        ("would_restart", Outcome.SUCCEEDED, "would restart web in "),
        ("would_await", Outcome.SUCCEEDED, '{"service": "web"}'),
        ("refuses", Outcome.FAILED, "Not during the freeze."),
        ("breaks", Outcome.FAILED, "ValueError: no such service"),
    ],
)
async def test_the_function_says_what_the_call_would_do(
    tmp_path: Path, function: str, outcome: Outcome, text: str
) -> None:
    async with loaded(tmp_path, file=file(f'{{"preview": "{function}"}}')) as (registry, tools):
        assert tools.problems() == {}
        made = await previewed(registry, service="web")
    assert made is not None
    assert (made.outcome, text in made.text) == (outcome, True)


@needs_sandbox
async def test_a_preview_can_not_write_where_its_tool_may(tmp_path: Path, open_folder: Path) -> None:
    metadata = f'{{"preview": "writes", "write_paths": ["{open_folder}"]}}'
    async with loaded(tmp_path, file=file(metadata)) as (registry, _):
        made = await previewed(registry, service=str(open_folder / "made"))
    assert made is not None
    assert made.outcome is Outcome.FAILED
    assert list(open_folder.iterdir()) == []


@needs_sandbox
async def test_a_preview_has_no_network_and_no_secret_unless_it_says_so(tmp_path: Path) -> None:
    for preview, said in (
        ('"tells"', "None"),
        ('{"function": "tells", "secrets": ["PAGER_TOKEN"]}', "obviously-fake"),
    ):
        metadata = f'{{"preview": {preview}, "secrets": ["PAGER_TOKEN"], "network": True}}'
        async with loaded(tmp_path, secrets={"PAGER_TOKEN": "obviously-fake"}, file=file(metadata)) as (registry, _):
            made = await previewed(registry, service="web")
        assert made == ToolResult(said)
    async with loaded(tmp_path, file=file('{"preview": "connects", "network": True}')) as (registry, _):
        made = await previewed(registry, service="9")
    assert made is not None
    assert made.outcome is Outcome.FAILED
    assert "ConnectionRefusedError" not in made.text


async def test_without_a_whole_sandbox_there_is_no_preview(tmp_path: Path) -> None:
    async with loaded(tmp_path, file=file('{"preview": "would_restart"}')) as (registry, tools):
        for pool in tools._pools.values():
            pool.protections = Protections((), ("files", "network"))
        made = await previewed(registry, service="web")
    assert made is not None
    assert made.outcome is Outcome.FAILED
    assert "can't protect files, network" in made.text


@pytest.mark.parametrize(
    ("preview", "said"),
    [
        ('"no_such_function"', "no plain function of the file"),
        ('"restart"', "no plain function of the file"),
        ("7", "no plain function of the file"),
        ('{"function": "tells", "write_paths": ["/tmp/x"]}', "`write_paths`"),
        ('{"network": True}', "must name a function"),
        ('{"function": "tells", "network": True}', "a network that the tool itself doesn't have"),
        ('{"function": "tells", "secrets": ["PAGER_TOKEN"]}', "that the tool itself doesn't have"),
        ('{"function": "tells", "read_paths": ["/srv"]}', "that the tool itself doesn't have"),
    ],
)
async def test_a_bad_preview_is_reported(tmp_path: Path, preview: str, said: str) -> None:
    metadata = f'{{"preview": {preview}}}'
    async with loaded(tmp_path, secrets={"PAGER_TOKEN": "fake"}, file=file(metadata)) as (registry, tools):
        assert registry.by_name("restart") is None
        assert said in tools.problems()["file.py: restart"]
