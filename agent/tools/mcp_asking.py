"""What MCP servers ask while a call runs: forms go to its requester; web pages, sampling and roots to nobody."""

import asyncio
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

import mcp_types as types

from agent.questions.types import Answer, QuestionStatus
from agent.tools.base import CallContext, ToolSpec
from agent.tools.mcp_config import McpServerConfig

ROUNDS = 10
"""How often one call may come back for input, in the protocol where it comes back."""
PATIENCE = 20
"""How often one call may ask on after it was told that it may not."""
_STATE_ONLY_S = 0.25
_SENT_TO_SERVER = {
    QuestionStatus.ANSWERED: "accept",
    QuestionStatus.DECLINED: "decline",
    QuestionStatus.EXPIRED: "cancel",
    QuestionStatus.CANCELLED: "cancel",
}

CALL: ContextVar["Inquiry | None"] = ContextVar("mcp_call", default=None)
"""The call in whose context something is sent; over HTTP, what a server sends on the same stream comes in it too."""


class NotAnswerable(Exception):
    """The call wants input that nobody here gives; the message says which, as it reads after 'asked for'."""


class Slot:
    """A call's place among those that a server works on; given up for good once people are asked."""

    def __init__(self, slots: asyncio.Semaphore) -> None:
        self._slots = slots
        self._is_held = False

    async def __aenter__(self) -> "Slot":
        await self._slots.acquire()
        self._is_held = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self.give_up()

    def give_up(self) -> None:
        if self._is_held:
            self._is_held = False
            self._slots.release()


class Inquiry:
    """One call's questions and progress, whichever way its server sends them."""

    def __init__(self, config: McpServerConfig, spec: ToolSpec, context: CallContext, slot: Slot) -> None:
        self._config = config
        self._spec = spec
        self._context = context
        self._slot = slot
        self._refused = 0

    @property
    def is_pestering(self) -> bool:
        """Whether the server asks on and on though it gets no answers."""
        return self._refused > PATIENCE

    async def answer(self, params: types.ElicitRequestParams) -> types.ElicitResult:
        """Ask the call's requester; what can't be asked is declined or cancelled, and noted for people."""
        host = self._context.host
        if isinstance(params, types.ElicitRequestURLParams):
            self._refused += 1
            if host is not None:
                host.note(f"{self._config.name} wanted somebody to open a web page; opsagent opens none, and declined.")
            return types.ElicitResult(action="decline")
        if host is None:
            return types.ElicitResult(action="cancel")
        self._slot.give_up()
        answer = await host.ask(self._config.without_secrets(params.message), params.requested_schema)
        self._refused += answer.status is not QuestionStatus.ANSWERED
        return _result(answer)

    async def answers(self, asked: types.InputRequiredResult) -> types.InputResponses | None:
        """Return what a call is sent again with; raises NotAnswerable."""
        requests: Mapping[str, types.InputRequest] = asked.input_requests or {}
        if not requests:
            await asyncio.sleep(_STATE_ONLY_S)
            return None
        for request in requests.values():
            if isinstance(request, types.CreateMessageRequest):
                raise NotAnswerable("an answer of our model, which opsagent gives to no server")
            if isinstance(request, types.ListRootsRequest):
                raise NotAnswerable("folders of ours, which opsagent shows to no server")
        if len(requests) > ROUNDS:
            raise NotAnswerable(f"{len(requests)} things at once")
        given: dict[str, Any] = {}
        for key, request in requests.items():
            if isinstance(request, types.ElicitRequest):
                given[key] = await self.answer(request.params)
        return given

    def progressed(self, params: Mapping[str, Any]) -> None:
        """Take note of a progress notification; it never waits for anybody."""
        host, progress, total, message = self._context.host, *(params.get(k) for k in ("progress", "total", "message"))
        if host is not None and isinstance(progress, int | float):
            shown = self._config.without_secrets(message[:1_000]) if isinstance(message, str) else None
            host.tell(progress, total if isinstance(total, int | float) else None, shown)


def _result(answer: Answer) -> types.ElicitResult:
    action: Any = _SENT_TO_SERVER[answer.status]
    return types.ElicitResult(action=action, content=answer.content if action == "accept" else None)
