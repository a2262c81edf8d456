"""The HTTP side of MCP: a client that bounds answers and knows whether a request went out."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import httpx2
from mcp.client import Transport
from mcp.client.streamable_http import streamable_http_client

MESSAGE_LIMIT = 4 * 1024 * 1024
"""Bytes of one message from a server; a bigger one is thrown away and its call told so."""
CONNECT_S, READ_S = 10.0, 330.0


@dataclass(slots=True)
class Attempt:
    """What the transport saw of one request; whoever sends sets one in its context."""

    sent: bool = False
    status: int | None = None
    error: str | None = None


ATTEMPT: ContextVar[Attempt | None] = ContextVar("mcp_attempt", default=None)


class AnswerTooLarge(httpx2.StreamError):
    """An answer of more than MESSAGE_LIMIT bytes, or one that broke off."""


class _Bounded(httpx2.AsyncByteStream):
    """A body that is read no further than MESSAGE_LIMIT; a break in it is an error that the SDK answers for."""

    def __init__(self, inner: httpx2.AsyncByteStream) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        try:
            async for chunk in self._inner:
                size += len(chunk)
                if size > MESSAGE_LIMIT:
                    raise AnswerTooLarge(f"the answer is larger than {MESSAGE_LIMIT} bytes")
                yield chunk
        except httpx2.TransportError as error:
            raise AnswerTooLarge(f"the answer broke off ({type(error).__name__})") from error

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Client(httpx2.AsyncClient):
    """Answers 503 itself where no server answered.

    The SDK lets a transport error end the connection's task group, which cancels the task that owns it.
    """

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        attempt = ATTEMPT.get() or Attempt()
        attempt.sent, attempt.status, attempt.error = True, None, None
        try:
            response = await super().send(request, **options)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.UnsupportedProtocol) as error:
            attempt.sent, attempt.error = False, f"no connection: {type(error).__name__}"
            return httpx2.Response(503, request=request)
        except httpx2.TransportError as error:
            attempt.status, attempt.error = 503, f"the connection broke: {type(error).__name__}"
            return httpx2.Response(503, request=request)
        attempt.status = response.status_code
        if response.status_code >= 400:
            attempt.error = f"it answered HTTP {response.status_code}"
        if response.headers.get("content-encoding", "identity") != "identity":
            # Unpacked size has no bound of its own, and we asked for none.
            await response.aclose()
            attempt.error = "it answered compressed, which was not asked for"
            return httpx2.Response(502, request=request)
        if "event-stream" not in response.headers.get("content-type", "") and isinstance(
            response.stream, httpx2.AsyncByteStream
        ):
            response.stream = _Bounded(response.stream)
        return response


class HttpTransport:
    """Streamable HTTP to one URL; entered and left by one task."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self._client = _Client(
            headers={**headers, "accept-encoding": "identity"}, timeout=httpx2.Timeout(CONNECT_S, read=READ_S)
        )
        self._streams: AbstractAsyncContextManager[Any] = streamable_http_client(
            url, http_client=self._client, max_sse_event_size=MESSAGE_LIMIT
        )

    async def __aenter__(self) -> Any:
        await self._client.__aenter__()
        try:
            return await self._streams.__aenter__()
        except BaseException:
            await self._client.aclose()
            raise

    async def __aexit__(self, *error: Any) -> bool | None:
        try:
            return await self._streams.__aexit__(*error)
        finally:
            await self._client.aclose()


def http_transport(url: str, headers: Mapping[str, str]) -> Transport:
    return HttpTransport(url, headers)
