"""Exact slots: a call that has a slot under one limit asks another limit for that very instant, or for none.

Rules (numbered as in docs/concepts/together.md):

27. The same instant. Behind the last hit it is booked in the order of turns (``plan.py``): what falls due before it
    comes first. Before the last hit it is booked between hits, where any N + 1 hits in a row still span a period and
    the margin, in each window, and the spacing is kept to both neighbours. It is refused where it is held, or already
    more than a quarter of the margin past: its call could hardly start in time.

So hits are not always appended. What the proof needs is kept: any N + 1 hits in a row span a period.

Pure.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from nekkar.core.cost import Hits, hits_in
from nekkar.core.quota import Quota, Rate
from nekkar.core.window.hits import HitLog
from nekkar.core.window.state import MOST_HORIZON_US, Grant, LimitState, Place

PAST_PART = 4  # of the margin: a slot that is further past is refused


class ExactSlot(NamedTuple):
    """A slot that is wanted at ``at``, or not at all.

    ``owner`` names this one wish, ``place`` the owner of a place that was kept for it (0: none was).
    """

    owner: int
    at: int
    cost: Hits
    place: int = 0


def is_past(at: int, margin_us: int, now: int) -> bool:
    """Return whether a slot lies so far back that its call could hardly start in time."""
    return at < now - margin_us // PAST_PART


def insert_exact(
    state: LimitState, wanted: Sequence[ExactSlot], quota: Quota, part: Quota, now: int
) -> tuple[LimitState, list[ExactSlot]]:
    """Book the slots before the last hit, where there is room; return the state, and the slots that come behind it."""
    margin, behind = state.margin(quota, now), list[ExactSlot]()
    for one in sorted(wanted, key=lambda one: one.at):
        if is_past(one.at, margin, now) or one.at < state.hold_until or one.at > now + MOST_HORIZON_US:
            continue
        if state.hits.last_at is None or one.at >= state.hits.last_at:
            behind.append(one)
        elif _fits_between(state, one, quota, part, margin):
            serial = state.serial + 1
            grant = Grant(serial, one.owner, one.at, one.cost)
            hits = state.hits.insert([(one.at, one.cost)])
            places = tuple(place for place in state.places if place.owner != one.place)
            state = replace(state, hits=hits, grants=(*state.grants, grant), serial=serial, places=places)
    return state, behind


def with_places(state: LimitState, kept: Sequence[Place]) -> LimitState:
    """Return the state with these places: where they stood, or at the tail."""
    if not kept:
        return state
    new = {place.owner: place for place in kept}
    places = [new.pop(place.owner, place) for place in state.places]
    return replace(state, places=(*places, *new.values()))


def _fits_between(state: LimitState, one: ExactSlot, quota: Quota, part: Quota, margin_us: int) -> bool:
    """Return whether the hits around a slot leave room for it (rule 27).

    The hits behind it may be booked under other terms: windows that end there keep to all rates and the spacing in use.
    ``part``: the part of the quota that the call may use. The windows that end behind it keep to that too, since a hit
    there may be of a call with the same headroom.
    """
    hits = state.hits
    times = sorted({time for _, log in hits.timelines() for time, _ in log.entries()})
    index = bisect_right(times, one.at)
    before, later = times[:index], times[index:]
    if before and one.at < before[-1] + quota.spacing_us:
        return False
    if later and later[0] < one.at + max(quota.spacing_us, state.spacing_us):
        return False
    ends = [(rate, one.at) for rate in part.rates]
    ends += [
        (rate, at)
        for rate in {*part.rates, *quota.rates, *state.rates}
        for at in later
        if at < one.at + rate.period_us + margin_us  # else the slot is in no window that ends with it
    ]
    return all(_has_room(hits.of(rate.unit), rate, at, margin_us, hits_in(one.cost, rate.unit)) for rate, at in ends)


def _has_room(log: HitLog, rate: Rate, end: int, margin_us: int, hits: int) -> bool:
    return not hits or log.count_between(end - rate.period_us - margin_us, end) + hits <= rate.count
