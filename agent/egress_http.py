"""The egress guard in httpx and httpx2: connections go to the addresses that were checked, and nowhere else."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

import httpcore
import httpcore2
import httpx
import httpx2

from agent.egress import EgressPolicy, EgressRefused, check_url

CONNECT_S = 10.0
REDIRECTS = 3
CROSS_ORIGIN_HEADERS = frozenset({"accept", "accept-encoding", "accept-language", "user-agent"})
"""What another origin gets to see of a redirected request: never a credential, whatever its header is called."""


class _Refused(EgressRefused, httpx.ConnectError):
    """To code that knows only httpx, a refusal is a connection that couldn't be made."""

    def __init__(self, message: str) -> None:
        EgressRefused.__init__(self, message)
        self._request = None


class _Refused2(EgressRefused, httpx2.ConnectError):
    """The same to code that knows only httpx2, as the MCP client does."""

    def __init__(self, message: str) -> None:
        EgressRefused.__init__(self, message)
        self._request = None


class _Backend(httpcore.AnyIOBackend):
    """Resolves once, checks every address and connects to those: a name that changes in between changes nothing."""

    def __init__(self, policy: EgressPolicy) -> None:
        self._policy = policy

    async def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, local_address: str | None = None, socket_options=None
    ) -> httpcore.AsyncNetworkStream:  # fmt: skip
        connect = super().connect_tcp

        def one(address: str, within: float) -> Awaitable[httpcore.AsyncNetworkStream]:
            return connect(address, port, within, local_address, socket_options)

        addresses = await self._policy.addresses(host, port)
        return await _first(addresses, one, timeout, (httpcore.ConnectError, httpcore.ConnectTimeout))

    async def connect_unix_socket(self, path: str, timeout: float | None = None, socket_options=None) -> Any:
        raise EgressRefused("Tools don't reach sockets of this machine.")
