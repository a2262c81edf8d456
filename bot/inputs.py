"""One input of a form: how an argument's value is shown in it, and what is read of it. Pure.

What a person leaves alone is read exactly as it was; what can't be read exactly is refused, never rounded or trimmed.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final

from bot import mrkdwn
from bot.split import width

Schema = dict[str, Any]

TEXT_LIMIT = 3_000
LEFT_OUT, LEAVE_OUT = "out", "(leave out)"
"""The choice of an optional argument that is not to be given, as it is sent and as it reads."""
_EXACT_INTEGER = 2**53 - 1
_ENTITY = re.compile(r"&(?:amp|lt|gt);")
"""What Slack's own markup would show as one character, and might send back as it."""
_INTEGER = re.compile(r"-?[0-9]{1,40}")
_NUMBER = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,40})?")
_MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9:.]+([Zz]|[+-][0-9]{2}:[0-9]{2})")


class Absent:
    """The argument is not given at all: neither null nor empty."""


ABSENT: Final = Absent()


class Kind(StrEnum):
    """How a value is shown and filled in."""

    TEXT = "text"
    NUMBER = "number"
    DATE = "date"
    MOMENT = "moment"
    LINES = "lines"
    CHOICE = "choice"
    CHOICES = "choices"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Field:
    """One input: the argument at `path`, or all of them where that is empty, and its value as it stands."""

    path: tuple[str, ...]
    kind: Kind
    schema: Schema
    value: Any
    is_required: bool
    is_nullable: bool = False
    options: tuple[Any, ...] = ()
    field_id: str = ""

    @property
    def shown(self) -> str | tuple[str, ...] | None:
        """What the input holds when the form opens."""
        return _shown(self)

    @property
    def may_be_empty(self) -> bool:
        return not self.is_required or self.is_nullable or self.is_list or not self.shown

    @property
    def is_list(self) -> bool:
        return self.kind in (Kind.LINES, Kind.CHOICES)


class NotThisForm(Exception):
    """What was sent is not this form filled in: fields that it lacks or never had."""


class Unreadable(Exception):
    """A field can't be read; the message says why."""


def option_labels(options: tuple[Any, ...]) -> list[str]:
    """Return how options read: texts as they are, unless something else stands among them."""
    if all(isinstance(option, str) and mrkdwn.visible(option) == option == option.strip() for option in options):
        return [str(option) for option in options]
    return [mrkdwn.visible(_json(option)) for option in options]


def fits(field: Field) -> bool:
    """Whether Slack takes what the input holds."""
    return not isinstance(field.shown, str) or width(field.shown) <= TEXT_LIMIT


def gives_back(field: Field) -> bool:
    """Whether the input, left alone, is read as the value it was made for."""
    if isinstance(field.shown, str) and _ENTITY.search(field.shown):
        return False
    try:
        return fits(field) and same(value_of(field, field.shown), field.value)
    except Unreadable:
        return False


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same JSON: to Python, true is 1."""
    if one is ABSENT or other is ABSENT:
        return one is other
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _shown(field: Field) -> str | tuple[str, ...] | None:
    value, kind = field.value, field.kind
    if kind is Kind.CHOICE:
        chosen = _chosen(field, [value])
        return chosen[0] if chosen else LEFT_OUT if value is ABSENT and not field.is_required else None
    if value is ABSENT:
        return None
    if kind is Kind.JSON:
        return _json_text(value)
    if kind is Kind.CHOICES:
        return _chosen(field, value) if isinstance(value, list) else None
    if kind is Kind.LINES:
        return "\n".join(_line(item) for item in value) if isinstance(value, list) else None
    return _line(value)


def _line(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else _json(value)


def _chosen(field: Field, values: Sequence[Any]) -> tuple[str, ...]:
    return tuple(str(i) for value in values for i, option in enumerate(field.options) if same(option, value))


def value_of(field: Field, filled: str | tuple[str, ...] | None) -> Any:
    """Return the value filled in, or ABSENT. Raises Unreadable, NotThisForm."""
    if field.kind is Kind.CHOICE:
        return _choice(field, filled)
    if not filled:
        return _empty(field)
    if field.kind is Kind.CHOICES:
        return [_option(field, one) for one in filled] if isinstance(filled, tuple) else _misfit()
    if not isinstance(filled, str):
        return _misfit()
    if field.kind is Kind.JSON:
        return _from_json(filled)
    if field.kind is Kind.LINES:
        lines = [line.strip() for line in filled.split("\n")]
        return [_scalar(field.schema["items"], line) for line in lines if line]
    return _scalar(field.schema, filled)


def _empty(field: Field) -> Any:
    """What an empty input says: what was empty stays as it was; else the argument is left out, or null."""
    if field.value is None or field.value in ("", []):
        return field.value
    if not field.is_required:
        return ABSENT
    if field.is_nullable or field.is_list:
        return None if field.is_nullable else []
    raise Unreadable("This is needed: fill it in.")


def _choice(field: Field, filled: str | tuple[str, ...] | None) -> Any:
    if filled is None:
        return _empty(field)
    if filled == LEFT_OUT and not field.is_required:
        return ABSENT
    return _option(field, filled)


def _option(field: Field, chosen: str | tuple[str, ...]) -> Any:
    if not isinstance(chosen, str) or chosen not in [str(i) for i in range(len(field.options))]:
        return _misfit()
    return field.options[int(chosen)]


def _misfit() -> Any:
    raise NotThisForm


def _scalar(schema: Schema, text: str) -> Any:
    match schema.get("type"):
        case "integer" | "number" as kind:
            return _number(text.strip(), whole=kind == "integer")
        case "boolean":
            if text not in ("true", "false"):
                raise Unreadable(f"{_quoted(text)} is neither true nor false.")
            return text == "true"
        case _:
            return _text(schema, text)


def _text(schema: Schema, text: str) -> str:
    if mrkdwn.visible(text) != text or text != text.strip() or "\t" in text:
        raise Unreadable("This holds characters that can't be seen here: take them out.")
    if schema.get("format") == "date" and not _is_date(text):
        raise Unreadable(f"{_quoted(text)} is not a date such as 2026-11-23.")
    if schema.get("format") == "date-time" and not _is_moment(text):
        raise Unreadable(f"{_quoted(text)} is not a time such as 2026-11-23T08:00:00Z.")
    return text


def _is_date(text: str) -> bool:
    try:
        return len(text) == 10 and date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _is_moment(text: str) -> bool:
    try:
        return bool(_MOMENT.fullmatch(text)) and datetime.fromisoformat(text.upper()).tzinfo is not None
    except ValueError:
        return False


def _number(text: str, *, whole: bool) -> int | float:
    if _INTEGER.fullmatch(text):
        number = int(text)
        if abs(number) > _EXACT_INTEGER:
            raise Unreadable(f"{text} is too large to be kept exactly: its tool must take it as text.")
        return number
    if whole or not _NUMBER.fullmatch(text):
        raise Unreadable(f"{_quoted(text)} is not a {'whole ' if whole else ''}number.")
    number = float(text)
    if Decimal(repr(number)) != Decimal(text):
        raise Unreadable(f"{text} has more digits than can be kept exactly.")
    return number


def _quoted(text: str) -> str:
    return f"“{mrkdwn.cut(mrkdwn.visible(text), 40)}”"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _json_text(value: Any) -> str:
    """Return JSON in which nothing hides, on several lines where there is room for them."""
    for indent in (2, None):
        text = "".join(_escaped(char) for char in json.dumps(value, ensure_ascii=False, indent=indent))
        if _ENTITY.search(text):
            text = text.replace("&", "\\u0026")
        if width(text) <= TEXT_LIMIT:
            break
    return text


def _escaped(char: str) -> str:
    return char if mrkdwn.visible(char) == char else json.dumps(char)[1:-1]


def _from_json(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"This is not JSON that can be read exactly: {mrkdwn.cut(str(error), 150)}.") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")
