"""memcached's own clock, read from its log: each line of ``watch`` has a time in microseconds.

Store a random key between two readings of our own clock, and find the line of the log with that key: its time lies
between them. The line itself arrives 1 to 100 ms later. A busy server logs many other lines, and skips some; then
another key is stored. The key identifies the line through Unix sockets, TLS and address translation, where a
connection's port does not.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from random import uniform
from secrets import token_hex

from nekkar.core.cache.stream import Stream
from nekkar.core.clock import monotonic
from nekkar.core.errors import CacheError, plain
from nekkar.core.quota import SECOND

PATIENCE_S = 0.25
BUSY_PAUSE_S = 0.05
LONGEST_LINE = 1 << 14
_STAMP = rb"ts=(\d+)\.(\d+) [^\n]* key=%s(\d+) "


def read_clock(
    watcher: Stream, touch: Callable[[str], object], now: Callable[[], int], timeout: float
) -> tuple[int, int, int] | None:
    """Return (before, server, after): the server's µs since the epoch, between two of ``now``.

    ``watcher``: a new connection, to be closed afterwards. ``touch`` stores a key, on another connection.
    Blocks for ``timeout`` seconds and one touch at most. None where the server does not let its log be watched, or
    logs nothing. Raises CacheError where it is too busy to show the line, and OSError.
    """
    lines = _Lines(watcher, monotonic() + timeout)
    if not _admitted(lines):
        return None
    mine, brackets = f"nekkar-clock-{token_hex(8)}-", list[tuple[int, int]]()
    while monotonic() < lines.deadline:
        before = now()
        touch(f"{mine}{len(brackets)}")
        brackets.append((before, now()))
        if found := lines.find(_STAMP % mine.encode(), PATIENCE_S):
            before, after = brackets[int(found[3])]
            return before, stamp_us(found[1], found[2]), after
    if lines.heard:
        raise CacheError(f"memcached's log skips the line that tells its clock, for {plain(timeout)} s: it is too busy")
    return None


def stamp_us(seconds: bytes, micros: bytes) -> int:
    """Return a line's time in µs: the log has two integers, so 5.20647 is 5 s and 20,647 µs."""
    return int(seconds) * SECOND + int(micros)


def _admitted(lines: _Lines) -> bool:
    """Ask to watch; if too many others do (a server allows 20), ask again until the deadline."""
    while True:
        lines.connection.sendall(b"watch mutations\r\n")
        answer = lines.find(rb"([A-Z_]+)[^\n]*\n", lines.deadline - monotonic())
        if not answer:
            raise TimeoutError("no answer to watch")
        if answer[1] == b"OK" or answer[1].endswith(b"ERROR"):
            lines.heard = False
            return answer[1] == b"OK"
        if monotonic() + BUSY_PAUSE_S > lines.deadline:
            raise CacheError("memcached's log has too many watchers to tell its clock; try again")
        threading.Event().wait(uniform(0, BUSY_PAUSE_S))


class _Lines:
    """What a watched log sends. ``heard``: whether it sent anything since that was last set."""

    def __init__(self, connection: Stream, deadline: float) -> None:
        self.connection, self.deadline = connection, deadline
        self._tail = b""
        self.heard = False

    def find(self, pattern: bytes, patience_s: float) -> re.Match[bytes] | None:
        """Read for at most ``patience_s``; return the first match, or None. Everything before it is dropped."""
        until = min(self.deadline, monotonic() + patience_s)
        while not (found := re.search(pattern, self._tail)):
            self._tail = self._tail[self._tail.rfind(b"\n") + 1 :]
            if (left := until - monotonic()) <= 0 or not self._more(left):
                return None
        self._tail = self._tail[found.end() :]
        return found

    def _more(self, seconds: float) -> bool:
        self.connection.begin(monotonic() + seconds)
        try:
            data = self.connection.recv(1 << 16)
        except TimeoutError:
            return False
        if not data:
            raise ConnectionResetError("the watched log ended")
        self._tail = self._tail[-LONGEST_LINE:] + data
        self.heard = True
        return True
