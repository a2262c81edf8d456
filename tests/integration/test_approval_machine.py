"""Two instances, one database, and everything that may happen to a call in any order: no step breaks the promise.

Hypothesis chooses the steps. After each one, what was claimed in it is compared with what tests/fakes/house_rules.py
would allow by the roles and the policy before or after that step. MACHINE_EXAMPLES=n runs n examples of other steps
than the same ones that CI always runs.
"""

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from functools import wraps
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule, run_state_machine_as_test

from agent.approvals.policy import Rule, When
from agent.approvals.types import (
    AlreadySettled,
    ApprovalExpired,
    ChangedMeanwhile,
    Decision,
    DeniedByPolicy,
    NotAnApprover,
    OwnRequest,
)
from agent.house import Disabled
from agent.types import Role
from tests.conftest import in_database, run_on
from tests.fakes.mortal_core import POINTS, TOOLS, Effects, Killed, exact, mortal_saver, tool_key
from tests.fakes.watched_house import ADMIN, PEOPLE, SERVICES, Ground, WatchedHouse

STEPS = 60
EXAMPLES = int(os.environ.get("MACHINE_EXAMPLES", "0"))
MET = {
    "claimed with an approval",
    "claimed by policy",
    "claimed again",
    "decided at once",
    "edited and approved",
    "reject",
    "expired",
    "cancelled",
    "policy set",
    "role changed",
    "person disabled or enabled",
    "tool changed",
    "advance: crashed before commit",
    "advance: crashed after commit",
    "advance: froze before effect",
    "advance: froze after effect",
    "refused: no standing",
    "refused: already_settled",
    "refused: approval_expired",
}
"""What each run of the machine comes to."""


def rested(kind: str, steps: int) -> Callable[[Any], bool]:
    """A precondition: so many other steps came since the last of this kind, or a run would be little else."""
    return lambda machine: machine.since[kind] >= steps


def step(work: Callable[..., Coroutine[Any, Any, str | None]]) -> Callable[..., None]:
    """Make a rule of a coroutine: run it, count what it says it did, and check all invariants."""

    @wraps(work)
    def act(self: "Machine", **drawn: Any) -> None:
        before = self.house
        self.since.update(["talk", "change", "end"])
        self.is_broken = True
        did = self.ground.run(work(self, **drawn))
        self.ground.counted["steps"] += did is not None
        self.ground.counted[did or "nothing to do"] += 1
        self.ground.run(self.check(before))
        self.is_broken = False

    return act


numbers = st.integers(0, 11)
services = st.sampled_from(SERVICES)
people = st.sampled_from(list(PEOPLE))
deciders = st.sampled_from([*PEOPLE, "ada", "ben", "cyd"])
tools = st.sampled_from(list(TOOLS))
goes = st.sampled_from(
    [("work",)] * 4
    + [("both",)] * 2
    + [(side,) for side in ("before effect", "after effect")] * 2
    + [("crash", point, time) for point in POINTS for time in (1, 2, 3)][::2]
)
deaths = st.sampled_from([None] * 8 + ["before commit", "after commit"])
may_go = st.one_of(st.none(), goes)
whens = st.lists(
    st.builds(
        lambda service, decision: When({"properties": {"service": {"const": service}}}, decision),
        services,
        st.sampled_from(["auto", "ask", "deny"]),
    ),
    max_size=2,
)
rules = st.builds(
    lambda flags, quorum, four_eyes, approvers, when: Rule(
        *flags, quorum=quorum, four_eyes=four_eyes, approvers=approvers, when=tuple(when)
    ),
    st.sampled_from([(False, True), (False, True), (False, True), (True, False), (False, False)]),
    st.sampled_from([None, 1, 2, 2, 3]),
    st.sampled_from([None, None, True]),
    st.sampled_from([None, None, ("dan",), ("ben", "role:member"), ("role:approver", "eve")]),
    whens,
)


class Machine(WatchedHouse):
    """The steps: what people, the house and the processes do."""

    # People ---------------------------------------------------------------------------------------------------------

    @precondition(rested("talk", 3))
    @rule(n=numbers, who=people, calls=st.lists(st.tuples(tools, services), min_size=1, max_size=3), go=may_go)
    @step
    async def say(self, n: int, who: str, calls: list[tuple[str, str]], go: Any) -> str | None:
        """Someone says something that the model makes calls of, up to three at once."""
        core, person = self._on(n).core, self._who(who)
        mine = [session_id for session_id, owner in self.sessions if owner == who]
        text = " ".join(f'{{{{tool {tool} {{"service": "{service}"}}}}}}' for tool, service in calls)
        try:
            if len(mine) < 2:
                mine.append((await core.service.create_session(by=person)).session_id)
                self.sessions.append((mine[-1], who))
            sent = await core.service.submit_message(mine[n % len(mine)], text, by=person)
        except Disabled:
            assert person.user_id in self.house.disabled
            return "refused to listen"
        assert sent is not None
        assert person.user_id not in self.house.disabled
        self.since["talk"] = 0
        self.turns[sent.turn.turn_id] = person.user_id
        await self._go(n // 2, sent.turn.session_id, go)
        return "said"

    @precondition(rested("talk", 3))
    @rule(n=numbers, who=people, tool=tools, service=services)
    @step
    async def ask(self, n: int, who: str, tool: str, service: str) -> str | None:
        """Someone asks for a call without the model."""
        person, args = self._who(who), {"service": service}
        says = self.house.terms(tool, person.user_id, args)
        try:
            approval = await self._on(n).core.service.ask_approval(tool_key(tool), args, by=person)
        except (DeniedByPolicy, Disabled):
            assert says.verdict == "deny" or person.user_id in self.house.disabled
            return "refused to ask"
        assert says.verdict != "deny"
        assert person.user_id not in self.house.disabled
        self.sessions.append((approval.session_id, who))
        self.since["talk"] = 0
        self.turns[approval.turn_id] = person.user_id
        return "asked"

    @precondition(lambda self: self.turns)
    @rule(n=numbers, who=deciders, dies=deaths, go=may_go)
    @step
    async def approve(self, n: int, who: str, dies: str | None, go: Any) -> str | None:
        """Someone approves, perhaps through an instance that dies over it."""
        return await self._vote(n, who, "approve", None, dies, go)

    @precondition(lambda self: self.turns)
    @rule(n=numbers, who=deciders, service=services, dies=deaths, go=may_go)
    @step
    async def edit(self, n: int, who: str, service: str, dies: str | None, go: Any) -> str | None:
        """Someone approves other arguments than were asked for."""
        return await self._vote(n, who, "approve", service, dies, go)

    @precondition(lambda self: self.turns)
    @precondition(rested("end", 6))
    @rule(n=numbers, who=deciders, go=may_go)
    @step
    async def reject(self, n: int, who: str, go: Any) -> str | None:
        """Someone rejects."""
        self.since["end"] = 0
        return await self._vote(n, who, "reject", None, None, go)

    async def _vote(self, n: int, who: str, decision: str, edit: str | None, dies: str | None, go: Any) -> str | None:
        approval_id = self._pending(n // 2)
        if approval_id is None:
            return None
        if dies:
            self._on(n).fate.choose(dies, 1)
        said = await self._decide(n, approval_id, who, decision, edit)
        if dies:
            await self._replace(n)
        await self._go(n + 1, await self._thread(approval_id), go)
        return said

    @precondition(lambda self: self.turns)
    @rule(n=numbers, who=deciders, other=deciders, edit=st.sampled_from([None, *SERVICES]), go=goes)
    @step
    async def vote_at_once(self, n: int, who: str, other: str, edit: str | None, go: Any) -> str | None:
        """Two people decide at once through two instances; one may edit."""
        approval_id = self._pending(n)
        if approval_id is None:
            return None
        # The digest that the second saw: an edit that was first makes their word count for nothing.
        digest = self.asked[approval_id].digest
        votes = [
            self._decide(0, approval_id, who, "approve", edit),
            self._decide(1, approval_id, other, "approve", None, digest=digest),
        ]
        await asyncio.gather(*votes)
        await self._go(n, await self._thread(approval_id), go)
        return "decided at once"

    async def _decide(
        self, on: int, approval_id: UUID, who: str, decision: str, edit: str | None, *, digest: str | None = None
    ) -> str:
        person, asked = self._who(who), self.asked[approval_id]
        args = {"service": edit} if edit and decision == "approve" else None
        try:
            await self._on(on).core.service.decide_approval(
                approval_id, Decision(decision), by=person, args=args, expected_digest=digest
            )
        except Disabled:
            assert person.user_id in self.house.disabled
            return "refused: disabled"
        except NotAnApprover:
            assert asked.why_not_vote(self.house, person.user_id, decision) == "no standing"
            return "refused: no standing"
        except (AlreadySettled, ApprovalExpired, ChangedMeanwhile) as refusal:
            return f"refused: {refusal.code}"
        except OwnRequest:
            assert asked.why_not_vote(self.house, person.user_id, decision) == "four eyes"
            return "refused: four eyes"
        except DeniedByPolicy:
            assert args is not None
            assert self.house.terms(asked.tool, asked.requester, args).verdict == "deny"
            return "refused: policy denies the edit"
        except Killed:
            (row,) = await self.ground.sql(
                "SELECT count(*) AS n FROM votes v JOIN approvals a USING (approval_id)"
                " WHERE approval_id = $1 AND voter_id = $2 AND decision = $3 AND v.args_digest = $4 AND v.at > $5",
                approval_id,
                person.user_id,
                decision,
                exact(args or asked.args),
                self._clock,
            )
            if not row["n"]:
                return "died before a vote was stored"
        assert asked.why_not_vote(self.house, person.user_id, decision) is None
        if args is not None:
            assert self.house.terms(asked.tool, asked.requester, args).verdict != "deny"
        asked.take(person.user_id, decision, args)
        return decision if args is None else "edited and approved"

    @precondition(lambda self: self.turns)
    @precondition(rested("end", 6))
    @rule(n=numbers, sweep=st.booleans())
    @step
    async def expire(self, n: int, sweep: bool) -> str | None:
        """An approval's time is over; a sweep sees it, or whoever comes next."""
        self.since["end"] = 0
        approval_id = self._pending(n)
        if approval_id is None:
            return None
        changed = await self.ground.sql(
            "UPDATE approvals SET expires_at = now() - interval '1 second'"
            " WHERE approval_id = $1 AND status = 'pending' RETURNING 1",
            approval_id,
        )
        if not changed:
            return None
        self.asked[approval_id].ended = True
        if sweep:
            await self._on(n).core.sweeps._endings.expire_approvals()  # pyright: ignore[reportPrivateUsage]
        return "expired"

    @precondition(lambda self: self.turns)
    @precondition(rested("end", 6))
    @rule(n=numbers)
    @step
    async def cancel(self, n: int) -> str | None:
        """The turn in hand is cancelled."""
        self.since["end"] = 0
        session_id = self._session(n)
        if session_id is None:
            return None
        return "cancelled" if await self._on(n).core.service.cancel_turn(session_id, by=ADMIN) else None

    # The house ------------------------------------------------------------------------------------------------------

    @precondition(rested("change", 4))
    @rule(
        n=numbers, tool=tools, policy=rules, whose=st.sampled_from(["default", "default", "admin's", "own"]), who=people
    )
    @step
    async def set_policy(self, n: int, tool: str, policy: Rule, whose: str, who: str) -> str | None:
        """An admin sets the default or a user's row, or a user tightens their own."""
        self.since["change"] = 0
        service, user_id = self._on(n).core.service, self.ground.people[who]
        if whose == "default":
            await service.set_tool_approval(tool_key(tool), policy, by=ADMIN)
            self.house = replace(self.house, default={**self.house.default, tool: policy})
        elif whose == "admin's" or self.house.roles[user_id] is Role.ADMIN:
            await service.set_tool_approval(tool_key(tool), policy, by=ADMIN, user_id=user_id)
            of_user = {key: row for key, row in self.house.of_user.items() if key != (user_id, tool)}
            of_admin = {**self.house.of_admin, (user_id, tool): policy}
            self.house = replace(self.house, of_admin=of_admin, of_user=of_user)
        elif user_id not in self.house.disabled:
            await service.set_tool_approval(tool_key(tool), policy, by=self._who(who), user_id=user_id)
            self.house = replace(self.house, of_user={**self.house.of_user, (user_id, tool): policy})
        return "policy set"

    @precondition(rested("change", 4))
    @rule(n=numbers, who=people, role=st.sampled_from([*Role, None]), disabled=st.booleans())
    @step
    async def change_person(self, n: int, who: str, role: Role | None, disabled: bool) -> str | None:
        """Someone gets another role, or is disabled or enabled again."""
        self.since["change"] = 0
        user_id = self.ground.people[who]
        if role is not None:
            await self._on(n).core.service.update_account(user_id, by=ADMIN, role=role)
            self.house = replace(self.house, roles={**self.house.roles, user_id: role})
            return "role changed"
        await self._on(n).core.service.update_account(user_id, by=ADMIN, disabled=disabled)
        gone = self.house.disabled | {user_id} if disabled else self.house.disabled - {user_id}
        self.house = replace(self.house, disabled=gone)
        return "person disabled or enabled"

    @precondition(rested("change", 4))
    @rule(tool=tools)
    @step
    async def change_tool(self, tool: str) -> str | None:
        """A tool has another definition from now on, or its first one again."""
        self.since["change"] = 0
        version = 1 - self.house.versions[tool]
        self.ground.effects.versions[tool] = version
        self.house = replace(self.house, versions={**self.house.versions, tool: version})
        for instance in self.ground.instances:
            await instance.core.publish_once(alone=True)
        return "tool changed"

    # The processes --------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.turns)
    @rule(n=numbers, go=goes)
    @step
    async def work(self, n: int, go: Any) -> str | None:
        """A thread is advanced."""
        session_id = self._session(n // 2)
        return None if session_id is None else await self._go(n, session_id, go)

    @precondition(lambda self: self.has_frozen)
    @rule(n=numbers, how=st.sampled_from(["thaw", "thaw", "die", "stop"]))
    @step
    async def end_freeze(self, n: int, how: str) -> str | None:
        """What was frozen goes on, or dies where it stands, or its instance is restarted in good order."""
        self.has_frozen = False
        on = n if self._on(n).frozen else n + 1
        if not self._on(on).frozen:
            return None
        if how == "thaw":
            await self._on(on).thaw()
            return "thawed"
        await (self._on(on).die() if how == "die" else self._on(on).stop())
        await self._replace(on, ended=True)
        return "died frozen" if how == "die" else "restarted"


@pytest.fixture
def ground(server: str, template: str) -> Iterator[Ground]:
    name = f"test_{uuid4().hex[:12]}"
    with asyncio.Runner() as runner, mortal_saver():
        runner.run(run_on(server, f"CREATE DATABASE {name} TEMPLATE {template}"))
        made = Ground(runner, in_database(server, name), Effects())
        runner.run(made.open())
        try:
            yield made
        finally:
            runner.run(made.close())
            runner.run(run_on(server, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))


def test_whatever_happens_in_whatever_order_only_what_was_approved_runs_and_runs_once(ground: Ground) -> None:
    run_state_machine_as_test(
        lambda: Machine(ground),
        settings=settings(
            max_examples=EXAMPLES or 80,
            stateful_step_count=STEPS,
            derandomize=not EXAMPLES,
            database=None,
            # A step is a dozen statements on a real database: how long it takes says nothing about the product.
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
    counted = ground.counted
    print(dict(sorted(counted.items())))
    assert counted["steps"] >= 25 * (EXAMPLES or 80)
    # A machine that hardly gets to the points where the promise could break would prove nothing.
    assert {what for what in MET if not counted[what]} == set()
