"""What a tool gave to people: a table as Slack's own, and the words around it."""

from agent.tools.tables import Table
from bot import mrkdwn
from bot.views.blocks import Block, Rendered, box, footnote, rich

CARD_CHARACTERS, CARD_LINES = 1_200, 12
"""Of a result's text on the approval card."""
_TABLE_LIMIT = 9_800


def table_message(tool_name: str, table: Table) -> Rendered | None:
    """Return the table as a message, or None where Slack would not take it."""
    head, *rows = ([_cell(cell) for cell in row] for row in (table.columns, *table.rows))
    if sum(len(cell["text"]) for row in (head, *rows) for cell in row) > _TABLE_LIMIT:
        return None
    name = mrkdwn.escape(tool_name).replace("`", "'")
    more = f", {table.left_out} more not shown" if table.left_out else ""
    count = f"{len(rows)} row{'' if len(rows) == 1 else 's'}{more}"
    blocks: tuple[Block, ...] = ({"type": "table", "rows": [head, *rows]}, footnote(f"`{name}`: {count}"))
    return Rendered(f"{name}: a table of {count}", blocks)


def text_message(tool_name: str, text: str) -> Rendered:
    """Return a short text that a tool means for people."""
    name = mrkdwn.escape(tool_name).replace("`", "'")
    return Rendered(mrkdwn.escape(mrkdwn.cut(text, 300)), (footnote(f"`{name}`:"), rich(box(first_lines(text)))))


def _cell(text: str) -> Block:
    return {"type": "raw_text", "text": mrkdwn.visible(text) or " "}


def first_lines(result: str, *, lines: int = CARD_LINES, limit: int = CARD_CHARACTERS) -> str:
    """Return the start of a tool's result."""
    found = mrkdwn.visible(result).splitlines()
    shown = "\n".join(found[:lines]) + ("\n…" if len(found) > lines else "")
    return mrkdwn.cut(shown, limit) or " "


def is_cut(result: str) -> bool:
    """Whether a card shows only the start of this result."""
    shown = mrkdwn.visible(result)
    return len(shown.splitlines()) > CARD_LINES or len(shown) > CARD_CHARACTERS


def unsandboxed_note(missing: str) -> Block:
    """Say before anybody approves what holds nothing back."""
    return footnote(unsandboxed(missing))


def unsandboxed(missing: str) -> str:
    """The same as a line of mrkdwn."""
    return f":warning: *Unsandboxed: {mrkdwn.escape(mrkdwn.cut(missing, 200))} not protected on this machine*"
