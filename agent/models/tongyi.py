"""A LangChain chat model on DashScope's asynchronous client."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import structlog
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.chat_models import generate_from_stream
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from pydantic import PrivateAttr, SecretStr
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)
from typing_extensions import override

from agent.models import errors
from agent.models.errors import ModelError, ModelMisused
from agent.models.history import repair
from agent.models.service import Answer, Service
from agent.models.wire import OfferedTool, tool_names, wire_messages, wire_tool_choice, wire_tools

log = structlog.get_logger()

LONGEST_PAUSE_S = 20.0


class TongyiChat(BaseChatModel):
    """Qwen over DashScope: streams its answer, asks for tools in parallel, and raises only ModelError.

    `timeout` is how long the service may stay silent. Retried is what may pass by itself, and only as long as no
    text was given out. One instance serves one event loop; `aclose()` it.
    """

    model_name: str
    api_key: SecretStr
    base_url: str | None = None
    timeout: float = 120.0
    max_retries: int = 4
    first_pause: float = 0.5

    _service: Service | None = PrivateAttr(default=None)
    _connecting: asyncio.Lock = PrivateAttr(default_factory=asyncio.Lock)

    @property
    @override
    def _llm_type(self) -> str:
        return "tongyi"

    @property
    @override
    def _identifying_params(self) -> dict[str, Any]:
        return {"model_name": self.model_name, "base_url": self.base_url}

    @override
    def bind_tools(
        self,
        tools: Sequence[OfferedTool],
        *,
        tool_choice: str | bool | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Offer tools to the model; it may ask for several at once."""
        if not tools:
            return self.bind(**kwargs)
        offered = wire_tools(tools)
        choice = wire_tool_choice(tool_choice, tool_names(offered))
        return self.bind(tools=offered, **({} if choice is None else {"tool_choice": choice}), **kwargs)

    @override
    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        answer = await self._begin(_request(messages, stop, kwargs))
        try:
            text = answer.first
            while text is not None:
                yield ChatGenerationChunk(message=AIMessageChunk(content=text))
                text = await answer.text()
            yield answer.reply.last_chunk()
        finally:
            await answer.aclose()

    async def _begin(self, request: dict[str, Any]) -> Answer:
        service = await self._connected()
        retrying = AsyncRetrying(
            retry=retry_if_exception(_may_pass),
            stop=stop_after_attempt(self.max_retries + 1),
            wait=self._pause,
            before_sleep=self._note_retry,
            reraise=True,
        )
        try:
            return await retrying(service.answer, request)
        except ModelError as error:
            log.warning("model.failed", model=self.model_name, kind=type(error).__name__, **_facts(error))
            raise

    async def _connected(self) -> Service:
        async with self._connecting:
            if self._service is None:
                # The SDK takes most of a second to import.
                self._service = await asyncio.to_thread(
                    Service, self.api_key, self.base_url, self.model_name, self.timeout
                )
            return self._service

    def _pause(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, ModelError) and error.trouble.retry_after is not None:
            return error.trouble.retry_after
        backoff = wait_exponential(self.first_pause, LONGEST_PAUSE_S) + wait_random(0, self.first_pause)
        return backoff(state)

    def _note_retry(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        facts = _facts(error) if isinstance(error, ModelError) else {}
        log.info("model.retried", model=self.model_name, attempt=state.attempt_number, **facts)

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
        async def once() -> ChatResult:
            # Connections belong to one event loop, so a synchronous call has its own.
            model = TongyiChat(**{name: getattr(self, name) for name in _OWN_FIELDS})
            try:
                return await model._agenerate(messages, stop, **kwargs)
            finally:
                await model.aclose()

        return asyncio.run(once())

    async def aclose(self) -> None:
        """Close the connections; a later call opens new ones."""
        service, self._service = self._service, None
        if service is not None:
            await service.aclose()


_OWN_FIELDS = ("model_name", "api_key", "base_url", "timeout", "max_retries", "first_pause")


def _request(messages: list[BaseMessage], stop: list[str] | None, options: dict[str, Any]) -> dict[str, Any]:
    history = repair(messages)
    if not history:
        raise ModelMisused(errors.SILENT)
    request = {"messages": wire_messages(history), **options}
    if stop:
        request["stop"] = stop
    if options.get("tools"):
        request.setdefault("parallel_tool_calls", True)
    return request


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, ModelError) and error.retryable and (error.trouble.retry_after or 0) <= LONGEST_PAUSE_S


def _facts(error: ModelError) -> dict[str, Any]:
    trouble = error.trouble
    return {
        "code": trouble.code,
        "status": trouble.status,
        "request_id": trouble.request_id,
        "detail": error.detail or error.sentence,
    }
