"""Turns and approval cycles against the bare graph."""

from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from statistics import median
from typing import Any

from benchmarks.database import Server, split
from benchmarks.figures import Figure, at_most, milliseconds, paired, percentile, spread, times
from benchmarks.subject import Subject, started

ROUNDS = 7
EACH = 30
WARM = 15


async def reference(server: Server) -> list[Figure]:
    """The reference alone: what a turn, an interrupt and a resume cost on this machine."""
    async with started(server, "reference") as bare:
        await bare.do("turns", n=WARM)
        await bare.do("interrupts", n=WARM)
        turn = await bare.do("turns", n=EACH * 3)
        both = await bare.do("interrupts", n=EACH * 3)
    named = {"turn without a tool": turn, "turn to an interrupt": both["asked"], "resume": both["resumed"]}
    return [
        Figure(
            f"reference: {name}",
            f"p50 {median(found['ms']):.1f} ms, p99 {percentile(found['ms'], 0.99):.1f} ms, "
            f"CPU {found['cpu_ms']:.1f} ms",
        )
        for name, found in named.items()
    ]


async def against_reference(server: Server) -> list[Figure]:
    """A message turn, and an approval cycle, with all that the product keeps of them."""
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(started(server, "product"))
        bare = await stack.enter_async_context(started(server, "reference"))
        turns = await _rounds(server, ours, "turns", bare, "turns_with_insert")
        cycles = await _rounds(server, ours, "cycles", bare, "cycles")
    return [
        *_figures("message turn", "reference turn + insert", turns, 1.0, 0.9),
        *_figures("approval cycle", "reference + compare-and-set", cycles, 0.9, None),
    ]


async def _rounds(server: Server, ours: Subject, mine: str, bare: Subject, theirs: str) -> dict[str, list[Any]]:
    await ours.do(mine, n=WARM)
    await bare.do(theirs, n=WARM)
    found: dict[str, list[Any]] = defaultdict(list)
    for number in range(ROUNDS):
        sides: list[tuple[str, Callable[[], Awaitable[dict[str, Any]]]]] = [
            ("ours", lambda: ours.do(mine, n=EACH)),
            ("bare", lambda: bare.do(theirs, n=EACH)),
        ]
        for side, run in sides if number % 2 else sides[::-1]:
            before = await server.wal()
            measured = await run()
            found[f"{side} ms"].append(median(measured["ms"]))
            found[f"{side} all"] += measured["ms"]
            found[f"{side} cpu"].append(measured["cpu_ms"])
            found[f"{side} wal"].append((await server.wal() - before) / EACH / 1000)
    for side, subject, command in (("ours", ours, mine), ("bare", bare, theirs)):
        async with server.counted(subject.database) as words:
            await subject.do(command, n=EACH)
        found[f"{side} work"] = [split(words).statements / EACH, words["COMMIT"] / EACH]
        found[f"{side} words"] = [dict(words)]
    return found


def _figures(what: str, against: str, found: dict[str, list[Any]], most: float, most_cpu: float | None) -> list[Figure]:
    ratio, cpu = paired(found["ours ms"], found["bare ms"]), paired(found["ours cpu"], found["bare cpu"])
    range_ = f" (rounds {spread(found['ours ms'], found['bare ms'])})"
    cpu_name = f"{what}: CPU of the process against {against}"
    return [
        at_most(f"{what} against {against}, time", ratio, most, times, with_=range_),
        at_most(cpu_name, cpu, most_cpu, times) if most_cpu else Figure(cpu_name, times(cpu)),
        *(_account(f"{what}, {name}", found, side) for name, side in (("opsagent", "ours"), ("reference", "bare"))),
    ]


def _account(name: str, found: dict[str, list[Any]], side: str) -> Figure:
    statements, commits = found[f"{side} work"]
    taken = found[f"{side} all"]
    return Figure(
        name,
        f"p50 {milliseconds(median(taken))}, p99 {milliseconds(percentile(taken, 0.99))}, "
        f"CPU {milliseconds(median(found[f'{side} cpu']))}, {statements:.0f} statements in {commits:.0f} explicit "
        f"transactions, WAL {median(found[f'{side} wal']):.1f} kB",
    )
