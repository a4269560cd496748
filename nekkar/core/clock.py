"""Time, as the rest of nekkar sees it: a small protocol, passed in.

Only this file reads the machine's clocks. Times are integer microseconds since the Unix epoch. A
sleep ends at its instant or when its event is set, whichever comes first; either may be a little
early or late, so a caller looks at the clock again.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import anyio

LONGEST_SLEEP_S = 3600.0


class Clock(Protocol):
    """What tells a limiter the time and lets it wait; shared by all its limits, thread-safe."""

    def now_us(self) -> int:
        """Return the time now."""

    def sleep_until(self, at_us: int | None, wake: threading.Event) -> None:
        """Block this thread until ``at_us`` (None: no bound) or until ``wake`` is set."""

    async def sleep_until_async(self, at_us: int | None, wake: anyio.Event) -> None:
        """Let this task wait until ``at_us`` (None: no bound) or until ``wake`` is set."""


class SystemClock:
    """The machine's own clock."""

    def now_us(self) -> int:
        """Return the machine's wall-clock time."""
        return time.time_ns() // 1000

    def sleep_until(self, at_us: int | None, wake: threading.Event) -> None:
        """Block this thread until ``at_us`` (None: no bound) or until ``wake`` is set."""
        wake.wait(self._seconds_until(at_us))

    async def sleep_until_async(self, at_us: int | None, wake: anyio.Event) -> None:
        """Let this task wait until ``at_us`` (None: no bound) or until ``wake`` is set."""
        import anyio

        with anyio.move_on_after(self._seconds_until(at_us)):
            await wake.wait()

    def _seconds_until(self, at_us: int | None) -> float:
        if at_us is None:
            return LONGEST_SLEEP_S
        return min(max(at_us - self.now_us(), 0) / 1e6, LONGEST_SLEEP_S)


def monotonic() -> float:
    """Return seconds of a clock that never steps, for ages within one process."""
    return time.monotonic()
