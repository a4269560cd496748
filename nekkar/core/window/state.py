"""The hit log: all that callers of one limit share, and the whole decision when a call may start.

Rules:

- Times are integer microseconds since the Unix epoch. Hits are numbered 1, 2, 3, … from the log's creation; an entry
  is (time, number of the last hit booked at that time), ascending in both.
- Slots are given in order, each the earliest that every window allows: hit n comes at least one period and the margin
  after hit n − N. A later booking never disturbs an earlier one; that is the whole proof that no N + 1 hits span less
  than the period (tests/window/test_log.py states it as a property).
- Whatever else is done to a log (unbook, forget, thin, merge, recover) only takes out hits that nobody started, drops
  hits too old to matter, or moves hits later: none of it can admit more.
- No clock, no cache, no sleep here. Every method returns a new log.

The algorithm is the exact sliding log; packing, thinning and recovery are this project's own.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

from nekkar.core.errors import ConfigurationError
from nekkar.core.quota import SECOND, Quota, Rate
from nekkar.core.window.rejections import NONE, Refusals

EXACT_ENTRIES, GRID, MAX_WINDOWS = 1024, 512, 16
LINGER_US, LONG_PERIOD_US = 60 * SECOND, 600 * SECOND
Column = array  # of unsigned ints: "I" (4 bytes) while the offsets fit, else "Q" (8 bytes)


def column(values: Iterable[int]) -> Column[int]:
    """Pack ascending, non-negative offsets in the narrowest of two widths."""
    offsets = list(values)
    return array("Q" if offsets and offsets[-1] >= 1 << 32 else "I", offsets)


@dataclass(frozen=True, slots=True)
class HitLog:
    """The booked hits of one limit.

    ``epoch``: random, chosen when the log is created. ``nonce``: random, of the newest write. ``hold_until``: no slot
    before this instant. ``base``: the number of the last forgotten hit. ``crowd``: how often swaps of it lately met
    others (pace.py). ``windows``, ``margin_us``, ``spacing_us``, ``horizon_us``: those in use, the largest of each.
    ``reset_at``: when the limit was started afresh (0: never); what others remember of before counts no more.
    ``written_at``: when the newest write was sent, by its writer's clock (0: never written). ``refusals``: see there.
    ``unsure_until``: of the hits up to here some are assumed, after a loss, or were void in an epoch that ended.
    ``times`` and ``numbers`` hold the entries as offsets from ``origin_us`` and ``zero``.
    """

    epoch: int
    nonce: int = 0
    hold_until: int = 0
    margin_us: int = 0
    spacing_us: int = 0
    windows: tuple[Rate, ...] = ()
    base: int = 0
    origin_us: int = 0
    zero: int = 0
    times: Column[int] = field(default_factory=lambda: array("I"))
    numbers: Column[int] = field(default_factory=lambda: array("I"))
    crowd: int = 0
    horizon_us: int = 0
    reset_at: int = 0
    written_at: int = 0
    refusals: Refusals = NONE
    unsure_until: int = 0

    # What the log says.

    @property
    def total(self) -> int:
        """The number of the newest hit."""
        return self.zero + self.numbers[-1] if self.numbers else self.base

    @property
    def last(self) -> int | None:
        """The time of the newest hit."""
        return self.origin_us + self.times[-1] if self.times else None

    @property
    def keep_us(self) -> int:
        """How long a hit matters: the longest period or spacing, the margin, and 1 s for clocks apart."""
        longest = self.windows[-1].period_us if self.windows else 0
        return max(longest, self.spacing_us) + max(self.margin_us, self.refusals.margin_us) + SECOND

    @property
    def dies_at(self) -> int:
        """The instant from which no hit and no hold matters; a minute late, for clocks apart."""
        return max(self.hold_until, self.last or 0) + self.keep_us + LINGER_US

    def time_of(self, number: int) -> int | None:
        """Return when hit ``number`` (at most ``total``) was booked; None where it is forgotten."""
        if number <= self.base:
            return None
        return self.origin_us + self.times[bisect_left(self.numbers, number - self.zero)]

    def margin(self, quota: Quota, now: int) -> int:
        """Return the margin to book with: the largest in use, the learned one too."""
        return max(self.margin_us, quota.margin_us, self.refusals.margin(now))

    def since(self, start: int) -> int:
        """Return the hits after ``start``, with those booked for later."""
        return self.total - self._number_at(start)

    def between(self, start: int, end: int) -> int:
        """Return the hits after ``start`` and up to ``end``."""
        return self._number_at(end) - self._number_at(start)

    def hits(self) -> list[tuple[int, int]]:
        """Return (time, how many) of each entry."""
        counts = (after - before for before, after in pairwise([self.base - self.zero, *self.numbers]))
        return [(self.origin_us + offset, count) for offset, count in zip(self.times, counts, strict=True)]

    def earliest(self, quota: Quota, cost: int, now: int) -> int:
        """Return the earliest slot for a call of ``cost`` hits, at or after ``now``."""
        margin = self.margin(quota, now)
        at = max(now, self.hold_until)
        if self.times:
            at = max(at, self.origin_us + self.times[-1] + quota.spacing_us)
        for rate in quota.rates:
            if cost > rate.count:
                raise ConfigurationError(f"cost {cost} is above the limit {quota}; give at most {quota.max_cost}")
            before = self.time_of(self.total + cost - rate.count)
            if before is not None:
                at = max(at, before + rate.period_us + margin)
        return at

    def no_slot_before(self, quota: Quota, cost: int, hits: int, calls: int) -> int:
        """Return a lower bound of the slot of a call behind ``calls`` others of ``hits`` in all.

        In constant time: time(n) ≥ time(n − N) + P, as often as it takes to reach a booked hit.
        """
        margin = max(self.margin_us, quota.margin_us)
        at = self.hold_until
        if self.times and quota.spacing_us:
            at = max(at, self.origin_us + self.times[-1] + (calls + 1) * quota.spacing_us)
        for rate in quota.rates:
            number = self.total + hits + cost - rate.count
            turns = max(0, -((self.total - number) // rate.count))
            before = self.time_of(number - turns * rate.count)
            if before is not None:
                at = max(at, before + (turns + 1) * (rate.period_us + margin))
        return at

    # What may be done to it.

    def joined(self, quota: Quota, horizon_us: int) -> HitLog:
        """Record what is in use: hits are kept, windows widened, and a loss met, for all who share."""
        margin, spacing = max(self.margin_us, quota.margin_us), max(self.spacing_us, quota.spacing_us)
        horizon = max(self.horizon_us, horizon_us)
        windows = self.windows
        if windows != quota.rates and not set(quota.rates) <= set(windows):
            windows = tuple(sorted({*windows, *quota.rates})[-MAX_WINDOWS:])
        if (margin, spacing, horizon, windows) == (self.margin_us, self.spacing_us, self.horizon_us, self.windows):
            return self
        return replace(self, margin_us=margin, spacing_us=spacing, horizon_us=horizon, windows=windows)

    def book(self, at: int, cost: int) -> HitLog:
        """Append ``cost`` hits at ``at``, which no earlier booking may follow."""
        times, numbers = self.times[:], self.numbers[:]
        number = self.total + cost
        if self.last == at:
            times.pop()
            numbers.pop()
        try:
            times.append(at - self.origin_us)
            numbers.append(number - self.zero)
        except OverflowError:  # wider than four bytes, or the first entry of all: a new origin
            kept = [(time, count) for time, count in self.hits() if time < at]
            return self.with_hits(kept, last=(at, number))
        return self._with_columns(self.base, times, numbers)

    def stamped(self, nonce: int, crowd: int, now: int) -> HitLog:
        """Return this log as it is written now. Spelled out, as each swap does it: ``replace`` takes twice as long."""
        return HitLog(self.epoch, nonce, self.hold_until, self.margin_us, self.spacing_us, self.windows, self.base,
                      self.origin_us, self.zero, self.times, self.numbers, crowd, self.horizon_us, self.reset_at,
                      now, self.refusals, self.unsure_until)  # fmt: skip

    def unbook(self, at: int, cost: int) -> HitLog:
        """Take out ``cost`` hits booked at ``at``, where they stand alone; only one's own (ledger.py)."""
        hits = dict(self.hits())
        if hits.get(at, 0) < cost:
            return self
        hits[at] -= cost
        return self.with_hits([(time, count) for time, count in hits.items() if count])

    def forget(self, now: int) -> HitLog:
        """Drop the hits too old to matter, and thin what is left where it is many entries, most of them past."""
        log, gone = self, bisect_left(self.times, now - self.keep_us - self.origin_us)
        if gone:
            log = self._with_columns(self.zero + self.numbers[gone - 1], self.times[gone:], self.numbers[gone:])
        entries = len(log.times)
        return log.thin(now) if entries > EXACT_ENTRIES and log.times[entries // 2] < now - log.origin_us else log

    def thin(self, now: int) -> HitLog:
        """Merge past hits in one cell of a grid into the latest of the cell.

        A cell is 1/512 of the shortest period in use, with its margin, that still covers it. The grid stands still,
        so that merging does not chain; a hit moves later by less than a cell, never earlier.
        """
        merged: dict[tuple[int, int], tuple[int, int]] = {}
        for time, count in self.hits():
            step = self._step(now - time) if time < now else 1
            _, before = merged.get((step, time // step), (0, 0))
            merged[step, time // step] = (time, before + count)
        return self.with_hits(list(merged.values()))

    def merge(self, other: HitLog) -> HitLog:
        """Add what ``other`` knows: the union by time, the larger of the rest. A reset log takes none before."""
        hits = dict(self.hits())
        for time, count in other.hits():
            if time > self.reset_at or not self.reset_at:
                hits[time] = max(hits.get(time, 0), count)
        log = replace(
            self,
            base=max(self.base, other.base),
            hold_until=max(self.hold_until, other.hold_until if other.reset_at >= self.reset_at else 0),
            refusals=max(self.refusals, other.refusals if other.reset_at >= self.reset_at else NONE),
            reset_at=max(self.reset_at, other.reset_at),
            unsure_until=max(self.unsure_until, other.unsure_until, other.last or 0),
            margin_us=max(self.margin_us, other.margin_us),
            spacing_us=max(self.spacing_us, other.spacing_us),
            horizon_us=max(self.horizon_us, other.horizon_us),
            windows=tuple(sorted({*self.windows, *other.windows})[-MAX_WINDOWS:]),
        )
        return log.with_hits(sorted(hits.items()))

    def recovered(self, looked: int, now: int, epoch: int) -> HitLog:
        """Return what to write in place of a lost log, of which this is the last that was seen.

        The worst is assumed of what was not seen since ``looked``: that everybody else took all that was free, as late
        as possible: at now + horizon, beyond which each looks before it starts. Hits then older than two horizons stay,
        the others are part of that block. In a window over ten minutes it is at most twice the most hits in any span
        as long as the time unseen, or, with assumed ones, the most of any.
        """
        now, horizon = max(now, looked), self.horizon_us
        certain = [(time, count) for time, count in self.hits() if time <= looked - 2 * horizon]
        span = max(1, now - looked + horizon)
        seen = max(self._most_in(span, 0), 2 * self._most_in(span, self.unsure_until))
        most = {one: min(one.count, seen) if one.period_us > LONG_PERIOD_US else one.count for one in self.windows}
        return replace(self, epoch=epoch).with_hits(certain).filled(now + horizon, most)

    def filled(self, end: int, most: Mapping[Rate, int]) -> HitLog:
        """Return this log with all taken that is free at ``end`` (or its last hit), at most so much of each window."""
        end = max(end, self.last or 0)
        block = max((min(self._free(window, end), hits) for window, hits in most.items()), default=0)
        return replace(self.book(end, block), unsure_until=end) if block else self

    def with_hits(self, hits: list[tuple[int, int]], last: tuple[int, int] | None = None) -> HitLog:
        """Return this log with other hits: (time, count), ascending; ``last`` as (time, number)."""
        number, entries = self.base, []
        for time, count in hits:
            number += count
            entries.append((time, number))
        entries += [last] if last else []
        origin = entries[0][0] if entries else 0
        times = column(time - origin for time, _ in entries)
        numbers = column(number - self.base for _, number in entries)
        return replace(self, origin_us=origin, zero=self.base, times=times, numbers=numbers)

    # Parts of the above.

    def _with_columns(self, base: int, times: Column[int], numbers: Column[int]) -> HitLog:
        return HitLog(self.epoch, self.nonce, self.hold_until, self.margin_us, self.spacing_us, self.windows, base,
                      self.origin_us, self.zero, times, numbers, self.crowd, self.horizon_us, self.reset_at,
                      self.written_at, self.refusals, self.unsure_until)  # fmt: skip

    def _free(self, window: Rate, end: int) -> int:
        """Return how many hits others may have started, unseen, in the window that ends at ``end``.

        Hits within the margin take no room: others may use a smaller one. Nor do assumed hits: a process that did not
        know them may have called instead. In a long window they do, or repeated losses would fill it many times.
        """
        start = end - window.period_us
        start = start if window.period_us > LONG_PERIOD_US else max(start, self.unsure_until)
        return max(0, window.count - self.since(start))

    def _step(self, age: int) -> int:
        """Return the width of a grid cell for hits of this age; ``windows`` ascend by period."""
        spans = (window.period_us + self.margin_us for window in self.windows)
        return max(1, next((span for span in spans if age <= span), self.keep_us) // GRID)

    def _number_at(self, time: int) -> int:
        """Return the number of the last hit up to ``time``."""
        gone = bisect_right(self.times, time - self.origin_us)
        return self.zero + self.numbers[gone - 1] if gone else self.base

    def _most_in(self, span: int, start: int) -> int:
        """Return the most hits in any ``span`` microseconds after ``start``."""
        hits, most, inside, first = [hit for hit in self.hits() if hit[0] > start], 0, 0, 0
        for time, count in hits:
            inside += count
            while hits[first][0] <= time - span:
                inside -= hits[first][1]
                first += 1
            most = max(most, inside)
        return most
