"""The menu of a pending call, and its forms for more time and for other approvers."""

from datetime import UTC, datetime

from agent.approvals.types import Approval
from bot.payloads import (
    CANCEL,
    EXTEND,
    EXTEND_FORM,
    FIELD,
    MORE,
    OTHERS_FIELD,
    PEOPLE_FIELD,
    REASSIGN,
    REASSIGN_FORM,
    REMEMBER,
    TIME_FIELD,
    WITHDRAW,
)
from bot.views.arguments import Room
from bot.views.blocks import Block, footnote, plain
from bot.views.forms import approval_form, text_input
from bot.views.people import moment, subject

HOUR, DAY = 3_600, 86_400
_TIMES = ((HOUR, "1 hour"), (8 * HOUR, "8 hours"), (DAY, "1 day"), (7 * DAY, "7 days"), (30 * DAY, "30 days"))
_MOST_PEOPLE, _OTHERS_LIMIT = 50, 2_000


def menu(approval: Approval, room: Room) -> Block:
    """Return what else can be done with a pending call; what nobody could do with it is left out."""
    offered = [(EXTEND, "More time…"), (REASSIGN, "Have others decide…"), (CANCEL, "Cancel my request")]
    if approval.votes:
        offered.insert(0, (WITHDRAW, "Take back my vote"))
    is_bound = approval.doors is not None or approval.fresh_login_s is not None
    if approval.quorum == 1 and not is_bound and room is not Room.FILE:
        offered.insert(0, (REMEMBER, "Approve and don't ask again…"))
    options = [{"text": plain(label), "value": f"{action} {approval.approval_id}"} for action, label in offered]
    return {"type": "overflow", "action_id": MORE, "options": options}


def choice(block_id: str, label: str, offered: list[tuple[str, str]]) -> Block:
    """Return an input to choose one of these values, by their labels; the first is chosen."""
    options = [{"text": plain(text), "value": value} for value, text in offered]
    element = {"type": "radio_buttons", "action_id": FIELD, "options": options, "initial_option": options[0]}
    return {"type": "input", "block_id": block_id, "label": plain(label), "element": element}


def extend_modal(approval: Approval) -> Block:
    """Return the form that gives people more time to decide: what is less than they have is not offered."""
    left = (approval.expires_at - datetime.now(UTC)).total_seconds()
    times = [(str(time), label) for time, label in _TIMES if time > left] or [(str(_TIMES[-1][0]), _TIMES[-1][1])]
    blocks = [
        subject(approval),
        footnote(f"Now it expires {moment(approval.expires_at)}."),
        choice(TIME_FIELD, "It can be decided, from now on, for", times),
    ]
    return approval_form(approval, EXTEND_FORM, "More time", "Give more time", blocks)


def reassign_modal(approval: Approval) -> Block:
    """Return the form that names who decides instead."""
    people = {"type": "multi_users_select", "action_id": FIELD, "max_selected_items": _MOST_PEOPLE}
    blocks: list[Block] = [
        subject(approval),
        footnote("They decide instead of who could until now; what others have voted counts no more."),
        {
            "type": "input",
            "block_id": PEOPLE_FIELD,
            "label": plain("People"),
            "optional": True,
            "element": people,
        },
        text_input(
            OTHERS_FIELD,
            "Groups, roles and accounts",
            "One on each line: a user group's id (S…), role:approver, or the username of an account here.",
            _OTHERS_LIMIT,
        ),
    ]
    return approval_form(approval, REASSIGN_FORM, "Have others decide", "Hand on", blocks)
