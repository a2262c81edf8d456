"""Events become messages in the thread: each once, in order, whatever fails between."""

import asyncio
import contextlib
import json
from datetime import timedelta
from uuid import uuid4

import pytest

from agent.approvals.types import Action, ApprovalStatus, Approver, Decision, ExecutionStatus, Resolution, Vote
from agent.types import EventKind, Person
from bot.check import NEEDED_SCOPES
from bot.client import web_client
from bot.errands import Errands
from bot.presenter import Presenter
from bot.status import ThreadStatus
from tests.fakes.block_kit import check_blocks
from tests.fakes.service import NOW
from tests.fakes.slack import ALICE, BOB, BOT_USER, OPS


class Stage:
    """A thread in the fake Slack, its session, and a presenter at work."""

    def __init__(self, slack, service):
        self.slack, self.service, self.errands = slack, service, Errands()
        self.root = ""
        self.session = None
        self.presenter = None

    async def begin(self):
        self.root = (await self.slack.say(ALICE, "restart web"))["ts"]
        self.session = self.service.session(OPS, self.root)
        self.start()

    def start(self):
        client = web_client(self.slack.bot_token, self.slack.api_url)
        self.presenter = asyncio.create_task(Presenter(self.service, client, self.errands).run())

    async def stop(self):
        if self.presenter is not None:
            self.presenter.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.presenter
        self.presenter = None
        await self.errands.drain()

    def tell(self, kind, **data):
        return self.service.append(self.session, kind, turn_id="t1", **data)

    def open(self, **changes):
        return self.service.open(self.session, **changes)

    async def delivered(self):
        await self.slack.until(lambda: self.service.delivered(self.session), what="The delivery")

    @property
    def said(self):
        return self.slack.bot_says(OPS, self.root)

    @property
    def read(self):
        return [self.slack.rendered(m) for m in self.said]


@pytest.fixture
async def stage(slack, service):
    made = Stage(slack, service)
    await made.begin()
    yield made
    await made.stop()


async def test_an_answer_stands_in_the_thread_of_its_message(stage):
    stage.tell(EventKind.TURN_STARTED)
    stage.tell(EventKind.ANSWER_DELTA, text="All ")
    stage.tell(EventKind.TURN_COMPLETED, reply="All **good**, <!channel>.")
    await stage.delivered()
    (message,) = stage.said
    assert stage.read == ["All **good**, <!channel>."]
    assert stage.slack.pings(message) == []
    (call,) = stage.slack.called("chat.postMessage")
    assert (call.args["unfurl_links"], call.args["unfurl_media"]) == (False, False)


async def test_a_long_answer_is_several_messages_in_order(stage):
    lines = [f"line {i} " + "x" * 80 for i in range(600)]
    stage.tell(EventKind.TURN_COMPLETED, reply="\n".join(lines))
    await stage.delivered()
    read = "\n".join(stage.read)
    assert len(stage.said) > 3
    assert [line for line in lines if line in read] == lines
    assert [read.index(line) for line in lines] == sorted(read.index(line) for line in lines)
    assert stage.slack.refused == []


@pytest.mark.parametrize(
    ("kind", "data", "sentence"),
    [
        (
            EventKind.TURN_FAILED,
            {"error": "The model did not answer: try again."},
            "The model did not answer: try again.",
        ),
        (EventKind.TURN_CANCELLED, {}, "Stopped."),
        (EventKind.TURN_QUEUED, {"waits": True}, "I'll get to this once the pending approval is decided."),
    ],
)
async def test_other_ends_are_one_sentence(stage, kind, data, sentence):
    stage.tell(kind, **data)
    await stage.delivered()
    assert stage.read == [sentence]


async def test_a_message_that_does_not_wait_and_a_tool_call_are_not_announced(stage):
    stage.tell(EventKind.TURN_QUEUED, waits=False)
    stage.tell(EventKind.TOOL_CALLED, tool_call_id="c", tool_name="uptime", args={})
    stage.tell(EventKind.EXECUTION_STARTED, tool_call_id="c", tool_name="uptime", approval_id=None)
    await stage.delivered()
    assert stage.said == []


async def test_a_card_says_all_that_an_approver_needs(stage):
    approval = stage.open(
        args={"service": "web", "reason": "leak of 42 MB/h"}, requested_reason="on-call asked", quorum=2, four_eyes=True
    )
    await stage.delivered()
    (card,) = stage.said
    shown = stage.slack.rendered(card)
    for part in ("restart", ALICE, "service", '"web"', "leak of 42 MB/h", "on-call asked", "0123456789ab", "0 of 2"):
        assert part in shown
    buttons = stage.slack.buttons(card)
    assert "approval_more" in buttons
    assert {a: b["value"] for a, b in buttons.items() if "value" in b} == dict.fromkeys(
        ("approval_approve", "approval_edit", "approval_reject", "approval_reject_reason"), str(approval.approval_id)
    )
    assert (buttons["approval_approve"]["style"], buttons["approval_reject"]["style"]) == ("primary", "danger")


async def test_a_settled_card_loses_its_buttons_and_tells_who_and_how_it_ended(stage):
    approval = stage.open()
    await stage.delivered()
    bob = Person(approval.approval_id, "bob", None, BOB)
    decided = {"decided_by": bob, "decided_at": NOW, "reason": "looks right"}
    stage.service.change(approval.approval_id, status=ApprovalStatus.APPROVED, **decided)
    done = {"execution": ExecutionStatus.SUCCEEDED, "result": "restarted web\n<!here>"}
    stage.service.change(approval.approval_id, EventKind.EXECUTION_FINISHED, **done)
    await stage.delivered()
    (card,) = stage.said
    shown = stage.slack.rendered(card)
    assert stage.slack.buttons(card) == {}
    for part in ("Approved", f"<@{BOB}>", "looks right", "Done.", "restarted web", "<!here>"):
        assert part in shown
    assert all("channel" not in p and "here" not in p for p in stage.slack.pings(card))


async def test_several_changes_of_one_card_in_a_batch_are_drawn_once(stage):
    approval = stage.open()
    await stage.delivered()
    await stage.stop()
    bob = Person(approval.approval_id, "bob", None, BOB)
    stage.service.change(approval.approval_id, status=ApprovalStatus.APPROVED, decided_by=bob, decided_at=NOW)
    stage.service.change(approval.approval_id, EventKind.EXECUTION_STARTED, execution=ExecutionStatus.RUNNING)
    stage.service.change(approval.approval_id, EventKind.EXECUTION_FINISHED, execution=ExecutionStatus.SUCCEEDED)
    stage.start()
    await stage.delivered()
    assert len(stage.slack.called("chat.update")) == 1
    assert "Done." in stage.read[0]


async def test_a_decision_and_the_call_that_follows_it_are_drawn_once(stage, mocker):
    mocker.patch("bot.presenter.SEQUEL_S", 1.0)
    approval = stage.open()
    await stage.delivered()
    bob = Person(approval.approval_id, "bob", None, BOB)
    stage.service.change(approval.approval_id, status=ApprovalStatus.APPROVED, decided_by=bob, decided_at=NOW)
    await asyncio.sleep(0.3)  # the presenter has read of it by now
    stage.service.change(approval.approval_id, EventKind.EXECUTION_FINISHED, execution=ExecutionStatus.SUCCEEDED)
    await stage.delivered()
    assert len(stage.slack.called("chat.update")) == 1
    assert "Done." in stage.read[0]


async def test_a_card_that_reads_the_same_is_left_alone(stage):
    approval = stage.open()
    await stage.delivered()
    stage.service.change(approval.approval_id)
    await stage.delivered()
    assert stage.slack.called("chat.update") == []


async def test_a_decision_made_before_the_card_was_posted_is_on_it_from_the_start(stage):
    await stage.stop()
    approval = stage.open()
    stage.service.change(approval.approval_id, status=ApprovalStatus.REJECTED)
    stage.start()
    await stage.delivered()
    assert len(stage.said) == 1
    assert stage.slack.buttons(stage.said[0]) == {}
    assert stage.slack.called("chat.update") == []


async def test_votes_short_of_the_quorum_are_shown_with_the_buttons(stage):
    approval = stage.open(quorum=2)
    await stage.delivered()
    vote = Vote(Person(approval.approval_id, "bob", None, BOB), Decision.APPROVE, "fine", approval.args_digest, NOW)
    stage.service.change(approval.approval_id, votes=(vote,))
    await stage.delivered()
    assert "1 of 2 approvals" in stage.read[0]
    assert f"<@{BOB}> approved" in stage.read[0]
    assert "approval_approve" in stage.slack.buttons(stage.said[0])


async def test_a_pending_card_that_was_deleted_is_posted_again(stage):
    approval = stage.open(quorum=2)
    await stage.delivered()
    await stage.slack.unsay(BOT_USER, OPS, stage.said[0]["ts"])
    stage.service.change(approval.approval_id, expires_at=NOW + timedelta(hours=2))
    await stage.delivered()
    (card,) = stage.said
    assert "approval_approve" in stage.slack.buttons(card)
    stage.service.change(approval.approval_id, status=ApprovalStatus.CANCELLED)
    await stage.delivered()
    assert stage.slack.buttons(stage.said[0]) == {}


async def test_a_settled_card_that_was_deleted_stays_deleted(stage):
    approval = stage.open()
    await stage.delivered()
    await stage.slack.unsay(BOT_USER, OPS, stage.said[0]["ts"])
    stage.service.change(approval.approval_id, status=ApprovalStatus.EXPIRED)
    await stage.delivered()
    assert stage.said == []


async def test_a_post_whose_answer_was_lost_is_not_made_twice(stage):
    stage.slack.drop_response_after["chat.postMessage"] = 1
    stage.tell(EventKind.TURN_COMPLETED, reply="once")
    await stage.delivered()
    assert stage.read == ["once"]
    assert len(stage.slack.called("chat.postMessage")) == 1


async def test_a_post_that_slack_failed_is_made_after_a_look(stage):
    stage.slack.down["chat.postMessage"] = 2
    stage.tell(EventKind.TURN_COMPLETED, reply="at last")
    await stage.delivered()
    assert stage.read == ["at last"]


async def test_a_long_outage_of_slack_loses_nothing(stage):
    stage.slack.down["chat.postMessage"] = 7
    stage.tell(EventKind.TURN_COMPLETED, reply="after the outage")
    await stage.slack.until(lambda: stage.service.delivered(stage.session), 20)
    assert stage.read == ["after the outage"]
    assert stage.service.sessions[stage.session].postponed is not None


async def test_rate_limits_are_waited_out(stage):
    stage.slack.throttle["chat.postMessage"] = [0, 0]
    stage.tell(EventKind.TURN_COMPLETED, reply="patience")
    await stage.delivered()
    assert stage.read == ["patience"]
    assert stage.service.sessions[stage.session].postponed is None


async def test_a_crash_between_post_and_record_does_not_post_twice(stage):
    stage.service.crash_before_record.add("answer:t1:0")
    stage.tell(EventKind.TURN_COMPLETED, reply="once")
    await stage.delivered()
    assert stage.read == ["once"]
    assert len(stage.slack.called("conversations.replies")) == 1


async def test_a_card_found_after_a_crash_is_brought_up_to_date(stage):
    await stage.stop()
    approval = stage.open()
    stage.service.crash_before_record.add(f"approval:{approval.approval_id}")
    original = stage.service.retry_delivery

    async def settled_meanwhile(*args, **kwargs):
        stage.service.change(approval.approval_id, status=ApprovalStatus.REJECTED)
        await original(*args, **kwargs)

    stage.service.retry_delivery = settled_meanwhile
    stage.start()
    await stage.delivered()
    (card,) = stage.said
    assert stage.slack.buttons(card) == {}


@pytest.mark.parametrize("trouble", ["not_in_channel", "is_archived"])
async def test_a_place_that_is_gone_does_not_hold_up_the_cursor(stage, trouble):
    if trouble == "is_archived":
        stage.slack.channels[OPS]["is_archived"] = True
    else:
        stage.slack.channels[OPS]["members"].discard(BOT_USER)
    stage.tell(EventKind.TURN_COMPLETED, reply="to nobody")
    await stage.delivered()
    assert stage.said == []


async def test_an_answer_that_slack_refuses_as_blocks_is_posted_as_plain_text(stage, mocker):
    real = stage.slack._content

    def no_markdown(args, limit):
        if any(b["type"] == "markdown" for b in args.get("blocks") or []):
            raise SlackError("invalid_blocks")
        return real(args, limit)

    from tests.fakes.slack_workspace import SlackError

    mocker.patch.object(stage.slack, "_content", no_markdown)
    stage.tell(EventKind.TURN_COMPLETED, reply="word " * 1500)
    await stage.delivered()
    assert "".join(stage.read).count("word") == 1500


async def test_the_threads_status_follows_the_turn(stage):
    stage.tell(EventKind.TURN_STARTED)
    await stage.slack.until(lambda: stage.slack.agent_sessions)
    stage.tell(EventKind.TURN_WAITING, approval_ids=[])
    await stage.slack.until(lambda: stage.slack.agent_sessions[OPS, stage.root]["status"] == "suspended")
    stage.tell(EventKind.APPROVAL_CHANGED, status="pending")
    stage.tell(EventKind.APPROVAL_CHANGED, status="rejected")
    await stage.slack.until(lambda: stage.slack.agent_sessions[OPS, stage.root]["status"] == "processing")
    stage.tell(EventKind.TURN_COMPLETED, reply="done")
    await stage.slack.until(lambda: stage.slack.agent_sessions[OPS, stage.root]["status"] == "active")


async def test_a_word_on_a_call_of_unknown_outcome_sets_nothing_to_work(stage, mocker):
    told = mocker.spy(ThreadStatus, "show")
    stage.tell(EventKind.APPROVAL_CHANGED, status="approved", resolution_id="1")
    await stage.delivered()
    assert told.call_count == 0
    stage.tell(EventKind.APPROVAL_CHANGED, status="approved")
    await stage.delivered()
    assert told.call_count == 1


async def test_a_status_that_fails_delays_and_loses_nothing(stage):
    stage.slack.scopes = set(NEEDED_SCOPES)
    stage.slack.down["agents.sessions.setStatus"] = 100
    stage.tell(EventKind.TURN_STARTED)
    stage.tell(EventKind.TURN_COMPLETED, reply="done")
    await stage.delivered()
    assert stage.read == ["done"]


async def test_news_that_no_notice_told_of_is_found_at_the_start(stage):
    await stage.stop()
    stage.service.append(stage.session, EventKind.TURN_COMPLETED, quietly=True, turn_id="t1", reply="found")
    stage.start()
    await stage.delivered()
    assert stage.read == ["found"]


async def test_a_history_cleared_before_it_was_shown_is_let_be(stage):
    await stage.stop()
    stage.tell(EventKind.TURN_COMPLETED, reply="gone")
    stage.service.clear(stage.session)
    stage.start()
    await stage.slack.until(lambda: stage.service.sessions[stage.session].postponed == 60.0)
    assert stage.said == []
    stage.tell(EventKind.TURN_COMPLETED, reply="new")
    await stage.delivered()
    assert stage.read == ["new"]


async def test_many_threads_are_all_delivered(stage):
    roots = [(await stage.slack.say(ALICE, f"thread {i}"))["ts"] for i in range(45)]
    for root in roots:
        session = stage.service.session(OPS, root)
        stage.service.append(session, EventKind.TURN_COMPLETED, turn_id=root, reply=f"answer in {root}")
    await stage.slack.until(lambda: all(stage.slack.bot_says(OPS, r) for r in roots), 20)
    assert all(len(stage.slack.bot_says(OPS, r)) == 1 for r in roots)


async def test_a_presenter_that_stops_hands_back_what_it_could_not_finish(stage, mocker):
    mocker.patch("bot.presenter.GRACE_S", 0.05)
    stage.slack.slow["chat.postMessage"] = 30
    stage.tell(EventKind.TURN_COMPLETED, reply="later")
    await stage.slack.until(lambda: stage.slack.called("chat.postMessage"))
    await stage.stop()
    session = stage.service.sessions[stage.session]
    assert (session.owner, session.delivered_seq) == (None, 0)
    assert session.postponed == 0.0


async def test_a_presenter_that_lost_its_lease_stops_posting(stage, mocker):
    mocker.patch("bot.presenter.RENEW_S", 0.01)
    stage.service.renewable = False
    stage.slack.slow["chat.postMessage"] = 0.5
    for i in range(3):
        stage.service.append(
            stage.session, EventKind.TURN_COMPLETED, quietly=i < 2, turn_id=f"t{i}", reply=f"answer {i}"
        )
    await stage.slack.until(lambda: stage.service.sessions[stage.session].postponed == 0.0)
    assert stage.said == []


LARGE = {"script": "echo one; " * 2000, "target": "web"}


async def test_approve_is_not_offered_where_the_arguments_do_not_fit(stage):
    stage.open(args=LARGE)
    await stage.delivered()
    (card,) = stage.said
    assert "approval_arguments" in stage.slack.buttons(card)
    assert "approval_approve" not in stage.slack.buttons(card)
    assert check_blocks(card["blocks"]) == []


async def test_arguments_too_large_for_slack_come_as_a_file_and_are_decided_elsewhere(stage):
    args = {"script": "echo one; " * 40_000}
    stage.open(args=args)
    await stage.delivered()
    card, file = stage.said
    assert set(stage.slack.buttons(card)) == {"approval_reject", "approval_reject_reason", "approval_more"}
    assert "over REST" in stage.slack.rendered(card)
    (upload,) = stage.slack.uploads.values()
    assert json.dumps(args["script"]) in upload.content.decode()
    assert file["files"][0]["id"] == upload.file_id


CARLA = {"kind": "user", "id": "U0CAROL", "name": "Carol", "chat": "U0CAROL"}
OPS_GROUP = {"kind": "group", "id": "S0OPS", "name": "S0OPS", "chat": "S0OPS"}
HOSTILE = {"kind": "user", "id": "<!channel>", "name": "<!channel> <@U0ALICE>", "chat": None}


def mentioned(stage, message):
    return {ping for ping in stage.slack.pings(message) if not ping.startswith("<!date^")}


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (EventKind.APPROVAL_REMINDED, "still waits for your decision"),
        (EventKind.APPROVAL_ESCALATED, "so you are asked now"),
    ],
)
async def test_those_who_are_waited_for_are_mentioned_and_nobody_else(stage, kind, words):
    approval = stage.open(tool_name="restart <!here>")
    stage.tell(kind, approval_id=str(approval.approval_id), to=[CARLA, OPS_GROUP, HOSTILE])
    await stage.delivered()
    _, message = stage.said
    assert words in stage.slack.rendered(message)
    assert mentioned(stage, message) == {"<!subteam^S0OPS>", "<@U0CAROL>"}


@pytest.mark.parametrize("chat", ["U0CAROL|<!channel>", "channel", "!here", "C0OPS", "u0carol"])
async def test_what_is_no_id_of_slacks_is_never_mentioned(stage, chat):
    approval = stage.open()
    stage.tell(
        EventKind.APPROVAL_REMINDED, approval_id=str(approval.approval_id), to=[{**CARLA, "chat": chat}, OPS_GROUP]
    )
    await stage.delivered()
    assert mentioned(stage, stage.said[1]) == {"<!subteam^S0OPS>"}


async def test_nobody_is_reminded_of_what_was_decided_meanwhile(stage):
    approval = stage.open()
    stage.service.change(approval.approval_id, status=ApprovalStatus.REJECTED, decided_at=NOW)
    stage.tell(EventKind.APPROVAL_REMINDED, approval_id=str(approval.approval_id), to=[CARLA])
    await stage.delivered()
    assert len(stage.said) == 1


async def test_a_card_names_who_can_decide_without_calling_them(stage):
    stage.open(
        deciders=(
            Approver("user", "U0CAROL", "Carol <!channel>", "U0CAROL"),
            Approver("role", "role:approver", "everyone with the role approver"),
        )
    )
    await stage.delivered()
    (card,) = stage.said
    assert "Can be decided by: Carol <!channel>, everyone with the role approver" in stage.slack.rendered(card)
    assert mentioned(stage, card) == {f"<@{ALICE}>"}


async def test_what_a_person_found_out_stands_on_the_card_and_in_the_thread(stage):
    word = Resolution(uuid4(), Person(uuid4(), "bob", None, "U0BOB"), Action.DONE, "looked <!here>", NOW)
    approval = stage.open(
        status=ApprovalStatus.APPROVED,
        execution=ExecutionStatus.SUCCEEDED,
        result="it is up <!channel>",
        decided_at=NOW,
        resolutions=(word,),
    )
    stage.tell(
        EventKind.APPROVAL_RESOLVED,
        approval_id=str(approval.approval_id),
        resolution_id=str(word.resolution_id),
        action="done",
    )
    await stage.delivered()
    for message in stage.said:
        shown = stage.slack.rendered(message)
        assert "said that it was done" in shown
        assert "it is up" in shown
        assert mentioned(stage, message) - {f"<@{ALICE}>"} == {"<@U0BOB>"}


async def test_a_cancelled_card_says_by_whom(stage):
    alice = Person(uuid4(), "alice", "Alice", ALICE)
    stage.open(status=ApprovalStatus.CANCELLED, decided_by=alice, decided_at=NOW, reason="no need")
    await stage.delivered()
    (card,) = stage.read
    assert f"Cancelled by <@{ALICE}>" in card
    assert "no need" in card


async def test_what_comes_instead_of_a_rejected_call_is_read_in_the_thread(stage):
    stage.tell(
        EventKind.TURN_QUEUED,
        text="look at the logs <!channel>",
        by={"user_id": str(uuid4()), "username": "bob"},
        chat="U0BOB",
        waits=False,
        instead_of=str(uuid4()),
    )
    await stage.delivered()
    (message,) = stage.said
    assert "wants this instead" in stage.slack.rendered(message)
    assert mentioned(stage, message) == {"<@U0BOB>"}


async def test_what_a_card_looked_like_while_it_asked_is_noted_once_for_each_look(stage):
    made = stage.open()
    await stage.delivered()
    stage.service.change(made.approval_id)
    await stage.delivered()
    vote = Vote(Person(made.requested_by.user_id, "bob", None, BOB), Decision.APPROVE, None, made.args_digest, NOW)
    stage.service.change(made.approval_id, votes=(vote,), quorum=2)
    await stage.delivered()
    stage.service.change(made.approval_id, status=ApprovalStatus.APPROVED)
    await stage.delivered()
    assert [seen[:3] for seen in stage.service.shown] == [(made.approval_id, "card", made.args_digest)] * 2
    assert len({seen[3] for seen in stage.service.shown}) == 2


async def test_a_file_of_arguments_is_noted_as_what_was_shown(stage):
    made = stage.open(args={f"key {n}": "x" * 2_000 for n in range(100)})
    await stage.delivered()
    assert {seen[1] for seen in stage.service.shown} == {"card", "file"}
    assert {seen[0] for seen in stage.service.shown} == {made.approval_id}
