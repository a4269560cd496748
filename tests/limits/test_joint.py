"""``a & b``: one call under several limits, in all faces. How it works is simulated in waiting/test_together.py."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from nekkar import ConfigurationError, Nekkar, WaitTooLong
from nekkar.core.cache import MemoryCache, SqliteCache
from nekkar.core.errors import CacheError
from nekkar.core.events import Admitted, Event, Left, Refused
from nekkar.testing import FakeClock, assert_never_over
from tests.support.internals.core import JointLimit, cache_of, exchanged, is_good, least_wait
from tests.support.limits import BACKENDS, PATIENCE, WatchedCache, hits, interrupt_at


def two(clock: FakeClock, cache: Any = None, first: str = "2/second", second: str = "3 per 3 seconds") -> JointLimit:
    limiter = Nekkar(cache, clock=clock)
    return limiter("endpoint", first) & limiter("account", second)


def used(limit: JointLimit) -> list[int]:
    return [status.windows[0].used for status in limit.status()]


class TestFaces:
    """What can be done with a limit can be done with several."""

    def test_an_admission_tells_each_part(self, clock: FakeClock) -> None:
        """One Admission each, in the order given; the name is the first's, and all have one slot."""
        with two(clock) as admission:
            assert [part.name for part in admission.parts] == ["endpoint", "account"]
        assert (admission.name, admission.cost, admission.waited) == ("endpoint", 1, 0.0)
        assert [part.at for part in admission.parts] == [admission.at, admission.at] == [clock.now, clock.now]

    def test_each_call_counts_in_each(self, clock: FakeClock) -> None:
        """By its cost; and in the order given."""
        limit = two(clock)
        limit.acquire(cost=2)
        assert used(limit) == [2, 2]
        assert [status.name for status in limit.status()] == ["endpoint", "account"]

    def test_calls_wait_for_the_limit_that_binds(self, clock: FakeClock) -> None:
        """Two in a second, three in three: neither is over, and none comes later than it must."""
        limit, start = two(clock), clock.now
        at = [round(limit.acquire().at - start, 6) for _ in range(6)]
        assert at == [0, 0, 1.05, 3.05, 3.05, 4.1]

    def test_a_decorated_function_runs_with_a_slot_in_each(self, clock: FakeClock) -> None:
        """Sync and async, a generator too."""
        limit = two(clock)

        @limit
        def plain(number: int) -> int:
            return number

        @limit
        async def task(number: int) -> int:
            return number

        assert plain(1) == 1
        assert anyio.run(task, 2) == 2
        assert used(limit) == [2, 2]

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_tasks_acquire_and_enter(self, backend: str, clock: FakeClock) -> None:
        """``acquire_async``, ``async with`` and ``status_async``."""
        limit, start = two(clock), clock.now

        async def main() -> list[float]:
            async with limit as first:
                second = await limit.acquire_async()
                third = await limit.acquire_async()
            assert [status.windows[0].used for status in await limit.status_async()] == [1, 3]
            return [first.at - start, second.at - start, third.at - start]

        assert anyio.run(main, backend=backend) == pytest.approx([0, 0, 1.05])

    def test_three_and_more_are_one_flat_limit(self, clock: FakeClock) -> None:
        """However they are joined, in order."""
        limiter = Nekkar(clock=clock)
        a, b, c, d = (limiter(name, "5/second") for name in "abcd")
        limit = (a & b) & (c & d)
        assert [part.name for part in limit.acquire().parts] == ["a", "b", "c", "d"]
        assert repr(limit) == repr(a & (b & c) & d)
        assert used(limit) == [1, 1, 1, 1]

    def test_limits_of_different_caches_and_clocks_are_joined(self, tmp_path: Any) -> None:
        """Each by its own clock: here one is an hour ahead."""
        ahead = FakeClock()
        ahead.advance(3600)
        a = Nekkar(clock=FakeClock())("a", "2/second")
        b = Nekkar(SqliteCache(tmp_path / "b.db"), clock=ahead)("b", "2/second")
        admission = (a & b).acquire()
        assert admission.parts[1].at - admission.parts[0].at == pytest.approx(3600)
        with pytest.raises(WaitTooLong, match="limit 'b'"):
            b.acquire(cost=2, max_wait=0)

    def test_a_pickled_one_goes_on(self, clock: FakeClock, tmp_path: Any) -> None:
        """With the same limits, on the same state."""
        limit = two(clock, SqliteCache(tmp_path / "limits.db"))
        limit.acquire()
        again = pickle.loads(pickle.dumps(limit))
        assert used(again) == [1, 1]
        assert pickle.loads(pickle.dumps(again.acquire())).parts[1].name == "account"

    def test_listeners_hear_of_each_limit(self, clock: FakeClock) -> None:
        """Each tells of the call once, as admitted, with the number of the call."""
        limiter = Nekkar(clock=clock)
        heard: list[Event] = []
        limiter.listen(heard.append)
        (limiter("a", "5/second") & limiter("b", "5/second")).acquire()
        assert all(isinstance(event, Admitted) for event in heard)
        assert sorted(event.name for event in heard if isinstance(event, Admitted)) == ["a", "b"]
        assert len({event.call for event in heard if isinstance(event, Admitted)}) == 1


class TestMistakes:
    """What is refused, and with which words."""

    def test_the_same_limit_twice_is_an_error(self, clock: FakeClock) -> None:
        """A call would count twice. The same name in another cache is another limit."""
        limiter = Nekkar(clock=clock)
        a, b = limiter("a", 5), limiter("b", 5)
        for first, second in ((a, a), (a & b, limiter("a", 5)), (b, a & b)):
            with pytest.raises(ConfigurationError, match="given twice"):
                first & second
        assert a & Nekkar(clock=clock)("a", 5)

    def test_nothing_else_can_be_joined(self, clock: FakeClock) -> None:
        """As with any operator."""
        limiter = Nekkar(clock=clock)
        with pytest.raises(TypeError):
            limiter("a", 5) & 3  # type: ignore[operator]
        with pytest.raises(TypeError):
            limiter("a", 5) & limiter("b", 5) & "c"  # type: ignore[operator]

    def test_a_cost_that_one_limit_can_never_admit_names_it(self, clock: FakeClock) -> None:
        """Before anything is booked."""
        limit = two(clock)
        with pytest.raises(ConfigurationError, match="limit 'endpoint': cost 3"):
            limit.acquire(cost=3)
        assert used(limit) == [0, 0]

    @pytest.mark.parametrize(
        ("first", "second", "name"), [("1/second", "9/second", "endpoint"), ("9/s", "1/s", "account")]
    )
    def test_the_limit_that_refuses_is_named(self, first: str, second: str, name: str, clock: FakeClock) -> None:
        """With the wait for its slot; and nothing is booked in the other."""
        limit = two(clock, first=first, second=second)
        limit.acquire()
        with pytest.raises(WaitTooLong, match=name) as refused:
            limit.acquire(max_wait=0.5)
        assert refused.value.retry_after == pytest.approx(1.05)
        assert used(limit) == [1, 1]

    def test_the_smallest_max_wait_holds(self, clock: FakeClock) -> None:
        """Of the limits' own; a call's own comes before."""
        limiter = Nekkar(clock=clock)
        limit = limiter("a", "1/second", max_wait=5) & limiter("b", "9/second", max_wait=0.25) & limiter("c", "9/s")
        assert limit.max_wait == 0.25
        limit.acquire()
        with pytest.raises(WaitTooLong) as refused:
            limit.acquire()
        assert refused.value.max_wait == 0.25
        assert limit.acquire(max_wait=2).waited == pytest.approx(1.05)

    def test_max_wait_bounds_the_whole_wait(self, clock: FakeClock) -> None:
        """Also where the call waits in one line and then in another."""
        limiter = Nekkar(clock=clock)
        a, b = limiter("a", "1/second"), limiter("b", "1 per 2 seconds")
        clock.advance(10)
        a.acquire()
        other = Nekkar(cache_of(limiter), clock=clock)("b", "1 per 2 seconds")  # as another process
        other.acquire()
        with pytest.raises(WaitTooLong, match="'b'") as refused:
            (a & b).acquire(max_wait=1.5)
        assert refused.value.retry_after <= 2.05
        assert clock.now - 1_700_000_000 <= 11.5

    def test_a_refused_call_is_told_once_for_the_limit_that_refused(self, clock: FakeClock) -> None:
        """Listeners hear no move from line to line."""
        limiter = Nekkar(clock=clock)
        limit = limiter("a", "9/second") & limiter("b", "1/second")
        limit.acquire()
        heard: list[Event] = []
        limiter.listen(heard.append)
        with pytest.raises(WaitTooLong):
            limit.acquire(max_wait=0)
        assert [event.name for event in heard if isinstance(event, Refused)] == ["b"]
        assert not [event for event in heard if isinstance(event, Left)]


class TestNothingStays:
    """Whatever ends a call before it starts, nothing of it stays booked in any limit."""

    def test_where_one_cache_is_away(self, clock: FakeClock) -> None:
        """The error is that cache's; the slot of the other limit goes back."""
        away = WatchedCache()
        a, b = Nekkar(clock=clock)("a", "2/second"), Nekkar(away, clock=clock)("b", "2/second")

        def fail(number: int) -> None:
            raise CacheError("away")

        away.before = fail
        with pytest.raises(CacheError, match="away"):
            (a & b).acquire()
        assert a.status().windows[0].used == 0

    def test_where_an_answer_is_lost_twice(self, clock: FakeClock) -> None:
        """What landed unseen is taken out as soon as that cache answers."""
        cache = WatchedCache()
        a, b = Nekkar(clock=clock)("a", "2/second"), Nekkar(cache, clock=clock)("b", "2/second")

        def fail(number: int) -> None:
            if number in (2, 3):  # the swap lands, and its answer is lost; so is that of the read after it
                raise CacheError("no answer")

        cache.after = fail
        with pytest.raises(CacheError):
            (a & b).acquire()
        b.acquire()
        assert (a.status().windows[0].used, b.status().windows[0].used) == (0, 1)

    @pytest.mark.parametrize("number", range(1, 12))
    @pytest.mark.parametrize("when", ["before", "after"])
    def test_where_an_interrupt_comes_in_any_command(self, number: int, when: str, clock: FakeClock) -> None:
        """Before it, or after it landed. The next call finds all room."""
        cache = WatchedCache()
        limiter = Nekkar(cache, clock=clock)
        a, b, c = (limiter(name, "2/second") for name in "abc")
        setattr(cache, when, interrupt_at(number))
        try:
            (a & b & c).acquire()
            admitted = 1
        except KeyboardInterrupt:
            admitted = 0
        setattr(cache, when, lambda number: None)
        assert (a & b & c).acquire(cost=2 - admitted, max_wait=0).waited == 0
        assert [hits(cache, name) for name in "abc"] == [2, 2, 2]

    @pytest.mark.parametrize("backend", BACKENDS)
    @pytest.mark.parametrize("in_process", [True, False])
    @pytest.mark.parametrize("turns", range(0, 40, 3))
    def test_where_a_task_is_cancelled(self, backend: str, in_process: bool, turns: int, clock: FakeClock) -> None:
        """At any turn of the loop, wherever the caches are."""
        cache = WatchedCache(in_process=in_process)
        limiter = Nekkar(cache, clock=clock)
        limit = limiter("a", "2/second") & limiter("b", "2/second")
        admitted: list[float] = []

        async def call() -> None:
            admitted.append((await limit.acquire_async()).at)

        async def main() -> None:
            with anyio.fail_after(PATIENCE):
                async with anyio.create_task_group() as group:
                    group.start_soon(call)
                    for _ in range(turns):
                        await anyio.lowlevel.checkpoint()
                    group.cancel_scope.cancel()
                while [hits(cache, name) for name in "ab"] != [len(admitted)] * 2:
                    await anyio.sleep(0.001)

        anyio.run(main, backend=backend)

    def test_where_its_slot_came_too_late(self) -> None:
        """Both slots go back, and the call gets others."""
        clock, cache = FakeClock(), WatchedCache()
        limiter = Nekkar(cache, clock=clock)
        limit = limiter("a", "2/second", margin=0.05) & limiter("b", "2/second", margin=0.05)
        cache.after = lambda number: clock.advance(0.06) if number == 4 else None  # the answer of the last swap
        assert limit.acquire().waited == pytest.approx(0.06)
        assert [hits(cache, name) for name in "ab"] == [1, 1]

    def test_an_exchanged_admission_gives_back_each_part(self, clock: FakeClock) -> None:
        """As with one limit: a slot of at most a horizon ago goes back."""
        limit = two(clock)
        admission = limit.acquire()
        assert is_good(limit, admission)
        clock.advance(0.05)
        assert not is_good(limit, admission)
        assert least_wait(limit, admission) == 0
        again = exchanged(limit, admission)
        assert again.at == pytest.approx(clock.now)
        assert used(limit) == [1, 1]


class TestTogether:
    """Threads and tasks of one process, on the machine's clock."""

    def test_threads_under_several_limits_stay_under_each(self) -> None:
        """Some under both, some under one; all start, and none is over."""
        limiter = Nekkar(MemoryCache())
        a, b = limiter("a", "20/second", margin=0.05), limiter("b", "30 per 2 s", margin=0.05)
        starts: dict[str, list[float]] = {"a": [], "b": []}

        def call(limit: Any, names: str, count: int) -> None:
            for _ in range(count):
                admission = limit.acquire(max_wait=PATIENCE)
                for name in names:
                    starts[name].append(admission.at)

        threads = [threading.Thread(target=call, args=(a & b, "ab", 5)) for _ in range(3)]
        threads += [threading.Thread(target=call, args=(b & a, "ab", 5))]
        threads += [threading.Thread(target=call, args=(b, "b", 10)), threading.Thread(target=call, args=(a, "a", 5))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert (len(starts["a"]), len(starts["b"])) == (25, 30)
        assert_never_over(sorted(starts["a"]), "20/second")
        assert_never_over(sorted(starts["b"]), "30 per 2 s")


class TestUnits:
    """Units go to the limits that count them, calls to all; so do settlements."""

    def limits(self, clock: FakeClock) -> JointLimit:
        limiter = Nekkar(clock=clock)
        return limiter("calls", "5/second") & limiter("tokens", "9/second; 1000 tokens/minute")

    def used(self, limit: JointLimit) -> list[list[int]]:
        return [[window.used for window in status.windows] for status in limit.status()]

    def test_a_cost_is_parted(self, clock: FakeClock) -> None:
        """The admission tells all of it, each part its own."""
        limit = self.limits(clock)
        admission = limit.acquire({"tokens": 600})
        assert self.used(limit) == [[1], [1, 600]]
        assert admission.costs == {"calls": 1, "tokens": 600}
        assert [part.costs for part in admission.parts] == [{"calls": 1}, {"calls": 1, "tokens": 600}]
        with pytest.raises(WaitTooLong, match="'tokens'"):
            limit.acquire({"tokens": 600}, max_wait=1)
        assert self.used(limit) == [[1], [1, 600]]

    def test_a_settlement_goes_to_the_parts_that_count_the_unit(self, clock: FakeClock) -> None:
        """Calls to all; once; and where one part can't be settled, none is."""
        limit = self.limits(clock)
        first, second = limit.acquire({"tokens": 600}), limit.acquire({"tokens": 100})
        with pytest.raises(ConfigurationError, match="does not count 'points'"):
            first.settle(tokens=1, points=2)
        first.settle(tokens=50)
        assert self.used(limit) == [[2], [2, 150]]
        with pytest.raises(ConfigurationError, match="settled already"):
            first.settle(tokens=50)
        second.settle(calls=0, tokens=0)
        assert self.used(limit) == [[1], [1, 50]]

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_tasks_settle_too(self, backend: str, clock: FakeClock) -> None:
        """``settle_async``, and ``metered`` on a coroutine function."""
        limit = self.limits(clock)

        @limit.metered(cost=lambda most: {"tokens": most}, settle=lambda used: {"tokens": used})
        async def call(most: int) -> int:
            return most // 10

        async def main() -> None:
            admission = await limit.acquire_async({"tokens": 500})
            await admission.settle_async(tokens=7)
            assert await call(900) == 90

        anyio.run(main, backend=backend)
        assert self.used(limit) == [[2], [2, 97]]

    def test_a_limit_in_which_a_call_costs_nothing_only_holds_it_back(self, clock: FakeClock) -> None:
        """No slot is taken there; but its holds count."""
        limiter = Nekkar(clock=clock)
        calls, tokens = limiter("calls", "1/second"), limiter("tokens", "100 tokens/second")
        limit = calls & tokens
        for _ in range(3):
            assert limit.acquire({"calls": 0, "tokens": 10}).waited == 0
        assert self.used(limit) == [[0], [30]]
        calls.hold(5)
        assert limit.acquire({"calls": 0, "tokens": 10}).waited == pytest.approx(5)

    def test_a_call_that_costs_nothing_waits_by_the_clock_of_the_cache(self) -> None:
        """Its first command reads that clock, which may be an hour ahead of the machine's."""

        class Ahead(MemoryCache):
            def tell_time(self, now: Callable[[], int]) -> tuple[int, int, int]:
                before = now()
                return before, time.time_ns() // 1000 + 3600 * 10**6, now()

        limit = Nekkar(Ahead(), clock="server")("calls", "1/second")
        assert limit.acquire({"calls": 0}, max_wait=5).waited < 60

    def test_units_must_be_counted_and_given(self, clock: FakeClock) -> None:
        """By at least one limit; and each limit's must be there."""
        limit = self.limits(clock)
        with pytest.raises(ConfigurationError, match="no limit of these counts 'points'"):
            limit.acquire({"tokens": 1, "points": 1})
        with pytest.raises(ConfigurationError, match="does not give tokens"):
            limit.acquire(1)
