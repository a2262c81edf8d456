"""Previews: made once for each approval and arguments while people decide, never the call itself, never in its way."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest

from agent.approvals.policy import Rule
from agent.approvals.types import Approval, ApprovalStatus, Decision, ExecutionStatus, Preview
from agent.previews import Previews
from agent.run import Limits
from agent.tools import registry
from agent.tools.base import PREVIEW_LIMIT, Outcome, ToolResult
from agent.types import EventKind
from tests.fakes.counting_tools import CountingTool, CountingTools
from tests.integration.conftest import ADMIN, ALICE, BOB, running
from tests.integration.test_approvals import AUTO, DENIED, Still, still
from tests.integration.test_resolutions import audited, told

__all__ = ["still"]

TWO = Rule(auto_execute=False, approval_required=True, quorum=2)


def restart(still: Still) -> CountingTool:
    """The tool of the call, which previews from now on."""
    return still.floor.tools.with_preview("restart")


async def make(still: Still, approval: Approval) -> Preview | None:
    await still.floor.core.previews.make(approval.approval_id)
    return (await read(still, approval)).preview


async def read(still: Still, approval: Approval) -> Approval:
    return await still.service.read_approval(approval.approval_id, by=ADMIN)


def saying(result: ToolResult | None) -> Callable[[Mapping[str, Any]], Awaitable[ToolResult | None]]:
    async def say(_args: Mapping[str, Any]) -> ToolResult | None:
        return result

    return say


async def test_a_call_that_waits_gets_its_preview_and_nothing_has_run(dsn: str) -> None:
    tools = CountingTools()
    tool = tools.with_preview("restart")
    async with running(dsn, tools=tools, approvers=("U2BOB",), limits=Limits(seconds=60)) as floor:
        session_id = await floor.session()
        view = await floor.say(session_id, '{{tool restart {"service": "web"}}}', timeout=45)
        (approval,) = view.pending_approvals

        async def changed() -> list[Any]:
            return await told(floor, session_id, EventKind.APPROVAL_CHANGED)

        async with asyncio.timeout(45):
            while not await changed():
                await asyncio.sleep(0.02)
        found = await floor.service.read_approval(approval.approval_id, by=ADMIN)
        assert found.preview is not None
        assert (found.preview.text, found.preview.ok) == ("would restart web", True)
        assert found.preview.args_digest == approval.args_digest
        assert [data["status"] for data in await changed()] == ["pending"]
        assert (tools.ran("restart"), found.execution) == ([], ExecutionStatus.NONE)
        assert await floor.sql("SELECT 1 FROM executions") == []
        (noted,) = await audited(floor, approval, "approval.previewed")
        assert noted["data"]["ok"] is True
        # What keys the run is not told before the run.
        (context,) = tool.contexts
        assert context.approval_id is None
        assert context.tool_call_id != approval.tool_call_id
        await floor.decide(approval)
        done = await floor.done(approval.turn_id, timeout=45)
        assert tools.ran("restart") == ["web"]
        assert "would restart" not in str(done.turn.reply)
        assert tool.previewed == [{"service": "web"}]


async def test_a_call_asked_for_over_rest_gets_one_too(dsn: str) -> None:
    tools = CountingTools()
    tool = tools.with_preview("restart")
    async with running(dsn, tools=tools, limits=Limits(seconds=60)) as floor:
        approval = await floor.service.ask_approval(tool.spec.tool_id, {"service": "db"}, by=ADMIN)
        async with asyncio.timeout(45):
            while (await floor.service.read_approval(approval.approval_id, by=ADMIN)).preview is None:
                await asyncio.sleep(0.02)
    assert (tool.previewed, tools.ran("restart")) == ([{"service": "db"}], [])


async def test_a_call_that_is_not_asked_for_gets_none(still: Still) -> None:
    tool = restart(still)
    await still.rule(AUTO)
    session_id = await still.floor.session()
    sent = await still.service.submit_message(session_id, '{{tool restart {"service": "web"}}}', by=ADMIN)
    await still.floor.core.turns.advance(session_id)
    approval = await still.service.ask_approval(tool.spec.tool_id, {"service": "db"}, by=ADMIN)
    assert approval.status is ApprovalStatus.APPROVED
    await make(still, approval)
    await still.floor.core.previews._look()
    assert sent.turn.session_id == session_id
    assert (still.ran, tool.previewed) == (["web"], [])


async def test_other_arguments_get_a_preview_of_their_own(still: Still) -> None:
    tool = restart(still)
    await still.rule(TWO)
    approval = await still.ask(by=ALICE)
    assert (await make(still, approval)) is not None
    await still.floor.decide(approval, by=BOB, args={"service": "db"})
    edited = await read(still, approval)
    assert edited.status is ApprovalStatus.PENDING
    assert edited.preview is None
    made = await make(still, approval)
    assert made is not None
    assert (made.text, made.args_digest) == ("would restart db", edited.args_digest)
    assert tool.previewed == [{"service": "web"}, {"service": "db"}]


async def test_a_preview_of_arguments_that_were_edited_meanwhile_is_not_shown(still: Still) -> None:
    tool = restart(still)
    await still.rule(TWO)
    approval = await still.ask(by=ALICE)
    entered, go = asyncio.Event(), asyncio.Event()

    async def wait(args: Mapping[str, Any]) -> ToolResult:
        entered.set()
        await go.wait()
        return ToolResult(f"late, of {args['service']}")

    tool.says = wait
    making = asyncio.create_task(still.floor.core.previews.make(approval.approval_id))
    await entered.wait()
    await still.floor.decide(approval, by=BOB, args={"service": "db"})
    before = await told(still.floor, still.session_id, EventKind.APPROVAL_CHANGED)
    go.set()
    await making
    assert (await read(still, approval)).preview is None
    assert await told(still.floor, still.session_id, EventKind.APPROVAL_CHANGED) == before


async def test_a_decision_does_not_wait_for_the_preview(still: Still) -> None:
    tool = restart(still)
    approval = await still.ask(by=ALICE)
    entered, go = asyncio.Event(), asyncio.Event()

    async def wait(_args: Mapping[str, Any]) -> None:
        entered.set()
        await go.wait()

    tool.says = wait
    making = asyncio.create_task(still.floor.core.previews.make(approval.approval_id))
    await entered.wait()
    await still.floor.decide(approval, by=BOB)
    finished, _ = await still.finished(approval)
    assert finished.execution is ExecutionStatus.SUCCEEDED
    go.set()
    await making
    assert still.ran == ["web"]


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (ToolResult("no such service", Outcome.FAILED), "no such service"),
        (ToolResult("who knows", Outcome.UNKNOWN), "it did not end in time, or its process ended while it ran."),
    ],
    ids=["failed", "lost"],
)
async def test_a_preview_that_fails_says_so_and_the_call_can_be_approved(
    still: Still, result: ToolResult, text: str
) -> None:
    restart(still).says = saying(result)
    approval = await still.ask(by=ALICE)
    made = await make(still, approval)
    assert made is not None
    assert (made.text, made.ok) == (text, False)
    await still.floor.decide(approval, by=BOB)
    await still.finished(approval)
    assert still.ran == ["web"]


async def test_a_preview_that_raises_has_failed(still: Still) -> None:
    async def fail(_args: Mapping[str, Any]) -> ToolResult:
        raise ValueError("no such service")

    restart(still).says = fail
    made = await make(still, await still.ask(by=ALICE))
    assert made is not None
    assert (made.text, made.ok) == ("ValueError: no such service", False)


async def test_a_preview_that_hangs_is_ended(still: Still, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(_args: Mapping[str, Any]) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(registry, "PREVIEW_S", 0.1)
    restart(still).says = hang
    made = await make(still, await still.ask(by=ALICE))
    assert made is not None
    assert (made.text, made.ok) == ("it gave no answer within 0.1 s.", False)


async def test_a_tool_that_can_not_say_shows_nothing_and_is_not_asked_again(still: Still) -> None:
    tool = restart(still)
    tool.says = saying(None)
    approval = await still.ask(by=ALICE)
    assert await make(still, approval) is None
    assert await make(still, approval) is None
    assert tool.previewed == [{"service": "web"}]


async def test_what_a_preview_says_is_capped_and_redacted(still: Still) -> None:
    token = "ghp_" + "a" * 36
    restart(still).says = saying(ToolResult(f"{token}\x00{'x' * 10**6}"))
    made = await make(still, await still.ask(by=ALICE))
    assert made is not None
    assert made.text.startswith("[redacted]\ufffdx")
    assert "characters cut" in made.text
    assert len(made.text) < PREVIEW_LIMIT + 100


async def test_many_processes_make_one_preview(dsn: str, still: Still) -> None:
    tool = restart(still)
    approvals = [await still.ask(by=ALICE) for _ in range(5)]
    async with running(dsn, tools=still.floor.tools, work=False, approvers=("U2BOB",)) as other:
        makers = [still.floor.core.previews, other.core.previews] * 4
        await asyncio.gather(*(maker.make(a.approval_id) for a in approvals for maker in makers))
    assert len(tool.previewed) == 5
    for approval in approvals:
        assert (await read(still, approval)).preview is not None
        assert len(await audited(still.floor, approval, "approval.previewed")) == 1


async def test_a_process_that_looked_before_another_claimed_makes_none(dsn: str, still: Still) -> None:
    tool = restart(still)
    approval = await still.ask(by=ALICE)
    async with running(dsn, tools=still.floor.tools, work=False) as other:
        late = Late(other.core.database, other.core.registry)
        looked = asyncio.create_task(late._look())
        await looked
        await late.has_looked.wait()
        await still.floor.core.previews.make(approval.approval_id)
        late.go.set()
        await asyncio.gather(*late._making.values())
    assert tool.previewed == [{"service": "web"}]


class Late(Previews):
    """A process that has seen what is due, and comes to it late."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.has_looked, self.go = asyncio.Event(), asyncio.Event()

    async def make(self, *what: Any) -> None:
        self.has_looked.set()
        await self.go.wait()
        await super().make(*what)


async def test_a_crash_while_it_is_made_leaves_none_and_the_call_goes_on(still: Still) -> None:
    tool = restart(still)
    approval = await still.ask(by=ALICE)
    entered = asyncio.Event()

    async def hang(_args: Mapping[str, Any]) -> None:
        entered.set()
        await asyncio.Event().wait()

    tool.says = hang
    making = asyncio.create_task(still.floor.core.previews.make(approval.approval_id))
    await entered.wait()
    making.cancel()
    await asyncio.wait([making])
    tool.says = None
    assert await make(still, approval) is None
    assert len(tool.previewed) == 1
    await still.floor.decide(approval, Decision.APPROVE, by=BOB)
    await still.finished(approval)
    assert still.ran == ["web"]


async def test_a_deleted_session_takes_its_previews_along(still: Still) -> None:
    restart(still)
    approval = await still.ask(by=ALICE)
    assert await make(still, approval) is not None
    await still.service.delete_session(still.session_id, by=ADMIN)
    assert await still.floor.sql("SELECT 1 FROM approval_previews") == []


async def test_a_tool_that_policy_denies_by_now_is_not_asked(still: Still) -> None:
    tool = restart(still)
    approval = await still.ask(by=ALICE)
    await still.rule(DENIED)
    made = await make(still, approval)
    assert made is not None
    assert (made.ok, tool.previewed) == (False, [])
    assert "policy denies restart" in made.text
