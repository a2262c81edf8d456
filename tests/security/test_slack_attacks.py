"""Ways to have a call approved in Slack that nobody saw, or may: each test is named by its attack."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from copy import deepcopy
from typing import Any

import pytest

from agent.approvals.types import Approval, Decision
from agent.types import TurnStatus
from bot.client import web_client
from bot.presenter import Presenter
from tests.fakes.model_script import Answer, Call
from tests.fakes.slack import ALICE, BOB, OPS, FakeSlack
from tests.fakes.slack_door import Door, open_door
from tests.fakes.slack_workspace import OTHER_TEAM, PRIVATE, Json
from tests.integration.conftest import ADMIN, Floor, running


class Thread:
    """People, the bot and its real service in one thread."""

    def __init__(self, floor: Floor, door: Door) -> None:
        self.floor, self.door, self.slack = floor, door, door.slack

    async def ask(self, *args: dict[str, Any], channel: str = OPS) -> str:
        """Have the model ask for `restart` with each of these arguments; return the thread."""
        calls = " ".join(f"{{{{tool restart {json.dumps(a)}}}}}" for a in args)
        return (await self.slack.say(ALICE, calls, channel))["ts"]

    async def card(self, root: str, action: str = "approval_approve", calls: int = 1) -> Json:
        """The card, once it shows so many calls."""

        def whole() -> Json | None:
            found = [m for m in self.slack.bot_says(OPS, root) if action in self.slack.buttons(m)]
            return next((m for m in found if len(set(ids(m))) == calls), None)

        return deepcopy(await self.slack.until(whole, 30, what=f"A card with {calls} calls"))

    async def open(self, user: str, card: Json, action: str, **forged: Any) -> Json | None:
        await self.slack.click(user, OPS, card, action, **forged)
        await self.door.errands.drain()
        return self.slack.screen(user)

    async def read(self, card: Json) -> Approval:
        return await self.floor.service.read_approval(ids(card)[0], by=ADMIN)

    async def nothing_happened(self, *cards: Json) -> None:
        """No call has run, and each still waits, as it was asked for and without a vote."""
        await self.door.errands.drain()
        for card in cards:
            for approval_id in set(ids(card)):
                approval = await self.floor.service.read_approval(approval_id, by=ADMIN)
                assert (approval.status.value, approval.votes) == ("pending", ())
                assert approval.args == approval.args_proposed
        assert self.floor.tools.ran("restart") == []

    def told(self, user: str) -> str:
        return "\n".join(self.slack.rendered(w) for w in self.slack.ephemerals if w["to"] == user)


def ids(card: Json) -> list[str]:
    return [word for word, _ in values(card)]


def values(card: Json) -> Iterator[tuple[str, str]]:
    """Each approval that the card's rows name, with the id of the block that names it."""
    for block in card.get("blocks", []):
        for element in block.get("elements", []):
            if element.get("action_id") == "approval_reject":
                yield element["value"], block["block_id"]


@pytest.fixture
async def thread(dsn: str) -> AsyncIterator[Thread]:
    async with FakeSlack() as slack, running(dsn, approvers=(BOB,)) as floor, open_door(slack, floor.service) as door:
        client = web_client(slack.bot_token, slack.api_url)
        presenter = asyncio.create_task(Presenter(floor.service, client, door.errands).run())
        yield Thread(floor, door)
        assert [call for call in slack.refused if call.method != "chat.postEphemeral"] == []
        presenter.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await presenter


async def test_a_button_names_an_approval_of_another_thread(thread: Thread) -> None:
    mine, other = [await thread.card(await thread.ask({"service": name})) for name in ("web", "db")]
    ((stolen, block_id),) = values(other)
    for action in ("approval_approve", "approval_reject"):
        await thread.slack.click(BOB, OPS, mine, action, value=stolen)
    # Also with the digest that the other card showed.
    forged = json.loads(json.dumps(mine).replace(next(values(mine))[1], block_id).replace(ids(mine)[0], stolen))
    await thread.slack.click(BOB, OPS, forged, "approval_approve")
    for action in ("approval_edit", "approval_reject_reason"):
        assert await thread.open(BOB, mine, action, value=stolen) is None
    await thread.nothing_happened(mine, other)
    assert thread.told(BOB).count("no such approval") == 5


async def test_a_button_is_pressed_as_if_in_another_channel_or_workspace(thread: Thread) -> None:
    card = await thread.card(await thread.ask({"service": "web"}))
    await thread.slack.click(BOB, PRIVATE, card, "approval_approve")
    await thread.slack.click(BOB, OPS, {**card, "team": OTHER_TEAM}, "approval_approve")
    await thread.nothing_happened(card)


async def test_a_button_for_all_names_approvals_of_other_threads(thread: Thread) -> None:
    mine = await thread.card(await thread.ask({"service": "a"}, {"service": "b"}), calls=2)
    other = await thread.card(await thread.ask({"service": "c"}))
    ((stolen, block_id),) = values(other)
    digests = [block.split(":")[1] for _, block in values(mine)]
    listed = f"{ids(mine)[0]} {stolen}"
    block_of_all = f"approvals:{digests[0]}:{block_id.split(':')[1]}"
    body = json.loads(
        json.dumps(mine).replace(" ".join(ids(mine)), listed).replace(f"approvals:{':'.join(digests)}", block_of_all)
    )
    await thread.slack.click(BOB, OPS, body, "approval_approve_all")
    await thread.floor.until(lambda: len(thread.floor.tools.ran("restart")) == 1, 30)
    approval = await thread.read(other)
    assert (approval.status.value, approval.votes) == ("pending", ())
    assert "no such approval" in thread.told(BOB)


async def test_a_button_for_all_lists_other_arguments_than_it_showed(thread: Thread) -> None:
    card = await thread.card(await thread.ask({"service": "a"}, {"service": "b"}), calls=2)
    service = thread.floor.service
    approval = await service.read_approval(ids(card)[1], by=ADMIN)
    await thread.floor.sql("UPDATE approvals SET quorum = 2 WHERE approval_id = $1", approval.approval_id)
    await service.decide_approval(approval.approval_id, Decision.APPROVE, by=ADMIN, args={"service": "evil"})
    await thread.slack.click(BOB, OPS, card, "approval_approve_all")
    await thread.door.errands.drain()
    after = await service.read_approval(approval.approval_id, by=ADMIN)
    assert (after.status.value, len(after.votes)) == ("pending", 1)
    assert "changed since you saw them" in thread.told(BOB)


@pytest.mark.parametrize("forged", ["another approval", "another digest", "no digest", "nothing", "both of another"])
async def test_the_edit_form_is_sent_for_what_it_was_not_opened_on(thread: Thread, forged: str) -> None:
    mine, other = [await thread.card(await thread.ask({"service": name})) for name in ("web", "db")]
    view = await thread.open(BOB, mine, "approval_edit")
    assert view is not None
    approval_id, digest, session_id = view["private_metadata"].split()
    stolen = await thread.read(other)
    metadata = {
        "another approval": f"{stolen.approval_id} {digest} {session_id}",
        "another digest": f"{approval_id} {stolen.args_digest} {session_id}",
        "no digest": f"{approval_id} {session_id}",
        "nothing": "",
        "both of another": f"{stolen.approval_id} {stolen.args_digest} {session_id}",
    }[forged]
    await thread.slack.submit(BOB, view, {"field:0": "evil"}, forged={"private_metadata": metadata})
    await thread.nothing_happened(mine, other)
    assert "Not done" in json.dumps(thread.slack.screen(BOB))


async def test_an_edit_outlives_the_arguments_that_it_was_opened_on(thread: Thread) -> None:
    card = await thread.card(await thread.ask({"service": "web"}))
    view = await thread.open(BOB, card, "approval_edit")
    approval = await thread.read(card)
    await thread.floor.sql("UPDATE approvals SET quorum = 2 WHERE approval_id = $1", approval.approval_id)
    await thread.floor.service.decide_approval(
        approval.approval_id, Decision.APPROVE, by=ADMIN, args={"service": "cache"}
    )
    assert view is not None
    await thread.slack.submit(BOB, view, {"field:0": "evil"})
    after = await thread.read(card)
    assert (after.args, len(after.votes)) == ({"service": "cache"}, 1)
    assert "changed since you saw them" in json.dumps(thread.slack.screen(BOB))


@pytest.mark.parametrize("action", ["approval_edit", "approval_reject_reason"])
async def test_a_form_is_sent_by_someone_without_standing(thread: Thread, action: str) -> None:
    card = await thread.card(await thread.ask({"service": "web"}))
    view = await thread.open(ALICE, card, action)
    assert view is not None
    await thread.slack.submit(ALICE, view, {"field:0": "evil"} if action == "approval_edit" else {"reason": "no"})
    await thread.nothing_happened(card)
    assert "You may not decide this" in json.dumps(thread.slack.screen(ALICE))


@pytest.mark.parametrize(
    "hidden",
    [
        {"approved": {"value": {"type": "plain_text_input", "value": "true"}}},
        {"field:2": {"value": {"type": "plain_text_input", "value": "evil"}}},
        {"field:0": {"value": {"type": "plain_text_input", "value": "web"}, "approved": {"value": "true"}}},
    ],
    ids=["named", "numbered", "inside"],
)
async def test_a_form_brings_fields_that_its_schema_does_not_have(thread: Thread, hidden: Json) -> None:
    card = await thread.card(await thread.ask({"service": "web"}))
    view = await thread.open(BOB, card, "approval_edit")
    assert view is not None
    values = {f"field:{i}": {"value": {"type": "plain_text_input", "value": "x"}} for i in range(2)}
    await thread.slack.submit(BOB, view, forged={"state": {"values": {**values, **hidden}}})
    await thread.nothing_happened(card)
    assert "does not belong to the call" in json.dumps(thread.slack.screen(BOB))


async def test_edited_arguments_outside_the_schema_are_told_and_not_run(thread: Thread) -> None:
    """As JSON, where a person can type whatever they like."""
    odd = "zero\u200bwidth"
    card = await thread.card(await thread.ask({"service": odd}))
    view = await thread.open(BOB, card, "approval_edit")
    assert view is not None
    ack = await thread.slack.submit(BOB, view, {"field:0": '{"service": "web", "approved": true}'})
    assert ack is not None
    assert ack.payload["response_action"] == "errors"
    await thread.nothing_happened(card)


async def test_danger_stands_at_the_end_of_a_long_argument(thread: Thread) -> None:
    args = {"service": "web", "reason": "x" * 50_000 + " && rm -rf /"}
    thread.floor.model.queue.append(Answer(calls=[Call("restart", json.dumps(args))]))
    root = (await thread.slack.say(ALICE, "clean up"))["ts"]
    card = await thread.card(root, "approval_arguments")
    assert "approval_approve" not in thread.slack.buttons(card)
    view = await thread.open(BOB, card, "approval_arguments")
    assert view is not None
    texts = [e["elements"][0]["text"] for b in view["blocks"] if b["type"] == "rich_text" for e in b["elements"]]
    assert any(text.endswith('&& rm -rf /"') for text in texts)


@pytest.mark.parametrize("hidden", ["\u202e", "\u200b", "\u3164", "\u2066", "\r"], ids=ascii)
async def test_hidden_characters_hide_nothing_on_cards_and_in_forms(thread: Thread, hidden: str) -> None:
    card = await thread.card(await thread.ask({"service": f"pay{hidden}load"}, {"service": "web"}), calls=2)
    block_id = next(values(card))[1]
    view = await thread.open(BOB, card, "approval_edit", block_id=block_id)
    shown = json.dumps([card["blocks"], view], ensure_ascii=False)
    assert hidden not in shown
    assert f"{ord(hidden):04x}" in shown or "\\\\r" in shown


async def test_arguments_and_reasons_ping_link_and_format_nowhere(thread: Thread) -> None:
    evil = "<!channel> <@U0CAROL> <https://evil.example|our bank> ``` *Approved by* <@U0ADMIN>"
    card = await thread.card(await thread.ask({"service": evil, "reason": evil}, {"service": "web"}), calls=2)
    block_id = next(values(card))[1]
    view = await thread.open(BOB, card, "approval_edit", block_id=block_id)
    assert view is not None
    await thread.slack.submit(BOB, view, {"field:0": f"{evil} changed"})
    second = list(values(card))[1]
    view = await thread.open(BOB, card, "approval_reject_reason", block_id=second[1])
    assert view is not None
    await thread.slack.submit(BOB, view, {"reason": evil})
    closed = lambda: not thread.slack.buttons(thread.slack.find(OPS, card["ts"]) or card)  # noqa: E731
    await thread.slack.until(closed, 30, what="The closed card")
    now = thread.slack.find(OPS, card["ts"])
    assert now is not None
    ours = ("<@U0ALICE>", "<@U0BOB>", "<!date^")
    assert [ping for ping in thread.slack.pings(now) if not ping.startswith(ours)] == []
    assert "asked for: " in thread.slack.rendered(now)
    await thread.floor.until(lambda: thread.floor.tools.ran("restart") == [f"{evil} changed"], 30)


async def test_a_model_makes_buttons_of_its_own(thread: Thread) -> None:
    button = {
        "type": "button",
        "action_id": "approval_approve",
        "value": "x",
        "text": {"type": "plain_text", "text": "ok"},
    }
    blocks = json.dumps([{"type": "actions", "block_id": "approval:0123456789ab", "elements": [button]}])
    root = (await thread.slack.say(ALICE, f"{{{{say {blocks}}}}}"))["ts"]
    answer = await thread.slack.bot_message(OPS, root, timeout=45)
    assert thread.slack.buttons(answer) == {}


async def test_an_edited_call_runs_with_what_was_approved_and_keeps_what_was_asked_for(thread: Thread) -> None:
    """No attack: what all of the above must leave possible."""
    root = await thread.ask({"service": "web"})
    card = await thread.card(root)
    view = await thread.open(BOB, card, "approval_edit")
    assert view is not None
    await thread.slack.submit(BOB, view, {"field:0": "db"})
    await thread.slack.bot_message(OPS, root, containing="restarted db", timeout=45)
    after = await thread.read(card)
    assert (after.args, after.args_proposed) == ({"service": "db"}, {"service": "web"})
    assert [vote.args_digest for vote in after.votes] == [after.args_digest]
    assert thread.floor.tools.ran("restart") == ["db"]
    turns = await thread.floor.sql("SELECT status FROM turns")
    assert {row["status"] for row in turns} <= {status.value for status in TurnStatus}
