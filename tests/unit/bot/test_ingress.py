"""What people send in Slack reaches the service before the ack, and nothing else does."""

import asyncio
import json
import time

import aiohttp
import pytest
from slack_bolt.async_app import AsyncBoltRequest

from agent.approvals.types import ApprovalStatus, Decision
from agent.errors import NotAllowed
from agent.types import Address, ThreadKey
from bot.views.approval import approval_card
from tests.fakes.slack import ALICE, BOB, BOT_USER, CAROL, OPS, STRANGER, TEAM


async def said(door, *args, **kwargs):
    message = await door.slack.say(*args, **kwargs)
    await door.slack.settled()
    return message


async def test_a_mention_arrives_twice_and_counts_once(door):
    message = await said(door, ALICE, "restart <web> & tell me")
    (stored,) = door.service.submitted
    ts = message["ts"]
    assert stored.text == "restart <web> & tell me"
    assert stored.session_id == ThreadKey(TEAM, OPS, ts).session_id
    assert stored.message_key == f"slack:{TEAM}:{OPS}:{ts}"
    assert stored.event_key in {f"slack:{TEAM}:{b['event_id']}" for b in door.slack.delivered}
    assert stored.address == Address("slack", {"channel": OPS, "thread_ts": ts})
    assert (stored.by.team, stored.by.user, stored.by.external) == (TEAM, ALICE, False)
    assert len(door.slack.acks) == 2
    assert door.slack.failures == []


@pytest.mark.parametrize("kind", ["message", "app_mention"])
async def test_either_of_a_mentions_two_events_is_enough(door, kind):
    event = {"type": kind, "user": ALICE, "text": f"<@{BOT_USER}> hi", "ts": "5.1", "channel": OPS, "team": TEAM}
    await door.slack.deliver("events_api", door.slack.event_body({**event, "channel_type": "channel"}))
    assert [s.text for s in door.service.submitted] == ["hi"]


async def test_a_reply_in_a_known_thread_needs_no_mention(door):
    root = await said(door, ALICE, "hello")
    await said(door, BOB, "and again", thread_ts=root["ts"], mention=False)
    assert [s.text for s in door.service.submitted] == ["hello", "and again"]
    assert len({s.session_id for s in door.service.submitted}) == 1


async def test_talk_without_a_mention_starts_nothing(door):
    root = await said(door, ALICE, "lunch?", mention=False)
    await said(door, BOB, "yes", thread_ts=root["ts"], mention=False)
    assert door.service.submitted == []
    assert len(door.slack.acks) == 2


async def test_every_direct_message_counts_and_its_thread_goes_on(door):
    dm = door.slack.dm(ALICE)
    root = await said(door, ALICE, "in private", channel=dm)
    await said(door, ALICE, "more", channel=dm, thread_ts=root["ts"])
    await said(door, ALICE, "something else", channel=dm)
    first, second, third = door.service.submitted
    assert first.session_id == second.session_id != third.session_id
    assert second.address.where == {"channel": dm, "thread_ts": root["ts"]}


async def test_bots_edits_and_deletions_start_nothing(door):
    root = await said(door, ALICE, "hello")
    before = list(door.service.submitted)
    await door.slack.other_bot("deployed", thread_ts=root["ts"])
    await door.slack.other_bot("deployed", mention=True)
    await door.slack.other_bot("deployed", mention=True, classic=True)
    await door.slack.edit(ALICE, OPS, root["ts"], f"<@{BOT_USER}> hello, edited")
    await door.slack.unsay(ALICE, OPS, root["ts"])
    await door.slack.settled()
    assert door.service.submitted == before
    assert door.slack.failures == []


async def test_the_bots_own_messages_start_nothing(door):
    dm = door.slack.dm(ALICE)
    await door.app.client.chat_postMessage(channel=dm, text="talking to myself")
    await door.slack.settled()
    assert door.service.submitted == []
    assert [a.body["event"]["user"] for a in door.slack.acks] == [BOT_USER]


@pytest.mark.parametrize("subtype", ["file_share", "thread_broadcast"])
async def test_files_and_broadcasts_of_people_count(door, subtype):
    event = {
        "type": "message",
        "subtype": subtype,
        "user": ALICE,
        "text": "look",
        "ts": "5.1",
        "channel": door.slack.dm(ALICE),
    }
    event |= {"channel_type": "im", "team": TEAM, "files": [{"name": "heap.txt"}]}
    await door.slack.deliver("events_api", door.slack.event_body(event))
    assert [s.text for s in door.service.submitted] == ["look\n[file: heap.txt]"]


async def test_someone_of_another_workspace_is_external(door):
    await said(door, STRANGER, "hello")
    assert [s.by.external for s in door.service.submitted] == [True]


async def test_a_redelivery_under_any_id_counts_once(door):
    message = await said(door, ALICE, "once")
    await door.slack.redeliver(message["ts"], same_event_id=True)
    await door.slack.redeliver(message["ts"], same_event_id=False)
    assert len(door.service.submitted) == 1


async def test_with_the_database_down_nothing_is_acked_and_slack_delivers_again(door):
    door.service.down = True
    await door.slack.say(ALICE, "hello", mention=False, channel=door.slack.dm(ALICE))
    await door.slack.until(lambda: door.slack.failures)
    assert door.slack.acks == []
    door.service.down = False
    await door.slack.settled()
    assert [s.text for s in door.service.submitted] == ["hello"]


async def test_with_auth_test_broken_no_message_and_no_click_is_lost(door):
    door.slack.auth_test_broken = True
    root = await said(door, ALICE, "hello")
    card = await posted_card(door, root["ts"])
    await door.slack.click(BOB, OPS, card, "approval_approve")
    assert len(door.service.submitted) == 1
    assert len(door.service.decisions) == 1
    assert door.slack.failures == []
    assert door.slack.called("auth.test") == []


async def test_a_refused_message_tells_its_author_why(door):
    door.service.refusals[ALICE] = NotAllowed("Your account is disabled: ask an admin.")
    root = await said(door, ALICE, "hello")
    await door.errands.drain()
    (whisper,) = door.slack.ephemerals
    assert whisper["to"] == ALICE
    assert whisper["thread_ts"] == root["ts"]
    assert "Your account is disabled" in door.slack.rendered(whisper)


async def posted_card(door, root, **changes):
    """A card of a pending approval, as the presenter would have posted it."""
    session_id = door.service.session(OPS, root)
    approval = door.service.open(session_id, **changes)
    card = approval_card(approval)
    answer = await door.app.client.chat_postMessage(
        channel=OPS, thread_ts=root, text=card.text, blocks=list(card.blocks)
    )
    await door.slack.settled()
    return door.slack.find(OPS, answer["ts"])


@pytest.fixture
async def root(door):
    return (await said(door, ALICE, "restart web"))["ts"]


@pytest.mark.parametrize(
    ("action", "decision"), [("approval_approve", Decision.APPROVE), ("approval_reject", Decision.REJECT)]
)
async def test_a_click_decides_at_once(door, root, action, decision):
    card = await posted_card(door, root)
    (ack,) = await door.slack.click(BOB, OPS, card, action)
    assert ack is not None
    ((_, decided, by),) = door.service.decisions
    assert (decided, by.user, by.team, by.external) == (decision, BOB, TEAM, False)
    assert door.slack.ephemerals == []


async def test_every_refused_click_is_told_why_in_the_thread(door, root):
    card = await posted_card(door, root)
    await door.slack.click(ALICE, OPS, card, "approval_approve")
    await door.slack.click(BOB, OPS, card, "approval_approve")
    await door.slack.click(CAROL, OPS, card, "approval_reject")
    await door.errands.drain()
    told = [(w["to"], w["thread_ts"], door.slack.rendered(w)) for w in door.slack.ephemerals]
    assert told == [(ALICE, root, "Only an approver may decide this."), (CAROL, root, "Already approved.")]
    assert door.slack.failures == []


async def test_an_approval_of_arguments_that_the_card_did_not_show_is_refused(door, root):
    card = await posted_card(door, root)
    (approval_id,) = door.service.approvals
    door.service.change(approval_id, args_digest="f" * 64)
    await door.slack.click(BOB, OPS, card, "approval_approve")
    await door.errands.drain()
    assert door.service.decisions == []
    (whisper,) = door.slack.ephemerals
    assert "changed since you saw them" in door.slack.rendered(whisper)


async def test_a_refusal_goes_to_the_response_url_where_no_ephemeral_can_be_posted(door, root):
    card = await posted_card(door, root)
    door.slack.channels[OPS]["members"].discard(BOT_USER)
    await door.slack.click(ALICE, OPS, card, "approval_approve")
    await door.errands.drain()
    (whisper,) = door.slack.ephemerals
    assert whisper["to"] == ALICE
    assert "approval_approve" in door.slack.buttons(door.slack.find(OPS, card["ts"]))


async def test_someone_of_another_workspace_never_decides(door, root):
    door.service.approvers = (STRANGER,)
    card = await posted_card(door, root)
    await door.slack.click(STRANGER, OPS, card, "approval_approve")
    await door.errands.drain()
    assert door.service.decisions == []
    assert [w["to"] for w in door.slack.ephemerals] == [STRANGER]


@pytest.mark.parametrize("value", ["not-an-id", "", "1; DROP TABLE approvals"])
async def test_a_button_without_an_approvals_id_changes_nothing_and_says_so(door, root, value):
    card = await posted_card(door, root)
    await door.slack.click(BOB, OPS, card, "approval_approve", value=value)
    await door.errands.drain()
    assert door.service.decisions == []
    assert "names no approval" in door.slack.rendered(door.slack.ephemerals[0])


async def test_a_click_with_the_database_down_is_not_acked(door, root):
    card = await posted_card(door, root)
    door.service.down = True
    assert await door.slack.click(BOB, OPS, card, "approval_approve") == [None]
    assert door.service.decisions == []


LARGE = {"script": "echo one; " * 3000}


async def test_a_large_call_is_read_and_approved_in_a_modal(door, root):
    card = await posted_card(door, root, args=LARGE)
    assert "approval_approve" not in door.slack.buttons(card)
    await door.slack.click(BOB, OPS, card, "approval_arguments")
    await door.errands.drain()
    view = door.slack.screen(BOB)
    shown = "".join(e["elements"][0]["text"] for b in view["blocks"] if b["type"] == "rich_text" for e in b["elements"])
    assert json.dumps(LARGE["script"]) in shown
    ((_, form, args_digest, _, reader),) = door.service.shown
    assert (form, reader.user) == ("modal", BOB)
    assert args_digest == next(iter(door.service.approvals.values())).args_digest
    ack = await door.slack.submit(BOB, view)
    assert ack is not None
    assert [d for _, d, _ in door.service.decisions] == [Decision.APPROVE]
    assert door.slack.screen(BOB) is None


async def test_a_refused_modal_says_why_in_its_place(door, root):
    card = await posted_card(door, root, args=LARGE)
    await door.slack.click(ALICE, OPS, card, "approval_arguments")
    await door.errands.drain()
    await door.slack.submit(ALICE, door.slack.screen(ALICE))
    assert "Only an approver may decide this." in json.dumps(door.slack.screen(ALICE))
    assert door.service.decisions == []


async def test_the_modal_of_a_settled_call_cannot_be_submitted(door, root):
    card = await posted_card(door, root, args=LARGE)
    (approval_id,) = door.service.approvals
    door.service.change(approval_id, status=ApprovalStatus.EXPIRED)
    await door.slack.click(BOB, OPS, card, "approval_arguments")
    await door.errands.drain()
    assert "submit" not in door.slack.screen(BOB)
    assert door.service.shown == []


async def test_arguments_that_came_too_late_for_slack_say_so(door, root):
    card = await posted_card(door, root, args=LARGE)
    door.slack.trigger_life_s = -1
    await door.slack.click(BOB, OPS, card, "approval_arguments")
    await door.errands.drain()
    assert "press the button again" in door.slack.rendered(door.slack.ephemerals[0])


async def test_slacks_stop_button_cancels_the_turn(door, root):
    event = {"type": "agent_session_stopped", "channel": OPS, "thread_ts": root, "user": ALICE, "event_ts": "9.9"}
    await door.slack.deliver("events_api", door.slack.event_body({**event, "streaming_message_ts": []}))
    assert door.service.cancelled == [ThreadKey(TEAM, OPS, root).session_id]


@pytest.mark.parametrize("event", ["app_uninstalled", "tokens_revoked", "app_home_opened", "reaction_added", "new_one"])
async def test_every_other_event_is_acked(door, event):
    ack = await door.slack.deliver(
        "events_api", door.slack.event_body({"type": event, "user": ALICE, "event_ts": "1.1"})
    )
    assert ack is not None
    assert door.slack.failures == []
    assert door.service.submitted == []


@pytest.mark.parametrize("kind", ["block_actions", "view_submission", "view_closed", "shortcut", "message_action"])
async def test_every_other_interaction_is_acked(door, kind):
    body = {"type": kind, "user": {"id": ALICE, "team_id": TEAM}, "team": {"id": TEAM}, "callback_id": "unknown"}
    body |= {"actions": [{"type": "button", "action_id": "unknown", "block_id": "b"}], "token": "fake"}
    body |= {"view": {"type": "modal", "callback_id": "unknown", "state": {"values": {}}}, "trigger_id": "1.1"}
    assert await door.slack.deliver("interactive", body) is not None
    assert door.slack.failures == []


async def test_a_command_nobody_listens_to_is_acked(door):
    body = {"command": "/unknown", "text": "", "user_id": ALICE, "team_id": TEAM, "channel_id": OPS, "token": "fake"}
    assert await door.slack.deliver("slash_commands", body) is not None


async def test_forged_stale_and_unsigned_requests_are_401(door):
    event = {"type": "message", "user": ALICE, "text": "forged", "ts": "1.1", "channel": "D1", "channel_type": "im"}
    body = json.dumps(door.slack.event_body(event))
    stale = door.slack.sign(body, ts=int(time.time()) - 400)
    async with aiohttp.ClientSession() as http:
        for headers in (door.slack.sign(body, secret="wrong"), stale, {}):
            url = f"{door.slack.http_target}/slack/events"
            async with http.post(url, data=body, headers={"Content-Type": "application/json", **headers}) as answer:
                assert answer.status == 401
    assert door.service.submitted == []


async def test_slacks_check_of_the_url_is_answered(door):
    body = json.dumps({"type": "url_verification", "challenge": "abc", "token": "fake"})
    async with aiohttp.ClientSession() as http:
        headers = {"Content-Type": "application/json", **door.slack.sign(body)}
        async with http.post(f"{door.slack.http_target}/slack/events", data=body, headers=headers) as answer:
            assert answer.status == 200
            assert "abc" in await answer.text()


async def test_a_threads_messages_are_stored_in_the_order_in_which_they_came(door, root):
    """Socket Mode hands envelopes over without waiting for the one before."""
    gate = door.service.gates["first"] = asyncio.Event()
    dispatched: list[asyncio.Task[object]] = []
    for i, text in enumerate(("first", "second", "third")):
        event = {"type": "message", "user": ALICE, "text": text, "ts": f"9.{i}", "thread_ts": root, "channel": OPS}
        body = door.slack.event_body({**event, "channel_type": "channel", "team": TEAM})
        request = AsyncBoltRequest(body=body, mode="socket_mode")
        dispatched.append(asyncio.create_task(door.app.async_dispatch(request)))
        await asyncio.sleep(0)
    for _ in range(20):
        await asyncio.sleep(0)
    assert [s.text for s in door.service.submitted] == ["restart web"]
    gate.set()
    await asyncio.gather(*dispatched)
    assert [s.text for s in door.service.submitted] == ["restart web", "first", "second", "third"]
