"""One MCP server: a task that owns the connection and mends it, and calls from any other task."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from uuid import uuid4

import mcp_types as types
import structlog
from mcp import Client, MCPError
from pydantic import TypeAdapter, ValidationError

from agent.tools.base import UNSANDBOXED, CallContext, Tool, ToolResult, ToolSpec
from agent.tools.ending import end
from agent.tools.mcp_asking import CALL, ROUNDS, Inquiry, NotAnswerable, Slot
from agent.tools.mcp_config import Keeping, McpServerConfig, Timing
from agent.tools.mcp_http import ATTEMPT, Attempt, Bearer, HttpTransport, sse_transport
from agent.tools.mcp_link import Link
from agent.tools.mcp_listing import Listing, Sieve, Sieved, list_tools
from agent.tools.mcp_results import result_of
from agent.tools.mcp_stdio import StdioTransport
from agent.tools.mcp_verdicts import ConnectionLost, Then, Verdict, described, failed, unknown, verdict

CONCURRENCY = 8
PARKED_S = 300.0
"""How often a server that waits for a person is looked at; what the person does is heard of at once."""
APPROVAL_META = "opsagent/approval_id"
_ANSWER: TypeAdapter[types.CallToolResult | types.InputRequiredResult] = TypeAdapter(
    types.CallToolResult | types.InputRequiredResult
)
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _McpTool:
    spec: ToolSpec
    server: "McpServer"

    async def run(self, args: Mapping[str, Any], context: CallContext) -> ToolResult:
        return await self.server.call(self.spec, args, context)


class McpServer:
    """Keeps one connection alive; its last known tools stay in the catalogue while it is being mended."""

    def __init__(self, config: McpServerConfig, timing: Timing, keeping: Keeping | None = None) -> None:
        self.config = config
        self._keeping = keeping or Keeping()
        self._timing = timing
        self._slots = asyncio.Semaphore(CONCURRENCY)
        self._link: Link | None = None
        self._up = asyncio.Event()
        self._wanted = asyncio.Event()
        self._tried = asyncio.Event()
        self._listing = Listing()
        self._tools: list[Tool] = []
        self._trouble: str | None = None
        self._stdio: StdioTransport | None = None
        self._unanswered = 0

    @property
    def connected(self) -> bool:
        return self._link is not None

    @property
    def protocol(self) -> str | None:
        """The protocol version agreed on, while connected."""
        return self._link.client.protocol_version if self._link and self._link.client else None

    @property
    def waits_for_person(self) -> bool:
        return self.config.oauth is not None and self.config.oauth.tokens.needs_person

    def tools(self) -> list[Tool]:
        return list(self._tools)

    def problems(self) -> dict[str, str]:
        name = self.config.name
        found = {f"{name}: {key}": f"MCP server {name}: {text}" for key, text in self._listing.problems.items()}
        if self._trouble and self.waits_for_person and self.config.oauth:
            found[name] = (
                f"MCP server {name} needs authorization: an admin has to call "
                f"POST /api/mcp-servers/{self.config.oauth.server_id}/oauth/start and open the address in its answer."
            )
        elif self._trouble:
            found[name] = f"MCP server {name} is not connected: the server {self._trouble}. It is tried again."
        return found

    async def ready(self) -> None:
        await self._tried.wait()

    async def run(self, changed: Callable[[], Awaitable[None]]) -> None:
        """Connect, stay connected, reconnect with backoff; until cancelled."""
        clock, (first, longest) = asyncio.get_running_loop().time, self._timing.backoff_s
        delay = first
        while True:
            begun = clock()
            reason = await self._one_connection(changed)
            if self._trouble is None:
                log.warning("mcp.disconnected", server=self.config.name, reason=reason)
            self._trouble = reason
            self._tried.set()
            delay = first if clock() - begun > self._timing.steady_s else delay
            if self.waits_for_person:
                # No call brings it back: an authorization makes another generation, and another task.
                await asyncio.sleep(PARKED_S)
                continue
            self._wanted.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(delay * random.uniform(0.5, 1)):  # noqa: S311 - jitter
                    await self._wanted.wait()
            delay = min(delay * 2, longest)

    async def call(self, spec: ToolSpec, args: Mapping[str, Any], context: CallContext) -> ToolResult:
        """Call the tool once; says whether it never ran, ran, or can't be known."""
        attempt, slot = Attempt(), Slot(self._slots)
        inquiry = Inquiry(self.config, spec, context, slot)
        deadline = asyncio.timeout(spec.timeout_s)
        try:
            async with context.clock.within(deadline), slot:
                return await self._call(spec, args, context, attempt, inquiry)
        except TimeoutError:
            if not deadline.expired():
                raise
            if not attempt.sent:
                return failed(
                    f"`{spec.name}` was not run: {self.config.name} was busy or not connected for {spec.timeout_s:g} s."
                )
            self._count_unanswered()
            return unknown(self.config, spec, f"there was no answer within {spec.timeout_s:g} s")

    async def _call(
        self, spec: ToolSpec, args: Mapping[str, Any], context: CallContext, attempt: Attempt, inquiry: Inquiry
    ) -> ToolResult:
        """Send the call; where it comes back for input, send it again with that."""
        params = types.CallToolRequestParams(name=spec.original_name, arguments=dict(args), _meta=_meta(context))
        for _ in range(ROUNDS):
            answer = await self._attempts(spec, params, attempt, inquiry)
            if not isinstance(answer, types.InputRequiredResult):
                return answer
            try:
                responses = await inquiry.answers(answer)
            except NotAnswerable as error:
                return failed(f"`{spec.name}` was not finished: {self.config.name} asked for {error}.")
            given = {"input_responses": responses, "request_state": answer.request_state}
            params = params.model_copy(update=given)
        return failed(f"`{spec.name}` was not finished: {self.config.name} asked for input {ROUNDS} times in a row.")

    async def _attempts(
        self, spec: ToolSpec, params: types.CallToolRequestParams, attempt: Attempt, inquiry: Inquiry
    ) -> ToolResult | types.InputRequiredResult:
        why = f" ({self._trouble})" if self.waits_for_person else ""
        for _ in range(2):
            link = await self._connected()
            if link is None or link.client is None:
                break
            attempt.sent, attempt.status, attempt.error = False, None, None
            try:
                answer = await self._send(link, params, attempt, inquiry)
            except ValidationError:
                return unknown(self.config, spec, "its answer could not be read")
            except (MCPError, RuntimeError, OSError) as error:
                judged = verdict(self.config, spec, attempt, error)
                self._act(link, judged)
                if judged.result is not None:
                    return judged.result
                why = f" ({judged.reason})"
            else:
                self._unanswered = 0
                if isinstance(answer, types.InputRequiredResult):
                    return answer
                return result_of(answer).mapped(self.config.without_secrets)
        return failed(f"`{spec.name}` was not run: MCP server {self.config.name} is not connected{why}.")

    async def _send(
        self, link: Link, params: types.CallToolRequestParams, attempt: Attempt, inquiry: Inquiry
    ) -> types.CallToolResult | types.InputRequiredResult:
        assert link.client
        sent, call = ATTEMPT.set(attempt), CALL.set(inquiry)
        token = uuid4().hex
        meta: Any = {**(params.meta or {}), "progressToken": token}
        link.inquiries[token] = inquiry
        try:
            # Not call_tool(): it checks the answer against the server's own schema, with backtracking patterns.
            request = types.CallToolRequest(params=params.model_copy(update={"meta": meta}))
            return await link.client.session.send_request(request, _ANSWER)
        finally:
            del link.inquiries[token]
            ATTEMPT.reset(sent)
            CALL.reset(call)

    async def _elicited(self, link: Link, params: types.ElicitRequestParams) -> types.ElicitResult | types.ErrorData:
        """Answer what a server of the earlier protocols asks in the middle of a call."""
        if (inquiry := link.asking(CALL.get())) is None:
            # Over pipes nothing says for which call it asks; a question must never reach somebody else's thread.
            return types.ErrorData(code=types.INVALID_REQUEST, message="Nobody can tell for which call this is asked.")
        result = await inquiry.answer(params)
        if inquiry.is_pestering:
            self._drop(link, "asks on and on though it gets no answers")
        return result

    async def _connected(self) -> Link | None:
        if self._link is None and not self.waits_for_person:
            self._wanted.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._timing.wait_s):
                    await self._up.wait()
        return self._link

    def _act(self, link: Link, judged: Verdict) -> None:
        if judged.then is Then.DROP:
            self._drop(link, judged.reason)
        elif judged.then is Then.CHECK:
            link.check()

    def _drop(self, link: Link, reason: str) -> None:
        if self._link is link:
            self._link = None
            self._up.clear()
        link.lose(reason)

    def _count_unanswered(self) -> None:
        self._unanswered += 1
        if self._unanswered >= 3 and self._link:
            self._link.check()

    async def _one_connection(self, changed: Callable[[], Awaitable[None]]) -> str:
        """Return why the connection ended.

        It lives in a task of its own: a failing transport cancels the task that entered it, and that must be
        told apart from our own cancellation.
        """
        task = asyncio.create_task(self._connection(changed), name=f"mcp:{self.config.name}")
        try:
            await asyncio.wait({task})
        finally:
            self._link = None
            self._up.clear()
            await end([task])
            if not task.cancelled():
                task.exception()  # seen, also where we are cancelled just as it fails
        if task.cancelled():
            return "broke the connection"
        error = task.exception()
        return self._why(error) if error else task.result()

    async def _connection(self, changed: Callable[[], Awaitable[None]]) -> str:
        link, attempt = Link(), Attempt()
        sieve = Sieve(link.progressed)
        ATTEMPT.set(attempt)
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(self._timing.connect_s):
                    client = await stack.enter_async_context(self._client(link, sieve))
            except TimeoutError:
                raise ConnectionLost(f"did not answer within {self._timing.connect_s:g} s") from None
            except (MCPError, RuntimeError, ExceptionGroup) as error:
                raise ConnectionLost(attempt.error or described(self.config, error)) from error
            link.client, sieve.version = client, client.protocol_version
            news = await self._list(link, sieve)
            if link.lost:
                raise ConnectionLost(link.lost)
            self._link, self._trouble = link, None
            self._up.set()
            self._tried.set()
            log.info("mcp.connected", server=self.config.name, tools=len(self._tools), protocol=client.protocol_version)
            listener = asyncio.create_task(link.listen(self._timing))
            try:
                if news:
                    await changed()
                return await self._attend(link, sieve, changed)
            finally:
                self._drop(link, "is being reconnected")
                await end([listener])

    def _client(self, link: Link, sieve: Sieve) -> Client:
        config, policy = self.config, self._keeping.egress if self.config.guarded else None
        login = Bearer(config.url, config.oauth.tokens) if config.oauth and config.url else None
        if config.command is not None:
            mode = self._keeping.mode
            self._stdio = transport = StdioTransport(config, lambda: self._drop(link, "ended"), mode)
        elif config.is_sse:
            failed = partial(self._drop, link)
            transport = sse_transport(config.url or "", config.headers, policy, failed, login)
        else:
            transport = HttpTransport(config.url or "", config.headers, policy, login)
        return Client(
            Sieved(transport, sieve),
            mode="auto",
            cache=None,
            message_handler=link.heard,
            elicitation_callback=lambda context, params: self._elicited(link, params),
        )

    async def _attend(self, link: Link, sieve: Sieve, changed: Callable[[], Awaitable[None]]) -> str:
        while True:
            await link.wake.wait()
            link.wake.clear()
            if link.lost:
                return link.lost
            link.stale = False
            if await self._list(link, sieve):
                await changed()
            await asyncio.sleep(self._timing.relist_s)

    async def _list(self, link: Link, sieve: Sieve) -> bool:
        """List the tools anew; returns whether they differ, raises ConnectionLost if the server can't be asked."""
        assert link.client
        try:
            async with asyncio.timeout(self._timing.list_s):
                listing = await list_tools(link.client.session, sieve, self.config)
        except TimeoutError:
            raise ConnectionLost(f"did not list its tools within {self._timing.list_s:g} s") from None
        except (MCPError, RuntimeError) as error:
            if isinstance(error, MCPError) and error.code == types.METHOD_NOT_FOUND:
                listing = Listing(problems={"tools": "It offers no tools."})
            else:
                raise ConnectionLost(f"did not list its tools ({described(self.config, error)})") from error
        except ValidationError:
            listing = Listing(problems={"tools": "Its tool list can't be read."})
        before = [tool.spec for tool in self._tools]
        self._listing = listing
        if self._stdio and (missing := self._stdio.missing):
            shown = {UNSANDBOXED: ", ".join(missing)}
            listing.specs = [replace(s, annotations={**s.annotations, **shown}) for s in listing.specs]
        if before == listing.specs:
            return False
        self._tools = [_McpTool(spec, self) for spec in listing.specs]
        return True

    def _why(self, error: BaseException) -> str:
        words = self._stdio.last_words() if self._stdio else ""
        return described(self.config, error) + (f" (it last wrote: {words})" if words else "")


def _meta(context: CallContext) -> Any:
    return {APPROVAL_META: str(context.approval_id)} if context.approval_id else None
