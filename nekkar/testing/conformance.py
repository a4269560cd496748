"""A test suite for a cache of your own, which any test runner collects:

    class TestMyCache(CacheConformance):
        def make_cache(self):
            return MyCache("localhost")

Each test checks one thing that nekkar needs of a cache, and its failure explains it to the cache's author. The tests
write keys that begin with ``nekkar:conformance-``, different ones in each run, and leave some of them behind.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from nekkar.core.cache import BaseCache, SwapCache
from nekkar.core.clock import monotonic
from nekkar.core.errors import CacheError, shown
from nekkar.core.limiter import Admission, Nekkar
from nekkar.core.shared.key import cache_key
from nekkar.testing import swaps
from nekkar.testing.checked_cache import CheckedCache, complaint, fault, new_key, skipped
from nekkar.testing.threads import THREADS, at_once
from nekkar.testing.windows import assert_never_over

LONG = "long 時間 " * 10_000
TEXTS = ["plain", "", "0", " blanks  and\ttabs ", "line\r\nEND\r\nVALUE", "naïve, 時間, 🕰", "\x00\x7f", LONG]
MANY = 1000
LIMIT, PERIOD, CALLS = 10, 0.2, 5
AWAY_PATIENCE = 30.0


class CacheConformance:
    """The tests. Define ``make_cache`` in a subclass, and run it with pytest or also as a ``unittest.TestCase``.

    ``shared``: whether all caches that ``make_cache`` makes within one test share their keys, as those of
    one server do; False for a cache of one process alone. A cache with ``gets`` and ``cas`` (SwapCache) is
    tried with these too.
    """

    shared = True

    def make_cache(self) -> BaseCache:
        """Return a cache, new or not; called once or several times in each test."""
        raise NotImplementedError(f"{type(self).__name__} has no make_cache; define it to return the cache to try")

    def make_unreachable(self) -> BaseCache | None:
        """Return a cache whose server is away, to check its errors; None if a cache can't be away."""
        return None

    def test_a_key_never_set_is_none(self) -> None:
        """Get of a key that is not set is None."""
        key = new_key()
        if (value := self._checked_cache.get(key)) is not None:
            fault(f"get({key!r}) of a key never set returned {shown(value)}", "None for a key that is not set")

    def test_add_sets_only_what_is_not_set(self) -> None:
        """The first add tells True; a later one tells False and changes nothing; after a delete one wins again."""
        cache, key = self._checked_cache, new_key()
        for value in ("first", "anew"):
            if not cache.add(key, value):
                fault(f"add of {key!r}, which is not set, did not return True", "to know that its write won")
            self._checked_cache.expect(key, value, "add")
            if cache.add(key, "later"):
                fault(f"add of {key!r}, which is set, did not return False", "add to set a key only if it is not set")
            self._checked_cache.expect(key, value, "an add that lost", "add to leave alone a key that is set")
            cache.delete(key)

    def test_of_many_threads_one_add_wins(self) -> None:
        """For each of 100 keys, all threads add at once: one gets True, and the value is the winner's."""
        caches, key = self._checked_caches(), new_key()
        rounds = at_once(lambda number, thread: caches[thread].add(f"{key}-{number}", str(thread)), 100)
        need = "add to be one atomic step of the server: the process that wins an add commits its slots"
        for number, won in enumerate(rounds):
            if sum(won) != 1:
                fault(f"{sum(won)} of {THREADS} threads that added one key at once got True", need)
            self._checked_cache.expect(f"{key}-{number}", str(won.index(True)), "the add that got True", need)

    def test_texts_come_back_as_they_went(self) -> None:
        """What add or set stores, get returns, character for character: empty, Unicode, 80,000 characters."""
        for text in TEXTS:
            key = new_key()
            self._checked_cache.add(key, text)
            self._checked_cache.expect(key, text, "add", "each text back as it went")
            self._checked_cache.set(key, "other")
            self._checked_cache.set(key, text)
            self._checked_cache.expect(key, text, "set", "each text back as it went")

    def test_keys_are_told_apart(self) -> None:
        """All keys that nekkar makes of names, up to 220 bytes, in any case of letters, are keys of their own."""
        name = new_key().removeprefix("nekkar:")
        names = [name, name.upper(), f"{name}/a?b=c%20{{d}}\\'\"", f"{name} 時間", name.ljust(200, "x"), name * 9]
        keys = [cache_key(name) for name in names]
        keys += [f"{key}:{part}" for key in keys for part in ("v1", "v11", "v123456789", "head0", "head1", "floor")]
        for key in keys:
            self._checked_cache.set(key, f"of {key}")
        for key in keys:
            self._checked_cache.expect(key, f"of {key}", "set of several keys", "each key whole, and apart from others")

    def test_set_overwrites_what_was_there(self) -> None:
        """Set is unconditional, over what add or set wrote."""
        key = new_key()
        self._checked_cache.add(key, "added")
        for value in ("set", "set again"):
            self._checked_cache.set(key, value)
            self._checked_cache.expect(key, value, "set", "set to write, whatever was there")

    def test_delete_removes_and_is_silent(self) -> None:
        """A deleted key is None; delete of what is not set does nothing."""
        key = new_key()
        self._checked_cache.delete(key)
        self._checked_cache.set(key, "value")
        for _ in range(2):
            self._checked_cache.delete(key)
            self._checked_cache.expect(key, None, "delete", "a deleted key to be gone")

    def test_many_keys_stay(self) -> None:
        """A thousand keys are all there: nothing is evicted or expires."""
        key = new_key()
        for number in range(MANY):
            self._checked_cache.add(f"{key}-{number}", str(number))
        need = "keys that stay until they are deleted: raise the cache's most entries, and let nothing expire"
        for number in range(MANY):
            self._checked_cache.expect(f"{key}-{number}", str(number), f"adding {MANY} keys", need)

    def test_threads_get_their_own_answers(self) -> None:
        """Threads that set and get each its own key never read another's: no shared connection mixes answers."""
        cache, key = self._checked_cache, new_key()

        def own(number: int, thread: int) -> None:
            cache.set(f"{key}-{thread}", f"{thread}: {number}")
            need = "a cache that threads may share: a lock, or a connection for each"
            cache.expect(f"{key}-{thread}", f"{thread}: {number}", "set in one of many threads", need)

        at_once(own, 50)

    def test_concurrent_writes_leave_one_of_them_whole(self) -> None:
        """Of values that threads set at once, each read is one, whole."""
        cache, key, values = self._checked_cache, new_key(), [str(thread) * 10_000 for thread in range(THREADS)]

        def write(_: int, thread: int) -> None:
            cache.set(key, values[thread])
            if (value := cache.get(key)) not in values:
                fault(f"get({key!r}) during writes returned {shown(value)}", "one of the values, whole, at any time")

        at_once(write, 50)

    def test_two_caches_share_their_keys(self) -> None:
        """What one cache writes, another made alike reads; only where ``shared``."""
        if not self.shared:
            raise skipped("shared = False: this cache is for one process alone")
        one, other = self._checked_caches(2)
        key = new_key()
        one.set(key, "of the first")
        if (value := other.get(key)) != "of the first":
            fault(
                f"a key set in one cache of make_cache() was {shown(value)} in another",
                "both on the same keys, or the limit is not shared; set shared = False for a cache of one process",
            )
        if other.add(key, "of the second"):
            fault("add in one cache won over a key set in another", "both on the same keys")

    def test_a_limit_is_never_over(self) -> None:
        """Four limiters, as in four processes, with two threads each: no window has too many slots."""
        first, name = self.make_cache(), new_key().removeprefix("nekkar:")
        caches = [self.make_cache() if self.shared else first for _ in range(THREADS // 2)]
        limits = [Nekkar(cache)(name, LIMIT, period=PERIOD) for cache in caches]

        def call(_: int, thread: int) -> list[Admission]:
            try:
                return [limits[thread // 2].acquire(max_wait=60) for _ in range(CALLS)]
            except Exception as error:
                raised = f"a limit on the cache raised {type(error).__name__}: {error}"
                raise AssertionError(complaint(raised, "what the other tests ask for")) from error

        admissions = [one for own in at_once(call)[0] for one in own]
        try:
            assert_never_over(admissions, LIMIT, period=PERIOD)
        except AssertionError as error:
            raise AssertionError(
                complaint(f"a limit on the cache went {error}", "one winner of each add, or cas")
            ) from None

    def test_a_cache_that_is_away_says_so(self) -> None:
        """Every method raises CacheError within half a minute; only where ``make_unreachable`` gives such a cache."""
        away: Any = self.make_unreachable()
        if away is None:
            raise skipped("make_unreachable gives no cache whose server is away")
        calls = [("add", "key", "value"), ("get", "key"), ("set", "key", "value"), ("delete", "key")]
        calls += [("gets", "key")] if isinstance(away, SwapCache) else []
        for method, *args in calls:
            began = monotonic()
            try:
                answer = shown(getattr(away, method)(*args))
            except CacheError:
                answer = ""
            except Exception as error:
                answer = f"{type(error).__name__}: {error}"
            if answer:
                fault(f"{method} on a cache that is away gave {answer}", "a nekkar.CacheError, and no guess")
            if monotonic() - began > AWAY_PATIENCE:
                fault(f"{method} on a cache that is away took over {AWAY_PATIENCE:g} s", "a timeout, of 1 s or so")

    def test_swapped_bytes_come_back(self) -> None:
        """What cas writes, gets reads, byte for byte; what set wrote reads as its UTF-8 bytes."""
        swaps.bytes_come_back(self._checked_swap_caches())

    def test_the_token_of_a_missing_key_creates_it_once(self) -> None:
        """Gets of a missing key gives None and a token; the first cas with it creates, and none once the key is set."""
        swaps.missing_key_is_created_once(self._checked_swap_caches())

    def test_a_token_loses_after_any_change(self) -> None:
        """Cas with a token read before another cas (also of the same bytes), set or delete writes nothing."""
        swaps.token_loses_after_any_change(self._checked_swap_caches())

    def test_a_key_deleted_and_made_again_is_another(self) -> None:
        """Cas with a token from before a delete loses, though the key has the same bytes again."""
        swaps.key_made_again_is_another(self._checked_swap_caches())

    def test_of_many_threads_one_swap_wins(self) -> None:
        """For each of 100 tokens, all threads swap at once: one gets True, and the value is the winner's."""
        swaps.one_of_many_wins(self._checked_swap_caches())

    def test_no_swap_is_lost(self) -> None:
        """Threads that count up by gets and cas lose none: each cas that tells True stays."""
        swaps.none_is_lost(self._checked_swap_caches())

    def test_a_swap_lives_its_ttl(self) -> None:
        """A value is there for its ttl, of days, of over 30 days, of a century; a later swap's ttl counts."""
        swaps.value_lives_its_ttl(self._checked_swap_caches())

    @cached_property
    def _checked_cache(self) -> CheckedCache:  # made before threads start: two at once could make two
        return CheckedCache(self.make_cache())

    def _checked_caches(self, count: int = THREADS) -> list[CheckedCache]:
        """Caches that share their keys: each its own where ``shared``, else one again and again."""
        return [CheckedCache(self.make_cache()) if self.shared else self._checked_cache for _ in range(count)]

    def _checked_swap_caches(self) -> list[CheckedCache]:
        """Caches as above, if they swap; else the test is skipped."""
        if not isinstance(self.make_cache(), SwapCache):
            raise skipped("this cache has no gets, cas and in_process: nekkar swaps by its add")
        return self._checked_caches()
