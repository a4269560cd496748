"""The hit log as bytes: versioned, length-checked, checksummed; no pickle, no eval.

Layout, little-endian: magic, version, flags, header length, CRC-32 of all that follows; a header of
fixed fields; the windows; the column of times; the column of numbers. The columns' memory is their
encoding. A reader skips what a longer header of its own version adds behind the fields that it knows.
"""

from __future__ import annotations

import struct
import sys
from array import array
from bisect import bisect_left
from functools import lru_cache
from operator import attrgetter, lt
from zlib import crc32

from nekkar.core.errors import CacheError, CorruptLog
from nekkar.core.quota import MAX_COUNT, MAX_MARGIN, MAX_PERIOD, MIN_PERIOD, Rate
from nekkar.core.window.rejections import MOST_DOUBLINGS, NONE, Refusals
from nekkar.core.window.state import MAX_WINDOWS, Column, HitLog

MAGIC = b"nkkr"
VERSION = 1
LONGEST_LOG = 1 << 20  # bytes: of some 80,000 processes that wait; memcached's own bound, unless it is set higher
LATEST_US = 1 << 54  # in the year 2540: far from where sums of times are too wide to be written
MOST_HITS = 3 << 61  # far from where sums of counts are too wide
_PREFIX = struct.Struct("<4sBBHI")
_FIELDS: tuple[str, ...] = ("epoch", "nonce", "hold_until", "margin_us", "spacing_us", "horizon_us", "reset_at")
_FIELDS += ("written_at", "unsure_until", "base", "origin_us", "zero", "crowd")
_OF_REFUSALS = ("at", "row", "margin_us", "widened_at")
_HEADER = struct.Struct("<QQqqqqqqqQqQHqHqqHI")  # the fields above, how many windows, how many entries
_values = attrgetter(*_FIELDS, *(f"refusals.{field}" for field in _OF_REFUSALS))
_WINDOW = struct.Struct("<QQ")
_WIDE_TIMES, _WIDE_NUMBERS = 1, 2
_TYPECODES = ("I", "Q")
NOTHING = HitLog(0)


def encode(log: HitLog) -> bytes:
    """Return the log as bytes; CacheError where they are more than any reader takes."""
    header = _HEADER.pack(*_values(log), len(log.windows), len(log.times))
    windows = b"".join(_WINDOW.pack(window.period_us, window.count) for window in log.windows)
    body = b"".join((header, windows, _column_bytes(log.times), _column_bytes(log.numbers)))
    flags = _WIDE_TIMES * (log.times.itemsize == 8) | _WIDE_NUMBERS * (log.numbers.itemsize == 8)
    if _PREFIX.size + len(body) > LONGEST_LOG:
        raise CacheError(f"a log of {len(log.times):,} entries has over {LONGEST_LOG:,} bytes; part it by names")
    return _PREFIX.pack(MAGIC, VERSION, flags, _HEADER.size, crc32(body, flags)) + body


def decode(raw: bytes, known: HitLog = NOTHING) -> HitLog:
    """Return the log that ``raw`` encodes; CorruptLog, with what is wrong, where it is none.

    ``known``: one that was decoded before; what goes on from it is checked in less time.
    """
    if not isinstance(raw, bytes):
        raise CorruptLog(f"no bytes, but {type(raw).__name__}")
    if len(raw) > LONGEST_LOG:
        raise CorruptLog(f"it has {len(raw):,} bytes, and a limit's log has at most {LONGEST_LOG:,}")
    try:
        return _decode(raw, known)
    except struct.error as cause:
        raise CorruptLog(f"cut short at {len(raw)} bytes") from cause


def _decode(raw: bytes, known: HitLog) -> HitLog:
    magic, version, flags, header_size, checksum = _PREFIX.unpack_from(raw)
    body = memoryview(raw)[_PREFIX.size :]
    if magic != MAGIC:
        raise CorruptLog("not a hit log")
    if version != VERSION:
        raise CorruptLog(f"version {version} is not {VERSION}: written by another release")
    if flags > 3 or header_size < _HEADER.size or checksum != crc32(body, flags):
        raise CorruptLog("altered or cut short: its checksum does not fit")
    *values, windows, entries = _HEADER.unpack_from(body)
    rates = _windows(bytes(body[header_size : header_size + windows * _WINDOW.size]))
    columns = body[header_size + windows * _WINDOW.size :]
    times = array(_TYPECODES[flags & _WIDE_TIMES])
    numbers = array(_TYPECODES[flags >> 1])
    if len(rates) != windows or len(columns) != entries * (times.itemsize + numbers.itemsize):
        raise CorruptLog("its lengths do not fit")
    _fill(times, columns[: entries * times.itemsize])
    _fill(numbers, columns[entries * times.itemsize :])
    own, told = dict(zip(_FIELDS, values, strict=False)), values[len(_FIELDS) :]
    refusals = Refusals(*told) if any(told) else NONE
    log = HitLog(**own, windows=rates, times=times, numbers=numbers, refusals=refusals)
    _check(log, known)
    return log


@lru_cache(1024)
def _windows(raw: bytes) -> tuple[Rate, ...]:
    """Return the windows, which ascend; almost every log of a limit has the same."""
    windows = tuple(Rate(period, count) for period, count in _WINDOW.iter_unpack(raw))
    if len(windows) > MAX_WINDOWS or list(windows) != sorted(set(windows)):
        raise CorruptLog("its windows are too many, or not in order")
    for window in windows:
        if not (MIN_PERIOD <= window.period_us <= MAX_PERIOD and 1 <= window.count <= MAX_COUNT):
            raise CorruptLog(f"its window {window} is out of bounds")
    return windows


def _check(log: HitLog, known: HitLog) -> None:
    """Refuse what no writer of this format writes, whatever its checksum says."""
    if not (_ascends(log.times, known.times) and _ascends(log.numbers, known.numbers)) or log.base < log.zero:
        raise CorruptLog("its hits are not in order")
    if log.numbers and log.zero + log.numbers[0] <= log.base:
        raise CorruptLog("its numbers start below its base")
    times = (log.hold_until, log.origin_us, log.last or 0, log.reset_at, log.written_at, log.unsure_until)
    spans = (log.spacing_us, log.horizon_us)
    if min(*times, *spans, log.margin_us) < 0 or max(times) > LATEST_US or max(spans) > MAX_PERIOD:
        raise CorruptLog("its times are out of bounds")
    if log.margin_us > MAX_MARGIN or log.total > MOST_HITS:
        raise CorruptLog("its header is out of bounds")
    refusals = log.refusals
    if min(refusals.at, refusals.margin_us, refusals.widened_at) < 0 or refusals.row > MOST_DOUBLINGS:
        raise CorruptLog("its refusals are out of bounds")


def _ascends(values: Column[int], known: Column[int]) -> bool:
    """Whether a column ascends; where it goes on from a known one, which does, only the rest is looked at."""
    start = bisect_left(known, values[0]) if values else 0
    same = len(known) - start
    rest = values[max(0, same - 1) :] if values[:same] == known[start:] else values
    return all(map(lt, rest, rest[1:]))


def _column_bytes(values: Column[int]) -> bytes:
    return _swapped(values).tobytes() if sys.byteorder == "big" else values.tobytes()


def _fill(values: Column[int], raw: memoryview) -> None:
    values.frombytes(raw)
    if sys.byteorder == "big":
        values.byteswap()


def _swapped(values: Column[int]) -> Column[int]:
    copy = values[:]
    copy.byteswap()
    return copy
