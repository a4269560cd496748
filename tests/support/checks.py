"""Checks on plain lists of times, which know nothing of nekkar: was a limit kept?

Times are integer microseconds, one for each hit, in any order.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable


def each_hit(booked: Iterable[tuple[int, int]]) -> list[int]:
    """Return one time for each hit of (time, cost) pairs, ascending."""
    return sorted(time for time, cost in booked for _ in range(cost))


def worst_window(times: list[int], period_us: int) -> int:
    """Return the most hits in any half-open window [t, t + period)."""
    ordered = sorted(times)
    return max((bisect_left(ordered, time + period_us) - index for index, time in enumerate(ordered)), default=0)


def spans_broken(times: list[int], count: int, period_us: int) -> list[tuple[int, int]]:
    """Return (first, last) of each ``count`` + 1 consecutive hits that span less than ``period_us``."""
    ordered = sorted(times)
    pairs = zip(ordered, ordered[count:], strict=False)
    return [(first, last) for first, last in pairs if last - first < period_us]
