"""Folders of declared tools, loaded as the product loads them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from agent.egress import EgressPolicy
from agent.sandbox.policy import Mode
from agent.tools.base import CallContext, ToolResult
from agent.tools.declared.source import DeclaredTools

LOOPBACK = EgressPolicy.of(allow_cidrs=["127.0.0.0/8"])


class Folder:
    """A TOOLS_DIR under test."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, text: str, name: str = "tools.yaml") -> None:
        (self.path / name).write_text(text)

    def source(self, *, mode: Mode = Mode.OFF, egress: EgressPolicy = LOOPBACK, **secrets: str) -> DeclaredTools:
        return DeclaredTools(self.path, mode=mode, egress=egress, secrets=secrets)

    def problem(self, text: str, **secrets: str) -> str:
        """The only problem that a file of this text has."""
        self.write(text)
        (problem,) = self.source(**secrets).problems().values()
        return problem


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def context(**known: Any) -> CallContext:
    return CallContext(
        **{"session_id": uuid4(), "tool_call_id": "c1", "approval_id": None, "requester_id": uuid4()} | known
    )


def tool_of(source: DeclaredTools, name: str) -> Any:
    found = {tool.spec.name: tool for tool in source.tools()}
    assert name in found, source.problems()
    return found[name]


@pytest.fixture
def run() -> Callable[..., Any]:
    async def run_tool(source: DeclaredTools, name: str, args: Mapping[str, Any], **known: Any) -> ToolResult:
        return await tool_of(source, name).run(args, context(**known))

    return run_tool
