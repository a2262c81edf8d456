"""Which cards a batch of events draws, and where."""

from uuid import UUID

from agent.types import Event, EventKind
from bot.rendering import drawings
from tests.fakes.service import NOW

OPENED, CHANGED, FINISHED = EventKind.APPROVAL_OPENED, EventKind.APPROVAL_CHANGED, EventKind.EXECUTION_FINISHED
A, B = UUID(int=1), UUID(int=2)
SESSION = UUID(int=9)


def batch(*kinds):
    return [
        Event(SESSION, i, kind, {"turn_id": turn, "approval_id": str(a) if a else None}, NOW)
        for i, (kind, a, turn) in enumerate(kinds, start=1)
    ]


def test_a_card_is_drawn_at_its_last_change():
    assert drawings(batch((CHANGED, A, "t"), (CHANGED, A, "t"), (FINISHED, A, "t"))) == {3: [A]}


def test_a_card_is_drawn_where_it_is_opened_so_that_it_keeps_its_place():
    assert drawings(batch((OPENED, A, "t"), (CHANGED, A, "t"), (FINISHED, A, "t"))) == {1: [A]}


def test_each_approval_counts_for_itself_and_other_events_never_do():
    done = (EventKind.TURN_COMPLETED, None, "t")
    events = batch((CHANGED, A, "t"), (CHANGED, B, "t"), done, (FINISHED, None, "t"), (CHANGED, A, "t"))
    assert drawings(events) == {5: [A], 2: [B]}


def test_those_of_one_turn_are_opened_together_and_those_of_others_are_not():
    assert drawings(batch((OPENED, A, "t"), (FINISHED, None, "t"), (OPENED, B, "t"))) == {1: [A, B]}
    assert drawings(batch((OPENED, A, "t"), (OPENED, B, "u"))) == {1: [A], 2: [B]}
