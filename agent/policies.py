"""The service's part for policy as a whole: what it would say of a call, and its rows."""

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from agent import audit, users
from agent.accounts import AdminsOnly
from agent.approvals import policy, reasons, store
from agent.approvals.policy import Look, Row, Ruling
from agent.approvals.types import InvalidArguments
from agent.audit import Kind
from agent.errors import Invalid, NotFound
from agent.house import Part, before, cursor_of
from agent.toolbox import PolicyNotYours
from agent.tools import catalogue
from agent.tools.catalogue import Listed, ToolNotFound
from agent.tools.registry import validate
from agent.types import Page, Principal, Role
from agent.users import UserNotFound
from db import queries
from db.database import Tx

sql = queries.load("policies")


@dataclass(frozen=True, slots=True)
class Simulated:
    """What would come of a call: what policy says and why, and what would refuse it whatever policy says."""

    tool_id: UUID
    tool_name: str
    user_id: UUID
    username: str
    ruling: Ruling
    decided_by: Look
    reasons: tuple[str, ...]
    refused: str | None


@dataclass(frozen=True, slots=True)
class StoredRow:
    """A policy row as admins see it."""

    policy_id: UUID
    tool_id: UUID
    tool_name: str
    user_id: UUID | None
    username: str | None
    row: Row
    created_at: datetime
    updated_at: datetime


class NoSuchPolicy(NotFound):
    code = "policy_not_found"


class OneOfTwo(Invalid):
    code = "one_of_two"


class Policies(Part):
    """Explaining policy, and looking after its rows."""

    async def simulate_policy(
        self,
        args: dict[str, Any],
        *,
        by: Principal,
        tool_id: UUID | None = None,
        tool_name: str | None = None,
        user_id: UUID | None = None,
        username: str | None = None,
    ) -> Simulated:
        """Return what policy would say of a call, and why; nothing changes.

        Raises InvalidArguments where the call would be refused for its arguments.
        """
        if (tool_id is None) == (tool_name is None):
            raise OneOfTwo("Name the tool either by `tool_id` or by `tool_name`.")
        if user_id is not None and username is not None:
            raise OneOfTwo("Name the user either by `user_id` or by `username`.")
        async with self._database.connection() as connection:
            user = await self._whose(connection, await self._acting(connection, by), user_id, username)
            listed = await self._tool(connection, tool_id, tool_name)
            given = _checked(listed, args)
            default, own = await catalogue.rows(connection, listed.spec.tool_id, user.user_id)
        found = policy.explain(
            given,
            read_only=listed.spec.read_only,
            default=default,
            own=own,
            default_expiry_s=self._house.limits.approval_expires_s,
        )
        refused = f"{user.username} is disabled." if user.disabled else listed.refusal
        said = reasons.reasons(found)
        return Simulated(
            tool_id=listed.spec.tool_id,
            tool_name=listed.spec.name,
            user_id=user.user_id,
            username=user.username,
            ruling=found.ruling,
            decided_by=found.decided_by,
            reasons=(f"The call would be refused, whatever policy says: {refused}", *said) if refused else said,
            refused=refused,
        )

    async def _whose(self, tx: Tx, acting: Principal, user_id: UUID | None, username: str | None) -> Principal:
        is_own = user_id in (None, acting.user_id) and (username or acting.username).lower() == acting.username.lower()
        if is_own:
            return acting
        if acting.role is not Role.ADMIN:
            raise PolicyNotYours("Only an admin may ask for others; leave the user out to ask for yourself.")
        found = user_id or await tx.fetchval(sql.user_named, username)
        if found is None:
            raise UserNotFound
        return await users.read(tx, found)

    async def _tool(self, tx: Tx, tool_id: UUID | None, tool_name: str | None) -> Listed:
        found = tool_id or await tx.fetchval(sql.tool_named, tool_name)
        if found is None:
            raise ToolNotFound
        return await catalogue.read(tx, found)

    async def list_policies(
        self,
        *,
        by: Principal,
        tool_id: UUID | None = None,
        user_id: UUID | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[StoredRow]:
        """Return policy rows, newest first."""
        place = (*before(cursor), limit + 1)
        async with self._database.connection() as connection:
            _only_admins(await self._acting(connection, by))
            if user_id is not None:
                rows = await connection.fetch(sql.list_of_user, *place, user_id, tool_id)
            elif tool_id is not None:
                rows = await connection.fetch(sql.list_of_tool, *place, tool_id)
            else:
                rows = await connection.fetch(sql.list, *place)
        found = [_stored(row) for row in rows[:limit]]
        more = len(rows) > limit
        return Page(found, cursor_of(found[-1].created_at, found[-1].policy_id) if more else None)

    async def delete_policy(self, policy_id: UUID, *, by: Principal) -> None:
        """Take a row away: what counts without it counts again.

        Of a user's own row over an admin's, the admin's stays.
        """
        async with self._database.transaction() as tx:
            admin = await self._acting(tx, by)
            _only_admins(admin)
            await tx.execute(catalogue.sql.lock, (await _read(tx, policy_id)).tool_id)
            found = await _read(tx, policy_id)
            if found.row.beneath is not None:
                spec = (await catalogue.read(tx, found.tool_id)).spec
                await catalogue.save_row(
                    tx, spec, found.row.beneath, user_id=found.user_id, by_admin=True, beneath=None
                )
            else:
                await tx.execute(sql.delete, policy_id)
            data = {"tool_name": found.tool_name, "user_id": found.user_id, "rule": asdict(found.row.rule)}
            await audit.record(tx, Kind.POLICY_DELETED, actor=admin.user_id, subject=found.tool_id, data=data)


def _only_admins(acting: Principal) -> None:
    if acting.role is not Role.ADMIN:
        raise AdminsOnly("Only an admin may see and delete policy rows.")


def _checked(listed: Listed, args: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments as the real path reads them; raises InvalidArguments."""
    try:
        given: dict[str, Any] = json.loads(store.canonical(args))
        wrong = validate(listed.spec, given)
    except InvalidArguments as error:
        wrong = error.message
        given = {}
    if wrong is not None:
        raise InvalidArguments(f"The call would be refused for its arguments, before policy is asked: {wrong}")
    return given


async def _read(tx: Tx, policy_id: UUID) -> StoredRow:
    row = await tx.fetchrow(sql.read, policy_id)
    if row is None:
        raise NoSuchPolicy("There is no such policy row.")
    return _stored(row)


def _stored(row: Any) -> StoredRow:
    return StoredRow(
        policy_id=row["id"],
        tool_id=row["tool_id"],
        tool_name=row["tool_name"],
        user_id=row["user_id"],
        username=row["username"],
        row=catalogue.row_of(row),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )
