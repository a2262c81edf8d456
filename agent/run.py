"""One run: what a worker knows while it has a turn in hand."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

from agent.clock import Clock
from agent.types import Principal

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage


@dataclass(frozen=True, slots=True)
class Limits:
    """What one turn may use up; the time counts while it runs, not while it waits for people."""

    model_calls: int = 25
    tool_calls: int = 50
    seconds: float = 900.0
    window_tokens: int = 24_000
    attempts: int = 3
    approval_expires_s: int = 24 * 3600
    question_s: float = 600.0
    """How long a running call waits for its requester's answer."""
    questions: int = 5
    """What one call may ask."""


@dataclass(slots=True)
class Run:
    """One worker's hold on one turn; `epoch` proves that it is still the holder."""

    session_id: UUID
    turn_id: UUID
    epoch: int
    requester: Principal
    history: "list[BaseMessage] | None" = None
    """What was said before this turn, once the model has needed it."""
    clock: Clock = field(default_factory=Clock)
    looking: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while one of the run's calls is looked at: parallel calls come before people in the order of the model."""
    _busy: int = 0
    _idle: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def busy(self) -> AsyncGenerator[None]:
        """Mark one of the run's calls as at work, not waiting for people."""
        self._busy += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._busy -= 1
            if self._busy == 0:
                self._idle.set()

    @property
    def is_idle(self) -> bool:
        """Whether all of the run's calls wait for people."""
        return self._busy == 0

    async def until_idle(self) -> None:
        await self._idle.wait()
