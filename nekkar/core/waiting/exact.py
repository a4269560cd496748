"""Exact slots of a line: its process's calls that have a slot under another limit ask for that very instant here.

All that are asked for at once go into one turn of the line, with the slots of its own callers. Each wish is an owner of
its own in the state. So its slot is found by its name, whatever answers were lost, and no other caller takes it.

Rules (numbered as in docs/concepts/together.md): 27 is in ``window/exact.py``, 28 and 29 in ``together.py``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import islice

from nekkar.core.cost import Hits
from nekkar.core.runtime.effects import Event, QueueSteps, RunSteps, WaitUntil
from nekkar.core.shared.account import Account
from nekkar.core.waiting.assignments import Assignments
from nekkar.core.waiting.callers import Caller, Elsewhere, Slot
from nekkar.core.waiting.exact_requests import ExactRequest
from nekkar.core.waiting.turns import Turns
from nekkar.core.window.booking import BookingRequest
from nekkar.core.window.exact import ExactSlot
from nekkar.core.window.plan import NOBODY, next_slot, planned
from nekkar.core.window.state import LimitState, Place

MOST_KEPT = 4  # callers of a line, with places in other limits


class ExactSlots:
    """What a line does for calls that have a slot under another limit. Takes the line's lock.

    ``turns``, ``wake_all`` and ``new_event`` are the line's.
    """

    def __init__(
        self, ledger: Account, assignments: Assignments, turns: Turns, lock: threading.RLock,
        wake_all: Callable[[], None], new_event: Callable[[], Event],
    ) -> None:  # fmt: skip
        self.ledger, self._assignments, self._turns, self._lock = ledger, assignments, turns, lock
        self._wake_all, self._new_event = wake_all, new_event
        self._is_abandoned = False

    def ask(self, request: ExactRequest) -> QueueSteps[None]:
        """Ask for a slot, and wait for the answer. Raises CacheError."""
        mine = self._assignments
        with self._lock:
            mine.exact.open.append(request)
        while request.is_open:
            with self._lock:
                turn = self._turns.begin(request.ticket)
                event = request.event = self._new_event()
            if turn:
                yield from self._turns.lead(turn)
            elif request.is_open:
                yield WaitUntil(None, event, is_watchful=True, clock=self.ledger.clock)
        if request.error:
            raise request.error

    def withdraw(self, request: ExactRequest) -> None:
        """Have the slot of a request taken out by the next write, whether it is known to be booked or not."""
        if self._is_abandoned or request.is_started:
            return
        with self._lock:
            self._assignments.exact.withdraw(request)

    def before_turn(self, elsewhere: Elsewhere, is_due: bool) -> QueueSteps[None]:
        """Look at the other limits of the first caller in line before its turn; until then, keep places there.

        Callers behind it may have places there too (rule 22).
        """
        state = self.ledger.state
        if is_due:
            yield from elsewhere.look()
        elif state and (place := state.place_of(self._assignments.owner)):
            for index, caller in enumerate(islice(self._assignments.queue, MOST_KEPT)):
                if caller.elsewhere:
                    caller.elsewhere.follow(place.ready, is_first=not index)
                    if caller.is_out:  # it has left or moved meanwhile, in another thread, and may not know its places
                        caller.elsewhere.drop_places()
            yield from elsewhere.put_places()

    def book_elsewhere(self, caller: Caller, elsewhere: Elsewhere) -> QueueSteps[bool]:
        """Book the slot of a caller of this line in its other limits too; return whether that was in time."""
        slot, mine = caller.slot, self._assignments
        if slot is None or not (yield from elsewhere.book(slot)):
            return False
        with self._lock:
            if mine.order and caller.slot is slot:
                mine.order.add(caller, slot)
                mine.wake_next()
        self._wake_all()
        return True

    def take_back(self, slot: Slot) -> None:
        """Have a slot taken out on which its call did not start in time."""
        with self._lock:
            self._assignments.take_back(slot)

    def send_to(self, other: object) -> None:
        """Send the callers in this line that also need the limit of another line to that line."""
        mine = self._assignments
        with self._lock:
            for caller in list(mine.queue):
                if caller.elsewhere and (way := caller.elsewhere.way_to(other)):
                    mine.fail([caller], way)
        self._wake_all()

    def write_back(self) -> QueueSteps[None]:
        """Write what is to be taken out, where no caller of the line is about to."""
        if self._is_abandoned:
            return
        mine = self._assignments
        with self._lock:
            is_idle = mine.must_write and not mine.queue.head
            turn = self._turns.begin(0) if is_idle else None
        if turn:
            yield from self._turns.lead(turn, shielded=True)

    def look(self) -> QueueSteps[None]:
        """Read the state, where this limit bound lately and the newest state seen is not quite new (rule 24)."""
        ledger, now = self.ledger, self.ledger.clock.now_us()
        state = ledger.state
        if state is None or now <= ledger.read_at + state.horizon_us // 4:
            return
        if self._has_bound(state, now):
            yield RunSteps(ledger.edit(_unchanged), in_process=ledger.in_process)

    def wait_us(self, cost: Hits) -> int:
        """Return a lower bound of how long a call would wait behind all that wait, as far as is known."""
        ledger, mine, now = self.ledger, self._assignments, self.ledger.clock.now_us()
        state = ledger.state
        if state is None:
            return 0
        behind_places = next_slot(state, ledger.quota, cost, now, mine.headroom) if mine.quota.admits(cost) else now
        return max(behind_places, mine.earliest_slot_of(Caller(0, cost, now, None, None))) - now

    def keep(self, owner: int, cost: Hits, ready: int) -> None:
        """Have a place kept for a call that has its turn elsewhere at ``ready``."""
        ledger, now = self.ledger, self.ledger.clock.now_us()
        state, mine = ledger.state, self._assignments
        if state is None:
            return
        known = state.place_of(owner)
        if known and now < known.ready + state.horizon_us // 4:
            return
        quota = ledger.quota
        terms = (quota.rates, quota.spacing_us)
        place = Place(owner, cost, ready, 0, 0, terms, is_kept=True, headroom=mine.headroom)
        with self._lock:
            mine.exact.keep(place)

    def put_places(self) -> QueueSteps[None]:
        """Write the places that are to be kept, unless a turn under way does."""
        with self._lock:
            turn = self._turns.begin(0) if self._assignments.exact.kept else None
        if turn:
            yield from self._turns.lead(turn)

    def drop(self, owner: int, *, at_once: bool) -> None:
        """Give up a kept place: to the line, if its caller waits here now; ``at_once``: it does not."""
        with self._lock:
            if not self._is_abandoned:
                self._assignments.exact.drop(owner, at_once=at_once)

    def _has_bound(self, state: LimitState, now: int) -> bool:
        window = self.ledger.quota.rates[-1].period_us + state.margin_us
        return self._assignments.standing.has_bound(now, window)

    def is_known(self, cost: Hits) -> bool:
        """Whether a state is known, and could hold a call of this cost at all."""
        return self.ledger.state is not None and self._assignments.quota.admits(cost)

    def expected(self, state: LimitState | None, wanted: ExactSlot, horizon_us: int, now: int) -> LimitState | None:
        """Return a state with a slot booked in it, as far as is known; None where it would be refused (rule 25).

        ``state`` has what callers in front are expected to book; None: the newest state seen. ``now``: when the turn
        began that has the slot. A later time would count slots as past while many are looked at.
        """
        ledger, mine = self.ledger, self._assignments
        known = state or ledger.state
        assert known is not None
        known = replace(known, horizon_us=max(known.horizon_us, horizon_us))
        gone = set(mine.exact.gone)
        request = BookingRequest(NOBODY, ledger.quota, (), now, exact=[wanted], gone=gone, headroom=mine.headroom)
        booked = planned(known, request).state
        return booked if any(grant.owner == wanted.owner for grant in booked.grants) else None

    def is_good(self, request: ExactRequest) -> bool:
        """Return whether a call may still start on the slot of a request (rule 9)."""
        slot = request.slot
        return slot is not None and self._assignments.is_good(slot.source, self.ledger.clock.now_us())

    def starts(self, request: ExactRequest) -> None:
        """Record that a call starts on its slot."""
        assert request.slot is not None
        request.is_started = True
        self.ledger.started(request.slot.at, request.slot.cost)

    def abandon(self) -> None:
        """In a forked child: do nothing from now on. The slots are the parent's."""
        self._is_abandoned = True


def _unchanged(state: LimitState, now: int) -> LimitState:
    return state
