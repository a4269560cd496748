"""Booking, one call at a time: the earliest slot that a hit log allows, what a line asks for, and what it gives back.

Pure. ``plan.py`` books with these for all that wait.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from nekkar.core.cost import CALLS, Hits, fits, hits_in, items
from nekkar.core.quota import MAX_COUNT, Quota, leaving
from nekkar.core.window.exact import ExactSlot
from nekkar.core.window.hits import HitLog
from nekkar.core.window.state import Grant, LimitState, Place, Terms

PREFETCH_PART = 64
MOST_CREDIT = 8  # others grant a place at most so often without its owner


class Booked(Protocol):
    """The hits that a slot has to keep clear of: a hit log, alone or with planned hits behind it. ``of``: one unit."""

    @property
    def total(self) -> int: ...
    @property
    def last_at(self) -> int | None: ...
    def time_of(self, number: int) -> int | None: ...
    def of(self, unit: str) -> Booked: ...


class SlotRequest(Protocol):
    """What a caller wants: ``cost``, by ``deadline`` (µs; None: no deadline)."""

    @property
    def cost(self) -> Hits: ...
    @property
    def deadline(self) -> int | None: ...


class Returned(NamedTuple):
    """A grant that its owner uses only up to ``keep``: the rest is to be taken out of the state."""

    grant: Grant
    keep: Hits


@dataclass(frozen=True, slots=True)
class BookingRequest:
    """What a line requests as it writes the state; times and durations are microseconds.

    ``callers``: the callers without a slot, in order; ``waiting``: how many they are. ``lead_us``: how long a swap
    takes: no slot is earlier than ``now`` + that. ``stands``: the line takes a place again after its last caller got a
    slot, with this ``credit`` and ``back_us``. ``returned``: grants that it gives back. ``prefetch``: how many further
    hits it could use, if the limit is far from full. ``exact``: slots that its calls have under other limits, and need
    here at the same instant. ``kept``: places to keep for such calls. ``gone``: owners of such places that are no
    longer needed; a line without a place takes one of them. ``headroom``: the part of each window that its calls leave
    free. ``gap_us``: how far ahead it books where room stays empty before a slot (0: up to the horizon).
    """

    owner: int
    quota: Quota
    callers: Iterable[SlotRequest]
    now: int
    waiting: int = 0
    lead_us: int = 0
    credit: int = 0
    back_us: int = 0
    stands: bool = False
    returned: Sequence[Returned] = ()
    prefetch: int = 0
    exact: Sequence[ExactSlot] = ()
    kept: Sequence[Place] = ()
    gone: Collection[int] = ()
    headroom: int = 0
    gap_us: int = 0

    @property
    def part(self) -> Quota:
        """The part of the quota that its calls may use (rule 30)."""
        return leaving(self.quota, self.headroom)

    @property
    def terms(self) -> Terms:
        """The rates and the spacing, as a place carries them."""
        return self.quota.rates, self.quota.spacing_us


def earliest_slot(hits: Booked, quota: Quota, margin_us: int, cost: Hits, soonest: int) -> int:
    """Return the earliest slot of a call of this cost from ``soonest`` on: the latest over all windows (rule 1)."""
    last = hits.last_at
    at = soonest if last is None else max(soonest, last + quota.spacing_us)
    for rate in quota.rates:
        log, wanted = (hits, cost) if cost.__class__ is int and rate.unit == CALLS else _in_unit(hits, cost, rate.unit)
        if wanted:
            # A service may report a limit below the cost of a call: that call waits until the window is empty.
            before = log.time_of(log.total + min(wanted - rate.count, 0))
            if before is not None:
                at = max(at, before + rate.period_us + margin_us)
    return at


def earliest_slot_behind(hits: Booked, ahead: Hits, quota: Quota, margin_us: int, soonest: int, cost: Hits = 1) -> int:
    """Return a lower bound of the slot of a call that has ``ahead``, hits that are not booked yet, in front of it.

    Hit n comes a period after hit n − N. Step back by N as often as it takes to reach a booked hit, and add one period
    for each step: constant time. Only the spacing before this call counts here: see ``spaced_after``.
    """
    at = max(soonest, spaced_after(hits, quota, 1))
    for rate in quota.rates:
        log, wanted = _in_unit(hits, cost, rate.unit)
        if not wanted:
            continue
        number = log.total + hits_in(ahead, rate.unit) + wanted - rate.count
        steps = max(0, -((log.total - number) // rate.count))
        before = log.time_of(number - steps * rate.count)
        if before is not None:
            at = max(at, before + (steps + 1) * (rate.period_us + margin_us))
        elif steps and log.last_at is not None:  # so few hits are booked: the first of the others comes after the last
            at = max(at, log.last_at + steps * (rate.period_us + margin_us))
    return at


def room_for(hits: HitLog, quota: Quota, margin_us: int, at: int) -> int:
    """Return how many more hits every window has room for at ``at``."""
    return min(rate.count - hits.of(rate.unit).count_since(at - rate.period_us - margin_us) for rate in quota.rates)


def prefetchable(hits: HitLog, quota: Quota, margin_us: int, at: int, wanted: int) -> int:
    """Return how many of the ``wanted`` hits may be booked beyond what callers need: a small part of what is free."""
    if quota.spacing_us or not quota.counts_calls_alone:
        return 0
    return min(wanted, room_for(hits, quota, margin_us, at) // PREFETCH_PART)


def spaced_after(hits: Booked, quota: Quota, calls: int) -> int:
    """Return the earliest slot that the spacing leaves to the last of ``calls`` that are not booked yet."""
    # Without spacing this bounds nothing: a call whose hits go between others is not held to the last hit.
    return hits.last_at + calls * quota.spacing_us if quota.spacing_us and hits.last_at is not None else 0


def _in_unit(hits: Booked, cost: Hits, unit: str) -> tuple[Booked, int]:
    return hits.of(unit), hits_in(cost, unit)


def most_credit(quota: Quota, cost: Hits) -> int:
    """Return how often others may grant a place: so a dead owner costs at most half of a window (rule 5)."""
    return min(MOST_CREDIT, *(quota.most(unit) // (2 * hits) for unit, hits in items(cost)), MAX_COUNT)


def tidied(state: LimitState, request: BookingRequest) -> LimitState:
    """Return the state without old hits and grants, without lapsed places, and without what the writer gives back."""
    state = state.forget(request.now)
    hits, grants, places = state.hits, with_recent_grants(state, request.now), state.places
    if request.returned:
        hits, grants = taken_back(hits, grants, request.returned)
    lapsed = lapsed_before(state, request.now)
    if any(place.ready < lapsed and place.owner != request.owner for place in places):
        places = tuple(place for place in places if place.ready >= lapsed or place.owner == request.owner)
    if hits is state.hits and grants is state.grants and places is state.places:
        return state
    return replace(state, hits=hits, grants=grants, places=places)


def with_recent_grants(state: LimitState, now: int) -> tuple[Grant, ...]:
    """Return the grants that still have a name: those of the last horizon, and later ones."""
    oldest = now - state.horizon_us
    kept = tuple([grant for grant in state.grants if grant.slot >= oldest]) if state.grants else ()
    return state.grants if len(kept) == len(state.grants) else kept


def taken_back(
    hits: HitLog, grants: tuple[Grant, ...], returned: Sequence[Returned]
) -> tuple[HitLog, tuple[Grant, ...]]:
    """Take out what is returned, where its name still stands: so once, whatever answers were lost (rule 10)."""
    named = {grant.serial: grant for grant in grants}
    for back in returned:
        found = named.get(back.grant.serial)
        if found and found[:3] == back.grant[:3] and found.cost != back.keep and fits(back.keep, found.cost):
            hits = hits.remove(found.slot, found.cost - back.keep)
            named[found.serial] = found._replace(cost=back.keep)
            if not back.keep:
                del named[found.serial]
    return hits, tuple(named.values())


def lapsed_before(state: LimitState, now: int) -> int:
    """Return an instant: a place that was ready before it has lapsed, since its owner did not look (rule 12).

    The owner is dead, or stopped; then it finds at its next look that its place is gone.
    """
    return now - state.horizon_us


def spent(place: Place) -> Place:
    """Return a place after others have granted it a slot (rule 5)."""
    return place._replace(credit=place.credit - 1)
