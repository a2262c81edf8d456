"""Tables that people are shown of a result: plain cells, within what a chat message can hold."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

MOST_COLUMNS, MOST_ROWS = 20, 99
"""Slack's 100 rows with the header among them."""
CELL_LIMIT, CELL_READ = 300, 1_200
"""Characters of a cell that are shown, and that are looked at: so no half of a secret escapes."""
ROOM = 9_000
"""Characters of a whole table; Slack takes 10,000."""
_TEXT_LIMIT = 1_000_000
_ROWS_READ = 10_000


@dataclass(frozen=True, slots=True)
class Table:
    """Cells as text; `left_out` says how many more rows there were."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left_out: int = 0

    def mapped(self, change: Callable[[str], str]) -> "Table":
        """Return the table with every cell changed."""
        rows = tuple(tuple(change(cell) for cell in row) for row in self.rows)
        return replace(self, columns=tuple(change(column) for column in self.columns), rows=rows)

    def cut(self) -> "Table":
        """Return the table with its cells as long as they are shown."""
        return self.mapped(lambda cell: cell if len(cell) <= CELL_LIMIT else f"{cell[: CELL_LIMIT - 1]}…")

    def as_records(self) -> str:
        """Return the table as the JSON that a pattern of what must not be read was written for."""
        records = [dict(zip(self.columns, row, strict=False)) for row in self.rows]
        return json.dumps(records, ensure_ascii=False)

    @property
    def described(self) -> str:
        count = len(self.rows)
        more = f" of {count + self.left_out}" if self.left_out else ""
        return f"a table of {count}{more} row{'' if count + self.left_out == 1 else 's'}"

    def as_json(self) -> bytes:
        body = {"columns": self.columns, "rows": self.rows, "left_out": self.left_out}
        return json.dumps(body, ensure_ascii=False).encode()

    @classmethod
    def of_json(cls, content: bytes) -> "Table":
        """Return the table that `as_json` wrote."""
        body = json.loads(content)
        return cls(tuple(body["columns"]), tuple(tuple(row) for row in body["rows"]), body["left_out"])

    def as_csv(self) -> str:
        out = io.StringIO()
        csv.writer(out).writerows([self.columns, *self.rows])
        return out.getvalue()


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, left_out: int = 0) -> Table | None:
    """Return as much of the table as may be shown; None where it has no or too many columns, or no rows."""
    if not 0 < len(columns) <= MOST_COLUMNS:
        return None
    head = tuple(_cell(column) for column in columns)
    room = ROOM - sum(min(len(cell), CELL_LIMIT) for cell in head)
    kept: list[tuple[str, ...]] = []
    for row in rows:
        cells = tuple(_cell(value) for value in row)
        room -= sum(min(len(cell), CELL_LIMIT) for cell in cells)
        if len(kept) < MOST_ROWS and room >= 0:
            kept.append(cells)
        else:
            left_out += 1
            room = -1
    return Table(head, tuple(kept), left_out) if kept else None


def of_records(value: Any) -> Table | None:
    """Return the table that a list of flat objects is, or None where it is something else."""
    if not isinstance(value, list) or not 0 < len(cast("list[Any]", value)) <= _ROWS_READ:
        return None
    columns: dict[str, None] = {}
    records: list[dict[str, Any]] = []
    for record in cast("list[Any]", value):
        if not isinstance(record, dict) or not record or len(cast("dict[Any, Any]", record)) > MOST_COLUMNS:
            return None
        found = cast("dict[str, Any]", record)
        if not all(part is None or isinstance(part, str | int | float) for part in found.values()):
            return None
        columns |= dict.fromkeys(found)
        if len(columns) > MOST_COLUMNS:
            return None
        records.append(found)
    return table(list(columns), ([record.get(column) for column in columns] for record in records))


def of_structured(value: Mapping[str, Any] | None) -> Table | None:
    """Return the table in structured content: an object with one list of flat objects and nothing else."""
    parts = list(value.values()) if value else []
    return of_records(parts[0]) if len(parts) == 1 else None


def of_text(text: str) -> Table | None:
    """Return the table that a text is as JSON, or None."""
    if len(text) > _TEXT_LIMIT or not text.lstrip().startswith("["):
        return None
    try:
        return of_records(json.loads(text))
    except (ValueError, RecursionError):
        return None


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return " ".join(str(value)[:CELL_READ].split())
