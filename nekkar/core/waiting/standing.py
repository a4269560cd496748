"""Standing: whether the place of a line stays when its only caller has a slot, and how often others may grant it.

A process that calls again and again need not write each time: others grant its place, and it only reads. The price is
an unused slot if the process does not come back. So (rule 11 of docs/concepts/line.md):

- A place stands only if the limit binds or the cache is far, and only while calls come back regularly.
- With a near cache it does not stand while there is room for 512 calls, since slots are prefetched then if calls are
  frequent (``prefetch.py``): the caller would take the slots that others grant, some milliseconds apart, and the demand
  would never show. Close slots (``Quota.late_us``) are never prefetched: with these it stands whatever the room.
- Each 32 slots used without an absence earn one credit. A line begins as if it had used 128. With a far cache it has
  all eight at once.
- An absence: the place stood with credit, and the next caller came more than half the margin after it was ready.
"""

from __future__ import annotations

from collections import deque

from nekkar.core.quota import SECOND
from nekkar.core.window.booking import MOST_CREDIT

CALLS_A_CREDIT = 32
RETURNS = 8
MUCH_ROOM = 512
MOST_BACK_US = 60 * SECOND  # a place has two bytes for the milliseconds


class Standing:
    """How regularly calls come to one line. Changed under the lock of its line; times are microseconds."""

    def __init__(self) -> None:
        self._run, self._usual_run = 0, 4 * CALLS_A_CREDIT  # slots used since the last absence, and before it
        self._returns: deque[int] = deque(maxlen=RETURNS)
        self._left_at: int | None = None
        self._bound_at = 0

    def arrives(self, now: int) -> None:
        """Count a caller that came."""
        if self._left_at is not None:
            self._returns.append(max(0, now - self._left_at))  # written without a sign
            self._left_at = None

    def starts(self, slot: int, others_wait: bool) -> None:
        """Count a slot that was used; if nobody else waits, the time until the next caller comes is measured."""
        self._run += 1
        if others_wait:
            self._returns.append(0)
        else:
            self._left_at = slot

    def was_absent(self) -> None:
        """Count an absence: a slot was granted, and no caller was there to use it."""
        if self._run:
            self._usual_run = (self._usual_run + self._run) // 2
        self._run = 0

    def binds(self, now: int) -> None:
        """Remember that the limit bound: the next call had to wait for room."""
        self._bound_at = now

    def has_bound(self, now: int, window_us: int) -> bool:
        """Whether the limit bound within ``window_us``."""
        return now <= self._bound_at + window_us

    def credit(self, is_far: bool) -> int:
        """Return how often others may grant the place."""
        return MOST_CREDIT if is_far else min(MOST_CREDIT, max(self._run, self._usual_run) // CALLS_A_CREDIT)

    def back_us(self, read_us: int) -> int:
        """Return the longest recent time from a slot to the next caller, plus the time of a look."""
        return max(self._returns, default=0) + read_us + 1000

    def may_stand(self, now: int, window_us: int, is_far: bool, room: int) -> bool:
        """Whether calls come back within a minute, and the limit binds or the cache is far.

        It binds where it bound within ``window_us``, and there is not ``room`` for many hits now.
        """
        comes_back = bool(self._returns) and max(self._returns) <= MOST_BACK_US
        return comes_back and (is_far or (self.has_bound(now, window_us) and room < MUCH_ROOM))
