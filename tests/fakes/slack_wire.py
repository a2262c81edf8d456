"""How the fake reaches the app: Socket Mode envelopes or signed HTTP, with redelivery of events."""

import asyncio
import hashlib
import hmac
import itertools
import json
import secrets
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import aiohttp
from aiohttp import WSCloseCode, WSMsgType, web

from tests.fakes.slack_workspace import APP, BOT_USER, OTHER_TEAM, TEAM, Json, Workspace

MAX_SOCKETS = 10


@dataclass(slots=True)
class Ack:
    """What the app answered to one delivery; `payload` is what it sent along."""

    at: float
    kind: str
    body: Json
    attempt: int
    payload: Any = None


@dataclass(slots=True)
class Failure:
    """One delivery attempt that the app didn't accept."""

    at: float
    kind: str
    body: Json
    attempt: int
    reason: str


@dataclass
class Wire(Workspace):
    """Delivers to `http_target` when it is set, else over one of the open sockets."""

    http_target: str | None = None
    ack_timeout_s: float = 3.0
    retry_delays_s: tuple[float, ...] = (0.1, 3.0, 15.0)
    """How long Slack waits before each redelivery of an event; really at once, a minute, five minutes."""
    acks: list[Ack] = field(default_factory=list[Ack])
    failures: list[Failure] = field(default_factory=list[Failure])
    delivered: list[Json] = field(default_factory=list[Json])
    """Every event body that was sent, once whatever its redeliveries."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.sockets: list[web.WebSocketResponse] = []
        self.tickets: set[str] = set()
        self._turn = itertools.count()
        self._waiting: dict[str, tuple[web.WebSocketResponse, asyncio.Future[Any]]] = {}
        self._deliveries: set[asyncio.Task[Any]] = set()
        self._http: aiohttp.ClientSession | None = None

    def tell(self, event: Json) -> None:
        if self.hears(event):
            self.start_delivery("events_api", self.event_body(event))

    def hears(self, event: Json) -> bool:
        """Whether the granted scopes let the app have this event."""
        if not self.installed and event["type"] not in ("app_uninstalled", "tokens_revoked"):
            return False
        if self.scopes is None or event["type"] not in ("message", "app_mention"):
            return True
        if event["type"] == "app_mention":
            return "app_mentions:read" in self.scopes
        histories = {"channel": "channels:history", "group": "groups:history", "im": "im:history"}
        return histories[event["channel_type"]] in self.scopes

    def event_body(self, event: Json, event_id: str | None = None) -> Json:
        sender = self.users.get(event.get("user", ""), {})
        return {
            "token": "fake-verification-token",
            "team_id": TEAM,
            "context_team_id": TEAM,
            "context_enterprise_id": None,
            "api_app_id": APP,
            "event": event,
            "type": "event_callback",
            "event_id": event_id or self.fresh("Ev"),
            "event_time": int(self.clock()),
            "authorizations": [{"enterprise_id": None, "team_id": TEAM, "user_id": BOT_USER, "is_bot": True}],
            "is_ext_shared_channel": sender.get("team_id") == OTHER_TEAM,
            "event_context": secrets.token_hex(8),
        }

    def start_delivery(self, kind: str, body: Json) -> asyncio.Task[Ack | None]:
        """Deliver in the background; `settled()` waits for it."""
        task = asyncio.get_running_loop().create_task(self.deliver(kind, body))
        self._deliveries.add(task)
        task.add_done_callback(self._deliveries.discard)
        return task

    async def settled(self) -> None:
        """Wait until nothing is on its way to the app."""
        while self._deliveries:
            await asyncio.gather(*self._deliveries)

    async def deliver(self, kind: str, body: Json) -> Ack | None:
        """Send until it is acked; only events are sent again, as Slack does. None: the app never took it."""
        delays = self.retry_delays_s if kind == "events_api" else ()
        if kind == "events_api":
            self.delivered.append(body)
        reason = ""
        for attempt in range(len(delays) + 1):
            if attempt:
                await asyncio.sleep(delays[attempt - 1])
            send = self._post if self.http_target else self._envelope
            answer, failed = await send(kind, body, attempt, reason)
            if failed is None:
                ack = Ack(self.clock(), kind, body, attempt, answer)
                self.acks.append(ack)
                self.notify()
                return ack
            reason = failed
            self.failures.append(Failure(self.clock(), kind, body, attempt, reason))
            self.notify()
            if answer == "no-retry":
                break
        return None

    async def _envelope(self, kind: str, body: Json, attempt: int, reason: str) -> tuple[Any, str | None]:
        if not self.sockets:
            return None, "no_connection"
        socket = self.sockets[next(self._turn) % len(self.sockets)]
        envelope_id = secrets.token_hex(16)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[envelope_id] = (socket, answer)
        envelope: Json = {"envelope_id": envelope_id, "type": kind, "payload": body}
        envelope["accepts_response_payload"] = kind != "events_api"
        if kind == "events_api":
            envelope.update(retry_attempt=attempt, retry_reason=reason)
        try:
            await socket.send_json(envelope)
            return await asyncio.wait_for(answer, self.ack_timeout_s), None
        except TimeoutError:
            return None, "timeout"
        except ConnectionError:
            return None, "connection_failed"
        finally:
            del self._waiting[envelope_id]

    async def _post(self, kind: str, body: Json, attempt: int, reason: str) -> tuple[Any, str | None]:
        if kind == "events_api":
            text, content_type = json.dumps(body), "application/json"
        elif kind == "interactive":
            text, content_type = urlencode({"payload": json.dumps(body)}), "application/x-www-form-urlencoded"
        else:
            text, content_type = urlencode(body), "application/x-www-form-urlencoded"
        headers = {"Content-Type": content_type, **self.sign(text)}
        if attempt:
            headers |= {"X-Slack-Retry-Num": str(attempt), "X-Slack-Retry-Reason": reason}
        assert self._http is not None
        timeout = aiohttp.ClientTimeout(total=self.ack_timeout_s)
        try:
            url = f"{self.http_target}/slack/events"
            async with self._http.post(url, data=text.encode(), headers=headers, timeout=timeout) as answer:
                said = await answer.text()
                if answer.status != 200:
                    return ("no-retry" if answer.headers.get("X-Slack-No-Retry") == "1" else None), "http_error"
                return (json.loads(said) if answer.content_type == "application/json" and said else said or None), None
        except TimeoutError:
            return None, "http_timeout"
        except aiohttp.ClientError:
            return None, "connection_failed"

    def sign(self, body: str, ts: int | None = None, secret: str | None = None) -> dict[str, str]:
        """The headers of a signed request; another `ts` or `secret` makes a stale or forged one."""
        stamp = str(int(self.clock()) if ts is None else ts)
        key = (self.signing_secret if secret is None else secret).encode()
        digest = hmac.new(key, f"v0:{stamp}:{body}".encode(), hashlib.sha256).hexdigest()
        return {"X-Slack-Request-Timestamp": stamp, "X-Slack-Signature": f"v0={digest}"}

    async def disconnect(self, *, politely: bool = False) -> None:
        """Drop every socket; politely means after Slack's own warning that a new one is wanted."""
        for socket in list(self.sockets):
            if politely:
                await socket.send_json({"type": "disconnect", "reason": "refresh_requested", "debug_info": {}})
            await socket.close(code=WSCloseCode.GOING_AWAY)
            self._lose(socket)

    def _lose(self, socket: web.WebSocketResponse) -> None:
        if socket in self.sockets:
            self.sockets.remove(socket)
        for owner, answer in list(self._waiting.values()):
            if owner is socket and not answer.done():
                answer.set_exception(ConnectionError("the socket closed before the ack"))
        self.notify()

    async def serve_socket(self, request: web.Request) -> web.StreamResponse:
        """`/socket/{ticket}`: a ticket opens one connection."""
        ticket = request.match_info["ticket"]
        if ticket not in self.tickets:
            return web.Response(status=403, text="invalid ticket")
        self.tickets.remove(ticket)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        if len(self.sockets) >= MAX_SOCKETS:
            await socket.send_json({"type": "disconnect", "reason": "too_many_websockets", "debug_info": {}})
            await socket.close()
            return socket
        info = {"num_connections": len(self.sockets) + 1, "connection_info": {"app_id": APP}}
        await socket.send_json({"type": "hello", **info, "debug_info": {"approximate_connection_time": 18060}})
        self.sockets.append(socket)
        self.notify()
        try:
            async for frame in socket:
                if frame.type == WSMsgType.TEXT:
                    self._heard(json.loads(frame.data))
        finally:
            self._lose(socket)
        return socket

    def _heard(self, frame: Json) -> None:
        waiting = self._waiting.get(frame.get("envelope_id", ""))
        if waiting is not None and not waiting[1].done():
            waiting[1].set_result(frame.get("payload"))
