"""The clock of processes on one machine that share a file: it does not step when the machine's wall clock does.

The machine's ticks are the same in every process and never step, but restart with each boot. So the file keeps,
for each boot, how far its time is ahead of the ticks. Rules:

- The first process that opens the file after a boot takes the offset from the wall clock; it holds until the next boot.
- After a boot the time is never earlier than the last time noted in the file, as long as a value in the file has not
  expired: a machine without a battery-backed clock may boot with a time in the past.
- Ticks are the same within one machine and one time namespace of it; containers share both by default.
- If the system has no name for a boot (Linux has one), the wall clock itself is used.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from nekkar.core.clock import OFFSET_US, SystemClock, ticks
from nekkar.core.quota import SECOND

if TYPE_CHECKING:
    import sqlite3

SEE_EVERY_US = 10 * SECOND

_BOOT, _TIME = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/time")
_SCHEMA = """CREATE TABLE IF NOT EXISTS nekkar_clock
    (boot TEXT PRIMARY KEY, offset_us INTEGER NOT NULL, seen_us INTEGER NOT NULL) WITHOUT ROWID"""
_FIND = "SELECT offset_us FROM nekkar_clock WHERE boot = ?"
_NEWEST = """SELECT max(seen_us) FROM nekkar_clock
    WHERE EXISTS (SELECT 1 FROM nekkar WHERE dies_at BETWEEN ? AND 1 << 61)"""
_BEGIN = "INSERT OR IGNORE INTO nekkar_clock VALUES (?, ?, 0)"
_SEE = "UPDATE nekkar_clock SET seen_us = max(seen_us, ?) WHERE boot = ?"


class MachineClock(SystemClock):
    """Ticks, and the offset that the file keeps. ``read_file`` opens the file, which calls ``sync``. Thread-safe."""

    def __init__(self, read_file: Callable[[], object]) -> None:
        self._read_file, self._boot = read_file, boot_name()
        self._offset_us = OFFSET_US
        self._is_synced, self._see_at = self._boot is None, 0

    def now_us(self) -> int:
        """Return the time."""
        return ticks() + self._offset_us if self._boot else super().now_us()

    def is_due(self) -> bool:
        """Whether the file's time is not known yet."""
        return not self._is_synced

    def read(self) -> None:
        """Read the file; blocks, and raises CacheError where it can't be opened."""
        self._read_file()

    def sync(self, connection: sqlite3.Connection) -> None:
        """Read the offset from the file, or set it, on a new connection."""
        if not self._boot:
            return
        connection.execute(_SCHEMA)
        while not (rows := connection.execute(_FIND, (self._boot,)).fetchall()):
            now = self.now_us()
            [[newest]] = connection.execute(_NEWEST, (now // SECOND,)).fetchall()
            connection.execute(_BEGIN, (self._boot, self._offset_us + max(0, (newest or 0) - now)))
        self._offset_us, self._is_synced = rows[0][0], True

    def is_to_be_seen(self) -> bool:
        """Whether it is time to note the time in the file, for the next boot."""
        return self._boot is not None and self.now_us() >= self._see_at

    def see(self, connection: sqlite3.Connection) -> None:
        """Note the time."""
        now = self.now_us()
        self._see_at = now + SEE_EVERY_US
        connection.execute(_SEE, (now, self._boot))


def boot_name() -> str | None:
    """Return a name for this boot and this time namespace; None if the system has none."""
    with suppress(OSError):
        namespace = os.readlink(_TIME) if _TIME.is_symlink() else ""
        return f"{_BOOT.read_text().strip()} {namespace}"
    return None
