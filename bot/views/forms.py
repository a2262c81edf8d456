"""The modals that people fill in: other arguments for a call, and why it was rejected."""

import json

from agent.approvals.types import Approval
from bot import mrkdwn
from bot.forms import Form
from bot.inputs import LEAVE_OUT, LEFT_OUT, Field, Kind, option_labels
from bot.payloads import EDIT_FORM, FIELD, INSTEAD_FIELD, REASON_FIELD, REASON_FORM
from bot.views.blocks import Block, footnote, plain
from bot.views.people import subject

REASON_LIMIT, INSTEAD_LIMIT = 2_000, 3_000
_VIEW_BYTES = 180_000
_LABEL, _HINT, _PLACEHOLDER, _LONG = 150, 300, 140, 100
_BOUNDS = {
    "minimum": "at least",
    "maximum": "at most",
    "minLength": "characters, at least",
    "maxLength": "characters, at most",
    "minItems": "entries, at least",
    "maxItems": "entries, at most",
}
_HOW = {
    Kind.LINES: "One entry on each line.",
    Kind.MOMENT: "A time with its zone, such as 2026-11-23T08:00:00Z.",
    Kind.JSON: "As JSON.",
}


def edit_modal(approval: Approval, form: Form) -> Block | None:
    """Return the form for a call's arguments, or None where Slack would not take it."""
    blocks = [
        subject(approval),
        footnote(
            "*Approve this* approves the call with the arguments below. Whoever approved others has to look again."
        ),
        *(_input(field) for field in form.fields),
    ]
    if len(json.dumps(blocks)) > _VIEW_BYTES:
        return None
    return approval_form(approval, EDIT_FORM, "Edit and approve", "Approve this", blocks)


def reason_modal(approval: Approval) -> Block:
    """Return the form that asks why a call is rejected, and what is wanted instead."""
    blocks = [
        subject(approval),
        text_input(
            REASON_FIELD,
            "Reason",
            "It is shown in the thread and told to the model.",
            REASON_LIMIT,
            optional=False,
        ),
        text_input(
            INSTEAD_FIELD,
            "Tell it what to do instead",
            "It becomes your message in this thread, and the agent's next turn.",
            INSTEAD_LIMIT,
        ),
    ]
    return approval_form(approval, REASON_FORM, "Reject with a reason", "Reject", blocks)


def text_input(block_id: str, label: str, hint: str, limit: int, *, optional: bool = True, shown: str = "") -> Block:
    """Return an input for text of several lines, on a form that is not a tool's."""
    element = {"type": "plain_text_input", "action_id": FIELD, "multiline": True, "max_length": limit}
    return {
        "type": "input",
        "block_id": block_id,
        "label": plain(label),
        "hint": plain(hint),
        "optional": optional,
        "element": {**element, "initial_value": shown} if shown else element,
    }


def approval_form(approval: Approval, form: str, title: str, submit: str, blocks: list[Block]) -> Block:
    """Return a form about an approval: it names it, and what is shown of it and where."""
    return {
        "type": "modal",
        "callback_id": form,
        "private_metadata": f"{approval.approval_id} {approval.args_digest} {approval.session_id}",
        "title": plain(title),
        "submit": plain(submit),
        "close": plain("Close"),
        "blocks": blocks,
    }


def _input(field: Field) -> Block:
    block: Block = {
        "type": "input",
        "block_id": field.field_id,
        "label": plain(_label(field)),
        "optional": field.may_be_empty,
        "element": {**_element(field), "action_id": FIELD},
    }
    hint = _hint(field)
    return {**block, "hint": plain(hint)} if hint else block


def _label(field: Field) -> str:
    if not field.path:
        return "All arguments"
    name, title = " › ".join(field.path), field.schema.get("title")
    shown = f"{title} ({name})" if isinstance(title, str) and title.strip() and title != name else name
    return _one_line(shown, _LABEL) or '""'


def _hint(field: Field) -> str:
    described = field.schema.get("description")
    parts = [_HOW.get(field.kind, "")]
    if field.path:
        parts.insert(0, _one_line(described, _HINT) if isinstance(described, str) else "")
        parts += [
            f"{word} {field.schema[key]}".capitalize() + "." for key, word in _BOUNDS.items() if _is_bound(field, key)
        ]
    return " ".join(part for part in parts if part)


def _is_bound(field: Field, key: str) -> bool:
    bound = field.schema.get(key)
    return isinstance(bound, int | float) and not isinstance(bound, bool) and len(str(bound)) <= 40


def _one_line(text: str, limit: int) -> str:
    return mrkdwn.cut(" ".join(mrkdwn.visible(text).split()), limit)


def _element(field: Field) -> Block:
    shown = field.shown
    match field.kind:
        case Kind.CHOICE:
            return _choice(field, shown)
        case Kind.CHOICES:
            options = _options(field)
            chosen = [options[int(one)] for one in shown or ()]
            return {
                "type": "multi_static_select",
                "options": options,
                **({"initial_options": chosen} if chosen else {}),
            }
        case Kind.DATE:
            return {"type": "datepicker", **({"initial_date": shown} if shown else {})}
        case Kind.NUMBER:
            decimal = field.schema.get("type") != "integer"
            return {"type": "number_input", "is_decimal_allowed": decimal, **_initial(field), **_placeholder(field)}
        case _:
            return {"type": "plain_text_input", "multiline": _is_long(field), **_initial(field), **_placeholder(field)}


def _choice(field: Field, shown: object) -> Block:
    options = _options(field)
    if not field.is_required:
        options.append({"text": plain(LEAVE_OUT), "value": LEFT_OUT})
    initial = next((option for option in options if option["value"] == shown), None)
    few = field.schema.get("type") == "boolean" or len(options) <= 3
    kind = "radio_buttons" if few else "static_select"
    return {"type": kind, "options": options, **({"initial_option": initial} if initial else {})}


def _options(field: Field) -> list[Block]:
    return [{"text": plain(label), "value": str(i)} for i, label in enumerate(option_labels(field.options))]


def _initial(field: Field) -> Block:
    return {"initial_value": field.shown} if field.shown else {}


def _is_long(field: Field) -> bool:
    if field.kind in (Kind.LINES, Kind.JSON):
        return True
    return isinstance(field.shown, str) and ("\n" in field.shown or len(field.shown) > _LONG)


def _placeholder(field: Field) -> Block:
    """An example or the default, where an empty input shows it."""
    examples = field.schema.get("examples")
    found = examples[0] if isinstance(examples, list) and examples else field.schema.get("default")
    if not isinstance(found, str | int | float) or isinstance(found, bool):
        return {}
    text = _one_line(str(found), _PLACEHOLDER)
    return {"placeholder": plain(text)} if text else {}
