"""``headroom``: calls that leave a part of each window free, on one limit with calls that do not."""

from __future__ import annotations

import pickle
import threading
from typing import Any

import anyio
import pytest

from nekkar import ConfigurationError, Nekkar, WaitTooLong
from nekkar.testing import FakeClock
from tests.support.internals.core import cache_of, exchanged, limiter_of
from tests.support.limits import BACKENDS, let_pass


def used(limit: Any) -> int:
    count: int = limit.status().windows[0].used
    return count


def test_batch_uses_its_part_and_live_calls_the_rest(clock: FakeClock) -> None:
    """Seven of ten; three are left for calls without headroom, of the same limit."""
    limiter = Nekkar(clock=clock)
    live, batch = limiter("a", "10/second"), limiter("a", "10/second", headroom=0.3)
    assert (live.headroom, batch.headroom) == (0.0, 0.3)
    for _ in range(7):
        assert batch.acquire(max_wait=0).waited == 0
    with pytest.raises(WaitTooLong):
        batch.acquire(max_wait=0)
    for _ in range(3):
        assert live.acquire(max_wait=0).waited == 0
    with pytest.raises(WaitTooLong):
        live.acquire(max_wait=0)
    assert used(live) == 10


def test_a_call_has_a_headroom_of_its_own(clock: FakeClock) -> None:
    """It comes before its limit's; so does 0."""
    limiter = Nekkar(clock=clock)
    batch = limiter("a", "10/second", headroom=0.5)
    batch.acquire(cost=5)
    with pytest.raises(WaitTooLong):
        batch.acquire(max_wait=0)
    assert batch.acquire(max_wait=0, headroom=0.4).cost == 1
    assert batch.acquire(cost=4, max_wait=0, headroom=0).cost == 4


@pytest.mark.parametrize("backend", BACKENDS)
def test_tasks_leave_headroom_too(backend: str, clock: FakeClock) -> None:
    """In a line of their own."""
    limit = Nekkar(clock=clock)("a", "10/second")

    async def main() -> None:
        await limit.acquire_async(cost=7, headroom=0.3)
        with pytest.raises(WaitTooLong):
            await limit.acquire_async(max_wait=0, headroom=0.3)
        await limit.acquire_async(max_wait=0)

    anyio.run(main, backend=backend)
    assert used(limit) == 8


def test_a_cost_above_the_part_is_an_error(clock: FakeClock) -> None:
    """It could never be admitted; the error says what could."""
    limit = Nekkar(clock=clock)("a", "10/second", headroom=0.3)
    with pytest.raises(ConfigurationError, match=r"cost 8 .* with headroom 0.3; give at most 7"):
        limit.acquire(cost=8)
    with pytest.raises(ConfigurationError, match="give at most 0"):
        limit.acquire(headroom=0.95)


@pytest.mark.parametrize("headroom", [1, 1.5, -0.1, "0.2", True, float("nan"), None])
def test_what_is_no_part_is_an_error(headroom: Any, clock: FakeClock) -> None:
    """Where it is written."""
    limiter = Nekkar(clock=clock)
    if headroom is not None:
        with pytest.raises(ConfigurationError, match="headroom"):
            limiter("a", 10).acquire(headroom=headroom)
    with pytest.raises(ConfigurationError, match="headroom"):
        limiter("a", 10, headroom=headroom)


def test_it_yields_to_live_calls_of_its_process() -> None:
    """A live call that comes later starts first."""
    clock = FakeClock(jump=False)
    limit = Nekkar(clock=clock)("a", "1/second")
    limit.acquire()
    order: list[str] = []

    def call(name: str, headroom: float) -> None:
        limit.acquire(headroom=headroom)
        order.append(name)

    limit = Nekkar(cache_of(limiter_of(limit)), clock=clock)("b", "2/second")
    limit.acquire(cost=2)
    threads = [threading.Thread(target=call, args=("batch", 0.5))]
    threads[0].start()
    while limit.status().waiting < 1:
        threading.Event().wait(0.01)
    threads += [threading.Thread(target=call, args=("live", 0.0)) for _ in range(2)]
    for thread in threads[1:]:
        thread.start()
    while limit.status().waiting < 3:
        threading.Event().wait(0.01)
    let_pass(clock, threads)
    assert order == ["live", "live", "batch"]


def test_an_exchanged_call_keeps_its_headroom(clock: FakeClock) -> None:
    """It stands in front of the line with the same."""
    limit = Nekkar(clock=clock)("a", "10/second")
    admission = limit.acquire(cost=7, headroom=0.3)
    clock.advance(0.2)
    assert exchanged(limit, admission).waited == pytest.approx(0.85)


def test_a_pickled_limit_keeps_its_headroom(clock: FakeClock) -> None:
    """As its max_wait."""
    limit = pickle.loads(pickle.dumps(Nekkar(clock=clock)("a", "10/second", headroom=0.25)))
    assert limit.headroom == 0.25


def test_joint_calls_leave_headroom_in_each(clock: FakeClock) -> None:
    """The call's, else each limit's own."""
    limiter = Nekkar(clock=clock)
    limit = limiter("a", "10/second", headroom=0.5) & limiter("b", "10/second")
    limit.acquire(cost=5)
    with pytest.raises(WaitTooLong, match="'a'"):
        limit.acquire(max_wait=0)
    assert limit.acquire(max_wait=0, headroom=0.4).waited == 0
    with pytest.raises(WaitTooLong):
        limit.acquire(max_wait=0, headroom=0.4)
