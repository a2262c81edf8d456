"""A DashScope text-generation service on loopback, with a scripted mind and a wire that can misbehave."""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self
from uuid import uuid4

from aiohttp import web

from tests.fakes.model_script import Answer, Call, Script, Wire, error, refusal, text_of

__all__ = ["Answer", "Call", "FakeTongyi", "error"]

MULTIMODAL = ("qwen3.5", "qwen3.6", "qwen3.7", "qwen3.8", "qwen3-vl", "qwen-vl")


class FakeTongyi:
    """The service: strict about key, path per model and history. Use it with `async with`.

    An answer comes from `queue`, else from `script(body)`, else from the markers in what was typed.
    """

    def __init__(self, *, api_key: str = "sk-fake-key-for-tests-only") -> None:
        self.api_key = api_key
        self.queue: deque[Answer] = deque()
        self.script: Callable[[Wire], Answer | None] = lambda body: None
        self.requests: list[Wire] = []
        """Bodies that reached a model: with the right key, on the right path."""
        self.paths: list[str] = []
        self.refused: list[str] = []
        self.disconnected = asyncio.Event()
        self.writing = asyncio.Event()
        self._mind = Script()
        self._port = 0
        self._runner: web.AppRunner | None = None

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._port}/api/v1"

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_post("/api/v1/services/aigc/{endpoint}/generation", self._generate)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def asked(self, text: str) -> int:
        """Return how many requests had the text in their newest message."""
        return sum(text in text_of(body["input"]["messages"][-1]) for body in self.requests)

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.paths.append(request.match_info["endpoint"])
        multimodal = request.match_info["endpoint"] == "multimodal-generation"
        if request.headers.get("Authorization") != f"Bearer {self.api_key}":
            return _failure(error(401, "InvalidApiKey", message="Invalid API-key provided."))
        if multimodal is not body["model"].startswith(MULTIMODAL):
            return _failure(error(400, "InvalidParameter", message="url error, please check url!"))
        self.requests.append(body)
        if why := refusal(body["input"]["messages"]):
            self.refused.append(why)
            return _failure(error(400, "InvalidParameter", message=why))
        try:
            return await self._answer(request, body, self._next(body), multimodal=multimodal)
        except asyncio.CancelledError:
            self.disconnected.set()
            raise

    def _next(self, body: Wire) -> Answer:
        if self.queue:
            return self.queue.popleft()
        offered = [tool["function"]["name"] for tool in body["parameters"].get("tools") or []]
        return self.script(body) or self._mind.answer(body["input"]["messages"], offered)

    async def _answer(
        self, request: web.Request, body: Wire, answer: Answer, *, multimodal: bool
    ) -> web.StreamResponse:
        if answer.delay:
            await asyncio.sleep(answer.delay)
        if answer.plain is not None:
            return web.Response(text=answer.plain, content_type="application/json")
        if answer.fails:
            return _failure(answer)
        frames = [_frame(message, finish, body, answer, multimodal) for message, finish in _messages(answer, body)]
        if request.headers.get("X-DashScope-SSE") != "enable":
            return web.json_response(frames[-1])
        return await self._stream(request, answer, frames)

    async def _stream(self, request: web.Request, answer: Answer, frames: Sequence[Wire]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream;charset=UTF-8"})
        await response.prepare(request)
        async with self._noted():
            for number, frame in enumerate([*frames, None]):
                if await self._misbehaves(number, answer, request, response):
                    return response
                if frame is not None:
                    await response.write(_event(number + 1, "result", 200, frame))
        await response.write_eof()
        return response

    async def _misbehaves(
        self, number: int, answer: Answer, request: web.Request, response: web.StreamResponse
    ) -> bool:
        if number == answer.hang_at:
            self.writing.set()
            await asyncio.Event().wait()
        if number == answer.error_at:
            trouble = {"code": answer.code, "message": answer.message or "scripted", "request_id": str(uuid4())}
            await response.write(_event(number + 1, "error", 400, trouble))
            return True
        if number == answer.drop_at:
            assert request.transport is not None
            request.transport.close()
            return True
        return number == answer.end_at

    @asynccontextmanager
    async def _noted(self) -> AsyncIterator[None]:
        try:
            yield
        except ConnectionResetError:
            self.disconnected.set()


def _failure(answer: Answer) -> web.Response:
    body = {"code": answer.code, "message": answer.message, "request_id": str(uuid4())}
    return web.json_response(body, status=answer.status, headers=answer.headers)


def _event(number: int, kind: str, status: int, data: Wire) -> bytes:
    text = json.dumps(data, ensure_ascii=False)
    return f"id:{number}\nevent:{kind}\n:HTTP_STATUS/{status}\ndata:{text}\n\n".encode()


def _messages(answer: Answer, body: Wire) -> Iterator[tuple[Wire, str]]:
    """Give the messages of the frames, incremental as the service streams them."""
    finish = answer.finish or ("tool_calls" if answer.calls else "stop")
    if not body["parameters"].get("incremental_output"):
        calls = [_call(call, index, call.arguments, first=True) for index, call in enumerate(answer.calls)]
        yield {"content": answer.text, "reasoning_content": answer.reasoning, "tool_calls": calls}, finish
        return
    yield {"content": ""}, "null"
    for piece in _split(answer.reasoning):
        yield {"content": "", "reasoning_content": piece}, "null"
    for piece in _split(answer.text):
        yield {"content": piece}, "null"
    # All first fragments before all second ones: only the index says which call a fragment belongs to.
    halves = [(call, len(call.arguments) // 2) for call in answer.calls]
    for index, (call, half) in enumerate(halves):
        yield {"content": "", "tool_calls": [_call(call, index, call.arguments[:half], first=True)]}, "null"
    for index, (call, half) in enumerate(halves):
        yield {"content": "", "tool_calls": [_call(call, index, call.arguments[half:], first=False)]}, "null"
    yield {"content": ""}, finish


def _call(call: Call, index: int, arguments: str, *, first: bool) -> Wire:
    function: Wire = {"arguments": arguments}
    if first:
        function["name"] = call.name
    return {"index": index, "id": call.id if first else "", "type": "function", "function": function}


def _split(text: str) -> list[str]:
    size = max(8, len(text) // 20)
    return [text[start : start + size] for start in range(0, len(text), size)]


def _frame(message: Wire, finish: str, body: Wire, answer: Answer, multimodal: bool) -> Wire:
    content: Any = message["content"]
    if multimodal:
        content = [{"text": content}] if content else []
    usage = answer.usage or {
        "input_tokens": sum(len(text_of(sent)) for sent in body["input"]["messages"]) // 4 + 1,
        "output_tokens": len(answer.text) // 4 + 1,
    }
    choice = {"finish_reason": finish, "message": {"role": "assistant", **message, "content": content}}
    total = usage["input_tokens"] + usage["output_tokens"]
    return {"output": {"choices": [choice]}, "usage": {"total_tokens": total, **usage}, "request_id": str(uuid4())}
