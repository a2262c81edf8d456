"""Calls of one answer share a card: in whatever order they are opened and decided, and whatever crashes between."""

from uuid import uuid4

import pytest

from agent.approvals.types import ApprovalStatus
from agent.types import Person
from bot.views.calls import MOST_ROWS
from tests.fakes.service import NOW
from tests.fakes.slack import BOB, BOT_USER, OPS
from tests.unit.bot.test_presenter import Stage, stage

__all__ = ["stage"]

BY_BOB = {"decided_by": Person(uuid4(), "bob", None, BOB), "decided_at": NOW}
DONE = {"status": ApprovalStatus.APPROVED, **BY_BOB}


@pytest.fixture
def turn():
    return uuid4()


def offered(stage: Stage) -> list[int]:
    """How many calls each of the bot's messages offers to approve."""
    count = lambda card: sum(  # noqa: E731
        e.get("action_id") == "approval_approve" for b in card.get("blocks", []) for e in b.get("elements", [])
    )
    return [count(card) for card in stage.said]


async def test_calls_opened_together_stand_on_one_card(stage, turn):
    await stage.stop()
    for service in ("web", "db", "cache"):
        stage.open(turn_id=turn, args={"service": service})
    stage.start()
    await stage.delivered()
    (card,) = stage.said
    assert offered(stage) == [3]
    assert "approval_approve_all" in stage.slack.buttons(card)
    assert len(stage.slack.called("chat.postMessage")) == 1
    assert stage.slack.called("chat.update") == []
    assert stage.slack.refused == []


async def test_a_call_opened_later_while_another_waits_joins_its_card(stage, turn):
    first = stage.open(turn_id=turn)
    await stage.delivered()
    stage.open(turn_id=turn, args={"service": "db"})
    await stage.delivered()
    assert offered(stage) == [2]
    stage.service.change(first.approval_id, **DONE)
    await stage.delivered()
    (card,) = stage.said
    assert "Approved" in stage.slack.rendered(card)
    assert offered(stage) == [1]


async def test_calls_of_a_later_answer_get_a_card_of_their_own(stage, turn):
    first = stage.open(turn_id=turn)
    stage.service.change(first.approval_id, **DONE)
    await stage.delivered()
    stage.open(turn_id=turn)
    await stage.delivered()
    assert offered(stage) == [0, 1]


async def test_calls_of_other_turns_stand_apart(stage, turn):
    stage.open(turn_id=turn)
    stage.open(turn_id=uuid4())
    await stage.delivered()
    assert offered(stage) == [1, 1]


async def test_more_calls_than_a_card_takes_are_several_cards(stage, turn):
    await stage.stop()
    for i in range(MOST_ROWS * 2 + 1):
        stage.open(turn_id=turn, args={"service": f"web-{i}"})
    stage.start()
    await stage.delivered()
    assert offered(stage) == [MOST_ROWS, MOST_ROWS, 1]
    assert stage.slack.refused == []


async def test_a_call_too_large_to_share_keeps_its_own_card(stage, turn):
    await stage.stop()
    for args in ({"service": "web"}, {"script": "echo one; " * 2000}, {"service": "db"}):
        stage.open(turn_id=turn, args=args)
    stage.start()
    await stage.delivered()
    assert offered(stage) == [1, 0, 1]


async def test_the_whole_card_closes_with_its_last_call(stage, turn):
    calls = [stage.open(turn_id=turn), stage.open(turn_id=turn)]
    await stage.delivered()
    for call in calls:
        stage.service.change(call.approval_id, **DONE)
    await stage.delivered()
    (card,) = stage.said
    assert stage.slack.buttons(card) == {}
    assert "2 calls, all decided" in stage.slack.rendered(card)


async def test_a_crash_after_the_card_was_posted_posts_no_second_one(stage, turn):
    first = stage.open(turn_id=turn)
    await stage.delivered()
    stage.service.crash_before_record.add(f"approval:{first.approval_id}")
    second = stage.open(turn_id=turn)
    await stage.slack.until(lambda: not stage.service.crash_before_record)
    await stage.delivered()
    assert offered(stage) == [2]
    stage.service.change(second.approval_id, **DONE)
    await stage.delivered()
    assert offered(stage) == [1]


async def test_a_crash_before_a_calls_place_was_written_down_places_it_once(stage, turn):
    stage.service.crash_before_record.add(f"cards:{turn}")
    stage.open(turn_id=turn)
    stage.open(turn_id=turn)
    await stage.delivered()
    assert offered(stage) == [2]
    assert len(stage.slack.called("chat.postMessage")) == 1


async def test_a_card_posted_before_calls_shared_any_is_still_found(stage, turn):
    """By a release that wrote down no places."""
    first = stage.open(turn_id=turn)
    await stage.delivered()
    del stage.service.sessions[stage.session].posts[f"cards:{turn}"]
    stage.open(turn_id=turn)
    await stage.delivered()
    stage.service.change(first.approval_id, requested_reason="still waiting")
    await stage.delivered()
    assert offered(stage) == [1, 1]
    assert "still waiting" in stage.read[0]


async def test_a_shared_card_that_was_deleted_is_posted_again_whole(stage, turn):
    calls = [stage.open(turn_id=turn), stage.open(turn_id=turn)]
    await stage.delivered()
    await stage.slack.unsay(BOT_USER, OPS, stage.said[0]["ts"])
    stage.service.change(calls[0].approval_id, **DONE)
    await stage.delivered()
    assert offered(stage) == [1]
    assert "2 calls, 1 waiting" in stage.read[0]


async def test_a_card_that_slack_refuses_is_posted_shorter(stage, turn, mocker):
    from tests.fakes.slack_workspace import SlackError

    real = stage.slack._content

    def picky(args, limit):
        if "filler" in str(args.get("blocks")) and "yyyyy" * 100 in str(args.get("blocks")):
            raise SlackError("invalid_blocks")
        return real(args, limit)

    mocker.patch.object(stage.slack, "_content", picky)
    await stage.stop()
    for _ in range(2):
        stage.open(turn_id=turn, args={"filler": "y" * 2_000})
    stage.start()
    await stage.delivered()
    (card,) = stage.said
    assert "approval_arguments" in stage.slack.buttons(card)
    assert offered(stage) == [0]
