"""A chat model in the process that obeys the same markers as the fake service, and answers at once."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.chat_models import generate_from_stream
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.tool import ToolCallChunk
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from pydantic import PrivateAttr
from typing_extensions import override

from agent.models.errors import ModelUnavailable, Trouble, from_trouble
from agent.models.history import repair
from agent.models.wire import OfferedTool, tool_names, wire_messages, wire_tools
from tests.fakes.model_script import Answer, Script


class ScriptedModel(BaseChatModel):
    """Answers from `queue`, else by the markers; `requests` keeps the conversations in wire form."""

    _script: Script = PrivateAttr(default_factory=Script)
    _queue: deque[Answer] = PrivateAttr(default_factory=deque)
    _requests: list[list[dict[str, Any]]] = PrivateAttr(default_factory=list)

    @property
    def queue(self) -> deque[Answer]:
        return self._queue

    @property
    def requests(self) -> list[list[dict[str, Any]]]:
        return self._requests

    @property
    @override
    def _llm_type(self) -> str:
        return "scripted"

    @override
    def bind_tools(
        self, tools: Sequence[OfferedTool], *, tool_choice: Any = None, **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        return self.bind(tools=wire_tools(tools), **kwargs)

    @override
    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        sent = wire_messages(repair(messages))
        self._requests.append(sent)
        offered = tool_names(kwargs.get("tools") or [])
        answer = self._queue.popleft() if self._queue else self._script.answer(sent, offered)
        if answer.delay:
            await asyncio.sleep(answer.delay)
        if answer.fails:
            trouble = Trouble(code=answer.code, status=answer.status, message=answer.message)
            raise from_trouble(trouble, model_name="scripted")
        for piece in _pieces(answer.text):
            yield ChatGenerationChunk(message=AIMessageChunk(content=piece))
        if answer.drop_at is not None:
            raise ModelUnavailable("The scripted model broke off its answer.")
        yield ChatGenerationChunk(message=_last(answer, sent))

    @override
    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        chunks = [chunk async for chunk in self._astream(messages, stop, run_manager, **kwargs)]
        return generate_from_stream(iter(chunks))

    @override
    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return asyncio.run(self._agenerate(messages, stop, **kwargs))

    async def aclose(self) -> None:
        """Nothing is open."""


def _last(answer: Answer, sent: Sequence[dict[str, Any]]) -> AIMessageChunk:
    usage = answer.usage or {"input_tokens": len(sent), "output_tokens": 1}
    return AIMessageChunk(
        content="",
        tool_call_chunks=[
            ToolCallChunk(name=call.name, args=call.arguments, id=call.id, index=index, type="tool_call_chunk")
            for index, call in enumerate(answer.calls)
        ],
        usage_metadata={
            "input_tokens": usage["input_tokens"],
            "output_tokens": usage["output_tokens"],
            "total_tokens": usage["input_tokens"] + usage["output_tokens"],
        },
        chunk_position="last",
    )


def _pieces(text: str) -> list[str]:
    size = max(16, len(text) // 8)
    return [text[start : start + size] for start in range(0, len(text), size)]
