"""What may not be read in a tool's result: credentials by their well-known forms, and what operators name."""

import re
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache

from agent.tools import tables
from agent.tools.attachments import bounded
from agent.tools.base import RESULT_LIMIT, ToolResult, ToolSpec, cleaned
from agent.tools.tables import Table

MARK = "[redacted]"
PATTERN_LIMIT, PATTERNS_LIMIT = 300, 20
_MARGIN = 4_096
"""Characters around a cut that are looked at too, so that no half of a secret escapes."""
WHOLE_LIMIT = 100_000
"""Characters of a long text that people get as a file."""
_KNOWN = (
    r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----[A-Za-z0-9+/=\s:,.-]{0,20000}(?:-----END [A-Z ]{0,40}PRIVATE KEY-----)?",
    r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}",
    r"\bxapp-[A-Za-z0-9-]{10,}",
    r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    r"\bgh[opsur]_[A-Za-z0-9]{30,}",
    r"\bgithub_pat_[A-Za-z0-9_]{30,}",
    r"\bglpat-[A-Za-z0-9_-]{20,}",
    r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
)


def pattern_problem(text: str) -> str | None:
    """Return why a pattern can't be used, or None."""
    if not 0 < len(text) <= PATTERN_LIMIT:
        return f"a pattern has 1 to {PATTERN_LIMIT} characters"
    try:
        if re.compile(text).match(""):
            return f"`{text}` matches everywhere, also where there is nothing"
    except (re.error, RecursionError, OverflowError) as error:
        return f"`{text}` is no regular expression ({error})"
    return None


def redacted(text: str, patterns: Iterable[str] = ()) -> str:
    """Return the text without credentials of known forms, and without what matches the patterns."""
    for pattern in _compiled((*_KNOWN, *patterns)):
        text = pattern.sub(MARK, text)
    return text


def finished(spec: ToolSpec, text: str, patterns: tuple[str, ...] = ()) -> str:
    """Return a result as everyone may read it: storable, redacted, and cut in its middle where it is too long."""
    text, named = cleaned(text), (*patterns, *spec.redact)
    if len(text) <= RESULT_LIMIT:
        return redacted(text, named)
    head, tail = RESULT_LIMIT * 3 // 4, RESULT_LIMIT // 4
    start, end = redacted(text[: head + _MARGIN], named)[:head], redacted(text[-tail - _MARGIN :], named)[-tail:]
    return f"{start}\n[... {len(text) - head - tail} of {len(text)} characters cut ...]\n{end}"


def fit_to_show(spec: ToolSpec, result: ToolResult, patterns: tuple[str, ...] = ()) -> ToolResult:
    """Return a result of which every part is as everyone may read it; a JSON text of flat records gets its table."""
    named = (*patterns, *spec.redact)
    kept, left = bounded(result.attachments)
    files = tuple(file.mapped(lambda text: redacted(cleaned(text), named)) for file in kept)
    text = f"{result.text}\n[{left} more files, not shown]" if left else result.text
    table, whole = _table(result, named), None
    if len(text) > RESULT_LIMIT:
        cut = len(text) - WHOLE_LIMIT
        whole = redacted(cleaned(text[: WHOLE_LIMIT + _MARGIN]), named)[:WHOLE_LIMIT]
        whole += f"\n[... {cut} more characters cut]" if cut > 0 else ""
    return replace(result, text=finished(spec, text, patterns), attachments=files, table=table, whole=whole)


def _table(result: ToolResult, named: tuple[str, ...]) -> Table | None:
    """Return the table; none where a part may not be read: in cells, a pattern can't see what stands beside."""
    found = result.table or tables.of_text(result.text)
    if found is None or len(result.text) > WHOLE_LIMIT:
        return None
    found = found.mapped(cleaned)
    forms = [result.text, found.as_records(), *found.columns, *(cell for row in found.rows for cell in row)]
    if sum(map(len, forms)) > 4 * WHOLE_LIMIT or any(redacted(form, named) != form for form in forms):
        return None
    return found.cut()


@lru_cache(maxsize=256)
def _compiled(patterns: tuple[str, ...]) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(pattern) for pattern in patterns)
