"""A call whose outcome is unknown: people say what became of it, or have exactly it run again, once for each word."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from agent import transcript
from agent.approvals.life import AlreadyResolved, NotUnknown
from agent.approvals.types import Action, Approval, ApprovalStatus, ExecutionStatus
from agent.models.history import repair
from agent.tools.base import Outcome, ToolResult
from agent.types import EventKind, Role, TurnStatus
from tests.fakes.counting_tools import CountingTools
from tests.fakes.killed_process import POINTS, written_to
from tests.integration.conftest import ADMIN, ALICE, BOB, Floor, running
from tests.integration.test_approvals import AUTO, RESTART, Still, still, working
from tests.integration.test_kill_points import dies, mortal

__all__ = ["mortal", "still"]


async def vanish(_args: Mapping[str, Any]) -> ToolResult:
    return ToolResult("no answer came", Outcome.UNKNOWN)


async def unknown(still: Still, text: str = RESTART, *, by: Any = ALICE) -> Approval:
    """Return an approval whose call was run, and nobody can tell how it ended; the tool answers again from now on."""
    still.floor.tools["restart"].effect = vanish
    approval = await still.ask(text, by=by)
    await still.floor.decide(approval, by=BOB)
    after, _ = await still.finished(approval)
    assert (after.status, after.execution) == (ApprovalStatus.APPROVED, ExecutionStatus.UNKNOWN)
    still.floor.tools["restart"].effect = None
    return after


async def resolve(still: Still, approval: Approval, action: Action, *, by: Any = BOB, **more: Any) -> Approval:
    return await still.service.resolve_approval(approval.approval_id, action, by=by, **more)


async def read(floor: Floor, approval: Approval) -> Approval:
    return await floor.service.read_approval(approval.approval_id, by=ADMIN)


async def told(floor: Floor, session_id: UUID, kind: EventKind) -> list[dict[str, Any]]:
    events = await floor.service.read_events(session_id, by=ADMIN)
    return [event.data for event in events if event.kind is kind]


async def audited(floor: Floor, approval: Approval, kind: str) -> list[Any]:
    statement = "SELECT actor_id, data::json AS data FROM audit_log WHERE subject = $1 AND kind = $2 ORDER BY id"
    return await floor.sql(statement, str(approval.approval_id), kind)


@pytest.mark.parametrize(
    ("action", "status"), [(Action.DONE, ExecutionStatus.SUCCEEDED), (Action.FAILED, ExecutionStatus.FAILED)]
)
async def test_a_person_says_how_the_call_ended_and_everybody_hears_it(
    still: Still, action: Action, status: ExecutionStatus
) -> None:
    approval = await unknown(still)
    resolved = await resolve(still, approval, action, reason="looked", result="web is up since 9:14")
    assert (resolved.status, resolved.execution, resolved.result) == (
        ApprovalStatus.APPROVED,
        status,
        "web is up since 9:14",
    )
    (word,) = resolved.resolutions
    assert (word.action, word.by.chat_user, word.reason) == (action, "U2BOB", "looked")
    (event,) = await told(still.floor, still.session_id, EventKind.APPROVAL_RESOLVED)
    assert (event["action"], event["by"]["chat"]) == (action, "U2BOB")
    (entry,) = await audited(still.floor, approval, "approval.resolved")
    assert (entry["actor_id"], entry["data"]["action"]) == (word.by.user_id, action)
    await still.advance()
    assert still.ran == ["web"], "nothing ran again"


async def test_the_next_turns_model_knows_what_people_found_out(still: Still) -> None:
    approval = await unknown(still)
    await resolve(still, approval, Action.DONE, result="it is up")
    async with still.floor.core.database.connection() as connection:
        history = await transcript.window(connection, still.session_id, before=uuid4(), tokens=10**9)
    note = str(repair(history)[-1].content)
    assert ('"it is up"' in note, "outcome of the call restart" in note) == (True, True)


async def test_a_call_runs_again_as_it_was_and_its_result_is_posted(still: Still) -> None:
    approval = await unknown(still)
    resolved = await resolve(still, approval, Action.RUN_AGAIN, reason="it hangs still")
    assert (resolved.execution, still.ran) == (ExecutionStatus.UNKNOWN, ["web"])
    await still.advance()
    after = await read(still.floor, approval)
    assert (after.execution, after.result, still.ran) == (ExecutionStatus.SUCCEEDED, "restarted web", ["web", "web"])
    completed = (await told(still.floor, still.session_id, EventKind.TURN_COMPLETED))[-1]
    assert completed["reply"] == "restarted web"
    assert still.floor.tools["restart"].contexts[-1].approval_id == approval.approval_id
    starts = await audited(still.floor, approval, "execution.started")
    assert starts[-1]["data"]["resolution_id"] == str(resolved.resolutions[0].resolution_id)
    async with still.floor.core.database.connection() as connection:
        history = await transcript.window(connection, still.session_id, before=uuid4(), tokens=10**9)
    assert "run again because a person asked for it: restarted web" in str(repair(history)[-1].content)


async def test_what_ends_unknown_again_can_be_resolved_again(still: Still) -> None:
    approval = await unknown(still)
    still.floor.tools["restart"].effect = vanish
    for runs in (2, 3):
        await resolve(still, approval, Action.RUN_AGAIN)
        await still.advance()
        assert (await read(still.floor, approval)).execution is ExecutionStatus.UNKNOWN
        assert len(still.ran) == runs
    await resolve(still, approval, Action.FAILED)
    with pytest.raises(AlreadyResolved, match="said that it failed"):
        await resolve(still, approval, Action.RUN_AGAIN)
    assert len((await read(still.floor, approval)).resolutions) == 3


async def test_an_automatic_call_that_ended_unknown_can_be_resolved(still: Still) -> None:
    await still.rule(AUTO)
    still.floor.tools["restart"].effect = vanish
    still.session_id = await still.floor.session()
    await still.service.submit_message(still.session_id, RESTART, by=ADMIN)
    await still.advance()
    (row,) = await still.floor.sql("SELECT approval_id FROM approvals")
    approval = await still.service.read_approval(row["approval_id"], by=ADMIN)
    still.floor.tools["restart"].effect = None
    await resolve(still, approval, Action.RUN_AGAIN)
    await still.advance()
    assert (await read(still.floor, approval)).execution is ExecutionStatus.SUCCEEDED
    assert still.ran == ["web", "web"]


async def test_a_known_outcome_needs_nobodys_word(still: Still) -> None:
    approval = await still.ask(by=ALICE)
    with pytest.raises(NotUnknown, match="not started"):
        await resolve(still, approval, Action.DONE)
    await still.floor.decide(approval, by=BOB)
    await still.finished(approval)
    with pytest.raises(NotUnknown, match="succeeded"):
        await resolve(still, approval, Action.RUN_AGAIN)


async def test_fifty_people_at_once_run_it_again_once(dsn: str) -> None:
    tools = CountingTools()
    async with working(dsn, tools, approvers=("U2BOB",)) as one, working(dsn, tools, approvers=("U2BOB",)) as other:
        people = [await one.user(f"approver{i}", Role.APPROVER) for i in range(50)]
        tools["restart"].effect = vanish
        session_id = await one.session()
        (approval,) = (await one.say(session_id, RESTART)).pending_approvals
        await one.decide(approval, by=people[0])
        await one.done(approval.turn_id, timeout=60)
        tools["restart"].effect = None
        answers = await asyncio.gather(
            *(
                (one, other)[i % 2].service.resolve_approval(
                    approval.approval_id, (Action.RUN_AGAIN, Action.DONE)[i % 5 == 4], by=person
                )
                for i, person in enumerate(people)
            ),
            return_exceptions=True,
        )
        # Once the first word is spent the call is known, or running: none of the others counts.
        assert sum(isinstance(answer, Approval) for answer in answers) == 1, answers
        assert all(isinstance(answer, Approval | AlreadyResolved) for answer in answers), answers
        (word,) = (await read(one, approval)).resolutions
        async with asyncio.timeout(240):
            while (await read(one, approval)).execution is not ExecutionStatus.SUCCEEDED:
                await asyncio.sleep(0.05)
        assert tools.ran("restart") == ["web"] * (2 if word.action is Action.RUN_AGAIN else 1)
        (ledger,) = await one.sql("SELECT runs FROM executions")
        assert ledger["runs"] == len(tools.ran("restart"))


async def test_the_ledger_takes_no_second_claim_on_a_word_that_is_spent(still: Still) -> None:
    from agent import ledger

    approval = await unknown(still)
    await resolve(still, approval, Action.RUN_AGAIN)
    (row,) = await still.floor.sql("SELECT turn_id FROM resolutions")
    mark = "UPDATE executions SET status = 'outcome_unknown'"

    async def claim(digest: str) -> bool:
        async with still.floor.core.database.transaction() as tx:
            return await ledger.claim_resolved(
                tx, still.session_id, approval.tool_call_id, turn_id=row["turn_id"], args_digest=digest
            )

    assert await claim("0" * 64) is False
    claims = await asyncio.gather(*(claim(approval.args_digest) for _ in range(10)))
    assert sum(claims) == 1
    await still.floor.sql(mark)
    assert await claim(approval.args_digest) is False


async def test_a_run_that_was_asked_for_again_and_killed_anywhere_runs_at_most_once(
    dsn: str, tmp_path: Path, mortal: asyncio.subprocess.Process
) -> None:
    effects, met, found = tmp_path / "effects", Counter[str](), Counter[str]()
    async with running(dsn, tools=written_to(str(effects)), work=False) as floor:
        erin = await floor.user("erin", Role.APPROVER)
        still = Still(floor, None)  # pyright: ignore[reportArgumentType]
        for point in [p for p in POINTS if p.split()[1] in ("commit", "effect")]:
            died = True
            while died:
                effect = floor.tools["restart"].effect
                key = uuid4().hex
                still.session_id = await floor.session()
                floor.tools["restart"].effect = vanish
                await floor.service.submit_message(still.session_id, RESTART, by=ADMIN, event_key=key)
                await still.advance()
                (row,) = await floor.sql("SELECT approval_id FROM approvals WHERE session_id = $1", still.session_id)
                approval = await floor.service.read_approval(row["approval_id"], by=ADMIN)
                await floor.decide(approval, by=erin)
                await still.advance()
                floor.tools["restart"].effect = effect
                await resolve(still, approval, Action.RUN_AGAIN, by=erin)
                effects.write_text("")
                plan = {"dsn": dsn, "session_id": str(still.session_id), "text": RESTART, "key": key}
                died = await dies(mortal, {**plan, "point": (point, met[point] + 1), "effects": str(effects)})
                met[point] += died
                async with asyncio.timeout(45):
                    await still.advance()
                after, ran = await read(floor, approval), effects.read_text().split()
                (turn,) = await floor.sql(
                    "SELECT status, reply FROM turns WHERE kind = 'call' AND session_id = $1", still.session_id
                )
                (entry,) = await floor.sql("SELECT runs FROM executions WHERE session_id = $1", still.session_id)
                where = f"killed {point} {met[point]}: {turn['reply']}, {ran}"
                assert (turn["status"], entry["runs"]) == (TurnStatus.COMPLETED, 2), where
                if after.execution is ExecutionStatus.SUCCEEDED:
                    assert ran == ["web"], where
                else:
                    assert (after.execution, len(ran) <= 1) == (ExecutionStatus.UNKNOWN, True), where
                    assert (await resolve(still, approval, Action.DONE, by=erin)).execution is ExecutionStatus.SUCCEEDED
                found[after.execution] += 1
    assert all(met[point] for point in ("before commit", "after commit", "before effect", "after effect")), met
    assert found[ExecutionStatus.UNKNOWN]
    assert found[ExecutionStatus.SUCCEEDED]
