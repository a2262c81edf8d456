"""Conditions of policy rules: small JSON Schemas on a call's arguments. Pure, and cheap whatever they say."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, cast

import jsonschema_rs

MOST = 200
"""Conditions of one rule."""
LONGEST = 64_000
"""Characters of all conditions of one rule, as JSON."""
DEEPEST = 32
COSTLIEST = 5_000
"""Parts of one schema, counted anew wherever it refers to them."""
_PATTERN_SIZE = 200_000
_REFERRING = ("$id", "$anchor", "$dynamicRef", "$dynamicAnchor", "$recursiveRef")


@dataclass(frozen=True)
class When:
    """A condition on the arguments (a JSON Schema) and what it decides where it matches."""

    args: dict[str, Any]
    decision: Literal["auto", "ask", "deny"]

    @cached_property
    def _validator(self) -> jsonschema_rs.Validator:
        # Linear-time regexes of bounded size and no retrieval: users write these, and they run on the event loop.
        return jsonschema_rs.validator_for(
            self.args, pattern_options=jsonschema_rs.RegexOptions(size_limit=_PATTERN_SIZE), offline=True
        )

    def matches(self, args: Mapping[str, Any]) -> bool:
        return self._validator.is_valid(args)


def problem(conditions: Sequence[When]) -> str | None:
    """Return why these can't be a rule's conditions, as a sentence, or None."""
    if len(conditions) > MOST:
        return f"A rule takes {MOST} conditions at most, not {len(conditions)}."
    size = 0
    for index, when in enumerate(conditions):
        try:
            _check(when.args)
            size += len(json.dumps(when.args))
            when.matches({})
        except RecursionError:
            return f"when[{index}].args is nested too deeply: {DEEPEST} levels are the most."
        except (ValueError, jsonschema_rs.ReferencingError) as error:
            return f"when[{index}].args is not a JSON Schema that can be used: {_short(error)}"
    if size > LONGEST:
        return f"The conditions have {size} characters together; {LONGEST} are the most."
    return None


def _short(error: Exception) -> str:
    text = error.message if isinstance(error, jsonschema_rs.ValidationError) else str(error)
    return f"{' '.join(text.split())[:300].rstrip('.')}."


def _check(schema: dict[str, Any]) -> None:
    """Raise ValueError unless checking against the schema is cheap: no remote or circular references, no deep nesting,
    and no references to references that multiply."""
    if "draft-04" in str(schema.get("$schema", "")):
        raise ValueError("it is of draft 4; write it in a newer one.")  # there `id` would change what a $ref means
    costs: dict[int, int] = {}
    _cost(schema, schema, costs, depth=0)


def _cost(node: Any, root: dict[str, Any], costs: dict[int, int], *, depth: int) -> int:
    """Return the parts of a schema, each as often as it is referred to."""
    if depth > DEEPEST:
        raise ValueError(f"it is nested more than {DEEPEST} levels deep, references included, or refers to itself.")
    if not isinstance(node, dict | list):
        return 1
    if (known := costs.get(id(node))) is not None:
        return known
    if isinstance(node, list):
        parts = cast("list[Any]", node)
    else:
        named = cast("dict[str, Any]", node)
        parts = list(named.values())
        for word in _REFERRING:
            if isinstance(named.get(word), str):
                raise ValueError(f"it uses {word}; of references it may use $ref to a part of itself.")
        if isinstance(target := named.get("$ref"), str):
            parts.append(_part(root, target))
    total = 1 + sum(_cost(part, root, costs, depth=depth + 1) for part in parts)
    if total > COSTLIEST:
        raise ValueError(f"it has more than {COSTLIEST} parts, references included: write a simpler one.")
    costs[id(node)] = total
    return total


def _part(root: dict[str, Any], target: str) -> Any:
    if not (target == "#" or target.startswith("#/")):
        raise ValueError(f"it refers to {target[:200]}; a policy's schema must be whole in itself.")
    found: Any = root
    for step in target[1:].split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, dict) or name not in found:
            raise ValueError(f"it refers to {target[:200]}, and there is no such part in it.")
        found = cast("dict[str, Any]", found)[name]
    return found
