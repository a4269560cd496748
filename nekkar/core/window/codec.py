"""The state of a limit as bytes: versioned, length-checked, checksummed; no pickle, no eval.

Layout, little-endian: magic, version, header length, CRC-32 of all that follows, which starts from the header length;
a header of fixed fields; then sections (``sections.py``), those of other units than calls in ``codec_units.py``.
A reader skips what a longer header of its own version adds behind the fields that it knows, and sections with a tag
that it does not know. The values that release 0.1 wrote (version 1) are read too (``codec_v1.py``).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Any
from zlib import crc32

from nekkar.core.cost import CALLS, Hits, fits, hits_in
from nekkar.core.errors import CacheError, CorruptLog, counted, is_raised_in
from nekkar.core.quota import MAX_PERIOD, WHOLE, Quota, Rate, leaving
from nekkar.core.window import codec_v1
from nekkar.core.window.checks import check, checked_rates
from nekkar.core.window.codec_reported import reported_of, reported_section
from nekkar.core.window.codec_units import UNIT_TERMS, terms_in_units, unit_sections, with_unit_sections
from nekkar.core.window.hits import HitLog
from nekkar.core.window.rejections import NONE, Rejections
from nekkar.core.window.sections import column_of, column_section, section, sections
from nekkar.core.window.state import MAX_TERMS, Grant, LimitState, Place, Terms

MAGIC = b"nkkr"
VERSION = 2
LONGEST_STATE = 1 << 20  # bytes, for some 60,000 processes that wait: the longest value that memcached takes by default
_PREFIX = struct.Struct("<4sBxHI")
_FIELDS: tuple[str, ...] = (
    "epoch",
    "is_fresh",
    "serial",
    "hold_until",
    "margin_us",
    "horizon_us",
    "spacing_us",
    "written_at",
)
_FIELDS += ("assumed_until",)
_OF_HITS = ("forgotten", "time_offset_us", "number_offset")
_OF_REJECTIONS = ("at", "row", "margin_us", "widened_at")
_HEADER = struct.Struct("<Q?QqqqqqqQqQqHqqq")  # the fields above, then the time that grants and places count from
_slot_of, _ready_of = attrgetter("slot"), attrgetter("ready")
_values = attrgetter(
    *_FIELDS, *(f"hits.{name}" for name in _OF_HITS), *(f"rejections.{name}" for name in _OF_REJECTIONS)
)
RATES, HIT_TIMES, HIT_NUMBERS, GRANTS, PLACES, TERMS = range(1, 7)
HEADROOMS = 24
_RATE = struct.Struct("<QQ")  # period, count: of the calls
_TERMS = struct.Struct("<QB")  # spacing, how many rates follow
_GRANT = (struct.Struct("<IQII"), struct.Struct("<QQQI"))  # serials back from the newest, owner, slot, cost
_PLACE = (struct.Struct("<QHIBHB"), struct.Struct("<QIQBHB"))  # owner, cost, ready, credit, back in ms, terms
_KEPT = 0x80  # beside the credit
_HEADROOM = struct.Struct("<IH")  # the index of a place, and its headroom
_NARROW_TIME, _NARROW_COST = 1 << 32, 1 << 16
MOST_BACK_US = 65_535_000
NOTHING = LimitState(0)
_HERE = __name__.rpartition(".")[0]
EMPTY = (0, b"")


def encode(state: LimitState) -> bytes:
    """Return the state as bytes."""
    places, grants, hits = state.places, state.grants, state.hits
    slots, readies = [*map(_slot_of, grants)], [*map(_ready_of, places)]
    earliest = min(slots + readies, default=0)
    parts = [_HEADER.pack(*_values(state), earliest)]
    if state.rates:
        parts += _rates_section(state.rates)
    if hits.times:
        parts += column_section(HIT_TIMES, hits.times)
        parts += column_section(HIT_NUMBERS, hits.cumulative)
    if grants:
        is_wide = max(slots) - earliest >= _NARROW_TIME or state.serial - grants[0].serial >= _NARROW_TIME
        pack = _GRANT[is_wide].pack
        rows = [
            pack(state.serial - serial, owner, slot - earliest, cost if cost.__class__ is int else hits_in(cost, CALLS))
            for serial, owner, slot, cost in grants
        ]
        parts += section(GRANTS, is_wide, rows)
    if places:
        parts += _places_as_bytes(places, earliest)
    parts += unit_sections(state)
    if state.reported.rates:
        parts += reported_section(state.reported)
    body = b"".join(parts)
    if _PREFIX.size + len(body) > LONGEST_STATE:
        raise CacheError(
            f"a state of {hits.size:,} entries and {len(places):,} places has over {LONGEST_STATE:,} bytes; use"
            " several names"
        )
    return _PREFIX.pack(MAGIC, VERSION, _HEADER.size, crc32(body, _HEADER.size)) + body


@lru_cache(1024)
def _rates_section(rates: tuple[Rate, ...]) -> tuple[bytes, ...]:
    return section(RATES, 0, _rate_rows(rates))


def _rate_rows(rates: Sequence[Rate]) -> list[bytes]:
    return [_RATE.pack(rate.period_us, rate.count) for rate in rates if rate.unit == CALLS]


def decode(raw: bytes, known: LimitState = NOTHING) -> LimitState:
    """Return the state that ``raw`` encodes; raise CorruptLog, which says what is wrong, for any other bytes.

    ``known``: a state that was decoded before. What continues it is checked in less time.
    """
    if not isinstance(raw, bytes):
        raise CorruptLog(f"expected bytes, got {type(raw).__name__}")
    if len(raw) > LONGEST_STATE:
        raise CorruptLog(f"it has {len(raw):,} bytes, and a limit's state has at most {LONGEST_STATE:,}")
    try:
        magic, version, header_size, checksum = _PREFIX.unpack_from(raw)
        if magic != MAGIC:
            raise CorruptLog("its bytes are not those of a limit")
        if version == codec_v1.VERSION:
            state = codec_v1.decode(raw)
            checked_rates(state.rates)
        elif version == VERSION:
            state = _decode(raw[_PREFIX.size :], header_size, checksum)
        else:
            raise CorruptLog(f"version {version}, where this release reads 1 and {VERSION}: written by another release")
    except (struct.error, LookupError, ValueError) as cause:
        if not is_raised_in(cause, _HERE):  # a signal handler raised it
            raise
        raise CorruptLog(f"cut short, or altered, at {counted(len(raw), 'byte')}") from cause
    check(state, known)
    return state


def _decode(body: bytes, header_size: int, checksum: int) -> LimitState:
    if header_size < _HEADER.size or checksum != crc32(body, header_size):
        raise CorruptLog("altered or cut short: its checksum does not fit")
    *values, earliest = _HEADER.unpack_from(body)
    found = {tag: (is_wide, rows) for tag, is_wide, rows in sections(body[header_size:])}
    own, rest = dict(zip(_FIELDS, values, strict=False)), values[len(_FIELDS) :]
    learned = rest[len(_OF_HITS) :]
    grants = _grants(*found[GRANTS], own["serial"], earliest) if GRANTS in found else ()
    places: tuple[Place, ...] = ()
    rates = _rates(found[RATES][1]) if RATES in found else ()
    if PLACES in found:
        places = _places(*found[PLACES], _terms(found[TERMS][1], found.get(UNIT_TERMS, EMPTY)[1]), earliest)
        places = _with_headrooms(places, found.get(HEADROOMS, EMPTY)[1])
    state = LimitState(
        **own,
        hits=_hits(found, rest[: len(_OF_HITS)]),
        grants=grants,
        places=places,
        rates=rates,
        rejections=Rejections(*learned) if any(learned) else NONE,
        reported=reported_of(found),
    )
    state = with_unit_sections(state, found)
    distinct = {(id(place.cost), id(place.terms), place.headroom): place for place in state.places}
    if any(not fits(place.cost, _largest(place.terms, place.headroom)) for place in distinct.values()):
        raise CorruptLog("the cost of a place is over its rates")
    return state


@lru_cache(256)
def _largest(terms: Terms, headroom: int) -> Hits:
    """Return the largest cost that every window of a place's rates can hold; of no other unit may it have any."""
    return leaving(Quota(*terms, 0), headroom).largest_cost


def _hits(found: dict[int, tuple[int, bytes]], of_hits: list[Any]) -> HitLog:
    if HIT_TIMES not in found and HIT_NUMBERS not in found:
        return HitLog(*of_hits)
    forgotten, time_offset, number_offset = of_hits
    times, numbers = column_of(*found[HIT_TIMES]), column_of(*found[HIT_NUMBERS])
    if len(times) != len(numbers):
        raise CorruptLog("its lengths do not fit")
    return HitLog(forgotten, time_offset, number_offset, times, numbers)


def _grants(is_wide: int, raw: bytes, serial: int, earliest: int) -> tuple[Grant, ...]:
    rows = _GRANT[is_wide].iter_unpack(raw)
    return tuple([Grant(serial - back, owner, earliest + slot, cost) for back, owner, slot, cost in rows])


def _places_as_bytes(places: tuple[Place, ...], earliest: int) -> tuple[bytes, ...]:
    terms = list(dict.fromkeys(place.terms for place in places))
    indexes = {each: index for index, each in enumerate(terms)}
    is_wide = (
        max(map(_ready_of, places)) - earliest >= _NARROW_TIME
        or max(hits_in(place.cost, CALLS) for place in places) >= _NARROW_COST
    )
    pack = _PLACE[is_wide].pack
    rows = [
        pack(owner, hits_in(cost, CALLS), ready - earliest, credit | is_kept * _KEPT, -(-back_us // 1000), indexes[own])
        for owner, cost, ready, credit, back_us, own, is_kept, _ in places
    ]
    listed = []
    for rates, spacing_us in terms:
        of_calls = _rate_rows(rates)
        listed += [_TERMS.pack(spacing_us, len(of_calls)), *of_calls]
    left_free = [_HEADROOM.pack(index, place.headroom) for index, place in enumerate(places) if place.headroom]
    headrooms = section(HEADROOMS, 0, left_free) if left_free else ()
    return (*section(PLACES, is_wide, rows), *section(TERMS, 0, listed), *headrooms)


def _with_headrooms(places: tuple[Place, ...], raw: bytes) -> tuple[Place, ...]:
    changed = list(places)
    for index, headroom in _HEADROOM.iter_unpack(raw):
        if not 0 < headroom < WHOLE:
            raise CorruptLog("the headroom of its places is out of bounds")
        changed[index] = changed[index]._replace(headroom=headroom)
    return tuple(changed)


def _places(is_wide: int, raw: bytes, terms: tuple[Terms, ...], earliest: int) -> tuple[Place, ...]:
    rows = list(_PLACE[is_wide].iter_unpack(raw))
    try:
        return tuple(
            [
                Place(owner, cost, earliest + ready, credit & ~_KEPT, back_ms * 1000, terms[index], credit >= _KEPT)
                for owner, cost, ready, credit, back_ms, index in rows
            ]
        )
    except IndexError as error:
        if not is_raised_in(error, _HERE):
            raise
        raise CorruptLog("a place has terms that are not listed") from None


@lru_cache(1024)
def _terms(raw: bytes, in_units: bytes) -> tuple[Terms, ...]:
    terms: list[Terms] = []
    at = 0
    while at < len(raw):
        spacing_us, count = _TERMS.unpack_from(raw, at)
        end = at + _TERMS.size + count * _RATE.size
        rates = _rates(raw[at + _TERMS.size : end])
        if len(rates) != count or spacing_us > MAX_PERIOD:
            raise CorruptLog("the terms of its places are out of bounds")
        terms.append((rates, spacing_us))
        at = end
    if len(terms) > MAX_TERMS:
        raise CorruptLog(f"its places have {len(terms)} different terms, over {MAX_TERMS}")
    terms = terms_in_units(terms, in_units)
    if not all(rates for rates, _ in terms):
        raise CorruptLog("the terms of its places are out of bounds")
    return tuple(terms)


@lru_cache(1024)
def _rates(raw: bytes) -> tuple[Rate, ...]:
    """Return the rates in use that count calls, which ascend; almost every state of a limit has the same."""
    return checked_rates(tuple(Rate(period, count) for period, count in _RATE.iter_unpack(raw)))
