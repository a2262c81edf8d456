"""A server's tool list, read tool by tool: one that can't be used never hides its neighbours."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, cast

import mcp_types as types
from mcp.client import ClientSession, Transport
from mcp.shared.message import SessionMessage
from mcp_types.methods import validate_server_result
from pydantic import ValidationError

from agent.tools.arguments import schema_problem
from agent.tools.base import Source, ToolSpec, capped, cleaned, schema_hash, tool_id
from agent.tools.mcp_config import McpServerConfig, ToolMarks

MAX_TOOLS, MAX_PAGES = 1000, 100
MAX_SCHEMA, MAX_DESCRIPTION = 100_000, 8_000
MAX_TOTAL = 4_000_000
"""Characters of all schemas of one server together."""
MAX_PROBLEMS = 50
MAX_NEWS = 200
"""Messages a second that are no answers: logs, changes, noise."""
MAX_PROGRESS = 2_000
"""Of progress, which goes no further than the sieve."""


@dataclass(slots=True)
class Listing:
    """The usable tools, and what is wrong with the others by their name."""

    specs: list[ToolSpec] = field(default_factory=list[ToolSpec])
    problems: dict[str, str] = field(default_factory=dict[str, str])
    size: int = 0

    def reject(self, name: Any, why: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            shown = repr(name)[:80] if isinstance(name, str) else "without a name"
            self.problems[f"tool {shown}"] = " ".join(f"The tool {shown} is not offered: {why}.".split())


class Sieve:
    """Stands in the connection and takes unusable tools out of each page before the SDK refuses the page for them.

    It also takes out all progress: the SDK would start two tasks for each notification, however many come.
    """

    def __init__(self, progressed: Callable[[dict[str, Any]], None]) -> None:
        self._progressed = progressed
        self.version = "2025-11-25"
        self.listing = Listing()
        self._asked: dict[str, str] = {}

    def outgoing(self, item: SessionMessage) -> None:
        message = item.message
        if isinstance(message, types.JSONRPCRequest):
            self._asked[str(message.id)] = message.method

    def takes(self, item: SessionMessage | Exception) -> bool:
        """Return whether this was progress, which goes no further."""
        if not isinstance(item, SessionMessage) or not isinstance(item.message, types.JSONRPCNotification):
            return False
        if item.message.method != "notifications/progress":
            return False
        self._progressed(item.message.params or {})
        return True

    async def incoming(self, item: SessionMessage | Exception) -> bool:
        """Sift a page of tools; return whether the message is an answer to something that was asked."""
        if not isinstance(item, SessionMessage):
            return False
        message = item.message
        if not isinstance(message, types.JSONRPCResponse | types.JSONRPCError):
            return False
        method = self._asked.pop(str(message.id), None)
        if method == "tools/list" and isinstance(message, types.JSONRPCResponse):
            message.result = await self._sieved(message.result)
        return method is not None

    async def _sieved(self, page: dict[str, Any]) -> dict[str, Any]:
        tools = cast("Any", page.get("tools"))
        if not isinstance(tools, list):
            return page
        kept: list[Any] = []
        for number, tool in enumerate(cast("list[Any]", tools)[:MAX_TOOLS]):
            await _let_others(number)
            try:
                validate_server_result("tools/list", self.version, {**page, "tools": [tool]})
                types.Tool.model_validate(tool, by_name=False)
            except (ValueError, TypeError, RecursionError) as error:
                name = cast("Any", tool.get("name") if isinstance(tool, dict) else None)
                self.listing.reject(name, _reason(error))
            else:
                kept.append(tool)
        return {**page, "tools": kept}


class Pace:
    """Bounds how much of what nobody asked for is read in a second; then the server waits, and its answers with it."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._begun = 0.0
        self._heard = 0

    async def keep(self) -> None:
        """Count one such message."""
        self._heard += 1
        # A reader whose buffer is full never waits by itself, and nobody else would have a turn.
        await _let_others(self._heard)
        if self._heard < self._most:
            return
        rest = self._begun + 1 - asyncio.get_running_loop().time()
        if rest > 0:
            await asyncio.sleep(rest)
        self._begun, self._heard = asyncio.get_running_loop().time(), 0


class Sieved:
    """A transport with the sieve in its streams."""

    def __init__(self, inner: Transport, sieve: Sieve) -> None:
        self._inner, self._sieve = inner, sieve

    async def __aenter__(self) -> Any:
        read, write = await self._inner.__aenter__()
        return _Read(read, self._sieve), _Write(write, self._sieve)

    async def __aexit__(self, *error: Any) -> bool | None:
        return await self._inner.__aexit__(*error)


class _Stream:
    def __init__(self, inner: Any, sieve: Sieve) -> None:
        self._inner, self._sieve = inner, sieve

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def __aenter__(self) -> Any:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> bool | None:
        return await self._inner.__aexit__(*error)


class _Read(_Stream):
    def __init__(self, inner: Any, sieve: Sieve) -> None:
        super().__init__(inner, sieve)
        self._pace, self._progress = Pace(MAX_NEWS), Pace(MAX_PROGRESS)

    @property
    def last_context(self) -> Any:
        return getattr(self._inner, "last_context", None)

    async def receive(self) -> SessionMessage | Exception:
        return await self._next(self._inner.receive)

    async def _next(self, receive: Callable[[], Awaitable[SessionMessage | Exception]]) -> SessionMessage | Exception:
        while self._sieve.takes(item := await receive()):
            await self._progress.keep()
        if not await self._sieve.incoming(item):
            await self._pace.keep()
        return item

    def __aiter__(self) -> "_Read":
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        return await self._next(self._inner.__anext__)


class _Write(_Stream):
    async def send(self, item: SessionMessage, /) -> None:
        self._sieve.outgoing(item)
        await self._inner.send(item)


async def list_tools(session: ClientSession, sieve: Sieve, config: McpServerConfig) -> Listing:
    """Return the server's tools over all its pages, up to MAX_TOOLS tools and MAX_PAGES pages."""
    listing = sieve.listing = Listing()
    seen: set[str] = set()
    cursor: str | None = None
    for _ in range(MAX_PAGES):
        page = await session.list_tools(params=types.PaginatedRequestParams(cursor=cursor) if cursor else None)
        for number, tool in enumerate(page.tools):
            await _let_others(number)
            if len(listing.specs) >= MAX_TOOLS:
                listing.problems["tools"] = f"It lists more than {MAX_TOOLS} tools; the others are not offered."
                return listing
            if listing.size > MAX_TOTAL:
                listing.problems["tools"] = (
                    f"Its schemas have more than {MAX_TOTAL} characters; the rest is not offered."
                )
                return listing
            _add(listing, tool, config, seen)
        cursor = page.next_cursor
        if not cursor:
            return listing
    listing.problems["tools"] = f"Its tool list has more than {MAX_PAGES} pages; the others are not offered."
    return listing


async def _let_others(number: int) -> None:
    """Give the rest of the process a turn between a few of many short steps."""
    if number % 16 == 15:
        await asyncio.sleep(0)


def _add(listing: Listing, tool: types.Tool, config: McpServerConfig, seen: set[str]) -> None:
    if not 0 < len(tool.name) <= 200 or not tool.name.isprintable():
        return listing.reject(tool.name, "its name must have 1 to 200 printable characters")
    if tool.name in seen:
        return listing.reject(tool.name, "the server lists that name twice; the first counts")
    seen.add(tool.name)
    try:
        listing.size += len(json.dumps([tool.input_schema, tool.output_schema]))
        listing.specs.append(_spec(tool, config))
    except (ValueError, TypeError, RecursionError) as error:
        listing.reject(tool.name, str(error)[:200])
    return None


def _spec(tool: types.Tool, config: McpServerConfig) -> ToolSpec:
    if len(json.dumps(tool.input_schema)) > MAX_SCHEMA:
        raise ValueError(f"its schema is larger than {MAX_SCHEMA} characters")
    if len(json.dumps(tool.output_schema)) > MAX_SCHEMA:
        raise ValueError(f"its output schema is larger than {MAX_SCHEMA} characters")
    if problem := schema_problem(tool.input_schema):
        raise ValueError(problem)
    name, marks = tool.name, config.tools.get(tool.name, ToolMarks())
    description = capped(cleaned(tool.description or ""), MAX_DESCRIPTION)
    annotations = _annotations(tool)
    # All that the server says of it counts: whoever accepted the tool has seen it so.
    whole = {"input": tool.input_schema, "output": tool.output_schema, "annotations": annotations}
    return ToolSpec(
        tool_id=tool_id(Source.MCP, config.name, name),
        name=name,
        original_name=name,
        description=description,
        source=Source.MCP,
        server=config.name,
        input_schema=tool.input_schema,
        schema_hash=schema_hash(name, description, whole),
        annotations=annotations,
        read_only=marks.read_only,
        idempotent=marks.idempotent,
        timeout_s=marks.timeout_s,
        output_schema=tool.output_schema,
        credentials=config.credentials,
    )


def _annotations(tool: types.Tool) -> dict[str, Any]:
    shown: dict[str, Any] = tool.annotations.model_dump(by_alias=True, exclude_none=True) if tool.annotations else {}
    if tool.title and "title" not in shown:
        shown["title"] = tool.title
    known = ("title", "readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint")
    return {
        key: cleaned(value)[:200] if isinstance(value, str) else value for key, value in shown.items() if key in known
    }


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(step) for step in first["loc"] if step not in ("tools", 0))
        return f"{where}: {first['msg']}"[:200] if where else first["msg"][:200]
    return (str(error) or type(error).__name__)[:200]
