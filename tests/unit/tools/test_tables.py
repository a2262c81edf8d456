"""What is a table and what is not, however large, deep or odd it is."""

import json

import pytest

from agent.tools import tables
from agent.tools.attachments import attachment
from agent.tools.base import RESULT_LIMIT, Source, ToolResult, ToolSpec, schema_hash, tool_id
from agent.tools.redaction import fit_to_show
from agent.tools.tables import CELL_LIMIT, MOST_ROWS, ROOM, Table, of_records, of_structured, of_text, table

SPEC = ToolSpec(
    tool_id=tool_id(Source.CUSTOM, None, "t"),
    name="t",
    original_name="t",
    description="",
    source=Source.CUSTOM,
    server=None,
    input_schema={},
    schema_hash=schema_hash("t", "", {}),
    redact=(r"password=\S+", r'"key":\s*"[^"]*"'),
)


def test_flat_records_are_a_table_with_the_columns_as_they_come() -> None:
    made = of_text('[{"a": 1, "b": null}, {"b": true, "c": "x\\ny"}]')
    assert made == Table(("a", "b", "c"), (("1", "", ""), ("", "true", "x y")))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[1, 2]",
        "[{}]",
        '{"a": 1}',
        '[{"a": [1]}]',
        '[{"a": {"b": 1}}]',
        "[" * 100_000,
        "[" * 5_000 + "]" * 5_000,
        '[{"a": ' + "[" * 5_000 + "]" * 5_000 + "}]",
        json.dumps([{f"c{n}": n for n in range(100_000)}]),
        json.dumps([{f"c{n}": n} for n in range(100_000)]),
        '[{"a": ' + "9" * 10_000 + "}]",
        '[{"a": 1}] and more',
    ],
    ids=range(14),
)
def test_what_is_no_list_of_flat_records_of_few_columns_is_no_table(text: str) -> None:
    assert of_text(text) is None


def test_rows_and_characters_have_their_limits_and_what_is_left_out_is_counted() -> None:
    made = of_records([{"n": n} for n in range(500)])
    assert made
    assert (len(made.rows), made.left_out) == (MOST_ROWS, 500 - MOST_ROWS)
    wide = of_records([{"n": "x" * 5_000} for _ in range(90)])
    assert wide
    shown = wide.cut()
    assert {len(cell) for row in shown.rows for cell in row} == {CELL_LIMIT}
    assert sum(len(cell) for row in shown.rows for cell in row) <= ROOM
    assert len(wide.rows) + wide.left_out == 90


def test_columns_without_rows_and_too_many_columns_are_no_table() -> None:
    assert table(["a"], []) is None
    assert table([str(n) for n in range(21)], [[0] * 21]) is None


def test_structured_content_is_a_table_where_it_is_one_list_alone() -> None:
    records = [{"a": 1}]
    assert of_structured({"result": records}) == of_records(records)
    assert of_structured({"result": records, "more": 1}) is None
    assert of_structured(None) is None


def test_a_table_comes_back_from_its_json_as_it_was() -> None:
    made = Table(("a",), (('\u202e,"x"',),), 3)
    assert Table.of_json(made.as_json()) == made
    assert made.as_csv() == 'a\r\n"\u202e,""x"""\r\n'


def test_a_result_gets_the_table_that_its_text_is_and_keeps_the_text() -> None:
    text = '[{"host": "db", "up": true}]'
    shown = fit_to_show(SPEC, ToolResult(text))
    assert shown.text == text
    assert shown.table == Table(("host", "up"), (("db", "true"),))


@pytest.mark.parametrize(
    "records",
    [
        [{"line": "password=hunter2"}],
        [{"key": "hunter2"}],
        [{"token": "ghp_" + "a" * 40}],
        [{"long": "x" * (CELL_LIMIT - 8) + " ghp_" + "a" * 40}],
        [{"password=hunter2": 1}],
    ],
    ids=range(5),
)
def test_where_something_may_not_be_read_there_is_no_table(records: list[dict[str, object]]) -> None:
    """A pattern may be about a name and its value together: cells would hide from it."""
    assert fit_to_show(SPEC, ToolResult(json.dumps(records))).table is None
    given = ToolResult("see below", table=of_records(records))
    assert fit_to_show(SPEC, given).table is None


def test_files_that_are_text_are_redacted_and_others_are_left_alone() -> None:
    secret = "ghp_" + "a" * 40
    text = attachment(b"user=a password=hunter2\n", name=f"{secret}.txt", media_type="text/plain")
    binary = attachment(b"\x89PNG\r\n\x1a\npassword=hunter2", media_type="image/png")
    shown = fit_to_show(SPEC, ToolResult("x", attachments=(text, binary)))
    assert shown.attachments[0].content == b"user=a [redacted]\n"
    assert secret not in shown.attachments[0].name
    assert shown.attachments[1].content == binary.content


def test_people_get_more_of_a_long_text_than_the_model_and_nothing_secret_at_the_cut() -> None:
    secret = "ghp_" + "a" * 40
    text = "x" * (RESULT_LIMIT + 5_000) + f" {secret} " + "y" * 100_000
    shown = fit_to_show(SPEC, ToolResult(text))
    assert len(shown.text) < RESULT_LIMIT + 200
    assert shown.whole
    assert len(shown.whole) > RESULT_LIMIT * 3
    assert secret not in shown.whole
    assert secret[:20] not in shown.whole
    assert fit_to_show(SPEC, ToolResult("short")).whole is None
    assert tables.of_text(text) is None
