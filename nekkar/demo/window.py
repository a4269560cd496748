"""What a strict service accepts: at most N calls in any sliding window of P, exactly.

Pure. ``accepted`` is a list of the times of accepted calls, ascending, in integer microseconds; a refused
call is not in it. A window is half-open: a call exactly P after the oldest of N is accepted.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from nekkar.core.quota import Rate

Rates = Sequence[Rate]


def fits(accepted: Sequence[int], at_us: int, rates: Rates) -> bool:
    """Tell whether a call at ``at_us`` keeps every rate; it may be older than calls accepted already."""
    place = bisect_right(accepted, at_us)
    return all(_fits(accepted, place, at_us, rate) for rate in rates)


def free_at(accepted: Sequence[int], rates: Rates) -> int:
    """Return the first time at which a call after all others fits."""
    return max((accepted[-rate.count] + rate.period_us for rate in rates if len(accepted) >= rate.count), default=0)


def most_calls(rates: Rates, span_us: int) -> int:
    """Return the most calls that a strict service can accept in a half-open span.

    Found by calling whenever a call fits: no order of calls can have its n-th call accepted earlier.
    Takes time in proportion to the answer.
    """
    accepted: list[int] = []
    while (at_us := free_at(accepted, rates)) < span_us:
        accepted.append(at_us)
    return len(accepted)


def _fits(accepted: Sequence[int], place: int, at_us: int, rate: Rate) -> bool:
    """Look at each run of N + 1 calls that the new one would be in."""

    def time_of(index: int) -> int:
        return accepted[index - (index > place)] if index != place else at_us

    firsts = range(max(0, place - rate.count), min(place, len(accepted) - rate.count) + 1)
    return all(time_of(first + rate.count) - time_of(first) >= rate.period_us for first in firsts)
