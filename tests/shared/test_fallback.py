"""Outages: what calls do while the cache is away is what the user chose, and is said once at each turn."""

from __future__ import annotations

import logging
import math
import pickle
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import anyio
import pytest

from nekkar.core.cache import MemoryCache
from nekkar.core.errors import CacheError, ConfigurationError, WaitTooLong
from nekkar.core.limiter import Limit, Nekkar
from nekkar.testing import FakeClock
from tests.support.internals.core import SECOND, quota
from tests.support.internals.runtime import run_steps
from tests.support.internals.shared import Fallback, Ledger, Outage, fallback, store_of
from tests.support.internals.window import LimitState, encode
from tests.support.servers import Memcached
from tests.support.simulation import Story, World
from tests.support.stories import OUTAGES, SCHEDULES, SHARES


class FlakyCache(MemoryCache):
    """A cache that can be away; it counts how often it was asked then."""

    in_process = False

    def __init__(self) -> None:
        super().__init__()
        self.is_away = False
        self.tried = 0

    def gets(self, key: str) -> tuple[bytes | None, int | None]:
        self._ask()
        return super().gets(key)

    def cas(self, key: str, value: bytes, token: int | None, ttl: int) -> Any:
        self._ask()
        return super().cas(key, value, token, ttl)

    def _ask(self) -> None:
        self.tried += self.is_away
        if self.is_away:
            raise CacheError("the cache is away")


class PickyCache(FlakyCache):
    """A cache in which some keys fail, for as long as they are in ``away``: their server, or what the user may do."""

    def __init__(self, servers: bool = False) -> None:
        super().__init__()
        self.away = set[str]()
        if servers:
            self.server_of = lambda key: f"server-{key[-1]}"

    def gets(self, key: str) -> tuple[bytes | None, int | None]:
        self.is_away = key in self.away
        return super().gets(key)

    def cas(self, key: str, value: bytes, token: int | None, ttl: int) -> Any:
        self.is_away = key in self.away
        return super().cas(key, value, token, ttl)


def call_each(limits: list[Limit], clock: FakeClock, times: int) -> None:
    """Call each limit in turn, so many times, whatever comes of it."""
    for _ in range(times):
        for limit in limits:
            clock.advance(1)
            with suppress(CacheError):
                limit.acquire()


@pytest.mark.parametrize("servers", [False, True])
@pytest.mark.parametrize("policy", ["raise", "open", "local"])
def test_a_limit_that_fails_beside_others_that_go_on_is_said_once(
    policy: Any, servers: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """One of several servers is away, or one key may not be written: not lost and back at each call of the others."""
    cache, clock = PickyCache(servers), FakeClock()
    limiter = Nekkar(cache, clock=clock, on_cache_error=policy)
    events = list[str]()
    limiter.listen(lambda event: events.append(type(event).__name__) if type(event).__name__[:5] == "Cache" else None)
    limits = [limiter(f"jobs-{number}", 100) for number in range(3)]
    call_each(limits, clock, 2)
    cache.away = {"nekkar:jobs-1"}
    call_each(limits, clock, 5)
    assert events == ["CacheLost"]
    cache.away = set()
    call_each(limits, clock, 3)
    assert events == ["CacheLost", "CacheBack"]
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["cache lost", "cache back"]
    assert ("shared again on server-1" in caplog.text) == servers


def test_each_of_several_servers_is_lost_and_back_by_itself() -> None:
    """What comes back is said of the server that comes back, while another is still away."""
    cache, clock = PickyCache(servers=True), FakeClock()
    limiter = Nekkar(cache, clock=clock, on_cache_error="open")
    events = list[str]()
    limiter.listen(lambda event: events.append(type(event).__name__) if type(event).__name__[:5] == "Cache" else None)
    limits = [limiter(f"jobs-{number}", 100) for number in range(3)]
    call_each(limits, clock, 1)
    for away in ({"1"}, {"1", "2"}, {"1"}, set[str]()):
        cache.away = {f"nekkar:jobs-{number}" for number in away}
        call_each(limits, clock, 3)
    assert events == ["CacheLost", "CacheLost", "CacheBack", "CacheBack"]


def test_an_outage_that_one_limit_ended_is_not_ended_by_another() -> None:
    """A limit that was not called meanwhile knows of an older one."""
    cache, clock = PickyCache(), FakeClock()
    limiter = Nekkar(cache, clock=clock)
    events = list[str]()
    limiter.listen(lambda event: events.append(type(event).__name__) if type(event).__name__[:5] == "Cache" else None)
    one, other = limiter("jobs-1", 100), limiter("jobs-2", 100)
    cache.away = {"nekkar:jobs-1", "nekkar:jobs-2"}
    call_each([one, other], clock, 1)
    cache.away = set()
    call_each([one], clock, 1)
    cache.away = {"nekkar:jobs-1"}
    call_each([one], clock, 1)
    call_each([other], clock, 2)
    assert events == ["CacheLost", "CacheBack", "CacheLost"]


@pytest.fixture
def cache() -> FlakyCache:
    return FlakyCache()


def limited(cache: Any, clock: FakeClock | None, policy: Any, rate: str = "10/second", **options: Any) -> Limit:
    return Nekkar(cache, clock=clock or FakeClock(), on_cache_error=policy, **options)("jobs", rate)


def admitted(limit: Limit, most: int = 100) -> int:
    """Return how many calls are admitted at once."""
    for count in range(most):
        try:
            limit.acquire(max_wait=0)
        except WaitTooLong:
            return count
    return most


def unseen_us(world: World) -> int:
    """Return for how long after the cache went a call may start on a slot that not all know."""
    return max(process.ledger.latency.horizon_us + process.quota.margin_us // 2 for process in world.processes)


def over_alone(world: World) -> int:
    """Return by how many hits a window was over, but for those that reach back to before the cache went."""
    return max(world.over(since=lost_at + unseen_us(world)) for lost_at in world.lost_at)


def worlds_of(story: Story, schedules: int, first: int = 0) -> Iterator[World]:
    return (World(story, seed).run() for seed in range(first, first + schedules))


class TestSchedules:
    """Random schedules in which the cache is away, for all or for some; see tests/support/simulation.py."""

    def test_no_window_is_over_where_each_process_keeps_to_its_share(self) -> None:
        """In an outage and out of it, with W processes at a share of 1/W each: never over. As it begins, seldom."""
        worlds = list(worlds_of(OUTAGES, SCHEDULES // 4))
        assert [world.stuck() for world in worlds if world.stuck()] == []
        assert max(over_alone(world) for world in worlds) <= 0
        assert sum(world.over() > 0 for world in worlds) <= len(worlds) // 20 + 1

    def test_nor_where_the_cache_comes_back_and_goes_again(self) -> None:
        """What was written in between is of no one who is alone now."""
        worlds = list(worlds_of(replace(OUTAGES, outages=2, flushes=0), SCHEDULES // 6))
        assert [world.stuck() for world in worlds if world.stuck()] == []
        assert max(world.over_shares() for world in worlds) <= 0

    @pytest.mark.parametrize("story", SHARES.values(), ids=SHARES)
    def test_the_shares_of_those_that_go_on_alone_are_added_and_no_more(self, story: Story) -> None:
        """In any window: at most the limit, and the shares of those that went on alone in it; each keeps to its own."""
        worlds = list(worlds_of(story, SCHEDULES // 6))
        assert [world.stuck() for world in worlds if world.stuck()] == []
        assert max(world.over_shares() for world in worlds) <= 0
        assert max(world.over_own_share() for world in worlds) <= 0
        if story is not OUTAGES:
            assert sum(world.over() > 0 for world in worlds) > len(worlds) // 10, "else the limit itself is the bound"

    @pytest.mark.parametrize(("kind", "first"), [("flaps", 0), ("cuts", 500)])
    def test_forgetting_ones_own_hits_at_each_turn_is_found(
        self, kind: str, first: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Planted: a process that is cut off again and again uses its share each time."""
        monkeypatch.setattr(Fallback, "_private_ledger", forgetful)
        assert any(world.over_own_share() > 0 for world in worlds_of(SHARES[kind], 300, first))

    def test_processes_do_go_on_alone_in_these_schedules(self) -> None:
        """What the tests above assert is asserted of outages: calls were admitted in them, and none failed."""
        worlds = list(worlds_of(OUTAGES, 20))
        assert sum(any(start.is_alone for start in world.starts) for world in worlds) > 15
        assert not [error for world in worlds for error in world.outcomes if isinstance(error, CacheError)]

    def test_not_bringing_in_what_was_admitted_meanwhile_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Planted: who comes back goes on with the state as it was."""
        monkeypatch.setattr(Fallback, "merged", lambda self, state, now, alone: state)
        assert any(over_alone(world) > 0 for world in worlds_of(OUTAGES, 300))

    def test_not_reckoning_with_the_others_shares_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Planted: who comes back first takes it that nobody else went on."""
        monkeypatch.setattr(fallback, "assume_taken", lambda state, end, most: state)
        assert any(over_alone(world) > 0 for world in worlds_of(OUTAGES, 300))

    def test_forgetting_all_hits_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Planted: each starts its share afresh, as though nobody had called before."""
        monkeypatch.setattr(Fallback, "_private_ledger", forgetful)
        worlds = list(worlds_of(OUTAGES, 100))
        assert sum(world.over() > 0 for world in worlds) > len(worlds) // 4


def forgetful(self: Fallback, now: int) -> Ledger:
    """Return a private ledger that knows of no hit."""
    return self._ledger_of(LimitState(7).with_quota(self.quota, 0))


class Seen:
    """A change that only looks."""

    def __init__(self) -> None:
        self.state: LimitState | None = None

    def apply(self, state: LimitState, now: int, read_at: int | None, *, is_recovery: bool) -> LimitState | None:
        self.state = state
        return None

    def won(self, state: LimitState, sent: int, now: int) -> None:
        raise AssertionError("nothing was to be written")

    def unanswered(self) -> None:
        raise AssertionError("nothing was to be written")


@pytest.mark.parametrize("before", range(9))
@pytest.mark.parametrize("now", range(1, 10))
def test_the_others_share_of_hits_is_rounded_up_in_each_window_to_come(before: int, now: int) -> None:
    """9 calls a second, a third each, and others used some of this window: however many came before it."""
    cache, clock, terms = FlakyCache(), FakeClock(), quota(9, 1.0)
    known = [(clock.now_us() - 2 * SECOND, before), (clock.now_us(), now)]
    state = LimitState(1).with_quota(terms, 0)
    state = replace(state, hits=state.hits.with_entries([hit for hit in known if hit[1]]))
    cache.cas("key", encode(state), None, 3600)
    shared = Ledger(store_of(cache, clock), "key", terms, clock)
    alone = Fallback(shared, Outage("local", 1 / 3))
    run_steps(alone.update(Seen()), clock)
    cache.is_away = True
    seen = Seen()
    run_steps(alone.update(seen), clock)
    assert alone.is_on
    assert seen.state
    assert seen.state.hits.count_since(clock.now_us() - SECOND) == math.ceil(now / 3)


class MuteCache(FlakyCache):
    """A cache whose writes land, and whose answers to them are heard no more within half a second while ``is_mute``."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self.clock, self.is_mute = clock, False

    def cas(self, key: str, value: bytes, token: int | None, ttl: int) -> Any:
        won = super().cas(key, value, token, ttl)
        if self.is_mute:
            self.clock.advance(0.5)
            raise CacheError("no answer")
        return won


class TestWritesWithNoAnswer:
    """The log is read, writes land, and their answers are lost for longer than a slot is good."""

    def test_a_call_raises_and_books_twice_at_most(self, clock: FakeClock) -> None:
        """Its slot is found too late, and the next try is the last."""
        cache = MuteCache(clock)
        limit = limited(cache, clock, "raise", "100/minute")
        limit.acquire()
        cache.is_mute = True
        for used in (3, 5, 7):
            with pytest.raises(CacheError, match="no answer"):
                limit.acquire()
            assert limit.status().windows[0].used == used
        cache.is_mute = False
        assert admitted(limit) == 93

    @pytest.mark.parametrize("policy", ["open", "local"])
    def test_calls_go_on_as_the_user_chose(
        self, clock: FakeClock, policy: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Reads that work are no cache that is back: that is said once answers to writes come again."""
        cache = MuteCache(clock)
        limit = limited(cache, clock, policy, "10/second")
        limit.acquire()
        cache.is_mute = True
        with caplog.at_level(logging.WARNING, "nekkar"):
            for _ in range(12):
                limit.acquire()
                clock.advance(1)
            assert [record.getMessage()[:10] for record in caplog.records] == ["cache lost"]
            cache.is_mute = False
            clock.advance(30)
            for _ in range(2):
                limit.acquire()
                clock.advance(2)
        assert [record.getMessage()[:10] for record in caplog.records] == ["cache lost", "cache back"]


class TestRaise:
    def test_calls_raise_and_go_on_when_the_cache_is_back(self, cache: FlakyCache, clock: FakeClock) -> None:
        """Each call tells of the outage, and tries the cache itself."""
        limit = limited(cache, clock, "raise")
        limit.acquire()
        cache.is_away = True
        for _ in range(3):
            with pytest.raises(CacheError, match="away"):
                limit.acquire()
        assert cache.tried == 3
        cache.is_away = False
        assert admitted(limit) == 9


class TestOpen:
    def test_calls_pass_unlimited_while_the_cache_is_away(self, cache: FlakyCache, clock: FakeClock) -> None:
        """Ten a second, and fifty calls pass at once; when the cache is back it has none of them."""
        limit = limited(cache, clock, "open")
        assert admitted(limit, 4) == 4
        cache.is_away = True
        before = clock.now
        for _ in range(50):
            assert limit.acquire().waited == 0
        assert clock.now == before
        cache.is_away = False
        clock.advance(0.6)
        assert admitted(limit) == 6

    def test_the_cache_is_not_tried_by_every_call(self, cache: FlakyCache, clock: FakeClock) -> None:
        """Where each try may take the cache's timeout, one in half a second is enough."""
        limit = limited(cache, clock, "open")
        cache.is_away = True
        for _ in range(50):
            limit.acquire()
        assert cache.tried == 1
        clock.advance(0.6)
        limit.acquire()
        assert cache.tried == 2

    def test_callers_that_wait_for_a_far_slot_pass_at_its_time(self, cache: FlakyCache, clock: FakeClock) -> None:
        """A slot that can't be looked at again is booked again: here, without the cache."""
        limit = limited(cache, clock, "open", "1/second")
        limit.acquire()

        def lose(at_us: int | None, wake: Any) -> None:
            cache.is_away = True
            slept(at_us, wake)

        slept, clock.sleep_until = clock.sleep_until, lose  # type: ignore[method-assign]
        assert 0.9 < limit.acquire().waited < 1.1


class TestLocal:
    def test_each_process_keeps_to_its_share_with_its_own_hits(self, cache: FlakyCache, clock: FakeClock) -> None:
        """Half of ten a second is five: three were used before, so two more, and then the window."""
        limit = limited(cache, clock, "local", local_share=0.5)
        assert admitted(limit, 3) == 3
        cache.is_away = True
        assert admitted(limit) == 2
        before = clock.now
        for _ in range(10):
            limit.acquire()
        assert 2.0 < clock.now - before < 2.3
        assert cache.tried > 2

    def test_a_share_is_never_rounded_up(self, cache: FlakyCache, clock: FakeClock) -> None:
        """floor(10 × 0.39) is 3."""
        cache.is_away = True
        assert admitted(limited(cache, clock, "local", local_share=0.39)) == 3

    @pytest.mark.parametrize("workers", range(1, 50))
    def test_a_share_of_one_in_so_many_is_exact(self, cache: FlakyCache, clock: FakeClock, workers: int) -> None:
        """1/49 × 49 is a little less than 1 in floating point, and still leaves one call."""
        cache.is_away = True
        assert admitted(limited(cache, clock, "local", f"{workers}/second", local_share=1 / workers)) == 1

    def test_what_was_admitted_counts_when_the_cache_is_back(self, cache: FlakyCache, clock: FakeClock) -> None:
        """Five calls without the cache leave five of ten; another process sees them too."""
        limit = limited(cache, clock, "local", local_share=1.0)
        limit.acquire()
        cache.is_away = True
        assert admitted(limit, 4) == 4
        cache.is_away = False
        clock.advance(0.5)
        assert admitted(limit, 1) == 1
        assert limit.status().windows[0].used == 6

    def test_the_others_may_have_used_their_shares(self, cache: FlakyCache, clock: FakeClock) -> None:
        """Who comes back first leaves them room for one window; then the limit is whole again."""
        limit = limited(cache, clock, "local", local_share=0.5)
        limit.acquire()
        cache.is_away = True
        limit.acquire()
        cache.is_away = False
        clock.advance(2.0)
        assert limit.acquire(max_wait=3).waited < 3
        clock.advance(1.2)
        assert admitted(limit) == 10

    def test_a_call_above_the_share_raises(self, cache: FlakyCache, clock: FakeClock) -> None:
        """Six hits at once are more than half of ten: no wait would help, and the error says so."""
        limit = limited(cache, clock, "local", local_share=0.5)
        cache.is_away = True
        with pytest.raises(CacheError, match="cost 6 is above this process's share"):
            limit.acquire(cost=6)
        limit.acquire(cost=5)

    def test_a_share_of_nothing_is_refused_where_it_is_written(self, cache: FlakyCache) -> None:
        """Ten per second among forty leaves no call for one."""
        with pytest.raises(
            ConfigurationError, match=r"local_share 0\.025 of 10 per 1 s leaves no call; give at least 1/10"
        ):
            limited(cache, None, "local", local_share=0.025)

    def test_a_wait_ends_when_the_cache_is_back(self, cache: FlakyCache, clock: FakeClock) -> None:
        """One call a minute is this process's share; it does not wait that long for a cache that is back sooner."""
        limit = limited(cache, clock, "local", "10/minute", local_share=0.1)
        elsewhere = limited(cache, clock, "raise", "10/minute")
        cache.is_away = True
        limit.acquire()
        back_at = clock.now + 5

        def come_back(at_us: int | None, wake: Any) -> None:
            slept(at_us, wake)
            if cache.is_away and clock.now > back_at:
                cache.is_away = False
                elsewhere.acquire(max_wait=0)

        slept, clock.sleep_until = clock.sleep_until, come_back  # type: ignore[method-assign]
        assert 5 < limit.acquire().waited < 7.5
        assert limit.status().windows[0].used == 3

    def test_an_unknown_limit_starts_in_an_outage(self, cache: FlakyCache, clock: FakeClock) -> None:
        """A process that never saw the cache keeps to its share all the same."""
        cache.is_away = True
        assert admitted(limited(cache, clock, "local", local_share=0.3)) == 3

    def test_tasks_keep_to_the_share_too(self, cache: FlakyCache) -> None:
        """The same, from an event loop."""
        cache.is_away = True
        limit = limited(cache, FakeClock(), "local", local_share=0.5)

        async def main() -> None:
            for _ in range(5):
                await limit.acquire_async(max_wait=0)
            with pytest.raises(WaitTooLong):
                await limit.acquire_async(max_wait=0)

        anyio.run(main)


class TestWords:
    @pytest.mark.parametrize(
        ("policy", "meanwhile"), [("raise", "calls raise"), ("open", "pass unlimited"), ("local", "its local share")]
    )
    def test_each_turn_is_said_once(
        self, cache: FlakyCache, clock: FakeClock, caplog: pytest.LogCaptureFixture, policy: str, meanwhile: str
    ) -> None:
        """Many calls of several limits, one line when the cache is lost and one when it is back; twice over."""
        limiter = Nekkar(cache, clock=clock, on_cache_error=policy)  # type: ignore[arg-type]
        for turn in range(1, 3):
            cache.is_away = True
            for number in range(10):
                try:
                    limiter(f"limit {number % 3}", "50/second").acquire()
                except CacheError:
                    assert policy == "raise"
            assert [meanwhile in record.message for record in caplog.records].count(True) == turn
            cache.is_away = False
            clock.advance(1)
            for number in range(10):
                limiter(f"limit {number % 3}", "50/second").acquire()
            assert [record.message.startswith("cache back") for record in caplog.records].count(True) == turn
        assert len(caplog.records) == 4
        assert {record.levelno for record in caplog.records} == {logging.WARNING}

    def test_a_value_that_is_no_log_is_met_as_the_user_chose(
        self, cache: FlakyCache, clock: FakeClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Another program's value under one limit's key does not stop its calls, and is said once."""
        cache.set("nekkar:jobs", "not a log")
        limit = limited(cache, clock, "open")
        for _ in range(5):
            limit.acquire()
        assert [record.message for record in caplog.records] == [caplog.records[0].message]
        assert "delete the key" in caplog.records[0].message

    @pytest.mark.parametrize(
        "given",
        [
            {"on_cache_error": "ignore"},
            {"on_cache_error": None},
            {"on_cache_error": "local", "local_share": 0},
            {"on_cache_error": "local", "local_share": 1.5},
            {"local_share": True},
            {"local_share": "all"},
            {"local_share": float("nan")},
            {"max_hold": 0},
            {"max_hold": "long"},
        ],
        ids=str,
    )
    def test_bad_terms_are_refused(self, given: dict[str, Any]) -> None:
        """The error names the argument."""
        with pytest.raises(ConfigurationError, match=r"on_cache_error|local_share|max_hold"):
            Nekkar(**given)

    def test_a_pickled_limiter_keeps_its_terms(self) -> None:
        """A worker process does in an outage what its parent would."""
        limiter = Nekkar("sqlite:///x.db", on_cache_error="local", local_share=0.25, max_hold=60)
        again = pickle.loads(pickle.dumps(limiter))
        assert (again._outage.policy, again._outage.share, again.max_hold) == ("local", 0.25, 60)


class TestMemcached:
    """A real memcached, stopped and started."""

    @pytest.fixture
    def limiter(self, server: Memcached, request: pytest.FixtureRequest) -> Nekkar:
        return Nekkar(server.url, on_cache_error=request.param, local_share=0.5)

    @pytest.mark.parametrize("limiter", ["open", "local", "raise"], indirect=True)
    def test_an_outage_begins_and_ends(
        self, server: Memcached, limiter: Nekkar, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Calls do as chosen while the server is down, and share the limit again when it is up; twice."""
        policy = limiter._outage.policy
        limit = limiter("jobs", 10, period=600)
        assert admitted(limit, 2) == 2
        server.stop()
        if policy == "raise":
            with pytest.raises(CacheError):
                limit.acquire()
        else:
            assert admitted(limit, 50) == {"open": 50, "local": 3}[policy]
        server.start()
        while limiter._outage.is_on:
            admitted(limit, 1)
        assert limit.status().windows[0].used >= {"open": 2, "local": 5, "raise": 2}[policy]
        assert [record.message.partition(":")[0] for record in caplog.records] == ["cache lost", "cache back"]
