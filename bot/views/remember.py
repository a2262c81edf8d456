"""The form that approves a call and spares later ones like it, with the rule that will be saved."""

import json

from agent.approvals.grants import Scope
from agent.approvals.types import Approval
from agent.remembering import Offer
from bot import mrkdwn
from bot.inputs import TEXT_LIMIT, Field, Kind, fits
from bot.payloads import REMEMBER_FORM, RULE_FIELD, SCOPE_FIELD, TIME_FIELD
from bot.views.approval import asked, digest_shown
from bot.views.blocks import Block, box, footnote, rich
from bot.views.changes import changes
from bot.views.forms import approval_form, text_input
from bot.views.more import DAY, HOUR, choice
from bot.views.people import subject

_TIMES = ((HOUR, "1 hour"), (8 * HOUR, "8 hours"), (DAY, "1 day"), (7 * DAY, "7 days"), (30 * DAY, "30 days"))
_SCOPES = {
    Scope.THREAD: "Those of whoever asked for this one, in this thread",
    Scope.ME: "Mine, in every thread",
}
_BOX, _VIEW_BLOCKS, _VIEW_BYTES = 2_800, 80, 180_000


def remember_modal(approval: Approval, offer: Offer) -> Block | None:
    """Return the form, or None where the rule is too long to be read in Slack."""
    rule = mrkdwn.visible(json.dumps(offer.matches, ensure_ascii=False, indent=2))
    blocks = [
        subject(approval),
        *asked(approval),
        *changes(approval),
        footnote("Approves this call. Later calls are not asked for, where their arguments fit exactly this rule:"),
        *[rich(box(rule[i : i + _BOX])) for i in range(0, len(rule), _BOX)],
        footnote(f"Digest `{digest_shown(approval.args_digest)}`"),
        choice(SCOPE_FIELD, "Whose calls", [(scope, _SCOPES[scope]) for scope in offer.scopes]),
        choice(TIME_FIELD, "For how long", _times(offer.longest_s)),
    ]
    field = rule_field(offer)
    if offer.may_widen and fits(field):
        hint = "As an admin you may save another JSON Schema: other calls of this tool that fit it are not asked for."
        blocks.append(text_input(RULE_FIELD, "The rule", hint, TEXT_LIMIT, shown=str(field.shown)))
    if len(blocks) > _VIEW_BLOCKS or len(json.dumps(blocks)) > _VIEW_BYTES:
        return None
    return approval_form(approval, REMEMBER_FORM, "Approve, don't ask again", "Approve", blocks)


def rule_field(offer: Offer) -> Field:
    """Return the input of the rule as JSON in which nothing hides."""
    return Field((), Kind.JSON, {}, offer.matches, is_required=False)


def _times(longest_s: int) -> list[tuple[str, str]]:
    found = [(str(time), label) for time, label in _TIMES if time <= longest_s]
    return found or [(str(longest_s), f"{longest_s // 60} minutes" if longest_s >= 120 else f"{longest_s} seconds")]
