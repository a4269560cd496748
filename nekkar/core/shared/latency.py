"""How long the cache takes, as lately seen, and what follows for how far ahead to book.

Medians of the last few samples, so that one hiccup changes nothing. Durations are microseconds.
"""

from __future__ import annotations

from nekkar.core.quota import SECOND

HORIZON_US, MOST_HORIZON_US = SECOND // 10, 60 * SECOND
MOST_LEAD_US = SECOND // 5
MOST_BOOST = 1024
LEAST_PAUSE_US, MOST_PAUSE_US = 50, 20_000
CROWD_UNIT, MOST_CROWD = 16, 160
SAMPLES = 15
PRIOR = (SECOND // 2000,) * 4  # so that a freeze during one of the first calls does not count for much


class Pace:
    """The expected read and swap of one cache; safe between threads, since each value is replaced whole.

    ``read_us``, ``swap_us``: the running medians. ``horizon_us``: how far ahead slots are booked freely,
    100 ms or four times the expected read and swap, whichever is longer; 60 s at most.
    """

    def __init__(self) -> None:
        self._reads: tuple[int, ...] = PRIOR
        self._swaps: tuple[int, ...] = PRIOR
        self._boost = 1
        self.read_us = self.swap_us = _median(PRIOR)
        self.horizon_us = HORIZON_US

    def read_took(self, us: int) -> None:
        """Count a read."""
        self._reads = (*self._reads[1 - SAMPLES :], max(0, us))
        self.read_us = _median(self._reads)
        self._set_horizon()

    def swap_took(self, us: int) -> None:
        """Count a swap that was answered, whether it won or met another."""
        self._swaps = (*self._swaps[1 - SAMPLES :], max(0, us))
        self.swap_us = _median(self._swaps)
        self._set_horizon()

    def _set_horizon(self) -> None:
        self.horizon_us = min(max(HORIZON_US, 4 * (self.read_us + self.swap_us)), MOST_HORIZON_US)

    def booked(self, late: bool) -> None:
        """Count a swap that won; ``late``: its answer came when its own first slot was good no more."""
        self._boost = min(self._boost * 2, MOST_BOOST) if late else max(1, self._boost // 2)

    def pause_us(self, crowd: int) -> int:
        """The longest random pause before a swap of a log that is so crowded; see ``crowded``."""
        doublings, part = divmod(crowd, CROWD_UNIT)
        times = ((CROWD_UNIT + part) << doublings) - CROWD_UNIT
        return min(max(LEAST_PAUSE_US, self.swap_us) * times // CROWD_UNIT, MOST_PAUSE_US)

    @property
    def ahead_us(self) -> int:
        """How long before its slot a caller wakes to read: well within the horizon, and ample for a slow read."""
        return self.horizon_us // 4

    def lead_us(self, margin_us: int) -> int:
        """How far ahead a free slot is booked, so that the swap's answer comes before it.

        Nothing where a swap takes so little of the margin that the slot is good after it anyway; at
        most 200 ms, or four medians.
        """
        lead = min(self.swap_us * self._boost, max(MOST_LEAD_US, 4 * self.swap_us))
        return lead if lead > margin_us // 8 else 0


def crowded(crowd: int, conflicts: int) -> int:
    """Return how crowded a log is after one more swap, which met ``conflicts`` others.

    The measure stands in the log, so that all who share it pause alike: where each keeps its own, who
    wins once pauses least and goes on winning. It doubles the pauses per 16, and settles where about
    one swap in four meets another.
    """
    return min(MOST_CROWD, crowd - -(-crowd // CROWD_UNIT) + CROWD_UNIT * conflicts)


def _median(samples: tuple[int, ...]) -> int:
    return sorted(samples)[len(samples) // 2]
