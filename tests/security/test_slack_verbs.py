"""The verbs of an approval in Slack, before the real service: that each works, and the ways round them."""

import json
from copy import deepcopy
from typing import Any

import pytest

from agent.approvals.grants import Remember, Scope
from agent.approvals.policy import Rule
from agent.approvals.types import Approval, Decision, ExecutionStatus
from agent.types import EventKind
from tests.fakes.slack import ALICE, BOB, CAROL, OPS
from tests.fakes.slack_workspace import Json
from tests.integration.conftest import ADMIN
from tests.integration.test_resolutions import vanish
from tests.security.test_slack_attacks import Thread, ids, thread

__all__ = ["thread"]

REMEMBER, WITHDRAW, TIME = "Approve and don't ask again…", "Take back my vote", "More time…"
OTHERS, CANCEL = "Have others decide…", "Cancel my request"
WEB = {"service": "web"}
ANY = {"type": "object", "properties": {"service": {"type": "string"}}}


@pytest.fixture
async def card(thread: Thread) -> Json:
    """The card of a call that Alice asks for."""
    return await thread.card(await thread.ask(WEB))


async def choose(thread: Thread, user: str, card: Json, label: str) -> Any:
    await thread.slack.choose(user, OPS, card, label)
    await thread.door.errands.drain()
    return thread.slack.screen(user)


async def again(thread: Thread, card: Json, args: Json = WEB) -> None:
    """Have Alice ask for a call in the thread of the card once what she asked for before has ended."""
    root = card["thread_ts"]
    await thread.floor.until(lambda: bool(thread.floor.tools.ran("restart")), 30)
    await thread.slack.say(ALICE, f"{{{{tool restart {json.dumps(args)}}}}}", OPS, root, mention=False)


async def unknown(thread: Thread, card: Json) -> Json:
    """Have the call approved and end as nobody knows; return its card, which asks people."""
    thread.floor.tools["restart"].effect = vanish
    await thread.slack.click(BOB, OPS, card, "approval_approve")
    asking = await shows(thread, card, "approval_run_again")
    thread.floor.tools["restart"].effect = None
    return asking


async def shows(thread: Thread, card: Json, action: str, *, gone: bool = False) -> Json:
    """The card once this can be pressed on it, or can't be any more."""

    def now() -> Json | None:
        found = thread.slack.find(OPS, card["ts"])
        return found if found is not None and (action in thread.slack.buttons(found)) != gone else None

    return deepcopy(await thread.slack.until(now, 30, what=f"The card with{'out' if gone else ''} {action}"))


async def asks_again(thread: Thread, card: Json) -> None:
    """Wait for a card that asks in the thread of this one."""

    def asking() -> bool:
        said = thread.slack.bot_says(OPS, card["thread_ts"])
        return any("approval_approve" in thread.slack.buttons(message) for message in said)

    await thread.slack.until(asking, 30, what="A card that asks")


async def of(thread: Thread, card: Json) -> Approval:
    (value,) = {b["value"] for a, b in thread.slack.buttons(card).items() if a == "approval_run_again"}
    return await thread.floor.service.read_approval(value, by=ADMIN)


async def rule(thread: Thread, **terms: Any) -> None:
    tool_id = thread.floor.tools["restart"].spec.tool_id
    asks = Rule(auto_execute=False, approval_required=True, **terms)
    await thread.floor.service.set_tool_approval(tool_id, asks, by=ADMIN)


# Each does what it says ---------------------------------------------------------------------------------------------


async def test_what_was_remembered_runs_without_asking_until_somebody_ends_it_in_slack(
    thread: Thread, card: Json
) -> None:
    view = await choose(thread, BOB, card, REMEMBER)
    await thread.slack.submit(BOB, view, {"time": "28800"})
    assert thread.slack.screen(BOB) is None
    told = await shows(thread, card, "grant_revoke")
    assert "need not be asked for until" in thread.slack.rendered(told)
    await again(thread, card)
    await thread.floor.until(lambda: thread.floor.tools.ran("restart") == ["web", "web"], 30)

    def spared() -> Json | None:
        cards = [m for m in thread.slack.bot_says(OPS, card["thread_ts"]) if "grant_revoke" in thread.slack.buttons(m)]
        return next((m for m in cards if m["ts"] != card["ts"]), None)

    second = await thread.slack.until(spared, 30, what="The card of the spared call")
    assert "Not asked again" in thread.slack.rendered(second)
    await thread.slack.click(CAROL, OPS, second, "grant_revoke")
    await thread.door.errands.drain()
    assert "no such grant" in thread.told(CAROL)
    await thread.slack.click(ALICE, OPS, second, "grant_revoke")
    after = await shows(thread, second, "grant_revoke", gone=True)
    assert "; ended" in thread.slack.rendered(after)
    await again(thread, card)
    await thread.slack.until(
        lambda: any(
            "approval_approve" in thread.slack.buttons(m) for m in thread.slack.bot_says(OPS, card["thread_ts"])
        ),
        30,
        what="A card that asks again",
    )
    assert len(thread.floor.tools.ran("restart")) == 2


async def test_a_vote_is_taken_back_and_the_call_waits(thread: Thread) -> None:
    await rule(thread, quorum=2)
    card = await thread.card(await thread.ask(WEB))
    await thread.slack.click(BOB, OPS, card, "approval_approve")

    def voted() -> Json | None:
        found = thread.slack.find(OPS, card["ts"])
        return found if found and "Take back my vote" in json.dumps(found["blocks"]) else None

    await thread.slack.choose(BOB, OPS, await thread.slack.until(voted, 30, what="The vote"), WITHDRAW)
    await thread.nothing_happened(card)
    entries = (await thread.floor.service.read_audit(by=ADMIN, subject=ids(card)[0])).items
    assert "approval.withdrawn" in [entry.kind for entry in entries]


async def test_people_get_more_time_and_others_decide(thread: Thread, card: Json) -> None:
    before = await thread.read(card)
    await thread.slack.submit(BOB, await choose(thread, BOB, card, TIME), {"time": "604800"})
    assert (await thread.read(card)).expires_at > before.expires_at
    view = await choose(thread, BOB, card, TIME)
    ack = await thread.slack.submit(BOB, view, {"time": "3600"})
    assert ack is not None
    assert "It has time until" in ack.payload["errors"]["time"]
    await thread.slack.submit(BOB, view, {"time": "604800"})
    view = await choose(thread, BOB, card, OTHERS)
    ack = await thread.slack.submit(BOB, view, {"others": "nobody.here"})
    assert ack is not None
    assert "no account named" in ack.payload["errors"]["others"]
    await thread.slack.submit(BOB, view, {"people": [BOB], "others": ""})
    after = await thread.read(card)
    assert after.approvers == (BOB,)
    await thread.nothing_happened(card)


async def test_who_asked_cancels_in_slack(thread: Thread, card: Json) -> None:
    await thread.slack.choose(ALICE, OPS, card, CANCEL)
    after = await shows(thread, card, "approval_approve", gone=True)
    assert "Cancelled by" in thread.slack.rendered(after)
    assert thread.floor.tools.ran("restart") == []


async def test_a_rejection_with_what_to_do_instead_becomes_the_next_turn(thread: Thread, card: Json) -> None:
    view = await thread.open(BOB, card, "approval_reject_reason")
    assert view is not None
    await thread.slack.submit(BOB, view, {"reason": "wrong one", "instead": '{{tool uptime {"service": "db"}}}'})
    await thread.floor.until(lambda: thread.floor.tools.ran("uptime") == ["db"], 30)
    assert thread.floor.tools.ran("restart") == []


async def test_an_unknown_outcome_is_said_and_then_nothing_is_left_to_press(thread: Thread, card: Json) -> None:
    asking = await unknown(thread, card)
    view = await thread.open(BOB, asking, "approval_mark_done")
    assert view is not None
    await thread.slack.submit(BOB, view, {"result": "it is up", "reason": "looked"})
    after = await shows(thread, card, "approval_run_again", gone=True)
    assert "said that it was done" in thread.slack.rendered(after)
    assert (await of(thread, asking)).execution is ExecutionStatus.SUCCEEDED


async def test_an_automatic_call_of_unknown_outcome_has_a_card_to_run_it_again(thread: Thread) -> None:
    tool_id = thread.floor.tools["restart"].spec.tool_id
    auto = Rule(auto_execute=True, approval_required=False)
    await thread.floor.service.set_tool_approval(tool_id, auto, by=ADMIN)
    thread.floor.tools["restart"].effect = vanish
    root = await thread.ask(WEB)

    def asking() -> Json | None:
        said = thread.slack.bot_says(OPS, root)
        return next((m for m in said if "approval_run_again" in thread.slack.buttons(m)), None)

    card = await thread.slack.until(asking, 30, what="The card")
    thread.floor.tools["restart"].effect = None
    await thread.slack.click(BOB, OPS, card, "approval_run_again")
    await shows(thread, card, "approval_run_again", gone=True)
    assert thread.floor.tools.ran("restart") == ["web", "web"]


# Attacks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", [ALICE, CAROL])
async def test_a_call_is_run_again_by_somebody_who_may_not_approve_it(thread: Thread, card: Json, user: str) -> None:
    asking = await unknown(thread, card)
    await thread.slack.click(user, OPS, asking, "approval_run_again")
    for action in ("approval_mark_done", "approval_mark_failed"):
        view = await thread.open(user, asking, action)
        assert view is not None
        await thread.slack.submit(user, view, {"result": "all fine"})
        assert "You may not resolve this" in json.dumps(thread.slack.screen(user))
    await thread.door.errands.drain()
    assert "You may not resolve this" in thread.told(user)
    approval = await of(thread, asking)
    assert (approval.execution, approval.resolutions) == (ExecutionStatus.UNKNOWN, ())
    assert thread.floor.tools.ran("restart") == ["web"]


async def test_run_again_is_pressed_many_times_at_once(thread: Thread, card: Json) -> None:
    asking = await unknown(thread, card)
    await thread.slack.click(BOB, OPS, asking, "approval_run_again", repeat=5)
    await shows(thread, card, "approval_run_again", gone=True)
    await thread.door.errands.drain()
    assert thread.floor.tools.ran("restart") == ["web", "web"]
    assert thread.told(BOB).count("already") == 4
    assert len((await of(thread, asking)).resolutions) == 1


async def test_run_again_names_a_call_of_another_thread(thread: Thread, card: Json) -> None:
    asking = await unknown(thread, card)
    other = await thread.card(await thread.ask({"service": "db"}))
    forged = json.loads(json.dumps(asking))
    forged["thread_ts"] = other["thread_ts"]
    await thread.slack.click(BOB, OPS, forged, "approval_run_again")
    await thread.slack.click(
        BOB, OPS, json.loads(json.dumps(asking).replace("approval:", "approval:0")), "approval_run_again"
    )
    await thread.door.errands.drain()
    assert (await of(thread, asking)).resolutions == ()
    assert "no such approval" in thread.told(BOB)
    assert "changed since you saw them" in thread.told(BOB)


@pytest.mark.parametrize("forged", ["another approval", "another digest", "another thread", "no thread"])
@pytest.mark.parametrize("label", [REMEMBER, TIME, OTHERS])
async def test_a_form_is_sent_for_what_it_was_not_opened_on(thread: Thread, label: str, forged: str) -> None:
    mine, other = [await thread.card(await thread.ask({"service": name})) for name in ("web", "db")]
    before = [await thread.read(mine), await thread.read(other)]
    view = await choose(thread, BOB, mine, label)
    approval_id, digest, session_id = view["private_metadata"].split()
    stolen = before[1]
    metadata = {
        "another approval": f"{stolen.approval_id} {digest} {session_id}",
        "another digest": f"{approval_id} {stolen.args_digest} {session_id}",
        "another thread": f"{approval_id} {digest} {stolen.session_id}",
        "no thread": f"{approval_id} {digest}",
    }[forged]
    values = {REMEMBER: {}, TIME: {"time": "604800"}, OTHERS: {"people": [BOB]}}[label]
    await thread.slack.submit(BOB, view, values, forged={"private_metadata": metadata})
    await thread.nothing_happened(mine, other)
    assert "Not done" in json.dumps(thread.slack.screen(BOB))
    assert [await thread.read(mine), await thread.read(other)] == before
    assert (await thread.floor.service.list_grants(by=ADMIN)).items == []


async def test_an_approver_widens_a_grant_by_a_field_that_their_form_does_not_have(thread: Thread, card: Json) -> None:
    view = await choose(thread, BOB, card, REMEMBER)
    state = {
        "scope": {"value": {"type": "radio_buttons", "selected_option": {"value": "thread"}}},
        "time": {"value": {"type": "radio_buttons", "selected_option": {"value": "3600"}}},
        "rule": {"value": {"type": "plain_text_input", "value": json.dumps(ANY)}},
    }
    await thread.slack.submit(BOB, view, forged={"state": {"values": state}})
    (grant,) = (await thread.floor.service.list_grants(by=ADMIN)).items
    assert grant.args_schema["allOf"][0]["properties"] == {"service": {"const": "web"}}
    await again(thread, card, {"service": "database"})
    await thread.slack.until(
        lambda: any(
            "approval_approve" in thread.slack.buttons(m) for m in thread.slack.bot_says(OPS, card["thread_ts"])
        ),
        30,
        what="A card that asks",
    )
    assert thread.floor.tools.ran("restart") == ["web"]


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [("scope", "me", "asked for yourself"), ("time", "999999", "seconds is the most"), ("scope", "all", "not belong")],
)
async def test_a_grant_is_wished_for_that_the_form_does_not_offer(
    thread: Thread, card: Json, field: str, value: str, why: str
) -> None:
    view = await choose(thread, BOB, card, REMEMBER)
    chosen = {"scope": "thread", "time": "3600", field: value}
    state = {name: {"value": {"selected_option": {"value": one}}} for name, one in chosen.items()}
    ack = await thread.slack.submit(BOB, view, forged={"state": {"values": state}})
    assert ack is not None
    assert why in json.dumps(ack.payload)
    await thread.nothing_happened(card)
    assert (await thread.floor.service.list_grants(by=ADMIN)).items == []


@pytest.mark.parametrize("label", [REMEMBER, TIME, OTHERS])
async def test_somebody_without_standing_sends_a_form(thread: Thread, card: Json, label: str) -> None:
    before = await thread.read(card)
    view = await choose(thread, CAROL, card, label)
    values = {REMEMBER: {}, TIME: {"time": "604800"}, OTHERS: {"people": [CAROL]}}[label]
    await thread.slack.submit(CAROL, view, values)
    assert "You may not" in json.dumps(thread.slack.screen(CAROL))
    assert await thread.read(card) == before


async def test_somebody_elses_request_is_cancelled_and_somebody_elses_vote_taken_back(
    thread: Thread, card: Json
) -> None:
    await thread.slack.choose(CAROL, OPS, card, CANCEL)
    menu = thread.slack.buttons(card)["approval_more"]
    option = {**menu["options"][0], "value": f"approval_withdraw {ids(card)[0]}"}
    await thread.slack.click(CAROL, OPS, card, "approval_more", selected_option=option)
    await thread.nothing_happened(card)
    assert "may cancel this" in thread.told(CAROL)
    assert "no vote" in thread.told(CAROL)


async def test_a_grant_is_ended_by_a_button_that_names_another_card(thread: Thread, card: Json) -> None:
    approval = await thread.read(card)
    wish = Remember(Scope.THREAD, 3600)
    await thread.floor.service.decide_approval(approval.approval_id, Decision.APPROVE, by=ADMIN, remember=wish)
    mine = await shows(thread, card, "grant_revoke")
    other = await thread.card(await thread.ask({"service": "db"}))
    forged = json.loads(json.dumps(mine).replace(f"grant:{approval.approval_id}", f"grant:{ids(other)[0]}"))
    await thread.slack.click(ALICE, OPS, forged, "grant_revoke")
    await thread.slack.click(ALICE, OPS, {**mine, "thread_ts": other["thread_ts"]}, "grant_revoke")
    await thread.door.errands.drain()
    (grant,) = (await thread.floor.service.list_grants(by=ADMIN)).items
    assert grant.revoked_at is None
    assert thread.told(ALICE).count("no such grant") == 2
    events = await thread.floor.service.read_events(approval.session_id, by=ADMIN)
    assert EventKind.GRANT_REVOKED not in [event.kind for event in events]
