"""The hit log as bytes: whole logs come back whole, and whatever else is found is refused by name."""

from __future__ import annotations

import random
import struct
from array import array
from dataclasses import fields, replace
from itertools import accumulate, pairwise
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nekkar.core.errors import CacheError, CorruptLog
from nekkar.core.quota import MAX_COUNT, MAX_MARGIN, MAX_PERIOD, MIN_PERIOD, Rate, quota
from nekkar.core.window.codec import LATEST_US, MAGIC, MOST_HITS, VERSION, decode, encode
from nekkar.core.window.rejections import MOST_DOUBLINGS, Rejections
from nekkar.core.window.state import EXACT_ENTRIES, MAX_WINDOWS, HitLog, column

S = 1_000_000
NOW = 1_790_000_000 * S
PREFIX = 12  # magic, version, flags, header's length, checksum
WORD = st.integers(0, 2**64 - 1)
TIME = st.integers(0, LATEST_US)
SPAN = st.integers(0, MAX_PERIOD)
WINDOWS = st.lists(
    st.builds(Rate, st.integers(MIN_PERIOD, MAX_PERIOD), st.integers(1, MAX_COUNT)), max_size=MAX_WINDOWS, unique=True
)
GAPS = st.lists(
    st.tuples(st.integers(1, 9) | st.integers(1, 2**40), st.integers(1, 9) | st.integers(1, 2**40)), max_size=12
)


@st.composite
def logs(draw: st.DrawFn) -> HitLog:
    """Draw any legal log: narrow and wide columns, hits or none, forgotten hits or none."""
    gaps = draw(GAPS)
    zero, forgotten = draw(st.integers(0, 2**61)), draw(st.integers(0, 9) | st.integers(0, 2**40))
    times = accumulate((time for time, _ in gaps), initial=draw(st.integers(0, 2**33)))
    numbers = accumulate((count for _, count in gaps), initial=forgotten)
    return HitLog(
        *(draw(WORD), draw(WORD), draw(TIME), draw(st.integers(0, MAX_MARGIN)), draw(SPAN)),
        windows=tuple(sorted(draw(WINDOWS))),
        base=zero + forgotten,
        origin_us=draw(st.integers(0, 2**53)),
        zero=zero,
        times=column(list(times)[1:]),
        numbers=column(list(numbers)[1:]),
        crowd=draw(st.integers(0, 2**16 - 1)),
        horizon_us=draw(SPAN),
        written_at=draw(TIME),
        refusals=Rejections(draw(TIME), draw(st.integers(0, MOST_DOUBLINGS)), draw(TIME), draw(TIME)),
    )


def is_legal(log: HitLog) -> bool:
    """Whether all that a log promises its users holds: order, bounds, and that it can be written again."""
    numbers = [log.base, *(log.zero + number for number in log.numbers)]
    times = [log.origin_us + offset for offset in log.times]
    return (
        all(sooner < later for sooner, later in pairwise(times))
        and all(fewer < more for fewer, more in pairwise(numbers))
        and len(log.times) == len(log.numbers)
        and min(log.epoch, log.nonce, log.base, log.zero, log.crowd, log.hold_until, log.origin_us) >= 0
        and min(log.margin_us, log.spacing_us, log.horizon_us, log.reset_at, log.written_at) >= 0
        and len(log.windows) <= MAX_WINDOWS
        and list(log.windows) == sorted(set(log.windows))
        and all(MIN_PERIOD <= rate.period_us <= MAX_PERIOD and 1 <= rate.count <= MAX_COUNT for rate in log.windows)
        and max(log.hold_until, log.last or 0, log.reset_at, log.written_at) <= LATEST_US
        and log.margin_us <= MAX_MARGIN
        and max(log.spacing_us, log.horizon_us) <= MAX_PERIOD
        and log.total <= MOST_HITS
        and decode(encode(log)) == log
    )


def check_refused_or_legal(raw: bytes) -> bool:
    """Whether ``raw`` is a legal log; fails where it is neither that nor refused as CorruptLog."""
    try:
        found = decode(raw)
    except CorruptLog:
        return False
    assert is_legal(found)
    return True


def summed(raw: bytes) -> bytes:
    """Return ``raw`` with the checksum that fits its body and its flags."""
    return raw[: PREFIX - 4] + struct.pack("<I", crc32(raw[PREFIX:], raw[5])) + raw[PREFIX:]


# Whole logs.


@settings(deadline=None, max_examples=400)
@given(logs())
def test_a_log_comes_back_as_it_was_written(log: HitLog) -> None:
    """Any legal log, whatever its columns' widths, is the same after encode and decode, field by field."""
    found = decode(encode(log))
    assert is_legal(log)
    assert found == log
    assert (found.times.typecode, found.numbers.typecode) == (log.times.typecode, log.numbers.typecode)
    assert found.hits() == log.hits()


def test_the_empty_log_comes_back() -> None:
    """A log with no hit and no window is a log."""
    assert decode(encode(HitLog(0))) == HitLog(0)
    assert decode(encode(HitLog(2**64 - 1, 2**64 - 1))) == HitLog(2**64 - 1, 2**64 - 1)


def test_no_field_is_left_out() -> None:
    """Were a field of the log not encoded, its value would be another's default here."""
    times, numbers = array("Q", [2**40]), array("Q", [2**41])
    windows = (Rate(S, 5),)
    full = HitLog(7, 8, 9, 10, 11, windows, 12, 13, 3, times, numbers, 14, horizon_us=15, reset_at=16, written_at=17)
    full = replace(full, refusals=Rejections(18, 19, 20, 21), unsure_until=22)
    empty = HitLog(0)
    assert all(getattr(full, one.name) != getattr(empty, one.name) for one in fields(HitLog))
    assert decode(encode(full)) == full


def test_sixteen_windows_come_back_and_seventeen_are_refused() -> None:
    """The most windows that a log names is the most that one is read with."""
    rates = tuple(Rate(MIN_PERIOD + index, 1 + index) for index in range(17))
    assert decode(encode(HitLog(1, windows=rates[:16]))).windows == rates[:16]
    with pytest.raises(CorruptLog):
        decode(encode(HitLog(1, windows=rates)))


def test_the_bytes_are_laid_out_little_endian_for_every_machine() -> None:
    """One log's bytes, spelled out: a fleet of different machines reads the same log."""
    log = HitLog(1, 2, 3, 4, 5, (Rate(60 * S, 100),), 6, NOW, 5, array("I", [0, 258]), array("I", [2, 9]), 7, 8, 10, 9)
    log = replace(log, refusals=Rejections(11, 12, 13, 14), unsure_until=15)
    fixed = struct.pack("<QQqqqqqqqQqQHqHqqHI", 1, 2, 3, 4, 5, 8, 10, 9, 15, 6, NOW, 5, 7, 11, 12, 13, 14, 1, 2)
    body = fixed + struct.pack("<QQ", 60 * S, 100) + struct.pack("<IIII", 0, 258, 2, 9)
    assert encode(log) == struct.pack("<4sBBHI", b"nkkr", 1, 0, len(fixed), crc32(body)) + body


@pytest.mark.parametrize("rate", ["100000/minute", "100000/hour", "100000/second", "5000/second; 100000/minute"])
@pytest.mark.parametrize("arrivals", ["even", "random", "burst"])
def test_a_log_of_a_hundred_thousand_hits_is_at_most_8400_bytes(rate: str, arrivals: str) -> None:
    """However many hits a log counts, it takes a few kilobytes of the cache, at every write."""
    limit, rng, largest, now = quota(rate), random.Random(1), 0, NOW
    longest = limit.rates[-1]
    step = (longest.period_us + limit.margin_us) * 20 // longest.count + 1
    limit = replace(limit, spacing_us=0 if arrivals == "burst" else step)
    log = HitLog(1).joined(limit, S // 10)
    for _ in range(11_000):
        now += {"even": step, "random": int(rng.expovariate(1) * step), "burst": 0}[arrivals]
        log = log.forget(now)
        log = log.book(log.earliest(limit, 20, now), 20)
        largest = max(largest, len(encode(log)))
    assert largest <= 8400
    assert log.total >= 100_000
    assert len(log.times) <= EXACT_ENTRIES + 8


# What is not a log.

SAMPLES = [
    HitLog(1),
    HitLog(2, 3, NOW, S, S, (Rate(S, 5), Rate(60 * S, 300))).book(NOW, 1).book(NOW + 5, 2).book(NOW + S, 300),
    HitLog(3, windows=(Rate(MAX_PERIOD, 5),)).book(0, 1).book(2**33, 1).book(2**34, 2),
    HitLog(4, windows=(Rate(S, MAX_COUNT),), base=9, zero=7, numbers=array("Q", [3]), times=array("I", [5])),
    HitLog(5, times=array("Q", [5]), numbers=array("I", [5])),
    HitLog(6, windows=tuple(Rate(S + index, 1 + index) for index in range(16))).book(NOW, 2**33).book(NOW + 2**40, 1),
]


@pytest.mark.parametrize("log", SAMPLES, ids=lambda log: str(log.epoch))
def test_every_truncation_is_refused(log: HitLog) -> None:
    """A log cut short anywhere, or with anything behind it, is no log."""
    raw = encode(log)
    for size in range(len(raw)):
        with pytest.raises(CorruptLog):
            decode(raw[:size])
    for more in (b"\0", b"\xff", raw, b"\0" * 16):
        with pytest.raises(CorruptLog):
            decode(raw + more)


@pytest.mark.parametrize("log", SAMPLES, ids=lambda log: str(log.epoch))
def test_no_altered_byte_changes_what_a_log_says(log: HitLog) -> None:
    """Whatever one byte is changed to, the widths of the columns too, the log is refused or the same."""
    raw = encode(log)
    for index in range(len(raw)):
        changes = range(1, 256) if index < PREFIX else [1 << bit for bit in range(8)] + [0x03, 0x0F, 0xFF]
        for change in changes:
            altered = bytearray(raw)
            altered[index] ^= change
            if check_refused_or_legal(bytes(altered)):
                assert decode(bytes(altered)) == log


@settings(deadline=None, max_examples=300)
@given(logs(), st.randoms(use_true_random=False))
def test_swapped_cut_and_shuffled_bytes_are_refused_or_legal(log: HitLog, rng: random.Random) -> None:
    """No damage to any log is taken for anything but a legal log, or raises anything but CorruptLog."""
    raw = bytearray(encode(log))
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


@settings(deadline=None, max_examples=600)
@given(logs(), st.data())
def test_damage_under_a_fitting_checksum_is_refused_or_legal(log: HitLog, data: st.DataObject) -> None:
    """Even bytes that a faulty writer summed correctly are taken only where they are in order and in bounds."""
    raw = bytearray(encode(log))
    for _ in range(data.draw(st.integers(1, 3))):
        index = data.draw(st.integers(4, len(raw) - 1))
        raw[index] = data.draw(st.sampled_from([0, 1, 2, 3, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))
    check_refused_or_legal(summed(bytes(raw)))


@pytest.mark.parametrize("value", ["nkkr", 42, None, [], 4.2])
def test_what_is_no_bytes_is_refused(value: Any) -> None:
    """As a table's row may be after somebody edited it."""
    with pytest.raises(CorruptLog, match=f"no bytes, but {type(value).__name__}"):
        decode(value)


def outcome(raw: bytes, *known: HitLog) -> HitLog | str:
    """Return what decoding gives, or says."""
    try:
        return decode(raw, *known)
    except CorruptLog as error:
        return str(error)


@settings(deadline=None, max_examples=400)
@given(st.data(), logs())
def test_what_goes_on_from_a_known_log_is_checked_no_less(data: st.DataObject, known: HitLog) -> None:
    """Cut in front, longer, or altered anywhere, the next log is refused, or not, as if nothing was known."""
    columns = []
    for of_known in (known.times, known.numbers):
        values = [*of_known[data.draw(st.integers(0, len(of_known))) :]]
        values += data.draw(st.lists(st.integers(0, 20) | st.integers(0, 2**33), max_size=3))
        for _ in range(data.draw(st.integers(0, 1)) if values else 0):
            values[data.draw(st.integers(0, len(values) - 1))] = data.draw(st.integers(0, 20) | st.integers(0, 2**33))
        columns.append(array("Q", values))
    shorter = min(map(len, columns))
    raw = encode(replace(known, times=columns[0][:shorter], numbers=columns[1][:shorter]))
    assert outcome(raw, known) == outcome(raw)


@settings(deadline=None, max_examples=300)
@given(
    st.binary(max_size=200), st.sampled_from([b"", MAGIC, MAGIC + bytes([VERSION]), MAGIC + bytes([VERSION, 0, 80, 0])])
)
def test_random_bytes_are_refused(raw: bytes, prefix: bytes) -> None:
    """Another program's value, and one that begins like a log, is no log."""
    with pytest.raises(CorruptLog):
        decode(prefix + raw)


@pytest.mark.parametrize(
    "log",
    [
        HitLog(1, times=array("I", [5, 5]), numbers=array("I", [1, 2])),
        HitLog(1, times=array("I", [6, 5]), numbers=array("I", [1, 2])),
        HitLog(1, times=array("I", [5, 6]), numbers=array("I", [2, 2])),
        HitLog(1, times=array("I", [5, 6]), numbers=array("I", [3, 2])),
        HitLog(1, times=array("I", [5]), numbers=array("I", [0])),
        HitLog(1, times=array("I", [5]), numbers=array("I", [4]), base=9, zero=5),
        HitLog(1, base=4, zero=5),
        HitLog(1, hold_until=-1),
        HitLog(1, margin_us=-1),
        HitLog(1, spacing_us=-1),
        HitLog(1, horizon_us=-1),
        HitLog(1, origin_us=-1),
        HitLog(1, reset_at=-1),
        HitLog(1, written_at=-1),
        HitLog(1, hold_until=LATEST_US + 1),
        HitLog(1, reset_at=LATEST_US + 1),
        HitLog(1, written_at=2**63 - 1),
        HitLog(1, origin_us=LATEST_US, times=array("I", [1]), numbers=array("I", [1])),
        HitLog(1, times=array("Q", [2**64 - 1]), numbers=array("I", [1])),
        HitLog(1, margin_us=MAX_MARGIN + 1),
        HitLog(1, spacing_us=MAX_PERIOD + 1),
        HitLog(1, horizon_us=MAX_PERIOD + 1),
        HitLog(1, base=MOST_HITS + 1, zero=0),
        HitLog(1, times=array("I", [0]), numbers=array("Q", [MOST_HITS + 1])),
        HitLog(1, base=2**64 - 1, zero=2**64 - 1, times=array("I", [0]), numbers=array("Q", [2**63])),
        HitLog(1, windows=(Rate(0, 1),)),
        HitLog(1, windows=(Rate(MAX_PERIOD + 1, 1),)),
        HitLog(1, windows=(Rate(S, 0),)),
        HitLog(1, windows=(Rate(S, MAX_COUNT + 1),)),
        HitLog(1, windows=(Rate(2 * S, 5), Rate(S, 1))),
        HitLog(1, windows=(Rate(S, 5), Rate(S, 5))),
    ],
)
def test_a_log_that_no_writer_writes_is_refused(log: HitLog) -> None:
    """Out of order or out of bounds, a value is refused whatever its checksum says."""
    with pytest.raises(CorruptLog):
        decode(encode(log))


# Other releases.


@settings(deadline=None, max_examples=100)
@given(logs(), st.binary(min_size=1, max_size=40))
def test_fields_that_a_later_release_adds_are_skipped(log: HitLog, added: bytes) -> None:
    """A longer header of this version is read up to the fields that this release knows."""
    raw = encode(log)
    (size,) = struct.unpack_from("<H", raw, 6)
    end = PREFIX + size
    longer = raw[:6] + struct.pack("<H", size + len(added)) + raw[8:end] + added + raw[end:]
    assert decode(summed(longer)) == log


@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_version_says_so(version: int) -> None:
    """A log of another version is refused with both versions, whatever it holds."""
    raw = bytearray(encode(SAMPLES[1]))
    raw[4] = version
    for other in (bytes(raw), summed(bytes(raw)), bytes(raw[:PREFIX]), bytes(raw[:PREFIX]) + b"anything"):
        with pytest.raises(CorruptLog, match=f"version {version} is not {VERSION}"):
            decode(other)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "0 bytes"),
        (b"nkkr", "4 bytes"),
        (b"some other program's value", "not a hit log"),
        (encode(SAMPLES[1])[:-1], "checksum"),
        (summed(encode(SAMPLES[1])[:-1]), "lengths"),
    ],
)
def test_a_refusal_says_what_is_wrong(raw: bytes, says: str) -> None:
    """A CorruptLog, which is a CacheError, tells a value cut short from another program's."""
    with pytest.raises(CorruptLog, match=says) as caught:
        decode(raw)
    assert isinstance(caught.value, CacheError)
