"""A call's arguments, each readable to the last character, and where there is room for all of them."""

import json
from enum import StrEnum
from typing import Any

from agent.approvals.types import Approval
from bot import mrkdwn
from bot.lookalikes import found
from bot.split import width
from bot.views.blocks import Block, box, line, rich, run

CARD_LIMIT = 7_500
"""Characters of arguments on a card; with the rest of it well below what Slack takes in one message."""
_BOX_LIMIT = 2_800
_VIEW_BLOCKS, _VIEW_BYTES = 90, 180_000
_PREVIEW = 1_500


class Room(StrEnum):
    """The smallest place in which somebody can read all the arguments."""

    CARD = "card"
    MODAL = "modal"
    FILE = "file"


def room(approval: Approval) -> Room:
    """Return where all arguments of this call can be read."""
    if sum(width(k) + width(v) for k, v in _entries(approval.args)) <= CARD_LIMIT and len(approval.args) <= 40:
        return Room.CARD
    blocks = modal_blocks(approval)
    fits = len(blocks) <= _VIEW_BLOCKS and len(json.dumps(blocks)) <= _VIEW_BYTES
    return Room.MODAL if fits else Room.FILE


def card_blocks(approval: Approval) -> list[Block]:
    """All arguments, in one block."""
    if not approval.args:
        return [rich(line(run("No arguments.")))]
    parts: list[Block] = []
    for name, value in _entries(approval.args):
        parts += [line(run(name, bold=True)), box(value)]
    return [rich(*parts)]


def preview_blocks(approval: Approval, limit: int = _PREVIEW) -> list[Block]:
    """The start of what doesn't fit on a card, and how long the whole is."""
    whole = as_text(approval)
    note = f"The start of {len(whole)} characters of arguments:"
    return [rich(line(run(note)), box(mrkdwn.cut(whole, limit)))]


def modal_blocks(approval: Approval) -> list[Block]:
    """All arguments in as many blocks as they need."""
    blocks: list[Block] = []
    for name, value in _entries(approval.args):
        for i, part in enumerate(_cut(name, _BOX_LIMIT) if len(name) > _BOX_LIMIT else [name]):
            blocks.append(rich(line(run(part if i == 0 else f"… {part}", bold=True))))
        blocks += [rich(box(part)) for part in _cut(value, _BOX_LIMIT)]
    return blocks


def lookalikes(approval: Approval) -> str | None:
    """Return a line of mrkdwn that names the words whose letters only pass for Latin ones, if there are any."""
    words = [f"`{mrkdwn.cut(mrkdwn.visible(word), 60)}`" for word in found(approval.args)]
    return f":warning: *Letters that only look like Latin ones:* {', '.join(words)}" if words else None


def as_text(approval: Approval) -> str:
    """All arguments as one text, for a file."""
    return "\n\n".join(f"{name}\n{value}" for name, value in _entries(approval.args))


def _entries(args: dict[str, Any]) -> list[tuple[str, str]]:
    return [_entry(name, value) for name, value in args.items()]


def _entry(name: str, value: Any) -> tuple[str, str]:
    """The argument's name and value; text of several lines stays readable, where that leaves nothing unclear."""
    shown_name = mrkdwn.visible(name).replace("\n", "\\n") or '""'
    if isinstance(value, str) and "\n" in value and mrkdwn.visible(value) == value and "\\u" not in value:
        return f"{shown_name} (text, {value.count(chr(10)) + 1} lines):", value
    return f"{shown_name}:", mrkdwn.visible(json.dumps(value, ensure_ascii=False, indent=2))


def _cut(text: str, limit: int) -> list[str]:
    return [text[i : i + limit] for i in range(0, len(text), limit)]
