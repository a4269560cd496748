"""Bodies as meters and ``refused=`` see them: decoded aside, bounded, and events of streams, however they are cut."""

from __future__ import annotations

import gzip
import json
import sys
import zlib
from itertools import pairwise
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.internals.http import Answer, Decoder, Events, RequestView, ResponseView, Unreadable, bytes_of

MOST = 1000
TEXT = b"the quick brown fox " * 40
ENCODED = {
    "identity": TEXT,
    "gzip": gzip.compress(TEXT),
    "x-gzip": gzip.compress(TEXT),
    "deflate": zlib.compress(TEXT),
}


def cut(data: bytes, at: list[int]) -> list[bytes]:
    """Cut data at some places, of which there may be more than bytes."""
    ends = [0, *sorted(place % (len(data) + 1) for place in at), len(data)]
    return [data[start:end] for start, end in pairwise(ends)]


def decoded(encoding: str, pieces: list[bytes], most: int = MOST) -> bytes:
    decoder = Decoder(encoding, most)
    return b"".join(decoder.decode(piece) for piece in pieces)


def events(pieces: list[bytes], most: int = MOST) -> list[dict[str, Any]]:
    """Return the events in a whole stream."""
    found = Events(most)
    return [event for piece in [*pieces, b"\n\n"] for event in found.feed(piece)]


@pytest.mark.parametrize("encoding", ENCODED)
@given(at=st.lists(st.integers(0, 10_000), max_size=8))
def test_a_body_is_decoded_however_it_is_cut(encoding: str, at: list[int]) -> None:
    """Piece by piece, to the same bytes."""
    assert decoded(encoding, cut(ENCODED[encoding], at)) == TEXT


def test_deflate_without_its_header_is_decoded_too() -> None:
    """Some services leave it out."""
    assert decoded("deflate", [zlib.compress(TEXT, wbits=-15)]) == TEXT


def test_what_is_cut_short_is_decoded_as_far_as_it_came() -> None:
    """And what follows the end of what is compressed is left out."""
    assert TEXT.startswith(decoded("gzip", [ENCODED["gzip"][:-12]]))
    assert decoded("gzip", [ENCODED["gzip"] + b"more", b"and more"]) == TEXT


class Package:
    """Stands for the package ``brotli``: what it makes is bounded, and the rest of it comes when it is asked again."""

    class Decompressor:
        def __init__(self) -> None:
            self.inflate = zlib.decompressobj()

        def process(self, data: bytes, output_buffer_limit: int) -> bytes:
            assert not (data and self.inflate.unconsumed_tail)
            return self.inflate.decompress(data or self.inflate.unconsumed_tail, min(output_buffer_limit, 7))

        def can_accept_more_data(self) -> bool:
            return not self.inflate.unconsumed_tail


class Unbounded:
    """Stands for an older one."""

    class Decompressor:
        def process(self, data: bytes) -> bytes:
            raise AssertionError("a few bytes may stand for gigabytes")


@given(at=st.lists(st.integers(0, 10_000), max_size=8))
def test_brotli_is_decoded_by_the_package_that_the_client_has(at: list[int]) -> None:
    """Piece by piece, up to the bound; without one, or with an older one, it can't be read."""
    pieces = cut(ENCODED["deflate"], at)
    with mock.patch.dict(sys.modules, brotli=Package, brotlicffi=None):
        assert decoded("br", pieces) == TEXT
        with pytest.raises(Unreadable):
            decoded("br", pieces, most=len(TEXT) - 1)
    for other in (None, Unbounded):
        with mock.patch.dict(sys.modules, brotli=other, brotlicffi=None), pytest.raises(Unreadable):
            Decoder("br", MOST)


@pytest.mark.parametrize(("encoding", "package"), [("br", "brotli"), ("zstd", "zstandard")])
def test_the_packages_themselves_decode(encoding: str, package: str) -> None:
    """Where they are installed; a bomb is refused."""
    compress = pytest.importorskip(package).compress
    assert decoded(encoding, cut(compress(TEXT), [3, 9, 30])) == TEXT
    for bad in (compress(bytes(50_000_000)), b"garbage" * 9):
        with pytest.raises(Unreadable):
            decoded(encoding, [bad])


@pytest.mark.parametrize("encoding", ["br", "zstd"])
def test_without_a_package_brotli_and_zstd_can_not_be_read(encoding: str) -> None:
    """The call costs its estimate."""
    names = ("brotli", "brotlicffi", "zstandard", "compression", "backports.zstd", "compression.zstd")
    with mock.patch.dict(sys.modules, dict.fromkeys(names)), pytest.raises(Unreadable):
        Decoder(encoding, MOST)


@pytest.mark.parametrize("encoding", ["gzip, gzip", "compress", "x" * 9999])
def test_another_encoding_can_not_be_read(encoding: str) -> None:
    """Even where the body is none."""
    with pytest.raises(Unreadable):
        Decoder(encoding, MOST)


@given(encoding=st.sampled_from(["gzip", "deflate"]), pieces=st.lists(st.binary(max_size=300), max_size=5))
def test_garbage_is_unreadable_or_empty(encoding: str, pieces: list[bytes]) -> None:
    """It never raises anything else."""
    try:
        decoded(encoding, [ENCODED[encoding][:20], *pieces])
        decoded(encoding, pieces)
    except Unreadable:
        return


@pytest.mark.parametrize("encoding", ENCODED)
def test_a_body_is_read_up_to_a_bound(encoding: str) -> None:
    """A few bytes may stand for gigabytes: no more than the bound is ever made of them."""
    whole = ENCODED[encoding]
    assert decoded(encoding, [whole], most=len(TEXT)) == TEXT
    with pytest.raises(Unreadable):
        decoded(encoding, [whole], most=len(TEXT) - 1)
    bomb = zlib.compress(bytes(50_000_000))
    with pytest.raises(Unreadable):
        decoded("deflate", [bomb], most=len(bomb))


STREAM = (
    b': a comment\r\n\r\nevent: message_start\r\ndata: {"n": 1}\r\n\r\n'
    b'data: {"n":\ndata:  2}\n\ndata:{"n": 3}\r\rid: 7\rretry: 5\rdata: {"n": 4}\n\n'
    b'data: [DONE]\n\ndata: nonsense\n\ndata: {"n\n\ndata: {"n": 5}'
)


@given(at=st.lists(st.integers(0, 10_000), max_size=12))
def test_a_stream_tells_its_events_however_it_is_cut(at: list[int]) -> None:
    """Whatever ends its lines; what is no JSON object is left out, and the last event needs no end."""
    assert events(cut(STREAM, at)) == [{"n": number} for number in (1, 2, 3, 4, 5)]


def test_a_stream_tells_each_event_as_soon_as_it_has_come() -> None:
    """Not at the end."""
    found = Events(MOST)
    assert list(found.feed(b'data: {"n": 1}\n')) == []
    assert list(found.feed(b"\n")) == [{"n": 1}]
    assert list(found.feed(b'data: {"n": 2}\n\ndata: {"n"')) == [{"n": 2}]
    assert list(found.feed(b": 3}\n\n")) == [{"n": 3}]


def test_an_event_is_read_up_to_a_bound() -> None:
    """Of one line or of many, whole or in bytes; other events don't count."""
    assert len(events([b'data: {"n": 1}\n\n'] * 200)) == 200
    for pieces in ([b"data: " + b"x" * MOST], [b"data: xx\n"] * MOST, [b"x"] * (MOST + 1)):
        with pytest.raises(Unreadable):
            events(pieces)


def test_an_event_of_many_pieces_takes_time_in_proportion() -> None:
    """No piece is looked at twice: 200,000 are done at once, of one line or of a line each."""
    for piece in (b"x", b"data:\n"):
        found = Events(10**7)
        assert not [event for _ in range(200_000) for event in found.feed(piece)]


@given(
    pieces=st.lists(st.binary(max_size=60) | st.sampled_from([b"data:", b"\r", b"\n", b"{}", b'{"a":1}']), max_size=30)
)
def test_no_stream_raises(pieces: list[bytes]) -> None:
    """Whatever it sends; and however it is cut, it tells the same."""
    assert events(pieces, 10**6) == events([b"".join(pieces)], 10**6)


def test_json_raises_no_other_error_than_value_error() -> None:
    """For nesting too deep, as for what is no JSON."""
    for content in (b"", b"{", b"[" * 100_000, b"\xff"):
        for view in (RequestView("GET", "https://example.com", {}, content), ResponseView(200, {}, content)):
            with pytest.raises(ValueError, match=r"."):
                view.json()
    assert RequestView("GET", "https://example.com", {}, b'{"a": 1}').json() == {"a": 1}


def test_a_view_shows_no_body() -> None:
    """It may hold a secret; a log may show the view."""
    assert "secret" not in repr(RequestView("GET", "https://example.com", {}, b"secret"))
    assert "secret" not in repr(ResponseView(200, {}, b"secret"))


@pytest.mark.parametrize(
    ("told", "is_stream", "is_event_stream"),
    [
        ("text/event-stream", True, True),
        ("Text/Event-Stream; charset=utf-8", True, True),
        ("application/x-ndjson", True, False),
        ("application/json", False, False),
        ("", False, False),
        (None, False, False),
    ],
)
def test_a_stream_is_known_by_its_type(told: str | None, is_stream: bool, is_event_stream: bool) -> None:
    """Whatever else its header says."""
    answer = Answer(200, {} if told is None else {"content-type": told})
    assert (answer.is_stream, answer.is_event_stream) == (is_stream, is_event_stream)


def test_a_requests_body_is_bytes_or_nothing() -> None:
    """A stream is left alone."""
    assert bytes_of("é") == "é".encode()
    assert bytes_of(bytearray(b"x")) == b"x"
    for body in (None, iter([b"x"]), open, 5, json):
        assert bytes_of(body) == b""
