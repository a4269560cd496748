"""The conformance suite: nekkar's caches pass it, and others; each planted fault fails the check named for it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import unittest
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import pytest
from pymemcache.exceptions import MemcacheError

from nekkar.core.cache import BaseCache, MemcachedCache, MemoryCache, SqliteCache
from nekkar.core.errors import CacheError
from nekkar.testing import CacheConformance
from tests.support.servers import Memcached, free_port, memcached

HOST = "127.0.0.1"
SWAP_TESTS = (
    "test_swapped_bytes_come_back",
    "test_the_token_of_a_missing_key_creates_it_once",
    "test_a_token_loses_after_any_change",
    "test_a_key_deleted_and_made_again_is_another",
    "test_of_many_threads_one_swap_wins",
    "test_no_swap_is_lost",
    "test_a_swap_lives_its_ttl",
)
TESTS = [name for name in vars(CacheConformance) if name.startswith("test_")]


class DictCache(BaseCache):
    """Four methods over a dict, whose ``setdefault`` is atomic."""

    def __init__(self, items: dict[str, Any] | None = None) -> None:
        self.items: dict[str, Any] = {} if items is None else items

    def add(self, key: str, value: str) -> Any:
        entry = [value]  # an object of its own: the very string may be there already
        return self.items.setdefault(key, entry) is entry

    def get(self, key: str) -> Any:
        return self.items.get(key, [None])[0]

    def set(self, key: str, value: str) -> None:
        self.items[key] = [value]

    def delete(self, key: str) -> None:
        self.items.pop(key, None)


class DjangoCache(BaseCache):
    """A cache of Django's, as a user would wrap it."""

    def __init__(self, cache: Any) -> None:
        self.cache = cache

    def add(self, key: str, value: str) -> bool:
        return bool(self._asked(self.cache.add, key, value, timeout=None))

    def get(self, key: str) -> str | None:
        value: str | None = self._asked(self.cache.get, key)
        return value

    def set(self, key: str, value: str) -> None:
        self._asked(self.cache.set, key, value, timeout=None)

    def delete(self, key: str) -> None:
        self._asked(self.cache.delete, key)

    def _asked(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        except (OSError, MemcacheError) as error:
            raise CacheError(f"Django's cache: {error}") from error


@pytest.fixture(scope="module")
def tcp() -> Iterator[Memcached]:
    """A memcached for this file."""
    with memcached() as running:
        yield running


@pytest.fixture(scope="module")
def unix() -> Iterator[str]:
    """A memcached on a Unix socket; yields its path."""
    if shutil.which("memcached") is None or not hasattr(socket, "AF_UNIX"):
        pytest.skip("memcached is not installed, or there are no Unix sockets here")
    with TemporaryDirectory(prefix="nekkar") as folder:
        path = os.path.join(folder, "a.sock")
        process = subprocess.Popen(["memcached", "-s", path, *(["-u", "root"] if os.geteuid() == 0 else [])])
        try:
            deadline = time.monotonic() + 30
            while not os.path.exists(path):
                assert time.monotonic() < deadline, "memcached does not listen"
                time.sleep(0.02)
            yield path
        finally:
            process.kill()
            process.wait()


class TestMemory(CacheConformance):
    """A memory cache: of one process, and never away."""

    shared = False
    test_two_caches_share_their_keys = test_a_cache_that_is_away_says_so = None  # type: ignore[assignment]

    def make_cache(self) -> BaseCache:
        return MemoryCache()


class TestSqlite(CacheConformance):
    """A file, opened by as many caches as there are."""

    @pytest.fixture(autouse=True)
    def _in_a_folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def make_cache(self) -> BaseCache:
        return SqliteCache(self.folder / "cache.db", timeout=30.0)

    def make_unreachable(self) -> BaseCache:
        return SqliteCache(self.folder / "no folder" / "cache.db")


class TestMemcached(CacheConformance):
    """A memcached by TCP."""

    @pytest.fixture(autouse=True)
    def _on_a_server(self, tcp: Memcached) -> None:
        self.port = tcp.port

    def make_cache(self) -> BaseCache:
        return MemcachedCache(HOST, self.port, timeout=30.0)

    def make_unreachable(self) -> BaseCache:
        return MemcachedCache(HOST, free_port())


class TestMemcachedOnASocket(CacheConformance):
    """A memcached by its Unix socket."""

    @pytest.fixture(autouse=True)
    def _on_a_server(self, unix: str) -> None:
        self.path = unix

    def make_cache(self) -> BaseCache:
        return MemcachedCache(self.path, timeout=30.0)

    def make_unreachable(self) -> BaseCache:
        return MemcachedCache(f"{self.path}.none")


class TestDict(CacheConformance):
    """Four methods over one dict, whose limit swaps by versions; there is no cas, and nothing to be away."""

    test_a_cache_that_is_away_says_so = None  # type: ignore[assignment]
    for _name in SWAP_TESTS:
        locals()[_name] = None

    @pytest.fixture(autouse=True)
    def _over_a_dict(self) -> None:
        self.items: dict[str, Any] = {}

    def make_cache(self) -> BaseCache:
        return DictCache(self.items)


class TestDjangoInMemory(CacheConformance):
    """Django's LocMemCache with room for all keys, whose caches of one name share them."""

    test_a_cache_that_is_away_says_so = None  # type: ignore[assignment]
    for _name in SWAP_TESTS:
        locals()[_name] = None

    def make_cache(self) -> BaseCache:
        return django_in_memory(most=10**6)


class TestDjangoOnMemcached(CacheConformance):
    """Django's PyMemcacheCache on a real memcached: pooled, to be shared by threads; no retries, to tell of outages."""

    for _name in SWAP_TESTS:
        locals()[_name] = None

    @pytest.fixture(autouse=True)
    def _on_a_server(self, tcp: Memcached) -> Iterator[None]:
        self.port, self.made = tcp.port, list[DjangoCache]()
        yield
        for made in self.made:
            made.cache.close()

    def make_cache(self) -> BaseCache:
        self.made.append(django_on_memcached(self.port, use_pooling=True, retry_attempts=0))
        self.made[-1].get("first")  # Django makes its client at the first use, one for each thread that comes at once
        return self.made[-1]

    def make_unreachable(self) -> BaseCache:
        return django_on_memcached(free_port(), use_pooling=True, retry_attempts=0)


def django_in_memory(most: int) -> DjangoCache:
    django_settings()
    from django.core.cache.backends.locmem import LocMemCache

    return DjangoCache(LocMemCache("nekkar", {"OPTIONS": {"MAX_ENTRIES": most}}))


def django_on_memcached(port: int, **options: Any) -> DjangoCache:
    django_settings()
    from django.core.cache.backends.memcached import PyMemcacheCache

    return DjangoCache(PyMemcacheCache(f"{HOST}:{port}", {"OPTIONS": options}))


def django_settings() -> None:
    from django.conf import settings

    if not settings.configured:
        settings.configure()


def suite_of(make: Callable[[], BaseCache], **attributes: Any) -> CacheConformance:
    """Return the suite for caches of a kind that share nothing."""
    made: CacheConformance = type("Suite", (CacheConformance,), {"shared": False, **attributes})()
    made.make_cache = make  # type: ignore[method-assign]
    return made


# Caches with a fault each.


class AddOverwrites(DictCache):
    def add(self, key: str, value: str) -> bool:
        won = key not in self.items
        self.set(key, value)
        return won


class AddAlwaysWins(DictCache):
    def add(self, key: str, value: str) -> bool:
        super().add(key, value)
        return True


class AddAlwaysWinsSlowly(DictCache):
    def add(self, key: str, value: str) -> bool:
        time.sleep(0.001)  # as a server's answer takes
        self.set(key, value)
        return True


class AddTellsNothing(DictCache):
    def add(self, key: str, value: str) -> Any:
        super().add(key, value)


class AddLooksFirst(DictCache):
    def add(self, key: str, value: str) -> bool:
        if self.get(key) is not None:
            return False
        time.sleep(0.0001)  # as a server's answer takes
        self.set(key, value)
        return True


class GetGivesBytes(DictCache):
    def get(self, key: str) -> Any:
        value = super().get(key)
        return None if value is None else value.encode()


class GetGivesEmpty(DictCache):
    def get(self, key: str) -> Any:
        return super().get(key) or ""


class EmptyIsNone(DictCache):
    def get(self, key: str) -> Any:
        return super().get(key) or None


class OnlyAscii(DictCache):
    def set(self, key: str, value: str) -> None:
        super().set(key, value.encode("ascii", "replace").decode())


class ShortColumn(DictCache):
    def set(self, key: str, value: str) -> None:
        super().set(key, value[:65_535])


class ShortKeys(DictCache):
    def set(self, key: str, value: str) -> None:
        super().set(key[:100], value)

    def get(self, key: str) -> Any:
        return super().get(key[:100])


class CaseBlind(ShortKeys):
    def set(self, key: str, value: str) -> None:
        DictCache.set(self, key.lower(), value)

    def get(self, key: str) -> Any:
        return DictCache.get(self, key.lower())


class SetOnlyOnce(DictCache):
    def set(self, key: str, value: str) -> None:
        self.add(key, value)


class SetRaises(DictCache):
    def set(self, key: str, value: str) -> None:
        raise CacheError("not now")


class DeleteRaises(DictCache):
    def delete(self, key: str) -> None:
        del self.items[key]


class DeleteDoesNothing(DictCache):
    def delete(self, key: str) -> None:
        pass


class Forgets(DictCache):
    def add(self, key: str, value: str) -> Any:
        if len(self.items) >= 300:
            self.items.pop(next(iter(self.items)), None)
        return super().add(key, value)


class OneConnection(DictCache):
    """Two steps on what all threads share, with no lock, as by one socket."""

    asked = ""

    def get(self, key: str) -> Any:
        self.asked = key
        time.sleep(0.0001)
        return super().get(self.asked)


class TornWrites(DictCache):
    def set(self, key: str, value: str) -> None:
        half = len(value) // 2
        super().set(key, value[:half] + (self.get(key) or value)[half:])


class SharesNothing(DictCache):
    pass


class SharesButAddAlwaysWins(AddAlwaysWins):
    shared: ClassVar[dict[str, Any]] = {}

    def __init__(self) -> None:
        super().__init__(self.shared)


class AwayIsMissing(DictCache):
    """An outage looks like a missing key."""


class AwayRaisesItsOwn(DictCache):
    def add(self, key: str, value: str) -> bool:
        raise ConnectionRefusedError(key)


class CasIgnoresItsToken(MemoryCache):
    def cas(self, key: str, value: bytes, token: Any, ttl: int) -> Any:
        time.sleep(0.001)  # as a server's answer takes
        return super().cas(key, value, self.gets(key)[1], ttl)


class CasOfMissingIgnoresItsToken(MemoryCache):
    def cas(self, key: str, value: bytes, token: Any, ttl: int) -> Any:
        return super().cas(key, value, self.gets(key)[1] if token is None else token, ttl)


class CasComparesValues(MemoryCache):
    """The token is the value itself, so a key deleted and made again has its old token."""

    def gets(self, key: str) -> tuple[bytes | None, Any]:
        value, _ = super().gets(key)
        return value, value

    def cas(self, key: str, value: bytes, token: Any, ttl: int) -> Any:
        found, version = super().gets(key)
        return found == token and super().cas(key, value, version, ttl)


class CasLooksFirst(MemoryCache):
    def cas(self, key: str, value: bytes, token: Any, ttl: int) -> Any:
        if self.gets(key)[1] != token:
            return False
        time.sleep(0.0001)
        self.delete(key)
        return super().cas(key, value, None, ttl) or True


class CasNeverCreates(MemoryCache):
    def cas(self, key: str, value: bytes, token: Any, ttl: int) -> Any:
        return token is not None and super().cas(key, value, token, ttl)


class GetsGivesText(MemoryCache):
    def gets(self, key: str) -> tuple[Any, Any]:
        value, token = super().gets(key)
        return value and value.decode("latin-1"), token

    def get(self, key: str) -> str | None:
        value, _ = super().gets(key)
        return None if value is None else value.decode()


class CasCutsAtNul(MemoryCache):
    def cas(self, key: str, value: bytes, token: Any, ttl: int) -> Any:
        return super().cas(key, value.split(b"\0")[0], token, ttl)


class TtlIsMilliseconds(MemoryCache):
    def cas(self, key: str, value: bytes, token: Any, ttl: int) -> Any:
        return super().cas(key, value, token, ttl / 1000)  # type: ignore[arg-type]


class TtlIsNotRenewed(MemoryCache):
    def cas(self, key: str, value: bytes, token: Any, ttl: int) -> Any:
        old = self._items.get(key)
        won = super().cas(key, value, token, ttl)
        if won and old:
            self._items[key] = self._items[key]._replace(dies_at=old.dies_at)
        return won


class TtlIsADate(MemoryCache):
    """As memcached reads a relative one past 30 days: long ago."""

    def cas(self, key: str, value: bytes, token: Any, ttl: int) -> Any:
        return super().cas(key, value, token, ttl if ttl <= 30 * 86_400 else -1)


class LosesEverySecondSwap(MemoryCache):
    """Says of each second swap of a key that it wrote, and did not."""

    turn = 0

    def cas(self, key: str, value: bytes, token: Any, ttl: int) -> Any:
        self.turn += 1
        return True if self.turn % 2 == 0 else super().cas(key, value, token, ttl)


FAULTS: list[tuple[type[BaseCache], str, str]] = [
    (AddOverwrites, "test_add_sets_only_what_is_not_set", "an add that lost, .* returned 'later'"),
    (AddAlwaysWins, "test_add_sets_only_what_is_not_set", "is set, did not return False; .* only if it is not set"),
    (AddTellsNothing, "test_add_sets_only_what_is_not_set", "is not set, did not return True"),
    (AddLooksFirst, "test_of_many_threads_one_add_wins", "got True; nekkar needs add to be one atomic step"),
    (AddAlwaysWins, "test_of_many_threads_one_add_wins", "8 of 8 threads that added"),
    (GetGivesBytes, "test_texts_come_back_as_they_went", "of type bytes; nekkar needs text: decode it to str"),
    (GetGivesEmpty, "test_a_key_never_set_is_none", "never set returned ''; nekkar needs None"),
    (EmptyIsNone, "test_texts_come_back_as_they_went", "returned None, not ''"),
    (OnlyAscii, "test_texts_come_back_as_they_went", "after set, .* not 'naïve"),
    (ShortColumn, "test_texts_come_back_as_they_went", "after set, .* not 'long"),
    (ShortKeys, "test_keys_are_told_apart", "needs each key whole, and apart from others"),
    (CaseBlind, "test_keys_are_told_apart", "needs each key whole, and apart from others"),
    (SetOnlyOnce, "test_set_overwrites_what_was_there", "after set, .* returned 'added', not 'set'"),
    (SetRaises, "test_set_overwrites_what_was_there", "raised CacheError: not now; nekkar needs set to write"),
    (DeleteRaises, "test_delete_removes_and_is_silent", "delete.* raised KeyError: .* do nothing, in silence"),
    (DeleteDoesNothing, "test_delete_removes_and_is_silent", "after delete, .* needs a deleted key to be gone"),
    (Forgets, "test_many_keys_stay", "after adding 1000 keys, .* returned None, .* raise the cache's most entries"),
    (OneConnection, "test_threads_get_their_own_answers", "needs a cache that threads may share"),
    (TornWrites, "test_concurrent_writes_leave_one_of_them_whole", "needs one of the values, whole"),
    (SharesNothing, "test_two_caches_share_their_keys", "was None in another; .* set shared = False"),
    (SharesButAddAlwaysWins, "test_two_caches_share_their_keys", "add in one cache won over a key set in .* the same"),
    (AwayIsMissing, "test_a_cache_that_is_away_says_so", "gave True; nekkar needs a nekkar.CacheError, and no guess"),
    (AwayRaisesItsOwn, "test_a_cache_that_is_away_says_so", "gave ConnectionRefusedError"),
    (AddAlwaysWinsSlowly, "test_a_limit_is_never_over", "a limit on the cache (went over the limit|raised)"),
    (SetRaises, "test_a_limit_is_never_over", "a limit on the cache raised CacheError: not now; .* other tests"),
    (CasIgnoresItsToken, "test_a_token_loses_after_any_change", "from before a cas told that it wrote; .* atomic step"),
    (CasIgnoresItsToken, "test_of_many_threads_one_swap_wins", "[2-8] of 8 threads with one token"),
    (CasOfMissingIgnoresItsToken, "test_the_token_of_a_missing_key_creates_it_once", "from before a cas told"),
    (CasComparesValues, "test_a_key_deleted_and_made_again_is_another", "from before a delete, and add"),
    (CasComparesValues, "test_a_token_loses_after_any_change", "from before a cas of the same bytes"),
    (CasLooksFirst, "test_of_many_threads_one_swap_wins", "threads with one token"),
    (CasNeverCreates, "test_the_token_of_a_missing_key_creates_it_once", "did not write, though nobody else had"),
    (GetsGivesText, "test_swapped_bytes_come_back", "gets.* returned .*; nekkar needs a pair: the value's bytes"),
    (CasCutsAtNul, "test_swapped_bytes_come_back", "after cas, gets"),
    (CasIgnoresItsToken, "test_no_swap_is_lost", "after 400 swaps that each added one"),
    (LosesEverySecondSwap, "test_no_swap_is_lost", "after 400 swaps that each added one"),
    (CasIgnoresItsToken, "test_a_limit_is_never_over", "went over the limit: .* 10 per 0.2 s; .* one winner of"),
    (TtlIsMilliseconds, "test_a_swap_lives_its_ttl", "after 2.2 s of a ttl of 10|did not write"),
    (TtlIsNotRenewed, "test_a_swap_lives_its_ttl", "a ttl of a day over one of 2 s"),
    (TtlIsADate, "test_a_swap_lives_its_ttl", "is a long one read as a date"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "name", "words"), FAULTS, ids=[f"{kind.__name__}-{name}" for kind, name, _ in FAULTS])
def test_a_fault_fails_the_check_named_for_it(kind: type[BaseCache], name: str, words: str) -> None:
    """With words for the author of the cache: what is wrong, and what nekkar needs."""
    suite = suite_of(kind, shared=name == "test_two_caches_share_their_keys")
    suite.make_unreachable = kind  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match=f"(?s){words}"):
        getattr(suite, name)()


def test_every_check_has_a_fault_that_it_catches() -> None:
    """None of the suite's checks is hollow."""
    assert {name for _, name, _ in FAULTS} == set(TESTS)
    assert set(SWAP_TESTS) < set(TESTS)


def test_djangos_memory_cache_as_it_comes_fails_for_evicting() -> None:
    """Its 300 entries are too few for the versions of a busy limit; the suite says what to raise."""
    with pytest.raises(AssertionError, match="raise the cache's most entries"):
        suite_of(lambda: django_in_memory(most=300)).test_many_keys_stay()


def test_djangos_memcached_client_as_it_comes_fails_for_guessing() -> None:
    """While it waits to retry, pymemcache's HashClient answers None for a server that is away."""
    suite: Any = suite_of(DictCache)
    suite.make_unreachable = lambda: django_on_memcached(free_port())
    with pytest.raises(AssertionError, match=r"get on a cache that is away gave None; .* no guess"):
        suite.test_a_cache_that_is_away_says_so()


def test_what_does_not_apply_is_skipped_with_its_reason() -> None:
    """A cache of four methods, alone in its process: the checks of cas, of sharing and of outages don't pass unrun."""
    suite = suite_of(DictCache)
    for name in (*SWAP_TESTS, "test_two_caches_share_their_keys", "test_a_cache_that_is_away_says_so"):
        with pytest.raises(unittest.SkipTest, match=r"no gets|shared = False|make_unreachable"):
            getattr(suite, name)()


def test_a_suite_without_a_cache_says_what_to_define() -> None:
    """The one method that an author must give."""
    with pytest.raises(NotImplementedError, match="define it to return the cache to try"):
        CacheConformance().test_a_key_never_set_is_none()


def test_the_suite_runs_under_unittest_too() -> None:
    """It needs no pytest."""
    mixed: Any = type("Mixed", (CacheConformance, unittest.TestCase), {"make_cache": lambda self: GetGivesEmpty()})
    result = unittest.TestResult()
    mixed("test_a_key_never_set_is_none").run(result)
    mixed("test_add_sets_only_what_is_not_set").run(result)
    assert (result.testsRun, len(result.failures), len(result.errors)) == (2, 2 - 1, 0)


def test_threads_share_one_cache_however_long_it_takes_to_make() -> None:
    """Two threads that each made one would not find what the other set, and a good cache would be blamed."""
    made: list[MemoryCache] = []

    def slowly() -> MemoryCache:
        time.sleep(0.05)
        made.append(MemoryCache())
        return made[-1]

    suite_of(slowly, shared=False).test_threads_get_their_own_answers()
    suite_of(slowly, shared=False).test_concurrent_writes_leave_one_of_them_whole()
    assert len(made) == 2
