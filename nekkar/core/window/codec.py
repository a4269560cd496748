"""The state of a limit as bytes: versioned, length-checked, checksummed; no pickle, no eval.

Layout, little-endian: magic, version, header length, CRC-32 of all that follows, which starts from the header length;
a header of fixed fields; then sections. A section is a tag, a format (wide or not), its length in bytes, and its rows.
A reader skips what a longer header of its own version adds behind the fields that it knows, and sections with a tag
that it does not know. The values that release 0.1 wrote (version 1) are read too (``codec_v1.py``).
"""

from __future__ import annotations

import struct
import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from functools import lru_cache
from operator import attrgetter, lt
from typing import Any
from zlib import crc32

from nekkar.core.errors import CacheError, CorruptLog, counted
from nekkar.core.quota import MAX_COUNT, MAX_MARGIN, MAX_PERIOD, MIN_PERIOD, Rate
from nekkar.core.window import codec_v1
from nekkar.core.window.booking import MOST_CREDIT
from nekkar.core.window.hits import Column, HitLog
from nekkar.core.window.rejections import MOST_DOUBLINGS, NONE, Rejections
from nekkar.core.window.state import MAX_RATES, MAX_TERMS, MOST_HORIZON_US, Grant, LimitState, Place, Terms

MAGIC = b"nkkr"
VERSION = 2
LONGEST_STATE = 1 << 20  # bytes: some 60,000 processes that wait; memcached's own bound, unless it is set higher
LATEST_US = 1 << 54  # in the year 2540: far from where sums of times are too wide to be written
MOST_HITS = 3 << 61  # far from where sums of counts are too wide
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
_values = attrgetter(
    *_FIELDS, *(f"hits.{name}" for name in _OF_HITS), *(f"rejections.{name}" for name in _OF_REJECTIONS)
)
_SECTION = struct.Struct("<BBxxI")
RATES, HIT_TIMES, HIT_NUMBERS, GRANTS, PLACES, TERMS = range(1, 7)
_RATE = struct.Struct("<QQ")  # period, count
_TERMS = struct.Struct("<QB")  # spacing, how many rates follow
_TYPECODES = ("I", "Q")  # of the columns of hits: narrow, wide
_GRANT = (struct.Struct("<IQII"), struct.Struct("<QQQI"))  # serials back from the newest, owner, slot, cost
_PLACE = (struct.Struct("<QHIBHB"), struct.Struct("<QIQBHB"))  # owner, cost, ready, credit, back in ms, terms
_NARROW_TIME, _NARROW_COST = 1 << 32, 1 << 16
MOST_BACK_US = 65_535_000
NOTHING = LimitState(0)


def encode(state: LimitState) -> bytes:
    """Return the state as bytes."""
    places, grants, hits = state.places, state.grants, state.hits
    earliest = min((*(place.ready for place in places), *(grant.slot for grant in grants)), default=0)
    parts = [_HEADER.pack(*_values(state), earliest)]
    if state.rates:
        parts += _section(RATES, 0, [_RATE.pack(rate.period_us, rate.count) for rate in state.rates])
    if hits.times:
        parts += _section(HIT_TIMES, hits.times.itemsize == 8, [_column_bytes(hits.times)])
        parts += _section(HIT_NUMBERS, hits.cumulative.itemsize == 8, [_column_bytes(hits.cumulative)])
    if grants:
        is_wide = (
            max(grant.slot for grant in grants) - earliest >= _NARROW_TIME
            or state.serial - grants[0].serial >= _NARROW_TIME
        )
        pack = _GRANT[is_wide].pack
        rows = [pack(state.serial - serial, owner, slot - earliest, cost) for serial, owner, slot, cost in grants]
        parts += _section(GRANTS, is_wide, rows)
    if places:
        parts += _places_as_bytes(places, earliest)
    body = b"".join(parts)
    if _PREFIX.size + len(body) > LONGEST_STATE:
        raise CacheError(
            f"a state of {len(hits.times):,} entries and {len(places):,} places has over {LONGEST_STATE:,} bytes; use"
            " several names"
        )
    return _PREFIX.pack(MAGIC, VERSION, _HEADER.size, crc32(body, _HEADER.size)) + body


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
            _checked(state.rates)
        elif version == VERSION:
            state = _decode(memoryview(raw)[_PREFIX.size :], header_size, checksum)
        else:
            raise CorruptLog(f"version {version}, where this release reads 1 and {VERSION}: written by another release")
    except (struct.error, KeyError, ValueError) as cause:
        raise CorruptLog(f"cut short, or altered, at {counted(len(raw), 'byte')}") from cause
    _check(state, known)
    return state


def _decode(body: memoryview, header_size: int, checksum: int) -> LimitState:
    if header_size < _HEADER.size or checksum != crc32(body, header_size):
        raise CorruptLog("altered or cut short: its checksum does not fit")
    *values, earliest = _HEADER.unpack_from(body)
    sections = {tag: (is_wide, rows) for tag, is_wide, rows in _sections(body[header_size:])}
    own, rest = dict(zip(_FIELDS, values, strict=False)), values[len(_FIELDS) :]
    told = rest[len(_OF_HITS) :]
    return LimitState(
        **own,
        hits=_hits(sections, rest[: len(_OF_HITS)]),
        grants=_grants(*sections[GRANTS], own["serial"], earliest) if GRANTS in sections else (),
        places=_places(*sections[PLACES], _terms(bytes(sections[TERMS][1])), earliest) if PLACES in sections else (),
        rates=_rates(bytes(sections[RATES][1])) if RATES in sections else (),
        rejections=Rejections(*told) if any(told) else NONE,
    )


def _section(tag: int, is_wide: int, rows: list[bytes]) -> tuple[bytes, ...]:
    return _SECTION.pack(tag, is_wide, sum(map(len, rows))), *rows


def _sections(body: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    at = 0
    while at < len(body):
        tag, is_wide, length = _SECTION.unpack_from(body, at)
        start = at + _SECTION.size
        at = start + length
        if at > len(body) or is_wide > 1:
            raise CorruptLog("its lengths do not fit")
        yield tag, is_wide, body[start:at]


def _hits(sections: dict[int, tuple[int, memoryview]], of_hits: list[Any]) -> HitLog:
    if HIT_TIMES not in sections and HIT_NUMBERS not in sections:
        return HitLog(*of_hits)
    forgotten, time_offset, number_offset = of_hits
    times, numbers = _column(*sections[HIT_TIMES]), _column(*sections[HIT_NUMBERS])
    if len(times) != len(numbers):
        raise CorruptLog("its lengths do not fit")
    return HitLog(forgotten, time_offset, number_offset, times, numbers)


def _column_bytes(values: Column[int]) -> bytes:
    if sys.byteorder == "big":
        values = values[:]
        values.byteswap()
    return values.tobytes()


def _column(is_wide: int, raw: memoryview) -> Column[int]:
    values = array(_TYPECODES[is_wide])
    values.frombytes(raw)
    if sys.byteorder == "big":
        values.byteswap()
    return values


def _grants(is_wide: int, raw: memoryview, serial: int, earliest: int) -> tuple[Grant, ...]:
    rows = _GRANT[is_wide].iter_unpack(raw)
    return tuple([Grant(serial - back, owner, earliest + slot, cost) for back, owner, slot, cost in rows])


def _places_as_bytes(places: tuple[Place, ...], earliest: int) -> tuple[bytes, ...]:
    terms = list(dict.fromkeys(place.terms for place in places))
    indexes = {each: index for index, each in enumerate(terms)}
    is_wide = (
        max(place.ready for place in places) - earliest >= _NARROW_TIME
        or max(place.cost for place in places) >= _NARROW_COST
    )
    pack = _PLACE[is_wide].pack
    rows = [
        pack(owner, cost, ready - earliest, credit, -(-back_us // 1000), indexes[own])
        for owner, cost, ready, credit, back_us, own in places
    ]
    listed = []
    for rates, spacing_us in terms:
        listed.append(_TERMS.pack(spacing_us, len(rates)))
        listed += [_RATE.pack(rate.period_us, rate.count) for rate in rates]
    return (*_section(PLACES, is_wide, rows), *_section(TERMS, 0, listed))


def _places(is_wide: int, raw: memoryview, terms: tuple[Terms, ...], earliest: int) -> tuple[Place, ...]:
    rows = list(_PLACE[is_wide].iter_unpack(raw))
    most = [min(rate.count for rate in rates) for rates, _ in terms]
    try:
        if any(cost > most[index] for _, cost, *_, index in rows):
            raise CorruptLog("the cost of a place is over its rates")
        return tuple(
            [
                Place(owner, cost, earliest + ready, credit, back_ms * 1000, terms[index])
                for owner, cost, ready, credit, back_ms, index in rows
            ]
        )
    except IndexError:
        raise CorruptLog("a place has terms that are not listed") from None


@lru_cache(1024)
def _terms(raw: bytes) -> tuple[Terms, ...]:
    terms: list[Terms] = []
    at = 0
    while at < len(raw):
        spacing_us, count = _TERMS.unpack_from(raw, at)
        end = at + _TERMS.size + count * _RATE.size
        rates = _rates(raw[at + _TERMS.size : end])
        if not rates or len(rates) != count or spacing_us > MAX_PERIOD:
            raise CorruptLog("the terms of its places are out of bounds")
        terms.append((rates, spacing_us))
        at = end
    if len(terms) > MAX_TERMS:
        raise CorruptLog(f"its places have {len(terms)} different terms, over {MAX_TERMS}")
    return tuple(terms)


@lru_cache(1024)
def _rates(raw: bytes) -> tuple[Rate, ...]:
    """Return the rates in use, which ascend; almost every state of a limit has the same."""
    return _checked(tuple(Rate(period, count) for period, count in _RATE.iter_unpack(raw)))


def _checked(rates: tuple[Rate, ...]) -> tuple[Rate, ...]:
    if len(rates) > MAX_RATES or list(rates) != sorted(set(rates)):
        raise CorruptLog("its rates are too many, or not in order")
    for rate in rates:
        if not (MIN_PERIOD <= rate.period_us <= MAX_PERIOD and 1 <= rate.count <= MAX_COUNT):
            raise CorruptLog(f"its rate {rate} is out of bounds")
    return rates


def _check(state: LimitState, known: LimitState) -> None:
    """Refuse what no writer of this format writes, whatever its checksum says."""
    hits, before = state.hits, known.hits
    if not (_ascends(hits.times, before.times) and _ascends(hits.cumulative, before.cumulative)):
        raise CorruptLog("its hits are not in order")
    if hits.forgotten < hits.number_offset or (
        hits.cumulative and hits.number_offset + hits.cumulative[0] <= hits.forgotten
    ):
        raise CorruptLog("its hits are not numbered from those that it forgot")
    times = [state.hold_until, hits.time_offset_us, hits.last_at or 0, state.written_at, state.assumed_until]
    times += [grant.slot for grant in state.grants]
    times += [place.ready for place in state.places]
    if min(times) < 0 or max(times) > LATEST_US:
        raise CorruptLog("its times are out of bounds")
    if not 0 <= state.margin_us <= MAX_MARGIN or not 0 <= state.spacing_us <= MAX_PERIOD or hits.total > MOST_HITS:
        raise CorruptLog("its margin, its spacing or its count is out of bounds")
    if not 0 <= state.horizon_us <= MOST_HORIZON_US:
        raise CorruptLog(f"its horizon of {state.horizon_us / 1e6:g} s is over {MOST_HORIZON_US / 1e6:g} s")
    if any(not 1 <= place.cost <= MAX_COUNT or place.credit > MOST_CREDIT for place in state.places):
        raise CorruptLog("its places are out of bounds")
    if state.grants:
        serials = [0, *(grant.serial for grant in state.grants), state.serial + 1]
        if not all(map(lt, serials, serials[1:])):
            raise CorruptLog("its grants are not in order")
    rejections = state.rejections
    if min(rejections.at, rejections.widened_at) < 0 or not 0 <= rejections.margin_us <= MAX_PERIOD:
        raise CorruptLog("its rejections are out of bounds")
    if rejections.row > MOST_DOUBLINGS:
        raise CorruptLog("its rejections are out of bounds")


def _ascends(values: Column[int], known: Column[int]) -> bool:
    """Whether a column ascends. Where it continues a known one, which does, only the rest is looked at."""
    start = bisect_left(known, values[0]) if values else 0
    same = len(known) - start
    rest = values[max(0, same - 1) :] if values[:same] == known[start:] else values
    return all(map(lt, rest, rest[1:]))
