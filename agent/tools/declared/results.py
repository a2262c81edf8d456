"""What a declared tool gives back: text, capped, without what must not be shown."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from agent.tools.base import RESULT_LIMIT, ToolResult, capped, cleaned
from agent.tools.tables import Table

CELL_LIMIT = 200
READ_LIMIT = 256 * 1024
"""Characters that are looked at at all."""
SHORTEST_SECRET = 4
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Finish:
    """How a tool's result is made fit to be shown."""

    max_chars: int = RESULT_LIMIT
    patterns: tuple[re.Pattern[str], ...] = ()
    secrets: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Names and values of the secrets that the tool was given."""
    for_people: bool = False
    """Shown to people also where nobody had to approve the call."""

    def apply(self, text: str) -> str:
        """Return the text with secrets, matches and terminal codes taken out, cut to the tool's own limit."""
        text = _CONTROL.sub("\ufffd", _COLOUR.sub("", cleaned(capped(text, READ_LIMIT))))
        for name, value in self.secrets:
            if len(value) >= SHORTEST_SECRET:
                text = text.replace(value, f"[secret {name}]")
        for pattern in self.patterns:
            text = pattern.sub("[redacted]", text)
        return capped(text, self.max_chars)

    def result(self, text: str, table: Table | None = None) -> ToolResult:
        """Return the result of a call that succeeded; a table that has anything to hide is not shown as one."""
        hides = any(len(value) >= SHORTEST_SECRET and value in text for _, value in self.secrets)
        hides = hides or any(pattern.search(text) for pattern in self.patterns)
        return ToolResult(self.apply(text), table=None if hides else table, for_people=self.for_people)


def table(columns: Sequence[str], rows: Iterable[Sequence[str | None]], note: str = "") -> str:
    """Return a table as Markdown has it; a value can't end its cell or its line."""
    lines = [_row(columns), _row(["---"] * len(columns)), *(_row(row) for row in rows)]
    return "\n".join([*lines, "", note] if note else lines)


def _row(cells: Sequence[str | None]) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(value: str | None) -> str:
    if value is None:
        return ""
    line = " ".join(value.split())
    short = line if len(line) <= CELL_LIMIT else f"{line[:CELL_LIMIT]}…"
    return short.replace("\\", "\\\\").replace("|", "\\|")
