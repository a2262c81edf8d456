"""`opsagent chat`: the agent in a terminal, with approvals as questions; the same service as every door."""

import asyncio
import contextlib
import json
import sys

from agent.approvals.types import Approval, Decision, Door
from agent.conversations import TurnView
from agent.errors import Refusal
from agent.service import AgentService
from agent.types import TurnStatus
from opsagent import parts
from opsagent.config import Settings

_WAIT_S = 3600.0


async def chat(settings: Settings) -> int:
    """Talk until end of input; every message is a turn that this process itself can run."""
    slack = parts.slack_parts(settings)
    async with (
        parts.open_database(settings) as dsn,
        parts.open_product(settings, dsn, slack, tools=True) as (core, model),
    ):
        await parts.check_model(model)
        await core.follow_servers()
        loops = [asyncio.create_task(loop) for loop in (core.hub.run(), core.registry.run())]
        await core.registry.ready()
        await core.publish_once(alone=False)
        loops += [asyncio.create_task(loop) for loop in (core.worker.run(), core.sweeps.run(), core.previews.run())]
        try:
            if parts.is_demo(settings):
                print("A demo model answers: rules, not AI.")
            await _talk(core.service)
        finally:
            core.turns.drain()
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
    return 0


async def _talk(service: AgentService) -> None:
    by = service.api_key_principal()
    session = await service.create_session(by=by, source="chat")
    print("Say something; an empty line or Ctrl-D ends this.")
    while text := (await _ask("> ")).strip():
        try:
            sent = await service.submit_message(session.session_id, text, by=by)
        except Refusal as refusal:
            print(refusal.message)
            continue
        if sent is None:
            continue
        view = await service.wait_turn(sent.turn.turn_id, timeout=_WAIT_S)
        while view.turn.status is TurnStatus.AWAITING_APPROVAL:
            for approval in view.pending_approvals:
                await _decide(service, approval)
            view = await _settled(service, view)
        print(view.turn.reply or view.turn.error or f"({view.turn.status})")


async def _settled(service: AgentService, before: TurnView) -> TurnView:
    """Wait until the turn is past what was just decided."""
    decided = {approval.approval_id for approval in before.pending_approvals}
    async with service.watch(before.turn.session_id) as changed:
        while True:
            changed.clear()
            view = await service.wait_turn(before.turn.turn_id, timeout=_WAIT_S)
            new = {approval.approval_id for approval in view.pending_approvals} - decided
            if view.turn.status is not TurnStatus.AWAITING_APPROVAL or new:
                return view
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await changed.wait()


async def _decide(service: AgentService, approval: Approval) -> None:
    print(f"\n{visible(approval.tool_name)} needs your approval ({approval.args_digest[:12]}):")
    print("\n".join(visible(line) for line in json.dumps(approval.args, indent=2).split("\n")))
    answer = (await _ask("Approve? [y/N, or a reason to reject] ")).strip()
    yes = answer.lower() in {"y", "yes"}
    reason = answer if answer and answer.lower() not in {"y", "yes", "n", "no"} else None
    try:
        await service.decide_approval(
            approval.approval_id,
            Decision.APPROVE if yes else Decision.REJECT,
            by=service.api_key_principal(),
            reason=reason,
            expected_digest=approval.args_digest,
            door=Door.CLI,
        )
    except Refusal as refusal:
        print(refusal.message)


async def _ask(prompt: str) -> str:
    """Read a line; the end of input reads as an empty one."""
    print(prompt, end="", flush=True)
    return await asyncio.to_thread(sys.stdin.readline)


def visible(text: str) -> str:
    """Return one line in which nothing that a terminal would obey, or hide, is left."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)
