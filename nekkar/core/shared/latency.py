"""How long the cache takes, as lately seen, and what follows from it.

Medians of the last few samples, so that one slow answer changes nothing. Durations are microseconds.
"""

from __future__ import annotations

import random

from nekkar.core.quota import SECOND
from nekkar.core.window.state import LEAST_HORIZON_US, MOST_HORIZON_US

LEAST_BACKOFF_US, MOST_BACKOFF_US = 300, 20_000
LEAD_PART = 8
SAMPLES = 9
PRIOR = (SECOND // 2000,) * 3  # so that a freeze during one of the first calls does not count for much


class CacheLatency:
    """How long a read and a swap of one cache take; safe between threads, since each value is replaced whole.

    ``read_us``, ``swap_us``: the running medians. ``horizon_us``: how far ahead slots are booked: 100 ms, or four times
    a read and a swap where that is longer; 1 s at most. ``is_measured``: a read was counted. ``in_process``: the cache
    answers at once.
    """

    def __init__(self, in_process: bool = False) -> None:
        prior = (0, 0, 0) if in_process else PRIOR
        self._reads: tuple[int, ...] = prior
        self._swaps: tuple[int, ...] = prior
        self.read_us = self.swap_us = prior[0]
        self.horizon_us = LEAST_HORIZON_US
        self.is_measured = in_process

    def expect(self, us: int) -> None:
        """Take a round trip that was measured before the first command as what a read and a swap take."""
        self._reads = self._swaps = (us,) * len(PRIOR)
        self.read_us = self.swap_us = us
        self._set_horizon()

    def record_read(self, us: int) -> None:
        """Count a read."""
        self.is_measured = True
        self._reads = (*self._reads[1 - SAMPLES :], max(0, us))
        self.read_us = sorted(self._reads)[len(self._reads) // 2]
        self._set_horizon()

    def record_swap(self, us: int) -> None:
        """Count a swap that was answered, whether it won or lost."""
        self._swaps = (*self._swaps[1 - SAMPLES :], max(0, us))
        self.swap_us = sorted(self._swaps)[len(self._swaps) // 2]
        self._set_horizon()

    def lead_us(self, margin_us: int) -> int:
        """Return how far ahead a free slot is booked, so that the answer of the swap comes before it.

        0 where a swap takes so little of the margin that the slot is good after it anyway.
        """
        return self.swap_us if self.swap_us > margin_us // LEAD_PART else 0

    def backoff_us(self, lost: int) -> int:
        """Return a random pause after ``lost`` swaps in a row that another writer won."""
        return random.randint(0, min(MOST_BACKOFF_US, max(LEAST_BACKOFF_US, self.swap_us) * lost))

    def _set_horizon(self) -> None:
        self.horizon_us = min(max(LEAST_HORIZON_US, 4 * (self.read_us + self.swap_us)), MOST_HORIZON_US)
