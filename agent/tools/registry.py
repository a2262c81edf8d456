"""The catalogue: every source's tools under one set of names, and the only way to call one."""

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast
from uuid import UUID

import structlog

from agent.tools.arguments import validate
from agent.tools.base import (
    PREVIEW_LIMIT,
    PREVIEW_S,
    CallContext,
    Outcome,
    Previewing,
    Source,
    Tool,
    ToolResult,
    ToolSource,
    ToolSpec,
    capped,
)
from agent.tools.redaction import finished, fit_to_show

__all__ = ["Changed", "Registry", "validate"]

Changed = Callable[[], Awaitable[None]]
GRACE_S = 0.5
"""A source that knows whether its request was sent gets to say so before the registry's own timeout."""
RESTART_S = (1.0, 30.0)
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Named:
    """A source's tool under the name the catalogue gives it."""

    spec: ToolSpec
    inner: Tool

    async def run(self, args: Mapping[str, Any], context: CallContext) -> ToolResult:
        return await self.inner.run(args, context)

    async def preview(self, args: Mapping[str, Any], context: CallContext) -> ToolResult | None:
        return await cast("Previewing", self.inner).preview(args, context)


@dataclass(frozen=True, slots=True)
class Governed:
    """What the catalogue says of a tool over its source's word."""

    enabled: bool = True
    name: str | None = None
    description: str | None = None
    redact: tuple[str, ...] = ()
    accepted_hash: str | None = None
    is_changed: bool = False

    def withholds(self, spec: ToolSpec) -> bool:
        """Whether the tool is not to be offered. Only a hint: each call is checked against the rows themselves."""
        is_accepted = not self.is_changed and self.accepted_hash == spec.schema_hash
        return not self.enabled or (spec.source is Source.MCP and not is_accepted)

    def over(self, spec: ToolSpec) -> ToolSpec:
        return replace(
            spec, name=self.name or spec.name, description=self.description or spec.description, redact=self.redact
        )


class Registry:
    """What the agent may call, from all sources; names depend only on the set of tools, never on its order."""

    def __init__(self, sources: list[ToolSource], redact: tuple[str, ...] = ()) -> None:
        self._sources = sources
        self._redact = redact
        self._subscribers: list[Changed] = []
        self._broken: dict[str, str] = {}
        self._seen: list[Tool] | None = None
        self._governed: Mapping[UUID, Governed] | None = None
        self._own: list[ToolSpec] = []
        self._named: dict[UUID, Tool] = {}
        self._by_name: dict[str, Tool] = {}
        self._offered: list[Tool] = []

    def govern(self, governed: Mapping[UUID, Governed]) -> None:
        """Have the catalogue's word count: tools that it withholds are not offered, others get its names."""
        if governed != self._governed:
            self._governed = governed
            self._seen = None

    def tools(self) -> list[Tool]:
        """Return the tools on offer, sorted by name."""
        self._look()
        return list(self._offered)

    def specs(self) -> list[ToolSpec]:
        """Return all tools as their sources have them, also those that are withheld."""
        self._look()
        return list(self._own)

    def get(self, tool_id: UUID) -> Tool | None:
        """Return the tool of that stable id, if it is there now, also one that is withheld."""
        self._look()
        return self._named.get(tool_id)

    def by_name(self, name: str) -> Tool | None:
        """Return the tool that the model knows by `name`, if it is there now, also one that is withheld."""
        self._look()
        return self._by_name.get(name)

    def problems(self) -> dict[str, str]:
        """Return what is wrong with any source, by server or file name, each as one sentence."""
        found = dict(self._broken)
        for source in self._sources:
            found.update(source.problems())
        return found

    def subscribe(self, callback: Changed) -> Callable[[], None]:
        """Await `callback` after every change of the tools; returns what ends that."""
        self._subscribers.append(callback)

        def unsubscribe() -> None:
            if callback in self._subscribers:
                self._subscribers.remove(callback)

        return unsubscribe

    async def reload(self) -> None:
        """Have every source that has files read them again."""
        for source in self._sources:
            again = getattr(source, "reload", None)
            if again is not None:
                await again()

    async def run(self) -> None:
        """Keep all sources alive until cancelled; one that fails never ends the others."""
        async with asyncio.TaskGroup() as group:
            for source in self._sources:
                group.create_task(self._keep(source))
            await asyncio.Event().wait()

    async def ready(self, timeout: float = 10) -> None:
        """Return once every source was tried once, or `timeout` seconds have passed."""

        async def tried(source: ToolSource) -> None:
            async with asyncio.timeout(timeout):
                await source.ready()

        await asyncio.gather(*map(tried, self._sources), return_exceptions=True)

    async def call(self, tool: Tool, args: Mapping[str, Any], context: CallContext) -> ToolResult:
        """Check the arguments, run the tool within its time, and return what is known; raises only cancellation."""
        spec = tool.spec
        if problem := validate(spec, args):
            return ToolResult(problem, Outcome.FAILED)
        deadline = asyncio.timeout(spec.timeout_s + GRACE_S)
        try:
            async with context.clock.within(deadline):
                result = await tool.run(args, context)
            if result.attachments:  # a second of work for megabytes of text
                return await asyncio.to_thread(fit_to_show, spec, result, self._redact)
            return fit_to_show(spec, result, self._redact)
        except (Exception, SystemExit, asyncio.CancelledError) as error:
            # A tool's own cancellation or exit is a failure of this call; only ours goes on upwards.
            if isinstance(error, asyncio.CancelledError) and (task := asyncio.current_task()) and task.cancelling():
                raise
            result = _late(spec) if deadline.expired() else _raised(spec, error)
            log.warning("tool.raised", tool=spec.name, tool_call_id=context.tool_call_id, error=type(error).__name__)
            return replace(result, text=finished(spec, result.text, self._redact))

    async def preview(self, tool: Tool, args: Mapping[str, Any], context: CallContext) -> ToolResult | None:
        """Return what a tool that previews says a call would do, as everyone may read it; raises only cancellation."""
        spec = tool.spec
        deadline = asyncio.timeout(PREVIEW_S + GRACE_S)
        try:
            async with deadline:
                result = await cast("Previewing", tool).preview(args, context)
            if result is None:
                return None
            text = finished(spec, result.text, self._redact)
        except (Exception, SystemExit, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and (task := asyncio.current_task()) and task.cancelling():
                raise
            log.warning("tool.preview_raised", tool=spec.name, error=type(error).__name__)
            if deadline.expired():
                return ToolResult(f"it gave no answer within {PREVIEW_S:g} s.", Outcome.FAILED)
            return ToolResult(finished(spec, _said(error), self._redact)[:PREVIEW_LIMIT], Outcome.FAILED)
        return ToolResult(capped(text, PREVIEW_LIMIT), result.outcome)

    async def _keep(self, source: ToolSource) -> None:
        name, delay = type(source).__name__, RESTART_S[0]
        while True:
            try:
                await source.run(self._changed)
            except Exception as error:  # one source's life; the others go on
                self._broken[name] = f"The tools of {name} stopped ({type(error).__name__}) and are started again."
                log.exception("tools.source_failed", source=name)
            else:
                return
            await asyncio.sleep(delay)
            delay = min(delay * 2, RESTART_S[1])

    async def _changed(self) -> None:
        for subscriber in list(self._subscribers):
            try:
                await subscriber()
            except Exception:  # one delivery
                log.exception("tools.subscriber_failed")

    def _look(self) -> None:
        seen = [tool for source in self._sources for tool in source.tools()]
        if seen == self._seen:
            return
        unique: dict[UUID, Tool] = {}
        for tool in seen:
            unique.setdefault(tool.spec.tool_id, tool)
        governed = self._governed or {}
        given = {key: word.name for key, word in governed.items() if word.name and key in unique}
        names = offered_names([tool.spec for tool in unique.values()], set(given.values()))
        own = {key: replace(tool.spec, name=names[key]) for key, tool in unique.items()}
        named: dict[UUID, Tool] = {
            key: _Named(governed.get(key, _SILENT).over(own[key]), tool) for key, tool in unique.items()
        }
        self._seen, self._named, self._own = seen, named, list(own.values())
        self._by_name = {tool.spec.name: tool for tool in sorted(named.values(), key=lambda tool: tool.spec.name)}
        self._offered = [t for t in self._by_name.values() if not self._withholds(t.spec)]

    def _withholds(self, spec: ToolSpec) -> bool:
        return self._governed is not None and self._governed.get(spec.tool_id, _SILENT).withholds(spec)


_SILENT = Governed()


def offered_names(specs: list[ToolSpec], given: Collection[str] = ()) -> dict[UUID, str]:
    """Return each tool's name: its own if valid and unique, else after its server's, else before its id's start.

    Names that an admin has given to some tool are nobody's own.
    """
    originals = Counter(spec.original_name for spec in specs)
    originals.update(given)
    own = {s.tool_id for s in specs if originals[s.original_name] == 1 and NAME.fullmatch(s.original_name)}
    names = {s.tool_id: s.original_name if s.tool_id in own else _prefixed(s) for s in specs}
    taken = Counter([*names.values(), *given])
    for tool_id, name in names.items():
        if taken[name] > 1 and tool_id not in own:
            names[tool_id] = f"{name[:51]}_{tool_id.hex[:12]}"
    return names


def _prefixed(spec: ToolSpec) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", f"{spec.server or spec.source.value}_{spec.original_name}")[:64]


def _late(spec: ToolSpec) -> ToolResult:
    if spec.repeatable:
        return ToolResult(f"`{spec.name}` gave no answer within {spec.timeout_s:g} s.", Outcome.FAILED)
    return ToolResult(
        f"`{spec.name}` gave no answer within {spec.timeout_s:g} s; whether it took effect is not known. "
        "Look before it is run again.",
        Outcome.UNKNOWN,
    )


def _raised(spec: ToolSpec, error: BaseException) -> ToolResult:
    return ToolResult(f"`{spec.name}` failed: {_said(error)}", Outcome.FAILED)


def _said(error: BaseException) -> str:
    said = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
