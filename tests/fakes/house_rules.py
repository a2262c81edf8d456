"""What the security promise says, written down a second time and plainly: who may decide, what may run.

It shares no code with the product but the nouns: a test compares what the product did with what this would allow.
"""

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from agent.approvals.policy import Rule
from agent.types import Role
from tests.fakes.mortal_core import TOOLS, exact

STRICTER = ["auto", "ask", "deny"]


@dataclass(frozen=True)
class Terms:
    """What policy says of one call."""

    verdict: str
    quorum: int
    four_eyes: bool
    approvers: tuple[str, ...] | None


@dataclass(frozen=True)
class House:
    """Roles, policy and tools at one instant."""

    names: dict[UUID, str]
    roles: dict[UUID, Role]
    disabled: frozenset[UUID] = frozenset()
    default: dict[str, Rule] = field(default_factory=dict)
    of_admin: dict[tuple[UUID, str], Rule] = field(default_factory=dict)
    of_user: dict[tuple[UUID, str], Rule] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TOOLS, 0))

    def terms(self, tool: str, user: UUID, args: dict[str, Any]) -> Terms:
        """Return what counts: an admin's row for the user, else the default, else what was declared; a row of the
        user's own only tightens that."""
        read_only = TOOLS[tool].get("read_only", False)
        declared = Rule(auto_execute=read_only, approval_required=not read_only)
        base = _read(self.of_admin.get((user, tool)) or self.default.get(tool) or declared, args)
        if (user, tool) not in self.of_user:
            return base
        own = _read(self.of_user[user, tool], args)
        return Terms(
            max(own.verdict, base.verdict, key=STRICTER.index),
            max(own.quorum, base.quorum),
            own.four_eyes or base.four_eyes,
            base.approvers,
        )

    def may_decide(self, person: UUID, approvers: tuple[str, ...] | None) -> bool:
        role = self.roles[person]
        if person in self.disabled:
            return False
        if role is Role.ADMIN:
            return True
        if approvers is None:
            return role is Role.APPROVER
        return self.names[person] in approvers or f"role:{role}" in approvers


def _read(rule: Rule, args: dict[str, Any]) -> Terms:
    said = [when.decision for when in rule.when if when.args["properties"]["service"]["const"] == args["service"]]
    flags = "auto" if rule.auto_execute else "ask" if rule.approval_required else "deny"
    verdict = max(said, key=STRICTER.index) if said else flags
    return Terms(verdict, rule.quorum or 1, bool(rule.four_eyes), rule.approvers)


@dataclass
class Asked:
    """One approval: how it was asked, and what people said of it as they were answered."""

    tool: str
    version: int
    requester: UUID
    terms: Terms
    args: dict[str, Any]
    votes: dict[UUID, tuple[str, str]] = field(default_factory=dict)
    approved: bool = False
    ended: bool = False

    @property
    def digest(self) -> str:
        return exact(self.args)

    def count(self, voters: set[UUID] | None = None) -> int:
        """Return how many approve exactly these arguments, of `voters` or of all."""
        return sum(
            said == ("approve", self.digest) and (voters is None or who in voters) for who, said in self.votes.items()
        )

    def why_not_vote(self, house: House, person: UUID, decision: str) -> str | None:
        """Return why this person's word may not count now."""
        if not house.may_decide(person, self.terms.approvers):
            return "no standing"
        if self.approved or self.ended:
            return "settled"
        if decision == "approve" and self.terms.four_eyes and person == self.requester:
            return "four eyes"
        return None

    def take(self, person: UUID, decision: str, args: dict[str, Any] | None = None) -> None:
        """Count a word that was accepted; other arguments leave all earlier words behind."""
        self.args = args or self.args
        self.votes[person] = (decision, self.digest)
        self.ended = self.ended or decision == "reject"
        self.approved = not self.ended and self.count() >= self.terms.quorum

    def why_not_run(self, house: House, digest: str) -> str | None:
        """Return why the call may not run now with the arguments of this digest."""
        if digest != self.digest:
            return "other arguments than the approved ones"
        if self.ended or not self.approved:
            return "nobody approved it"
        if house.versions[self.tool] != self.version:
            return "the tool is another one than the approved one"
        if self.requester in house.disabled:
            return "the requester is disabled"
        now = house.terms(self.tool, self.requester, self.args)
        if now.verdict == "deny":
            return "policy denies it"
        if self.terms.verdict == "auto":
            return None if now.verdict == "auto" else "policy asks by now"
        needed, named, four_eyes = self.terms.quorum, [self.terms.approvers], self.terms.four_eyes
        if now.verdict == "ask":
            needed, named = max(needed, now.quorum), [*named, now.approvers]
            four_eyes = four_eyes or now.four_eyes
        voters = {who for who in self.votes if all(house.may_decide(who, entries) for entries in named)}
        if four_eyes:
            voters.discard(self.requester)
        given = self.count(voters)
        return None if given >= needed else f"{given} of {needed} approvals"
