"""The fallback: what the callers of a limit do while the cache is away, as the user chose.

- ``"raise"``: each call raises, after the timeout of the cache.
- ``"open"``: calls pass, unlimited and uncounted.
- ``"local"``: each process goes on by itself, with its share of the limit. Its own hits count whole, and of all other
  known hits its share, since the other processes keep to shares of their own. So what the processes that are cut off
  add to the limit is the sum of their shares (test_fallback.py states it as a property).

While the cache is away a process books in a private ledger, whose epochs are its own: no slot is valid across the
switch, in either direction. The cache is tried again now and then, by the next caller that books or looks; tries are
timed by a clock that never steps. When the cache answers again, each process adds the hits that it admitted alone. The
first one back, if nobody has written since the failure, also assumes that the others used all that their shares allow.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from secrets import randbits
from typing import Any

from nekkar.core.cache.memory import MemoryCache
from nekkar.core.clock import ClockWatch, steady_us
from nekkar.core.cost import Hits, cost_of
from nekkar.core.errors import CacheError, ConfigurationError, CorruptLog, plain
from nekkar.core.quota import MAX_COUNT, MIN_PERIOD, SECOND, Quota, Rate
from nekkar.core.runtime.effects import CacheSteps
from nekkar.core.runtime.fork_lock import SHARED
from nekkar.core.shared.account import Change, Edit
from nekkar.core.shared.ledger import Edited, Ledger
from nekkar.core.shared.outage import MEANWHILE, Outage
from nekkar.core.shared.store import store_of
from nekkar.core.window.codec import encode
from nekkar.core.window.hits import NO_HITS, HitLog
from nekkar.core.window.recovery import assume_taken
from nekkar.core.window.state import MOST_HORIZON_US, LimitState

RETRY_US = SECOND // 2
RETRY_FACTOR = 4  # tries take at most a fifth of the time
log = logging.getLogger("nekkar")


class Fallback:
    """One limit of one process: its ledger while the cache answers, a private one while the cache is away.

    The private ledger is one over a memory cache, with this process's share as its quota. Its epochs are its own, so no
    slot is valid across the switch, in either direction. Safe between threads.
    """

    def __init__(self, shared: Ledger, outage: Outage) -> None:
        self.shared, self.outage = shared, outage
        self.clock = shared.clock
        alone = _share_of if outage.policy == "local" else _unlimited
        self._share = alone(shared.quota, outage.share, shared.key)
        self.in_process, self.write_over = shared.in_process, shared.write_over
        self._use(shared)
        self._starts: deque[tuple[int, Hits]] = deque()  # of this process, for as long as they matter
        self._alone: list[tuple[int, Hits]] = []  # those on private slots that the cache has not yet
        self._lost_in = 0  # the number of the outage in which this limit lost the cache; 0: it has it
        self._failed_at = self._retry_us = self._retry_at = 0
        self._steady_us = steady_us(self.clock)
        self.keep_time = ClockWatch(self.clock, shared.replica.moved, self._moved).keep

    @property
    def is_on(self) -> bool:
        """Whether the private ledger is in use."""
        return self._private is not self.shared

    def _use(self, ledger: Ledger) -> None:
        """Keep to a ledger: to its quota, that is this process's share of it where the cache is away."""
        self._private, self.quota, self.latency, self.replica = ledger, ledger.quota, ledger.latency, ledger.replica

    @property
    def state(self) -> LimitState | None:
        """The newest state seen; None before the first."""
        return self.replica.state

    @property
    def read_at(self) -> int:
        """When the read that saw the newest state was sent; 0 before the first."""
        return self.replica.read_at

    def clock_is_due(self) -> bool:
        """Whether the clock is to be read before anything is booked."""
        return (self._private is self.shared or self._may_try()) and self.shared.clock_is_due()

    def started(self, at: int, cost: Hits) -> None:
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

    def last_write(self) -> tuple[LimitState, Any] | None:
        """Return this process's last write and its token, while the cache answers and nobody else seems to write."""
        is_away = self._alone or self._lost_in or self._private is not self.shared
        return None if is_away else self.shared.last_write()

    def update(self, change: Change, is_answered: bool = True) -> CacheSteps[None]:
        """Change the state that all share; while the cache is away, the private one. Raises CacheError by policy."""
        if self.is_on or self._alone or self._lost_in:
            shared = _Rejoined(self, change) if self.is_on or self._alone else change
            if (yield from self._unless_away(self.shared.update(shared, is_answered))):
                return
        else:
            sent = self._steady_us()
            try:
                yield from self.shared.update(change, is_answered)
                return
            except CacheError as error:
                self._begin(error, self._steady_us() - sent)
        yield from self._private.update(change)

    def edit(self, edit: Edit) -> CacheSteps[None]:
        """Change the state by a pure function of the state and the time; see ``update``."""
        self.keep_time()
        if self.clock_is_due():
            yield from self.sync_clock()
        yield from self.update(Edited(edit))

    def _unless_away(self, steps: CacheSteps[None]) -> CacheSteps[bool]:
        """Take steps on the cache, unless it is away and too early to try; return whether they came to their end."""
        if not self._may_try():
            steps.close()
            return False
        self.keep_time()
        sent = self._steady_us()
        try:
            yield from steps
        except CacheError as error:
            self._begin(error, self._steady_us() - sent)
            return False
        if not self.is_on and self._lost_in:
            number, self._lost_in = self._lost_in, 0
            self.outage.ends(number)
        return True

    def _may_try(self) -> bool:
        """Whether the cache is there, as far as is known, or it is time to ask again."""
        return not self.is_on or self._steady_us() >= self._retry_at

    # An outage begins, goes on, and ends.

    def _begin(self, error: CacheError, took_us: int) -> None:
        """Continue with the private ledger after a failure; by the policy "raise", raise it."""
        is_corrupt = isinstance(error, CorruptLog)
        if not is_corrupt:
            self._lost_in = self.outage.begins(error)
        if self.outage.policy == "raise":
            raise error
        if is_corrupt and not self.is_on:
            log.warning("%s; until then, %s", error, MEANWHILE[self.outage.policy])
        self._retry_us = max(RETRY_US, RETRY_FACTOR * took_us)
        self._retry_at, self._failed_at = self._steady_us() + self._retry_us, self.clock.now_us()
        with SHARED:
            if not self.is_on:
                self._use(self._private_ledger(self._failed_at))

    def _private_ledger(self, now: int) -> Ledger:
        """Return a ledger that knows what counts here: own calls whole, and this process's share of all others.

        Shares are counted from the newest back: in every window that is still to come they are rounded up.
        """
        known = self.shared.state
        state = LimitState(randbits(63)).with_quota(self._share, 0)
        if self.outage.policy == "local":
            state = replace(
                state,
                hits=self._share_of_hits(known.hits if known else NO_HITS),
                hold_until=known.hold_until if known else 0,
                rejections=known.rejections if known else state.rejections,
            ).forget(now)
        return self._ledger_of(state)

    def _share_of_hits(self, known: HitLog) -> HitLog:
        """Return what counts here of the known hits, in each unit."""
        own = NO_HITS.insert(list(self._starts))
        shares = list[tuple[int, Hits]]()
        for unit, log in known.timelines():
            mine, others, taken = dict(own.of(unit).entries()), 0, 0
            for at, count in reversed(log.entries()):
                others += max(0, count - mine.get(at, 0))
                shares.append((at, cost_of({unit: math.ceil(others * self.outage.share) - taken})))
                taken = math.ceil(others * self.outage.share)
        return own.insert(shares)

    def _ledger_of(self, state: LimitState) -> Ledger:
        cache = MemoryCache()
        cache.cas(self.shared.key, encode(state), None, (_retention_us(self.shared.quota) // SECOND) + 3600)
        # The server that tells the time is away too: the private ledger goes on by the clock as it stands.
        return Ledger(store_of(cache, self.clock), self.shared.key, self._share, self.clock, reads_clock=False)

    def _moved(self, by: int) -> None:
        """Follow a clock that was set: what was admitted alone moves with it, in an epoch of its own."""
        with SHARED:
            self._starts = deque((at + by, cost) for at, cost in self._starts)
            self._alone = [(at + by, cost) for at, cost in self._alone]
            self._failed_at += by
            if self.is_on and (known := self._private.state):
                held = known.hold_until + by if known.hold_until else 0
                hits = known.hits.each(lambda _, log: log.with_entries([(at + by, hits) for at, hits in log.entries()]))
                moved = replace(known, epoch=randbits(63), hits=hits, hold_until=held)
                self._use(self._ledger_of(replace(moved, places=(), grants=(), serial=0)))

    def merged(self, state: LimitState, now: int, alone: Sequence[tuple[int, Hits]]) -> LimitState:
        """Return the state of a cache that is back, with what was admitted meanwhile, here and perhaps elsewhere."""
        if self.outage.policy != "local":
            return state
        merged = replace(state, hits=state.hits.insert(alone)) if alone else state
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
        with SHARED:
            del self._alone[:merged]
            if not self._alone:
                self._use(self.shared)


class _Rejoined:
    """A change of the state of a cache that is back: what was admitted meanwhile goes in first."""

    def __init__(self, fallback: Fallback, change: Change) -> None:
        self._fallback, self._change = fallback, change
        self._merged = 0

    def apply(self, state: LimitState, now: int, read_at: int | None, *, is_recovery: bool) -> LimitState | None:
        alone = list(self._fallback._alone)
        self._merged = len(alone)
        merged = self._fallback.merged(state, now, alone)
        return self._change.apply(merged, now, read_at, is_recovery=True) or merged

    def won(self, state: LimitState, sent: int, now: int) -> None:
        self._fallback.rejoin(self._merged)
        self._change.won(state, sent, now)

    def unanswered(self) -> None:
        self._change.unanswered()


def _retention_us(quota: Quota) -> int:
    return max(quota.rates[-1].period_us, quota.spacing_us) + quota.margin_us + SECOND


def _unlimited(terms: Quota, share: float, key: str) -> Quota:
    """Return terms so wide that they limit nothing, in the same units."""
    return Quota(tuple(Rate(MIN_PERIOD, MAX_COUNT, unit) for unit in terms.units), 0, SECOND)


def _share_of(terms: Quota, share: float, key: str) -> Quota:
    """Return the terms of one process alone. 1e-9 is added since 49 × (1/49) is a little below 1."""
    rates = tuple(Rate(rate.period_us, math.floor(rate.count * share + 1e-9), rate.unit) for rate in terms.rates)
    if not all(rate.count for rate in rates):
        raise ConfigurationError(
            f"cache key {key!r}: local_share {plain(share)} of {terms} leaves no call; give at least"
            f" 1/{min(rate.count for rate in terms.rates)}, or on_cache_error='raise'"
        )
    return Quota(rates, math.ceil(terms.spacing_us / share), terms.margin_us)
