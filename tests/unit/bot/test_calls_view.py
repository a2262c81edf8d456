"""The card of several calls: each readable in full where it is approved, and always within what Slack takes."""

import json
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.approvals.types import ApprovalStatus, Decision, ExecutionStatus, Vote
from agent.types import Person
from bot.payloads import parsed
from bot.views.approval import approval_card
from bot.views.calls import MOST_ROWS, calls_card, fit_together
from tests.fakes.block_kit import check_blocks
from tests.fakes.block_reading import letters, pings, pressables, visible
from tests.fakes.service import NOW, approval

BOB = Person(UUID(int=7), "bob", "Bob", "U0BOB")
LONG = "x" * 3_000
APPROVED = {
    "status": ApprovalStatus.APPROVED,
    "decided_by": BOB,
    "decided_at": NOW,
    "reason": LONG,
    "execution": ExecutionStatus.SUCCEEDED,
    "result": f"{LONG}\n" * 20,
}


def vote(digest, reason=None):
    return Vote(BOB, Decision.APPROVE, reason, digest, NOW)


def actions(card):
    """What can be pressed; of a menu the approval that its options name."""
    return [(block["block_id"], element["action_id"], _value(element)) for block, element in pressables(card.blocks)]


def _value(element):
    if element["type"] != "overflow":
        return element["value"]
    (value,) = {option["value"].split()[1] for option in element["options"]}
    return value


def test_each_call_has_a_row_with_its_own_buttons_and_one_button_is_for_all():
    first, second = approval(args={"service": "web"}), approval(args={"service": "db"}, args_digest="ab" * 32)
    card = calls_card([first, second])
    shown = visible(list(card.blocks))
    for part in ("2 calls, 2 waiting for approval", '"web"', '"db"', "0123456789ab", "abababababab", "<@U0ALICE>"):
        assert part in shown
    pressed = actions(card)
    assert ("approval:0123456789ab:1", "approval_approve", str(first.approval_id)) in pressed
    assert ("approval:abababababab:2", "approval_reject", str(second.approval_id)) in pressed
    assert pressed[-1] == (
        "approvals:0123456789ab:abababababab",
        "approval_approve_all",
        f"{first.approval_id} {second.approval_id}",
    )


def test_two_equal_calls_can_stand_on_one_card():
    card = calls_card([approval(), approval()])
    assert check_blocks(list(card.blocks)) == []


def test_a_settled_row_has_no_buttons_and_the_last_pending_one_is_not_all():
    done, open_ = approval(**APPROVED), approval()
    card = calls_card([done, open_])
    assert {value for _, _, value in actions(card)} == {str(open_.approval_id)}
    assert "approval_approve_all" not in {name for _, name, _ in actions(card)}
    assert "Done." in visible(list(card.blocks))
    assert actions(calls_card([done, done])) == []


def test_calls_that_do_not_fit_do_not_share_a_card():
    assert fit_together([approval(), approval()])
    assert not fit_together([approval(), approval(args={"script": "x" * 20_000})])
    assert not fit_together([approval(args={"text": "x" * 4_000}), approval(args={"text": "y" * 4_000})])
    assert not fit_together([approval()] * (MOST_ROWS + 1))


ROW = st.fixed_dictionaries(
    {
        "args": st.dictionaries(st.text(max_size=20), st.text(max_size=50), max_size=4),
        "args_proposed": st.dictionaries(st.text(max_size=20), st.text(max_size=50), max_size=8),
        "requested_reason": st.none() | st.just(LONG),
        "quorum": st.integers(1, 3),
        "votes": st.lists(st.just(vote("0" * 64, LONG)), max_size=12).map(tuple),
        "size": st.sampled_from([0, 0, 900, 7_000, 50_000]),
        "settled": st.booleans(),
    }
)


@settings(deadline=None)
@given(st.lists(ROW, min_size=2, max_size=MOST_ROWS))
def test_whatever_becomes_of_its_calls_a_card_fits_and_approves_only_what_it_shows(rows):
    calls = []
    for row in rows:
        size, settled = row.pop("size"), row.pop("settled")
        row["args"] |= {"filler": "y" * size} if size else {}
        calls.append(approval(**row, **(APPROVED if settled else {})))
    card = calls_card(calls)
    assert check_blocks(list(card.blocks)) == []
    assert letters(list(card.blocks)) < 12_500
    assert [
        p for p in pings(card.text, list(card.blocks)) if p not in ("<@U0ALICE>", "<@U0BOB>") and "date" not in p
    ] == []
    read = visible(list(card.blocks))
    offered = {value for _, name, value in actions(card) if name == "approval_approve"}
    for name, words in ((n, v.split()) for _, n, v in actions(card)):
        assert name != "approval_approve_all" or set(words) <= offered
    for call in calls:
        if str(call.approval_id) in offered:
            whole = visible(list(approval_card(call).blocks))
            assert all(line in read for line in whole.splitlines() if line.startswith('"y'))
            assert call.args.get("filler", "") in read


def named(value, block_id):
    action = {"action_id": "approval_approve_all", "value": value, "block_id": block_id}
    return parsed({"type": "block_actions", "user": {"id": "U0BOB"}, "actions": [action]}).named


def test_the_button_for_all_is_read_only_whole():
    ids = [str(UUID(int=n)) for n in (1, 2)]
    both = named(" ".join(ids), "approvals:0123456789ab:abababababab")
    assert [(str(n.approval_id), n.seen) for n in both] == [(ids[0], "0123456789ab"), (ids[1], "abababababab")]
    for value, block in (
        (" ".join(ids), "approvals:0123456789ab"),
        (" ".join(ids), "approval:0123456789ab:abababababab"),
        (" ".join(ids), "approvals:0123456789ab:"),
        (" ".join(ids), "approvals:0123456789ab:x"),
        (f"{ids[0]} nonsense", "approvals:0123456789ab:abababababab"),
        (f"{ids[0]} {ids[0]}", "approvals:0123456789ab:abababababab"),
        ("", "approvals:"),
        (None, None),
    ):
        assert named(value, block) == ()


def test_what_an_approver_changed_is_shown_old_beside_new_before_and_after_the_decision():
    changed = {"args": {"service": "db", "n": 1}, "args_proposed": {"service": "web", "force": True, "n": True}}
    for card in (
        approval_card(approval(**changed)),
        approval_card(approval(**changed, **APPROVED)),
        calls_card([approval(**changed), approval()]),
    ):
        shown = visible(list(card.blocks))
        for part in ('asked for: "web"\nnow: "db"', "asked for: true\nnow: (not given)", "asked for: true\nnow: 1"):
            assert part in shown


def test_changes_are_escaped_and_bounded():
    hostile = '"\nnow: "safe" <!channel> \u202e'
    many = {f"key{i}": LONG for i in range(30)}
    card = approval_card(approval(args={"a": "fine"}, args_proposed={"a": hostile, **many}))
    shown = visible(list(card.blocks))
    assert shown.count("\nnow: ") == 5
    assert "and 26 more" in shown
    assert "\u202e" not in shown
    assert letters(list(card.blocks)) < 3_000


def test_votes_for_arguments_that_were_changed_count_no_more_and_say_so():
    asked = approval(quorum=2, votes=(vote("0" * 64), vote("0123456789abcdef" * 4)))
    shown = visible(list(approval_card(asked).blocks))
    assert "1 of 2 approvals" in shown
    assert "counts no more" in shown
    assert json.dumps(shown).count("counts no more") == 1
