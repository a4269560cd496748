"""The ledger: swaps, lost answers, losses and epochs, in random schedules and step by step."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from nekkar.core.errors import CacheError, CorruptLog
from nekkar.core.quota import SECOND, Quota, quota
from nekkar.core.runtime.drivers import run_steps
from nekkar.core.runtime.effects import CacheCall, CacheSteps
from nekkar.core.shared import replica
from nekkar.core.shared.key import cache_key
from nekkar.core.shared.ledger import MOST_CONFLICTS, Ledger
from nekkar.core.shared.replica import View
from nekkar.core.shared.store import Native
from nekkar.core.window.booking import Refusal, Slot
from nekkar.core.window.codec import decode, encode
from nekkar.core.window.state import HitLog
from nekkar.testing import FakeClock
from tests.support.simulation import One, Store, Story, World
from tests.support.stories import (
    ALONE,
    BUSY,
    CROWD,
    FLUSHED,
    IDLE,
    MARGINS,
    NEWCOMERS,
    SCHEDULES,
    TWICE,
    first_over,
    over,
)

TEN = quota(10, 1.0)


def ledger(store: Any, clock: FakeClock | None = None) -> Ledger:
    return Ledger(Native(store), "key", TEN, clock or FakeClock())


def book(of: Ledger, *costs: int, returned: Sequence[Slot] = ()) -> list[Slot | Refusal]:
    answers = run_steps(of.book([One(cost) for cost in costs], returned), of.clock)
    return [answer for answer in answers if not isinstance(answer, CacheError)]


def logged(store: Store) -> HitLog:
    value, _ = store.gets("key")
    assert value is not None
    return decode(value)


class TestSchedules:
    """Random schedules of several processes; see tests/support/simulation.py."""

    def test_no_window_is_over_in_any_schedule(self) -> None:
        """Flushes, freezes, lost answers, starved threads, cancellations and skewed clocks: never over."""
        assert over(ALONE) == []

    @pytest.mark.parametrize("story", [MARGINS, IDLE, TWICE], ids=["margins", "idle", "twice"])
    def test_no_window_is_over_after_a_loss_whoever_meets_it(self, story: Story) -> None:
        """Processes with larger margins have just come, have long been idle, or were frozen around two losses."""
        assert over(story, SCHEDULES // 3) == []

    def test_the_schedules_contain_conflicts_losses_and_lost_answers(self) -> None:
        """What the test above asserts is asserted under contention: it happened."""
        worlds = [World(ALONE, seed).run() for seed in range(50)]
        assert sum(isinstance(error, CacheError) for world in worlds for error in world.outcomes) > 20
        assert sum(world.store.flushed for world in worlds) > 20
        assert sum(world.lost_swaps for world in worlds) > 100


class TestPlantedFaults:
    """The harness finds the fault when a rule is broken on purpose."""

    def test_filling_only_up_to_now_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """After a loss, what others took is taken to lie as late as possible, not before now."""
        recovered = HitLog.recovered

        def filled_early(self: HitLog, looked: int, now: int, epoch: int) -> HitLog:
            return recovered(replace(self, horizon_us=0), looked, now, epoch)

        monkeypatch.setattr(HitLog, "recovered", filled_early)
        assert first_over(CROWD) is not None or first_over(FLUSHED) is not None

    def test_a_mirror_written_back_with_nothing_added_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What others did since the last look counts, though nobody here saw it."""
        monkeypatch.setattr(HitLog, "recovered", lambda self, looked, now, epoch: replace(self, epoch=epoch))
        assert first_over(FLUSHED) is not None

    def test_hits_within_the_margin_that_take_room_are_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Others may have used a smaller margin until a moment ago."""
        free = HitLog._free
        monkeypatch.setattr(HitLog, "_free", lambda self, window, end: free(self, window, end - self.margin_us))
        assert first_over(MARGINS) is not None

    def test_taking_a_loss_for_a_key_that_expired_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The key of an idle limit lives on, so that a process that finds it gone knows of a loss."""
        monkeypatch.setattr(replica, "expires_at", lambda log, written_at=0: log.dies_at)
        assert first_over(IDLE) is not None

    def test_trusting_a_log_created_late_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """While the creating write was on its way another log came, was used, and went."""
        monkeypatch.setattr(View, "doubts", lambda self, found: False)
        assert first_over(TWICE) is not None

    def test_skipping_the_merge_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A process that meets a newcomer's log adds what it knows; else the fleet forgets its window."""
        merged = len(over(NEWCOMERS, SCHEDULES // 3))
        monkeypatch.setattr(HitLog, "merge", lambda self, other: self)
        assert len(over(NEWCOMERS, SCHEDULES // 3)) > 3 * (merged + 1)

    def test_skipping_the_wake_read_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A slot booked long ago may be another epoch's by now."""
        monkeypatch.setattr(Ledger, "is_stale", lambda self, slot: False)
        assert first_over(FLUSHED) is not None

    def test_trusting_another_epoch_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A slot is good in the epoch that it was booked in alone."""
        monkeypatch.setattr(Ledger, "vouches", lambda self, slot: True)
        assert first_over(FLUSHED) is not None

    def test_starting_late_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A slot is good for half the margin."""
        monkeypatch.setattr(Ledger, "good_until", lambda self, slot: slot.at + 3600 * SECOND)
        assert first_over(ALONE) is not None

    def test_unbooking_in_another_epoch_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A hit at the same instant in another epoch may be another caller's."""

        def careless(self: Ledger, base: HitLog, returned: Sequence[Slot], now: int) -> HitLog:
            for slot in returned:
                base = base.unbook(slot.at, slot.cost)
            return base

        monkeypatch.setattr(Ledger, "_without", careless)
        assert first_over(BUSY) is not None

    def test_unbooking_twice_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """After a lost answer an unbooking is not repeated: it may take out another caller's hit."""
        without, done = Ledger._without, dict[int, list[Slot]]()

        def greedy(self: Ledger, base: HitLog, returned: Sequence[Slot], now: int) -> HitLog:
            done.setdefault(id(self), []).extend(returned)
            return without(self, base, done[id(self)][-8:], now)

        monkeypatch.setattr(Ledger, "_without", greedy)
        assert first_over(BUSY) is not None


class Counted(Store):
    """A store that counts its commands."""

    def __init__(self) -> None:
        super().__init__()
        self.commands: list[str] = []

    def gets(self, key: str) -> tuple[bytes | None, int | None]:
        self.commands.append("gets")
        return super().gets(key)

    def cas(self, key: str, value: bytes, token: int | None, ttl: int) -> int | None:
        self.commands.append("cas")
        return super().cas(key, value, token, ttl)


class TestSwapsWithoutARead:
    """Where nobody else seems to write, a process swaps its own last write; the swap itself tells if that holds."""

    def test_a_process_alone_reads_twice_and_then_no_more(self) -> None:
        """Its second read found its own write: from then on a booking is one command."""
        store = Counted()
        alone = ledger(store)
        for _ in range(5):
            book(alone, 1)
        assert store.commands == ["gets", "cas", "gets", "cas", "cas", "cas", "cas"]
        assert logged(store).total == 5

    def test_another_ones_write_fails_the_swap_and_counts(self) -> None:
        """Of ten calls the other took eight, unseen: three more don't fit, and the log has all."""
        clock, store = FakeClock(), Counted()
        one, other = ledger(store, clock), ledger(store, clock)
        book(one, 1)
        book(one, 1)
        book(other, 8)
        store.commands.clear()
        assert [slot.at - clock.now_us() for slot in book(one, 1)] == [SECOND + TEN.margin_us]
        assert store.commands == ["cas", "gets", "cas"]
        book(one, 1)
        assert store.commands[3:] == ["gets", "cas"]  # once disturbed, it reads until it finds its own write
        assert logged(store).total == 12

    def test_a_refusal_is_told_by_the_cache_not_from_memory(self) -> None:
        """The limit was started afresh by another process: a call is admitted that memory alone would refuse."""
        clock, store = FakeClock(), Counted()
        one, other = ledger(store, clock), ledger(store, clock)
        book(one, 5)
        book(one, 5)
        run_steps(other.reset(), clock)
        (answer,) = run_steps(one.book([One(1, deadline=clock.now_us())]), clock)
        assert isinstance(answer, Slot)

    def test_a_log_that_is_gone_is_a_loss_not_a_write(self) -> None:
        """After a flush the swap fails, the read finds nothing, and the worst is assumed as ever."""
        clock, store = FakeClock(), Counted()
        alone = ledger(store, clock)
        for _ in range(3):
            book(alone, 1)
        store.items.clear()
        (slot,) = book(alone, 1)
        assert slot.at > clock.now_us() + SECOND

    def test_the_schedules_contain_them(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The random schedules above swap without a read, and some of these swaps fail."""
        tried: list[bool] = []
        own = View.own

        def counted(self: View) -> Any:
            found = own(self)
            tried.append(found is not None)
            return found

        monkeypatch.setattr(View, "own", counted)
        for seed in range(50):
            World(ALONE, seed).run()
        assert tried.count(True) > 100


class TestBooking:
    """One process, step by step."""

    def test_one_swap_books_for_all_within_the_horizon_and_for_at_least_one(self) -> None:
        """Ten of twelve get slots now; the next booking gives one, though it lies a period off."""
        clock, store = FakeClock(), Store()
        alone = ledger(store, clock)
        first = book(alone, *[1] * 12)
        assert [slot.at - clock.now_us() for slot in first] == [0] * 10
        second = book(alone, *[1] * 2)
        assert [slot.at - clock.now_us() for slot in second] == [SECOND + TEN.margin_us]
        assert logged(store).total == 11

    def test_a_second_slot_beyond_the_horizon_waits_for_its_turn(self) -> None:
        """With spacing the slots beyond the horizon differ: only the first is booked."""
        clock = FakeClock()
        alone = Ledger(Native(Store()), "key", quota(10, 1.0, "even"), clock)
        assert len(run_steps(alone.book([One(1)] * 5), clock)) == 2  # now and at the horizon, 100 ms ahead

    def test_a_refused_call_books_nothing(self) -> None:
        """A slot past the deadline is told, not taken."""
        clock, store = FakeClock(), Store()
        alone = ledger(store, clock)
        book(alone, 10)
        answers = run_steps(alone.book([One(1, deadline=clock.now_us() + SECOND)]), clock)
        assert answers == [Refusal(clock.now_us() + SECOND + TEN.margin_us)]
        assert logged(store).total == 10

    def test_a_booking_after_a_refused_one_is_served(self) -> None:
        """A heavy call that can't come in time does not hold up a light one."""
        clock = FakeClock()
        alone = ledger(Store(), clock)
        book(alone, 5)
        heavy, light = One(10, deadline=clock.now_us()), One(1)
        answers = run_steps(alone.book([heavy, light]), clock)
        assert [type(answer) for answer in answers] == [Refusal, Slot]

    def test_unbooked_hits_are_free_again_at_once(self) -> None:
        """What a late caller gives back is booked anew in the same swap."""
        store = Store()
        alone = ledger(store)
        slots = [slot for slot in book(alone, 4, 6) if isinstance(slot, Slot)]
        (again,) = book(alone, 6, returned=slots[1:])
        assert again == slots[1]
        assert logged(store).total == 10

    def test_a_hit_is_unbooked_only_within_a_horizon_after_its_time(self) -> None:
        """Later nobody can tell whose hit it is."""
        clock, store = FakeClock(), Store()
        alone = ledger(store, clock)
        slots = [slot for slot in book(alone, 3) if isinstance(slot, Slot)]
        clock.advance(0.2)
        book(alone, 1, returned=slots)
        assert logged(store).total == 4

    def test_each_write_is_stamped_with_its_writers_time(self) -> None:
        """Whoever reads the log knows when it was last changed."""
        clock, store = FakeClock(), Store()
        alone = ledger(store, clock)
        for _ in range(2):
            clock.advance(0.3)
            book(alone, 1)
            assert logged(store).written_at == clock.now_us()

    def test_an_unbooking_alone_with_nothing_to_take_out_writes_nothing(self) -> None:
        """No swap for nothing."""
        store = Store()
        alone = ledger(store)
        book(alone, 1)
        before = store.gets("key")
        assert book(alone, returned=[Slot(5, 1, epoch=0)]) == []
        assert store.gets("key") == before


class Deaf(Store):
    """A store that loses the answers of some writes, performed or not."""

    def __init__(self, lose: set[int], performs: bool) -> None:
        super().__init__()
        self.lose, self.performs, self.writes = lose, performs, 0

    def cas(self, key: str, value: bytes, token: int | None, ttl: int) -> int | None:
        self.writes += 1
        if self.writes not in self.lose:
            return super().cas(key, value, token, ttl)
        if self.performs:
            super().cas(key, value, token, ttl)
        raise CacheError("no answer")


class Mute(Store):
    """A store whose writes land, and whose answers come too late to be heard while it has a clock."""

    def __init__(self, seconds: float = 0.5) -> None:
        super().__init__()
        self.seconds = seconds
        self.clock: FakeClock | None = None

    def cas(self, key: str, value: bytes, token: int | None, ttl: int) -> int | None:
        won = super().cas(key, value, token, ttl)
        if self.clock:
            self.clock.advance(self.seconds)
            raise CacheError("no answer")
        return won


class TestLostAnswers:
    """A write whose answer was lost may have landed."""

    @pytest.mark.parametrize("performs", [True, False])
    def test_a_booking_goes_on_and_books_once(self, performs: bool) -> None:
        """Landed or not, the log tells which, and holds the hit once."""
        store = Deaf({1}, performs)
        assert len(book(ledger(store), 1)) == 1
        assert logged(store).total == 1

    def test_a_second_lost_answer_is_an_error(self) -> None:
        """A cache that does not answer is away."""
        with pytest.raises(CacheError):
            book(ledger(Deaf({1, 2}, performs=False)), 1)

    def test_answers_lost_for_longer_than_a_slot_is_good_are_an_error_too(self) -> None:
        """A slot that is found too late is booked again once, not until the limit is full; then each call tells."""
        clock, store = FakeClock(), Mute()
        store.clock = clock
        alone = ledger(store, clock)
        assert len(book(alone, 1)) == 1  # found in the log, half a second late: the line books again
        for hits in (2, 3):
            with pytest.raises(CacheError, match="no answer"):
                book(alone, 1)
            assert logged(store).total == hits
        store.clock = None
        (slot,) = book(alone, 1)
        assert slot.at == clock.now_us()
        store.clock = clock
        assert len(book(alone, 1)) == 1, "an answer ends the row: one lost answer is looked after again"

    def test_a_slot_found_in_time_ends_the_row(self) -> None:
        """Where the slot is still good, a lost answer costs a read, however many in a row are lost."""
        clock, store = FakeClock(), Mute(seconds=0.01)
        store.clock = clock
        alone = ledger(store, clock)
        for hits in (1, 2, 3):
            (slot,) = book(alone, 1)
            assert isinstance(slot, Slot)
            assert clock.now_us() <= alone.good_until(slot)
            assert logged(store).total == hits

    def test_unbooking_is_not_repeated(self) -> None:
        """The slot given back is given up: by then the hit at its time may be another caller's."""
        store = Deaf({2}, performs=False)
        alone = ledger(store)
        slots = [slot for slot in book(alone, 3) if isinstance(slot, Slot)]
        book(alone, 1, returned=slots)
        assert logged(store).total == 4

    @pytest.mark.parametrize("performs", [True, False])
    def test_an_interrupted_write_is_taken_back(self, performs: bool) -> None:
        """Ctrl-C while the swap is under way leaves no slot that nobody uses."""
        store = Store()
        alone = ledger(store)
        book(alone, 2)
        steps = alone.book([One(5)])
        call = next(steps)
        while isinstance(call, CacheCall) and call.function == store.gets:
            call = steps.send(call.function(*call.args))
        assert isinstance(call, CacheCall)
        if performs:
            assert call.function(*call.args)
        with pytest.raises(KeyboardInterrupt):
            _finish(steps, steps.throw(KeyboardInterrupt()))
        assert logged(store).total == 2


def _finish(steps: CacheSteps[Any], step: Any) -> None:
    while True:
        step = steps.send(step.function(*step.args))


class TestLoss:
    """The log is gone before its time."""

    def test_a_survivor_waits_one_period_at_most_and_goes_on(self) -> None:
        """Ten hits booked, a flush: the next slot is a horizon, a period and a margin away."""
        clock, store = FakeClock(), Store()
        alone = ledger(store, clock)
        book(alone, *[1] * 10)
        clock.advance(0.5)
        store.flush()
        (slot,) = book(alone, 1)
        assert slot.at - clock.now_us() == alone.pace.horizon_us + SECOND + TEN.margin_us

    def test_a_refused_call_writes_the_survivors_log_all_the_same(self) -> None:
        """Callers that won't wait don't push the recovery before them, again and again."""
        clock, store = FakeClock(), Store()
        alone = ledger(store, clock)
        book(alone, 1)
        store.flush()
        told = []
        for _ in range(3):
            clock.advance(0.1)
            (refusal,) = run_steps(alone.book([One(1, deadline=clock.now_us())]), clock)
            assert isinstance(refusal, Refusal)
            told.append(refusal.at)
        assert told[0] == told[1] == told[2]

    def test_a_key_that_died_of_age_is_no_loss(self) -> None:
        """After a long silence a limit starts afresh: nobody waits for hits that no longer matter."""
        clock, store = FakeClock(), Store()
        alone = ledger(store, clock)
        book(alone, *[1] * 10)
        clock.advance(TEN.rates[0].period_us / SECOND + 65)
        store.flush()
        (slot,) = book(alone, 1)
        assert slot.at == clock.now_us()

    @pytest.mark.parametrize(("period", "idle"), [(1, 50), (10, 100), (60, 123), (60, 600)])
    def test_a_process_that_was_idle_knows_a_loss_while_the_key_would_live(self, period: int, idle: int) -> None:
        """Others may have used the whole limit meanwhile. A process that comes back first waits for a period."""
        clock, store = FakeClock(), Store()
        terms = quota(10, period)
        idler, other = (Ledger(Native(store), "key", terms, clock) for _ in range(2))
        book(idler, 1)
        clock.advance(idle)
        book(other, *[1] * 10)
        store.flush()
        (slot,) = book(idler, 1)
        assert isinstance(slot, Slot)
        assert slot.at >= clock.now_us() + period * SECOND

    @pytest.mark.parametrize(("period", "linger"), [(1, 60), (10, 100), (60, 600), (86_400, 600)])
    def test_a_key_lives_as_long_as_it_would_be_missed(self, period: int, linger: int) -> None:
        """A process takes a missing key for a loss only while the cache was told to keep it, and starts afresh then."""
        clock, store, lives = FakeClock(), Store(), list[int]()
        cas = store.cas

        def told(key: str, value: bytes, token: int | None, ttl: int) -> int | None:
            lives.append(ttl)
            return cas(key, value, token, ttl)

        store.cas = told  # type: ignore[method-assign]
        terms = quota(10, period)
        alone = Ledger(Native(store), "key", terms, clock)
        book(alone, 1)
        (life,) = lives
        assert period + linger < life < period + linger + 5
        clock.advance(life)
        store.flush()
        (slot,) = book(alone, 1)
        assert isinstance(slot, Slot)
        assert slot.at == clock.now_us()

    def test_a_newcomer_starts_afresh(self) -> None:
        """Whoever never used the limit can't tell a loss from a first use."""
        store = Store()
        book(ledger(store), *[1] * 10)
        store.flush()
        clock = FakeClock()
        (slot,) = book(ledger(store, clock), 1)
        assert slot.at == clock.now_us()

    def test_a_survivor_merges_what_it_knows_once(self) -> None:
        """Into a log that another wrote after the loss, each hit goes once."""
        clock, store = FakeClock(), Store()
        one, two = ledger(store, clock), ledger(store, clock)
        book(one, 2)
        book(two, 1)
        clock.advance(0.6)
        store.flush()
        book(one, 1)
        before = logged(store).total
        book(two, 1)
        assert logged(store).total == before + 3 + 1  # the three hits of before, which count as unseen there, and one
        book(two, 1)
        assert logged(store).total == before + 3 + 2


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
    """No log is the same as no log: a write that creates one also wins after another log came and went."""

    def used_and_lost(self, store: Slow, clock: FakeClock) -> list[Slot | Refusal]:
        """Let another process use the limit while a write is on its way, and lose its log."""
        slots = list[Slot | Refusal]()

        def meanwhile() -> None:
            slots.extend(book(ledger(store, clock), *[1] * 10))
            store.flush()

        store.seconds, store.meanwhile = 0.6, meanwhile
        return slots

    @pytest.mark.parametrize("is_lost", [False, True], ids=["answered", "unanswered"])
    @pytest.mark.parametrize("is_survivor", [False, True], ids=["newcomer", "survivor"])
    def test_a_log_created_late_assumes_what_came_and_went(self, is_survivor: bool, is_lost: bool) -> None:
        """The other used ten of ten a second: the creator, however little it knows, starts no call within a period."""
        clock = FakeClock()
        store = Slow(clock)
        creator = ledger(store, clock)
        if is_survivor:
            book(creator, 1)
            clock.advance(3)
            store.flush()
        others, store.is_lost = self.used_and_lost(store, clock), is_lost
        (slot,) = book(creator, 1)
        assert isinstance(slot, Slot)
        assert len(others) == 10
        assert slot.at >= max(other.at for other in others if isinstance(other, Slot)) + SECOND

    def test_so_does_one_whose_creator_was_interrupted(self) -> None:
        """The write that nobody waits for any more lands late, and the creator's next call meets its log."""
        clock = FakeClock()
        store = Slow(clock)
        creator = ledger(store, clock)
        steps = creator.book([One(1)])
        call = next(steps)
        assert isinstance(call, CacheCall)
        call = steps.send(call.function(*call.args))
        assert isinstance(call, CacheCall)
        self.used_and_lost(store, clock)
        assert call.function(*call.args)
        with pytest.raises(KeyboardInterrupt):
            _finish(steps, steps.throw(KeyboardInterrupt()))
        (slot,) = book(creator, 1)
        assert isinstance(slot, Slot)
        assert slot.at > clock.now_us() + SECOND

    @pytest.mark.parametrize("is_lost", [False, True], ids=["answered", "unanswered"])
    def test_a_first_call_that_takes_a_while_does_not_wait(self, is_lost: bool) -> None:
        """A slow start of a process, or of its connection, is no reason to doubt a log that nobody else knows."""
        clock = FakeClock()
        store = Slow(clock)
        store.seconds, store.is_lost = 0.4, is_lost
        creator = ledger(store, clock)
        for _ in range(2):
            (slot,) = book(creator, 1)
            assert isinstance(slot, Slot)
            assert slot.at <= clock.now_us()
            clock.advance(10)


class TestLateStarts:
    """A caller may start up to half its margin after its slot. Nobody who lost the log need know that margin."""

    def test_a_caller_that_wakes_long_after_its_look_looks_again(self) -> None:
        """Its margin is two seconds. It wakes half a second late, and meanwhile the log was lost."""
        clock, store = FakeClock(), Store()
        old = ledger(store, clock)
        late = Ledger(Native(store), "key", Quota(TEN.rates, 0, 2 * SECOND), clock)
        book(old, 1)
        clock.advance(3)
        (slot,) = book(late, 1)
        assert isinstance(slot, Slot)
        assert not late.is_stale(slot)
        clock.advance(0.5)
        assert clock.now_us() <= late.good_until(slot)
        assert late.is_stale(slot)


class TestTrouble:
    """What can't be right is an error that names it."""

    @pytest.mark.parametrize("value", [b"", b"something else", encode(HitLog(1))[:-1]])
    def test_another_value_under_the_key_is_named(self, value: bytes) -> None:
        """The message has the key and what to do."""
        store = Store()
        store.cas("key", value, None, 60)
        with pytest.raises(CorruptLog, match=r"cache key 'key': .*; delete the key"):
            book(ledger(store), 1)

    def test_swaps_that_never_win_end(self) -> None:
        """A booking gives up after its bound, and says what it lost."""
        store = Store()
        store.cas = lambda *args: None  # type: ignore[method-assign]
        with pytest.raises(CacheError, match=f"lost {MOST_CONFLICTS} swaps in a row"):
            book(ledger(store), 1)

    def test_a_swap_that_meets_another_tells_how_long_swaps_take(self) -> None:
        """Far from the cache most swaps meet others: by those that win alone, a process books too near for long."""
        clock, store = FakeClock(), Store()
        outcomes = iter([None] * 8 + [1])

        def cas(*args: Any) -> int | None:
            clock.advance(0.2)
            return next(outcomes)

        store.cas = cas  # type: ignore[method-assign, assignment]
        far = ledger(store, clock)
        book(far, 1)
        assert far.pace.swap_us == SECOND // 5

    def test_another_limit_under_one_name_is_said_once(self, caplog: pytest.LogCaptureFixture) -> None:
        """A rolling deploy keeps both limits against the shared hits, and each process says so once."""
        clock, store = FakeClock(), Store()
        book(Ledger(Native(store), "key", quota(20, 1.0), clock), *[1] * 12)
        with caplog.at_level(logging.WARNING, "nekkar"):
            other = ledger(store, clock)
            (slot,) = book(other, 1)
            book(other, 1)
        assert slot.at > clock.now_us()
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
