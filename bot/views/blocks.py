"""What a message consists of, and the few block shapes that all views are made of."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from bot import mrkdwn
from bot.split import width

Block = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rendered:
    """A message as it will be posted; `text` is what notifications and screen readers get."""

    text: str
    blocks: tuple[Block, ...] = ()

    @property
    def digest(self) -> str:
        """Tells whether a message has to be updated at all."""
        return digest([self.text, self.blocks])


def digest(shown: Any) -> str:
    """The SHA-256 of what is handed to Slack to show."""
    return hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()


def plain(text: str) -> Block:
    """A text object that can't format, link or mention."""
    return {"type": "plain_text", "text": text, "emoji": False}


def words(text: str) -> Block:
    """A section of text that somebody else wrote."""
    return {"type": "section", "text": plain(mrkdwn.cut(mrkdwn.visible(text), 2900) or " ")}


def ours(text: str) -> Block:
    """A section of our own mrkdwn; whatever foreign stands in it was escaped before."""
    return {"type": "section", "text": {"type": "mrkdwn", "text": text, "verbatim": True}}


def footnote(text: str) -> Block:
    """A context line of our own mrkdwn."""
    return {"type": "context", "elements": [{"type": "mrkdwn", "text": text, "verbatim": True}]}


def rich(*elements: Block) -> Block:
    return {"type": "rich_text", "elements": list(elements)}


def line(*texts: Block) -> Block:
    return {"type": "rich_text_section", "elements": list(texts)}


def run(text: str, *, bold: bool = False) -> Block:
    """Characters as they are: rich text has no syntax that they could use."""
    return {"type": "text", "text": text, **({"style": {"bold": True}} if bold else {})}


def box(text: str) -> Block:
    """A preformatted box."""
    return {"type": "rich_text_preformatted", "elements": [run(text)]}


def button(text: str, action_id: str, value: str, style: str | None = None) -> Block:
    styled = {"style": style} if style else {}
    return {"type": "button", "text": plain(text), "action_id": action_id, "value": value, **styled}


def letters(part: Any) -> int:
    """Return the characters that Slack counts of these blocks together."""
    if isinstance(part, list | tuple):
        return sum(letters(one) for one in part)
    if not isinstance(part, dict):
        return 0
    return sum(width(v) if k == "text" and isinstance(v, str) else letters(v) for k, v in part.items())
