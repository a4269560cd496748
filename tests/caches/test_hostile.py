"""What a limit finds under its keys that no limit wrote, or would: a typed error with a remedy, or a right answer."""

from __future__ import annotations

import asyncio
import math
import time
import tracemalloc
from array import array
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nekkar.core.cache import BaseCache, MemcachedCache, MemoryCache, SqliteCache
from nekkar.core.errors import CacheError, CorruptLog, NekkarError, WaitTooLong
from nekkar.core.limiter import Limit, Nekkar
from nekkar.redis import RedisCache
from nekkar.testing import FakeClock
from tests.support.internals.caches import run_sql, speak_classic
from tests.support.internals.core import MAX_MARGIN, MAX_PERIOD, SECOND, quota
from tests.support.internals.redis import client_of
from tests.support.internals.shared import YEAR_US, cache_key
from tests.support.internals.window import (
    LATEST_US,
    MOST_HORIZON_US,
    Grant,
    HitLog,
    LimitState,
    Place,
    Rejections,
    decode,
    encode,
)
from tests.support.servers import Memcached, memcached, redis_server

YEAR = YEAR_US // SECOND
NOW = FakeClock().now_us()
KEY = "nekkar:calls"
KINDS = ("memory", "sqlite", "memcached", "redis", "four methods")


class FourMethods(BaseCache):
    """A memory cache without its swaps."""

    def __init__(self) -> None:
        self.memory = MemoryCache()

    def add(self, key: str, value: str) -> bool:
        return self.memory.add(key, value)

    def get(self, key: str) -> str | None:
        return self.memory.get(key)

    def set(self, key: str, value: str) -> None:
        self.memory.set(key, value)

    def delete(self, key: str) -> None:
        self.memory.delete(key)


@pytest.fixture(scope="module")
def makers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Callable[[], BaseCache]]]:
    """How to make a cache of each kind."""
    file = Path(tmp_path_factory.mktemp("hostile"), "limits.db")
    with memcached() as server, redis_server() as redis:
        yield {
            "memory": MemoryCache,
            "sqlite": lambda: SqliteCache(file, timeout=30),
            "memcached": lambda: MemcachedCache("127.0.0.1", server.port, timeout=30),
            "redis": lambda: RedisCache("127.0.0.1", redis.port, timeout=30),
            "four methods": FourMethods,
        }


@pytest.fixture(params=KINDS)
def cache(request: pytest.FixtureRequest, makers: dict[str, Callable[[], BaseCache]]) -> BaseCache:
    """A cache of each kind, in which the key is not set."""
    made = makers[request.param]()
    made.delete(KEY)
    return made


def limited(cache: BaseCache, rate: str = "2/minute", **options: Any) -> Limit:
    return Nekkar(cache, clock=FakeClock(jump=False), **options)("calls", rate)


def poison(cache: BaseCache, raw: bytes) -> None:
    """Put bytes where the limit's log is."""
    swaps: Any = cache
    if isinstance(cache, FourMethods):
        cache.set(f"{KEY}:v1", raw.decode())
    else:
        assert swaps.cas(KEY, raw, swaps.gets(KEY)[1], 3600)


def works_afresh(limit: Limit) -> bool:
    """Whether two calls of two a minute are admitted at once, and no third."""
    for _ in range(2):
        limit.acquire(max_wait=0)
    with pytest.raises(WaitTooLong):
        limit.acquire(max_wait=0)
    return limit.status().windows[0].used == 2


# Another program's value.


@pytest.mark.parametrize("raw", [b"x", b"42", b'{"hits": []}', b"x" * 900_000], ids=["x", "42", "json", "large"])
def test_another_programs_value_is_refused_and_a_reset_gets_rid_of_it(cache: BaseCache, raw: bytes) -> None:
    """Calls, status and hold raise CorruptLog and leave it as it is; ``reset`` needs not read what it ends."""
    limit = limited(cache)
    poison(cache, raw)
    for call in (limit.acquire, limit.status, lambda: limit.hold(1), limit.release):
        with pytest.raises(CorruptLog, match=r"delete the key to start afresh, or call reset\(\) of the limit"):
            call()
    limit.reset()
    assert works_afresh(limit)


def test_what_another_client_set_is_refused_and_a_reset_gets_rid_of_it(cache: BaseCache) -> None:
    """A text under the key, by whatever command: on Redis it has no version, of a versioned cache it is no value."""
    limit = limited(cache)
    if isinstance(cache, RedisCache):
        client_of(cache).set(KEY, "another's")
    else:
        cache.set(f"{KEY}:head0" if isinstance(cache, FourMethods) else KEY, "another's")
    with pytest.raises(CorruptLog, match="delete the key"):
        limit.acquire()
    limit.reset()
    assert works_afresh(limit)


def test_a_key_of_another_type_in_redis_is_reset_too(makers: dict[str, Callable[[], BaseCache]]) -> None:
    """A list is no log either."""
    cache: Any = makers["redis"]()
    cache.delete(KEY)
    client_of(cache).rpush(KEY, "a")
    limit = limited(cache)
    with pytest.raises(CorruptLog, match="WRONGTYPE"):
        limit.acquire()
    limit.reset()
    assert works_afresh(limit)


def test_a_floor_that_is_no_number_stops_no_swap() -> None:
    """How far old versions were swept is a hint only: another program's text there is written over."""
    cache, clock = FourMethods(), FakeClock(jump=False)
    limit = Nekkar(cache, clock=clock)("calls", "1000/second")
    cache.set(f"{KEY}:floor", "another's")
    for _ in range(40):
        clock.advance(1)
        limit.acquire(max_wait=0)
    assert str(cache.get(f"{KEY}:floor")).isdecimal()
    assert cache.get(f"{KEY}:v1") is None


def test_both_hints_gone_wrong_are_reset_and_who_used_the_limit_finds_the_new_log() -> None:
    """A process that knows a version and one that knows none meet in one log."""
    cache = FourMethods()
    old, new = limited(cache), limited(cache)
    old.acquire()
    for turn in range(2):
        cache.set(f"{KEY}:head{turn}", "²")  # a digit to Python, and no number
    with pytest.raises(CorruptLog, match="not a version's number; delete the key"):
        old.acquire()
    old.reset()
    new.acquire(max_wait=0)
    old.acquire(max_wait=0)
    for limit in (old, new):
        with pytest.raises(WaitTooLong):
            limit.acquire(max_wait=0)


@pytest.mark.parametrize("policy", ["raise", "open", "local"])
def test_what_calls_do_over_a_corrupt_value_is_what_the_user_chose(cache: BaseCache, policy: Any) -> None:
    """They raise, pass, or keep to this process's share; the value stays until somebody deletes it."""
    limit = limited(cache, on_cache_error=policy, local_share=0.5)
    poison(cache, b"another's")
    outcomes = []
    for _ in range(3):
        try:
            outcomes.append(type(limit.acquire(max_wait=0)).__name__)
        except NekkarError as error:
            outcomes.append(type(error).__name__)
    assert (
        outcomes
        == {
            "raise": ["CorruptLog"] * 3,
            "open": ["Admission"] * 3,
            "local": ["Admission", "WaitTooLong", "WaitTooLong"],
        }[policy]
    )


# A state that no fleet would write.


def hits_at(*hits: tuple[int, int]) -> HitLog:
    """Return a log with (time, hits) booked."""
    return HitLog().book(hits)


def waiting(ready: int, rate: str = "2/minute") -> LimitState:
    """Return a state in which a line waits until then."""
    return replace(TWO_A_MINUTE, places=(Place(7, 1, ready, 1, 0, (quota(rate).rates, 0)),))


TWO_A_MINUTE = LimitState(1).with_quota(quota("2/minute"), 100_000)
FULL = replace(TWO_A_MINUTE, hits=hits_at((NOW, 2)))
POISONS: dict[str, LimitState] = {
    "hits in 100 years": LimitState(1, hits=hits_at((NOW + 100 * YEAR_US, 1))),
    "hits in two years": LimitState(1, hits=hits_at((NOW + 2 * YEAR_US, 1))).with_quota(quota(10, 60.0), 1),
    "hits beyond the last date": LimitState(
        1, hits=HitLog(time_offset_us=LATEST_US + 1, times=array("I", [0]), cumulative=array("I", [1]))
    ),
    "a hold in the year 3000": LimitState(1, hold_until=NOW + 974 * YEAR_US),
    "a hold in 300 years": LimitState(1, hold_until=NOW + 300 * YEAR_US),
    "numbers near 2^63": LimitState(1, hits=HitLog(2**63 - 2, 0, 2**63 - 2).book([(NOW, 1)])),
    "written in two years": LimitState(1, written_at=NOW + 2 * YEAR_US),
    "a margin of a day": LimitState(1, margin_us=24 * MAX_MARGIN),
    "a spacing of 1,000 years": LimitState(1, spacing_us=10 * MAX_PERIOD),
    "a horizon of 1,000 years": LimitState(1, horizon_us=10 * MAX_PERIOD),
    "a horizon over a second": LimitState(1, horizon_us=MOST_HORIZON_US + 1),
    "a learned margin as long as the period": replace(FULL, rejections=Rejections(NOW, 0, 60 * SECOND)),
    "a learned margin of an age": replace(FULL, rejections=Rejections(NOW, 0, 1 << 62)),
    "a refusal in two years": replace(TWO_A_MINUTE, rejections=Rejections(NOW + 2 * YEAR_US)),
    "a margin widened in two years": replace(TWO_A_MINUTE, rejections=Rejections(NOW, 0, SECOND, NOW + 2 * YEAR_US)),
    "hits assumed up to 200 years from now": replace(TWO_A_MINUTE, assumed_until=NOW + 200 * YEAR_US),
    "a turn in two years": waiting(NOW + 2 * YEAR_US),
    "a turn in two years under other terms": waiting(NOW + 2 * YEAR_US, "3/minute"),
    "a slot beyond the last date": replace(TWO_A_MINUTE, serial=1, grants=(Grant(1, 7, LATEST_US + 1, 1),)),
    "a grant without a serial": replace(TWO_A_MINUTE, serial=1, grants=(Grant(0, 7, NOW, 1),)),
    "a place of 1,000 hits of two": replace(TWO_A_MINUTE, places=(waiting(NOW).places[0]._replace(cost=1000),)),
    "a credit of 200": replace(TWO_A_MINUTE, places=(waiting(NOW).places[0]._replace(credit=200),)),
}


@pytest.mark.parametrize("name", POISONS)
def test_a_poisoned_state_is_corrupt_and_a_reset_gets_rid_of_it(name: str) -> None:
    """It would block the limit for as long, or let it be exceeded: nobody waits, and the error says what to do."""
    cache = MemoryCache()
    limit = limited(cache)
    poison(cache, encode(POISONS[name]))
    for _ in range(2):
        with pytest.raises(CorruptLog, match=r"cache key 'nekkar:calls': .*; delete the key .* or call reset\(\)"):
            limit.acquire(max_wait=1)
    limit.reset()
    assert works_afresh(limit)


@pytest.mark.parametrize("learned", [SECOND, 15 * SECOND, 90 * 86_400 * SECOND])
def test_a_learned_margin_never_holds_a_limit_up_for_longer_than_a_quarter_of_its_period(learned: int) -> None:
    """Also one that a limit of a year, under the same name elsewhere, may have learned."""
    state = replace(FULL.with_quota(quota("9/year"), 1), rejections=Rejections(NOW, 0, learned))
    cache = MemoryCache()
    poison(cache, encode(state))
    with pytest.raises(WaitTooLong) as refusal:
        limited(cache).acquire(max_wait=1)
    assert refusal.value.retry_after == pytest.approx(60 + min(learned / SECOND, 15))


# Values of many megabytes.

HUGE = 30_000_000


def put_huge(cache: BaseCache) -> None:
    """Let another program set 30 MB under the limit's key, by its own means."""
    if isinstance(cache, RedisCache):
        client_of(cache).set(KEY, b"x" * HUGE)
    elif isinstance(cache, SqliteCache):
        values = (KEY, b"x" * HUGE, 1, 1 << 60)
        run_sql(cache, lambda connection: connection.execute("INSERT INTO nekkar VALUES (?, ?, ?, ?)", values))
    else:
        cache.set(KEY, "x" * HUGE)


@pytest.mark.parametrize("kind", ["sqlite", "redis", "memcached", "old memcached"])
def test_a_huge_value_is_refused_unread_and_a_reset_gets_rid_of_it(
    kind: str, makers: dict[str, Callable[[], BaseCache]]
) -> None:
    """The error names the key, the size, the bound and the remedy; no call holds the value, as large as it may be."""
    with memcached("-I", "64m", "-m", "256") as roomy:
        roomy_cache = MemcachedCache("127.0.0.1", roomy.port, timeout=30)
        speak_classic(roomy_cache, only=kind.startswith("old"))
        cache = roomy_cache if "memcached" in kind else makers[kind]()
        cache.delete(KEY)
        put_huge(cache)
        limit = limited(cache)
        tracemalloc.start()
        try:
            for call in (limit.acquire, limit.status, lambda: cache.get(KEY)):
                with pytest.raises(
                    CorruptLog, match=r"'nekkar:calls' holds [\d,]+ bytes.* 1,048,576; .*reset"
                ) as error:
                    call()
                assert kind.startswith("old") or "30,000,000" in str(error.value)
            limit.reset()
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert most < HUGE / 3
        assert works_afresh(limit)
        cache.delete(KEY)


@pytest.mark.parametrize("make", [MemoryCache, FourMethods])
def test_a_huge_value_that_a_cache_has_at_hand_is_not_decoded(make: Callable[[], BaseCache]) -> None:
    """A cache of a user's has read it already: it is refused by its length."""
    cache = make()
    limit = limited(cache)
    if isinstance(cache, FourMethods):
        cache.set(f"{KEY}:v1", "0" * HUGE)
        cache.set(f"{KEY}:head1", "1")
    else:
        cache.set(KEY, "x" * HUGE)
    with pytest.raises(CorruptLog, match=r"it has [\d,]+ bytes, and a limit's state has at most 1,048,576"):
        limit.acquire()
    limit.reset()
    assert works_afresh(limit)


def test_no_writer_writes_what_no_reader_takes() -> None:
    """A state of more entries or places than a megabyte holds is an error where it is written, and changes nothing."""
    cache = MemoryCache()
    limit = limited(cache, "1000000/second")
    crowd = replace(waiting(NOW + SECOND), places=waiting(NOW + SECOND, "1000000/second").places * 58_000)
    before = encode(crowd)
    poison(cache, before)
    many = HitLog(time_offset_us=NOW, times=array("I", range(140_000)), cumulative=array("I", range(1, 140_001)))
    with pytest.raises(CacheError, match="140,000 entries and 0 places has over 1,048,576 bytes; use several names"):
        encode(replace(TWO_A_MINUTE, hits=many))
    with pytest.raises(CacheError, match="60,000 places"):
        encode(replace(crowd, places=crowd.places[:1] * 60_000))
    assert cache.gets(KEY)[0] == before
    assert limit.status().windows[0].used == 0


def test_a_machine_whose_clock_was_never_set_says_so_and_leaves_the_log_alone() -> None:
    """In 1970 every hit lies half a century ahead: an error that names the clock, not a wait until today."""
    cache = MemoryCache()
    limited(cache).acquire()
    with pytest.raises(CorruptLog, match=r"times lie 5\d\.\d years ahead of the clock here, if that is right"):
        Nekkar(cache, clock=FakeClock(0, jump=False))("calls", "2/minute").acquire(max_wait=1)
    limited(cache).acquire(max_wait=0)
    assert limited(cache).status().windows[0].used == 2


def test_a_task_resets_a_corrupt_value_too() -> None:
    """As a thread does."""
    cache = MemoryCache()
    limit = limited(cache)
    poison(cache, b"another's")
    asyncio.run(limit.reset_async())
    assert works_afresh(limit)


@pytest.mark.parametrize(
    "state",
    [
        LimitState(1, hits=hits_at((NOW + YEAR_US // 2, 1))),
        LimitState(1, hits=hits_at((NOW + 20 * YEAR_US, 1))).with_quota(quota("1/month"), 1),
        LimitState(1, hits=hits_at((NOW + 100 * YEAR_US, 1))).with_quota(quota(1, 100 * 365 * 86_400), 1),
        LimitState(1, hold_until=NOW + MAX_PERIOD),
        LimitState(1, hold_until=NOW + MAX_PERIOD, hits=hits_at((NOW + MAX_PERIOD + 60 * SECOND, 1))),
    ],
    ids=["half a year", "a long queue of a month's limit", "a century's", "a hold for a century", "behind such a hold"],
)
def test_what_a_fleet_may_book_is_no_poison(state: LimitState) -> None:
    """Far ahead, but not absurdly: who would not wait learns at once when the slot is."""
    cache = MemoryCache()
    poison(cache, encode(state))
    limit = limited(cache)
    with pytest.raises(WaitTooLong) as refusal:
        limit.acquire(max_wait=10)
    assert refusal.value.retry_after >= ((state.hits.last_at or state.hold_until) - NOW) / SECOND
    assert limit.status().next_at >= (state.hits.last_at or state.hold_until) / SECOND


@pytest.mark.parametrize(
    "state",
    [
        waiting(NOW + YEAR_US // 2),
        waiting(NOW + 20 * YEAR_US, "1/month").with_quota(quota("1/month"), 1),
        replace(FULL, serial=2, grants=(Grant(1, 7, NOW, 1), Grant(2, 8, NOW, 1))),
        replace(TWO_A_MINUTE, serial=2, grants=(Grant(1, 7, NOW, 1), Grant(2, 8, NOW + YEAR_US, 9))),
        replace(waiting(NOW), places=waiting(NOW).places * 50),
    ],
    ids=["in half a year", "in a long queue", "grants of others", "grants without hits", "one line many times"],
)
def test_whoever_waits_a_call_ends_at_once_in_a_slot_or_a_refusal(state: LimitState) -> None:
    """The places and grants of others, however odd, are no reason to hang; a reset helps."""
    cache = MemoryCache()
    poison(cache, encode(state))
    limit = limited(cache)
    for _ in range(3):
        try:
            assert limit.acquire(max_wait=0).waited == 0
        except WaitTooLong:
            continue
    limit.reset()
    assert limit.status().windows[0].used == 0


@settings(deadline=None, max_examples=200)
@given(
    st.integers(0, 2**63 - 1),
    st.integers(0, 2**63 - 1),
    st.integers(0, 2**64 - 1),
    st.lists(st.integers(0, 2**32), max_size=5, unique=True),
    st.lists(
        st.tuples(
            st.integers(0, 2**32 - 1),
            st.integers(1, 9) | st.integers(1, 10**9),
            st.integers(0, 8),
            st.sampled_from(["2/minute", "2/hour"]),
        ),
        max_size=4,
    ),
)
@example(0, 2**63 - 1, 2**64 - 1, [0, 2**32], [])
@example(0, NOW, 0, [0, 1, 2**32], [(0, 1, 8, "2/minute")])
@example(NOW + YEAR_US, NOW, 2**62, [0, 1], [(5, 10**9, 0, "2/minute")])
@example(0, NOW, 0, [], [(0, 10**9, 8, "2/minute"), (9, 3, 8, "2/minute")])
def test_whatever_times_a_state_has_a_call_ends_at_once_in_a_typed_error_or_a_slot(
    hold: int, first: int, number: int, offsets: list[int], places: list[tuple[int, int, int, str]]
) -> None:
    """No state makes a call hang past its ``max_wait``, or raise what is no NekkarError; a reset always helps."""
    hits = HitLog(number, first, number, array("Q", sorted(offsets)), array("Q", range(1, len(offsets) + 1)))
    listed = [
        Place(1 + index, cost, min(first + later, 2**63 - 1), credit, 0, (quota(rate).rates, 0))
        for index, (later, cost, credit, rate) in enumerate(places)
    ]
    cache = MemoryCache()
    poison(cache, encode(LimitState(1, hits=hits, hold_until=hold, horizon_us=100_000, places=tuple(listed))))
    limit = limited(cache)
    for _ in range(3):
        try:
            assert limit.acquire(max_wait=0).waited == 0
        except (CorruptLog, WaitTooLong):
            continue
    limit.reset()
    assert limit.status().windows[0].used == 0


# Names.


NAMES = [
    "a", "A", "a ", " a", "a\n", "a\r\nget b", "a\t", "a\0", "\x7f", "a" * 300, "a" * 301, "é", "e\u0301", "時間", "🕰",
    "\udcff", "\udcfe", "a:v1", "a:v1:v1", "a:head0", "a:floor", "#", "#a", "%20", "a?b=c", "'; DROP TABLE x; --",
    "{a}", "a\\", "clock", "nekkar:a", ".", "/",
    cache_key("a ").removeprefix("nekkar:"), cache_key("a "), "ß", "ss", "i", "\u200b", "a\u200b",
]  # fmt: skip


def test_any_name_is_a_limit_of_its_own_on_every_cache(cache: BaseCache) -> None:
    """Blanks, controls, 300 letters, surrogates, what looks like another's key: each limit counts its own calls."""
    limiter = Nekkar(cache, clock=FakeClock(jump=False))
    limits = [limiter(name, 1000) for name in NAMES]
    for calls, limit in enumerate(limits, 1):
        limit.reset()
        limit.acquire(cost=calls, max_wait=0)
    assert [limit.status().windows[0].used for limit in limits] == list(range(1, len(NAMES) + 1))


@given(st.text(min_size=1), st.text(min_size=1))
@example("#" + "0" * 64, "a b")
def test_no_two_names_share_a_key(one: str, other: str) -> None:
    """Every name has a key of its own that memcached takes."""
    key = cache_key(one)
    assert (key == cache_key(other)) == (one == other)
    assert key.isascii()
    assert key.isprintable()
    assert " " not in key
    assert len(key) < 230  # a version's number goes behind


# A full memcached.


@pytest.fixture
def full() -> Iterator[Memcached]:
    """A memcached of 1 MB with a plain LRU: its usual one in segments keeps what is read again and again."""
    with memcached("-m", "1", "-I", "512k", "-o", "no_lru_maintainer,no_lru_crawler") as server:
        yield server


def fill(server: Memcached, turn: int) -> None:
    """Let another program store 5,000 values of each size that a small state has."""
    for size in (150, 190, 240, 300, 380, 480, 600):
        put = f"0 0 {size} noreply\r\n{'x' * size}\r\n"
        server.ask(
            "".join(f"set other-{turn}-{size}-{number} {put}" for number in range(5000)) + "an error, to end with"
        )


def test_a_full_memcached_that_evicts_costs_slots_and_never_admits_one_too_many(full: Memcached) -> None:
    """An evicted state counts as lost: the limit waits for a second and a period, and goes on; no call hangs."""
    clock = FakeClock(jump=False)
    cache = MemcachedCache("127.0.0.1", full.port, timeout=30)
    limit = Nekkar(cache, clock=clock)("calls", "10/second")
    admitted: list[int] = []
    waits: list[float] = []
    lost = 0
    for turn in range(90):
        if turn % 15 == 4:
            fill(full, turn)
            lost += cache.gets(KEY)[0] is None
        try:
            admitted.extend(round(limit.acquire(max_wait=0).at * SECOND) for _ in range(5))
        except WaitTooLong as refusal:
            waits.append(refusal.retry_after)
        clock.advance(0.26)
    assert int(full.stats()["evictions"]) > 10_000
    assert lost > 3, "the state was hardly ever evicted: nothing is shown"
    assert all(later - sooner >= SECOND for sooner, later in zip(admitted, admitted[10:], strict=False))
    assert len(admitted) > 40
    assert max(waits) < 2.2


# Long limits.


@pytest.mark.parametrize("year", [2026, 2037, 2038, 2106, 2200])
def test_monthly_and_yearly_limits_hold_for_all_their_time(cache: BaseCache, year: int) -> None:
    """Past the 30 days, the 2^31 and the 2^32 seconds at which others' expiries go wrong, and with it their counts."""
    clock = FakeClock((year - 1970) * 365.2425 * 86_400, jump=False)
    for rate, days in (("3/month", 30), ("3/year", 365)):
        limit = Nekkar(cache, clock=clock)(f"long {year} {rate}", rate)
        again = Nekkar(cache, clock=clock)(f"long {year} {rate}", rate)
        for each in (limit, again, limit):
            each.acquire(max_wait=0)
            clock.advance(86_400)
        for _ in range(days - 4):
            clock.advance(86_400)
        with pytest.raises(WaitTooLong) as refusal:
            again.acquire(max_wait=0)
        assert math.isclose(refusal.value.retry_after, 86_400 + 1, abs_tol=1)
        clock.advance(86_402)
        again.acquire(max_wait=0)


def test_a_real_memcached_keeps_what_lives_for_30_days_and_more(full: Memcached) -> None:
    """Its clock a second on, the value is there, with an expiry of its own as far as memcached can count, or none."""
    cache = MemcachedCache("127.0.0.1", full.port, timeout=30)
    for days in (29, 30, 31, 365, 366 * 10, 36_500):
        key = f"key-{days}"
        assert cache.cas(key, b"value", cache.gets(key)[1], days * 86_400)
    time.sleep(1.1)
    for days in (29, 30, 31, 365, 366 * 10, 36_500):
        assert cache.gets(f"key-{days}")[0] == b"value"
        left = full.ask(f"mg key-{days} t\r\nthe end").split()[1]
        assert left == "t-1" if days == 36_500 else abs(int(left[1:]) - days * 86_400) < 5


def test_a_state_of_a_century_decodes_as_it_was_booked() -> None:
    """Columns of eight bytes: hits 40 years apart are one log."""
    hits = hits_at(*((NOW + year * YEAR_US, 1) for year in (0, 40, 80, 120, 174)))
    state = LimitState(1, hits=hits).with_quota(quota("5 per 100 years"), 1)
    assert decode(encode(state)).hits.entries() == hits.entries()
    assert len(hits.entries()) == 5
