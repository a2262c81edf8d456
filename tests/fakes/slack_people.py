"""What people do in the fake workspace: they write, click, fill in forms, and uninstall apps."""

import asyncio
import html
from copy import deepcopy
from typing import Any

from aiohttp import web

from tests.fakes import block_reading
from tests.fakes.slack_api import WebApi
from tests.fakes.slack_wire import Ack
from tests.fakes.slack_workspace import (
    APP,
    BOT_USER,
    OPS,
    OTHER_BOT,
    OTHER_BOT_USER,
    OTHER_TEAM,
    TEAM,
    Json,
    ResponseUrl,
    SlackError,
)

_MENTION = f"<@{BOT_USER}>"


class People(WebApi):
    """Messages are delivered in the background; clicks, forms and commands wait for the app's ack, as people do."""

    async def say(
        self, user: str, text: str, channel: str = OPS, thread_ts: str | None = None, *, mention: bool = True
    ) -> Json:
        """Write a message, HTML-escaped as Slack sends it; in a channel `mention` puts the bot's name before it."""
        said = html.escape(text, quote=False)
        if mention and self.kind(channel) != "im":
            said = f"{_MENTION} {said}"
        return self._write(channel, {"user": user, "client_msg_id": self.fresh("m"), "text": said}, thread_ts)

    async def other_bot(
        self,
        text: str,
        channel: str = OPS,
        thread_ts: str | None = None,
        *,
        mention: bool = False,
        classic: bool = False,
    ) -> Json:
        """Another app writes: a bot user, or a classic webhook without one."""
        who: Json = {"bot_id": OTHER_BOT, "app_id": "A0PAGER"}
        who |= {"subtype": "bot_message", "username": "pager"} if classic else {"user": OTHER_BOT_USER}
        return self._write(channel, {**who, "text": f"{_MENTION} {text}" if mention else text}, thread_ts)

    def _write(self, channel: str, content: Json, thread_ts: str | None) -> Json:
        message = {**content, "team": self._team(content.get("user"))}
        if thread_ts is not None:
            assert self.find(channel, thread_ts), f"there is no message {thread_ts} in {channel} to answer"
            message["thread_ts"] = thread_ts
        stored = self.store(channel, message)
        for event in self._events(channel, stored):
            self.tell(event)
        return stored

    def _team(self, user: str | None) -> str:
        return self.users.get(user or "", {}).get("team_id", TEAM)

    def _events(self, channel: str, message: Json) -> list[Json]:
        """As `message`, and where the bot is named in a channel as `app_mention` too: one ts, two events."""
        if BOT_USER not in self.channels[channel]["members"]:
            return []
        seen = {**self.public(message), "channel": channel, "event_ts": message["ts"]}
        for count in ("reply_count", "latest_reply"):
            seen.pop(count, None)
        if seen.get("thread_ts") == seen["ts"]:
            del seen["thread_ts"]
        if self._team(message.get("user")) == OTHER_TEAM:
            seen |= {"user_team": OTHER_TEAM, "source_team": OTHER_TEAM}
        events = [{**seen, "channel_type": self.kind(channel)}]
        if _MENTION in message["text"] and self.kind(channel) != "im":
            events.append({**seen, "type": "app_mention"})
        return events

    async def redeliver(self, ts: str, *, same_event_id: bool) -> list[Ack | None]:
        """Send the events of that message once more, with their ids or under new ones."""
        sent = [b for b in self.delivered if b["event"].get("ts") == ts and "subtype" not in b["event"]]
        assert sent, f"nothing was delivered of the message {ts}"
        once = {b["event_id"]: b for b in sent}.values()
        again = [b if same_event_id else {**b, "event_id": self.fresh("Ev")} for b in once]
        return await asyncio.gather(*(self.start_delivery("events_api", b) for b in again))

    async def edit(self, user: str, channel: str, ts: str, text: str) -> Json:
        message = self._mine(user, channel, ts)
        before = deepcopy(message)
        message.update(text=html.escape(text, quote=False), edited={"user": user, "ts": self.ts()})
        self.tell_changed(channel, message, before)
        return message

    async def unsay(self, user: str, channel: str, ts: str) -> None:
        self.remove(channel, self._mine(user, channel, ts))

    def _mine(self, user: str, channel: str, ts: str) -> Json:
        message = self.find(channel, ts)
        assert message is not None, f"there is no message {ts} in {channel}"
        assert message.get("user") == user, f"{user} did not write that message"
        return message

    def _payload(self, kind: str, user: str, view_id: str | None = None) -> Json:
        person = self.users[user]
        who = {"id": user, "username": person["name"], "name": person["name"], "team_id": person["team_id"]}
        team = {"id": TEAM, "domain": "ops"}
        head = {"type": kind, "user": who, "team": team, "api_app_id": APP, "token": "fake-verification-token"}
        grid = {"enterprise": None, "is_enterprise_install": False}
        return {**head, **grid, "trigger_id": self.trigger(user, view_id)}

    def _response_url(self, channel: str, user: str, ts: str | None, *, ephemeral: bool) -> str:
        key = self.fresh("r")
        self.response_urls[key] = ResponseUrl(channel, user, ts, ephemeral, self.clock())
        return f"{self.base_url}/response/{key}"

    async def click(
        self,
        user: str,
        channel: str,
        message: Json | str,
        action_id: str,
        *,
        repeat: int = 1,
        **chosen: Any,
    ) -> list[Ack | None]:
        """Press what this person sees: a message's dict may be an old copy, a ts means as it stands now.

        `repeat` presses at the same moment; `chosen` fills the action (value=, selected_option=, block_id=).
        """
        seen = self.find(channel, message) if isinstance(message, str) else message
        assert seen is not None, f"there is no message {message} in {channel}"
        block, element = self._element(seen, action_id, chosen.pop("block_id", None))
        action = {**_action(block, element), **chosen}
        ephemeral = "to" in seen
        where = {"type": "message", "message_ts": seen["ts"], "channel_id": channel, "is_ephemeral": ephemeral}
        if seen.get("thread_ts"):
            where["thread_ts"] = seen["thread_ts"]
        sent: list[Json] = []
        for _ in range(repeat):
            body = self._payload("block_actions", user)
            body |= {"container": where, "channel": {"id": channel, "name": self.channels[channel]["name"]}}
            if not ephemeral:
                body["message"] = self.public(seen)
            body["response_url"] = self._response_url(channel, user, seen["ts"], ephemeral=ephemeral)
            sent.append({**body, "state": {"values": {}}, "actions": [{**action, "action_ts": self.ts()}]})
        return await asyncio.gather(*(self.start_delivery("interactive", body) for body in sent))

    async def choose(
        self, user: str, channel: str, message: Json, label: str, *, block_id: str | None = None
    ) -> list[Ack | None]:
        """Open the first menu of a message, or the one in this block, and take the option of that label."""
        for block, element in block_reading.pressables(message.get("blocks")):
            if element["type"] != "overflow" or block_id not in (None, block["block_id"]):
                continue
            option = next((one for one in element["options"] if one["text"]["text"] == label), None)
            assert option is not None, f"the menu has no {label!r}"
            chosen = {"block_id": block["block_id"], "selected_option": option}
            return await self.click(user, channel, message, element["action_id"], **chosen)
        raise AssertionError("there is no such menu")

    async def click_in_view(self, user: str, view: Json, action_id: str, **chosen: Any) -> Ack | None:
        """Press something on a modal or on the home tab."""
        block, element = self._element(view, action_id, chosen.pop("block_id", None))
        body = self._payload("block_actions", user, view["id"])
        body |= {"container": {"type": "view", "view_id": view["id"]}, "view": self._sent_view(view, {})}
        body["actions"] = [{**_action(block, element), **chosen, "action_ts": self.ts()}]
        return await self.start_delivery("interactive", body)

    def _element(self, shown: Json, action_id: str, block_id: str | None) -> tuple[Json, Json]:
        for block, element in block_reading.pressables(shown.get("blocks")):
            if element["action_id"] == action_id and block_id in (None, block["block_id"]):
                return block, element
        raise AssertionError(f"nothing to press is called {action_id}")

    def _sent_view(self, view: Json, values: Json) -> Json:
        return {**{k: deepcopy(v) for k, v in view.items() if k != "user"}, "state": {"values": values}}

    async def submit(
        self, user: str, view: Json | str, values: Json | None = None, *, forged: Json | None = None
    ) -> Ack | None:
        """Fill in a modal (by action_id or block_id) and send it; what the app answers happens to the modal.

        `forged` overrides what Slack would send of the view, as somebody could who holds the signing secret.
        """
        shown = self.views[view] if isinstance(view, str) else view
        assert shown["id"] in self.stacks.get(user, []), f"{user} doesn't have that modal open"
        filled = _state(shown, dict(values or {}))
        body = self._payload("view_submission", user, shown["id"])
        body |= {"view": {**self._sent_view(shown, filled), **(forged or {})}, "response_urls": []}
        ack = await self.start_delivery("interactive", body)
        if ack is not None:
            self._after_submit(user, shown, ack.payload if isinstance(ack.payload, dict) else {})
        return ack

    def _after_submit(self, user: str, shown: Json, answer: Json) -> None:
        stack, action = self.stacks[user], answer.get("response_action")
        if action == "clear":
            stack.clear()
        elif action == "update":
            self.keep_view(self._checked_view(answer, "modal"), user, shown["id"])
        elif action == "push":
            stack.append(self.keep_view(self._checked_view(answer, "modal"), user)["id"])
        elif action == "errors":
            blocks = {b["block_id"] for b in shown["blocks"]}
            assert set(answer["errors"]) <= blocks, "an error was answered for a block that the modal doesn't have"
        elif shown["id"] in stack:
            stack.remove(shown["id"])
        self.notify()

    async def slash(self, user: str, command: str, text: str = "", channel: str = OPS) -> Ack | None:
        """Use a slash command; what the app acks with is shown to this person only."""
        key = self._response_url(channel, user, None, ephemeral=True)
        where = {"channel_id": channel, "channel_name": self.channels[channel]["name"], "response_url": key}
        who = {"user_id": user, "user_name": self.users[user]["name"], "team_id": TEAM, "team_domain": "ops"}
        what = {"command": command, "text": text, "api_app_id": APP, "trigger_id": self.trigger(user)}
        body = {"token": "fake-verification-token", "is_enterprise_install": "false", **where, **who, **what}
        ack = await self.start_delivery("slash_commands", body)
        if ack is not None and ack.payload:
            said = ack.payload if isinstance(ack.payload, dict) else {"text": ack.payload}
            self.whisper(channel, user, self._by_bot(self._content(said, 40_000), None))
        return ack

    async def open_home(self, user: str, tab: str = "home") -> None:
        ts = self.ts()
        event: Json = {"type": "app_home_opened", "user": user, "channel": self.dm(user), "tab": tab, "event_ts": ts}
        if user in self.homes:
            event["view"] = self._sent_view(self.homes[user], {})
        self.tell(event)

    async def press_stop(self, user: str, channel: str, root: str) -> None:
        """The stop button that Slack shows while an agent session is processing."""
        where = {"channel": channel, "thread_ts": root, "streaming_message_ts": []}
        self.tell({"type": "agent_session_stopped", "user": user, **where, "event_ts": self.ts()})

    async def uninstall(self) -> None:
        """An admin removes the app: it hears of it, and its token is worth nothing from now on."""
        self.installed = False
        self.tell({"type": "tokens_revoked", "tokens": {"oauth": [], "bot": [BOT_USER]}, "event_ts": self.ts()})
        self.tell({"type": "app_uninstalled", "event_ts": self.ts()})

    async def serve_response_url(self, request: web.Request) -> web.Response:
        """What the app answers to an interaction, for half an hour and at most five times."""
        url = self.response_urls.get(request.match_info["key"])
        if url is None or self.clock() - url.born > self.response_url_life_s:
            return web.json_response({"ok": False, "error": "expired_url"}, status=404)
        if url.uses >= 5:
            return web.json_response({"ok": False, "error": "used_url"}, status=404)
        url.uses += 1
        try:
            self._respond(url, await request.json())
        except SlackError as refusal:
            return web.json_response({"ok": False, "error": refusal.error, **refusal.more}, status=400)
        return web.Response(text="ok")

    def _respond(self, url: ResponseUrl, said: Json) -> None:
        original = self.find(url.channel, url.message_ts or "")
        if said.get("delete_original") and original is not None:
            self.remove(url.channel, original)
            return
        content = self._content(said, 40_000)
        if said.get("replace_original") and original is not None:
            self.chat_update({**said, "channel": url.channel, "ts": original["ts"]})
        elif said.get("response_type") == "in_channel":
            message = self.store(url.channel, self._by_bot(content, said.get("thread_ts")))
            self.tell_posted(url.channel, message)
        else:
            self.whisper(url.channel, url.user, self._by_bot(content, said.get("thread_ts")))


def _action(block: Json, element: Json) -> Json:
    kept = ("type", "action_id", "text", "value", "style")
    return {**{k: element[k] for k in kept if k in element}, "block_id": block["block_id"]}


_INITIAL = ("initial_value", "initial_option", "initial_options", "initial_date")


def _state(view: Json, values: Json) -> Json:
    """Slack's `state.values`; a required field left empty is a form that a person can't send."""
    state: Json = {}
    for block in view["blocks"]:
        if block["type"] != "input":
            continue
        element = block["element"]
        given = values.pop(element["action_id"], values.pop(block["block_id"], None))
        if given is None:
            given = next((element[key] for key in _INITIAL if element.get(key) is not None), None)
        given = None if given == "" else given
        assert given is not None or block.get("optional"), f"{block['label']['text']} must be filled in"
        state[block["block_id"]] = {element["action_id"]: _filled(element["type"], given)}
    assert not values, f"the form has no field called {', '.join(values)}"
    return state


def _filled(kind: str, given: Any) -> Json:
    if kind in ("static_select", "radio_buttons"):
        return {"type": kind, "selected_option": {"value": given} if isinstance(given, str) else given}
    if kind in ("checkboxes", "multi_static_select"):
        options = [{"value": g} if isinstance(g, str) else g for g in given or []]
        return {"type": kind, "selected_options": options}
    selected = {"users_select": "selected_user", "channels_select": "selected_channel", "datepicker": "selected_date"}
    selected |= {"timepicker": "selected_time", "multi_users_select": "selected_users"}
    return {"type": kind, selected.get(kind, "value"): given}
