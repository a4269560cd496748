"""An outage: what the callers of a limit do while the cache is away, as the user chose.

- ``"raise"``: each call tells, after the cache's timeout.
- ``"open"``: calls pass, unlimited and uncounted.
- ``"local"``: each process goes on by itself, with its share of what it knows to be left. Its own hits count
  whole; of everybody else's last known hits its share counts, since the others keep to their shares of the
  rest. So the shares' sum, at most 1, is what bounds the fleet (tests/shared/test_fallback.py states it as a property).

An outage is an epoch of its own to those who wait: slots booked before it are no longer good in it, nor its
slots after it. The cache is tried again now and then, by whoever is next to book or to look. Who comes back
first, and finds that nobody has written since, takes it that the others used all that their shares allow;
each brings in what it admitted itself.
"""

from __future__ import annotations

import logging
import math
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace
from secrets import randbits
from typing import Literal

from nekkar.core.cache.memory import MemoryCache
from nekkar.core.clock import ticks
from nekkar.core.errors import CacheError, ConfigurationError, CorruptLog, plain, shown
from nekkar.core.events import CacheBack, CacheLost, Listeners
from nekkar.core.quota import MAX_COUNT, MIN_PERIOD, SECOND, Quota, Rate
from nekkar.core.runtime.effects import CacheSteps
from nekkar.core.runtime.fork_lock import lock_over_forks
from nekkar.core.shared.latency import CacheLatency
from nekkar.core.shared.ledger import Change, Edit, Edited, Ledger
from nekkar.core.shared.store import store_of
from nekkar.core.window.codec import encode
from nekkar.core.window.recovery import assume_taken
from nekkar.core.window.state import MOST_HORIZON_US, LimitState

RETRY_US = SECOND // 2
RETRY_FACTOR = 4  # tries take at most a fifth of the time

OnCacheError = Literal["raise", "open", "local"]
_MEANWHILE = {
    "raise": "calls raise CacheError",
    "open": "calls pass unlimited",
    "local": "each process keeps to its local share",
}

UNLIMITED = Quota((Rate(MIN_PERIOD, MAX_COUNT),), 0, SECOND)  # as good as

log = logging.getLogger("nekkar")

_lock = lock_over_forks()  # every outage's


class Outage:
    """What one ``Nekkar`` does when its cache is away, and whether it is: said once at each turn."""

    def __init__(self, policy: OnCacheError = "raise", share: float = 1.0, listeners: Listeners | None = None) -> None:
        self.policy, self.share = _checked(policy, share)
        self._listeners = listeners or Listeners()
        self.is_on = False

    def begins(self, error: CacheError) -> None:
        """Say once that the cache is away."""
        with _lock:
            said, self.is_on = self.is_on, True
        if not said:
            log.warning("cache lost: %s; until it is back, %s", error, _MEANWHILE[self.policy])
            self._listeners.tell(CacheLost(error))

    def ends(self) -> None:
        """Say once that it is back."""
        with _lock:
            said, self.is_on = not self.is_on, False
        if not said:
            log.warning("cache back: limits are shared again")
            self._listeners.tell(CacheBack())


class Fallback:
    """One limit of one process: its ledger while the cache answers, a private one while the cache is away.

    The private ledger is one over a memory cache, with this process's share as its quota. Its epochs are its own, so no
    slot is valid across the switch, in either direction. It stands in for the ledger in a wait queue. Safe between threads.
    """

    in_process = False

    def __init__(self, shared: Ledger, outage: Outage) -> None:
        self.shared, self.outage = shared, outage
        self.clock = shared.clock
        self._share = _share_of(shared.quota, outage.share, shared.key) if outage.policy == "local" else UNLIMITED
        self._private = shared
        self._starts: deque[tuple[int, int]] = deque()  # of this process, for as long as they matter
        self._alone: list[tuple[int, int]] = []  # those on private slots that the cache has not yet
        self._failed_at = self._retry_us = self._retry_at = 0

    @property
    def is_on(self) -> bool:
        """Whether the private ledger is in use."""
        return self._private is not self.shared

    @property
    def quota(self) -> Quota:
        """What this process keeps to now: the quota, or its share of it."""
        return self._private.quota

    @property
    def latency(self) -> CacheLatency:
        """How long the cache takes; the private one takes no time."""
        return self._private.latency

    @property
    def state(self) -> LimitState | None:
        """The newest state seen; None before the first."""
        return self._private.state

    @property
    def read_at(self) -> int:
        """When the read that saw the newest state was sent; 0 before the first."""
        return self._private.read_at

    def confirms(self, epoch: int, slot: int) -> bool:
        """Whether the newest state is still of this epoch, and holds no calls back at this slot."""
        return self._private.confirms(epoch, slot)

    def good_until(self, slot: int) -> int:
        """Return until when a call may start on its slot."""
        return self._private.good_until(slot)

    def clock_is_due(self) -> bool:
        """Whether the clock is to be read before anything is booked."""
        return not self.is_on and self.shared.clock_is_due()

    def started(self, at: int, cost: int) -> None:
        """Count a call of this process that starts at its slot."""
        if self.outage.policy != "local":
            return
        self._starts.append((at, cost))
        if self.is_on:
            self._alone.append((at, cost))
        while self._starts and self._starts[0][0] < at - _retention_us(self.shared.quota):
            self._starts.popleft()

    # Steps.

    def sync_clock(self) -> CacheSteps[None]:
        """Read the clock where that is due; where the cache is away, do without as the user chose."""
        yield from self._unless_away(self.shared.sync_clock())

    def update(self, change: Change) -> CacheSteps[None]:
        """Change the state that all share; while the cache is away, the private one. Raises CacheError by policy."""
        shared = _Rejoined(self, change) if self.is_on or self._alone else change
        if not (yield from self._unless_away(self.shared.update(shared))):
            yield from self._private.update(change)

    def edit(self, edit: Edit) -> CacheSteps[None]:
        """Change the state by a pure function of the state and the time; see ``update``."""
        yield from self.update(Edited(edit))

    def _unless_away(self, steps: CacheSteps[None]) -> CacheSteps[bool]:
        """Take steps on the cache, unless it is away and too early to try; return whether they came to their end."""
        if self.is_on and ticks() < self._retry_at:
            steps.close()
            return False
        sent = ticks()
        try:
            yield from steps
        except CacheError as error:
            self._begin(error, ticks() - sent)
            return False
        if not self.is_on:
            self.outage.ends()
        return True

    # The turns of an outage.

    def _begin(self, error: CacheError, took_us: int) -> None:
        """Continue with the private ledger after a failure; by the policy "raise", raise it."""
        is_corrupt = isinstance(error, CorruptLog)
        if not is_corrupt:
            self.outage.begins(error)
        if self.outage.policy == "raise":
            raise error
        if is_corrupt and not self.is_on:
            log.warning("%s; until then, %s", error, _MEANWHILE[self.outage.policy])
        self._retry_us = max(RETRY_US, RETRY_FACTOR * took_us)
        self._retry_at, self._failed_at = ticks() + self._retry_us, self.clock.now_us()
        with _lock:
            if not self.is_on:
                self._private = self._private_ledger(self._failed_at)

    def _private_ledger(self, now: int) -> Ledger:
        """Return a ledger that remembers what counts here: own calls whole, and this process's share of all others.

        Shares are counted from the newest back: in every window that is still to come they are rounded up.
        """
        known, cache = self.shared.state, MemoryCache()
        state = LimitState(randbits(63)).with_quota(self._share, 0)
        if self.outage.policy == "local":
            own, hits = Counter[int](), Counter[int]()
            for at, cost in self._starts:
                own[at] += cost
                hits[at] += cost
            others = taken = 0
            for at, count in reversed(known.hits.entries() if known else []):
                others += max(0, count - own[at])
                hits[at] += math.ceil(others * self.outage.share) - taken
                taken = math.ceil(others * self.outage.share)
            state = replace(
                state,
                hits=state.hits.with_entries(sorted((+hits).items())),
                hold_until=known.hold_until if known else 0,
                rejections=known.rejections if known else state.rejections,
            ).forget(now)
        cache.cas(self.shared.key, encode(state), None, _retention_us(self.shared.quota) // SECOND + 3600)
        return Ledger(store_of(cache, self.clock), self.shared.key, self._share, self.clock)

    def merged(self, state: LimitState, now: int, alone: Sequence[tuple[int, int]]) -> LimitState:
        """Return the state of a cache that is back, with what was admitted meanwhile, here and perhaps elsewhere."""
        if self.outage.policy != "local":
            return state
        hits = Counter[int](dict(state.hits.entries()))
        for at, cost in alone:
            hits[at] += cost
        merged = replace(state, hits=state.hits.with_entries(sorted(hits.items()))) if alone else state
        if state.written_at > self._failed_at + self.shared.quota.margin_us:
            return merged
        # Nobody wrote since: the others may have used all that their shares allow, until they notice too. A try may
        # fail just as the cache comes back; then half a second passes, and slots booked just before the next one start.
        rates = zip(self.shared.quota.rates, self._share.rates, strict=True)
        most = {rate: rate.count - own.count for rate, own in rates}
        unnoticed = self._retry_us + self._retry_us // RETRY_FACTOR + MOST_HORIZON_US
        return assume_taken(merged, now + unnoticed, most)

    def rejoin(self, merged: int) -> None:
        """Use the shared ledger again, which has the first ``merged`` calls admitted alone."""
        with _lock:
            del self._alone[:merged]
            if not self._alone:
                self._private = self.shared


class _Rejoined:
    """A change of the state of a cache that is back: what was admitted meanwhile goes in first."""

    def __init__(self, fallback: Fallback, change: Change) -> None:
        self._fallback, self._change = fallback, change
        self._merged = 0

    def apply(self, state: LimitState, now: int, read_at: int, *, is_recovery: bool) -> LimitState | None:
        alone = list(self._fallback._alone)
        self._merged = len(alone)
        merged = self._fallback.merged(state, now, alone)
        return self._change.apply(merged, now, read_at, is_recovery=True) or merged

    def won(self, state: LimitState, sent: int) -> None:
        self._fallback.rejoin(self._merged)
        self._change.won(state, sent)


def _checked(policy: OnCacheError, share: float) -> tuple[OnCacheError, float]:
    if policy not in _MEANWHILE:
        raise ConfigurationError(f"on_cache_error {shown(policy)} is not known; give 'raise', 'open' or 'local'")
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise ConfigurationError(
            f"local_share {shown(share)} is no share; give a number above 0 and up to 1, such as 1/8 for 8 workers"
        )
    return policy, share


def _retention_us(quota: Quota) -> int:
    return max(quota.rates[-1].period_us, quota.spacing_us) + quota.margin_us + SECOND


def _share_of(terms: Quota, share: float, key: str) -> Quota:
    """Return the terms that one process keeps alone; the tolerance is for shares such as 1/49."""
    rates = tuple(Rate(rate.period_us, math.floor(rate.count * share + 1e-9)) for rate in terms.rates)
    if not all(rate.count for rate in rates):
        raise ConfigurationError(
            f"cache key {key!r}: local_share {plain(share)} of {terms} leaves no call; give at least"
            f" 1/{min(rate.count for rate in terms.rates)}, or on_cache_error='raise'"
        )
    return Quota(rates, math.ceil(terms.spacing_us / share), terms.margin_us)
