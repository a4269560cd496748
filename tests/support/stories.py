"""The stories that the ledger and the line are tried with, and how many schedules of each."""

from __future__ import annotations

import os

from tests.support.simulation import MS, Story, World

SCHEDULES = int(os.environ.get("NEKKAR_SCHEDULES", "3000"))

FAST = (MS // 5, 3 * MS)

ALONE = Story(alone=True, processes=5, flushes=2, freezes=2, lost=0.05, starved=0.05, skew_us=5 * MS, cancels=2)
PLAIN = Story(max_wait=0.3, costs=(1, 1, 3))
CROWD = Story(callers=10, flushes=3, latency_us=FAST)
FLUSHED = Story(flushes=3, skew_us=5 * MS)
STORM = Story(
    flushes=2, kills=1, freezes=2, cancels=4, lost=0.05, starved=0.02, skew_us=5 * MS, costs=(1, 1, 2), max_wait=0.2
)
TASKS = Story(flushes=2, kills=1, freezes=2, cancels=6, lost=0.05, starved=0.02, skew_us=5 * MS, tasks=True)
BUSY = Story(
    callers=4, flushes=2, freezes=2, cancels=6, lost=0.1, starved=0.1, costs=(1, 1, 2), tasks=True,
    latency_us=(3 * MS, 20 * MS),
)  # fmt: skip
DEAF = Story(lost=0.2, starved=0.05, freezes=2)
WINDOWS = Story(rate="4/s; 6/2s", flushes=1, cancels=2, spacing_us=30 * MS, latency_us=FAST)
OUTAGES = Story(rate="9/s", outages=1, flushes=1, cancels=3, busy=True, tasks=True, latency_us=FAST)
NEWCOMERS = Story(flushes=2, newcomers=True, latency_us=FAST[:1])
LONG = Story(
    rate="40/2s", processes=5, flushes=3, kills=1, freezes=2, cancels=4, lost=0.02, starved=0.02, skew_us=5 * MS,
    busy=True, latency_us=FAST,
)  # fmt: skip
MARGINS = Story(
    rate="5/s", margins_us=(50 * MS, 50 * MS, 900 * MS), processes=2, callers=5, joins=3, flushes=1, idle=0.7,
    latency_us=FAST,
)  # fmt: skip
IDLE = Story(rate="5/10s", flushes=3, idle=0.1, rest=(7, 10), periods=24, latency_us=FAST)
FLAPS = Story(rate="12/s", processes=4, flaps=8, busy=True, tasks=True, latency_us=FAST)
CUTS = Story(rate="12/s", processes=4, cuts=3, busy=True, tasks=True, latency_us=FAST)
TWICE = Story(processes=4, flushes=8, stalls=0.5, latency_us=FAST, periods=8)


def over(story: Story, schedules: int = SCHEDULES) -> list[int]:
    """Return the schedules (their seeds) in which a window was over; a few are void, and don't count."""
    found, void, starts = [], 0, 0
    for seed in range(schedules):
        world = World(story, seed).run()
        assert not world.stuck(), (seed, world.stuck())
        void, starts = void + world.store.void, starts + len(world.starts)
        if world.over() > 0 and not world.store.void:
            found.append(seed)
    assert void <= schedules // 20
    assert starts >= 4 * schedules
    return found


def first_over(story: Story, schedules: int = 3000) -> int | None:
    """Return the first schedule in which a window was over, or None."""
    worlds = (World(story, seed).run() for seed in range(schedules))
    return next((seed for seed, world in enumerate(worlds) if world.over() > 0 and not world.store.void), None)
