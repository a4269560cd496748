"""The wait queue: the callers of one limit in one process (and one event loop), in order of arrival.

Rules (numbered as in docs/concepts/line.md; rules 1 to 6 are in ``window/plan.py``, 7 in ``turn.py``, 8 and 10 in
``assignments.py``):

9. A caller starts only up to half the margin after its slot, and only while the newest state confirms the slot. Else it
   goes back to where it stood, by arrival, and its slot is returned.
14. A caller that leaves passes its slot to the next caller, if the slot fits; else the slot is returned. If the first
    caller leaves, the place of the line is rewritten or taken out.

The caller at the head leads: it has the turns of the line taken, each of which books for all callers. Each caller
decides again when it wakes. A needless wake is harmless, so every caller is woken for which something may have changed.
A thread that waits also wakes once a second by itself: an interrupt of one call never stops others. Tasks start in the
order of their slots and of their arrival, whichever timer ends first.

One generator, run by ``runtime/drivers.py`` for threads and for tasks; test_wait_queue.py runs it in random schedules.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from weakref import ref

from nekkar.core.clock import ticks
from nekkar.core.cost import Hits
from nekkar.core.errors import ConfigurationError
from nekkar.core.runtime.effects import Checkpoint, Event, QueueSteps, RunSteps, WaitUntil
from nekkar.core.shared.account import Account
from nekkar.core.waiting.assignments import Assignments
from nekkar.core.waiting.callers import Caller, Settling, Slot, State, new_ticket
from nekkar.core.waiting.direct import DirectWay
from nekkar.core.waiting.exact import ExactSlots
from nekkar.core.waiting.exact_requests import ExactRequest
from nekkar.core.waiting.forks import abandon_in_children
from nekkar.core.waiting.prefetch import PrefetchedSlots
from nekkar.core.waiting.reporter import CallReporter
from nekkar.core.waiting.timekeeper import TimeKeeper
from nekkar.core.waiting.turns import ABANDONED_US, Turns, TurnUnderWay
from nekkar.core.window.settlement import Settlement

Wake = Callable[[list[Event]], None]


class WaitQueue:
    """Callers of one limit that share a lock and a way to wake each other.

    ``new_event`` makes what a caller waits on; ``wake`` sets such events, from any thread. ``callers``: all that wait
    now, for a slot or until theirs comes. ``in_order``: they are tasks, and start in order. ``headroom``: what their
    calls leave free.
    """

    ticks = staticmethod(ticks)

    def __init__(
        self,
        reporter: CallReporter,
        ledger: Account,
        new_event: Callable[[], Event],
        wake: Wake,
        in_order: bool = False,
        headroom: int = 0,
    ) -> None:
        self.name, self.reporter, self.ledger = reporter.name, reporter, ledger
        self.new_event, self.wake = new_event, wake
        self._is_of_tasks = in_order
        # Tasks over a cache in this process let others come before anything is booked; others wait for I/O anyway.
        self._lets_others_come = in_order and ledger.in_process
        self._lock = threading.RLock()  # finalisers and signal handlers may make limited calls while it is held
        self._assignments = Assignments(self.name, ledger, in_order, headroom)
        self.callers: set[Caller] = set()
        ahead = self.callers if in_order else self._assignments.queue
        self.prefetched = PrefetchedSlots(ledger, self._assignments, ahead, self._lock)
        self._turns = Turns(ledger, self._assignments, self.prefetched, self._lock, self._wake_all, self.ticks)
        self.exact = ExactSlots(ledger, self._assignments, self._turns, self._lock, self._wake_all, new_event)
        self._direct = DirectWay(ledger, self._assignments, self._turns, self.prefetched, self._lock)
        time = TimeKeeper(ledger, self._assignments, self._turns, self.callers, self._lock)
        self._turns.on_shift, self._keep_time = time.follow, time.keep
        abandon_in_children(self)

    @property
    def here(self) -> int:
        """How many callers wait, in line or for their slot."""
        return sum(not caller.is_gone for caller in list(self.callers))

    @property
    def waiting(self) -> int:
        """How many callers stand in line without a slot."""
        return len(self._assignments.queue)

    def acquire(self, cost: Hits, max_wait: float | None, stale: Slot | None = None) -> QueueSteps[tuple[Slot, int]]:
        """Wait for a slot of this cost, at most ``max_wait`` seconds; return it and the µs waited.

        ``stale``: a slot on which the call did not start in time. It is returned, and the call stands in front.
        Raises WaitTooLong as soon as the slot is known to lie too far off, and CacheError.
        """
        self._keep_time()  # a clock that was set before the caller came moves none of its times
        # The ticket is drawn before anything is waited for, even the first reading of the cache's clock.
        now = self.ledger.clock.now_us()
        deadline = None if max_wait is None else now + round(max_wait * 1e6)
        return self.enter(Caller(new_ticket(stale is not None), cost, now, deadline, max_wait), stale)

    def enter(self, caller: Caller, stale: Slot | None = None) -> QueueSteps[tuple[Slot, int]]:
        """Have a caller wait for its slot; see ``acquire``. Raises WaitsElsewhere where its other limits say so."""
        steps = self._acquire(caller, stale)
        caller.call = ref(steps)
        return steps

    def _acquire(self, caller: Caller, stale: Slot | None) -> QueueSteps[tuple[Slot, int]]:
        try:
            if steps := None if stale or self._lets_others_come else self._direct.steps(caller, self.callers):
                yield RunSteps(steps, in_process=self.ledger.in_process)
            else:
                self._join(caller, stale)
                if self._lets_others_come:
                    yield Checkpoint()
            while True:
                if caller.slot is None:
                    yield from self._until_booked(caller)
                if caller.elsewhere and not (yield from self.exact.book_elsewhere(caller, caller.elsewhere)):
                    now = self.ledger.clock.now_us()
                else:
                    now, slot = self.ledger.clock.now_us(), caller.slot  # another thread may take it away at any line
                    if self._is_of_tasks or slot is None or now < slot.at:
                        yield from self._until_slot(caller)  # tasks look also for those that come before them
                        now = self.ledger.clock.now_us()
                if (slot := self._start(caller, now)) is not None:
                    return slot, self.reporter.admitted(caller, slot, now, len(self.callers))
                if caller.elsewhere:
                    yield from caller.elsewhere.cancel()
        except GeneratorExit as error:  # dropped by its driver: nothing more can be asked of the cache
            self._leave(caller, error)
            raise
        except BaseException as error:
            self._leave(caller, error)
            if self._assignments.must_write and not self.waiting and (turn := self._turns.begin(caller.ticket, caller)):
                yield from self._turns.lead(turn, shielded=True)
            raise
        finally:
            if caller.state in (State.QUEUED, State.BOOKED):  # an interrupt cut the leaving short
                self._take_out(caller)
            self.callers.discard(caller)

    def settle(self, settlement: Settlement) -> QueueSteps[None]:
        """Wait until a settlement is written; raise CacheError if it was not, or may not have been."""
        self._keep_time()
        return self._turns.settle(settlement, self.new_event)

    def look_soon(self) -> None:
        """Have the line look at once: the state was changed in this process."""
        with self._lock:
            self._turns.look_now()
            self._assignments.match(self.ledger.clock.now_us())
        self._wake_all()

    # A caller's way: in line, leading, at its slot, leaving.

    def _join(self, caller: Caller, stale: Slot | None) -> None:
        """Join the line; WaitTooLong if the line, and a state read within the horizon, show no slot in time."""
        mine, now, at = self._assignments, caller.arrived, 0
        with self._lock:
            self.callers.add(caller)
            if stale:
                mine.take_back(stale)
            if mine.queue.head:
                now = self.ledger.clock.now_us()
                at = mine.earliest_slot_of(caller)
                if caller.deadline is not None and at > caller.deadline:
                    if now <= self.ledger.read_at + self.ledger.latency.horizon_us:
                        raise caller.too_long(self.name, at, now)
                    self._turns.look_now()
            else:
                self._turns.look_at = mine.arrives_alone(caller, now)
            mine.queue.enter(caller)
        self.reporter.waits(caller, at, now, len(self.callers))

    def _until_booked(self, caller: Caller) -> QueueSteps[None]:
        while caller.state is State.QUEUED:
            self._keep_time()
            if caller.error:
                raise caller.error
            if caller.elsewhere and self._assignments.queue.head is caller:
                yield from self.exact.before_turn(caller.elsewhere, self._turns.is_due_for(caller))
            step = self._next_step(caller, self.ledger.clock.now_us())
            if self._assignments.to_wake:
                self._wake_all()
            if isinstance(step, WaitUntil):
                yield step
            elif step:
                yield from self._turns.lead(step)
                self.reporter.waits(caller, step.expected_at, self.ledger.clock.now_us(), len(self.callers))
        if caller.error:
            raise caller.error

    def _next_step(self, caller: Caller, now: int) -> TurnUnderWay | WaitUntil | None:
        """Return the turn to lead if it is this caller's to lead and one is due, else the wait for what comes first."""
        mine = self._assignments
        with self._lock:
            hand = mine.hand.grants
            if hand and now > max(self.ledger.read_at, hand[0].grant.slot) + self.ledger.latency.horizon_us:
                self._turns.look_at = min(self._turns.look_at, now)  # a hold since the last look is to be noticed
            else:
                mine.match(now)
            if caller.state is not State.QUEUED or caller.error:
                return None
            if caller not in mine.queue:  # others took it for gone
                mine.queue.rejoin([caller])
            leads, is_due = mine.queue.head is caller, mine.must_write or now >= self._turns.look_at
            # The head may be gone without waking others, where an interrupt cut its leaving short.
            may_lead = leads or now >= self._turns.look_at + ABANDONED_US
            if is_due and may_lead and (turn := self._turns.begin(caller.ticket, caller)):
                return turn
            until = self._deadline(caller, now, is_due)
            if leads and not is_due:
                until = self._turns.look_at if until is None else min(until, self._turns.look_at)
            return WaitUntil(until, self._event_of(caller), leads, self.ledger.clock)

    def _until_slot(self, caller: Caller) -> QueueSteps[None]:
        """Sleep until the slot; tasks let those start before them that come before them."""
        slot, clock, mine = caller.slot, self.ledger.clock, self._assignments
        if slot is None:
            return
        self.reporter.waits(caller, slot.at, clock.now_us(), len(self.callers))
        while caller.slot is slot:
            self._keep_time()
            now = clock.now_us()
            with self._lock:
                is_next = mine.order is None or mine.order.first() in (caller, None)
                if is_next and (now >= slot.at or not mine.is_good(slot.source, now)):
                    return
                event = self._event_of(caller)
            yield WaitUntil(slot.at if is_next else None, event, clock=clock)

    def _start(self, caller: Caller, now: int) -> Slot | None:
        """Return the slot if the caller starts on it; None if it has to be booked again (rule 9)."""
        with self._lock:
            slot = caller.slot if self._assignments.starts(caller, now) else None
        if self._assignments.to_wake:
            self._wake_all()
        return slot

    def _event_of(self, caller: Caller) -> Event:
        caller.event = event = self.new_event()
        return event

    def _leave(self, caller: Caller, error: BaseException) -> None:
        self._take_out(caller)
        self.reporter.ended(caller, error, self.ledger.clock.now_us())

    def _take_out(self, caller: Caller) -> None:
        """Have a caller leave (rule 14)."""
        with self._lock:
            self._assignments.leaves(caller, self.ledger.clock.now_us())
        self._wake_all()

    # Parts of the above.

    def _deadline(self, caller: Caller, now: int, is_due: bool) -> int | None:
        """Return until when a caller waits; a horizon past its deadline if a turn is about to answer it."""
        if caller.deadline is None or now < caller.deadline:
            return caller.deadline
        until = caller.deadline
        if self._turns.under_way or is_due:
            until += self.ledger.latency.horizon_us
        if now >= until:
            raise caller.too_long(self.name, self._assignments.earliest_slot_of(caller), now)
        return until

    def _wake_all(self) -> None:
        """Wake the callers that are to be woken; not under the lock: a wake may have to wait for an event loop."""
        mine, woken = self._assignments, list[Caller | ExactRequest | Settling]()
        try:
            with self._lock:
                woken, mine.to_wake = mine.to_wake, woken
                events = [caller.event for caller in woken if caller.event]
            if events:
                self.wake(events)
        except BaseException:  # an interrupt: what was not woken still is to be
            mine.to_wake += woken
            raise

    def abandon(self) -> None:
        """In a forked child: have the copies of the parent's callers raise an error. The parent's callers go on."""
        self.exact.abandon()
        if not self.callers:
            return
        self._lock, self._turns.under_way = threading.RLock(), None  # a thread that is not here may hold the lock
        remedy = "a forked process can't go on with a call that waits; make a new call there"
        for caller in list(self.callers):
            caller.slot, caller.state = None, State.QUEUED
            caller.error = ConfigurationError(f"limit {self.name!r}: {remedy}")
        self._assignments = Assignments(self.name, self.ledger, self._is_of_tasks, self._assignments.headroom)
        if self._is_of_tasks:  # no thread of the parent's is here to be woken
            with suppress(RuntimeError):
                self.wake([caller.event for caller in list(self.callers) if caller.event])
