"""The hit log: the booked hits of one limit, packed into two columns of integers.

Rules:

1. Times are integer microseconds since the Unix epoch. Hits are numbered 1, 2, 3, … from the creation of the log. An
   entry is (time, number of the last hit at that time), and both ascend.
2. Hits are only appended: a later booking never disturbs an earlier one. Hit n comes at least a period and the margin
   after hit n − N, so no N + 1 hits span less than the period (test_hits.py states it as a property).
3. All other changes (remove, forget, thin) take out hits that nobody started, drop hits too old to matter, or move hits
   later. None of them can admit more.

No clock, no cache, no sleep here. Every method returns a new log.

The algorithm is the exact sliding log. The packing and the thinning are this project's own.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

Column = array  # of unsigned integers: "I" (4 bytes) while the offsets fit, else "Q" (8 bytes)


def column(values: Iterable[int]) -> Column[int]:
    """Pack ascending, non-negative offsets into the narrower of two widths that holds them."""
    offsets = list(values)
    return array("Q" if offsets and offsets[-1] >= 1 << 32 else "I", offsets)


@dataclass(frozen=True, slots=True)
class HitLog:
    """The booked hits of one limit.

    ``forgotten``: the number of the last hit that was dropped. ``times`` and ``cumulative`` hold the entries, as
    offsets from ``time_offset_us`` and ``number_offset``.
    """

    forgotten: int = 0
    time_offset_us: int = 0
    number_offset: int = 0
    times: Column[int] = field(default_factory=lambda: array("I"))
    cumulative: Column[int] = field(default_factory=lambda: array("I"))

    # What the log says.

    @property
    def total(self) -> int:
        """The number of the newest hit."""
        return self.number_offset + self.cumulative[-1] if self.cumulative else self.forgotten

    @property
    def last_at(self) -> int | None:
        """The time of the newest hit; None where the log has no hits."""
        return self.time_offset_us + self.times[-1] if self.times else None

    def time_of(self, number: int) -> int | None:
        """Return the time of hit ``number`` (at most ``total``); None where that hit is forgotten."""
        if number <= self.forgotten:
            return None
        return self.time_offset_us + self.times[bisect_left(self.cumulative, number - self.number_offset)]

    def count_since(self, start: int) -> int:
        """Return how many hits come after ``start``; those booked for later count too."""
        return self.total - self._number_at(start)

    def count_between(self, start: int, end: int) -> int:
        """Return how many hits come after ``start`` and up to ``end``."""
        return self._number_at(end) - self._number_at(start)

    def entries(self) -> list[tuple[int, int]]:
        """Return (time, number of hits) for each entry."""
        counts = (after - before for before, after in pairwise([self.forgotten - self.number_offset, *self.cumulative]))
        return [(self.time_offset_us + offset, count) for offset, count in zip(self.times, counts, strict=True)]

    def most_within(self, span_us: int, start: int) -> int:
        """Return the most hits within any ``span_us`` microseconds, of the hits after ``start``."""
        hits, most, inside, first = [hit for hit in self.entries() if hit[0] > start], 0, 0, 0
        for time, count in hits:
            inside += count
            while hits[first][0] <= time - span_us:
                inside -= hits[first][1]
                first += 1
            most = max(most, inside)
        return most

    # What may be done to it.

    def book(self, slots: Sequence[tuple[int, int]]) -> HitLog:
        """Append (time, number of hits) for each slot; no time may be before that of an earlier hit."""
        times, cumulative = self.times[:], self.cumulative[:]
        number, last = self.total - self.number_offset, self.last_at
        try:
            for at, hits in slots:
                number += hits
                if at == last:
                    cumulative[-1] = number
                else:
                    times.append(at - self.time_offset_us)
                    cumulative.append(number)
                last = at
        except OverflowError:  # wider than four bytes, or the first entry of an empty log: choose a new offset
            return self.with_entries([*self.entries(), *slots])
        return HitLog(self.forgotten, self.time_offset_us, self.number_offset, times, cumulative)

    def remove(self, at: int, hits: int) -> HitLog:
        """Take out ``hits`` hits booked at ``at``; unchanged where fewer than that are there."""
        index = bisect_left(self.times, at - self.time_offset_us) if self.times else 0
        if index == len(self.times) or self.times[index] != at - self.time_offset_us:
            return self
        before = self.cumulative[index - 1] if index else self.forgotten - self.number_offset
        count = self.cumulative[index] - before
        if count < hits:
            return self
        times, cumulative = self.times[:], self.cumulative[:index]
        if count == hits:
            times.pop(index)
        else:
            cumulative.append(before + count - hits)
        cumulative.extend(number - hits for number in self.cumulative[index + 1 :])
        return HitLog(self.forgotten, self.time_offset_us, self.number_offset, times, cumulative)

    def forget(self, before: int) -> HitLog:
        """Drop the hits earlier than ``before``."""
        gone = bisect_left(self.times, before - self.time_offset_us)
        if not gone:
            return self
        forgotten = self.number_offset + self.cumulative[gone - 1]
        return HitLog(forgotten, self.time_offset_us, self.number_offset, self.times[gone:], self.cumulative[gone:])

    def thin(self, until: int, cell_us: Callable[[int], int]) -> HitLog:
        """Merge the hits before ``until`` that lie in one cell of a grid into the latest of the cell.

        ``cell_us`` gives the width of the cell for the time of a hit. The grid stands still, so that merging does not
        chain. A hit moves later by less than a cell, and never earlier.
        """
        merged: dict[tuple[int, int], tuple[int, int]] = {}
        for time, count in self.entries():
            width = cell_us(time) if time < until else 1
            _, before = merged.get((width, time // width), (0, 0))
            merged[width, time // width] = (time, before + count)
        return self.with_entries(merged.values())

    def with_entries(self, entries: Iterable[tuple[int, int]]) -> HitLog:
        """Return this log with other hits: (time, number of hits), ascending by time."""
        number, packed = 0, dict[int, int]()
        for time, count in entries:
            number += count
            packed[time] = number
        offset = next(iter(packed), 0)
        times = column(time - offset for time in packed)
        return HitLog(self.forgotten, offset, self.forgotten, times, column(packed.values()))

    def _number_at(self, time: int) -> int:
        """Return the number of the last hit up to ``time``."""
        gone = bisect_right(self.times, time - self.time_offset_us)
        return self.number_offset + self.cumulative[gone - 1] if gone else self.forgotten


class Timeline:
    """A hit log with hits appended that are only planned; the log itself stays as it is."""

    __slots__ = ("_cumulative", "_hits", "_times", "last_at", "total")

    def __init__(self, hits: HitLog) -> None:
        self._hits = hits
        self._times: list[int] = []
        self._cumulative: list[int] = []
        self.total, self.last_at = hits.total, hits.last_at

    def add(self, at: int, hits: int) -> None:
        """Plan ``hits`` hits at ``at``, which is not before the last hit."""
        self.total += hits
        self.last_at = at
        self._times.append(at)
        self._cumulative.append(self.total)

    def time_of(self, number: int) -> int | None:
        """Return the time of hit ``number`` (at most ``total``); None where that hit is forgotten."""
        if number <= self._hits.total:
            return self._hits.time_of(number)
        return self._times[bisect_left(self._cumulative, number)]

    def plus(self, at: int, hits: int) -> _Extended:
        """Return a view of this timeline with ``hits`` more hits at ``at``, behind the last one."""
        return _Extended(self, at, hits)


class _Extended:
    """A timeline with one more booking behind it."""

    __slots__ = ("_timeline", "last_at", "total")

    def __init__(self, timeline: Timeline, at: int, hits: int) -> None:
        self._timeline, self.last_at, self.total = timeline, at, timeline.total + hits

    def time_of(self, number: int) -> int | None:
        return self._timeline.time_of(number) if number <= self._timeline.total else self.last_at
