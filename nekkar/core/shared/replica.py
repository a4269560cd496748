"""What one process knows of a limit's log: the newest look at it, and its mirror.

Rules:

- Looks are numbered when they are sent, so that an answer that comes late never counts as newer. The write
  of this process that won is a look too.
- The mirror is the newest log seen in the epoch that this process follows. It follows into a new epoch only
  by a swap that merged it in.
- A log that reaches ahead further than any fleet would book is none: a wrong clock's, or made up. It would
  block the limit for as long; so it is refused as corrupt (tests/caches/test_hostile.py).
- "No log" is the same whenever it is read. So a write that creates a log may have been on its way while another log
  came and went. A process doubts a log that it created, unless it finds it in place within a horizon of writing it;
  half a second, where it had no mirror: then a false alarm costs a period.
- A key outlives its hits by ten periods, at least a minute and at most ten. A process that finds it gone sooner knows
  of a loss. One that wrongly took an evicted key for a loss would wait for a period, so no longer.
- Where the newest read found this process's own last write, or a swap without a read won, nobody else writes:
  then the next swap needs no read, since it fails if that is no longer so. It is tried once; after it one reads.
- Each value is frozen, and replaced whole: the worst of a race between threads is an older look.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from secrets import randbits
from typing import Any

from nekkar.core.cache import UNREAD
from nekkar.core.errors import CorruptLog
from nekkar.core.quota import MAX_PERIOD, SECOND, Quota
from nekkar.core.window.booking import Slot
from nekkar.core.window.codec import NOTHING, decode
from nekkar.core.window.feedback import Word, heard
from nekkar.core.window.state import LINGER_US, HitLog

LINGER_PERIODS, MOST_LINGER_US = 10, 600 * SECOND
MOST_WAY_US = SECOND // 2
NOT_CREATED = (-1, 0, 0)
YEAR_US = 366 * 86_400 * SECOND
QUEUE = 1000  # lines that each hold the one slot of a period beyond the horizon


@dataclass(frozen=True, slots=True)
class Look:
    """What the newest look, the ``order``th, sent at ``sent``, found: the log's epoch (None: no log), hold, horizon."""

    order: int
    sent: int
    epoch: int | None
    hold_until: int
    horizon_us: int


@dataclass(frozen=True, slots=True)
class Mirror:
    """The log that was seen, and which look saw it, sent when."""

    log: HitLog
    order: int
    looked: int


class View:
    """One process's knowledge of the log under ``key``. Safe between threads.

    ``on_hold``, where it is set, is called with the end of a hold, and the time, where one is new to this process.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self.on_hold: Callable[[int, int], None] | None = None
        self._held = 0
        self.mirror: Mirror | None = None
        self.seen = Look(0, 0, None, 0, 0)
        self._orders = count(1)
        self._newest: tuple[bytes | None, HitLog] = (None, NOTHING)
        self._own: tuple[HitLog, Any] | None = None
        self._created = NOT_CREATED  # the epoch, since when another log may have come, until when it is to be met
        self._undisturbed = False

    @property
    def log(self) -> HitLog | None:
        """The last log that was seen."""
        return self.mirror.log if self.mirror else None

    def order(self) -> int:
        """Return the number of a look that is about to be sent."""
        return next(self._orders)

    def is_stale(self, at: int, horizon_us: int) -> bool:
        """Whether the log could have changed over a start ``at`` since the newest look at it."""
        return at - self.seen.sent > min(self.seen.horizon_us, horizon_us)

    def vouches(self, slot: Slot) -> bool:
        """Whether the newest look still showed the slot's epoch, and no hold over the slot."""
        return self.seen.epoch == slot.epoch and self.seen.hold_until <= slot.at

    def is_news(self, word: Word, terms: Quota, now: int) -> bool:
        """Whether a service's word changes the log, as far as the mirror shows."""
        return self.log is None or heard(self.log, terms, word, now) is not self.log

    def decoded(self, raw: bytes, now: int) -> HitLog:
        """Decode a log, unless these are the bytes that this process saw or wrote last; raises CorruptLog."""
        known, log = self._newest
        try:
            found = log if known == raw else decode(raw, log)
            _check_reach(found, now)
        except CorruptLog as error:
            remedy = "delete the key to start afresh, or call reset() of the limit"
            raise CorruptLog(f"cache key {self.key!r}: {error}; {remedy}") from error
        self.wrote(raw, found)
        self.meets(found.epoch, now)
        return found

    def creates(self, epoch: int, now: int, horizon_us: int) -> None:
        """Doubt the log ``epoch``, whose creating write is sent now, until this process meets it in time."""
        if self._remembers(now):  # the log assumes all that was unseen up to a horizon from now
            self._created = (epoch, now, now + horizon_us)
        else:
            self._created = (epoch, self.seen.sent, self.seen.sent + max(horizon_us, MOST_WAY_US))

    def meets(self, epoch: int, now: int) -> None:
        """Trust a log of one's own that the cache is known to hold now, if that is soon after it was written."""
        if epoch == self._created[0] and now <= self._created[2]:
            self._created = NOT_CREATED

    def doubts(self, found: HitLog | None) -> bool:
        """Whether this process created the log, and another may have come and gone before its write landed."""
        return found is not None and found.epoch == self._created[0]

    def wrote(self, raw: bytes, written: HitLog) -> None:
        """Remember the bytes of a log."""
        self._newest = (raw, written)

    def own(self) -> tuple[HitLog, Any] | None:
        """Return this process's last write and its token, once, where nobody else seems to write; else None."""
        own, self._own = self._own, None
        return own if self._undisturbed else None

    def won(self, written: HitLog, token: Any) -> None:
        """Remember the token of a write that won."""
        self._own = None if token is UNREAD else (written, token)

    def looks_at(self, alone: HitLog, now: int, horizon_us: int) -> None:
        """Take another log for the newest look, in an outage; the mirror stays."""
        self.seen = Look(self.order(), now, alone.epoch, alone.hold_until, horizon_us)

    def saw(self, order: int, sent: int, found: HitLog | None, swapped: bool = False) -> None:
        """Remember a look, or a swap that won."""
        if order > self.seen.order:
            told = (found.epoch, found.hold_until, found.horizon_us) if found else (None, 0, 0)
            before, self.seen = self.seen, Look(order, sent, *told)
            if found and before.hold_until != found.hold_until:
                self._see_hold(found.hold_until, sent)
        known = self.mirror
        if not swapped:
            self._undisturbed = bool(found and known and found.nonce == known.log.nonce)
            self._own = self._own if self._undisturbed else None
        newer = known is None or swapped or (order > known.order and found and found.epoch == known.log.epoch)
        if found and newer:
            self.mirror = Mirror(found, order, sent)

    def recalled(self, found: HitLog | None, terms: Quota, horizon_us: int, now: int) -> HitLog:
        """Return the log to go on with: what was found, with what this process remembers of before a loss."""
        known = self.mirror
        if found is None:
            if known is None or not self._remembers(now):
                return HitLog(randbits(63)).joined(terms, horizon_us)
            return known.log.joined(terms, horizon_us).recovered(known.looked, now, randbits(63))
        if self.doubts(found):
            return found.joined(terms, horizon_us).recovered(self._created[1], now, randbits(63))
        if known and known.log.epoch != found.epoch:
            found = found.merge(known.log)
        return found.joined(terms, horizon_us).forget(now)

    def _remembers(self, now: int) -> bool:
        """Whether this process saw a log that the cache must still hold."""
        return self.log is not None and now < expires_at(self.log)

    def _see_hold(self, until: int, now: int) -> None:
        """Tell of a hold that is new, or twice as long as was told; each refusal of a storm may move it a little."""
        self._held = min(self._held, until)  # less: it was released
        if self.on_hold and until > now + 2 * max(0, self._held - now):
            self._held = until
            self.on_hold(until, now)


def expires_at(log: HitLog, written_at: int = 0) -> int:
    """Return the instant from which a cache may drop the log. ``written_at``: count from there, if that is later."""
    longest = log.windows[-1].period_us if log.windows else 0
    dies_at = max(log.dies_at, written_at + log.keep_us + LINGER_US)
    return dies_at + min(max(0, LINGER_PERIODS * longest - LINGER_US), MOST_LINGER_US - LINGER_US)


def _check_reach(found: HitLog, now: int) -> None:
    """Refuse times far ahead of now: hits a year or a thousand periods, behind a hold; a hold, 100 years more."""
    last, stamped = found.last or 0, max(found.reset_at, found.written_at)
    latest = max(last, found.hold_until, stamped)
    if latest <= now + YEAR_US:
        return
    queue = min(max(YEAR_US, QUEUE * found.keep_us), MAX_PERIOD) + found.keep_us
    held = min(max(now, found.hold_until), now + MAX_PERIOD + YEAR_US)
    if stamped > now + YEAR_US or found.hold_until > held or last > held + queue:
        raise CorruptLog(
            f"its times lie {(latest - now) / YEAR_US:.1f} years ahead of the clock here, if that is right"
        )
