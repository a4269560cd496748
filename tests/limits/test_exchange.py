"""``Limit.exchange``: a call that did not start on its admission in time gets another slot, in front of the line."""

from __future__ import annotations

import threading
from collections.abc import Callable

import anyio
import pytest

from nekkar import Nekkar
from nekkar.core.cache import BaseCache, MemoryCache
from nekkar.core.errors import WaitTooLong
from nekkar.core.events import Admitted, Waiting
from nekkar.testing import START_US, FakeClock, assert_never_over
from tests.support.internals.core import exchanged, is_good, least_wait
from tests.support.web import TIMEOUT, wait_until

START = START_US / 1e6


def test_an_admission_is_good_until_half_of_the_margin_after_its_slot(clock: FakeClock) -> None:
    """By the limit's clock; the last instant counts."""
    limit = Nekkar(clock=clock)("a", "5/minute", margin=0.05)
    admission = limit.acquire()
    clock.advance(0.025)
    assert is_good(limit, admission)
    clock.advance(0.000001)
    assert not is_good(limit, admission)


@pytest.mark.parametrize(("seconds", "used"), [(0.1, 1), (0.11, 2)])
def test_a_slot_goes_back_up_to_a_horizon_after_it(seconds: float, used: int, clock: FakeClock) -> None:
    """Up to then its hit is unbooked as the new one is booked; later it is spent."""
    limit = Nekkar(clock=clock)("a", "5/minute", margin=0.05)
    admission = limit.acquire()
    clock.advance(seconds)
    again = exchanged(limit, admission)
    assert again.at == pytest.approx(START + seconds)
    assert limit.status().windows[0].used == used


def test_a_slot_of_a_log_that_was_lost_does_not_go_back(clock: FakeClock) -> None:
    """A hit is unbooked only in its own epoch: another one may be somebody else's."""
    cache = MemoryCache()
    limit = Nekkar(cache, clock=clock)("a", "5/minute", margin=0.05)
    admission = limit.acquire()
    limit.reset()
    others = Nekkar(cache, clock=clock)("a", "5/minute", margin=0.05)
    others.acquire(cost=4)
    clock.advance(0.05)
    exchanged(limit, admission)
    with pytest.raises(WaitTooLong):
        limit.acquire(max_wait=0)


def test_it_stands_in_front_of_the_line() -> None:
    """A call that was admitted before comes before those that wait in line."""
    clock = FakeClock(jump=False)
    limit = Nekkar(clock=clock)("a", "1/minute", margin=0.05)
    admission = limit.acquire()
    clock.advance(1)
    order: list[str] = []
    calls: list[tuple[str, Callable[[], object]]] = [
        ("came first", limit.acquire),
        ("came second", limit.acquire),
        ("exchanges", lambda: exchanged(limit, admission)),
    ]
    threads = []

    def run(name: str, call: Callable[[], object]) -> None:
        call()
        order.append(name)

    for count, (name, call) in enumerate(calls, 1):
        threads.append(threading.Thread(target=run, args=(name, call)))
        threads[-1].start()
        wait_until(lambda count=count: limit.status().waiting == count)
    for started in range(1, 4):
        clock.advance(START + started * 60.05 - clock.now)  # to the very slot
        wait_until(lambda started=started: len(order) == started)
    for thread in threads:
        thread.join(TIMEOUT)
    assert order == ["exchanges", "came first", "came second"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_tasks_exchange_too(backend: str, clock: FakeClock) -> None:
    """As threads do."""
    limit = Nekkar(clock=clock)("a", "1/minute", margin=0.05)

    async def body() -> None:
        admission = await limit.acquire_async()
        clock.advance(0.05)
        assert (await limit._exchange_async(admission)).at == pytest.approx(START + 0.05)

    anyio.run(body, backend=backend)


def test_it_waits_no_longer_than_it_says(clock: FakeClock) -> None:
    """``max_wait`` bounds an exchange; the lower bound of its wait is known before."""
    limit = Nekkar(clock=clock)("a", "1/minute", margin=0.05)
    admission = limit.acquire()
    assert least_wait(limit, admission) == 0.0
    clock.advance(1)
    assert least_wait(limit, admission) == pytest.approx(59.05)
    with pytest.raises(WaitTooLong) as raised:
        exchanged(limit, admission, max_wait=5)
    assert raised.value.retry_after == pytest.approx(59.05)
    assert limit.status().waiting == 0


def test_listeners_are_told_of_it(clock: FakeClock) -> None:
    """An exchange waits and is admitted as a call of its own."""
    limiter = Nekkar(clock=clock)
    limit, told = limiter("a", "1/minute", margin=0.05), list[object]()
    admission = limit.acquire()
    clock.advance(1)
    with limiter.listen(told.append):
        exchanged(limit, admission)
    assert [type(event) for event in told] == [Waiting, Admitted]


def test_prefetched_slots_are_exchanged_one_by_one(clock: FakeClock) -> None:
    """Calls that found a spare slot share an admission; each gives back its own hit, and the limit is kept."""
    cache: BaseCache = MemoryCache()
    limit = Nekkar(cache, clock=clock)("a", "1000/second", margin=0.2)
    starts: list[float] = []
    for _ in range(40):
        batch = [limit.acquire() for _ in range(100)]
        clock.advance(0.12)
        starts += [exchanged(limit, admission).at for admission in batch]
    assert_never_over(starts, "1000/second")
