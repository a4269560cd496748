"""The line: the callers of one limit in one process (and one event loop), in order of arrival.

Rules:

- One booking at a time. The caller at the head of the line leads: it books for everybody, one read
  and one swap for all whose slot falls within the horizon, and for at least one. While the process
  holds a slot beyond the horizon nobody books, so a process never hoards the future.
- A caller with a slot sleeps until it. Where the log may have changed over the slot since the newest
  look, it wakes early and reads once. It starts within half the margin of its slot; otherwise it goes
  back to the front of the line, and the next booking unbooks its old hit.
- A caller that leaves passes its slot to the next of equal cost, else it is unbooked. A booking runs to
  its end whatever becomes of the caller that leads it; what it brought for callers gone is passed on.
- Whoever waits in line decides anew each time it wakes, from the state under the lock; waking somebody
  for nothing is harmless, so a caller is woken wherever something may have changed for it.

Like the ledger, one generator over a few effects; drive.py runs it for threads and for tasks.
test_line.py runs it through random schedules of kills, freezes, losses and cancellations.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from nekkar.core.callers import Caller, Queue
from nekkar.core.effects import Effects, Event, Steps, Transact, Wait
from nekkar.core.errors import CacheError, WaitTooLong, copied
from nekkar.core.ledger import Ledger
from nekkar.core.slots import Refusal, Slot

log = logging.getLogger("nekkar")


@dataclass(slots=True, eq=False)
class _Booking:
    leader: Caller
    started: bool = False


class Line:
    """Callers of one limit that share a lock and a way to wake each other.

    ``new_event`` makes what a caller waits on; ``wake`` sets such events, from whatever thread. ``callers``:
    all who wait now, for a slot or until theirs comes.
    """

    def __init__(
        self, name: str, ledger: Ledger, new_event: Callable[[], Event], wake: Callable[[list[Event]], None]
    ) -> None:
        self.name, self.ledger = name, ledger
        self._new_event, self._wake = new_event, wake
        self._lock = threading.RLock()  # a generator finalised by the collector may hold it already
        self._tickets = count(1)
        self._queue = Queue()
        self._returned: list[Slot] = []
        self._booking: _Booking | None = None
        self._furthest = 0
        self._to_wake: list[Caller] = []
        self.callers: set[Caller] = set()

    @property
    def waiting(self) -> int:
        """How many callers stand in line without a slot."""
        return len(self._queue)

    def acquire(self, cost: int, max_wait: float | None) -> Effects[tuple[Slot, int]]:
        """Wait for a slot of ``cost`` hits, at most ``max_wait`` seconds; return it and the µs waited.

        Raises WaitTooLong as soon as the slot is known to lie too far off, and CacheError.
        """
        if self.ledger.clock_is_due():
            yield Transact(self.ledger.read_clock())
        now = self.ledger.clock.now_us()
        deadline = None if max_wait is None else now + round(max_wait * 1e6)
        caller = Caller(next(self._tickets), cost, now, deadline, max_wait)
        self.callers.add(caller)
        try:
            self._join(caller)
            while True:
                if caller.error:
                    raise caller.error
                if caller.slot is None:
                    yield from self._line_up(caller)
                elif (yield from self._arrives(caller, caller.slot)):
                    return caller.slot, self.ledger.clock.now_us() - caller.arrived
        except GeneratorExit:  # dropped by its driver: nothing more can be asked of the cache
            self._leave(caller)
            raise
        except BaseException:
            self._leave(caller)
            if booking := self._unbooking(caller):
                yield from self._lead(booking, shielded=True)
            raise
        finally:
            self.callers.discard(caller)

    # A caller's way: in line, leading, at its slot, leaving.

    def _join(self, caller: Caller) -> None:
        with self._lock:
            at = 0  # the log itself will tell
            if self._queue or not self._may_book(caller.arrived):
                at = self.ledger.no_slot_before(caller.cost, self._queue.hits, len(self._queue))
            if caller.deadline is not None and at > caller.deadline:
                raise self._too_long(caller, at, caller.arrived)
            self._queue.join(caller)

    def _line_up(self, caller: Caller) -> Effects[None]:
        """Lead a booking if it is this caller's turn, else wait for whatever comes first."""
        now = self.ledger.clock.now_us()
        booking = None
        with self._lock:
            if caller.slot or caller.error:
                return
            leads = self._queue.head is caller and not self._booking
            if leads and (self._returned or self._may_book(now)):
                self._booking = booking = _Booking(caller)
            else:
                until = self._patience(caller, now)
                if leads:
                    until = min(self._resume_at, self._resume_at if until is None else until)
                caller.event = event = self._new_event()
        if booking:
            yield from self._lead(booking)
        else:
            yield Wait(until, event)

    def _lead(self, booking: _Booking, shielded: bool = False) -> Effects[None]:
        try:
            yield Transact(self._book(booking), shielded)
        finally:
            self._call_off(booking)

    def _arrives(self, caller: Caller, slot: Slot) -> Effects[bool]:
        """Sleep until the slot and look whether it is still good; if not, go back to the front of the line."""
        ledger = self.ledger
        if ledger.is_stale(slot):
            yield Wait(slot.at - ledger.pace.ahead_us, self._new_event())
            if ledger.is_stale(slot) and ledger.vouches(slot):
                yield Transact(ledger.look())
        while ledger.vouches(slot) and ledger.clock.now_us() < slot.at:
            yield Wait(slot.at, self._new_event())
        if ledger.vouches(slot) and ledger.clock.now_us() <= ledger.good_until(slot):
            return True
        with self._lock:
            caller.slot = None
            self._give_back(slot)
            self._queue.rejoin(caller)
            self._wake_head()
        self._wake_all()
        return False

    def _leave(self, caller: Caller) -> None:
        with self._lock:
            self._queue.leave(caller)
            slot, caller.slot = caller.slot, None
            if slot:
                self._pass_on(slot, self.ledger.clock.now_us())
            self._wake_head()
            booking = self._booking
        if booking and booking.leader is caller:
            self._call_off(booking)
        self._wake_all()

    def _call_off(self, booking: _Booking) -> None:
        """Make way where a booking never began: its leader was cancelled or interrupted before."""
        with self._lock:
            if self._booking is booking and not booking.started:
                self._booking = None
                self._wake_head()
        self._wake_all()

    def _unbooking(self, caller: Caller) -> _Booking | None:
        """Return a booking to lead where a slot was given back, and nobody is booking already."""
        with self._lock:
            if not self._returned or self._booking:
                return None
            self._booking = _Booking(caller)
            return self._booking

    # A booking: steps that run to their end, by whomever they were started.

    def _book(self, booking: _Booking) -> Steps[None]:
        try:
            with self._lock:
                booking.started = self._booking is booking  # else it was called off
            while booking.started:
                asks, returned = self._asked()
                try:
                    answers = yield from self.ledger.book(asks, returned)
                except CacheError as error:
                    self._fail(asks, error)
                else:
                    self._hand_out(asks, answers)
                self._wake_all()
                if not self._returned:
                    return
        finally:
            with self._lock:
                if self._booking is booking:
                    self._booking = None
                self._wake_head()
            self._wake_all()

    def _asked(self) -> tuple[list[Caller], list[Slot]]:
        """Return for whom to book, nobody while a slot lies beyond the horizon, and what to unbook."""
        with self._lock:
            returned, self._returned = self._returned, []
            return list(self._queue) if self.ledger.clock.now_us() >= self._resume_at else [], returned

    def _hand_out(self, asks: list[Caller], answers: list[Slot | Refusal]) -> None:
        now = self.ledger.clock.now_us()
        with self._lock:
            for caller, answer in zip(asks, answers, strict=False):
                if isinstance(answer, Slot):
                    if caller in self._queue:
                        self._give(caller, answer)
                    else:
                        self._pass_on(answer, now)
                elif caller in self._queue:
                    self._refuse(caller, answer.at, now)
            for caller, at in self._queue.hopeless(self.ledger.no_slot_before):
                self._refuse(caller, at, now)

    def _fail(self, asks: list[Caller], error: CacheError) -> None:
        """Tell all for whom the booking was: each gets an error of its own, since each raises it."""
        if not asks:
            log.debug("limit %r: slots given back stay booked unused: %s", self.name, error)
        with self._lock:
            for caller in asks:
                if caller in self._queue:
                    self._queue.leave(caller)
                    caller.error = copied(error)
                    self._to_wake.append(caller)

    # State, changed under the lock.

    @property
    def _resume_at(self) -> int:
        """When the furthest slot of this process comes within the horizon."""
        return self._furthest - self.ledger.pace.horizon_us

    def _may_book(self, now: int) -> bool:
        return not self._booking and now >= self._resume_at

    def _give(self, caller: Caller, slot: Slot) -> None:
        self._queue.leave(caller)
        caller.slot = slot
        self._furthest = max(self._furthest, slot.at)
        self._to_wake.append(caller)

    def _pass_on(self, slot: Slot, now: int) -> None:
        """Give a slot that lost its caller to the next of equal cost, else have it unbooked."""
        if self.ledger.vouches(slot) and now <= self.ledger.good_until(slot):
            for caller in self._queue:
                if caller.cost == slot.cost and (caller.deadline is None or slot.at <= caller.deadline):
                    self._give(caller, slot)
                    return
        self._give_back(slot)

    def _give_back(self, slot: Slot) -> None:
        self._returned.append(slot)
        if slot.at >= self._furthest:
            self._furthest = 0

    # Deadlines.

    def _patience(self, caller: Caller, now: int) -> int | None:
        """Return until when to wait: the deadline, or a horizon more where a booking is about to answer."""
        if caller.deadline is None or now < caller.deadline:
            return caller.deadline
        until = caller.deadline
        if self._booking or now >= self._resume_at:
            until += self.ledger.pace.horizon_us
        if now >= until:
            raise self._too_long(caller, self.ledger.no_slot_before(caller.cost, 0, 0), now)
        return until

    def _refuse(self, caller: Caller, at: int, now: int) -> None:
        self._queue.leave(caller)
        caller.error = self._too_long(caller, at, now)
        self._to_wake.append(caller)

    def _too_long(self, caller: Caller, at: int, now: int) -> WaitTooLong:
        return WaitTooLong(self.name, max(0, at - now) / 1e6, caller.max_wait or 0.0)

    def _wake_head(self) -> None:
        if self._queue.head:
            self._to_wake.append(self._queue.head)

    def _wake_all(self) -> None:
        """Wake who is to be woken, with the lock let go: a wake may have to wait for an event loop."""
        with self._lock:
            callers, self._to_wake = self._to_wake, []
            events = [caller.event for caller in callers if caller.event]
        if events:
            self._wake(events)
