"""Two workers against one, with 64 busy threads and a model that takes a second."""

import asyncio
from contextlib import AsyncExitStack

from benchmarks.database import Server
from benchmarks.figures import Figure, at_least, paired, spread, times
from benchmarks.subject import started

ROUNDS = 5
THREADS = 64
WINDOW_S = 4
_FINISHED = "SELECT count(*) FROM turns WHERE status = 'completed'"


async def workers(server: Server) -> list[Figure]:
    """Turns a second once all workers are at it, in a window of seconds."""
    one: list[float] = []
    two: list[float] = []
    database = await server.fresh()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(server.drop, database)
        mailer = await stack.enter_async_context(started(server, "product", database=database, BENCH_WORK="0"))
        for number in range(ROUNDS):
            for count in (1, 2) if number % 2 else (2, 1):
                await mailer.do("mail", threads=THREADS, each=2 + (WINDOW_S + 2) * 20 * count // THREADS)
                (one if count == 1 else two).append(await _rate(server, database, count))
    shown = f" ({sum(one) / ROUNDS:.0f} and {sum(two) / ROUNDS:.0f} turns/s; rounds {spread(two, one)})"
    name = "two workers against one, 64 threads, a model that takes 1 s"
    return [at_least(name, paired(two, one), 1.9, times, with_=shown)]


async def _rate(server: Server, database: str, count: int) -> float:
    async with AsyncExitStack() as stack:
        workers = (started(server, "product", database=database, BENCH_MODEL_S="1") for _ in range(count))
        await asyncio.gather(*(stack.enter_async_context(worker) for worker in workers))
        await asyncio.sleep(1.5)
        before = await server.ask(_FINISHED, database)
        await asyncio.sleep(WINDOW_S)
        return (await server.ask(_FINISHED, database) - before) / WINDOW_S
