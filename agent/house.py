"""What the parts of the service share."""

import base64
import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from agent import users
from agent.approvals import grants, people
from agent.approvals.types import Approval, ApprovalStatus
from agent.endings import Endings
from agent.errors import Invalid, NotAllowed
from agent.events import Hub
from agent.identities import Identities
from agent.ports import Courier, DirectoryUnavailable, GroupDirectory, ProfileDirectory
from agent.run import Limits
from agent.sealing import Sealer
from agent.throttle import Throttle
from agent.tokens import Signer
from agent.tools.mcp_config import Keeping
from agent.types import ChatUser, Principal
from db.database import Database, Tx

FIRST = (datetime(9999, 1, 1, tzinfo=UTC), UUID(int=2**128 - 1))


@dataclass(frozen=True, slots=True)
class House:
    """The database, the hub, and what was configured."""

    database: Database
    hub: Hub
    endings: Endings
    limits: Limits
    signer: Signer
    identities: Identities
    throttle: Throttle
    sealer: Sealer
    keeping: Keeping = field(default_factory=Keeping)
    public_url: str = "http://127.0.0.1:8000"
    approvers: tuple[str, ...] = ()
    groups: GroupDirectory | None = None
    profiles: ProfileDirectory | None = None
    courier: Courier | None = None
    outsiders_may_chat: bool = False


class OutsidersMayNotChat(NotAllowed):
    code = "outsiders_may_not_chat"

    def __init__(self) -> None:
        super().__init__("Guests and people of other workspaces can't use opsagent here; ask an admin of it.")


class Disabled(NotAllowed):
    code = "disabled"


class Part:
    """A part of the service."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._database = house.database

    def api_key_principal(self) -> Principal:
        """The built-in admin whom the API key acts as."""
        return users.api_key_principal()

    async def principal_of_chat(self, user: ChatUser) -> Principal:
        """Return the user behind a chat identity, made on first contact."""
        async with self._database.transaction() as tx:
            return await users.of_chat(tx, user)

    def _admit(self, user: Principal) -> None:
        """Raise OutsidersMayNotChat for guests, bots and people of other workspaces, unless the operator lets them."""
        if user.external and not self._house.outsiders_may_chat:
            raise OutsidersMayNotChat

    async def _acting(self, tx: Tx, by: Principal | ChatUser) -> Principal:
        """Return who acts as their row stands now; raises Disabled."""
        found = await users.resolve(tx, by)
        if found.disabled:
            raise Disabled("Your account is disabled; ask an admin.")
        return found

    async def _shown(self, tx: Tx, *approvals: Approval) -> list[Approval]:
        """Return approvals as doors show them: with the people who may decide them, and the grants about them."""
        shown = await people.shown(tx, approvals, self._house.approvers)
        if not (approved := [a.approval_id for a in approvals if a.status is ApprovalStatus.APPROVED]):
            return shown
        found = await grants.of_approvals(tx, approved)
        return [replace(approval, sparing=found.get(approval.approval_id)) for approval in shown]


class BadCursor(Invalid):
    code = "bad_cursor"


def cursor_of(*values: Any) -> str:
    """Return the opaque cursor behind an item."""
    return base64.urlsafe_b64encode(json.dumps([str(value) for value in values]).encode()).decode().rstrip("=")


def before(cursor: str | None) -> tuple[datetime, UUID]:
    """Return the (time, id) that a page starts behind; raises BadCursor."""
    if cursor is None:
        return FIRST
    try:
        at, last = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        return datetime.fromisoformat(at).astimezone(UTC), UUID(last)
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise BadCursor("This cursor is not one that a list gave; start without one.") from error


def after(cursor: str | None) -> int:
    """Return the position that a page starts behind; raises BadCursor."""
    if cursor is None:
        return 0
    try:
        (position,) = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if not 0 <= int(position) < 2**63:
            raise ValueError("no position")
        return int(position)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise BadCursor("This cursor is not one that a list gave; start without one.") from error


__all__ = ["BadCursor", "DirectoryUnavailable", "Disabled", "House", "Part", "after", "before", "cursor_of"]
