"""The fake workspace's state: people, channels, messages, views, and the clock that stamps them."""

import asyncio
import itertools
import secrets
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from tests.fakes import block_reading

Json = dict[str, Any]

TEAM, OTHER_TEAM, APP = "T0OPS", "T0OTHER", "A0OPSAGENT"
BOT_USER, BOT, OTHER_BOT_USER, OTHER_BOT = "U0OPSAGENT", "B0OPSAGENT", "U0PAGER", "B0PAGER"
ALICE, BOB, CAROL, ADMIN = "U0ALICE", "U0BOB", "U0CAROL", "U0ADMIN"
GUEST, STRANGER = "U0GUEST", "U0STRANGER"
OPS, QUIET, PRIVATE = "C0OPS", "C0QUIET", "C0PRIVATE"
SRE = "S0SRE"


def _person(user: str, name: str, **more: Any) -> Json:
    profile = {"real_name": name.title(), "display_name": name, "email": f"{name}@example.com"}
    flags = {"deleted": False, "is_bot": False, "is_restricted": False, "is_ultra_restricted": False, "is_admin": False}
    return {"id": user, "team_id": TEAM, "name": name, "real_name": name.title(), "profile": profile, **flags, **more}


def _people() -> dict[str, Json]:
    people = [
        _person(ALICE, "alice"),
        _person(BOB, "bob"),
        _person(CAROL, "carol"),
        _person(ADMIN, "admin", is_admin=True),
        _person(GUEST, "guest", is_restricted=True),
        _person(STRANGER, "stranger", team_id=OTHER_TEAM, is_stranger=True),
        _person(BOT_USER, "opsagent", is_bot=True),
        _person(OTHER_BOT_USER, "pager", is_bot=True),
    ]
    return {p["id"]: p for p in people}


def _channel(channel: str, name: str, members: set[str], **more: Any) -> Json:
    kind = {"is_channel": True, "is_private": False, "is_im": False, "is_ext_shared": False, "is_archived": False}
    return {"id": channel, "name": name, "members": members, **kind, **more}


def _channels(people: set[str]) -> dict[str, Json]:
    channels = [
        _channel(OPS, "ops", set(people), is_ext_shared=True),
        _channel(QUIET, "quiet", {ALICE, BOB}),
        _channel(PRIVATE, "private", {ALICE, BOB, BOT_USER}, is_private=True),
    ]
    return {c["id"]: c for c in channels}


@dataclass(slots=True)
class Call:
    """One Web API call of the app, and what came of it."""

    at: float
    method: str
    args: Json
    error: str | None = None


@dataclass(slots=True)
class Upload:
    """A file on its way: its URL was given out, then its bytes came, then it was shared."""

    file_id: str
    name: str
    length: int
    content: bytes | None = None
    shared: bool = False


@dataclass(slots=True)
class ResponseUrl:
    """Where an app may answer an interaction: five times, for as long as it lives."""

    channel: str
    user: str
    message_ts: str | None
    ephemeral: bool
    born: float
    uses: int = 0


class SlackError(Exception):
    """Slack's answer `{"ok": false, "error": ...}`."""

    def __init__(self, error: str, **more: Any) -> None:
        super().__init__(error)
        self.error = error
        self.more = more


@dataclass(slots=True)
class Trigger:
    """A person's action, which opens one modal within a few seconds."""

    born: float
    user: str
    view_id: str | None = None
    used: bool = False


@dataclass
class Workspace:
    """Everything the fake remembers. What it posts, it also tells the app, through `tell`."""

    bot_token: str = "xoxb-fake-not-a-token"
    app_token: str = "xapp-fake-not-a-token"
    signing_secret: str = "fake-signing-secret"
    scopes: set[str] | None = None
    """The bot scopes that were granted; None grants all."""

    users: dict[str, Json] = field(default_factory=_people)
    groups: dict[str, list[str]] = field(default_factory=lambda: {SRE: [BOB, CAROL]})
    channels: dict[str, Json] = field(default_factory=lambda: _channels(set(_people()) - {OTHER_BOT_USER}))
    messages: dict[str, list[Json]] = field(default_factory=dict[str, list[Json]])
    ephemerals: list[Json] = field(default_factory=list[Json])
    views: dict[str, Json] = field(default_factory=dict[str, Json])
    stacks: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """Per user, the ids of the modals on their screen, top last."""
    homes: dict[str, Json] = field(default_factory=dict[str, Json])
    statuses: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])
    """The thread's status line in words, as `assistant.threads.setStatus` left it."""
    agent_sessions: dict[tuple[str, str], Json] = field(default_factory=dict[tuple[str, str], Json])
    uploads: dict[str, Upload] = field(default_factory=dict[str, Upload])
    calls: list[Call] = field(default_factory=list[Call])
    triggers: dict[str, Trigger] = field(default_factory=dict[str, Trigger])
    response_urls: dict[str, ResponseUrl] = field(default_factory=dict[str, ResponseUrl])
    installed: bool = True

    trigger_life_s: float = 3.0
    response_url_life_s: float = 1800.0
    clock: Callable[[], float] = time.time

    team: str = TEAM
    bot_user: str = BOT_USER

    def __post_init__(self) -> None:
        for user in (ALICE, BOB):
            self.dm(user)
        self._last_ts = 0
        self._serial = itertools.count(1)
        self.changed = asyncio.Event()

    def notify(self) -> None:
        """Wake whoever waits for something to happen here."""
        self.changed.set()
        self.changed = asyncio.Event()

    def ts(self) -> str:
        """A timestamp later than every one before."""
        self._last_ts = max(self._last_ts + 1, int(self.clock() * 1_000_000))
        return f"{self._last_ts // 1_000_000}.{self._last_ts % 1_000_000:06d}"

    def fresh(self, prefix: str) -> str:
        return f"{prefix}0{next(self._serial):07d}"

    def dm(self, user: str) -> str:
        """The direct-message channel of this person and the bot."""
        channel = "D" + user[1:]
        if channel not in self.channels:
            self.channels[channel] = _channel(channel, "", {user, BOT_USER}, is_channel=False, is_im=True, user=user)
        return channel

    def kind(self, channel: str) -> str:
        """What Slack calls this conversation in events: channel, group or im."""
        found = self.channels[channel]
        return "im" if found["is_im"] else "group" if found["is_private"] else "channel"

    def find(self, channel: str, ts: str) -> Json | None:
        return next((m for m in self.messages.get(channel, []) if m["ts"] == ts), None)

    def thread(self, channel: str, root: str) -> list[Json]:
        """The root and its replies, oldest first."""
        return [m for m in self.messages.get(channel, []) if m["ts"] == root or m.get("thread_ts") == root]

    def trigger(self, user: str, view_id: str | None = None) -> str:
        trigger_id = f"{next(self._serial)}.{secrets.token_hex(8)}"
        self.triggers[trigger_id] = Trigger(self.clock(), user, view_id)
        return trigger_id

    def store(self, channel: str, message: Json) -> Json:
        """Add a message; a reply makes its root a thread's root."""
        message = {"type": "message", "ts": self.ts(), **message}
        if message.get("blocks"):
            fresh = (self.fresh("b") for _ in itertools.count())
            message["blocks"] = block_reading.named(message["blocks"], fresh)
        root = message.get("thread_ts")
        if root is not None and (parent := self.find(channel, root)) is not None:
            parent["thread_ts"] = root
            parent["reply_count"] = parent.get("reply_count", 0) + 1
            parent["latest_reply"] = message["ts"]
        self.messages.setdefault(channel, []).append(message)
        self.notify()
        return message

    def tell(self, event: Json) -> None:
        """Send an event to the app; whoever carries it overrides this."""
        raise NotImplementedError

    def tell_posted(self, channel: str, message: Json) -> None:
        self.tell(
            {**self.public(message), "channel": channel, "channel_type": self.kind(channel), "event_ts": message["ts"]}
        )

    def tell_changed(self, channel: str, message: Json, before: Json) -> None:
        changed = {"subtype": "message_changed", "hidden": True, "message": self.public(message)}
        self._tell_about(channel, {**changed, "previous_message": self.public(before)})

    def tell_deleted(self, channel: str, before: Json) -> None:
        gone = {"subtype": "message_deleted", "hidden": True, "deleted_ts": before["ts"]}
        self._tell_about(channel, {**gone, "previous_message": self.public(before)})

    def _tell_about(self, channel: str, event: Json) -> None:
        ts = self.ts()
        where = {"channel": channel, "channel_type": self.kind(channel)}
        self.tell({"type": "message", **where, "ts": ts, "event_ts": ts, **event})

    def remove(self, channel: str, message: Json) -> None:
        """Delete a message; a root with replies leaves a tombstone, as in Slack."""
        kept = self.messages[channel]
        before = deepcopy(message)
        if message.get("reply_count"):
            for key in ("blocks", "attachments", "metadata", "bot_id", "app_id"):
                message.pop(key, None)
            message.update(subtype="tombstone", text="This message was deleted.", user="USLACKBOT", hidden=True)
        else:
            kept.remove(message)
        self.notify()
        self.tell_deleted(channel, before)

    @staticmethod
    def public(message: Json) -> Json:
        """The message without its metadata, which Slack shows only to those who ask for it."""
        return {k: deepcopy(v) for k, v in message.items() if k != "metadata"}
