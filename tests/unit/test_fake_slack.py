"""The fake workspace, held against Slack's own SDK and Bolt: what it promises, and that its refusals bite."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
import uvicorn
from slack_bolt.adapter.socket_mode.aiohttp import AsyncSocketModeHandler
from slack_bolt.adapter.starlette.async_handler import AsyncSlackRequestHandler
from slack_bolt.async_app import AsyncApp
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.fakes import block_kit
from tests.fakes.slack import ALICE, ALL_SCOPES, BOB, BOT_USER, GUEST, OPS, PRIVATE, QUIET, SRE, STRANGER, FakeSlack

BUTTONS = {
    "type": "actions",
    "block_id": "decide",
    "elements": [
        {
            "type": "button",
            "action_id": "approval_approve",
            "value": "a1",
            "text": {"type": "plain_text", "text": "Yes"},
        }
    ],
}
MODAL = {
    "type": "modal",
    "callback_id": "reason",
    "title": {"type": "plain_text", "text": "Why?"},
    "submit": {"type": "plain_text", "text": "Send"},
    "blocks": [
        {
            "type": "input",
            "block_id": "why",
            "label": {"type": "plain_text", "text": "Reason"},
            "element": {"type": "plain_text_input", "action_id": "reason"},
        }
    ],
}


@pytest.fixture
async def slack() -> AsyncIterator[FakeSlack]:
    async with FakeSlack() as fake:
        yield fake


@pytest.fixture
def client(slack: FakeSlack) -> AsyncWebClient:
    return client_of(slack)


def client_of(slack: FakeSlack, token: str | None = None) -> AsyncWebClient:
    return AsyncWebClient(token=token or slack.bot_token, base_url=slack.api_url, retry_handlers=[])


async def refusal(call: Any) -> Any:
    """The response of a call that must be refused."""
    with pytest.raises(SlackApiError) as caught:
        await call
    return caught.value.response


def a_bolt(slack: FakeSlack) -> AsyncApp:
    return AsyncApp(client=client_of(slack), signing_secret=slack.signing_secret, process_before_response=True)


@asynccontextmanager
async def over_sockets(slack: FakeSlack, app: AsyncApp) -> AsyncIterator[AsyncSocketModeHandler]:
    handler = AsyncSocketModeHandler(app, slack.app_token, ping_interval=0.2)
    before = len(slack.sockets)
    await handler.connect_async()
    await slack.connected(before + 1)
    try:
        yield handler
    finally:
        await handler.close_async()


@asynccontextmanager
async def over_http(slack: FakeSlack, app: AsyncApp) -> AsyncIterator[str]:
    handler = AsyncSlackRequestHandler(app)

    async def events(request: Request) -> Response:
        return await handler.handle(request)

    web = Starlette(routes=[Route("/slack/events", events, methods=["POST"])])
    server = uvicorn.Server(uvicorn.Config(web, port=0, log_level="error", lifespan="off"))
    serving = asyncio.create_task(server.serve())
    await slack.until(lambda: server.started, what="the HTTP server")
    slack.http_target = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield slack.http_target
    finally:
        server.should_exit = True
        await serving


@asynccontextmanager
async def either_way(mode: str, slack: FakeSlack, app: AsyncApp) -> AsyncIterator[None]:
    async with over_sockets(slack, app) if mode == "socket" else over_http(slack, app):
        yield


both_modes = pytest.mark.parametrize("mode", ["socket", "http"])


def hearing(app: AsyncApp, event: str = "message") -> list[dict[str, Any]]:
    heard: list[dict[str, Any]] = []

    async def listen(body: dict[str, Any]) -> None:
        heard.append(body)

    app.use(_every(heard)) if event == "*" else app.event(event)(listen)
    return heard


def _every(heard: list[dict[str, Any]]) -> Callable[..., Any]:
    async def middleware(body: dict[str, Any], ack: Any) -> Any:
        heard.append(body)
        return await ack()

    return middleware


# The Web API


async def test_bad_tokens_are_refused_with_slacks_words(slack: FakeSlack) -> None:
    assert (await refusal(client_of(slack, "xoxb-fake-other").auth_test()))["error"] == "invalid_auth"
    assert (await refusal(client_of(slack, slack.app_token).auth_test()))["error"] == "not_allowed_token_type"
    bot = client_of(slack)
    assert (await refusal(bot.apps_connections_open(app_token=slack.bot_token)))["error"] == "not_allowed_token_type"
    async with aiohttp.ClientSession() as http, http.get(f"{slack.api_url}auth.test") as answer:
        assert (await answer.json())["error"] == "not_authed"


async def test_a_method_is_served_over_get_form_and_json(slack: FakeSlack) -> None:
    auth = {"Authorization": f"Bearer {slack.bot_token}"}
    args = {"channel": OPS, "blocks": json.dumps([{"type": "divider"}]), "text": "hi"}
    async with aiohttp.ClientSession(headers=auth) as http:
        for sent in (
            http.get(f"{slack.api_url}chat.postMessage", params=args),
            http.post(f"{slack.api_url}chat.postMessage", data=args),
            http.post(f"{slack.api_url}chat.postMessage", json={**args, "blocks": [{"type": "divider"}]}),
        ):
            async with sent as answer:
                assert (await answer.json())["ok"] is True
    assert [m["blocks"][0]["type"] for m in slack.messages[OPS]] == ["divider"] * 3


async def test_each_method_needs_its_scope() -> None:
    granted = set(ALL_SCOPES) - {"reactions:write", "groups:history", "users:read.email"}
    async with FakeSlack(scopes=granted) as slack:
        client = client_of(slack)
        said = await slack.say(ALICE, "hello")
        answer = await refusal(client.reactions_add(channel=OPS, name="eyes", timestamp=said["ts"]))
        assert (answer["error"], answer["needed"]) == ("missing_scope", "reactions:write")
        assert "chat:write" in answer.headers["X-OAuth-Scopes"]
        secret = await slack.say(ALICE, "hush", PRIVATE)
        answer = await refusal(client.conversations_replies(channel=PRIVATE, ts=secret["ts"]))
        assert answer["needed"] == "groups:history"
        assert (await client.conversations_replies(channel=OPS, ts=said["ts"]))["ok"]
        assert "email" not in (await client.users_info(user=ALICE))["user"]["profile"]
        assert [b["event"]["channel"] for b in slack.delivered if b["event"]["type"] == "message"] == [OPS]


async def test_posting_has_slacks_limits(slack: FakeSlack, client: AsyncWebClient) -> None:
    section = {"type": "section", "text": {"type": "mrkdwn", "text": "x" * 3000}}
    said = await slack.say(ALICE, "hello")
    reply = await client.chat_postMessage(channel=OPS, text="root", thread_ts=said["ts"])
    for error, args in {
        "channel_not_found": {"channel": "C0NOWHERE", "text": "x"},
        "not_in_channel": {"channel": QUIET, "text": "x"},
        "msg_too_long": {"channel": OPS, "text": "x" * 40_001},
        "msg_blocks_too_long": {"channel": OPS, "text": "x", "blocks": [section] * 5},
        "thread_not_found": {"channel": OPS, "text": "x", "thread_ts": "1.2"},
        "cannot_reply_to_message": {"channel": OPS, "text": "x", "thread_ts": reply["ts"]},
        "invalid_metadata_format": {"channel": OPS, "text": "x", "metadata": {"event_type": "x"}},
        "markdown_text_conflict": {"channel": OPS, "text": "x", "markdown_text": "y"},
    }.items():
        assert (await refusal(client.api_call("chat.postMessage", json=args)))["error"] == error
    assert (await refusal(client.api_call("chat.postMessage", json={"channel": OPS})))["error"] == "no_text"
    answer = await refusal(client.chat_postMessage(channel=OPS, text="x", blocks=[{"type": "marquee"}]))
    assert answer["error"] == "invalid_blocks"
    assert "json-pointer:/blocks/0/type" in answer["response_metadata"]["messages"][0]
    assert [c.error for c in slack.refused[-2:]] == ["no_text", "invalid_blocks"]
    assert (await client.chat_postMessage(channel=OPS, text="x", blocks=[section] * 4))["ok"]


async def test_only_own_messages_can_be_changed(slack: FakeSlack, client: AsyncWebClient) -> None:
    said = await slack.say(ALICE, "hello")
    assert (await refusal(client.chat_update(channel=OPS, ts=said["ts"], text="x")))["error"] == "cant_update_message"
    assert (await refusal(client.chat_delete(channel=OPS, ts=said["ts"])))["error"] == "cant_delete_message"
    assert (await refusal(client.chat_update(channel=OPS, ts="1.2", text="x")))["error"] == "message_not_found"
    posted = await client.chat_postMessage(channel=OPS, text="card", blocks=[BUTTONS], thread_ts=said["ts"])
    too_long = client.chat_update(channel=OPS, ts=posted["ts"], text="x" * 4001)
    assert (await refusal(too_long))["error"] == "msg_too_long"
    assert (await client.chat_postMessage(channel=ALICE, text="psst"))["channel"] == slack.dm(ALICE)


async def test_an_update_with_text_alone_takes_the_blocks_away(slack: FakeSlack, client: AsyncWebClient) -> None:
    posted = await client.chat_postMessage(channel=OPS, text="card", blocks=[BUTTONS])
    await client.chat_update(channel=OPS, ts=posted["ts"], text="card", blocks=[BUTTONS])
    assert list(slack.buttons(slack.messages[OPS][0])) == ["approval_approve"]
    await client.chat_update(channel=OPS, ts=posted["ts"], text="approved &amp; done")
    assert slack.buttons(slack.messages[OPS][0]) == {}
    assert slack.rendered(slack.messages[OPS][0]) == "approved & done"


async def test_metadata_comes_back_only_when_asked_for(slack: FakeSlack, client: AsyncWebClient) -> None:
    note = {"event_type": "outbox", "event_payload": {"key": "k1"}}
    root = (await slack.say(ALICE, "hello"))["ts"]
    posted = await client.chat_postMessage(channel=OPS, text="one", thread_ts=root, metadata=note)
    await client.chat_update(channel=OPS, ts=posted["ts"], text="two")
    plain = await client.conversations_replies(channel=OPS, ts=root)
    full = await client.conversations_replies(channel=OPS, ts=root, include_all_metadata=True)
    assert ["metadata" in m for m in plain["messages"]] == [False, False]
    assert full["messages"][1]["metadata"] == note
    assert [m["text"] for m in full["messages"]][1:] == ["two"]
    assert (await refusal(client.conversations_replies(channel=OPS, ts="1.2")))["error"] == "thread_not_found"
    pages = [p["messages"] async for p in await client.conversations_replies(channel=OPS, ts=root, limit=1)]
    assert [len(p) for p in pages] == [1, 1]
    assert [m["ts"] for m in (await client.conversations_history(channel=OPS))["messages"]] == [root]


async def test_a_deleted_root_leaves_a_tombstone(slack: FakeSlack, client: AsyncWebClient) -> None:
    root = await client.chat_postMessage(channel=OPS, text="root")
    await client.chat_postMessage(channel=OPS, text="reply", thread_ts=root["ts"])
    await client.chat_delete(channel=OPS, ts=root["ts"])
    assert [m["text"] for m in slack.thread(OPS, root["ts"])] == ["This message was deleted.", "reply"]


async def test_people_and_groups_can_be_looked_up(slack: FakeSlack, client: AsyncWebClient) -> None:
    assert (await client.users_info(user=GUEST))["user"]["is_restricted"] is True
    assert (await client.users_info(user=STRANGER))["user"]["team_id"] != slack.team
    assert (await client.users_lookupByEmail(email="bob@example.com"))["user"]["id"] == BOB
    assert (await client.usergroups_users_list(usergroup=SRE))["users"] == slack.groups[SRE]
    assert (await refusal(client.usergroups_users_list(usergroup="S0NONE")))["error"] == "no_such_subteam"
    assert STRANGER not in [u["id"] for u in (await client.users_list())["members"]]
    assert (await client.conversations_open(users=ALICE))["channel"]["id"] == slack.dm(ALICE)
    assert (await client.conversations_info(channel=QUIET))["channel"]["is_member"] is False
    assert BOT_USER in (await client.conversations_members(channel=PRIVATE))["members"]
    assert (await refusal(client.api_call("chat.invent")))["error"] == "unknown_method"


async def test_ephemerals_are_for_one_member(slack: FakeSlack, client: AsyncWebClient) -> None:
    await client.chat_postEphemeral(channel=PRIVATE, user=ALICE, text="only you")
    assert [(e["to"], e["text"]) for e in slack.ephemerals] == [(ALICE, "only you")]
    answer = await refusal(client.chat_postEphemeral(channel=PRIVATE, user=GUEST, text="x"))
    assert answer["error"] == "user_not_in_channel"
    assert slack.messages.get(PRIVATE) is None


async def test_statuses_need_a_real_thread(slack: FakeSlack, client: AsyncWebClient) -> None:
    root = (await slack.say(ALICE, "hello"))["ts"]
    await client.agents_sessions_setStatus(channel_id=OPS, thread_ts=root, status="processing")
    await client.agents_sessions_setStatus(channel_id=OPS, thread_ts=root, status="suspended")
    await client.assistant_threads_setStatus(channel_id=OPS, thread_ts=root, status="thinks")
    assert slack.agent_sessions[OPS, root]["statuses"] == ["processing", "suspended"]
    assert slack.statuses[OPS, root] == "thinks"
    wrong = client.agents_sessions_setStatus(channel_id=OPS, thread_ts=root, status="sleeping")
    assert (await refusal(wrong))["error"] == "invalid_arguments"
    nowhere = client.agents_sessions_setStatus(channel_id=OPS, thread_ts="1.2", status="active")
    assert (await refusal(nowhere))["error"] == "thread_not_found"


async def test_a_file_is_announced_uploaded_and_shared(slack: FakeSlack, client: AsyncWebClient) -> None:
    root = (await slack.say(ALICE, "hello"))["ts"]
    await client.files_upload_v2(channel=OPS, thread_ts=root, filename="args.json", title="Arguments", content="{}")
    (shared,) = slack.bot_says(OPS, root)
    assert "Arguments" in slack.rendered(shared)
    assert slack.uploads[shared["files"][0]["id"]].content == b"{}"
    answer = await refusal(client.files_completeUploadExternal(files=[{"id": "F0NONE"}], channel_id=OPS))
    assert answer["error"] == "file_not_found"


# Troubles


async def test_throttling_answers_429_with_retry_after(slack: FakeSlack, client: AsyncWebClient) -> None:
    slack.throttle["chat.postMessage"] = [7]
    answer = await refusal(client.chat_postMessage(channel=OPS, text="x"))
    assert (answer.status_code, answer.headers["Retry-After"], answer["error"]) == (429, "7", "ratelimited")
    assert (await client.chat_postMessage(channel=OPS, text="x"))["ok"]


async def test_a_method_that_is_down_answers_500_so_often(slack: FakeSlack, client: AsyncWebClient) -> None:
    slack.down["auth.test"] = 1
    assert (await refusal(client.auth_test())).status_code == 500
    assert (await client.auth_test())["user_id"] == slack.bot_user
    slack.auth_test_broken = True
    assert (await refusal(client.auth_test())).status_code == 500
    assert (await refusal(client.auth_test())).status_code == 500


async def test_a_slow_method_outlasts_an_impatient_client(slack: FakeSlack) -> None:
    slack.slow["auth.test"] = 30
    impatient = AsyncWebClient(slack.bot_token, base_url=slack.api_url, timeout=1, retry_handlers=[])
    impatient.timeout = 0.05  # type: ignore[assignment]
    with pytest.raises(TimeoutError):
        await impatient.auth_test()


async def test_a_dropped_response_has_its_effect_and_no_answer(slack: FakeSlack, client: AsyncWebClient) -> None:
    slack.drop_response_after["chat.postMessage"] = 1
    with pytest.raises(aiohttp.ClientError):
        await client.chat_postMessage(channel=OPS, text="did it arrive?")
    assert [m["text"] for m in slack.messages[OPS]] == ["did it arrive?"]
    assert slack.refused == []
    assert (await client.chat_postMessage(channel=OPS, text="again"))["ok"]


async def test_the_sdks_own_retry_posts_twice_after_a_dropped_response(slack: FakeSlack) -> None:
    slack.drop_response_after["chat.postMessage"] = 1
    await AsyncWebClient(slack.bot_token, base_url=slack.api_url).chat_postMessage(channel=OPS, text="x")
    assert len(slack.messages[OPS]) == 2


# How the app hears


@both_modes
async def test_a_mention_arrives_twice_with_one_ts_and_two_event_ids(slack: FakeSlack, mode: str) -> None:
    app = a_bolt(slack)
    messages, mentions = hearing(app), hearing(app, "app_mention")
    async with either_way(mode, slack, app):
        said = await slack.say(ALICE, "is a < b & c?")
        await slack.settled()
    assert messages[0]["event"]["text"] == f"<@{slack.bot_user}> is a &lt; b &amp; c?"
    assert messages[0]["event"]["ts"] == mentions[0]["event"]["ts"] == said["ts"]
    assert messages[0]["event_id"] != mentions[0]["event_id"]
    assert len(slack.acks) == 2


@both_modes
async def test_no_mention_means_one_event_and_a_dm_has_none(slack: FakeSlack, mode: str) -> None:
    app = a_bolt(slack)
    heard, mentions = hearing(app), hearing(app, "app_mention")
    async with either_way(mode, slack, app):
        await slack.say(ALICE, "just talking", mention=False)
        await slack.say(ALICE, "for you", slack.dm(ALICE))
        await slack.say(ALICE, "not for bots", QUIET)
        await slack.settled()
    assert sorted(b["event"]["channel_type"] for b in heard) == ["channel", "im"]
    assert mentions == []


@both_modes
async def test_the_app_hears_its_own_posts_and_edits(slack: FakeSlack, mode: str) -> None:
    arrived: list[dict[str, Any]] = []

    async def before(body: dict[str, Any], next_: Any) -> None:
        arrived.append(body["event"])
        await next_()

    app = AsyncApp(client=client_of(slack), signing_secret=slack.signing_secret, before_authorize=before)
    hearing(app)
    async with either_way(mode, slack, app):
        posted = await app.client.chat_postMessage(channel=OPS, text="one")
        await app.client.chat_update(channel=OPS, ts=posted["ts"], text="two")
        await slack.settled()
    assert sorted(e.get("subtype", "") for e in arrived) == ["", "message_changed"]
    (changed,) = [e for e in arrived if "subtype" in e]
    assert (changed["previous_message"]["text"], changed["message"]["text"]) == ("one", "two")


@both_modes
async def test_an_event_is_sent_again_as_a_retry_until_it_is_acked(slack: FakeSlack, mode: str) -> None:
    slack.retry_delays_s = (0.0, 0.0)
    seen: list[tuple[str, list[str] | None]] = []

    async def before(req: Any, next_: Any) -> None:
        seen.append((req.body["event_id"], req.headers.get("x-slack-retry-num")))
        if len(seen) == 1:
            raise RuntimeError("the database is away")
        await next_()

    app = AsyncApp(client=client_of(slack), signing_secret=slack.signing_secret, before_authorize=before)
    hearing(app)
    async with either_way(mode, slack, app):
        if mode == "socket":
            slack.ack_timeout_s = 0.2
        await slack.say(ALICE, "hello", mention=False)
        await slack.settled()
    assert len({event_id for event_id, _ in seen}) == 1
    assert [num for _, num in seen][1] == ["1"]
    assert [a.attempt for a in slack.acks] == [1]
    assert len(slack.failures) == 1


async def test_what_was_said_while_no_socket_was_open_arrives_as_a_retry(slack: FakeSlack) -> None:
    slack.retry_delays_s = (1.0,)
    app = a_bolt(slack)
    heard = hearing(app)
    await slack.say(ALICE, "anyone?", mention=False)
    await slack.until(lambda: slack.failures, what="a failed delivery")
    async with over_sockets(slack, app):
        await slack.settled()
    assert len(heard) == 1
    assert slack.acks[0].attempt == 1


async def test_a_dropped_socket_is_replaced_and_the_event_comes_again(slack: FakeSlack) -> None:
    slack.retry_delays_s = (0.5,) * 12
    app = a_bolt(slack)
    heard = hearing(app)
    async with over_sockets(slack, app):
        await slack.disconnect()
        await slack.say(ALICE, "still there?", mention=False)
        await slack.until(lambda: slack.acks, what="the ack")
    assert len(heard) == 1


async def test_two_connections_share_the_work(slack: FakeSlack) -> None:
    one, two = a_bolt(slack), a_bolt(slack)
    first, second = hearing(one), hearing(two)
    async with over_sockets(slack, one), over_sockets(slack, two):
        for _ in range(4):
            await slack.say(ALICE, "hello", mention=False)
        await slack.settled()
    assert (len(first), len(second)) == (2, 2)


async def test_forged_and_stale_requests_are_refused_by_bolt(slack: FakeSlack) -> None:
    app = a_bolt(slack)
    heard = hearing(app)
    body = json.dumps(slack.event_body({"type": "message", "user": ALICE, "text": "x", "channel": OPS, "ts": "1.2"}))
    async with over_http(slack, app) as url, aiohttp.ClientSession() as http:
        for headers, status in (
            (slack.sign(body, secret="fake-wrong-secret"), 401),
            (slack.sign(body, ts=1), 401),
            (slack.sign(body), 200),
        ):
            sent = {**headers, "Content-Type": "application/json"}
            async with http.post(f"{url}/slack/events", data=body, headers=sent) as answer:
                assert answer.status == status
        await slack.until(lambda: heard, what="the genuine request")


# What people do


@both_modes
async def test_a_double_click_is_two_interactions_each_answered(slack: FakeSlack, mode: str) -> None:
    app = a_bolt(slack)
    clicks: list[dict[str, Any]] = []

    @app.action("approval_approve")
    async def approve(ack: Any, body: dict[str, Any], respond: Any) -> None:
        clicks.append(body)
        await ack()
        await respond(text="thank you", response_type="ephemeral", replace_original=False)

    async with either_way(mode, slack, app):
        root = (await slack.say(ALICE, "hello", mention=False))["ts"]
        await app.client.chat_postMessage(channel=OPS, text="card", blocks=[BUTTONS], thread_ts=root)
        card = await slack.card(OPS, root)
        acks = await slack.click(BOB, OPS, card, "approval_approve", repeat=2)
    assert all(acks)
    assert [c["actions"][0]["value"] for c in clicks] == ["a1", "a1"]
    assert len({c["trigger_id"] for c in clicks}) == 2
    assert clicks[0]["container"]["thread_ts"] == root
    assert [e["to"] for e in slack.ephemerals] == [BOB, BOB]


async def test_a_click_on_an_old_copy_still_arrives_and_an_invented_one_does_not(slack: FakeSlack) -> None:
    app = a_bolt(slack)
    pressed = hearing(app, "*")
    async with over_sockets(slack, app):
        posted = await app.client.chat_postMessage(channel=OPS, text="card", blocks=[BUTTONS])
        old = slack.public(slack.messages[OPS][0])
        await app.client.chat_update(channel=OPS, ts=posted["ts"], text="settled")
        with pytest.raises(AssertionError, match="approval_approve"):
            await slack.click(ALICE, OPS, posted["ts"], "approval_approve")
        await slack.click(ALICE, OPS, old, "approval_approve")
        await slack.settled()
    assert [b["type"] for b in pressed if "actions" in b] == ["block_actions"]


@both_modes
async def test_a_modal_opens_refuses_and_closes(slack: FakeSlack, mode: str) -> None:
    app = a_bolt(slack)

    @app.command("/ops")
    async def ops(ack: Any, body: dict[str, Any], client: AsyncWebClient) -> None:
        await client.views_open(trigger_id=body["trigger_id"], view=MODAL)
        await ack("opened")

    @app.view("reason")
    async def reason(ack: Any, view: dict[str, Any]) -> None:
        if view["state"]["values"]["why"]["reason"]["value"] == "no":
            await ack(response_action="errors", errors={"why": "Say more."})
        else:
            await ack()

    async with either_way(mode, slack, app):
        await slack.slash(ALICE, "/ops", "reject")
        view = slack.screen(ALICE)
        assert view is not None
        with pytest.raises(AssertionError, match="Reason must be filled in"):
            await slack.submit(ALICE, view)
        ack = await slack.submit(ALICE, view, {"reason": "no"})
        assert ack is not None
        assert ack.payload["errors"] == {"why": "Say more."}
        assert slack.screen(ALICE) is not None
        await slack.submit(ALICE, view, {"reason": "too risky"})
        assert slack.screen(ALICE) is None
    assert slack.ephemerals[0]["text"] == "opened"


async def test_a_trigger_opens_one_modal_and_only_for_a_while(slack: FakeSlack, client: AsyncWebClient) -> None:
    trigger = slack.trigger(ALICE)
    opened = await client.views_open(trigger_id=trigger, view=MODAL)
    again = await refusal(client.views_open(trigger_id=trigger, view=MODAL))
    assert again["error"] == "exchanged_trigger_id"
    assert (await refusal(client.views_open(trigger_id="1.2", view=MODAL)))["error"] == "invalid_trigger_id"
    late = slack.trigger(ALICE)
    later = slack.clock() + 3.5
    slack.clock = lambda: later
    assert (await refusal(client.views_open(trigger_id=late, view=MODAL)))["error"] == "expired_trigger_id"
    stale = client.views_update(view_id=opened["view"]["id"], view=MODAL, hash="h0")
    assert (await refusal(stale))["error"] == "hash_conflict"
    top = slack.trigger(ALICE, opened["view"]["id"])
    pushed = await client.views_push(trigger_id=top, view=MODAL)
    assert slack.stacks[ALICE] == [opened["view"]["id"], pushed["view"]["id"]]


async def test_home_is_published_and_opened(slack: FakeSlack) -> None:
    app = a_bolt(slack)
    opened = hearing(app, "app_home_opened")
    home = {"type": "home", "blocks": [BUTTONS]}
    async with over_sockets(slack, app):
        published = await app.client.views_publish(user_id=ALICE, view=home)
        await slack.open_home(ALICE)
        await slack.settled()
        stale = app.client.views_publish(user_id=ALICE, view=home, hash="h0")
        assert (await refusal(stale))["error"] == "hash_conflict"
        assert opened[0]["event"]["view"]["id"] == published["view"]["id"]
        wrong = app.client.views_publish(user_id=ALICE, view=MODAL)
        assert (await refusal(wrong))["error"] == "invalid_arguments"


async def test_people_edit_delete_and_other_bots_speak(slack: FakeSlack) -> None:
    app = a_bolt(slack)
    heard: list[dict[str, Any]] = hearing(app)
    async with over_sockets(slack, app):
        said = await slack.say(ALICE, "one", mention=False)
        await slack.settled()
        await slack.edit(ALICE, OPS, said["ts"], "two")
        await slack.unsay(ALICE, OPS, said["ts"])
        await slack.other_bot("alarm", classic=True)
        await slack.say(STRANGER, "hi", mention=False)
        await slack.settled()
    by_kind = {b["event"].get("subtype", b["event"].get("user")): b for b in heard}
    assert by_kind["message_changed"]["event"]["message"]["text"] == "two"
    assert by_kind["message_deleted"]["event"]["deleted_ts"] == said["ts"]
    assert "user" not in by_kind["bot_message"]["event"]
    assert by_kind[STRANGER]["is_ext_shared_channel"] is True
    assert by_kind[STRANGER]["event"]["user_team"] != slack.team


async def test_redelivery_keeps_or_changes_the_event_id(slack: FakeSlack) -> None:
    app = a_bolt(slack)
    heard = hearing(app)
    async with over_sockets(slack, app):
        said = await slack.say(ALICE, "once", mention=False)
        await slack.settled()
        await slack.redeliver(said["ts"], same_event_id=True)
        await slack.redeliver(said["ts"], same_event_id=False)
    assert [b["event"]["ts"] for b in heard] == [said["ts"]] * 3
    assert len({b["event_id"] for b in heard}) == 2


async def test_an_uninstalled_app_hears_of_it_and_is_locked_out(slack: FakeSlack) -> None:
    app = a_bolt(slack)
    client = client_of(slack)
    async with over_sockets(slack, app):
        slack.ack_timeout_s, slack.retry_delays_s = 0.2, ()
        await slack.say(ALICE, "warm up", mention=False)
        await slack.settled()
        await slack.uninstall()
        await slack.until(lambda: len(slack.acks) + len(slack.failures) >= 3, what="both events")
    assert (await refusal(client.chat_postMessage(channel=OPS, text="x")))["error"] == "account_inactive"
    assert {b["event"]["type"] for b in slack.delivered} == {"message", "tokens_revoked", "app_uninstalled"}


async def test_a_response_url_wears_out(slack: FakeSlack) -> None:
    url = slack._response_url(OPS, ALICE, None, ephemeral=True)
    async with aiohttp.ClientSession() as http:
        answers = [await http.post(url, json={"text": "hi"}) for _ in range(6)]
        assert [a.status for a in answers] == [200] * 5 + [404]
        fresh = slack._response_url(OPS, ALICE, None, ephemeral=True)
        slack.response_url_life_s = -1
        assert (await http.post(fresh, json={"text": "hi"})).status == 404


# Looking


async def test_waiting_for_what_never_comes_tells_what_was_there(slack: FakeSlack, client: AsyncWebClient) -> None:
    root = (await slack.say(ALICE, "hello"))["ts"]
    await client.chat_postMessage(channel=OPS, text="not that", thread_ts=root)
    with pytest.raises(AssertionError, match="not that"):
        await slack.bot_message(OPS, root, containing="this", timeout=0.05)


async def test_rendered_is_what_people_read_and_pings_are_what_they_hear(slack: FakeSlack) -> None:
    blocks = [
        {"type": "header", "text": {"type": "plain_text", "text": "<!here> plain"}},
        {"type": "section", "text": {"type": "mrkdwn", "text": "a &lt; b <@U0ALICE>"}},
        {"type": "markdown", "text": "see <!channel>"},
        {"type": "table", "rows": [[{"type": "raw_text", "text": "cell"}]]},
        BUTTONS,
    ]
    message = {"text": "fallback", "blocks": blocks}
    assert slack.rendered(message).split("\n") == ["<!here> plain", "a < b <@U0ALICE>", "see <!channel>", "cell", "Yes"]
    assert slack.pings(message) == ["<@U0ALICE>", "<!channel>"]


# Block Kit


def text(length: int, kind: str = "mrkdwn") -> dict[str, Any]:
    return {"type": kind, "text": "x" * length}


def button(**more: Any) -> dict[str, Any]:
    return {"type": "button", "action_id": "a", "text": text(3, "plain_text"), **more}


def actions(*elements: dict[str, Any]) -> dict[str, Any]:
    return {"type": "actions", "elements": list(elements)}


def table(rows: int, columns: int) -> dict[str, Any]:
    return {"type": "table", "rows": [[{"type": "raw_text", "text": "x"}] * columns] * rows}


def many_buttons(count: int) -> dict[str, Any]:
    return actions(*(button(action_id=f"a{i}") for i in range(count)))


def select(count: int) -> dict[str, Any]:
    options = [{"text": text(1, "plain_text"), "value": str(i)} for i in range(count)]
    return actions({"type": "static_select", "action_id": "s", "options": options})


def menu(count: int, **more: Any) -> dict[str, Any]:
    options = [{"text": text(1, "plain_text"), "value": str(i)} for i in range(count)]
    return actions({"type": "overflow", "action_id": "m", "options": options, **more})


def people(**more: Any) -> dict[str, Any]:
    return actions({"type": "multi_users_select", "action_id": "p", **more})


LIMITS: list[tuple[str, list[dict[str, Any]], list[dict[str, Any]]]] = [
    ("blocks", [{"type": "divider"}] * 50, [{"type": "divider"}] * 51),
    ("section", [{"type": "section", "text": text(3000)}], [{"type": "section", "text": text(3001)}]),
    ("empty text", [{"type": "section", "text": text(1)}], [{"type": "section", "text": text(0)}]),
    ("fields", [{"type": "section", "fields": [text(1)] * 10}], [{"type": "section", "fields": [text(1)] * 11}]),
    (
        "header",
        [{"type": "header", "text": text(150, "plain_text")}],
        [{"type": "header", "text": text(151, "plain_text")}],
    ),
    ("plain", [{"type": "header", "text": text(9, "plain_text")}], [{"type": "header", "text": text(9)}]),
    ("markdown", [{"type": "markdown", "text": "x" * 12_000}], [{"type": "markdown", "text": "x" * 12_001}]),
    ("all markdown", [{"type": "markdown", "text": "x" * 6_000}] * 2, [{"type": "markdown", "text": "x" * 6_001}] * 2),
    ("label", [actions(button(text=text(75, "plain_text")))], [actions(button(text=text(76, "plain_text")))]),
    ("value", [actions(button(value="x" * 2000))], [actions(button(value="x" * 2001))]),
    ("style", [actions(button(style="danger"))], [actions(button(style="warning"))]),
    ("action_id", [actions(button(action_id="x" * 255))], [actions(button(action_id="x" * 256))]),
    ("unique action_id", [actions(button(), button(action_id="b"))], [actions(button(), button())]),
    ("actions", [many_buttons(25)], [many_buttons(26)]),
    ("options", [select(100)], [select(101)]),
    ("menu's least", [menu(2)], [menu(1)]),
    ("menu's most", [menu(5)], [menu(6)]),
    ("menu's style", [menu(2)], [menu(2, style="danger")]),
    ("people to choose", [people(max_selected_items=1)], [people(max_selected_items=0)]),
    ("context", [{"type": "context", "elements": [text(1)] * 10}], [{"type": "context", "elements": [text(1)] * 11}]),
    ("block_id", [{"type": "divider", "block_id": "x" * 255}], [{"type": "divider", "block_id": "x" * 256}]),
    ("unique block_id", [{"type": "divider", "block_id": "x"}], [{"type": "divider", "block_id": "x"}] * 2),
    ("rows", [table(100, 1)], [table(101, 1)]),
    ("columns", [table(1, 20)], [table(1, 21)]),
    ("one table", [table(1, 1)], [table(1, 1)] * 2),
    ("data table", [{**table(2, 1), "type": "data_table"}], [{**table(1, 1), "type": "data_table"}]),
    ("card", [{"type": "card", "body": text(200)}], [{"type": "card", "body": text(201)}]),
    (
        "container",
        [{"type": "container", "child_blocks": [{"type": "divider"}] * 10}],
        [{"type": "container", "child_blocks": [{"type": "divider"}] * 11}],
    ),
    ("known type", [{"type": "divider"}], [{"type": "marquee"}]),
    ("known key", [{"type": "divider"}], [{"type": "divider", "colour": "red"}]),
]


@pytest.mark.parametrize(("name", "fits", "breaks"), LIMITS, ids=[name for name, *_ in LIMITS])
def test_a_block_limit_holds_to_the_letter(name: str, fits: list[Any], breaks: list[Any]) -> None:
    assert block_kit.check_blocks(fits) == []
    assert len(block_kit.check_blocks(breaks)) >= 1, name


VIEW_CHANGES: list[dict[str, Any]] = [
    {"title": text(25, "plain_text")},
    {"submit": text(25, "plain_text")},
    {"submit": None},
    {"private_metadata": "x" * 3001},
    {"callback_id": "x" * 256},
    {"blocks": [{"type": "divider"}] * 101},
    {"blocks": [{"type": "markdown", "text": "x"}]},
    {"type": "sheet"},
]


@pytest.mark.parametrize("change", VIEW_CHANGES, ids=[next(iter(c)) for c in VIEW_CHANGES])
def test_a_modal_limit_holds(change: dict[str, Any]) -> None:
    assert block_kit.check_view(MODAL) == []
    assert block_kit.check_view({**MODAL, "blocks": [{"type": "divider"}] * 100}) == []
    assert len(block_kit.check_view({**MODAL, **change})) >= 1
