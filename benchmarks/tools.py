"""Tools: a call's way to its server or worker, many servers at once, and servers that mean ill."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from statistics import median
from typing import Any

from benchmarks.database import Server
from benchmarks.figures import Figure, at_most, megabytes, milliseconds, paired, spread, times
from benchmarks.subject import started

ROUNDS = 7
EACH = 200
SERVERS, TOOLS = 50, 20
TURNS = 20

Run = Callable[[], Awaitable[dict[str, Any]]]


async def calls(server: Server) -> list[Figure]:
    """A call over our stdio connection against the SDK's client; one in a sandboxed worker against a free one's."""
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(started(server, "tool_side"))
        bare = await stack.enter_async_context(started(server, "tool_side"))
        mcp = await _rounds(lambda: ours.do("calls", n=EACH), lambda: bare.do("bare_calls", n=EACH))
        held = await ours.do("worker_calls", n=1, sandboxed=True)
        worker = await _rounds(
            lambda: ours.do("worker_calls", n=EACH, sandboxed=True),
            lambda: ours.do("worker_calls", n=EACH, sandboxed=False),
        )
    missing = f"; without {', '.join(held['missing'])}" if held["missing"] else ""
    return [
        _figure("MCP call over stdio against the bare client's, p50", *mcp, 2.0),
        _figure("Python tool in a warm sandboxed worker against an unsandboxed one, p50", *worker, 1.5, missing),
    ]


async def many(server: Server) -> list[Figure]:
    """Fifty servers with a thousand tools: how soon they are there, and what they add to a turn."""
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(started(server, "tool_side"))
        bare = await stack.enter_async_context(started(server, "tool_side"))
        ready = await _rounds(
            lambda: ours.do("ready", servers=SERVERS, tools=TOOLS),
            lambda: bare.do("bare_ready", servers=SERVERS, tools=TOOLS),
            rounds=3,
        )
    async with AsyncExitStack() as stack:
        full = await stack.enter_async_context(started(server, "product", BENCH_TOOLS=f"{SERVERS}x{TOOLS}"))
        few = await stack.enter_async_context(started(server, "product", BENCH_TOOLS="1x10"))
        turns = await _rounds(lambda: full.do("turns", n=TURNS), lambda: few.do("turns", n=TURNS))
    what = f"{SERVERS} servers, {SERVERS * TOOLS:,} tools"
    return [
        _figure(f"{what}: ready against bare clients connected at once", *ready, 1.5),
        _figure(f"{what}: a turn against one with ten tools", *turns, 1.3),
    ]


async def hostile(server: Server) -> list[Figure]:
    """What servers that mean ill cost the process: the worst of them, each the median of three runs."""
    runs: list[dict[str, Any]] = []
    for _ in range(3):
        async with started(server, "tool_side") as side:
            runs.append(await side.do("stall"))
    worst = {what: median(run[what]["ms"] for run in runs) for what in runs[0]}
    cpu = {what: median(run[what]["cpu_ms"] for run in runs) for what in runs[0]}
    memory = {what: median(run[what]["mb"] for run in runs) for what in runs[0]}
    slowest, fattest = max(worst, key=worst.__getitem__), max(memory, key=memory.__getitem__)
    shown = f" ({slowest}; {milliseconds(cpu[slowest])} of it CPU)"
    return [
        at_most("hostile MCP servers: the loop's longest stall", worst[slowest], 100, milliseconds, with_=shown),
        at_most("the same, growth of memory", memory[fattest], 64, megabytes, with_=f" ({fattest})"),
    ]


async def _rounds(ours: Run, bare: Run, *, rounds: int = ROUNDS) -> tuple[list[float], list[float]]:
    """The medians of both sides, in rounds that alternate; the first of each is not counted."""
    found: dict[str, list[float]] = {"ours": [], "bare": []}
    for number in range(-1, rounds):
        for side, run in (("ours", ours), ("bare", bare)) if number % 2 else (("bare", bare), ("ours", ours)):
            measured = (await run())["ms"]
            if number >= 0:
                found[side].append(median(measured) if isinstance(measured, list) else measured)
    return found["ours"], found["bare"]


def _figure(name: str, ours: list[float], bare: list[float], most: float, more: str = "") -> Figure:
    shown = f" ({median(ours):.2f} and {median(bare):.2f} ms; rounds {spread(ours, bare)}{more})"
    return at_most(name, paired(ours, bare), most, times, with_=shown)
