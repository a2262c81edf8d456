"""The catalogue in the database: what tools there are, and which policy rows count for them."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from agent.approvals.policy import Row, Rule, When
from agent.errors import NotFound
from agent.tools.base import Source, ToolSpec
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
    specs = list(specs)
    for spec in specs:
        await tx.execute(
            sql.save,
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
    await tx.execute(sql.missing, [spec.tool_id for spec in specs], others_within_s)


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
    )
    return Listed(spec, row["status"] == "available")


async def rows(tx: Tx, tool_id: UUID, user_id: UUID) -> tuple[Row | None, Row | None]:
    """Return the default row and the user's own, as they stand in this transaction."""
    found = await tx.fetch(sql.rows, tool_id, user_id)
    return (
        next((_row(row) for row in found if row["user_id"] is None), None),
        next((_row(row) for row in found if row["user_id"] is not None), None),
    )


async def rows_of_user(tx: Tx, user_id: UUID) -> dict[UUID, tuple[Row | None, Row | None]]:
    """Return (default row, own row) for every tool that has one."""
    found: dict[UUID, tuple[Row | None, Row | None]] = {}
    for row in await tx.fetch(sql.rows_of_user, user_id):
        default, own = found.get(row["tool_id"], (None, None))
        found[row["tool_id"]] = (_row(row), own) if row["user_id"] is None else (default, _row(row))
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
        [{"args": when.args, "decision": when.decision} for when in rule.when],
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
        "rules": [{"args": when.args, "decision": when.decision} for when in rule.when],
    }


def _row(row: Any) -> Row:
    beneath = row["beneath"]
    return Row(rule=_rule(row), by_admin=row["by_admin"], beneath=_rule(beneath) if beneath else None)


def _rule(row: Any) -> Rule:
    return Rule(
        auto_execute=row["auto_execute"],
        approval_required=row["approval_required"],
        approvers=tuple(row["approvers"]) if row["approvers"] is not None else None,
        quorum=row["quorum"],
        four_eyes=row["four_eyes"],
        expires_in_s=row["expires_in_s"],
        when=tuple(When(when["args"], when["decision"]) for when in row["rules"] or ()),
    )
