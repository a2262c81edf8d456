"""The service's part for what else befalls approvals: votes taken back, time, other approvers, a word after."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from agent import audit, events, ledger, sessions, transcript, turns, users
from agent.approvals import doors, life, people, policy, resolutions, store
from agent.approvals.life import BadApprovers, Known
from agent.approvals.policy import LONGEST_S, Ruling, Verdict
from agent.approvals.types import (
    Action,
    Approval,
    ApprovalStatus,
    ChangedMeanwhile,
    Decision,
    DeniedByPolicy,
    Door,
    ExecutionStatus,
    NotAnApprover,
    Seen,
)
from agent.audit import Kind
from agent.decisions import Came, Decisions, require_short
from agent.errors import Invalid, Refusal
from agent.ports import DirectoryUnavailable
from agent.sessions import SessionExpired, SessionNotFound
from agent.tools import catalogue
from agent.tools.catalogue import ToolWithheld
from agent.types import ChatUser, EventKind, Principal, Role
from db import dispatch
from db.database import Tx

BATCH_LIMIT = 50
RESULT_LIMIT = 8_000
MOST_APPROVERS = 100
_LONGEST_ENTRY = 100


class BadBatch(Invalid):
    code = "bad_batch"


class BadResult(Invalid):
    code = "bad_result"


@dataclass(frozen=True, slots=True)
class Item:
    """One decision of a batch, on exactly the arguments of this digest."""

    approval_id: UUID
    decision: Decision
    args_digest: str
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one item of a batch."""

    approval_id: UUID
    outcome: Approval | Refusal


_Change = Callable[[Tx, Approval, Principal], Awaitable[Approval]]


class ApprovalVerbs(Decisions):
    """All that people may do with an approval beside deciding it."""

    async def decide_approvals(
        self,
        items: Sequence[Item],
        *,
        by: Principal | ChatUser,
        door: Door | None = None,
        login_at: datetime | None = None,
    ) -> list[Answer]:
        """Decide several, each alone: what is refused of one changes nothing of the others."""
        if not 1 <= len(items) <= BATCH_LIMIT:
            raise BadBatch(f"Send 1 to {BATCH_LIMIT} decisions at a time.")
        came: Came = {"door": door, "login_at": login_at}
        return [Answer(item.approval_id, await self._decide_one(item, by, came)) for item in items]

    async def _decide_one(self, item: Item, by: Principal | ChatUser, came: Came) -> Approval | Refusal:
        try:
            return await self.decide_approval(
                item.approval_id,
                item.decision,
                by=by,
                reason=item.reason,
                expected_digest=item.args_digest,
                exactly=True,
                **came,
            )
        except Refusal as refusal:
            return refusal

    async def withdraw_vote(self, approval_id: UUID, *, by: Principal | ChatUser, seen: Seen | None = None) -> Approval:
        """Take one's own vote back, while nothing is settled."""

        async def withdraw(tx: Tx, approval: Approval, person: Principal) -> Approval:
            return life.withdraw(approval, by=person, now=await store.clock(tx))

        return await self._change(approval_id, by, Kind.APPROVAL_WITHDRAWN, withdraw, seen=seen)

    async def cancel_approval(
        self, approval_id: UUID, *, by: Principal | ChatUser, reason: str | None = None, seen: Seen | None = None
    ) -> Approval:
        """End what one has asked for before anybody decides it; the model hears that it was cancelled."""
        require_short(reason)

        async def cancel(tx: Tx, approval: Approval, person: Principal) -> Approval:
            return life.cancel(approval, by=person, reason=reason, now=await store.clock(tx))

        return await self._change(approval_id, by, Kind.APPROVAL_SETTLED, cancel, seen=seen, reason=reason)

    async def extend_approval(
        self, approval_id: UUID, expires_in_s: int, *, by: Principal | ChatUser, seen: Seen | None = None
    ) -> Approval:
        """Give people more time, counted from now."""
        if not 1 <= expires_in_s <= LONGEST_S:
            raise Invalid(f"expires_in_s must lie between 1 and {LONGEST_S} (90 days).")
        acting, groups = await self._prepare(approval_id, by)

        async def extend(tx: Tx, approval: Approval, person: Principal) -> Approval:
            standing = policy.has_standing(person, approval, approvers=self._house.approvers, groups=groups)
            changed = life.extend(approval, expires_in_s, standing=standing, now=await store.clock(tx))
            await tx.execute(store.sql.extend, approval_id, changed.expires_at)
            return changed

        return await self._change(
            approval_id, acting, Kind.APPROVAL_EXTENDED, extend, seen=seen, expires_in_s=expires_in_s
        )

    async def reassign_approval(
        self,
        approval_id: UUID,
        approvers: Sequence[str],
        *,
        by: Principal | ChatUser,
        reason: str | None = None,
        seen: Seen | None = None,
    ) -> Approval:
        """Have others decide: votes of whom this leaves no standing count no more."""
        require_short(reason)
        named = _entries(approvers)
        acting, _ = await self._prepare(approval_id, by)
        groups = await self._all_groups(approval_id, named)

        async def reassign(tx: Tx, approval: Approval, person: Principal) -> Approval:
            await people.require_known(tx, named)
            requester = await users.read(tx, approval.requested_by.user_id)
            voters = await users.read_many(tx, [vote.by.user_id for vote in approval.votes])
            known = Known(self._house.approvers, groups, [*voters.values(), *await people.named(tx, named)])
            changed = life.reassign(
                approval, named, by=person, requester=requester, known=known, now=await store.clock(tx)
            )
            changed = await self._overruling(tx, changed, person)
            overruled = {"approvers": changed.overruled} if changed.is_overruled else None
            await tx.execute(store.sql.reassign, approval_id, list(named), overruled)
            told = {"by": _by(person), "to": await people.to_tell(tx, changed, named)}
            await self._tell(tx, approval, EventKind.APPROVAL_REASSIGNED, **told)
            return changed

        return await self._change(
            approval_id, acting, Kind.APPROVAL_REASSIGNED, reassign, seen=seen, reason=reason, approvers=list(named)
        )

    async def _overruling(self, tx: Tx, approval: Approval, by: Principal) -> Approval:
        """Note what policy says where an admin overrules it: their word holds at the run while policy stays so."""
        if by.role is not Role.ADMIN:
            return approval
        default, own = await catalogue.rows(tx, approval.tool_id, approval.requested_by.user_id)
        ruling = policy.rule_on(approval.args, read_only=False, default=default, own=own)
        return replace(approval, is_overruled=True, overruled=ruling.approvers)

    async def _all_groups(self, approval_id: UUID, named: Collection[str]) -> dict[str, frozenset[str]]:
        """Return the members of all groups that could matter, asked for before any lock."""
        async with self._database.connection() as connection:
            approval = await store.read(connection, approval_id)
        needed = policy.groups_needed({*named, *policy.entries(approval, self._house.approvers)})
        try:
            return await users.fresh_groups(self._database, self._house.groups, needed)
        except DirectoryUnavailable as error:
            raise NotAnApprover("Slack can't be asked who may decide this just now; try again in a moment.") from error

    async def _change(
        self,
        approval_id: UUID,
        by: Principal | ChatUser,
        kind: Kind,
        change: _Change,
        *,
        seen: Seen | None,
        **said: Any,
    ) -> Approval:
        """Change an approval in one transaction: row, event, wake-up where it is settled now, audit."""
        async with self._database.transaction() as tx:
            await store.lock_session(tx, approval_id)
            before = await store.read(tx, approval_id)
            _require_seen(before, seen)
            person = await self._acting(tx, by)
            after = await change(tx, before, person)
            await store.save(tx, before, after)
            await self._tell(tx, after, EventKind.APPROVAL_CHANGED, status=after.status.value)
            if after.is_settled:
                await dispatch.wake(tx, after.session_id)
            (shown,) = await self._shown(tx, after)
            kept = {vote.by.user_id for vote in after.votes}
            dropped = [vote.by.user_id for vote in before.votes if vote.by.user_id not in kept]
            data = {"tool_name": after.tool_name, "status": after.status.value, "votes_dropped": dropped, **said}
            await audit.record(tx, kind, actor=person.user_id, subject=approval_id, data=data)
        return shown

    async def _tell(self, tx: Tx, approval: Approval, kind: EventKind, **data: Any) -> None:
        body = {"approval_id": str(approval.approval_id), **data}
        await events.append(tx, approval.session_id, kind, body, turn_id=approval.turn_id)

    async def resolve_approval(
        self,
        approval_id: UUID,
        action: Action,
        *,
        by: Principal | ChatUser,
        reason: str | None = None,
        result: str | None = None,
        door: Door | None = None,
        login_at: datetime | None = None,
        seen: Seen | None = None,
    ) -> Approval:
        """Say what became of a call whose outcome is unknown, or have exactly it run once more.

        Who could approve it may, alone; to run it again, by a door that it can be approved through. The thread hears
        it, and so does the model with the next message.
        """
        require_short(reason)
        _check_result(action, result)
        acting, groups = await self._prepare(approval_id, by)
        async with self._database.transaction() as tx:
            await store.lock_session(tx, approval_id)
            approval = await store.read(tx, approval_id)
            _require_seen(approval, seen)
            person = await self._acting(tx, acting)
            standing = policy.has_standing(person, approval, approvers=self._house.approvers, groups=groups)
            under_way = await resolutions.is_under_way(tx, approval_id)
            life.require_unknown(approval, by=person, standing=standing, under_way=under_way)
            resolution_id, turn_id = uuid4(), None
            words = result or reason or f"{person.shown_name} {life.SAID[action]}."
            if action is Action.RUN_AGAIN:
                ruling = await self._rerun_ruling(tx, approval)
                terms = replace(
                    approval,
                    doors=doors.both(approval.doors, ruling.doors),
                    fresh_login_s=doors.sooner(approval.fresh_login_s, ruling.fresh_login_s),
                )
                doors.check(terms, Decision.APPROVE, door=door, login_at=login_at, at=await store.clock(tx))
                turn_id = await self._queue_again(tx, approval, resolution_id)
            else:
                status = ExecutionStatus.SUCCEEDED if action is Action.DONE else ExecutionStatus.FAILED
                await ledger.resolve(tx, approval.session_id, approval.tool_call_id, status=status, result=words)
            await resolutions.insert(
                tx,
                resolution_id=resolution_id,
                approval_id=approval_id,
                action=action,
                resolved_by=person.user_id,
                reason=reason,
                args_digest=approval.args_digest,
                turn_id=turn_id,
                door=door,
                login_at=login_at,
            )
            await self._spread(tx, approval, action, person, words, resolution_id)
            (shown,) = await self._shown(tx, await store.read(tx, approval_id))
            data = {
                "action": action.value,
                "tool_name": approval.tool_name,
                "args_digest": approval.args_digest,
                "reason": reason,
                "result_digest": store.digest(words),
                "door": door,
                "turn_id": turn_id,
            }
            await audit.record(tx, Kind.APPROVAL_RESOLVED, actor=person.user_id, subject=approval_id, data=data)
        return shown

    async def _rerun_ruling(self, tx: Tx, approval: Approval) -> Ruling:
        """Return what policy says of the call today; what could not run anyway is refused here already."""
        listed = await catalogue.read(tx, approval.tool_id)
        if listed.spec.schema_hash != approval.schema_hash:
            raise ChangedMeanwhile(f"{approval.tool_name} changed since this was approved: ask for the call anew.")
        if (withheld := listed.refusal) is not None:
            raise ToolWithheld(withheld)
        requester = await users.read(tx, approval.requested_by.user_id)
        default, own = await catalogue.rows(tx, approval.tool_id, requester.user_id)
        ruling = policy.rule_on(approval.args, read_only=listed.spec.read_only, default=default, own=own)
        if requester.disabled:
            raise DeniedByPolicy("Whoever asked for this call is disabled, so it can't run again for them.")
        if ruling.verdict is Verdict.DENY:
            raise DeniedByPolicy(f"Policy denies {approval.tool_name} with these arguments by now.")
        return ruling

    async def _queue_again(self, tx: Tx, approval: Approval, resolution_id: UUID) -> UUID:
        """Queue the same call as a turn."""
        await sessions.lock(tx, approval.session_id)
        turn = await turns.insert(
            tx,
            turn_id=uuid4(),
            session_id=approval.session_id,
            requester_id=approval.requested_by.user_id,
            text=f"{approval.tool_name} {store.canonical(approval.args)}",
            kind="call",
            event_key=f"resolve:{resolution_id}",
        )
        assert turn is not None  # the key is new
        await dispatch.wake(tx, approval.session_id)
        return turn.turn_id

    async def _spread(
        self, tx: Tx, approval: Approval, action: Action, person: Principal, words: str, resolution_id: UUID
    ) -> None:
        """Tell the thread by events, and the model by a note in the transcript, which its next turn reads."""
        word = {"resolution_id": str(resolution_id)}
        await self._tell(tx, approval, EventKind.APPROVAL_CHANGED, status=ApprovalStatus.APPROVED.value, **word)
        await self._tell(tx, approval, EventKind.APPROVAL_RESOLVED, **word, action=action.value, by=_by(person))
        try:
            await sessions.read(tx, approval.session_id)
        except (SessionNotFound, SessionExpired):
            return
        await transcript.append(
            tx,
            approval.session_id,
            message_id=transcript.step_id(resolution_id, "note"),
            turn_id=approval.turn_id,
            role="user",
            content=_note(approval, action, person, words),
        )


def _note(approval: Approval, action: Action, person: Principal, words: str) -> str:
    call = f"{approval.tool_name} {store.canonical(approval.args)}"
    said = f"{person.shown_name} {life.SAID[action]}"
    return f'[Note by opsagent] The outcome of the call {call} was unknown. Since then {said}: "{words}"'


def _by(person: Principal) -> dict[str, Any]:
    return {"user_id": str(person.user_id), "username": person.username, "chat": person.chat_user}


def _require_seen(approval: Approval, seen: Seen | None) -> None:
    """Raise where somebody acts on another approval, or on other arguments, than they were shown."""
    if seen is None:
        return
    if approval.session_id != seen.session_id:
        raise store.ApprovalNotFound
    if seen.digest is not None and not approval.args_digest.startswith(seen.digest):
        raise ChangedMeanwhile("The arguments were changed since you saw them; look at them again.")


def _check_result(action: Action, result: str | None) -> None:
    if result is None:
        return
    if action is Action.RUN_AGAIN:
        raise BadResult("`result` goes with done and failed: what runs again brings its own.")
    if not result.strip() or len(result) > RESULT_LIMIT:
        raise BadResult(f"`result` takes 1 to {RESULT_LIMIT} characters.")


def _entries(approvers: Sequence[str]) -> tuple[str, ...]:
    """Return approver entries, each once; raises BadApprovers for what names nobody."""
    found = tuple(dict.fromkeys(entry.strip() for entry in approvers))
    if not 1 <= len(found) <= MOST_APPROVERS:
        raise BadApprovers(f"Name 1 to {MOST_APPROVERS} approvers.")
    for entry in found:
        role = entry.removeprefix(policy.ROLE_PREFIX)
        no_role = role != entry and role not in list(Role)
        no_channel = entry.startswith(policy.CHANNEL_PREFIX) and not policy.groups_needed([entry])
        if not 1 <= len(entry) <= _LONGEST_ENTRY or no_role or no_channel:
            raise BadApprovers(
                f"{entry[:_LONGEST_ENTRY]!r} is no approver: name users, groups, channel:<id> or role:<role>."
            )
    return found
