"""A card shows every argument, and offers Approve only where it does."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.approvals.types import ApprovalStatus, Door
from bot import mrkdwn
from bot.views import arguments
from bot.views.approval import approval_card, review_modal
from bot.views.arguments import Room
from bot.views.calls import calls_card
from tests.fakes.block_kit import check_blocks, check_view
from tests.fakes.block_reading import letters, pings, pressables
from tests.fakes.service import approval

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=200),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=8,
)
ARGS = st.dictionaries(st.text(max_size=40), JSON, max_size=12)
SIZES = st.integers(min_value=0, max_value=60_000)


def boxes(blocks):
    """The contents of the preformatted boxes, cut ones joined."""
    parts = [e for b in blocks if b["type"] == "rich_text" for e in b["elements"]]
    return "".join(e["elements"][0]["text"] for e in parts if e["type"] == "rich_text_preformatted")


def called(card):
    """Whom the card notifies; a date is markup too, and calls nobody."""
    return [p for p in pings(card.text, list(card.blocks)) if not p.startswith("<!date^")]


def shown(value):
    return mrkdwn.visible(json.dumps(value, ensure_ascii=False, indent=2))


@settings(deadline=None)
@given(ARGS, SIZES)
def test_approve_is_offered_only_where_every_argument_can_be_read(args, size):
    asked = approval(args={**args, "filler": "y" * size})
    card = approval_card(asked)
    actions = {e["action_id"] for _, e in pressables(card.blocks)}
    assert check_blocks(list(card.blocks)) == []
    assert letters(list(card.blocks)) < 12_000
    assert called(card) == ["<@U0ALICE>"]
    if "approval_approve" in actions:
        read = boxes(card.blocks)
    else:
        assert "approval_arguments" in actions
        view = review_modal(asked)
        assert check_view(view) == []
        read = boxes(view["blocks"])
    for value in asked.args.values():
        assert shown(value) in read or (isinstance(value, str) and value in read)


def test_a_value_cannot_pass_for_another_argument():
    card = approval_card(approval(args={"reason": 'ok"\nservice: "test'}))
    names = [e["elements"][0]["text"] for b in card.blocks if b["type"] == "rich_text" for e in b["elements"]]
    assert names == ["reason (text, 2 lines):", 'ok"\nservice: "test']


def test_hidden_characters_in_arguments_are_shown():
    card = approval_card(approval(args={"pa\u202eth": "/tmp/\u2066x\u3164"}))
    text = json.dumps(card.blocks, ensure_ascii=False)
    assert "\\\\u202e" in text
    assert "\\\\u2066" in text
    assert "\\\\u3164" in text
    assert not set("\u202e\u2066\u3164") & set(text)


@pytest.mark.parametrize("show", [approval_card, review_modal, lambda asked: calls_card([asked, approval()])])
def test_letters_that_pass_for_latin_ones_are_flagged_until_it_is_settled(show):
    deceiving = {"command": "kub\u0435ctl delete ns test"}
    assert "Letters that only look like Latin ones:* `kub\\\\u0435ctl`" in shown_of(show(approval(args=deceiving)))
    assert "only look like" not in shown_of(show(approval(args={"command": "kubectl delete ns test"})))
    settled = approval(args=deceiving, status=ApprovalStatus.REJECTED)
    assert "only look like" not in shown_of(show(settled))


def test_nothing_hides_in_a_word_that_is_flagged():
    text = shown_of(approval_card(approval(args={"host": "\u0440ay-\u3164"})))
    assert "only look like" in text
    assert "\\u3164" not in text.replace("\\\\u3164", "")


def shown_of(view):
    return json.dumps(view["blocks"] if isinstance(view, dict) else view.blocks)


def test_a_number_and_the_text_of_it_read_differently():
    assert boxes(approval_card(approval(args={"port": 80})).blocks) == "80"
    assert boxes(approval_card(approval(args={"port": "80"})).blocks) == '"80"'


def test_no_arguments_are_said_to_be_none():
    card = approval_card(approval(args={}))
    assert "No arguments." in json.dumps(card.blocks)
    assert "approval_approve" in {e["action_id"] for _, e in pressables(card.blocks)}


def test_what_is_too_large_even_for_a_modal_is_only_to_be_rejected_here():
    asked = approval(args={"blob": "é" * 200_000})
    assert arguments.room(asked) is Room.FILE
    assert {e["action_id"] for _, e in pressables(approval_card(asked).blocks)} == {
        "approval_reject",
        "approval_reject_reason",
        "approval_more",
    }
    assert "approval_remember" not in json.dumps(approval_card(asked).blocks)


def test_text_of_others_on_a_settled_card_stays_text():
    hostile = "<!channel> <@U0BOB> *bold*"
    card = approval_card(
        approval(
            status=ApprovalStatus.REJECTED,
            requested_reason=hostile,
            reason=hostile,
            result=hostile,
            tool_name="re`start",
        )
    )
    assert called(card) == ["<@U0ALICE>"]
    assert list(pressables(card.blocks)) == []


def test_the_digest_of_a_card_changes_only_with_what_it_shows():
    asked = approval()
    assert approval_card(asked).digest == approval_card(asked).digest
    assert approval_card(asked).digest != approval_card(approval()).digest


@pytest.mark.parametrize(
    ("terms", "says"),
    [
        ({"doors": (Door.WEB,)}, "only in the web console"),
        ({"doors": (Door.SLACK, Door.API), "fresh_login_s": 300}, "only over REST, by someone who entered"),
        ({"fresh_login_s": 3600}, "within the last hour"),
    ],
)
@pytest.mark.parametrize("size", [10, 20_000])
def test_where_slack_is_not_the_place_to_approve_the_card_says_where_and_still_rejects(terms, says, size):
    asked = approval(args={"service": "x" * size}, **terms)
    card = approval_card(asked)
    actions = {e["action_id"] for _, e in pressables(card.blocks)}
    assert "approval_approve" not in actions
    assert "approval_reject" in actions
    assert says in json.dumps(card.blocks)
    view = review_modal(asked)
    assert "submit" not in view
    assert says in json.dumps(view["blocks"])
    assert check_blocks(list(card.blocks)) == []
    assert check_view(view) == []


def test_a_door_that_includes_slack_changes_nothing_on_the_card():
    card = approval_card(approval(args={"service": "web"}, doors=(Door.WEB, Door.SLACK)))
    assert "approval_approve" in {e["action_id"] for _, e in pressables(card.blocks)}
