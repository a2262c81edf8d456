"""The main job over REST with nothing but the API key: say, wait, decide, read, delete."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.acceptance.world import World, cloned
from tests.fakes.tongyi import Answer

pytestmark = pytest.mark.asyncio(loop_scope="module")
RESTART = '{{tool restart {"service": "%s"}}}'


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(server: str, template: str) -> AsyncIterator[World]:
    async with cloned(server, template) as dsn, World(dsn, slack=False) as world:
        yield world


async def test_a_session_is_made_answers_with_memory_shows_its_history_and_is_deleted(world: World) -> None:
    call = world.product.call
    session = await call("POST", "/api/sessions", {"title": "on call"}, expect=201)
    assert {"session_id", "user_id", "title", "created_at", "expires_at", "source"} <= session.keys()
    session_id = session["session_id"]
    assert session_id in [s["session_id"] for s in (await call("GET", "/api/sessions"))["items"]]

    first = await world.execute(session_id, "good morning")
    assert (first["status"], first["reply"], first["pending_approvals"]) == (
        "completed",
        "answer 1: good morning",
        [],
    )
    assert first["usage"]["input_tokens"] > 0
    assert (await world.execute(session_id, "and now"))["reply"] == "answer 2: and now"
    read = await world.execute(session_id, '{{tool uptime {"service": "db"}}}')
    assert read["reply"] == "tools said: db is up 3 days"

    told = (await call("GET", f"/api/sessions/{session_id}/messages"))["items"]
    assert [m["role"] for m in told] == [
        "user",
        "assistant",
        "user",
        "assistant",
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert told[5]["tool_calls"][0]["name"] == "uptime"
    assert told[6]["tool_call_id"] == told[5]["tool_calls"][0]["id"]

    await call("DELETE", f"/api/sessions/{session_id}/messages", expect=204)
    assert (await call("GET", f"/api/sessions/{session_id}/messages"))["items"] == []
    assert (await world.execute(session_id, "anew"))["reply"] == "answer 1: anew"
    await call("DELETE", f"/api/sessions/{session_id}", expect=204)
    await call("GET", f"/api/sessions/{session_id}", expect=404)
    await call("POST", f"/api/sessions/{session_id}/execute", {"message": "hello?"}, expect=404)


@pytest.mark.parametrize("path", ["/api/approvals", "/api/tools/approvals"])
async def test_an_approval_is_listed_approved_once_and_its_call_runs_once(world: World, path: str) -> None:
    call, before, service = world.product.call, world.probe.count("restart"), path.replace("/", "-")
    session_id = await world.session()
    turn = await world.execute(session_id, RESTART % service)
    assert turn["status"] == "awaiting_approval"
    (asked,) = turn["pending_approvals"]
    assert (asked["status"], asked["execution"], asked["args"]) == ("pending", "none", {"service": service})
    for listing in ("/api/approvals", "/api/tools/pending-approvals"):
        assert asked["approval_id"] in [a["approval_id"] for a in (await call("GET", listing))["items"]]

    decided = await asyncio.gather(
        *(
            call("POST", f"{path}/{asked['approval_id']}/approve", {"reason": "fine"}, expect=(200, 409))
            for _ in range(4)
        )
    )

    assert sum(answer.get("status") == "approved" for answer in decided) >= 1
    ended = await world.turn(session_id, turn["turn_id"])
    assert ended["reply"] == f"tools said: restarted {service}"
    assert world.probe.count("restart") == before + 1
    after = await call("GET", f"/api/approvals/{asked['approval_id']}")
    assert (after["status"], after["execution"], after["reason"]) == ("approved", "succeeded", "fine")
    await call("POST", f"{path}/{asked['approval_id']}/reject", {}, expect=409)


@pytest.mark.parametrize("path", ["/api/approvals", "/api/tools/approvals"])
async def test_a_rejected_call_does_not_run_and_the_model_hears_the_reason(world: World, path: str) -> None:
    before = world.probe.count("restart")
    session_id = await world.session()
    turn = await world.execute(session_id, RESTART % "web")
    approval_id = turn["pending_approvals"][0]["approval_id"]
    answer = await world.product.call("POST", f"{path}/{approval_id}/reject", {"reason": "not on a Friday"})
    assert answer["status"] == "rejected"
    assert "not on a Friday" in (await world.turn(session_id, turn["turn_id"]))["reply"]
    assert world.probe.count("restart") == before


async def test_edited_arguments_are_what_runs(world: World) -> None:
    session_id = await world.session()
    turn = await world.execute(session_id, RESTART % "wrong")
    (asked,) = turn["pending_approvals"]
    approve = f"/api/approvals/{asked['approval_id']}/approve"
    await world.product.call("POST", approve, {"args": {"nonsense": 1}}, expect=422)
    answer = await world.product.call("POST", approve, {"args": {"service": "right"}})
    assert (answer["args"], answer["args_proposed"]) == ({"service": "right"}, {"service": "wrong"})
    assert answer["args_digest"] != asked["args_digest"]
    assert "restarted right" in (await world.turn(session_id, turn["turn_id"]))["reply"]
    assert "wrong" not in world.probe.path.read_text()


async def test_a_message_behind_a_pending_approval_waits_for_it(world: World) -> None:
    session_id = await world.session()
    turn = await world.execute(session_id, RESTART % "web")
    behind = await world.execute(session_id, "are you there?", expect=202)
    assert behind["status"] == "queued"
    approval_id = turn["pending_approvals"][0]["approval_id"]
    await world.product.call("POST", f"/api/approvals/{approval_id}/reject", {})
    assert (await world.turn(session_id, behind["turn_id"]))["reply"] == "answer 2: are you there?"


async def test_who_does_not_wait_gets_202_and_reads_the_answer_later(world: World) -> None:
    session_id = await world.session()
    path = f"/api/sessions/{session_id}/execute?wait=false"
    sent = await world.product.call("POST", path, {"message": "later"}, expect=202)
    assert (await world.turn(session_id, sent["turn_id"]))["reply"] == "answer 1: later"


async def test_one_idempotency_key_is_one_turn_and_another_body_is_refused(world: World) -> None:
    session_id = await world.session()
    key = {"Idempotency-Key": "k-1"}
    sent = await asyncio.gather(*(world.execute(session_id, "just once", headers=key) for _ in range(3)))
    again = await world.execute(session_id, "just once", headers=key)
    assert {turn["turn_id"] for turn in [*sent, again]} == {again["turn_id"]}
    assert {turn["reply"] for turn in [*sent, again]} == {"answer 1: just once"}
    assert world.tongyi.asked("just once") == 1
    await world.execute(session_id, "something else", headers=key, expect=422)


async def test_a_running_turn_is_cancelled_and_the_next_message_is_answered(world: World) -> None:
    session_id = await world.session()
    world.tongyi.queue.append(Answer(text="too late", delay=60))
    path = f"/api/sessions/{session_id}/execute?wait=false"
    sent = await world.product.call("POST", path, {"message": "never mind"}, expect=202)
    await world.until(lambda: world.tongyi.asked("never mind") == 1, what="the model's work")
    await world.product.call("POST", f"/api/sessions/{session_id}/cancel")
    assert (await world.turn(session_id, sent["turn_id"]))["status"] == "cancelled"
    assert "next" in (await world.execute(session_id, "next"))["reply"]


async def test_a_failing_model_is_told_in_a_sentence_and_the_session_lives_on(world: World) -> None:
    session_id = await world.session()
    failed = await world.execute(session_id, "{{error 400 DataInspectionFailed}}")
    assert failed["status"] == "failed"
    assert "Traceback" not in str(failed)
    assert (await world.execute(session_id, "better"))["status"] == "completed"


async def test_nobody_without_the_key_gets_anything(world: World) -> None:
    for path in ("/api/sessions", "/api/approvals", "/api/tools"):
        await world.product.call("GET", path, key=None, expect=401)
        await world.product.call("GET", path, key="wrong-key-0123456789", expect=401)
    assert (await world.product.http.get("/healthz")).json() == {"status": "ok"}
