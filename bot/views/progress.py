"""How far a running tool is, as the line under a thread."""

from typing import Any

from bot import mrkdwn

_LIMIT = 140


def progress(data: dict[str, Any]) -> str:
    """Return one line of a tool's progress; the tool's own words in it are escaped and cut."""
    total = data.get("total")
    far = _number(data["progress"]) + (f" of {_number(total)}" if total is not None else "")
    parts = [_words(data["tool_name"], 40), far, *([_words(data["message"], _LIMIT)] if data.get("message") else [])]
    return ": ".join(parts)


def _words(text: str, limit: int) -> str:
    return mrkdwn.escape(mrkdwn.cut(" ".join(text.split()), limit))


def _number(value: float) -> str:
    return f"{value:.10g}"
