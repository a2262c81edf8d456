"""The service's part for approvals."""

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypedDict
from uuid import UUID, uuid4

from agent import audit, conversations, events, sessions, turns, users
from agent.approvals import doors, policy, store
from agent.approvals.grants import Remember
from agent.approvals.policy import Ruling, Verdict
from agent.approvals.store import ApprovalNotFound
from agent.approvals.types import (
    Approval,
    ApprovalStatus,
    ChangedMeanwhile,
    Decision,
    DeniedByPolicy,
    Door,
    InvalidArguments,
    NotAnApprover,
)
from agent.audit import Kind
from agent.errors import Invalid
from agent.house import FIRST, Part, before, cursor_of
from agent.ports import DirectoryUnavailable
from agent.remembering import remember as write_grant
from agent.tools import catalogue
from agent.tools.catalogue import Listed, ToolWithheld
from agent.tools.registry import validate
from agent.types import ChatUser, EventKind, Page, Principal, Role, Turn
from db import dispatch
from db.database import Tx

REASON_LIMIT = 2_000


class BadStatus(Invalid):
    code = "bad_status"


class ReasonTooLong(Invalid):
    code = "reason_too_long"


class OnlyWithReject(Invalid):
    code = "only_with_reject"


class Came(TypedDict):
    """How a decision came in."""

    door: Door | None
    login_at: datetime | None


class _KeyTaken(Exception):
    """Another request was stored under this idempotency key meanwhile."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """A call that somebody asks for without the model."""

    tool_id: UUID
    args: dict[str, Any]
    canonical: str
    session_id: UUID | None
    reason: str | None
    key: str | None


def require_short(reason: str | None) -> None:
    """Raise ReasonTooLong for a reason that nobody would read."""
    if reason is not None and len(reason) > REASON_LIMIT:
        raise ReasonTooLong(f"The reason has {len(reason)} characters; {REASON_LIMIT} is the most.")


class Decisions(Part):
    """Reading, deciding and asking for approvals."""

    async def list_approvals(
        self, *, by: Principal, status: str = "pending", limit: int = 50, cursor: str | None = None
    ) -> Page[Approval]:
        """Return approvals, newest first: members see their own, approvers also what they may decide, admins all."""
        try:
            wanted = ApprovalStatus(status)
        except ValueError as error:
            names = ", ".join(ApprovalStatus)
            raise BadStatus(f"There is no status {status!r}; it is one of {names}.") from error
        start = before(cursor) if cursor else FIRST
        async with self._database.connection() as connection:
            wide = by.role is not Role.MEMBER or await self._may_decide_somewhere(connection, by, wanted)
            mine = None if wide else by.user_id
            found = await store.list_by_status(connection, wanted, before=start, limit=limit + 1, requester=mine)
        visible = [approval for approval in found[:limit] if await self._visible(approval, by)]
        last = found[limit - 1] if len(found) > limit else None
        async with self._database.connection() as connection:
            shown = await self._shown(connection, *visible)
        return Page(shown, cursor_of(last.created_at, last.approval_id) if last else None)

    async def _may_decide_somewhere(self, tx: Tx, by: Principal, status: ApprovalStatus) -> bool:
        # A member may be named for one tool alone, or be in a group; what they may not see is filtered one by one.
        if by.chat_user is not None or by.username.lower() in {name.lower() for name in self._house.approvers}:
            return True
        names = [by.username.lower(), f"{policy.ROLE_PREFIX}{by.role}"]
        return await tx.fetchval(store.sql.names_somebody, status.value, names)

    async def _visible(self, approval: Approval, by: Principal) -> bool:
        if by.role is Role.ADMIN or approval.requested_by.user_id == by.user_id:
            return True
        return policy.has_standing(
            by, approval, approvers=self._house.approvers, groups=await self._groups(approval, by, fail=False)
        )

    async def _groups(self, approval: Approval, by: Principal, *, fail: bool = True) -> dict[str, frozenset[str]]:
        """Return the user groups on which this person's standing depends, fresh; never inside a transaction."""
        entries = policy.entries(approval, self._house.approvers)
        if by.chat_user is None or policy.has_standing(by, approval, approvers=self._house.approvers, groups={}):
            return {}
        try:
            return await users.fresh_groups(self._database, self._house.groups, policy.groups_needed(entries))
        except DirectoryUnavailable as error:
            if not fail:
                return {}
            raise NotAnApprover("Slack can't be asked who may decide this just now; try again in a moment.") from error

    async def read_approval(self, approval_id: UUID, *, by: Principal | None) -> Approval:
        """Return an approval; `by` None is a door's own presenter."""
        async with self._database.connection() as connection:
            (found,) = await self._shown(connection, await store.read(connection, approval_id))
        if by is not None and not await self._visible(found, by):
            raise ApprovalNotFound
        return found

    async def note_shown(
        self, approval_id: UUID, *, door: str, form: str, args_digest: str, rendered_digest: str, to: ChatUser | None
    ) -> None:
        """Write down what a door showed of a call that waits: once for each thing that it looked like, and for each
        person where only one saw it."""
        data = {"door": door, "form": form, "args_digest": args_digest, "rendered_digest": rendered_digest}
        async with self._database.transaction() as tx:
            seen_by = (await users.of_chat(tx, to)).user_id if to else None
            await audit.record_once(tx, Kind.APPROVAL_SHOWN, actor=seen_by, subject=approval_id, data=data)

    async def decide_approval(
        self,
        approval_id: UUID,
        decision: Decision,
        *,
        by: Principal | ChatUser,
        reason: str | None = None,
        args: dict[str, Any] | None = None,
        expected_digest: str | None = None,
        within: UUID | None = None,
        door: Door | None = None,
        login_at: datetime | None = None,
        exactly: bool = False,
        instead: str | None = None,
        remember: Remember | None = None,
    ) -> Approval:
        """Cast a vote, and settle the approval where it settles it; its call runs at once, whatever its siblings do.

        `within` is the session that the decision was made in: an approval of another one is not found there. `door` is
        where the person came in, `login_at` when they last entered a password there: what is not said counts as
        neither, wherever the rule asks for it. With a rejection, `instead` becomes the thread's next message, by
        whoever rejected; with an approval, `remember` spares later calls like it the question.
        """
        require_short(reason)
        if instead is not None:
            if decision is not Decision.REJECT:
                raise OnlyWithReject("`instead` goes with a rejection: approve the call, or say what to do instead.")
            instead = conversations.checked(instead)
        voter, groups = await self._prepare(approval_id, by)
        async with self._database.transaction() as tx:
            await store.lock_session(tx, approval_id)
            approval = await store.read(tx, approval_id)
            if within is not None and approval.session_id != within:
                raise ApprovalNotFound
            person = await self._acting(tx, voter)
            standing = policy.has_standing(person, approval, approvers=self._house.approvers, groups=groups)
            # Who may not decide, or comes too late, hears that before anything is said about edited arguments.
            now = await store.clock(tx)
            came: Came = {"door": door, "login_at": login_at}
            settled = policy.settle(approval, decision, by=person, standing=standing, now=now, reason=reason, **came)
            doors.check(approval, decision, at=now, **came)
            stale = expected_digest is not None and not approval.args_digest.startswith(expected_digest)
            # A rejection stops the call whatever its arguments are by now, unless it says of which it speaks.
            if stale and (decision is Decision.APPROVE or exactly):
                raise ChangedMeanwhile("The arguments were changed since you saw them; look at them again.")
            if args is not None and decision is Decision.APPROVE:
                edited = await self._edited(tx, approval, args)
                settled = policy.settle(edited, decision, by=person, standing=standing, now=now, reason=reason, **came)
            await store.save(tx, approval, settled)
            data = {"approval_id": str(approval_id), "status": settled.status.value}
            await events.append(tx, approval.session_id, EventKind.APPROVAL_CHANGED, data, turn_id=approval.turn_id)
            said = None if instead is None else await self._say_instead(tx, settled, person, instead)
            if settled.is_settled:
                await dispatch.wake(tx, approval.session_id)
            granted = await write_grant(tx, settled, remember, person) if remember is not None else None
            await self._note(tx, person, settled, decision, reason, door, instead=said)
            if granted is not None:
                grant_id, given = granted
                await audit.record(tx, Kind.GRANT_CREATED, actor=person.user_id, subject=grant_id, data=given)
        # Behind the commit: the call is on its way meanwhile.
        async with self._database.connection() as connection:
            (shown,) = await self._shown(connection, settled)
        return shown

    async def _say_instead(self, tx: Tx, rejected: Approval, person: Principal, text: str) -> UUID:
        """Queue what the rejecter wants instead as a message of theirs; the rejection itself makes it count once."""
        self._admit(person)
        await sessions.lock(tx, rejected.session_id)
        turn = await turns.insert(
            tx,
            turn_id=uuid4(),
            session_id=rejected.session_id,
            requester_id=person.user_id,
            text=text,
            event_key=f"instead:{rejected.approval_id}",
        )
        assert turn is not None  # an approval is settled once
        waits = bool(await store.of_turn(tx, rejected.turn_id))
        more = {"instead_of": str(rejected.approval_id)}
        if person.chat_user is not None:
            more["chat"] = person.chat_user
        await conversations.tell_queued(tx, turn, person, waits=waits, **more)
        return turn.turn_id

    async def _note(
        self,
        tx: Tx,
        person: Principal,
        settled: Approval,
        decision: Decision,
        reason: str | None,
        door: Door | None,
        *,
        instead: UUID | None,
    ) -> None:
        kind = Kind.APPROVAL_SETTLED if settled.is_settled else Kind.APPROVAL_VOTED
        data = {
            "decision": decision.value,
            "status": settled.status.value,
            "tool_name": settled.tool_name,
            "args_digest": settled.args_digest,
            "reason": reason,
            "door": door,
            "instead_turn": instead,
        }
        await audit.record(tx, kind, actor=person.user_id, subject=settled.approval_id, data=data)

    async def _prepare(
        self, approval_id: UUID, by: Principal | ChatUser
    ) -> tuple[Principal, dict[str, frozenset[str]]]:
        """Ask the chat platform, before any lock, what must be known of a voter."""
        async with self._database.connection() as connection:
            voter = await self._acting(connection, by)
            if voter.chat_user is None:
                return voter, {}
            approval = await store.read(connection, approval_id)
        try:
            await users.refresh_profile(self._database, self._house.profiles, voter.user_id)
        except DirectoryUnavailable as error:
            # Fail closed: they may be a guest, and guests never decide.
            raise NotAnApprover("Slack can't be asked who you are just now; try again in a moment.") from error
        return voter, await self._groups(approval, voter)

    async def _edited(self, tx: Tx, approval: Approval, args: dict[str, Any]) -> Approval:
        """Return the approval with other arguments, under a new digest: votes for the old ones count no more."""
        listed = await catalogue.read(tx, approval.tool_id)
        canonical = store.canonical(args)
        if (wrong := validate(listed.spec, args)) is not None:
            raise InvalidArguments(wrong)
        default, own = await catalogue.rows(tx, approval.tool_id, approval.requested_by.user_id)
        ruling = policy.rule_on(args, read_only=listed.spec.read_only, default=default, own=own)
        if ruling.verdict is Verdict.DENY:
            raise DeniedByPolicy(f"Policy denies {approval.tool_name} with these arguments.")
        return replace(approval, args=args, args_digest=store.digest(canonical))

    async def ask_approval(
        self,
        tool_id: UUID,
        args: dict[str, Any],
        *,
        by: Principal,
        session_id: UUID | None = None,
        reason: str | None = None,
        idempotency_key: str | None = None,
    ) -> Approval:
        """Ask for a call without the model: it runs once it is approved, and its result is on the approval."""
        asked = _Asked(tool_id, args, store.canonical(args), session_id, reason, idempotency_key)
        try:
            return await self._ask(asked, by)
        except _KeyTaken:
            # Another request with this key came in between: what we wrote is rolled back, and theirs is there by now.
            return await self._ask(asked, by)

    async def _ask(self, asked: _Asked, by: Principal) -> Approval:
        body = [str(asked.tool_id), asked.canonical, str(asked.session_id or ""), asked.reason or ""]
        digest = store.digest(json.dumps(body))
        async with self._database.transaction() as tx:
            user = await self._acting(tx, by)
            self._admit(user)
            listed, ruling = await self._permitted(tx, asked, user)
            if asked.key and (first := await turns.by_key(tx, event_key=asked.key, message_key=None, digest=digest)):
                return (await self._shown(tx, await store.of_single_turn(tx, first.turn_id)))[0]
            session_id = asked.session_id
            if session_id is None:
                made = await sessions.create(
                    tx, user_id=user.user_id, title=listed.spec.name, source="approval", expires_in_s=None
                )
                session_id = made.session_id
            sessions.visible(await sessions.lock(tx, session_id), user)
            turn = await turns.insert(
                tx,
                turn_id=uuid4(),
                session_id=session_id,
                requester_id=user.user_id,
                text=f"{listed.spec.name} {asked.canonical}",
                kind="call",
                event_key=asked.key,
                digest=digest,
            )
            if turn is None:
                raise _KeyTaken
            approval_id = await self._open(tx, asked, turn, listed, ruling)
            await dispatch.wake(tx, session_id)
            (approval,) = await self._shown(tx, await store.read(tx, approval_id))
            data = {"tool_name": listed.spec.name, "args_digest": approval.args_digest, "status": approval.status.value}
            if approval.unsandboxed is not None:
                data["unsandboxed"] = approval.unsandboxed
            await audit.record(tx, Kind.APPROVAL_OPENED, actor=user.user_id, subject=approval_id, data=data)
            return approval

    async def _permitted(self, tx: Tx, asked: _Asked, user: Principal) -> tuple[Listed, Ruling]:
        """Return the tool and what policy says of the call; raises where it may not even be asked for."""
        listed = await catalogue.read(tx, asked.tool_id)
        if (withheld := listed.refusal) is not None:
            raise ToolWithheld(withheld)
        if (wrong := validate(listed.spec, asked.args)) is not None:
            raise InvalidArguments(wrong)
        default, own = await catalogue.rows(tx, asked.tool_id, user.user_id)
        ruling = policy.rule_on(
            asked.args,
            read_only=listed.spec.read_only,
            default=default,
            own=own,
            default_expiry_s=self._house.limits.approval_expires_s,
        )
        if ruling.verdict is Verdict.DENY:
            raise DeniedByPolicy(f"Policy denies {listed.spec.name} with these arguments.")
        return listed, ruling

    async def _open(self, tx: Tx, asked: _Asked, turn: Turn, listed: Listed, ruling: Ruling) -> UUID:
        """Write the approval of a turn that is one call: pending, or approved already where policy says auto."""
        approval_id, automatic = uuid4(), ruling.verdict is Verdict.AUTO
        await store.insert(
            tx,
            approval_id=approval_id,
            session_id=turn.session_id,
            turn_id=turn.turn_id,
            tool_call_id=f"call_{approval_id.hex}",
            tool_id=asked.tool_id,
            tool_name=listed.spec.name,
            schema_hash=listed.spec.schema_hash,
            args=asked.canonical,
            requested_by=turn.requester_id,
            requested_reason=asked.reason,
            ruling=ruling,
            status=ApprovalStatus.APPROVED if automatic else ApprovalStatus.PENDING,
            reason="policy" if automatic else None,
            now=datetime.now(UTC) if automatic else None,
        )
        opened = {"approval_id": str(approval_id)}
        await events.append(tx, turn.session_id, EventKind.APPROVAL_OPENED, opened, turn_id=turn.turn_id)
        return approval_id
