"""What people changed in a call's arguments: for each, what was asked for and what will run or ran."""

import json
from typing import Any

from agent.approvals.types import Approval
from bot import mrkdwn
from bot.inputs import ABSENT, same
from bot.views.blocks import Block, box, line, rich, run

_MOST, _NAME, _VALUE = 5, 60, 100


def changes(approval: Approval) -> list[Block]:
    """Return one block that tells the difference, or none where there is no difference."""
    before, after = approval.args_proposed, approval.args
    names = [n for n in (*before, *(n for n in after if n not in before)) if _differs(before, after, n)]
    if not names:
        return []
    parts: list[Block] = [line(run("Changed by an approver:", bold=True))]
    for name in names[:_MOST]:
        # Values are JSON on one line, so that none of them can pass for the other's.
        was, now = _value(before.get(name, ABSENT)), _value(after.get(name, ABSENT))
        parts += [line(run(_name(name), bold=True)), box(f"asked for: {was}\nnow: {now}")]
    if len(names) > _MOST:
        parts.append(line(run(f"and {len(names) - _MOST} more")))
    return [rich(*parts)]


def _differs(before: dict[str, Any], after: dict[str, Any], name: str) -> bool:
    return not same(before.get(name, ABSENT), after.get(name, ABSENT))


def _name(name: str) -> str:
    return mrkdwn.cut(mrkdwn.visible(name).replace("\n", "\\n"), _NAME) or '""'


def _value(value: Any) -> str:
    if value is ABSENT:
        return "(not given)"
    return mrkdwn.cut(mrkdwn.visible(json.dumps(value, ensure_ascii=False)), _VALUE)
