"""The ledger: swaps, lost answers, losses and epochs, step by step; and rules of it broken on purpose."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from nekkar.core.errors import CacheError, CorruptLog
from nekkar.testing import FakeClock
from tests.support.internals.core import CALLS, SECOND, hits_in, quota
from tests.support.internals.runtime import Backoff, CacheCall, CacheSteps, run_steps
from tests.support.internals.shared import MOST_LOST_SWAPS, CasStore, Ledger, cache_key, replica
from tests.support.internals.shared import ledger as ledger_module
from tests.support.internals.window import (
    MOST_HORIZON_US,
    BookingRequest,
    Grant,
    LimitState,
    decode,
    encode,
    planned,
    recovery,
    with_hold,
)
from tests.support.simulation import Story, World
from tests.support.stories import STORIES, limit

TEN = quota(10, 1.0)


class Store:
    """A cache that swaps by itself, and counts its commands."""

    in_process = False

    def __init__(self) -> None:
        self.items: dict[str, tuple[bytes, int]] = {}
        self.versions = 0
        self.commands: list[str] = []

    def gets(self, key: str) -> tuple[bytes | None, int | None]:
        self.commands.append("gets")
        return self.items.get(key, (None, None))

    def cas(self, key: str, value: bytes, token: int | None, ttl: int) -> int | None:
        self.commands.append("cas")
        if self.items.get(key, (None, None))[1] != token:
            return None
        self.versions += 1
        self.items[key] = (value, self.versions)
        return self.versions

    def delete(self, key: str) -> None:
        self.items.pop(key, None)


def ledger(store: Any, clock: FakeClock | None = None) -> Ledger:
    return Ledger(CasStore(store), "key", TEN, clock or FakeClock())


class Booking:
    """A change that books for callers of these costs, all under one name."""

    def __init__(self, of: Ledger, owner: int, *costs: int) -> None:
        self.quota, self.owner, self.costs = of.quota, owner, costs
        self.grants: list[Grant] = []

    def apply(self, state: LimitState, now: int, read_at: int | None, *, is_recovery: bool) -> LimitState | None:
        if not is_recovery:
            self._look(state)
        callers = [Caller(cost) for cost in self.costs]
        plan = planned(state, BookingRequest(self.owner, self.quota, callers, now, waiting=len(callers)))
        if sum(hits_in(grant.cost, CALLS) for grant in self.grants) >= sum(self.costs) and not is_recovery:
            return None
        return plan.state

    def won(self, state: LimitState, sent: int, now: int) -> None:
        self._look(state)

    def unanswered(self) -> None:
        pass

    def _look(self, state: LimitState) -> None:
        self.grants = [grant for grant in state.grants if grant.owner == self.owner]


class Caller:
    """A call without a deadline."""

    deadline = None

    def __init__(self, cost: int) -> None:
        self.cost = cost


class ReadClock(FakeClock):
    """A clock that was read over a way of 60 ms."""

    round_trip_us = 60_000

    def is_due(self) -> bool:
        return False

    def read(self) -> None:
        raise AssertionError("it is not due")


owners = iter(range(1, 1 << 30))


def booking(of: Ledger, *costs: int) -> Booking:
    """Book for a line of its own, which waits in the state where there is no room; return what it was granted."""
    change = Booking(of, next(owners), *costs)
    run_steps(of.update(change), of.clock)
    return change


def book(of: Ledger, *costs: int) -> list[int]:
    """Book; return the slot of each hit."""
    return [grant.slot for grant in booking(of, *costs).grants for _ in range(hits_in(grant.cost, CALLS))]


def turn(of: Ledger, clock: FakeClock) -> int:
    """Return the slot that one more call would have."""
    change = Booking(of, next(owners), 1)
    plan = planned(
        run_steps(of.peek(), clock)[0], BookingRequest(change.owner, of.quota, [Caller(1)], clock.now_us(), waiting=1)
    )
    return plan.turn or clock.now_us()


def stored(store: Store) -> LimitState:
    return decode(store.items["key"][0])


class TestPlantedFaults:
    """The harness finds the fault when a rule is broken on purpose."""

    def test_filling_only_up_to_now_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """After a loss, what others took is taken to lie as late as possible, not before now."""
        monkeypatch.setattr(recovery, "latest_start", lambda known, now: now)
        assert found("flushed", "crowd")

    def test_a_copy_written_back_with_nothing_added_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What others did since the last look counts, though nobody here saw it."""

        def rebuilt(known: LimitState, read_at: int, now: int, epoch: int) -> LimitState:
            return replace(known, epoch=epoch, grants=())

        monkeypatch.setattr(replica, "rebuild_after_loss", rebuilt)
        assert found("flushed")

    def test_trusting_a_newcomers_state_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A process that meets a newcomer's state knows of a loss; else the fleet forgets its window."""
        monkeypatch.setattr(replica, "_began_unseen", lambda found, known: False)
        assert found("newcomers")


def found(*stories: str) -> bool:
    """Whether a window is over in one of many schedules."""
    return any(world.over() > 0 and not world.void for name in stories for world in worlds_of(STORIES[name], 1000))


def worlds_of(story: Story, schedules: int) -> Any:
    return (World(story, seed).run() for seed in range(schedules))


class TestSwapsWithoutARead:
    """Where nobody else seems to write, a process swaps its own last write; the swap itself tells if that holds."""

    def test_a_process_alone_reads_twice_and_then_no_more(self) -> None:
        """Its second read found its own write: from then on a booking is one command."""
        store = Store()
        alone = ledger(store)
        for _ in range(5):
            book(alone, 1)
        assert store.commands == ["gets", "cas", "gets", "cas", "cas", "cas", "cas"]
        assert stored(store).hits.total == 5

    def test_another_ones_write_fails_the_swap_and_counts(self) -> None:
        """Of ten calls the other took eight, unseen: three more don't fit, and the state has all."""
        clock, store = FakeClock(), Store()
        one, other = ledger(store, clock), ledger(store, clock)
        book(one, 1)
        book(one, 1)
        book(other, 8)
        store.commands.clear()
        assert book(one, 1) == []
        assert stored(store).places[0].ready == clock.now_us() + SECOND + TEN.margin_us
        assert store.commands == ["cas", "gets", "cas"]
        book(one, 1)
        assert store.commands[3:] == ["gets", "cas"]  # once disturbed, it reads until it finds its own write
        assert stored(store).hits.total == 10

    def test_a_state_that_is_gone_is_a_loss_not_a_write(self) -> None:
        """After a flush the swap fails, the read finds nothing, and the worst is assumed as ever."""
        clock, store = FakeClock(), Store()
        alone = ledger(store, clock)
        for _ in range(3):
            book(alone, 1)
        store.items.clear()
        assert book(alone, 1) == []
        assert stored(store).places[0].ready > clock.now_us() + SECOND


class TestPauses:
    """A swap that another writer won is tried again after a pause; the first try comes at once."""

    def steps(self, of: Ledger, others: int, store: Store) -> list[str]:
        """Book once, while another process comes between so often; return what happened in order."""
        steps, seen = of.update(Booking(of, next(owners), 1)), list[str]()
        rival, result = ledger(store, FakeClock()), None
        try:
            while True:
                step = steps.send(result)
                if isinstance(step, Backoff):
                    seen.append("pause")
                    result = None
                    continue
                assert isinstance(step, CacheCall)
                seen.append(step.func.__name__)
                if step.func == store.cas and others:
                    others -= 1
                    book(rival, 1)
                result = step()
        except StopIteration:
            return seen

    def test_there_is_none_before_the_first_try(self) -> None:
        """Nobody pauses where nobody is met."""
        store = Store()
        assert self.steps(ledger(store), 0, store) == ["gets", "cas"]

    def test_there_is_one_after_each_lost_swap(self) -> None:
        """Read again, and swap again."""
        store = Store()
        assert self.steps(ledger(store), 2, store) == ["gets", "cas", "pause", "gets", "cas", "pause", "gets", "cas"]

    def test_there_is_none_after_a_lost_swap_without_a_read(self) -> None:
        """It was but a try: the read that follows is the first."""
        store = Store()
        alone = ledger(store)
        for _ in range(3):
            book(alone, 1)
        assert self.steps(alone, 1, store) == ["cas", "gets", "cas"]

    def test_a_spaced_limit_of_a_thousand_a_second_is_used_by_eight_processes(self) -> None:
        """Pauses cost nothing that shows: at least 97 % of what the margin leaves."""
        spaced = limit("1000/s", spacing_us=1000)
        assert starts(Story(limits=(spaced,), processes=8, callers=16, periods=3), 0.5, 1.5) >= 0.97 * 1000 / 1.05

    def test_a_spacing_within_looser_windows_is_used_by_four_processes(self) -> None:
        """Spacing has no margin: of 2,000 slots a second, 97 % are used, though each call swaps for itself."""
        spaced = limit("100000/s", spacing_us=500)
        assert starts(Story(limits=(spaced,), processes=4, callers=4, periods=1), 0.25, 0.75) >= 0.97 * 1000


def starts(story: Story, begin: float, end: float) -> int:
    """Return how many calls start between these times, in seconds after the first; a command takes 0.2 ms."""
    times = [start.at for start in World(replace(story, exact=True, latency_us=(200,)), 1).run().starts]
    first = min(times)
    return sum(begin * SECOND <= at - first < end * SECOND for at in times)


class Deaf(Store):
    """A store that loses the answers of some writes, performed or not."""

    def __init__(self, lose: set[int], performs: bool) -> None:
        super().__init__()
        self.lose, self.performs = lose, performs
        self.writes = 0

    def cas(self, key: str, value: bytes, token: int | None, ttl: int) -> int | None:
        self.writes += 1
        if self.writes not in self.lose:
            return super().cas(key, value, token, ttl)
        if self.performs:
            super().cas(key, value, token, ttl)
        raise CacheError("no answer")


class TestLostAnswers:
    """A write whose answer was lost may have landed."""

    @pytest.mark.parametrize("performs", [True, False])
    def test_a_booking_goes_on_and_books_once(self, performs: bool) -> None:
        """Landed or not, the state tells by name, and holds the hit once."""
        store = Deaf({1}, performs)
        assert len(book(ledger(store), 1)) == 1
        assert stored(store).hits.total == 1

    def test_a_hit_of_another_at_the_same_instant_is_not_taken_for_ones_own(self) -> None:
        """The write did not land. Another process booked the same slot meanwhile: names tell them apart."""
        clock, store = FakeClock(), Deaf({1}, performs=False)
        one, other = ledger(store, clock), ledger(store, clock)
        change = Booking(one, next(owners), 1)
        steps = one.update(change)
        call = next(steps)
        assert isinstance(call, CacheCall)
        call = steps.send(call())
        assert isinstance(call, CacheCall)
        with pytest.raises(CacheError):
            call()
        book(other, 1)
        _finish(steps, steps.throw(CacheError("no answer")))
        assert [grant.owner for grant in change.grants] == [change.owner]
        assert stored(store).hits.total == 2

    def test_a_second_lost_answer_in_a_row_is_an_error(self) -> None:
        """A cache that does not answer is away."""
        with pytest.raises(CacheError, match="no answer"):
            book(ledger(Deaf({1, 2}, performs=False)), 1)


def _finish(steps: CacheSteps[Any], step: Any) -> None:
    try:
        while True:
            step = steps.send(None if isinstance(step, Backoff) else step())
    except StopIteration:
        pass


class TestLoss:
    """The state is gone before its time."""

    def test_a_survivor_waits_one_period_at_most_and_goes_on(self) -> None:
        """Ten hits booked, a flush: the next slot is the longest horizon, a period and a margin away."""
        clock, store = FakeClock(), Store()
        alone = ledger(store, clock)
        book(alone, *[1] * 10)
        clock.advance(0.5)
        store.items.clear()
        assert turn(alone, clock) - clock.now_us() == MOST_HORIZON_US + SECOND + TEN.margin_us

    def test_a_change_with_nothing_to_do_writes_the_recovery_all_the_same(self) -> None:
        """Callers that won't wait don't push the recovery before them, again and again."""
        clock, store = FakeClock(), Store()
        alone = ledger(store, clock)
        book(alone, 1)
        store.items.clear()
        turns = []
        for _ in range(3):
            clock.advance(0.1)
            run_steps(alone.edit(lambda state, now: state), clock)
            turns.append(turn(alone, clock))
        assert turns[0] == turns[1] == turns[2]

    @pytest.mark.parametrize(("period", "idle"), [(1, 50), (10, 100), (60, 123), (60, 600)])
    def test_a_process_that_was_idle_knows_a_loss_while_the_key_would_live(self, period: int, idle: int) -> None:
        """Others may have used the whole limit meanwhile. A process that comes back first waits for a period."""
        clock, store = FakeClock(), Store()
        terms = quota(10, period)
        idler, other = (Ledger(CasStore(store), "key", terms, clock) for _ in range(2))
        book(idler, 1)
        clock.advance(idle)
        book(other, *[1] * 10)
        store.items.clear()
        assert turn(idler, clock) >= clock.now_us() + period * SECOND

    @pytest.mark.parametrize(("period", "linger"), [(1, 60), (10, 100), (60, 600), (86_400, 600)])
    def test_a_key_lives_as_long_as_it_would_be_missed(self, period: int, linger: int) -> None:
        """A process takes a missing key for a loss only while the cache was told to keep it, and starts afresh then."""
        clock, store = FakeClock(), Timed()
        alone = Ledger(CasStore(store), "key", quota(10, period), clock)
        book(alone, 1)
        (life,) = store.lives
        assert period + linger < life < period + linger + 5
        clock.advance(life)
        store.items.clear()
        assert book(alone, 1) == [clock.now_us()]

    def test_hits_within_a_larger_margin_take_no_room_from_what_is_assumed(self) -> None:
        """A deploy raised the margin just before a flush. Others may have used a smaller one until a moment ago."""
        clock, store = FakeClock(), Store()
        old = ledger(store, clock)
        raised = Ledger(CasStore(store), "key", replace(TEN, margin_us=9 * SECOND // 10), clock)
        book(old, *[1] * 10)
        clock.advance(1.05)
        last = book(old, *[1] * 10)[0]
        clock.advance(0.01)
        book(raised, 1)
        run_steps(old.peek(), clock)
        clock.advance(0.01)
        store.items.clear()
        assert turn(old, clock) > last + 2 * SECOND

    def test_a_newcomer_starts_afresh(self) -> None:
        """Whoever never used the limit can't tell a loss from a first use."""
        clock, store = FakeClock(), Store()
        book(ledger(store, clock), *[1] * 10)
        store.items.clear()
        assert book(ledger(store, clock), 1) == [clock.now_us()]
        assert stored(store).is_fresh

    def test_a_survivor_recovers_once_over_a_newcomers_state(self) -> None:
        """It keeps what the newcomer booked and assumes the worst; the next survivor finds that done."""
        clock, store = FakeClock(), Store()
        one, two = ledger(store, clock), ledger(store, clock)
        book(one, 2)
        book(two, 1)
        clock.advance(0.6)
        store.items.clear()
        book(ledger(store, clock), 3)
        newcomers = stored(store)
        assert book(one, 1) == []
        recovered = stored(store)
        assert not recovered.is_fresh
        assert recovered.epoch != newcomers.epoch
        last_at = newcomers.hits.last_at or 0
        assert recovered.hits.count_between(last_at - 1, last_at) == 3
        assert turn(one, clock) > clock.now_us() + SECOND
        book(two, 1)
        assert stored(store).epoch == recovered.epoch
        assert stored(store).hits == recovered.hits


class Timed(Store):
    """A store that notes how long each write is to live."""

    def __init__(self) -> None:
        super().__init__()
        self.lives: list[int] = []

    def cas(self, key: str, value: bytes, token: int | None, ttl: int) -> int | None:
        self.lives.append(ttl)
        return super().cas(key, value, token, ttl)


class TestReset:
    """What was booked before counts no more."""

    def test_all_is_free_and_those_who_wait_stay_in_line(self) -> None:
        """A new epoch without hits, grants, holds and terms, and with the places."""
        clock, store = FakeClock(), Store()
        alone = ledger(store, clock)
        book(alone, *[1] * 10)
        book(alone, 1)
        run_steps(alone.edit(lambda state, now: with_hold(state, now + 60 * SECOND)), clock)
        before = stored(store)
        run_steps(alone.reset(), clock)
        after = stored(store)
        assert after.epoch != before.epoch
        assert (after.hits.total, after.grants, after.hold_until, after.margin_us, after.rates) == (0, (), 0, 0, ())
        assert after.places == before.places
        assert len(book(alone, *[1] * 9)) == 9  # the tenth is of the one in line

    def test_its_key_lives_as_long_as_what_it_replaced(self) -> None:
        """Who finds nothing takes that for a loss as long as it remembers the old state."""
        clock, store = FakeClock(), Timed()
        alone = Ledger(CasStore(store), "key", quota(10, 60), clock)
        book(alone, 1)
        run_steps(alone.reset(), clock)
        assert store.lives[1] >= store.lives[0]

    def test_it_starts_afresh_over_a_value_that_is_no_state(self) -> None:
        """As the error about that value says."""
        clock, store = FakeClock(), Store()
        store.cas("key", b"something else", None, 60)
        alone = ledger(store, clock)
        run_steps(alone.reset(), clock)
        assert len(book(alone, *[1] * 10)) == 10

    def test_no_survivor_takes_it_for_a_loss(self) -> None:
        """A process that had seen the state before it goes on at once."""
        clock, store = FakeClock(), Store()
        one, other = ledger(store, clock), ledger(store, clock)
        book(one, 9)
        book(other, 1)
        run_steps(one.reset(), clock)
        clock.advance(0.3)
        assert book(other, 10) == [clock.now_us()] * 10


class Slow(Store):
    """A store whose next write is on its way for some time, while ``meanwhile`` happens; its answer may be lost."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self.clock = clock
        self.seconds, self.is_lost = 0.0, False
        self.meanwhile: Callable[[], Any] = lambda: None

    def cas(self, key: str, value: bytes, token: int | None, ttl: int) -> int | None:
        seconds, meanwhile, is_lost = self.seconds, self.meanwhile, self.is_lost
        self.seconds, self.meanwhile, self.is_lost = 0.0, lambda: None, False
        self.clock.advance(seconds)
        meanwhile()
        won = super().cas(key, value, token, ttl)
        if is_lost:
            raise CacheError("no answer")
        return won


class TestCreation:
    """No state is the same as no state: a write that creates one also wins after another came and went."""

    @pytest.mark.parametrize("is_lost", [False, True], ids=["answered", "unanswered"])
    @pytest.mark.parametrize("is_survivor", [False, True], ids=["newcomer", "survivor"])
    @pytest.mark.parametrize("in_process", [False, True])
    def test_a_state_created_late_assumes_what_came_and_went(
        self, in_process: bool, is_survivor: bool, is_lost: bool
    ) -> None:
        """The other used ten of ten a second: the creator, however little it knows, starts no call within a period."""
        clock = FakeClock()
        store = Slow(clock)
        store.in_process = in_process
        creator, others = ledger(store, clock), list[int]()
        if is_survivor:
            book(creator, 1)
            clock.advance(3)
            store.items.clear()

        def meanwhile() -> None:
            others.extend(book(ledger(store, clock), *[1] * 10))
            store.items.clear()

        store.seconds, store.meanwhile, store.is_lost = 0.6, meanwhile, is_lost
        assert book(creator, 1) == []
        assert len(others) == 10
        assert turn(creator, clock) >= others[0] + SECOND

    def test_a_busy_machine_that_stops_a_call_shortly_is_no_doubt_in_this_process(self) -> None:
        """Nothing is on its way there, so half a second is nothing to doubt."""
        clock = FakeClock()
        store = Slow(clock)
        store.in_process, store.seconds = True, 0.4
        assert len(book(ledger(store, clock), 1)) == 1

    def test_a_first_call_that_takes_a_while_does_not_wait(self) -> None:
        """A cache that is slow in both ways is no reason to doubt a state that nobody else knows."""
        clock = FakeClock()
        store = Slow(clock)
        gets = store.gets

        def slow(key: str) -> tuple[bytes | None, int | None]:
            clock.advance(0.4)
            return gets(key)

        store.gets, store.seconds = slow, 0.4  # type: ignore[method-assign]
        creator = ledger(store, clock)
        assert len(book(creator, 1)) == 1


class TestTrouble:
    """What can't be right is an error that names it."""

    @pytest.mark.parametrize("value", [b"", b"something else", encode(LimitState(1))[:-1]])
    def test_another_value_under_the_key_is_named(self, value: bytes) -> None:
        """The message has the key and what to do."""
        store = Store()
        store.cas("key", value, None, 60)
        with pytest.raises(CorruptLog, match=r"cache key 'key': .*; delete the key"):
            book(ledger(store), 1)

    def test_swaps_that_never_win_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A booking gives up after its bound, and says what it lost."""
        monkeypatch.setattr(ledger_module, "MOST_LOST_SWAPS", 20)
        assert MOST_LOST_SWAPS >= 100
        store = Store()
        store.cas = lambda *args: None  # type: ignore[method-assign]
        with pytest.raises(CacheError, match="lost 20 swaps in a row"):
            book(ledger(store), 1)

    def test_a_swap_that_meets_another_tells_how_long_swaps_take(self) -> None:
        """Far from the cache most swaps meet others: by those that win alone, a process books too near for long."""
        clock, store = FakeClock(), Store()
        outcomes = iter([None] * 8 + [1])

        def cas(*args: Any) -> int | None:
            clock.advance(0.2)
            return next(outcomes)

        book(ledger(store, clock), 1)
        store.cas = cas  # type: ignore[method-assign, assignment]
        far = ledger(store, clock)
        book(far, 1)
        assert far.latency.swap_us == SECOND // 5

    def test_the_first_slot_of_a_far_cache_is_booked_a_round_trip_ahead(self) -> None:
        """Its clock was read over the same way. Booked for now, the first slots would be over when their swaps end."""
        clock, store = ReadClock(), Store()
        gets, swap_us = store.gets, list[int]()

        def far_gets(key: str) -> tuple[bytes | None, int | None]:
            clock.advance(0.06)
            return gets(key)

        store.gets = far_gets  # type: ignore[method-assign]
        far = ledger(store, clock)
        change = Booking(far, next(owners), 1)
        apply = change.apply

        def noted(*args: Any, **terms: Any) -> LimitState | None:
            swap_us.append(far.latency.swap_us)
            return apply(*args, **terms)

        change.apply = noted  # type: ignore[method-assign]
        run_steps(far.update(change), clock)
        assert swap_us == [60_000]

    def test_a_first_read_that_was_quick_counts_for_more_than_a_slow_reading_of_the_clock(self) -> None:
        """A busy machine read the clock of a near cache in 60 ms: nothing is booked as if the cache were far."""
        clock = ReadClock()
        near = ledger(Store(), clock)
        book(near, 1)
        assert near.latency.lead_us(near.quota.margin_us) == 0
        assert near.latency.horizon_us == SECOND // 10

    def test_another_limit_under_one_name_is_said_once(self, caplog: pytest.LogCaptureFixture) -> None:
        """A rolling deploy keeps both limits against the shared hits, and each process says so once."""
        clock, store = FakeClock(), Store()
        book(Ledger(CasStore(store), "key", quota(20, 1.0), clock), *[1] * 12)
        with caplog.at_level(logging.WARNING, "nekkar"):
            other = ledger(store, clock)
            assert book(other, 1) == []
            book(other, 1)
        assert [record.getMessage() for record in caplog.records] == [
            "cache key 'key' has other limits elsewhere: 20 per 1 s, and 10 per 1 s here;"
            " each keeps its own, so give all the same"
        ]


@pytest.mark.parametrize("name", ["a b", "ü", "x" * 201, "tab\t", "new\nline", "\x7f", "\udcff"])
def test_a_name_that_memcached_would_refuse_goes_in_hashed(name: str) -> None:
    """Every key is printable ASCII of at most 250 bytes, and different names stay apart."""
    key = cache_key(name)
    assert key.isascii()
    assert key.isprintable()
    assert " " not in key
    assert len(key) <= 250
    assert key != cache_key(name + "x")


def test_a_plain_name_stays_readable_in_its_key() -> None:
    """An operator finds a limit by its name."""
    assert cache_key("user-42/search") == "nekkar:user-42/search"
