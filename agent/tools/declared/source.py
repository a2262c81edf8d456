"""The declared tools of a folder, as a source of the catalogue that can be read again while it runs."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import structlog

from agent.egress import EgressPolicy
from agent.sandbox.policy import Mode
from agent.tools.arguments import schema_problem
from agent.tools.base import UNSANDBOXED, CallContext, Outcome, Source, Tool, ToolResult, ToolSpec, schema_hash, tool_id
from agent.tools.declared import argv_command, files, http_request, kubectl_command, process, promql_query, sql_query
from agent.tools.declared import preview as previewing
from agent.tools.declared.declaration import BadTool, Declaration, House, declarations
from agent.tools.declared.parameters import BadParameter, Unfit

log = structlog.get_logger()


class Kind(Protocol):
    """A declaration of one kind, ready to run."""

    @property
    def schema(self) -> dict[str, Any]: ...

    @property
    def read_only(self) -> bool: ...

    @property
    def declaration(self) -> Declaration: ...

    async def run(self, args: Mapping[str, Any], context: CallContext) -> ToolResult: ...


_BUILDERS: dict[str, Callable[[Declaration, House], Kind]] = {
    "argv": argv_command.build,
    "http": http_request.build,
    "sql": sql_query.build,
    "promql": promql_query.build,
    "kubectl": kubectl_command.build,
}
_PROGRAMS = ("argv", "kubectl")
"""Kinds that start a program; the others speak to a server from this process."""


@dataclass(frozen=True)
class DeclaredTool:
    """A declared tool under its spec."""

    spec: ToolSpec
    kind: Kind
    previewer: previewing.Preview | None = None

    async def run(self, args: Mapping[str, Any], context: CallContext) -> ToolResult:
        try:
            return await self.kind.run(args, context)
        except Unfit as error:
            return ToolResult(str(error), Outcome.FAILED)

    async def preview(self, args: Mapping[str, Any], context: CallContext) -> ToolResult | None:
        if self.previewer is None:
            return None
        try:
            return await self.previewer.run(args, context)
        except Unfit as error:
            return ToolResult(str(error), Outcome.FAILED)


class DeclaredTools:
    """The tools of `folder/*.yaml`; what is wrong with one costs only that one."""

    def __init__(self, folder: Path, *, mode: Mode, egress: EgressPolicy, secrets: Mapping[str, str]) -> None:
        self._folder = folder
        self._house = House(mode, egress, secrets)
        self._tools: dict[str, DeclaredTool] = {}
        self._problems: dict[str, str] = {}
        self._changed: Callable[[], Awaitable[None]] | None = None
        self._reloading = asyncio.Lock()
        self._load()

    def tools(self) -> list[Tool]:
        return list(self._tools.values())

    def problems(self) -> dict[str, str]:
        return dict(self._problems)

    async def run(self, changed: Callable[[], Awaitable[None]]) -> None:
        """Nothing to keep alive; `changed` is told of what a reload brings."""
        self._changed = changed
        try:
            await asyncio.Event().wait()
        finally:
            self._changed = None

    async def ready(self) -> None:
        return

    async def reload(self) -> None:
        """Read the folder again; a tool that says the same as before stays the same tool."""
        async with self._reloading:
            before = dict(self._tools)
            await asyncio.to_thread(self._load)
            if before != self._tools and self._changed:
                await self._changed()

    def _load(self) -> None:
        tools: dict[str, DeclaredTool] = {}
        problems: dict[str, str] = {}
        if not self._folder.is_dir():
            problems[self._folder.name] = (
                f"TOOLS_DIR names {self._folder}, which is not a folder: create it or correct the setting."
            )
        for file in sorted(self._folder.glob("*.yml")):
            problems[file.name] = f"{file.name} is not read: rename it to {file.stem}.yaml."
        for file in sorted(self._folder.glob("*.yaml")):
            try:
                source = files.read(file)
            except files.BadFile as error:
                problems[file.name] = str(error)
                continue
            self._take(source, tools, problems)
        for name, tool in tools.items():
            known = self._tools.get(name)
            if known is not None and known == tool:
                tools[name] = known
        for problem in problems.values():
            log.warning("tools.declaration_broken", problem=problem)
        self._tools, self._problems = tools, problems

    def _take(self, source: files.Source, tools: dict[str, DeclaredTool], problems: dict[str, str]) -> None:
        for index, name, made in declarations(source, self._house):
            place, key = ("tools", index), f"{source.name}: {name or f'tool {index + 1}'}"
            try:
                if isinstance(made, BadTool):
                    raise made
                if made.name in tools:
                    raise BadTool(f"there is a tool `{made.name}` already: rename one; the first counts.", "name")
                tools[made.name] = _offered(made, self._house)
            except BadTool as error:
                full = error.place if error.place and (*error.place,) in source.lines else (*place, *error.place)
                while key in problems:
                    key += "'"
                problems[key] = source.at(full, error.problem)


def _offered(declaration: Declaration, house: House) -> DeclaredTool:
    try:
        kind = _BUILDERS[declaration.kind](declaration, house)
        previewer = previewing.build(declaration, house)
    except BadParameter as error:
        raise BadTool(str(error)) from error
    if problem := schema_problem(kind.schema):
        raise BadTool(f"its parameters can't be checked: {problem}.", "parameters")
    read_only = kind.read_only
    missing = process.missing(declaration, house) if declaration.kind in _PROGRAMS else ()
    # An approval covers the command as it was declared then, not only what the model sees of it.
    bound = {"input": kind.schema, "declared": declaration.raw}
    spec = ToolSpec(
        tool_id=tool_id(Source.DECLARED, None, declaration.name),
        name=declaration.name,
        original_name=declaration.name,
        description=declaration.description,
        source=Source.DECLARED,
        server=None,
        input_schema=kind.schema,
        schema_hash=schema_hash(declaration.name, declaration.description, bound),
        annotations={
            "readOnlyHint": read_only,
            "idempotentHint": declaration.idempotent,
            "destructiveHint": declaration.risk in ("high", "critical"),
            "risk": declaration.risk,
            "kind": declaration.kind,
            "hosts": list(declaration.hosts),
            "writes": list(declaration.write_paths),
            "secrets": list(declaration.secrets),
            **({UNSANDBOXED: ", ".join(missing)} if missing else {}),
        },
        read_only=read_only,
        idempotent=declaration.idempotent,
        timeout_s=declaration.timeout_s,
        previews=previewer is not None,
    )
    return DeclaredTool(spec, kind, previewer)
