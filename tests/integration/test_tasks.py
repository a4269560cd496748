"""Five thousand tasks wait on one limit, on a real memcached: few threads, in order, and half of them leave."""

from __future__ import annotations

import threading
import time

import anyio
import pytest

from nekkar.core.limiter import Limit, Nekkar
from tests.support.checks import worst_window
from tests.support.internals.core import cache_of, hits_in
from tests.support.internals.waiting import Hand, InHand
from tests.support.internals.window import decode
from tests.support.servers import Memcached

TASKS, CALLS, PERIOD, MARGIN = 5000, 500, 0.25, 0.25  # a wide margin, so that few are late on a busy machine


class Crowd:
    """Tasks that acquire once each, and what became of them."""

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.started: list[tuple[int, int]] = []
        self.scopes: list[anyio.CancelScope] = []
        self.most_threads = 0

    async def call(self, number: int) -> None:
        with self.scopes[number]:
            await self.limit.acquire_async()
            self.started.append((number, time.monotonic_ns() // 1000))

    async def watch(self) -> None:
        while True:
            self.most_threads = max(self.most_threads, threading.active_count())
            await anyio.sleep(0.01)

    async def cancel_every_second(self) -> None:
        """Cancel half of those who wait, once the first window is used."""
        while len(self.started) < CALLS:
            await anyio.sleep(0.01)
        for number in range(1, TASKS, 2):
            self.scopes[number].cancel()

    async def run(self) -> None:
        self.scopes = [anyio.CancelScope() for _ in range(TASKS)]
        async with anyio.create_task_group() as watchers:
            watchers.start_soon(self.watch)
            async with anyio.create_task_group() as callers:
                callers.start_soon(self.cancel_every_second)
                for number in range(TASKS):
                    callers.start_soon(self.call, number)
                    await anyio.lowlevel.checkpoint()  # so that they arrive in this order, under trio too
            watchers.cancel_scope.cancel()


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tell how many hits went back after their slot, of late callers and cancelled ones: they may stay booked."""
    hits: list[int] = []

    def close(self: Hand, grant: InHand) -> None:
        if grant.left and time.time_ns() // 1000 > grant.grant.slot:  # the server of the cache goes by this clock
            hits.append(hits_in(grant.left, "calls"))
        closing(self, grant)

    closing = Hand.close
    monkeypatch.setattr(Hand, "close", close)
    return hits


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_thousands_of_tasks_wait_in_line(server: Memcached, backend: str, late: list[int]) -> None:
    """They start in order of arrival, on few threads, never over; half are cancelled, and no capacity goes along.

    But for those whom a busy machine makes late: they come when they can, and their slots may go unused.
    """
    before = threading.active_count()
    limiter = Nekkar(server.url)
    limiter("first", 1).acquire()  # reads the server's clock
    crowd = Crowd(limiter("jobs", CALLS, period=PERIOD, margin=MARGIN))
    anyio.run(crowd.run, backend=backend)

    numbers = [number for number, _ in crowd.started]
    assert len(numbers) == len(set(numbers))
    moved = [abs(number - other) for number, other in zip(numbers, sorted(numbers), strict=True)]
    if not late:
        assert max(moved) <= (0 if backend == "asyncio" else CALLS // 2)  # trio runs what is ready in random order
    assert {number for number in range(TASKS) if number % 2 == 0} <= set(numbers)
    assert worst_window([at for _, at in crowd.started], round(PERIOD * 1e6)) <= CALLS
    assert crowd.most_threads <= before + 10
    value, _ = cache_of(limiter).gets("nekkar:jobs")  # type: ignore[attr-defined]
    unused = decode(value).hits.total - len(numbers)
    assert unused >= 0
    if not late:  # else more may stay booked
        assert unused <= CALLS  # the last ones, booked for who was cancelled meanwhile, go back with the next call
    assert server.commands() < TASKS
