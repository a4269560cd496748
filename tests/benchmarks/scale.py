"""Scale on paper: many processes on one key, in the simulated world of the tests, which runs the real line and ledger.

``python -m tests.benchmarks.scale``; ``--long`` adds 1,000 processes, and takes some minutes.

Each process has one caller, which waits for its slot, calls, and asks at once for the next. A command takes the latency
given, on average; the server takes no time, and processes have no CPU to share: what is left is the protocol. No kills,
no losses.
"""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean, median

from tests.support.internals.core import SECOND, quota
from tests.support.simulation import START_US, Story, World

CALLS, PERIOD = 100, 2.0
LATENCIES_US = (500, 80_000)  # in a data centre, across regions


@dataclass(frozen=True, slots=True)
class Outcome:
    """``commands`` per admission, share ``used``, ``fairness`` (least share / largest).

    ``median_wait``: seconds from asking to the slot. ``most_bytes``: of the state in the cache.
    """

    commands: float
    used: float
    fairness: float
    median_wait: float
    most_bytes: int


def outcome(processes: int, latency_us: int, seconds: float, seed: int = 1) -> Outcome:
    """Run for so long, and tell of the second half: the rush of the beginning is over then."""
    terms = quota(CALLS, PERIOD)
    story = Story(
        limits=(terms,),
        processes=processes,
        callers=1,
        exact=True,
        latency_us=(latency_us,),
        periods=round(seconds / PERIOD),
    )
    world, commands = World(story, 8 * seed), list[int]()  # 8: in this schedule a state is its bytes
    told_from = START_US + (world.until - START_US) // 2
    for instant in (told_from, world.until):
        world.at(instant, lambda: commands.append(world.store.commands))
    world.run()
    assert not world.problems, world.problems
    starts: dict[int, list[int]] = {number: [] for number in range(1, processes + 1)}
    for start in world.starts:
        if told_from <= start.at <= world.until:
            starts[start.process.number].append(start.at)
    shares = [len(each) for each in starts.values()]
    order = sorted(start for each in starts.values() for start in each)
    spans = [after - before for before, after in zip(order, order[CALLS:], strict=False)]
    return Outcome(
        (commands[1] - commands[0]) / max(1, sum(shares)),
        PERIOD * SECOND / mean(spans) if spans else 0.0,
        min(shares) / max(1, *shares),
        median(after - before for each in starts.values() for before, after in pairwise(each)) / SECOND,
        world.most_bytes,
    )


def main() -> None:
    """Print a row for each number of processes, near the cache and far from it."""
    random.seed(1)
    print(f"{CALLS} per {PERIOD:g} s, one key")
    for latency_us in LATENCIES_US:
        for processes in (10, 100, 1_000) if "--long" in sys.argv else (10, 100):
            told = outcome(processes, latency_us, max(30.0, 6 * processes * PERIOD / CALLS))
            print(
                f"{latency_us / 1000:g} ms, {processes:,} processes: {told.commands:.2f} commands per admission,"
                f" {told.used:.3f} used, fairness {told.fairness:.2f}, {told.median_wait:.2f} s to admission,"
                f" {told.most_bytes:,} bytes",
                flush=True,
            )


if __name__ == "__main__":
    main()
