"""A worker far from the cache beside near ones: it gets its share, though its swaps lose against theirs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from typing import Any

import pytest

from nekkar.core.errors import WaitTooLong
from tests.support.internals.core import SECOND
from tests.support.internals.runtime import Backoff, CacheCall, CacheSteps
from tests.support.internals.shared import MOST_BACKOFF_US
from tests.support.simulation import MS, Clock, Process, Story, World
from tests.support.stories import limit

NEAR = 4


def _calls(world: World, process: Process, max_wait: float | None, waits: list[int]) -> Generator[Any, Any, None]:
    """Call again and again: near workers rest for 40 ms after each call, the far one calls at once."""
    while world.now < world.until:
        began = world.now
        try:
            slot, _ = yield from process.line.acquire(1, max_wait)
        except WaitTooLong:
            yield Backoff(MS)
        else:
            world.record_start(process, slot)
            if process is not world.processes[0]:
                yield Backoff(40 * MS)
        waits.append(world.now - began)


def _two_swaps(way_us: int) -> int:
    """How long two swaps take, each with its read, and the pause between them."""
    return 2 * 4 * way_us + MOST_BACKOFF_US


@pytest.mark.parametrize("spacing_us", [0, 20 * MS], ids=["bursts", "even"])
@pytest.mark.parametrize("max_wait", [None, 0.5])
def test_a_worker_60_ms_away_gets_at_least_a_third_of_an_even_share(spacing_us: int, max_wait: float | None) -> None:
    """Others grant its place, so it need not win a swap for each call; and nothing of the limit is lost by that."""
    terms, way_us = limit("50/s", spacing_us), 30 * MS
    story = Story(
        limits=(terms,), processes=1 + NEAR, callers=1, exact=True, latency_us=(MS // 10,), far_us=way_us, periods=20
    )
    far_calls = calls = 0
    for seed in range(1, 4):
        world, waits = World(story, seed), list[int]()
        for process in world.processes:
            is_far = process is world.processes[0]
            for actor in process.actors:
                actor.stack = [_calls(world, process, max_wait if is_far else None, waits if is_far else [])]
        world.run()
        assert world.problems == []
        of = Counter(start.process.number for start in world.starts)
        far_calls += of[1]
        calls += len(world.starts)
        if max_wait is not None:
            assert max(waits) <= max_wait * SECOND + _two_swaps(way_us)
    assert far_calls >= calls / (1 + NEAR) / 3
    assert calls / 3 >= 0.9 * 20 * 50 * SECOND / (SECOND + terms.margin_us)


class FarClock(Clock):
    """A clock that is read once, by ``questions`` over a way of ``way_us``."""

    questions, way_us = 5, 30 * MS
    round_trip_us: int | None = None

    def is_due(self) -> bool:
        return self.round_trip_us is None

    def read(self) -> None:
        self.round_trip_us = 2 * self.way_us

    def sync(self) -> CacheSteps[None]:
        """What ``read`` costs: all its questions, one after another."""
        if self.is_due():
            for _ in range(self.questions - 1):
                yield CacheCall(int)
            yield CacheCall(self.read)


def test_no_call_of_a_far_worker_outlives_its_patience_by_more_than_two_swaps() -> None:
    """Near workers win nearly every swap. The first call reads the clock too."""
    story = Story(
        limits=("100/s",), processes=1 + NEAR, callers=1, exact=True, latency_us=(MS // 10,), far_us=FarClock.way_us,
        periods=13,
    )  # fmt: skip
    waits = list[int]()
    for seed in range(1, 9):
        world = World(story, seed)
        far = world.processes[0]
        clock = FarClock(world)
        far.ledger._read_clock = clock  # type: ignore[assignment]
        far.ledger.sync_clock = clock.sync  # type: ignore[method-assign]
        for process in world.processes:
            for actor in process.actors:
                actor.stack = [_calls(world, process, 0.5 if process is far else None, waits if process is far else [])]
        world.run()
        assert world.problems == []
    refused = [waited for waited in waits if waited > 0.5 * SECOND]
    assert len(refused) > 20
    assert max(refused) <= 0.5 * SECOND + _two_swaps(FarClock.way_us)
