"""A question's form: what of a tool's schema can be asked, and whether an answer fits it. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast

from typing_extensions import TypeIs

from agent.tools.arguments import UnusableSchema, misfit
from agent.tools.base import cleaned

MESSAGE_LIMIT = 2_500
FIELDS, CHOICES = 20, 100
NAME_LIMIT, TITLE_LIMIT, DESCRIPTION_LIMIT, CHOICE_LIMIT = 100, 140, 500, 200
TEXT_LIMIT = 3_000
"""Characters of one answered text; Slack's inputs take no more."""
ANSWER_LIMIT = 16_000
"""Characters of a whole answer as JSON."""
_FORMATS = ("email", "uri", "date", "date-time")


class Kind(StrEnum):
    """What a field asks for."""

    TEXT = "text"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    CHOICE = "choice"


class Unaskable(Exception):
    """This schema is no flat form; the message says why, as it reads after 'a form that'."""


@dataclass(frozen=True, slots=True)
class Field:
    """One input of a form."""

    name: str
    kind: Kind
    title: str
    description: str | None
    required: bool
    default: Any = None
    choices: tuple[tuple[str, str], ...] = ()
    """Value and label."""
    format: str | None = None
    most: int = TEXT_LIMIT


def shown(text: str, limit: int) -> str:
    """Return a tool's text, storable and in at most `limit` characters."""
    text = cleaned(text[: limit + 1])
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def read(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema in our own shape, closed and with nothing in it that we don't know; raises Unaskable."""
    properties: Any = schema.get("properties", {})
    if not isinstance(properties, dict):
        raise Unaskable("names no fields")
    given = cast("dict[str, Any]", properties)
    if len(given) > FIELDS:
        raise Unaskable(f"has {len(given)} fields; {FIELDS} is the most")
    required: Any = schema.get("required", [])
    wanted = cast("list[Any]", required) if isinstance(required, list) else []
    return {
        "type": "object",
        "properties": {_name(name): _property(name, value) for name, value in given.items()},
        "required": [name for name in given if name in wanted],
        "additionalProperties": False,
    }


def _name(name: str) -> str:
    if not 0 < len(name) <= NAME_LIMIT or cleaned(name) != name:
        raise Unaskable(f"has a field whose name is not one of 1 to {NAME_LIMIT} characters")
    return name


def _property(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Unaskable(f"has a field `{name}` that is no schema")
    given = cast("dict[str, Any]", value)
    made = _typed(name, given)
    for key, limit in (("title", TITLE_LIMIT), ("description", DESCRIPTION_LIMIT)):
        if isinstance(given.get(key), str) and given[key].strip():
            made[key] = shown(given[key], limit)
    default = given.get("default")
    if default is not None and len(str(default)) <= TEXT_LIMIT and misfit(made, default) is None:
        made["default"] = default
    return made


def _typed(name: str, given: dict[str, Any]) -> dict[str, Any]:
    match given.get("type"):
        case "string" if "enum" in given or "oneOf" in given:
            return {"type": "string", "oneOf": [{"const": v, "title": t} for v, t in _choices(name, given)]}
        case "string":
            return _text(given)
        case "integer" | "number" as kind:
            bounds = {key: given[key] for key in ("minimum", "maximum") if _is_number(given.get(key))}
            return {"type": kind, **bounds}
        case "boolean":
            return {"type": "boolean"}
        case _:
            raise Unaskable(f"has a field `{name}` that is neither text, number, yes or no, nor a choice")


def _text(given: dict[str, Any]) -> dict[str, Any]:
    least, most = given.get("minLength"), given.get("maxLength")
    made: dict[str, Any] = {"type": "string", "maxLength": TEXT_LIMIT}
    if _is_number(most) and 0 < most < TEXT_LIMIT:
        made["maxLength"] = int(most)
    if _is_number(least) and 0 < least <= made["maxLength"]:
        made["minLength"] = int(least)
    if given.get("format") in _FORMATS:
        made["format"] = given["format"]
    pattern = given.get("pattern")
    if isinstance(pattern, str) and len(pattern) <= DESCRIPTION_LIMIT and _is_usable({**made, "pattern": pattern}):
        made["pattern"] = pattern
    return made


def _is_usable(schema: dict[str, Any]) -> bool:
    try:
        misfit(schema, "")
    except UnusableSchema:
        # A pattern that can't be matched in linear time is left to the tool itself.
        return False
    return True


def _is_number(value: Any) -> TypeIs[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15


def _choices(name: str, given: dict[str, Any]) -> list[tuple[str, str]]:
    listed, labels = given.get("enum"), given.get("enumNames")
    if isinstance(listed, list):
        values = cast("list[Any]", listed)
        named = (
            cast("list[Any]", labels) if isinstance(labels, list) and len(cast("Any", labels)) == len(values) else []
        )
        pairs = list(zip(values, named or values, strict=True))
    else:
        options = cast("list[Any]", given["oneOf"]) if isinstance(given["oneOf"], list) else []
        dicts = [cast("dict[str, Any]", o) for o in options if isinstance(o, dict)]
        pairs = [(o.get("const"), o.get("title", o.get("const"))) for o in dicts]
    if not 0 < len(pairs) <= CHOICES:
        raise Unaskable(f"has a field `{name}` with {len(pairs)} choices; 1 to {CHOICES} can be shown")
    made: dict[str, str] = {}
    for value, label in pairs:
        if not isinstance(value, str) or len(value) > CHOICE_LIMIT or cleaned(value) != value:
            raise Unaskable(f"has a field `{name}` with a choice that is no text of up to {CHOICE_LIMIT} characters")
        made[value] = shown(label, CHOICE_LIMIT) if isinstance(label, str) and label.strip() else value
    return list(made.items())


def fields(schema: Mapping[str, Any]) -> list[Field]:
    """Return the inputs of a form that `read` made."""
    return [
        Field(
            name,
            _kind(made),
            made.get("title", name),
            made.get("description"),
            name in schema.get("required", ()),
            made.get("default"),
            tuple((choice["const"], choice["title"]) for choice in made.get("oneOf", ())),
            made.get("format"),
            made.get("maxLength", TEXT_LIMIT),
        )
        for name, made in schema.get("properties", {}).items()
    ]


def _kind(made: dict[str, Any]) -> Kind:
    if "oneOf" in made:
        return Kind.CHOICE
    return Kind.TEXT if made["type"] == "string" else Kind(made["type"])


def check(schema: Mapping[str, Any], content: Mapping[str, Any]) -> dict[str, str]:
    """Return what is wrong with an answer, by field; empty where it fits."""
    if len(json.dumps(dict(content))) > ANSWER_LIMIT:
        return {"": f"The answer is longer than {ANSWER_LIMIT} characters."}
    known: dict[str, dict[str, Any]] = schema.get("properties", {})
    wrong: dict[str, str] = {}
    if unknown := content.keys() - known.keys():
        wrong[""] = f"The form has no field `{shown(min(unknown), NAME_LIMIT)}`."
    for name, made in known.items():
        if name not in content:
            if name in schema.get("required", ()):
                wrong[name] = "This must be filled in."
        elif (why := misfit(_bare(made), content[name])) is not None:
            wrong[name] = why
    return wrong


def _bare(made: dict[str, Any]) -> dict[str, Any]:
    if "oneOf" in made:
        return {"enum": [choice["const"] for choice in made["oneOf"]]}
    return {key: value for key, value in made.items() if key not in ("title", "description", "default")}
