"""Argument injection against every declared example: each snippet is refused, or is one inert argument."""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit

import pytest

from agent.sandbox.policy import Mode
from agent.tools.arguments import validate
from agent.tools.base import Outcome
from agent.tools.declared import process
from agent.tools.declared.argv_command import ArgvCommand
from agent.tools.declared.http_request import HttpRequest
from agent.tools.declared.kubectl_command import KubectlCommand
from agent.tools.declared.kubectl_words import FLAGS
from agent.tools.declared.parameters import Unfit, values
from agent.tools.declared.promql_query import PromqlQuery
from agent.tools.declared.source import DeclaredTool, DeclaredTools
from agent.tools.declared.sql_query import SqlQuery
from tests.unit.declared.conftest import LOOPBACK, context
from tests.unit.declared.fake_web import fake_web
from tests.unit.declared.test_kubectl import FAKE

EXAMPLES = Path(__file__).parents[2] / "examples" / "tools"

SNIPPETS = [
    # an option instead of a value
    *(
        "-",
        "--",
        "-h",
        "--help",
        "-rf",
        "-exec",
        "-o",
        "-O/tmp/out",
        "-f/etc/shadow",
        "--output=/tmp/out",
        "--to-stdout",
    ),
    *("--checkpoint-action=exec=id", "--use-compress-program=id", "--rsh=id", "-eid", "--eval=id", "-c id"),
    *("-oProxyCommand=id", "-o ProxyCommand=id", "--kubeconfig=/tmp/evil", "--server=http://127.0.0.1:1", "--raw=/api"),
    *("--token=fake", "-v=9", "--as=system:admin", "--file=/etc/shadow", "--from0-file=/etc/shadow", "--root=/tmp"),
    *("--directory=/etc", "--machine=evil", "--vacuum-size=1", "--rotate", "--pager=id", "-Pid", "--proxy=evil:1"),
    # a value that a program opens
    *("@/etc/passwd", "@-", "</etc/passwd", ">/tmp/out", "file:///etc/passwd", "/dev/tcp/127.0.0.1/1", "|id", "!id"),
    # what only a shell reads
    *("$(id)", "`id`", "${HOME}", "$IFS$9id", "x;id", "x&&id", "x||id", "x&id", "a b", "a\tb", "'", '"', "'; id; '"),
    *("*", "?", "[a-z]*", "{a,b}", "~", "~root", "!!", "#", "\\", "x\\", "$'\\x69d'", "%n%s", "<(id)"),
    # another line, an early end, a changed look
    *("x\nid", "x\r\nid", "x\x00id", "\x1b]0;x\x07", "x\u2028id", "x\u202egpj.exe", "a\u200bb", "\ufeffx", "x\x85id"),
    *("\u2010\u2010help", "\u2013rf", "\u2014output=/tmp/x", "\u2212rf", "\uff0drf", "\ufe63x", "\uff04(id)"),
    # another place
    *(
        "../../etc/passwd",
        "..",
        "/..",
        "/../etc/shadow",
        "....//etc",
        "..%2f..%2fetc",
        "%2e%2e",
        "..\\..\\etc",
        "//evil/x",
    ),
    # an assignment, an expression, another statement
    *("LD_PRELOAD=/tmp/x.so", "PATH=/tmp", "GIT_SSH_COMMAND=id", "x=id", "' OR 1=1 --", "'; DROP TABLE users; --"),
    *(
        "1) UNION SELECT 1",
        "$1",
        ":name",
        "{param}",
        "{page}",
        '"} or vector(1) or x{a="',
        "5m]) or vector(1",
        "a=~`.*`",
    ),
    *(
        "{{.}}",
        "go-template={{.}}",
        "jsonpath={.data}",
        "pods,secrets",
        "secret/x",
        "x?admin=1",
        "x#frag",
        "a@evil.example",
    ),
    *("http://169.254.169.254/", "http:evil", "\\\\evil\\share", "", " ", "x" * 20_000),
]


@pytest.fixture
def tools(tmp_path: Path) -> dict[str, DeclaredTool]:
    """Every example, with programs that are here; kubectl is a fake that records what it gets."""
    program = tmp_path / "kubectl"
    program.write_text(FAKE.format(folder=tmp_path))
    program.chmod(0o755)
    (tmp_path / "config").write_text("fake: kubeconfig\n")
    at = f"kubeconfig: {tmp_path}/config\n      program: {program}"
    for file in EXAMPLES.glob("*.yaml"):
        text = file.read_text().replace("kubeconfig: /etc/opsagent/kubeconfig", at)
        if not process.shutil.which("journalctl", path=process.PATH):
            text = text.replace("- journalctl\n", "- echo\n")
        (tmp_path / file.name).write_text(text)
    secrets = {"POSTGRES_READER_DSN": "postgresql://fake"}
    source = DeclaredTools(tmp_path, mode=Mode.OFF, egress=LOOPBACK, secrets=secrets)
    assert source.problems() == {}
    return {tool.spec.name: tool for tool in source._tools.values()}


def good(tool: DeclaredTool) -> dict[str, Any]:
    """Arguments that the tool takes: its defaults, and something plain for the rest."""
    plain = {"unit": "ssh.service", "service": "web", "program": "sh", "query": "up", "name": "web", "path": "/usr"}
    plain["age"] = "+30"
    properties = tool.spec.input_schema["properties"]
    return {
        name: schema.get("default") or (schema["enum"][0] if "enum" in schema else plain[name])
        for name, schema in properties.items()
        if "default" in schema or name in tool.spec.input_schema["required"]
    }


def attempts(tool: DeclaredTool) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Each snippet in each parameter of the tool, and in one that it doesn't have."""
    for name in (*tool.spec.input_schema["properties"], "not_declared"):
        for snippet in SNIPPETS:
            yield name, snippet, good(tool) | {name: snippet}


def is_inert(tool: DeclaredTool, name: str, snippet: str, args: dict[str, Any]) -> bool:
    """Whether what the snippet becomes differs from a plain value's outcome in that one place alone."""
    if tool.previewer is not None:
        asked: Any = tool.previewer
        if not is_inert(replace(tool, kind=asked, previewer=None), name, snippet, args):
            return False
    kind: Any = tool.kind
    if isinstance(kind, ArgvCommand):
        made = kind.command(args)
        written = sum(element.parameter is not None for element in kind.elements)
        parameter = kind.declaration.parameters[name]
        declared = parameter.flag and snippet in parameter.schema["enum"]
        is_option = snippet.startswith("-") and not declared
        return made.count(snippet) == 1 and not is_option and len(made) <= 1 + len(kind.elements) + written
    if isinstance(kind, KubectlCommand):
        made = kind.command(args)
        after = made[made.index("--") + 1 :]
        flag = f"{FLAGS[name].option}={snippet}" if name in FLAGS else None
        return (flag in made[: made.index("--")]) if flag else snippet in after
    if isinstance(kind, PromqlQuery):
        query, _ = kind.query(args)
        return query == snippet if kind.max_length is not None else json.dumps(snippet, ensure_ascii=False) in query
    raise AssertionError(f"no judgement for {type(kind).__name__}")


def test_no_snippet_passes_silently_into_a_command_or_a_query(tools: dict[str, DeclaredTool]) -> None:
    refused, inert, silent = 0, 0, list[tuple[str, str, str]]()
    for tool in tools.values():
        if isinstance(tool.kind, HttpRequest | SqlQuery):
            continue  # judged below, where their values arrive
        assert validate(tool.spec, good(tool)) is None, tool.spec.name
        for name, snippet, args in attempts(tool):
            if validate(tool.spec, args) is not None:
                refused += 1
                continue
            try:
                passed = is_inert(tool, name, snippet, args)
            except Unfit:
                refused += 1
                continue
            inert += passed
            silent += [] if passed else [(tool.spec.name, name, snippet)]
    assert silent == []
    assert refused > 2000
    assert inert > 0


def test_what_is_refused_is_refused_without_the_registry_too(tools: dict[str, DeclaredTool]) -> None:
    """A caller that forgets to check the schema opens nothing: the tool checks for itself."""
    for tool in tools.values():
        if not isinstance(tool.kind, ArgvCommand | KubectlCommand):
            continue
        for name, snippet, args in attempts(tool):
            if validate(tool.spec, args) is None:
                continue
            with pytest.raises(Unfit):
                print(tool.spec.name, name, repr(snippet), tool.kind.command(args))


async def test_what_passes_reaches_real_programs_as_one_argument_and_starts_nothing(
    tools: dict[str, DeclaredTool], tmp_path: Path
) -> None:
    """df, ps and a recording kubectl are run with everything that gets through."""
    ran = 0
    before = set(os.listdir(tmp_path))
    for tool in (tools["disk_usage"], tools["process_of"], tools["kubernetes_rollout_restart"]):
        for name, snippet, args in attempts(tool):
            if validate(tool.spec, args) is not None:
                continue
            result = await tool.run(args, context())
            ran += 1
            assert "uid=" not in result.text, (tool.spec.name, name, snippet)
    assert ran > 0
    assert set(os.listdir(tmp_path)) <= before | {"env"}


async def test_http_values_never_leave_their_place_on_the_wire(tmp_path: Path) -> None:
    """The loosest pattern that a file can have: the encoding holds alone."""
    async with fake_web() as web:
        (tmp_path / "http.yaml").write_text(f"""
tools:
  - name: loose
    kind: http
    description: Takes whatever it is given.
    parameters: {{value: {{type: string, pattern: '^(?s:.*)$', maxLength: 100}}}}
    http: {{origin: '{web.origin}', path: '/s/{{value}}/end', query: {{q: '{{value}}', last: '1'}}}}
""")
        source = DeclaredTools(tmp_path, mode=Mode.OFF, egress=LOOPBACK, secrets={})
        (tool,) = source.tools()
        refused, passed = 0, 0
        for snippet in SNIPPETS:
            web.asked.clear()
            result = await tool.run({"value": snippet}, context())
            if not web.asked:
                assert result.outcome is Outcome.FAILED
                refused += 1
                continue
            passed += 1
            (asked,) = web.asked
            parts = urlsplit(asked.target)
            assert parts.path.count("/") == 3, snippet
            assert parts.path.startswith("/s/"), snippet
            assert parts.path.endswith("/end"), snippet
            assert parse_qsl(parts.query, keep_blank_values=True) == [("q", snippet), ("last", "1")], snippet
            assert set(asked.headers) == {"host", "accept", "connection", "user-agent", "accept-encoding"}
    assert refused > 10
    assert passed > 30


async def test_sql_values_arrive_in_postgres_as_they_were_given(dsn: str, tmp_path: Path) -> None:
    """The loosest pattern again: Postgres itself says what it was given."""
    (tmp_path / "sql.yaml").write_text("""
tools:
  - name: loose
    kind: sql
    description: Takes whatever it is given.
    secrets: [READER_DSN]
    parameters: {value: {type: string, pattern: '^(?s:.*)$', maxLength: 100}}
    sql: {dsn: {secret: READER_DSN}, query: "SELECT md5(:value) AS seen WHERE length(:value) >= 0"}
""")
    source = DeclaredTools(tmp_path, mode=Mode.OFF, egress=LOOPBACK, secrets={"READER_DSN": dsn})
    (tool,) = source.tools()
    passed = 0
    for snippet in SNIPPETS:
        try:
            values(source._tools["loose"].kind.declaration.parameters, {"value": snippet})
        except Unfit:
            continue
        result = await tool.run({"value": snippet}, context())
        assert f"| {hashlib.md5(snippet.encode()).hexdigest()} |" in result.text, snippet
        passed += 1
    assert passed > 60


def test_command_values_are_one_element_under_the_loosest_pattern(tmp_path: Path) -> None:
    (tmp_path / "argv.yaml").write_text("""
tools:
  - name: loose
    kind: argv
    description: Takes whatever it is given.
    parameters: {value: {type: string, pattern: '^(?s:.*)$', maxLength: 100}}
    argv: {command: [echo, first, {option: -n, value: '{value}'}, '{value}', last]}
""")
    source = DeclaredTools(tmp_path, mode=Mode.OFF, egress=LOOPBACK, secrets={})
    kind: Any = source._tools["loose"].kind
    passed = 0
    for snippet in SNIPPETS:
        try:
            made = kind.command({"value": snippet})
        except Unfit:
            continue
        assert made[1:] == ["first", "-n", snippet, "--", snippet, "last"]
        assert not snippet.startswith("-")
        assert snippet.isprintable()
        passed += 1
    assert passed > 60


async def test_a_preview_lets_no_more_through_than_its_command(tmp_path: Path) -> None:
    """Nobody has approved anything when it runs: under the loosest pattern a value is one element, or refused."""
    (tmp_path / "argv.yaml").write_text("""
tools:
  - name: loose
    kind: argv
    description: Takes whatever it is given.
    parameters: {value: {type: string, pattern: '^(?s:.*)$', maxLength: 100}}
    argv: {command: [rm, '{value}']}
    preview: {command: [ls, first, {option: -n, value: '{value}'}, '{value}', last]}
""")
    source = DeclaredTools(tmp_path, mode=Mode.OFF, egress=LOOPBACK, secrets={})
    tool = source._tools["loose"]
    command, preview = cast("ArgvCommand", tool.kind), cast("ArgvCommand", tool.previewer)
    passed = 0
    for snippet in SNIPPETS:
        try:
            made = preview.command({"value": snippet})
        except Unfit:
            with pytest.raises(Unfit):
                command.command({"value": snippet})
            refused = await tool.preview({"value": snippet}, context())
            assert refused is not None
            assert refused.outcome is Outcome.FAILED
            continue
        assert made[1:] == ["first", "-n", snippet, "--", snippet, "last"]
        passed += 1
    assert passed > 60


def test_promql_values_end_where_their_string_ends(tmp_path: Path) -> None:
    (tmp_path / "promql.yaml").write_text("""
tools:
  - name: loose
    kind: promql
    description: Takes whatever it is given.
    parameters: {value: {type: string, pattern: '^(?s:.*)$', maxLength: 100}}
    promql: {origin: 'https://a.example', query: 'x{a="{value}",b=''{value}''}'}
""")
    source = DeclaredTools(tmp_path, mode=Mode.OFF, egress=LOOPBACK, secrets={})
    kind: Any = source._tools["loose"].kind
    literal = re.compile(r"""x\{a="((?:[^"\\]|\\["\\])*)",b='((?:[^'\\]|\\['\\])*)'\}""")
    passed = 0
    for snippet in SNIPPETS:
        try:
            query, _ = kind.query({"value": snippet})
        except Unfit:
            continue
        found = literal.fullmatch(query)
        assert found, (snippet, query)
        assert [re.sub(r"\\(.)", r"\1", part) for part in found.groups()] == [snippet, snippet]
        passed += 1
    assert passed > 60


def test_the_schema_refuses_what_a_widened_approval_would_need(tools: dict[str, DeclaredTool]) -> None:
    """Row 35: after `get pods` no argument of the same tool can name another kubeconfig, server or user."""
    read = tools["kubernetes_read"]
    base = {"verb": "get", "resource": "pods", "namespace": "default"}
    assert validate(read.spec, base) is None
    for name in ("kubeconfig", "server", "token", "raw", "filename", "f", "as", "context", "user", "v", "flags"):
        assert validate(read.spec, base | {name: "x"}) is not None
    assert validate(read.spec, base | {"resource": "secrets"}) is not None
