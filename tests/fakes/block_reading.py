"""What a person gets from blocks: the words they read, what they can press, whom the text calls."""

import html
import re
from collections.abc import Iterator
from typing import Any

_WORDS = ("text", "title", "subtitle", "body", "details", "output", "alt_text", "label", "hint")
_INSIDE = (
    "fields",
    "element",
    "elements",
    "accessory",
    "child_blocks",
    "tasks",
    "actions",
    "rows",
    "options",
    "placeholder",
)
_PING = re.compile(r"<(?:![a-z^]+[^>]*|@[UW][A-Z0-9]+(?:\|[^>]*)?)>")


def visible(blocks: Any) -> str:
    """All a person reads in these blocks, a line for each piece, with Slack's entities decoded."""
    return "\n".join(_words(blocks))


def _words(part: Any, *, raw: bool = False) -> Iterator[str]:
    if isinstance(part, list):
        for one in part:
            yield from _words(one, raw=raw)
    elif isinstance(part, dict):
        raw = raw or part.get("type") == "rich_text"
        for key in _WORDS:
            value = part.get(key)
            if isinstance(value, str):
                yield value if raw else html.unescape(value)
            else:
                yield from _words(value, raw=raw)
        if part.get("type") in ("user", "broadcast"):
            yield f"@{part.get('user_id') or part.get('range')}"
        if part.get("type") == "raw_number":
            yield str(part.get("value", ""))
        for key in _INSIDE:
            yield from _words(part.get(key), raw=raw)


def letters(blocks: Any) -> int:
    """The cumulative text that Slack holds against its limit of about 13,200."""
    if isinstance(blocks, list):
        return sum(letters(one) for one in blocks)
    if not isinstance(blocks, dict):
        return 0
    own = sum(len(v) for k, v in blocks.items() if k in _WORDS and isinstance(v, str))
    return own + sum(letters(v) for v in blocks.values() if isinstance(v, dict | list))


def pings(text: str | None, blocks: Any) -> list[str]:
    """Every mention that would notify somebody: in mrkdwn, markdown and rich text, never in plain text."""
    found = _PING.findall(text or "")
    return found + list(_pings_in(blocks))


def _pings_in(part: Any) -> Iterator[str]:
    if isinstance(part, list):
        for one in part:
            yield from _pings_in(one)
    elif isinstance(part, dict):
        if part.get("type") in ("mrkdwn", "markdown"):
            yield from _PING.findall(str(part.get("text", "")))
        elif part.get("type") in ("user", "broadcast", "usergroup"):
            yield f"@{part.get('user_id') or part.get('range') or part.get('usergroup_id')}"
        for value in part.values():
            if isinstance(value, dict | list):
                yield from _pings_in(value)


def pressables(blocks: Any) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Every interactive element with the block it stands in."""
    for block in blocks or []:
        parts = [*block.get("elements", []), *block.get("actions", []), block.get("accessory"), block.get("element")]
        for element in parts:
            if isinstance(element, dict) and "action_id" in element:
                yield block, element
        yield from pressables(block.get("child_blocks") or [])
        if block.get("type") == "carousel":
            yield from pressables(block.get("elements") or [])


def named(blocks: list[dict[str, Any]], fresh: Iterator[str]) -> list[dict[str, Any]]:
    """The blocks as Slack stores them: whatever lacks a block_id or action_id is given one."""
    result: list[dict[str, Any]] = []
    for given in blocks:
        block: dict[str, Any] = {**given, "block_id": given.get("block_id") or next(fresh)}
        if block["type"] == "actions":
            block["elements"] = [{**e, "action_id": e.get("action_id") or next(fresh)} for e in block["elements"]]
        if isinstance(block.get("accessory"), dict) and block["accessory"]["type"] != "image":
            block["accessory"] = {"action_id": next(fresh), **block["accessory"]}
        if isinstance(block.get("element"), dict):
            block["element"] = {"action_id": next(fresh), **block["element"]}
        if block["type"] == "container":
            block["child_blocks"] = named(block["child_blocks"], fresh)
        result.append(block)
    return result
