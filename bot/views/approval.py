"""The approval card: what will run, who asks, who may stop it, and how it ended."""

from agent.approvals import doors
from agent.approvals.policy import valid_approvals
from agent.approvals.types import Approval, ApprovalStatus, Decision, Door, ExecutionStatus, Vote
from bot import mrkdwn
from bot.payloads import APPROVE, EDIT, REJECT, REJECT_REASON, REVIEW, SEEN, SHOW_ARGUMENTS
from bot.views import arguments
from bot.views.arguments import Room
from bot.views.blocks import Block, Rendered, box, button, footnote, line, ours, plain, rich, run
from bot.views.changes import changes
from bot.views.more import menu
from bot.views.outcome import asked_again, resolution, resolvable
from bot.views.people import moment, person, subject
from bot.views.preview import with_preview
from bot.views.result import first_lines, unsandboxed_note

_DIGEST_SHOWN = 12
_DECIDERS_SHOWN = 20
_ALL_LINES, _BOX = 1_000, 2_800
HEADS = {
    ApprovalStatus.PENDING: "Approval needed",
    ApprovalStatus.APPROVED: "Approved",
    ApprovalStatus.REJECTED: "Rejected",
    ApprovalStatus.EXPIRED: "Expired: nobody decided in time, and it did not run",
    ApprovalStatus.CANCELLED: "Cancelled: it did not run",
}
EXECUTIONS = {
    ExecutionStatus.RUNNING: "Running …",
    ExecutionStatus.SUCCEEDED: "Done.",
    ExecutionStatus.FAILED: "It ran and failed.",
    ExecutionStatus.UNKNOWN: "Nobody can tell whether it ran: look at the system itself before you repeat it.",
}

_NOTES: dict[Room, list[Block]] = {
    Room.CARD: [],
    Room.MODAL: [footnote("Too long for a card: read it all with *Show all arguments*, and approve it there.")],
    Room.FILE: [
        footnote("Too long for Slack: the arguments are in a file here. Approve in the web console or over REST.")
    ],
}


def approval_card(approval: Approval, *, room: Room | None = None) -> Rendered:
    """Return the card as the approval stands. Approve is offered only where every argument can be read on it."""
    room = room or arguments.room(approval)
    blocks = [_head(approval), *asked(approval)]
    read = arguments.card_blocks(approval) if room is Room.CARD else arguments.preview_blocks(approval)
    blocks += with_preview(read, approval)
    blocks += changes(approval)
    blocks += _outcome(approval) if approval.is_settled else _open(approval, room)
    return Rendered(_summary(approval), tuple(blocks))


def digest_shown(digest: str) -> str:
    """Return the part of a digest that people compare."""
    return digest.rpartition(":")[2][:_DIGEST_SHOWN]


def seen_block(approval: Approval) -> str:
    """Return the id of the block with the buttons: a click on it tells which arguments the card showed."""
    return SEEN + digest_shown(approval.args_digest)


def tool_shown(approval: Approval) -> str:
    """Return a tool's name for our own mrkdwn, to stand between backticks."""
    return mrkdwn.escape(approval.tool_name).replace("`", "'")


def _head(approval: Approval) -> Block:
    return ours(f"*{HEADS[approval.status]}:* `{tool_shown(approval)}`\nAsked for by {person(approval.requested_by)}")


def asked(approval: Approval) -> list[Block]:
    """Return why the call is asked for, what it runs without, and which words in it are not what they seem."""
    blocks: list[Block] = []
    if approval.unsandboxed and not approval.is_settled:
        blocks.append(unsandboxed_note(approval.unsandboxed))
    if not approval.is_settled and (warning := arguments.lookalikes(approval)):
        blocks.append(footnote(warning))
    if approval.requested_reason:
        blocks.append(rich(line(run("Reason: ", bold=True), run(_short(approval.requested_reason)))))
    return blocks


def _short(text: str, limit: int = 500) -> str:
    return mrkdwn.cut(mrkdwn.visible(text), limit)


def _open(approval: Approval, room: Room) -> list[Block]:
    return [
        *notes(approval, room),
        {"type": "actions", "block_id": seen_block(approval), "elements": offered(approval, room)},
        *_votes(approval),
        *_who(approval),
        terms(approval),
    ]


def offered(approval: Approval, room: Room) -> list[Block]:
    """Return the buttons of a pending call: all where it can be read, and may be approved, here."""
    value = str(approval.approval_id)
    approve = button("Approve", APPROVE, value, "primary")
    show = button("Show all arguments", SHOW_ARGUMENTS, value)
    edit = button("Edit", EDIT, value)
    reject = button("Reject", REJECT, value, "danger")
    why = button("Reject with reason…", REJECT_REASON, value)
    more = menu(approval, room)
    if not doors.offers(approval, Door.SLACK):
        return [*([show] if room is Room.MODAL else []), reject, why, more]
    first = {Room.CARD: [approve, edit], Room.MODAL: [show, edit], Room.FILE: []}[room]
    return [*first, reject, why, more]


def notes(approval: Approval, room: Room) -> list[Block]:
    """Return where a pending call can be approved, if that is not here."""
    return _NOTES[room] if doors.offers(approval, Door.SLACK) else [footnote(doors.where(approval))]


def terms(approval: Approval) -> Block:
    """Return what holds for deciding a pending call."""
    said = [f"Digest `{digest_shown(approval.args_digest)}`", f"expires {moment(approval.expires_at)}"]
    if approval.quorum > 1:
        said.append(f"{len(valid_approvals(approval))} of {approval.quorum} approvals")
    if approval.four_eyes:
        said.append("not by whoever asked")
    return footnote(" · ".join(said))


def _who(approval: Approval) -> list[Block]:
    """Who can decide, by name: a card that is drawn again and again pings nobody."""
    if not approval.deciders:
        return []
    names = [mrkdwn.escape(mrkdwn.cut(approver.name, 80)) for approver in approval.deciders[:_DECIDERS_SHOWN]]
    more = len(approval.deciders) - len(names)
    return [footnote("Can be decided by: " + ", ".join(names) + (f" and {more} more" if more else ""))]


def _votes(approval: Approval) -> list[Block]:
    return [footnote(vote_shown(approval, vote)) for vote in approval.votes[-10:]]


def vote_shown(approval: Approval, vote: Vote) -> str:
    """Return who voted how; an approval of other arguments than those of now is said to count no more."""
    said = "approved" if vote.decision is Decision.APPROVE else "rejected"
    if vote.args_digest != approval.args_digest and vote.decision is Decision.APPROVE:
        said = "approved the arguments before they were changed, which counts no more,"
    reason = f": {mrkdwn.escape(mrkdwn.cut(vote.reason, 200))}" if vote.reason else ""
    return f"{person(vote.by)} {said} {moment(vote.at)}{reason}"


def _outcome(approval: Approval) -> list[Block]:
    blocks: list[Block] = []
    if approval.decided_by is not None:
        when = f" {moment(approval.decided_at)}" if approval.decided_at else ""
        word = "Cancelled" if approval.status is ApprovalStatus.CANCELLED else HEADS[approval.status]
        blocks.append(ours(f"{word} by {person(approval.decided_by)}{when}"))
    if approval.reason:
        blocks.append(rich(line(run("Reason: ", bold=True), run(_short(approval.reason)))))
    if approval.execution in EXECUTIONS:
        blocks.append(ours(EXECUTIONS[approval.execution]))
    blocks += [footnote(resolution(word)) for word in approval.resolutions[-5:]]
    if approval.result and approval.execution not in (ExecutionStatus.NONE, ExecutionStatus.RUNNING):
        blocks.append(rich(box(first_lines(approval.result))))
    others = _votes(approval) if approval.quorum > 1 else []
    blocks += [*resolvable(approval, seen_block(approval)), *asked_again(approval)]
    return [*blocks, *others, footnote(f"Digest `{digest_shown(approval.args_digest)}`")]


def _summary(approval: Approval) -> str:
    who = approval.decided_by if approval.is_settled and approval.decided_by else approval.requested_by
    joint = "by" if who is approval.decided_by else "asked for by"
    name = mrkdwn.escape(who.display_name or who.username)
    if approval.status is ApprovalStatus.CANCELLED and approval.decided_by:
        return f"Cancelled: {mrkdwn.escape(approval.tool_name)}, by {name}"
    return f"{HEADS[approval.status]}: {mrkdwn.escape(approval.tool_name)}, {joint} {name}"


def review_modal(approval: Approval) -> Block:
    """Return the modal that shows every argument; while the call is pending, its submit approves."""
    head = [subject(approval), *asked(approval)]
    args = arguments.modal_blocks(approval)
    read = [*(with_preview(args, approval, lines=_ALL_LINES, limit=_BOX) if args else []), *changes(approval)]
    blocks = [*head, *read, footnote(f"Digest `{digest_shown(approval.args_digest)}`")]
    view: Block = {
        "type": "modal",
        "callback_id": REVIEW,
        "private_metadata": f"{approval.approval_id} {digest_shown(approval.args_digest)} {approval.session_id}",
        "title": plain("All arguments"),
        "close": plain("Close"),
        "blocks": blocks,
    }
    if not approval.is_settled and not doors.offers(approval, Door.SLACK):
        return {**view, "blocks": [*blocks, footnote(doors.where(approval))]}
    return view if approval.is_settled else {**view, "submit": plain("Approve")}
