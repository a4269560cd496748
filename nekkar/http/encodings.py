"""How bodies are encoded: gzip, deflate, brotli and zstd, decoded piece by piece to a bound.

zlib is Python's own. Brotli and zstd are decoded where the packages are installed that let httpx and urllib3 decode
them (and ask for them): ``brotli`` or ``brotlicffi``, from 1.2 on, which can bound what they make; ``zstandard``,
``backports.zstd`` or Python's own ``compression.zstd``. Otherwise they can't be read.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

Decode = Callable[[bytes, int], bytes]  # of the next piece, to about as many bytes as there is room for

_AUTO = zlib.MAX_WBITS | 32  # gzip or zlib, as the first bytes say
_SLICE = 256  # bytes of zstd, which make 11 MB at most
_WINDOW_LOG = 23  # 8 MB: the most that a decoder of HTTP is to keep for it (RFC 9659)


class Unreadable(Exception):
    """A body can't be decoded, or is too long."""


def decode_of(encoding: str) -> Decode | None:
    """Return what decodes a body, None where it is plain; raises Unreadable for an unknown encoding.

    What is returned raises Unreadable, or an error of its package, for what it can't decode.
    """
    if encoding == "identity":
        return None
    if encoding in ("gzip", "x-gzip"):
        return zlib.decompressobj(_AUTO).decompress
    if encoding == "deflate":
        return _Deflate().decode
    made = {"br": _brotli, "zstd": _zstd}.get(encoding, _unknown)()
    if made is None:
        raise Unreadable
    return made


class _Deflate:
    """Deflate with or without the header of zlib, which some servers leave out."""

    def __init__(self) -> None:
        self._inflate, self._is_first = zlib.decompressobj(_AUTO), True

    def decode(self, data: bytes, room: int) -> bytes:
        is_first, self._is_first = self._is_first, False
        try:
            return self._inflate.decompress(data, room)
        except zlib.error:
            if not is_first:
                raise
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        return self._inflate.decompress(data, room)


def _brotli() -> Decode | None:
    for package in _installed("brotli", "brotlicffi"):
        decoder = package.Decompressor()
        take = getattr(decoder, "process", None) or decoder.decompress
        if not hasattr(decoder, "can_accept_more_data"):
            continue  # an older one, which has no bound

        def decode(data: bytes, room: int, decoder: Any = decoder, take: Any = take) -> bytes:
            made = bytes(take(data, output_buffer_limit=room))
            while len(made) < room and not decoder.can_accept_more_data():
                made += take(b"", output_buffer_limit=room - len(made))
            return made

        return decode
    return None


def _zstd() -> Decode | None:
    for package in _installed("compression.zstd", "backports.zstd"):
        bounds = {package.DecompressionParameter.window_log_max: _WINDOW_LOG}
        bounded: Decode = package.ZstdDecompressor(options=bounds).decompress
        return bounded
    for package in _installed("zstandard"):
        decoder = package.ZstdDecompressor(max_window_size=1 << _WINDOW_LOG).decompressobj()

        def sliced(data: bytes, room: int, decoder: Any = decoder) -> bytes:
            made = b""
            for at in range(0, len(data), _SLICE):
                if len(made) < room and not decoder.eof:
                    made += decoder.decompress(data[at : at + _SLICE])
            return made

        return sliced
    return None


def _unknown() -> None:
    """Decode nothing."""


def _installed(*names: str) -> Iterator[Any]:
    for name in names:
        try:
            yield import_module(name)
        except ImportError:
            continue
