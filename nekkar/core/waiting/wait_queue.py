"""The line: the callers of one limit in one process (and one event loop), in order of arrival.

Rules:

- One booking at a time. One caller leads, mostly the head of the line: it books for everybody, one read
  and one swap for all whose slot falls within the horizon, and for at least one. While the process
  holds a slot beyond the horizon nobody books, so a process never hoards the future.
- A caller with a slot sleeps until it. Where the log may have changed over the slot since the newest
  look, it wakes early and reads once. It starts within half the margin of its slot; otherwise it goes
  back to the front of the line, and the next booking unbooks its old hit.
- Tasks start in the order of their slots and of their arrival, whichever timer ends first. Of threads, the machine
  decides which runs first. Callers whose slots come together share one look.
- A caller that leaves passes its slot to the next of equal cost, else it is unbooked. A booking runs to
  its end whatever becomes of the caller that leads it; what it brought for callers gone is passed on.
- A caller in line decides anew each time it wakes, from the state under the lock; waking one for nothing is harmless.
- Nobody depends on another call's going on: it may be interrupted at any line, or stand still in a signal handler.
  So a call leaves twice (the second time finishes what an interrupt cut short), others wait PATIENCE_S for a booking
  or a look, each thread and the head of a line of tasks check again every second, and a caller that then finds no
  booking under way books. Two bookings at once do no harm: of two slots one goes back.

Like the ledger, one generator over a few effects; drive.py runs it for threads and for tasks.
tests/waiting/test_wait_queue.py runs it through random schedules of kills, freezes, losses and cancellations.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import count
from weakref import ref

from nekkar.core.clock import monotonic
from nekkar.core.errors import CacheError
from nekkar.core.runtime.effects import Effects, Event, Steps, Transact, Wait
from nekkar.core.shared.ledger import Ledger
from nekkar.core.waiting.assignments import Places
from nekkar.core.waiting.callers import PATIENCE_S, Booking, Caller
from nekkar.core.waiting.glance import LONG_WAIT_US, glance, glance_at
from nekkar.core.waiting.reporter import Voice
from nekkar.core.window.booking import Slot

Wake = Callable[[list[Event]], None]

_tickets = count(1)


class Line:
    """Callers of one limit that share a lock and a way to wake each other.

    ``new_event`` makes what a caller waits on; ``wake`` sets such events, from whatever thread. ``callers``:
    all who wait now, for a slot or until theirs comes. ``in_order``: they are tasks, and start in order. ``voice``
    says what becomes of them.
    """

    def __init__(
        self, voice: Voice, ledger: Ledger, new_event: Callable[[], Event], wake: Wake, in_order: bool = False
    ) -> None:
        self.name, self._voice, self.ledger = voice.name, voice, ledger
        self._new_event, self._wake = new_event, wake
        self._lock = threading.RLock()  # a generator finalised by the collector may hold it already
        self._places = Places(self.name, ledger, in_order)
        self.callers = self._places.callers
        self.spares = self._places.spares
        self._booking: Booking | None = None

    @property
    def waiting(self) -> int:
        """How many callers stand in line without a slot."""
        return len(self._places.queue)

    def acquire(self, cost: int, max_wait: float | None) -> Effects[tuple[Slot, int]]:
        """Wait for a slot of ``cost`` hits, at most ``max_wait`` seconds; return it and the µs waited.

        Raises WaitTooLong as soon as the slot is known to lie too far off, and CacheError.
        """
        caller = Caller(next(_tickets), cost, 0, None, max_wait)
        effects = self._call(caller)
        caller.call = ref(effects)
        return effects

    def _call(self, caller: Caller) -> Effects[tuple[Slot, int]]:
        clock, is_admitted = self.ledger.clock, False
        try:
            try:
                if self.ledger.clock_is_due():  # before a call has its place in time
                    caller.arrived = clock.now_us()
                    yield Transact(self.ledger.know_time())
                caller.arrive(clock.now_us())
                self.callers.add(caller)
                slot = yield from self._served(caller)
                waited = self._voice.admitted(caller, slot, clock.now_us())
                self.callers.discard(caller)
                is_admitted = True
                return slot, waited
            except BaseException as error:
                self._leave(caller)
                self._voice.ended(caller, error, clock.now_us())
                if not isinstance(error, GeneratorExit) and (booking := self._unbooking(caller)):
                    yield from self._lead(booking, shielded=True)  # a dropped generator can ask for nothing more
                raise
        finally:
            if not is_admitted:
                self._leave(caller)  # again, for an interrupt may have cut it short

    def _served(self, caller: Caller) -> Effects[Slot]:
        self._join(caller)
        while True:
            if caller.error:
                raise caller.error
            if caller.slot is None:
                turn = self._line_up(caller)
                if isinstance(turn, Booking):
                    yield from self._lead(turn)
                elif turn:
                    yield turn
            elif (yield from self._arrives(caller, caller.slot)):
                return caller.slot

    def _join(self, caller: Caller) -> None:
        with self._lock:
            at = 0  # the log itself will tell
            if self._places.queue or not self._may_book(caller.arrived):
                at = self.ledger.no_slot_before(caller.cost, self._places.queue.hits, len(self._places.queue))
            if caller.deadline is not None and at > caller.deadline:
                raise caller.too_long(self.name, at, caller.arrived)
            self._places.queue.join(caller)
        self._voice.waits(caller, at, caller.arrived)

    def _line_up(self, caller: Caller) -> Booking | Wait | None:
        """Return the booking to lead if it is this caller's turn, else the wait for whatever comes first."""
        now = self.ledger.clock.now_us()
        with self._lock:
            if caller.slot or caller.error:
                return None
            if caller not in self._places.queue:  # an interrupt of another call has dropped it
                self._places.queue.rejoin([caller])
            if not self._is_booking and (self._places.returned or self._may_book(now)):
                return self._begin_booking(caller)
            until, is_head = self._patience(caller, now), self._places.queue.head is caller
            if is_head and not self._is_booking:
                until = min(self._places.resume_at, until or self._places.resume_at)
            return Wait(until, self._event_of(caller), watchful=is_head)

    def _lead(self, booking: Booking, shielded: bool = False) -> Effects[None]:
        steps = self._book(booking)
        booking.steps = ref(steps)
        try:
            yield Transact(steps, shielded)
        finally:
            self._call_off(booking)

    def _arrives(self, caller: Caller, slot: Slot) -> Effects[bool]:
        """Sleep until the slot and look whether it is still good; if not, go back to the front of the line."""
        ledger, now = self.ledger, self.ledger.clock.now_us()
        self._voice.waits(caller, slot.at, now)
        yield from self._give_way(caller, slot)
        if slot.at - now >= LONG_WAIT_US and (at := glance_at(ledger, slot, ledger.clock.now_us())):
            yield from self._glance(caller, slot, at)
        while ledger.is_stale(slot) and self._counts(caller, slot) and not caller.error:
            if (at := ledger.wake_at(slot)) > ledger.clock.now_us():
                yield Wait(at, self._event_of(caller))
            else:
                yield from self._look(caller, slot)
        while self._counts(caller, slot) and ledger.clock.now_us() < slot.at:
            yield Wait(slot.at, self._event_of(caller))
        yield from self._give_way(caller, slot)
        with self._lock:
            starts = self._places.start(caller, slot, ledger.clock.now_us())
        self._wake_all()
        return starts and not caller.error

    def _glance(self, caller: Caller, slot: Slot, at: int) -> Effects[None]:
        """Sleep until ``at`` and look whether the log still stands, unless somebody here did."""
        while self._counts(caller, slot) and self.ledger.clock.now_us() < at:
            yield Wait(at, self._event_of(caller))
        if self._counts(caller, slot) and self.ledger.view.seen.sent < at:
            yield Transact(glance(self.ledger))

    def _counts(self, caller: Caller, slot: Slot) -> bool:
        """Return whether the caller still has this slot, in the log's epoch, under no hold, and in time for it."""
        ledger = self.ledger
        return caller.slot is slot and ledger.vouches(slot) and ledger.clock.now_us() <= ledger.good_until(slot)

    def _look(self, caller: Caller, slot: Slot) -> Effects[None]:
        """Look for all whose slots come, or wait for who does; an error is all theirs."""
        with self._lock:
            event = None if self._places.begin_look(caller) else self._event_of(caller)
        if event:
            yield Wait(self.ledger.good_until(slot), event)
            return
        error = None
        try:
            yield Transact(self.ledger.check())
        except CacheError as raised:
            error = raised
            raise
        finally:
            with self._lock:
                self._places.end_look(caller, error)
            self._wake_all()

    def _give_way(self, caller: Caller, slot: Slot) -> Effects[None]:
        """Let those start before who come before, whichever timer or look took longer."""
        while order := self._places.order:
            with self._lock:
                if caller.slot is not slot or order.first() in (caller, None):
                    return
                event = self._event_of(caller)
            yield Wait(None, event)

    def _event_of(self, caller: Caller) -> Event:
        caller.event = event = self._new_event()
        return event

    def _leave(self, caller: Caller) -> None:
        """Step out of the line, and give up what this caller had to do for the others; twice does no harm."""
        with self._lock:
            self._places.leave(caller, self.ledger.clock.now_us())
        if (booking := self._booking) and booking.leader is caller:
            self._call_off(booking)
        self._wake_all()

    def _call_off(self, booking: Booking) -> None:
        """Leave a booking: its steps go on, and wake the others, unless they never began or have ended."""
        with self._lock:
            booking.left = True
            if self._booking is booking and booking.is_over:
                self._booking = None
                self._places.wake_head()
        self._wake_all()

    def _unbooking(self, caller: Caller) -> Booking | None:
        """Return a booking to lead where a slot was given back, and nobody is booking already."""
        with self._lock:
            if not self._places.returned or self._is_booking:
                return None
            return self._begin_booking(caller)

    # A booking: steps that run to their end, by whomever they were started.

    def _book(self, booking: Booking) -> Steps[None]:
        try:
            with self._lock:
                booking.started = self._booking is booking  # else it was called off
            while booking.started:
                with self._lock:
                    asks, returned, spare = self._places.asked(self.ledger.clock.now_us())
                try:
                    answers = yield from self.ledger.book(asks, returned, spare)
                except CacheError as error:
                    with self._lock:
                        self._places.fail(asks, error)
                else:
                    with self._lock:
                        self._places.hand_out(asks, answers, self.ledger.clock.now_us())
                if not self._places.returned:
                    return
                self._wake_all()
        finally:
            with self._lock:
                if self._booking is booking:
                    self._booking = None
                self._places.wake_head()
            if booking.left:  # else the leader wakes the others, behind itself
                self._wake_all()

    @property
    def _is_booking(self) -> bool:
        return self._booking is not None and monotonic() < self._booking.overdue

    def _begin_booking(self, leader: Caller) -> Booking:
        self._booking = Booking(leader, monotonic() + PATIENCE_S)
        return self._booking

    def _may_book(self, now: int) -> bool:
        return not self._is_booking and now >= self._places.resume_at

    def _patience(self, caller: Caller, now: int) -> int | None:
        """Return until when to wait: the deadline, or a horizon more where a booking is about to answer."""
        if caller.deadline is None or now < caller.deadline:
            return caller.deadline
        until = caller.deadline
        if self._is_booking or now >= self._places.resume_at:
            until += self.ledger.pace.horizon_us
        if now >= until:
            raise caller.too_long(self.name, self.ledger.no_slot_before(caller.cost, 0, 0), now)
        return until

    def _wake_all(self) -> None:
        """Wake the callers that are to be woken, without the lock: a wake may have to wait for an event loop."""
        if not self._places.to_wake:
            return
        with self._lock:
            callers = self._places.to_wake.copy()
            events = [caller.event for caller in callers if caller.event]
        if events:
            self._wake(events)
        with self._lock:  # only now: a wake that an interrupt comes before is the next call's to give
            self._places.woken(callers)
