"""What one process knows of a limit's log: the newest look at it, and its mirror.

Rules:

- Looks are numbered when they are sent, so that an answer that comes late never counts as newer. The write
  of this process that won is a look too.
- The mirror is the newest log seen in the epoch that this process follows. It follows into a new epoch only
  by a swap that merged it in.
- A log that no fleet would write is corrupt, however well formed: one that reaches too far ahead, by a wrong clock, or
  has a margin or a horizon that no rule gives. It would block the limit for as long (tests/caches/test_hostile.py).
- Where the newest read found this process's own last write, or a swap without a read won, nobody else writes:
  then the next swap needs no read, since it fails if that is no longer so. It is tried once; after it one reads.
- Each value is frozen, and replaced whole: the worst of a race between threads is an older look.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from secrets import randbits
from typing import Any

from nekkar.core.cache import UNREAD
from nekkar.core.errors import CorruptLog
from nekkar.core.quota import MAX_PERIOD, SECOND, Quota
from nekkar.core.shared.latency import MOST_HORIZON_US
from nekkar.core.window.booking import Slot
from nekkar.core.window.codec import NOTHING, decode
from nekkar.core.window.feedback import Word, heard
from nekkar.core.window.rejections import MARGIN_PART
from nekkar.core.window.state import HitLog

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
        self._moved_at = 0
        self._orders = count(1)
        self._newest: tuple[bytes | None, HitLog] = (None, NOTHING)
        self._own: tuple[HitLog, Any] | None = None
        self._undisturbed = False

    @property
    def log(self) -> HitLog | None:
        """The last log that was seen."""
        return self.mirror.log if self.mirror else None

    def order(self) -> int:
        """Return the number of a look that is about to be sent."""
        return next(self._orders)

    def is_stale(self, slot: Slot, horizon_us: int) -> bool:
        """Whether the log could have changed over the slot since the newest look at it."""
        return slot.at - self.seen.sent > min(self.seen.horizon_us, horizon_us)

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
            _check_plausible(found, now)
        except CorruptLog as error:
            remedy = "delete the key to start afresh, or call reset() of the limit"
            raise CorruptLog(f"cache key {self.key!r}: {error}; {remedy}") from error
        self.wrote(raw, found)
        return found

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

    def moved(self, by: int) -> None:
        """Follow a clock that was set, by so much: when this process looked was by the time before."""
        self._own, self._undisturbed, self._moved_at = None, False, self.order()
        self.seen = replace(self.seen, sent=self.seen.sent + by)
        if self.mirror:
            self.mirror = replace(self.mirror, looked=self.mirror.looked + by)

    def saw(self, order: int, sent: int, found: HitLog | None, swapped: bool = False) -> None:
        """Remember a look, or a swap that won."""
        sent = sent if order > self._moved_at else 0  # by the clock before it was set: as good as long ago
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
            if known is None or now >= known.log.dies_at:
                return HitLog(randbits(63)).joined(terms, horizon_us)
            return known.log.joined(terms, horizon_us).recovered(known.looked, now, randbits(63))
        if known and known.log.epoch != found.epoch:
            found = found.merge(known.log)
        return found.joined(terms, horizon_us).forget(now)

    def _see_hold(self, until: int, now: int) -> None:
        """Tell of a hold that is new, or twice as long as was told; each refusal of a storm may move it a little."""
        self._held = min(self._held, until)  # less: it was released
        if self.on_hold and until > now + 2 * max(0, self._held - now):
            self._held = until
            self.on_hold(until, now)


def _check_plausible(found: HitLog, now: int) -> None:
    """Refuse what a fleet never comes to: spans that no rule gives, and times too far ahead."""
    longest = found.windows[-1].period_us if found.windows else 0
    if found.refusals.margin_us > longest // MARGIN_PART:
        raise CorruptLog(
            f"its learned margin of {found.refusals.margin_us / SECOND:g} s is over a quarter of its longest period,"
            f" {longest / SECOND:g} s"
        )
    if found.horizon_us > MOST_HORIZON_US:
        raise CorruptLog(f"its horizon of {found.horizon_us / SECOND:g} s is over {MOST_HORIZON_US // SECOND} s")
    _check_reach(found, now)


def _check_reach(found: HitLog, now: int) -> None:
    """Refuse times far ahead of now: hits a year or a thousand periods, behind a hold; a hold, 100 years more."""
    last = max(found.last or 0, found.unsure_until)
    stamped = max(found.reset_at, found.written_at, found.refusals.at, found.refusals.widened_at)
    latest = max(last, found.hold_until, stamped)
    if latest <= now + YEAR_US:
        return
    queue = min(max(YEAR_US, QUEUE * found.keep_us), MAX_PERIOD) + found.keep_us
    held = min(max(now, found.hold_until), now + MAX_PERIOD + YEAR_US)
    if stamped > now + YEAR_US or found.hold_until > held or last > held + queue:
        raise CorruptLog(
            f"its times lie {(latest - now) / YEAR_US:.1f} years ahead of the clock here, if that is right"
        )
