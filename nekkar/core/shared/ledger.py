"""The ledger: one limit's log in one cache, changed by compare-and-swap.

Read the log, apply a pure change, write it back only if nobody else did; on a conflict read again, after a random pause
that grows with the conflicts. Everything that touches the cache is a generator that yields the cache calls, so that one
body serves threads and event loops, and a test interleaves any number of callers step by step. Rules:

- A write whose answer was lost may have landed. If the next read finds its nonce, it did; otherwise
  book again: the worst is a slot unused, never one over. A second answer lost in a row is an error; finding
  the first slot too late to be used does not end the row, or each try would book one more.
- A hit is unbooked only in the slot's own epoch, only until one horizon after its time, and once:
  never repeated after a lost answer.
- Each process remembers the last log it saw, its mirror. Where the log is gone before its time, the
  mirror is written under a new epoch, with the worst assumed of what it could not see. A process that
  meets an epoch new to it merges its mirror in, once. A log created too late counts as lost.
- A slot is good only in its own epoch, under no hold, and where the log was looked at within the
  horizon before it.

test_ledger.py breaks the rules on unbooking, loss, epochs and looks on purpose, and sees the promise broken.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from secrets import randbits
from typing import Any, TypeVar

from nekkar.core.clock import Clock, ReadClock
from nekkar.core.errors import CacheError, CorruptLog
from nekkar.core.quota import SECOND, Quota
from nekkar.core.runtime.effects import Call, Pause, Steps
from nekkar.core.shared.fallback import Alone, Outage
from nekkar.core.shared.latency import Pace, crowded
from nekkar.core.shared.notices import Notices
from nekkar.core.shared.replica import View, expires_at
from nekkar.core.shared.store import Store
from nekkar.core.window.booking import Answer, Ask, Slot, booked
from nekkar.core.window.codec import encode
from nekkar.core.window.feedback import Word, heard, held
from nekkar.core.window.state import HitLog

MOST_CONFLICTS, UNREAD_TRY = 500, -1

log = logging.getLogger("nekkar")
T = TypeVar("T")
Answers = list[Answer]
Plan = Callable[[HitLog, int, bool], tuple[HitLog, Answers]]  # the log, now, whether an answer was lost
Doubt = tuple[int, Answers]  # a write whose answer was lost: its nonce, and what it gave if it landed


class Ledger:
    """One process's account of one limit; shared by its lines. Safe between threads.

    Its state is a few frozen values, each replaced whole: the worst of a race is an older look.
    """

    def __init__(self, store: Store, key: str, quota: Quota, clock: Clock, outage: Outage | None = None) -> None:
        self.store, self.key, self.quota, self.clock = store, key, quota, clock
        self._read_clock = clock if isinstance(clock, ReadClock) else None
        self.clock_is_due: Callable[[], bool] = self._read_clock.is_due if self._read_clock else bool
        self.alone = Alone(outage or Outage(), key, quota)
        self.view = View(key)
        self._notices, self._loses_answers = Notices(key, quota), False
        self.pace = Pace()

    def no_slot_before(self, cost: int, hits: int, calls: int) -> int:
        """Return a lower bound of a call's slot behind ``calls`` others of ``hits``, as far as the mirror shows."""
        if self.alone.is_on:
            return self.alone.no_slot_before(cost, hits, calls)
        known = self.view.log
        return known.no_slot_before(self.quota, cost, hits, calls) if known else 0

    def wake_at(self, slot: Slot) -> int:
        """Return when a caller wakes to look at the log before its slot."""
        return self.alone.wake_at(slot.at - self.pace.ahead_us)

    def good_until(self, slot: Slot) -> int:
        """Return until when a caller may start on its slot; the margin's other half is the way's."""
        return slot.at + self.quota.margin_us // 2

    def is_stale(self, slot: Slot) -> bool:
        """Whether the log could have changed since the newest look, over a start at the slot, or now if it is past."""
        return self.view.is_stale(max(slot.at, self.clock.now_us()), self.pace.horizon_us)

    def vouches(self, slot: Slot) -> bool:
        """Whether the newest look still showed the slot's epoch, and no hold over the slot."""
        return self.view.vouches(slot)

    # Steps.

    def know_time(self) -> Steps[None]:
        """Read the clock where that is due, for a caller that comes; see ``check``."""
        yield from self._unless_away(self.read_clock())

    def read_clock(self) -> Steps[None]:
        """Read the clock where that is due; raises CacheError where its time is not known and can't be read."""
        if self._read_clock and self.clock_is_due():
            yield Call(self._read_clock.read, ())

    def look(self) -> Steps[tuple[HitLog | None, Any]]:
        """Read the log, and the token to swap it with; raises CacheError, or CorruptLog."""
        if self.clock_is_due():
            yield from self.read_clock()
        order, sent = self.view.order(), self.clock.now_us()
        raw, token = yield from self.store.read(self.key)
        answered = self.clock.now_us()
        self.pace.read_took(answered - sent)
        found = None if raw is None else self.view.decoded(raw, answered)
        self.view.saw(order, sent, found)
        if found:
            self._notices.look(found, answered)
        if self.alone.outage.is_on and not self._loses_answers:
            self.alone.outage.ends()
        return found, token

    def check(self) -> Steps[None]:
        """Look, for a caller whose slot comes. In an outage that the user provided for this raises nothing."""
        yield from self._unless_away(self.look())

    def book(self, asks: Sequence[Ask], returned: Sequence[Slot] = (), spare: int = 0) -> Steps[Answers]:
        """Unbook ``returned`` and book for ``asks``, in order, in one swap; return answers for the first of them.

        There is an answer for each whose slot falls within the horizon, and for at least one; and perhaps one
        more, of up to ``spare`` hits. Raises CacheError where the cache can't tell, or after 500 conflicts in a row.
        """

        def plan(base: HitLog, now: int, lost: bool) -> tuple[HitLog, Answers]:
            lead = 0 if self.store.in_process else self.pace.lead_us(self.quota.margin_us)
            base = base if lost else self._without(base, returned, now)
            return booked(base, self.quota, asks, now + lead, now + self.pace.horizon_us, spare)

        answers = yield from self._unless_away(self._swap(plan))
        if answers is not None:
            self.alone.counts(answers, returned)
            return answers
        now = self.clock.now_us()
        answers = self.alone.book(asks, returned, now, now + self.pace.horizon_us)
        self._is_alone(now)
        return answers

    def hold(self, seconds_us: int) -> Steps[None]:
        """Let no slot be given for so long from now; a longer hold stays."""
        yield from self._swap(lambda base, now, lost: (held(base, now + seconds_us), []))

    def hear(self, word: Word) -> Steps[None]:
        """Put in the log what a service said; in an outage that was provided for, this process alone keeps to it."""
        steps = self._swap(lambda base, now, lost: (heard(base, self.quota, word, now), []))
        if (yield from self._unless_away(steps)) is None:
            self.alone.hears(word, self.clock.now_us())
            self._is_alone(self.clock.now_us())

    def release(self) -> Steps[None]:
        """End a hold for those who have not booked behind it yet."""
        yield from self._swap(lambda base, now, lost: (replace(base, hold_until=0), []))

    def reset(self) -> Steps[None]:
        """Start afresh, over what is no log too: what was booked before counts no more, whoever remembers it."""

        def plan(base: HitLog, now: int, lost: bool) -> tuple[HitLog, Answers]:
            return HitLog(randbits(63), reset_at=now).joined(self.quota, base.horizon_us), []

        try:
            yield from self._swap(plan)
        except CorruptLog:
            yield from self.store.clear(self.key)
            yield from self._swap(plan)

    def current(self) -> Steps[tuple[HitLog, int]]:
        """Return the log as the next booking would find it, and the time; writes nothing."""
        found, _ = yield from self.look()
        now = self.clock.now_us()
        return self.view.recalled(found, self.quota, self.pace.horizon_us, now), now

    # Parts of the above.

    def _unless_away(self, steps: Steps[T]) -> Steps[T | None]:
        """Take steps; where the cache is away and the user provided for that, go on alone and return None."""
        sent = self.clock.now_us()
        if self.alone.waits(sent):
            steps.close()
        else:
            try:
                return (yield from steps)
            except CacheError as error:
                self.alone.begins(error, self.view.log, sent, self.clock.now_us())
                if not self.alone.is_on:
                    raise
        self._is_alone(sent)
        return None

    def _is_alone(self, now: int) -> None:
        """An outage is an epoch of its own, and this process the only one to write its log."""
        self.view.looks_at(self.alone.log, now, self.pace.horizon_us)

    def _swap(self, plan: Plan) -> Steps[Answers]:
        """Change the log by ``plan``, again and again until no other process's swap came between."""
        doubt: Doubt | None = None
        own = None if self.alone.outage.is_on or self.clock_is_due() else self.view.own()
        for conflicts in range(UNREAD_TRY if own else 0, MOST_CONFLICTS):
            if most := self._most_pause(conflicts):
                yield Pause(int(random.uniform(0, most)))
            found, token = own or (yield from self.look())
            own = None
            if doubt and found and found.nonce == doubt[0] and not self.view.doubts(found):
                return self._landed(found, doubt[1])
            outcome = yield from self._change(plan, found, token, doubt, conflicts)
            if isinstance(outcome, list):
                return outcome
            doubt = outcome or doubt
        raise CacheError(
            f"cache key {self.key!r}: lost {MOST_CONFLICTS} swaps in a row; share it among fewer processes"
        )

    def _change(
        self, plan: Plan, found: HitLog | None, token: Any, doubt: Doubt | None, conflicts: int
    ) -> Steps[Answers | Doubt | None]:
        """Write what ``plan`` makes of a log; return the answers, None if it changed meanwhile, or the doubt."""
        order, now = self.view.order(), self.clock.now_us()
        base = self.view.recalled(found, self.quota, self.pace.horizon_us, now)
        base = self.alone.merged(base, now, self.quota.margin_us)
        planned, answers = plan(base, now, doubt is not None)
        if planned is base and found and not self.alone.is_on:
            return None if conflicts == UNREAD_TRY else answers  # unread, no write tells whether the log still stands
        written = planned.stamped(randbits(63), crowded(planned.crowd, max(0, conflicts)), now)
        if found is None:
            self.view.creates(written.epoch, now, self.pace.horizon_us)
        try:
            won = yield from self._write(written, token, now)
        except CacheError as error:
            self._check_answers(error, doubt is not None)
            return written.nonce, answers
        except GeneratorExit:
            raise
        except BaseException:
            yield from self._take_back(written.nonce, answers)
            raise
        answered = self.clock.now_us()
        self.pace.swap_took(answered - now)
        self.view.meets(written.epoch, answered)
        lost = won is None or self.view.doubts(written)
        return None if lost else self._won(written, answers, order, answered, won)

    def _without(self, base: HitLog, returned: Sequence[Slot], now: int) -> HitLog:
        for slot in returned:
            if slot.epoch == base.epoch and now <= slot.at + self.pace.horizon_us:
                base = base.unbook(slot.at, slot.cost)
        return base

    def _write(self, written: HitLog, token: Any, now: int) -> Steps[Any]:
        raw, ttl = encode(written), (expires_at(written, now) - now) // SECOND + 2
        self.view.wrote(raw, written)
        return self.store.swap(self.key, raw, token, ttl)

    def _won(self, written: HitLog, answers: Answers, order: int, answered: int, token: Any) -> Answers:
        self._loses_answers = False
        self.pace.booked(late=self._is_late(answers, answered))
        self.view.saw(order, written.written_at, written, swapped=True)
        self.view.won(written, token)
        self.alone.ends()
        return answers

    def _landed(self, found: HitLog, answers: Answers) -> Answers:
        """Go on as after a write that won: the log shows that one did, though its answer was lost."""
        now = self.clock.now_us()
        self.view.saw(self.view.order(), now, found, swapped=True)
        self.alone.ends()
        self._loses_answers = self._is_late(answers, now)
        return answers

    def _check_answers(self, error: CacheError, lost: bool) -> None:
        """Raise where the answer before this one was lost too."""
        if lost or self._loses_answers:
            self._loses_answers = True
            raise error

    def _is_late(self, answers: Answers, now: int) -> bool:
        """Whether the first slot is good no more."""
        first = next((answer for answer in answers if isinstance(answer, Slot)), None)
        return first is not None and now > self.good_until(first)

    def _take_back(self, nonce: int, answers: Answers) -> Steps[None]:
        """After an interrupted write: undo it where it landed and is still the newest."""
        try:
            found, token = yield from self.look()
            if found is None or found.nonce != nonce:
                return
            now = self.clock.now_us()
            undone = self._without(found, [answer for answer in answers if isinstance(answer, Slot)], now)
            yield from self._write(undone.stamped(randbits(63), found.crowd, now), token, now)
        except CacheError as error:
            log.warning("cache key %r: an interrupted call leaves its slot unused: %s", self.key, error)

    def _most_pause(self, conflicts: int) -> int:
        """Return the longest random pause where swaps have lately met others; less for who has lost already."""
        known = self.view.log
        if not known or not known.crowd or self.store.in_process:
            return 0
        return self.pace.pause_us(known.crowd) >> min(max(0, conflicts), 3)
