"""Custom tools: the LangChain tools that an operator's Python files define at module level."""

import asyncio
import contextvars
import hashlib
import importlib.util
import json
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import structlog
from langchain_core.tools import BaseTool, ToolException

from agent.tools.arguments import schema_problem
from agent.tools.base import CallContext, Outcome, Source, Tool, ToolResult, ToolSpec, schema_hash, tool_id

DEFAULT_TIMEOUT_S = 60.0
THREAD_LIMIT = 64
"""Threads that sync tools may occupy; one that never returns keeps its own for good."""

log = structlog.get_logger()


class CustomTools:
    """The tools of `folder/*.py`, loaded once; a broken file costs only its own tools.

    Files run in this process with its rights: the folder is the operator's. Names that start with `_` are skipped.
    """

    def __init__(self, folder: Path) -> None:
        self._problems: dict[str, str] = {}
        self._tools: dict[str, Tool] = {}
        self._threads = _Threads()
        if not folder.is_dir():
            self._problems[folder.name] = (
                f"TOOLS_DIR names {folder}, which is not a folder: create it or correct the setting."
            )
            return
        for file in sorted(folder.glob("*.py")):
            if not file.name.startswith("_"):
                self._load(file)

    def tools(self) -> list[Tool]:
        return list(self._tools.values())

    def problems(self) -> dict[str, str]:
        return dict(self._problems)

    async def run(self, changed: Callable[[], Awaitable[None]]) -> None:
        """Nothing to keep alive: files are read at start."""

    async def ready(self) -> None:
        return

    def _load(self, file: Path) -> None:
        try:
            found = _import(file)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - one file's code; the others still load
            said = " ".join(str(error).split())[:200]
            self._problems[file.name] = f"{file.name} could not be loaded: {type(error).__name__}: {said}"
            log.warning("tools.file_broken", file=file.name, error=type(error).__name__)
            return
        for tool in found:
            if tool.name in self._tools:
                self._problems[f"{file.name}: {tool.name}"] = (
                    f"{file.name} defines `{tool.name}` again: rename one of the two; the first counts."
                )
                continue
            try:
                self._tools[tool.name] = _CustomTool(_spec(tool), tool, self._threads)
            except Exception as error:  # noqa: BLE001 - one tool's declaration; the others still load
                self._problems[f"{file.name}: {tool.name}"] = f"`{tool.name}` in {file.name} can't be offered: {error}"


@dataclass(frozen=True, slots=True)
class _CustomTool:
    spec: ToolSpec
    tool: BaseTool
    threads: "_Threads"

    async def run(self, args: Mapping[str, Any], context: CallContext) -> ToolResult:
        """Await an async tool, run a sync one in a thread of its own.

        A thread can't be stopped: after a cancellation or timeout a sync tool goes on, and its outcome is unknown.
        """
        config: Any = {
            "configurable": {
                "session_id": str(context.session_id),
                "tool_call_id": context.tool_call_id,
                "approval_id": str(context.approval_id) if context.approval_id else None,
                "requester_id": str(context.requester_id),
            }
        }
        try:
            if _is_async(self.tool):
                answer = await self.tool.ainvoke(dict(args), config)
            else:
                answer = await self.threads.call(lambda: self.tool.invoke(dict(args), config))
        except ToolException as error:
            return ToolResult(str(error) or f"`{self.spec.name}` failed.", Outcome.FAILED)
        return ToolResult(_text(answer))


class _Threads:
    """Daemon threads, one a call: a tool that hangs delays neither other calls nor the end of the process."""

    def __init__(self) -> None:
        self._busy = 0

    async def call(self, function: Callable[[], Any]) -> Any:
        if self._busy >= THREAD_LIMIT:
            raise RuntimeError(f"{THREAD_LIMIT} custom tools are still running; some of them may hang")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()
        context = contextvars.copy_context()

        def finish(value: Any, error: BaseException | None) -> None:
            self._busy -= 1
            if done.cancelled():
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(value)

        def work() -> None:
            value, failure = None, None
            try:
                value = context.run(function)
            except BaseException as error:  # noqa: BLE001 - one tool call; handed to the one who waits
                # A future refuses StopIteration, and SystemExit would end the loop that it is handed to.
                ordinary = isinstance(error, Exception) and not isinstance(error, StopIteration)
                failure = error if ordinary else RuntimeError(f"{type(error).__name__}: {error}")
            if not loop.is_closed():
                loop.call_soon_threadsafe(finish, value, failure)

        self._busy += 1
        threading.Thread(target=work, name="custom-tool", daemon=True).start()
        return await done


def _import(file: Path) -> list[BaseTool]:
    """Run the file as a module of its own name and return its tools, each once."""
    digest = hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:12]
    name = f"opsagent_custom_{digest}_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file.name} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    tools = {id(value): value for value in vars(module).values() if isinstance(value, BaseTool)}
    return list(tools.values())


def _spec(tool: BaseTool) -> ToolSpec:
    metadata = tool.metadata or {}
    timeout = metadata.get("timeout_s", DEFAULT_TIMEOUT_S)
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout <= 3600:
        raise ValueError("its timeout_s must be a number of seconds between 0 and 3600.")
    declared = tool.tool_call_schema
    schema: dict[str, Any] = declared if isinstance(declared, dict) else cast("Any", declared).model_json_schema()
    if problem := schema_problem(schema):
        raise ValueError(f"{problem}.")
    read_only, idempotent = metadata.get("read_only") is True, metadata.get("idempotent") is True
    return ToolSpec(
        tool_id=tool_id(Source.CUSTOM, None, tool.name),
        name=tool.name,
        original_name=tool.name,
        description=tool.description,
        source=Source.CUSTOM,
        server=None,
        input_schema=schema,
        schema_hash=schema_hash(tool.name, tool.description, schema),
        annotations={"readOnlyHint": read_only, "idempotentHint": idempotent},
        read_only=read_only,
        idempotent=idempotent,
        timeout_s=float(timeout),
    )


def _is_async(tool: BaseTool) -> bool:
    if hasattr(tool, "coroutine"):
        return getattr(tool, "coroutine") is not None  # noqa: B009 - only some of BaseTool's classes have it
    return type(tool)._arun is not BaseTool._arun  # pyright: ignore[reportPrivateUsage]


def _text(answer: Any) -> str:
    """Return the answer as text: content blocks joined, other values as JSON."""
    if isinstance(answer, str):
        return answer
    if isinstance(answer, list) and answer and all(isinstance(block, dict) and "type" in block for block in answer):
        blocks = cast("list[dict[str, Any]]", answer)
        return "\n".join(str(b["text"]) if "text" in b else f"[{b['type']}]" for b in blocks)
    return json.dumps(answer, ensure_ascii=False, default=str)
