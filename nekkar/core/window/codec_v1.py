"""Reads the values that release 0.1 wrote, so that a deploy does not lose what was booked. Nothing writes them.

Layout, little-endian: magic, version, flags, header length, CRC-32 of all that follows; a header of fixed fields; the
rates; the column of times; the column of numbers.
"""

from __future__ import annotations

import struct
import sys
from array import array
from zlib import crc32

from nekkar.core.errors import CorruptLog
from nekkar.core.quota import Rate
from nekkar.core.window.hits import Column, HitLog
from nekkar.core.window.rejections import NONE, Rejections
from nekkar.core.window.state import MOST_HORIZON_US, LimitState

VERSION = 1
_PREFIX = struct.Struct("<4sBBHI")
_HEADER = struct.Struct("<QQqqqqqqqQqQHqHqqHI")
_RATE = struct.Struct("<QQ")
_TYPECODES = ("I", "Q")  # by flag: 1 for the column of times, 2 for that of numbers


def decode(raw: bytes) -> LimitState:
    """Return the state that a value of release 0.1 stands for; raise CorruptLog, or struct.error for one cut short."""
    _, _, flags, header_size, checksum = _PREFIX.unpack_from(raw)
    body = raw[_PREFIX.size :]
    if flags > 3 or header_size < _HEADER.size or checksum != crc32(body, flags):
        raise CorruptLog("altered or cut short: its checksum does not fit")
    epoch, _, hold_until, margin, spacing, horizon, _, written_at, assumed_until, *rest = _HEADER.unpack_from(body)
    forgotten, time_offset, number_offset, _, *learned, n_rates, n_entries = rest
    columns = body[header_size + n_rates * _RATE.size :]
    times, numbers = array(_TYPECODES[flags & 1]), array(_TYPECODES[flags >> 1])
    if len(columns) != n_entries * (times.itemsize + numbers.itemsize):
        raise CorruptLog("its lengths do not fit")
    _fill(times, columns[: n_entries * times.itemsize])
    _fill(numbers, columns[n_entries * times.itemsize :])
    rates = tuple(
        Rate(period, count)
        for period, count in _RATE.iter_unpack(body[header_size : header_size + n_rates * _RATE.size])
    )
    if len(rates) != n_rates:
        raise CorruptLog("its lengths do not fit")
    return LimitState(
        epoch,
        hits=HitLog(forgotten, time_offset, number_offset, times, numbers),
        hold_until=hold_until,
        margin_us=margin,
        horizon_us=min(horizon, MOST_HORIZON_US),  # 0.1 knew no longest one
        spacing_us=spacing,
        rates=rates,
        written_at=written_at,
        assumed_until=assumed_until,
        rejections=Rejections(*learned) if any(learned) else NONE,
    )


def _fill(values: Column[int], raw: bytes) -> None:
    values.frombytes(raw)
    if sys.byteorder == "big":
        values.byteswap()
