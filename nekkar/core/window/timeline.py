"""A timeline: a hit log with hits behind it that are only planned. The plan of a turn books on it.

Pure.
"""

from __future__ import annotations

from bisect import bisect_left

from nekkar.core.cost import CALLS, Hits, hits_in, items
from nekkar.core.window.hits import NO_HITS, HitLog


class Timeline:
    """A hit log with hits appended that are only planned; the log itself stays as it is."""

    __slots__ = ("_cumulative", "_hits", "_others", "_times", "last_at", "total")

    def __init__(self, hits: HitLog) -> None:
        self._hits = hits
        self._times: list[int] = []
        self._cumulative: list[int] = []
        self._others = {unit: Timeline(log) for unit, log in hits.others}
        self.total, self.last_at = hits.total, hits.last_at

    def of(self, unit: str) -> Timeline:
        """Return the timeline of a unit."""
        if unit == CALLS:
            return self
        return self._others.get(unit) or self._others.setdefault(unit, Timeline(NO_HITS))

    def add(self, at: int, cost: Hits) -> None:
        """Plan a call of this cost at ``at``, which is not before the last hit of any unit."""
        if isinstance(cost, int):
            self._add(at, cost)
        else:
            for unit, hits in items(cost):
                self.of(unit)._add(at, hits)
        self.last_at = at

    def _add(self, at: int, hits: int) -> None:
        if hits:
            self.total += hits
            self._times.append(at)
            self._cumulative.append(self.total)

    def time_of(self, number: int) -> int | None:
        """Return the time of hit ``number`` (at most ``total``); None where that hit is forgotten."""
        if number <= self._hits.total:
            return self._hits.time_of(number)
        return self._times[bisect_left(self._cumulative, number)]

    def plus(self, at: int, cost: Hits) -> _Extended:
        """Return a view of this timeline with a call of this cost at ``at``, behind the last one."""
        return _Extended(self, at, cost)


class _Extended:
    """A timeline with one more booking behind it."""

    __slots__ = ("_cost", "_timeline", "last_at", "total")

    def __init__(self, timeline: Timeline, at: int, cost: Hits) -> None:
        self._timeline, self.last_at, self._cost = timeline, at, cost
        self.total = timeline.total + hits_in(cost, CALLS)

    def of(self, unit: str) -> _Extended:
        """Return the timeline of a unit."""
        return self if unit == CALLS else _Extended(self._timeline.of(unit), self.last_at, hits_in(self._cost, unit))

    def time_of(self, number: int) -> int | None:
        return self._timeline.time_of(number) if number <= self._timeline.total else self.last_at
