"""What may vary in a declared tool: parameters by name, what their values may be, and where they stand."""

import os
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import jsonschema_rs

from agent.tools.declared.files import Place

LONGEST = 200
"""Characters of a text parameter that names no limit of its own."""
MOST_ITEMS = 20
_REFERENCE = re.compile(r"\{([a-z][a-z0-9_]*)\}")
_KEYWORDS = (
    *("type", "description", "default", "enum", "pattern", "minLength", "maxLength", "minimum", "maximum"),
    *("minItems", "maxItems"),
)


class BadParameter(Exception):
    """What is wrong with a parameter's declaration, and in which part of it."""

    def __init__(self, problem: str, *place: str | int) -> None:
        super().__init__(problem)
        self.place = place


class Unfit(Exception):
    """A value that may not be passed on; the message is a sentence."""


@dataclass(frozen=True)
class Parameter:
    """One parameter and the JSON Schema of its values."""

    name: str
    schema: dict[str, Any]
    required: bool
    flag: bool
    under: tuple[str, ...]

    @classmethod
    def of(cls, name: str, declared: Mapping[str, Any]) -> "Parameter":
        schema = _schema(declared, ())
        under, flag = tuple(declared.get("under", ())), declared.get("flag", False)
        if flag and not all(isinstance(value, str) and value.startswith("-") for value in _values(declared)):
            raise BadParameter("a flag needs an `enum` of the options that it may be, each starting with `-`.")
        if flag and not _values(declared):
            raise BadParameter("a flag needs an `enum` of the options that it may be, each starting with `-`.")
        if under and declared["type"] != "string":
            raise BadParameter("only text can be a path `under` a folder.", "under")
        if "default" in declared and not _fits(schema, declared["default"]):
            raise BadParameter("the default is not one of the values that the parameter may have.", "default")
        return cls(name, schema, declared.get("required", "default" not in declared), flag, under)

    @property
    def default(self) -> Any:
        return self.schema.get("default")


def input_schema(parameters: Mapping[str, Parameter]) -> dict[str, Any]:
    """Return the JSON Schema of a call's arguments; nothing that isn't named gets in."""
    return {
        "type": "object",
        "properties": {name: parameter.schema for name, parameter in parameters.items()},
        "required": [name for name, parameter in parameters.items() if parameter.required],
        "additionalProperties": False,
    }


def values(parameters: Mapping[str, Parameter], args: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value of each parameter that has one; raises Unfit for one that the schema doesn't allow."""
    for name in args:
        if name not in parameters:
            raise Unfit(f"There is no parameter `{name}`.")
    found: dict[str, Any] = {}
    for name, parameter in parameters.items():
        value = args.get(name, parameter.default)
        if value is None:
            if parameter.required:
                raise Unfit(f"`{name}` is missing.")
            continue
        # The registry has looked already; a tool of this kind doesn't lean on its caller for it.
        if not _fits(parameter.schema, value):
            raise Unfit(f"`{name}` may not be that: see what it may be in the tool's schema.")
        for text in _texts(value):
            _plain(parameter, text)
        found[name] = value
    return found


def inert(parameter: Parameter, value: Any) -> list[str]:
    """Return the value as elements of a command, none of which a program takes for an option; or raise Unfit."""
    elements = [_element(item) for item in cast("list[Any]", value)] if isinstance(value, list) else [_element(value)]
    for element in elements:
        if element.startswith("-") and not parameter.flag:
            raise Unfit(f"`{parameter.name}` may not start with `-`: it would be read as an option.")
    return elements


def text_of(value: Any) -> str:
    """Return one value as text, as JSON writes it."""
    return _element(value)


def reference(text: str) -> str | None:
    """Return the parameter's name if the text is exactly `{name}`."""
    match = _REFERENCE.fullmatch(text)
    return match[1] if match else None


def references(text: str) -> list[str]:
    """Return the names of all `{name}` in the text."""
    return _REFERENCE.findall(text)


def filled(text: str, made: Mapping[str, str]) -> str:
    """Return the text with each `{name}` replaced once: a value that looks like one stays what it is."""
    return _REFERENCE.sub(lambda match: made[match[1]], text)


def _schema(declared: Mapping[str, Any], place: Place) -> dict[str, Any]:
    schema = {key: declared[key] for key in _KEYWORDS if key in declared}
    kind = declared["type"]
    if kind == "array":
        items = declared.get("items")
        if not items or items["type"] == "array":
            raise BadParameter("a list needs `items` of a plain type.", *place)
        return {"maxItems": MOST_ITEMS, **schema, "items": _schema(items, (*place, "items"))}
    if "pattern" in schema:
        # As one group: in ^a|b$ each end would bind only its own half.
        schema["pattern"] = f"^(?:{schema['pattern'][1:-1]})$"
        _check_pattern(schema["pattern"], (*place, "pattern"))
    if kind == "string":
        if not any(key in declared for key in ("pattern", "enum", "under")):
            raise BadParameter("text needs a `pattern`, an `enum` or `under`: say what it may be.", *place)
        return schema if "enum" in schema else {"maxLength": LONGEST, **schema}
    return schema


def _check_pattern(pattern: str, place: Place) -> None:
    try:
        jsonschema_rs.validator_for(
            {"type": "string", "pattern": pattern}, pattern_options=jsonschema_rs.RegexOptions(), offline=True
        )
    except ValueError as error:
        raise BadParameter("the pattern can't be used: write it without look-around and references.", *place) from error


def _fits(schema: dict[str, Any], value: Any) -> bool:
    validator = jsonschema_rs.validator_for(schema, pattern_options=jsonschema_rs.RegexOptions(), offline=True)
    return validator.is_valid(value)


def _values(declared: Mapping[str, Any]) -> list[Any]:
    return list(declared.get("enum") or declared.get("items", {}).get("enum") or ())


def _texts(value: Any) -> list[str]:
    items = cast("list[Any]", value) if isinstance(value, list) else [value]
    return [item for item in items if isinstance(item, str)]


def _plain(parameter: Parameter, text: str) -> None:
    """Refuse what no name, path or label has: control characters, and those that change how text looks."""
    for letter in text:
        if unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
            raise Unfit(f"`{parameter.name}` has an invisible or control character in it (U+{ord(letter):04X}).")
    if parameter.under:
        _inside(parameter, text)


def _inside(parameter: Parameter, text: str) -> None:
    allowed = f"`{parameter.name}` must be a path under {', '.join(parameter.under)}."
    if not text.startswith("/") or ".." in text.split("/"):
        raise Unfit(allowed)
    for path in (os.path.normpath(text), os.path.realpath(text)):
        roots = (os.path.normpath(root) for root in parameter.under)
        if not any(root == "/" or path == root or path.startswith(f"{root}/") for root in roots):
            raise Unfit(allowed)


def _element(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)
