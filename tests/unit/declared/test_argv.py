"""Commands: what a value becomes, and how their ends are told."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.sandbox.policy import Mode
from agent.tools.base import Outcome
from agent.tools.declared.parameters import Unfit
from tests.unit.declared.conftest import Folder, tool_of

WORD = "{type: string, pattern: '^[ -~]*$', required: false}"


def argv(command: str, parameters: str = "{}", extra: str = "") -> str:
    return f"""
tools:
  - name: under_test
    kind: argv
    description: A command under test.
    parameters: {parameters}
    {extra}
    argv: {command}
"""


def command_of(folder: Folder, text: str, args: dict[str, Any]) -> list[str]:
    folder.write(text)
    return tool_of(folder.source(), "under_test").kind.command(args)[1:]


def test_two_dashes_stand_before_the_first_plain_parameter(folder: Folder) -> None:
    text = argv("{command: [echo, -n, '{a}', literal, '{b}']}", f"{{a: {WORD}, b: {WORD}}}")
    assert command_of(folder, text, {"a": "x", "b": "y z"}) == ["-n", "--", "x", "literal", "y z"]


def test_two_dashes_that_are_written_are_not_doubled(folder: Folder) -> None:
    text = argv("{command: [echo, --, '{a}']}", f"{{a: {WORD}}}")
    assert command_of(folder, text, {"a": "x"}) == ["--", "x"]


def test_a_program_that_knows_no_two_dashes_gets_none_and_still_no_option(folder: Folder) -> None:
    text = argv("{command: [echo, '{a}'], separator: false}", f"{{a: {WORD}}}")
    assert command_of(folder, text, {"a": "x"}) == ["x"]
    with pytest.raises(Unfit, match="may not start with `-`"):
        command_of(folder, text, {"a": "-x"})


def test_an_option_and_its_value_are_two_elements_or_none(folder: Folder) -> None:
    text = argv("{command: [echo, {option: -C, value: '{a}'}, '{b}']}", f"{{a: {WORD}, b: {WORD}}}")
    assert command_of(folder, text, {"a": "x y", "b": "z"}) == ["-C", "x y", "--", "z"]
    assert command_of(folder, text, {"b": "z"}) == ["--", "z"]
    with pytest.raises(Unfit):
        command_of(folder, text, {"a": "-rf"})


def test_a_list_becomes_one_element_an_item(folder: Folder) -> None:
    items = "{type: array, items: {type: string, pattern: '^[ -~]+$'}, maxItems: 3}"
    text = argv("{command: [echo, '{a}']}", f"{{a: {items}}}")
    assert command_of(folder, text, {"a": ["x y", "$(z)"]}) == ["--", "x y", "$(z)"]
    for bad in (["a", "-b"], ["a"] * 4, ["a\n"], "a"):
        with pytest.raises(Unfit):
            command_of(folder, text, {"a": bad})


def test_only_a_flag_of_the_list_may_be_an_option(folder: Folder) -> None:
    text = argv("{command: [echo, '{a}']}", "{a: {type: string, enum: [-v, -q], flag: true}}")
    assert command_of(folder, text, {"a": "-v"}) == ["-v"]
    with pytest.raises(Unfit):
        command_of(folder, text, {"a": "-x"})


def test_numbers_and_truths_are_written_as_json_has_them_and_a_negative_one_is_no_option(folder: Folder) -> None:
    text = argv("{command: [echo, '{a}', '{b}']}", "{a: {type: integer}, b: {type: boolean}}")
    assert command_of(folder, text, {"a": 5, "b": True}) == ["--", "5", "true"]
    with pytest.raises(Unfit):
        command_of(folder, text, {"a": -5, "b": True})


def test_a_pattern_binds_the_whole_value_in_each_of_its_branches(folder: Folder) -> None:
    text = argv("{command: [echo, '{a}']}", "{a: {type: string, pattern: '^safe|fine$'}}")
    assert command_of(folder, text, {"a": "fine"}) == ["--", "fine"]
    for bad in ("safe; rm", "x fine", "fine\n"):
        with pytest.raises(Unfit):
            command_of(folder, text, {"a": bad})


def test_text_is_at_most_200_characters_unless_it_says_otherwise(folder: Folder) -> None:
    text = argv("{command: [echo, '{a}']}", f"{{a: {WORD}}}")
    assert command_of(folder, text, {"a": "x" * 200})
    with pytest.raises(Unfit):
        command_of(folder, text, {"a": "x" * 201})


@pytest.mark.parametrize("path", ["/etc/passwd", "/var/log/../../etc/passwd", "/var/logs", "var/log", "/var/log/.."])
def test_a_path_outside_its_folders_is_refused(folder: Folder, path: str) -> None:
    text = argv("{command: [echo, '{a}']}", "{a: {type: string, under: [/var/log]}}")
    assert command_of(folder, text, {"a": "/var/log/x.log"}) == ["--", "/var/log/x.log"]
    with pytest.raises(Unfit, match="under /var/log"):
        command_of(folder, text, {"a": path})


def test_a_link_out_of_the_folder_is_refused(folder: Folder, tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link").symlink_to("/etc")
    text = argv("{command: [echo, '{a}']}", f"{{a: {{type: string, under: [{inside}]}}}}")
    assert command_of(folder, text, {"a": f"{inside}/file"})
    with pytest.raises(Unfit):
        command_of(folder, text, {"a": f"{inside}/link/passwd"})


def test_an_argument_that_is_not_declared_is_refused(folder: Folder) -> None:
    text = argv("{command: [echo, '{a}']}", f"{{a: {WORD}}}")
    with pytest.raises(Unfit, match="no parameter `approved`"):
        command_of(folder, text, {"a": "x", "approved": True})


def test_the_program_is_found_once_through_a_fixed_path(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = folder.path / "bin"
    fake.mkdir()
    (fake / "echo").write_text("#!/bin/sh\necho evil\n")
    (fake / "echo").chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake}:{os.environ['PATH']}")
    folder.write(argv("{command: [echo, hello]}"))
    assert tool_of(folder.source(), "under_test").kind.command({})[0] in ("/usr/bin/echo", "/bin/echo")


def test_a_shell_under_another_name_is_still_one_that_runs_others(folder: Folder) -> None:
    (folder.path / "helper").symlink_to("/bin/sh")
    problem = folder.problem(argv(f"{{command: [{folder.path}/helper, '{{a}}']}}", f"{{a: {WORD}}}"))
    assert "runs what its arguments say" in problem


async def test_a_value_reaches_a_real_program_as_it_is(folder: Folder, run: Callable[..., Any]) -> None:
    text = argv("{command: [printf, '[%s]', '{a}'], separator: false}", "{a: {type: array, items: " + WORD + "}}")
    folder.write(text)
    values = ["$(id)", "`id`", "a b", "*", "~", "x;y", "'", '"', "${HOME}", "a=b"]
    result = await run(folder.source(mode=Mode.STRICT), "under_test", {"a": values})
    assert result.text == "".join(f"[{value}]" for value in values)


async def test_its_environment_is_only_what_was_written(
    folder: Folder, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLACK_BOT_TOKEN", "xoxb-fake")
    folder.write(argv("{command: [env], env: {COLOUR: red}}"))
    result = await run(folder.source(mode=Mode.STRICT), "under_test", {})
    names = {line.partition("=")[0] for line in result.text.splitlines()}
    assert "COLOUR=red" in result.text
    assert names <= {"COLOUR", "PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "USER", "LOGNAME"}


async def test_a_secret_is_given_by_name_and_never_shown(folder: Folder, run: Callable[..., Any]) -> None:
    env = "{TOKEN: {secret: API_TOKEN, prefix: 'Bearer '}}"
    folder.write(argv(f"{{command: [env], env: {env}}}", extra="secrets: [API_TOKEN]"))
    source = folder.source(API_TOKEN="fake-secret-value")
    result = await run(source, "under_test", {})
    assert "TOKEN=Bearer [secret API_TOKEN]" in result.text
    assert "fake-secret-value" not in result.text + repr(source.tools()) + repr(tool_of(source, "under_test").spec)


async def test_what_a_pattern_matches_is_redacted_and_a_long_result_is_cut(
    folder: Folder, run: Callable[..., Any]
) -> None:
    extra = "result: {max_chars: 200, redact: ['password=[^ ]+']}"
    folder.write(argv("{command: [seq, -f, 'password=hunter %.0f', '1', '500']}", extra=extra))
    result = await run(folder.source(), "under_test", {})
    assert "hunter" not in result.text
    assert "[redacted] 1" in result.text
    assert "characters cut" in result.text
    assert len(result.text) < 300


async def test_a_failing_program_is_a_failed_call_with_its_words(folder: Folder, run: Callable[..., Any]) -> None:
    folder.write(argv("{command: [ls, /nowhere/at/all]}"))
    result = await run(folder.source(), "under_test", {})
    assert result.outcome is Outcome.FAILED
    assert result.text.startswith("It failed (exit code 2).")
    assert "No such file" in result.text


async def test_an_exit_code_that_is_declared_fine_is_no_failure(folder: Folder, run: Callable[..., Any]) -> None:
    folder.write(argv("{command: ['false'], ok_exit_codes: [0, 1]}"))
    assert (await run(folder.source(), "under_test", {})).outcome is Outcome.SUCCEEDED


@pytest.mark.parametrize(("extra", "outcome"), [("read_only: true", Outcome.FAILED), ("risk: high", Outcome.UNKNOWN)])
async def test_a_program_that_does_not_end_is_stopped_and_its_effect_known_only_if_it_has_none(
    folder: Folder, run: Callable[..., Any], extra: str, outcome: Outcome
) -> None:
    folder.write(argv("{command: [sleep, '600']}", extra=f"timeout_s: 0.3\n    {extra}"))
    result = await run(folder.source(), "under_test", {})
    assert result.outcome is outcome
    assert "did not end within 0.3 s" in result.text


async def test_it_has_no_network_unless_it_is_declared(folder: Folder, run: Callable[..., Any]) -> None:
    folder.write(argv("{command: [getent, ahostsv4, 'localhost.invalid']}"))
    spec = tool_of(folder.source(), "under_test").kind.declaration
    assert spec.ports == ()
    folder.write(argv("{command: [getent, hosts, x]}", extra="network: {ports: [443], hosts: [api.example.com]}"))
    declared = tool_of(folder.source(), "under_test")
    assert declared.kind.declaration.ports == (443,)
    assert declared.spec.annotations["hosts"] == ["api.example.com"]


def test_a_program_that_no_sandbox_holds_says_so_and_a_strict_one_has_nothing_to_say(folder: Folder) -> None:
    folder.write(argv("{command: [echo, hello]}"))
    off, strict = (tool_of(folder.source(mode=mode), "under_test").spec for mode in (Mode.OFF, Mode.STRICT))
    assert off.unsandboxed == "files, network, system calls, other processes, limits, unprivileged account"
    assert strict.unsandboxed is None
    assert off.schema_hash == strict.schema_hash
