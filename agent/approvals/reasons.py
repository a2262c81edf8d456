"""How a ruling came about, in sentences for people."""

import json

from agent.approvals import doors
from agent.approvals.policy import Explanation, Look, Ruling, Scope, Verdict

_NAMES = {
    Scope.OWN: "The user's own row",
    Scope.USER_BY_ADMIN: "The row an admin set for the user",
    Scope.DEFAULT: "The tool's default row",
    Scope.DECLARATION: "The tool's declaration",
}
_CONDITION_SHOWN = 200


def reasons(explanation: Explanation) -> tuple[str, ...]:
    """Return sentences in order of precedence: what counts, what it says, and what does not count and why."""
    found = [_says(look) for look in explanation.counted]
    base = explanation.counted[-1].scope
    if len(explanation.counted) > 1:
        found.append(
            "A user's own row can only tighten: the stricter of it and of what counts without it decides, under the "
            f"stricter terms. The approvers are those of {_inner(base)}."
        )
    for scope in explanation.passed_over:
        replaced = "replaces it, looser or stricter" if base is Scope.USER_BY_ADMIN else "stands before it"
        found.append(f"{_NAMES[scope]} does not count: {_inner(base)} {replaced}.")
    if explanation.ruling.verdict is Verdict.ASK:
        found.append(_terms(explanation.ruling))
    return tuple(found)


def _inner(scope: Scope) -> str:
    name = _NAMES[scope]
    return name[:1].lower() + name[1:]


def _says(look: Look) -> str:
    name = _NAMES[look.scope]
    if (index := look.deciding) is None:
        return f"{name} says {look.verdict}{_by_flags(look)}."
    shown = json.dumps(look.rule.when[index].args, ensure_ascii=False)
    shown = shown if len(shown) <= _CONDITION_SHOWN else f"{shown[:_CONDITION_SHOWN]}…"
    also = ""
    if len(look.matching) > 1:
        others = ", ".join(f"when[{i}] ({look.rule.when[i].decision})" for i in look.matching if i != index)
        also = f"; {others} match too, and deny beats ask beats auto"
    return f"{name} says {look.verdict}: the arguments fit its condition when[{index}], {shown}{also}."


def _by_flags(look: Look) -> str:
    if look.scope is Scope.DECLARATION:
        read_only = look.verdict is Verdict.AUTO
        return ": its operator declared it read-only" if read_only else ": nobody declared it read-only"
    flags = {Verdict.AUTO: "auto_execute is true", Verdict.ASK: "approval_required is true"}
    why = flags.get(look.verdict, "both its flags are false")
    if not look.rule.when:
        return f": {why}"
    count = len(look.rule.when)
    return f": none of its {count} conditions fits the arguments, and {why}"


def _terms(ruling: Ruling) -> str:
    named = "the people in APPROVERS and everybody with the role approver"
    if ruling.approvers is not None:
        named = ", ".join(ruling.approvers) or "nobody"
    parts = [f"It may be approved by {named} (admins always)"]
    if ruling.quorum > 1:
        parts.append(f"{ruling.quorum} people must approve")
    if ruling.four_eyes:
        parts.append("the requester may not")
    sentence = "; ".join(parts) + "."
    return sentence if ruling.doors is None and ruling.fresh_login_s is None else f"{sentence} {doors.where(ruling)}"
