"""What was filled in on the forms about an approval, read into what the service takes. Pure."""

import re

from agent.approvals.grants import Remember, Scope
from agent.errors import Invalid
from bot.inputs import ABSENT, Field, Kind, Unreadable, value_of
from bot.payloads import OTHERS_FIELD, PEOPLE_FIELD, RULE_FIELD, SCOPE_FIELD, TIME_FIELD, Submission
from bot.views.refusal import BAD_FORM

FIELD_OF = {"scope": SCOPE_FIELD, "expires_in_s": TIME_FIELD, "args": RULE_FIELD}
"""Where each part of a grant is chosen."""
_NUMBER, _GAPS = re.compile(r"[0-9]{1,9}"), re.compile(r"[\s,;]+")


def text(sent: Submission, field: str) -> str | None:
    """Return the text of a field, or None where it holds nothing to read."""
    found = sent.filled.get(field)
    return found.strip() or None if isinstance(found, str) else None


def seconds(sent: Submission) -> int:
    """Return the time that was chosen."""
    chosen = text(sent, TIME_FIELD) or ""
    if not _NUMBER.fullmatch(chosen):
        raise Invalid(BAD_FORM)
    return int(chosen)


def remember(sent: Submission) -> Remember:
    """Return what need not be asked again. Raises Unreadable for a rule that is no JSON object."""
    scope = text(sent, SCOPE_FIELD)
    if scope not in list(Scope):
        raise Invalid(BAD_FORM)
    return Remember(Scope(scope), seconds(sent), _rule(text(sent, RULE_FIELD)))


def _rule(given: str | None) -> dict[str, object] | None:
    rule = value_of(Field((), Kind.JSON, {}, ABSENT, is_required=False), given)
    if rule is ABSENT:
        return None
    if not isinstance(rule, dict):
        raise Unreadable("The rule is a JSON Schema: {...}.")
    return rule


def approvers(sent: Submission) -> list[str]:
    """Return the approver entries: the people who were chosen, and what was typed."""
    people = sent.filled.get(PEOPLE_FIELD)
    typed = _GAPS.split(text(sent, OTHERS_FIELD) or "")
    return [*(people if isinstance(people, tuple) else ()), *(entry.removeprefix("@") for entry in typed if entry)]
