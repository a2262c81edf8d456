"""What people decide in Slack beyond one click: other arguments, a reason, several calls at once."""

import json

import pytest

from agent.approvals.types import ApprovalStatus, Decision
from bot.views.approval import approval_card
from bot.views.calls import calls_card
from tests.fakes.slack import ALICE, BOB, OPS

SCHEMA = {
    "type": "object",
    "properties": {
        "service": {"type": "string", "minLength": 2},
        "count": {"type": "integer", "minimum": 1},
        "force": {"type": "boolean"},
    },
    "required": ["service"],
}


@pytest.fixture
async def root(door):
    said = await door.slack.say(ALICE, "restart web")
    await door.slack.settled()
    door.service.schema = SCHEMA
    return said["ts"]


async def posted(door, root, *changes):
    """The card of one call, or of several, as the presenter would have posted it, and their approvals."""
    session_id = door.service.session(OPS, root)
    calls = [door.service.open(session_id, **change) for change in changes]
    card = approval_card(calls[0]) if len(calls) == 1 else calls_card(calls)
    answer = await door.app.client.chat_postMessage(
        channel=OPS, thread_ts=root, text=card.text, blocks=list(card.blocks)
    )
    await door.slack.settled()
    return door.slack.find(OPS, answer["ts"]), calls


async def opened(door, card, action, user=BOB):
    """The modal that a button of the card opens."""
    await door.slack.click(user, OPS, card, action)
    await door.errands.drain()
    return door.slack.screen(user)


def told(door):
    return [door.slack.rendered(whisper) for whisper in door.slack.ephemerals]


async def test_edited_arguments_are_approved_by_whoever_edited_them(door, root):
    card, (asked,) = await posted(door, root, {"args": {"service": "web", "count": 2}})
    view = await opened(door, card, "approval_edit")
    labels = [b["label"]["text"] for b in view["blocks"] if b["type"] == "input"]
    assert labels == ["service", "count", "force"]
    ack = await door.slack.submit(BOB, view, {"field:0": "db", "field:2": "0"})
    assert ack is not None
    assert door.slack.screen(BOB) is None
    after = door.service.approvals[asked.approval_id]
    assert after.args == {"service": "db", "count": 2, "force": True}
    assert after.args_proposed == {"service": "web", "count": 2}
    assert (after.status, after.decided_by.chat_user) == (ApprovalStatus.APPROVED, BOB)
    assert after.votes[-1].args_digest == after.args_digest != asked.args_digest


async def test_with_a_quorum_an_edit_is_one_vote_for_the_new_arguments(door, root):
    card, (asked,) = await posted(door, root, {"quorum": 2})
    view = await opened(door, card, "approval_edit")
    await door.slack.submit(BOB, view, {"field:0": "db"})
    after = door.service.approvals[asked.approval_id]
    assert (after.status, after.args) == (ApprovalStatus.PENDING, {"service": "db"})
    assert "1 of 2 approvals" in str(approval_card(after).blocks)


async def test_what_is_wrong_is_said_at_its_field_and_the_form_stays_open(door, root):
    card, (asked,) = await posted(door, root, {})
    view = await opened(door, card, "approval_edit")
    ack = await door.slack.submit(BOB, view, {"field:1": "2.5"})
    assert set(ack.payload["errors"]) == {"field:1"}
    ack = await door.slack.submit(BOB, view, {"field:0": "x", "field:1": "0"})
    assert ack.payload["response_action"] == "errors"
    assert "shorter than 2" in ack.payload["errors"]["field:0"]
    assert "minimum of 1" in ack.payload["errors"]["field:1"]
    assert door.slack.screen(BOB) is not None
    assert door.service.approvals[asked.approval_id] == asked


async def test_an_edit_of_arguments_that_were_changed_meanwhile_is_refused(door, root):
    card, (asked,) = await posted(door, root, {})
    view = await opened(door, card, "approval_edit")
    door.service.change(asked.approval_id, args={"service": "cache"}, args_digest="a" * 64)
    await door.slack.submit(BOB, view, {"field:0": "db"})
    assert "changed since you saw them" in json.dumps(door.slack.screen(BOB))
    assert door.service.decisions == []


async def test_an_edit_of_a_call_whose_tool_was_changed_is_not_offered(door, root):
    card, _ = await posted(door, root, {})
    door.service.schema_hash = "e" * 64
    assert await opened(door, card, "approval_edit") is None
    assert "The tool was changed" in told(door)[0]


async def test_someone_without_standing_can_look_but_not_submit(door, root):
    card, (asked,) = await posted(door, root, {})
    view = await opened(door, card, "approval_edit", ALICE)
    await door.slack.submit(ALICE, view, {"field:0": "db"})
    assert "Only an approver may decide this." in json.dumps(door.slack.screen(ALICE))
    assert door.service.approvals[asked.approval_id] == asked


async def test_what_is_too_large_for_any_form_is_edited_elsewhere(door, root):
    card, _ = await posted(door, root, {"args": {"service": "x" * 3_500}})
    assert await opened(door, card, "approval_edit") is None
    assert "web console or over REST" in told(door)[0]


@pytest.mark.parametrize("action", ["approval_edit", "approval_reject_reason"])
async def test_a_form_for_a_settled_call_is_not_opened(door, root, action):
    card, (asked,) = await posted(door, root, {})
    door.service.change(asked.approval_id, status=ApprovalStatus.REJECTED)
    assert await opened(door, card, action) is None
    assert told(door) == ["This is already rejected."]


async def test_a_form_that_came_too_late_for_slack_says_so(door, root):
    card, _ = await posted(door, root, {})
    door.slack.trigger_life_s = -1
    assert await opened(door, card, "approval_edit") is None
    assert "press the button again" in told(door)[0]


async def test_a_call_is_rejected_with_a_reason(door, root):
    card, (asked,) = await posted(door, root, {})
    view = await opened(door, card, "approval_reject_reason")
    await door.slack.submit(BOB, view, {"reason": " not on a Friday "})
    after = door.service.approvals[asked.approval_id]
    assert (after.status, after.reason) == (ApprovalStatus.REJECTED, "not on a Friday")
    assert door.slack.screen(BOB) is None


async def test_a_reason_of_blanks_is_none(door, root):
    card, _ = await posted(door, root, {})
    view = await opened(door, card, "approval_reject_reason")
    ack = await door.slack.submit(BOB, view, {"reason": " \n "})
    assert set(ack.payload["errors"]) == {"reason"}
    assert door.service.decisions == []


async def test_a_rejection_by_someone_without_standing_says_why(door, root):
    card, _ = await posted(door, root, {})
    view = await opened(door, card, "approval_reject_reason", ALICE)
    await door.slack.submit(ALICE, view, {"reason": "no"})
    assert "Only an approver may decide this." in json.dumps(door.slack.screen(ALICE))


async def test_each_call_of_a_card_is_decided_by_its_own_buttons(door, root):
    card, (first, second) = await posted(door, root, {}, {"args_digest": "ab" * 32})
    await door.slack.click(BOB, OPS, card, "approval_reject", **press(card, second, "approval_reject"))
    await door.slack.click(BOB, OPS, card, "approval_approve", **press(card, first, "approval_approve"))
    assert [(d[0], d[1]) for d in door.service.decisions] == [
        (second.approval_id, Decision.REJECT),
        (first.approval_id, Decision.APPROVE),
    ]


def press(card, approval, action):
    """The block of this call's button."""
    for block in card["blocks"]:
        if any(
            e.get("value") == str(approval.approval_id) and e["action_id"] == action
            for e in block.get("elements", [])
            if "action_id" in e
        ):
            return {"block_id": block["block_id"]}
    raise AssertionError(f"no {action} for this call")


async def test_one_click_approves_all_that_the_clicker_may(door, root):
    card, calls = await posted(door, root, {}, {"args_digest": "ab" * 32}, {"args_digest": "cd" * 32})
    door.service.change(calls[1].approval_id, args_digest="ee" * 32)
    door.service.change(calls[2].approval_id, status=ApprovalStatus.REJECTED)
    await door.slack.click(BOB, OPS, card, "approval_approve_all")
    await door.errands.drain()
    assert [d[0] for d in door.service.decisions] == [calls[0].approval_id]
    (whisper,) = told(door)
    assert "abababababab: The arguments were changed since you saw them" in whisper
    assert "cdcdcdcdcdcd: Already rejected." in whisper


async def test_all_at_once_needs_standing_for_each(door, root):
    card, _ = await posted(door, root, {}, {})
    await door.slack.click(ALICE, OPS, card, "approval_approve_all")
    await door.errands.drain()
    assert door.service.decisions == []
    assert told(door)[0].count("Only an approver may decide this.") == 2


async def test_a_button_for_all_that_cannot_be_read_approves_nothing(door, root):
    card, (first, _) = await posted(door, root, {}, {})
    await door.slack.click(BOB, OPS, card, "approval_approve_all", value=str(first.approval_id))
    await door.errands.drain()
    assert door.service.decisions == []
    assert "names no approval" in told(door)[0]
