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

from collections import deque
from collections.abc import Sized
from contextlib import suppress
from itertools import repeat

from nekkar.core.shared.ledger import Ledger
from nekkar.core.window.booking import Slot

LEAST, MOST = 8, 1024


class Spares:
    """The spare slots of one line, all of one instant. All but ``take`` and ``left`` is called under its lock.

    ``before``: the callers that come before one that takes a spare. ``counted_from``: since when calls are counted:
    the end of the newest swap.
    """

    def __init__(self, ledger: Ledger, before: Sized) -> None:
        self._ledger, self._before = ledger, before
        self._slots: deque[Slot] = deque()  # each is popped once, whatever thread or signal handler comes between
        self._filled = self.counted_from = 0
        self._demand = 0

    @property
    def left(self) -> int:
        """How many there are."""
        return len(self._slots)

    def take(self) -> Slot | None:
        """Return a slot of one hit that may start now, where there is one to spare and nobody comes first."""
        try:
            slot, ledger = self._slots[-1], self._ledger
            if self._before or not ledger.vouches(slot):
                return None
            last = min(ledger.good_until(slot), ledger.view.seen.sent + ledger.pace.horizon_us)
            return self._slots.pop() if slot.at <= ledger.clock.now_us() <= last else None
        except IndexError:
            return None

    def fill(self, slot: Slot) -> None:
        """Have spares, as many as the slot's hits."""
        self._slots = deque(repeat(Slot(slot.at, 1, slot.epoch), slot.cost))
        self._filled = slot.cost

    def give_back(self) -> list[Slot]:
        """Return what is left, to be unbooked."""
        slots, left = self._slots, list[Slot]()
        while slots:
            with suppress(IndexError):  # taken meanwhile
                left.append(slots.pop())
        return [Slot(left[0].at, len(left), left[0].epoch)] if left else []

    def wanted(self, asked: int, now: int) -> int:
        """Return how many spares a booking for so many callers should bring; call it once for each.

        The demand grows by one a booking, then twofold, and falls at once.
        """
        calls, span = asked + self._filled - self.left, max(1, now - self.counted_from)
        self._filled, self.counted_from = self.left, now
        lately = calls * self._ledger.quota.margin_us // (4 * span)
        self._demand = min(lately, self._demand + max(1, self._demand - LEAST), MOST)
        return self._demand if self._demand > LEAST else 0
