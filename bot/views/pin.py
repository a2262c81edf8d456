"""The card about a tool that its server changed: what it was, what it is, and what an admin made of it."""

import json
from typing import Any

from agent.changes import CardState, ChangeCard
from bot import mrkdwn
from bot.payloads import PIN_ACCEPT, PIN_KEEP, PIN_SEEN
from bot.split import width
from bot.views.approval import digest_shown
from bot.views.blocks import Block, Rendered, box, button, footnote, line, ours, rich, run
from bot.views.people import moment, person

_ROOM = 7_500
"""Characters of both sides together; what is longer can't be judged here."""
_HEADS = {
    CardState.OPEN: "A tool was changed by its server",
    CardState.KEPT: "Kept in quarantine",
    CardState.ACCEPTED: "Accepted",
    CardState.SUPERSEDED: "Changed again since, or accepted otherwise: this card counts no more",
    CardState.GONE: "Its server was removed",
}
_NOTHING = "It says again what was accepted before. It was different in between."
_TOO_LONG = "Too long for a card: read the whole change over REST (`GET /api/tools/{}`), and accept it there."


def change_card(card: ChangeCard) -> Rendered:
    """Return the card as the change stands. Accept is offered only where all of it can be read."""
    sides = [(part, _side(pair["before"]), _side(pair["after"])) for part, pair in sorted(card.differences.items())]
    fits = sum(width(before) + width(after) for _, before, after in sides) <= _ROOM
    blocks = [_head(card)]
    if card.state in (CardState.OPEN, CardState.KEPT, CardState.ACCEPTED):
        blocks += _differences(sides) if fits else [footnote(_TOO_LONG.format(card.tool_id))]
    blocks += _buttons(card, offers=fits)
    blocks.append(footnote(f"Definition `{digest_shown(card.schema_hash)}`"))
    name = f"{mrkdwn.escape(card.tool_name)} of {mrkdwn.escape(card.server)}"
    return Rendered(f"{_HEADS[card.state]}: {name}", tuple(blocks))


def _head(card: ChangeCard) -> Block:
    tool, server = (mrkdwn.escape(mrkdwn.cut(word, 200)).replace("`", "'") for word in (card.tool_name, card.server))
    said = f"*{_HEADS[card.state]}:* `{tool}` of the MCP server `{server}`"
    if card.state is CardState.OPEN:
        said += "\nNobody can call it until an admin accepts the change."
    elif card.by is not None and card.at is not None:
        said += f"\nBy {person(card.by)} {moment(card.at)}"
    return ours(said)


def _differences(sides: list[tuple[str, str, str]]) -> list[Block]:
    if not sides:
        return [rich(line(run(_NOTHING)))]
    parts: list[Block] = []
    for part, before, after in sides:
        parts += [line(run(f"{part.replace('_', ' ')}, before:", bold=True)), box(before)]
        parts += [line(run("after:", bold=True)), box(after)]
    return [rich(*parts)]


def _side(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True)
    return mrkdwn.visible(text) or "(empty)"


def _buttons(card: ChangeCard, *, offers: bool) -> list[Block]:
    value = str(card.tool_id)
    accept = [button("Accept", PIN_ACCEPT, value, "primary")] if offers else []
    keep = [button("Keep quarantined", PIN_KEEP, value)] if card.state is CardState.OPEN else []
    offered = [*accept, *keep] if card.state in (CardState.OPEN, CardState.KEPT) else []
    return [{"type": "actions", "block_id": PIN_SEEN + card.schema_hash, "elements": offered}] if offered else []
