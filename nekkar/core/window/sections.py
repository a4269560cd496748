"""The sections of an encoded state: a tag, a format (wide or not), a length in bytes, and rows; columns of hits."""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterator

from nekkar.core.errors import CorruptLog
from nekkar.core.window.hits import Column

_SECTION = struct.Struct("<BBxxI")
_TYPECODES = ("I", "Q")  # of the columns of hits: narrow, wide


def section(tag: int, is_wide: int, rows: list[bytes]) -> tuple[bytes, ...]:
    """Return the parts of a section."""
    return _SECTION.pack(tag, is_wide, sum(map(len, rows))), *rows


def sections(body: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield (tag, is_wide, rows) for each section; raise CorruptLog where their lengths do not fit.

    The rows are copies, not views: CPython up to 3.12 crashes where it collects a view that is in use. The traceback of
    an exception holds it, such as one that a signal handler raises here.
    """
    at = 0
    while at < len(body):
        tag, is_wide, length = _SECTION.unpack_from(body, at)
        start = at + _SECTION.size
        at = start + length
        if at > len(body) or is_wide > 1:
            raise CorruptLog("its lengths do not fit")
        yield tag, is_wide, body[start:at]


def column_section(tag: int, values: Column[int]) -> tuple[bytes, ...]:
    """Return the parts of a section that holds one column."""
    raw = values.tobytes() if sys.byteorder == "little" else column_bytes(values)
    return _SECTION.pack(tag, values.itemsize == 8, len(raw)), raw


def column_bytes(values: Column[int]) -> bytes:
    """Return a column as bytes."""
    if sys.byteorder == "big":
        values = values[:]
        values.byteswap()
    return values.tobytes()


def column_of(is_wide: int, raw: bytes) -> Column[int]:
    """Return the column that ``raw`` holds."""
    values = array(_TYPECODES[is_wide])
    values.frombytes(raw)
    if sys.byteorder == "big":
        values.byteswap()
    return values
