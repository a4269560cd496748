"""Prefetched slots: a process that calls often books more slots than its callers need. So one swap serves many calls.

Rules:

- Slots are prefetched only while the limit is far from binding: at most a 64th of what is free in each window. They
  are not if slots are spaced, or if calls cost other units too (``window/booking.py``). So a limit under 64 calls never
  has prefetched slots.
- A process prefetches as many slots as it lately used within a quarter of the margin, but none if that is fewer than
  eight. Demand is measured between swaps, not during them: if many processes swap, swaps are slow, and prefetching
  relieves that.
- A prefetched slot is good for half the margin after its time, as any slot, but no longer than one horizon after the
  last read, so that a new hold is noticed.
- What is left is taken out with the next write. A process that stops calling leaves its last slots unused.
"""

from __future__ import annotations

import threading
from collections.abc import Sized

from nekkar.core.cost import CALLS, hits_in
from nekkar.core.shared.account import Account
from nekkar.core.waiting.assignments import Assignments
from nekkar.core.waiting.callers import InHand, Slot

LEAST, MOST = 8, 1024


class PrefetchedSlots:
    """What a line has in hand beyond its callers. ``take`` takes the line's lock; all else is called under it.

    ``ahead``: the callers that come before one that takes a slot. ``counted_from``: since when calls are counted, the
    end of the newest swap. ``hand``: the grants that slots are taken from.
    """

    def __init__(self, ledger: Account, assignments: Assignments, ahead: Sized, lock: threading.RLock) -> None:
        self._ledger, self._assignments, self._ahead, self._lock = ledger, assignments, ahead, lock
        self.hand = assignments.hand.grants
        self.counted_from = 0
        self._taken = self._demand = 0

    @property
    def left(self) -> int:
        """How many hits are in hand without a caller."""
        return sum(hits_in(grant.left, CALLS) for grant in list(self.hand))

    def take(self) -> Slot | None:
        """Return a slot of one hit that may start now, where there is one in hand and nobody comes first."""
        hand = self.hand
        if not hand:
            return None
        with self._lock:
            if self._ahead:
                return None
            # A signal handler may come at each call here, and take the last hit, or close the grant.
            grant = hand[0] if hand else None
            if grant is None or not self.may_start(grant):
                return None
            grant.used += 1  # before it is looked at
            if grant.is_closed or hits_in(grant.left, CALLS) < 0:
                grant.used -= 1
                return None
            self._taken += 1
            self._ledger.started(grant.grant.slot, 1)
            if not grant.left and hand and hand[0] is grant:
                hand.popleft()
            return Slot(grant.grant.slot, 1, grant)

    def may_start(self, grant: InHand) -> bool:
        """Whether a call may start now on a prefetched slot."""
        ledger, now = self._ledger, self._ledger.clock.now_us()
        is_fresh = grant.grant.slot <= now <= ledger.read_at + ledger.latency.horizon_us
        return is_fresh and self._assignments.is_good(grant, now)

    def wanted(self, asked: int, now: int) -> int:
        """Return how many hits a booking for ``asked`` callers should prefetch; call it once for each booking.

        The demand that it goes by grows by one a booking at first, then about twofold; it falls at once.
        """
        quota = self._ledger.quota
        if quota.spacing_us or not quota.counts_calls_alone:
            return 0
        calls, span = max(asked, self._assignments.given) + self._taken, max(1, now - self.counted_from)
        self._taken, self._assignments.given, self.counted_from = 0, 0, now
        lately = calls * quota.margin_us // (4 * span)
        self._demand = min(lately, self._demand + max(1, self._demand - LEAST), MOST)
        return self._demand if self._demand > LEAST else 0
