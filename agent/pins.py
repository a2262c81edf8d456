"""Pins: what was accepted of each server's tool; one that its server changed is in quarantine until accepted."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog

from agent import audit, events
from agent.approvals.types import ApprovalStatus
from agent.audit import Kind
from agent.errors import Conflict
from agent.tools import mcp_rows
from agent.tools.base import Source, ToolSpec
from agent.tools.mcp_rows import file_server_id
from agent.types import EventKind
from db import dispatch, queries
from db.database import Database, Tx

sql = queries.load("pins")
log = structlog.get_logger()

_CHANGED = "was changed by its server, so nobody can approve this call any more. It was not run."


class ChangedAgain(Conflict):
    """The server changed the tool once more while the admin was looking."""

    code = "changed_meanwhile"


@dataclass(frozen=True, slots=True)
class Change:
    """What was accepted of a tool and what its server says of it now, for whoever has to judge."""

    accepted: dict[str, Any]
    accepted_by: UUID | None
    accepted_at: datetime
    pending: dict[str, Any]
    pending_hash: str
    changed_at: datetime

    @property
    def differences(self) -> dict[str, dict[str, Any]]:
        return differences(self.accepted, self.pending)


def differences(accepted: dict[str, Any], pending: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return each part that differs, before and after."""
    parts = sorted(accepted.keys() | pending.keys())
    pairs = {part: {"before": accepted.get(part), "after": pending.get(part)} for part in parts}
    return {part: pair for part, pair in pairs.items() if pair["before"] != pair["after"]}


async def see(tx: Tx, specs: Iterable[ToolSpec], owners: dict[str, UUID]) -> list[ToolSpec]:
    """Pin what is seen for the first time; return what differs from its pin and is in quarantine from now on.

    `owners` are those who registered the servers; a server without one is of the operator's own file.
    """
    found = sorted((spec for spec in specs if spec.source is Source.MCP), key=lambda spec: spec.tool_id)
    pins = {row["tool_id"]: row for row in await tx.fetch(sql.of_tools, [spec.tool_id for spec in found])}
    new = [spec for spec in found if spec.tool_id not in pins]
    await tx.executemany(sql.accept_first, [_first(spec, owners.get(spec.server or "")) for spec in new])
    changed: list[ToolSpec] = []
    for spec in found:
        pin = pins.get(spec.tool_id)
        if pin is None:
            continue
        if (pin["pending_hash"] or pin["accepted_hash"]) != spec.schema_hash and await tx.fetchval(
            sql.quarantine, spec.tool_id, spec.schema_hash, _document(spec)
        ):
            changed.append(spec)
    for spec in changed:
        log.warning("tool.quarantined", tool=spec.name, server=spec.server)
        data = {"tool_name": spec.name, "server": spec.server, "schema_hash": spec.schema_hash}
        await audit.record(tx, Kind.TOOL_QUARANTINED, actor=None, subject=spec.tool_id, data=data)
    return changed


async def note_address(tx: Tx, server: str, transport: str, address_hash: str) -> None:
    """Note where a server of the operator's file is, before it is connected; one that moved voids what was approved."""
    if await tx.fetchval(mcp_rows.sql.file_server_moved, server, address_hash):
        log.warning("mcp.moved", server=server)
        await tx.execute(sql.accept_anew, server, None)
        data = {"name": server, "transport": transport, "moved": True}
        await audit.record(tx, Kind.SERVER_CHANGED, actor=None, subject=file_server_id(server), data=data)


def _first(spec: ToolSpec, owner: UUID | None) -> tuple[Any, ...]:
    return spec.tool_id, spec.server or "", spec.schema_hash, _document(spec), owner


def _document(spec: ToolSpec) -> dict[str, Any]:
    return {
        "name": spec.original_name,
        "description": spec.description,
        "input_schema": spec.input_schema,
        "output_schema": spec.output_schema,
        "annotations": spec.annotations,
    }


async def change(tx: Tx, tool_id: UUID) -> Change | None:
    """Return what an admin has to judge of a tool, or None where nothing changed."""
    row = await tx.fetchrow(sql.read, tool_id)
    if row is None or row["pending"] is None:
        return None
    return Change(
        row["accepted"],
        row["accepted_by"],
        row["accepted_at"],
        row["pending"],
        row["pending_hash"],
        row["changed_at"],
    )


async def changed_by_server(tx: Tx) -> dict[str, list[UUID]]:
    return {row["server"]: list(row["tool_ids"]) for row in await tx.fetch(sql.changed_by_server)}


async def accept(
    tx: Tx, server: str, tool_ids: list[UUID] | None, *, by: UUID, seen: dict[UUID, str] | None = None
) -> list[UUID]:
    """Accept a server's changed tools, all or those named; `seen` are the hashes that the admin looked at."""
    changed = {row["tool_id"]: row["pending_hash"] for row in await tx.fetch(sql.lock_changed, server)}
    wanted = [tool_id for tool_id in changed if tool_ids is None or tool_id in tool_ids]
    for tool_id, schema_hash in (seen or {}).items():
        if changed.get(tool_id, schema_hash) != schema_hash:
            raise ChangedAgain("The server changed this tool again since you looked at it; look at it again.")
    return [row["tool_id"] for row in await tx.fetch(sql.accept, wanted, by)]


async def cancel_stranded(database: Database) -> int:
    """Cancel the approvals that wait for tools in quarantine, or for a server that has moved: one thread at a time."""
    async with database.connection() as connection:
        stranded = await connection.fetch(sql.pending_approvals)
    cancelled = 0
    for row in stranded:
        async with database.transaction() as tx:
            if not await tx.fetchval(dispatch.sql.try_lock_session, row["session_id"]):
                continue  # somebody is at work there: the next round finds it again
            ended = await tx.fetchrow(sql.cancel_approval, row["approval_id"], f"The tool {_CHANGED}")
            if ended is None:
                continue
            data = {"approval_id": str(row["approval_id"]), "status": ApprovalStatus.CANCELLED.value}
            await events.append(tx, row["session_id"], EventKind.APPROVAL_CHANGED, data, turn_id=ended["turn_id"])
            await dispatch.wake(tx, row["session_id"])
            settled = {"status": ApprovalStatus.CANCELLED.value, "tool_name": ended["tool_name"]}
            await audit.record(tx, Kind.APPROVAL_SETTLED, actor=None, subject=row["approval_id"], data=settled)
            cancelled += 1
    return cancelled
