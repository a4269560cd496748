"""Pauses, in random schedules of whole processes: who refuses one refuses all, and no window is over for it."""

from __future__ import annotations

import dataclasses

import pytest

from tests.support.internals import View
from tests.support.simulation import MS, Story, World
from tests.support.stories import BUSY, CROWD, FAST, OUTAGES, STORM, TASKS, over

STORIES = {"crowd": CROWD, "storm": STORM, "tasks": TASKS, "busy": BUSY, "outages": OUTAGES}
HELD = Story(callers=5, refusals=0.05, kills=1, cancels=3, busy=True, latency_us=FAST)


def started_inside(world: World) -> list[int]:
    """Return the starts inside a pause that all knew of: a horizon, half a margin and a late wake after it was told."""
    grace = max(process.ledger.pace.horizon_us for process in world.processes) + world.quota.margin_us // 2 + 5 * MS
    return [at for at, _ in world.starts for told, until in world.pauses if told + grace < at < until]


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
def test_no_window_is_over_where_a_service_refuses(story: Story) -> None:
    """Pauses and a margin that grows, with all else that may happen: never over, and nobody is stuck."""
    assert over(dataclasses.replace(story, refusals=0.05), 120) == []


def test_nobody_starts_inside_a_pause() -> None:
    """Whoever heard of it: but for those within the horizon, all wait for its end, and there are pauses enough."""
    pauses = 0
    for seed in range(200):
        world = World(HELD, seed).run()
        pauses += sum(until - told > 200 * MS for told, until in world.pauses)
        assert not started_inside(world), seed
        assert not world.stuck(), seed
    assert pauses > 150


def test_a_process_that_does_not_look_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: a slot is good whatever the newest look showed of a hold."""
    monkeypatch.setattr(View, "vouches", lambda self, slot: self.seen.epoch == slot.epoch)
    assert any(started_inside(World(HELD, seed).run()) for seed in range(200))
