"""What a policy decision costs beside a turn, with as many conditions as a rule takes."""

import json
import time
from collections.abc import Callable
from statistics import median
from typing import Any
from uuid import UUID

from agent.approvals import policy
from agent.approvals.conditions import MOST, When
from agent.tools import catalogue
from benchmarks.database import Server
from benchmarks.figures import Figure, at_most
from benchmarks.instant_tools import InstantTools
from benchmarks.subject import started
from db.database import Database

ROUNDS = 7
EACH = 200
TURNS = 60
_ARGS = {"service": "web", "reason": "it leaks memory", "replicas": 3}
_ROW = {
    "user_id": None,
    "auto_execute": False,
    "approval_required": True,
    "by_admin": True,
    "approvers": ["role:approver"],
    "quorum": 2,
    "four_eyes": True,
    "expires_in_s": 3600,
    "doors": ["web"],
    "fresh_login_s": 300,
    "beneath": None,
}


def _conditions(count: int) -> list[dict[str, Any]]:
    """Conditions of which none matches, so that every one of them is looked at."""
    return [
        {
            "args": {
                "properties": {"service": {"pattern": f"^prod-{n}-"}, "replicas": {"minimum": 10 + n}},
                "required": ["service"],
            },
            "decision": "deny",
        }
        for n in range(count)
    ]


def _decide(text: str) -> None:
    # A text of its own each time, as a driver hands it over.
    row = {**_ROW, "rules": text[:-1] + "]"}
    ruling = policy.rule_on(_ARGS, read_only=False, default=catalogue.row_of(row), own=None)
    assert ruling.verdict is policy.Verdict.ASK


def _cpu_ms(step: Callable[[], None]) -> float:
    rounds: list[float] = []
    step()
    for _ in range(ROUNDS):
        begun = time.process_time()
        for _ in range(EACH):
            step()
        rounds.append((time.process_time() - begun) * 1000 / EACH)
    return median(rounds)


async def decisions(server: Server) -> list[Figure]:
    """A decision from the row as the database gave it, and with reading the row, against a turn."""
    text, none = json.dumps(_conditions(MOST)), json.dumps([])
    async with started(server, "product") as product:
        await product.do("turns", n=15)
        turn = median([(await product.do("turns", n=TURNS))["cpu_ms"] for _ in range(3)])
    full, empty, read = _cpu_ms(lambda: _decide(text)), _cpu_ms(lambda: _decide(none)), await _with_reading(server)
    name = f"policy decision with {MOST} conditions against a message turn, CPU"
    return [
        at_most(name, full / turn, 0.01, _percent, with_=f" ({full * 1000:.0f} µs of {turn:.1f} ms)"),
        Figure("the same without conditions; with reading the row", f"{empty * 1000:.0f} µs; {read * 1000:.0f} µs"),
    ]


def _percent(value: float) -> str:
    return f"{value * 100:.2f} %"


async def _with_reading(server: Server) -> float:
    """Return the CPU of reading the row from the database and deciding."""
    spec, name = InstantTools().restart.spec, await server.fresh()
    when = tuple(When(one["args"], one["decision"]) for one in _conditions(MOST))
    rule = policy.Rule(auto_execute=False, approval_required=True, when=when)
    database = Database(server.address(name), max_size=2)
    await database.open()
    try:
        async with database.connection() as connection:
            await catalogue.save_row(connection, spec, rule, user_id=None, by_admin=True, beneath=None)
            rounds: list[float] = []
            for _ in range(ROUNDS):
                begun = time.process_time()
                for _ in range(EACH):
                    default, own = await catalogue.rows(connection, spec.tool_id, UUID(int=1))
                    policy.rule_on(_ARGS, read_only=False, default=default, own=own)
                rounds.append((time.process_time() - begun) * 1000 / EACH)
        return median(rounds)
    finally:
        await database.close()
        await server.drop(name)
