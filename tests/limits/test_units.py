"""Limits that count tokens and points beside calls: what a call costs, what is settled, and what each mistake says."""

from __future__ import annotations

import logging
import multiprocessing
import pickle
import threading
from typing import Any

import anyio
import pytest

from nekkar import CacheError, ConfigurationError, Nekkar
from nekkar.core.cache import MemoryCache
from nekkar.core.events import Admitted
from nekkar.core.limiter import Limit
from nekkar.testing import FakeClock
from tests.support.internals.core import core_of, cost_of
from tests.support.internals.waiting import InHand, assignments_of
from tests.support.internals.window import Grant

RATE = "10/second; 1000 tokens/second"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def limiter(clock: FakeClock) -> Nekkar:
    return Nekkar(clock=clock)


@pytest.fixture
def limit(limiter: Nekkar) -> Limit:
    return limiter("llm", RATE)


def used(limit: Limit) -> dict[str, int]:
    """Return the hits in each window, by unit."""
    return {window.unit: window.used for window in limit.status().windows}


class TestCosts:
    """What a call costs."""

    def test_a_mapping_costs_one_call_and_the_units_it_names(self, limit: Limit) -> None:
        """The admission tells all of it."""
        admission = limit.acquire({"tokens": 400})
        assert (admission.cost, admission.costs) == (1, {"calls": 1, "tokens": 400})
        assert used(limit) == {"calls": 1, "tokens": 400}

    def test_calls_may_be_none_or_several(self, limit: Limit) -> None:
        """They are named as any unit is."""
        limit.acquire({"calls": 0, "tokens": 1})
        limit.acquire({"calls": 3, "tokens": 1})
        assert used(limit) == {"calls": 3, "tokens": 2}

    def test_each_unit_makes_a_call_wait(self, limit: Limit, clock: FakeClock) -> None:
        """Tokens bind here, calls there."""
        limit.acquire({"tokens": 900})
        assert limit.acquire({"tokens": 100}).waited == 0
        assert limit.acquire({"tokens": 1}).waited == pytest.approx(1.05)
        for _ in range(9):
            assert limit.acquire({"tokens": 0}).waited == 0
        assert limit.acquire({"tokens": 0}).waited == pytest.approx(1.05)

    def test_a_limit_that_counts_no_calls_ignores_them(self, limiter: Nekkar) -> None:
        """Any number of calls fits; they are told as 0."""
        points = limiter("points", "5 points/minute")
        assert points.acquire({"calls": 1000, "points": 5}).costs == {"calls": 0, "points": 5}
        assert [window.unit for window in points.status().windows] == ["points"]

    def test_a_call_that_costs_nothing_waits_for_a_hold_alone(self, limit: Limit) -> None:
        """However full the windows are; sync and async."""
        limit.acquire({"tokens": 1000})
        assert limit.acquire({"calls": 0, "tokens": 0}).waited == 0
        limit.hold(3)
        assert limit.acquire({"calls": 0, "tokens": 0}).waited == pytest.approx(3)
        limit.hold(3)
        with pytest.raises(TimeoutError):
            anyio.run(lambda: limit.acquire_async({"calls": 0, "tokens": 0}, max_wait=1))

    @pytest.mark.parametrize(
        ("cost", "says"),
        [
            (1, "does not give tokens"),
            ({}, "does not give tokens"),
            ({"tokens": 1, "points": 2}, "'points' is not counted"),
            ({"tokens": 1001}, "can never be admitted"),
            ({"tokens": 1, "calls": 11}, "can never be admitted"),
            ({"tokens": -1}, "from 0 to"),
            ({"tokens": 1.5}, "not a whole number"),
            ({"tokens": True}, "not a whole number"),
            ({"tokens": "9"}, "not a whole number"),
            ({1: 2}, "1 is not counted"),
        ],
    )
    def test_a_cost_that_the_limit_cannot_count_is_refused(self, limit: Limit, cost: Any, says: str) -> None:
        """With the limit, the value and what it counts; nothing is booked."""
        with pytest.raises(ConfigurationError, match="limit 'llm'") as caught:
            limit.acquire(cost)
        assert says in str(caught.value)
        assert used(limit) == {"calls": 0, "tokens": 0}

    def test_a_plain_call_under_a_limit_with_units_is_refused(self, limit: Limit) -> None:
        """Its tokens are not guessed: a decorated function and a ``with`` block need a metered one."""
        with pytest.raises(ConfigurationError, match="does not give tokens"), limit:
            raise AssertionError
        with pytest.raises(ConfigurationError, match="does not give tokens"):
            limit(lambda: None)()

    def test_listeners_hear_of_each_unit(self, limiter: Nekkar, limit: Limit) -> None:
        """Beside the calls."""
        heard: list[Any] = []
        limiter.listen(heard.append)
        limit.acquire({"tokens": 7})
        (event,) = heard
        assert isinstance(event, Admitted)
        assert (event.cost, event.costs) == (1, {"calls": 1, "tokens": 7})


class TestSettling:
    """What a call really used, in place of what it reserved."""

    @pytest.mark.parametrize(("tokens", "left"), [(100, 100), (0, 0), (400, 400), (600, 600)])
    def test_it_counts_as_settled_down_up_and_to_nothing(self, limit: Limit, tokens: int, left: int) -> None:
        """The call itself stays whole, since it was not named."""
        limit.acquire({"tokens": 400}).settle(tokens=tokens)
        assert used(limit) == {"calls": 1, "tokens": left}

    def test_a_call_may_give_back_its_call_too(self, limit: Limit) -> None:
        """It failed before the service counted it."""
        limit.acquire({"tokens": 400}).settle(tokens=0, calls=0)
        assert used(limit) == {"calls": 0, "tokens": 0}

    def test_what_goes_back_is_there_for_the_next_call(self, limit: Limit) -> None:
        """At once."""
        admission = limit.acquire({"tokens": 1000})
        admission.settle(tokens=10)
        assert limit.acquire({"tokens": 990}).waited == 0

    def test_a_settlement_wakes_the_next_in_its_process(self) -> None:
        """A thread that waits for tokens goes on as they come back, long before the window ends."""
        limit = Nekkar()("llm", "1000 tokens/hour")
        admission, waits = limit.acquire({"tokens": 1000}), list[float]()
        thread = threading.Thread(target=lambda: waits.append(limit.acquire({"tokens": 500}, max_wait=7200).waited))
        thread.start()
        while not limit.status().waiting:
            pass
        admission.settle(tokens=100)
        thread.join(30)
        assert waits
        assert used(limit) == {"tokens": 600}

    def test_it_settles_once(self, limit: Limit) -> None:
        """Of many threads one settles, and each other is told."""
        admission, refused = limit.acquire({"tokens": 400}), list[Exception]()

        def settle() -> None:
            try:
                admission.settle(tokens=100)
            except ConfigurationError as error:
                refused.append(error)

        threads = [threading.Thread(target=settle) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(refused) == 7
        assert "settled already" in str(refused[0])
        assert used(limit)["tokens"] == 100

    @pytest.mark.parametrize(
        ("units", "says"),
        [
            ({"points": 1}, "does not count 'points'; settle calls, tokens"),
            ({"tokens": -1}, "from 0 to"),
            ({"tokens": 1.5}, "from 0 to"),
            ({"tokens": True}, "from 0 to"),
            ({"tokens": 100, "points": 1}, "does not count"),
        ],
    )
    def test_a_bad_settlement_changes_nothing_and_may_be_mended(
        self, limit: Limit, units: dict[str, Any], says: str
    ) -> None:
        """A fault of the arguments does not use up the one settlement."""
        admission = limit.acquire({"tokens": 400})
        with pytest.raises(ConfigurationError) as caught:
            admission.settle(**units)
        assert says in str(caught.value)
        assert used(limit)["tokens"] == 400
        admission.settle(tokens=5)
        assert used(limit)["tokens"] == 5

    def test_a_copy_from_another_process_cannot_be_settled(self, limit: Limit) -> None:
        """It has the costs, and says where to settle."""
        copy = pickle.loads(pickle.dumps(limit.acquire({"tokens": 400})))
        assert copy.costs == {"calls": 1, "tokens": 400}
        with pytest.raises(ConfigurationError, match="only in the process that acquired it"):
            copy.settle(tokens=1)

    def test_a_forked_child_cannot_settle_its_parents_admission(self, limit: Limit) -> None:
        """Both would."""
        admission = limit.acquire({"tokens": 400})
        receiver, sender = multiprocessing.Pipe(duplex=False)

        def child() -> None:
            try:
                admission.settle(tokens=1)
            except ConfigurationError as error:
                sender.send(str(error))

        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        assert receiver.poll(30)
        assert "forked" in receiver.recv()
        process.join(30)
        admission.settle(tokens=2)
        assert used(limit)["tokens"] == 2

    @pytest.mark.parametrize("backend", ["asyncio", "trio"])
    def test_it_settles_from_tasks(self, limit: Limit, backend: str) -> None:
        """A task waits for the write, and holds up no other."""

        async def main() -> None:
            async with await limit.acquire_async({"tokens": 400}) as admission:
                await admission.settle_async(tokens=3)

        anyio.run(main, backend=backend)
        assert used(limit)["tokens"] == 3

    def test_after_a_reset_nothing_changes(self, limit: Limit) -> None:
        """The slot is of another epoch."""
        admission = limit.acquire({"tokens": 400})
        limit.reset()
        limit.acquire({"tokens": 9})
        admission.settle(tokens=0)
        assert used(limit)["tokens"] == 9

    def test_after_a_loss_nothing_changes(self, clock: FakeClock) -> None:
        """What the survivor assumed stays."""
        cache = MemoryCache()
        limit = Nekkar(cache, clock=clock)("llm", RATE)
        admission = limit.acquire({"tokens": 400})
        cache.delete("nekkar:llm")
        limit.acquire({"tokens": 1})
        before = used(limit)
        admission.settle(tokens=0, calls=0)
        assert used(limit) == before

    def test_after_the_window_nothing_changes(self, limit: Limit, clock: FakeClock) -> None:
        """The hits were forgotten: those of later calls are not touched."""
        admission = limit.acquire({"tokens": 400})
        clock.advance(5)
        limit.acquire({"tokens": 9})
        admission.settle(tokens=0)
        assert used(limit)["tokens"] == 9

    def test_the_cache_away_is_an_error_and_the_reservation_stands(self) -> None:
        """A settlement is never repeated: its answer may have been lost."""
        cache = Away()
        limit = Nekkar(cache)("llm", RATE)
        admission = limit.acquire({"tokens": 400})
        cache.is_away = True
        with pytest.raises(CacheError):
            admission.settle(tokens=1)
        cache.is_away = False
        assert used(limit)["tokens"] == 400
        with pytest.raises(ConfigurationError, match="settled already"):
            admission.settle(tokens=1)

    def test_calls_alone_go_back_within_a_second_of_their_slot(self, limiter: Nekkar, clock: FakeClock) -> None:
        """Later ones only once each process knows that this limit settles: a survivor of a loss might count on them."""
        limit = limiter("calls", "10/5 seconds")
        early, late = limit.acquire(), limit.acquire()
        early.settle(calls=0)
        assert used(limit) == {"calls": 1}
        clock.advance(2)
        late.settle(calls=0)
        assert used(limit) == {"calls": 1}
        clock.advance(10)
        later = limit.acquire()
        clock.advance(2)
        later.settle(calls=0)
        assert used(limit) == {"calls": 0}


class Away(MemoryCache):
    """A cache that may be away."""

    is_away = False

    def cas(self, *args: Any) -> Any:
        if self.is_away:
            raise CacheError("away")
        return super().cas(*args)


class TestMetered:
    """Functions whose cost depends on their arguments, and is settled by their result."""

    def test_it_costs_what_the_arguments_say_and_settles_what_the_result_says(self, limit: Limit) -> None:
        """A function keeps its name and its result."""

        @limit.metered(cost=lambda text, most=10: {"tokens": len(text) + most}, settle=lambda out: {"tokens": len(out)})
        def complete(text: str, most: int = 10) -> str:
            assert used(limit)["tokens"] == len(text) + most
            return text.upper()

        assert complete("hello", most=20) == "HELLO"
        assert complete.__name__ == "complete"
        assert used(limit) == {"calls": 1, "tokens": 5}

    def test_a_coroutine_function_waits_in_its_task(self, limit: Limit) -> None:
        """Otherwise the same."""

        @limit.metered(cost=lambda n: {"tokens": n}, settle=lambda out: {"tokens": out})
        async def ask(n: int) -> int:
            return n // 2

        assert anyio.run(ask, 100) == 50
        assert used(limit) == {"calls": 1, "tokens": 50}

    def test_an_exception_settles_nothing(self, limit: Limit) -> None:
        """What the service counted is not known."""

        @limit.metered(cost=lambda: {"tokens": 100}, settle=lambda _: {"tokens": 0})
        def fails() -> None:
            raise KeyError

        with pytest.raises(KeyError):
            fails()
        assert used(limit)["tokens"] == 100

    def test_a_settlement_that_the_cache_does_not_take_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        """And never raised into the call."""
        cache = Away()
        limit = Nekkar(cache)("llm", RATE)

        @limit.metered(cost=lambda: {"tokens": 100}, settle=lambda _: {"tokens": 1})
        def call() -> str:
            cache.is_away = True
            return "done"

        with caplog.at_level(logging.WARNING, "nekkar"):
            assert call() == "done"
        assert "counts as it was reserved" in caplog.text

    def test_without_settle_it_counts_whole(self, limit: Limit) -> None:
        """As it was reserved."""
        limit.metered(cost=lambda: {"tokens": 30})(lambda: None)()
        assert used(limit)["tokens"] == 30

    @pytest.mark.parametrize("bad", [5, None, "tokens"])
    def test_what_is_no_function_is_refused(self, limit: Limit, bad: Any) -> None:
        """Where it is written."""
        with pytest.raises(ConfigurationError, match="cost"):
            limit.metered(cost=bad)

    @pytest.mark.parametrize("function", [(lambda: (yield)), staticmethod(len), 5])
    def test_what_cannot_be_metered_is_refused(self, limit: Limit, function: Any) -> None:
        """With what to do in its place."""
        with pytest.raises(ConfigurationError, match="can't meter"):
            limit.metered(cost=lambda: 1)(function)


def test_each_admission_is_an_object_of_its_own(limiter: Nekkar) -> None:
    """Those of prefetched slots, too: each may be settled by itself."""
    limit = limiter("hot", 100_000, period=1)
    admissions = [limit.acquire() for _ in range(2000)]
    assert len({id(admission) for admission in admissions}) == 2000
    admissions[-1].settle(calls=0)
    admissions[-2].settle(calls=0)


def test_status_tells_the_next_slot_for_one_hit_of_each_unit(
    limit: Limit,
) -> None:
    """Here it is the tokens that bind."""
    limit.acquire({"tokens": 1000})
    status = limit.status()
    assert status.next_at == pytest.approx(status.at + 1.05, abs=0.01)


def test_a_worker_of_other_units_keeps_to_its_own(limiter: Nekkar) -> None:
    """One name, one worker that counts tokens and one that does not know of them: calls are counted together."""
    cache, clock = MemoryCache(), FakeClock()
    tokens, calls = Nekkar(cache, clock=clock)("llm", RATE), Nekkar(cache, clock=clock)("llm", "10/second")
    tokens.acquire({"tokens": 1000})
    assert calls.acquire(cost=9).waited == 0
    assert calls.acquire().waited == pytest.approx(1.05)


def test_what_is_left_of_a_grant_without_calls_admits_no_call(clock: FakeClock) -> None:
    """A grant for two calls and 100 tokens, whose calls another caller has: the tokens alone are no slot."""
    limit = Nekkar(clock=clock)("api", "6/s; 1000 tokens/s")
    limit.acquire({"calls": 2, "tokens": 100})
    line = core_of(limit).thread_line()
    state = line.ledger.state
    assert state is not None
    grant = Grant(2, assignments_of(line).owner, clock.now_us(), cost_of({"calls": 2, "tokens": 100}))
    for used, admits in ((1, True), (2, False)):
        assignments_of(line).hand.grants.clear()
        assignments_of(line).hand.grants.append(InHand(grant, state.epoch, used))
        assert (line.prefetched.take() is not None) is admits


def test_a_settlement_whose_swap_an_interrupt_meets_counts_once() -> None:
    """The swap won, and Ctrl-C came before its answer was looked at: sent again, it would give back twice (rule 33)."""

    class Interrupted(MemoryCache):
        is_armed = False

        def cas(self, key: str, value: bytes, token: Any, ttl: int) -> int | None:
            won = super().cas(key, value, token, ttl)
            is_armed, self.is_armed = self.is_armed, False
            if is_armed:
                raise KeyboardInterrupt
            return won

    cache = Interrupted()
    limit = Nekkar(cache, clock=FakeClock())("llm", "100/minute; 1000 tokens/minute")
    admission = limit.acquire({"tokens": 500})
    limit.acquire({"tokens": 300})
    cache.is_armed = True
    with pytest.raises(KeyboardInterrupt):
        admission.settle(tokens=300)
    limit.acquire({"tokens": 10})
    assert [window.used for window in limit.status().windows if window.unit == "tokens"] == [610]
