"""Events: each call's course is told, once, to all who listen; and listening harms nobody."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import FrozenInstanceError
from typing import Any

import anyio
import pytest

from nekkar.core.cache import MemoryCache
from nekkar.core.errors import CacheError, ConfigurationError, WaitTooLong
from nekkar.core.events import Admitted, CacheBack, CacheLost, Event, Held, Left, Listening, Refused, Waiting
from nekkar.core.limiter import Limit, Nekkar
from nekkar.testing import FakeClock
from tests.shared.test_fallback import FlakyCache
from tests.support.internals.core import Listeners, limiter_of
from tests.support.internals.waiting import Caller, CallReporter, InHand, Slot
from tests.support.internals.window import Grant
from tests.support.servers import free_port


@pytest.fixture
def limiter(clock: FakeClock) -> Nekkar:
    return Nekkar(clock=clock)


@pytest.fixture
def heard(limiter: Nekkar) -> list[Event]:
    """What a listener of the limiter hears."""
    events: list[Event] = []
    limiter.listen(events.append)
    return events


def kinds(events: Sequence[Event]) -> list[str]:
    return [type(event).__name__ for event in events]


class TestCalls:
    """What is told of a call."""

    def test_a_call_that_need_not_wait_is_admitted(self, limiter: Nekkar, heard: list[Event], clock: FakeClock) -> None:
        """One event, with the name, cost and slot of its admission."""
        admission = limiter("jobs", 10).acquire(cost=3)
        assert isinstance(heard[0], Admitted)
        assert heard == [Admitted("jobs", 3, admission.at, 0.0, heard[0].call)]

    def test_a_call_that_waits_is_told_of_first(self, limiter: Nekkar, heard: list[Event], clock: FakeClock) -> None:
        """Waiting tells until when; both events bear the number of the call."""
        limit, began = limiter("jobs", "2/10s"), clock.now
        limit.acquire(cost=2)
        admission = limit.acquire()
        waiting, admitted = heard[1:]
        assert isinstance(waiting, Waiting)
        assert isinstance(admitted, Admitted)
        assert waiting == Waiting("jobs", 1, began, admission.at, 0.0, admitted.call)
        assert (admitted.at, admitted.waited) == (admission.at, admission.waited)
        assert admission.waited == 10.05

    def test_a_call_that_would_wait_too_long_is_refused(self, limiter: Nekkar, heard: list[Event]) -> None:
        """The event tells what the error does."""
        limit = limiter("jobs", 1)
        limit.acquire()
        with pytest.raises(WaitTooLong) as error:
            limit.acquire(max_wait=5)
        refused = heard[-1]
        assert isinstance(refused, Refused)
        assert (refused.retry_after, refused.max_wait) == (error.value.retry_after, 5.0)
        assert kinds(heard) == ["Admitted", "Refused"]

    def test_a_call_that_fails_has_left(self, clock: FakeClock) -> None:
        """It bears the very error that the caller got."""
        cache, events = FlakyCache(), list[Event]()
        limiter = Nekkar(cache, clock=clock)
        limiter.listen(events.append)
        cache.is_away = True
        with pytest.raises(CacheError) as error:
            limiter("jobs", 1).acquire()
        assert kinds(events) == ["CacheLost", "Left"]
        assert isinstance(events[1], Left)
        assert events[1].error is error.value

    def test_a_call_that_cannot_know_the_time_has_left(self) -> None:
        """A server away at the very first call, before its clock was read."""
        events = list[Event]()
        limiter = Nekkar(f"memcached://127.0.0.1:{free_port()}")
        limiter.listen(events.append)
        with pytest.raises(CacheError):
            limiter("jobs", 1).acquire()
        assert kinds(events) == ["CacheLost", "Left"]

    def test_a_cancelled_wait_has_left(self, limiter: Nekkar, heard: list[Event]) -> None:
        """A wait that is told of is told to end, however it ends."""
        limit = Nekkar(clock=FakeClock(jump=False))("jobs", 1)
        limiter_of(limit).listen(heard.append)

        async def main() -> None:
            await limit.acquire_async()
            with anyio.move_on_after(0.05):
                await limit.acquire_async()

        anyio.run(main)
        assert kinds(heard) == ["Admitted", "Waiting", "Left"]
        assert heard[1].call == heard[2].call  # type: ignore[union-attr]

    def test_a_call_on_a_prefetched_slot_is_told_of(
        self, limiter: Nekkar, heard: list[Event], clock: FakeClock
    ) -> None:
        """However a call gets its slot, there is one Admitted for it."""
        limit = limiter("jobs", "1000000/s")
        for _ in range(200):
            limit.acquire()
            clock.advance(0.0001)
        assert kinds(heard) == ["Admitted"] * 200
        assert sum(isinstance(event, Admitted) and not event.call for event in heard) > 100

    def test_a_wait_is_told_once_and_again_if_it_moves_by_a_second(self) -> None:
        """Not as a call in line gets the slot that was foreseen for it."""
        listeners, events = Listeners(), list[Event]()
        listeners.add(events.append)
        reporter, caller = CallReporter("jobs", listeners), Caller(1, 1, 100, None, None)
        for until in (5_000_000, 5_000_000, 5_999_999, 6_000_000):
            reporter.waits(caller, until, 100, 1)
        assert [event.until for event in events if isinstance(event, Waiting)] == [5.0, 6.0]

    def test_a_slot_that_moves_is_told_of_again(self, clock: FakeClock) -> None:
        """A hold over the slot of a call that waits: the call's wait is told anew, and the hold."""
        cache, events = MemoryCache(), list[Event]()
        cache.in_process = False
        limiter = Nekkar(cache, clock=clock)
        limit = limiter("jobs", "1/10s")
        limit.acquire()
        limiter.listen(events.append)
        limiter.listen(lambda event: Nekkar(cache, clock=clock)("jobs", "1/10s").hold(60) if first(event) else None)

        def first(event: Event) -> bool:
            return isinstance(event, Waiting) and len(events) == 1

        limit.acquire()
        assert kinds(events) == ["Waiting", "Held", "Waiting", "Admitted"]
        until = [event.until for event in events if isinstance(event, Waiting)]
        assert [round(at - events[0].at, 2) for at in until] == [10.05, 60.0]  # type: ignore[union-attr]


class TestHoldsAndOutages:
    """What is told of the limit and of the cache."""

    def test_a_hold_is_told_once(self, limiter: Nekkar, heard: list[Event], clock: FakeClock) -> None:
        """Not at each look, nor at each refusal that moves its end a little; but a much longer one is."""
        limit = limiter("jobs", 10)
        began = clock.now
        for _ in range(20):
            limit.hold(30)
            limit.status()
            clock.advance(0.1)
        assert heard == [Held("jobs", began, began + 30)]
        limit.hold(300)
        assert kinds(heard) == ["Held", "Held"]

    def test_a_hold_of_others_is_told(self, clock: FakeClock) -> None:
        """Each process says so as it learns of a hold; after a release the next is new."""
        cache, events = MemoryCache(), list[Event]()
        here, there = Nekkar(cache, clock=clock), Nekkar(cache, clock=clock)("jobs", 10)
        here.listen(events.append)
        for _ in range(2):
            there.hold(30)
            here("jobs", 10).status()
            there.release()
            here("jobs", 10).status()
        assert kinds(events) == ["Held", "Held"]

    def test_an_outage_is_told_at_each_turn(self, clock: FakeClock) -> None:
        """Once when the cache is lost, whatever the number of calls, and once when it is back."""
        cache, events = FlakyCache(), list[Event]()
        limiter = Nekkar(cache, clock=clock, on_cache_error="open")
        limiter.listen(events.append)
        limit = limiter("jobs", 100)
        cache.is_away = True
        for _ in range(5):
            limit.acquire()
        cache.is_away = False
        clock.advance(5)
        limit.acquire()
        told = [event for event in events if not isinstance(event, Admitted)]
        assert kinds(told) == ["CacheLost", "CacheBack"]
        assert isinstance(told[0], CacheLost)
        assert told[1] == CacheBack()
        assert str(told[0].error) == "the cache is away"


class TestListening:
    """Callbacks."""

    def test_it_ends(self, limiter: Nekkar) -> None:
        """By stop, twice if you like, and at the end of a block; another listener goes on."""
        one, other, block = list[Event](), list[Event](), list[Event]()
        listening = limiter.listen(one.append)
        limiter.listen(other.append)
        limit = limiter("jobs", 10)
        with limiter.listen(block.append):
            limit.acquire()
        listening.stop()
        listening.stop()
        limit.acquire()
        assert (len(one), len(other), len(block)) == (1, 2, 1)

    def test_one_that_ends_itself_hides_nothing_from_the_next(self, limiter: Nekkar) -> None:
        """It has heard enough, and the others hear that event too."""
        once: list[Listening] = []
        once.append(limiter.listen(lambda event: once[0].stop()))
        heard = list[Event]()
        limiter.listen(heard.append)
        limiter("jobs", 10).acquire()
        assert len(heard) == 1

    def test_a_callback_that_raises_harms_no_call(self, limiter: Nekkar, caplog: pytest.LogCaptureFixture) -> None:
        """It is logged with its traceback, once; calls and other listeners go on."""
        heard: list[Event] = []

        def broken(event: Event) -> None:
            raise RuntimeError("broken on purpose")

        limiter.listen(broken)
        limiter.listen(heard.append)
        for _ in range(3):
            limiter("jobs", 10).acquire()
        assert len(heard) == 3
        (record,) = caplog.records
        assert "said once" in record.message
        assert "broken on purpose" in str(record.exc_text or record.exc_info)

    def test_a_callback_may_use_the_limiter(self, limiter: Nekkar) -> None:
        """No lock is held while it runs."""
        limit = limiter("jobs", "2/10s")
        used: list[int] = []
        limiter.listen(lambda event: used.append(limit.status().windows[0].used))
        for _ in range(3):
            limit.acquire()
        assert used == [1, 2, 2, 1]

    def test_what_is_no_function_is_an_error(self, limiter: Nekkar) -> None:
        """Told where it is given."""
        with pytest.raises(ConfigurationError, match="listener 'print' is not callable"):
            limiter.listen("print")  # type: ignore[arg-type]

    def test_events_are_frozen(self, limiter: Nekkar, heard: list[Event]) -> None:
        """One listener can't change what the next one hears."""
        limiter("jobs", 10).acquire()
        with pytest.raises(FrozenInstanceError):
            heard[0].name = "other"  # type: ignore[union-attr, misc]

    def test_when_nobody_listens_a_prefetched_slot_costs_one_look_at_a_list(
        self, limiter: Nekkar, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing else is called on the fast path."""
        limit = limiter("jobs", "1000000/s")
        said: list[Any] = []
        monkeypatch.setattr(CallReporter, "prefetched", lambda *args: said.append(args))
        for _ in range(200):
            limit.acquire()
            clock.advance(0.0001)
        assert not said
        limiter.listen(said.append)
        limit.acquire()
        assert len(said) == 1


class TestTheLog:
    """What operators find under ``nekkar``."""

    def lines(self, caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
        return [(record.levelname, record.getMessage()) for record in caplog.records]

    def test_a_wait_of_over_five_seconds_is_said_once(self, limiter: Nekkar, caplog: pytest.LogCaptureFixture) -> None:
        """At INFO, as it begins; shorter waits are not."""
        caplog.set_level(logging.INFO, "nekkar")
        line = "limit 'jobs-10': a call waits 10.1 s for its slot; 1 wait in line here; said once a minute at most"
        for period, expected in ((4, []), (10, [("INFO", line)])):
            limit = limiter(f"jobs-{period}", 1, period=period)
            limit.acquire()
            limit.acquire()
            assert self.lines(caplog) == expected

    def test_a_crowd_that_waits_is_one_line_a_minute(self, caplog: pytest.LogCaptureFixture) -> None:
        """However many calls wait for over five seconds; a clock that is set back does not silence it."""
        caplog.set_level(logging.INFO, "nekkar")
        reporter, minute = CallReporter("jobs", Listeners()), 60_000_000
        for now in (9 * minute, 10 * minute - 1, 10 * minute, 10 * minute + 1, minute):
            for _ in range(600):
                reporter.waits(Caller(1, 1, now, None, None), now + 9_000_000, now, 600)
        assert len(caplog.records) == 3

    def test_a_long_wait_that_nobody_foresaw_is_said_as_it_ends(self, caplog: pytest.LogCaptureFixture) -> None:
        """Such as one in a line that moved slowly; one that was said already is not said again."""
        caplog.set_level(logging.INFO, "nekkar")
        slot = Slot(7_000_000, 1, InHand(Grant(1, 1, 7_000_000, 1), epoch=1))
        for foreseen in (0, 9_000_000):
            reporter, caller = CallReporter("jobs", Listeners()), Caller(1, 1, 0, None, None)
            reporter.waits(caller, foreseen, 0, 3)
            reporter.admitted(caller, slot, 7_000_000, 3)
        assert [text.partition(";")[0] for _, text in self.lines(caplog)] == [
            "limit 'jobs': a call waited 7.0 s for its slot",
            "limit 'jobs': a call waits 9.0 s for its slot",
        ]

    def test_a_hold_is_a_warning_once(self, limiter: Nekkar, caplog: pytest.LogCaptureFixture) -> None:
        """Not once a call."""
        limit = limiter("jobs", 10)
        limit.hold(3)
        for _ in range(3):
            limit.acquire()
        assert self.lines(caplog) == [("WARNING", "limit 'jobs' is held: no call starts in the next 3.0 s")]

    def test_calls_that_go_well_leave_no_line(self, limiter: Nekkar, caplog: pytest.LogCaptureFixture) -> None:
        """However many."""
        caplog.set_level(logging.DEBUG, "nekkar")
        limit: Limit = limiter("jobs", "10/second")
        for _ in range(50):
            limit.acquire()
        assert self.lines(caplog) == []
