"""`python -m benchmarks [NAME...]`: measure, and print the table."""

import argparse
import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from benchmarks import api_figures, dojo, growth, policy, rest, scaling, slack, starting, tools, turns
from benchmarks.database import Server, server
from benchmarks.figures import Figure, table
from benchmarks.subject import quiet

BENCHMARKS: dict[str, Callable[[Server], Awaitable[list[Figure]]]] = {
    "reference": turns.reference,
    "turns": turns.against_reference,
    "slack": slack.waits,
    "acks": slack.acks,
    "rest": rest.against_aegra,
    "token": api_figures.token_check,
    "first": api_figures.first_token,
    "start": starting.cold_start,
    "memory": starting.memory,
    "thread": growth.one_thread,
    "resting": growth.resting,
    "workers": scaling.workers,
    "policy": policy.decisions,
    "calls": tools.calls,
    "servers": tools.many,
    "hostile": tools.hostile,
    "agentdojo": dojo.against_attacks,
}


async def run(names: list[str]) -> bool:
    """Measure and print; return whether every one of them could be measured."""
    found: list[Figure] = []
    begun = time.monotonic()
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with server() as postgres:
        for name in names:
            print(f"{name} ...", file=sys.stderr, flush=True)
            try:
                async with asyncio.timeout(300):
                    found += await BENCHMARKS[name](postgres)
            except Exception as error:
                found.append(Figure(name, f"not measured: {type(error).__name__}: {error}", holds=False))
        taken = time.monotonic() - begun
        print(
            f"{os.cpu_count()} cores, PostgreSQL {postgres.version}, Python {sys.version.split()[0]}, "
            f"{datetime.now(UTC):%Y-%m-%d}, {taken:.0f} s\n\n{table(found)}"
        )
    return not any(figure.measured.startswith("not measured") for figure in found)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure opsagent on this machine.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(BENCHMARKS)}; none: all")
    names = parser.parse_args().names
    if unknown := [name for name in names if name not in BENCHMARKS]:
        parser.error(f"there is no benchmark {unknown[0]!r}; it is one of {', '.join(BENCHMARKS)}")
    quiet()
    try:
        sys.exit(0 if asyncio.run(run(names or list(BENCHMARKS))) else 1)
    except asyncio.CancelledError:
        sys.exit("Stopped before everything was measured.")


if __name__ == "__main__":
    main()
