"""Whether a call's arguments fit its tool: JSON Schema, checked in linear time and never over the network."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import jsonschema_rs

from agent.tools.base import ToolSpec, cleaned

SENTENCE_LIMIT = 400
_MOST_PROBLEMS = 100
_OLD_DRAFTS = ("draft-04", "draft-06", "draft-07")


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one argument, and where it stands."""

    path: tuple[str | int, ...]
    sentence: str


class UnusableSchema(Exception):
    """A tool's schema can't be checked against; the message says why."""


def validate(spec: ToolSpec, args: Mapping[str, Any]) -> str | None:
    """Return why `args` may not be given to the tool, as one sentence, or None.

    Arguments that the schema doesn't name are refused unless it allows them itself: a model can't smuggle
    `approved=true` past the people who read the card.
    """
    try:
        validator = _validator(json.dumps(spec.input_schema))
        validator.validate(dict(args))
    except jsonschema_rs.ValidationError as error:
        return _sentence(spec, error)
    except (UnusableSchema, TypeError, ValueError, RecursionError) as error:
        return _short(f"The arguments of `{spec.name}` can't be checked: {error}")
    return None


def problems(spec: ToolSpec, args: Mapping[str, Any]) -> list[Problem]:
    """Return all for which `validate` refuses these arguments, as far as each has a place."""
    try:
        errors = list(_validator(json.dumps(spec.input_schema)).iter_errors(dict(args)))
    except (UnusableSchema, TypeError, ValueError, RecursionError):
        return []
    return [Problem(_place(error), _short(f"{error.message}.")) for error in errors[:_MOST_PROBLEMS]]


def _place(error: jsonschema_rs.ValidationError) -> tuple[str | int, ...]:
    missing = getattr(error.kind, "property", None)
    return (*error.instance_path, missing) if isinstance(missing, str) else tuple(error.instance_path)


def schema_problem(schema: Mapping[str, Any]) -> str | None:
    """Return why no arguments can be checked against `schema`, or None."""
    try:
        _validator(json.dumps(schema))
    except (UnusableSchema, TypeError, ValueError, RecursionError) as error:
        return _short(str(error))
    return None


def misfit(schema: Mapping[str, Any], value: Any) -> str | None:
    """Return why a value doesn't fit a schema, as one sentence, or None; raises UnusableSchema."""
    try:
        _form_validator(json.dumps(schema)).validate(value)
    except jsonschema_rs.ValidationError as error:
        return _short(f"{error.message}.")
    except (TypeError, ValueError, RecursionError) as error:
        return _short(f"This can't be checked: {error}.")
    return None


@lru_cache(maxsize=256)
def _form_validator(text: str) -> jsonschema_rs.Validator:
    try:
        options = jsonschema_rs.RegexOptions()
        return jsonschema_rs.validator_for(
            json.loads(text), pattern_options=options, offline=True, validate_formats=True
        )
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError) as error:
        raise UnusableSchema(f"the schema is not usable JSON Schema ({error.message})") from error


@lru_cache(maxsize=1024)
def _validator(text: str) -> jsonschema_rs.Validator:
    schema = _closed(json.loads(text))
    try:
        # The linear engine knows no look-around; in return no pattern can hold the event loop.
        return jsonschema_rs.validator_for(schema, pattern_options=jsonschema_rs.RegexOptions(), offline=True)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError) as error:
        raise UnusableSchema(f"its schema is not usable JSON Schema ({error.message})") from error


def _closed(schema: Any) -> dict[str, Any]:
    """Return the schema with unknown top-level arguments refused where it doesn't say."""
    if not isinstance(schema, dict):
        raise UnusableSchema("its schema is not a JSON object")
    closed = cast("dict[str, Any]", schema)
    if "additionalProperties" in closed or "unevaluatedProperties" in closed:
        return closed
    # Only `unevaluatedProperties` sees what allOf and $ref name; drafts before 2019-09 don't have it.
    old = any(draft in str(closed.get("$schema", "")) for draft in _OLD_DRAFTS)
    return {**closed, "additionalProperties" if old else "unevaluatedProperties": False}


def _sentence(spec: ToolSpec, error: jsonschema_rs.ValidationError) -> str:
    unexpected = getattr(error.kind, "unexpected", None)
    if unexpected and not error.instance_path:
        known = ", ".join(f"`{name}`" for name in spec.input_schema.get("properties", {})) or "no arguments"
        return _short(f"`{spec.name}` has no argument `{unexpected[0]}`; it takes {known}.")
    where = ".".join(str(step) for step in error.instance_path)
    return _short(
        f"Argument `{where}` of `{spec.name}`: {error.message}." if where else f"`{spec.name}`: {error.message}."
    )


def _short(sentence: str) -> str:
    line = " ".join(cleaned(sentence).split())
    return line if len(line) <= SENTENCE_LIMIT else f"{line[:SENTENCE_LIMIT]}…"
