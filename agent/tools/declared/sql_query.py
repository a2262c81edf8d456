"""The kind `sql`: one SELECT with named parameters, in a read-only transaction, with caps on time, rows and bytes."""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from agent.tools import tables
from agent.tools.base import CallContext, Outcome, ToolResult
from agent.tools.declared.declaration import BadTool, Declaration, House
from agent.tools.declared.parameters import input_schema, values
from agent.tools.declared.results import CELL_LIMIT, table
from agent.tools.tables import Table

MAX_ROWS, MAX_BYTES = 100, 64 * 1024
CONNECT_S = 10
_READS = ("select", "with", "values", "table")
_TYPES = {"string": "text", "integer": "bigint", "number": "double precision", "boolean": "boolean"}
_TOKEN = re.compile(
    r"""(?P<comment>--[^\n]*)
    |(?P<block>/\*)
    |(?P<quoted>(?<![A-Za-z0-9_])[eE]'(?:[^'\\]|''|\\.)*'|'(?:[^']|'')*'|"(?:[^"]|"")*"
        |(?<![A-Za-z0-9_])\$(?P<tag>[A-Za-z_][A-Za-z0-9_]*)?\$.*?\$(?(tag)(?P=tag))\$)
    |(?P<cast>::)
    |(?P<name>:[A-Za-z_][A-Za-z0-9_]*)
    |(?P<number>\$[0-9]+)
    |(?P<end>;)""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True)
class SqlQuery:
    """A query that is ready to be asked."""

    declaration: Declaration
    house: House
    dsn: str = field(repr=False)
    text: str
    order: tuple[str, ...]
    """Parameters in the order of their numbers."""
    read_only: bool = True

    @property
    def schema(self) -> dict[str, Any]:
        return input_schema(self.declaration.parameters)

    async def run(self, args: Mapping[str, Any], context: CallContext) -> ToolResult:
        given = values(self.declaration.parameters, args)
        where = f"the database of `{self.declaration.section['dsn']['secret']}`"
        try:
            connection = await asyncpg.connect(self.dsn, timeout=CONNECT_S, statement_cache_size=0)
        except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            # Only the kind of error: some messages repeat the address with its password.
            return ToolResult(f"No connection to {where} ({type(error).__name__}).", Outcome.FAILED)
        try:
            text, shown = await self._ask(connection, [given.get(name) for name in self.order])
        except asyncpg.QueryCanceledError:
            text = f"The query took longer than {self.declaration.timeout_s:g} s and was stopped."
            return ToolResult(text, Outcome.FAILED)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            said = self.declaration.finish.apply(f"The query failed: {error}")
            return ToolResult(said, Outcome.FAILED)
        finally:
            await _close(connection)
        return self.declaration.finish.result(text, shown)

    async def _ask(self, connection: Any, arguments: list[Any]) -> tuple[str, Table | None]:
        most = self.declaration.section.get("max_rows", MAX_ROWS)
        async with connection.transaction(readonly=True):
            limit = str(max(1, int(self.declaration.timeout_s * 1000)))
            await connection.execute("SELECT set_config('statement_timeout', $1, true)", limit)
            columns = [attribute.name for attribute in (await connection.prepare(self.text)).get_attributes()]
            if not columns:
                return "The query has no columns.", None
            rows = await connection.fetch(_bounded(self.text, len(columns), most + 1), *arguments)
        return self._told(columns, [tuple(row) for row in rows], most)

    def _told(self, columns: list[str], rows: list[tuple[str | None, ...]], most: int) -> tuple[str, Table | None]:
        room = self.declaration.section.get("max_bytes", MAX_BYTES)
        shown: list[tuple[str | None, ...]] = []
        for row in rows[:most]:
            room -= sum(len((cell or "").encode()) for cell in row)
            if room < 0:
                break
            shown.append(row)
        more = " There are more." if len(shown) < len(rows) else ""
        text = table(columns, shown, f"{len(shown)} row{'' if len(shown) == 1 else 's'}.{more}")
        return text, tables.table(columns, shown, left_out=len(rows) - len(shown))


def build(declaration: Declaration, house: House) -> SqlQuery:
    """Return the query; raises BadTool for what is not one SELECT with the tool's own parameters."""
    section = declaration.section
    if declaration.read_only is False:
        raise BadTool("a sql tool only reads: remove `read_only: false`.", "read_only")
    text, order = _numbered(declaration, section["query"])
    for name in declaration.parameters:
        if name not in order:
            raise BadTool(f"the parameter `{name}` is used nowhere.", "parameters", name)
    return SqlQuery(declaration, house, declaration.setting(section["dsn"], "sql", "dsn"), text, order)


def _numbered(declaration: Declaration, query: str) -> tuple[str, tuple[str, ...]]:
    """Return the query with `$n::type` for each `:name`, and the names by number."""
    if query.split(None, 1)[0].lower().lstrip("(") not in _READS:
        raise BadTool("the query must be one SELECT (or WITH, VALUES, TABLE).", "sql", "query")
    order: list[str] = []

    def one(match: re.Match[str]) -> str:
        if match["block"] or match["number"]:
            raise BadTool(f"`{match[0]}` can't stand here: write comments as -- and parameters as :name.", *_QUERY)
        if match["end"]:
            if query[match.end() :].strip():
                raise BadTool("the query must be one statement.", *_QUERY)
            return ""
        if not match["name"]:
            return "" if match["comment"] else match[0]
        name = match["name"][1:]
        if name not in declaration.parameters:
            raise BadTool(f"`:{name}` is not among the tool's `parameters`.", *_QUERY)
        if name not in order:
            order.append(name)
        return f"${order.index(name) + 1}::{_type(declaration.parameters[name].schema)}"

    return _TOKEN.sub(one, query).strip(), tuple(order)


_QUERY = ("sql", "query")


def _type(schema: Mapping[str, Any]) -> str:
    return f"{_TYPES[schema['items']['type']]}[]" if schema["type"] == "array" else _TYPES[schema["type"]]


def _bounded(query: str, columns: int, rows: int) -> str:
    """Return the query with its rows counted and its values cut where they are, not here."""
    names = [f"c{index}" for index in range(columns)]
    cut = ", ".join(f"left({name}::text, {CELL_LIMIT + 1})" for name in names)
    # As a subquery it can't be a statement that writes: Postgres has those only at the top.
    return f"SELECT {cut} FROM (\n{query}\n) AS q({', '.join(names)}) LIMIT {rows}"  # noqa: S608


async def _close(connection: Any) -> None:
    try:
        await connection.close(timeout=2)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncio.CancelledError):
        connection.terminate()
        task = asyncio.current_task()
        if task and task.cancelling():
            raise
