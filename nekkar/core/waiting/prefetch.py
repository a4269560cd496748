"""Spare slots: a process that calls often books some more than it was asked for, so that one swap serves many calls.

Rules:

- Only while the limit is far from binding: at most a 64th of what is free in each window, and none where slots
  are spaced. So a limit under 64 calls never has spares, and one that is all used neither.
- As many as the process called for in a quarter of the margin lately, and none below eight. The time of swaps does
  not count: in a crowd, where they take long, spares are what thins it. A slot is good for half the margin after its
  time, for a spare too, but not beyond a horizon after the newest look: a hold is met.
- What is left goes back with the next swap. A process that stops calling leaves its last spares booked unused.
"""

from __future__ import annotations

import threading
from collections.abc import Sized

from nekkar.core.shared.ledger import Ledger
from nekkar.core.window.booking import Slot

LEAST, MOST = 8, 1024


class Spares:
    """The spare slots of one line, all of one instant. All but ``take`` is called under its lock.

    ``left``: how many. ``before``: who comes before a caller that takes one. ``counted_from``: since when calls are
    counted: the end of the newest swap.
    """

    def __init__(self, ledger: Ledger, before: Sized, lock: threading.RLock) -> None:
        self._ledger, self._before, self._lock = ledger, before, lock
        self._slot: Slot | None = None
        self._unused: list[Slot] = []
        self.left = 0
        self._filled = self.counted_from = 0
        self._demand = 0

    def take(self) -> Slot | None:
        """Return a slot of one hit that may start now, where there is one to spare and nobody comes first."""
        if not self.left:
            return None
        with self._lock:
            slot = self._slot
            if slot is None or not self.left or self._before or not self.is_good(slot):
                return None
            self.left -= 1
            return slot

    def is_good(self, slot: Slot) -> bool:
        """Whether a call may start now on a spare slot."""
        ledger = self._ledger
        last = min(ledger.good_until(slot), ledger.view.seen.sent + ledger.pace.horizon_us)
        return ledger.vouches(slot) and slot.at <= ledger.clock.now_us() <= last

    def put_back(self, slot: Slot) -> None:
        """Have a slot unbooked with those that are left: the call that took it did not start. In any thread."""
        self._unused.append(slot)

    def fill(self, slot: Slot) -> None:
        """Have spares, as many as the slot's hits."""
        self._slot, self.left = Slot(slot.at, 1, slot.epoch), slot.cost
        self._filled = slot.cost

    def give_back(self) -> list[Slot]:
        """Return what is left, to be unbooked."""
        slot, left, self.left = self._slot, self.left, 0
        unused, self._unused = self._unused, []
        return [*unused, Slot(slot.at, left, slot.epoch)] if slot and left else unused

    def wanted(self, asked: int, now: int) -> int:
        """Return how many spares a booking for so many callers should bring; call it once for each.

        The demand grows by one a booking, then twofold, and falls at once.
        """
        calls, span = asked + self._filled - self.left, max(1, now - self.counted_from)
        self._filled, self.counted_from = self.left, now
        lately = calls * self._ledger.quota.margin_us // (4 * span)
        self._demand = min(lately, self._demand + max(1, self._demand - LEAST), MOST)
        return self._demand if self._demand > LEAST else 0
