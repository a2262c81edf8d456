"""The card for several calls of one answer: a row for each with its own buttons, and one to approve what is left."""

from collections.abc import Sequence

from agent.approvals import doors
from agent.approvals.types import Approval, Door, ExecutionStatus
from bot import mrkdwn
from bot.payloads import APPROVE_ALL, SEEN_ALL
from bot.views import arguments
from bot.views.approval import (
    EXECUTIONS,
    HEADS,
    digest_shown,
    notes,
    offered,
    seen_block,
    terms,
    tool_shown,
    vote_shown,
)
from bot.views.arguments import Room
from bot.views.blocks import Block, Rendered, box, button, footnote, letters, line, ours, rich, run
from bot.views.changes import changes
from bot.views.outcome import resolution, resolvable, revoking, spared
from bot.views.people import moment, person
from bot.views.preview import with_preview
from bot.views.result import first_lines, unsandboxed

MOST_ROWS = 5
"""A row takes at most nine blocks; a message takes fifty."""
_ROOM, _ROOM_AT_FIRST = 11_500, 7_500
_PREVIEW, _REASON, _RESULT, _RESULT_LINES, _VOTES = 200, 200, 300, 4, 3


def fit_together(approvals: Sequence[Approval]) -> bool:
    """Whether these calls can share a card on which each can be read in full, with space for what is yet to come."""
    if len(approvals) > MOST_ROWS or any(arguments.room(a) is not Room.CARD for a in approvals):
        return False
    return letters(_blocks(approvals, [Room.CARD] * len(approvals))) <= _ROOM_AT_FIRST


def calls_card(approvals: Sequence[Approval], *, short: bool = False) -> Rendered:
    """Return the card as these approvals stand. What no longer fits in full is read, and approved, in a modal."""
    rooms = [Room.MODAL if short and arguments.room(a) is Room.CARD else arguments.room(a) for a in approvals]
    blocks = _blocks(approvals, rooms)
    while letters(blocks) > _ROOM and Room.CARD in rooms:
        # Settled calls give way first; nobody has to decide them any more.
        full = [i for i, room in enumerate(rooms) if room is Room.CARD]
        longest = max(full, key=lambda i: (approvals[i].is_settled, letters(arguments.card_blocks(approvals[i]))))
        rooms[longest] = Room.MODAL
        blocks = _blocks(approvals, rooms)
    return Rendered(_summary(approvals), tuple(blocks))


def _summary(approvals: Sequence[Approval]) -> str:
    names = ", ".join(dict.fromkeys(a.tool_name for a in approvals))
    return f"{_count(approvals)}: {mrkdwn.escape(mrkdwn.cut(names, 200))}"


def _count(approvals: Sequence[Approval]) -> str:
    pending = sum(not a.is_settled for a in approvals)
    waiting = f"{pending} waiting for approval" if pending else "all decided"
    return f"{len(approvals)} calls, {waiting}"


def _blocks(approvals: Sequence[Approval], rooms: Sequence[Room]) -> list[Block]:
    blocks = [ours(f"*{_count(approvals)}*\nAsked for by {person(approvals[0].requested_by)}")]
    for i, (approval, room) in enumerate(zip(approvals, rooms, strict=True), start=1):
        blocks += _row(i, approval, room)
    open_here = [not a.is_settled and doors.offers(a, Door.SLACK) for a in approvals]
    ready = [a for a, room, is_open in zip(approvals, rooms, open_here, strict=True) if is_open and room is Room.CARD]
    return [*blocks, _approve_all(ready)] if len(ready) > 1 else blocks


def _approve_all(approvals: Sequence[Approval]) -> Block:
    """One button for all that can be read in full here: it names each call with what was shown of it."""
    seen = SEEN_ALL + ":".join(digest_shown(a.args_digest) for a in approvals)
    value = " ".join(str(a.approval_id) for a in approvals)
    press = button(f"Approve all {len(approvals)} that I may", APPROVE_ALL, value)
    return {"type": "actions", "block_id": seen, "elements": [press]}


def _row(number: int, approval: Approval, room: Room) -> list[Block]:
    blocks = [ours(_head(number, approval))]
    blocks += _said("Reason: ", approval.requested_reason)
    is_full = room is Room.CARD
    read = arguments.card_blocks(approval) if is_full else arguments.preview_blocks(approval, _PREVIEW)
    blocks += with_preview(read, approval, lines=_RESULT_LINES, limit=_RESULT)
    blocks += changes(approval)
    if approval.is_settled:
        blocks += _said("They said: ", approval.reason)
        if approval.result and approval.execution not in (ExecutionStatus.NONE, ExecutionStatus.RUNNING):
            blocks.append(rich(box(first_lines(approval.result, lines=_RESULT_LINES, limit=_RESULT))))
        blocks += [*resolvable(approval, f"{seen_block(approval)}:{number}"), *revoking(approval)]
        said = [*(resolution(word) for word in approval.resolutions[-1:]), spared(approval)]
        said.append(f"Digest `{digest_shown(approval.args_digest)}`")
        return [*blocks, footnote("\n".join(part for part in said if part))]
    # Two calls with the same arguments share a digest, and Slack wants each block's id once.
    actions = {"type": "actions", "block_id": f"{seen_block(approval)}:{number}", "elements": offered(approval, room)}
    votes = "\n".join(vote_shown(approval, vote) for vote in approval.votes[-_VOTES:])
    return [*blocks, *notes(approval, room), actions, *([footnote(votes)] if votes else []), terms(approval)]


def _head(number: int, approval: Approval) -> str:
    head = f"*{number}. {HEADS[approval.status]}:* `{tool_shown(approval)}`"
    if approval.is_settled and approval.decided_by is not None:
        when = f" {moment(approval.decided_at)}" if approval.decided_at else ""
        head += f"\nby {person(approval.decided_by)}{when}"
    if approval.unsandboxed and not approval.is_settled:
        head += f"\n{unsandboxed(approval.unsandboxed)}"
    if not approval.is_settled and (warning := arguments.lookalikes(approval)):
        head += f"\n{warning}"
    return f"{head}\n{EXECUTIONS[approval.execution]}" if approval.execution in EXECUTIONS else head


def _said(what: str, text: str | None) -> list[Block]:
    return [rich(line(run(what, bold=True), run(mrkdwn.cut(mrkdwn.visible(text), _REASON))))] if text else []
