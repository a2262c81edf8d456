"""What is wrong with a file is told with its line, and costs no neighbour."""

import json

import jsonschema
import pytest

from agent.tools.declared.declaration import SCHEMA
from agent.tools.declared.files import SIZE_LIMIT, BadFile, parsed
from tests.unit.declared.conftest import Folder

GOOD = """
tools:
  - name: uptime_of
    kind: argv
    description: Says how long the machine is up.
    argv: {command: [uptime]}
"""


def one(**changes: str) -> str:
    """A file with one tool, some of its lines replaced; the first line is empty."""
    lines = {
        "name": "name: echo_one",
        "kind": "kind: argv",
        "description": "description: Says what it was told.",
        "parameters": "parameters: {word: {type: string, pattern: '^[a-z]+$'}}",
        "argv": "argv: {command: [echo, '{word}']}",
    } | changes
    return "\ntools:\n  - " + "\n    ".join(line for line in lines.values() if line)


def test_lines_are_kept_for_every_part() -> None:
    source = parsed("a.yaml", one())
    assert source.line(("tools", 0, "name")) == 3
    assert source.line(("tools", 0, "parameters", "word", "pattern")) == 6
    assert source.line(("tools", 0, "argv", "command", 1)) == 7
    assert source.line(("tools", 0, "argv", "missing")) == 7


@pytest.mark.parametrize("text", ["2026-01-01", "yes", "on", "22:22", "010", "1_000", "1e3", "0x10", "NO"])
def test_what_only_looks_like_another_type_stays_text(text: str) -> None:
    assert parsed("a.yaml", f"{text}: {text}").data == {text: text}


def test_numbers_and_truths_are_what_they_look_like() -> None:
    data = parsed("a.yaml", "[1, -2, 0, 1.5, .5, 1.0e3, true, false, null, ~]").data
    assert data == [1, -2, 0, 1.5, 0.5, 1000.0, True, False, None, None]


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("a: 1\nb: [", 2, "expected the node content"),
        ("a: 1\nb: 2\na: 3", 3, "`a` is here twice"),
        ("a: &x [1]\nb: *x", 1, "anchors and aliases"),
        ("a: 1\nb: !!python/object/apply:os.system ['true']", 2, "tag"),
        ("a: 1\nb: !!binary aGk=", 2, "tag"),
        ("a: 1\n1: 2", 2, "key must be text"),
        ("a:\n\tb: 1", 2, "cannot start any token"),
        ("a: 1\n---\nb: 2", 2, "another document"),
        ("a: \x07", 1, "control characters"),
    ],
)
def test_what_yaml_can_do_besides_data_is_refused_with_its_line(text: str, line: int, said: str) -> None:
    with pytest.raises(BadFile) as bad:
        parsed("bad.yaml", text)
    assert str(bad.value).startswith(f"bad.yaml line {line}: ")
    assert said in str(bad.value)


def test_a_bomb_of_aliases_is_refused_before_it_is_built() -> None:
    rows = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}]" for n in range(1, 60)]
    with pytest.raises(BadFile, match="anchors"):
        parsed("bomb.yaml", "\n".join(rows))


@pytest.mark.parametrize("text", ["[" * 200 + "]" * 200, "[" * 100_000])
def test_a_deep_file_is_refused(text: str) -> None:
    with pytest.raises(BadFile):
        parsed("deep.yaml", text)


def test_a_file_that_is_too_large_or_no_text_is_refused(folder: Folder) -> None:
    folder.write("#" * (SIZE_LIMIT + 1), "large.yaml")
    (folder.path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    problems = folder.source().problems()
    assert "larger than" in problems["large.yaml"]
    assert "UTF-8" in problems["binary.yaml"]


def test_a_bad_tool_never_hides_its_neighbours(folder: Folder) -> None:
    folder.write("tools: [", "broken.yaml")
    folder.write(GOOD + one(name="name: Bad Name").removeprefix("\ntools:"), "mixed.yaml")
    folder.write(GOOD.replace("uptime_of", "other"), "other.yaml")
    source = folder.source()
    assert {tool.spec.name for tool in source.tools()} == {"uptime_of", "other"}
    problems = source.problems()
    assert set(problems) == {"broken.yaml", "mixed.yaml: Bad Name"}
    assert problems["mixed.yaml: Bad Name"].startswith("mixed.yaml line 8: `name`: ")


def test_the_second_of_two_tools_with_one_name_is_a_problem(folder: Folder) -> None:
    folder.write(GOOD, "a.yaml")
    folder.write("# again" + GOOD, "b.yaml")
    source = folder.source()
    assert len(source.tools()) == 1
    assert "b.yaml line 3: there is a tool `uptime_of` already" in source.problems()["b.yaml: uptime_of"]


@pytest.mark.parametrize(
    ("change", "line", "said"),
    [
        ({"name": "name: UPPER"}, 3, "`name`: "),
        ({"kind": "kind: shell"}, 4, "`kind`: "),
        ({"description": ""}, 3, "`description` is missing"),
        ({"argv": "http: {origin: 'https://a.example', path: /}"}, 7, "has no `http`"),
        ({"argv": "colour: red"}, 3, "`colour` is not known here"),
        ({"argv": ""}, 4, "needs a part `argv:`"),
        ({"argv": "argv:\n      command: [echo]\n      shell: true"}, 7, "`argv`: `shell` is not known here"),
        ({"argv": "argv:\n      command:\n        - echo\n        - 'a{word}'"}, 10, "mixes text and a parameter"),
        ({"argv": "argv: {command: [echo, '{other}']}"}, 7, "`{other}` is not among"),
        ({"argv": "argv: {command: ['{word}', a]}"}, 7, "it can't be a parameter"),
        ({"argv": "argv: {command: [no-such-program-here, '{word}']}"}, 7, "is not here: install it"),
        ({"argv": "argv: {command: [./echo, '{word}']}"}, 7, "absolute path"),
        ({"argv": "argv: {command: [echo]}"}, 6, "`word` is used nowhere"),
        ({"argv": "argv: {command: [echo, '{word}', -n]}"}, 7, "options must stand before"),
        ({"argv": "argv: {command: [bash, -c, '{word}']}"}, 7, "runs what its arguments say"),
        ({"argv": "argv: {command: [/usr/bin/env, '{word}']}"}, 7, "runs what its arguments say"),
        ({"argv": "argv: {command: [echo, '{word}'], env: {A: {secret: NOPE}}}"}, 7, "not among the tool's `secrets`"),
        ({"parameters": "parameters: {word: {type: string}}"}, 6, "needs a `pattern`"),
        ({"parameters": "parameters: {word: {type: string, pattern: 'a+'}}"}, 6, "`pattern`: "),
        ({"parameters": "parameters: {word: {type: string, pattern: '^(?=a)a$'}}"}, 6, "without look-around"),
        ({"parameters": "parameters: {word: {type: string, enum: [a], flag: true}}"}, 6, "each starting with `-`"),
        ({"parameters": "parameters: {word: {type: string, enum: [a], default: b}}"}, 6, "the default is not one"),
        ({"parameters": "parameters: {word: {type: array}}"}, 6, "needs `items`"),
        ({"parameters": "parameters: {word: {type: number, minimum: .inf}}"}, 6, "infinite"),
        ({"kind": "kind: argv\n    secrets: [UNSET_SECRET]"}, 5, "the secret `UNSET_SECRET` is not set"),
        ({"kind": "kind: argv\n    result: {redact: ['(']}"}, 5, "no regular expression"),
    ],
)
def test_each_mistake_is_told_with_file_and_line(folder: Folder, change: dict[str, str], line: int, said: str) -> None:
    problem = folder.problem(one(**change))
    assert problem.startswith(f"tools.yaml line {line}: "), problem
    assert said in problem


@pytest.mark.parametrize("text", ["", "[]", "tools: {}", "tools: []", "just text"])
def test_a_file_without_tools_is_told_so(folder: Folder, text: str) -> None:
    assert "a list of tools" in folder.problem(text)


def test_a_stray_key_beside_the_tools_is_told_and_they_load(folder: Folder) -> None:
    folder.write("version: 1" + GOOD)
    source = folder.source()
    assert len(source.tools()) == 1
    (problem,) = source.problems().values()
    assert problem.startswith("tools.yaml line 1: `version` is not known here")


def test_a_yml_file_and_a_missing_folder_are_told(folder: Folder) -> None:
    folder.write(GOOD, "disk.yml")
    assert "rename it to disk.yaml" in folder.source().problems()["disk.yml"]
    nowhere = Folder(folder.path / "nowhere")
    assert "which is not a folder" in nowhere.source().problems()["nowhere"]


def test_the_schema_is_a_json_schema_that_editors_can_use() -> None:
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    assert validator.is_valid(parsed("a.yaml", GOOD).data)
    assert not validator.is_valid(parsed("a.yaml", one(name="name: UPPER")).data)
