"""A running tool's question in Slack: shown, answered in a form by whom it asks, and closed; and its progress."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agent.questions.types import QuestionStatus
from agent.types import EventKind
from bot.views.progress import progress
from bot.views.question import question_card, question_form
from tests.fakes.block_kit import check_blocks, check_view
from tests.fakes.service import question
from tests.fakes.slack import ALICE, BOB, BOT_USER, OPS
from tests.unit.bot.conftest import Door
from tests.unit.bot.test_presenter import Stage

FORM: dict[str, Any] = {
    "region": {"type": "string", "enum": ["eu", "us"], "enumNames": ["Europe", "America"], "default": "us"},
    "replicas": {"type": "integer", "minimum": 1, "maximum": 9, "title": "How many"},
    "ratio": {"type": "number"},
    "force": {"type": "boolean", "default": False},
    "mail": {"type": "string", "format": "email"},
    "page": {"type": "string", "format": "uri"},
    "note": {"type": "string", "maxLength": 20, "description": "For the log", "default": "none"},
}
HOSTILE = "<!channel> <@U0BOB> \u202egnp.exe `x` *bold* <https://evil.example|opsagent>"


@pytest.fixture
async def stage(door: Door) -> AsyncIterator[Stage]:
    made = Stage(door.slack, door.service)
    made.errands = door.errands
    await made.begin()
    yield made
    await made.stop()


async def asked(stage: Stage, **changes: Any) -> dict[str, Any]:
    stage.service.ask(stage.session, **changes)
    return await stage.slack.card(OPS, stage.root, action="question_answer")


async def form_of(stage: Stage, card: dict[str, Any], user: str = ALICE) -> dict[str, Any]:
    await stage.slack.click(user, OPS, card, "question_answer")
    return await stage.slack.until(lambda: stage.slack.screen(user), what="The form")


async def whispered(stage: Stage, user: str, containing: str) -> None:
    heard = lambda: [m for m in stage.slack.ephemerals if m["to"] == user and containing in stage.slack.rendered(m)]  # noqa: E731
    await stage.slack.until(heard, what=f"A whisper with {containing!r}")


async def test_a_question_stands_in_the_thread_and_its_form_answers_it(stage: Stage) -> None:
    card = await asked(stage, properties=FORM, required=["region", "replicas"])
    read = stage.slack.rendered(card)
    assert "deploy of the server cluster" in read.replace("`", "")
    assert "Where to?" in read
    assert "Never enter passwords" in read
    shown = await form_of(stage, card)
    assert "Never enter passwords" in json.dumps(shown["blocks"])
    values = {"field:0": "0", "field:1": "3", "field:2": "0.5", "field:3": "0", "field:6": "on call"}
    await stage.slack.submit(ALICE, shown, values)
    assert stage.slack.screen(ALICE) is None
    ((_, content, who),) = stage.service.answers
    assert who == ALICE
    assert content == {"region": "eu", "replicas": 3, "ratio": 0.5, "force": True, "note": "on call"}
    await stage.delivered()
    (message,) = stage.said
    assert "Answered" in stage.slack.rendered(message)
    assert stage.slack.buttons(message) == {}
    assert "on call" not in json.dumps(message)


async def test_what_does_not_fit_is_told_at_its_field_and_answers_nothing(stage: Stage) -> None:
    card = await asked(stage, properties=FORM, required=["region", "replicas"])
    shown = await form_of(stage, card)
    ack = await stage.slack.submit(ALICE, shown, {"field:1": "99", "field:4": "nobody"})
    assert ack
    assert ack.payload["response_action"] == "errors"
    assert set(ack.payload["errors"]) == {"field:1", "field:4"}
    assert stage.service.answers == []
    assert stage.slack.screen(ALICE) is not None


async def test_another_person_gets_neither_form_nor_answer_but_a_reason(stage: Stage) -> None:
    card = await asked(stage)
    await stage.slack.click(BOB, OPS, card, "question_answer")
    await whispered(stage, BOB, "Only Alice is asked this")
    assert stage.slack.screen(BOB) is None
    await stage.slack.click(BOB, OPS, card, "question_decline")
    assert stage.service.answers == []


async def test_the_one_who_is_asked_may_decline(stage: Stage) -> None:
    card = await asked(stage)
    await stage.slack.click(ALICE, OPS, card, "question_decline")
    await stage.delivered()
    (message,) = stage.said
    assert "Declined" in stage.slack.rendered(message)
    assert stage.slack.buttons(message) == {}


async def test_a_form_sent_after_the_end_says_so_in_its_place(stage: Stage) -> None:
    card = await asked(stage, properties={"a": {"type": "string"}})
    shown = await form_of(stage, card)
    (found,) = stage.service.questions.values()
    stage.service.settle(found.question_id, QuestionStatus.EXPIRED)
    await stage.slack.submit(ALICE, shown, {"field:0": "late"})
    screen = stage.slack.screen(ALICE)
    assert screen
    assert "expired already" in json.dumps(screen["blocks"])
    assert stage.service.answers == []


async def test_a_tools_words_neither_ping_nor_link_nor_hide_anything(stage: Stage) -> None:
    card = await asked(stage, message=HOSTILE, tool_name="de`ploy<!here>", server="clu`ster")
    assert [live for live in stage.slack.pings(card) if ALICE not in live and "date" not in live] == []
    read = stage.slack.rendered(card)
    assert "\u202e" not in read
    assert "\\u202e" in read


def test_the_largest_question_fits_slacks_limits() -> None:
    wide = {"type": "string", "enum": [f"{n} <!channel> \u202e " + "x" * 150 for n in range(100)], "title": HOSTILE * 5}
    long = {"type": "string", "description": "\u202e" * 500, "default": "y" * 3_000}
    fields = {f"{n}" + "z" * 90: wide if n % 4 else long for n in range(20)}
    made = question(properties=fields, required=list(fields), message="\u202e" * 2_500)
    assert check_blocks(list(question_card(made).blocks)) == []
    assert check_view(question_form(made)) == []


# Progress --------------------------------------------------------------------------------------------------------


async def test_progress_is_the_line_under_the_thread_and_goes_with_the_call(stage: Stage) -> None:
    told = {"tool_call_id": "c", "tool_name": "deploy"}
    for n in range(50):
        stage.tell(EventKind.TOOL_PROGRESS, **told, progress=float(n), total=50.0, message="copying <!channel>")
    line = lambda: stage.slack.statuses.get((OPS, stage.root))  # noqa: E731
    await stage.slack.until(lambda: line() == "deploy: 49 of 50: copying &lt;!channel&gt;", what="The line")
    assert len(stage.slack.called("assistant.threads.setStatus")) <= 5
    stage.tell(EventKind.EXECUTION_FINISHED, **told, approval_id=None, status="succeeded")
    await stage.slack.until(lambda: line() == "", what="The end of the line")
    assert stage.said == []


async def test_a_call_without_progress_sets_no_line(stage: Stage) -> None:
    stage.tell(EventKind.EXECUTION_FINISHED, tool_call_id="c", tool_name="t", approval_id=None, status="succeeded")
    await stage.delivered()
    await asyncio.sleep(0)
    assert stage.slack.called("assistant.threads.setStatus") == []


def test_a_line_of_progress_is_one_short_line() -> None:
    shown = progress({"tool_name": "t" * 64, "progress": 0.1 + 0.2, "total": None, "message": "a\nb \u202e" * 100})
    assert len(shown) < 900
    assert "\n" not in shown
    assert "\u202e" not in shown
    assert "0.3" in shown
    assert BOT_USER not in shown
