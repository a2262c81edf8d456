"""The lean, fenced checkpointer: conformant, silent once its lease is over, and small whatever a thread's age."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.conformance import checkpointer_test, validate

from agent import sessions
from db.checkpoints import LeanSaver, make_pool
from db.database import Fenced
from tests.fakes.scripted_model import ScriptedModel
from tests.integration.conftest import ADMIN, Floor, running

_TABLES = ("checkpoints", "checkpoint_blobs", "checkpoint_writes")
_IMPLEMENTED = {"put", "put_writes", "get_tuple", "list", "delete_thread", "prune"}


@pytest.fixture
async def asleep(dsn: str) -> AsyncIterator[Floor]:
    async with running(dsn, work=False) as floor:
        yield floor


async def take(floor: Floor, session_id: UUID) -> int:
    """Take the thread over; return the new epoch."""
    async with floor.core.database.transaction() as tx:
        epoch = await sessions.raise_epoch(tx, session_id)
    assert epoch
    return epoch


async def rows(floor: Floor, session_id: UUID) -> dict[str, int]:
    counted = {}
    for table in _TABLES:
        ((count,),) = await floor.sql(f"SELECT count(*) FROM {table} WHERE thread_id = $1", str(session_id))
        counted[table] = count
    return counted


@pytest.mark.parametrize("is_fenced", [False, True], ids=["plain", "of a run"])
async def test_the_saver_passes_langgraphs_conformance_suite(asleep: Floor, dsn: str, *, is_fenced: bool) -> None:
    session_id = await asleep.session()
    run = (session_id, await take(asleep, session_id)) if is_fenced else ()
    async with make_pool(dsn) as pool:

        async def savers() -> AsyncIterator[LeanSaver]:
            yield LeanSaver(pool, *run)

        report = await validate(checkpointer_test(name=f"LeanSaver {is_fenced}")(savers))
    failures = {name: result.failures for name, result in report.results.items() if result.failures}
    assert failures == {}
    assert {name for name, result in report.results.items() if result.passed} == _IMPLEMENTED
    assert report.passed_all_base()


async def test_a_saver_whose_epoch_is_over_writes_nothing(asleep: Floor, dsn: str) -> None:
    session_id = await asleep.session()
    config: Any = {"configurable": {"thread_id": str(session_id), "checkpoint_ns": ""}}
    checkpoint = {**empty_checkpoint(), "channel_values": {"m": ["x"]}, "channel_versions": {"m": "1"}}
    async with make_pool(dsn) as pool:
        old = LeanSaver(pool, session_id, await take(asleep, session_id))
        stored = await old.aput(config, checkpoint, {"source": "loop", "step": 0, "parents": {}}, {"m": "1"})
        before = await rows(asleep, session_id)
        assert before == {"checkpoints": 1, "checkpoint_blobs": 1, "checkpoint_writes": 0}

        new = LeanSaver(pool, session_id, await take(asleep, session_id))
        later = {**checkpoint, "id": empty_checkpoint()["id"], "channel_versions": {"m": "2"}}
        with pytest.raises(Fenced):
            await old.aput(stored, later, {"source": "loop", "step": 1, "parents": {}}, {"m": "2"})
        with pytest.raises(Fenced):
            await old.aput_writes(stored, [("m", "y"), ("n", "z")], "task")
        with pytest.raises(Fenced):
            await old.adelete_thread(str(session_id))
        assert await rows(asleep, session_id) == before

        assert (await new.aget_tuple(config)).checkpoint["channel_values"] == {"m": ["x"]}
        await new.aput_writes(stored, [("m", "y")], "task")
        assert (await rows(asleep, session_id))["checkpoint_writes"] == 1


class LookingModel(ScriptedModel):
    """Keeps what checkpoints there were whenever it was asked."""

    _look: Any = None
    _seen: Any = None

    async def _astream(self, *args: Any, **kwargs: Any) -> Any:
        if self._look:
            self._seen.append(await self._look())
        async for chunk in super()._astream(*args, **kwargs):
            yield chunk


async def test_checkpoints_that_hold_only_a_runs_input_are_left_out(dsn: str) -> None:
    model = LookingModel()
    async with running(dsn, model=model) as floor:
        session_id = await floor.session()

        async def stored() -> list[Any]:
            return await floor.sql(
                "SELECT checkpoint_id, parent_checkpoint_id, metadata->>'source' AS source FROM checkpoints"
                " WHERE thread_id = $1 ORDER BY checkpoint_id",
                str(session_id),
            )

        model._seen, model._look = [], stored
        await floor.say(session_id, "hello")
        left = await stored()
        await floor.say(session_id, 'again {{tool uptime {"service": "web"}}}')
    first, second, after_a_step = model._seen
    assert (first, second) == ([], left)  # a turn's first question to the model comes before anything is stored
    assert {row["source"] for row in [*left, *after_a_step]} == {"loop"}
    # What is stored first hangs on what the turn before left, as if nothing were left out.
    assert after_a_step[1]["parent_checkpoint_id"] == left[0]["checkpoint_id"]


@pytest.mark.parametrize("turns_before", [0, 1])
async def test_a_crash_before_the_first_checkpoint_of_a_turn_loses_nothing(dsn: str, turns_before: int) -> None:
    async with running(dsn, work=False) as floor:
        session_id = await floor.session()
        for number in range(turns_before):
            await floor.service.submit_message(session_id, f"turn {number}", by=ADMIN)
            await floor.core.turns.advance(session_id)
        before = await rows(floor, session_id)
        sent = await floor.service.submit_message(session_id, "hello", by=ADMIN)
        async with floor.core.database.connection() as connection:  # the first write of the saver kills the run
            await connection.execute("ALTER TABLE checkpoints ADD CONSTRAINT crash CHECK (false) NOT VALID")
        with pytest.raises(Exception, match="crash"):
            await _invoke_once(floor, session_id)
        async with floor.core.database.connection() as connection:
            await connection.execute("ALTER TABLE checkpoints DROP CONSTRAINT crash")
        assert await rows(floor, session_id) == before

        async with running(dsn) as other:
            done = await other.done(sent.turn.turn_id)
        assert done.turn.reply == f"answer {turns_before + 1}: hello"
        said = await floor.service.read_messages(session_id, by=ADMIN)
        assert [message.content for message in said.items][-2:] == ["hello", done.turn.reply]


async def _invoke_once(floor: Floor, session_id: UUID) -> None:
    """Advance as a worker does that dies of the first error."""
    turns = floor.core.turns

    async def die(*_args: Any) -> bool:
        raise  # noqa: PLE0704 - the error that the turn's own handler is handling

    turns._back_off = die
    await turns.advance(session_id)


async def test_a_finished_turn_leaves_one_checkpoint_and_no_writes(floor: Floor) -> None:
    session_id = await floor.session()
    await floor.say(
        session_id,
        '{{tool uptime {"service": "a"}}} {{tool uptime {"service": "b"}}} {{next tool uptime {"service": "c"}}}',
    )
    left = await rows(floor, session_id)
    assert (left["checkpoints"], left["checkpoint_writes"]) == (1, 0)


async def test_turn_200_leaves_no_more_rows_than_turn_10(dsn: str) -> None:
    async with running(dsn, work=False) as floor:
        session_id = await floor.session()
        sizes = {}
        for number in range(1, 201):
            steps = ' {{tool uptime {"service": "web"}}}' if number % 5 == 0 else ""
            await floor.service.submit_message(session_id, f"message {number}{steps}", by=ADMIN)
            await floor.core.turns.advance(session_id)
            if number in (10, 200):
                sizes[number] = await rows(floor, session_id)
        assert sizes[200] == sizes[10]
        assert sizes[200]["checkpoints"] == 1
        ((answered,),) = await floor.sql("SELECT count(*) FROM turns WHERE status = 'completed'")
        assert answered == 200
