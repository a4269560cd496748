"""An outage: what the callers of a limit do while the cache is away, as the user chose.

- ``"raise"``: each call tells, after the cache's timeout.
- ``"open"``: calls pass, unlimited and uncounted.
- ``"local"``: each process goes on by itself, with its share of what it knows to be left. Its own hits count
  whole; of everybody else's last known hits its share counts, since the others keep to their shares of the
  rest. While no process reaches the cache, the shares' sum, at most 1, is what bounds the fleet. While some do, they
  use the whole limit, and each process that is cut off adds its share: in any window at most N × (1 + the shares of
  those that went on alone in it). No process can see who is cut off. tests/shared/test_fallback.py states both.

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
from contextlib import suppress
from dataclasses import replace
from secrets import randbits
from typing import Literal

from nekkar.core.errors import CacheError, ConfigurationError, CorruptLog, shown
from nekkar.core.events import CacheBack, CacheLost, Listeners
from nekkar.core.quota import SECOND, Quota, Rate
from nekkar.core.runtime.fork_lock import lock_over_forks
from nekkar.core.window.booking import Answer, Ask, Slot, booked
from nekkar.core.window.feedback import Word, heard
from nekkar.core.window.state import HitLog

RETRY_US = SECOND // 2
RETRY_FACTOR = 4  # tries take at most a fifth of the time

OnCacheError = Literal["raise", "open", "local"]
_MEANWHILE = {
    "raise": "calls raise CacheError",
    "open": "calls pass unlimited",
    "local": "each process keeps to its local share",
}

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


class Alone:
    """One limit of one process without its cache. Safe between threads."""

    def __init__(self, outage: Outage, key: str, terms: Quota) -> None:
        self.outage, self.key, self.quota = outage, key, terms
        self.is_on = False
        self.log = HitLog(0)
        self._own: deque[Slot] = deque()
        self._failed_at = self._retry = self._try_at = self._booked = self._merged = 0
        self._share = _share_of(terms, outage.share, key) if outage.policy == "local" else terms

    def waits(self, now: int) -> bool:
        """Whether the cache is away, and it is too early to try it again."""
        return self.is_on and now < self._try_at

    def wake_at(self, at: int) -> int:
        """Return until when to sleep towards ``at``: no longer than to the next try."""
        return min(at, self._try_at) if self.is_on else at

    def no_slot_before(self, cost: int, hits: int, calls: int) -> int:
        """Return a lower bound of a call's slot behind ``calls`` others of ``hits``, while the cache is away."""
        return self.log.no_slot_before(self._share, cost, hits, calls) if self.outage.policy == "local" else 0

    def counts(self, answers: Sequence[Answer], returned: Sequence[Slot] = ()) -> None:
        """Remember this process's own hits, for as long as they matter."""
        if self.outage.policy != "local":
            return
        with _lock:
            for slot in returned:
                with suppress(ValueError):
                    self._own.remove(slot)
            self._own.extend(answer for answer in answers if isinstance(answer, Slot))
            while self._own and self._own[0].at < self._own[-1].at - self._keep_us:
                self._own.popleft()

    def begins(self, error: CacheError, known: HitLog | None, sent: int, now: int) -> None:
        """Go on alone after a call sent at ``sent`` failed; ``known`` is the last log that was seen."""
        if not isinstance(error, CorruptLog):
            self.outage.begins(error)
        if self.outage.policy == "raise":
            return
        if isinstance(error, CorruptLog) and not self.is_on:
            log.warning("%s; until then, %s", error, _MEANWHILE[self.outage.policy])
        with _lock:
            self._retry = max(RETRY_US, RETRY_FACTOR * (now - sent))
            self._try_at, self._failed_at = now + self._retry, now
            if not self.is_on:
                self.log, self.is_on = self._remembered(known, now), True

    def book(self, asks: Sequence[Ask], returned: Sequence[Slot], now: int, horizon: int) -> list[Answer]:
        """Answer asks without the cache: all pass, or those for whom there is a slot in this process's share."""
        if self.outage.policy == "open":
            return [Slot(now, ask.cost, self.log.epoch) for ask in asks]
        with _lock:
            kept = self.log.forget(now)
            for slot in returned:
                kept = kept.unbook(slot.at, slot.cost) if slot.epoch == kept.epoch else kept
            self.log, answers = booked(kept, self._share, asks, now, horizon)
            self._booked += 1
        self.counts(answers, [slot for slot in returned if slot.epoch == kept.epoch])
        return answers

    def hears(self, word: Word, now: int) -> None:
        """Keep to a pause that a service asks for; what it counts, others share."""
        with _lock:
            self.log = heard(self.log, self._share, replace(word, budgets=()), now)

    def merged(self, base: HitLog, now: int, margin_us: int) -> HitLog:
        """Return the log of a cache that is back, with what was admitted meanwhile, here and perhaps elsewhere."""
        if not self.is_on or self.outage.policy != "local":
            return base
        since, until = base.reset_at, now + base.horizon_us  # what is later will never start
        hits = Counter[int](dict(base.hits()))
        with _lock:
            self._merged = self._booked
            for slot in self._own:
                hits[slot.at] += slot.cost * (slot.epoch == self.log.epoch and since <= slot.at <= until)
        nobody_wrote = base.written_at <= self._failed_at + margin_us
        base = base.with_hits(sorted((+hits).items()))
        if not nobody_wrote:
            return base
        most = {rate: rate.count - own.count for rate, own in zip(self.quota.rates, self._share.rates, strict=True)}
        unnoticed = self._retry + self._retry // RETRY_FACTOR + base.horizon_us  # a try that fails as it comes back,
        return base.filled(now + unnoticed, most)  # then half a second or more, and slots booked just before the next

    def ends(self) -> None:
        """Go back to the cache, if it has all that was admitted meanwhile."""
        if self.is_on:
            with _lock:
                self.is_on = self._merged != self._booked

    @property
    def _keep_us(self) -> int:
        return max(self.quota.rates[-1].period_us, self.quota.spacing_us) + self.quota.margin_us + SECOND

    def _remembered(self, known: HitLog | None, now: int) -> HitLog:
        """Return what counts in this process: its own hits, and its share of all others known, those to come too.

        Shares are counted from the newest back: in every window that is still to come they are rounded up.
        """
        own, hits = Counter[int](), Counter[int]()
        for slot in self._own:
            own[slot.at] += slot.cost
            hits[slot.at] += slot.cost * (slot.at <= now)
        others = taken = 0
        for at, count in reversed(known.hits() if known else []):
            others += max(0, count - own[at])
            hits[at] += math.ceil(others * self.outage.share) - taken
            taken = math.ceil(others * self.outage.share)
        held = known.hold_until if known else 0
        alone = replace(HitLog(randbits(63)).joined(self._share, 0), hold_until=held)
        alone = replace(alone, refusals=known.refusals) if known else alone
        return alone.with_hits(sorted((+hits).items())).forget(now)


def _checked(policy: OnCacheError, share: float) -> tuple[OnCacheError, float]:
    if policy not in _MEANWHILE:
        raise ConfigurationError(f"on_cache_error {shown(policy)} is not known; give 'raise', 'open' or 'local'")
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise ConfigurationError(
            f"local_share {shown(share)} is no share; give a number above 0 and up to 1, such as 1/8 for 8 workers"
        )
    return policy, share


def _share_of(terms: Quota, share: float, key: str) -> Quota:
    """Return the terms that one process keeps alone; the tolerance is for shares such as 1/49."""
    rates = tuple(Rate(rate.period_us, math.floor(rate.count * share + 1e-9)) for rate in terms.rates)
    if not all(rate.count for rate in rates):
        raise ConfigurationError(
            f"cache key {key!r}: local_share {share:g} of {terms} leaves no call; give at least"
            f" {1 / min(rate.count for rate in terms.rates):g}, or on_cache_error='raise'"
        )
    return Quota(rates, math.ceil(terms.spacing_us / share), terms.margin_us)
