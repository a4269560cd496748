"""Bodies as meters and ``refused=`` see them: requests and responses of any client, decoded, and events of a stream.

- A body is decoded separately, as its pieces pass, see ``encodings``. What can't be decoded can't be read.
- Nothing of a body past ``most`` bytes, encoded or decoded, is kept: a few bytes may decode to gigabytes.
- An event stream is read event by event, as the pieces come, whatever ends its lines (WHATWG, server-sent events).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from nekkar.http.encodings import Decode, Unreadable, decode_of
from nekkar.http.header_values import Headers

MOST_AHEAD = 64 * 1024  # bytes of a body that are read before the response is handed on
MOST_MEASURED = 8 * 1024 * 1024

STREAMS = ("text/event-stream", "application/x-ndjson", "application/stream+json", "application/vnd.amazon.eventstream")


class _Json:
    """Reads ``content``."""

    content: bytes

    def json(self) -> Any:
        """Return what the body holds; raise ValueError if it is not JSON, or nested too deep."""
        try:
            return json.loads(self.content)
        except RecursionError:
            raise ValueError("the body is nested too deep") from None


@dataclass(slots=True)
class RequestView(_Json):
    """A request, with its body where that is bytes; ``b""`` where it is a stream. ``headers`` ignore case."""

    method: str
    url: str
    headers: Any
    content: bytes = field(default=b"", repr=False)


@dataclass(slots=True)
class ResponseView(_Json):
    """An answer with its decoded body, ``b""`` where that was not read. ``headers`` ignore case."""

    status_code: int
    headers: Any
    content: bytes = field(default=b"", repr=False)


def bytes_of(body: object) -> bytes:
    """Return a request's body, empty where it is a stream."""
    if isinstance(body, str):
        return body.encode()
    return bytes(body) if isinstance(body, bytes | bytearray) else b""


class Decoder:
    """Decodes a body piece by piece, to at most ``most`` bytes in all; raises Unreadable."""

    def __init__(self, encoding: str, most: int) -> None:
        self._decode = decode_of(encoding)
        self._taken = self._made = 0
        self._most = most

    def decode(self, data: bytes) -> bytes:
        """Return what the next piece holds; nothing past the end of what is compressed."""
        self._taken += len(data)
        made = self._decoded(self._decode, data) if self._decode else data
        self._made += len(made)
        if max(self._taken, self._made) > self._most:
            raise Unreadable
        return made

    def _decoded(self, decode: Decode, data: bytes) -> bytes:
        try:
            return decode(data, self._most - self._made + 1)
        except Exception:  # each package has an error of its own
            raise Unreadable from None


class Events:
    """The events of a stream: fed with its bytes, it yields the JSON object of each event that has one.

    An event of over ``most`` bytes raises Unreadable. Two line feeds end the event that has begun.
    """

    def __init__(self, most: int) -> None:
        self._line: list[bytes] = []  # the begun line, in pieces
        self._data: list[bytes] = []  # the lines of the begun event
        self._most, self._line_size, self._data_size = most, 0, 0

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        """Yield what the next bytes complete."""
        self._line.append(data)
        self._line_size += len(data)
        if b"\n" not in data and b"\r" not in data:
            self._check()
            return
        lines = b"".join(self._line).splitlines(keepends=True)
        is_ended = lines[-1].endswith(b"\n") or lines[-1] == b"\r"
        self._line = [] if is_ended else [lines.pop()]  # after a carriage return a line feed may follow
        self._line_size = sum(map(len, self._line))
        for line in lines:
            yield from self._take(line.rstrip(b"\r\n"))

    def _take(self, line: bytes) -> Iterator[dict[str, Any]]:
        if not line:
            event, self._data, self._data_size = b"\n".join(self._data), [], 0
            found = _object(event)
            if found is not None:
                yield found
        elif line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))
            self._data_size += len(line)
            self._check()

    def _check(self) -> None:
        if self._line_size + self._data_size > self._most:
            raise Unreadable


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer whose body is to be read: ``is_decoded`` where a client hands it over decoded."""

    status: int
    headers: Headers
    is_decoded: bool = False

    @property
    def is_stream(self) -> bool:
        """Whether the body comes bit by bit, for as long as the service likes."""
        return self._type in STREAMS

    @property
    def is_event_stream(self) -> bool:
        """Whether the body is a stream of server-sent events."""
        return self._type == STREAMS[0]

    @property
    def encoding(self) -> str:
        """How the body is encoded, ``identity`` where it is not."""
        told = "" if self.is_decoded else self.headers.get("content-encoding") or ""
        return told.strip().lower() or "identity"

    def view(self, content: bytes = b"") -> ResponseView:
        """Return the answer, with a decoded body, as meters and ``refused=`` see it."""
        return ResponseView(self.status, self.headers, content)

    @property
    def _type(self) -> str:
        return (self.headers.get("content-type") or "").partition(";")[0].strip().lower()


def _object(event: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(event) if event.startswith(b"{") else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
