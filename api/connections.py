"""uvicorn's connections, bounded: request heads that never end, and live connections that never go."""

import asyncio
import socket
from typing import Any

from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from api.requests import HEAD_LIMIT

HEAD_WITHIN_S = 30.0
MESSAGE_LIMIT = 64 * 1024
_LINGER_S = 5.0
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/problem+json\r\n"
    b"content-length: %d\r\nconnection: close\r\n\r\n%s"
)
_DETAIL = (
    b'{"type":"about:blank","title":"Request Header Fields Too Large","status":431,"code":"headers_too_large",'
    b'"detail":"The headers are too long: send less."}'
)


class BoundedRequests(HttpToolsProtocol):
    """HTTP whose heads are bounded in size and time; uvicorn itself would gather one for ever."""

    _heading = False
    _gathered = 0
    _late: asyncio.TimerHandle | None = None

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
        # asyncio sets this only on sockets that name their protocol; without it an answer may wait 40 ms for an ack.
        if (accepted := transport.get_extra_info("socket")) is not None and accepted.family != socket.AF_UNIX:
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._wait()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._arrived()
        super().connection_lost(exc)

    @override
    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._heading = True
        self._wait()

    @override
    def on_headers_complete(self) -> None:
        self._heading = False
        self._arrived()
        super().on_headers_complete()

    @override
    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._gathered = self._gathered + len(data) if self._heading else 0
        if self._gathered > HEAD_LIMIT and not self.transport.is_closing():
            self.transport.write(_TOO_LARGE % (len(_DETAIL), _DETAIL))
            self.transport.close()

    def _wait(self) -> None:
        if self._late is None:
            self._late = asyncio.get_running_loop().call_later(HEAD_WITHIN_S, self.transport.abort)

    def _arrived(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


class LiveConnections(WebSocketsSansIOProtocol):
    """WebSockets that are gone soon after they were closed, also where the peer reads nothing more."""

    @override
    async def run_asgi(self) -> None:
        await super().run_asgi()
        self.loop.call_later(_LINGER_S, self.transport.abort)


def bounded() -> dict[str, Any]:
    """Return what uvicorn must be told for this door."""
    return {
        "http": BoundedRequests,
        "ws": LiveConnections,
        "ws_max_size": MESSAGE_LIMIT,
        "ws_ping_interval": 20.0,
        "ws_ping_timeout": 20.0,
        # The client's address is the socket's: no header may name another one.
        "proxy_headers": False,
    }
