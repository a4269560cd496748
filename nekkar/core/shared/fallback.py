"""An outage: what the callers of a limit do while the cache is away, as the user chose.

- ``"raise"``: each call tells, after the cache's timeout.
- ``"open"``: calls pass, unlimited and uncounted.
- ``"local"``: each process goes on by itself, with its share of what it knows to be left. Its own hits count
  whole; of everybody else's last known hits its share counts, since the others keep to their shares of the
  rest. So the shares' sum, at most 1, is what bounds the fleet (tests/shared/test_fallback.py states it as a property).

An outage is said once, and so is its end: by a limit that had lost the cache. So one limit that fails by itself, or
whose server is away, does not have the cache lost and back at each call of the others. Tries are timed by a clock that
never steps. Where the limit's clock is set meanwhile, since the first reading of the server's succeeds only now, what
was admitted moves with it.

An outage is an epoch of its own to those who wait: slots booked before it are no longer good in it, nor its
slots after it. The cache is tried again now and then, by whoever is next to book or to look. Who comes back
first, and finds that nobody has written since, takes it that the others used all that their shares allow;
each brings in what it admitted itself.
"""

from __future__ import annotations

import logging
import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from secrets import randbits
from typing import Literal

from nekkar.core.clock import ticks
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
    """What one ``Nekkar`` does when its cache, or ``server`` of several, is away, and whether it is: said at each turn.

    ``number``: that of the newest outage; a limit that lost the cache in it is what may end it.
    """

    def __init__(
        self, policy: OnCacheError = "raise", share: float = 1.0, listeners: Listeners | None = None, server: str = ""
    ) -> None:
        self.policy, self.share = _checked(policy, share)
        self._listeners = listeners or Listeners()
        self._server = server
        self.is_on = False
        self.number = 0

    def of(self, server: str) -> Outage:
        """Return one of the same policy for a server of several."""
        return Outage(self.policy, self.share, self._listeners, server)

    def begins(self, error: CacheError) -> int:
        """Say once that the cache is away; return the outage's number."""
        with _lock:
            said, self.is_on = self.is_on, True
            self.number = number = self.number + (not said)
        if not said:
            log.warning("cache lost: %s; until it is back, %s", error, _MEANWHILE[self.policy])
            self._listeners.tell(CacheLost(error))
        return number

    def ends(self, number: int) -> None:
        """Say once that it is back, where the outage of this number is still on."""
        with _lock:
            ends = self.is_on and self.number == number
            self.is_on = self.is_on and not ends
        if ends:
            log.warning("cache back: limits are shared again%s", self._server and f" on {self._server}")
            self._listeners.tell(CacheBack())


class Alone:
    """One limit of one process without its cache; ``steady_us`` is what its tries are timed by. Thread-safe."""

    def __init__(self, outage: Outage, key: str, terms: Quota, steady_us: Callable[[], int] = ticks) -> None:
        self.outage, self.key, self.quota, self.steady_us = outage, key, terms, steady_us
        self.is_on = False
        self.log = HitLog(0)
        self._own: deque[Slot] = deque()
        self._lost_in = 0  # the number of the outage in which this limit lost the cache; 0: it has it
        self._failed_at = self._retry = self._try_at = self._booked = self._merged = 0
        self._share = _share_of(terms, outage.share, key) if outage.policy == "local" else terms

    @property
    def has_lost(self) -> bool:
        """Whether the newest command of this limit to the cache failed."""
        return self._lost_in > 0

    def waits(self) -> bool:
        """Whether the cache is away, and it is too early to try it again."""
        return self.is_on and self.steady_us() < self._try_at

    def wake_at(self, at: int, now: int) -> int:
        """Return until when to sleep towards ``at``: no longer than to the next try."""
        return min(at, now + self._try_at - self.steady_us()) if self.is_on else at

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

    def begins(self, error: CacheError, known: HitLog | None, began: int, now: int) -> None:
        """Go on alone after a call failed that ``began`` at that steady time; ``known`` is the last log seen."""
        if not isinstance(error, CorruptLog):
            self._lost_in = self.outage.begins(error)
        if self.outage.policy == "raise":
            return
        if isinstance(error, CorruptLog) and not self.is_on:
            log.warning("%s; until then, %s", error, _MEANWHILE[self.outage.policy])
        with _lock:
            ended = self.steady_us()
            self._retry = max(RETRY_US, RETRY_FACTOR * (ended - began))
            self._try_at, self._failed_at = ended + self._retry, now
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

    def answered(self) -> None:
        """Say that the cache is back, where this limit had lost it."""
        if self._lost_in:
            number, self._lost_in = self._lost_in, 0
            self.outage.ends(number)

    def moved(self, by: int) -> None:
        """Follow a clock that was set: what was admitted here moves with it, as an epoch of its own."""
        with _lock:
            before, epoch = self.log.epoch, randbits(63)
            self.log = replace(_moved(self.log, by), epoch=epoch)
            own = ((slot, slot.epoch == before) for slot in self._own)
            self._own = deque(Slot(slot.at + by, slot.cost, epoch if mine else slot.epoch) for slot, mine in own)
            self._failed_at += by

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


def _moved(known: HitLog, by: int) -> HitLog:
    """Return a log with all its times later by so much; 0 stands for never."""
    refusals = replace(known.refusals, at=known.refusals.at + by) if known.refusals.at else known.refusals
    held = known.hold_until + by if known.hold_until else 0
    return replace(known, origin_us=known.origin_us + by, hold_until=held, refusals=refusals)


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
