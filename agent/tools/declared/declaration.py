"""One declared tool as its file has it: checked against the schema, its parameters and secrets known by name."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import jsonschema_rs

from agent.egress import EgressPolicy
from agent.sandbox.policy import Mode
from agent.tools.base import RESULT_LIMIT
from agent.tools.declared.files import Place, Source
from agent.tools.declared.parameters import BadParameter, Parameter
from agent.tools.declared.results import Finish

DEFAULT_TIMEOUT_S = 30.0
SCHEMA = Path(__file__).with_name("schema.json")


class BadTool(Exception):
    """What is wrong with one tool, and in which part of it."""

    def __init__(self, problem: str, *place: str | int) -> None:
        super().__init__(problem)
        self.problem, self.place = problem, place


@dataclass(frozen=True)
class House:
    """What every declared tool of a folder shares."""

    mode: Mode
    egress: EgressPolicy
    secrets: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True)
class Declaration:
    """A tool as declared, of any kind; `section` is its kind's own part."""

    name: str
    kind: str
    description: str
    section: dict[str, Any]
    parameters: dict[str, Parameter]
    risk: str
    read_only: bool | None
    idempotent: bool
    timeout_s: float
    secrets: dict[str, str] = field(repr=False)
    ports: tuple[int, ...] = ()
    hosts: tuple[str, ...] = ()
    read_paths: tuple[str, ...] = ()
    write_paths: tuple[str, ...] = ()
    host_view: bool = False
    memory_mb: int | None = 1024
    finish: Finish = field(default_factory=Finish)
    raw: dict[str, Any] = field(default_factory=dict[str, Any])

    def setting(self, value: Any, *place: str | int) -> str:
        """Return a setting's text; a secret is looked up among those that the tool declares."""
        if isinstance(value, str):
            return value
        name = cast("str", value["secret"])
        if name not in self.secrets:
            raise BadTool(f"the secret `{name}` is not among the tool's `secrets`: add it there.", *place)
        return f"{value.get('prefix', '')}{self.secrets[name]}"

    def settings(self, *place: str) -> dict[str, str]:
        """Return a part of the section whose values are text or secrets."""
        found: dict[str, Any] = self.section.get(place[-1], {})
        made = {name: self.setting(value, *place, name) for name, value in found.items()}
        for name, value in made.items():
            if re.search(r"[\x00-\x1f\x7f]", name + value):
                raise BadTool(f"`{name}` has a line break or a control character in it.", *place, name)
        return made


def declarations(source: Source, house: House) -> list[tuple[int, str | None, "Declaration | BadTool"]]:
    """Return each tool of the file, by position and name, or what is wrong with it."""
    data = source.data
    if not isinstance(data, dict) or not isinstance(data.get("tools"), list) or not data["tools"]:
        return [(0, None, BadTool("the file must be a mapping with the key `tools`, a list of tools."))]
    found: list[tuple[int, str | None, Declaration | BadTool]] = []
    for extra in (key for key in cast("dict[str, Any]", data) if key != "tools"):
        found.append((0, None, BadTool(f"`{extra}` is not known here: a file has only `tools`.", extra)))
    for index, raw in enumerate(cast("list[Any]", data["tools"])):
        name = cast("Any", raw).get("name") if isinstance(raw, dict) else None
        try:
            made: Declaration | BadTool = _declaration(raw, house)
        except BadTool as error:
            made = error
        found.append((index, name if isinstance(name, str) else None, made))
    return found


def _declaration(raw: Any, house: House) -> Declaration:
    _check(raw)
    kind, secrets = raw["kind"], {name: house.secrets.get(name, "") for name in raw.get("secrets", ())}
    for index, (name, value) in enumerate(secrets.items()):
        if not value:
            raise BadTool(f"the secret `{name}` is not set: set it, then reload the tools.", "secrets", index)
    network, result = raw.get("network", {}), raw.get("result", {})
    memory = raw.get("memory_mb", 1024)
    return Declaration(
        name=raw["name"],
        kind=kind,
        description=" ".join(raw["description"].split()),
        section=raw[kind],
        parameters=_parameters(raw.get("parameters", {})),
        risk=raw.get("risk", "medium"),
        read_only=raw.get("read_only"),
        idempotent=raw.get("idempotent", False),
        timeout_s=float(raw.get("timeout_s", DEFAULT_TIMEOUT_S)),
        secrets=secrets,
        ports=tuple(network.get("ports", ())),
        hosts=tuple(network.get("hosts", ())),
        read_paths=tuple(raw.get("read_paths", ())),
        write_paths=tuple(raw.get("write_paths", ())),
        host_view=raw.get("host_view", False),
        memory_mb=memory or None,
        finish=Finish(
            result.get("max_chars", RESULT_LIMIT),
            _patterns(result.get("redact", ())),
            tuple(secrets.items()),
            result.get("for_people", False),
        ),
        raw=raw,
    )


def _check(raw: Any) -> None:
    """Raise the first thing that the schema finds wrong, and how many more there are."""
    if not isinstance(raw, dict):
        raise BadTool("a tool must be a mapping with `name`, `kind` and `description`.")
    tool = cast("dict[str, Any]", raw)
    _finite(tool, ())
    try:
        errors = list(_validator().iter_errors(tool))
    except (ValueError, TypeError) as error:
        raise BadTool("a value here is no plain text, number, list or mapping.") from error
    if errors:
        more = f" ({len(errors) - 1} more in this tool)" if len(errors) > 1 else ""
        raise BadTool(_said(errors[0]) + more, *errors[0].instance_path)
    for other in ("argv", "http", "sql", "promql", "kubectl"):
        if other != tool["kind"] and other in tool:
            raise BadTool(f"a tool of kind `{tool['kind']}` has no `{other}`.", other)
    if tool["kind"] not in tool:
        raise BadTool(f"a tool of kind `{tool['kind']}` needs a part `{tool['kind']}:`.", "kind")


def _said(error: jsonschema_rs.ValidationError) -> str:
    part = f"`{error.instance_path[-1]}`: " if error.instance_path else ""
    missing = getattr(error.kind, "property", None)
    if missing:
        return f"{part}`{missing}` is missing."
    unexpected = getattr(error.kind, "unexpected", None)
    if unexpected:
        return f"{part}`{unexpected[0]}` is not known here."
    return f"{part}{error.message[:300]}."


def _finite(value: Any, place: Place) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise BadTool("infinite and undefined numbers have no meaning here.", *place)
    if isinstance(value, int) and abs(value) > 2**53:
        raise BadTool("the number is too large.", *place)
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in cast("Any", parts):
        _finite(part, (*place, key))


def _parameters(raw: dict[str, Any]) -> dict[str, Parameter]:
    found: dict[str, Parameter] = {}
    for name, declared in raw.items():
        try:
            found[name] = Parameter.of(name, declared)
        except BadParameter as error:
            raise BadTool(str(error), "parameters", name, *error.place) from error
    return found


def _patterns(texts: Any) -> tuple[re.Pattern[str], ...]:
    found: list[re.Pattern[str]] = []
    for index, text in enumerate(texts):
        try:
            found.append(re.compile(text))
        except re.error as error:
            raise BadTool(f"this is no regular expression: {error}.", "result", "redact", index) from error
    return tuple(found)


@lru_cache(maxsize=1)
def _validator() -> jsonschema_rs.Validator:
    whole = json.loads(SCHEMA.read_text(encoding="utf-8"))
    return jsonschema_rs.validator_for(
        {"$schema": whole["$schema"], "$ref": "#/$defs/tool", "$defs": whole["$defs"]}, offline=True
    )
