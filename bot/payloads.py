"""Slack's JSON read into our types: the only file that knows Slack's field names. Pure."""

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from agent.approvals.types import Decision
from agent.types import Address, ChatUser, ThreadKey

Body = dict[str, Any]

DOOR = "slack"
APPROVE, REJECT, SHOW_ARGUMENTS = "approval_approve", "approval_reject", "approval_arguments"
EDIT, REJECT_REASON, APPROVE_ALL = "approval_edit", "approval_reject_reason", "approval_approve_all"
MORE = "approval_more"
"""The menu of a pending call; the value of each option is one of the five actions below and the approval's id."""
REMEMBER, EXTEND, REASSIGN = "approval_remember", "approval_extend", "approval_reassign"
WITHDRAW, CANCEL = "approval_withdraw", "approval_cancel"
RUN_AGAIN, MARK_DONE, MARK_FAILED = "approval_run_again", "approval_mark_done", "approval_mark_failed"
REVOKE = "grant_revoke"
SEEN, SEEN_ALL = "approval:", "approvals:"
"""Before the starts of the digests that were shown, in the id of the block with their buttons."""
SPARED = "grant:"
"""Before the id of the approval that a grant was shown on, in the id of the block with the button to revoke it."""
REVIEW, EDIT_FORM, REASON_FORM = "approval_review", "approval_edit_form", "approval_reason_form"
"""The callback ids of the modals: a large call in full, other arguments for a call, and why it is rejected."""
REMEMBER_FORM, EXTEND_FORM, REASSIGN_FORM = "approval_remember_form", "approval_extend_form", "approval_reassign_form"
DONE_FORM, FAILED_FORM = "approval_done_form", "approval_failed_form"
FIELD, REASON_FIELD, INSTEAD_FIELD = "value", "reason", "instead"
"""The action id of every input, and the block ids of those that no tool names; so are the next."""
SCOPE_FIELD, TIME_FIELD, RULE_FIELD = "scope", "time", "rule"
PEOPLE_FIELD, OTHERS_FIELD, RESULT_FIELD = "people", "others", "result"
ANSWER_QUESTION, DECLINE_QUESTION = "question_answer", "question_decline"
FORM = "question_form"
"""The callback id of the modal that answers a running tool's question."""
PIN_ACCEPT, PIN_KEEP = "pin_accept", "pin_keep"
PIN_SEEN = "pin:"
"""Before the hash of the definition that a card about a changed tool shows, in the id of the block with its buttons."""

MESSAGE_EVENTS = ("message", "app_mention")
STOP_EVENT = "agent_session_stopped"
FAREWELLS = ("app_uninstalled", "tokens_revoked")

_FROM_PEOPLE = {None, "file_share", "thread_broadcast"}
_DECISIONS = {APPROVE: Decision.APPROVE, REJECT: Decision.REJECT}
OPENERS = (SHOW_ARGUMENTS, EDIT, REJECT_REASON, REMEMBER, EXTEND, REASSIGN, MARK_DONE, MARK_FAILED)
"""The actions that open a modal."""
_IN_MENU = (REMEMBER, WITHDRAW, EXTEND, REASSIGN, CANCEL)
_ON_CARD = (*_DECISIONS, SHOW_ARGUMENTS, EDIT, REJECT_REASON, APPROVE_ALL, RUN_AGAIN, MARK_DONE, MARK_FAILED, REVOKE)
_MODALS = (REVIEW, EDIT_FORM, REASON_FORM, REMEMBER_FORM, EXTEND_FORM, REASSIGN_FORM, DONE_FORM, FAILED_FORM)
_DIGEST = re.compile(r"[0-9a-f]{12,64}")
_ENTITY = re.compile(r"<([^<>]*)>")
_NO_TEXT = "(a mention without any text)"


@dataclass(frozen=True, slots=True)
class Place:
    """A thread of a conversation, as the Web API wants to be told."""

    channel: str
    thread_ts: str

    @property
    def address(self) -> Address:
        return Address(DOOR, {"channel": self.channel, "thread_ts": self.thread_ts})

    @classmethod
    def of(cls, address: Address) -> "Place":
        return cls(address.where["channel"], address.where["thread_ts"])


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message that is, or may be, for us. `starts`: it opens a session where there is none."""

    thread: ThreadKey
    place: Place
    by: ChatUser
    text: str
    event_key: str
    message_key: str
    starts: bool


@dataclass(frozen=True, slots=True)
class Named:
    """An approval that a button or a modal names, and the start of the digest that was shown with it."""

    approval_id: UUID
    seen: str | None


@dataclass(frozen=True, slots=True)
class Click:
    """A press of one of our buttons, or a choice from our menu. `decision` is what it casts, if it does so at once."""

    action: str
    decision: Decision | None
    named: tuple[Named, ...]
    """One approval, or for APPROVE_ALL several; none where the button can't be read."""
    by: ChatUser
    place: Place | None
    response_url: str | None
    trigger_id: str | None
    grant_id: UUID | None = None

    @property
    def session_id(self) -> UUID | None:
        """The session of the thread in which it was pressed."""
        return ThreadKey(self.by.team, self.place.channel, self.place.thread_ts).session_id if self.place else None


@dataclass(frozen=True, slots=True)
class Submission:
    """One of our modals was submitted."""

    modal: str
    named: Named | None
    session_id: UUID | None
    """The session of the thread in which it was opened."""
    by: ChatUser
    filled: Mapping[str, str | tuple[str, ...] | None] = field(
        default_factory=dict[str, "str | tuple[str, ...] | None"]
    )
    """What was filled in, by the id of its block."""


@dataclass(frozen=True, slots=True)
class QuestionClick:
    """A press of a button under a question: to answer it, or to decline."""

    answers: bool
    question_id: UUID | None
    by: ChatUser
    place: Place | None
    response_url: str | None
    trigger_id: str | None


@dataclass(frozen=True, slots=True)
class Filled:
    """A question's form was submitted; `values` are as Slack sent them, by the ids of their blocks."""

    question_id: UUID | None
    by: ChatUser
    values: dict[str, str]


@dataclass(frozen=True, slots=True)
class Stop:
    """Someone pressed Slack's own stop button."""

    thread: ThreadKey
    place: Place
    by: ChatUser


@dataclass(frozen=True, slots=True)
class PinClick:
    """A press on a card about a changed tool; `seen` is the hash of what the card showed."""

    accepts: bool
    tool_id: UUID | None
    seen: str
    by: ChatUser
    place: Place | None
    response_url: str | None


Parsed = Incoming | Click | Submission | QuestionClick | Filled | PinClick | Stop


def parsed(body: Body) -> Parsed | None:
    """Return what this request asks of us, or None where it is not for us."""
    if body.get("type") == "event_callback":
        event = body.get("event") or {}
        if event.get("type") in MESSAGE_EVENTS:
            return _incoming(body, event)
        return _stop(body, event) if event.get("type") == STOP_EVENT else None
    if body.get("type") == "block_actions":
        return _click(body) or _question_click(body) or _pin_click(body)
    return _submission(body) or _question_form(body) if body.get("type") == "view_submission" else None


def event_type(body: Body) -> str | None:
    """Return the type of the event in an envelope."""
    return (body.get("event") or {}).get("type") if body.get("type") == "event_callback" else None


def _incoming(body: Body, event: Body) -> Incoming | None:
    me = _own_user(body)
    if not _is_from_a_person(event, me) or not (event.get("channel") and event.get("ts") and body.get("event_id")):
        return None
    raw = str(event.get("text") or "")
    channel, ts = event["channel"], event["ts"]
    direct = event.get("channel_type") == "im" or (event["type"] == "message" and channel.startswith("D"))
    starts = direct or event["type"] == "app_mention" or (me is not None and _mention(me).search(raw) is not None)
    if not starts and not event.get("thread_ts"):
        return None
    team, root = body["team_id"], event.get("thread_ts") or ts
    return Incoming(
        thread=ThreadKey(team, channel, root),
        place=Place(channel, root),
        by=ChatUser(team, event["user"], _is_external_author(body, event)),
        text=_text(event, raw, me),
        event_key=f"slack:{team}:{body['event_id']}",
        message_key=f"slack:{team}:{channel}:{ts}",
        starts=starts,
    )


def _own_user(body: Body) -> str | None:
    return next((a["user_id"] for a in body.get("authorizations") or [] if a.get("is_bot")), None)


def _mention(user: str) -> re.Pattern[str]:
    return re.compile(rf"<@{re.escape(user)}(?:\|[^<>]*)?>")


def _is_from_a_person(event: Body, me: str | None) -> bool:
    if event.get("subtype") not in _FROM_PEOPLE or event.get("bot_id") or event.get("bot_profile"):
        return False
    return bool(event.get("user")) and event["user"] not in (me, "USLACKBOT") and not event.get("hidden")


def _is_external_author(body: Body, event: Body) -> bool:
    """Whether the author is of another workspace; one we can't place in a shared channel counts as such."""
    stated = [t for t in (event.get("user_team"), event.get("source_team")) if t]
    teams = stated or [t for t in (event.get("team"),) if t]
    if not teams:
        return bool(body.get("is_ext_shared_channel"))
    return any(team != body["team_id"] for team in teams)


def _text(event: Body, raw: str, me: str | None) -> str:
    """What the person wrote, as the model should read it."""
    if me is not None:
        raw = _mention(me).sub(" ", raw)
    parts = [readable(raw)]
    parts += [f"> {readable(str(a.get('text') or a.get('fallback') or ''))}" for a in event.get("attachments") or []]
    parts += [f"[file: {f.get('name') or 'without a name'}]" for f in event.get("files") or []]
    return "\n".join(p for p in parts if p.strip("> ")) or _NO_TEXT


def readable(raw: str) -> str:
    """Return Slack's message markup as plain text: entities decoded, references by name."""
    return html.unescape(_ENTITY.sub(_reference, raw)).strip()


def _reference(match: re.Match[str]) -> str:
    target, _, label = match[1].partition("|")
    if target[:1] in ("@", "#"):
        return target[0] + (label.removeprefix(target[0]) or target[1:])
    if target.startswith("!"):
        return label or "@" + target[1:].split("^")[0]
    plain = target.removeprefix("mailto:")
    same = label in ("", plain) or plain.removeprefix("https://").removeprefix("http://").rstrip("/") == label
    return (label or plain) if same else f"{label} ({plain})"


def _click(body: Body) -> Click | None:
    action = next(iter(body.get("actions") or []), {})
    name = action.get("action_id")
    if name == MORE:
        name, action = _chosen(action)
    elif name not in _ON_CARD:
        return None
    return Click(
        action=name,
        decision=_DECISIONS.get(name),
        named=_named(name, action),
        by=_person(body, home=(body.get("message") or {}).get("team")),
        place=_place(body),
        response_url=body.get("response_url"),
        trigger_id=body.get("trigger_id"),
        grant_id=_uuid(action.get("value")) if name == REVOKE else None,
    )


def _chosen(menu: Body) -> tuple[str, Body]:
    """The option of the menu that was chosen, as if it were a button; one that isn't ours names no approval."""
    name, _, approval_id = str((menu.get("selected_option") or {}).get("value") or "").partition(" ")
    return (name, {**menu, "value": approval_id}) if name in _IN_MENU else (MORE, {})


def _named(name: str, action: Body) -> tuple[Named, ...]:
    if name == APPROVE_ALL:
        return _all_named(action)
    if name != REVOKE:
        return _one_named(action)
    shown_on = _uuid(str(action.get("block_id") or "").removeprefix(SPARED))
    return (Named(shown_on, None),) if shown_on and _uuid(action.get("value")) else ()


def _question_click(body: Body) -> QuestionClick | None:
    action = next(iter(body.get("actions") or []), {})
    name = action.get("action_id")
    if name not in (ANSWER_QUESTION, DECLINE_QUESTION):
        return None
    return QuestionClick(
        answers=name == ANSWER_QUESTION,
        question_id=_uuid(action.get("value")),
        by=_person(body, home=(body.get("message") or {}).get("team")),
        place=_place(body),
        response_url=body.get("response_url"),
        trigger_id=body.get("trigger_id"),
    )


def _place(body: Body) -> Place | None:
    message, container = body.get("message") or {}, body.get("container") or {}
    channel = (body.get("channel") or {}).get("id") or container.get("channel_id")
    ts = message.get("thread_ts") or container.get("thread_ts") or message.get("ts") or container.get("message_ts")
    return Place(channel, ts) if channel and ts else None


def _question_form(body: Body) -> Filled | None:
    view = body.get("view") or {}
    if view.get("callback_id") != FORM:
        return None
    home = view.get("app_installed_team_id") or view.get("team_id")
    states = (view.get("state") or {}).get("values") or {}
    values = {block: _value(next(iter(state.values()), {})) for block, state in states.items()}
    given = {block: value for block, value in values.items() if value is not None}
    return Filled(_uuid(view.get("private_metadata")), _person(body, home=home), given)


def _value(state: Body) -> str | None:
    chosen = state.get("selected_option")
    value = chosen.get("value") if isinstance(chosen, dict) else state.get("value")
    return str(value) if value is not None else None


def _one_named(action: Body) -> tuple[Named, ...]:
    """The approval of a button; the id of its block ends in a number where a card has several of one digest."""
    approval_id, block_id = _uuid(action.get("value")), str(action.get("block_id") or "")
    seen = block_id.removeprefix(SEEN).partition(":")[0] if block_id.startswith(SEEN) else ""
    return (Named(approval_id, _digest(seen)),) if approval_id else ()


def _all_named(action: Body) -> tuple[Named, ...]:
    """The approvals of a button for several: ids in its value, what was shown of each in the id of its block."""
    ids = [_uuid(word) for word in str(action.get("value") or "").split()]
    block_id = str(action.get("block_id") or "")
    seen = [_digest(word) for word in block_id.removeprefix(SEEN_ALL).split(":")]
    if not block_id.startswith(SEEN_ALL) or len(ids) != len(seen) or None in seen:
        return ()
    named = {
        approval_id: Named(approval_id, shown) for approval_id, shown in zip(ids, seen, strict=True) if approval_id
    }
    return tuple(named.values()) if len(named) == len(ids) else ()


def _pin_click(body: Body) -> PinClick | None:
    action = next(iter(body.get("actions") or []), {})
    if action.get("action_id") not in (PIN_ACCEPT, PIN_KEEP):
        return None
    message, channel = body.get("message") or {}, (body.get("channel") or {}).get("id")
    return PinClick(
        accepts=action["action_id"] == PIN_ACCEPT,
        tool_id=_uuid(action.get("value")),
        seen=str(action.get("block_id") or "").removeprefix(PIN_SEEN),
        by=_person(body, home=message.get("team")),
        place=Place(channel, message["ts"]) if channel and message.get("ts") else None,
        response_url=body.get("response_url"),
    )


def _submission(body: Body) -> Submission | None:
    view = body.get("view") or {}
    modal = view.get("callback_id")
    if modal not in _MODALS:
        return None
    home = view.get("app_installed_team_id") or view.get("team_id")
    words = str(view.get("private_metadata") or "").split()
    # Each of our modals was made in one thread for one digest; without them nobody knows what was read.
    approval_id, seen, session_id = (
        (_uuid(words[0]), _digest(words[1]), _uuid(words[2])) if len(words) == 3 else (None, None, None)
    )
    named = Named(approval_id, seen) if approval_id and seen and session_id else None
    return Submission(modal, named, session_id, _person(body, home=home), _filled(view))


def _filled(view: Body) -> dict[str, str | tuple[str, ...] | None]:
    """What stands in a modal's inputs; an input that is not ours keeps a name that no form has."""
    filled: dict[str, str | tuple[str, ...] | None] = {}
    for block_id, inputs in ((view.get("state") or {}).get("values") or {}).items():
        for action_id, state in inputs.items():
            filled[block_id if action_id == FIELD else f"{block_id}/{action_id}"] = _input(state)
    return filled


def _input(state: Body) -> str | tuple[str, ...] | None:
    if "selected_users" in state:
        return tuple(str(user) for user in state["selected_users"] or ())
    if "selected_options" in state:
        return tuple(str(option.get("value")) for option in state["selected_options"] or ())
    chosen = (state.get("selected_option") or {}).get("value")
    found = chosen or state.get("selected_date") or state.get("value")
    return str(found).replace("\r\n", "\n") if found is not None else None


def _digest(text: str) -> str | None:
    return text if _DIGEST.fullmatch(text) else None


def _person(body: Body, *, home: str | None) -> ChatUser:
    """Whoever acted. `home` is the workspace of what they acted on; someone of another one is external."""
    user = body["user"]
    team = home or (body.get("team") or {}).get("id") or user.get("team_id") or ""
    return ChatUser(team, user["id"], bool(user.get("team_id")) and user["team_id"] != team)


def _stop(body: Body, event: Body) -> Stop | None:
    channel, root, user = event.get("channel"), event.get("thread_ts"), event.get("user")
    if not (channel and root and user):
        return None
    team = body["team_id"]
    return Stop(ThreadKey(team, channel, root), Place(channel, root), ChatUser(team, user))


def _uuid(value: Any) -> UUID | None:
    try:
        return UUID(value) if isinstance(value, str) else None
    except ValueError:
        return None
