"""What the thread hears of an approval beside its card: who is waited for, who is asked next, how it ended."""

import re
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from agent.approvals.life import SAID
from agent.approvals.types import Action, Approval, Resolution
from agent.types import EventKind
from bot import mrkdwn
from bot.views.blocks import Rendered, box, line, ours, rich, run
from bot.views.people import moment, person

_USER, _GROUP = re.compile(r"[UW][A-Z0-9]+"), re.compile(r"S[A-Z0-9]+")
_SHOWN = 1_200


def about(kind: EventKind, data: Mapping[str, Any], approval: Approval) -> Rendered | None:
    """Return the message of an event, or None where it has been overtaken."""
    if kind is EventKind.APPROVAL_RESOLVED:
        found = [word for word in approval.resolutions if word.resolution_id == UUID(str(data["resolution_id"]))]
        return _resolved(approval, found[0]) if found else None
    if approval.is_settled:
        return None
    tool, until = f"`{_tool(approval)}`", moment(approval.expires_at)
    called = ", ".join(_mention(one) for one in data["to"])
    if not called:
        return None
    if kind is EventKind.APPROVAL_REMINDED:
        return _said(f"{called}: {tool} still waits for your decision. It expires {until}.")
    if kind is EventKind.APPROVAL_ESCALATED:
        return _said(f"{called}: nobody has decided {tool} yet, so you are asked now. It expires {until}.")
    return _said(f"{_mention(data['by'])} handed {tool} on to {called}. It expires {until}.")


def instead(by: Mapping[str, Any], text: str) -> Rendered:
    """Return what somebody wants instead of a call that they rejected; it may hold words of anybody."""
    head = f"{_mention(by)} wants this instead:"
    return Rendered(head, (ours(head), rich(box(_cut(text)))))


def _resolved(approval: Approval, word: Resolution) -> Rendered:
    head = f"{person(word.by)} {SAID[word.action]}: `{_tool(approval)}`, whose outcome was unknown."
    blocks = [ours(head)]
    if word.reason:
        blocks.append(rich(line(run("Reason: ", bold=True), run(_cut(word.reason)))))
    if word.action is not Action.RUN_AGAIN and approval.result:
        blocks.append(rich(box(_cut(approval.result))))
    return Rendered(head, tuple(blocks))


def _said(text: str) -> Rendered:
    return Rendered(text, (ours(text),))


def _mention(one: Mapping[str, Any]) -> str:
    """Return a mention of an id that Slack itself gave, else a name."""
    chat = one.get("chat") or ""
    if _USER.fullmatch(chat):
        return f"<@{chat}>"
    if _GROUP.fullmatch(chat):
        return f"<!subteam^{chat}>"
    return f"*{mrkdwn.escape(mrkdwn.cut(str(one.get('name') or one.get('username') or '?'), 80))}*"


def _tool(approval: Approval) -> str:
    return mrkdwn.escape(approval.tool_name).replace("`", "'")


def _cut(text: str) -> str:
    return mrkdwn.cut(mrkdwn.visible(text), _SHOWN) or " "
