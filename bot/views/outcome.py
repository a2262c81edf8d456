"""What stands on a settled card for people to do: say how an unknown outcome was, and have calls asked for again."""

from agent.approvals import doors
from agent.approvals.life import SAID
from agent.approvals.types import Action, Approval, Door, ExecutionStatus, Resolution
from bot import mrkdwn
from bot.payloads import (
    DONE_FORM,
    FAILED_FORM,
    MARK_DONE,
    MARK_FAILED,
    REASON_FIELD,
    RESULT_FIELD,
    REVOKE,
    RUN_AGAIN,
    SPARED,
)
from bot.views.blocks import Block, button, footnote, plain
from bot.views.forms import REASON_LIMIT, approval_form, text_input
from bot.views.people import moment, person, subject

_RESULT_LIMIT = 3_000
_SURE = {
    "title": plain("Run it again?"),
    "text": plain("Exactly this call runs once more. If it did run before, its effect comes twice."),
    "confirm": plain("Run it again"),
    "deny": plain("Leave it"),
}


def resolvable(approval: Approval, block_id: str) -> list[Block]:
    """Return the buttons for a call of which nobody knows how it ended."""
    if approval.execution is not ExecutionStatus.UNKNOWN:
        return []
    value = str(approval.approval_id)
    elements = [button("It was done…", MARK_DONE, value), button("It failed…", MARK_FAILED, value)]
    if doors.offers(approval, Door.SLACK):
        elements.insert(0, {**button("Run again", RUN_AGAIN, value), "confirm": _SURE})
    return [{"type": "actions", "block_id": block_id, "elements": elements}]


def resolution(word: Resolution) -> str:
    """Return who said what of an unknown outcome, and when."""
    reason = f": {mrkdwn.escape(mrkdwn.cut(word.reason, 200))}" if word.reason else ""
    return f"{person(word.by)} {SAID[word.action]} {moment(word.at)}{reason}"


def resolve_modal(approval: Approval, action: Action) -> Block:
    """Return the form for what somebody found out about a call's outcome."""
    is_done = action is Action.DONE
    blocks = [
        subject(approval),
        text_input(RESULT_FIELD, "What came of it", "It is told to the model as the call's result.", _RESULT_LIMIT),
        text_input(REASON_FIELD, "How you know", "It is shown on the card.", REASON_LIMIT),
    ]
    form, title = (DONE_FORM, "It was done") if is_done else (FAILED_FORM, "It failed")
    return approval_form(approval, form, title, "Say so", blocks)


def spared(approval: Approval) -> str | None:
    """Return by whose word, and until when, calls like this one are not asked for."""
    if (sparing := approval.sparing) is None:
        return None
    until = moment(sparing.expires_at)
    said = f"{person(sparing.by)} said that calls like this one need not be asked for until {until}"
    return f"{said}; ended {moment(sparing.revoked_at)}" if sparing.revoked_at else said


def revoking(approval: Approval) -> list[Block]:
    """Return the button that ends it."""
    sparing = approval.sparing
    if sparing is None or sparing.revoked_at is not None:
        return []
    press = button("Ask again from now on", REVOKE, str(sparing.grant_id))
    return [{"type": "actions", "block_id": f"{SPARED}{approval.approval_id}", "elements": [press]}]


def asked_again(approval: Approval) -> list[Block]:
    """Return both for a card of its own."""
    said = spared(approval)
    return [footnote(said), *revoking(approval)] if said else []
