"""A running tool's question: the message that asks it, the form that answers it, and what a filled-in form says."""

from typing import Any

from agent.questions.form import Field, Kind, fields
from agent.questions.types import Question, QuestionStatus
from bot import mrkdwn
from bot.payloads import ANSWER_QUESTION, DECLINE_QUESTION, FORM, Filled
from bot.views.blocks import Block, Rendered, button, footnote, line, ours, plain, rich, run, words
from bot.views.people import moment, person

WARNING = "These are the tool's words, not ours. Never enter passwords or other secrets here."
_LABEL, _HINT, _OPTION, _VALUE = 150, 500, 75, "value"
_HEADS = {
    QuestionStatus.OPEN: "A running tool asks",
    QuestionStatus.ANSWERED: "Answered",
    QuestionStatus.DECLINED: "Declined: the tool goes on without an answer",
    QuestionStatus.EXPIRED: "Expired: nobody answered in time, and the tool heard that",
    QuestionStatus.CANCELLED: "Cancelled: the call ended before an answer reached it",
}
_BOOLEANS = (("true", "Yes"), ("false", "No"))


def question_card(question: Question) -> Rendered:
    """Return the message as the question stands; what was answered is never on it."""
    head = f"*{_HEADS[question.status]}:* {_source(question)}\nFor {person(question.asked_of)}"
    blocks = [ours(head)]
    if question.message:
        blocks.append(words(question.message))
    if question.is_open:
        value = str(question.question_id)
        answer, decline = (
            button("Answer", ANSWER_QUESTION, value, "primary"),
            button("Decline", DECLINE_QUESTION, value),
        )
        blocks += [footnote(WARNING), {"type": "actions", "elements": [answer, decline]}]
        blocks.append(footnote(f"Only {person(question.asked_of)} can answer · expires {moment(question.expires_at)}"))
    elif question.settled_by is not None and question.settled_at is not None:
        blocks.append(footnote(f"{person(question.settled_by)} {moment(question.settled_at)}"))
    text = f"{_HEADS[question.status]}: {mrkdwn.escape(question.tool_name)}"
    return Rendered(text, tuple(blocks))


def _source(question: Question) -> str:
    tool = mrkdwn.escape(question.tool_name).replace("`", "'")
    server = mrkdwn.escape(question.server).replace("`", "'") if question.server else None
    return f"`{tool}` of the server `{server}`" if server else f"`{tool}`"


def question_form(question: Question) -> Block:
    """Return the modal with an input for each field."""
    source = f"{question.tool_name} of {question.server}" if question.server else question.tool_name
    inputs = [_input(i, field) for i, field in enumerate(fields(question.schema))]
    return {
        "type": "modal",
        "callback_id": FORM,
        "private_metadata": str(question.question_id),
        "title": plain("A tool asks"),
        "submit": plain("Answer"),
        "close": plain("Close"),
        "blocks": [
            rich(line(run(mrkdwn.visible(source), bold=True))),
            words(question.message),
            footnote(WARNING),
            *inputs,
        ],
    }


def _input(i: int, field: Field) -> Block:
    block: Block = {
        "type": "input",
        "block_id": _block(i),
        "label": plain(_short(field.title, _LABEL)),
        "element": {**_element(field), "action_id": _VALUE},
        "optional": not field.required,
    }
    if field.description:
        block["hint"] = plain(_short(field.description, _HINT))
    return block


def _short(text: str, limit: int) -> str:
    return mrkdwn.cut(" ".join(mrkdwn.visible(text).split()), limit) or "…"


def _block(i: int) -> str:
    return f"field:{i}"


def _element(field: Field) -> Block:
    if field.kind in (Kind.CHOICE, Kind.BOOLEAN):
        return _select(field)
    initial = {} if field.default is None else {"initial_value": str(field.default)}
    if field.kind in (Kind.INTEGER, Kind.NUMBER):
        return {"type": "number_input", "is_decimal_allowed": field.kind is Kind.NUMBER, **initial}
    if field.format == "email":
        return {"type": "email_text_input", **initial}
    if field.format == "uri":
        return {"type": "url_text_input", **initial}
    return {"type": "plain_text_input", "multiline": field.most > 200, "max_length": field.most, **initial}


def _select(field: Field) -> Block:
    # An option's value is its place in the list: what the tool calls it may be longer than Slack's values.
    labels = [label for _, label in (_BOOLEANS if field.kind is Kind.BOOLEAN else field.choices)]
    options = [{"text": plain(_short(label, _OPTION)), "value": str(n)} for n, label in enumerate(labels)]
    chosen = [n for n, value in enumerate(_values(field)) if value == field.default and field.default is not None]
    initial = {"initial_option": options[chosen[0]]} if chosen else {}
    return {"type": "static_select", "options": options, **initial}


def _values(field: Field) -> list[Any]:
    return [True, False] if field.kind is Kind.BOOLEAN else [value for value, _ in field.choices]


def content(question: Question, filled: Filled) -> dict[str, Any]:
    """Return what a filled-in form says, as the question's schema counts it; what was left empty is not in it."""
    said = {field.name: _said(field, filled.values.get(_block(i))) for i, field in enumerate(fields(question.schema))}
    return {name: value for name, value in said.items() if value is not None}


def _said(field: Field, raw: str | None) -> Any:
    if raw is None or raw == "":
        return None
    try:
        if field.kind in (Kind.CHOICE, Kind.BOOLEAN):
            return _values(field)[int(raw)]
        if field.kind is Kind.INTEGER:
            return int(raw)
        return float(raw) if field.kind is Kind.NUMBER else raw
    except (ValueError, IndexError):
        return raw  # which the schema then refuses


def errors(question: Question, wrong: dict[str, str]) -> dict[str, str] | None:
    """Return what is wrong by the block that shows it, or None where it is about no single field."""
    places = {field.name: _block(i) for i, field in enumerate(fields(question.schema))}
    if not wrong or not wrong.keys() <= places.keys():
        return None
    return {places[name]: mrkdwn.cut(mrkdwn.visible(why), 300) for name, why in wrong.items()}
