"""What only a real server shows: callers who hang up, answers that arrive piece by piece, bodies without a length."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from uuid import UUID

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from tests.fakes.memory_service import MemoryService
from tests.unit.api.conftest import API_KEY


@pytest.fixture
async def port(app: FastAPI) -> AsyncIterator[int]:
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", ws="none"))
    server.install_signal_handlers = lambda: None  # type: ignore[method-assign]
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    yield listening.getsockname()[1]
    server.should_exit = server.force_exit = True
    await serving


async def request(port: int, method: str, path: str, headers: str = "", body: bytes = b"") -> asyncio.StreamReader:
    """Send a request and return what comes back; the connection closes when the reader is let go of."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"{method} {path} HTTP/1.1\r\nHost: t\r\nX-API-Key: {API_KEY}\r\nConnection: close\r\n{headers}\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    reader.writer = writer  # type: ignore[attr-defined]
    return reader


def said(text: str) -> tuple[str, bytes]:
    body = json.dumps({"message": text}).encode()
    return f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n", body


@pytest.fixture
async def made(port: int) -> str:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers={"X-API-Key": API_KEY}) as client:
        return (await client.post("/api/sessions")).json()["session_id"]


async def test_a_caller_who_hangs_up_does_not_cancel_the_turn(port: int, made: str, service: MemoryService) -> None:
    headers, body = said("wait for it")
    reader = await request(port, "POST", f"/api/sessions/{made}/execute", headers, body)
    turns = service.kept[UUID(made)].turns
    async with service.watch(UUID(made)) as news:
        while not turns or turns[0].status != "running":
            await news.wait()
            news.clear()
        reader.writer.close()  # type: ignore[attr-defined]
        await reader.writer.wait_closed()  # type: ignore[attr-defined]
        service.hold.set()
        while not turns[0].status.is_final:
            await news.wait()
            news.clear()
    assert turns[0].status == "completed"


async def test_events_arrive_while_the_turn_runs(port: int, made: str, service: MemoryService) -> None:
    headers, body = said("wait for it")
    headers += "Accept: text/event-stream\r\n"
    reader = await request(port, "POST", f"/api/sessions/{made}/execute", headers, body)
    early = await reader.readuntil(b'"type":"turn.started"')
    assert b"text/event-stream" in early
    assert not service.kept[UUID(made)].turns[0].status.is_final
    service.hold.set()
    assert b'"type":"turn.completed"' in await reader.read()
    reader.writer.close()  # type: ignore[attr-defined]


async def test_a_stream_that_is_hung_up_on_stops_watching(port: int, made: str, service: MemoryService) -> None:
    headers, body = said("wait for it")
    headers += "Accept: text/event-stream\r\n"
    reader = await request(port, "POST", f"/api/sessions/{made}/execute", headers, body)
    await reader.readuntil(b'"type":"turn.started"')
    assert service._watchers[UUID(made)]
    reader.writer.close()  # type: ignore[attr-defined]
    async with asyncio.timeout(45):
        while service._watchers[UUID(made)]:
            await asyncio.sleep(0.01)
    assert service.kept[UUID(made)].turns[0].status == "running"


async def test_a_chunked_body_is_refused_where_it_gets_too_large(port: int) -> None:
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    headers = "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
    reader = await request(port, "POST", "/api/sessions", headers, chunk * 17)
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"application/problem+json" in answer
    reader.writer.close()  # type: ignore[attr-defined]
