"""How a limit stands, and the levers on it: status, hold, release, reset; and limits that are forgotten."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from nekkar import ConfigurationError, Limit, Nekkar, Status, WaitTooLong, Window
from nekkar.core.cache import MemoryCache, SqliteCache
from nekkar.testing import FakeClock
from tests.support.internals.core import core_of, kept_limits
from tests.support.internals.window import Place
from tests.support.limits import let_pass

NAMES = 64


def two_processes(clock: FakeClock) -> tuple[Limit, Limit]:
    """Return one limit as two processes see it."""
    cache = MemoryCache()
    return Nekkar(cache, clock=clock)("calls", "10/second", max_wait=0), Nekkar(cache, clock=clock)("calls", "10/s")


class TestStatus:
    """What ``status`` tells."""

    def test_a_limit_never_used_is_all_free(self, clock: FakeClock) -> None:
        """Nothing is used, and the next slot is now."""
        limit = Nekkar(clock=clock)("calls", "10/second; 300/minute")
        windows = (Window(10, 1.0, 0, 10), Window(300, 60.0, 0, 300))
        assert limit.status() == Status("calls", windows, clock.now, None, 0)

    def test_each_window_tells_what_is_used_and_the_next_slot(self, clock: FakeClock) -> None:
        """Ten calls fill the second; after it they still count in the minute."""
        limit = Nekkar(clock=clock)("calls", "10/second; 300/minute")
        limit.acquire(cost=10)
        full = limit.status()
        assert full.windows == (Window(10, 1.0, 10, 0), Window(300, 60.0, 10, 290))
        assert full.next_at == pytest.approx(clock.now + 1.05, abs=1e-6)
        clock.advance(1)
        assert limit.status().windows == (Window(10, 1.0, 0, 10), Window(300, 60.0, 10, 290))

    def test_it_tells_of_other_processes(self, clock: FakeClock) -> None:
        """What another process used counts here too, without a call of this one."""
        here, there = two_processes(clock)
        there.acquire(cost=4)
        assert here.status().windows == (Window(10, 1.0, 4, 6),)

    def test_the_next_slot_is_behind_a_heavy_call_that_waits(self, clock: FakeClock) -> None:
        """One of ten is used, and a call of ten waits: a light call would have to let that go first."""
        limit = Nekkar(clock=clock)("calls", "10/second")
        limit.acquire()
        clock.advance(0.5)
        state, now = core_of(limit).ledger.state, core_of(limit).clock.now_us()
        assert state is not None
        terms = (core_of(limit).quota.rates, 0)
        heavy = replace(state, places=(Place(7, 10, now + 550_000, 1, 0, terms),))
        assert core_of(limit).status(heavy, now).next_at == pytest.approx(clock.now + 1.6, abs=1e-6)

    def test_it_writes_nothing(self, tmp_path: Path, clock: FakeClock) -> None:
        """Looking leaves the cache as it was."""
        cache = SqliteCache(tmp_path / "limits.db")
        limit = Nekkar(cache, clock=clock)("calls", 10)
        limit.status()
        assert cache.gets("nekkar:calls") == (None, None)
        limit.acquire()
        before = cache.gets("nekkar:calls")
        limit.status()
        assert cache.gets("nekkar:calls") == before

    def test_it_counts_who_waits_here(self) -> None:
        """Callers in line and callers with a slot that is yet to come."""
        clock = FakeClock(jump=False)
        limit = Nekkar(clock=clock)("calls", "1/second")
        limit.acquire()
        threads = [threading.Thread(target=limit.acquire) for _ in range(3)]
        for thread in threads:
            thread.start()
        while limit.status().waiting < 3:
            threading.Event().wait(0.01)
        let_pass(clock, threads)
        assert limit.status().waiting == 0


class TestLevers:
    """What ``hold``, ``release`` and ``reset`` do, to all who share the limit."""

    def test_a_hold_stops_everybody_until_its_end(self, clock: FakeClock) -> None:
        """No slot before it, in another process too; exactly at its end there is one."""
        here, there = two_processes(clock)
        there.acquire()
        begin = clock.now
        there.hold(5)
        assert here.status().hold_until == pytest.approx(begin + 5, abs=1e-6)
        with pytest.raises(WaitTooLong) as refused:
            here.acquire()
        assert refused.value.retry_after == pytest.approx(5, abs=1e-6)
        assert there.acquire().at == pytest.approx(begin + 5, abs=1e-6)

    def test_a_shorter_hold_does_not_cut_a_longer_one(self, clock: FakeClock) -> None:
        """The later end counts."""
        here, there = two_processes(clock)
        here.hold(5)
        there.hold(1)
        assert here.status().hold_until == pytest.approx(clock.now + 5, abs=1e-6)

    def test_a_release_ends_a_hold(self, clock: FakeClock) -> None:
        """The next call starts at once."""
        here, there = two_processes(clock)
        here.hold(5)
        there.release()
        assert here.status().hold_until is None
        assert here.acquire().waited == 0

    def test_a_slot_booked_before_a_hold_and_due_inside_it_is_booked_again(self) -> None:
        """A caller looks as it wakes, and waits for the end of the hold."""
        clock = FakeClock(jump=False)
        cache = MemoryCache()
        limit = Nekkar(cache, clock=clock)("calls", "1/second")
        begin = clock.now
        limit.acquire()
        admitted: list[float] = []
        waiting = threading.Thread(target=lambda: admitted.append(limit.acquire().at))
        waiting.start()
        while limit.status().next_at < begin + 2:
            threading.Event().wait(0.01)
        Nekkar(cache, clock=clock)("calls", "1/second").hold(4)
        while waiting.is_alive():
            clock.advance(0.01)
            threading.Event().wait(0.001)
        assert admitted == [pytest.approx(begin + 4, abs=0.02)]

    def test_a_reset_forgets_for_all_who_share_the_limit(self, clock: FakeClock) -> None:
        """Nobody's memory of before brings it back."""
        here, there = two_processes(clock)
        there.acquire(cost=6)
        here.acquire(cost=4)
        there.hold(5)
        there.reset()
        assert here.status().windows == (Window(10, 1.0, 0, 10),)
        assert here.acquire(cost=10).waited == 0
        assert there.status().windows == (Window(10, 1.0, 10, 0),)

    @pytest.mark.parametrize("backend", ["asyncio", "trio"])
    @pytest.mark.parametrize("in_process", [True, False])
    def test_each_lever_has_its_async_twin(self, backend: str, in_process: bool, clock: FakeClock) -> None:
        """The same from a task, without holding up the event loop."""
        cache = MemoryCache()
        cache.in_process = in_process
        limit = Nekkar(cache, clock=clock)("calls", "10/second")

        async def main() -> None:
            await limit.hold_async(5)
            assert (await limit.status_async()).hold_until == pytest.approx(clock.now + 5, abs=1e-6)
            await limit.release_async()
            await limit.acquire_async(cost=10)
            await limit.reset_async()
            assert (await limit.status_async()).windows == (Window(10, 1.0, 0, 10),)

        anyio.run(main, backend=backend)

    @pytest.mark.parametrize("seconds", [0, 0.0, -0.0])
    def test_a_hold_for_no_time_changes_nothing(self, seconds: float, clock: FakeClock) -> None:
        """A service may ask for a wait of 0 s: not a bit of the log changes, and a longer hold stays."""
        cache = MemoryCache()
        limit = Nekkar(cache, clock=clock)("calls", "10/second")
        limit.hold(seconds)
        anyio.run(limit.hold_async, seconds)
        assert cache.gets("nekkar:calls")[0] is None
        limit.hold(5)
        before = cache.gets("nekkar:calls")
        limit.hold(seconds)
        anyio.run(limit.hold_async, seconds)
        assert cache.gets("nekkar:calls") == before

    @pytest.mark.parametrize("seconds", [-1, -1e-9, None, "5", float("inf"), float("nan"), True, 10**12])
    def test_a_bad_hold_is_named(self, seconds: object, clock: FakeClock) -> None:
        """The value and its bounds."""
        with pytest.raises(ConfigurationError, match=r"limit 'calls': hold .*give seconds from"):
            Nekkar(clock=clock)("calls", 10).hold(seconds)  # type: ignore[arg-type]


class TestForgetting:
    """A process that has seen many names keeps memory for those in use."""

    def known(self, limiter: Nekkar) -> int:
        gc.collect()
        return len(limiter._known)

    def use(self, limiter: Nekkar, name: Callable[[int], str], count: int) -> None:
        for number in range(count):
            limiter(name(number), "10/second").acquire()

    def test_limits_that_remember_nothing_that_matters_are_forgotten(self, clock: FakeClock) -> None:
        """Ten times as many names as are kept, one after another: most are gone."""
        limiter = Nekkar(clock=clock)
        for batch in range(10):
            self.use(limiter, f"tenant-{batch}-{{}}".format, NAMES)
            clock.advance(100)
        assert self.known(limiter) <= 2 * NAMES

    @pytest.mark.parametrize("has_limit", [True, False])
    def test_calls_of_any_limit_free_what_was_used_once(self, has_limit: bool, clock: FakeClock) -> None:
        """After a crowd of names, calls of one other limit, held or asked for by name, leave that limit alone."""
        limiter = Nekkar(clock=clock)
        self.use(limiter, "tenant-{}".format, 50 * NAMES)
        clock.advance(100)
        limit = limiter("mine", "1000/second")
        most = 0
        for _ in range(4 * NAMES):
            before = len(kept_limits(limiter))
            (limit if has_limit else limiter("mine", "1000/second")).acquire(cost=2)
            clock.advance(0.01)
            most = max(most, before - len(kept_limits(limiter)))
        assert list(kept_limits(limiter)) == ["mine"]
        assert self.known(limiter) == 1
        assert most <= 32, "a call may not pay for thousands"

    def test_a_limit_in_use_is_kept_with_what_it_remembers(self, clock: FakeClock) -> None:
        """Its window goes on, and so does a limit whose hits still count though nobody holds it."""
        limiter = Nekkar(clock=clock)
        limit = limiter("mine", "10/second")
        limiter("another", "10/hour").acquire(cost=10)
        limit.acquire(cost=10)
        self.use(limiter, "tenant-{}".format, 2 * NAMES)
        clock.advance(100)
        self.use(limiter, "others-{}".format, 2 * NAMES)
        assert core_of(limiter("mine", "10/second")) is core_of(limit)
        assert core_of(limiter("another", "10/hour")).ledger.state is not None

    def test_limits_used_in_an_event_loop_are_forgotten_too(self, clock: FakeClock) -> None:
        """A loop that lives long does not keep a line for each name it has seen."""
        limiter = Nekkar(clock=clock)

        async def main() -> None:
            for batch in range(6):
                for number in range(NAMES):
                    await limiter(f"tenant-{batch}-{number}", "10/second").acquire_async()
                clock.advance(100)
            assert self.known(limiter) <= 2 * NAMES

        anyio.run(main)
