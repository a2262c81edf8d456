"""The REST door over a service in memory."""

from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from api.asgi import build_asgi
from api.console.login import OneTimeTokens
from api.identity import KeyRing
from api.routes.health import Readiness
from tests.fakes.memory_service import MemoryService

API_KEY = "obviously-fake-api-key"
KEYS = KeyRing(SecretStr(API_KEY), (SecretStr("new-fake-signing-key-" + "n" * 20), SecretStr("old-fake-" + "o" * 30)))


@pytest.fixture
def service() -> MemoryService:
    return MemoryService()


@pytest.fixture
def tokens() -> OneTimeTokens:
    return OneTimeTokens()


@pytest.fixture
def readiness() -> list[Readiness]:
    return [Readiness(ready=True, parts={"database": "ok", "slack": "ok"})]


@pytest.fixture
def app(service: MemoryService, tokens: OneTimeTokens, readiness: list[Readiness]) -> FastAPI:
    async def check() -> Readiness:
        return readiness[-1]

    return build_asgi(service, keys=KEYS, readiness=check, tokens=tokens, demo=True)


def client_of(app: FastAPI, **headers: str) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://opsagent.test", headers=headers)


@pytest.fixture
async def api(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app, **{"X-API-Key": API_KEY}) as client:
        yield client


@pytest.fixture
async def anyone(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app) as client:
        yield client


@pytest.fixture
async def session(api: httpx.AsyncClient) -> str:
    """A session's path."""
    made = await api.post("/api/sessions", json={"title": "t"})
    return f"/api/sessions/{made.json()['session_id']}"
