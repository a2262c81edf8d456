"""What stays: the hundredth turn of a thread, and what threads and approvals cost while nobody touches them."""

from statistics import median

from benchmarks.database import Server
from benchmarks.figures import Figure, at_most, kilobytes, megabytes, times
from benchmarks.subject import started

CHARS = 500
THREADS = 3
FILLED = 400
SCALED_TO = 10_000


async def one_thread(server: Server) -> list[Figure]:
    """Turns 191 to 200 of a thread against turns 6 to 15, in several threads."""
    ratios: list[float] = []
    async with started(server, "product") as ours:
        await ours.do("turns", n=20)
        empty = await server.size(ours.database)
        before = await server.wal()
        for _ in range(THREADS):
            taken = (await ours.do("thread", n=200, chars=CHARS))["ms"]
            ratios.append(median(taken[180:200]) / median(taken[5:25]))
        wal = (await server.wal() - before) / (200 * THREADS) / 1000
        grown = await server.size(ours.database) - empty
    disk = grown / (200 * THREADS * 2 * CHARS)
    return [
        at_most("turn 200 of a thread against turn 10", median(ratios), 1.2, times),
        at_most("WAL of a turn (500 characters each way)", wal, 10.0, kilobytes),
        at_most(
            "disk for a byte of text, indexes and the event log included", disk, 4.0, lambda value: f"{value:.1f} B"
        ),
    ]


async def resting(server: Server) -> list[Figure]:
    """The disk that finished threads and pending approvals hold; measured on some hundreds, scaled to 10,000."""
    found: list[Figure] = []
    for what, asks, limit in (("finished threads", False, 65.0), ("pending approvals", True, 40.0)):
        async with started(server, "product") as ours:
            await ours.do("fill", n=50, asks=asks)
            empty, before = await server.size(ours.database), await server.tables(ours.database)
            await ours.do("fill", n=FILLED, asks=asks)
            grown = (await server.size(ours.database) - empty) / FILLED * SCALED_TO / 1_000_000
            after = await server.tables(ours.database)
        each = {name: (after[name] - before.get(name, 0)) / FILLED for name in after}
        largest = ", ".join(f"{name} {each[name] / 1000:.1f} kB" for name in sorted(each, key=each.__getitem__)[:-6:-1])
        name = f"10,000 {what}, scaled from {FILLED}"
        found.append(at_most(name, grown, limit, megabytes, with_=f" (each: {largest})"))
    return found
