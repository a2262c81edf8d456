"""Custom tools: the LangChain tools of an operator's Python files and packages, run in sandboxed workers."""

import asyncio
import re
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, cast

import structlog

from agent.sandbox.policy import Mode, SandboxSpec, SandboxUnavailable
from agent.sandbox.worker_process import WorkerLost
from agent.sandbox.workers import TOOL_FILES, ToolDescription, WorkerPool
from agent.tools.arguments import schema_problem
from agent.tools.base import (
    PREVIEW_S,
    UNSANDBOXED,
    CallContext,
    Outcome,
    Source,
    Tool,
    ToolResult,
    ToolSpec,
    schema_hash,
    tool_id,
)

GROUP = "opsagent.tools"
"""The entry points by which installed packages bring tools."""
DEFAULT_TIMEOUT_S = 60.0
WORKERS = 2
RISKS = ("low", "medium", "high")
_HOST = re.compile(r"[A-Za-z0-9.-]{1,253}(?::(\d{1,5}))?")
_ENTRY = re.compile(r"([A-Za-z_][\w.]*)(?::([A-Za-z_]\w*))?")
_KNOWN = frozenset(
    {
        *("risk", "read_only", "idempotent", "timeout_s", "network", "hosts", "read_paths", "write_paths", "secrets"),
        *("memory_mb", "preview"),
    }
)
_OF_A_PREVIEW = frozenset({"function", "network", "hosts", "read_paths", "secrets", "memory_mb"})

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Needs:
    """What a tool declares that it uses beside what every sandboxed tool may; tools with equal needs share workers."""

    network: bool = False
    ports: tuple[int, ...] = ()
    read_paths: tuple[str, ...] = ()
    write_paths: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    memory_mb: int = 1024


@dataclass(frozen=True, slots=True)
class _CustomTool:
    spec: ToolSpec
    pool: WorkerPool = field(repr=False)

    preview_pool: WorkerPool | None = field(default=None, repr=False)

    async def run(self, args: Mapping[str, Any], context: CallContext) -> ToolResult:
        return await self.pool.call(self.spec.original_name, args, context.alone, self.spec.timeout_s)

    async def preview(self, args: Mapping[str, Any], context: CallContext) -> ToolResult | None:
        """Run the preview, in workers that hold it wholly or not at all: nobody has approved anything."""
        if self.preview_pool is None:
            return None
        held = self.preview_pool.protections
        if held is None or held.missing:
            missing = ", ".join(held.missing) if held else "anything"
            return ToolResult(f"it was not run: the sandbox on this machine can't protect {missing}.", Outcome.FAILED)
        timeout = min(self.spec.timeout_s, PREVIEW_S)
        return await self.preview_pool.preview(self.spec.original_name, args, context.alone, timeout)


class CustomTools:
    """The tools of `folder/*.py` and of installed packages; a broken file costs only its own tools.

    None of their code runs in this process. Names that start with `_` are skipped.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        mode: Mode = Mode.BEST_EFFORT,
        secrets: Mapping[str, str] | None = None,
        packages: Sequence[EntryPoint] | None = None,
        workers: int = WORKERS,
    ) -> None:
        self._folder = folder
        self._mode = mode
        self._secrets = dict(secrets or {})
        self._packages = list(entry_points(group=GROUP)) if packages is None else list(packages)
        self._workers = workers
        self._problems: dict[str, str] = {}
        self._tools: dict[str, Tool] = {}
        self._pools: dict[Needs, WorkerPool] = {}
        self._tried = asyncio.Event()
        self._loading = asyncio.Lock()
        self._changed: Callable[[], Awaitable[None]] | None = None

    def tools(self) -> list[Tool]:
        return list(self._tools.values())

    def problems(self) -> dict[str, str]:
        return dict(self._problems)

    async def run(self, changed: Callable[[], Awaitable[None]]) -> None:
        """Load the files and keep their workers until cancelled."""
        self._changed = changed
        try:
            await self.reload()
            await asyncio.Event().wait()
        finally:
            self._changed = None
            pools, self._pools, self._tools = list(self._pools.values()), {}, {}
            await asyncio.gather(*(pool.close() for pool in pools))

    async def ready(self) -> None:
        await self._tried.wait()

    async def reload(self) -> None:
        """Read the files again into new workers; calls under way end in the old ones."""
        if self._changed is None:
            return
        async with self._loading:
            try:
                with tempfile.TemporaryDirectory(prefix="opsagent-tools-") as stubs:
                    await self._load(await asyncio.to_thread(self._files, Path(stubs)))
            except (SandboxUnavailable, WorkerLost, OSError, UnicodeDecodeError) as error:
                # What ran before goes on: a folder in the middle of an edit takes nobody's tools away.
                self._problems["custom tools"] = f"The custom tools could not be loaded: {error}"
                log.warning("tools.not_loaded", error=str(error))
            finally:
                self._tried.set()
        await self._changed()

    def _files(self, stubs: Path) -> list[Path]:
        """Return the files to load, with a line of Python for each package's entry point."""
        self._problems = {}
        found: list[Path] = []
        if self._folder is not None and not self._folder.is_dir():
            self._problems[self._folder.name] = (
                f"TOOLS_DIR names {self._folder}, which is not a folder: create it or correct the setting."
            )
        elif self._folder is not None:
            found = [file for file in sorted(self._folder.glob("*.py")) if not file.name.startswith("_")]
        for package in self._packages:
            named = _ENTRY.fullmatch(package.value)
            if named is None:
                self._problems[f"package {package.name}"] = (
                    f"The entry point {package.name} of {GROUP} names no module."
                )
                continue
            stub = stubs / f"package_{re.sub(r'[^A-Za-z0-9_]', '_', package.name)}.py"
            stub.write_text(f"from {named[1]} import {named[2] or '*'}\n", encoding="utf-8")
            found.append(stub)
        return found

    async def _load(self, files: list[Path]) -> None:
        tools: dict[str, Tool] = {}
        pools: dict[Needs, WorkerPool] = {}
        try:
            if files:
                await self._fill(files, tools, pools)
        except BaseException:
            await asyncio.gather(*(pool.close() for needs, pool in pools.items() if needs not in self._pools))
            raise
        unused = [pool for needs, pool in self._pools.items() if needs not in pools]
        self._tools, self._pools = tools, pools
        await asyncio.gather(*(pool.close() for pool in unused))

    async def _fill(self, files: list[Path], tools: dict[str, Tool], pools: dict[Needs, WorkerPool]) -> None:
        # Loaded once with nothing to say what they need; a tool that needs more gets workers that have it.
        plain = pools[Needs()] = self._pool(Needs())
        loaded = await plain.load(files)
        self._problems.update(loaded.problems)
        wanted: dict[Needs, list[ToolDescription]] = {}
        previewed: dict[str, Needs] = {}
        for described in loaded.tools:
            try:
                needs, preview = self._needs(described.metadata), self._needs_of_preview(described.metadata)
                if preview is not None:
                    previewed[described.name] = preview
                wanted.setdefault(needs, []).append(described)
            except ValueError as error:
                self._reject(described, error)
        served = {needs: list(members) for needs, members in wanted.items()}
        for members in wanted.values():
            for described in members:
                if (preview := previewed.get(described.name)) is not None:
                    served.setdefault(preview, []).append(described)
        by_name = {file.name: file for file in files}
        for needs, members in served.items():
            if needs not in pools:
                pools[needs] = self._pool(needs)
                names = dict.fromkeys(described.file for described in members)
                self._problems.update((await pools[needs].load([by_name[name] for name in names])).problems)
        for needs, members in wanted.items():
            previews = {name: pools[preview] for name, preview in previewed.items()}
            tools.update(self._offered(members, pools[needs], previews))

    def _reject(self, described: ToolDescription, error: ValueError) -> None:
        what = f"`{described.name}` in {described.file} can't be offered: {error}"
        self._problems[f"{described.file}: {described.name}"] = what

    def _offered(
        self, members: list[ToolDescription], pool: WorkerPool, previews: Mapping[str, WorkerPool]
    ) -> dict[str, Tool]:
        missing = pool.protections.missing if pool.protections else ()
        found: dict[str, Tool] = {}
        for described in members:
            try:
                found[described.name] = _CustomTool(_spec(described, missing), pool, previews.get(described.name))
            except ValueError as error:
                self._reject(described, error)
        return found

    def _pool(self, needs: Needs) -> WorkerPool:
        """Return the workers for tools of these needs: those that run already, or new ones."""
        if needs in self._pools:
            return self._pools[needs]
        spec = SandboxSpec(
            read_paths=needs.read_paths,
            write_paths=needs.write_paths,
            network=needs.network,
            ports=needs.ports,
            env={name: self._secrets[name] for name in needs.secrets},
            memory_mb=needs.memory_mb,
        )
        return WorkerPool(TOOL_FILES, spec, self._workers, mode=self._mode)

    def _needs_of_preview(self, said: Mapping[str, Any]) -> Needs | None:
        """Return what a tool's preview declares, which is never more than the tool, and nowhere to write."""
        preview = said.get("preview")
        if preview is None:
            return None
        own = cast("dict[str, Any]", preview) if isinstance(preview, dict) else {"function": preview}
        if unknown := sorted(own.keys() - _OF_A_PREVIEW):
            raise ValueError(f"its preview has `{unknown[0]}`, which is not known there.")
        if not isinstance(own.get("function"), str):
            raise ValueError("its preview must name a function of the file.")
        needs, whole = self._needs({key: value for key, value in own.items() if key != "function"}), self._needs(said)
        ports = whole.network and (not whole.ports or (bool(needs.ports) and set(needs.ports) <= set(whole.ports)))
        if needs.network and not ports:
            raise ValueError("its preview asks for a network that the tool itself doesn't have.")
        readable = {*whole.read_paths, *whole.write_paths}
        if not set(needs.secrets) <= set(whole.secrets) or not set(needs.read_paths) <= readable:
            raise ValueError("its preview asks for secrets or read_paths that the tool itself doesn't have.")
        return needs

    def _needs(self, said: Mapping[str, Any]) -> Needs:
        """Return what a tool's metadata declares; raises ValueError for what it may not say."""
        if unknown := sorted(said.keys() - _KNOWN):
            raise ValueError(f"its metadata has `{unknown[0]}`, which is not known here.")
        hosts = _strings(said, "hosts")
        matched = [_HOST.fullmatch(host) for host in hosts]
        if not all(matched):
            raise ValueError("its hosts must be written as name or name:port.")
        ports = sorted({int(match[1]) for match in matched if match and match[1]})
        network = said.get("network", False)
        if not isinstance(network, bool) or not all(0 < port < 65536 for port in ports):
            raise ValueError("its network must be True or False, and its ports be between 1 and 65535.")
        secrets = _strings(said, "secrets")
        for name in secrets:
            if name not in self._secrets:
                raise ValueError(f"its secret {name} is not set: set OPSAGENT_TOOL_SECRET_{name} and reload the tools.")
        memory = said.get("memory_mb", 1024)
        if isinstance(memory, bool) or not isinstance(memory, int) or not 64 <= memory <= 65_536:
            raise ValueError("its memory_mb must be a whole number from 64 to 65536.")
        return Needs(
            network=network or bool(hosts),
            # Only where every host has a port: one without may need any.
            ports=tuple(ports) if hosts and all(match and match[1] for match in matched) else (),
            read_paths=_paths(said, "read_paths"),
            write_paths=_paths(said, "write_paths"),
            secrets=tuple(sorted(secrets)),
            memory_mb=memory,
        )


def _strings(said: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = said.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in cast("list[Any]", value)):
        raise ValueError(f"its {key} must be a list of strings.")
    return tuple(cast("list[str]", value))


def _paths(said: Mapping[str, Any], key: str) -> tuple[str, ...]:
    paths = _strings(said, key)
    if not all(path.startswith("/") and path.rstrip("/") and "\0" not in path for path in paths):
        raise ValueError(f"its {key} must be absolute paths, and not / itself.")
    return paths


def _spec(described: ToolDescription, missing: Sequence[str]) -> ToolSpec:
    """Return the tool under the operator's word; raises ValueError for a declaration that makes no sense."""
    said, schema = described.metadata, described.input_schema
    timeout = said.get("timeout_s", DEFAULT_TIMEOUT_S)
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout <= 3600:
        raise ValueError("its timeout_s must be a number of seconds between 0 and 3600.")
    risk = said.get("risk", "medium")
    if risk not in RISKS:
        raise ValueError(f"its risk must be one of {', '.join(RISKS)}.")
    if problem := schema_problem(schema):
        raise ValueError(f"{problem}.")
    read_only, idempotent = said.get("read_only") is True, said.get("idempotent") is True
    annotations: dict[str, Any] = {"readOnlyHint": read_only, "idempotentHint": idempotent, "risk": risk}
    if missing:
        annotations[UNSANDBOXED] = ", ".join(missing)
    return ToolSpec(
        tool_id=tool_id(Source.CUSTOM, None, described.name),
        name=described.name,
        original_name=described.name,
        description=described.description,
        source=Source.CUSTOM,
        server=None,
        input_schema=schema,
        schema_hash=schema_hash(described.name, described.description, schema),
        annotations=annotations,
        read_only=read_only,
        idempotent=idempotent,
        timeout_s=float(timeout),
        previews=said.get("preview") is not None,
    )
