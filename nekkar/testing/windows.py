"""Check that recorded calls were never over a limit (promise 1).

Windows are half-open, [start, start + period): a limit of N calls per P seconds is kept if any N + 1 consecutive calls
span at least P. Margins do not matter here: they are nekkar's means of keeping a limit, not a part of it.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from nekkar.core.limiter import Admission
from nekkar.core.quota import SECOND, Quota, Rate, quota


@dataclass(frozen=True, slots=True)
class _Fullest:
    """The window of a rate that holds the most calls, all in microseconds."""

    rate: Rate
    start: int
    calls: int
    short: int  # by how much the N + 1 closest calls miss the period, or 0

    @property
    def over(self) -> int:
        return self.calls - self.rate.count

    def __str__(self) -> str:
        start, end = self.start / SECOND, (self.start + self.rate.period_us) / SECOND
        return (
            f"{self.calls} calls in the window from {start:.6f} to {end:.6f} s, {self.over} over the limit of"
            f" {self.rate}; some {self.rate.count + 1} consecutive calls come {self.short / SECOND:.6f} s too close"
        )


def assert_never_over(
    times: Iterable[float | Admission], rate_limit: int | str | Quota, *, period: float | None = None
) -> None:
    """Raise AssertionError if ``times`` were ever over a limit, and show its worst window, one line for each rate.

    ``times``: the start of each call, in seconds on any one clock, in any order; or the Admissions, of which
    each counts its cost. No times keep every limit. ``rate_limit`` and ``period``: as a limiter takes them;
    of several windows (``"10/second; 300/minute"``) each must be kept. Raises ValueError for a time that is
    not a number, and ConfigurationError for an invalid rate.
    """
    terms = rate_limit if isinstance(rate_limit, Quota) else quota(rate_limit, period)
    ordered = sorted(hit for time in times for hit in _hits(time))
    fullest = [_fullest(ordered, rate) for rate in terms.rates if ordered]
    broken = [str(window) for window in fullest if window.over > 0]
    if broken:
        raise AssertionError("over the limit: " + "\nand: ".join(broken))


def _hits(time: float | Admission) -> Iterator[int]:
    """Yield the microsecond of a call, once for each hit of its cost."""
    at, cost = (time.at, time.cost) if isinstance(time, Admission) else (time, 1)
    if not math.isfinite(at):
        raise ValueError(f"time must be a number of seconds, got {at!r}")
    yield from [round(at * SECOND)] * cost


def _fullest(ordered: list[int], rate: Rate) -> _Fullest:
    ends = (bisect_left(ordered, time + rate.period_us) for time in ordered)
    calls, first = max((end - number, -number) for number, end in enumerate(ends))
    spans = (last - first for first, last in zip(ordered, ordered[rate.count :], strict=False))
    short = rate.period_us - min(spans, default=rate.period_us)
    return _Fullest(rate, ordered[-first], calls, max(0, short))
