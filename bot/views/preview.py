"""What a tool says that a call would do, under the call's arguments while people decide."""

from collections.abc import Sequence

from agent.approvals.types import Approval
from bot import mrkdwn
from bot.views.blocks import Block, box, line, rich, run
from bot.views.result import first_lines

CARD_LINES, CARD_CHARACTERS = 25, 1_500
HEAD = "Preview (dry run, nothing has been changed)"


def with_preview(
    blocks: Sequence[Block], approval: Approval, *, lines: int = CARD_LINES, limit: int = CARD_CHARACTERS
) -> list[Block]:
    """Return the arguments' blocks with the preview in the last one, while it is of these arguments and they wait."""
    parts = _parts(approval, lines, limit)
    return [*blocks[:-1], rich(*blocks[-1]["elements"], *parts)] if parts else list(blocks)


def _parts(approval: Approval, lines: int, limit: int) -> list[Block]:
    preview = approval.preview
    if preview is None or approval.is_settled or preview.args_digest != approval.args_digest:
        return []
    if not preview.ok:
        why = mrkdwn.cut(" ".join(mrkdwn.visible(preview.text).split()), min(limit, 500))
        return [line(run("Preview failed: ", bold=True), run(why))]
    return [line(run(HEAD, bold=True)), box(first_lines(preview.text, lines=lines, limit=limit))]
