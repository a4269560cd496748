"""The places of a line: who waits for a slot, what slots there are to give, what goes back, who is to be woken.

Plain state, changed under the line's lock; nothing here blocks or calls the cache. An interrupt may come between any
two lines. So a slot is taken from one caller before it is given to another: the worst is a slot unused, never one used
twice. And a caller enters its new place before it leaves the old one, and is marked to be woken before that.
"""

from __future__ import annotations

from itertools import count, takewhile
from typing import cast

from nekkar.core.clock import monotonic
from nekkar.core.errors import CacheError, copied
from nekkar.core.shared.ledger import Ledger
from nekkar.core.waiting.callers import PATIENCE_S, Caller, Order, Queue
from nekkar.core.waiting.prefetch import Spares
from nekkar.core.window.booking import Answer, Slot


class Places:
    """``queue``: callers without a slot. ``order``: those with one, where they are to start in order, else None.

    ``callers``: all of both. ``to_wake``: those for whom something changed, each with a mark of that change.
    ``onlookers``: those who wait for another's look. ``returned``: slots to unbook. ``spares``: slots that nobody
    asked for yet.
    """

    def __init__(self, name: str, ledger: Ledger, in_order: bool) -> None:
        self.name, self.ledger = name, ledger
        self.queue, self.order = Queue(), Order() if in_order else None
        self.callers: set[Caller] = set()
        self.spares = Spares(ledger, self.callers if in_order else self.queue)
        self.returned: list[Slot] = []
        self.to_wake: dict[Caller, int] = {}
        self._marks = count()
        self.onlookers: list[Caller] = []
        self._looker: Caller | None = None
        self._look_overdue = 0.0  # from when others wait for it no longer
        self._furthest = 0

    @property
    def resume_at(self) -> int:
        """When the furthest slot of this process comes within the horizon, and more may be booked."""
        return self._furthest - self.ledger.pace.horizon_us

    def asked(self, now: int) -> tuple[list[Caller], list[Slot], int]:
        """Return for whom to book, nobody while a slot lies beyond the horizon; what to unbook; how many to spare."""
        for caller in [caller for caller in self.callers.copy() if caller.is_gone]:
            self.leave(caller, now)
        asks = self.queue.standing() if now >= self.resume_at else []
        spare = self.spares.wanted(len(asks), now)
        returned, self.returned = self.returned + self.spares.give_back(), []
        return asks, returned, spare

    def hand_out(self, asks: list[Caller], answers: list[Answer], now: int) -> None:
        """Give each what the ledger answered; what was for callers that have left goes to others."""
        for caller, answer in zip(asks, answers, strict=False):
            if isinstance(answer, CacheError):
                self.fail([caller], answer)
            elif caller not in self.queue:
                self.pass_on(answer, now) if isinstance(answer, Slot) else None
            elif isinstance(answer, Slot):
                self._give(caller, answer)
            else:
                self._refuse(caller, answer.at, now)
        self.spares.counted_from = now
        for spare in answers[len(asks) :]:
            self.spares.fill(cast(Slot, spare))
        for caller, at in self.queue.hopeless(self.ledger.no_slot_before):
            self._refuse(caller, at, now)

    def fail(self, asks: list[Caller], error: CacheError) -> None:
        """Tell all for whom a booking was: each gets an error of its own, since each raises it."""
        for caller in [caller for caller in asks if caller in self.queue]:
            self._answer(caller, copied(error))

    def begin_look(self, caller: Caller) -> bool:
        """Return whether a caller is to look for all; else one does already, and this one is woken after it."""
        if self._looker and monotonic() < self._look_overdue:
            self.onlookers.append(caller)
            return False
        self._looker, self._look_overdue = caller, monotonic() + PATIENCE_S
        return True

    def end_look(self, caller: Caller, error: CacheError | None) -> None:
        """Have all woken, in order, who waited for this caller's look; an error is each one's."""
        if self._looker is not caller:
            return
        for other in sorted(self.onlookers, key=lambda caller: caller.ticket):
            other.error = copied(error) if error else None
            self.wake(other)
        self._looker, self.onlookers = None, []

    def start(self, caller: Caller, slot: Slot, now: int) -> bool:
        """Return whether a caller may start on its slot; if not, it stands again where it stood before.

        So do at once all next in order whose slots are good no more. Woken one by one, a crowd on a starved machine
        would book new slots one by one too, and be late for each.
        """
        has_slot = caller.slot is slot
        caller.has_started = has_slot and self._is_good(slot, now)
        if has_slot and not caller.has_started:
            first = takewhile(lambda other: not self._is_good(cast(Slot, other.slot), now), self.order or ())
            late = list(dict.fromkeys([caller, *first]))
            self.queue.rejoin(late)
            for other in late:
                self._take_back(other)
            self.wake_head()
        self.wake_next()
        return caller.has_started

    def pass_on(self, slot: Slot, now: int) -> None:
        """Give a slot that lost its caller to the next of equal cost, else have it unbooked."""
        if self._is_good(slot, now):
            for caller in self.queue:
                if caller.cost == slot.cost and (caller.deadline is None or slot.at <= caller.deadline):
                    self._give(caller, slot)
                    return
        self.give_back(slot)

    def give_back(self, slot: Slot) -> None:
        """Have a slot unbooked by the next booking."""
        self.returned.append(slot)
        if slot.at >= self._furthest:
            self._furthest = 0

    def leave(self, caller: Caller, now: int) -> None:
        """Take a caller out, wherever it stands; a slot that it had goes on. A second time changes nothing."""
        self.callers.discard(caller)
        self.queue.leave(caller)
        slot, caller.slot = caller.slot, None
        if slot:
            self.pass_on(slot, now)
        self.end_look(caller, None)
        self.wake_next()
        self.wake_head()

    def wake(self, caller: Caller) -> None:
        """Have a caller woken; one that never waited looks at its state anyway before it does."""
        if caller.event:
            self.to_wake[caller] = next(self._marks)

    def woken(self, callers: dict[Caller, int]) -> None:
        """Forget who was to be woken; but not for what changed since."""
        for caller, mark in callers.items():
            if self.to_wake.get(caller) == mark:
                self.to_wake.pop(caller, None)

    def wake_head(self) -> None:
        """Have the caller woken whose turn it is to lead."""
        if self.queue.head:
            self.wake(self.queue.head)

    def wake_next(self) -> None:
        """Have the caller woken whose turn it is to start."""
        first = self.order.first() if self.order else None
        if first:
            self.wake(first)

    def _is_good(self, slot: Slot, now: int) -> bool:
        return self.ledger.vouches(slot) and now <= self.ledger.good_until(slot)

    def _take_back(self, caller: Caller) -> None:
        slot, caller.slot = caller.slot, None
        if caller.deadline is not None:
            self.wake(caller)  # to look to it
        self.give_back(cast(Slot, slot))

    def _give(self, caller: Caller, slot: Slot) -> None:
        """Give a slot. Of those who start in order only the first is woken: each wakes the next as it starts."""
        if self.order:
            self.order.add(caller, slot)
        caller.slot, caller.error = slot, None
        self._furthest = max(self._furthest, slot.at)
        if self.order:
            self.wake_next()
        else:
            self.wake(caller)
        self.queue.leave(caller)

    def _refuse(self, caller: Caller, at: int, now: int) -> None:
        self._answer(caller, caller.too_long(self.name, at, now))

    def _answer(self, caller: Caller, error: Exception | None) -> None:
        caller.error = error
        self.wake(caller)
        self.queue.leave(caller)
