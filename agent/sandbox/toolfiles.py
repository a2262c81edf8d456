"""What a tool worker serves: the LangChain tools that an operator's Python files define at module level."""

import asyncio
import hashlib
import inspect
import json
import linecache
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from langchain_core.messages import ToolMessage
from langchain_core.tools import BaseTool, ToolException

from agent.sandbox import shown


class ToolFiles:
    """The tools of the files that were loaded; a file runs once, and what it keeps at module level stays.

    Files share one process and trust each other. One event loop serves all calls, so a client that a file keeps
    works in every call; tasks that a call leaves behind are cancelled.
    """

    def __init__(self) -> None:
        self._tools: dict[str, BaseTool] = {}
        self._previews: dict[str, Callable[..., Any]] = {}
        self._runner = asyncio.Runner()

    def load(self, files: list[dict[str, str]]) -> dict[str, Any]:
        """Run the files, given as path and source, and describe their tools; a broken one costs only its own."""
        described: list[dict[str, Any]] = []
        problems: dict[str, str] = {}
        for file in files:
            name = Path(file["path"]).name
            try:
                module, found = _run(Path(file["path"]), file["source"])
            except (Exception, SystemExit) as error:  # noqa: BLE001 - one file's code; the others still load
                said = " ".join(str(error).split())[:200]
                problems[name] = f"{name} could not be loaded: {type(error).__name__}: {said}"
                continue
            for tool in found:
                if tool.name in self._tools:
                    problems[f"{name}: {tool.name}"] = (
                        f"{name} defines `{tool.name}` again: rename one of the two; the first counts."
                    )
                    continue
                try:
                    said = _described(tool)
                    preview = _preview(module, said["metadata"])
                    described.append({"file": name, **said})
                except Exception as error:  # noqa: BLE001 - one tool's declaration; the others still load
                    problems[f"{name}: {tool.name}"] = f"`{tool.name}` in {name} can't be offered: {error}"
                    continue
                self._tools[tool.name] = tool
                if preview is not None:
                    self._previews[tool.name] = preview
        return {"tools": described, "problems": problems}

    def call(self, tool: str, args: dict[str, Any], context: dict[str, Any]) -> dict[str, Any]:
        """Run one tool; its ToolException is an answer, not an accident."""
        found = self._tools.get(tool)
        if found is None:
            return {"text": f"There is no tool `{tool}`.", "failed": True}
        config: Any = {"configurable": context}
        try:
            answer = self._answer(found, args, config)
        except ToolException as error:
            return {"text": str(error) or f"`{tool}` failed.", "failed": True}
        artifact = None
        if isinstance(answer, ToolMessage):
            if answer.status == "error":
                return {"text": _text(answer.content), "failed": True}
            answer, artifact = answer.content, answer.artifact
        return {"text": _text(answer), "failed": False, **shown.of(answer, artifact)}

    def preview(self, tool: str, args: dict[str, Any], context: dict[str, Any]) -> dict[str, Any]:
        """Return what a tool's preview function says of these arguments; `context` is the same as a call's."""
        found = self._previews.get(tool)
        if found is None:
            return {"text": f"`{tool}` has no preview.", "failed": True}
        try:
            answer = found(**args)
            if inspect.isawaitable(answer):
                answer = self._runner.run(_awaited(answer))
        except ToolException as error:
            return {"text": str(error) or "It failed.", "failed": True}
        return {"text": _text(answer), "failed": False}

    def _answer(self, tool: BaseTool, args: dict[str, Any], config: Any) -> Any:
        given: Any = args
        if tool.response_format == "content_and_artifact":
            # Only as a tool call does LangChain give the artifact out.
            given = {"type": "tool_call", "name": tool.name, "args": args, "id": "call"}
        if _is_async(tool):
            return self._runner.run(_alone(tool, given, config))
        return tool.invoke(given, config)


async def _alone(tool: BaseTool, args: Any, config: Any) -> Any:
    return await _awaited(tool.ainvoke(args, config))


async def _awaited(answer: Awaitable[Any]) -> Any:
    """Return the answer, and end the tasks that it leaves behind."""
    before = asyncio.all_tasks()
    try:
        return await answer
    finally:
        for task in asyncio.all_tasks() - before:
            task.cancel()


def _run(path: Path, source: str) -> tuple[ModuleType, list[BaseTool]]:
    """Run the source as a module of its own name and return it with its tools, each once."""
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:12]
    module = ModuleType(f"opsagent_custom_{digest}_{path.stem}")
    module.__file__ = str(path)
    # For tracebacks and inspect.getsource: the account that runs us may not be able to read the file.
    linecache.cache[str(path)] = (len(source), None, source.splitlines(keepends=True), str(path))
    sys.modules[module.__name__] = module
    try:
        exec(compile(source, str(path), "exec"), vars(module))  # noqa: S102 - an operator's file, in the sandbox
    except BaseException:
        del sys.modules[module.__name__]
        raise
    tools = {id(value): value for value in vars(module).values() if isinstance(value, BaseTool)}
    return module, list(tools.values())


def _preview(module: ModuleType, metadata: dict[str, Any]) -> Callable[..., Any] | None:
    """Return the function that the metadata names; raises ValueError where the file has none of that name."""
    said = metadata.get("preview")
    name = cast("dict[str, Any]", said).get("function") if isinstance(said, dict) else said
    if name is None:
        return None
    found = getattr(module, name, None) if isinstance(name, str) else None
    if not callable(found) or isinstance(found, BaseTool):
        raise ValueError(f"its preview {name!r} is no plain function of the file.")
    return found


def _described(tool: BaseTool) -> dict[str, Any]:
    declared = tool.tool_call_schema
    schema: dict[str, Any] = declared if isinstance(declared, dict) else cast("Any", declared).model_json_schema()
    metadata = json.loads(json.dumps(tool.metadata or {}))
    return {"name": tool.name, "description": tool.description, "input_schema": schema, "metadata": metadata}


def _is_async(tool: BaseTool) -> bool:
    if hasattr(tool, "coroutine"):
        return getattr(tool, "coroutine") is not None  # noqa: B009 - only some of BaseTool's classes have it
    return type(tool)._arun is not BaseTool._arun  # pyright: ignore[reportPrivateUsage]


def _text(answer: Any) -> str:
    """Return the answer as text: content blocks joined, other values as JSON."""
    if isinstance(answer, str):
        return answer
    if isinstance(answer, bytes):
        return "(The tool gave a file.)"
    if isinstance(answer, list) and answer and all(isinstance(block, dict) and "type" in block for block in answer):
        blocks = cast("list[dict[str, Any]]", answer)
        return "\n".join(str(b["text"]) if "text" in b else f"[{b['type']}]" for b in blocks)
    return json.dumps(answer, ensure_ascii=False, default=str)
