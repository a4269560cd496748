"""The stories that the wait queue is tried with, and how many schedules of each."""

from __future__ import annotations

import os

from tests.support.internals.core import Quota, quota
from tests.support.simulation import MS, Story

SCHEDULES = int(os.environ.get("NEKKAR_SCHEDULES", "16"))

FAST = (MS // 5, 3 * MS)


def limit(text: str, spacing_us: int = 0, margin_us: int | None = None) -> Quota:
    """Return a quota with a spacing and a margin in microseconds."""
    plain = quota(text)
    return Quota(plain.rates, spacing_us, plain.margin_us if margin_us is None else margin_us)


MIXED = (limit("6/s"), limit("3/s"), limit("9/s"), limit("6/s", margin_us=200 * MS))
SKEW = 5 * MS

STORIES = {
    "plain": Story(costs=(1, 1, 3)),
    "bounded": Story(costs=(1, 1, 3), max_wait=0.3),
    "crowd": Story(callers=10, flushes=3, latency_us=FAST),
    "flushed": Story(flushes=3, skew_us=SKEW),
    "storm": Story(
        flushes=2, kills=1, freezes=2, cancels=4, lost=0.05, starved=0.02, skew_us=SKEW, costs=(1, 1, 2), max_wait=0.2
    ),
    "tasks": Story(flushes=2, kills=1, freezes=2, cancels=6, lost=0.05, starved=0.02, skew_us=SKEW, tasks=True),
    "loop": Story(
        callers=6, flushes=2, kills=1, freezes=2, cancels=6, lost=0.05, starved=0.02, skew_us=SKEW,
        tasks=True, loop_us=MS,
    ),
    "busy": Story(
        callers=4, flushes=2, freezes=2, cancels=6, lost=0.1, starved=0.1, costs=(1, 1, 2), tasks=True,
        latency_us=(3 * MS, 20 * MS),
    ),
    "deaf": Story(lost=0.2, starved=0.05, freezes=2),
    "windows": Story(limits=(limit("4/s; 6/2s", 30 * MS),), flushes=1, cancels=2, latency_us=FAST),
    "newcomers": Story(flushes=2, newcomers=True, latency_us=FAST[:1]),
    "long": Story(
        limits=("40/2s",), processes=5, flushes=3, kills=1, freezes=2, cancels=4, lost=0.02, starved=0.02, skew_us=SKEW,
        busy=True, latency_us=FAST,
    ),
    "hot": Story(  # so much room that slots are prefetched
        limits=("900/s",), processes=2, flushes=2, freezes=2, cancels=4, joins=1, busy=True, latency_us=FAST[:1],
        margins_us=(50 * MS, 300 * MS), periods=3,
    ),
    "singles": Story(
        processes=6, callers=1, flushes=2, freezes=2, kills=2, lost=0.05, starved=0.05, skew_us=SKEW, periods=6
    ),
    "heavy": Story(costs=(1, 1, 1, 2, 9), processes=4, kills=2, freezes=1, cancels=3, skew_us=SKEW, periods=6),
    "mixed": Story(
        limits=MIXED, processes=4, kills=2, freezes=1, lost=0.02, skew_us=SKEW, costs=(1, 1, 2)
    ),
    "held": Story(
        limits=("20/s",), processes=5, holds=2, resets=2, kills=1, cancels=2, latency_us=FAST, periods=8
    ),
    "shaken": Story(
        processes=4, holds=1, resets=1, flushes=1, freezes=1, kills=1, joins=2, lost=0.05, skew_us=SKEW, costs=(1, 1, 2)
    ),
    "joins": Story(joins=6, kills=3, skew_us=SKEW, periods=8),
    "fair": Story(processes=6, callers=2, latency_us=FAST, periods=12, fair=True, costs=(1, 1, 1, 3)),
    "dying": Story(
        limits=("20/s",), processes=8, callers=1, kills=4, freezes=2, skew_us=SKEW, latency_us=FAST, periods=8
    ),
    "regular": Story(
        limits=("12/s",), processes=8, callers=1, call_us=300 * MS, flushes=2, kills=2, freezes=2, lost=0.03,
        starved=0.02, skew_us=SKEW, periods=8,
    ),
    "young": Story(
        limits=("5/3s",), processes=4, callers=4, flushes=3, freezes=6, starved=0.3, lost=0.05,
        latency_us=(MS // 5, 30 * MS),
    ),
    "far": Story(
        processes=5, callers=2, latency_us=(40 * MS, 80 * MS), flushes=2, freezes=1, kills=1, lost=0.02, skew_us=SKEW,
        periods=6,
    ),
    "refused": Story(limits=("6/s",), refusals=0.1, busy=True, latency_us=FAST),
    "margins": Story(
        limits=("5/s",), margins_us=(50 * MS, 50 * MS, 900 * MS), processes=2, callers=5, arrivals=3, flushes=1,
        idle=0.7, latency_us=FAST,
    ),
    "idle": Story(limits=("5/10s",), flushes=3, idle=0.1, idle_periods=(7, 10), periods=24, latency_us=FAST),
    "twice": Story(flushes=8, stalls=0.2, latency_us=FAST, periods=8),
    "tokens": Story(
        limits=("6/s; 1000 tokens/s",), costs=(1, 1, 1, 2), tokens=(0, 100, 400, 900), processes=4, flushes=1,
        cancels=3, lost=0.02, skew_us=SKEW, latency_us=FAST, periods=8,
    ),
    "metered": Story(
        limits=("1000 tokens/s; 4000 tokens/6s",), tokens=(300, 600), processes=4, callers=6, flushes=2, kills=1,
        freezes=2, cancels=4, lost=0.05, starved=0.05, skew_us=SKEW, tasks=True, latency_us=FAST, periods=2,
    ),
    "settled": Story(
        limits=("8/s",), tokens=(0,), lasts_us=1500 * MS, settles=0.5, processes=4, callers=6, flushes=3, freezes=2,
        lost=0.02, skew_us=SKEW, latency_us=FAST, periods=12,
    ),
    "refunds": Story(
        limits=("1000 tokens/4s",), tokens=(200, 500), lasts_us=1200 * MS, settles=1.0, uses=(0.0, 0.2), processes=3,
        callers=5, flushes=2, freezes=4, arrivals=3, busy=True, latency_us=FAST[:1], periods=4,
    ),
    "failures": Story(
        limits=("6/4s",), tokens=(0,), lasts_us=1500 * MS, settles=0.8, processes=3, callers=5, flushes=2, freezes=4,
        arrivals=3, busy=True, latency_us=FAST[:1], periods=6,
    ),
    "overdue": Story(
        limits=("1000 tokens/s",), tokens=(500,), lasts_us=800 * MS, settles=1.0, uses=(0.0, 0.05), processes=3,
        callers=4, flushes=6, busy=True, latency_us=(60 * MS,), periods=10,
    ),
    "pairs": Story(
        pairs=3, joins=1, freezes=2, cancels=2, lost=0.03, costs=(1, 1, 2), skew_us=SKEW, latency_us=FAST
    ),
    "spaced": Story(
        limits=("8/s",), spacings_us=(0, 30 * MS, 100 * MS), joins=2, flushes=2, cancels=3, busy=True, latency_us=FAST
    ),
    "close": Story(
        limits=(limit("40/s", MS),), processes=4, callers=1, flushes=1, kills=1, freezes=1, cancels=2, lost=0.02,
        starved=0.02, skew_us=SKEW, busy=True, latency_us=FAST[:1],
    ),
    "deployed": Story(
        limits=("4/s", "6/s", "9/s"), margins_us=(50 * MS, 200 * MS), spacings_us=(0, 0, 50 * MS), joins=2, flushes=2,
        freezes=1, kills=1, cancels=2, busy=True, latency_us=FAST,
    ),
    "ways": Story(
        limits=("8/s",), ways_us=(MS // 5, 3 * MS, 80 * MS, 200 * MS), joins=1, flushes=2, freezes=1, busy=True,
    ),
    "forks": Story(
        limits=("6/s",), forks=4, flushes=2, freezes=1, cancels=2, lost=0.02, busy=True, latency_us=FAST
    ),
    "lines": Story(
        limits=("6/s",), lines=3, flushes=2, freezes=1, cancels=4, busy=True, costs=(1, 1, 2), latency_us=FAST
    ),
    "all": Story(
        limits=("12/s",), lines=2, forks=2, holds=2, pairs=1, freezes=2, kills=1, cancels=4, lost=0.04,
        starved=0.03, skew_us=SKEW, costs=(1, 1, 1, 3), max_wait=0.4, busy=True, tasks=True,
        latency_us=FAST,
    ),
    "versions": Story(versions=True, processes=3, cancels=2, freezes=2, skew_us=SKEW, latency_us=FAST),
}  # fmt: skip

# Each process goes on with its share. The limit may be over by the shares of those that the others can't see.
OUTAGES = Story(limits=("9/s",), outages=1, flushes=1, cancels=3, busy=True, tasks=True, latency_us=FAST)
SHARES = {
    "outages": OUTAGES,
    "flaps": Story(limits=("12/3s",), processes=4, flaps=8, busy=True, tasks=True, latency_us=FAST),
    "cuts": Story(limits=("12/3s",), processes=4, cuts=3, busy=True, tasks=True, latency_us=FAST),
}
