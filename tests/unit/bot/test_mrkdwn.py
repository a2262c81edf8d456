"""Foreign text stays text."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot import mrkdwn

NASTY = st.text(
    st.one_of(st.characters(), st.sampled_from("<>!@#|&[]()\u202e\u200b\u2066\u3164\ufeff\ufe0f\u200d\U000e0041")),
    max_size=60,
)
LIVE = re.compile(r"<[!@#]|<[^<>]*\|[^<>]*>")


@pytest.mark.parametrize("live", ["<!channel>", "<!here>", "<@U0BOB>", "<#C0OPS>", "<http://evil.example|good>"])
def test_no_reference_in_foreign_text_comes_alive(live):
    assert not LIVE.search(mrkdwn.escape(f"see {live} now"))
    assert not LIVE.search(mrkdwn.prose(f"see {live} now"))


@given(NASTY)
def test_whatever_the_text_nothing_in_it_is_alive(text):
    assert not LIVE.search(mrkdwn.prose(text))
    assert "<" not in mrkdwn.escape(text)
    assert ">" not in mrkdwn.escape(text)


@given(NASTY)
def test_nothing_hidden_is_left_but_the_glue_of_emoji(text):
    for shown in (mrkdwn.visible(text), mrkdwn.prose(text)):
        left = {c for c in shown if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")}
        assert left <= {"\n", "\t", "\u200d"}
        shown.encode()


@pytest.mark.parametrize(
    "hidden", ["\u202e", "\u200b", "\u2066", "\u3164", "\u115f", "\uffa0", "\ufeff", "\u00ad", "\u2028", "\x00", "\x1b"]
)
def test_hidden_characters_are_shown_escaped(hidden):
    assert mrkdwn.visible(f"a{hidden}b") == f"a\\u{ord(hidden):04x}b"


def test_hidden_tags_beyond_the_first_plane_are_shown_escaped():
    assert mrkdwn.visible("a\U000e0041b") == "a\\U000e0041b"


def test_a_joiner_is_kept_only_within_an_emoji():
    assert mrkdwn.visible("👩\u200d💻") == "👩\u200d💻"
    assert mrkdwn.visible("ad\u200dmin") == "ad\\u200dmin"
    assert mrkdwn.visible("❤\ufe0f") == "❤\ufe0f"
    assert mrkdwn.visible("a\ufe0f") == "a\\ufe0f"


def test_ordinary_writing_of_the_world_is_left_alone():
    text = "Grüße, 你好, Привет, مرحبا, नमस्ते — “done” ✅ 🎉"
    assert mrkdwn.visible(text) == text
    assert mrkdwn.prose(text) == text


def test_the_ordinary_markdown_of_an_answer_is_left_alone():
    text = "# Head\n\n**bold** `x < y` [the docs](https://docs.example/a_(b)) <https://plain.example>\n\n| a |\n|---|\n"
    assert mrkdwn.prose(text) == text


@pytest.mark.parametrize(
    "link",
    [
        "[https://bank.example](https://evil.example/x)",
        "[bank.example/login](http://evil.example)",
        "[see [1] bank.example](https://evil.example)",
        "[www.bank.example](<https://evil.example> 'title')",
    ],
)
def test_a_link_whose_label_names_another_host_shows_where_it_leads(link):
    assert mrkdwn.prose(link).endswith(" (evil.example)")


def test_a_link_whose_label_names_its_own_host_stays():
    assert mrkdwn.prose("[www.docs.example](https://docs.example/x)") == "[www.docs.example](https://docs.example/x)"


def test_an_image_becomes_a_link_and_a_hidden_definition_is_shown():
    assert mrkdwn.prose("![chart](https://evil.example/?q=secret)") == "[chart](https://evil.example/?q=secret)"
    assert mrkdwn.prose("[1]: http://evil.example") == "\\[1]: http://evil.example"


def test_entities_are_escaped_once():
    assert mrkdwn.escape("a & b < c") == "a &amp; b &lt; c"
