"""The HTTP side of MCP: a client that bounds answers, minds where it goes, and knows whether a request went out."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import httpx2
from mcp.client import Transport
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

from agent.egress import EgressPolicy, EgressRefused
from agent.egress_http import GuardedTransport2
from agent.tools.mcp_oauth import NotLoggedIn, Tokens

MESSAGE_LIMIT = 4 * 1024 * 1024
"""Bytes of one message from a server; a bigger one is thrown away and its call told so."""
PARTS_LIMIT = 100_000
"""Lists, objects and their members in one message: reading them is what holds up everybody else."""
CONNECT_S, READ_S = 10.0, 3_930.0
"""A stream may be silent for as long as its call may run and people may be waited for; each call has its own limit."""


@dataclass(slots=True)
class Attempt:
    """What the transport saw of one request; whoever sends sets one in its context."""

    sent: bool = False
    status: int | None = None
    error: str | None = None


ATTEMPT: ContextVar[Attempt | None] = ContextVar("mcp_attempt", default=None)


def parts(text: bytes) -> int:
    """Return how many parts a JSON text may have: what looks like one inside of a string counts too."""
    return text.count(b",") + text.count(b"{") + text.count(b"[")


class AnswerTooLarge(httpx2.StreamError):
    """An answer of more than MESSAGE_LIMIT bytes, or one that broke off."""


class _Bounded(httpx2.AsyncByteStream):
    """A body that is read no further than its limits; a break in it is an error that the SDK answers for."""

    def __init__(self, inner: httpx2.AsyncByteStream) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = pieces = 0
        try:
            async for chunk in self._inner:
                size += len(chunk)
                pieces += parts(chunk)
                if size > MESSAGE_LIMIT:
                    raise AnswerTooLarge(f"the answer is larger than {MESSAGE_LIMIT} bytes")
                if pieces > PARTS_LIMIT:
                    raise AnswerTooLarge(f"the answer has more than {PARTS_LIMIT} parts")
                yield chunk
        except httpx2.TransportError as error:
            raise AnswerTooLarge(f"the answer broke off ({type(error).__name__})") from error

    async def aclose(self) -> None:
        await self._inner.aclose()


class _BoundedEvents(httpx2.AsyncByteStream):
    """An event stream in which no single event may be larger than MESSAGE_LIMIT; `ended` is told of its end."""

    def __init__(self, inner: httpx2.AsyncByteStream, ended: Callable[[str], None] | None) -> None:
        self._inner = inner
        self._ended = ended

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size, pieces, last = 0, 0, b""
        try:
            async for chunk in self._inner:
                ends = max((last + chunk).replace(b"\r\n", b"\n").rfind(b"\n\n"), 0)
                size = len(chunk) - ends if ends else size + len(chunk)
                pieces = parts(chunk[max(len(chunk) - size, 0) :]) if ends else pieces + parts(chunk)
                if size > MESSAGE_LIMIT or pieces > PARTS_LIMIT:
                    raise AnswerTooLarge(f"an event is larger than {MESSAGE_LIMIT} bytes or {PARTS_LIMIT} parts")
                last = chunk[-4:]
                yield chunk
        except httpx2.TransportError:
            # The oldest transport knows no resuming: for it, a break is an end like any other.
            if self._ended is None:
                raise
        if self._ended:
            self._ended("closed the connection")

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Client(httpx2.AsyncClient):
    """Answers 503 itself where no server answered.

    The SDK lets a transport error end the connection's task group, which cancels the task that owns it. `failed` is
    told of requests without an answer, for the transport that tells nobody itself.
    """

    failed: Callable[[str], None] | None = None
    login: "Bearer | None" = None

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        response = await self._sent(request, **options)
        if self.failed and response.status_code >= 400:
            attempt = ATTEMPT.get()
            self.failed((attempt and attempt.error) or f"answered HTTP {response.status_code}")
        return response

    async def _sent(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        attempt = ATTEMPT.get() or Attempt()
        attempt.sent, attempt.status, attempt.error = True, None, None
        try:
            response = await self._answered(request, attempt, **options)
        except NotLoggedIn as error:
            # Nothing was sent, or it was answered 401: either way the server did not act on it.
            attempt.sent, attempt.error = False, error.message
            return httpx2.Response(503, request=request)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.UnsupportedProtocol) as error:
            said = error.message if isinstance(error, EgressRefused) else f"no connection: {type(error).__name__}"
            attempt.sent, attempt.error = False, said
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
        if isinstance(response.stream, httpx2.AsyncByteStream):
            is_events = "event-stream" in response.headers.get("content-type", "")
            response.stream = _BoundedEvents(response.stream, self.failed) if is_events else _Bounded(response.stream)
        return response

    async def _answered(self, request: httpx2.Request, attempt: Attempt, **options: Any) -> httpx2.Response:
        if self.login is None or not self.login.is_for(request):
            return await super().send(request, **options)
        attempt.sent = False
        token = await self.login.sign(request)
        attempt.sent = True
        response = await super().send(request, **options)
        if response.status_code != 401:
            return response
        await response.aclose()
        attempt.sent = False
        await self.login.sign(request, rejected=token, challenge=response.headers.get("www-authenticate"))
        attempt.sent = True
        return await super().send(request, **options)


class Bearer:
    """Puts the server's token on requests to the server's own origin, and on no others.

    Not the SDK's provider as the client's `auth`: it holds a lock until each answer begins, so that one slow call would
    hold up all others, and it shares its tokens with nobody.
    """

    def __init__(self, url: str, tokens: Tokens) -> None:
        self._url = httpx2.URL(url)
        self._tokens = tokens

    def is_for(self, request: httpx2.Request) -> bool:
        ours, url = self._url, request.url
        return (url.scheme, url.host, url.port) == (ours.scheme, ours.host, ours.port)

    async def sign(self, request: httpx2.Request, *, rejected: str | None = None, challenge: str | None = None) -> str:
        """Return the token that the request carries now; raises NotLoggedIn."""
        token = await self._tokens.token(rejected=rejected, challenge=challenge)
        request.headers["authorization"] = f"Bearer {token}"
        return token


def _client(headers: Mapping[str, str], policy: EgressPolicy | None, login: Bearer | None) -> _Client:
    client = _Client(
        headers={**headers, "accept-encoding": "identity"},
        timeout=httpx2.Timeout(CONNECT_S, read=READ_S),
        transport=GuardedTransport2(policy) if policy else None,
        trust_env=policy is None,
    )
    client.login = login
    return client


class HttpTransport:
    """Streamable HTTP to one URL, through the egress guard where there is one; entered and left by one task."""

    def __init__(
        self, url: str, headers: Mapping[str, str], policy: EgressPolicy | None = None, login: Bearer | None = None
    ) -> None:
        self._client = _client(headers, policy, login)
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


def sse_transport(
    url: str,
    headers: Mapping[str, str],
    policy: EgressPolicy | None,
    failed: Callable[[str], None],
    login: Bearer | None = None,
) -> Transport:
    """Return the transport from before 2025: a stream of events, and posts whose failures `failed` is told."""

    def make(headers: dict[str, Any] | None = None, **_: Any) -> httpx2.AsyncClient:
        client = _client(headers or {}, policy, login)
        client.failed = failed
        return client

    return sse_client(url, headers=dict(headers), httpx_client_factory=make)  # pyright: ignore[reportArgumentType]
