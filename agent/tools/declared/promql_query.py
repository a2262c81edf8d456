"""The kind `promql`: a query from a template, or any expression up to a length; the answer as a table."""

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from agent.tools import tables
from agent.tools.base import CallContext, Outcome, ToolResult
from agent.tools.declared import templates
from agent.tools.declared.declaration import BadTool, Declaration, House
from agent.tools.declared.exchange import Answer, NoAnswer, ask
from agent.tools.declared.http_request import check_origin, plain_headers
from agent.tools.declared.parameters import Parameter, Unfit, input_schema, text_of, values
from agent.tools.declared.results import table
from agent.tools.tables import Table

MAX_BYTES = 4 * 1024 * 1024
MAX_SERIES = 50
MAX_LENGTH = 1000
DEFAULT_MINUTES, MAX_MINUTES = 60, 1440
POINTS = 60
"""Of one series in a range: enough for its shape."""
_STRING_OR_REFERENCE = re.compile(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'|`[^`]*`|\{([a-z][a-z0-9_]*)\}')
_REFERENCE = re.compile(r"\{([a-z][a-z0-9_]*)\}")
_WORD = re.compile(r"[A-Za-z0-9_:.]+")


@dataclass(frozen=True)
class PromqlQuery:
    """A query that is ready to be asked."""

    declaration: Declaration
    house: House
    headers: dict[str, str] = field(repr=False)
    parameters: dict[str, Parameter]
    max_length: int | None
    """Of a free expression; None where the query is a template."""
    read_only: bool = True

    @property
    def schema(self) -> dict[str, Any]:
        made = input_schema(self.parameters)
        if self.max_length is not None:
            free = {"type": "string", "minLength": 1, "maxLength": self.max_length, "description": "PromQL"}
            made["properties"] = {"query": free, **made["properties"]}
            made["required"] = ["query", *made["required"]]
        return made

    async def run(self, args: Mapping[str, Any], context: CallContext) -> ToolResult:
        section, ranged = self.declaration.section, "range" in self.declaration.section
        query, given = self.query(args)
        params = [("query", query)]
        if ranged:
            minutes, now = cast("int", given["minutes"]), time.time()
            step = max(15, minutes * 60 // POINTS)
            params += [("start", f"{now - minutes * 60:.0f}"), ("end", f"{now:.0f}"), ("step", str(step))]
        try:
            answer = await ask(
                self.house,
                "GET",
                f"{section['origin']}{section.get('path', '')}/api/v1/query{'_range' if ranged else ''}",
                params=params,
                headers=self.headers,
                timeout_s=self.declaration.timeout_s,
                max_bytes=MAX_BYTES,
            )
            text, shown = _told(answer, section.get("max_series", MAX_SERIES))
        except NoAnswer as error:
            return ToolResult(self.declaration.finish.apply(str(error)), Outcome.FAILED)
        return self.declaration.finish.result(text, shown)

    def query(self, args: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return the query of a call and the values that it was made with."""
        if self.max_length is None:
            given = values(self.parameters, args)
            return _filled(self.declaration.section["query"], given), given
        free = args.get("query")
        if not isinstance(free, str) or not 0 < len(free) <= self.max_length or not free.strip():
            raise Unfit(f"`query` must be an expression of at most {self.max_length} characters.")
        return free, values(self.parameters, {key: value for key, value in args.items() if key != "query"})


def build(declaration: Declaration, house: House) -> PromqlQuery:
    """Return the query; raises BadTool where a parameter could be more than a value."""
    section = declaration.section
    if declaration.read_only is False:
        raise BadTool("a promql tool only reads: remove `read_only: false`.", "read_only")
    check_origin(section["origin"], "promql", "origin")
    template = section.get("query")
    if template is None and declaration.parameters:
        raise BadTool("a tool for any expression has no `parameters`: write a `query` that uses them.", "parameters")
    if template is not None and "max_length" in section:
        raise BadTool("`max_length` is for a tool without a `query`.", "promql", "max_length")
    used = templates.check(declaration, template, "promql", "query")
    for name in declaration.parameters:
        if name not in used:
            raise BadTool(f"the parameter `{name}` is used nowhere.", "parameters", name)
        if "range" in section and name == "minutes":
            raise BadTool("`minutes` is a range's own parameter: choose another name.", "parameters", name)
    parameters = {**declaration.parameters, **_minutes(section)}
    longest = section.get("max_length", MAX_LENGTH) if template is None else None
    return PromqlQuery(declaration, house, plain_headers(declaration, "promql", "headers"), parameters, longest)


def _minutes(section: dict[str, Any]) -> dict[str, Parameter]:
    if "range" not in section:
        return {}
    most = section["range"].get("max_minutes", MAX_MINUTES)
    usual = section["range"].get("default_minutes", min(DEFAULT_MINUTES, most))
    if usual > most:
        raise BadTool("the default is more than the most.", "promql", "range", "default_minutes")
    declared = {"type": "integer", "minimum": 1, "maximum": most, "default": usual, "description": "How far back."}
    return {"minutes": Parameter.of("minutes", declared)}


def _filled(template: str, given: Mapping[str, Any]) -> str:
    """Return the template with values escaped inside strings, and outside of them only as single words."""

    def value(name: str) -> str:
        if name not in given:
            raise Unfit(f"`{name}` is missing.")
        return text_of(given[name])

    def one(match: re.Match[str]) -> str:
        if match[1]:
            word = value(match[1])
            if not _WORD.fullmatch(word):
                raise Unfit(f"`{match[1]}` must be one word here: letters, digits, `_`, `:` and `.`.")
            return word
        return _REFERENCE.sub(lambda inner: _inside(value(inner[1]), inner[1], match[0][0]), match[0])

    return _STRING_OR_REFERENCE.sub(one, template)


def _inside(text: str, name: str, quote: str) -> str:
    if quote == "`":
        if quote in text:
            raise Unfit(f"`{name}` may not have a backquote in it.")
        return text
    # Only the quote in use: Prometheus knows no escape for the other one.
    return text.translate(str.maketrans({"\\": "\\\\", quote: f"\\{quote}", "\n": "\\n", "\r": "\\r"}))


def _told(answer: Answer, most: int) -> tuple[str, Table | None]:
    if answer.cut:
        raise NoAnswer(f"Prometheus answered more than {MAX_BYTES} bytes: ask for less.", sent=True)
    try:
        said = json.loads(answer.text)
        if said["status"] != "success":
            raise NoAnswer(f"Prometheus refused the query: {str(said.get('error', 'no reason'))[:500]}", sent=True)
        kind, result = str(said["data"]["resultType"]), said["data"]["result"]
        if kind in ("scalar", "string"):
            return table(["value"], [[str(result[1])]]), None
        return _series(cast("list[Any]", result), most, ranged=kind == "matrix")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise NoAnswer(f"HTTP {answer.status}, and it is no answer of Prometheus.", sent=True) from error


def _series(result: Sequence[Any], most: int, *, ranged: bool) -> tuple[str, Table | None]:
    if not result:
        return "No series matches.", None
    shown = result[:most]
    labels = sorted({str(label) for series in shown for label in series["metric"]})
    columns = [*labels, *(("first", "last", "min", "max", "average", "points") if ranged else ("value",))]
    rows = [
        [*(str(series["metric"].get(label, "")) for label in labels), *(_numbers(series, ranged=ranged))]
        for series in shown
    ]
    left = len(result) - len(shown)
    text = table(columns, rows, f"{len(result)} series{f', {left} of them not shown' if left else ''}.")
    return text, tables.table(columns, rows, left_out=left)


def _numbers(series: Mapping[str, Any], *, ranged: bool) -> list[str]:
    if not ranged:
        return [str(series["value"][1]) if "value" in series else "[histogram]"]
    if "values" not in series:
        return ["[histogram]", "", "", "", "", ""]
    numbers = [float(value) for _, value in series["values"]]
    average = sum(numbers) / len(numbers)
    found = (numbers[0], numbers[-1], min(numbers), max(numbers), average)
    return [*(f"{number:.6g}" for number in found), str(len(numbers))]
