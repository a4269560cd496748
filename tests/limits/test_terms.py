"""One name, one limit; and what can be no limit is refused in words."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from nekkar.core.cache import MemoryCache, SqliteCache
from nekkar.core.errors import ConfigurationError, WaitTooLong
from nekkar.core.limiter import Nekkar
from nekkar.testing import FakeClock
from tests.support.internals.core import core_of, shown
from tests.support.limits import (
    WatchedCache,
)


def test_one_name_is_one_limit_however_often_it_is_written() -> None:
    """The same name with the same terms, in whatever notation, shares one line; ``max_wait`` is each one's own."""
    limiter = Nekkar(clock=FakeClock())
    first = limiter("calls", 2, max_wait=0)
    second = limiter("calls", "2 per minute", max_wait=100)
    assert core_of(first) is core_of(second)
    first.acquire()
    second.acquire()
    with pytest.raises(WaitTooLong):
        first.acquire()
    assert second.acquire().waited == 60.3
    assert (first.name, repr(first)) == ("calls", "<Limit 'calls': 2 per 60 s>")


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        ({"rate_limit": 99}, "99 per 60 s with spacing 0 s and margin 0.3 s"),
        ({"rate_limit": 100, "period": 30}, "100 per 30 s with spacing 0 s and margin 0.15 s"),
        ({"rate_limit": "100/minute; 5/second"}, "5 per 1 s; 100 per 60 s"),
        ({"rate_limit": 100, "spacing": 0.1}, "spacing 0.1 s"),
        ({"rate_limit": 100, "spacing": "even"}, "spacing 0.6 s"),
        ({"rate_limit": 100, "margin": 0.5}, "margin 0.5 s"),
    ],
)
def test_one_name_with_other_terms_is_an_error_that_names_both(terms: dict[str, Any], words: str) -> None:
    """A second definition that contradicts the first is refused where it is written, and the first one stays."""
    limiter = Nekkar(clock=FakeClock())
    limit = limiter("calls", 100)
    with pytest.raises(ConfigurationError) as error:
        limiter("calls", **terms)
    text = str(error.value)
    assert "'calls' is defined already, as 100 per 60 s with spacing 0 s and margin 0.3 s, not" in text
    assert words in text
    assert "give both the same terms, or another name" in text
    limit.acquire()
    assert core_of(limiter("calls", 100)) is core_of(limit)


def test_two_limiters_share_nothing() -> None:
    """Each ``Nekkar()`` has a memory of its own: same names, other terms, other hits."""
    clock = FakeClock()
    one, two = Nekkar(clock=clock)("calls", 1, max_wait=0), Nekkar(clock=clock)("calls", 1, max_wait=0)
    three = Nekkar(clock=clock)("calls", 99)
    assert one.acquire().waited == two.acquire().waited == three.acquire(cost=99).waited == 0


def test_other_names_share_nothing() -> None:
    """Names are told apart whatever is in them."""
    limiter = Nekkar(clock=FakeClock())
    for name in ("a", "A", "a ", "ä", "a\n", "a" * 300, "a" * 301, "nekkar:a", "\ud800"):
        assert limiter(name, 1).acquire().waited == 0


def test_limiters_over_one_file_share_their_limits(tmp_path: Path) -> None:
    """A SQLite file carries a limit between limiters, by path or by URL."""
    clock = FakeClock()
    one = Nekkar(SqliteCache(tmp_path / "limits.db"), clock=clock)("calls", 2, max_wait=0)
    two = Nekkar(f"sqlite:///{tmp_path}/limits.db", clock=clock)("calls", 2, max_wait=0)
    one.acquire()
    two.acquire()
    for limit in (one, two):
        with pytest.raises(WaitTooLong):
            limit.acquire()


NUMBER, SECONDS = "from 1 to 1000000000", "give seconds from"
BAD_LIMITERS: list[tuple[dict[str, Any], str, str]] = [
    # what is given; what of it the message shows; what the message says was expected
    ({"cache": 42}, "42", "BaseCache"),
    ({"cache": MemoryCache}, "class MemoryCache", "BaseCache"),
    ({"cache": {}}, "got dict", "BaseCache"),
    ({"cache": b"memory:"}, "got bytes", "BaseCache"),
    ({"cache": ""}, "''", "memcached://host:11211"),
    ({"cache": "localhost:11211"}, "names no known cache", "memcached://host:11211"),
    ({"cache": "memcache://localhost"}, "did you mean memcached://?", "memcached://host:11211"),
    ({"cache": "memcached://localhost:port"}, "memcached://***", "memcached://host:11211"),
    ({"cache": "memory://x"}, "memory://***", "write 'memory:'"),
    ({"cache": "sqlite://file.db"}, "sqlite://***", "sqlite:///file.db"),
    ({"cache": "sqlite:///f.db?timeout=soon"}, "sqlite:///f.db", "?timeout=SECONDS"),
    ({"cache": "sqlite:///f.db?timeout=-1"}, "-1", "give seconds"),
    ({"clock": "utc"}, "'utc'", "'auto', 'local' or a Clock"),
    ({"clock": None}, "None", "'auto', 'local' or a Clock"),
    ({"clock": time}, "time", "'auto', 'local' or a Clock"),
    ({"clock": []}, "[]", "'auto', 'local' or a Clock"),
]
BAD_LIMITS: list[tuple[dict[str, Any], str, str]] = [
    ({"name": ""}, "an empty one", "non-empty str"),
    ({"name": None}, "None", "non-empty str"),
    ({"name": b"calls"}, "got bytes", "non-empty str"),
    ({"name": 7}, "7", "non-empty str"),
    ({"name": ["calls"]}, "got list", "non-empty str"),
    ({"rate_limit": 0}, "0", NUMBER),
    ({"rate_limit": -3}, "-3", NUMBER),
    ({"rate_limit": 1.5}, "1.5", NUMBER),
    ({"rate_limit": True}, "True", NUMBER),
    ({"rate_limit": None}, "None", NUMBER),
    ({"rate_limit": [5]}, "[5]", NUMBER),
    ({"rate_limit": "five"}, "'five'", "COUNT/PERIOD"),
    ({"rate_limit": "5/m"}, "'5/m'", "write 'min' or 'month'"),
    ({"rate_limit": "5/s", "period": 1}, "period=1", "leave one out"),
    ({"period": 0}, "period 0", SECONDS),
    ({"period": -1}, "period -1", SECONDS),
    ({"period": "60"}, "'60'", SECONDS),
    ({"period": [60]}, "[60]", SECONDS),
    ({"period": float("nan")}, "nan", SECONDS),
    ({"spacing": -0.1}, "-0.1", SECONDS),
    ({"spacing": "odd"}, "'odd'", "'even'"),
    ({"spacing": None}, "None", SECONDS),
    ({"spacing": {}}, "{}", SECONDS),
    ({"margin": 0}, "margin 0", SECONDS),
    ({"margin": "50ms"}, "'50ms'", SECONDS),
    ({"margin": float("inf")}, "inf", SECONDS),
    ({"max_wait": -1}, "max_wait -1", SECONDS),
    ({"max_wait": "30"}, "'30'", SECONDS),
    ({"max_wait": True}, "True", SECONDS),
    ({"max_wait": float("nan")}, "nan", SECONDS),
    ({"max_wait": [1]}, "[1]", SECONDS),
]
BAD_CALLS: list[Any] = [
    ({"cost": 0}, "cost 0", NUMBER),
    ({"cost": -1}, "cost -1", NUMBER),
    ({"cost": 6}, "cost 6", "at most 5"),
    ({"cost": 10**5000}, "too large to show", NUMBER),
    ({"cost": 2.0}, "2.0", NUMBER),
    ({"cost": 1.0}, "1.0", NUMBER),
    ({"cost": Fraction(1)}, "Fraction(1, 1)", NUMBER),
    ({"cost": True}, "True", NUMBER),
    ({"cost": "1"}, "'1'", NUMBER),
    ({"cost": None}, "None", NUMBER),
    ({"cost": [1]}, "[1]", NUMBER),
    ({"max_wait": -0.001}, "-0.001", SECONDS),
    ({"max_wait": "5"}, "'5'", SECONDS),
    ({"max_wait": False}, "False", SECONDS),
    ({"max_wait": float("nan")}, "nan", SECONDS),
    ({"max_wait": float("inf")}, "inf", SECONDS),
    ({"max_wait": 1e10}, "10000000000.0", SECONDS),
]


def refused(call: Callable[[], Any], told: str, expected: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        call()
    assert isinstance(error.value, ValueError)
    assert told in str(error.value)
    assert expected in str(error.value)


@pytest.mark.parametrize(("given", "told", "expected"), BAD_LIMITERS, ids=shown)
def test_a_bad_limiter_is_refused_in_words(given: dict[str, Any], told: str, expected: str) -> None:
    """What ``Nekkar`` can't work with is named, with what it expects."""
    refused(lambda: Nekkar(**given), told, expected)


def test_a_clock_class_in_place_of_a_clock_is_refused_in_words() -> None:
    """Forgotten parentheses are told where they were forgotten."""
    not_made: Any = FakeClock
    refused(lambda: Nekkar(clock=not_made)("calls", 5).acquire(), "FakeClock", "a Clock")


@pytest.mark.parametrize(("given", "told", "expected"), BAD_LIMITS, ids=shown)
def test_a_bad_limit_is_refused_in_words(given: dict[str, Any], told: str, expected: str) -> None:
    """What a limit can't be made of is named where it is written, with what is expected."""
    terms: dict[str, Any] = {"name": "calls", "rate_limit": 5} | given
    refused(lambda: Nekkar()(**terms), told, expected)
    if "name" not in given:
        refused(lambda: Nekkar()(**terms), "'calls'", expected)


@pytest.mark.parametrize(("given", "told", "expected"), BAD_CALLS, ids=shown)
def test_a_bad_call_is_refused_in_words_and_books_nothing(given: dict[str, Any], told: str, expected: str) -> None:
    """What ``acquire`` can't work with is named with the limit, sync and async, before the cache is asked."""
    cache = WatchedCache()
    limit = Nekkar(cache, clock=FakeClock())("calls", 5)
    refused(lambda: limit.acquire(**given), told, expected)
    refused(lambda: asyncio.run(started(limit.acquire_async(**given))), "limit 'calls': ", expected)
    assert cache.calls == 0


async def started(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return await coroutine


@pytest.mark.parametrize("setting", ["period", "spacing", "margin", "max_wait"])
def test_a_number_of_seconds_beyond_any_float_is_refused_in_words(setting: str) -> None:
    """However large a number, it is out of bounds, not an OverflowError."""
    refused(lambda: Nekkar()("calls", 5, **{setting: 10**400}), setting, SECONDS)


@pytest.mark.parametrize("given", [{"concurrency": 5}, {"lease": 5.0}])
def test_what_a_later_release_brings_is_refused_by_name(given: dict[str, Any]) -> None:
    """Calls at once are not limited yet: nobody is to believe that they are."""
    (word,) = given
    with pytest.raises(ConfigurationError, match=f"limit 'jobs': {word} 5.* is not supported yet"):
        Nekkar()("jobs", 10, **given)
