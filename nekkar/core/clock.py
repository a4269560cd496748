"""Time, as the rest of nekkar sees it: a small protocol, passed in.

Only this file reads the machine's clocks. Times are integer microseconds since the Unix epoch. A
sleep ends at its instant or when its event is set, whichever comes first; either may be a little
early or late, so a caller looks at the clock again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import anyio

__all__ = ["Clock", "ReadClock", "SystemClock"]

LONGEST_SLEEP_S = 3600.0


class Clock(Protocol):
    """What tells a limiter the time and lets it wait; shared by all its limits, thread-safe."""

    def now_us(self) -> int:
        """Return the time now, in microseconds since the Unix epoch."""

    def sleep_until(self, at_us: int | None, wake: threading.Event) -> None:
        """Block this thread until ``at_us`` (None: no bound) or until ``wake`` is set."""

    async def sleep_until_async(self, at_us: int | None, wake: anyio.Event) -> None:
        """Let this task wait until ``at_us`` (None: no bound) or until ``wake`` is set."""


@runtime_checkable
class ReadClock(Protocol):
    """A clock that has to be read elsewhere now and then; a limiter does so where it is due, before it books."""

    def is_due(self) -> bool:
        """Return at once whether it is to be read."""

    def read(self) -> None:
        """Read it; blocks where its time is not known yet, and raises CacheError where it can't be."""


class Unset(threading.Event):
    """An event that nobody sets: to wait for it is to sleep, which takes half the work."""

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep; return False."""
        time.sleep(LONGEST_SLEEP_S if timeout is None else timeout)
        return False


UNSET = Unset()


class SystemClock:
    """The machine's own clock."""

    def now_us(self) -> int:
        """Return the machine's wall-clock time."""
        return time.time_ns() // 1000

    def sleep_until(self, at_us: int | None, wake: threading.Event) -> None:
        """Block this thread until ``at_us`` (None: no bound) or until ``wake`` is set."""
        wake.wait(seconds_until(at_us, self.now_us()))

    async def sleep_until_async(self, at_us: int | None, wake: anyio.Event) -> None:
        """Let this task wait until ``at_us`` (None: no bound) or until ``wake`` is set."""
        if at_us is None:  # thousands of tasks may stand in line: without a timer each
            await wake.wait()
            return
        await nap(seconds_until(at_us, self.now_us()), wake)


def nap(seconds: float, wake: anyio.Event) -> Awaitable[None]:
    """Let this task wait until ``wake`` is set, so long at most."""
    within: Callable[[float], Awaitable[None]] | None = getattr(wake, "within", None)  # asyncio's own: loop_asyncio.py
    return within(seconds) if within else _nap(seconds, wake)


async def _nap(seconds: float, wake: anyio.Event) -> None:
    import anyio

    with anyio.move_on_after(seconds):
        await wake.wait()


monotonic = time.monotonic  # seconds of a clock that never steps, for ages within one process


def ticks() -> int:
    """Return µs of a clock that never steps, and that runs on while the machine is suspended where it has one."""
    return time.clock_gettime_ns(_TICKING) // 1000 if _TICKING is not None else time.monotonic_ns() // 1000


_TICKING: int | None = getattr(time, "CLOCK_BOOTTIME", None)


def seconds_until(at_us: int | None, now_us: int) -> float:
    """Return how long to sleep until ``at_us``; an hour at most."""
    if at_us is None:
        return LONGEST_SLEEP_S
    return min(max(at_us - now_us, 0) / 1e6, LONGEST_SLEEP_S)
