"""The part of a state that is in other units than calls, and its settlements: sections that most limits do not have.

A row of terms has the name of its unit behind it. In all other sections a unit is its number in ``UNITS``, which
lists the names, separated by line ends.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from operator import attrgetter, itemgetter
from typing import TypeVar

from nekkar.core.cost import CALLS, Cost, Hits, as_mapping, cost_of
from nekkar.core.errors import CorruptLog
from nekkar.core.quota import LONGEST_UNIT, Rate
from nekkar.core.window.checks import MOST_HITS, checked_rates
from nekkar.core.window.hits import HitLog
from nekkar.core.window.sections import column_bytes, column_of, section
from nekkar.core.window.state import Grant, LimitState, Place, Terms

UNITS, UNIT_RATES, UNIT_HITS, GRANT_UNITS, PLACE_UNITS, UNIT_TERMS, SETTLES = range(16, 23)
MOST_UNITS = 64
_TIMELINE = struct.Struct("<BQQQBBI")  # unit, the fields of a HitLog, which columns are wide, how many entries
_RATE = struct.Struct("<BQQ")  # unit, period, count
_IN_UNIT = struct.Struct("<IBQ")  # the index of a grant or a place, a unit, and its hits
_OF_TERMS = struct.Struct("<BBQQ")  # the index of terms, the length of the unit's name behind it, period, count
_INSTANT = struct.Struct("<Q")

_unit_of, _cost_of, _name_of = attrgetter("unit"), attrgetter("cost"), itemgetter(0)

Costly = TypeVar("Costly", Grant, Place)


def unit_sections(state: LimitState) -> list[bytes]:
    """Return the sections of a state that are about other units than calls; none for most limits."""
    parts = list(section(SETTLES, 0, [_INSTANT.pack(state.settles_from)])) if state.settles_from else []
    if not (units := _units_of(state)):
        return parts
    timelines = []
    for unit, log in state.hits.others:
        widths = (log.times.itemsize == 8, log.cumulative.itemsize == 8)
        fields = (units.index(unit), log.forgotten, log.time_offset_us, log.number_offset)
        timelines.append(_TIMELINE.pack(*fields, *widths, len(log.times)))
        timelines += [column_bytes(log.times), column_bytes(log.cumulative)]
    rates = [rate for rate in state.rates if rate.unit != CALLS]
    terms = dict.fromkeys(place.terms for place in state.places)
    of_terms = [
        _OF_TERMS.pack(index, len(rate.unit), rate.period_us, rate.count) + rate.unit.encode()
        for index, (own, _) in enumerate(terms)
        for rate in own
        if rate.unit != CALLS
    ]
    rows = {
        UNITS: ["\n".join(units).encode()],
        UNIT_RATES: [_RATE.pack(units.index(rate.unit), rate.period_us, rate.count) for rate in rates],
        UNIT_HITS: timelines,
        GRANT_UNITS: _rows([grant.cost for grant in state.grants], units),
        PLACE_UNITS: _rows([place.cost for place in state.places], units),
        UNIT_TERMS: of_terms,
    }
    return parts + [part for tag, each in rows.items() if each for part in section(tag, 0, each)]


def _units_of(state: LimitState) -> list[str]:
    """Return the units of all timelines, rates and costs, but for the calls."""
    units = {*map(_unit_of, state.rates), *map(_name_of, state.hits.others)}
    for cost in map(_cost_of, (*state.grants, *state.places)):
        if cost.__class__ is Cost:
            units.update(map(_name_of, cost.units))
    units.discard(CALLS)
    return sorted(units)


def _rows(costs: Sequence[Hits], units: Sequence[str]) -> list[bytes]:
    return [
        _IN_UNIT.pack(index, units.index(unit), hits)
        for index, cost in enumerate(costs)
        if isinstance(cost, Cost)
        for unit, hits in cost.units
    ]


def with_unit_sections(state: LimitState, found: Mapping[int, tuple[int, bytes]]) -> LimitState:
    """Return the state with what these sections hold; raise CorruptLog where they are out of bounds."""
    settles_from = _INSTANT.unpack(found[SETTLES][1])[0] if SETTLES in found else 0
    if UNITS not in found:
        return replace(state, settles_from=settles_from) if settles_from else state
    units = _units(found[UNITS][1])
    return replace(
        state,
        settles_from=settles_from,
        hits=replace(state.hits, others=_timelines(_raw(found, UNIT_HITS), units)),
        grants=_with_costs(state.grants, _raw(found, GRANT_UNITS), units, _grant_with),
        places=_with_costs(state.places, _raw(found, PLACE_UNITS), units, _place_with),
        rates=_rates(state.rates, _raw(found, UNIT_RATES), units),
    )


def terms_in_units(terms: list[Terms], raw: bytes) -> list[Terms]:
    """Return the terms of places with the rates that count other units than calls."""
    at = 0
    while at < len(raw):
        index, length, period, count = _OF_TERMS.unpack_from(raw, at)
        at += _OF_TERMS.size + length
        unit = _checked(raw[at - length : at].decode("ascii"))
        rates, spacing_us = terms[index]
        terms[index] = (checked_rates(tuple(sorted([*rates, Rate(period, count, unit)]))), spacing_us)
    return terms


def _raw(found: Mapping[int, tuple[int, bytes]], tag: int) -> bytes:
    return found[tag][1] if tag in found else b""


@lru_cache(256)
def _units(raw: bytes) -> tuple[str, ...]:
    names = tuple(_checked(name) for name in raw.decode("ascii").split("\n"))
    if len(names) > MOST_UNITS or list(names) != sorted(set(names)):
        raise CorruptLog("its units are too many, or not in order")
    return names


@lru_cache(1024)
def _rates(of_calls: tuple[Rate, ...], raw: bytes, units: tuple[str, ...]) -> tuple[Rate, ...]:
    """Return all rates in use; almost every state of a limit has the same."""
    rates = [Rate(period, count, units[unit]) for unit, period, count in _RATE.iter_unpack(raw)]
    return checked_rates(tuple(sorted([*of_calls, *rates])))


def _checked(unit: str) -> str:
    if not unit.isidentifier() or len(unit) > LONGEST_UNIT or unit == CALLS:
        raise CorruptLog("its units are out of bounds")
    return unit


def _timelines(raw: bytes, units: Sequence[str]) -> tuple[tuple[str, HitLog], ...]:
    timelines: dict[str, HitLog] = {}
    at = 0
    while at < len(raw):
        unit, forgotten, time_offset, number_offset, wide_times, wide_numbers, entries = _TIMELINE.unpack_from(raw, at)
        at += _TIMELINE.size
        middle = at + entries * (8 if wide_times else 4)
        end = middle + entries * (8 if wide_numbers else 4)
        if end > len(raw) or max(wide_times, wide_numbers) > 1:
            raise CorruptLog("its lengths do not fit")
        times, numbers = column_of(wide_times, raw[at:middle]), column_of(wide_numbers, raw[middle:end])
        timelines[units[unit]] = HitLog(forgotten, time_offset, number_offset, times, numbers)
        at = end
    return tuple(sorted(timelines.items()))


def _with_costs(
    costly: tuple[Costly, ...], rows: bytes, units: Sequence[str], with_cost: Callable[[Costly, Hits], Costly]
) -> tuple[Costly, ...]:
    pairs: dict[int, list[tuple[str, int]]] = {}
    for index, unit, hits in _IN_UNIT.iter_unpack(rows):
        if not 0 < hits <= MOST_HITS:
            raise CorruptLog("its costs are out of bounds")
        pairs.setdefault(index, []).append((units[unit], hits))
    costs: dict[tuple[Hits, tuple[tuple[str, int], ...]], Hits] = {}  # most are alike: each is made once
    changed = list(costly)
    for number, own in pairs.items():
        each = costly[number]
        if (cost := costs.get(key := (each.cost, tuple(own)))) is None:
            cost = costs[key] = cost_of({**as_mapping(each.cost), **dict(own)})
        changed[number] = with_cost(each, cost)
    return tuple(changed)


def _grant_with(grant: Grant, cost: Hits) -> Grant:
    """Return the grant with another cost; in half of the time of ``_replace``."""
    return Grant(grant.serial, grant.owner, grant.slot, cost)


def _place_with(place: Place, cost: Hits) -> Place:
    """Return the place with another cost; in half of the time of ``_replace``."""
    return Place(place.owner, cost, *place[2:])
