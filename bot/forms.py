"""Forms for a call's arguments: JSON Schema to inputs, and what was filled in back to arguments. Pure.

A value that an input of Slack's would not give back to the last character (hidden characters, deep structures, odd
numbers) is edited as JSON; so are all arguments together, where the schema is more than a list of them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bot.inputs import (
    ABSENT,
    LEAVE_OUT,
    Field,
    Kind,
    NotThisForm,
    Schema,
    Unreadable,
    fits,
    gives_back,
    option_labels,
    value_of,
)
from bot.split import width

Filled = Mapping[str, str | tuple[str, ...] | None]
"""What was filled in, by the field's id: a text, the chosen options, or nothing."""

MOST_FIELDS = 90
_MOST_OPTIONS, _OPTION_TEXT = 99, 75
_REF = re.compile(r"#/(\$defs|definitions)/([^/]+)")
_COMBINED = {"$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "not", "if", "patternProperties", "prefixItems"}


@dataclass(frozen=True, slots=True)
class Form:
    """The inputs for one call's arguments; the same schema and arguments always make the same form."""

    fields: tuple[Field, ...]

    def field_at(self, path: Sequence[str | int]) -> Field:
        """Return the field that holds what stands at this path, or the nearest one."""
        wanted = tuple(str(step) for step in path)

        def common(field: Field) -> int:
            same = 0
            for one, other in zip(field.path, wanted, strict=False):
                if one != other:
                    break
                same += 1
            return same

        return max(self.fields, key=common)


class BadFields(Exception):
    """What was filled in can't be read: a sentence for each field, by its id."""

    def __init__(self, errors: dict[str, str]) -> None:
        super().__init__("; ".join(errors.values()))
        self.errors = errors


def form(schema: Schema, args: Mapping[str, Any]) -> Form | None:
    """Return the form, as one JSON field where the schema is not a plain list of arguments; None: it's too large."""
    for fields in (_of_object(schema, args), [_json_field((), schema, dict(args), required=True)]):
        if fields and len(fields) <= MOST_FIELDS and all(fits(field) for field in fields):
            return Form(tuple(replace(field, field_id=f"field:{i}") for i, field in enumerate(fields)))
    return None


def read(form: Form, filled: Filled) -> dict[str, Any]:
    """Return the arguments as filled in. Raises BadFields, NotThisForm."""
    if set(filled) != {field.field_id for field in form.fields}:
        raise NotThisForm
    args: dict[str, Any] = {}
    errors: dict[str, str] = {}
    for field in form.fields:
        try:
            _place(args, field, value_of(field, filled[field.field_id]))
        except Unreadable as error:
            errors[field.field_id] = str(error)
    if errors:
        raise BadFields(errors)
    return args


def _place(args: dict[str, Any], field: Field, value: Any) -> None:
    """Put a value where it belongs; an object all of whose arguments are left out is left out itself."""
    if value is ABSENT:
        return
    if not field.path:
        if not isinstance(value, dict):
            raise Unreadable("All arguments together are one JSON object: {...}.")
        args.update(value)
        return
    *parents, name = field.path
    for parent in parents:
        args = args.setdefault(parent, {})
    args[name] = value


def _of_object(schema: Schema, args: Mapping[str, Any]) -> list[Field] | None:
    """Return a field for each argument, or None where the schema doesn't simply list them."""
    properties = _properties(schema, args)
    if properties is None:
        return None
    fields: list[Field] = []
    for name, given in properties.items():
        inner, is_nullable = _resolved(given, schema)
        value, required = args.get(name, ABSENT), name in _required(schema)
        nested = _of_nested(name, inner, schema, value, required=required)
        fields += nested or [_field((name,), inner, schema, value, required=required, is_nullable=is_nullable)]
    return fields


def _of_nested(name: str, inner: Schema, root: Schema, value: Any, *, required: bool) -> list[Field] | None:
    """Return the fields of an object one level down. One that is absent, or empty, has to come back as such."""
    is_absent = value is ABSENT
    if (
        inner.get("type") != "object"
        or (is_absent and required)
        or not (is_absent or (isinstance(value, dict) and value))
    ):
        return None
    held = {} if is_absent else value
    properties = _properties(inner, held)
    if properties is None:
        return None
    fields: list[Field] = []
    for child, given in properties.items():
        schema, is_nullable = _resolved(given, root)
        needed = child in _required(inner) and not is_absent
        at = held.get(child, ABSENT)
        fields.append(_field((name, child), schema, root, at, required=needed, is_nullable=is_nullable))
    # Were every child optional, clearing them all would leave out an object that its tool needs.
    return fields if is_absent or not required or any(field.is_required for field in fields) else None


def _properties(schema: Schema, args: Mapping[str, Any]) -> dict[str, Any] | None:
    properties = schema.get("properties")
    if schema.get("type", "object") != "object" or _COMBINED & set(schema):
        return None
    if not isinstance(properties, dict) or not properties or not set(args) <= set(properties):
        return None
    return properties if all(isinstance(inner, dict) for inner in properties.values()) else None


def _required(schema: Schema) -> list[Any]:
    found = schema.get("required")
    return found if isinstance(found, list) else []


def _resolved(schema: Any, root: Schema) -> tuple[Schema, bool]:
    """Return the schema with its reference followed and `or null` taken off, and whether there was one."""
    is_nullable = False
    for _ in range(8):
        said = {k: v for k, v in schema.items() if k in ("title", "description", "default", "examples")}
        if match := _REF.fullmatch(str(schema.get("$ref", ""))):
            target = (root.get(match[1]) or {}).get(match[2])
        elif others := _without_null(schema):
            target, is_nullable = others, True
        else:
            break
        if not isinstance(target, dict):
            break
        rest = {k: v for k, v in schema.items() if k not in ("$ref", "anyOf", "oneOf", "type", *said)}
        schema = {**target, **rest, **said}
    return schema, is_nullable


def _without_null(schema: Schema) -> Schema | None:
    kinds = schema.get("type")
    if isinstance(kinds, list) and len(kinds) == 2 and "null" in kinds:
        return {"type": next(kind for kind in kinds if kind != "null")}
    for key in ("anyOf", "oneOf"):
        parts = schema.get(key)
        if isinstance(parts, list) and len(parts) == 2 and {"type": "null"} in parts:
            return next((part for part in parts if part != {"type": "null"}), None)
    return None


def _field(
    path: tuple[str, ...], schema: Schema, root: Schema, value: Any, *, required: bool, is_nullable: bool
) -> Field:
    """Return the field in the handiest kind that gives the value back exactly, else as JSON."""
    plain = _plain_field(path, schema, root, value, required=required, is_nullable=is_nullable)
    if plain is not None and gives_back(plain):
        return plain
    return _json_field(path, schema, value, required=required)


def _json_field(path: tuple[str, ...], schema: Schema, value: Any, *, required: bool) -> Field:
    return Field(path, Kind.JSON, schema, value, required)


def _plain_field(
    path: tuple[str, ...], schema: Schema, root: Schema, value: Any, *, required: bool, is_nullable: bool
) -> Field | None:
    field = Field(path, Kind.TEXT, schema, value, required, is_nullable)
    kind = schema.get("type")
    if _COMBINED & set(schema):
        return None
    if (options := _options(schema)) is not None:
        offered = (*options, None) if is_nullable and not any(o is None for o in options) else options
        if _choosable(offered):
            return replace(field, kind=Kind.CHOICE, options=offered)
    if kind == "array":
        return _list_field(field, root)
    if kind == "string":
        return replace(field, kind=_KINDS_OF_TEXT.get(str(schema.get("format")), Kind.TEXT))
    return replace(field, kind=Kind.NUMBER) if kind in ("integer", "number") else None


_KINDS_OF_TEXT = {"date": Kind.DATE, "date-time": Kind.MOMENT}


def _list_field(field: Field, root: Schema) -> Field | None:
    given = field.schema.get("items")
    if not isinstance(given, dict):
        return None
    items, is_nullable = _resolved(given, root)
    if is_nullable or _COMBINED & set(items):
        return None
    options = _options(items)
    schema = {**field.schema, "items": items}
    if options is not None and field.schema.get("uniqueItems") is True and _choosable(options):
        return replace(field, schema=schema, kind=Kind.CHOICES, options=options)
    is_plain = items.get("type") in ("string", "integer", "number", "boolean")
    return replace(field, schema=schema, kind=Kind.LINES) if is_plain else None


def _options(schema: Schema) -> tuple[Any, ...] | None:
    """Return the values there are to choose from, where they can be counted."""
    if "const" in schema:
        return (schema["const"],)
    if isinstance(schema.get("enum"), list):
        return tuple(schema["enum"])
    return (True, False) if schema.get("type") == "boolean" else None


def _choosable(options: tuple[Any, ...]) -> bool:
    labels = option_labels(options)
    fit = all(0 < width(label) <= _OPTION_TEXT for label in labels)
    return 0 < len(options) <= _MOST_OPTIONS and fit and len({*labels, LEAVE_OUT}) == len(labels) + 1
