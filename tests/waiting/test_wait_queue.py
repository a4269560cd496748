"""The line: leading, late callers, leaving and deadlines, in random schedules of whole processes."""

from __future__ import annotations

import dataclasses

import pytest

from nekkar.core.errors import WaitTooLong
from tests.support.internals import decode
from tests.support.simulation import MS, Cancelled, Store, Story, World
from tests.support.stories import BUSY, CROWD, DEAF, FAST, FLUSHED, PLAIN, STORM, TASKS, WINDOWS, over

STORIES = {
    "plain": PLAIN,
    "crowd": CROWD,
    "flushed": FLUSHED,
    "storm": STORM,
    "tasks": TASKS,
    "busy": BUSY,
    "deaf": DEAF,
    "windows": WINDOWS,
}


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
def test_no_window_is_over_and_nobody_is_stuck(story: Story) -> None:
    """Kills, freezes, flushes, lost answers, cancellations, costs, deadlines, clocks 5 ms apart: never over."""
    assert over(story) == []


def test_the_schedules_contain_what_they_are_for() -> None:
    """Cancellations and refusals happened, and swaps were lost."""
    worlds = [World(story, seed).run() for story in (STORM, TASKS) for seed in range(100)]
    outcomes = [error for world in worlds for error in world.outcomes]
    assert sum(isinstance(error, Cancelled) for error in outcomes) > 100
    assert sum(isinstance(error, WaitTooLong) for error in outcomes) > 100
    assert sum(world.lost_swaps for world in worlds) > 500


@pytest.mark.parametrize("costs", [(1,), (1, 2, 3)])
def test_cancelled_callers_leak_no_slot(costs: tuple[int, ...]) -> None:
    """Whenever callers are cancelled, in the end the log holds the hits that started, and no others."""
    story = Story(callers=5, cancels=12, costs=costs, tasks=True, latency_us=FAST)
    cancelled = 0
    for seed in range(400):
        world = World(story, seed).run()
        cancelled += sum(isinstance(error, Cancelled) for error in world.outcomes)
        assert isinstance(world.store, Store)
        value, _ = world.store.gets("key")
        assert value is not None
        assert decode(value).total == sum(cost for _, cost in world.starts), seed
    assert cancelled > 1000


def test_nobody_is_told_to_wait_longer_than_its_deadline() -> None:
    """A caller with a deadline starts, or is refused, by then, but for one horizon in which a swap answers."""
    story = dataclasses.replace(PLAIN, max_wait=0.2, latency_us=FAST)
    waits = []
    for seed in range(300):
        world = World(story, seed).run()
        waits += world.bounded_waits
    assert len(waits) > 1000
    assert max(waits) <= 200 * MS + 110 * MS


def test_all_of_the_limit_is_used_while_callers_wait() -> None:
    """Between the first slot and the last, windows are a period and a margin long, and full."""
    story = Story(rate="8/s", callers=6, processes=3, latency_us=FAST[:1], busy=True)
    for seed in range(100):
        world = World(story, seed).run()
        times = sorted(time for time, _ in world.starts)
        windows = (times[-1] - times[0]) / (world.period_us + world.quota.margin_us)
        assert len(times) >= 0.95 * 8 * windows, seed
