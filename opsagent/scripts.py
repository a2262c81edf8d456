"""Commands for scripts: lists and decisions, through the same service as every door."""

import asyncio
import json
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import asdict
from uuid import UUID

from agent.approvals.types import Action, Decision, Door
from agent.errors import Refusal
from agent.service import AgentService
from agent.tools.registry import Registry
from agent.types import Role
from opsagent import parts
from opsagent.config import Settings
from opsagent.failures import CannotStart
from opsagent.terminal import visible


@asynccontextmanager
async def service_of(settings: Settings) -> AsyncGenerator[AgentService]:
    """The service, for one command; a refusal of it ends the command with its sentence."""
    slack = parts.slack_parts(settings)
    async with (
        parts.open_database(settings) as dsn,
        parts.open_product(settings, dsn, slack, tools=False) as (core, _model),
    ):
        try:
            yield core.service
        except Refusal as refusal:
            raise CannotStart(refusal.message) from refusal


def row(*fields: str) -> str:
    """Return a line for scripts: fields apart by tabs, and no field can pass for two, or for a line of its own."""
    return "\t".join(visible(field) for field in fields)


async def list_tools(settings: Settings) -> int:
    """Print name, source, what policy says, description; tab-separated."""
    async with service_of(settings) as service:
        found = await service.list_tools(by=service.api_key_principal())
    if not found:
        print("No tools yet: they are listed once `opsagent up` or `work` has run.", file=sys.stderr)
    for tool in found:
        says = "auto" if tool.auto_execute else "ask" if tool.approval_required else "deny"
        source = f"{tool.spec.source}:{tool.spec.server}" if tool.spec.server else str(tool.spec.source)
        print(row(tool.spec.name, source, says, " ".join(tool.spec.description.split())))
    return 0


async def check_tools(settings: Settings) -> int:
    """Load every tool here and now; print what is wrong, and fail if anything is."""
    found = parts.tool_parts(settings)
    registry = Registry([found.mcp, *found.others])
    keeping = asyncio.create_task(registry.run())
    try:
        await registry.ready()
        problems = registry.problems()
        for tool in registry.tools():
            print(row("ok", tool.spec.name))
        for name, problem in problems.items():
            print(row("bad", name, problem))
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
    return 1 if problems else 0


async def reseal(settings: Settings) -> int:
    """Seal what is stored with the newest key."""
    async with service_of(settings) as service:
        count = await service.reseal_secrets(by=service.api_key_principal())
    print(f"{count} stored secrets were sealed anew with the newest key.")
    return 0


async def list_approvals(settings: Settings, *, status: str) -> int:
    """Print id, tool, arguments, who asks, the digest's start; tab-separated."""
    async with service_of(settings) as service:
        cursor = None
        while True:
            page = await service.list_approvals(by=service.api_key_principal(), status=status, cursor=cursor)
            for approval in page.items:
                args = json.dumps(approval.args)
                who = approval.requested_by.display_name or approval.requested_by.username
                print(row(str(approval.approval_id), approval.tool_name, args, who, approval.args_digest[:12]))
            cursor = page.next_cursor
            if cursor is None:
                return 0


async def decide(
    settings: Settings, approval_id: str, *, word: str, reason: str | None, digest: str | None, instead: str | None
) -> int:
    """Approve or reject, with a digest only what it names; whoever runs turns goes on with it."""
    found = _approval_id(approval_id)
    async with service_of(settings) as service:
        approval = await service.decide_approval(
            found,
            Decision(word),
            by=service.api_key_principal(),
            reason=reason,
            expected_digest=digest,
            instead=instead,
            door=Door.CLI,
        )
    print(row(approval.status, approval.tool_name))
    return 0


async def resolve(settings: Settings, approval_id: str, *, action: str, reason: str | None, result: str | None) -> int:
    """Say what became of a call whose outcome is unknown; one that runs again is run by whoever runs turns."""
    found = _approval_id(approval_id)
    async with service_of(settings) as service:
        by = service.api_key_principal()
        approval = await service.resolve_approval(
            found, Action(action), by=by, reason=reason, result=result, door=Door.CLI
        )
    print(row(approval.execution, approval.tool_name))
    return 0


async def cancel(settings: Settings, approval_id: str, *, reason: str | None) -> int:
    """End a request before anybody decides it."""
    found = _approval_id(approval_id)
    async with service_of(settings) as service:
        approval = await service.cancel_approval(found, by=service.api_key_principal(), reason=reason)
    print(row(approval.status, approval.tool_name))
    return 0


async def withdraw(settings: Settings, approval_id: str) -> int:
    """Take the operator's own vote back."""
    found = _approval_id(approval_id)
    async with service_of(settings) as service:
        approval = await service.withdraw_vote(found, by=service.api_key_principal())
    print(row(approval.status, approval.tool_name))
    return 0


async def extend(settings: Settings, approval_id: str, *, seconds: int) -> int:
    """Print until when people may decide now."""
    found = _approval_id(approval_id)
    async with service_of(settings) as service:
        approval = await service.extend_approval(found, seconds, by=service.api_key_principal())
    print(row(f"{approval.expires_at:%Y-%m-%dT%H:%M:%SZ}", approval.tool_name))
    return 0


async def reassign(settings: Settings, approval_id: str, *, approvers: list[str], reason: str | None) -> int:
    """Print who may decide now, a line each."""
    found = _approval_id(approval_id)
    async with service_of(settings) as service:
        by = service.api_key_principal()
        approval = await service.reassign_approval(found, approvers, by=by, reason=reason)
    for approver in approval.deciders:
        print(row(approver.kind, approver.id, approver.name))
    return 0


def _approval_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise CannotStart(f"{text!r} is no approval id: `opsagent approvals list` shows them.") from error


async def list_tokens(settings: Settings) -> int:
    """Print id, name, role, scopes, expiry, state; tab-separated."""
    async with service_of(settings) as service:
        cursor = None
        while True:
            page = await service.list_tokens(by=service.api_key_principal(), cursor=cursor)
            for token in page.items:
                state = "revoked" if token.revoked_at else "live"
                until = f"{token.expires_at:%Y-%m-%d}"
                print(row(str(token.token_id), token.name, token.role, ",".join(token.scopes), until, state))
            cursor = page.next_cursor
            if cursor is None:
                return 0


async def create_token(settings: Settings, name: str, *, scopes: tuple[str, ...], role: str, days: int) -> int:
    """Print the token: the only time anybody sees it."""
    async with service_of(settings) as service:
        made, secret = await service.create_token(
            by=service.api_key_principal(), name=name, scopes=scopes, role=Role(role), expires_in_days=days
        )
    print(f"{made.token_id} lives until {made.expires_at:%Y-%m-%d}; keep this, it is not shown again:", file=sys.stderr)
    print(secret)
    return 0


async def revoke_token(settings: Settings, token_id: str) -> int:
    try:
        found = UUID(token_id)
    except ValueError as error:
        raise CannotStart(f"{token_id!r} is no token id: `opsagent tokens list` shows them.") from error
    async with service_of(settings) as service:
        await service.revoke_token(found, by=service.api_key_principal())
    print("revoked")
    return 0


async def verify_audit(settings: Settings) -> int:
    """Print what the check found; fail where the log is not what was written."""
    async with service_of(settings) as service:
        verdict = await service.verify_audit(by=service.api_key_principal())
    where = "" if verdict.wrong is None else f" at entry {verdict.wrong}"
    print(f"ok: {verdict.entries} entries" if verdict.ok else f"BROKEN{where}: {verdict.reason}")
    return 0 if verdict.ok else 1


async def export_audit(settings: Settings) -> int:
    """Print every entry as one line of JSON, oldest first."""
    async with service_of(settings) as service:
        async for entry in service.export_audit(by=service.api_key_principal()):
            print(json.dumps(asdict(entry), default=str, sort_keys=True))
    return 0
