"""The REST door over a service: in the process, or on a real socket with the limits that the product has."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from pydantic import SecretStr

from api.asgi import build_asgi
from api.connections import bounded
from api.identity import KeyRing
from api.routes.health import Readiness

API_KEY = "obviously-fake-api-key"
OPERATOR = {"X-API-Key": API_KEY}
_SIGNING = (SecretStr("obviously-fake-signing-key-" + "n" * 20),)


def door_over(service: Any, **more: Any) -> FastAPI:
    """Return the app as the product builds it, always ready."""

    async def ready() -> Readiness:
        return Readiness(ready=True)

    return build_asgi(service, keys=KeyRing(SecretStr(API_KEY), _SIGNING), readiness=ready, **more)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def client_of(app: FastAPI, **headers: str) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://opsagent.test", headers=headers)


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[int]:
    """Serve on loopback as the product does; yields the port."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1, **bounded()
    )
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    running = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        await running
