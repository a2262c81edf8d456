"""Parameters in a request: path segments, query values and JSON bodies, each encoded for its place."""

from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import quote

from agent.tools.declared.declaration import BadTool, Declaration
from agent.tools.declared.parameters import Unfit, filled, reference, references, text_of


def check(declaration: Declaration, template: Any, *place: str | int) -> set[str]:
    """Return the parameters that a template names; raises BadTool for one that the tool doesn't have."""
    if isinstance(template, dict):
        parts: Any = cast("dict[str, Any]", template).items()
    elif isinstance(template, list):
        parts = enumerate(cast("list[Any]", template))
    else:
        names = set(references(template)) if isinstance(template, str) else set[str]()
        for name in sorted(names - set(declaration.parameters)):
            raise BadTool(f"`{{{name}}}` is not among the tool's `parameters`.", *place)
        return names
    found: set[str] = set()
    for key, part in parts:
        found |= check(declaration, part, *place, key)
    return found


def path(template: str, given: Mapping[str, Any]) -> str:
    """Return the path with each value encoded inside its segment; raises Unfit where one would leave it."""
    made: dict[str, str] = {}
    for name in references(template):
        if name not in given:
            raise Unfit(f"`{name}` is missing.")
        text = text_of(given[name])
        # Some servers decode %2F before they route, and then .. counts.
        if "\\" in text or any(part in ("", ".", "..") for part in text.split("/")):
            raise Unfit(f"`{name}` may not be empty or hold `.`, `..` or empty steps of a path.")
        made[name] = quote(text, safe="")
    segments = [filled(segment, made) for segment in template.split("/")]
    if any(segment in (".", "..") for segment in segments):
        raise Unfit("The path would step out of its place.")
    return "/".join(segments)


def query(template: Mapping[str, Any], given: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the query's pairs; one whose parameter has no value is left out."""
    found: list[tuple[str, str]] = []
    for key, value in template.items():
        if not isinstance(value, str):
            found.append((key, text_of(value)))
        elif (name := reference(value)) is not None:
            many = given.get(name, [])
            found += [(key, text_of(item)) for item in (cast("list[Any]", many) if isinstance(many, list) else [many])]
        elif all(name in given for name in references(value)):
            found.append((key, filled(value, {name: text_of(given[name]) for name in references(value)})))
    return found


def body(template: Any, given: Mapping[str, Any]) -> Any:
    """Return the JSON value: `{name}` alone becomes the value itself, inside text its text."""
    if isinstance(template, dict):
        return {
            key: body(part, given)
            for key, part in cast("dict[str, Any]", template).items()
            if not (isinstance(part, str) and (name := reference(part)) and name not in given)
        }
    if isinstance(template, list):
        return [body(part, given) for part in cast("list[Any]", template)]
    if not isinstance(template, str):
        return template
    if (name := reference(template)) is not None:
        return given.get(name)
    if missing := [name for name in references(template) if name not in given]:
        raise Unfit(f"`{missing[0]}` is missing.")
    return filled(template, {name: text_of(given[name]) for name in references(template)})
