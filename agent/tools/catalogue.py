"""The catalogue in the database: what tools there are, and which policy rows count for them."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

from agent.approvals.conditions import When
from agent.approvals.policy import Row, Rule
from agent.approvals.types import Door
from agent.errors import Conflict, NotFound
from agent.tools.base import Source, ToolSpec
from agent.tools.registry import Governed
from db import queries
from db.database import Tx

sql = queries.load("tools")


class ToolNotFound(NotFound):
    code = "tool_not_found"

    def __init__(self) -> None:
        super().__init__("There is no such tool.")


@dataclass(frozen=True, slots=True)
class Listed:
    """A tool as the catalogue has it; `available` says whether some process offers it now."""

    spec: ToolSpec
    available: bool
    enabled: bool = True
    accepted_hash: str | None = None
    is_changed: bool = False

    @property
    def status(self) -> str:
        """available, unavailable, disabled (by an admin) or quarantined (its server changed it)."""
        if not self.enabled:
            return "disabled"
        if self.is_changed:
            return "quarantined"
        return "available" if self.available else "unavailable"

    @property
    def refusal(self) -> str | None:
        return _refusal(self.spec, enabled=self.enabled, accepted=self.accepted_hash, is_changed=self.is_changed)


class ToolWithheld(Conflict):
    """The tool is disabled or in quarantine."""

    code = "tool_withheld"


@dataclass(frozen=True, slots=True)
class Usage:
    """How a tool fared in its last 1,000 calls."""

    calls: int = 0
    last_used_at: datetime | None = None
    failures: int = 0


@dataclass(frozen=True, slots=True)
class ToolApproval:
    """A stored policy row, as an answer to whoever set it."""

    tool_id: UUID
    tool_name: str
    user_id: UUID | None
    rule: Rule
    updated_at: datetime


async def publish(tx: Tx, specs: Iterable[ToolSpec], *, others_within_s: float) -> None:
    """Write what this process offers; what no process has offered for so long is no longer available."""
    # In one order, so that two replicas don't wait for each other's rows.
    specs = sorted(specs, key=lambda spec: spec.tool_id)
    await tx.executemany(sql.save, [_columns(spec) for spec in specs])
    await tx.execute(sql.missing, [spec.tool_id for spec in specs], others_within_s)


def _columns(spec: ToolSpec) -> tuple[Any, ...]:
    return (
        spec.tool_id,
        spec.name,
        spec.original_name,
        spec.description,
        spec.source.value,
        spec.server,
        spec.input_schema,
        spec.schema_hash,
        spec.annotations,
        spec.read_only,
        spec.idempotent,
    )


async def withheld(tx: Tx, spec: ToolSpec, *, since: datetime | None = None) -> str | None:
    """Return why the tool may not be called as it is now, from its rows; `since` is when a person approved of it."""
    row = await tx.fetchrow(sql.standing, spec.tool_id)
    if row is None:
        # A tool of ours needs nobody's word; a server's may not run before it was accepted once.
        return _refusal(spec, enabled=True, accepted=None, is_changed=False)
    if since is not None and row["accepted_at"] is not None and row["accepted_at"] > since:
        return f"{spec.name} was accepted anew after this call was asked for. Ask again."
    return _refusal(spec, enabled=row["enabled"], accepted=row["accepted_hash"], is_changed=row["is_changed"])


def _refusal(spec: ToolSpec, *, enabled: bool, accepted: str | None, is_changed: bool) -> str | None:
    if not enabled:
        return f"{spec.name} is switched off by an admin."
    if spec.source is not Source.MCP:
        return None
    if is_changed or (accepted is not None and accepted != spec.schema_hash):
        return f"{spec.name} was changed by its server and is in quarantine until an admin accepts the change."
    return None if accepted is not None else f"{spec.name} is new and not in the catalogue yet: try again in a moment."


async def usage(tx: Tx, tool_ids: list[UUID]) -> dict[UUID, Usage]:
    """Return how the tools fared."""
    found = await tx.fetch(sql.usage, tool_ids)
    return {row["tool_id"]: Usage(row["calls"], row["last_used_at"], row["failures"]) for row in found}


async def governance(tx: Tx) -> dict[UUID, Governed]:
    """Return what a process must know of tools beside what it offers itself."""
    return {
        row["tool_id"]: Governed(
            enabled=row["enabled"],
            name=row["given_name"],
            description=row["given_description"],
            redact=tuple(row["redact"]),
            accepted_hash=row["accepted_hash"],
            is_changed=row["is_changed"],
        )
        for row in await tx.fetch(sql.governance)
    }


async def read_all(tx: Tx) -> list[Listed]:
    return [_listed(row) for row in await tx.fetch(sql.list)]


async def read(tx: Tx, tool_id: UUID) -> Listed:
    row = await tx.fetchrow(sql.read, tool_id)
    if row is None:
        raise ToolNotFound
    return _listed(row)


def _listed(row: Any) -> Listed:
    spec = ToolSpec(
        tool_id=row["tool_id"],
        name=row["name"],
        original_name=row["original_name"],
        description=row["description"],
        source=Source(row["source"]),
        server=row["server"],
        input_schema=row["input_schema"],
        schema_hash=row["schema_hash"],
        annotations=row["annotations"],
        read_only=row["read_only"],
        idempotent=row["idempotent"],
        redact=tuple(row["redact"]),
    )
    return Listed(
        spec,
        available=row["status"] == "available",
        enabled=row["enabled"],
        accepted_hash=row["accepted_hash"],
        is_changed=row["is_changed"],
    )


async def rows(tx: Tx, tool_id: UUID, user_id: UUID) -> tuple[Row | None, Row | None]:
    """Return the default row and the user's own, as they stand in this transaction."""
    found = await tx.fetch(sql.rows, tool_id, user_id)
    return (
        next((row_of(row) for row in found if row["user_id"] is None), None),
        next((row_of(row) for row in found if row["user_id"] is not None), None),
    )


async def rows_of_user(tx: Tx, user_id: UUID) -> dict[UUID, tuple[Row | None, Row | None]]:
    """Return (default row, own row) for every tool that has one."""
    found: dict[UUID, tuple[Row | None, Row | None]] = {}
    for row in await tx.fetch(sql.rows_of_user, user_id):
        default, own = found.get(row["tool_id"], (None, None))
        found[row["tool_id"]] = (row_of(row), own) if row["user_id"] is None else (default, row_of(row))
    return found


async def save_row(
    tx: Tx, spec: ToolSpec, rule: Rule, *, user_id: UUID | None, by_admin: bool, beneath: Rule | None
) -> datetime:
    values = (
        spec.tool_id,
        spec.name,
        rule.auto_execute,
        rule.approval_required,
        list(rule.approvers) if rule.approvers is not None else None,
        rule.quorum,
        rule.four_eyes,
        rule.expires_in_s,
        _written(rule.when),
        list(rule.doors) if rule.doors is not None else None,
        rule.fresh_login_s,
        rule.remind_after_s,
        rule.escalate_after_s,
        list(rule.escalate_to) if rule.escalate_to else None,
        rule.remember_max_s,
    )
    if user_id is None:
        return await tx.fetchval(sql.save_default, *values)
    return await tx.fetchval(sql.save_of_user, *values, user_id, by_admin, _beneath(beneath))


def _beneath(rule: Rule | None) -> dict[str, Any] | None:
    if rule is None:
        return None
    return {
        "auto_execute": rule.auto_execute,
        "approval_required": rule.approval_required,
        "approvers": list(rule.approvers) if rule.approvers is not None else None,
        "quorum": rule.quorum,
        "four_eyes": rule.four_eyes,
        "expires_in_s": rule.expires_in_s,
        "doors": list(rule.doors) if rule.doors is not None else None,
        "fresh_login_s": rule.fresh_login_s,
        "rules": _written(rule.when),
        "remind_after_s": rule.remind_after_s,
        "escalate_after_s": rule.escalate_after_s,
        "escalate_to": list(rule.escalate_to) if rule.escalate_to else None,
        "remember_max_s": rule.remember_max_s,
    }


def _written(conditions: tuple[When, ...]) -> list[dict[str, Any]]:
    return [{"args": when.args, "decision": when.decision} for when in conditions]


def row_of(row: Any) -> Row:
    """Return a policy row from a record with its JSON as text."""
    return Row(
        rule=_rule(row, _conditions(row["rules"])),
        by_admin=row["by_admin"],
        beneath=_beneath_of(row["beneath"]) if row["beneath"] else None,
    )


# Keyed by the row's own text, so a changed row is another one: parsed and compiled once while it stays as it is.
@lru_cache(maxsize=64)
def _conditions(text: str | None) -> tuple[When, ...]:
    return tuple(When(when["args"], when["decision"]) for when in (json.loads(text) if text else None) or ())


@lru_cache(maxsize=64)
def _beneath_of(text: str) -> Rule:
    found = json.loads(text)
    known = {"doors": None, "fresh_login_s": None, **found}  # rows of earlier releases have neither
    return _rule(known, tuple(When(when["args"], when["decision"]) for when in found["rules"] or ()))


def _rule(row: Any, conditions: tuple[When, ...]) -> Rule:
    return Rule(
        auto_execute=row["auto_execute"],
        approval_required=row["approval_required"],
        approvers=tuple(row["approvers"]) if row["approvers"] is not None else None,
        quorum=row["quorum"],
        four_eyes=row["four_eyes"],
        expires_in_s=row["expires_in_s"],
        doors=tuple(Door(door) for door in row["doors"]) if row["doors"] is not None else None,
        fresh_login_s=row["fresh_login_s"],
        when=conditions,
        # A rule kept beneath another since before these were known has none of them.
        remind_after_s=row.get("remind_after_s"),
        escalate_after_s=row.get("escalate_after_s"),
        escalate_to=tuple(row.get("escalate_to") or ()) or None,
        remember_max_s=row.get("remember_max_s"),
    )
