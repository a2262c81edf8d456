"""Slack's markup as the model reads it."""

import pytest

from bot.payloads import parsed, readable
from tests.fakes.slack import ALICE, BOT_USER, TEAM


@pytest.mark.parametrize(
    ("raw", "read"),
    [
        ("a &lt;b&gt; &amp;&amp; c", "a <b> && c"),
        ("&amp;lt;", "&lt;"),
        ("<@U0BOB>, look", "@U0BOB, look"),
        ("<@U0BOB|bob>", "@bob"),
        ("in <#C0OPS|ops>", "in #ops"),
        ("in <#C0OPS|>", "in #C0OPS"),
        ("<!here> and <!subteam^S0SRE|@sre>", "@here and @sre"),
        ("<https://a.example/?x=1&amp;y=2>", "https://a.example/?x=1&y=2"),
        ("<http://a.example|a.example>", "a.example"),
        ("<https://a.example|the docs>", "the docs (https://a.example)"),
        ("<mailto:a@b.example|a@b.example>", "a@b.example"),
    ],
)
def test_markup_is_read_as_people_see_it(raw, read):
    assert readable(raw) == read


def envelope(**event):
    base = {"type": "message", "user": ALICE, "text": "hi", "ts": "2.0", "channel": "C1", "channel_type": "channel"}
    return {
        "type": "event_callback",
        "team_id": TEAM,
        "event_id": "Ev1",
        "authorizations": [{"user_id": BOT_USER, "is_bot": True}],
        "event": {**base, "team": TEAM, **event},
    }


def test_a_mention_among_others_strips_only_our_own():
    found = parsed(envelope(text=f"<@{BOT_USER}> ask <@U0BOB> about <@{BOT_USER}|opsagent>"))
    assert found.text == "ask @U0BOB about"


def test_a_bare_mention_still_asks_for_something():
    assert parsed(envelope(text=f"<@{BOT_USER}>")).text == "(a mention without any text)"


def test_a_forwarded_message_is_quoted():
    found = parsed(envelope(text=f"<@{BOT_USER}> what is this?", attachments=[{"text": "disk full &lt;web-1&gt;"}]))
    assert found.text == "what is this?\n> disk full <web-1>"


def test_an_author_nobody_can_place_in_a_shared_channel_is_external():
    body = envelope(text=f"<@{BOT_USER}> hi", team=None)
    assert not parsed(body).by.external
    assert parsed({**body, "is_ext_shared_channel": True}).by.external


def test_a_member_in_a_shared_channel_is_not_external():
    body = {**envelope(text=f"<@{BOT_USER}> hi", user_team=TEAM), "is_ext_shared_channel": True}
    assert not parsed(body).by.external


@pytest.mark.parametrize(
    "event", [{"user": None}, {"bot_id": "B1"}, {"user": BOT_USER}, {"subtype": "channel_join"}, {"ts": None}]
)
def test_what_no_person_wrote_is_not_for_us(event):
    assert parsed(envelope(text=f"<@{BOT_USER}> hi", **event)) is None


def test_a_click_takes_its_workspace_from_our_own_message():
    body = {
        "type": "block_actions",
        "user": {"id": "U1", "team_id": "T0OTHER"},
        "team": {"id": "T0OTHER"},
        "message": {"ts": "3.0", "team": TEAM},
        "channel": {"id": "C1"},
        "actions": [{"action_id": "approval_approve", "value": "x"}],
    }
    assert parsed(body).by.external
    assert parsed(body).by.team == TEAM
