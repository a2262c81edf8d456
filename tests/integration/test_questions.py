"""Questions that MCP servers ask in the middle of a call, over both protocols, and the answers of their requester."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from agent.approvals.policy import Rule
from agent.questions import store
from agent.questions.types import Question, QuestionSettled, QuestionStatus
from agent.run import Limits
from agent.tools.mcp import McpManager, McpServerConfig, Timing, ToolMarks
from agent.types import Principal, Role, TurnStatus
from tests.fakes.mcp_servers import HttpProbe, StdioProbe, pushing
from tests.fakes.rest import OPERATOR, client_of, door_over
from tests.integration.conftest import ADMIN, ALICE, BOB, Floor, running

TIMING = Timing(connect_s=30, backoff_s=(0.02, 0.2), relist_s=0)
AUTO = ToolMarks(read_only=True, timeout_s=10)
NAMES = ("deploy", "again", "page", "think", "steps", "ask", "ask_on", "linger", "flood", "die_asking", "forget")
LIMITS = Limits(seconds=60, question_s=60)


@asynccontextmanager
async def asking(
    dsn: str, config: McpServerConfig, *, limits: Limits = LIMITS, marks: ToolMarks = AUTO, **more: Any
) -> AsyncIterator[Floor]:
    """A core with that server, whose tools run without approval."""
    marked = replace(config, tools=dict.fromkeys(NAMES, marks))
    manager = McpManager([marked], TIMING)
    async with running(dsn, mcp=manager, file_servers=[marked], limits=limits, **more) as floor:
        await floor.core.follow_servers()
        await floor.until(lambda: bool(manager.tools()), timeout=45)
        await floor.core.publish_once(alone=True)
        await floor.core.follow_servers()
        await floor.until(lambda: any(t.spec.server for t in floor.core.registry.tools()), timeout=45)
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
    async with asyncio.timeout(45):
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
        await floor.done(turn_id, timeout=45)
        assert await results(floor, session_id) == ["accept: web went where you said"]
        late = await api.post(f"{path}/answer", json={"content": ANSWER})
        assert (late.status_code, late.json()["code"]) == (409, "question_settled")
        assert await events(floor, session_id) == [("question.opened", None), ("question.settled", "answered")]


async def test_what_was_answered_is_kept_nowhere(dsn: str, asker: McpServerConfig) -> None:
    async with asking(dsn, asker) as floor:
        _, turn_id = await submitted(floor, call("deploy", service="web"))
        (question,) = await opened(floor)
        await floor.service.answer_question(question.question_id, ANSWER, by=ADMIN)
        await floor.done(turn_id, timeout=45)
        for table in ("questions", "events", "messages", "audit_log", "executions", "checkpoint_blobs"):
            rows = await floor.sql(f"SELECT t::text AS row FROM {table} t")
            assert not [row for row in rows if "canary note" in row["row"]], table
        assert "canary note" not in str(floor.model.requests)
        (entry,) = await floor.sql("SELECT * FROM audit_log WHERE kind = 'question.settled'")
        told = json.loads(entry["data"])
        assert entry["actor_id"] == ADMIN.user_id
        assert (told["status"], len(told["content_digest"])) == ("answered", 64)


async def test_a_declined_question_is_heard_by_the_server_and_the_model(dsn: str, asker: McpServerConfig) -> None:
    async with asking(dsn, asker) as floor, client_of(door_over(floor.service), **OPERATOR) as api:
        session_id, turn_id = await submitted(floor, call("deploy", service="web"))
        (question,) = await opened(floor)
        answer = await api.post(f"/api/questions/{question.question_id}/decline")
        assert (answer.status_code, answer.json()["status"]) == (200, "declined")
        await floor.done(turn_id, timeout=45)
        (said,) = await results(floor, session_id)
        assert said.startswith("(The tool asked its requester something, and they declined to answer.)")
        assert said.endswith("decline: web stays")


async def test_a_question_nobody_answers_expires_and_everybody_hears_it(dsn: str, asker: McpServerConfig) -> None:
    async with asking(dsn, asker, limits=replace(LIMITS, question_s=0.6)) as floor:
        session_id, turn_id = await submitted(floor, call("deploy", service="web"))
        await floor.done(turn_id, timeout=45)
        (said,) = await results(floor, session_id)
        assert "there was no answer within 0.01 minutes" in said
        assert "cancel: web stays" in said
        assert await events(floor, session_id) == [("question.opened", None), ("question.settled", "expired")]
        (row,) = await floor.sql("SELECT question_id FROM questions")
        async with client_of(door_over(floor.service), **OPERATOR) as api:
            late = await api.post(f"/api/questions/{row['question_id']}/answer", json={"content": ANSWER})
            assert (late.status_code, late.json()["code"]) == (410, "question_expired")


async def test_a_web_page_is_declined_and_opens_no_question(dsn: str, asker: McpServerConfig) -> None:
    async with asking(dsn, asker) as floor:
        session_id, turn_id = await submitted(floor, call("page"))
        await floor.done(turn_id, timeout=45)
        (said,) = await results(floor, session_id)
        assert "asker wanted somebody to open a web page; opsagent opens none, and declined." in said
        assert said.endswith("page: decline")
        assert "login.example" not in said
        assert await floor.sql("SELECT 1 FROM questions") == []


async def test_our_model_is_lent_to_no_server(dsn: str, asker: McpServerConfig) -> None:
    async with asking(dsn, asker) as floor:
        before = len(floor.model.requests)
        session_id, turn_id = await submitted(floor, call("think"))
        await floor.done(turn_id, timeout=45)
        (said,) = await results(floor, session_id)
        assert "thought" not in said
        assert len(floor.model.requests) - before == 2, "the turn's own two calls, and none for the server"


async def test_a_server_that_asks_for_ever_is_ended_after_a_few_questions(dsn: str, asker: McpServerConfig) -> None:
    async with asking(dsn, asker, limits=replace(LIMITS, questions=3)) as floor:
        session_id, turn_id = await submitted(floor, call("again"))
        for n in range(3):
            async with asyncio.timeout(45):
                while len((await events(floor, session_id))[::2]) < n + 1:
                    await asyncio.sleep(0.02)
            (question,) = await opened(floor)
            await floor.service.answer_question(question.question_id, {}, by=ADMIN)
        await floor.done(turn_id, timeout=45)
        (said,) = await results(floor, session_id)
        assert "wanted to ask more than 3 questions" in said
        assert len(await floor.sql("SELECT 1 FROM questions")) == 3


# Who may ---------------------------------------------------------------------------------------------------------


async def test_only_whom_it_asks_may_answer_and_an_admin_may_decline(dsn: str) -> None:
    async with asking(dsn, pushing()) as floor:
        alice, bob = await floor.service.principal_of_chat(ALICE), await floor.user("bob")
        boss = await floor.user("boss", Role.ADMIN)
        _, turn_id = await submitted(floor, call("ask"), by=alice)
        (question,) = await opened(floor, by=alice)
        assert (await floor.service.list_questions(by=bob)).items == []
        for by, action in (
            (bob, floor.service.answer_question(question.question_id, {}, by=bob)),
            (bob, floor.service.decline_question(question.question_id, by=bob)),
            (BOB, floor.service.question_to_answer(question.question_id, by=BOB)),
            (boss, floor.service.answer_question(question.question_id, {}, by=boss)),
            (bob, floor.service.read_question(question.question_id, by=bob)),
        ):
            with pytest.raises(Exception, match=r"Only .* is asked this|There is no such question") as refused:
                await action
            assert refused.value.code in ("not_asked", "question_not_found"), by
        assert (await floor.service.read_question(question.question_id, by=boss)).is_open
        settled = await floor.service.decline_question(question.question_id, by=boss)
        assert settled.settled_by
        assert settled.settled_by.user_id == boss.user_id
        await floor.done(turn_id, timeout=45)


async def test_over_rest_a_question_of_another_user_is_not_there(dsn: str) -> None:
    async with asking(dsn, pushing()) as floor, client_of(door_over(floor.service), **OPERATOR) as api:
        alice = await floor.service.principal_of_chat(ALICE)
        _, turn_id = await submitted(floor, call("ask"), by=alice)
        (question,) = await opened(floor)
        answer = await api.post(f"/api/questions/{question.question_id}/answer", json={"content": {}})
        assert (answer.status_code, answer.json()["code"]) == (403, "not_asked")
        missing = await api.get(f"/api/questions/{uuid4()}")
        assert (missing.status_code, missing.json()["code"]) == (404, "question_not_found")
        missing = await api.post(f"/api/questions/{uuid4()}/decline")
        assert (missing.status_code, missing.json()["code"]) == (404, "question_not_found")
        await floor.service.answer_question(question.question_id, {}, by=alice)
        await floor.done(turn_id, timeout=45)


# Races and ends --------------------------------------------------------------------------------------------------


async def test_of_an_answer_and_the_end_of_the_time_at_one_moment_one_counts(dsn: str) -> None:
    async with asking(dsn, pushing()) as floor:
        _, turn_id = await submitted(floor, call("ask"))
        (question,) = await opened(floor)
        async with floor.core.database.transaction() as first:
            assert await store.settle(first, question.question_id, QuestionStatus.ANSWERED, content={})

            async def expire() -> bool:
                async with floor.core.database.transaction() as second:
                    return await store.settle(second, question.question_id, QuestionStatus.EXPIRED)

            late = asyncio.create_task(expire())
            blocked = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            async with asyncio.timeout(45):
                while not await floor.sql(blocked):
                    await asyncio.sleep(0.02)
        assert await late is False
        assert (await floor.service.read_question(question.question_id, by=ADMIN)).status is QuestionStatus.ANSWERED
        await floor.service.cancel_turn(question.session_id, by=ADMIN)
        await floor.done(turn_id, timeout=45)


async def test_answers_around_the_end_of_the_time_settle_each_question_once(dsn: str) -> None:
    async with asking(dsn, pushing(), limits=replace(LIMITS, question_s=0.3)) as floor:
        for n in range(6):
            session_id, turn_id = await submitted(floor, call("ask"))
            (question,) = await opened(floor)
            await asyncio.sleep(0.26 + n * 0.01)
            came = await asyncio.gather(
                floor.service.answer_question(question.question_id, {}, by=ADMIN),
                floor.service.decline_question(question.question_id, by=ADMIN),
                return_exceptions=True,
            )
            await floor.done(turn_id, timeout=45)
            settled = [status for kind, status in await events(floor, session_id) if kind == "question.settled"]
            assert len(settled) == 1
            won = [one.status.value for one in came if isinstance(one, Question)]
            assert won == settled or (won == [] and settled == ["expired"])


async def test_a_cancelled_turn_closes_its_question(dsn: str, asker: McpServerConfig) -> None:
    async with asking(dsn, asker) as floor:
        session_id, turn_id = await submitted(floor, call("deploy", service="web"))
        (question,) = await opened(floor)
        await floor.service.cancel_turn(session_id, by=ADMIN)
        assert (await floor.done(turn_id, timeout=45)).turn.status is TurnStatus.CANCELLED
        assert (await floor.service.read_question(question.question_id, by=ADMIN)).status is QuestionStatus.CANCELLED
        assert await events(floor, session_id) == [("question.opened", None), ("question.settled", "cancelled")]


async def test_a_deleted_session_closes_its_question_and_forgets_what_was_asked(dsn: str) -> None:
    async with asking(dsn, pushing()) as floor:
        session_id, _ = await submitted(floor, call("ask", message="A canary question?"))
        (question,) = await opened(floor)
        await floor.service.delete_session(session_id, by=ADMIN)
        found = await floor.service.read_question(question.question_id, by=ADMIN)
        assert (found.status, found.message) == (QuestionStatus.CANCELLED, "")


@pytest.mark.parametrize(("tool", "said"), [("die_asking", "gave no result"), ("forget", "done")])
async def test_a_call_that_ends_without_its_answer_closes_its_question(dsn: str, tool: str, said: str) -> None:
    async with asking(dsn, pushing()) as floor:
        session_id, turn_id = await submitted(floor, call(tool))
        await floor.done(turn_id, timeout=45)
        assert said in (await results(floor, session_id))[0]
        assert await events(floor, session_id) == [("question.opened", None), ("question.settled", "cancelled")]
        assert (await floor.service.list_questions(by=ADMIN)).items == []


async def test_a_worker_that_stops_ends_its_calls_in_good_order(dsn: str, asker: McpServerConfig) -> None:
    async with asking(dsn, asker) as floor:
        session_id, _ = await submitted(floor, call("deploy", service="web"))
        (question,) = await opened(floor)
        floor.core.turns.drain()
        async with asyncio.timeout(45):
            while not await results(floor, session_id):
                await asyncio.sleep(0.02)
        assert "cancel: web stays" in (await results(floor, session_id))[0]
        assert (await floor.service.read_question(question.question_id, by=ADMIN)).status is QuestionStatus.CANCELLED


@pytest.mark.parametrize("is_repeatable", [True, False], ids=["repeatable", "not_repeatable"])
async def test_a_question_of_a_worker_that_is_gone_is_closed_by_who_takes_its_thread_over(
    dsn: str, tmp_path: Path, is_repeatable: bool
) -> None:
    config = StdioProbe(tmp_path / "effects.jsonl", "mcp_asker.py").config("asker")
    async with asking(dsn, config, marks=AUTO if is_repeatable else ToolMarks(timeout_s=10)) as floor:
        tool = floor.core.registry.by_name("deploy")
        assert tool
        rule = Rule(auto_execute=True, approval_required=False)
        await floor.service.set_tool_approval(tool.spec.tool_id, rule, by=ADMIN)
        session_id, turn_id = await submitted(floor, call("deploy", service="web"))
        (question,) = await opened(floor)
        # As a rescue does it: the thread goes to another worker, though the first one may only be frozen.
        taken_over = asyncio.create_task(floor.core.turns.advance(session_id))
        async with asyncio.timeout(45):
            while (await floor.service.read_question(question.question_id, by=ADMIN)).is_open:
                await asyncio.sleep(0.02)
        assert (await events(floor, session_id))[1] == ("question.settled", "cancelled")
        if is_repeatable:
            (again,) = await opened(floor)
            assert again.question_id != question.question_id
        done = asyncio.create_task(floor.done(turn_id, timeout=45))
        while not done.done():
            # A sweep may find the turn without a job of its own, and hand it on once more: then it asks once more.
            for open_question in (await floor.service.list_questions(by=ADMIN)).items:
                with suppress(QuestionSettled):
                    await floor.service.answer_question(open_question.question_id, ANSWER, by=ADMIN)
            await asyncio.sleep(0.05)
        await done
        await taken_over
        (said,) = await results(floor, session_id)
        assert said.startswith("accept:") if is_repeatable else ("The outcome of this call is unknown" in said)


async def test_two_replicas_one_asks_and_the_other_takes_the_answer(dsn: str, asker: McpServerConfig) -> None:
    async with asking(dsn, asker) as floor, running(dsn, work=False) as door:
        session_id, turn_id = await submitted(floor, call("deploy", service="web"))
        (question,) = await opened(floor)
        await door.service.answer_question(question.question_id, ANSWER, by=ADMIN)
        await door.done(turn_id, timeout=45)
        assert await results(door, session_id) == ["accept: web went where you said"]


# Others' work ----------------------------------------------------------------------------------------------------


async def test_a_waiting_call_holds_no_connection_and_leaves_room_for_other_threads(dsn: str) -> None:
    async with asking(dsn, pushing(), concurrency=4, asyncpg_pool=2) as floor:
        first = [await submitted(floor, call("ask"))]
        await opened(floor, 1)
        # Over pipes the server's next question could be anybody's: it is refused rather than misdirected.
        session_id, turn_id = await submitted(floor, call("linger", seconds=0))
        await floor.done(turn_id, timeout=45)
        assert await results(floor, session_id) == ["done"]
        pool = floor.core.database.pool
        await floor.until(lambda: pool.get_idle_size() == pool.get_size(), timeout=45)
        (question,) = await opened(floor)
        await floor.service.answer_question(question.question_id, {}, by=ADMIN)
        await floor.done(first[0][1], timeout=45)


async def test_half_of_a_workers_places_are_never_taken_by_waiting_threads(dsn: str, asker: McpServerConfig) -> None:
    async with asking(dsn, asker, concurrency=2) as floor:
        _, first = await submitted(floor, call("deploy", service="web"))
        (question,) = await opened(floor)
        session_id, second = await submitted(floor, call("deploy", service="db"))
        await floor.done(second, timeout=45)
        (said,) = await results(floor, session_id)
        assert "too many calls wait for answers" in said
        await floor.service.decline_question(question.question_id, by=ADMIN)
        await floor.done(first, timeout=45)


async def test_the_time_of_call_and_turn_stands_still_while_people_are_waited_for(dsn: str) -> None:
    marked = replace(pushing(), name="quick")
    async with asking(dsn, marked, limits=replace(LIMITS, seconds=3)) as floor:
        floor.core.registry.tools()
        session_id, turn_id = await submitted(floor, call("ask"))
        (question,) = await opened(floor)
        await asyncio.sleep(4)
        await floor.service.answer_question(question.question_id, {}, by=ADMIN)
        assert (await floor.done(turn_id, timeout=45)).turn.status is TurnStatus.COMPLETED
        assert '"accept"' in (await results(floor, session_id))[0]


async def test_over_pipes_a_question_that_may_be_of_two_calls_is_asked_of_nobody(dsn: str) -> None:
    async with asking(dsn, pushing()) as floor:
        alice = await floor.service.principal_of_chat(ALICE)
        _, slow = await submitted(floor, call("linger", seconds=6), by=alice)
        async with asyncio.timeout(45):
            while not await floor.sql("SELECT 1 FROM executions WHERE status = 'running'"):
                await asyncio.sleep(0.02)
        session_id, turn_id = await submitted(floor, call("ask"))
        await floor.done(turn_id, timeout=45)
        assert "Nobody can tell for which call this is asked" in (await results(floor, session_id))[0]
        assert await floor.sql("SELECT 1 FROM questions") == []
        await floor.done(slow, timeout=45)


# Hostile servers -------------------------------------------------------------------------------------------------


async def test_a_hostile_text_is_cut_and_stored_as_it_can_be_shown(dsn: str) -> None:
    async with asking(dsn, pushing()) as floor:
        text = "<!channel> \u202egnp.exe xoxb-1234567890-abcdef "
        _, turn_id = await submitted(floor, call("ask", message=text, longer=100_000))
        (question,) = await opened(floor)
        assert len(question.message) == 2_500
        assert "xoxb-1234567890" not in question.message
        await floor.service.decline_question(question.question_id, by=ADMIN)
        await floor.done(turn_id, timeout=45)


DEEP: dict[str, Any] = {"type": "object", "properties": {}}
UNASKABLE = {
    "an object within": {"properties": {"a": DEEP}},
    "too many fields": {"properties": {f"f{n}": {"type": "string"} for n in range(21)}},
    "too many choices": {"properties": {"a": {"type": "string", "enum": [str(n) for n in range(101)]}}},
    "no properties": {"properties": 7},
    "a remote reference": {"properties": {"a": {"$ref": "http://127.0.0.1:9/schema"}}},
    "a nameless field": {"properties": {"": {"type": "string"}}},
}


@pytest.mark.parametrize("form", UNASKABLE.values(), ids=UNASKABLE)
async def test_a_form_that_is_not_flat_is_shown_to_nobody(dsn: str, form: dict[str, Any]) -> None:
    async with asking(dsn, pushing()) as floor:
        session_id, turn_id = await submitted(floor, call("ask", form={"type": "object", **form}))
        await floor.done(turn_id, timeout=45)
        (said,) = await results(floor, session_id)
        assert "it was not shown to anybody" in said or "Invalid request parameters" in said
        assert await floor.sql("SELECT 1 FROM questions") == []


async def test_a_server_that_asks_on_and_on_over_pipes_loses_its_connection(dsn: str) -> None:
    async with asking(dsn, pushing(), limits=replace(LIMITS, questions=1)) as floor:
        session_id, turn_id = await submitted(floor, call("ask_on"))
        (question,) = await opened(floor)
        await floor.service.answer_question(question.question_id, {}, by=ADMIN)
        await floor.done(turn_id, timeout=45)
        assert len(await floor.sql("SELECT 1 FROM questions")) == 1
        assert "wanted to ask more than 1 questions" in (await results(floor, session_id))[0]


# Progress --------------------------------------------------------------------------------------------------------


async def test_progress_is_told_as_events_and_gone_with_the_turn(dsn: str, asker: McpServerConfig) -> None:
    async with asking(dsn, asker) as floor:
        session_id, turn_id = await submitted(floor, call("steps", count=3, message="copying"))
        told: list[dict[str, Any]] = []
        async with asyncio.timeout(45):
            while not told:
                found = await floor.service.read_events(session_id)
                told = [event.data for event in found if event.kind.value == "tool.progress"]
                await asyncio.sleep(0.02)
        assert (told[0]["tool_name"], told[0]["total"]) == ("steps", 3)
        assert told[0]["message"].startswith("copying")
        await floor.done(turn_id, timeout=45)
        assert await events(floor, session_id, "tool.progress") == []


async def test_a_flood_of_progress_costs_a_handful_of_rows_and_blocks_nobody(dsn: str) -> None:
    async with asking(dsn, pushing()) as floor:
        session_id, turn_id = await submitted(floor, call("flood", count=10_000))
        most = 0
        done = asyncio.create_task(floor.done(turn_id, timeout=90))
        while not done.done():
            await asyncio.sleep(0.01)
            most = max(most, len(asyncio.all_tasks()))
        await done
        assert await results(floor, session_id) == ["done"]
        (row,) = await floor.sql("SELECT last_seq FROM user_sessions WHERE session_id = $1", session_id)
        assert row["last_seq"] < 200
        assert most < 300
