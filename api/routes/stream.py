"""A turn's events as server-sent events."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from agent.errors import Refusal
from agent.service import AgentService
from agent.types import Event, EventKind, Principal, Turn
from api.schemas import moment

_LAST = {EventKind.TURN_COMPLETED, EventKind.TURN_FAILED, EventKind.TURN_CANCELLED}
_PAGE = 500
_KEEPALIVE_S = 15.0


def wire_event(event: Event) -> dict[str, Any]:
    return {**event.data, "type": event.kind.value, "seq": event.seq, "at": moment(event.at)}


async def turn_events(service: AgentService, turn: Turn, *, by: Principal, after: int = 0) -> AsyncIterator[str]:
    """Yield the turn's events until it has ended; comments keep the line open meanwhile."""
    turn_id = str(turn.turn_id)
    # A session that is deleted under the stream ends it.
    with suppress(Refusal):
        async with service.watch(turn.session_id) as news:
            while True:
                news.clear()
                events = await service.read_events(turn.session_id, after=after, limit=_PAGE, by=by)
                for event in events:
                    after = event.seq
                    if event.data.get("turn_id") != turn_id:
                        continue
                    yield _frame(event)
                    if event.kind in _LAST:
                        return
                if len(events) < _PAGE and not await _set_within(news, _KEEPALIVE_S):
                    yield ": still here\n\n"


def _frame(event: Event) -> str:
    data = json.dumps(wire_event(event), ensure_ascii=False, separators=(",", ":"))
    return f"id: {event.seq}\nevent: {event.kind.value}\ndata: {data}\n\n"


async def _set_within(news: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await news.wait()
    except TimeoutError:
        return False
