"""What a limit, its events and its caches tell has types: no Any that a checker lets pass."""

from __future__ import annotations

import asyncio
from typing import assert_never, assert_type

import pytest

from nekkar import Admission, CacheError, Nekkar, Status, WaitTooLong, Window
from nekkar.core.cache import BaseCache, from_url
from nekkar.core.events import Admitted, CacheBack, CacheLost, Event, Held, Left, Refused, Waiting
from nekkar.testing import CacheConformance, FakeClock, assert_never_over


class OwnCache(BaseCache):
    """A cache of a user's own."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def add(self, key: str, value: str) -> bool:
        return self.values.setdefault(key, value) is value

    def get(self, key: str) -> str | None:
        return self.values.get(key)

    def set(self, key: str, value: str) -> None:
        self.values[key] = value

    def delete(self, key: str) -> None:
        self.values.pop(key, None)


class OwnConformance(CacheConformance):
    """The suite for it, were it collected."""

    def make_cache(self) -> OwnCache:
        return OwnCache()


class HalfACache(BaseCache):
    """A cache that lacks three of the four methods."""

    def add(self, key: str, value: str) -> bool:
        return True


def test_an_admission_by_any_way_is_an_admission() -> None:
    """``with``, ``acquire``, and their async twins; its fields are numbers and texts."""

    async def main() -> None:
        async with limit as admission:
            assert_type(admission, Admission)
        assert_type(await limit.acquire_async(cost=2), Admission)
        assert_type(await limit.status_async(), Status)

    limit = Nekkar(OwnCache(), clock=FakeClock(), on_cache_error="local", local_share=0.5)("calls", 100)
    with limit as admission:
        assert assert_type(admission.waited, float) == 0
    assert assert_type(limit.acquire(cost=3, max_wait=0).cost, int) == 3
    asyncio.run(main())
    assert assert_type(limit.status().windows, tuple[Window, ...])[0].used == 7
    assert assert_type(limit.status().hold_until, float | None) is None


def test_a_refusal_tells_when_to_come_back() -> None:
    """WaitTooLong has its bound and its time as numbers."""
    limit = Nekkar(clock=FakeClock())("calls", 1)
    limit.acquire()
    with pytest.raises(WaitTooLong) as refused:
        limit.acquire(max_wait=1)
    assert assert_type(refused.value.retry_after, float) > assert_type(refused.value.max_wait, float)


def test_a_checker_finds_what_can_not_work() -> None:
    """A policy misspelt, a cache without its methods, a rate that is no rate: each is an error before it is run."""
    with pytest.raises(ValueError, match="'lokal'"):
        Nekkar(on_cache_error="lokal")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="abstract"):
        HalfACache()  # type: ignore[abstract]
    with pytest.raises(ValueError, match="rate"):
        Nekkar()("calls", b"5/s")  # type: ignore[arg-type]
    assert isinstance(assert_type(from_url("memory:"), BaseCache), BaseCache)


def heard(event: Event) -> str | float | BaseException:
    """Return something of each kind of event; a new kind is an error here."""
    match event:
        case Waiting(name=name):
            return assert_type(name, str)
        case Admitted() | Refused():
            return assert_type(event.waited, float)
        case Left(error=error):
            return assert_type(error, BaseException)
        case Held(until=until):
            return assert_type(until, float)
        case CacheLost(error=lost):
            return assert_type(lost, CacheError)
        case CacheBack():
            return "back"
        case _:
            assert_never(event)


def test_events_are_told_apart_by_their_classes() -> None:
    """A ``match`` over them knows each one's fields, and when it has them all."""
    limiter, heard_of = Nekkar(clock=FakeClock()), list[object]()
    with limiter.listen(lambda event: heard_of.append(heard(event))):
        limiter("calls", 1).acquire()
        limiter("calls", 1).acquire()
    assert heard_of[1] == "calls", "the second call waits"
    assert all(isinstance(waited, float) for waited in heard_of[::2])


def test_admissions_and_times_are_checked_alike() -> None:
    """Both go into the check of promise 1; a fake clock tells seconds."""
    clock = FakeClock()
    admissions = [Nekkar(clock=clock)("calls", "2/second").acquire() for _ in range(2)]
    assert_never_over([admissions[0]], "2/second")
    assert_never_over([admission.at for admission in admissions], 2, period=1)
    assert assert_type(clock.now, float) == assert_type(admissions[0].at, float)
