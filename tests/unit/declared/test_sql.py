"""SQL: parameters stay values, transactions stay read-only, and caps hold, on a real PostgreSQL."""

from collections.abc import Callable
from typing import Any

import pytest

from agent.tools.base import Outcome
from tests.unit.declared.conftest import Folder, tool_of

ANY = "{type: string, pattern: '^.*$', required: false}"


def sql(query: str, parameters: str = "{}", extra: str = "", timeout_s: float = 5) -> str:
    body = query.replace("\n", "\n        ")
    return f"""
tools:
  - name: under_test
    kind: sql
    description: A query under test.
    timeout_s: {timeout_s}
    secrets: [READER_DSN]
    parameters: {parameters}
    sql:
      dsn: {{secret: READER_DSN}}
      {extra}
      query: |
        {body}
"""


def source_of(folder: Folder, text: str, dsn: str = "postgresql://nobody:fake-password@127.0.0.1:1/x"):
    folder.write(text)
    return folder.source(READER_DSN=dsn)


def text_of(folder: Folder, query: str, parameters: str) -> str:
    return tool_of(source_of(folder, sql(query, parameters)), "under_test").kind.text


def test_only_names_outside_strings_and_comments_are_parameters(folder: Folder) -> None:
    query = """SELECT ':a', "x:a", $$ :a $$, $t$ :a $t$, E'\\':a', :a, now()::date, :b + 1, :a -- :a
WHERE x = :b;"""
    made = text_of(folder, query, f"{{a: {ANY}, b: {{type: integer}}}}")
    expected = (
        """SELECT ':a', "x:a", $$ :a $$, $t$ :a $t$, E'\\':a', $1::text, now()::date, $2::bigint + 1, $1::text """
    )
    assert made == f"{expected}\nWHERE x = $2::bigint"


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("DELETE FROM users", "must be one SELECT"),
        ("COPY x TO PROGRAM 'id'", "must be one SELECT"),
        ("SET ROLE admin", "must be one SELECT"),
        ("SELECT 1; DROP TABLE users", "one statement"),
        ("SELECT :nope", "`:nope` is not among"),
        ("SELECT $1", "parameters as :name"),
        ("SELECT /* :a */ 1", "comments as --"),
    ],
)
def test_what_is_not_one_select_is_not_offered(folder: Folder, query: str, said: str) -> None:
    assert said in folder.problem(sql(query), READER_DSN="postgresql://fake")


async def test_a_result_is_a_table_in_postgres_own_words(folder: Folder, dsn: str, run: Callable[..., Any]) -> None:
    query = "SELECT 1 AS one, NULL AS none, true AS yes, ARRAY[1,2] AS many, 'a|b' AS bar, interval '90 s' AS took"
    result = await run(source_of(folder, sql(query), dsn), "under_test", {})
    assert result.text.splitlines() == [
        "| one | none | yes | many | bar | took |",
        "| --- | --- | --- | --- | --- | --- |",
        "| 1 |  | true | {1,2} | a\\|b | 00:01:30 |",
        "",
        "1 row.",
    ]


@pytest.mark.parametrize("value", ["' OR '1'='1", "'; DROP TABLE users; --", "\\", "$1", ":b", "%", '"', "1) OR (1=1"])
async def test_a_value_is_only_ever_a_value(folder: Folder, dsn: str, run: Callable[..., Any], value: str) -> None:
    query = "SELECT (:a = 'x')::text AS same, length(:a) AS long, (SELECT count(*) > 0 FROM pg_class) AS there"
    result = await run(source_of(folder, sql(query, f"{{a: {ANY}}}"), dsn), "under_test", {"a": value})
    assert f"| false | {len(value)} | true |" in result.text


async def test_each_type_of_parameter_arrives_as_itself(folder: Folder, dsn: str, run: Callable[..., Any]) -> None:
    parameters = f"""{{a: {{type: integer}}, b: {{type: number}}, c: {{type: boolean}}, d: {ANY}, e: {ANY},
      f: {{type: array, items: {{type: string, pattern: '^.*$'}}}}}}"""
    query = "SELECT :a * 2 AS a, :b / 2 AS b, NOT :c AS c, :d::interval * 2 AS d, :e IS NULL AS e, 'y' = ANY(:f) AS f"
    args = {"a": 21, "b": 5, "c": True, "d": "30 min", "f": ["x", "y"]}
    result = await run(source_of(folder, sql(query, parameters), dsn), "under_test", args)
    assert "| 42 | 2.5 | false | 01:00:00 | true | true |" in result.text


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("WITH gone AS (DELETE FROM users RETURNING *) SELECT * FROM gone", "must be at the top level"),
        ("SELECT set_config('transaction_read_only', 'off', true)", "read-write mode must be set before"),
        ("SELECT lo_create(0)", "in a read-only transaction"),
    ],
)
async def test_nothing_is_written(folder: Folder, dsn: str, run: Callable[..., Any], query: str, said: str) -> None:
    result = await run(source_of(folder, sql(query), dsn), "under_test", {})
    assert result.outcome is Outcome.FAILED
    assert result.text.startswith("The query failed: ")
    assert said in result.text


async def test_rows_and_bytes_are_capped_and_told(folder: Folder, dsn: str, run: Callable[..., Any]) -> None:
    query = "SELECT n, repeat('x', 150) AS filler FROM generate_series(1, 1000000) AS n"
    rows = await run(source_of(folder, sql(query, extra="max_rows: 7"), dsn), "under_test", {})
    assert rows.text.endswith("7 rows. There are more.")
    size = await run(source_of(folder, sql(query, extra="max_bytes: 1000"), dsn), "under_test", {})
    assert size.text.endswith("6 rows. There are more.")


async def test_a_huge_value_is_cut_in_the_database(folder: Folder, dsn: str, run: Callable[..., Any]) -> None:
    result = await run(source_of(folder, sql("SELECT repeat('x', 50000000) AS big"), dsn), "under_test", {})
    assert result.outcome is Outcome.SUCCEEDED
    assert len(result.text) < 400


async def test_a_long_query_is_stopped_by_the_database(folder: Folder, dsn: str, run: Callable[..., Any]) -> None:
    source = source_of(folder, sql("SELECT pg_sleep(600)", timeout_s=0.2), dsn)
    result = await run(source, "under_test", {})
    assert result.outcome is Outcome.FAILED
    assert "took longer than 0.2 s" in result.text


async def test_the_address_and_its_password_are_in_no_answer(folder: Folder, run: Callable[..., Any]) -> None:
    for dsn in (
        "postgresql://nobody:fake-password@127.0.0.1:1/x",
        "nonsense fake-password",
        "postgresql://h:fake-password/x",
    ):
        source = source_of(folder, sql("SELECT 1"), dsn)
        result = await run(source, "under_test", {})
        assert result.outcome is Outcome.FAILED
        assert "READER_DSN" in result.text
        assert "fake-password" not in result.text + repr(source.tools())


async def test_people_get_the_querys_columns_as_a_table_unless_something_of_it_is_secret(
    folder: Folder, dsn: str, run: Callable[..., Any]
) -> None:
    query = "SELECT n, 'value ' || n AS what FROM generate_series(1, 120) n"
    shown = await run(source_of(folder, sql(query), dsn), "under_test", {})
    assert shown.table
    assert (shown.table.columns, shown.table.rows[1]) == (("n", "what"), ("2", "value 2"))
    assert (len(shown.table.rows), shown.table.left_out, shown.for_people) == (99, 2, False)
    marked = sql(query).replace("    sql:", "    result: {for_people: true, redact: ['value 7']}\n    sql:")
    hidden = await run(source_of(folder, marked, dsn), "under_test", {})
    assert (hidden.table, hidden.for_people) == (None, True)
    assert "| 7 | [redacted] |" in hidden.text
