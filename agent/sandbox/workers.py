"""The warm pool: sandboxed workers that have loaded their tools before anyone calls them."""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import structlog

from agent.sandbox import capability as machine
from agent.sandbox import paths
from agent.sandbox.policy import Capability, Mode, Protections, SandboxSpec
from agent.sandbox.worker_process import WorkerFailed, WorkerLost, WorkerProcess
from agent.tools import tables
from agent.tools.attachments import MOST, Attachment, NotTaken, decoded
from agent.tools.base import CallContext, Outcome, ToolResult

TOOL_FILES = "agent.sandbox.toolfiles:ToolFiles"
CALLS_A_WORKER = 1000
_BACKOFF_S = (0.0, 0.5, 2.0, 10.0, 30.0)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ToolDescription:
    """What a tool says of itself, before anyone has judged it."""

    file: str
    name: str
    description: str
    input_schema: dict[str, Any]
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Loaded:
    tools: tuple[ToolDescription, ...]
    problems: dict[str, str]
    """What is wrong, by file or tool, each as one sentence."""


class WorkerPool:
    """`size` workers, one call at a time in each; `load` before the first call, `close` at the end.

    A worker serves many calls: what a tool file keeps at module level lives on in it, environment, current folder and
    temp files don't. It is replaced after a crash, a timeout, a cancelled call, `calls` calls, and `load`.
    """

    def __init__(
        self,
        target: str,
        spec: SandboxSpec,
        size: int = 2,
        *,
        mode: Mode = Mode.STRICT,
        capability: Capability | None = None,
        calls: int = CALLS_A_WORKER,
    ) -> None:
        self._target = target
        self._spec = _for_workers(spec, target)
        self._size = size
        self._mode = mode
        self._capability = capability
        self._calls = calls
        self._files: list[dict[str, str]] = []
        self._generation = 0
        self._workers: dict[WorkerProcess, int] = {}
        self._idle: list[WorkerProcess] = []
        self._changed = asyncio.Condition()
        self._doing: set[asyncio.Task[None]] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._starting = 0
        self._failures = 0
        self._loading = asyncio.Lock()
        self._closed = False
        self.protections: Protections | None = None
        """What holds the workers; known once the first has started."""

    async def load(self, files: Sequence[Path]) -> Loaded:
        """Load the files into new workers and let them take over; the old ones finish the call that they are in.

        Raise SandboxUnavailable where strict can't be kept, WorkerLost where none would start; then nothing changes.
        """
        async with self._loading:
            read = await asyncio.to_thread(_read, files)
            first, answer = await self._fresh(read)
            async with self._changed:
                self._files = read
                self._generation += 1
                self._failures = 0
                old, self._idle = self._idle, []
                self._join(first, self._generation)
                self._refill()
                self._changed.notify_all()
            for worker in old:
                self._retire(worker)
        return Loaded(tuple(ToolDescription(**tool) for tool in answer["tools"]), dict(answer["problems"]))

    async def preview(self, tool: str, args: Mapping[str, Any], context: CallContext, timeout: float) -> ToolResult:
        """Run a tool's preview as a call is run."""
        return await self.call(tool, args, context, timeout, do="preview")

    async def call(
        self, tool: str, args: Mapping[str, Any], context: CallContext, timeout: float, *, do: str = "call"
    ) -> ToolResult:
        """Run one call; a worker that doesn't answer in time is killed, and then its effect is unknown."""
        try:
            async with asyncio.timeout(timeout):
                worker = await self._take()
        except TimeoutError:
            return _not_run(tool, f"no tool worker was free within {timeout:g} s; try again later")
        if worker is None:
            return _not_run(tool, "the tool workers are stopping")
        try:
            async with asyncio.timeout(timeout):
                asked = {"tool": tool, "args": dict(args), "context": _plain(context)}
                answer = await worker.ask(do, **asked)
        except WorkerFailed as error:
            return ToolResult(f"`{tool}` failed: {error}", Outcome.FAILED)
        except TimeoutError:
            self._retire(worker)
            return ToolResult(
                f"`{tool}` gave no answer within {timeout:g} s and was stopped; whether it took effect is not known.",
                Outcome.UNKNOWN,
            )
        except WorkerLost as error:
            log.warning("sandbox.worker_lost", tool=tool, error=str(error))
            self._retire(worker)
            return ToolResult(
                f"`{tool}` ended its process while it ran; whether it took effect is not known.", Outcome.UNKNOWN
            )
        except BaseException:
            self._retire(worker)
            raise
        finally:
            await self._give_back(worker)
        return _result(answer)

    async def close(self) -> None:
        """End all workers; calls under way end with them."""
        self._closed = True
        async with self._changed:
            self._changed.notify_all()
        async with self._loading:
            for task in (doing := list(self._doing)):
                task.cancel()
            await asyncio.gather(*doing, return_exceptions=True)
            for worker in list(self._workers):
                self._retire(worker)
            await asyncio.gather(*self._closing)

    async def _take(self) -> WorkerProcess | None:
        """Return a worker for one call; None once the pool is closed."""
        while not self._closed:
            async with self._changed:
                await self._changed.wait_for(lambda: self._idle or self._closed)
                worker = self._idle.pop() if self._idle else None
            if worker and worker.is_alive:
                return worker
            if worker:
                self._retire(worker)
        return None

    async def _give_back(self, worker: WorkerProcess) -> None:
        is_current = self._workers.get(worker) == self._generation
        if not is_current or not worker.is_alive or worker.calls > self._calls or self._closed:
            self._retire(worker)
            return
        self._idle.append(worker)
        async with self._changed:
            self._changed.notify_all()

    def _retire(self, worker: WorkerProcess) -> None:
        """Close the worker in the background and start another in its place."""
        if self._workers.pop(worker, None) is None:
            return
        with suppress(ValueError):
            self._idle.remove(worker)
        _keep(self._closing, worker.close())
        self._refill()

    def _refill(self) -> None:
        current = sum(generation == self._generation for generation in self._workers.values())
        while not self._closed and self._generation and current + self._starting < self._size:
            self._starting += 1
            _keep(self._doing, self._start_one())

    async def _start_one(self) -> None:
        try:
            await asyncio.sleep(_BACKOFF_S[min(self._failures, len(_BACKOFF_S) - 1)])
            generation = self._generation
            worker, _ = await self._fresh(self._files)
        except Exception as error:  # noqa: BLE001 - one worker's start; tried again
            self._starting -= 1
            self._failures += 1
            log.warning("sandbox.worker_start_failed", error=str(error), failures=self._failures)
            self._refill()
            return
        except BaseException:
            self._starting -= 1
            raise
        self._starting -= 1
        self._failures = 0
        if generation != self._generation:
            _keep(self._closing, worker.close())
            self._refill()
            return
        self._join(worker, generation)
        async with self._changed:
            self._changed.notify_all()

    async def _fresh(self, files: list[dict[str, str]]) -> tuple[WorkerProcess, Any]:
        able = self._capability or await asyncio.to_thread(machine.current)
        worker = await WorkerProcess.start(self._target, self._spec, self._mode, able)
        try:
            async with asyncio.timeout(self._spec.wall_s):
                answer = await worker.ask("load", files=files)
        except WorkerFailed as error:
            await worker.close()
            raise WorkerLost(f"The tool files could not be loaded: {error}") from None
        except TimeoutError:
            await worker.close()
            raise WorkerLost(f"The tool files took longer than {self._spec.wall_s:g} s to load.") from None
        except BaseException:
            await worker.close()
            raise
        self.protections = worker.protections
        return worker, answer

    def _join(self, worker: WorkerProcess, generation: int) -> None:
        self._workers[worker] = generation
        self._idle.append(worker)
        _keep(self._doing, self._watch(worker))

    async def _watch(self, worker: WorkerProcess) -> None:
        """Replace a worker that ends between two calls before somebody meets it."""
        await worker.wait()
        if worker in self._idle:
            self._retire(worker)


def _keep(tasks: set[asyncio.Task[None]], work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)


def _for_workers(spec: SandboxSpec, target: str) -> SandboxSpec:
    """Return the spec with what the worker itself reads; CPU seconds would add up over its calls."""
    place = target.rpartition(":")[0]
    own = (str(Path(__file__).parents[1]), *paths.python(), *((place,) if place.endswith(".py") else ()))
    return replace(spec, read_paths=(*spec.read_paths, *own), cpu_s=None)


def _not_run(tool: str, why: str) -> ToolResult:
    return ToolResult(f"`{tool}` was not run: {why}.", Outcome.FAILED)


def _result(answer: Any) -> ToolResult:
    """Return the worker's answer; what it says of files and records is checked here again."""
    if answer["failed"]:
        return ToolResult(str(answer["text"]), Outcome.FAILED)
    files: list[Attachment] = []
    notes = [str(note)[:200] for note in answer.get("notes", ())][:MOST]
    for sent in list(answer.get("files", ()))[:MOST]:
        try:
            files.append(decoded(str(sent["data"]), name=str(sent["name"]), media_type=str(sent["media_type"])))
        except NotTaken as why:
            notes.append(f"[a file, not shown: {why}]")
    table = tables.of_records(answer.get("records"))
    text = "\n".join([str(answer["text"]), *notes])
    # An artifact is by its nature for people; what a tool returns as its content is for the model first.
    return ToolResult(text, attachments=tuple(files), table=table, for_people=table is not None)


def _read(files: Sequence[Path]) -> list[dict[str, str]]:
    return [{"path": str(file), "source": file.read_text(encoding="utf-8")} for file in files]


def _plain(context: CallContext) -> dict[str, str | None]:
    return {name: None if value is None else str(value) for name, value in asdict(context).items()}
