"""An answer as the messages it takes."""

from bot import mrkdwn, split
from bot.views.blocks import Block, Rendered, plain

MESSAGE_LIMIT = 11_500
"""Characters of one message's markdown blocks together; Slack fails near 13,200 and takes 12,000 of markdown."""
MESSAGE_BLOCKS = 45
_PLAIN_LIMIT = 2_900
_NOTIFICATION = 300
_NOTHING = "I have nothing to add."


def answer(text: str) -> list[Rendered]:
    """Return the messages that show a model's Markdown in full."""
    pieces = [p.shown for p in split.split(mrkdwn.prose(text)) if p.text.strip()] or [_NOTHING]
    messages: list[list[str]] = []
    used = 0
    for piece in pieces:
        size = split.width(piece)
        if not messages or used + size > MESSAGE_LIMIT or len(messages[-1]) == MESSAGE_BLOCKS:
            messages.append([])
            used = 0
        messages[-1].append(piece)
        used += size
    return [_message(parts) for parts in messages]


def _message(parts: list[str]) -> Rendered:
    blocks: list[Block] = [{"type": "markdown", "text": part} for part in parts]
    return Rendered(mrkdwn.escape(mrkdwn.cut(parts[0], _NOTIFICATION)), tuple(blocks))


def plain_answer(message: Rendered) -> list[Rendered]:
    """Return a message that Slack refused as blocks, once more as plain text."""
    text = "".join(str(b["text"]) for b in message.blocks)
    pieces = [p.text for p in split.split(text, _PLAIN_LIMIT) if p.text.strip()]
    return [
        Rendered(mrkdwn.escape(mrkdwn.cut(p, _NOTIFICATION)), ({"type": "section", "text": plain(p)},)) for p in pieces
    ]
