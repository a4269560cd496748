"""The turns of a line, one at a time: begun by the caller at its head, and taken to their end by steps of their own.

Two turns at once do no harm: each swaps, and surplus bookings go back. So no caller waits for a turn that has died or
takes too long: it begins another one beside it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from weakref import ref

from nekkar.core.errors import CacheError
from nekkar.core.quota import SECOND
from nekkar.core.runtime.effects import CacheSteps, Event, QueueSteps, RunSteps, WaitUntil, is_under_way
from nekkar.core.shared.account import Account
from nekkar.core.waiting.assignments import Assignments
from nekkar.core.waiting.callers import Caller, Settling
from nekkar.core.waiting.prefetch import PrefetchedSlots
from nekkar.core.waiting.turn import Turn
from nekkar.core.window.settlement import Settlement

ABANDONED_US = 2 * SECOND  # a turn that takes longer may have lost its thread


class TurnUnderWay:
    """The turn that a line takes now; ``turn`` is None where a call takes the direct way (``direct.py``).

    ``last_ticket``: of the callers it books for. ``begun_at``: µs of ``ticks``. ``steps``: the generator that takes it.
    ``leader``: the caller that is to lead it. ``is_started``: a driver has begun it, so it runs to its end.
    ``is_left``: its leader has gone, so it must wake the others itself. ``has_ended``: it has reported.
    """

    def __init__(self, turn: Turn | None, last_ticket: int, begun_at: int, leader: Caller | None = None) -> None:
        self.turn, self.last_ticket, self.begun_at, self.leader = turn, last_ticket, begun_at, leader
        self.steps: ref[CacheSteps[None]] | None = None
        self.is_started = self.is_left = self.has_ended = False

    @property
    def expected_at(self) -> int:
        """When the turn of the first caller left comes; 0 where that is not known."""
        return self.turn.expected_at if self.turn else 0

    @property
    def is_over(self) -> bool:
        """Whether the turn is dead: it ended without reporting, or never began and never will."""
        if self.is_started:
            return self.steps is None or not is_under_way(self.steps)
        return self.is_left or (self.leader is not None and self.leader.is_gone)


class Turns:
    """Begins and leads turns. ``look_at``: when the line is to look next. ``under_way``: the turn taken now.

    ``wake_all`` wakes the callers for whom something changed. ``on_shift`` gets by how much (µs) a clock moved.
    """

    def __init__(
        self, ledger: Account, assignments: Assignments, prefetched: PrefetchedSlots, lock: threading.RLock,
        wake_all: Callable[[], None], ticks: Callable[[], int],
    ) -> None:  # fmt: skip
        self.ledger, self._assignments, self._prefetched = ledger, assignments, prefetched
        self._lock, self._wake_all, self._ticks = lock, wake_all, ticks
        self.on_shift: Callable[[int], None] = lambda by: None
        self.under_way: TurnUnderWay | None = None
        self.look_at = 0
        self._has_given_up = False  # the last turn did: others won each swap, and no caller waits for the write
        self._is_asked = False  # for a look, since the turn under way began

    def look_now(self) -> None:
        """Have the state looked at once, again where a turn is under way. Called under the lock."""
        self.look_at, self._is_asked = 0, True
        self._assignments.wake_head()

    def begin(self, ticket: int = 0, leader: Caller | None = None) -> TurnUnderWay | None:
        """Return a turn for the caller with this ticket to lead; None while one is under way. Called under the lock."""
        other = self.under_way
        if other and not other.is_over and self._ticks() < other.begun_at + ABANDONED_US:
            return None
        mine = self._assignments
        if self._has_given_up and not (mine.queue.head or mine.settling or mine.exact.open):
            return None
        turn = Turn(self.ledger, self._assignments, self._prefetched, self._lock)
        self._is_asked = self._has_given_up = False
        last = max(ticket, mine.queue.last_ticket)
        self.under_way = TurnUnderWay(turn, last, self._ticks(), leader)
        return self.under_way

    def alone(self, ticket: int) -> TurnUnderWay:
        """Return the turn under way while a call takes the direct way: nobody leads it, so it wakes others itself."""
        under_way = TurnUnderWay(None, ticket, self._ticks())
        under_way.is_started = under_way.is_left = True
        self._is_asked = False
        return under_way

    def settle(self, settlement: Settlement, new_event: Callable[[], Event]) -> QueueSteps[None]:
        """Wait until a settlement is written; raise CacheError if it was not, or may not have been."""
        settling = Settling(settlement)
        with self._lock:
            self._assignments.settle(settling)
        while not settling.is_done:
            with self._lock:
                turn, settling.event = self.begin(), new_event()
            if turn:
                yield from self.lead(turn, shielded=True)
            elif not settling.is_done:  # the turn under way takes it along
                yield WaitUntil(self.ledger.clock.now_us() + SECOND, settling.event)
        self._wake_all()
        if settling.error:
            raise settling.error

    def is_due_for(self, caller: Caller) -> bool:
        """Whether a turn is due, and this caller is to lead it."""
        is_due = self._assignments.must_write or self.ledger.clock.now_us() >= self.look_at
        return is_due and not self.under_way and self._assignments.queue.head is caller

    def lead(self, under_way: TurnUnderWay, shielded: bool = False) -> QueueSteps[None]:
        """Have a turn taken, and wake the others behind its leader."""
        steps = self.take(under_way)
        under_way.steps = ref(steps)
        try:
            yield RunSteps(steps, shielded, self.ledger.in_process)
        finally:
            under_way.is_left = True
            if not under_way.has_ended and under_way.is_over:
                self.end(under_way)
            if self._assignments.to_wake:
                self._wake_all()

    def take(self, under_way: TurnUnderWay, is_answered: bool = True) -> CacheSteps[None]:
        """Update the state: steps that run to their end, in whichever thread they were started.

        ``is_answered``: whether the cache answered the last command.
        """
        turn, mine = self._turn_of(under_way), self._assignments
        under_way.is_started = True
        try:
            while True:
                try:
                    if self.ledger.clock_is_due():
                        yield from self._sync_clock()
                    yield from self.ledger.update(turn, is_answered)
                    is_answered = True
                except CacheError as error:
                    with self._lock:
                        mine.fail([caller for caller in mine.queue if caller.ticket <= under_way.last_ticket], error)
                        mine.were_settled(mine.settling, error)
                        mine.exact.fail(error)
                    return
                finally:
                    turn.ended()
                self._has_given_up = turn.has_given_up
                if self._has_given_up or not mine.must_write:
                    return
                self._wake_all()
        finally:
            self.end(under_way, turn.look_at)

    def _turn_of(self, under_way: TurnUnderWay) -> Turn:
        if under_way.turn is None:
            under_way.turn = Turn(self.ledger, self._assignments, self._prefetched, self._lock)
        return under_way.turn

    def _sync_clock(self) -> CacheSteps[None]:
        """Read the clock. Callers that came before its first reading have times of another clock."""
        before, begun = self.ledger.clock.now_us(), self._ticks()
        yield from self.ledger.sync_clock()
        self.on_shift(self.ledger.clock.now_us() - before - (self._ticks() - begun))

    def end(self, under_way: TurnUnderWay, look_at: int = 0) -> None:
        """Report the end of a turn, and when the line is to look next (0: at once)."""
        with self._lock:
            if self.under_way is under_way:
                self.under_way = None
                self.look_at = (0 if self._is_asked else look_at) or self.ledger.clock.now_us()
            if self._assignments.queue.by_ticket:
                self._assignments.wake_head()
            self._assignments.to_wake += self._assignments.exact.open[:1]
            under_way.has_ended = True
        if under_way.is_left and self._assignments.to_wake:  # else the leader wakes the others, behind itself
            self._wake_all()
