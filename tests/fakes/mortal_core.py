"""Instances of the product in one process that die as a process does: from its point on, one reaches nothing more.

`Fate` is one instance's life. Its database and its saver ask it before and after each write, its tools before and
after each effect; once it is over, each of them raises, so no exception handler writes what a dead process could not.
"""

import asyncio
import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

from agent.run import Limits
from agent.tools.base import CallContext, Source, Tool, ToolResult, ToolSpec, schema_hash, tool_id
from db.database import Database, Tx
from opsagent.compose import Core, open_core
from tests.fakes.scripted_model import ScriptedModel

POINTS = [f"{side} {what}" for what in ("commit", "aput", "aput_writes", "effect") for side in ("before", "after")]


class Killed(BaseException):
    """The instance is dead."""


class Fate:
    """Counts the points of one name as they are reached, and ends the instance at the chosen one."""

    def __init__(self) -> None:
        self.is_over = False
        self._name, self._left = "", 0

    def choose(self, name: str, time: int) -> None:
        self._name, self._left = name, time

    def reach(self, name: str) -> None:
        if name == self._name:
            self._left -= 1
            self.is_over = self.is_over or self._left == 0
        if self.is_over:
            raise Killed


@dataclass
class Gate:
    """Holds up the tool calls of one advance, as a frozen process does; `side` is before or after the effect."""

    side: str
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)


_FATE: ContextVar[Fate | None] = ContextVar("fate", default=None)
_GATE: ContextVar[Gate | None] = ContextVar("gate", default=None)


class MortalDatabase(Database):
    """Points before and after each commit."""

    fate: Fate

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[Tx]:
        self.fate.reach("connection")
        async with super().connection() as connection:
            yield connection

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Tx]:
        async with super().transaction() as tx:
            yield tx
            self.fate.reach("before commit")
        self.fate.reach("after commit")


@contextlib.contextmanager
def mortal_saver() -> Iterator[None]:
    """Points before and after each write of LangGraph's own saver, beneath ours."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("aput", "aput_writes"):

            def around(write: Callable[..., Any], name: str = name) -> Callable[..., Any]:
                async def written(*args: Any, **kwargs: Any) -> Any:
                    fate = _FATE.get() or Fate()
                    fate.reach(f"before {name}")
                    done = await write(*args, **kwargs)
                    fate.reach(f"after {name}")
                    return done

                return written

            patch.setattr(AsyncPostgresSaver, name, around(getattr(AsyncPostgresSaver, name)))
        yield


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"service": {"type": "string"}},
    "required": ["service"],
}


def exact(args: Mapping[str, Any]) -> str:
    """The digest of arguments, computed here and not by the product."""
    return hashlib.sha256(json.dumps(dict(args), sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass
class Effects:
    """What ran, wherever it ran: (tool call, digest of the exact arguments); and which definition each tool has now."""

    ran: Counter[tuple[str, str]] = field(default_factory=Counter)
    versions: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TOOLS, 0))


TOOLS: dict[str, dict[str, bool]] = {"restart": {}, "repeat": {"idempotent": True}, "uptime": {"read_only": True}}


def tool_key(name: str) -> UUID:
    return tool_id(Source.CUSTOM, None, name)


@dataclass
class _Tool:
    """One tool of one instance."""

    spec: ToolSpec
    effects: Effects = field(repr=False)
    fate: Fate = field(repr=False, compare=False)

    async def run(self, args: Mapping[str, Any], context: CallContext) -> ToolResult:
        await self._pass("before effect")
        self.effects.ran[context.tool_call_id, exact(args)] += 1
        await self._pass("after effect")
        return ToolResult(f"{self.spec.name} {args['service']} done")

    async def _pass(self, side: str) -> None:
        self.fate.reach(side)
        gate = _GATE.get()
        if gate is not None and gate.side == side:
            gate.entered.set()
            await gate.opened.wait()
            self.fate.reach("thawed")


class _Tools:
    """The tools of one instance, over effects that outlive it."""

    def __init__(self, effects: Effects, fate: Fate) -> None:
        self._effects, self._fate = effects, fate

    def tools(self) -> list[Tool]:
        return [self._tool(name, **marks) for name, marks in TOOLS.items()]

    def _tool(self, name: str, **marks: bool) -> Tool:
        description = f"{name} a service, version {self._effects.versions[name]}"
        spec = ToolSpec(
            tool_id=tool_key(name),
            name=name,
            original_name=name,
            description=description,
            source=Source.CUSTOM,
            server=None,
            input_schema=SCHEMA,
            schema_hash=schema_hash(name, description, SCHEMA),
            **marks,
        )
        return _Tool(spec, self._effects, self._fate)

    def problems(self) -> dict[str, str]:
        return {}

    async def run(self, changed: Callable[[], Awaitable[None]]) -> None:
        await asyncio.Event().wait()

    async def ready(self) -> None:
        return


class Instance:
    """One instance of the product, whose turns the test advances by hand."""

    def __init__(self, core: Core, fate: Fate, stack: AsyncExitStack) -> None:
        self.core, self.fate, self._stack = core, fate, stack
        self.frozen: list[tuple[Gate, asyncio.Task[None]]] = []
        self._hub = asyncio.create_task(core.hub.run())

    @classmethod
    async def start(cls, dsn: str, effects: Effects) -> "Instance":
        fate, stack = Fate(), AsyncExitStack()
        database = MortalDatabase(dsn, min_size=1)
        database.fate = fate
        core = await stack.enter_async_context(
            open_core(
                dsn,
                model=ScriptedModel(),
                sources=[_Tools(effects, fate)],
                database=database,
                limits=Limits(seconds=3600, attempts=6),
            )
        )
        await core.publish_once(alone=True)
        return cls(core, fate, stack)

    def begin(self, session_id: UUID, gate: Gate | None = None) -> asyncio.Task[None]:
        """Advance a thread, in a task that this instance's fate ends."""

        async def advance() -> None:
            _FATE.set(self.fate)
            _GATE.set(gate)
            await self.core.turns.advance(session_id)

        return asyncio.create_task(advance())

    async def freeze(self, session_id: UUID, side: str) -> bool:
        """Advance a thread until a tool is at `side` of its effect, and leave it there; False where none came there."""
        gate = Gate(side)
        task, entered = self.begin(session_id, gate), asyncio.create_task(gate.entered.wait())
        await asyncio.wait([task, entered], return_when=asyncio.FIRST_COMPLETED)
        entered.cancel()
        if task.done():
            task.result()
            return False
        self.frozen.append((gate, task))
        return True

    async def thaw(self) -> int:
        """Let what is frozen go on to its end; return how many there were."""
        held, self.frozen = self.frozen, []
        for gate, _ in held:
            gate.opened.set()
        for ended in await asyncio.gather(*(task for _, task in held), return_exceptions=True):
            if isinstance(ended, BaseException) and not isinstance(ended, Killed | asyncio.CancelledError):
                raise ended
        return len(held)

    async def die(self) -> None:
        """End without a word: nothing that is in hand reaches the database any more."""
        self.fate.is_over = True
        await self.thaw()
        await self._close()

    async def stop(self) -> None:
        """End in good order."""
        self.core.turns.drain()
        await self.thaw()
        await self._close()

    async def _close(self) -> None:
        self._hub.cancel()
        await asyncio.gather(self._hub, return_exceptions=True)
        await self._stack.aclose()
