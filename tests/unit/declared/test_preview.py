"""Previews of declared tools: which are taken, and what they may and can't do before anybody has approved."""

from pathlib import Path
from typing import Any

import pytest

from agent.sandbox.capability import current
from agent.sandbox.policy import Mode, SandboxSpec, protections
from agent.tools.base import PREVIEW_LIMIT, Outcome, ToolResult
from agent.tools.declared.parameters import Unfit
from tests.unit.declared.conftest import Folder, context, tool_of
from tests.unit.declared.fake_web import Reply, fake_web
from tests.unit.declared.test_kubectl import FAKE
from tests.unit.sandbox.conftest import open_folder

__all__ = ["open_folder"]

HELD = not protections(current(), SandboxSpec(), Mode.BEST_EFFORT).missing
needs_sandbox = pytest.mark.skipif(not HELD, reason="this machine has no whole sandbox")
WORD = "{type: string, pattern: '^[ -~]*$', required: false}"


def argv(preview: str, *extra: str, command: str = "[echo, did, '{a}']") -> str:
    more = "".join(f"    {line}\n" for line in extra)
    return f"""tools:
  - name: under_test
    kind: argv
    description: A command under test.
    parameters: {{a: {WORD}}}
{more}    argv: {{command: {command}}}
    preview: {preview}
"""


async def previewed(folder: Folder, text: str, args: dict[str, Any] | None = None, **secrets: str) -> ToolResult:
    folder.write(text)
    tool = tool_of(folder.source(**secrets), "under_test")
    assert tool.spec.previews
    result = await tool.preview(args or {}, context())
    assert result is not None
    return result


@pytest.mark.parametrize(
    ("preview", "problem"),
    [
        ("{}", "needs `command`"),
        ("[echo]", "not of type"),
        ("{command: [echo], write_paths: [/tmp]}", "`write_paths` is not known here"),
        ("{command: [echo], path: /x}", "has no `path`"),
        ("{command: [echo, did, '{a}']}", "the preview is the command itself"),
        ("{command: ['{a}']}", "the program must be written down"),
        ("{command: [no-such-program-here]}", "is not here: install it"),
        ("{command: [sh, -c, '{a}']}", "runs what its arguments say"),
        ("{command: [echo, 'x{a}']}", "mixes text and a parameter"),
        ("{command: [echo, '{b}']}", "is not among the tool's `parameters`"),
        ("{command: [echo], network: true}", "a network that the tool doesn't have"),
        ("{command: [echo], host_view: true}", "more of the machine than the tool"),
        ("{command: [echo], secrets: [TOKEN]}", "is not among the tool's `secrets`"),
    ],
)
def test_a_bad_preview_is_refused_with_its_line(folder: Folder, preview: str, problem: str) -> None:
    said = folder.problem(argv(preview))
    assert problem in said
    assert said.startswith("tools.yaml line 7: ")


@pytest.mark.parametrize("kind", ["sql", "promql"])
def test_what_only_reads_has_no_preview(folder: Folder, kind: str) -> None:
    section = {
        "sql": "sql: {dsn: {secret: DSN}, query: SELECT 1}\n    secrets: [DSN]",
        "promql": "promql: {origin: 'https://a.example'}",
    }[kind]
    text = f"""tools:
  - name: under_test
    kind: {kind}
    description: A query under test.
    preview: {{dry_run: true}}
    {section}
"""
    said = folder.problem(text, DSN="postgresql://reader:fake@127.0.0.1:1/x")
    assert f"a tool of kind `{kind}` has no preview: it only reads." in said
    assert said.startswith("tools.yaml line 5: ")


def test_a_tool_without_one_offers_none(folder: Folder) -> None:
    folder.write(argv("{command: [echo]}").split("    preview:")[0])
    assert tool_of(folder.source(), "under_test").spec.previews is False


def test_another_preview_is_another_hash(folder: Folder) -> None:
    hashes: list[str] = []
    for word in ("one", "two"):
        folder.write(argv(f"{{command: [echo, {word}]}}"))
        hashes.append(tool_of(folder.source(), "under_test").spec.schema_hash)
    assert hashes[0] != hashes[1]


@needs_sandbox
async def test_a_preview_says_what_would_be_done(folder: Folder) -> None:
    result = await previewed(folder, argv("{command: [echo, would do, '{a}']}"), {"a": "x y"})
    assert result == ToolResult("would do -- x y")


@needs_sandbox
async def test_a_preview_that_fails_says_how(folder: Folder) -> None:
    result = await previewed(folder, argv("{command: [ls, /no/such/folder]}"))
    assert result.outcome is Outcome.FAILED
    assert "It failed (exit code 2)." in result.text


async def test_without_a_whole_sandbox_there_is_no_preview(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    from agent.sandbox import run as sandbox
    from agent.sandbox.policy import Capability

    bare = Capability(landlock=0, seccomp=False, is_root=True)
    monkeypatch.setattr(sandbox.machine, "current", lambda: bare)
    marker = folder.path / "marker"
    result = await previewed(folder, argv(f"{{command: [touch, {marker}]}}"))
    assert result.outcome is Outcome.FAILED
    assert "The sandbox is strict and can't protect" in result.text
    assert not marker.exists()


@needs_sandbox
async def test_a_preview_can_not_write_where_its_tool_may(folder: Folder, open_folder: Path) -> None:
    (open_folder / "seen").write_text("seen")
    (open_folder / "seen").chmod(0o644)
    paths = f"write_paths: [{open_folder}]"
    result = await previewed(folder, argv(f"{{command: [touch, {open_folder}/made]}}", paths))
    assert result.outcome is Outcome.FAILED
    assert not (open_folder / "made").exists()
    result = await previewed(folder, argv(f"{{command: [cat, {open_folder}/seen]}}", paths))
    assert result == ToolResult("seen")


@needs_sandbox
@pytest.mark.parametrize("network", [False, True])
async def test_a_preview_has_the_network_only_where_it_says_so(folder: Folder, network: bool) -> None:
    async with fake_web(lambda asked: Reply(body=b"hello")) as web:
        port = web.origin.rpartition(":")[2]
        code = f"import socket; socket.create_connection((\\'127.0.0.1\\', {port}), 5); print(\\'connected\\')"
        program = "'" + code.replace("\\'", "''") + "'"
        said = f"{{command: [python3, -c, {program}]{', network: true' if network else ''}}}"
        result = await previewed(folder, argv(said, f"network: {{ports: [{port}]}}", command="[echo, '{a}']"))
    assert ("connected" in result.text) is network
    assert (result.outcome is Outcome.SUCCEEDED) is network


@needs_sandbox
async def test_a_preview_has_only_the_secrets_that_it_names_and_shows_none(folder: Folder) -> None:
    names = "secrets: [ONE, TWO]"
    command = "[echo, '{a}'], env: {ONE: {secret: ONE}, TWO: {secret: TWO}, PLAIN: plain}"
    text = argv("{command: [printenv], secrets: [TWO]}", names, command=command)
    result = await previewed(folder, text, ONE="obviously-fake", TWO="also-fake")
    assert "ONE" not in result.text
    assert "TWO=[secret TWO]" in result.text
    assert "PLAIN=plain" in result.text


@needs_sandbox
async def test_a_long_preview_is_cut(folder: Folder) -> None:
    result = await previewed(folder, argv("{command: [seq, '1', '100000']}"))
    assert len(result.text) < PREVIEW_LIMIT + 100
    assert "characters cut" in result.text


def test_a_value_is_one_argument_of_the_preview_or_refused(folder: Folder) -> None:
    folder.write(argv("{command: [echo, first, {option: -n, value: '{a}'}, '{a}']}"))
    kind = tool_of(folder.source(), "under_test").previewer
    assert kind.command({"a": "$(id); x"})[1:] == ["first", "-n", "$(id); x", "--", "$(id); x"]
    for bad in ("-rf", "--dry-run=false", "a\nb"):
        with pytest.raises(Unfit):
            kind.command({"a": bad})


async def test_an_unfit_value_is_a_failed_preview(folder: Folder) -> None:
    result = await previewed(folder, argv("{command: [echo, '{a}']}"), {"a": "-rf"})
    assert (result.outcome, "may not start with `-`" in result.text) == (Outcome.FAILED, True)


# kubectl ----------------------------------------------------------------------------------------------------------


def kubectl(folder: Folder, verbs: str, preview: str = "{dry_run: true}") -> str:
    program, config = folder.path / "kubectl", folder.path / "config"
    program.write_text(FAKE.format(folder=folder.path))
    program.chmod(0o755)
    config.write_text("fake: kubeconfig\n")
    return f"""tools:
  - name: under_test
    kind: kubectl
    description: A kubectl under test.
    preview: {preview}
    kubectl:
      program: {program}
      kubeconfig: {config}
      verbs: {verbs}
      resources: [deployments]
      namespaces: [web]
"""


@pytest.mark.parametrize(
    ("verb", "args", "words"),
    [
        ("scale", {"replicas": 3}, ["scale", "--dry-run=server", "--namespace=web", "--replicas=3"]),
        ("delete", {}, ["delete", "--wait=false", "--dry-run=server", "--namespace=web"]),
        ("rollout undo", {}, ["rollout", "undo", "--dry-run=server", "--namespace=web"]),
    ],
)
def test_the_preview_is_the_command_as_a_dry_run(
    folder: Folder, verb: str, args: dict[str, Any], words: list[str]
) -> None:
    folder.write(kubectl(folder, f"[{verb}]"))
    tool = tool_of(folder.source(), "under_test")
    made = tool.previewer.command({"name": "web", **args})
    assert made[2:] == [*words, "--", "deployments", "web"]
    assert [word for word in made if word != "--dry-run=server"] == tool.kind.command({"name": "web", **args})


@pytest.mark.parametrize("verbs", ["[rollout restart]", "[scale, rollout restart]", "[get]"])
def test_a_verb_without_a_dry_run_has_no_preview(folder: Folder, verbs: str) -> None:
    said = folder.problem(kubectl(folder, verbs))
    assert "has no dry run, so there is no preview of it" in said
    assert said.startswith("tools.yaml line 9: ")


def test_a_dry_run_that_is_none_is_refused(folder: Folder) -> None:
    assert folder.problem(kubectl(folder, "[scale]", "{dry_run: false}")).startswith("tools.yaml line 5: ")


# http -------------------------------------------------------------------------------------------------------------


async def test_the_preview_is_a_get_at_the_same_origin_without_secrets(folder: Folder) -> None:
    async with fake_web(lambda asked: Reply(body=b"3 would go")) as web:
        result = await previewed(
            folder, http(web.origin, "{path: '/plan/{a}', query: {n: '{a}'}}"), {"a": "x/y"}, T="fake"
        )
        assert "3 would go" in result.text
        await previewed(folder, http(web.origin, "{path: /plan, secrets: [T]}"), {"a": "x"}, T="fake-token")
    first, second = web.asked
    assert (first.method, first.target) == ("GET", "/plan/x%2Fy?n=x%2Fy")
    assert not {"authorization", "idempotency-key"} & set(first.headers)
    assert second.headers["authorization"] == "Bearer fake-token"


def http(origin: str, preview: str) -> str:
    return f"""tools:
  - name: under_test
    kind: http
    description: A request under test.
    parameters: {{a: {WORD}}}
    secrets: [T]
    http:
      origin: {origin}
      method: POST
      path: /do/{{a}}
      headers: {{Authorization: {{secret: T, prefix: 'Bearer '}}, X-Plain: 'yes'}}
      idempotency_header: Idempotency-Key
    preview: {preview}
"""


@pytest.mark.parametrize(
    ("preview", "problem"),
    [
        ("{path: 'https://evil.example/x'}", "does not match"),
        ("{path: '/x/{b}'}", "is not among the tool's `parameters`"),
        ("{path: /x, query: {n: '{b}'}}", "is not among the tool's `parameters`"),
        ("{path: /x, method: POST}", "`method` is not known here"),
        ("{path: /x, network: true}", "has no `network`"),
    ],
)
def test_a_bad_preview_of_a_request_is_refused_with_its_line(folder: Folder, preview: str, problem: str) -> None:
    said = folder.problem(http("https://a.example", preview), T="fake")
    assert problem in said
    assert said.startswith("tools.yaml line 13: ")
