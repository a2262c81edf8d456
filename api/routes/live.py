"""Live events: a session's facts as they happen, and commands on the same line."""

import asyncio
import contextlib
import json
from collections.abc import Generator
from typing import Any
from uuid import UUID

from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from agent.approvals.types import Decision
from agent.approvals.types import Door as DecisionDoor
from agent.errors import Expired, Invalid, NotFound, Refusal
from agent.identities import Authenticated
from agent.throttle import TooMany
from api.commands import AuthCommand, CancelCommand, DecideCommand, SayCommand, read, refusal
from api.door import Door, address_of, door_of
from api.identity import Credential, allow, is_same_site, nobody, shown
from api.problems import Problem
from api.quotas import EXECUTES, REQUESTS, STRANGERS
from api.routes.execute import submit
from api.routes.stream import wire_event

router = APIRouter()

BAD_REQUEST, UNAUTHORIZED, FORBIDDEN, GONE, TOO_MANY, TOO_SLOW = 4400, 4401, 4403, 4404, 4429, 1013
_PAGE = 100
_LONGEST_REASON = 120
_CLOSES = {400: BAD_REQUEST, 401: UNAUTHORIZED, 403: FORBIDDEN, 422: BAD_REQUEST}


class _Over(Exception):
    """The line ends, with a code and a reason for the client."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


@router.websocket("/api/sessions/{session_id}/ws")
async def live(websocket: WebSocket, session_id: str) -> None:
    """Show a session's events from `?after=SEQ` on (without it: from now), and take commands."""
    door = door_of(websocket)
    try:
        credential = shown(websocket)
    except Problem:
        credential = Credential("")
    if credential is not None and credential.is_cookie and not is_same_site(websocket):
        await websocket.close(1008)  # before it is accepted: a page of another site can't use the console's cookie
        return
    await websocket.accept()
    line = _Line(websocket, door, credential)
    try:
        await line.run(session_id, websocket.query_params.get("after"))
    except _Over as over:
        # A peer that reads nothing can't be told either; its connection ends all the same.
        with contextlib.suppress(TimeoutError, WebSocketDisconnect, RuntimeError):
            async with asyncio.timeout(door.patience.stall_s / 2):
                await websocket.close(over.code, over.reason[:_LONGEST_REASON])
    except WebSocketDisconnect:
        pass


class _Line:
    """One client's connection: who it is, how far it has seen, and the tasks that serve it."""

    def __init__(self, websocket: WebSocket, door: Door, credential: Credential | None) -> None:
        self._websocket = websocket
        self._door = door
        self._service = door.service
        self._credential = credential or Credential("")
        self._must_say = credential is None
        self._caller: Authenticated | None = None
        self._session_id = UUID(int=0)
        self._after = 0

    async def run(self, session: str, after: str | None) -> None:
        """Serve until either side ends it; raises _Over with why."""
        with _closing():
            self._door.quotas.take(STRANGERS, f"ws {address_of(self._websocket)}", factor=10)
            if self._must_say:
                await self._first_frame()
            await self._check()
            self._door.take(REQUESTS, self._who.principal)
            self._session_id = _session_id(session)
            newest = await self._service.last_seq(self._session_id, by=self._who.principal)
            self._after = newest if after is None else _seq(after)
        await self._send({"type": "ready", "session_id": str(self._session_id), "after": self._after})
        tasks = [asyncio.create_task(part()) for part in (self._tell, self._hear, self._guard)]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    @property
    def _who(self) -> Authenticated:
        assert self._caller is not None
        return self._caller

    async def _first_frame(self) -> None:
        try:
            async with asyncio.timeout(self._door.patience.auth_s):
                command = read(await self._frame())
        except TimeoutError:
            raise _Over(UNAUTHORIZED, "Nobody said who they are in time.") from None
        if not isinstance(command, AuthCommand):
            raise nobody()
        self._credential = Credential(command.token)

    async def _check(self) -> None:
        """Settle anew who this is: tokens expire and are ended, users are disabled, roles change."""
        found = await self._door.identity.check(self._credential)
        allow(found, "read")
        self._websocket.state.caller = self._caller = found

    async def _guard(self) -> None:
        while True:
            await asyncio.sleep(self._door.patience.recheck_s)
            with _closing():
                await self._check()
                await self._service.read_session(self._session_id, by=self._who.principal)

    async def _tell(self) -> None:
        """Send what is new, a page at a time: the next one is read only once the client has taken this one."""
        async with self._service.watch(self._session_id) as news:
            while True:
                news.clear()
                with _closing():
                    events = await self._service.read_events(
                        self._session_id, after=self._after, limit=_PAGE, by=self._who.principal
                    )
                for event in events:
                    await self._send(wire_event(event))
                    self._after = event.seq
                if len(events) < _PAGE:
                    await news.wait()

    async def _hear(self) -> None:
        while True:
            try:
                await self._do(read(await self._frame()))
            except (Refusal, Problem) as error:
                await self._send(refusal(error))

    async def _do(self, command: AuthCommand | SayCommand | DecideCommand | CancelCommand) -> None:
        if isinstance(command, AuthCommand):
            await self._renew(command)
            return
        caller = self._who
        by = caller.principal
        allow(caller, "approve" if isinstance(command, DecideCommand) else "chat")
        self._door.take(REQUESTS, by)
        if isinstance(command, SayCommand):
            self._door.take(EXECUTES, by)
            await submit(self._service, self._session_id, command.message, by=by, key=command.idempotency_key)
        elif isinstance(command, DecideCommand):
            if command.instead is not None:
                allow(caller, "chat")
                self._door.take(EXECUTES, by)
            await self._service.decide_approval(
                command.approval_id,
                Decision(command.type),
                by=by,
                reason=command.reason,
                args=command.args,
                expected_digest=command.args_digest,
                door=DecisionDoor.WEB if self._credential.is_cookie else DecisionDoor.API,
                login_at=caller.login_at,
                instead=command.instead,
                remember=command.remember.wanted() if command.remember else None,
            )
        elif await self._service.cancel_turn(self._session_id, by=by) is None:
            raise Problem(409, "nothing_running", "Nothing is running in this session.")

    async def _renew(self, command: AuthCommand) -> None:
        fresh = Credential(command.token)
        found = await self._door.identity.check(fresh)
        if found.principal.user_id != self._who.principal.user_id:
            raise Problem(403, "another_user", "This token is somebody else's: open another connection for them.")
        self._credential = fresh
        await self._check()

    async def _frame(self) -> str:
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1006))
        if (text := message.get("text")) is None:
            raise Problem(400, "not_text", "Send JSON as text frames, not as bytes.")
        return text

    async def _send(self, body: dict[str, Any]) -> None:
        text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
        try:
            async with asyncio.timeout(self._door.patience.stall_s):
                await self._websocket.send_text(text)
        except TimeoutError:
            raise _Over(TOO_SLOW, "You read too slowly: connect again with ?after=SEQ.") from None


@contextlib.contextmanager
def _closing() -> Generator[None]:
    """Turn refusals of what the line stands on into its end."""
    try:
        yield
    except Problem as error:
        raise _Over(_CLOSES.get(error.status_code, BAD_REQUEST), error.detail) from None
    except (NotFound, Expired) as error:
        raise _Over(GONE, error.message) from None
    except TooMany as error:
        raise _Over(TOO_MANY, error.message) from None
    except Refusal as error:
        raise _Over(BAD_REQUEST if isinstance(error, Invalid) else FORBIDDEN, error.message) from None


def _session_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise _Over(GONE, "There is no such session.") from None


def _seq(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 15):
        raise _Over(BAD_REQUEST, "`after` must be the seq of an event, or 0.")
    return int(text)
