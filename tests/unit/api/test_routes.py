"""Every route's happy path, over a service in memory."""

import asyncio
import json
import re
from uuid import UUID, uuid4

import httpx

from agent.approvals.policy import Rule, When
from api.routes.health import Readiness
from tests.fakes.memory_service import MemoryService

RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


async def test_a_session_is_made_read_listed_and_deleted(api: httpx.AsyncClient) -> None:
    made = await api.post("/api/sessions", json={"title": "Disk", "expires_in_s": 60})
    body = made.json()
    assert made.status_code == 201
    assert set(body) == {"session_id", "user_id", "title", "created_at", "expires_at", "source"}
    assert (body["title"], body["source"]) == ("Disk", "rest")
    assert RFC_3339.fullmatch(body["created_at"])
    assert RFC_3339.fullmatch(body["expires_at"])
    where = made.headers["location"]
    assert (await api.get(where)).json() == body
    assert (await api.get("/api/sessions")).json() == {"items": [body], "next_cursor": None}
    deleted = await api.delete(where)
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert (await api.get(where)).status_code == 404


async def test_a_session_needs_no_body(api: httpx.AsyncClient) -> None:
    made = await api.post("/api/sessions")
    assert made.status_code == 201
    assert made.json()["expires_at"] is None


async def test_lists_go_on_where_the_cursor_says(api: httpx.AsyncClient) -> None:
    ids = [(await api.post("/api/sessions", json={})).json()["session_id"] for _ in range(3)]
    first = (await api.get("/api/sessions?limit=2")).json()
    second = (await api.get(f"/api/sessions?limit=2&cursor={first['next_cursor']}")).json()
    assert [one["session_id"] for one in first["items"] + second["items"]] == ids[::-1]
    assert second["next_cursor"] is None


async def test_execute_waits_for_the_answer(api: httpx.AsyncClient, session: str) -> None:
    answer = await api.post(f"{session}/execute", json={"message": "hello"})
    body = answer.json()
    assert answer.status_code == 200
    assert (body["status"], body["reply"], body["pending_approvals"]) == ("completed", "You said: hello", [])
    assert body["usage"] == {"input_tokens": 12, "output_tokens": 3, "cached_tokens": 0, "model_calls": 1}
    assert (await api.get(f"{session}/turns/{body['turn_id']}")).json() == body


async def test_execute_without_waiting_says_where_to_look(
    api: httpx.AsyncClient, session: str, service: MemoryService
) -> None:
    answer = await api.post(f"{session}/execute?wait=false", json={"message": "wait for it"})
    assert answer.status_code == 202
    assert answer.json()["status"] in {"queued", "running"}
    assert answer.json()["reply"] is None
    service.hold.set()
    await asyncio.sleep(0)
    later = await api.get(answer.headers["location"])
    assert (later.status_code, later.json()["status"]) == (200, "completed")


async def test_execute_gives_up_waiting_and_the_turn_goes_on(
    api: httpx.AsyncClient, session: str, service: MemoryService
) -> None:
    answer = await api.post(f"{session}/execute?wait_s=0", json={"message": "wait for it"})
    assert answer.status_code == 202
    service.hold.set()
    await asyncio.sleep(0)
    assert (await api.get(answer.headers["location"])).json()["status"] == "completed"


async def test_a_caller_who_goes_away_does_not_cancel_the_turn(
    api: httpx.AsyncClient, session: str, service: MemoryService
) -> None:
    calling = asyncio.create_task(api.post(f"{session}/execute", json={"message": "wait for it"}))
    kept = service.kept[UUID(session.rsplit("/", 1)[1])]
    while not kept.turns or kept.turns[0].status != "running":
        await asyncio.sleep(0)
    calling.cancel()
    await asyncio.gather(calling, return_exceptions=True)
    service.hold.set()
    await asyncio.sleep(0)
    turn = await api.get(f"{session}/turns/{kept.turns[0].turn_id}")
    assert turn.json()["status"] == "completed"


async def test_a_message_behind_a_pending_approval_is_202(api: httpx.AsyncClient, session: str) -> None:
    waiting = await api.post(f"{session}/execute", json={"message": "call restart db"})
    assert (waiting.status_code, waiting.json()["status"]) == (200, "awaiting_approval")
    behind = await api.post(f"{session}/execute", json={"message": "and then?"})
    assert (behind.status_code, behind.json()["status"]) == (202, "queued")
    assert behind.headers["location"].endswith(behind.json()["turn_id"])


async def test_the_same_idempotency_key_is_the_same_turn(
    api: httpx.AsyncClient, session: str, service: MemoryService
) -> None:
    key = {"Idempotency-Key": "once"}
    first = await api.post(f"{session}/execute", json={"message": "hi"}, headers=key)
    again = await api.post(f"{session}/execute", json={"message": "hi"}, headers=key)
    assert first.json() == again.json()
    assert list(service.keys) == [f"rest:{session.rsplit('/', 1)[1]}:once"]
    other = await api.post(f"{session}/execute", json={"message": "something else"}, headers=key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


async def test_execute_streams_the_events_of_its_turn_alone(api: httpx.AsyncClient, session: str) -> None:
    await api.post(f"{session}/execute", json={"message": "before"})
    answer = await api.post(f"{session}/execute", json={"message": "hi"}, headers={"Accept": "text/event-stream"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
    assert [event["type"] for event in events] == [
        "turn.queued",
        "turn.started",
        "answer.delta",
        "turn.completed",
    ]
    assert len({event["turn_id"] for event in events}) == 1
    assert events[-1]["reply"] == "You said: hi"
    assert [event["seq"] for event in events] == [5, 6, 7, 8]
    assert RFC_3339.fullmatch(events[0]["at"])


async def test_a_stream_goes_on_behind_the_last_event_id(api: httpx.AsyncClient, session: str) -> None:
    headers = {"Accept": "text/event-stream", "Idempotency-Key": "k"}
    await api.post(f"{session}/execute", json={"message": "hi"}, headers=headers)
    again = await api.post(f"{session}/execute", json={"message": "hi"}, headers={**headers, "Last-Event-ID": "3"})
    assert [line for line in again.text.splitlines() if line.startswith("id: ")] == ["id: 4"]


async def test_a_stream_that_outlives_its_session_ends(
    api: httpx.AsyncClient, session: str, service: MemoryService
) -> None:
    streaming = asyncio.create_task(
        api.post(f"{session}/execute", json={"message": "wait"}, headers={"Accept": "text/event-stream"})
    )
    session_id = UUID(session.rsplit("/", 1)[1])
    while not service._watchers[session_id]:
        await asyncio.sleep(0)
    turn = service.kept[session_id].turns[0]
    await api.delete(session)
    answer = await streaming
    assert str(turn.turn_id) in answer.text
    assert "turn.completed" not in answer.text


async def test_cancel_stops_the_running_turn(api: httpx.AsyncClient, session: str) -> None:
    assert (await api.post(f"{session}/cancel")).json() == {"turn": None}
    running = await api.post(f"{session}/execute?wait=false", json={"message": "wait"})
    stopped = await api.post(f"{session}/cancel")
    assert stopped.status_code == 200
    assert stopped.json()["turn"]["turn_id"] == running.json()["turn_id"]
    assert stopped.json()["turn"]["status"] == "cancelled"


async def test_the_transcript_is_read_and_cleared(api: httpx.AsyncClient, session: str) -> None:
    waiting = await api.post(f"{session}/execute", json={"message": "call restart db"})
    await api.post(f"/api/approvals/{waiting.json()['pending_approvals'][0]['approval_id']}/approve")
    items = (await api.get(f"{session}/messages")).json()["items"]
    assert [one["role"] for one in items] == ["user", "assistant", "tool", "assistant"]
    assert items[1]["tool_calls"][0]["args"] == {"service": "db"}
    assert items[2]["tool_call_id"] == items[1]["tool_calls"][0]["id"]
    assert "tool_calls" not in items[0]
    assert "tool_call_id" not in items[0]
    assert (await api.delete(f"{session}/messages")).status_code == 204
    assert (await api.get(f"{session}/messages")).json() == {"items": [], "next_cursor": None}
    assert (await api.get(session)).status_code == 200


async def test_an_approval_has_all_its_fields_and_is_approved(api: httpx.AsyncClient, session: str) -> None:
    answer = await api.post(f"{session}/execute", json={"message": "call restart db"})
    pending = answer.json()["pending_approvals"][0]
    assert pending["args"] == pending["args_proposed"] == {"service": "db"}
    assert pending["requested_by"] == {"user_id": str(UUID(int=1)), "username": "api-key"}
    assert pending.keys() >= {
        *("approval_id", "status", "execution", "tool_id", "tool_name", "args_digest", "session_id", "tool_call_id"),
        *("quorum", "votes", "decided_by", "decided_at", "reason", "expires_at", "result", "created_at"),
    }
    where = f"/api/approvals/{pending['approval_id']}"
    assert (await api.get("/api/approvals")).json()["items"] == [pending]
    assert (await api.get(where)).json() == pending
    done = (await api.post(f"{where}/approve", json={"reason": "seen"})).json()
    assert (done["status"], done["execution"], done["reason"]) == ("approved", "succeeded", "seen")
    assert done["decided_by"]["username"] == "api-key"
    assert done["votes"][0].keys() == {"by", "decision", "reason", "at"}
    assert (await api.get("/api/approvals")).json()["items"] == []
    assert (await api.get("/api/approvals?status=approved")).json()["items"] == [done]


async def test_edited_arguments_are_what_runs(api: httpx.AsyncClient, session: str) -> None:
    answer = await api.post(f"{session}/execute", json={"message": "call restart db"})
    pending = answer.json()["pending_approvals"][0]
    done = await api.post(f"/api/approvals/{pending['approval_id']}/approve", json={"args": {"service": "cache"}})
    assert done.json()["args"] == {"service": "cache"}
    assert done.json()["args_proposed"] == {"service": "db"}
    assert done.json()["args_digest"] != pending["args_digest"]


async def test_the_aliases_under_tools_decide_the_same_approvals(api: httpx.AsyncClient, session: str) -> None:
    for verb, outcome in (("approve", "approved"), ("reject", "rejected")):
        await api.post(f"{session}/execute", json={"message": f"call restart {verb}"})
        pending = (await api.get("/api/tools/pending-approvals")).json()["items"]
        assert [one["args"] for one in pending] == [{"service": verb}]
        decided = await api.post(f"/api/tools/approvals/{pending[0]['approval_id']}/{verb}", json={"reason": "r"})
        assert (decided.status_code, decided.json()["status"]) == (200, outcome)
        assert (await api.get(f"/api/approvals/{pending[0]['approval_id']}")).json() == decided.json()


async def test_a_call_can_be_asked_for_without_the_model(api: httpx.AsyncClient, service: MemoryService) -> None:
    tool = (await api.get("/api/tools")).json()["items"][0]
    ask = {"tool_id": tool["tool_id"], "args": {"service": "web"}, "reason": "runbook 7"}
    made = await api.post("/api/approvals", json=ask, headers={"Idempotency-Key": "k"})
    assert made.status_code == 201
    assert made.json()["requested_reason"] == "runbook 7"
    assert (await api.get(made.headers["location"])).json() == made.json()
    again = await api.post("/api/approvals", json=ask, headers={"Idempotency-Key": "k"})
    assert again.json()["approval_id"] == made.json()["approval_id"]
    # Another user's key of the same name is another key.
    assert list(service.asked) == [f"rest:ask:{service.actor.user_id}:k"]


async def test_tools_are_listed_and_their_rule_is_set(api: httpx.AsyncClient, service: MemoryService) -> None:
    tool = (await api.get("/api/tools")).json()["items"][0]
    assert tool["approval"] == {"auto_execute": False, "approval_required": True}
    assert (tool["name"], tool["source"], tool["server"], tool["status"]) == ("restart", "demo", None, "available")
    assert tool["input_schema"]["properties"] == {"service": {"type": "string"}}
    where = f"/api/tools/{tool['tool_id']}"
    assert (await api.get(where)).json() == tool
    case = {"args": {"properties": {"service": {"const": "db"}}}, "decision": "ask"}
    rule = {"auto_execute": True, "approval_required": False, "quorum": 2, "approvers": ["alice"], "when": [case]}
    put = await api.put(f"{where}/approval", json=rule)
    assert put.status_code == 200
    assert put.json().items() >= {**rule, "user_id": None, "tool_name": "restart"}.items()
    assert service.rules[UUID(tool["tool_id"])] == Rule(
        auto_execute=True, approval_required=False, approvers=("alice",), quorum=2, when=(When(case["args"], "ask"),)
    )
    assert (await api.get(where)).json()["approval"] == {"auto_execute": True, "approval_required": False}


async def test_health_needs_no_key_and_readiness_names_its_parts(
    anyone: httpx.AsyncClient, readiness: list[Readiness]
) -> None:
    assert (await anyone.get("/healthz")).json() == {"status": "ok"}
    ready = await anyone.get("/readyz")
    assert (ready.status_code, ready.json()["parts"]) == (200, {"database": "ok", "slack": "ok"})
    readiness.append(Readiness(ready=False, parts={"database": "No connection could be made."}))
    waiting = await anyone.get("/readyz")
    assert (waiting.status_code, waiting.json()["code"]) == (503, "not_ready")
    assert waiting.json()["parts"] == {"database": "No connection could be made."}


async def test_unknown_turns_are_not_found(api: httpx.AsyncClient, session: str) -> None:
    assert (await api.get(f"{session}/turns/{uuid4()}")).json()["code"] == "not_found"
