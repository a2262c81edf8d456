"""Sessions and their mail: what waits behind people's decisions, what is cancelled, what is gone and stays gone."""

import asyncio
from typing import Any
from uuid import UUID

import pytest

from agent import sessions
from agent.approvals.policy import Rule
from agent.approvals.types import AlreadySettled, Approval, ApprovalStatus, Decision
from agent.sessions import SessionExpired, SessionNotFound
from agent.turns import IdempotencyKeyReused
from agent.types import ChatUser, EventKind, ThreadKey, TurnStatus
from tests.fakes.model_script import Answer, Call
from tests.integration.conftest import ADMIN, Floor

RESTART = '{{tool restart {"service": "web"}}}'
TWO = '{{tool restart {"service": "a"}}} {{tool restart {"service": "b"}}}'
SLOW = '{{tool slow {"service": "s"}}}'


async def in_flight(floor: Floor, session_id: UUID) -> UUID:
    """Have a turn in which a tool runs and does not end; return the turn."""
    auto = Rule(auto_execute=True, approval_required=False)
    await floor.service.set_tool_approval(floor.tools["slow"].spec.tool_id, auto, by=ADMIN)
    sent = await floor.service.submit_message(session_id, SLOW, by=ADMIN)
    await asyncio.wait_for(floor.tools.entered.wait(), 45)
    return sent.turn.turn_id


async def waiting(floor: Floor, session_id: UUID) -> Approval:
    (approval,) = (await floor.say(session_id, RESTART)).pending_approvals
    return approval


async def now(floor: Floor, approval: Approval) -> Approval:
    return await floor.service.read_approval(approval.approval_id, by=ADMIN)


def stopped(floor: Floor) -> asyncio.Event:
    """An event that is set once the slow tool was stopped in the middle."""
    event = asyncio.Event()

    async def wait(_args: Any) -> None:
        floor.tools.entered.set()
        try:
            await floor.tools.gate.wait()
        except asyncio.CancelledError:
            event.set()
            raise

    floor.tools["slow"].effect = wait
    return event


async def roles(floor: Floor, session_id: UUID) -> list[str]:
    return [m.role for m in (await floor.service.read_messages(session_id, by=ADMIN)).items]


# Mail behind a decision -------------------------------------------------------------------------------------------


async def test_a_message_behind_pending_approvals_waits_and_is_answered_after_them(floor: Floor) -> None:
    session_id = await floor.session()
    asked = await floor.say(session_id, TWO)
    one, other = (await floor.parked(asked.turn.turn_id, 2)).pending_approvals
    calls_before = len(floor.model.requests)
    second = await floor.service.submit_message(session_id, "and now?", by=ADMIN)
    third = await floor.service.submit_message(session_id, "still?", by=ADMIN)
    assert (second.waits, third.waits, second.is_new) == (True, True, True)
    view = await floor.service.wait_turn(second.turn.turn_id, timeout=45)
    assert view.turn.status is TurnStatus.QUEUED
    await floor.decide(one)
    await floor.until(lambda: len(floor.tools.effects) == 1)
    assert (await floor.service.read_turn(session_id, second.turn.turn_id, by=ADMIN)).turn.status is TurnStatus.QUEUED
    assert len(floor.model.requests) == calls_before
    await floor.decide(other)
    first = await floor.done(asked.turn.turn_id)
    assert "restarted a" in (first.turn.reply or "")
    assert "restarted b" in (first.turn.reply or "")
    assert (await floor.done(second.turn.turn_id)).turn.reply == "answer 2: and now?"
    assert (await floor.done(third.turn.turn_id)).turn.reply == "answer 3: still?"
    assert await roles(floor, session_id) == [
        *("user", "assistant", "tool", "tool", "assistant"),
        *("user", "assistant", "user", "assistant"),
    ]
    assert sorted(floor.tools.ran("restart")) == ["a", "b"]


async def test_another_persons_message_in_the_thread_waits_as_well_and_counts_as_theirs(floor: Floor) -> None:
    key = ThreadKey("T0TEAM", "C1OPS", "1.0")
    alice, bob = ChatUser("T0TEAM", "U1ALICE"), ChatUser("T0TEAM", "U2BOB")
    sent = await floor.service.submit_message(key, RESTART, by=alice)
    (approval,) = (await floor.parked(sent.turn.turn_id, 1)).pending_approvals
    queued = await floor.service.submit_message(key, RESTART, by=bob)
    assert queued.waits
    await floor.decide(approval, Decision.REJECT, by=bob)
    (next_one,) = (await floor.parked(queued.turn.turn_id, 1)).pending_approvals
    assert (approval.requested_by.chat_user, next_one.requested_by.chat_user) == ("U1ALICE", "U2BOB")


# Cancel -----------------------------------------------------------------------------------------------------------


async def test_cancelling_while_a_tool_runs_stops_it_and_says_that_its_outcome_is_unknown(floor: Floor) -> None:
    session_id, was_stopped = await floor.session(), stopped(floor)
    turn_id = await in_flight(floor, session_id)
    assert (await floor.service.cancel_turn(session_id, by=ADMIN)).turn_id == turn_id
    assert (await floor.done(turn_id)).turn.status is TurnStatus.CANCELLED
    assert was_stopped.is_set()
    ((status,),) = await floor.sql("SELECT status FROM executions")
    assert status == "outcome_unknown"
    messages = (await floor.service.read_messages(session_id, by=ADMIN)).items
    assert [m.role for m in messages] == ["user", "assistant", "tool"]
    assert "unknown" in messages[-1].content
    assert (await floor.say(session_id, "and now?")).turn.status is TurnStatus.COMPLETED
    assert any("unknown" in str(message) for message in floor.model.requests[-1]), "the model knows of it"


async def test_cancelling_while_people_must_decide_cancels_what_they_had_to(floor: Floor) -> None:
    session_id = await floor.session()
    approval = await waiting(floor, session_id)
    queued = await floor.service.submit_message(session_id, "next", by=ADMIN)
    await floor.service.cancel_turn(session_id, by=ADMIN)
    assert (await floor.done(approval.turn_id)).turn.status is TurnStatus.CANCELLED
    assert (await now(floor, approval)).status is ApprovalStatus.CANCELLED
    with pytest.raises(AlreadySettled):
        await floor.decide(approval)
    assert (await floor.done(queued.turn.turn_id)).turn.status is TurnStatus.COMPLETED
    assert floor.tools.effects == []
    assert await roles(floor, session_id) == ["user", "assistant", "tool", "user", "assistant"]


async def test_an_approved_call_of_a_cancelled_turn_does_not_stay_approved(floor: Floor) -> None:
    session_id = await floor.session()
    approval = await waiting(floor, session_id)
    # Both come before a worker has the thread.
    async with floor.core.database.transaction() as tx:
        await tx.execute("SELECT 1 FROM user_sessions WHERE session_id = $1 FOR UPDATE", session_id)
        await tx.execute("UPDATE approvals SET status = 'approved', decided_at = now()")
        await tx.execute("UPDATE turns SET cancel_requested = true")
    await floor.service.cancel_turn(session_id, by=ADMIN)
    assert (await floor.done(approval.turn_id)).turn.status is TurnStatus.CANCELLED
    assert (await now(floor, approval)).status is ApprovalStatus.CANCELLED
    assert floor.tools.effects == []


async def test_cancelling_where_nothing_runs_says_so(floor: Floor) -> None:
    session_id = await floor.session()
    await floor.say(session_id, "hello")
    assert await floor.service.cancel_turn(session_id, by=ADMIN) is None


# Clear and delete -------------------------------------------------------------------------------------------------


async def nothing_comes_back(floor: Floor, session_id: UUID) -> None:
    """Whoever still worked on the session has written nothing behind its end."""
    floor.tools.gate.set()
    jobs = "SELECT 1 FROM procrastinate_jobs WHERE lock = $1"
    async with asyncio.timeout(45):
        while await floor.sql(jobs, str(session_id)):
            await asyncio.sleep(0.02)
    assert await floor.sql("SELECT 1 FROM messages WHERE session_id = $1", session_id) == []
    for table in ("checkpoints", "checkpoint_writes", "checkpoint_blobs"):
        assert await floor.sql(f"SELECT 1 FROM {table} WHERE thread_id = $1", str(session_id)) == []
    for row in await floor.sql("SELECT text, reply, error, status FROM turns WHERE session_id = $1", session_id):
        assert (row["text"], row["reply"]) == ("", None)
        assert row["status"] in ("completed", "cancelled")
    told = [row["data"] for row in await floor.sql("SELECT data FROM events WHERE session_id = $1", session_id)]
    assert not any("secret" in str(data) or "service" in str(data) for data in told)


@pytest.mark.parametrize("verb", ["delete_session", "clear_messages"])
async def test_ending_a_session_while_a_tool_runs_stops_the_tool_and_leaves_nothing(floor: Floor, verb: str) -> None:
    session_id, was_stopped = await floor.session(), stopped(floor)
    await floor.say(session_id, "a secret")
    turn_id = await in_flight(floor, session_id)
    await getattr(floor.service, verb)(session_id, by=ADMIN)
    await asyncio.wait_for(was_stopped.wait(), 45)
    await nothing_comes_back(floor, session_id)
    ((status,),) = await floor.sql("SELECT status FROM executions WHERE turn_id = $1", turn_id)
    assert status == "outcome_unknown"


@pytest.mark.parametrize("verb", ["delete_session", "clear_messages"])
async def test_a_worker_that_did_not_hear_of_the_end_writes_nothing_behind_it(floor: Floor, verb: str) -> None:
    session_id = await floor.session()
    floor.core.hub.on_cancel = lambda _session_id: None
    turn_id = await in_flight(floor, session_id)
    await getattr(floor.service, verb)(session_id, by=ADMIN)
    await nothing_comes_back(floor, session_id)
    ((status,),) = await floor.sql("SELECT status FROM executions WHERE turn_id = $1", turn_id)
    assert (status, floor.tools.ran("slow")) == ("outcome_unknown", ["s"])


@pytest.mark.parametrize("verb", ["delete_session", "clear_messages"])
async def test_ending_a_session_that_waits_for_people_keeps_the_approvals_row(floor: Floor, verb: str) -> None:
    session_id = await floor.session()
    approval = await waiting(floor, session_id)
    queued = await floor.service.submit_message(session_id, "a secret", by=ADMIN)
    await getattr(floor.service, verb)(session_id, by=ADMIN)
    after = await now(floor, approval)
    assert (after.status, after.args) == (ApprovalStatus.CANCELLED, {"service": "web"})
    with pytest.raises(AlreadySettled):
        await floor.decide(approval)
    await nothing_comes_back(floor, session_id)
    ((status,),) = await floor.sql("SELECT status FROM turns WHERE turn_id = $1", queued.turn.turn_id)
    assert (status, floor.tools.effects) == ("cancelled", [])


async def test_a_deleted_session_is_gone_for_everyone(floor: Floor) -> None:
    session_id = await floor.session()
    await floor.say(session_id, "hello")
    await floor.service.delete_session(session_id, by=ADMIN)
    for gone in (
        floor.service.read_session(session_id, by=ADMIN),
        floor.service.read_messages(session_id, by=ADMIN),
        floor.service.read_events(session_id, by=ADMIN),
        floor.service.submit_message(session_id, "again", by=ADMIN),
        floor.service.cancel_turn(session_id, by=ADMIN),
        floor.service.clear_messages(session_id, by=ADMIN),
        floor.service.delete_session(session_id, by=ADMIN),
    ):
        with pytest.raises(SessionNotFound):
            await gone
    assert (await floor.service.list_sessions(by=ADMIN)).items == []


async def test_a_cleared_session_starts_anew(floor: Floor) -> None:
    session_id = await floor.session()
    await floor.say(session_id, "a secret")
    await floor.service.clear_messages(session_id, by=ADMIN)
    assert await roles(floor, session_id) == []
    assert (await floor.say(session_id, "hello")).turn.reply == "answer 1: hello"
    assert not any("secret" in str(message) for message in floor.model.requests[-1])
    await nothing_but(floor, session_id, "hello")


async def nothing_but(floor: Floor, session_id: UUID, text: str) -> None:
    told = await floor.service.read_events(session_id, by=ADMIN)
    assert [event.data["text"] for event in told if "text" in event.data] == [text]


async def test_sessions_of_others_are_not_there(floor: Floor) -> None:
    mia, ned = await floor.user("mia"), await floor.user("ned")
    session_id = await floor.session(mia)
    for refused in (
        floor.service.read_session(session_id, by=ned),
        floor.service.read_messages(session_id, by=ned),
        floor.service.submit_message(session_id, "hello", by=ned),
        floor.service.delete_session(session_id, by=ned),
        floor.service.ask_approval(
            floor.tools["restart"].spec.tool_id, {"service": "web"}, by=ned, session_id=session_id
        ),
    ):
        with pytest.raises(SessionNotFound):
            await refused
    assert (await floor.service.read_session(session_id, by=ADMIN)).user_id == mia.user_id


# Expiry -----------------------------------------------------------------------------------------------------------


async def test_who_waits_for_one_kind_of_event_is_not_woken_by_others(floor: Floor) -> None:
    session_id = await floor.session()
    async with (
        floor.service.watch(session_id) as anything,
        floor.service.watch(session_id, EventKind.TURN_WAITING) as waiting,
        floor.service.watch(session_id, EventKind.TURN_CANCELLED, EventKind.TURN_COMPLETED) as ended,
    ):
        # Everybody is woken to look once the process listens, which may be only now, or again after a lost connection.
        for _ in range(3):
            for woken in (anything, waiting, ended):
                woken.clear()
            await floor.say(session_id, "hello")
            await floor.until(lambda: anything.is_set() and ended.is_set())
            if not waiting.is_set():
                return
        raise AssertionError("woken by each of them")


async def test_an_expired_session_says_so_until_it_is_swept_away(floor: Floor) -> None:
    session_id = (await floor.service.create_session(by=ADMIN, expires_in_s=3600)).session_id
    approval = await waiting(floor, session_id)
    # The thread's lock keeps the sweep off meanwhile.
    async with floor.core.database.transaction() as tx:
        await tx.execute("SELECT 1 FROM user_sessions WHERE session_id = $1 FOR UPDATE", session_id)
        await tx.execute("UPDATE user_sessions SET expires_at = now() - interval '1 second'")
        with pytest.raises(SessionExpired):
            await sessions.read(tx, session_id)
        with pytest.raises(SessionExpired):
            await sessions.lock(tx, session_id)
    async with asyncio.timeout(45):
        while (await now(floor, approval)).status is not ApprovalStatus.CANCELLED:
            await asyncio.sleep(0.02)
    with pytest.raises(SessionNotFound):
        await floor.service.read_session(session_id, by=ADMIN)
    await nothing_comes_back(floor, session_id)


# Idempotency ------------------------------------------------------------------------------------------------------


async def test_one_key_is_one_message_however_often_it_comes_at_once(floor: Floor) -> None:
    session_id = await floor.session()
    sent = await asyncio.gather(
        *(
            floor.service.submit_message(session_id, "hello", by=ADMIN, event_key="key", idempotency_digest="d1")
            for _ in range(10)
        )
    )
    assert len({one.turn.turn_id for one in sent}) == 1
    assert sum(one.is_new for one in sent) == 1
    done = await floor.done(sent[0].turn.turn_id)
    again = await floor.service.submit_message(session_id, "hello", by=ADMIN, event_key="key", idempotency_digest="d1")
    assert (again.turn.reply, again.is_new) == (done.turn.reply, False)
    assert await roles(floor, session_id) == ["user", "assistant"]


async def test_one_key_with_another_body_is_refused(floor: Floor) -> None:
    session_id = await floor.session()
    await floor.service.submit_message(session_id, "hello", by=ADMIN, event_key="key", idempotency_digest="d1")
    with pytest.raises(IdempotencyKeyReused):
        await floor.service.submit_message(session_id, "bye", by=ADMIN, event_key="key", idempotency_digest="d2")


async def test_a_chat_message_that_comes_as_two_events_counts_once(floor: Floor) -> None:
    key = ThreadKey("T0TEAM", "C1OPS", "1.0")
    alice = ChatUser("T0TEAM", "U1ALICE")
    one = await floor.service.submit_message(key, "hello", by=alice, event_key="Ev1", message_key="C1OPS/1.0")
    other = await floor.service.submit_message(key, "hello", by=alice, event_key="Ev2", message_key="C1OPS/1.0")
    assert (other.is_new, other.turn.turn_id) == (False, one.turn.turn_id)


async def test_a_thread_that_two_replicas_open_at_once_is_one_session(floor: Floor) -> None:
    key = ThreadKey("T0TEAM", "C1OPS", "1.0")
    people = [ChatUser("T0TEAM", f"U{i}") for i in range(8)]
    sent = await asyncio.gather(
        *(floor.service.submit_message(key, "hello", by=person, event_key=f"Ev{person.user}") for person in people)
    )
    assert {one.turn.session_id for one in sent} == {key.session_id}
    for one in sent:
        assert (await floor.done(one.turn.turn_id)).turn.status is TurnStatus.COMPLETED
    assert await roles(floor, key.session_id) == ["user", "assistant"] * 8


async def test_a_model_that_fails_ends_the_turn_and_not_the_thread(floor: Floor) -> None:
    session_id = await floor.session()
    failed = await floor.say(session_id, "{{error 400 InvalidParameter}}")
    assert failed.turn.status is TurnStatus.FAILED
    floor.model.queue.append(Answer(calls=[Call("uptime", '{"service": "a"}')]))
    assert (await floor.say(session_id, "go on")).turn.status is TurnStatus.COMPLETED
