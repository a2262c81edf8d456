"""Requests: where a value lands on the wire, what comes back, and what is known after a failure."""

import json
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from agent.egress import EgressPolicy
from agent.tools.base import Outcome
from tests.unit.declared.conftest import Folder
from tests.unit.declared.fake_web import Asked, Reply, fake_web

ANY = "{type: string, pattern: '^[^x]*$', required: false}"


def http(origin: str, part: str, parameters: str = "{}", extra: str = "") -> str:
    return f"""
tools:
  - name: under_test
    kind: http
    description: A request under test.
    parameters: {parameters}
    {extra}
    http:
      origin: {origin}
      {part}
"""


@pytest.mark.parametrize(
    ("value", "target"),
    [
        ("a b", "/s/a%20b/health"),
        ("a?b=c#d", "/s/a%3Fb%3Dc%23d/health"),
        ("group/project", "/s/group%2Fproject/health"),
        ("%2e%2e", "/s/%252e%252e/health"),
        ("a@b:c", "/s/a%40b%3Ac/health"),
        ("ü", "/s/%C3%BC/health"),
        ("...", "/s/.../health"),
        ("{other}", "/s/%7Bother%7D/health"),
    ],
)
async def test_a_value_stays_in_its_segment(folder: Folder, run: Callable[..., Any], value: str, target: str) -> None:
    async with fake_web() as web:
        folder.write(http(web.origin, "path: '/s/{name}/health'", f"{{name: {ANY}}}"))
        result = await run(folder.source(), "under_test", {"name": value})
    assert result.outcome is Outcome.SUCCEEDED
    assert web.asked[0].target == target


@pytest.mark.parametrize("value", ["..", ".", "", "../admin", "a/../../admin", "/admin", "a//b", "..\\admin", "a\r\nb"])
async def test_a_value_that_would_leave_its_segment_is_refused(
    folder: Folder, run: Callable[..., Any], value: str
) -> None:
    async with fake_web() as web:
        folder.write(http(web.origin, "path: '/s/{name}'", f"{{name: {ANY}}}"))
        result = await run(folder.source(), "under_test", {"name": value})
    assert result.outcome is Outcome.FAILED
    assert web.asked == []


async def test_two_values_can_not_make_dots_together(folder: Folder, run: Callable[..., Any]) -> None:
    async with fake_web() as web:
        folder.write(http(web.origin, "path: '/s/{a}.{b}'", f"{{a: {ANY}, b: {ANY}}}"))
        assert (await run(folder.source(), "under_test", {"a": "a", "b": "b"})).outcome is Outcome.SUCCEEDED
        folder.write(http(web.origin, "path: '/s/.{a}'", "{a: {type: string, pattern: '^.?$'}}"))
        assert (await run(folder.source(), "under_test", {"a": "."})).outcome is Outcome.FAILED


async def test_query_and_body_carry_values_as_they_are(folder: Folder, run: Callable[..., Any]) -> None:
    part = """path: /p
      method: POST
      query: {q: '{text}', fixed: 7, both: 'x {text}', absent: '{none}'}
      body: {text: '{text}', n: '{number}', deep: [{t: 'is {text}'}], absent: '{none}', on: true}"""
    parameters = f"{{text: {ANY}, none: {ANY}, number: {{type: integer}}}}"
    async with fake_web() as web:
        folder.write(http(web.origin, part, parameters))
        await run(folder.source(), "under_test", {"text": 'a&b=c"}{', "number": 5})
    (asked,) = web.asked
    assert asked.target == "/p?q=a%26b%3Dc%22%7D%7B&fixed=7&both=x%20a%26b%3Dc%22%7D%7B".replace("%20", "+") or (
        asked.target == "/p?q=a%26b%3Dc%22%7D%7B&fixed=7&both=x%20a%26b%3Dc%22%7D%7B"
    )
    assert json.loads(asked.body) == {"text": 'a&b=c"}{', "n": 5, "deep": [{"t": 'is a&b=c"}{'}], "on": True}


async def test_a_secret_header_goes_out_and_never_comes_back(folder: Folder, run: Callable[..., Any]) -> None:
    part = "path: /\n      headers: {Authorization: {secret: API_TOKEN, prefix: 'Bearer '}}"
    async with fake_web(lambda asked: Reply(body=str(asked.headers).encode())) as web:
        folder.write(http(web.origin, part, extra="secrets: [API_TOKEN]"))
        result = await run(folder.source(API_TOKEN="fake-secret-value"), "under_test", {})
    assert web.asked[0].headers["authorization"] == "Bearer fake-secret-value"
    assert "fake-secret-value" not in result.text
    assert "[secret API_TOKEN]" in result.text


async def test_the_approval_is_the_idempotency_key(folder: Folder, run: Callable[..., Any]) -> None:
    approval = uuid4()
    async with fake_web() as web:
        folder.write(http(web.origin, "path: /\n      method: POST\n      idempotency_header: Idempotency-Key"))
        await run(folder.source(), "under_test", {}, approval_id=approval)
    assert web.asked[0].headers["idempotency-key"] == str(approval)


async def test_an_answer_is_read_no_further_than_its_cap(folder: Folder, run: Callable[..., Any]) -> None:
    async with fake_web(lambda asked: Reply(body=b"x" * 3_000_000)) as web:
        folder.write(http(web.origin, "path: /\n      max_bytes: 1000"))
        result = await run(folder.source(), "under_test", {})
    assert result.text.count("x") == 1000
    assert "is cut here" in result.text


async def test_a_compressed_answer_is_refused(folder: Folder, run: Callable[..., Any]) -> None:
    async with fake_web(lambda asked: Reply(headers={"content-encoding": "gzip"}, body=b"\x1f\x8b")) as web:
        folder.write(http(web.origin, "path: /"))
        result = await run(folder.source(), "under_test", {})
    assert web.asked[0].headers["accept-encoding"] == "identity"
    assert result.outcome is Outcome.FAILED
    assert "compressed" in result.text


async def test_a_refusing_status_is_a_failed_call_with_its_body(folder: Folder, run: Callable[..., Any]) -> None:
    async with fake_web(lambda asked: Reply("503 Service Unavailable", body=b"later")) as web:
        folder.write(http(web.origin, "path: /"))
        result = await run(folder.source(), "under_test", {})
    assert result.outcome is Outcome.FAILED
    assert result.text.startswith("HTTP 503 Service Unavailable in ")
    assert result.text.endswith("later")


@pytest.mark.parametrize(
    ("part", "extra", "outcome"),
    [
        ("path: /", "", Outcome.FAILED),
        ("path: /\n      method: POST", "", Outcome.UNKNOWN),
        ("path: /\n      method: POST", "idempotent: true", Outcome.FAILED),
        ("path: /\n      method: POST", "read_only: true", Outcome.FAILED),
    ],
)
async def test_after_a_broken_connection_the_effect_of_a_write_is_unknown(
    folder: Folder, run: Callable[..., Any], part: str, extra: str, outcome: Outcome
) -> None:
    async with fake_web(lambda asked: Reply(drop=True)) as web:
        folder.write(http(web.origin, part, extra=extra))
        result = await run(folder.source(), "under_test", {})
    assert result.outcome is outcome


async def test_a_write_that_never_left_is_known_to_have_failed(folder: Folder, run: Callable[..., Any]) -> None:
    async with fake_web() as web:
        pass
    folder.write(http(web.origin, "path: /\n      method: POST"))
    result = await run(folder.source(), "under_test", {})
    assert result.outcome is Outcome.FAILED
    assert "can't be reached" in result.text


async def test_a_redirect_off_the_origin_is_not_followed(folder: Folder, run: Callable[..., Any]) -> None:
    async with fake_web() as other:
        to = Reply("302 Found", {"location": f"{other.origin}/"})
        async with fake_web(lambda asked: to) as web:
            folder.write(http(web.origin, "path: /"))
            result = await run(folder.source(), "under_test", {})
    assert result.outcome is Outcome.FAILED
    assert "another origin" in result.text
    assert other.asked == []


async def test_a_private_origin_is_refused_unless_the_operator_allows_it(
    folder: Folder, run: Callable[..., Any]
) -> None:
    async with fake_web() as web:
        folder.write(http(web.origin, "path: /\n      method: POST"))
        result = await run(folder.source(egress=EgressPolicy()), "under_test", {})
    assert result.outcome is Outcome.FAILED
    assert "loopback address" in result.text
    assert web.connections == 0


@pytest.mark.parametrize(
    ("origin", "part", "extra", "said"),
    [
        ("'https://{host}'", "path: /", "", "can't have parameters"),
        ("https://user@a.example", "path: /", "", "`origin`: "),
        ("https://a.example/path", "path: /", "", "`origin`: "),
        ("ftp://a.example", "path: /", "", "`origin`: "),
        ("http://2130706433", "path: /", "", "odd spelling"),
        ("https://a.example", "path: '/{nope}'", "", "`{nope}` is not among"),
        ("https://a.example", "path: /\n      query: {a: '{nope}'}", "", "`{nope}` is not among"),
        ("https://a.example", "path: '/a?b'", "", "`path`: "),
        ("https://a.example", "path: /\n      method: TRACE", "", "`method`: "),
        ("https://a.example", "path: /\n      body: {a: 1}", "", "has no body"),
        ("https://a.example", "path: /\n      headers: {Host: b}", "", "can't be set here"),
        ("https://a.example", 'path: /\n      headers: {X-A: "b\\nc"}', "", "line break"),
        ("https://a.example", "path: /\n      method: DELETE", "read_only: true", "is not `read_only`"),
    ],
)
def test_a_request_that_could_go_elsewhere_is_not_offered(
    folder: Folder, origin: str, part: str, extra: str, said: str
) -> None:
    assert said in folder.problem(http(origin, part, extra=extra))


def test_a_get_is_read_only_and_a_post_is_not(folder: Folder) -> None:
    for method, read_only in (("GET", True), ("POST", False)):
        folder.write(http("https://a.example", f"path: /\n      method: {method}"))
        assert folder.source().tools()[0].spec.read_only is read_only


async def test_the_request_line_can_not_be_split(folder: Folder, run: Callable[..., Any]) -> None:
    def reply(asked: Asked) -> Reply:
        return Reply()

    async with fake_web(reply) as web:
        folder.write(http(web.origin, "path: /\n      query: {q: '{name}'}", f"{{name: {ANY}}}"))
        result = await run(folder.source(), "under_test", {"name": "a\r\nHost: evil"})
    assert result.outcome is Outcome.FAILED
    assert web.asked == []
