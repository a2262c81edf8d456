"""Questions that MCP servers ask in the middle of a call: over both protocols, answered over REST by their requester."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from agent.questions import store
from agent.questions.types import Question, QuestionStatus
from agent.run import Limits
from agent.tools.mcp import McpManager, McpServerConfig, Timing, ToolMarks
from agent.types import Principal, Role, TurnStatus
from tests.fakes.mcp_servers import HttpProbe, StdioProbe, pushing
from tests.fakes.rest import OPERATOR, client_of, door_over
from tests.integration.conftest import ADMIN, ALICE, BOB, Floor, running

TIMING = Timing(connect_s=30, backoff_s=(0.02, 0.2), relist_s=0)
AUTO = ToolMarks(read_only=True, timeout_s=10)
NAMES = ("deploy", "again", "page", "think", "steps", "ask", "ask_on", "slow", "flood", "die_asking", "forget")
LIMITS = Limits(seconds=60, question_s=60)


@asynccontextmanager
async def asking(dsn: str, config: McpServerConfig, *, limits: Limits = LIMITS, **more: Any) -> AsyncIterator[Floor]:
    """A core with that server, whose tools run without approval."""
    marked = replace(config, tools=dict.fromkeys(NAMES, AUTO))
    manager = McpManager([marked], TIMING)
    async with running(dsn, mcp=manager, file_servers=[marked], limits=limits, **more) as floor:
        await floor.core.follow_servers()
        await floor.until(lambda: bool(manager.tools()), timeout=40)
        await floor.core.publish_once(alone=True)
        await floor.core.follow_servers()
        await floor.until(lambda: any(t.spec.server for t in floor.core.registry.tools()), timeout=40)
        yield floor


@pytest.fixture(params=["2026-http", "earlier-http", "2026-stdio"])
async def asker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[McpServerConfig]:
    effects = tmp_path / "effects.jsonl"
    if request.param == "2026-stdio":
        yield StdioProbe(effects, "mcp_asker.py").config("asker")
        return
    probe = HttpProbe(effects, earlier=request.param == "earlier-http", program="mcp_asker.py")
    await probe.start()
    yield probe.config("asker")
    probe.kill()


def call(tool: str, **args: Any) -> str:
    return f"{{{{tool {tool} {json.dumps(args)}}}}}"


async def submitted(floor: Floor, text: str, *, by: Any = ADMIN) -> tuple[UUID, UUID]:
    """Say something, wait for nothing; return session and turn."""
    principal = by if isinstance(by, Principal) else await floor.service.principal_of_chat(by)
    session_id = await floor.session(by=principal)
    sent = await floor.service.submit_message(session_id, text, by=principal)
    assert sent
    return session_id, sent.turn.turn_id


async def opened(floor: Floor, count: int = 1, *, by: Principal = ADMIN) -> list[Question]:
    async with asyncio.timeout(40):
        while len(found := (await floor.service.list_questions(by=by)).items) < count:
            await asyncio.sleep(0.02)
    return found


async def results(floor: Floor, session_id: UUID) -> list[str]:
    page = await floor.service.read_messages(session_id, by=ADMIN)
    return [message.content for message in page.items if message.role == "tool"]


async def events(floor: Floor, session_id: UUID, prefix: str = "question.") -> list[tuple[str, str | None]]:
    found = await floor.service.read_events(session_id)
    return [(event.kind.value, event.data.get("status")) for event in found if event.kind.value.startswith(prefix)]


ANSWER = {"region": "eu", "replicas": 3, "ratio": 0.5, "force": True, "note": "a canary note"}


async def test_a_question_is_answered_over_rest_and_the_call_goes_on(dsn: str, asker: McpServerConfig) -> None:
    async with asking(dsn, asker) as floor, client_of(door_over(floor.service), **OPERATOR) as api:
        session_id, turn_id = await submitted(floor, call("deploy", service="web"))
        await opened(floor)
        (shown,) = (await api.get("/api/questions")).json()["items"]
        assert (shown["server"], shown["tool_name"], shown["status"]) == ("asker", "deploy", "open")
        assert shown["message"] == "Where shall web go?"
        assert shown["schema"]["required"] == ["region", "replicas"]
        path = f"/api/questions/{shown['question_id']}"
        wrong = await api.post(f"{path}/answer", json={"content": {"region": "mars", "replicas": 0, "more": 1}})
        assert (wrong.status_code, wrong.json()["code"]) == (422, "wrong_answer")
        assert {error["where"] for error in wrong.json()["errors"]} == {"", "region", "replicas"}
        assert (await api.get(path)).json()["status"] == "open"
        answered = await api.post(f"{path}/answer", json={"content": ANSWER})
        assert (answered.status_code, answered.json()["status"]) == (200, "answered"), answered.text
        await floor.done(turn_id, timeout=40)
        assert await results(floor, session_id) == ["accept: web went where you said"]
        late = await api.post(f"{path}/answer", json={"content": ANSWER})
        assert (late.status_code, late.json()["code"]) == (409, "question_settled")
        assert await events(floor, session_id) == [("question.opened", None), ("question.settled", "answered")]


async def test_what_was_answered_is_kept_nowhere(dsn: str, asker: McpServerConfig) -> None:
    async with asking(dsn, asker) as floor:
        _, turn_id = await submitted(floor, call("deploy", service="web"))
        (question,) = await opened(floor)
        await floor.service.answer_question(question.question_id, ANSWER, by=ADMIN)
        await floor.done(turn_id, timeout=40)
        for table in ("questions", "events", "messages", "audit_log", "executions", "checkpoint_blobs"):
            rows = await floor.sql(f"SELECT t::text AS row FROM {table} t")
            assert not [row for row in rows if "canary note" in row["row"]], table
        assert "canary note" not in str(floor.model.requests)
        (entry,) = await floor.sql("SELECT * FROM audit_log WHERE kind = 'question.settled'")
        told = json.loads(entry["data"])
        assert entry["actor_id"] == ADMIN.user_id
        assert (told["status"], len(told["content_digest"])) == ("answered", 64)
