"""Taps of urllib3's responses: a body is read on its way, for requests.

- What urllib3 reads passes two methods of a response, ``_fp_read`` and ``_handle_chunk``, encoded as it came, whatever
  reads it: ``read``, ``stream``, ``read_chunked``, ``drain_conn``. So these are tapped, of the one response.
- What is read ahead is read below http.client, and put back there as it came on the wire, frames of chunks included. So
  neither http.client nor urllib3 know, and chunks and errors come to the user as they would have.
- ``release_conn`` ends the measuring: urllib3 calls it at the end of a body, and requests as it closes a response.
- The response is held weakly by what is set on it, so that it ends with its last reference, as before.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import partial
from typing import Any
from weakref import ReferenceType, ref

from urllib3.response import HTTPResponse

from nekkar.http.bodies import MOST_AHEAD
from nekkar.http.encodings import Unreadable
from nekkar.http.inspection import Measuring
from nekkar.http.permit import Body
from nekkar.http.taps import Whole

MOST_WIRE = 16 * MOST_AHEAD  # chunks of a byte each take six on the wire
LONGEST_LINE = 1024


class RawTap:
    """The body of a response of urllib3."""

    is_whole = False

    def __init__(self, raw: HTTPResponse) -> None:
        self._raw = raw

    def tap(self, measuring: Measuring) -> None:
        """Have the body measured as it passes."""
        raw: Any = self._raw
        raw._fp_read = partial(_fp_read, ref(raw), measuring)
        raw._handle_chunk = partial(_handle_chunk, ref(raw), measuring)
        raw.release_conn = partial(_release_conn, ref(raw), measuring)

    def read_ahead(self) -> bytes | None:
        """Read the body; None where it is longer than 64 kB, or reading it raised. Blocks."""
        raw: Any = self._raw
        length, wire = raw.length_remaining, getattr(raw._fp, "fp", None)  # a mock has no wire
        if length == 0 or raw._fp is None:
            return b""
        if length is not None and length > MOST_AHEAD:
            return None
        ahead = _Ahead(wire or raw._fp)
        body = ahead.body(length, is_chunked=bool(raw.chunked and wire))
        if wire:
            raw._fp.fp = io.BufferedReader(ahead)
        else:
            raw._fp = io.BufferedReader(ahead)
        return body


def body_of(source: Any) -> Body:
    """Return the body of a response of urllib3's, or one that is read already; an empty one of anything else."""
    if isinstance(source, HTTPResponse):
        return RawTap(source)
    return Whole(source if isinstance(source, bytes) else b"")


class _Ahead(io.RawIOBase):
    """Bytes of which the first are read ahead: it gives those again, then an error of reading them, then the rest."""

    def __init__(self, source: Any) -> None:
        self._source, self._take = source, getattr(source, "read1", source.read)
        self._known, self._at = bytearray(), 0
        self._error: Exception | None = None

    def body(self, length: int | None, is_chunked: bool) -> bytes | None:
        """Read a body; None where it is too long, cut short or garbled, or reading it raised."""
        try:
            return b"".join(self._chunks() if is_chunked else self._plain(length))
        except Unreadable:
            return None
        except Exception as error:
            self._error = error
            return None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        room = len(buffer)
        if self._at < len(self._known):
            data = bytes(self._known[self._at : self._at + room])
            self._at += len(data)
        elif self._error:
            raise self._error
        else:
            data = self._take(room)
        buffer[: len(data)] = data
        return len(data)

    def fileno(self) -> int:
        return int(self._source.fileno())

    def close(self) -> None:
        self._source.close()
        super().close()

    def _plain(self, length: int | None) -> Iterator[bytes]:
        """Yield a body of a known length, or one up to the end of the connection."""
        left = MOST_AHEAD + 1 if length is None else length
        while left and (data := self._more(left)):
            yield data
            left -= len(data)
        is_cut_short, is_long = length is not None and left > 0, length is None and left == 0
        if is_cut_short or is_long:
            raise Unreadable

    def _chunks(self) -> Iterator[bytes]:
        """Yield the chunks of a body."""
        taken = 0
        while size := self._size():
            taken += size
            if taken > MOST_AHEAD or len(self._known) > MOST_WIRE:
                raise Unreadable
            data, left = b"", size + len(b"\r\n")
            while left:
                piece = self._more(left)
                if not piece:
                    raise Unreadable
                data, left = data + piece, left - len(piece)
            yield data[:size]

    def _size(self) -> int:
        line = self._source.readline(LONGEST_LINE)
        self._known += line
        try:
            size = int(line.partition(b";")[0], 16)
        except ValueError:
            raise Unreadable from None
        if size < 0:
            raise Unreadable
        return size

    def _more(self, most: int) -> bytes:
        data: bytes = self._take(most)
        self._known += data
        return data


def _fp_read(held: ReferenceType[Any], measuring: Measuring, amt: int | None = None, **how: Any) -> bytes:
    raw: Any = held()
    data: bytes = type(raw)._fp_read(raw, amt, **how)
    measuring.feed(data)
    if raw._original_response is None and (amt is None or not data):
        measuring.settle()  # a mock's, which nothing releases
    return data


def _handle_chunk(held: ReferenceType[Any], measuring: Measuring, amt: int | None) -> bytes:
    raw: Any = held()
    data: bytes = type(raw)._handle_chunk(raw, amt)
    measuring.feed(data)
    return data


def _release_conn(held: ReferenceType[Any], measuring: Measuring) -> None:
    raw: Any = held()
    type(raw).release_conn(raw)
    measuring.settle()
