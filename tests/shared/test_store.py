"""Any cache with ``add``, ``get``, ``set`` and ``delete`` carries a limit: swaps by versions."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Generator
from typing import Any

import pytest

from nekkar import CacheError, CorruptLog, Nekkar
from nekkar.core.cache import MemoryCache
from nekkar.testing import FakeClock
from tests.support import simulation
from tests.support.handlers import outcomes
from tests.support.internals.runtime import CacheCall, CacheSteps, run_steps
from tests.support.internals.shared import CasStore, Version, VersionedStore, store_of
from tests.support.internals.shared import store as store_module
from tests.support.simulation import MS, Story, World
from tests.support.stories import FAST, SCHEDULES, STORIES

KINDS = ["singles", "plain", "crowd", "flushed", "storm", "tasks"]


def by_versions(story: Story) -> Story:
    return dataclasses.replace(story, versions=True, latency_us=FAST)


def over(story: Story, schedules: int) -> list[int]:
    """Return the schedules (their seeds) in which a window was over, or somebody stuck."""
    worlds = ((seed, World(story, seed).run()) for seed in range(schedules))
    return [seed for seed, world in worlds if not world.void and (world.over() > 0 or world.stuck())]


class PlainStore(simulation.PlainStore):
    """A cache with the four methods alone, in no world."""

    def __init__(self) -> None:
        self.items: dict[str, Any] = {}
        self.lost_swaps = self.reads = self.commands = 0


class Strict(PlainStore):
    """A cache that serialises with JSON, and so takes ``str`` alone."""

    def set(self, key: str, value: str) -> None:
        super().set(*json.loads(json.dumps([key, value])))

    def add(self, key: str, value: str) -> bool:
        assert (key, value) == tuple(json.loads(json.dumps([key, value])))
        return super().add(key, value)


def read(versions: VersionedStore) -> tuple[bytes | None, Version]:
    return run_steps(versions.read("key"), versions.clock)


def commit(versions: VersionedStore, value: bytes) -> bool:
    _, token = read(versions)
    return run_steps(versions.swap("key", value, token, 60), versions.clock) is not None


@pytest.mark.parametrize("short", [False, True], ids=["kept", "deleted soon"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_window_is_over_by_versions_either(kind: str, short: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers that start fresh, hints that come late, writers that stall past the age of deletion: never over."""
    if short:
        monkeypatch.setattr(store_module, "AGE_US", 300 * MS)
        monkeypatch.setattr(store_module, "SWEEP_EVERY", 1)
    assert over(by_versions(STORIES[kind]), SCHEDULES // 15) == []


def test_lost_answers_by_versions_are_errors_or_right() -> None:
    """Where every tenth step of a commit fails, callers get a CacheError or their slot, and never one too many."""
    assert over(by_versions(dataclasses.replace(STORIES["deaf"], lost=0.03)), SCHEDULES // 15) == []


def test_not_looking_at_the_version_before_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness finds a writer that commits on a version that is gone."""

    def careless(self: VersionedStore, key: str, value: bytes, token: int, ttl: int) -> CacheSteps[bool]:
        version = token + 1
        if not (yield CacheCall(self.cache.add, f"{key}:v{version}", base64.b85encode(value).decode())):
            return False
        self._known = version
        yield CacheCall(self.cache.set, f"{key}:head{version % 2}", str(version))
        return True

    monkeypatch.setattr(VersionedStore, "swap", careless)
    worlds = (World(by_versions(STORIES["flushed"]), seed).run() for seed in range(1000))
    assert any(world.over() > 0 and not world.void for world in worlds)


def test_a_cache_that_swaps_is_used_natively() -> None:
    """Versions are for those that can't."""
    assert isinstance(store_of(MemoryCache(), FakeClock()), CasStore)
    assert isinstance(store_of(PlainStore(), FakeClock()), VersionedStore)


def test_a_limit_works_on_four_methods_that_take_text_alone() -> None:
    """Two limiters over one such cache share one window."""
    clock, cache = FakeClock(), Strict()
    begin = clock.now
    one, two = (Nekkar(cache, clock=clock)("calls", "3/second") for _ in range(2))
    slots = [limit.acquire().at - begin for limit in (one, two, one, two, one, two)]
    assert slots == pytest.approx([0, 0, 0, 1.05, 1.05, 1.05], abs=0.002)
    assert all(isinstance(value, str) for value in cache.items.values())


def test_a_value_comes_back_and_a_stale_token_loses() -> None:
    """A commit with the token of the newest version wins, once."""
    versions = VersionedStore(PlainStore(), FakeClock())
    assert read(versions) == (None, 0)
    assert commit(versions, b"\x00\xff one")
    value, token = read(versions)
    assert value == b"\x00\xff one"
    assert commit(versions, b"two")
    assert not run_steps(versions.swap("key", b"three", token, 60), versions.clock)
    assert read(versions)[0] == b"two"


def test_one_spoiled_hint_hides_nothing_from_a_newcomer() -> None:
    """A writer that stalled sets its hint late: the other one still leads to the newest version."""
    cache, clock = PlainStore(), FakeClock()
    writer = VersionedStore(cache, clock)
    for number in range(6):
        assert commit(writer, b"%d" % number)
    for number in (1, 2, 3):
        cache.delete(f"key:v{number}")
    cache.set("key:head0", "2")
    assert read(VersionedStore(cache, clock)) == (b"5", 6)


def test_hints_that_lead_nowhere_are_an_error_and_never_a_new_log() -> None:
    """Nobody starts afresh on a guess; the message says what to delete."""
    cache = PlainStore()
    cache.set("key:head0", "40")
    with pytest.raises(CacheError, match=r"lead to versions \[40\], which are gone; .* delete 'key:head0'"):
        read(VersionedStore(cache, FakeClock()))


@pytest.mark.parametrize("hint", ["x", "-1", "9" * 30, "", "1.5"])
def test_a_hint_that_is_no_number_is_named(hint: str) -> None:
    """Another program's value is not guessed at; an empty one is none."""
    cache = PlainStore()
    cache.set("key:head1", hint)
    with pytest.raises(CorruptLog, match="'key:head1'"):
        read(VersionedStore(cache, FakeClock()))


def test_what_a_signal_handler_raises_in_a_reading_stays_what_it_is() -> None:
    """At any line: it says nothing about the value."""
    cache, clock, error = PlainStore(), FakeClock(), ValueError("mine")
    assert commit(VersionedStore(cache, clock), b"one")
    raised = outcomes(lambda: read(VersionedStore(cache, clock)), error, base64.__file__, store_module.__file__)
    assert len(raised) > 30
    assert all(each is error for each in raised)


def test_a_value_that_is_no_log_is_named() -> None:
    """What is no text of ours is refused by the decoder, with the key."""
    cache, clock = PlainStore(), FakeClock()
    cache.set("nekkar:calls:v1", "not ours \x00")
    with pytest.raises(CorruptLog, match="cache key 'nekkar:calls'"):
        Nekkar(cache, clock=clock)("calls", 5).acquire()


def test_old_versions_are_deleted_and_what_is_left_has_no_gaps() -> None:
    """A busy limit leaves a version per commit; after a while only those of the last seconds are there."""
    cache, clock = PlainStore(), FakeClock()
    one, two = VersionedStore(cache, clock), VersionedStore(cache, clock)
    for number in range(4000):
        clock.advance(0.02)
        assert commit((one, two)[number % 2], b"x")
    left = sorted(int(key.partition(":v")[2]) for key in cache.items if ":v" in key)
    assert left == list(range(left[0], 4001))
    assert len(left) < 1500  # ten seconds are 500


def test_a_version_won_after_those_before_it_were_deleted_is_taken_back() -> None:
    """A writer frozen past the age of deletion commits nothing."""
    cache, clock = PlainStore(), FakeClock()
    frozen, busy = VersionedStore(cache, clock), VersionedStore(cache, clock)
    commit(busy, b"one")
    _, token = read(frozen)
    for _ in range(5):
        commit(busy, b"more")
    for version in range(1, 5):
        cache.delete(f"key:v{version}")
    assert not run_steps(frozen.swap("key", b"late", token, 60), clock)
    assert read(frozen) == (b"more", 6)


def test_a_version_won_on_one_that_was_written_anew_is_taken_back() -> None:
    """The cache was emptied and used again: the version before is there, but it is not the one that was read."""
    cache, clock = PlainStore(), FakeClock()
    frozen, busy = VersionedStore(cache, clock), VersionedStore(cache, clock)
    commit(busy, b"one")
    _, token = read(frozen)
    cache.flush()
    commit(VersionedStore(cache, clock), b"another")
    assert not run_steps(frozen.swap("key", b"late", token, 60), clock)
    assert read(frozen) == (b"another", 1)


def steps_of(cache: PlainStore, generator: Generator[Any, Any, Any]) -> int:
    before = 0
    try:
        step = next(generator)
        while True:
            before += 1
            step = generator.send(step())
    except StopIteration:
        return before


def test_a_swap_costs_eight_commands() -> None:
    """Two hints, the next version, the newest, the one before; add, a look back, a hint."""
    cache = PlainStore()
    versions = VersionedStore(cache, FakeClock())
    for _ in range(5):
        commit(versions, b"x")
    assert steps_of(cache, versions.read("key")) == 5
    _, token = read(versions)
    assert steps_of(cache, versions.swap("key", b"y", token, 60)) == 3
