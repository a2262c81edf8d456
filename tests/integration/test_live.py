"""Live events over real sockets: the real service, a real database, and clients that come, go, stall and lie."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from agent.identities import Authenticated
from agent.types import Event, EventKind, Role
from api.console.login import COOKIE
from api.door import Patience
from tests.fakes.memory_service import MemoryService
from tests.fakes.model_script import Answer
from tests.fakes.rest import API_KEY, OPERATOR, bearer, door_over, serving
from tests.integration.conftest import ADMIN, Floor, running
from tests.integration.test_accounts import account, token_of

QUICK = Patience(auth_s=0.3, stall_s=0.5, recheck_s=0.05)
KEYS = ("obviously-fake-signing-key-shared-by-replicas",)


@dataclass
class Client:
    """One end of a live connection."""

    line: ClientConnection
    seen: list[dict[str, Any]]

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(45):
            told = json.loads(await self.line.recv())
        self.seen.append(told)
        return told

    async def until(self, kind: str) -> dict[str, Any]:
        """Read on until that kind of frame comes."""
        while (told := await self.next())["type"] != kind:
            pass
        return told

    async def say(self, **command: Any) -> None:
        await self.line.send(json.dumps(command))

    async def closed(self) -> int:
        """Read on until the server closes; return its code."""
        with suppress(ConnectionClosed):
            while True:
                await self.next()
        assert self.line.close_code is not None
        return self.line.close_code

    @property
    def seqs(self) -> list[int]:
        return [told["seq"] for told in self.seen if "seq" in told]


@asynccontextmanager
async def live(
    port: int, session_id: Any, query: str = "", headers: dict[str, str] | None = None, **more: Any
) -> AsyncIterator[Client]:
    url = f"ws://127.0.0.1:{port}/api/sessions/{session_id}/ws{query}"
    async with connect(url, additional_headers=headers or {}, **more) as line:
        yield Client(line, [])


@pytest.fixture
async def port(floor: Floor) -> AsyncIterator[int]:
    async with serving(door_over(floor.service, patience=QUICK)) as port:
        yield port


# The main job -----------------------------------------------------------------------------------------------------


async def test_a_message_and_its_events_travel_on_one_line(floor: Floor, port: int) -> None:
    session_id = await floor.session()
    async with live(port, session_id) as client:
        await client.say(type="auth", token=API_KEY)
        assert await client.next() == {"type": "ready", "session_id": str(session_id), "after": 0}
        await client.say(type="message", message="hello")
        last = await client.until("turn.completed")
    kinds = [told["type"] for told in client.seen if "seq" in told]
    assert kinds[:2] == ["turn.queued", "turn.started"]
    assert client.seqs == sorted(set(client.seqs))
    assert client.seqs[0] == 1
    assert (last["reply"], last["at"][-1]) == ("answer 1: hello", "Z")
    assert {told["turn_id"] for told in client.seen if "seq" in told} == {last["turn_id"]}


async def test_the_answer_comes_in_pieces_that_make_it(floor: Floor, port: int) -> None:
    session_id = await floor.session()
    text = "a long answer, " * 200
    floor.model.queue.append(Answer(text))
    async with live(port, session_id, headers=OPERATOR) as client:
        await client.next()
        await client.say(type="message", message="hello")
        last = await client.until("turn.completed")
    pieces = [told["text"] for told in client.seen if told["type"] == "answer.delta"]
    assert pieces
    assert last["reply"].startswith("".join(pieces))


async def test_an_approval_is_opened_decided_and_run_on_the_line(floor: Floor, port: int) -> None:
    session_id = await floor.session()
    async with live(port, session_id, headers=OPERATOR) as client:
        await client.next()
        await client.say(type="message", message='{{tool restart {"service": "web"}}}')
        opened = await client.until("approval.opened")
        await client.until("turn.waiting")
        assert floor.tools.effects == []
        await client.say(type="approve", approval_id=opened["approval_id"], reason="seen")
        assert (await client.until("approval.changed"))["status"] == "approved"
        assert (await client.until("execution.finished"))["status"] == "succeeded"
        await client.until("turn.completed")
    assert [effect["service"] for effect in floor.tools.effects] == ["web"]


async def test_a_rejection_and_a_cancel_work_on_the_line(floor: Floor, port: int) -> None:
    session_id = await floor.session()
    async with live(port, session_id, headers=OPERATOR) as client:
        await client.next()
        await client.say(type="message", message='{{tool restart {"service": "web"}}}')
        opened = await client.until("approval.opened")
        await client.say(type="reject", approval_id=opened["approval_id"], reason="not on a Friday")
        assert (await client.until("approval.changed"))["status"] == "rejected"
        await client.until("turn.completed")
        await client.say(type="message", message='{{tool restart {"service": "db"}}}')
        await client.until("turn.waiting")
        await client.say(type="cancel")
        await client.until("turn.cancelled")
        await client.say(type="cancel")
        assert (await client.until("error"))["code"] == "nothing_running"
    assert floor.tools.effects == []


async def test_without_after_only_what_is_new_is_shown_and_with_it_what_was_missed(floor: Floor, port: int) -> None:
    session_id = await floor.session()
    await floor.say(session_id, "before")
    async with live(port, session_id, headers=OPERATOR) as client:
        start = (await client.next())["after"]
        await client.say(type="message", message="now")
        await client.until("turn.completed")
    assert min(client.seqs) == start + 1
    async with live(port, session_id, "?after=0", OPERATOR) as again:
        while not again.seqs or again.seqs[-1] < client.seqs[-1]:
            await again.next()
    assert again.seqs[0] == 1
    assert again.seqs == sorted(set(again.seqs))
    async with live(port, session_id, f"?after={client.seqs[-2]}", OPERATOR) as rest:
        await rest.until("turn.completed")
    assert rest.seqs == client.seqs[-1:]


async def test_a_client_that_reconnects_to_another_replica_misses_nothing(dsn: str) -> None:
    async with (
        running(dsn, signing_keys=KEYS) as one,
        running(dsn, signing_keys=KEYS, work=False) as other,
        serving(door_over(one.service)) as first,
        serving(door_over(other.service)) as second,
    ):
        await account(one, "alice")
        alice = bearer(await token_of(one, "alice"))
        session_id = await one.session((await one.service.authenticate(alice["Authorization"][7:])).principal)
        async with live(first, session_id, headers=alice) as client:
            await client.next()
            await client.say(type="message", message='{{tool restart {"service": "web"}}}')
            opened = await client.until("approval.opened")
        # Nobody listens now, and the turn goes on.
        await one.decide(await one.service.read_approval(UUID(opened["approval_id"]), by=ADMIN))
        async with live(second, session_id, f"?after={client.seqs[-1]}", alice) as again:
            done = await again.until("turn.completed")
            await again.say(type="message", message="and now over the other replica")
            await again.until("turn.completed")
    assert "restarted web" in done["reply"]
    log = [event.seq for event in await all_events(one, session_id)]
    kept = [seq for seq in client.seqs + again.seqs if seq in log]
    assert kept == log


async def all_events(floor: Floor, session_id: Any) -> list[Event]:
    async with running(floor.core.database.dsn, work=False) as reader:
        return await reader.service.read_events(session_id, by=ADMIN)


async def test_a_lost_listen_connection_loses_no_event(floor: Floor, port: int) -> None:
    session_id = await floor.session()
    async with live(port, session_id, headers=OPERATOR) as client:
        await client.next()
        ended = await floor.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND (query LIKE 'LISTEN%opsagent%' OR query = 'SELECT 1')"
        )
        assert ended
        await client.say(type="message", message="hello")
        await client.until("turn.completed")


# Who may listen ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [bearer("nonsense"), {"Authorization": "Basic x"}, {"X-API-Key": ""}])
async def test_a_bad_credential_in_a_header_is_4401(floor: Floor, port: int, headers: dict[str, str]) -> None:
    async with live(port, await floor.session(), headers=headers) as client:
        assert await client.closed() == 4401
    assert client.seen == []


@pytest.mark.parametrize(
    "frame", [{"type": "auth", "token": "nonsense"}, {"type": "message", "message": "hi"}, {"type": "auth"}]
)
async def test_a_first_frame_that_does_not_say_who_it_is_ends_the_line(
    floor: Floor, port: int, frame: dict[str, str]
) -> None:
    async with live(port, await floor.session()) as client:
        await client.say(**frame)
        assert await client.closed() in {4401, 4400}
    assert client.seen == []


async def test_who_says_nothing_is_hung_up_on(floor: Floor, port: int) -> None:
    async with live(port, await floor.session()) as client:
        assert await client.closed() == 4401


async def test_other_peoples_sessions_do_not_exist(floor: Floor, port: int) -> None:
    await account(floor, "alice")
    alice = bearer(await token_of(floor, "alice"))
    for session_id in (await floor.session(), uuid4(), "not-an-id"):
        async with live(port, session_id, headers=alice) as client:
            assert await client.closed() == 4404


@pytest.mark.parametrize("after", ["-1", "x", "1e3", "9" * 30, "١"])
async def test_a_wrong_place_to_start_from_is_4400(floor: Floor, port: int, after: str) -> None:
    async with live(port, await floor.session(), f"?after={after}", OPERATOR) as client:
        assert await client.closed() == 4400


async def test_a_tokens_scopes_count_on_the_line(floor: Floor, port: int) -> None:
    async def token(*scopes: str) -> dict[str, str]:
        made = floor.service.create_token(
            by=ADMIN, name="-".join(scopes), scopes=scopes, role=Role.ADMIN, expires_in_days=1
        )
        return bearer((await made)[1])

    session_id = await floor.session()
    async with live(port, session_id, headers=await token("chat")) as client:
        assert await client.closed() == 4403
    async with live(port, session_id, headers=await token("read")) as client:
        await client.next()
        for command in (
            {"type": "message", "message": "hi"},
            {"type": "approve", "approval_id": str(uuid4())},
            {"type": "cancel"},
        ):
            await client.say(**command)
            assert (await client.next())["code"] == "scope_missing"


async def test_the_consoles_cookie_works_from_its_own_pages_alone() -> None:
    service = MemoryService()
    app = door_over(service, patience=QUICK)
    cookie = app.state.door.identity._cookie.issue()
    session = await service.create_session(by=service.actor)
    async with serving(app) as port:
        own = {"Cookie": f"{COOKIE}={cookie}", "Origin": f"http://127.0.0.1:{port}"}
        async with live(port, session.session_id, headers=own) as client:
            assert (await client.next())["type"] == "ready"
        for origin in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {}):
            with pytest.raises(InvalidStatus) as refused:
                async with live(port, session.session_id, headers={"Cookie": f"{COOKIE}={cookie}", **origin}):
                    pass
            assert refused.value.response.status_code == 403


# Authorization that ends ------------------------------------------------------------------------------------------


async def test_a_line_ends_with_its_user_its_login_its_token_and_its_session(floor: Floor, port: int) -> None:
    alice = await account(floor, "alice")
    made, secret = await floor.service.create_token(
        by=ADMIN, name="ci", scopes=("read",), role=Role.ADMIN, expires_in_days=1
    )

    async def ended(session_id: Any, token: str, end: Any, code: int) -> None:
        async with live(port, session_id, headers=bearer(token)) as client:
            await client.next()
            await end
            assert await client.closed() == code

    session_id = await floor.session(alice)
    await ended(session_id, await token_of(floor, "alice"), floor.service.logout(by=alice), 4401)
    await ended(session_id, secret, floor.service.revoke_token(made.token_id, by=ADMIN), 4401)
    gone = await floor.session(alice)
    await ended(gone, await token_of(floor, "alice"), floor.service.delete_session(gone, by=alice), 4404)
    disable = floor.service.update_account(alice.user_id, by=ADMIN, disabled=True)
    await ended(session_id, await token_of(floor, "alice"), disable, 4401)


async def test_an_expired_token_ends_the_line_unless_a_fresh_one_came() -> None:
    service = MemoryService()
    session = await service.create_session(by=service.actor)
    soon = datetime.now(UTC) + timedelta(seconds=1)
    service.tokens["old"] = Authenticated(service.actor, None, soon)
    service.tokens["new"] = Authenticated(service.actor, None, None)
    async with serving(door_over(service, patience=QUICK)) as port:
        async with live(port, session.session_id, headers=bearer("old")) as client:
            await client.next()
            assert await client.closed() == 4401
        service.tokens["old"] = Authenticated(service.actor, None, datetime.now(UTC) + timedelta(seconds=1))
        async with live(port, session.session_id, headers=bearer("old")) as client:
            await client.next()
            await client.say(type="auth", token="new")
            del service.tokens["old"]
            await client.say(type="cancel")
            assert (await client.next())["code"] == "nothing_running"
            await asyncio.sleep(QUICK.recheck_s * 4)
            await client.say(type="cancel")
            assert (await client.next())["code"] == "nothing_running"


# Clients that misbehave -------------------------------------------------------------------------------------------

BAD_FRAMES = {
    "{": "malformed_json",
    "[" * 5_000: "nested_too_deep",
    '"hello"': "bad_command",
    '{"type": "promote"}': "bad_command",
    '{"type": "message"}': "bad_command",
    '{"type": "message", "message": "a", "role": "admin"}': "bad_command",
    '{"type": "message", "message": "a", "message": "b"}': "malformed_json",
    '{"type": "message", "message": " "}': "empty_message",
    '{"type": "message", "message": "a\\u0000b"}': "unstorable_text",
    '{"type": "message", "message": "\\ud800"}': "unstorable_text",
    '{"type": "approve", "approval_id": "x"}': "bad_command",
    json.dumps({"type": "approve", "approval_id": str(UUID(int=9))}): "approval_not_found",
}


async def test_a_bad_frame_is_answered_and_the_line_goes_on(floor: Floor, port: int) -> None:
    session_id = await floor.session()
    async with live(port, session_id, headers=OPERATOR) as client:
        await client.next()
        for frame, code in BAD_FRAMES.items():
            await client.line.send(frame)
            told = await client.next()
            assert (told["type"], told["code"]) == ("error", code), frame
            assert "seq" not in told
            assert told["detail"]
        await client.line.send(b"bytes")
        assert (await client.next())["code"] == "not_text"
        await client.say(type="message", message="still here")
        await client.until("turn.completed")


async def test_a_frame_above_the_limit_ends_the_line(floor: Floor, port: int) -> None:
    async with live(port, await floor.session(), headers=OPERATOR) as client:
        await client.next()
        await client.say(type="message", message="x" * 70_000)
        assert await client.closed() == 1009


async def test_the_same_key_on_the_line_and_over_rest_is_one_message(floor: Floor, port: int) -> None:
    session_id = await floor.session()
    async with live(port, session_id, headers=OPERATOR) as client:
        await client.next()
        for _ in range(2):
            await client.say(type="message", message="once", idempotency_key="k1")
        await client.until("turn.completed")
        await client.say(type="message", message="other", idempotency_key="k1")
        assert (await client.until("error"))["code"] == "idempotency_key_reused"
    assert [told["type"] for told in client.seen].count("turn.queued") == 1


async def test_a_client_that_reads_nothing_is_cut_off_and_others_go_on() -> None:
    service = MemoryService()
    session = await service.create_session(by=service.actor)
    kept, now = service.kept[session.session_id], datetime.now(UTC)
    for seq in range(1, 3_001):
        data = {"turn_id": str(uuid4()), "text": "x" * 10_000}
        kept.events.append(Event(session.session_id, seq, EventKind.ANSWER_DELTA, data, now))
    async with serving(door_over(service, patience=QUICK)) as port:
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            slow.connect(("127.0.0.1", port))
            slow.sendall(
                f"GET /api/sessions/{session.session_id}/ws?after=0 HTTP/1.1\r\nHost: t\r\nUpgrade: websocket\r\n"
                f"Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
                f"Sec-WebSocket-Version: 13\r\nX-API-Key: {API_KEY}\r\n\r\n".encode()
            )
            async with asyncio.timeout(45):
                while not service._watchers[session.session_id]:
                    await asyncio.sleep(0.01)
                async with live(port, session.session_id, "?after=2999", OPERATOR) as other:
                    assert (await other.until("answer.delta"))["seq"] == 3_000
                while service._watchers[session.session_id]:
                    await asyncio.sleep(0.01)


async def test_a_client_that_wakes_up_again_is_told_why_it_was_cut_off() -> None:
    service = MemoryService()
    session = await service.create_session(by=service.actor)
    kept, now = service.kept[session.session_id], datetime.now(UTC)
    for seq in range(1, 3_001):
        data = {"turn_id": str(uuid4()), "text": f"{uuid4()}" * 300}
        kept.events.append(Event(session.session_id, seq, EventKind.ANSWER_DELTA, data, now))
    patience = Patience(auth_s=1, stall_s=0.5, recheck_s=30)
    async with (
        serving(door_over(service, patience=patience)) as port,
        live(port, session.session_id, "?after=0", OPERATOR, max_queue=1, compression=None) as client,
    ):
        await client.next()
        await asyncio.sleep(0.6)
        assert await client.closed() == 1013
        assert client.seqs == list(range(1, len(client.seqs) + 1))
