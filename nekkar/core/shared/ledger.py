"""The ledger: one limit's state in one cache, changed by compare-and-swap.

Read the state, apply a pure change, and write it back only if nobody else did. After a lost swap read again, after a
random pause that grows with the lost swaps. All that touches the cache is a generator of cache calls, so that one body
serves threads and event loops, and a test can interleave any number of callers step by step.

Rules (numbered as in docs/concepts/faults.md):

15. A write whose answer was lost may have landed. The next read tells: what was booked has its owner's name on it.
16. If the state is lost, the process that finds it gone writes what it remembers (``window/recovery.py``).
20. A pause comes after a lost swap, never before the first try.

17, a state that a newcomer began, is in ``replica.py``, and 18, how soon a hold or a reset is seen, in ``turn.py``.
"""

from __future__ import annotations

from dataclasses import replace
from secrets import randbits
from typing import Any

from nekkar.core.clock import Clock, ClockWatch, ReadClock
from nekkar.core.cost import Hits
from nekkar.core.errors import CacheError, CorruptLog
from nekkar.core.quota import SECOND, Quota
from nekkar.core.runtime.effects import Backoff, CacheCall, CacheSteps
from nekkar.core.shared.account import Change, Edit
from nekkar.core.shared.latency import CacheLatency
from nekkar.core.shared.notices import Notices
from nekkar.core.shared.replica import YEAR_US, Replica
from nekkar.core.shared.store import Store
from nekkar.core.window.codec import encode
from nekkar.core.window.recovery import rebuild_after_loss
from nekkar.core.window.state import MOST_HORIZON_US, LimitState

MOST_LOST_SWAPS = 500


class Edited:
    """A change that is a pure function of the state and the time."""

    def __init__(self, edit: Edit) -> None:
        self._edit = edit

    def apply(self, state: LimitState, now: int, read_at: int | None, *, is_recovery: bool) -> LimitState | None:
        edited = self._edit(state, now)
        return None if edited is state and not is_recovery else edited

    def won(self, state: LimitState, sent: int, now: int) -> None:
        pass

    def unanswered(self) -> None:
        pass


class Ledger:
    """One process's account of one limit, for all its lines. Safe between threads.

    Its own state is a few frozen values, each replaced whole: the worst that a race can do is leave an older read.
    ``reads_clock``: whether this ledger reads a clock that must be read now and then.
    """

    is_on = False

    def __init__(self, store: Store, key: str, quota: Quota, clock: Clock, reads_clock: bool = True) -> None:
        self.store, self.key, self.quota, self.clock = store, key, quota, clock
        self.in_process = store.in_process
        self._read_clock = clock if reads_clock and isinstance(clock, ReadClock) else None
        self.replica = Replica(key)
        self.latency = CacheLatency(store.in_process)
        self._notices = Notices(key, quota)
        self.keep_time = ClockWatch(clock, self.replica.moved).keep

    @property
    def state(self) -> LimitState | None:
        """The newest state seen; None before the first."""
        return self.replica.state

    @property
    def read_at(self) -> int:
        """When the read that saw the newest state was sent; 0 before the first."""
        return self.replica.read_at

    def started(self, at: int, cost: Hits) -> None:
        """Take note of a call of this process that starts at its slot: the state has it already."""

    def clock_is_due(self) -> bool:
        """Whether the clock is to be read before anything is booked."""
        return self._read_clock is not None and self._read_clock.is_due()

    # Steps.

    def sync_clock(self) -> CacheSteps[None]:
        """Read the clock where that is due; raises CacheError where its time is not known and can't be read."""
        if self._read_clock and self.clock_is_due():
            yield CacheCall(self._read_clock.read)

    def last_write(self) -> tuple[LimitState, Any] | None:
        """Return this process's last write and its token, where nobody else seems to write; else None."""
        return None if self.clock_is_due() else self.replica.last_write

    def write_over(self, planned: LimitState, token: Any) -> CacheSteps[int | None]:
        """Write a state over the last write, once; return when that was answered, None where somebody else wrote."""
        number, sent = self.replica.next_number(), self.clock.now_us()  # a task's caller came before its thread did
        won, answered = yield from self._swap(planned, token, planned.expires_at, sent)
        if won is None:
            return None
        self.replica.record(planned, number, sent, won)
        return answered

    def update(self, change: Change, is_answered: bool = True) -> CacheSteps[None]:
        """Change the state, again and again until no other process's swap came between.

        ``is_answered``: whether the cache answered the last command. Raises CacheError where it does not answer twice
        in a row, or after 500 lost swaps.
        """
        lost, doubted, is_asked_again = 0, None, False
        written = self.replica.last_write
        while lost < MOST_LOST_SWAPS:
            number, sent = self.replica.next_number(), self.clock.now_us()
            found, token = written or (yield from self._read(sent))
            now = sent if written else self.clock.now_us()
            if found is None and not is_asked_again and now - sent > self.latency.horizon_us // 2:
                is_asked_again = True  # the first command connects too, so nobody knows how old its answer is
                continue
            base, is_recovery = self._known(found, sent, now, doubted)
            if not is_recovery and not written:
                self.replica.record(base, number, sent)
            planned = change.apply(base, now, None if written else sent, is_recovery=is_recovery)
            if planned is None:
                if not written:
                    return
                written = None  # without a read nothing tells whether this is still the state
                continue
            if planned.written_at != now:
                planned = replace(planned, written_at=now)
            number = self.replica.next_number()
            try:
                won, answered = yield from self._swap(planned, token, _kept_until(planned, base), now)
                is_answered = True
            except BaseException as error:
                change.unanswered()  # also after an interrupt: the swap may have won, its settlements with it (rule 33)
                if not (is_answered and isinstance(error, CacheError)):
                    raise
                won, answered, is_answered = None, self.clock.now_us(), False  # rule 15: the next read tells if it won
            may_have_won = won is not None or not is_answered
            if may_have_won and self._began_late(found, sent, now, answered):
                doubted = planned.epoch
            elif won is not None:
                self.replica.record(planned, number, now, won)
                change.won(planned, now, answered)
                return
            elif is_answered and not written:
                lost += 1
                yield Backoff(self.latency.backoff_us(lost))  # rule 20: only after a lost swap
            written = None
        raise CacheError(
            f"cache key {self.key!r}: lost {MOST_LOST_SWAPS} swaps in a row; share it among fewer processes"
        )

    def peek(self) -> CacheSteps[tuple[LimitState, int]]:
        """Return the state as the next booking would find it, and the time; writes nothing."""
        yield from self.sync_clock()
        number, sent = self.replica.next_number(), self.clock.now_us()
        found, _ = yield from self._read(sent)
        now = self.clock.now_us()
        state, is_recovery = self._known(found, sent, now)
        if not is_recovery:
            self.replica.record(state, number, sent)
        return state, now

    def edit(self, edit: Edit) -> CacheSteps[None]:
        """Change the state by a pure function; nothing is written where it returns the state itself."""
        yield from self.sync_clock()
        yield from self.update(Edited(edit))

    def reset(self) -> CacheSteps[None]:
        """Start afresh, also over a corrupt value: earlier bookings no longer count. Lines keep their places.

        A place whose turn is far ahead is dropped: beside it, a state without long periods would look corrupt. Its line
        takes a new one.
        """

        def afresh(state: LimitState, now: int) -> LimitState:
            places = tuple(place for place in state.places if place.ready <= now + YEAR_US // 2)
            return LimitState(randbits(63), places=places, horizon_us=state.horizon_us)

        try:
            yield from self.edit(afresh)
        except CorruptLog:
            yield from self.store.clear(self.key)
            yield from self.edit(afresh)

    # Parts of the above.

    def _read(self, sent: int) -> CacheSteps[tuple[LimitState | None, Any]]:
        raw, token = yield from self.store.read(self.key)
        now = self.clock.now_us()
        if not self.latency.is_measured and (round_trip_us := getattr(self._read_clock, "round_trip_us", None)):
            self.latency.expect(min(round_trip_us, now - sent))  # a busy machine makes either of them long
        self.latency.record_read(now - sent)
        if raw is None:
            return None, token
        found = self.replica.decoded(raw, now)
        self._notices.look(found, now)
        return found, token

    def _known(
        self, found: LimitState | None, sent: int, now: int, doubted: int | None = None
    ) -> tuple[LimitState, bool]:
        """Return the state to continue from, and whether that recovers from a loss.

        ``doubted``: the epoch of a state that this process began, so slowly that another one may have come, been used
        and been lost meanwhile.
        """
        if found and found.epoch == doubted:
            return rebuild_after_loss(found, sent, now, randbits(63)), True
        return self.replica.known(found, self.quota, self.latency.horizon_us, now)

    def _swap(self, planned: LimitState, token: Any, until: int, sent: int) -> CacheSteps[tuple[Any, int]]:
        """Write a state that lives ``until`` then; return its token, None where the swap was lost; and when."""
        raw = encode(planned)
        self.replica.will_write(raw, planned)
        won = yield from self.store.swap(self.key, raw, token, (until - sent) // SECOND + 2)
        answered = self.clock.now_us()
        if not self.in_process:
            self.latency.record_swap(answered - sent)
        return won, answered

    def _began_late(self, found: LimitState | None, sent: int, now: int, answered: int) -> bool:
        """Whether this process created the state so slowly that another one may have come and gone meanwhile.

        That is, its read and its swap took longer than a horizon, and than a far cache explains: eight times the
        quicker of the two.
        """
        if found is not None:
            return False
        read_us, swap_us = now - sent, answered - now
        # In this process nothing is on its way: a busy machine alone stops a call for a tenth of a second.
        longest = MOST_HORIZON_US // 2 if self.in_process else self.latency.horizon_us
        return read_us + swap_us > max(longest, 8 * min(read_us, swap_us))


def _kept_until(planned: LimitState, base: LimitState) -> int:
    """Return until when a state is kept that replaces ``base``; a reset must not expire while others remember more."""
    if base.places or (base.rates, base.hold_until) != (planned.rates, planned.hold_until):
        return max(planned.expires_at, base.expires_at)
    return planned.expires_at
