"""Answers of any length fit Slack's messages and lose nothing."""

from hypothesis import given, settings
from hypothesis import strategies as st

from bot import mrkdwn
from bot.split import PIECE_LIMIT, split, width
from bot.views.answer import MESSAGE_LIMIT, answer, plain_answer
from tests.fakes.block_kit import check_blocks

LINES = st.one_of(
    st.sampled_from(
        ["```python", "```", "~~~~", "~~~~", "| a | b |", "|---|---|", "| 1 | 2 |", "", "- item", "    code"]
    ),
    st.text(max_size=50),
)
TEXTS = st.one_of(st.lists(LINES, max_size=60).map("\n".join), st.text(max_size=400))


@given(TEXTS, st.integers(min_value=24, max_value=200))
def test_pieces_joined_are_the_text_and_each_fits(text, limit):
    pieces = split(text, limit)
    assert "".join(p.text for p in pieces) == text
    assert all(width(p.shown) <= limit for p in pieces)


@settings(max_examples=25, deadline=None)
@given(TEXTS, st.integers(min_value=0, max_value=200_000))
def test_no_limit_of_slack_is_met_by_answers_up_to_200_000_characters(text, size):
    long = (text * (size // max(1, len(text)) + 1))[:size]
    messages = answer(long)
    shown = "".join(b["text"] for m in messages for b in m.blocks)
    rest = iter(shown)
    assert all(char in rest for char in mrkdwn.prose(long) if not char.isspace()), "something was lost"
    for message in messages:
        assert check_blocks(list(message.blocks)) == []
        assert len(message.blocks) <= 50
        assert sum(width(b["text"]) for b in message.blocks) <= MESSAGE_LIMIT
        for piece in plain_answer(message):
            assert check_blocks(list(piece.blocks)) == []


def test_a_short_answer_is_one_message_with_one_block():
    (message,) = answer("All *good*.")
    assert [b["text"] for b in message.blocks] == ["All *good*."]


def test_an_empty_answer_says_so():
    (message,) = answer(" \n")
    assert message.blocks[0]["text"]


def test_code_that_fits_a_piece_is_not_cut():
    code = "```\n" + "x = 1\n" * 500 + "```\n"
    pieces = split("word " * 900 + "\n\n" + code)
    assert code in [p.text for p in pieces]


def test_code_longer_than_a_piece_is_opened_again_with_its_language():
    pieces = split("```python\n" + "print('hello')\n" * 1000 + "```\n")
    assert len(pieces) > 2
    assert all(p.shown.startswith("```python\n") for p in pieces)
    assert all(p.shown.rstrip().endswith("```") and p.shown.count("```") == 2 for p in pieces)


def test_a_table_longer_than_a_piece_repeats_its_header():
    header = "| host | load |\n|------|------|\n"
    pieces = split("Before.\n\n" + header + "| web-1 | 0.42 |\n" * 800)
    tables = [p for p in pieces if "web-1" in p.text]
    assert len(tables) > 1
    assert all(p.shown.startswith(header) for p in tables)


def test_paragraphs_are_cut_between_each_other():
    paragraph = "A sentence of some length stands here. " * 40 + "\n\n"
    pieces = split(paragraph * 10)
    assert len(pieces) > 1
    assert all(p.text.startswith("A sentence") and p.text.endswith("\n\n") for p in pieces)


def test_emoji_count_twice_as_slack_counts_them():
    pieces = split("🎉" * PIECE_LIMIT)
    assert len(pieces) == 2
    assert all(width(p.shown) <= PIECE_LIMIT for p in pieces)
