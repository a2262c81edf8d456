"""Prometheus: what a parameter becomes in a query, and its answers as tables."""

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from agent.tools.base import Outcome
from agent.tools.declared.parameters import Unfit
from tests.unit.declared.conftest import Folder, tool_of
from tests.unit.declared.fake_web import Asked, Reply, fake_web

VECTOR = [
    {"metric": {"job": "web", "code": "200"}, "value": [1, "12.5"]},
    {"metric": {"job": "web | api", "code": "500"}, "value": [1, "NaN"]},
]


def promql(origin: str = "https://prometheus.example", part: str = "", parameters: str = "{}") -> str:
    return f"""
tools:
  - name: under_test
    kind: promql
    description: A query under test.
    parameters: {parameters}
    promql:
      origin: {origin}
      {part}
"""


def answering(kind: str, result: Any):
    body = json.dumps({"status": "success", "data": {"resultType": kind, "result": result}}).encode()
    return lambda asked: Reply(headers={"content-type": "application/json"}, body=body)


def asked_for(asked: Asked) -> dict[str, str]:
    return {key: values[0] for key, values in parse_qs(urlsplit(asked.target).query).items()}


async def test_an_instant_answer_is_a_table(folder: Folder, run: Callable[..., Any]) -> None:
    async with fake_web(answering("vector", VECTOR)) as web:
        folder.write(promql(web.origin, "path: /prom"))
        result = await run(folder.source(), "under_test", {"query": 'up{job="a"} & x'})
    assert urlsplit(web.asked[0].target).path == "/prom/api/v1/query"
    assert asked_for(web.asked[0]) == {"query": 'up{job="a"} & x'}
    assert result.text.splitlines() == [
        "| code | job | value |",
        "| --- | --- | --- |",
        "| 200 | web | 12.5 |",
        "| 500 | web \\| api | NaN |",
        "",
        "2 series.",
    ]
    assert result.table
    assert result.table.columns == ("code", "job", "value")
    assert result.table.rows[1] == ("500", "web | api", "NaN")


async def test_a_range_is_asked_up_to_now_and_told_by_its_shape(folder: Folder, run: Callable[..., Any]) -> None:
    series = [{"metric": {"job": "web"}, "values": [[1, "1"], [2, "3"], [3, "2"]]}]
    async with fake_web(answering("matrix", series)) as web:
        folder.write(promql(web.origin, "query: up\n      range: {max_minutes: 120, default_minutes: 60}"))
        result = await run(folder.source(), "under_test", {})
        refused = await run(folder.source(), "under_test", {"minutes": 121})
    params = asked_for(web.asked[0])
    assert int(params["end"]) - int(params["start"]) == 3600
    assert params["step"] == "60"
    assert "| web | 1 | 2 | 1 | 3 | 2 | 3 |" in result.text
    assert refused.outcome is Outcome.FAILED
    assert len(web.asked) == 1


async def test_many_series_are_cut_and_counted(folder: Folder, run: Callable[..., Any]) -> None:
    series = [{"metric": {"n": str(n)}, "value": [1, "1"]} for n in range(30)]
    async with fake_web(answering("vector", series)) as web:
        folder.write(promql(web.origin, "max_series: 5"))
        result = await run(folder.source(), "under_test", {"query": "up"})
    assert result.text.endswith("30 series, 25 of them not shown.")
    assert result.text.count("\n| ") == 6


@pytest.mark.parametrize(
    ("kind", "answer", "said"),
    [
        ("vector", [], "No series matches."),
        ("scalar", [1, "42"], "| 42 |"),
        ("vector", [{"metric": {}, "histogram": [1, {}]}], "[histogram]"),
    ],
)
async def test_other_answers_are_told_too(
    folder: Folder, run: Callable[..., Any], kind: str, answer: Any, said: str
) -> None:
    async with fake_web(answering(kind, answer)) as web:
        folder.write(promql(web.origin))
        result = await run(folder.source(), "under_test", {"query": "up"})
    assert said in result.text


@pytest.mark.parametrize(
    "body",
    [b"<html>", b"[]", b'{"status": "success"}', b'{"status":"success","data":{"resultType":"vector","result":[1]}}'],
)
async def test_what_is_no_answer_of_prometheus_is_a_failed_call(
    folder: Folder, run: Callable[..., Any], body: bytes
) -> None:
    async with fake_web(lambda asked: Reply(body=body)) as web:
        folder.write(promql(web.origin))
        result = await run(folder.source(), "under_test", {"query": "up"})
    assert result.outcome is Outcome.FAILED
    assert "no answer of Prometheus" in result.text


async def test_its_refusal_is_told_in_its_words(folder: Folder, run: Callable[..., Any]) -> None:
    body = json.dumps({"status": "error", "error": "parse error: unexpected end"}).encode()
    async with fake_web(lambda asked: Reply("400 Bad Request", body=body)) as web:
        folder.write(promql(web.origin))
        result = await run(folder.source(), "under_test", {"query": "up{"})
    assert result.outcome is Outcome.FAILED
    assert "parse error: unexpected end" in result.text


TEMPLATE = """query: 'rate(x{job="{job}",raw=`{job}`}[{window}]) > {limit}'"""
PARAMETERS = "{job: {type: string, pattern: '^.*$'}, window: {type: string, pattern: '^.*$'}, limit: {type: number}}"


def query_of(folder: Folder, args: dict[str, Any]) -> str:
    folder.write(promql(part=TEMPLATE, parameters=PARAMETERS))
    return tool_of(folder.source(), "under_test").kind.query(args)[0]


def test_a_value_in_a_string_can_not_end_it(folder: Folder) -> None:
    args = {"job": 'a"} or vector(1) or x{y="\\', "window": "5m", "limit": 2}
    expected = 'a\\"} or vector(1) or x{y=\\"\\\\'
    assert query_of(folder, args).startswith(f'rate(x{{job="{expected}",raw=`')


def test_a_value_that_looks_like_a_parameter_is_not_filled_again(folder: Folder) -> None:
    made = query_of(folder, {"job": "{window}", "window": "5m", "limit": 2})
    assert made == 'rate(x{job="{window}",raw=`{window}`}[5m]) > 2'


@pytest.mark.parametrize(
    "args", [{"job": "a`b"}, {"window": "5m]) or vector(1"}, {"window": ""}, {"window": "5m offset 1d"}]
)
def test_a_value_outside_a_string_is_one_word(folder: Folder, args: dict[str, Any]) -> None:
    with pytest.raises(Unfit):
        query_of(folder, {"job": "a", "window": "5m", "limit": 2} | args)


def test_a_free_expression_is_only_so_long(folder: Folder) -> None:
    folder.write(promql(part="max_length: 20"))
    tool = tool_of(folder.source(), "under_test")
    assert tool.spec.input_schema["properties"]["query"]["maxLength"] == 20
    assert tool.kind.query({"query": "up"})[0] == "up"
    for bad in ("x" * 21, "", "  ", None, 5):
        with pytest.raises(Unfit):
            tool.kind.query({"query": bad})


@pytest.mark.parametrize(
    ("part", "parameters", "said"),
    [
        ("query: 'up{job=\"{nope}\"}'", "{}", "`{nope}` is not among"),
        ("query: up", "{a: {type: integer}}", "used nowhere"),
        ("max_length: 20", "{a: {type: integer}}", "any expression has no `parameters`"),
        ("query: up\n      max_length: 20", "{}", "without a `query`"),
        ("query: '{minutes}'\n      range: {}", "{minutes: {type: integer}}", "range's own parameter"),
        ("range: {max_minutes: 5, default_minutes: 6}", "{}", "more than the most"),
    ],
)
def test_mistakes_are_told(folder: Folder, part: str, parameters: str, said: str) -> None:
    assert said in folder.problem(promql(part=part, parameters=parameters))
