"""Glances: who looks within a long wait, when, and what a fleet gains by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise

import pytest
from nekkar.core.waiting.glance import part

from nekkar import Nekkar
from nekkar.core.errors import CacheError
from nekkar.core.quota import SECOND, Rate, quota
from nekkar.core.runtime.drivers import run_steps
from nekkar.core.runtime.effects import CacheSteps
from nekkar.core.shared.key import cache_key
from nekkar.core.shared.ledger import Ledger
from nekkar.core.shared.outage import Outage
from nekkar.core.shared.store import store_of
from nekkar.core.waiting import glance as glances
from nekkar.core.waiting import wait_queue as line
from nekkar.core.window.booking import Slot
from nekkar.core.window.state import HitLog
from nekkar.testing import START_US, FakeClock
from tests.support.limits import WatchedCache
from tests.support.simulation import One, Story, World
from tests.support.stories import CROWD, FAST, LONG, SCHEDULES, first_over, over

MARGIN_US = 50_000
PERIOD_US = 2 * SECOND + MARGIN_US
READ_AND_SWAP, GLANCE, WAKE = 2, 1, 1


class Waiter:
    """A call that waits for the next period, behind ``others`` of another process."""

    def __init__(
        self, others: int, count: int = 100, period: float = 2.0, cost: int = 1, in_process: bool = False
    ) -> None:
        self.cache, self.clock, self.cost = WatchedCache(in_process=in_process), FakeClock(), cost
        terms = quota(count, period)
        other = Ledger(store_of(self.cache, self.clock), cache_key("calls"), terms, self.clock)
        for batch in (terms.max_cost // cost, *(1,) * others):
            run_steps(other.book([One(cost)] * batch), self.clock)
        self.limit = Nekkar(self.cache, clock=self.clock)("calls", count, period=period)
        self.calls_before = self.cache.calls

    def wait(self, meanwhile: Callable[[int], object] = lambda call: None) -> list[int]:
        """Wait; return when the cache was called, in µs from the start. ``meanwhile``: told each call's number."""
        times: list[int] = []

        def called(number: int) -> None:
            times.append(self.clock.now_us() - START_US)
            meanwhile(number - self.calls_before)

        self.cache.before = called
        self.limit.acquire(self.cost)
        return times


class TestWhoLooksWhen:
    """The k-th who waits looks at the k-th term of the sequence; at most seven do, and one for eight calls."""

    def test_terms_spread_evenly(self) -> None:
        """Binary digits, mirrored; whatever the number of terms, no gap is over twice the least one."""
        assert [part(number) for number in range(1, 8)] == [1 / 2, 1 / 4, 3 / 4, 1 / 8, 5 / 8, 3 / 8, 7 / 8]
        for count in range(1, 64):
            marks = sorted([0.0, 1.0, *(part(number) for number in range(1, count + 1))])
            gaps = [later - mark for mark, later in pairwise(marks)]
            assert max(gaps) <= 2 * min(gaps)

    @pytest.mark.parametrize(("others", "at"), [(1, 1 / 2), (2, 1 / 4), (3, 3 / 4), (4, 1 / 8), (7, 7 / 8)])
    def test_a_long_wait_behind_others_takes_one_look_more(self, others: int, at: float) -> None:
        """Read and swap, the glance at its part of the wait, and the read on waking."""
        times = Waiter(others).wait()
        assert len(times) == READ_AND_SWAP + GLANCE + WAKE
        assert times[READ_AND_SWAP] == int(at * PERIOD_US)

    @pytest.mark.parametrize("others", [0, 8, 20])
    def test_who_waits_alone_or_behind_many_does_not(self, others: int) -> None:
        """Waiting costs the cache one read on waking."""
        assert len(Waiter(others).wait()) == READ_AND_SWAP + WAKE

    @pytest.mark.parametrize(("count", "others", "looks"), [(15, 1, 0), (16, 1, 1), (16, 2, 0), (24, 2, 1)])
    def test_a_small_limit_has_few(self, count: int, others: int, looks: int) -> None:
        """One for eight of its calls."""
        assert len(Waiter(others, count).wait()) == READ_AND_SWAP + looks + WAKE

    def test_calls_of_some_cost_count_as_one_each(self) -> None:
        """Two calls of five hits before it: the second term, where the limit has calls enough."""
        assert Waiter(2, count=200, cost=5).wait()[READ_AND_SWAP] == PERIOD_US // 4
        assert len(Waiter(2, cost=5).wait()) == READ_AND_SWAP + WAKE

    def test_a_cache_in_this_process_loses_nothing(self) -> None:
        """Nobody looks for a loss there."""
        assert len(Waiter(1, in_process=True).wait()) == READ_AND_SWAP + WAKE

    def test_in_an_outage_nobody_does(self) -> None:
        """A process that goes on alone tries the cache in its own time."""
        waiter = Waiter(1)

        def fail(call: int) -> None:
            raise CacheError("away")

        waiter.cache.before = fail
        terms = quota(100, 2.0)
        ledger = Ledger(store_of(waiter.cache, waiter.clock), "key", terms, waiter.clock, Outage("local", 0.5))
        answers = [answer for _ in range(52) for answer in run_steps(ledger.book([One(1)]), waiter.clock)]
        assert isinstance(answers[-1], Slot)
        assert answers[-1].at == START_US + PERIOD_US
        ledger.view.saw(99, START_US, HitLog(1).joined(terms, 100_000).book(START_US + PERIOD_US, 2))
        assert glances.glance_at(ledger, answers[-1], START_US) is None
        ledger.alone.is_on = False
        assert glances.glance_at(ledger, answers[-1], START_US) == START_US + PERIOD_US // 2

    def test_a_shorter_wait_has_none(self) -> None:
        """Others wake soon enough."""
        assert len(Waiter(1, period=0.69).wait()) == READ_AND_SWAP + WAKE
        assert len(Waiter(1, period=0.71).wait()) == READ_AND_SWAP + GLANCE + WAKE

    def test_nobody_looks_where_this_process_did_meanwhile(self) -> None:
        """Somebody else's look, here status(), counts."""
        waiter = Waiter(1)
        other_look = waiter.clock.sleep_until

        def look_first(at: int | None, wake: object) -> None:
            other_look(at, wake)  # type: ignore[arg-type]
            if waiter.clock.now_us() == START_US + PERIOD_US // 2:
                waiter.limit.status()

        waiter.clock.sleep_until = look_first  # type: ignore[assignment, method-assign]
        assert len(waiter.wait()) == READ_AND_SWAP + 1 + WAKE


class TestWhatItFinds:
    """A loss, which is mended at once; and a cache that is away, which is none of its business."""

    def test_a_loss_is_met_within_the_wait(self) -> None:
        """A period after the glance the limit is free again, and not two periods after the loss."""
        waiter = Waiter(1)
        waiter.wait(lambda call: waiter.cache.memory.delete(cache_key("calls")) if call == 3 else None)
        glanced = PERIOD_US // 2
        assert waiter.clock.now_us() - START_US == glanced + 100_000 + PERIOD_US

    def test_a_cache_that_is_away_meanwhile_is_no_error(self) -> None:
        """The caller starts at its slot: the read on waking is what it needs."""
        waiter = Waiter(1)

        def fail(call: int) -> None:
            if call == READ_AND_SWAP + GLANCE:
                raise CacheError("away")

        assert len(waiter.wait(fail)) == READ_AND_SWAP + GLANCE + WAKE
        assert waiter.clock.now_us() - START_US == PERIOD_US


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have small limits and short waits glance too."""
    monkeypatch.setattr(glances, "CALLS_FOR_EACH", 1)
    monkeypatch.setattr(line, "LONG_WAIT_US", SECOND // 10)


class TestSchedules:
    """Fleets that glance, in random schedules."""

    def test_no_window_is_over_and_nobody_is_stuck(self) -> None:
        """Flushes, kills, freezes, lost answers, cancellations, clocks 5 ms apart: never over."""
        assert over(LONG, SCHEDULES // 12) == []

    @pytest.mark.usefixtures("often")
    def test_nor_where_all_who_wait_glance(self) -> None:
        """One loss after another is met at once, each by somebody else."""
        assert over(CROWD, SCHEDULES // 2) == []

    @pytest.mark.usefixtures("often")
    def test_taking_assumed_hits_for_certain_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """After a second loss, hits that the first survivor assumed take no room: others may have called instead."""
        filled = HitLog.filled

        def sure(self: HitLog, end: int, most: Mapping[Rate, int]) -> HitLog:
            return filled(replace(self, unsure_until=0), end, most)

        monkeypatch.setattr(HitLog, "filled", sure)
        assert first_over(CROWD) is not None

    def test_a_fleet_that_glances_calls_more_after_a_flush(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """By an eighth at least: less time passes until a loss is met."""
        flushed = Story(rate="40/2s", processes=5, flushes=3, busy=True, latency_us=FAST)

        def starts() -> int:
            return sum(len(World(flushed, seed).run().starts) for seed in range(60))

        with_glances = starts()
        monkeypatch.setattr(glances, "MOST", 0)
        assert with_glances > starts() * 9 / 8

    def test_where_slots_are_spread_nobody_glances(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Somebody wakes, and looks, all the time."""
        spread = Story(rate="64/16s", processes=5, busy=True, latency_us=FAST, spacing_us=SECOND // 4)
        glanced: list[Ledger] = []

        def glance(ledger: Ledger) -> CacheSteps[None]:
            glanced.append(ledger)
            return glances.glance(ledger)

        monkeypatch.setattr(line, "glance", glance)
        worlds = [World(spread, seed).run() for seed in range(10)]
        assert sum(len(world.starts) for world in worlds) > 2000
        assert len(glanced) < 20

    def test_in_calm_they_cost_the_cache_an_eighth_of_a_read_a_call(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Reads with glances and without, of the same schedules."""
        calm = Story(rate="40/2s", processes=5, busy=True, latency_us=FAST)

        def reads_a_call() -> float:
            worlds = [World(calm, seed).run() for seed in range(20)]
            return sum(world.store.reads for world in worlds) / sum(len(world.starts) for world in worlds)

        with_glances = reads_a_call()
        monkeypatch.setattr(glances, "MOST", 0)
        assert 0 < with_glances - reads_a_call() <= 1 / 8
