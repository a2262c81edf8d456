"""Turns end to end on real Postgres, with a scripted model and tools whose effects are counted."""

from agent.approvals.types import Decision
from agent.types import TurnStatus
from tests.integration.conftest import Floor


async def test_a_message_is_answered_and_remembered(floor: Floor) -> None:
    session_id = await floor.session()
    first = await floor.say(session_id, "hello")
    second = await floor.say(session_id, "again")
    assert (first.turn.status, first.turn.reply) == (TurnStatus.COMPLETED, "answer 1: hello")
    assert second.turn.reply == "answer 2: again"


async def test_an_approved_call_runs_once_with_exactly_the_shown_arguments(floor: Floor) -> None:
    session_id = await floor.session()
    asked = await floor.say(session_id, '{{tool restart {"service": "web"}}}')
    assert asked.turn.status is TurnStatus.AWAITING_APPROVAL
    assert floor.tools.ran("restart") == []
    (approval,) = asked.pending_approvals
    await floor.decide(approval)
    done = await floor.done(asked.turn.turn_id)
    assert (done.turn.status, done.turn.reply) == (TurnStatus.COMPLETED, "tools said: restarted web")
    assert floor.tools.effects == [{"tool": "restart", "service": "web"}]


async def test_parallel_calls_run_and_wait_each_on_its_own(floor: Floor) -> None:
    session_id = await floor.session()
    asked = await floor.say(
        session_id,
        '{{tool uptime {"service": "db"}}} {{tool restart {"service": "a"}}} {{tool restart {"service": "b"}}}',
    )
    parked = await floor.parked(asked.turn.turn_id, 2)
    assert floor.tools.ran("uptime") == ["db"]
    one, other = sorted(parked.pending_approvals, key=lambda a: a.args["service"])
    await floor.decide(one)
    await floor.until(lambda: floor.tools.ran("restart") == ["a"])
    await floor.decide(other, Decision.REJECT, reason="b is fine")
    done = await floor.done(asked.turn.turn_id)
    assert "restarted a" in done.turn.reply
    assert "b is fine" in done.turn.reply
    assert floor.tools.ran("restart") == ["a"]
    assert floor.tools.ran("uptime") == ["db"]
