"""The hit log: the booked hits of one limit, packed into two columns of integers for each unit that it counts.

Rules (of this file alone):

a. Times are integer microseconds since the Unix epoch. Hits are numbered 1, 2, 3, … from the creation of the log. An
   entry is (time, number of the last hit at that time), and both ascend.
b. A booking appends its hits, so it never disturbs an earlier one. Hit n comes at least a period and the margin after
   hit n − N, so no N + 1 hits span less than the period (test_hits.py states it as a property). Only the hits of a call
   under several limits may go between others, where that still holds (rule 27, in exact.py).
c. Removing, forgetting and thinning take out hits that nobody started, drop hits too old to matter, or move hits
   later. None of them can admit more.
d. Each unit has a timeline of its own. All units of a call are booked at one instant, and no hit of any unit is booked
   before another: so each timeline ascends, and rule b holds in each.
e. What a settlement gives back leaves a timeline at the first entry at or after the slot, since thinning only moves
   hits later. What a call used beyond its reservation is added there.

No clock, no cache, no sleep here. Every method returns a new log.

The algorithm is the exact sliding log. The packing and the thinning are this project's own.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from nekkar.core.cost import CALLS, Hits, hits_in, items

Column = array  # of unsigned integers: "I" (4 bytes) while the offsets fit, else "Q" (8 bytes)


def column(values: Iterable[int]) -> Column[int]:
    """Pack ascending, non-negative offsets into the narrower of two widths that holds them."""
    offsets = list(values)
    return array("Q" if offsets and offsets[-1] >= 1 << 32 else "I", offsets)


@dataclass(frozen=True, slots=True)
class HitLog:
    """The booked hits of one limit: the timeline of its calls, and ``others``, those of its other units by name.

    ``forgotten``: the number of the last hit that was dropped. ``times`` and ``cumulative`` hold the entries, as
    offsets from ``time_offset_us`` and ``number_offset``. A method is about the calls, unless it says otherwise.
    """

    forgotten: int = 0
    time_offset_us: int = 0
    number_offset: int = 0
    times: Column[int] = field(default_factory=lambda: array("I"))
    cumulative: Column[int] = field(default_factory=lambda: array("I"))
    others: tuple[tuple[str, HitLog], ...] = ()

    # What the log says.

    @property
    def total(self) -> int:
        """The number of the newest hit."""
        return self.number_offset + self.cumulative[-1] if self.cumulative else self.forgotten

    @property
    def last_at(self) -> int | None:
        """The time of the newest hit of any unit; None where the log has no hits."""
        last = self.time_offset_us + self.times[-1] if self.times else None
        for _, log in self.others:
            if (other := log.last_at) is not None:
                last = other if last is None else max(last, other)
        return last

    @property
    def size(self) -> int:
        """The number of its entries, in all units."""
        return len(self.times) + sum(len(log.times) for _, log in self.others)

    def of(self, unit: str) -> HitLog:
        """Return the timeline of a unit; an empty one where nothing is booked in it."""
        if unit == CALLS:
            return self
        return next((log for name, log in self.others if name == unit), NO_HITS)

    def timelines(self) -> list[tuple[str, HitLog]]:
        """Return (unit, timeline) for each unit, calls first."""
        return [(CALLS, self), *self.others]

    def each(self, change: Callable[[str, HitLog], HitLog]) -> HitLog:
        """Return the log with each timeline changed by ``change``, which gets the unit and its timeline."""
        if not self.others:
            return change(CALLS, self)
        calls, others = change(CALLS, self), tuple((unit, change(unit, log)) for unit, log in self.others)
        is_same = calls is self and all(new is old for (_, new), (_, old) in zip(others, self.others, strict=True))
        return self if is_same else replace(calls, others=others)

    def with_timeline(self, unit: str, log: HitLog) -> HitLog:
        """Return the log with another timeline of one unit; that of the calls keeps those of all others."""
        if unit == CALLS:
            return log
        return replace(self, others=tuple(sorted({**dict(self.others), unit: log}.items())))

    def time_of(self, number: int) -> int | None:
        """Return the time of hit ``number`` (at most ``total``); None where that hit is forgotten."""
        if number <= self.forgotten:
            return None
        return self.time_offset_us + self.times[bisect_left(self.cumulative, number - self.number_offset)]

    def count_since(self, start: int) -> int:
        """Return how many hits come after ``start``, those in the future too."""
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

    def book(self, slots: Sequence[tuple[int, Hits]]) -> HitLog:
        """Append (time, cost) for each slot; no time may be before that of a hit of any unit (rules b and d)."""
        return self._in_each_unit(slots, HitLog._append)

    def add(self, at: int, cost: Hits) -> HitLog:
        """Append one slot; see ``book``."""
        return self._append(((at, cost),)) if isinstance(cost, int) and cost else self.book([(at, cost)])

    def insert(self, slots: Sequence[tuple[int, Hits]]) -> HitLog:
        """Add (time, cost) for each slot, at any time: the caller has found room there, or others made these calls."""
        return self._in_each_unit(slots, HitLog._insert)

    def remove(self, at: int, cost: Hits) -> HitLog:
        """Take out hits booked at ``at``; none in a unit that has fewer hits there."""
        log = self
        for unit, hits in items(cost):
            log = log.with_timeline(unit, log.of(unit)._remove(at, hits))
        return log

    def settle(self, at: int, unit: str, hits: int) -> HitLog:
        """Add ``hits`` of a unit at a slot that has come, or take them out if ``hits`` is negative (rule e).

        Nothing changes if fewer hits are there than are to be taken out.
        """
        log = self.of(unit)
        index = bisect_left(log.times, at - log.time_offset_us) if log.times else 0
        entry = log.time_offset_us + log.times[index] if index < len(log.times) else at
        return self.with_timeline(unit, log._insert([(entry, hits)]) if hits > 0 else log._remove(entry, -hits))

    def _in_each_unit(
        self, slots: Sequence[tuple[int, Hits]], change: Callable[[HitLog, Sequence[tuple[int, int]]], HitLog]
    ) -> HitLog:
        plain = [(at, cost) for at, cost in slots if isinstance(cost, int) and cost]
        if len(plain) == len(slots):  # most limits count calls alone
            return change(self, plain)
        log = self
        for unit in {unit: None for _, cost in slots for unit, _ in items(cost)}:
            own = [(at, hits) for at, cost in slots if (hits := hits_in(cost, unit))]
            log = log.with_timeline(unit, change(log.of(unit), own))
        return log

    def _insert(self, slots: Sequence[tuple[int, int]]) -> HitLog:
        hits = Counter(dict(self.entries()))
        for at, count in slots:
            hits[at] += count
        return self.with_entries(sorted(hits.items()))

    def _append(self, slots: Sequence[tuple[int, int]]) -> HitLog:
        times, cumulative = self.times[:], self.cumulative[:]
        number = self.total - self.number_offset
        last = self.time_offset_us + times[-1] if times else None
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
        return HitLog(self.forgotten, self.time_offset_us, self.number_offset, times, cumulative, self.others)

    def _remove(self, at: int, hits: int) -> HitLog:
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
        return HitLog(self.forgotten, self.time_offset_us, self.number_offset, times, cumulative, self.others)

    def forget(self, before: int) -> HitLog:
        """Drop the hits of every unit that are earlier than ``before`` (rule c)."""
        others = tuple((unit, log.forget(before)) for unit, log in self.others)
        is_changed = any(new is not old for (_, new), (_, old) in zip(others, self.others, strict=True))
        gone = bisect_left(self.times, before - self.time_offset_us)
        if not gone:
            return replace(self, others=others) if is_changed else self
        forgotten, times, numbers = self.number_offset + self.cumulative[gone - 1], self.times, self.cumulative
        return HitLog(forgotten, self.time_offset_us, self.number_offset, times[gone:], numbers[gone:], others)

    def thin(self, until: int, cell_us: Callable[[int], int]) -> HitLog:
        """Merge the hits before ``until`` that lie in one cell of a grid into the latest of the cell.

        ``cell_us`` gives the width of the cell for the time of a hit. The grid stands still, so that merging does not
        chain. A hit moves later by less than a cell, and never earlier (rule c).
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
        return HitLog(self.forgotten, offset, self.forgotten, times, column(packed.values()), self.others)

    def _number_at(self, time: int) -> int:
        """Return the number of the last hit up to ``time``."""
        gone = bisect_right(self.times, time - self.time_offset_us)
        return self.number_offset + self.cumulative[gone - 1] if gone else self.forgotten


NO_HITS = HitLog()
