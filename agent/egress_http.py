"""The egress guard in httpx and httpx2: connections go to the addresses that were checked, and nowhere else."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterable
from functools import cache
from typing import Any, TypeVar, cast

import httpcore
import httpcore2
import httpx
import httpx2

from agent.egress import EgressPolicy, EgressRefused, check_url

S = TypeVar("S")
CONNECT_S = 10.0
REDIRECTS = 3
CROSS_ORIGIN_HEADERS = frozenset({"host", "accept", "accept-encoding", "accept-language", "user-agent"})
"""What another origin gets to see of a redirected request: never a credential, whatever its header is called."""


class RefusedConnect(EgressRefused, httpx.ConnectError):
    """A refusal; to code that knows only httpx, a connection that couldn't be made."""

    def __init__(self, message: str) -> None:
        httpx.ConnectError.__init__(self, message)
        self.message = message


class RefusedConnect2(EgressRefused, httpx2.ConnectError):
    """A refusal; to code that knows only httpx2, as the MCP client does, a connection that couldn't be made."""

    def __init__(self, message: str) -> None:
        httpx2.ConnectError.__init__(self, message)
        self.message = message


class GuardedTransport(httpx.AsyncHTTPTransport):
    """httpx's own transport behind the guard: each request's URL and each connection's addresses are checked."""

    def __init__(self, policy: EgressPolicy, *, verify: ssl.SSLContext | None = None) -> None:
        context = verify or _trust()
        super().__init__(verify=context, trust_env=False)
        if not isinstance(self._pool, httpcore.AsyncConnectionPool):
            raise RuntimeError("httpx keeps its connections elsewhere now: the egress guard must be put there.")
        self._pool = httpcore.AsyncConnectionPool(context, network_backend=_Backend(policy), keepalive_expiry=5.0)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            check_url(str(request.url))
            return await super().handle_async_request(request)
        except EgressRefused as error:
            raise RefusedConnect(error.message) from error


class GuardedTransport2(httpx2.AsyncHTTPTransport):
    """The same for httpx2: `httpx2.AsyncClient(transport=GuardedTransport2(policy))` is what MCP's client is given."""

    def __init__(self, policy: EgressPolicy, *, verify: ssl.SSLContext | None = None) -> None:
        context = verify or _trust2()
        super().__init__(verify=context, trust_env=False)
        if not isinstance(self._pool, httpcore2.AsyncConnectionPool):
            raise RuntimeError("httpx2 keeps its connections elsewhere now: the egress guard must be put there.")
        self._pool = httpcore2.AsyncConnectionPool(
            context, max_connections=100, network_backend=_Backend2(policy), keepalive_expiry=5.0
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        try:
            check_url(str(request.url))
            return await super().handle_async_request(request)
        except EgressRefused as error:
            raise RefusedConnect2(error.message) from error


@cache
def _trust() -> ssl.SSLContext:
    """Return the certificates to trust, read once: it takes longer than most requests."""
    return httpx.create_ssl_context()


@cache
def _trust2() -> ssl.SSLContext:
    return httpx2.create_ssl_context()


class _Backend(httpcore.AsyncNetworkBackend):
    """Resolves once and connects to what was checked: a name that changes its address in between changes nothing."""

    def __init__(self, policy: EgressPolicy) -> None:
        self._policy = policy
        self._inner = cast("httpcore.AsyncNetworkBackend", httpcore.AnyIOBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        return await _first(
            await self._policy.addresses(host, port),
            lambda address: self._inner.connect_tcp(address, port, timeout, local_address, socket_options),
            (httpcore.ConnectError, httpcore.ConnectTimeout),
        )

    async def connect_unix_socket(self, *args: Any, **options: Any) -> httpcore.AsyncNetworkStream:
        raise EgressRefused("Tools don't reach this machine's own sockets.")

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


class _Backend2(httpcore2.AsyncNetworkBackend):
    """The same for httpcore2."""

    def __init__(self, policy: EgressPolicy) -> None:
        self._policy = policy
        self._inner = cast("httpcore2.AsyncNetworkBackend", httpcore2.AnyIOBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        return await _first(
            await self._policy.addresses(host, port),
            lambda address: self._inner.connect_tcp(address, port, timeout, local_address, socket_options),
            (httpcore2.ConnectError, httpcore2.ConnectTimeout),
        )

    async def connect_unix_socket(self, *args: Any, **options: Any) -> httpcore2.AsyncNetworkStream:
        raise EgressRefused("Tools don't reach this machine's own sockets.")

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


async def _first(
    addresses: list[str], connect: Callable[[str], Awaitable[S]], failures: tuple[type[Exception], ...]
) -> S:
    """Return the first connection that can be made; each address but the last gets a second only."""
    for address in addresses[:-1]:
        try:
            async with asyncio.timeout(1.0):
                return await connect(address)
        except (*failures, TimeoutError):
            continue
    return await connect(addresses[-1])


async def send(
    client: httpx.AsyncClient, request: httpx.Request, *, off_origin: bool = False, redirects: int = REDIRECTS
) -> httpx.Response:
    """Send through a guarded client and follow redirects, each checked as the first was; the answer is a stream.

    Off the origin it goes only where that is allowed, without a body and without the request's own headers.
    """
    origin = _origin(request.url)
    for _ in range(redirects + 1):
        response = await client.send(request, stream=True, follow_redirects=False)
        following = response.next_request
        if following is None:
            return response
        await response.aclose()
        if request.url.scheme == "https" and following.url.scheme != "https":
            raise EgressRefused(f"`{origin[1]}` redirects from https to http, which tools don't follow.")
        if _origin(following.url) != origin:
            if not off_origin:
                raise EgressRefused(
                    f"`{origin[1]}` redirects to another origin (`{following.url.host}`): "
                    "declare that address itself if it is meant."
                )
            following = _bare(following)
        request = following
    raise EgressRefused(f"`{origin[1]}` redirects more than {redirects} times.")


def guarded_client(
    policy: EgressPolicy, *, timeout_s: float, verify: ssl.SSLContext | None = None
) -> httpx.AsyncClient:
    """Return a client whose every request passes the guard; proxies of the environment don't apply."""
    return httpx.AsyncClient(
        transport=GuardedTransport(policy, verify=verify),
        timeout=httpx.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s)),
        trust_env=False,
        follow_redirects=False,
    )


def _bare(request: httpx.Request) -> httpx.Request:
    if request.method not in ("GET", "HEAD"):
        raise EgressRefused(f"A redirected {request.method} to another origin is not followed.")
    headers = {name: value for name, value in request.headers.items() if name.lower() in CROSS_ORIGIN_HEADERS}
    return httpx.Request(request.method, request.url, headers=headers, extensions=request.extensions)


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port
