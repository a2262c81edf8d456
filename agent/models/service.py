"""The model service on the wire: one attempt at an answer, the endpoint it goes to, and its failures in our words."""

import asyncio
import os
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, cast

import httpx
from pydantic import SecretStr, ValidationError

from agent.models import errors
from agent.models.errors import ModelError, ModelKeyRejected, ModelMisused, ModelUnavailable, Trouble, from_trouble
from agent.models.reply import Reply

if TYPE_CHECKING:
    from dashscope import AsyncClient
    from dashscope.v2.errors import DashScopeError
    from dashscope.v2.resources.chat.completions import AsyncChatStream
    from dashscope.v2.types.completions import ChatCompletionChunk

DEFAULT_BASE_URL = "https://dashscope.aliyuncs.com/api/v1"
CONNECT_TIMEOUT_S = 10.0
_MULTIMODAL: dict[tuple[str, str], bool] = {}
"""Which of its two endpoints a model answers on, by base URL and model: the service tells only by refusing."""


class Service:
    """A connection to the service, for one event loop."""

    def __init__(self, api_key: SecretStr, base_url: str | None, model_name: str, timeout_s: float) -> None:
        self.model_name = model_name
        self._base_url = (base_url or DEFAULT_BASE_URL).rstrip("/")
        self._timeout_s = timeout_s
        self._http = _http_client(api_key, timeout_s)
        self._client = _sdk_client(self._http, api_key, self._base_url, timeout_s)

    async def answer(self, request: dict[str, Any]) -> "Answer":
        """Return an answer whose first text is there, or which is complete; on whichever endpoint the model is."""
        known = (self._base_url, self.model_name)
        first = _MULTIMODAL.get(known, False)
        for multimodal in (first, not first):
            try:
                answer = await self._attempt(request, multimodal=multimodal)
            except ModelMisused as error:
                if multimodal is first and "url error" in error.trouble.message.lower():
                    continue
                raise
            _MULTIMODAL[known] = multimodal
            return answer
        raise AssertionError("The second endpoint either answers or raises.")

    async def _attempt(self, request: dict[str, Any], *, multimodal: bool) -> "Answer":
        chat = self._client.multimodal.chat if multimodal else self._client.chat.completions
        with in_our_words(self.model_name):
            async with asyncio.timeout(self._timeout_s):
                stream = await chat.create(model=self.model_name, stream=True, **request)
        answer = Answer(stream, self.model_name, self._timeout_s)
        try:
            answer.first = await answer.text()
        except BaseException:
            await answer.aclose()
            raise
        return answer

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()
        await self._http.aclose()


class Answer:
    """One answer as it arrives."""

    def __init__(self, stream: "AsyncChatStream", model_name: str, timeout_s: float) -> None:
        self.reply = Reply(model_name)
        self.first: str | None = None
        self._stream = stream
        self._frames = cast("AsyncGenerator[ChatCompletionChunk]", aiter(stream))
        self._timeout_s = timeout_s

    async def text(self) -> str | None:
        """Return the next piece of text, or None once the answer is complete."""
        with in_our_words(self.reply.model_name):
            while (frame := await self._frame()) is not None:
                if text := self.reply.add(frame):
                    return text
        if not self.reply.finish_reason:
            raise ModelUnavailable(errors.BROKE_OFF, retryable=True)
        return None

    async def _frame(self) -> "ChatCompletionChunk | None":
        try:
            async with asyncio.timeout(self._timeout_s):
                return await anext(self._frames, None)
        except httpx.TransportError:
            if self.reply.finish_reason:
                return None
            raise

    async def aclose(self) -> None:
        """Let go of the connection."""
        await self._frames.aclose()
        await self._stream.aclose()


@contextmanager
def in_our_words(model_name: str) -> Generator[None]:
    """Raise what the service, its SDK or the network raises as a ModelError."""
    from dashscope.v2.errors import APIConnectionError, DashScopeError

    try:
        yield
    except (httpx.TransportError, httpx.InvalidURL, TimeoutError) as error:
        raise _network_error(error) from error
    except APIConnectionError as error:
        raise _network_error(error.__cause__ or error) from error
    except DashScopeError as error:
        if not error.code and not error.status_code:
            raise ModelUnavailable(errors.GARBLED, retryable=True) from error
        raise from_trouble(_trouble(error), model_name=model_name) from error
    except ValidationError as error:
        raise ModelUnavailable(errors.GARBLED, retryable=True) from error


def _network_error(error: BaseException) -> ModelError:
    if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol):
        return ModelMisused(errors.UNREADABLE)
    if isinstance(error, httpx.TimeoutException | TimeoutError):
        # Whoever asked has already waited for the whole time limit; only a connection that didn't open is tried again.
        return ModelUnavailable(errors.SLOW, retryable=isinstance(error, httpx.ConnectTimeout))
    if isinstance(error, httpx.RemoteProtocolError | httpx.ReadError):
        return ModelUnavailable(errors.BROKE_OFF, retryable=True)
    return ModelUnavailable(errors.UNREACHABLE, retryable=True)


def _trouble(error: "DashScopeError") -> Trouble:
    return Trouble(
        code=str(error.code or ""),
        status=error.status_code,
        message=str(error.message),
        request_id=error.request_id,
        retry_after=_retry_after(error.headers),
    )


def _retry_after(headers: Mapping[str, str]) -> float | None:
    value = headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return None


async def _refuse_plain_answer(response: httpx.Response) -> None:
    """Raise what a plain answer to a request for a stream means: the SDK would only say that it isn't a stream."""
    from dashscope.v2.errors import check_response

    streamed = response.headers.get("content-type", "").startswith("text/event-stream")
    if response.is_error or streamed:
        return
    await response.aread()
    check_response(response)
    raise ModelMisused(errors.UNREADABLE)


def _http_client(api_key: SecretStr, timeout_s: float) -> httpx.AsyncClient:
    try:
        return httpx.AsyncClient(
            headers={"Authorization": f"Bearer {api_key.get_secret_value()}"},
            timeout=httpx.Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s)),
            limits=httpx.Limits(max_connections=200, max_keepalive_connections=20, keepalive_expiry=30),
            event_hooks={"response": [_refuse_plain_answer]},
        )
    except UnicodeEncodeError:
        raise ModelKeyRejected(errors.KEY) from None


def _sdk_client(http: httpx.AsyncClient, api_key: SecretStr, base_url: str, timeout_s: float) -> "AsyncClient":
    from dashscope import AsyncClient

    # Everything is given, so that neither DASHSCOPE_* variables nor a file in the home directory decide anything.
    return AsyncClient(
        api_key=api_key.get_secret_value(),
        base_url=base_url,
        workspace="",
        region="cn-beijing",
        protocol="native",
        timeout=timeout_s,
        max_retries=0,
        config_path=os.devnull,
        http_client=http,
    )
