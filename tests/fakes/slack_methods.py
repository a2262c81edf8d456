"""The Web API methods that write messages, views and files, each with Slack's own refusals."""

import json
from copy import deepcopy
from typing import Any

from tests.fakes import block_kit, block_reading
from tests.fakes.slack_wire import Wire
from tests.fakes.slack_workspace import APP, BOT, BOT_USER, TEAM, Json, SlackError, Trigger, Upload

MOST_BLOCK_TEXT = 13_200
MOST_TEXT, MOST_UPDATED_TEXT, MOST_MARKDOWN = 40_000, 4_000, 12_000
SESSION_STATUSES = {"active", "processing", "suspended", "closed"}


class WritingMethods(Wire):
    """chat.*, views.*, reactions.*, statuses and uploads. `chat_postMessage(args)` returns the answer's fields."""

    def channel_of(self, args: Json, key: str = "channel", *, member: bool = False) -> str:
        """The channel id, or Slack's refusal; a user's id means their DM."""
        channel = self.need(args, key)
        if channel.startswith("U") and channel in self.users:
            channel = self.dm(channel)
        found = self.channels.get(channel)
        if found is None or (found["is_private"] and BOT_USER not in found["members"]):
            raise SlackError("channel_not_found")
        if found["is_archived"]:
            raise SlackError("is_archived")
        if member and BOT_USER not in found["members"]:
            raise SlackError("not_in_channel")
        return channel

    def need(self, args: Json, key: str, kind: type = str) -> Any:
        value = args.get(key)
        if value is None or not isinstance(value, kind) or value == "":
            messages = [f"[ERROR] missing required field: {key}"]
            raise SlackError("invalid_arguments", response_metadata={"messages": messages})
        return value

    def _content(self, args: Json, most: int) -> Json:
        """text, blocks, attachments and metadata of a message, or why Slack refuses them."""
        blocks, text, markdown = args.get("blocks"), args.get("text"), args.get("markdown_text")
        if not (blocks or text or markdown or args.get("attachments")):
            raise SlackError("no_text")
        if markdown and (text or blocks):
            raise SlackError("markdown_text_conflict")
        if text is not None and not isinstance(text, str):
            raise SlackError("invalid_arguments")
        if len(text or "") > most or len(markdown or "") > MOST_MARKDOWN:
            raise SlackError("msg_too_long")
        if blocks is not None and not isinstance(blocks, list):
            raise SlackError("invalid_blocks_format")
        if blocks:
            problems = block_kit.check_blocks(blocks)
            if problems:
                raise SlackError("invalid_blocks", errors=problems, response_metadata={"messages": problems})
            if block_reading.letters(blocks) > MOST_BLOCK_TEXT:
                raise SlackError("msg_blocks_too_long")
        if len(args.get("attachments") or []) > 100:
            raise SlackError("too_many_attachments")
        content: Json = {"text": text or markdown or ""}
        for key in ("blocks", "attachments", "metadata"):
            if args.get(key) is not None:
                content[key] = deepcopy(args[key])
        self._check_metadata(args.get("metadata"))
        return content

    @staticmethod
    def _check_metadata(metadata: Any) -> None:
        if metadata in (None, {}):
            return
        if not isinstance(metadata, dict) or not isinstance(metadata.get("event_type"), str):
            raise SlackError("invalid_metadata_format")
        if not isinstance(metadata.get("event_payload"), dict):
            raise SlackError("invalid_metadata_format")
        if len(json.dumps(metadata)) > 16_384:
            raise SlackError("metadata_too_large")

    def _root(self, channel: str, args: Json) -> str | None:
        root = args.get("thread_ts")
        if root is None:
            return None
        parent = self.find(channel, str(root))
        if parent is None:
            raise SlackError("thread_not_found")
        if parent.get("thread_ts") not in (None, parent["ts"]):
            raise SlackError("cannot_reply_to_message")
        return str(root)

    def _by_bot(self, content: Json, root: str | None) -> Json:
        message = {"user": BOT_USER, "bot_id": BOT, "app_id": APP, "team": TEAM, **content}
        return message if root is None else {**message, "thread_ts": root}

    def chat_postMessage(self, args: Json) -> Json:  # noqa: N802
        channel = self.channel_of(args, member=True)
        content = self._content(args, MOST_TEXT)
        message = self.store(channel, self._by_bot(content, self._root(channel, args)))
        self.tell_posted(channel, message)
        return {"channel": channel, "ts": message["ts"], "message": self.public(message)}

    def _own_message(self, channel: str, args: Json, error: str) -> Json:
        message = self.find(channel, self.need(args, "ts"))
        if message is None or message.get("subtype") == "tombstone":
            raise SlackError("message_not_found")
        if message.get("user") != BOT_USER:
            raise SlackError(error)
        return message

    def chat_update(self, args: Json) -> Json:
        channel = self.channel_of(args)
        message = self._own_message(channel, args, "cant_update_message")
        content = self._content(args, MOST_UPDATED_TEXT)
        before = deepcopy(message)
        if "text" in args and "blocks" not in args:
            message.pop("blocks", None)
        if content.get("metadata") == {}:
            message.pop("metadata", None)
            del content["metadata"]
        if content.get("blocks"):
            fresh = (self.fresh("b") for _ in iter(int, 1))
            content["blocks"] = block_reading.named(content["blocks"], fresh)
        message.update(content, edited={"user": BOT_USER, "ts": self.ts()})
        self.notify()
        self.tell_changed(channel, message, before)
        return {"channel": channel, "ts": message["ts"], "text": message["text"], "message": self.public(message)}

    def chat_delete(self, args: Json) -> Json:
        channel = self.channel_of(args)
        message = self._own_message(channel, args, "cant_delete_message")
        self.remove(channel, message)
        return {"channel": channel, "ts": args["ts"]}

    def chat_postEphemeral(self, args: Json) -> Json:  # noqa: N802
        channel = self.channel_of(args, member=True)
        user = self.need(args, "user")
        if user not in self.channels[channel]["members"]:
            raise SlackError("user_not_in_channel")
        content = self._content(args, MOST_TEXT)
        message = self._by_bot(content, self._root(channel, args))
        return {"message_ts": self.whisper(channel, user, message)["ts"]}

    def whisper(self, channel: str, user: str, message: Json) -> Json:
        """Show something to one person only."""
        shown = {"ts": self.ts(), **message, "channel": channel, "to": user}
        self.ephemerals.append(shown)
        self.notify()
        return shown

    def chat_getPermalink(self, args: Json) -> Json:  # noqa: N802
        channel = self.channel_of(args)
        ts = self.need(args, "message_ts")
        if self.find(channel, ts) is None:
            raise SlackError("message_not_found")
        link = f"https://ops.slack.example/archives/{channel}/p{ts.replace('.', '')}"
        return {"channel": channel, "permalink": link}

    def reactions_add(self, args: Json) -> Json:
        return self._react(args, "already_reacted", add=True)

    def reactions_remove(self, args: Json) -> Json:
        return self._react(args, "no_reaction", add=False)

    def _react(self, args: Json, error: str, *, add: bool) -> Json:
        channel, name = self.channel_of(args, member=True), self.need(args, "name")
        message = self.find(channel, self.need(args, "timestamp"))
        if message is None:
            raise SlackError("message_not_found")
        names = message.setdefault("bot_reactions", [])
        if (name in names) is add:
            raise SlackError(error)
        (names.append if add else names.remove)(name)
        self.notify()
        return {}

    def assistant_threads_setStatus(self, args: Json) -> Json:  # noqa: N802
        channel = self.channel_of(args, "channel_id", member=True)
        root = self.need(args, "thread_ts")
        if not isinstance(args.get("status"), str):
            raise SlackError("invalid_arguments")
        if self.find(channel, root) is None:
            raise SlackError("invalid_thread_ts")
        self.statuses[channel, root] = args["status"]
        self.notify()
        return {}

    def agents_sessions_setStatus(self, args: Json) -> Json:  # noqa: N802
        channel = self.channel_of(args, "channel_id", member=True)
        root, status = self.need(args, "thread_ts"), self.need(args, "status")
        if status not in SESSION_STATUSES or len(args.get("title") or "") > 200:
            raise SlackError("invalid_arguments")
        if self.find(channel, root) is None:
            raise SlackError("thread_not_found")
        session = self.agent_sessions.setdefault((channel, root), {"title": args.get("title"), "statuses": []})
        session["status"] = status
        session["statuses"].append(status)
        self.notify()
        return {"status": status, "agent_status": status, "title": session["title"]}

    def _checked_view(self, args: Json, kind: str) -> Json:
        view = self.need(args, "view", dict)
        if view.get("type") != kind:
            raise SlackError("invalid_arguments", response_metadata={"messages": [f"must be a {kind} view"]})
        problems = block_kit.check_view(view)
        if problems:
            raise SlackError("invalid_arguments", response_metadata={"messages": problems})
        return deepcopy(view)

    def _use_trigger(self, args: Json) -> Trigger:
        trigger = self.triggers.get(self.need(args, "trigger_id"))
        if trigger is None:
            raise SlackError("invalid_trigger_id")
        if self.clock() - trigger.born > self.trigger_life_s:
            raise SlackError("expired_trigger_id")
        if trigger.used:
            raise SlackError("exchanged_trigger_id")
        trigger.used = True
        return trigger

    def keep_view(self, view: Json, user: str, view_id: str | None = None) -> Json:
        """Store a view as people see it from now on; its hash changes each time."""
        fresh = (self.fresh("b") for _ in iter(int, 1))
        kept: Json = {**view, "blocks": block_reading.named(view["blocks"], fresh), "user": user}
        kept |= {
            "id": view_id or self.fresh("V"),
            "hash": self.fresh("h"),
            "team_id": TEAM,
            "app_id": APP,
            "bot_id": BOT,
        }
        kept.setdefault("private_metadata", "")
        kept.setdefault("callback_id", "")
        self.views[kept["id"]] = kept
        self.notify()
        return kept

    def views_open(self, args: Json) -> Json:
        view = self._checked_view(args, "modal")
        trigger = self._use_trigger(args)
        kept = self.keep_view(view, trigger.user)
        self.stacks[trigger.user] = [kept["id"]]
        return {"view": kept}

    def views_push(self, args: Json) -> Json:
        view = self._checked_view(args, "modal")
        trigger = self._use_trigger(args)
        stack = self.stacks.get(trigger.user) or []
        if trigger.view_id not in stack:
            raise SlackError("invalid_trigger_id")
        if len(stack) >= 3:
            raise SlackError("push_limit_reached")
        kept = self.keep_view(view, trigger.user)
        stack.append(kept["id"])
        return {"view": kept}

    def views_update(self, args: Json) -> Json:
        view = self._checked_view(args, "modal")
        known = [
            v for v in self.views.values() if args.get("external_id") and v.get("external_id") == args["external_id"]
        ]
        found = known[0] if known else self.views.get(args.get("view_id") or "")
        if found is None or found["id"] not in self.stacks.get(found["user"], []):
            raise SlackError("not_found")
        if args.get("hash") not in (None, found["hash"]):
            raise SlackError("hash_conflict")
        return {"view": self.keep_view(view, found["user"], found["id"])}

    def views_publish(self, args: Json) -> Json:
        view = self._checked_view(args, "home")
        user = self.need(args, "user_id")
        if user not in self.users:
            raise SlackError("user_not_found")
        before = self.homes.get(user)
        if args.get("hash") is not None and (before is None or before["hash"] != args["hash"]):
            raise SlackError("hash_conflict")
        self.homes[user] = self.keep_view(view, user, before["id"] if before else None)
        return {"view": self.homes[user]}

    def files_getUploadURLExternal(self, args: Json) -> Json:  # noqa: N802
        name, length = self.need(args, "filename"), int(args.get("length") or 0)
        if length < 1:
            raise SlackError("invalid_arguments")
        upload = Upload(self.fresh("F"), name, length)
        self.uploads[upload.file_id] = upload
        return {"upload_url": f"{self.base_url}/upload/{upload.file_id}", "file_id": upload.file_id}

    def files_completeUploadExternal(self, args: Json) -> Json:  # noqa: N802
        files = self.need(args, "files", list)
        uploads = [self.uploads.get(f.get("id", "")) for f in files]
        if any(u is None or u.content is None or u.shared for u in uploads):
            raise SlackError("file_not_found")
        shown = [
            {"id": u.file_id, "name": u.name, "title": f.get("title") or u.name}
            for u, f in zip(uploads, files, strict=True)
            if u
        ]
        if args.get("channel_id"):
            channel = self.channel_of(args, "channel_id", member=True)
            content = {"text": args.get("initial_comment") or "", "files": shown, "subtype": "file_share"}
            self.tell_posted(channel, self.store(channel, self._by_bot(content, self._root(channel, args))))
        for upload in uploads:
            if upload:
                upload.shared = True
        return {"files": shown}

    @property
    def base_url(self) -> str:
        """Where this workspace listens, without a slash at the end."""
        raise NotImplementedError
