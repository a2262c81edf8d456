"""The service's part for grants: approvals that spare later ones."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import rfc8785

from agent import audit, events
from agent.approvals import grants, policy, store
from agent.approvals.grants import Grant, GrantNotFound, GrantRefused, Remember, Scope
from agent.approvals.types import Approval, ApprovalStatus, Seen
from agent.audit import Kind
from agent.errors import Conflict
from agent.house import Part, before, cursor_of
from agent.tools import catalogue
from agent.types import ChatUser, EventKind, Page, Principal, Role
from db.database import Tx


class AlreadyRevoked(Conflict):
    code = "already_revoked"


@dataclass(frozen=True, slots=True)
class Offer:
    """What somebody could have remembered with an approval: so long at most, and `matches` unless they may widen it."""

    longest_s: int
    scopes: tuple[Scope, ...]
    matches: dict[str, Any]
    may_widen: bool


class Remembering(Part):
    """Listing and revoking grants; they are given with an approval."""

    async def offer_to_remember(self, approval_id: UUID, *, by: Principal | ChatUser) -> Offer:
        """Return what approving this call could spare later ones; raises GrantRefused. Standing is asked for later."""
        async with self._database.transaction() as tx:
            person = await self._acting(tx, by)
            approval = await store.read(tx, approval_id)
            longest_s = await _longest(tx, approval)
        is_own = person.user_id == approval.requested_by.user_id
        scopes = (Scope.THREAD, Scope.ME) if is_own else (Scope.THREAD,)
        return Offer(longest_s, scopes, grants.exactly(approval.args), person.role is Role.ADMIN)

    async def list_grants(self, *, by: Principal, limit: int = 50, cursor: str | None = None) -> Page[Grant]:
        """Return grants, newest first: members see what they gave and what spares them questions, admins all."""
        mine = None if by.role is Role.ADMIN else by.user_id
        async with self._database.connection() as connection:
            found = await grants.page(connection, before=before(cursor), limit=limit + 1, of=mine)
        last = found[limit - 1] if len(found) > limit else None
        return Page(found[:limit], cursor_of(last.created_at, last.grant_id) if last else None)

    async def revoke_grant(
        self, grant_id: UUID, *, by: Principal | ChatUser, shown_on: UUID | None = None, seen: Seen | None = None
    ) -> Grant:
        """End a grant at once: who gave it, who profits from it, and admins may.

        The thread of `shown_on`, the approval on which they read of it, is told; else that of the one it came with.
        """
        async with self._database.transaction() as tx:
            told = shown_on or await tx.fetchval(grants.sql.given_with, grant_id)
            if told is None:
                raise GrantNotFound
            # The session's row before the grant's, as a call that is being let through takes them.
            await store.lock_session(tx, told)
            person = await self._acting(tx, by)
            if await tx.fetchval(grants.sql.lock, grant_id) is None:
                raise GrantNotFound
            grant = await grants.read(tx, grant_id)
            if person.role is not Role.ADMIN and person.user_id not in (
                grant.granted_by.user_id,
                grant.requester.user_id,
            ):
                raise GrantNotFound
            if await tx.fetchval(grants.sql.revoke, grant_id, person.user_id) is None:
                raise AlreadyRevoked("This grant was revoked before.")
            await _tell(tx, grant_id, await store.read(tx, told), seen)
            data = {"tool_name": grant.tool_name, "uses": grant.uses}
            await audit.record(tx, Kind.GRANT_REVOKED, actor=person.user_id, subject=grant_id, data=data)
            return await grants.read(tx, grant_id)


async def _tell(tx: Tx, grant_id: UUID, approval: Approval, seen: Seen | None) -> None:
    """Tell the thread of an approval that its grant is over; raises GrantNotFound where it has another, or none."""
    found = (await grants.of_approvals(tx, [approval.approval_id])).get(approval.approval_id)
    if found is None or found.grant_id != grant_id or (seen is not None and approval.session_id != seen.session_id):
        raise GrantNotFound
    data = {"approval_id": str(approval.approval_id), "grant_id": str(grant_id)}
    await events.append(tx, approval.session_id, EventKind.GRANT_REVOKED, data, turn_id=approval.turn_id)


async def _longest(tx: Tx, approval: Approval) -> int:
    """Return for how many seconds at most calls like this one may be spared; raises GrantRefused."""
    listed = await catalogue.read(tx, approval.tool_id)
    default, own = await catalogue.rows(tx, approval.tool_id, approval.requested_by.user_id)
    ruling = policy.rule_on(approval.args, read_only=listed.spec.read_only, default=default, own=own)
    if ruling.quorum > 1 or approval.quorum > 1:
        raise GrantRefused(f"{approval.tool_name} needs several approvals every time: nothing can be remembered.")
    if any(terms.doors is not None or terms.fresh_login_s is not None for terms in (ruling, approval)):
        raise GrantRefused(f"{approval.tool_name} is approved through certain doors alone: nothing can be remembered.")
    if not ruling.remember_max_s:
        raise GrantRefused(f"Policy asks for {approval.tool_name} every time: nothing can be remembered.")
    return ruling.remember_max_s


async def remember(tx: Tx, approval: Approval, wanted: Remember, person: Principal) -> tuple[UUID, dict[str, Any]]:
    """Write the grant that comes with an approval; return its id and what the audit entry says of it.

    Raises GrantRefused, and then nothing of the approval stands.
    """
    if approval.status is ApprovalStatus.REJECTED:
        raise GrantRefused("Only an approval can spare later ones; a rejection is for this call alone.")
    if approval.status is not ApprovalStatus.APPROVED:
        raise GrantRefused("This call needs more approvals than yours, so yours can't spare later ones.")
    if wanted.scope is Scope.ME and person.user_id != approval.requested_by.user_id:
        raise GrantRefused('"me" is for what you asked for yourself; use "thread" for somebody else\'s call.', "scope")
    longest_s = await _longest(tx, approval)
    if wanted.expires_in_s > longest_s:
        why = f"{longest_s} seconds is the most for {approval.tool_name}; ask for less."
        raise GrantRefused(why, "expires_in_s")
    matches = grants.schema(approval.args, wanted.args, widens=person.role is Role.ADMIN)
    grant_id = await grants.insert(tx, approval, wanted, matches, person.user_id)
    data = {
        "tool_name": approval.tool_name,
        "approval_id": approval.approval_id,
        "scope": wanted.scope.value,
        "requester": approval.requested_by.user_id,
        "args_schema_digest": store.digest(rfc8785.dumps(matches).decode()),
        "expires_in_s": wanted.expires_in_s,
    }
    return grant_id, data
