"""The state of one limit: one small value that all its users share, and that only compare-and-swap changes.

It holds the booked hits (``hits.py``), the grants (hits with the name of the line that may use them), and the places of
the lines that wait. Nobody books further ahead than the horizon; which place is served when is planned by each reader
(``plan.py``) and never stored. So a release, a reset, a cancellation or a death is only another state.

Frozen values; every method returns a new state. No clock, no cache, no sleep here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

from nekkar.core.cost import Hits
from nekkar.core.quota import SECOND, Quota, Rate
from nekkar.core.window.hits import NO_HITS, HitLog
from nekkar.core.window.rejections import MARGIN_PART, NONE, Rejections
from nekkar.core.window.reported import NOTHING_REPORTED, ReportedRates

LEAST_HORIZON_US, MOST_HORIZON_US = SECOND // 10, SECOND
EXACT_ENTRIES, GRID = 1024, 512  # of a timeline: the entries that it may have unthinned, and the cells of a period
MAX_RATES, MAX_TERMS = 16, 64
LINGER_US, LINGER_PERIODS, MOST_LINGER_US = 60 * SECOND, 10, 600 * SECOND  # how long the cache keeps what is over

Terms = tuple[tuple[Rate, ...], int]  # the rates and the spacing (µs) of one limit


class Place(NamedTuple):
    """The place of one line in the queue of all lines; a state has them in the order of their turns.

    A line has a place while callers of it wait, or while it expects its next one. ``owner``: the line. ``cost``: the
    cost of its first caller. ``ready``: it gets no slot before this instant; its owner reads the state a quarter
    horizon earlier. ``credit``: how many slots other lines may still grant it. ``back_us``: how long after a slot it
    can use the next one. ``terms``: its rates and spacing. ``is_kept``: its first caller waits for another limit too,
    so the place keeps its turn until it is ready. ``headroom``: the part of each window that it leaves free, in parts
    of WHOLE.
    """

    owner: int
    cost: Hits
    ready: int
    credit: int
    back_us: int
    terms: Terms
    is_kept: bool = False
    headroom: int = 0


class Grant(NamedTuple):
    """Hits booked at ``slot`` that belong to one line; named by its serial number for one horizon past the slot."""

    serial: int
    owner: int
    slot: int
    cost: Hits


@dataclass(frozen=True, slots=True)
class LimitState:
    """All that the users of one limit share.

    ``epoch``: random; new after a loss and after a reset, and slots of an older epoch are void. ``is_fresh``: begun
    from nothing by a process that had seen no state. ``serial``: of the newest grant of this epoch. ``hold_until``: no
    slot before this instant. ``margin_us``, ``horizon_us``, ``spacing_us``: the largest in use; ``rates``: all in use,
    by period. ``written_at``: when the newest write was sent, by its writer's clock (0: never written).
    ``assumed_until``: hits up to this time may be guesses made after a loss. ``rejections``: what its service's
    refusals taught. ``settles_from``: from this instant on, hits of calls may be given back long after their slot (0:
    never); see ``settlement.py``. ``reported``: the lower rates that its service reported.
    """

    epoch: int
    is_fresh: bool = False
    hits: HitLog = NO_HITS
    grants: tuple[Grant, ...] = ()
    serial: int = 0
    places: tuple[Place, ...] = ()
    hold_until: int = 0
    margin_us: int = 0
    horizon_us: int = 0
    spacing_us: int = 0
    rates: tuple[Rate, ...] = ()
    written_at: int = 0
    assumed_until: int = 0
    rejections: Rejections = NONE
    settles_from: int = 0
    reported: ReportedRates = NOTHING_REPORTED

    @property
    def retention_us(self) -> int:
        """How long a hit matters: the longest period or spacing, the margin, and 1 s for clocks that differ."""
        longest = self.rates[-1].period_us if self.rates else 0
        reported_us = self.reported.longest_us if self.reported.rates else 0
        return max(longest, self.spacing_us, reported_us) + max(self.margin_us, self.rejections.margin_us) + SECOND

    @property
    def matters_until(self) -> int:
        """The instant from which no hit, hold or place matters; a minute late, for clocks that differ."""
        return self._latest + self.retention_us + LINGER_US

    @property
    def expires_at(self) -> int:
        """The instant from which the cache may drop the state: some periods after it matters.

        Until then a process that finds no state, and remembers one, knows that it was lost.
        """
        longest = self.rates[-1].period_us if self.rates else 0
        return self._latest + self.retention_us + min(max(LINGER_US, LINGER_PERIODS * longest), MOST_LINGER_US)

    @property
    def _latest(self) -> int:
        latest = max([place.ready for place in self.places]) if self.places else 0
        return max(self.hold_until, latest, self.hits.last_at or 0, self.written_at)

    def margin(self, quota: Quota, now: int) -> int:
        """Return the margin to book with: the largest in use, the learned one too, up to what a refusal teaches."""
        used = max(self.margin_us, quota.margin_us)
        if not self.rejections.margin_us or not quota.rates:
            return used
        return max(used, min(self.rejections.margin(now), quota.rates[0].period_us // MARGIN_PART))

    def place_of(self, owner: int) -> Place | None:
        """Return the place of a line."""
        for place in self.places:
            if place.owner == owner:
                return place
        return None

    def with_quota(self, quota: Quota, horizon_us: int) -> LimitState:
        """Record one process's quota: hits are kept for as long as any process that shares the state needs them."""
        margin, spacing = max(self.margin_us, quota.margin_us), max(self.spacing_us, quota.spacing_us)
        horizon, rates = max(self.horizon_us, horizon_us), self.rates
        if rates != quota.rates and not set(quota.rates) <= set(rates):
            rates = tuple(sorted({*rates, *quota.rates})[-MAX_RATES:])
        settles = self.settles_from or int(not quota.counts_calls_alone)  # other units are there to be settled
        new = (margin, spacing, horizon, rates, settles)
        if new == (
            self.margin_us,
            self.spacing_us,
            self.horizon_us,
            self.rates,
            self.settles_from,
        ):
            return self
        return replace(
            self, margin_us=margin, spacing_us=spacing, horizon_us=horizon, rates=rates, settles_from=settles
        )

    def with_bookings(self, hits: HitLog, grants: tuple[Grant, ...], serial: int, now: int) -> LimitState:
        """Return the state with other hits and grants, written ``now``; in half of the time of ``replace``."""
        return LimitState(
            self.epoch, self.is_fresh, hits, grants, serial, self.places, self.hold_until, self.margin_us,
            self.horizon_us, self.spacing_us, self.rates, now, self.assumed_until, self.rejections, self.settles_from,
            self.reported,
        )  # fmt: skip

    def forget(self, now: int) -> LimitState:
        """Drop the hits that are too old to matter; thin the rest where its entries are many, and most of them past."""
        hits, since = self.hits, now - self.retention_us
        times = hits.times
        if not hits.others and len(times) <= EXACT_ENTRIES and (not times or hits.time_offset_us + times[0] >= since):
            return self
        # Only hits that nobody can take back any more are moved: a grant names the time of its hits.
        hits = hits.forget(since).each(partial(self._thinned, now, now - self.horizon_us))
        return self if hits is self.hits else replace(self, hits=hits)

    def _thinned(self, now: int, until: int, unit: str, log: HitLog) -> HitLog:
        """Return the timeline of a unit with its hits before ``until`` thinned, where its entries are many."""
        entries = len(log.times)
        if entries <= EXACT_ENTRIES or log.times[entries // 2] + log.time_offset_us >= until:
            return log
        spans = [rate.period_us + self.margin_us for rate in self.rates if rate.unit == unit]
        return log.thin(until, lambda time: self._cell_us(spans, now - time))

    def _cell_us(self, spans: Sequence[int], age: int) -> int:
        """Return the width of a grid cell: 1/512 of the shortest period, with its margin, that covers this age."""
        return max(1, next((span for span in spans if age <= span), self.retention_us) // GRID)
