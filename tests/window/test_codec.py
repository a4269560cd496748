"""The state of a limit as bytes: whole states come back whole, and whatever else is found is refused by name."""

from __future__ import annotations

import os
import random
import struct
from array import array
from dataclasses import fields, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nekkar.core.errors import CacheError, CorruptLog
from tests.support.handlers import outcomes
from tests.support.internals.core import (
    CALLS,
    MAX_COUNT,
    MAX_MARGIN,
    MAX_PERIOD,
    MIN_PERIOD,
    WHOLE,
    Cost,
    Quota,
    Rate,
    fits,
    hits_in,
    leaving,
    quota,
)
from tests.support.internals.window import (
    HEADROOMS,
    LATEST_US,
    LONGEST_STATE,
    MAGIC,
    MAX_RATES,
    MAX_TERMS,
    MOST_BACK_US,
    MOST_CREDIT,
    MOST_DOUBLINGS,
    MOST_HITS,
    MOST_HORIZON_US,
    MOST_REPORTED,
    REPORTED,
    VERSION,
    Grant,
    HitLog,
    LimitState,
    Place,
    Rejections,
    ReportedRates,
    codec,
    column,
    decode,
    earliest_slot,
    encode,
)
from tests.window.drawing import HORIZON, NOW, S, new_state

KNOWN = {*range(16, 23), HEADROOMS, REPORTED}  # the tags of sections, beside the first six
CORPUS = Path(__file__).parents[1] / "corpus"
PREFIX = 12  # magic, version, a byte, header's length, checksum
WORD = st.integers(0, 2**64 - 1)
TIME = st.integers(0, LATEST_US)
SPAN = st.integers(0, MAX_PERIOD)
RATE = st.builds(Rate, st.integers(MIN_PERIOD, MAX_PERIOD), st.integers(1, MAX_COUNT))
RATES = st.lists(RATE, max_size=MAX_RATES, unique=True).map(lambda rates: tuple(sorted(rates)))
TERMS = st.tuples(st.lists(RATE, min_size=1, max_size=3, unique=True).map(lambda rates: tuple(sorted(rates))), SPAN)
GAPS = st.lists(
    st.tuples(st.integers(1, 9) | st.integers(1, 2**40), st.integers(1, 9) | st.integers(1, 2**40)), max_size=12
)
NEAR = st.integers(NOW, NOW + 60 * S)


@st.composite
def hit_logs(draw: st.DrawFn) -> HitLog:
    """Draw any legal hit log: narrow and wide columns, hits or none, forgotten hits or none."""
    gaps = draw(GAPS)
    offset, forgotten = draw(st.integers(0, 2**61)), draw(st.integers(0, 9) | st.integers(0, 2**40))
    times = accumulate((time for time, _ in gaps), initial=draw(st.integers(0, 2**33)))
    numbers = accumulate((count for _, count in gaps), initial=forgotten)
    return HitLog(
        offset + forgotten, draw(st.integers(0, 2**53)), offset, column(list(times)[1:]), column(list(numbers)[1:])
    )


def most_cost(place: Place) -> int:
    return leaving(Quota(*place.terms, 0), place.headroom).most("calls")


def within_its_rates(place: Place) -> Place:
    """Return a place that costs no more than its rates and its headroom admit."""
    if not most_cost(place):
        place = place._replace(headroom=0)
    return place._replace(cost=min(hits_in(place.cost, CALLS), most_cost(place)))


@st.composite
def states(draw: st.DrawFn) -> LimitState:
    """Draw any legal state: near and far times, small and large costs, many lines or none."""
    near = draw(st.booleans())
    slots = NEAR if near else TIME
    costs = st.integers(1, 9) if near else st.integers(1, MAX_COUNT)
    steps = st.integers(1, 3) | st.integers(1, 2**40)
    first = draw(st.integers(0, 2**30))
    grants = []
    for step, owner, slot, cost in draw(st.lists(st.tuples(steps, WORD, slots, costs), max_size=6)):
        first += step
        grants.append(Grant(first, owner, slot, cost))
    listed = draw(st.lists(TERMS, min_size=1, max_size=3))
    backs = st.integers(0, MOST_BACK_US // 1000).map(lambda ms: ms * 1000)
    headrooms = st.sampled_from([0, 0, 1, 2000, WHOLE - 1])
    drawn = st.tuples(
        WORD, costs, slots, st.integers(0, MOST_CREDIT), backs, st.sampled_from(listed), st.booleans(), headrooms
    )
    places = drawn.map(lambda fields: within_its_rates(Place(*fields)))
    return LimitState(
        draw(WORD),
        draw(st.booleans()),
        draw(hit_logs()),
        tuple(grants),
        first + draw(st.integers(0, 5)),
        tuple(draw(st.lists(places, max_size=6))),
        draw(TIME),
        draw(st.integers(0, MAX_MARGIN)),
        draw(st.integers(0, MOST_HORIZON_US)),
        draw(SPAN),
        draw(RATES),
        draw(TIME),
        draw(TIME),
        Rejections(draw(TIME), draw(st.integers(0, MOST_DOUBLINGS)), draw(SPAN), draw(TIME)),
        draw(st.just(0) | TIME),
    )


@st.composite
def states_in_units(draw: st.DrawFn) -> LimitState:
    """Draw any legal state of a limit that counts two units beside its calls."""
    state, units = draw(states()), ("points", "tokens")
    hits = st.builds(Cost, st.integers(0, 9), st.integers(1, MAX_COUNT).map(lambda count: (("tokens", count),)))
    rates = tuple(
        Rate(period, draw(st.integers(1, MAX_COUNT)), unit) for period, unit in zip((S, 2 * S), units, strict=True)
    )
    terms = ((Rate(S, 9), Rate(S, MAX_COUNT, "tokens")), draw(SPAN))
    return replace(
        state,
        hits=replace(state.hits, others=tuple((unit, draw(hit_logs())) for unit in units if draw(st.booleans()))),
        grants=tuple(grant._replace(cost=draw(hits)) for grant in state.grants),
        places=tuple(place._replace(cost=draw(hits), terms=terms, headroom=0) for place in state.places),
        rates=tuple(sorted([*state.rates[:14], *rates])),
    )


@settings(deadline=None, max_examples=200)
@given(states_in_units())
def test_what_is_written_in_units_is_read_back(state: LimitState) -> None:
    """Timelines, rates, grants, places and their terms, in any unit."""
    assert decode(encode(state)) == state


def is_legal(state: LimitState) -> bool:
    """Whether all that a state promises its users holds: order, bounds, and that it can be written again."""
    hits = state.hits
    numbers = [hits.forgotten, *(hits.number_offset + number for number in hits.cumulative)]
    times = [hits.time_offset_us + offset for offset in hits.times]
    instants = [state.hold_until, hits.time_offset_us, hits.last_at or 0, state.written_at, state.assumed_until]
    instants += [grant.slot for grant in state.grants] + [place.ready for place in state.places]
    instants.append(state.settles_from)
    serials = [grant.serial for grant in state.grants]
    lists = [state.rates, *(place.terms[0] for place in state.places)]
    return (
        all(sooner < later for sooner, later in pairwise(times))
        and all(fewer < more for fewer, more in pairwise(numbers))
        and len(hits.times) == len(hits.cumulative)
        and min(hits.number_offset, *instants) >= 0
        and max(instants) <= LATEST_US
        and hits.total <= MOST_HITS
        and all(len(rates) <= MAX_RATES and list(rates) == sorted(set(rates)) for rates in lists)
        and all(
            MIN_PERIOD <= rate.period_us <= MAX_PERIOD and 1 <= rate.count <= MAX_COUNT
            for rates in lists
            for rate in rates
        )
        and 0 <= state.margin_us <= MAX_MARGIN
        and 0 <= state.horizon_us <= MOST_HORIZON_US
        and 0 <= state.spacing_us <= MAX_PERIOD
        and serials == sorted(set(serials))
        and all(0 < serial <= state.serial for serial in serials)
        and all(
            place.cost and fits(place.cost, leaving(Quota(*place.terms, 0), place.headroom).largest_cost)
            for place in state.places
        )
        and all(0 <= place.headroom < WHOLE for place in state.places)
        and all(
            log.total <= MOST_HITS and min(log.number_offset, log.time_offset_us) >= 0 for _, log in hits.timelines()
        )
        and all(0 <= place.credit <= MOST_CREDIT for place in state.places)
        and all(place.terms[0] and 0 <= place.terms[1] <= MAX_PERIOD for place in state.places)
        and decode(encode(state)) == state
    )


def check_refused_or_legal(raw: bytes) -> bool:
    """Whether ``raw`` is a legal state; fails where it is neither that nor refused as CorruptLog."""
    try:
        found = decode(raw)
    except CorruptLog:
        return False
    assert is_legal(found)
    return True


def summed(raw: bytes) -> bytes:
    """Return ``raw`` with the checksum that fits its body and the length of its header."""
    return raw[: PREFIX - 4] + struct.pack("<I", crc32(raw[PREFIX:], raw[6] | raw[7] << 8)) + raw[PREFIX:]


# Whole states.


@settings(deadline=None, max_examples=200)
@given(states())
def test_a_state_comes_back_as_it_was_written(state: LimitState) -> None:
    """Any legal state, whatever its widths, is the same after encode and decode, field by field."""
    found = decode(encode(state))
    assert is_legal(state)
    assert found == state
    assert (found.hits.times.typecode, found.hits.cumulative.typecode) == (
        state.hits.times.typecode,
        state.hits.cumulative.typecode,
    )


def test_the_empty_state_comes_back() -> None:
    """A state with no hit, no rate and nobody waiting is a state."""
    assert decode(encode(LimitState(0))) == LimitState(0)
    assert decode(encode(LimitState(2**64 - 1))) == LimitState(2**64 - 1)


TEN = quota(10, 1.0)
PLACE = Place(2**64 - 1, 2, NOW + S, 3, 5000, (TEN.rates, 0))
FULL = LimitState(
    7, True, HitLog(9, 10, 5, array("Q", [2**40]), array("Q", [2**41])), (Grant(3, 11, NOW, 2),), 4, (PLACE,), 12, 13,
    14, 15, (Rate(S, 5),), 16, 17, Rejections(18, 19, 20, 21),
)  # fmt: skip


TOKENS = (Rate(S, 5), Rate(2 * S, 1000, "tokens"))
FULL_IN_UNITS = replace(
    FULL,
    hits=replace(
        FULL.hits, others=(("points", FULL.hits), ("tokens", HitLog(1, 2, 1, array("I", [3]), array("I", [4]))))
    ),
    grants=(Grant(3, 11, NOW, Cost(0, (("points", 8), ("tokens", 2**30)))),),
    places=(PLACE, PLACE._replace(owner=9, cost=Cost(2, (("tokens", 900),)), terms=(TOKENS, 7))),
    rates=TOKENS,
    settles_from=22,
    reported=ReportedRates(((2 * S, Rate(2 * S, 3, "tokens"), NOW), (5 * S, Rate(9 * S, 3), NOW))),
)


def test_no_field_is_left_out() -> None:
    """Were a field of the state not encoded, its value would be another's default here."""
    full, empty = FULL_IN_UNITS, LimitState(0)
    for whole, none in ((full, empty), (full.hits, empty.hits), (full.rejections, empty.rejections)):
        assert all(getattr(whole, one.name) != getattr(none, one.name) for one in fields(whole))
    assert decode(encode(full)) == full
    assert decode(encode(FULL)) == FULL


def test_a_limit_of_calls_alone_pays_nothing_for_units() -> None:
    """Its value has the bytes that it had before there were units."""
    assert encode(FULL) == golden("states/full")


@pytest.mark.parametrize(
    "altered",
    [
        replace(FULL_IN_UNITS, hits=replace(FULL.hits, others=(("not a name", FULL.hits),))),
        replace(FULL_IN_UNITS, hits=replace(FULL.hits, others=(("t" * 65, FULL.hits),))),
        replace(FULL_IN_UNITS, grants=(Grant(3, 11, NOW, Cost(1, (("tokens", MOST_HITS + 1),))),)),
        replace(FULL_IN_UNITS, places=(PLACE._replace(cost=Cost(1, (("tokens", 1001),)), terms=(TOKENS, 7)),)),
        replace(FULL_IN_UNITS, places=(PLACE._replace(cost=Cost(1, (("points", 1),)), terms=(TOKENS, 7)),)),
        replace(FULL_IN_UNITS, rates=(Rate(S, 5), Rate(2 * S, 0, "tokens"))),
        replace(FULL, reported=ReportedRates(((S, Rate(S, 0), NOW),))),
        replace(FULL, reported=ReportedRates(((S, Rate(0, 5), NOW),))),
        replace(FULL, reported=ReportedRates(((0, Rate(S, 5), NOW),))),
        replace(FULL, reported=ReportedRates(((S, Rate(S, 5), LATEST_US + 1),))),
        replace(FULL, reported=ReportedRates(((S, Rate(S, 5, "not a name"), NOW),))),
        replace(FULL, reported=ReportedRates(((2 * S, Rate(S, 5), NOW), (S, Rate(S, 5), NOW)))),
        replace(FULL, reported=ReportedRates(tuple((S + n, Rate(S, 5), NOW) for n in range(MOST_REPORTED + 1)))),
    ],
)
def test_units_out_of_bounds_are_refused(altered: LimitState) -> None:
    """A name that no rate can have, a cost that no window holds, a unit that the place's rates do not count."""
    with pytest.raises(CorruptLog):
        decode(encode(altered))


def test_sixteen_rates_come_back_and_seventeen_are_refused() -> None:
    """The most rates that a state names is the most that one is read with; of a place too."""
    rates = tuple(Rate(MIN_PERIOD + index, 2 + index) for index in range(17))
    assert decode(encode(LimitState(1, rates=rates[:16]))).rates == rates[:16]
    with pytest.raises(CorruptLog):
        decode(encode(LimitState(1, rates=rates)))
    with pytest.raises(CorruptLog):
        decode(encode(LimitState(1, places=(PLACE._replace(terms=(rates, 0)),))))


@pytest.mark.parametrize(("count", "is_read"), [(MAX_TERMS, True), (MAX_TERMS + 1, False)])
def test_places_have_at_most_64_different_terms(count: int, is_read: bool) -> None:
    """That many quotas of one name at once are no fleet's."""
    places = tuple(PLACE._replace(owner=index, terms=((Rate(S, 2 + index),), 0)) for index in range(count))
    raw = encode(LimitState(1, places=places))
    assert check_refused_or_legal(raw) == is_read


def test_the_time_until_an_owner_is_back_is_kept_in_milliseconds_rounded_up() -> None:
    """Never sooner than said."""
    for back, kept in ((0, 0), (1, 1000), (1000, 1000), (1001, 2000)):
        (found,) = decode(encode(LimitState(1, places=(PLACE._replace(back_us=back),)))).places
        assert found.back_us == kept


def test_the_bytes_are_laid_out_little_endian_for_every_machine() -> None:
    """One state's bytes, spelled out: a fleet of different machines reads the same state."""
    grants = (Grant(2, 21, NOW, 3), Grant(4, 22, NOW + 7, 1))
    places = (Place(23, 4, NOW + 9, 5, 6000, ((Rate(S, 10),), 0)), Place(24, 1, NOW + 8, 0, 0, ((Rate(S, 5),), 30)))
    state = LimitState(
        1, True, HitLog(6, NOW, 5, array("I", [0, 258]), array("I", [2, 9])), grants, 5, places, 3, 4, 8, 7,
        (Rate(60 * S, 100),), 9, 15, Rejections(11, 12, 13, 14),
    )  # fmt: skip
    fixed = struct.pack("<Q?QqqqqqqQqQqHqqq", 1, True, 5, 3, 4, 8, 7, 9, 15, 6, NOW, 5, 11, 12, 13, 14, NOW)
    body = fixed
    body += struct.pack("<BBxxIQQ", 1, 0, 16, 60 * S, 100)
    body += struct.pack("<BBxxIII", 2, 0, 8, 0, 258)
    body += struct.pack("<BBxxIII", 3, 0, 8, 2, 9)
    body += struct.pack("<BBxxI", 4, 0, 40) + struct.pack("<IQII", 3, 21, 0, 3) + struct.pack("<IQII", 1, 22, 7, 1)
    body += struct.pack("<BBxxI", 5, 0, 36)
    body += struct.pack("<QHIBHB", 23, 4, 9, 5, 6, 0) + struct.pack("<QHIBHB", 24, 1, 8, 0, 0, 1)
    body += struct.pack("<BBxxI", 6, 0, 50) + struct.pack("<QBQQ", 0, 1, S, 10) + struct.pack("<QBQQ", 30, 1, S, 5)
    assert encode(state) == struct.pack("<4sBxHI", b"nkkr", 2, len(fixed), crc32(body, len(fixed))) + body


@pytest.mark.parametrize("rate", ["100000/minute", "100000/hour", "100000/second", "5000/second; 100000/minute"])
@pytest.mark.parametrize("arrivals", ["even", "random", "burst"])
def test_a_state_of_a_hundred_thousand_hits_is_at_most_8_kb(rate: str, arrivals: str) -> None:
    """However many hits a state counts, it takes a few kilobytes of the cache, at every write."""
    limit, rng, largest, now = quota(rate), random.Random(1), 0, NOW
    longest = limit.rates[-1]
    step = (longest.period_us + limit.margin_us) * 50 // longest.count + 1
    limit = replace(limit, spacing_us=0 if arrivals == "burst" else step)
    state = new_state(limit)
    for _ in range(4_400):
        now += {"even": step, "random": int(rng.expovariate(1) * step), "burst": 0}[arrivals]
        state = state.forget(now)
        at = earliest_slot(state.hits, limit, limit.margin_us, 50, now)
        state = replace(state, hits=state.hits.book([(at, 50)]))
        largest = max(largest, len(encode(state)))
    assert state.hits.total >= 200_000
    assert largest <= 8400 + 16 * HORIZON // step  # what may still be taken back is exact


def test_a_place_takes_18_bytes() -> None:
    """A thousand processes that wait are 18 kB, in whatever order and under whichever terms."""
    terms = [((Rate(S, 10 + index),), 0) for index in range(4)]
    places = tuple(Place(2**63 + index, 1, NOW + index * S, 1, 0, terms[index % 4]) for index in range(1000))
    few, many = (len(encode(LimitState(1, places=places[:count]))) for count in (10, 1000))
    assert many - few == 990 * 18


def test_no_writer_writes_what_no_reader_takes() -> None:
    """A state of more than a megabyte is an error where it is written, which says of what it has so much."""
    hits = HitLog(time_offset_us=NOW, times=array("I", range(140_000)), cumulative=array("I", range(1, 140_001)))
    with pytest.raises(CacheError, match="140,000 entries"):
        encode(LimitState(1, hits=hits))
    with pytest.raises(CacheError, match="60,000 places"):
        encode(LimitState(1, places=(PLACE,) * 60_000))
    with pytest.raises(CorruptLog, match=r"1,048,577 bytes, .* at most 1,048,576"):
        decode(bytes(LONGEST_STATE + 1))


# What is no state.

SAMPLES = [
    LimitState(1),
    replace(new_state(quota("5/s; 300/minute"), (NOW, 1), (NOW + 5, 2), (NOW + S, 300)), hold_until=NOW, margin_us=S),
    LimitState(3, hits=HitLog().book([(0, 1), (2**33, 1), (2**34, 2)]), rates=(Rate(MAX_PERIOD, 5),)),
    LimitState(4, hits=HitLog(9, 0, 7, array("I", [5]), array("Q", [3])), rates=(Rate(S, MAX_COUNT),)),
    FULL,
    LimitState(
        6,
        grants=(Grant(1, 2, NOW, 1), Grant(2**33, 3, NOW + 2**33, 2)),
        serial=2**33,
        places=(PLACE, PLACE._replace(owner=3, cost=70_000, terms=((Rate(S, 80_000), Rate(60 * S, 100_000)), 7))),
        rates=tuple(Rate(S + index, 1 + index) for index in range(16)),
    ),
    LimitState(7, grants=(Grant(1, 2, NOW, 1),), serial=1, places=(PLACE, PLACE._replace(owner=3))),
]


@pytest.mark.parametrize("state", SAMPLES, ids=lambda state: str(state.epoch))
def test_every_truncation_is_refused(state: LimitState) -> None:
    """A state cut short anywhere, or with anything behind it, is no state."""
    raw = encode(state)
    for size in range(len(raw)):
        with pytest.raises(CorruptLog):
            decode(raw[:size])
        check_refused_or_legal(summed(raw[:size].ljust(PREFIX, b"\0")))
    for more in (b"\0", b"\xff", raw, b"\0" * 16):
        with pytest.raises(CorruptLog):
            decode(raw + more)


@pytest.mark.parametrize("state", SAMPLES, ids=lambda state: str(state.epoch))
def test_no_altered_byte_changes_what_a_state_says(state: LimitState) -> None:
    """Whatever one byte is changed to, the state is refused or the same."""
    raw = encode(state)
    for index in range(len(raw)):
        changes = range(1, 256) if index < PREFIX else [1 << bit for bit in range(8)] + [0x03, 0x0F, 0xFF]
        for change in changes:
            altered = bytearray(raw)
            altered[index] ^= change
            if check_refused_or_legal(bytes(altered)):
                assert decode(bytes(altered)) == state


@settings(deadline=None, max_examples=150)
@given(states(), st.randoms(use_true_random=False))
def test_swapped_cut_and_shuffled_bytes_are_refused_or_legal(state: LimitState, rng: random.Random) -> None:
    """No damage to any state is taken for anything but a legal one, or raises anything but CorruptLog."""
    raw = bytearray(encode(state))
    for _ in range(rng.randint(1, 4)):
        index = rng.randrange(len(raw) + 1)
        match rng.randrange(4):
            case 0:
                raw[index:index] = rng.randbytes(rng.randrange(1, 9))
            case 1:
                del raw[index : index + rng.randrange(1, 9)]
            case 2:
                raw[index : index + 8] = rng.randbytes(8)
            case _:
                raw[index : index + 1] = bytes([rng.randrange(256)])
        if not raw:
            break
    check_refused_or_legal(bytes(raw))


@settings(deadline=None, max_examples=250)
@given(states() | st.sampled_from(SAMPLES), st.data())
def test_damage_under_a_fitting_checksum_is_refused_or_legal(state: LimitState, data: st.DataObject) -> None:
    """Even bytes that a faulty writer summed correctly are taken only where they are in order and in bounds."""
    raw = bytearray(encode(state))
    for _ in range(data.draw(st.integers(1, 3))):
        index = data.draw(st.integers(4, len(raw) - 1))
        raw[index] = data.draw(st.sampled_from([0, 1, 2, 3, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))
    check_refused_or_legal(summed(bytes(raw)))


@pytest.mark.parametrize("state", SAMPLES, ids=lambda state: str(state.epoch))
def test_each_byte_altered_under_a_fitting_checksum_is_refused_or_legal(state: LimitState) -> None:
    """Each byte of each sample, the lengths and tags of its sections too."""
    raw = encode(state)
    for index in range(4, len(raw)):
        for value in {0, 1, 2, 0x7F, 0x80, 0xFF, raw[index] ^ 1, raw[index] ^ 0x10}:
            check_refused_or_legal(summed(raw[:index] + bytes([value]) + raw[index + 1 :]))


@pytest.mark.parametrize("value", ["nkkr", 42, None, [], 4.2])
def test_what_is_no_bytes_is_refused(value: Any) -> None:
    """As a table's row may be after somebody edited it."""
    with pytest.raises(CorruptLog, match=f"expected bytes, got {type(value).__name__}"):
        decode(value)


def outcome(raw: bytes, *known: LimitState) -> LimitState | str:
    """Return what decoding gives, or says."""
    try:
        return decode(raw, *known)
    except CorruptLog as error:
        return str(error)


@settings(deadline=None, max_examples=150)
@given(st.data(), hit_logs())
def test_what_continues_a_known_state_is_checked_no_less(data: st.DataObject, known: HitLog) -> None:
    """Cut in front, longer, or altered anywhere, the next state is refused, or not, as if nothing was known."""
    columns = []
    for of_known in (known.times, known.cumulative):
        values = [*of_known[data.draw(st.integers(0, len(of_known))) :]]
        values += data.draw(st.lists(st.integers(0, 20) | st.integers(0, 2**33), max_size=3))
        for _ in range(data.draw(st.integers(0, 1)) if values else 0):
            values[data.draw(st.integers(0, len(values) - 1))] = data.draw(st.integers(0, 20) | st.integers(0, 2**33))
        columns.append(array("Q", values))
    shorter = min(map(len, columns))
    raw = encode(LimitState(1, hits=replace(known, times=columns[0][:shorter], cumulative=columns[1][:shorter])))
    assert outcome(raw, LimitState(1, hits=known)) == outcome(raw)


@settings(deadline=None, max_examples=150)
@given(
    st.binary(max_size=200),
    st.sampled_from([b"", MAGIC, MAGIC + bytes([1]), MAGIC + bytes([VERSION]), MAGIC + bytes([VERSION, 0, 130, 0])]),
)
def test_random_bytes_are_refused(raw: bytes, prefix: bytes) -> None:
    """Another program's value, and one that begins like a state, is no state."""
    with pytest.raises(CorruptLog):
        decode(prefix + raw)


def hits(times: list[int], numbers: list[int], forgotten: int = 0, time_offset: int = 0, offset: int = 0) -> LimitState:
    """Return a state with hits that may be out of order."""
    return LimitState(
        1, hits=HitLog(forgotten, time_offset, offset, array("Q", times), array("Q", numbers)), rates=TEN.rates
    )


def granted(*grants: Grant, serial: int = 9) -> LimitState:
    return LimitState(1, grants=grants, serial=serial)


def waiting(place: Place) -> LimitState:
    return LimitState(1, places=(place,))


@pytest.mark.parametrize(
    "state",
    [
        hits([5, 5], [1, 2]),
        hits([6, 5], [1, 2]),
        hits([5, 6], [2, 2]),
        hits([5, 6], [3, 2]),
        hits([5], [0]),
        hits([5], [4], forgotten=9, offset=5),
        hits([], [], forgotten=4, offset=5),
        hits([1], [1], time_offset=LATEST_US),
        hits([2**64 - 1], [1]),
        hits([], [], time_offset=-1),
        hits([], [], forgotten=MOST_HITS + 1),
        hits([0], [MOST_HITS + 1]),
        hits([0], [2**63], forgotten=2**64 - 1, offset=2**64 - 1),
        LimitState(1, hold_until=-1),
        LimitState(1, margin_us=-1),
        LimitState(1, spacing_us=-1),
        LimitState(1, horizon_us=-1),
        LimitState(1, written_at=-1),
        LimitState(1, assumed_until=-1),
        LimitState(1, hold_until=LATEST_US + 1),
        LimitState(1, written_at=2**63 - 1),
        LimitState(1, assumed_until=LATEST_US + 1),
        LimitState(1, margin_us=MAX_MARGIN + 1),
        LimitState(1, spacing_us=MAX_PERIOD + 1),
        LimitState(1, horizon_us=MOST_HORIZON_US + 1),
        LimitState(1, rates=(Rate(0, 1),)),
        LimitState(1, rates=(Rate(MAX_PERIOD + 1, 1),)),
        LimitState(1, rates=(Rate(S, 0),)),
        LimitState(1, rates=(Rate(S, MAX_COUNT + 1),)),
        LimitState(1, rates=(Rate(2 * S, 5), Rate(S, 1))),
        LimitState(1, rates=(Rate(S, 5), Rate(S, 5))),
        LimitState(1, rejections=Rejections(-1)),
        LimitState(1, rejections=Rejections(1, MOST_DOUBLINGS + 1)),
        LimitState(1, rejections=Rejections(1, 0, -1)),
        LimitState(1, rejections=Rejections(1, 0, MAX_PERIOD + 1)),
        LimitState(1, rejections=Rejections(1, 0, 0, -1)),
        granted(Grant(3, 1, NOW, 1), Grant(3, 2, NOW, 1)),
        granted(Grant(4, 1, NOW, 1), Grant(3, 2, NOW, 1)),
        granted(Grant(0, 1, NOW, 1)),
        granted(Grant(1, 1, LATEST_US + 1, 1)),
        LimitState(1, serial=2**64 - 1),  # the next one could not be written
        waiting(PLACE._replace(cost=0)),
        waiting(PLACE._replace(cost=MAX_COUNT + 1)),
        waiting(PLACE._replace(cost=11)),  # of 10
        waiting(PLACE._replace(credit=MOST_CREDIT + 1)),
        waiting(PLACE._replace(ready=LATEST_US + 1)),
        waiting(PLACE._replace(terms=((), 0))),
        waiting(PLACE._replace(terms=((Rate(S, 5), Rate(S, 5)), 0))),
        waiting(PLACE._replace(terms=((Rate(S, 0),), 0))),
        waiting(PLACE._replace(terms=(TEN.rates, MAX_PERIOD + 1))),
    ],
)
def test_a_state_that_no_writer_writes_is_refused(state: LimitState) -> None:
    """Out of order or out of bounds, a value is refused whatever its checksum says."""
    with pytest.raises(CorruptLog):
        decode(encode(state))


@pytest.mark.parametrize("inner", ["_hits", "_grants", "_places"])
def test_an_exception_in_a_decoding_holds_no_view_of_the_bytes(inner: str) -> None:
    """As a signal handler raises one. CPython up to 3.12 crashes where it collects a view that is in use."""
    frames = list[str]()
    with patch.object(codec, inner, side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt) as raised:
        decode(encode(replace(granted(Grant(3, 1, NOW, 1)), places=(PLACE,), hits=hits([1], [1]).hits)))
    for entry in raised.traceback:
        values = entry.frame.raw.f_locals.values()
        frames.append(entry.frame.raw.f_code.co_name)
        assert not any(isinstance(value, memoryview) for value in values)
    assert "_decode" in frames


@pytest.mark.parametrize("kind", [ValueError, IndexError, KeyError, struct.error])
def test_what_a_signal_handler_raises_in_a_decoding_stays_what_it_is(kind: type[Exception]) -> None:
    """At any line: it says nothing about the bytes."""
    raw, error = encode(replace(granted(Grant(3, 1, NOW, 1)), places=(PLACE,), hits=hits([1], [1]).hits)), kind("mine")
    raised = outcomes(lambda: decode(raw), error, os.path.dirname(codec.__file__))
    assert len(raised) > 100
    assert all(each is error for each in raised)


def section(tag: int, body: bytes, is_wide: int = 0) -> bytes:
    return struct.pack("<BBxxI", tag, is_wide, len(body)) + body


@pytest.mark.parametrize(
    "added",
    [
        section(2, struct.pack("<II", 1, 2)),  # times without numbers
        section(3, struct.pack("<II", 1, 2)),
        section(2, struct.pack("<II", 1, 2)) + section(3, struct.pack("<I", 1)),
        section(2, b"123") + section(3, b"123"),
        section(4, b"123"),
        section(5, struct.pack("<QHIBHB", 1, 1, 1, 1, 1, 0)),  # a place without terms
        section(5, struct.pack("<QHIBHB", 1, 1, 1, 1, 1, 1)) + section(6, struct.pack("<QBQQ", 0, 1, S, 5)),
        section(6, struct.pack("<QBQQ", 0, 2, S, 5)) + section(5, b""),
        section(1, b"123"),
        section(5, b"", is_wide=2),
        section(99, b"", is_wide=2),
        section(99, b"12345")[:-1],
        b"\1",
    ],
)
def test_sections_that_do_not_fit_each_other_are_refused(added: bytes) -> None:
    """One of a pair, of another length, of no such width, with terms that are not there."""
    with pytest.raises(CorruptLog):
        decode(summed(encode(LimitState(1)) + added))


# Other releases.


def longer_header(raw: bytes, added: bytes) -> bytes:
    """Return a state with more fields in its header, as a later release may write."""
    (size,) = struct.unpack_from("<H", raw, 6)
    end = PREFIX + size
    return summed(raw[:6] + struct.pack("<H", size + len(added)) + raw[8:end] + added + raw[end:])


@settings(deadline=None, max_examples=100)
@given(states(), st.binary(min_size=1, max_size=40))
def test_fields_that_a_later_release_adds_are_skipped(state: LimitState, added: bytes) -> None:
    """A longer header of this version is read up to the fields that this release knows."""
    assert decode(longer_header(encode(state), added)) == state


@settings(deadline=None, max_examples=100)
@given(
    states(),
    st.lists(
        st.tuples(st.sampled_from(sorted(set(range(7, 256)) - KNOWN)), st.integers(0, 1), st.binary(max_size=40)),
        max_size=3,
    ),
)
def test_sections_that_a_later_release_adds_are_skipped(state: LimitState, added: list[tuple[int, int, bytes]]) -> None:
    """Before or behind those that this release knows."""
    raw = encode(state)
    (size,) = struct.unpack_from("<H", raw, 6)
    end, more = PREFIX + size, b"".join(section(tag, body, is_wide) for tag, is_wide, body in added)
    assert decode(summed(raw + more)) == state
    assert decode(summed(raw[:end] + more + raw[end:])) == state


@pytest.mark.parametrize("version", [0, 3, 255])
def test_another_version_says_so(version: int) -> None:
    """A state of another version is refused with the versions that can be read, whatever it holds."""
    raw = bytearray(encode(SAMPLES[1]))
    raw[4] = version
    for other in (bytes(raw), summed(bytes(raw)), bytes(raw[:PREFIX]), bytes(raw[:PREFIX]) + b"anything"):
        with pytest.raises(CorruptLog, match=f"version {version}, where this release reads 1 and {VERSION}"):
            decode(other)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "0 bytes"),
        (b"nkkr", "4 bytes"),
        (b"some other program's value", "not those of a limit"),
        (encode(SAMPLES[1])[:-1], "checksum"),
        (summed(encode(SAMPLES[1])[:-1]), "lengths"),
    ],
)
def test_a_refusal_says_what_is_wrong(raw: bytes, says: str) -> None:
    """A CorruptLog, which is a CacheError, tells a value cut short from another program's."""
    with pytest.raises(CorruptLog, match=says) as caught:
        decode(raw)
    assert isinstance(caught.value, CacheError)


# Golden values: bytes that were written once, and are read for as long as their version is.


def golden(name: str) -> bytes:
    return (CORPUS / f"{name}.bin").read_bytes()


def test_what_release_01_wrote_is_read() -> None:
    """Hits, hold, rates, margin, spacing and what refusals taught come through; a horizon is cut to the longest one."""
    full = decode(golden("logs/release-0.1-full"))
    assert full == LimitState(
        2,
        hits=HitLog().book([(NOW, 1), (NOW + 5, 2), (NOW + S, 300)]),
        hold_until=NOW + 60 * S,
        margin_us=50_000,
        horizon_us=100_000,
        spacing_us=100_000,
        rates=(Rate(S, 5), Rate(60 * S, 300)),
        written_at=NOW + S,
        assumed_until=NOW + 5,
        rejections=Rejections(NOW, 2, 90_000, NOW - S),
    )
    assert decode(golden("logs/release-0.1-empty")) == LimitState(
        1, rates=(Rate(60 * S, 10),), margin_us=300_000, horizon_us=100_000
    )
    wide = decode(golden("logs/release-0.1-wide"))
    assert wide.hits.entries() == [(NOW, 1), (NOW + 2**33, 2**33), (NOW + 2**34, 2**33)]
    assert (wide.horizon_us, wide.rates) == (MOST_HORIZON_US, (Rate(MAX_PERIOD, 5),))
    forgotten = decode(golden("logs/release-0.1-forgotten"))
    assert (forgotten.hits.forgotten, forgotten.hits.total) == (29, 50)
    assert forgotten.hits.entries() == [(NOW + index * S, 1) for index in range(29, 50)]


@pytest.mark.parametrize("name", ["empty", "full", "wide", "forgotten"])
def test_damage_to_what_release_01_wrote_is_refused_or_legal(name: str) -> None:
    """Each byte altered: refused; under a checksum that fits: refused or in order and in bounds."""
    raw = golden(f"logs/release-0.1-{name}")
    state = decode(raw)
    assert is_legal(state)
    for index in range(len(raw)):
        with pytest.raises(CorruptLog):
            decode(raw[:index])
        for value in {0, 1, 0x7F, 0xFF, raw[index] ^ 1}:
            altered = raw[:index] + bytes([value]) + raw[index + 1 :]
            if check_refused_or_legal(altered):
                assert decode(altered) == state
            body = altered[PREFIX:]
            check_refused_or_legal(altered[: PREFIX - 4] + struct.pack("<I", crc32(body, altered[5])) + body)


GOLDEN: dict[str, LimitState] = {
    "empty": LimitState(1),
    "full": FULL,
    "two-windows": SAMPLES[1],
    "wide-times": SAMPLES[2],
    "wide-places": SAMPLES[5],
    "waiting": SAMPLES[6],
}


@pytest.mark.parametrize("name", GOLDEN)
def test_what_version_2_wrote_is_read_and_written_alike(name: str) -> None:
    """A later release of this version reads what this one wrote; and this one reads what a later one writes so."""
    raw = golden(f"states/{name}")
    assert decode(raw) == GOLDEN[name]
    assert encode(GOLDEN[name]) == raw


def test_a_golden_value_of_a_later_release_is_read() -> None:
    """With fields in the header and sections that this one does not know."""
    assert decode(golden("states/later-release")) == SAMPLES[6]
