"""What is checked again in the moment that a call would run: it may only refuse, never release."""

from typing import Any
from uuid import UUID

from agent import ledger, users
from agent.approvals import doors, grants, policy, store
from agent.approvals.grants import Grant
from agent.approvals.policy import Ruling, Verdict
from agent.approvals.types import Approval
from agent.run import Limits
from agent.tools import catalogue
from agent.tools.base import Tool
from agent.types import Principal, Role
from db.database import Tx

Groups = dict[str, frozenset[str]] | None
"""Members by user group; None: nobody has asked for them yet."""


class Rechecks:
    """Policy, definition, arguments and standing as they are now. A list among the answers names the user groups whose
    members must be known first."""

    def __init__(self, approvers: tuple[str, ...], limits: Limits) -> None:
        self._approvers = approvers
        self._limits = limits

    async def ruling(self, tx: Tx, tool: Tool, args: dict[str, Any], requester: UUID) -> Ruling:
        """Return what policy says of a call, from its rows."""
        default, own = await catalogue.rows(tx, tool.spec.tool_id, requester)
        return policy.rule_on(
            args,
            read_only=tool.spec.read_only,
            default=default,
            own=own,
            default_expiry_s=self._limits.approval_expires_s,
        )

    async def obstacle(self, tx: Tx, tool: Tool | None, approval: Approval, groups: Groups) -> str | list[str] | None:
        """Return why an approved call may not run, by all that its approval was bound to."""
        name = approval.tool_name
        if tool is None:
            return f"{name} is not connected any more, so the approved call was not run."
        if tool.spec.schema_hash != approval.schema_hash:
            return f"{name} changed after the call was approved, so it was not run. Ask again."
        if (withheld := await catalogue.withheld(tx, tool.spec, since=approval.created_at)) is not None:
            return f"The approved call was not run: {withheld}"
        if store.digest(store.canonical(approval.args)) != approval.args_digest:
            return "The arguments are not the ones that were approved, so the call was not run."
        requester_id = approval.requested_by.user_id
        known = await users.read_many(tx, [requester_id, *(vote.by.user_id for vote in approval.votes)])
        ruling = await self.ruling(tx, tool, approval.args, requester_id)
        if ruling.verdict is Verdict.DENY or known[requester_id].disabled:
            return "Policy denies this call by now, so it was not run."
        if approval.decided_by is None:
            return None if ruling.verdict is Verdict.AUTO else "Policy asks for this call by now; ask again."
        return self._lacking(approval, ruling if ruling.verdict is Verdict.ASK else None, known, groups)

    def _lacking(
        self, approval: Approval, asked_now: Ruling | None, known: dict[UUID, Principal], groups: Groups
    ) -> str | list[str] | None:
        """Return what the votes lack, under the terms of then and of now."""
        standing = self._standing(approval, asked_now, known, groups or {})
        needed_now = max(approval.quorum, asked_now.quorum if asked_now else 1)
        if standing >= needed_now:
            return None
        terms = policy.terms_now(approval, asked_now)
        entries = {entry for named in terms for entry in policy.entries(named, self._approvers)}
        if groups is None and (needed := policy.groups_needed(entries)):
            return needed
        if standing >= approval.quorum:
            return f"Policy asks for {needed_now} approvals of this by now, so it was not run. Ask again."
        if asked_now is not None and not all(doors.counts(v, asked_now) for v in policy.valid_approvals(approval)):
            return f"The rules changed since this was approved, so it was not run. {doors.where(asked_now)}"
        return "Who approved this may not decide it any more, so it was not run. Ask again."

    def _standing(
        self,
        approval: Approval,
        asked_now: Ruling | None,
        known: dict[UUID, Principal],
        groups: dict[str, frozenset[str]],
    ) -> int:
        """Return how many of the approving votes are by people who may decide now: under the terms it was asked
        under, and under those of today."""
        ways = [approval, asked_now] if asked_now else [approval]
        votes = [vote for vote in policy.valid_approvals(approval) if all(doors.counts(vote, way) for way in ways)]
        voters = {vote.by.user_id: known[vote.by.user_id] for vote in votes}
        terms = policy.terms_now(approval, asked_now)
        four_eyes = approval.four_eyes or (asked_now is not None and asked_now.four_eyes)
        return sum(
            all(policy.has_standing(voter, named, approvers=self._approvers, groups=groups) for named in terms)
            and not (four_eyes and voter.user_id == approval.requested_by.user_id)
            for voter in voters.values()
        )

    async def may_repeat(
        self,
        tx: Tx,
        tool: Tool,
        args: dict[str, Any],
        approval: Approval | None,
        entry: ledger.Entry,
        requester_id: UUID,
        groups: Groups,
    ) -> bool | list[str]:
        """Return whether a call that was cut off may run again: it is still the one claimed, and could begin now."""
        if store.digest(store.canonical(args)) != entry.args_digest:
            return False
        if approval is not None:
            why = await self.obstacle(tx, tool, approval, groups)
            return why if isinstance(why, list) else why is None
        if await catalogue.withheld(tx, tool.spec) is not None:
            return False
        requester = await users.read(tx, requester_id)
        ruling = await self.ruling(tx, tool, args, requester_id)
        return ruling.verdict is Verdict.AUTO and not requester.disabled

    async def grant(
        self,
        tx: Tx,
        tool: Tool,
        args: dict[str, Any],
        ruling: Ruling,
        groups: Groups,
        *,
        requester_id: UUID,
        session_id: UUID,
    ) -> Grant | list[str] | None:
        """Return somebody's word that such a call need not be asked for, if they could give it for this one now."""
        if ruling.quorum > 1 or ruling.doors is not None or ruling.fresh_login_s is not None:
            return None
        entries = policy.entries_of(ruling.approvers, self._approvers)
        for grant in await grants.covering(
            tx,
            args,
            requester=requester_id,
            tool_id=tool.spec.tool_id,
            schema_hash=tool.spec.schema_hash,
            session_id=session_id,
            max_age_s=ruling.remember_max_s,
        ):
            if groups is None and (needed := policy.groups_needed(entries)):
                return needed
            granter = await users.read(tx, grant.granted_by.user_id)
            own = ruling.four_eyes and granter.user_id == requester_id
            if own or not policy.may_decide(granter, entries, groups=groups or {}):
                continue
            if await catalogue.withheld(tx, tool.spec, since=grant.created_at) is not None:
                continue  # given for the tool's server as it was before
            if granter.role is Role.ADMIN or await self._is_the_same_call(tx, grant, args):
                return grant
        return None

    async def _is_the_same_call(self, tx: Tx, grant: Grant, args: dict[str, Any]) -> bool:
        """Return whether the grant was given with exactly these arguments: all that one by a non-admin covers."""
        given = await store.read(tx, grant.approval_id)
        return given.args_digest == store.digest(store.canonical(args))
