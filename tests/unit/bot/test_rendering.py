"""Which events of a batch are worth drawing."""

from uuid import uuid4

from agent.types import Event, EventKind
from bot.rendering import overtaken
from tests.fakes.service import NOW

OPENED, CHANGED, FINISHED = EventKind.APPROVAL_OPENED, EventKind.APPROVAL_CHANGED, EventKind.EXECUTION_FINISHED


def batch(*kinds):
    session = uuid4()
    return [Event(session, i, kind, {"approval_id": a}, NOW) for i, (kind, a) in enumerate(kinds, start=1)]


def test_a_card_is_drawn_at_its_last_change():
    assert overtaken(batch((CHANGED, "a"), (CHANGED, "a"), (FINISHED, "a"))) == {1, 2}


def test_a_card_is_drawn_where_it_is_opened_so_that_it_keeps_its_place():
    assert overtaken(batch((OPENED, "a"), (CHANGED, "a"), (FINISHED, "a"))) == {2, 3}


def test_each_approval_counts_for_itself_and_other_events_never_do():
    events = batch((CHANGED, "a"), (CHANGED, "b"), (EventKind.TURN_COMPLETED, None), (FINISHED, None), (CHANGED, "a"))
    assert overtaken(events) == {1}
