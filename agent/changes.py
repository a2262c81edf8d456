"""The service's part for tools that their servers changed: who is asked about them, and what admins say."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from agent import audit, pins
from agent.accounts import AdminsOnly
from agent.audit import Kind
from agent.errors import Conflict
from agent.house import Part
from agent.pins import ChangedAgain
from agent.types import ChatUser, Person, Principal, Role
from db import queries
from db.database import Tx

sql = queries.load("changes")

LEASE_S = 60.0
QUIET_S = 600.0
"""Between two cards about one tool for one admin: a server can change a tool every second."""


class CardState(StrEnum):
    """How a change stands."""

    OPEN = "open"
    KEPT = "kept"
    ACCEPTED = "accepted"
    SUPERSEDED = "superseded"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class ChangeCard:
    """One admin's card about one change, leased to one presenter; `by` and `at` tell who decided it when."""

    tool_id: UUID
    schema_hash: str
    user_id: UUID
    chat_user: str
    server: str
    tool_name: str
    differences: dict[str, dict[str, Any]]
    state: CardState
    by: Person | None
    at: datetime | None
    ref: dict[str, Any] | None
    begun_before: bool
    attempts: int

    @property
    def key(self) -> tuple[UUID, str, UUID]:
        return self.tool_id, self.schema_hash, self.user_id


class AlreadyJudged(Conflict):
    code = "change_already_judged"


class Changes(Part):
    """Cards about changed tools. A card is only a view: the pin's row is what counts."""

    async def lease_change_cards(self, owner: UUID, *, limit: int = 20) -> list[ChangeCard]:
        """Take the cards that are to be posted or drawn anew; exclusive over all replicas for a minute."""
        async with self._database.transaction() as tx:
            await tx.execute(sql.expire)
            await tx.execute(sql.claim, QUIET_S)
            return [_card(row) for row in await tx.fetch(sql.lease, owner, LEASE_S, limit)]

    async def record_change_card(self, card: ChangeCard, owner: UUID, ref: dict[str, Any] | None) -> None:
        """Note that the card now shows what it was leased with."""
        async with self._database.connection() as connection:
            await connection.execute(sql.record, *card.key, owner, ref, card.state.value)

    async def retry_change_card(self, card: ChangeCard, owner: UUID, *, after_s: float) -> None:
        async with self._database.connection() as connection:
            await connection.execute(sql.retry, *card.key, owner, after_s)

    async def accept_change(self, tool_id: UUID, seen: str, *, by: Principal | ChatUser) -> None:
        """Take a tool out of quarantine exactly as the admin saw it."""
        async with self._database.transaction() as tx:
            admin = await self._judge(tx, by)
            server = await self._server_of(tx, tool_id)
            if not await pins.accept(tx, server, [tool_id], by=admin.user_id, seen={tool_id: seen}):
                raise AlreadyJudged("This tool is not in quarantine any more: somebody has accepted it.")
            data = {"server": server, "tool_id": tool_id, "schema_hash": seen}
            await audit.record(tx, Kind.TOOL_ACCEPTED, actor=admin.user_id, subject=tool_id, data=data)

    async def keep_quarantined(self, tool_id: UUID, seen: str, *, by: Principal | ChatUser) -> None:
        """Note that an admin saw the change and leaves the tool where it is; it can still be accepted."""
        async with self._database.transaction() as tx:
            admin = await self._judge(tx, by)
            server = await self._server_of(tx, tool_id)
            if await tx.fetchval(sql.keep, tool_id, seen, admin.user_id) is None:
                change = await pins.change(tx, tool_id)
                if change is not None and change.pending_hash != seen:
                    raise ChangedAgain("The server changed this tool again since you looked at it; look at it again.")
                raise AlreadyJudged("Somebody has decided this already.")
            data = {"server": server, "tool_id": tool_id, "schema_hash": seen}
            await audit.record(tx, Kind.TOOL_KEPT, actor=admin.user_id, subject=tool_id, data=data)

    async def _judge(self, tx: Tx, by: Principal | ChatUser) -> Principal:
        acting = await self._acting(tx, by)
        if acting.role is not Role.ADMIN or acting.external:
            raise AdminsOnly("Only an admin may decide about changed tools.")
        return acting

    async def _server_of(self, tx: Tx, tool_id: UUID) -> str:
        row = await tx.fetchrow(pins.sql.read, tool_id)
        if row is None:
            raise AlreadyJudged("This tool is gone: its server was removed.")
        return row["server"]


def _card(row: Any) -> ChangeCard:
    by = row["by_id"] and Person(row["by_id"], row["by_name"], row["by_display_name"], row["by_chat_user"])
    return ChangeCard(
        tool_id=row["tool_id"],
        schema_hash=row["schema_hash"],
        user_id=row["user_id"],
        chat_user=row["chat_user"],
        server=row["server"],
        tool_name=row["pending"]["name"],
        differences=pins.differences(row["accepted"], row["pending"]),
        state=CardState(row["state"]),
        by=by,
        at=row["at"],
        ref=row["ref"],
        begun_before=row["begun_before"],
        attempts=row["attempts"],
    )
