"""What people do to an approval in Slack beside deciding it: from the menu of its card, and from its settled card."""

import json
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from agent.approvals.grants import Remember, Scope
from agent.approvals.types import Action, ApprovalStatus, Decision, Door, ExecutionStatus, Resolution, Sparing, Vote
from agent.types import Person
from bot.views.approval import approval_card
from bot.views.calls import MOST_ROWS, calls_card
from tests.fakes.block_kit import check_blocks, check_view
from tests.fakes.block_reading import pings, pressables, visible
from tests.fakes.service import HOUR, NOW, approval
from tests.fakes.slack import ALICE, BOB, OPS
from tests.unit.bot.test_deciding import opened, posted, root, told

__all__ = ["root"]

ADMIN = "U0ADMIN"
REMEMBER, WITHDRAW, TIME = "Approve and don't ask again…", "Take back my vote", "More time…"
OTHERS, CANCEL = "Have others decide…", "Cancel my request"
HOSTILE = "<!channel> <@U0CAROL> <https://evil.example|bank> *bold* ```"
BOBS = Person(uuid4(), "bob", "Bob", BOB)
UNKNOWN = {"status": ApprovalStatus.APPROVED, "execution": ExecutionStatus.UNKNOWN, "result": "no answer came"}
VOTED = Vote(BOBS, Decision.APPROVE, None, "0123456789abcdef" * 4, NOW)


def spared(**changes):
    made = {"grant_id": uuid4(), "by": BOBS, "expires_at": NOW, "revoked_at": None, "is_given": False}
    return Sparing(**{**made, **changes})


def offered(card):
    """What the menus of a card offer."""
    menus = [element for _, element in pressables(card.blocks) if element["type"] == "overflow"]
    return [[option["text"]["text"] for option in menu["options"]] for menu in menus]


async def chosen(door, card, label, user=BOB):
    """The modal that an option of the card's menu opens."""
    await door.slack.choose(user, OPS, card, label)
    await door.errands.drain()
    return door.slack.screen(user)


# What is offered ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("terms", "labels"),
    [
        ({}, [REMEMBER, TIME, OTHERS, CANCEL]),
        ({"quorum": 2}, [TIME, OTHERS, CANCEL]),
        ({"quorum": 2, "votes": (VOTED,)}, [WITHDRAW, TIME, OTHERS, CANCEL]),
        ({"votes": (VOTED,)}, [REMEMBER, WITHDRAW, TIME, OTHERS, CANCEL]),
        ({"doors": ("slack", "web")}, [TIME, OTHERS, CANCEL]),
        ({"fresh_login_s": 60}, [TIME, OTHERS, CANCEL]),
        ({"args": {"blob": "é" * 200_000}}, [TIME, OTHERS, CANCEL]),
    ],
)
def test_the_menu_leaves_out_what_nobody_could_do(terms, labels):
    card = approval_card(approval(**terms))
    assert offered(card) == [labels]
    assert check_blocks(list(card.blocks)) == []


def test_a_full_card_of_calls_fits_with_all_that_can_stand_on_it():
    word = Resolution(uuid4(), BOBS, Action.RUN_AGAIN, "&" * 2_000, NOW)
    done = approval(**UNKNOWN, resolutions=(word,) * 9, sparing=spared(), reason="r", requested_reason="why")
    open_ = approval(args={"a": 1}, args_proposed={"a": 2}, votes=(VOTED,) * 3)
    for rows in ([done] * MOST_ROWS, [open_] * MOST_ROWS, [done, open_] * 2):
        # Each row has an approval of its own.
        calls = [approval(**{**{f: getattr(row, f) for f in row.__slots__}, "approval_id": uuid4()}) for row in rows]
        assert check_blocks(list(calls_card(calls).blocks)) == []
        assert check_blocks(list(approval_card(calls[0]).blocks)) == []


# From the menu ------------------------------------------------------------------------------------------------------


async def test_a_call_is_approved_and_later_ones_like_it_are_not_asked_for(door, root):
    card, (asked,) = await posted(door, root, {"args": {"service": HOSTILE}})
    view = await chosen(door, card, REMEMBER)
    assert check_view({key: view[key] for key in ("type", "callback_id", "title", "submit", "close", "blocks")}) == []
    assert json.dumps({"const": HOSTILE}, indent=2).split("\n")[1].strip() in visible(view["blocks"])
    assert pings(None, view["blocks"]) == []
    assert [option["value"] for option in element(view, "scope")["options"]] == ["thread"]
    assert [option["value"] for option in element(view, "time")["options"]] == ["3600", "28800"]
    await door.slack.submit(BOB, view, {"time": "28800"})
    assert door.slack.screen(BOB) is None
    assert door.service.decisions == [(asked.approval_id, Decision.APPROVE, door.service.decisions[0][2])]
    assert door.service.also == [Remember(Scope.THREAD, 8 * HOUR)]


def element(view, block_id):
    return next((block["element"] for block in view["blocks"] if block["block_id"] == block_id), None)


async def test_only_who_asked_is_offered_all_of_their_threads_and_only_an_admin_another_rule(door, root):
    card, _ = await posted(door, root, {})
    scopes = {}
    for user in (ALICE, BOB, ADMIN):
        view = await chosen(door, card, REMEMBER, user)
        scopes[user] = [option["value"] for option in element(view, "scope")["options"]]
        assert (element(view, "rule") is not None) == (user == ADMIN)
    assert scopes == {ALICE: ["thread", "me"], BOB: ["thread"], ADMIN: ["thread"]}


async def test_what_is_wrong_with_an_admins_rule_is_said_at_the_rule(door, root):
    card, (asked,) = await posted(door, root, {})
    view = await chosen(door, card, REMEMBER, ADMIN)
    wider = {"type": "object", "properties": {"service": {"type": "string"}}}
    for wrong in ("{", "[]", '{"properties": {"service": {"const": "db"}}}', '{"type": 12}'):
        ack = await door.slack.submit(ADMIN, view, {"rule": wrong})
        assert set(ack.payload["errors"]) == {"rule"}
    assert door.service.decisions == []
    await door.slack.submit(ADMIN, view, {"rule": json.dumps(wider)})
    assert door.service.also == [Remember(Scope.THREAD, HOUR, wider)]
    assert door.service.approvals[asked.approval_id].status is ApprovalStatus.APPROVED


async def test_a_vote_is_taken_back(door, root):
    card, (asked,) = await posted(door, root, {"quorum": 2, "votes": (VOTED,)})
    await door.slack.choose(BOB, OPS, card, WITHDRAW)
    assert door.service.verbs == [("withdraw", asked.approval_id, BOB)]
    assert door.service.approvals[asked.approval_id].votes == ()
    await door.slack.choose(BOB, OPS, card, WITHDRAW)
    await door.errands.drain()
    assert told(door) == ["You have no vote on this that you could take back."]


async def test_who_asked_cancels(door, root):
    card, (asked,) = await posted(door, root, {})
    await door.slack.choose(BOB, OPS, card, CANCEL)
    await door.errands.drain()
    assert told(door) == ["Only whoever asked for it, or an admin, may cancel this."]
    await door.slack.choose(ALICE, OPS, card, CANCEL)
    assert door.service.approvals[asked.approval_id].status is ApprovalStatus.CANCELLED


async def test_people_get_more_time(door, root):
    card, (asked,) = await posted(door, root, {})
    view = await chosen(door, card, TIME)
    times = [option["value"] for option in element(view, "time")["options"]]
    assert times == ["3600", "28800", "86400", "604800", "2592000"]
    ack = await door.slack.submit(BOB, view)
    assert ack.payload["errors"] == {"time": "It has time until then already: ask for more than that."}
    await door.slack.submit(BOB, view, {"time": "604800"})
    assert door.service.verbs == [("extend", asked.approval_id, BOB, 7 * 24 * HOUR)]


async def test_no_less_time_is_offered_than_people_have(door, root):
    card, _ = await posted(door, root, {"expires_at": datetime.now(UTC) + timedelta(days=2)})
    view = await chosen(door, card, TIME)
    assert [option["value"] for option in element(view, "time")["options"]] == ["604800", "2592000"]


async def test_others_are_named(door, root):
    card, (asked,) = await posted(door, root, {})
    view = await chosen(door, card, OTHERS)
    ack = await door.slack.submit(BOB, view)
    assert set(ack.payload["errors"]) == {"people"}
    await door.slack.submit(BOB, view, {"people": ["U0CAROL"], "others": "S0OPS, role:approver\n@dora"})
    named = ["U0CAROL", "S0OPS", "role:approver", "dora"]
    assert door.service.verbs == [("reassign", asked.approval_id, BOB, named)]


@pytest.mark.parametrize("label", [TIME, OTHERS, REMEMBER])
async def test_someone_without_standing_can_look_but_not_submit(door, root, label):
    card, (asked,) = await posted(door, root, {})
    view = await chosen(door, card, label, ALICE)
    await door.slack.submit(ALICE, view, {TIME: {"time": "86400"}, OTHERS: {"others": "dora"}, REMEMBER: {}}[label])
    assert "Only an approver may" in json.dumps(door.slack.screen(ALICE))
    assert door.service.approvals[asked.approval_id] == asked


async def test_a_rejection_says_what_to_do_instead(door, root):
    card, (asked,) = await posted(door, root, {})
    view = await opened(door, card, "approval_reject_reason")
    await door.slack.submit(BOB, view, {"reason": "no", "instead": " restart db \n"})
    assert door.service.approvals[asked.approval_id].status is ApprovalStatus.REJECTED
    assert door.service.also == ["restart db"]


async def test_a_rejection_needs_nothing_instead(door, root):
    card, _ = await posted(door, root, {})
    view = await opened(door, card, "approval_reject_reason")
    await door.slack.submit(BOB, view, {"reason": "no", "instead": " \n"})
    assert (len(door.service.decisions), door.service.also) == (1, [])


@pytest.mark.parametrize(
    "value", ["", "approval_approve", "approval_extend", "approval_extend x", "approval_approve {}"]
)
async def test_an_option_that_is_not_ours_does_nothing(door, root, value):
    card, (asked,) = await posted(door, root, {})
    option = {"text": {"type": "plain_text", "text": "x"}, "value": value.format(asked.approval_id)}
    assert await opened_by(door, card, option) is None
    assert "names no approval" in told(door)[0]
    assert door.service.approvals[asked.approval_id] == asked


async def opened_by(door, card, option):
    await door.slack.click(BOB, OPS, card, "approval_more", selected_option=option)
    await door.errands.drain()
    return door.slack.screen(BOB)


# On a settled card --------------------------------------------------------------------------------------------------


async def test_a_call_of_unknown_outcome_runs_again_after_a_warning(door, root):
    card, (asked,) = await posted(door, root, UNKNOWN)
    press = door.slack.buttons(card)["approval_run_again"]
    assert "its effect comes twice" in press["confirm"]["text"]["text"]
    await door.slack.click(BOB, OPS, card, "approval_run_again")
    assert door.service.verbs == [("resolve", asked.approval_id, BOB, (Action.RUN_AGAIN, None, None))]
    await door.slack.click(ALICE, OPS, card, "approval_run_again")
    await door.errands.drain()
    assert told(door) == ["Only an approver may do this."]


@pytest.mark.parametrize(
    ("action", "said"), [("approval_mark_done", Action.DONE), ("approval_mark_failed", Action.FAILED)]
)
async def test_people_say_how_it_ended(door, root, action, said):
    card, (asked,) = await posted(door, root, UNKNOWN)
    view = await opened(door, card, action)
    await door.slack.submit(BOB, view, {"result": "up since 9:14", "reason": "looked"})
    assert door.service.verbs == [("resolve", asked.approval_id, BOB, (said, "looked", "up since 9:14"))]
    assert await opened(door, card, action) is None
    assert told(door) == ["It is known by now how this call ended; the card says how."]


def test_a_call_that_is_not_approved_in_slack_is_not_run_again_there():
    asked = approval(**UNKNOWN, doors=(Door.WEB,))
    for card in (approval_card(asked), calls_card([asked, approval()])):
        actions = {element["action_id"] for _, element in pressables(card.blocks)}
        assert "approval_run_again" not in actions
        assert {"approval_mark_done", "approval_mark_failed"} <= actions


def test_the_buttons_go_with_the_outcome_and_who_said_it_stands_there():
    word = Resolution(uuid4(), BOBS, Action.DONE, HOSTILE, NOW)
    known = approval(**{**UNKNOWN, "execution": ExecutionStatus.SUCCEEDED}, resolutions=(word,))
    for card in (approval_card(known), calls_card([known, known])):
        assert list(pressables(card.blocks)) == []
        assert "said that it was done" in visible(list(card.blocks))
        called = {ping for ping in pings(None, list(card.blocks)) if not ping.startswith("<!date^")}
        assert called == {f"<@{ALICE}>", f"<@{BOB}>"}


async def test_a_grant_is_ended_on_the_card_of_a_call_that_it_spared(door, root):
    grant = spared()
    card, (asked,) = await posted(door, root, {"status": ApprovalStatus.APPROVED, "sparing": grant})
    assert "need not be asked for until" in visible(card["blocks"])
    await door.slack.click(BOB, OPS, card, "grant_revoke")
    assert door.service.verbs == [("revoke", asked.approval_id, BOB, grant.grant_id)]
    after = approval_card(door.service.approvals[asked.approval_id])
    assert list(pressables(after.blocks)) == []
    assert "; ended" in visible(list(after.blocks))


# Forged -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "forged", ["{other} {digest} {session}", "{mine} {wrong} {session}", "{mine} {digest} {elsewhere}"]
)
@pytest.mark.parametrize("label", [TIME, OTHERS, REMEMBER])
async def test_a_form_speaks_for_the_approval_the_arguments_and_the_thread_that_it_was_opened_on(
    door, root, label, forged
):
    card, (mine,) = await posted(door, root, {})
    other = door.service.open(door.service.session(OPS, "1.1"), args_digest="ab" * 32)
    view = await chosen(door, card, label)
    metadata = forged.format(
        mine=mine.approval_id,
        other=other.approval_id,
        digest=mine.args_digest,
        wrong="ab" * 32,
        session=mine.session_id,
        elsewhere=other.session_id,
    )
    values = {TIME: {"time": "86400"}, OTHERS: {"others": "dora"}, REMEMBER: {}}[label]
    await door.slack.submit(BOB, view, values, forged={"private_metadata": metadata})
    assert "Not done" in json.dumps(door.slack.screen(BOB))
    assert (door.service.verbs, door.service.decisions) == ([], [])
