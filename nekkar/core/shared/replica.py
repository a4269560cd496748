"""A replica: what one process knows of the state of a limit, from its reads and from its own writes.

Rules:

- Reads are numbered when they are sent, so that an answer that comes late never counts as the newer one. A write of
  this process that won counts as a read at the time it was sent.
- The snapshot is the newest state seen. It stays while a lost state is recovered: until the write of the recovery won,
  all that this process knows of the time before the loss is in it.
- A state whose times lie far ahead of this clock is refused as corrupt: it would block the limit for as long.
- Where the last read returned the bytes of this process's own last write, nobody else writes. Then the next swap is
  tried once with the token of that write, and without a read: it fails if that is no longer so.

Each value is frozen and replaced whole: the worst of a race between threads is an older snapshot.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from secrets import randbits
from typing import Any, NamedTuple

from nekkar.core.cache import UNREAD
from nekkar.core.errors import CorruptLog
from nekkar.core.quota import MAX_PERIOD, SECOND, Quota
from nekkar.core.window.codec import NOTHING, decode
from nekkar.core.window.recovery import rebuild_after_loss, rebuild_over_newcomer
from nekkar.core.window.rejections import MARGIN_PART
from nekkar.core.window.state import LEAST_HORIZON_US, LimitState

YEAR_US = 366 * 86_400 * SECOND


class Snapshot(NamedTuple):
    """A state, and the read that saw it: its number, and when it was sent."""

    state: LimitState
    number: int
    read_at: int


class Replica:
    """One process's copy of the state under ``key``. Safe between threads.

    ``last_write``: this process's last write and its token, where nobody else seems to write; else None.
    ``on_hold``: called with the end of a hold that this process did not know, and the time.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self.on_hold: Callable[[int, int], None] | None = None
        self.snapshot: Snapshot | None = None
        self._announced_hold = 0
        self.next_number = count(1).__next__  # the number of a read or a write that is about to be sent
        self._bytes: tuple[bytes | None, LimitState] = (None, NOTHING)
        self._written: bytes | None = None
        self._is_sole_writer = False
        self.last_write: tuple[LimitState, Any] | None = None

    @property
    def state(self) -> LimitState | None:
        """The newest state seen."""
        return self.snapshot.state if self.snapshot else None

    @property
    def read_at(self) -> int:
        """When the newest read was sent; 0 before the first."""
        return self.snapshot.read_at if self.snapshot else 0

    def confirms(self, epoch: int, slot: int) -> bool:
        """Whether the newest state is still of this epoch, and holds no calls back at this slot (rule 9)."""
        known = self.snapshot
        return known is not None and known.state.epoch == epoch and known.state.hold_until <= slot

    def decoded(self, raw: bytes, now: int) -> LimitState:
        """Decode a state, unless these are the bytes that this process saw or wrote last; raises CorruptLog."""
        known, state = self._bytes
        try:
            found = state if known == raw else decode(raw, state)
            _check_plausible(found, now)
        except CorruptLog as error:
            remedy = "delete the key to start afresh, or call reset() of the limit"
            raise CorruptLog(f"cache key {self.key!r}: {error}; {remedy}") from error
        self._is_sole_writer = raw == self._written
        if not self._is_sole_writer:
            self.last_write = None
        self._bytes = (raw, found)
        return found

    def will_write(self, raw: bytes, state: LimitState) -> None:
        """Remember the bytes of a write that is about to be sent; until it won, no token is known."""
        self._bytes, self._written, self.last_write = (raw, state), raw, None

    def record(self, state: LimitState, number: int, sent: int, token: Any = None) -> None:
        """Remember what a read found, or a write that won and its ``token``."""
        known = self.snapshot
        if known is None or number > known.number:
            self.snapshot = Snapshot(state, number, sent)
            if known is None or known.state.hold_until != state.hold_until:
                self._announce_hold(state.hold_until, sent)
        if token is not None:
            self.last_write = (state, token) if self._is_sole_writer and token is not UNREAD else None

    def moved(self, by: int) -> None:
        """Follow a clock that was set by ``by`` µs: the time of the last read moves with it."""
        self.last_write, self._is_sole_writer = None, False
        if self.snapshot:
            self.snapshot = self.snapshot._replace(number=self.next_number(), read_at=self.snapshot.read_at + by)

    def known(self, found: LimitState | None, quota: Quota, horizon_us: int, now: int) -> tuple[LimitState, bool]:
        """Return the state to continue from, and whether that recovers from a loss (rules 16 and 17).

        A state that recovers from a loss must be written.
        """
        known = self.snapshot
        if found and (known is None or known.state.epoch == found.epoch):
            return found.with_quota(quota, horizon_us), False
        known = known if known and now < known.state.expires_at else None
        if found is None:
            if known is None:
                return LimitState(randbits(63), is_fresh=True).with_quota(quota, horizon_us), True
            rebuilt = rebuild_after_loss(known.state.with_quota(quota, horizon_us), known.read_at, now, randbits(63))
            return rebuilt, True
        if known and _began_unseen(found, known):
            mine = known.state.with_quota(quota, horizon_us)
            return rebuild_over_newcomer(found, mine, known.read_at, now, randbits(63)), True
        return found.with_quota(quota, horizon_us), False

    def _announce_hold(self, until: int, now: int) -> None:
        """Announce a hold that is new, or twice as long as the announced one: each of many 429s moves it a little."""
        self._announced_hold = min(self._announced_hold, until)  # less: it was released
        if self.on_hold and until > now + 2 * max(0, self._announced_hold - now):
            self._announced_hold = until
            self.on_hold(until, now)


def _began_unseen(found: LimitState, known: Snapshot) -> bool:
    """Whether a state of another epoch began without what this process knows (rule 17).

    Either a newcomer began it from nothing; or the write that created it was on its way for so long that it is older
    than this process's last read of the epoch before it.
    """
    return found.is_fresh or found.written_at < known.read_at - LEAST_HORIZON_US


def _check_plausible(found: LimitState, now: int) -> None:
    """Refuse a state that no fleet writes: a margin wider than any refusal teaches, or times too far ahead of now.

    Those are hits a year or a thousand periods ahead, behind a hold; a hold, 100 years more.
    """
    longest = found.rates[-1].period_us if found.rates else 0
    if found.rejections.margin_us > longest // MARGIN_PART:
        raise CorruptLog(
            f"its learned margin of {found.rejections.margin_us / SECOND:g} s is over a quarter of its longest period,"
            f" {longest / SECOND:g} s"
        )
    times = [found.hits.last_at or 0, found.assumed_until, *(place.ready for place in found.places)]
    last, written = max(times), max(found.written_at, found.rejections.at, found.rejections.widened_at)
    latest = max(last, found.hold_until, written)
    if latest <= now + YEAR_US:
        return
    queue = min(max(YEAR_US, 1000 * found.retention_us), MAX_PERIOD) + found.retention_us
    held = min(max(now, found.hold_until), now + MAX_PERIOD + YEAR_US)
    if written > now + YEAR_US or found.hold_until > held or last > held + queue:
        raise CorruptLog(
            f"its times lie {(latest - now) / YEAR_US:.1f} years ahead of the clock here, if that is right"
        )
