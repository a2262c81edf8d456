"""The Web API's door: tokens, scopes, troubles, and the methods that only read."""

import asyncio
import json
from collections import defaultdict
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.fakes.slack_methods import WritingMethods
from tests.fakes.slack_workspace import APP, BOT, BOT_USER, OTHER_TEAM, SRE, TEAM, Call, Json, SlackError, Upload

# What each method needs; `*` stands for channels, groups or im, by the kind of the conversation.
METHOD_SCOPES: dict[str, str | None] = {
    "agents.sessions.setStatus": "chat:write",
    "api.test": None,
    "apps.connections.open": None,
    "assistant.threads.setStatus": "chat:write",
    "auth.test": None,
    "chat.delete": "chat:write",
    "chat.getPermalink": None,
    "chat.postEphemeral": "chat:write",
    "chat.postMessage": "chat:write",
    "chat.update": "chat:write",
    "conversations.history": "*:history",
    "conversations.info": "*:read",
    "conversations.members": "*:read",
    "conversations.open": "im:write",
    "conversations.replies": "*:history",
    "files.completeUploadExternal": "files:write",
    "files.getUploadURLExternal": "files:write",
    "reactions.add": "reactions:write",
    "reactions.remove": "reactions:write",
    "usergroups.list": "usergroups:read",
    "usergroups.users.list": "usergroups:read",
    "users.info": "users:read",
    "users.list": "users:read",
    "users.lookupByEmail": "users:read.email",
    "views.open": None,
    "views.publish": None,
    "views.push": None,
    "views.update": None,
}
_HEARD = {"app_mentions:read"} | {
    f"{kind}:{verb}" for kind in ("channels", "groups", "im") for verb in ("read", "history")
}
ALL_SCOPES = sorted({s for s in METHOD_SCOPES.values() if s and "*" not in s} | _HEARD | {"commands"})
_KINDS = {"channel": "channels", "group": "groups", "im": "im"}
_FLAGS = ("include_all_metadata", "inclusive")


@dataclass
class WebApi(WritingMethods):
    """Answers `/api/{method}`; each trouble is set per method and used up call by call."""

    throttle: dict[str, list[float]] = field(default_factory=lambda: defaultdict[str, list[float]](list))
    """The next calls are refused, each with its Retry-After."""
    down: dict[str, int] = field(default_factory=lambda: defaultdict[str, int](int))
    """So many next calls are answered with 500."""
    slow: dict[str, float] = field(default_factory=lambda: defaultdict[str, float](float))
    """Every call takes so many seconds."""
    drop_response_after: dict[str, int] = field(default_factory=lambda: defaultdict[str, int](int))
    """So many next calls have their effect, but their answer is lost with the connection."""
    auth_test_broken: bool = False

    async def serve_api(self, request: web.Request) -> web.Response:
        method = request.match_info["method"]
        args = await _read_args(request)
        token = _token(request, args)
        call = Call(self.clock(), method, args)
        self.calls.append(call)
        self.notify()
        if self.slow[method]:
            await asyncio.sleep(self.slow[method])
        if (trouble := self._trouble(method)) is not None:
            call.error = "ratelimited" if trouble.status == 429 else "server_error"
            return trouble
        try:
            answer = {"ok": True, **self._run(method, token, args)}
        except SlackError as refusal:
            call.error = refusal.error
            answer = {"ok": False, "error": refusal.error, **refusal.more}
        if self.drop_response_after[method] and request.transport is not None:
            self.drop_response_after[method] -= 1
            call.error = "dropped"
            request.transport.abort()
        headers = {
            "X-OAuth-Scopes": ",".join(self._granted()),
            "X-Accepted-OAuth-Scopes": METHOD_SCOPES.get(method) or "",
        }
        return web.json_response(answer, headers=headers)

    def _trouble(self, method: str) -> web.Response | None:
        if self.throttle[method]:
            wait = self.throttle[method].pop(0)
            return web.json_response(
                {"ok": False, "error": "ratelimited"}, status=429, headers={"Retry-After": f"{wait:g}"}
            )
        if self.down[method] or (method == "auth.test" and self.auth_test_broken):
            self.down[method] = max(0, self.down[method] - 1)
            return web.Response(status=500, text="Internal Server Error")
        return None

    def _granted(self) -> list[str]:
        return ALL_SCOPES if self.scopes is None else sorted(self.scopes)

    def _run(self, method: str, token: str | None, args: Json) -> Json:
        if method not in METHOD_SCOPES:
            raise SlackError("unknown_method", req_method=method)
        if method != "api.test":
            self._check_token(method, token)
            self._check_scope(METHOD_SCOPES[method], args)
        return deepcopy(getattr(self, method.replace(".", "_"))(args))

    def _check_token(self, method: str, token: str | None) -> None:
        if token is None:
            raise SlackError("not_authed")
        wanted, other = self.bot_token, self.app_token
        if method == "apps.connections.open":
            wanted, other = other, wanted
        if token == other:
            raise SlackError("not_allowed_token_type")
        if token != wanted:
            raise SlackError("invalid_auth")
        if not self.installed:
            raise SlackError("account_inactive")

    def _check_scope(self, scope: str | None, args: Json) -> None:
        if scope is None or self.scopes is None:
            return
        if scope.startswith("*"):
            channel = self.channels.get(str(args.get("channel")))
            scope = scope.replace("*", _KINDS[self.kind(channel["id"])] if channel else "channels")
        if scope not in self.scopes:
            raise SlackError("missing_scope", needed=scope, provided=",".join(self._granted()))

    def api_test(self, args: Json) -> Json:
        if args.get("error"):
            raise SlackError(args["error"], args=args)
        return {"args": args}

    def auth_test(self, args: Json) -> Json:
        who = {"team": "Ops", "team_id": TEAM, "user": "opsagent", "user_id": BOT_USER, "bot_id": BOT}
        return {**who, "url": "https://ops.slack.example/", "is_enterprise_install": False}

    def apps_connections_open(self, args: Json) -> Json:
        ticket = self.fresh("ticket")
        self.tickets.add(ticket)
        return {"url": f"{self.base_url.replace('http', 'ws', 1)}/socket/{ticket}?app_id={APP}"}

    def _seen(self, messages: list[Json], args: Json) -> Json:
        """One page of messages between `oldest` and `latest`, metadata only for who asks."""
        oldest, latest = float(args.get("oldest") or 0), float(args.get("latest") or "inf")
        edge = bool(args.get("inclusive"))
        kept = [
            m for m in messages if oldest < float(m["ts"]) < latest or (edge and float(m["ts"]) in (oldest, latest))
        ]
        shown = kept if args.get("include_all_metadata") else [self.public(m) for m in kept]
        return self._page("messages", shown, args)

    def _page(self, key: str, items: list[Any], args: Json) -> Json:
        start, limit = int(args.get("cursor") or 0), int(args.get("limit") or 100)
        if not 0 < limit <= 1000:
            raise SlackError("invalid_limit")
        end = start + limit
        more = end < len(items)
        metadata = {"next_cursor": str(end) if more else ""}
        return {key: items[start:end], "has_more": more, "response_metadata": metadata}

    def conversations_replies(self, args: Json) -> Json:
        channel, ts = self.channel_of(args, member=True), self.need(args, "ts")
        if self.find(channel, ts) is None:
            raise SlackError("thread_not_found")
        return self._seen(self.thread(channel, ts), args)

    def conversations_history(self, args: Json) -> Json:
        channel = self.channel_of(args, member=True)
        roots = [m for m in self.messages.get(channel, []) if m.get("thread_ts") in (None, m["ts"])]
        return self._seen(roots[::-1], args)

    def conversations_info(self, args: Json) -> Json:
        channel = self.channels[self.channel_of(args)]
        shown = {k: v for k, v in channel.items() if k != "members"}
        return {"channel": {**shown, "is_member": BOT_USER in channel["members"]}}

    def conversations_members(self, args: Json) -> Json:
        return self._page("members", sorted(self.channels[self.channel_of(args)]["members"]), args)

    def conversations_open(self, args: Json) -> Json:
        user = self.need(args, "users")
        if self.users.get(user, {}).get("is_bot", True):
            raise SlackError("cannot_dm_bot" if user in self.users else "user_not_found")
        return {"channel": {"id": self.dm(user)}}

    def _shown_user(self, user: Json) -> Json:
        if self.scopes is None or "users:read.email" in self.scopes:
            return user
        return {**user, "profile": {k: v for k, v in user["profile"].items() if k != "email"}}

    def users_info(self, args: Json) -> Json:
        user = self.users.get(self.need(args, "user"))
        if user is None:
            raise SlackError("user_not_found")
        return {"user": self._shown_user(user)}

    def users_list(self, args: Json) -> Json:
        members = [self._shown_user(u) for u in self.users.values() if u["team_id"] != OTHER_TEAM]
        return self._page("members", members, args)

    def users_lookupByEmail(self, args: Json) -> Json:  # noqa: N802
        email = self.need(args, "email")
        for user in self.users.values():
            if user["profile"]["email"] == email and user["team_id"] == TEAM and not user["is_bot"]:
                return {"user": user}
        raise SlackError("users_not_found")

    def usergroups_list(self, args: Json) -> Json:
        named = [
            {"id": g, "team_id": TEAM, "handle": "sre" if g == SRE else g.lower(), "date_delete": 0}
            for g in self.groups
        ]
        return {"usergroups": named}

    def usergroups_users_list(self, args: Json) -> Json:
        group = self.need(args, "usergroup")
        if group not in self.groups:
            raise SlackError("no_such_subteam")
        return {"users": self.groups[group]}

    async def serve_upload(self, request: web.Request) -> web.Response:
        upload: Upload | None = self.uploads.get(request.match_info["file_id"])
        content = await request.read()
        if upload is None or len(content) != upload.length:
            return web.Response(status=400, text="the length differs from what was announced")
        upload.content = content
        return web.Response(text=f"OK - {len(content)}")


async def _read_args(request: web.Request) -> Json:
    """Query, form and JSON arguments in one; forms carry blocks and the like as JSON text."""
    args: Json = dict(request.query)
    if request.method == "POST":
        if request.content_type == "application/json":
            args |= await request.json()
        else:
            args |= {k: v for k, v in (await request.post()).items() if isinstance(v, str)}
    for key in ("blocks", "attachments", "metadata", "view", "files"):
        if isinstance(args.get(key), str):
            try:
                args[key] = json.loads(args[key])
            except ValueError:
                args[key] = [args[key]] if key != "blocks" else args[key]
    for key in _FLAGS:
        if key in args:
            args[key] = str(args[key]).lower() in ("1", "true")
    return args


def _token(request: web.Request, args: Json) -> str | None:
    in_args = args.pop("token", None)
    header = request.headers.get("Authorization", "")
    return header.removeprefix("Bearer ") if header.startswith("Bearer ") else in_args
