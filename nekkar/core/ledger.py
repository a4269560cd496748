"""The ledger: one limit's log in one cache, changed by compare-and-swap.

Read the log, apply a pure change, write it back only if nobody else did; on a conflict read again,
after a random pause that grows with the conflicts. Everything that touches the cache is a generator
that yields the cache calls, so that one body serves threads and event loops, and a test interleaves
any number of callers step by step. Rules:

- A write whose answer was lost may have landed. If the next read finds its nonce, it did; otherwise
  book again: the worst is a slot unused, never one over.
- A hit is unbooked only in the slot's own epoch, only until one horizon after its time, and once:
  never repeated after a lost answer.
- Each process remembers the last log it saw, its mirror. Where the log is gone before its time, the
  mirror is written under a new epoch, with the worst assumed of what it could not see. A process that
  meets an epoch new to it merges its mirror in, once.
- A slot is good only in its own epoch, under no hold, and where the log was looked at within the
  horizon before it.

test_ledger.py breaks the rules on unbooking, loss, epochs and looks on purpose, and sees the promise broken.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from secrets import randbits
from typing import Any

from nekkar.core.clock import Clock
from nekkar.core.codec import decode, encode
from nekkar.core.effects import Pause, Steps
from nekkar.core.errors import CacheError, CorruptLog
from nekkar.core.log import LINGER_US, HitLog
from nekkar.core.pace import Pace, crowded
from nekkar.core.rate import SECOND, Quota
from nekkar.core.slots import Ask, Refusal, Slot
from nekkar.core.store import Store

MOST_CONFLICTS = 500

log = logging.getLogger("nekkar")


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
    """The newest log seen in the epoch that this process follows, and which look saw it, sent when."""

    log: HitLog
    order: int
    looked: int


Answers = list[Slot | Refusal]
Plan = Callable[[HitLog, int, bool], tuple[HitLog, Answers]]  # the log, now, whether an answer was lost


class Ledger:
    """One process's account of one limit; shared by its lines. Safe between threads.

    Its state is a few frozen values, each replaced whole: the worst of a race is an older look.
    """

    def __init__(self, store: Store, key: str, quota: Quota, clock: Clock) -> None:
        self.store, self.key, self.quota, self.clock = store, key, quota, clock
        self.mirror: Mirror | None = None
        self.seen = Look(0, 0, None, 0, 0)
        self._looks = count(1)
        self.pace = Pace()
        self._newest: tuple[bytes, HitLog] | None = None
        self._said = False

    def no_slot_before(self, cost: int, hits: int, calls: int) -> int:
        """Return a lower bound of a call's slot behind ``calls`` others of ``hits``, as far as the mirror shows."""
        known = self.mirror
        return known.log.no_slot_before(self.quota, cost, hits, calls) if known else 0

    def good_until(self, slot: Slot) -> int:
        """Return until when a caller may start on its slot; the margin's other half is the way's."""
        return slot.at + self.quota.margin_us // 2

    def is_stale(self, slot: Slot) -> bool:
        """Whether the log could have changed over the slot since the newest look at it."""
        return slot.at - self.seen.sent > min(self.seen.horizon_us, self.pace.horizon_us)

    def vouches(self, slot: Slot) -> bool:
        """Whether the newest look still showed the slot's epoch, and no hold over the slot."""
        return self.seen.epoch == slot.epoch and self.seen.hold_until <= slot.at

    # Steps.

    def look(self) -> Steps[tuple[HitLog | None, Any]]:
        """Read the log, and the token to swap it with; raises CacheError, or CorruptLog."""
        order, sent = next(self._looks), self.clock.now_us()
        raw, token = yield from self.store.read(self.key)
        self.pace.read_took(self.clock.now_us() - sent)
        found = None if raw is None else self._decoded(raw)
        self._saw(order, sent, found)
        return found, token

    def book(self, asks: Sequence[Ask], returned: Sequence[Slot] = ()) -> Steps[Answers]:
        """Unbook ``returned`` and book for ``asks``, in order, in one swap; return answers for the first of them.

        There is an answer for each whose slot falls within the horizon, and for at least one.
        Raises CacheError where the cache can't tell, or after 500 conflicts in a row.
        """

        def plan(base: HitLog, now: int, lost: bool) -> tuple[HitLog, Answers]:
            return self._plan(base if lost else self._without(base, returned, now), asks, now)

        return (yield from self._swap(plan))

    def hold(self, seconds_us: int) -> Steps[None]:
        """Let no slot be given for so long from now; a longer hold stays."""

        def plan(base: HitLog, now: int, lost: bool) -> tuple[HitLog, Answers]:
            return replace(base, hold_until=max(base.hold_until, now + seconds_us)), []

        yield from self._swap(plan)

    def release(self) -> Steps[None]:
        """End a hold for those who have not booked behind it yet."""
        yield from self._swap(lambda base, now, lost: (replace(base, hold_until=0), []))

    def reset(self) -> Steps[None]:
        """Start afresh: what was booked before counts no more, whoever remembers it."""

        def plan(base: HitLog, now: int, lost: bool) -> tuple[HitLog, Answers]:
            return HitLog(randbits(63), reset_at=now).joined(self.quota, base.horizon_us), []

        yield from self._swap(plan)

    def current(self) -> Steps[tuple[HitLog, int]]:
        """Return the log as the next booking would find it, and the time; writes nothing."""
        found, _ = yield from self.look()
        now = self.clock.now_us()
        return self._current(found, now), now

    # Parts of the above.

    def _swap(self, plan: Plan) -> Steps[Answers]:
        """Change the log by ``plan``, again and again until no other process's swap came between."""
        doubt: tuple[int, Answers] | None = None
        for conflicts in range(MOST_CONFLICTS):
            yield from self._pause(conflicts)
            found, token = yield from self.look()
            order, now = next(self._looks), self.clock.now_us()
            if doubt and found and found.nonce == doubt[0]:
                self._saw(order, now, found, swapped=True)
                return doubt[1]
            base = self._current(found, now)
            planned, answers = plan(base, now, doubt is not None)
            if planned is base and found:
                return answers
            written = replace(planned, nonce=randbits(63), crowd=crowded(planned.crowd, conflicts))
            won = yield from self._try(written, token, now, answers)
            if isinstance(won, CacheError):
                if doubt:
                    raise won
                doubt = (written.nonce, answers)
            elif won is not None:
                self._won(written, answers, order, now)
                return answers
        raise CacheError(
            f"cache key {self.key!r}: lost {MOST_CONFLICTS} swaps in a row; share it among fewer processes"
        )

    def _decoded(self, raw: bytes) -> HitLog:
        """Decode a log, unless these are the bytes that this process saw or wrote last."""
        known = self._newest
        if known and known[0] == raw:
            return known[1]
        try:
            found = decode(raw)
        except CorruptLog as error:
            raise CorruptLog(f"cache key {self.key!r}: {error}; delete the key to start afresh") from error
        self._newest = (raw, found)
        return found

    def _current(self, found: HitLog | None, now: int) -> HitLog:
        """Return the log to change: what was found, and what only this process still knows."""
        known = self.mirror
        if found is None:
            if known is None or now >= known.log.dies_at:
                return HitLog(randbits(63)).joined(self.quota, self.pace.horizon_us)
            joined = known.log.joined(self.quota, self.pace.horizon_us)
            return joined.recovered(known.looked, now, randbits(63))
        if known and known.log.epoch != found.epoch:
            found = found.merge(known.log)
        return found.joined(self.quota, self.pace.horizon_us).forget(now)

    def _without(self, base: HitLog, returned: Sequence[Slot], now: int) -> HitLog:
        for slot in returned:
            if slot.epoch == base.epoch and now <= slot.at + self.pace.horizon_us:
                base = base.unbook(slot.at, slot.cost)
        return base

    def _plan(self, log: HitLog, asks: Sequence[Ask], now: int) -> tuple[HitLog, Answers]:
        lead = 0 if self.store.in_process else self.pace.lead_us(self.quota.margin_us)
        soonest, horizon = now + lead, now + self.pace.horizon_us
        answers: Answers = []
        booked = False
        for ask in asks:
            at = log.earliest(self.quota, ask.cost, soonest)
            if ask.deadline is not None and at > max(ask.deadline, soonest):
                answers.append(Refusal(at))
                continue
            if at > horizon and booked:
                break
            log, booked = log.book(at, ask.cost), True
            answers.append(Slot(at, ask.cost, log.epoch))
        return log, answers

    def _try(self, written: HitLog, token: Any, now: int, answers: Answers) -> Steps[Any]:
        """Write; return the new token, None, or the error where the answer was lost. An interrupted write is undone."""
        try:
            return (yield from self._write(written, token, now))
        except CacheError as error:
            return error
        except GeneratorExit:
            raise
        except BaseException:
            yield from self._take_back(written.nonce, answers)
            raise

    def _write(self, written: HitLog, token: Any, now: int) -> Steps[Any]:
        ttl = max(written.dies_at - now, written.keep_us + LINGER_US) // SECOND + 2
        raw = encode(written)
        self._newest = (raw, written)
        return self.store.swap(self.key, raw, token, ttl)

    def _won(self, written: HitLog, answers: Answers, order: int, now: int) -> None:
        answered = self.clock.now_us()
        first = next((answer for answer in answers if isinstance(answer, Slot)), None)
        self.pace.swap_took(answered - now, late=first is not None and answered > self.good_until(first))
        self._saw(order, now, written, swapped=True)

    def _saw(self, order: int, sent: int, found: HitLog | None, swapped: bool = False) -> None:
        """Remember a look; the mirror follows into a new epoch only by a swap that merged it in."""
        if order > self.seen.order:
            told = (found.epoch, found.hold_until, found.horizon_us) if found else (None, 0, 0)
            self.seen = Look(order, sent, *told)
        known = self.mirror
        newer = known is None or swapped or (order > known.order and found and found.epoch == known.log.epoch)
        if found and newer:
            self.mirror = Mirror(found, order, sent)
        others = sorted(set(found.windows) - set(self.quota.rates)) if found and not self._said else []
        if others:
            self._said = True
            elsewhere = "; ".join(map(str, others))
            log.warning("cache key %r has other limits elsewhere: %s, and %s here", self.key, elsewhere, self.quota)

    def _take_back(self, nonce: int, answers: Answers) -> Steps[None]:
        """After an interrupted write: undo it where it landed and is still the newest."""
        try:
            found, token = yield from self.look()
            if found is None or found.nonce != nonce:
                return
            undone = replace(found, nonce=randbits(63))
            for answer in answers:
                undone = undone.unbook(answer.at, answer.cost) if isinstance(answer, Slot) else undone
            yield from self._write(undone, token, self.clock.now_us())
        except CacheError as error:
            log.warning("cache key %r: an interrupted call leaves its slot unused: %s", self.key, error)

    def _pause(self, conflicts: int) -> Steps[None]:
        """Let a random time pass where swaps have lately met others; less for who has lost already."""
        known = self.mirror
        most = self.pace.pause_us(known.log.crowd) if known and not self.store.in_process else 0
        if most:
            yield Pause(int(random.uniform(0, most >> min(conflicts, 3))))


def cache_key(name: str) -> str:
    """Return the key of a limit: its name where every cache takes it, else a hash of it."""
    if len(name) <= 200 and name.isascii() and name.isprintable() and " " not in name:
        return f"nekkar:{name}"
    return f"nekkar:#{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()}"
