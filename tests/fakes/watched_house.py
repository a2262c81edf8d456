"""A house that is watched: two instances, what may be asked of them, and what must hold after every step.

The steps themselves are the rules of tests/integration/test_approval_machine.py.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import asyncpg
from hypothesis.stateful import RuleBasedStateMachine

from agent import audit
from agent.types import Principal, Role
from agent.users import api_key_principal
from db import dispatch
from tests.fakes.house_rules import Asked, House
from tests.fakes.mortal_core import TOOLS, Effects, Instance, Killed, exact

ADMIN = api_key_principal()
PEOPLE = {"ada": Role.ADMIN, "ben": Role.APPROVER, "cyd": Role.APPROVER, "dan": Role.MEMBER, "eve": Role.MEMBER}
SERVICES = ["a", "b", "c"]
BY_DIGEST = {exact({"service": service}): {"service": service} for service in SERVICES}


@dataclass
class Ground:
    """What outlives an example: the loop, the database, the instances, and what was counted."""

    runner: asyncio.Runner
    dsn: str
    effects: Effects
    instances: list[Instance] = field(default_factory=list)
    people: dict[str, UUID] = field(default_factory=dict)
    counted: Counter[str] = field(default_factory=Counter)
    connection: Any = None

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    async def open(self) -> None:
        self.connection = await asyncpg.connect(self.dsn)
        self.instances = [await Instance.start(self.dsn, self.effects) for _ in range(2)]
        for name, role in PEOPLE.items():
            self.people[name] = uuid4()
            await self.sql(
                "INSERT INTO users (user_id, username, role) VALUES ($1, $2, $3)", self.people[name], name, role.value
            )

    async def sql(self, statement: str, *args: Any) -> list[Any]:
        return await self.connection.fetch(statement, *args)

    async def close(self) -> None:
        for instance in self.instances:
            await instance.die()
        await self.connection.close()


class WatchedHouse(RuleBasedStateMachine):
    """One example: its sessions, what was asked in them, and the checks."""

    def __init__(self, ground: Ground) -> None:
        super().__init__()
        self.ground = ground
        self.house = House(
            names={user_id: name for name, user_id in ground.people.items()},
            roles={ground.people[name]: role for name, role in PEOPLE.items()},
        )
        self.sessions: list[tuple[UUID, str]] = []
        self.turns: dict[UUID, UUID] = {}
        self.asked: dict[UUID, Asked] = {}
        self.runs: Counter[str] = Counter()
        self.over: set[UUID] = set()
        self.has_frozen = False
        self.is_broken = False
        self.since = Counter(talk=9, change=9, end=9)
        ground.counted["examples"] += 1
        ground.run(self._begin())

    async def _begin(self) -> None:
        ground = self.ground
        ground.effects.versions = dict.fromkeys(TOOLS, 0)
        ground.effects.ran.clear()
        await ground.sql("DELETE FROM tool_approval_config")
        await ground.sql("DELETE FROM procrastinate_jobs")
        for name, role in PEOPLE.items():
            await ground.sql("UPDATE users SET role = $2, disabled = false WHERE username = $1", name, role.value)
        for instance in ground.instances:
            await instance.core.publish_once(alone=True)
        (head,) = await ground.sql("SELECT id, hash FROM audit_head")
        self._audited = (head["id"], head["hash"])

    def _who(self, name: str) -> Principal:
        user_id = self.ground.people[name]
        return Principal(user_id, name, self.house.roles[user_id])

    def _on(self, n: int) -> Instance:
        return self.ground.instances[n % 2]

    def _session(self, n: int) -> UUID | None:
        return self.sessions[n % len(self.sessions)][0] if self.sessions else None

    def _pending(self, n: int) -> UUID | None:
        found = [approval_id for approval_id, asked in self.asked.items() if not (asked.ended or asked.approved)]
        found = found or list(self.asked)
        return found[-1 - n % min(4, len(found))] if found else None

    async def _thread(self, approval_id: UUID) -> UUID:
        (row,) = await self.ground.sql("SELECT session_id FROM approvals WHERE approval_id = $1", approval_id)
        return row["session_id"]

    async def _go(self, n: int, session_id: UUID, go: tuple[Any, ...] | None) -> str:
        """Have an instance advance a thread: to its end, beside the other one, up to a freeze, or to its death."""
        did = await self._advance(n, session_id, *go) if go else "left to whoever comes"
        self.ground.counted[f"advance: {did}"] += 1
        return did

    async def _advance(self, n: int, session_id: UUID, how: str, point: str = "", time: int = 0) -> str:
        instance = self._on(n)
        if how in ("work", "both"):
            await asyncio.gather(*(self._on(n + i).begin(session_id) for i in range(1 + (how == "both"))))
            return "both worked" if how == "both" else "worked"
        if how != "crash":
            self.has_frozen = True
            # The other one may take the thread over from what is frozen.
            return f"froze {how}" if await instance.freeze(session_id, how) else "worked"
        instance.fate.choose(point, time)
        with contextlib.suppress(Killed):
            await instance.begin(session_id)
        if not instance.fate.is_over:
            instance.fate.choose("", 0)
            return "did not come to its crash"
        await self._replace(n)
        return f"crashed {point}"

    async def _replace(self, n: int, *, ended: bool = False) -> None:
        if not ended:
            await self._on(n).die()
        self._on(n).fate.is_over = True
        self.ground.instances[n % 2] = await Instance.start(self.ground.dsn, self.ground.effects)

    # What must hold -------------------------------------------------------------------------------------------------

    async def check(self, before: House) -> None:
        """Compare what was claimed, run and written since the last step with what was allowed."""
        houses = [before, self.house]
        await self._see_approvals(houses)
        (now,) = await self.ground.sql("SELECT clock_timestamp() AS at")
        self._clock = now["at"]
        rows = await self.ground.sql(
            "SELECT e.tool_call_id, e.turn_id, e.approval_id, e.tool_name, e.args_digest, e.runs, e.status"
            "  FROM executions e WHERE e.turn_id = ANY($1)",
            list(self.turns),
        )
        digests: dict[str, tuple[str, int, str]] = {}
        for row in rows:
            call_id = row["tool_call_id"]
            digests[call_id] = (row["args_digest"], row["runs"], row["tool_name"])
            if row["runs"] > self.runs[call_id]:
                self._check_claim(row, houses)
                self.runs[call_id] = row["runs"]
        for (call_id, digest), times in self.ground.effects.ran.items():
            assert call_id in digests, "a call ran that nobody claimed"
            claimed, runs, tool = digests[call_id]
            assert digest == claimed, "a call ran with other arguments than were claimed"
            assert times <= runs, f"{times} runs of {runs} claims"
            assert times == 1 or TOOLS[tool], f"{tool} ran {times} times"
        self.over = {
            row["turn_id"]
            for row in await self.ground.sql(
                "SELECT turn_id FROM turns WHERE turn_id = ANY($1) AND finished_at IS NOT NULL", list(self.turns)
            )
        }
        await self._check_audit()

    async def _see_approvals(self, houses: list[House]) -> None:
        """Take note of new approvals; each was opened under the terms of its time."""
        rows = await self.ground.sql(
            "SELECT a.approval_id, a.turn_id, a.tool_name, a.args_digest, a.status, a.quorum, a.four_eyes, a.approvers,"
            "       a.requested_by, a.handled_at, e.approval_id IS NOT NULL AS ran, a.decided_by"
            "  FROM approvals a LEFT JOIN executions e USING (session_id, tool_call_id) WHERE a.turn_id = ANY($1)",
            list(self.turns),
        )
        for row in rows:
            if row["status"] in ("cancelled", "expired", "rejected") and row["approval_id"] in self.asked:
                self.asked[row["approval_id"]].ended = True
            # An automatic call whose outcome is unknown gets its row after it was claimed: it decides nothing.
            if row["approval_id"] in self.asked or (row["decided_by"] is None and row["ran"] and row["handled_at"]):
                continue
            requester, args = self.turns[row["turn_id"]], BY_DIGEST[row["args_digest"]]
            assert row["requested_by"] == requester
            asked = [
                Asked(
                    row["tool_name"],
                    house.versions[row["tool_name"]],
                    requester,
                    house.terms(row["tool_name"], requester, args),
                    args,
                )
                for house in houses
            ]
            verdict = "ask" if row["status"] != "approved" else "auto"
            approvers = tuple(row["approvers"]) if row["approvers"] is not None else None
            fitting = [
                one
                for one in asked
                if (one.terms.verdict, one.terms.quorum, one.terms.four_eyes, one.terms.approvers)
                == (verdict, row["quorum"], row["four_eyes"], approvers)
            ]
            assert fitting or row["status"] in ("cancelled", "expired"), "an approval under other terms than policy's"
            self.asked[row["approval_id"]] = (fitting or asked)[-1]
            self.asked[row["approval_id"]].approved = verdict == "auto"
            self.ground.counted["approvals"] += 1

    def _check_claim(self, row: Any, houses: list[House]) -> None:
        tool, call_id, requester = row["tool_name"], row["tool_call_id"], self.turns[row["turn_id"]]
        assert row["turn_id"] not in self.over, "a call was claimed after its turn had ended"
        if self.runs[call_id]:
            assert TOOLS[tool], "a second claim of a call that may not run again"
            self.ground.counted["claimed again"] += 1
            whys = [self._why_not_again(house, tool, requester, row["args_digest"]) for house in houses]
        elif row["approval_id"] in self.asked:
            self.ground.counted["claimed with an approval"] += 1
            whys = [self.asked[row["approval_id"]].why_not_run(house, row["args_digest"]) for house in houses]
        else:
            self.ground.counted["claimed by policy"] += 1
            args = BY_DIGEST[row["args_digest"]]
            whys = [None if house.terms(tool, requester, args).verdict == "auto" else "not auto" for house in houses]
        assert None in whys, f"{tool} was claimed though: {whys[-1]}"

    def _why_not_again(self, house: House, tool: str, requester: UUID, digest: str) -> str | None:
        if requester in house.disabled:
            return "the requester is disabled"
        denied = house.terms(tool, requester, BY_DIGEST[digest]).verdict == "deny"
        return "policy denies it" if denied else None

    async def _check_audit(self) -> None:
        """Check the entries behind the last checked one; the whole chain is checked at the end."""
        last, before = self._audited
        (part,) = await self.ground.sql(audit.sql.check_part, last, 100_000, before)
        assert part["wrong"] is None
        if part["last"] is not None:
            self._audited = (part["last"], part["last_hash"])

    # The end --------------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """Thaw what is frozen, work until there is nothing to do, and see that nothing is stuck."""
        if self.is_broken:
            # The step that failed is what is to be reported; the next example needs two instances that live.
            for n in (0, 1):
                self.ground.run(self._replace(n))
            return
        before = self.house
        self.ground.run(self._drain())
        self.ground.run(self.check(before))
        self.ground.run(self._check_turns())
        self.ground.run(self._cancel_all())
        self.ground.run(self._drain())
        self.ground.run(self.check(before))
        self.ground.run(self._check_turns(all_over=True))
        verdict = self.ground.run(audit.verify(self.ground.instances[0].core.database))
        assert verdict.ok, verdict

    async def _drain(self) -> None:
        for instance in self.ground.instances:
            await instance.thaw()
        database = self.ground.instances[0].core.database
        for _ in range(30):
            await dispatch.sweep(database)
            jobs = await self.ground.sql(
                "DELETE FROM procrastinate_jobs WHERE task_name = 'advance'"
                " RETURNING args ->> 'session_id' AS session_id"
            )
            if not jobs:
                return
            for session_id in sorted({job["session_id"] for job in jobs}):
                await self._on(0).begin(UUID(session_id))
        raise AssertionError("there is always something more to do")

    async def _check_turns(self, *, all_over: bool = False) -> None:
        rows = await self.ground.sql(
            "SELECT t.turn_id, t.session_id, t.status, t.retry_at,"
            "       (SELECT count(*) FROM approvals a WHERE a.turn_id = t.turn_id AND a.status = 'pending') AS pending"
            "  FROM turns t WHERE t.turn_id = ANY($1)",
            list(self.turns),
        )
        waiting = {row["session_id"] for row in rows if row["status"] == "awaiting_approval" and row["pending"]}
        for row in rows:
            self.ground.counted[f"turn {row['status']}"] += not all_over
            over = row["status"] in ("completed", "failed", "cancelled")
            behind = row["status"] == "queued" and row["session_id"] in waiting
            waits = row["status"] == "awaiting_approval" and row["pending"]
            assert over or (not all_over and (waits or behind)), f"a stuck turn: {dict(row)}"
            assert not (over and row["pending"]), "a turn that is over asks people"

    async def _cancel_all(self) -> None:
        for session_id, _ in self.sessions:
            while await self._on(0).core.service.cancel_turn(session_id, by=ADMIN):
                await self._on(0).begin(session_id)
