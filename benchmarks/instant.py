"""What both sides run on: a chat model that answers at once. Imports nothing of ours: others' servers load it too."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolCall, ToolMessage
from langchain_core.messages.tool import ToolCallChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from typing_extensions import override

RESTART = '{"service": "web"}'


class InstantModel(BaseChatModel):
    """Calls `restart` where the person's text begins with that word, else answers as many characters as were said."""

    delay_s: float = 0.0

    @property
    @override
    def _llm_type(self) -> str:
        return "instant"

    @override
    def bind_tools(
        self, tools: Sequence[Any], *, tool_choice: Any = None, **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        return self.bind(tools=tools, **kwargs)

    def _answer(self, messages: list[BaseMessage]) -> AIMessage:
        last = messages[-1]
        if isinstance(last, ToolMessage):
            return AIMessage("It is done.")
        said = next(str(message.content) for message in reversed(messages) if isinstance(message, HumanMessage))
        if said.startswith("restart"):
            return AIMessage("", tool_calls=[ToolCall(name="restart", args={"service": "web"}, id="call_1")])
        return AIMessage(said[::-1])

    @override
    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        return ChatResult(generations=[ChatGeneration(message=self._answer(messages))])

    @override
    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        answer = self._answer(messages)
        pieces = [
            ToolCallChunk(name=call["name"], args=RESTART, id=call["id"], index=0, type="tool_call_chunk")
            for call in answer.tool_calls
        ]
        chunk = AIMessageChunk(content=answer.content, tool_call_chunks=pieces, chunk_position="last")
        yield ChatGenerationChunk(message=chunk)

    @override
    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._answer(messages))])

    async def aclose(self) -> None:
        """Nothing is open."""
