"""Whether a call of unknown outcome may run once more on a person's word: everything is checked again."""

from agent import ledger, transcript, users
from agent.approvals import doors, policy, store
from agent.approvals.policy import Ruling, Verdict
from agent.approvals.resolutions import Word
from agent.approvals.types import Approval
from agent.run import Run
from agent.tools import catalogue
from agent.tools.base import Tool
from db.database import Tx


async def obstacle(tx: Tx, tool: Tool | None, approval: Approval, entry: ledger.Entry, word: Word) -> str | None:
    """Return why the call may not run again, as far as the call itself goes."""
    if tool is None:
        return f"{approval.tool_name} is not connected any more, so the call was not run again."
    if tool.spec.schema_hash != approval.schema_hash:
        return f"{approval.tool_name} changed since the call was approved, so it was not run again."
    if (withheld := await catalogue.withheld(tx, tool.spec, since=word.at)) is not None:
        return f"The call was not run again: {withheld}"
    digest = store.digest(store.canonical(approval.args))
    if not digest == approval.args_digest == entry.args_digest == word.args_digest:
        return "The arguments are not the ones of the call, so it was not run again."
    return None


async def may(
    tx: Tx,
    approval: Approval,
    word: Word,
    ruling: Ruling,
    *,
    approvers: tuple[str, ...],
    groups: dict[str, frozenset[str]] | None,
) -> str | list[str] | None:
    """Return why policy or the person's standing forbids it, or the groups that must be known to tell."""
    people = await users.read_many(tx, [word.resolved_by, approval.requested_by.user_id])
    if ruling.verdict is Verdict.DENY or people[approval.requested_by.user_id].disabled:
        return "Policy denies this call by now, so it was not run again."
    asked_now, person = (ruling if ruling.verdict is Verdict.ASK else None), people[word.resolved_by]
    terms = policy.terms_now(approval, asked_now)
    four_eyes = approval.four_eyes or (asked_now is not None and asked_now.four_eyes)
    if not all(doors.counts(word, way) for way in ((approval, asked_now) if asked_now else (approval,))):
        return "Policy asks for another door, or for a fresh login, by now, so it was not run again."
    own = four_eyes and person.user_id == approval.requested_by.user_id
    if not own and all(policy.has_standing(person, named, approvers=approvers, groups=groups or {}) for named in terms):
        return None
    needed = policy.groups_needed({entry for named in terms for entry in policy.entries(named, approvers)})
    if groups is None and needed and not own:
        return needed
    return "Who had it run again may not decide this any more, so it was not run again."


async def note(tx: Tx, run: Run, approval: Approval, text: str) -> None:
    """Tell the model, with its next turn, what running again has given: no call of that turn waits for a result."""
    await transcript.append(
        tx,
        run.session_id,
        message_id=transcript.step_id(run.turn_id, "note"),
        turn_id=run.turn_id,
        role="user",
        content=f"[Note by opsagent] {approval.tool_name}, run again because a person asked for it: {text}",
    )
