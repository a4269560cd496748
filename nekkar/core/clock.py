"""Time, as the rest of nekkar sees it: a small protocol, passed in.

Only this file reads the machine's clocks. Times are integer microseconds since the Unix epoch. A
sleep ends at its instant or when its event is set, whichever comes first; either may be a little
early or late, so a caller looks at the clock again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from itertools import chain, repeat
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    import anyio

__all__ = ["Clock", "ReadClock", "SystemClock"]

LONGEST_SLEEP_S = 3600.0
STEP_US, CLOSE_US = 1_000_000, 1000


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
    """A clock that has to be read elsewhere now and then; a limiter does so where it is due, before it books.

    It may tell how long a question to it lately took: ``round_trip_us``, None where that is not known.
    """

    def is_due(self) -> bool:
        """Return at once whether it is to be read."""

    def read(self) -> None:
        """Read it; blocks where its time is not known yet, and raises CacheError where it can't be."""


class Unset(threading.Event):
    """An event that is never set: a wait for it is a sleep, at half of the cost."""

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep; return False."""
        time.sleep(LONGEST_SLEEP_S if timeout is None else timeout)
        return False


UNSET = Unset()


class SystemClock:
    """The machine's own clock. It steps where somebody, or NTP, sets it."""

    def now_us(self) -> int:
        """Return the machine's wall-clock time."""
        return time.time_ns() // 1000

    @staticmethod
    def steady_us() -> int:
        """Return µs of a clock that never steps; only differences of it mean anything."""
        return _ticks_ns() // 1000

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
    """Let this task wait until ``wake`` is set, at most for a number of seconds."""
    within: Callable[[float], Awaitable[None]] | None = getattr(wake, "within", None)  # asyncio's own: loop_asyncio.py
    return within(seconds) if within else _nap(seconds, wake)


async def _nap(seconds: float, wake: anyio.Event) -> None:
    import anyio

    with anyio.move_on_after(seconds):
        await wake.wait()


monotonic = time.monotonic  # seconds of a clock that never steps, for ages within one process


def ticks() -> int:
    """Return µs of a clock that never steps, and that runs on while the machine is suspended where it has one."""
    return _ticks_ns() // 1000


_ticks_ns: Callable[[], int] = time.monotonic_ns
if hasattr(time, "CLOCK_BOOTTIME"):
    _ticks_ns = partial(time.clock_gettime_ns, time.CLOCK_BOOTTIME)


def wall_offset_us() -> int:
    """Return how far the machine's wall clock is ahead of its ticks; this changes only where that clock is set."""
    return time.time_ns() // 1000 - ticks()


OFFSET_US = wall_offset_us()  # one for all caches and limiters of this process, and for the children that it forks


class SteadyClock(SystemClock):
    """The wall-clock time as of this process's start, carried on by ticks: no step of the wall clock moves it."""

    def now_us(self) -> int:
        """Return the time; never less than before."""
        return _ticks_ns() // 1000 + OFFSET_US


def steady_us(clock: Clock) -> Callable[[], int]:
    """Return the time of ``clock`` that never steps: for how long to wait; its own where it has no other."""
    return getattr(clock, "steady_us", clock.now_us)


class _Seen(NamedTuple):
    """What a look at a clock found: its offset from the steady one; None for a clock that is not looked at.

    ``moved_us``: by how much it was set in all. ``untold``: who is still to be told, and of how much; one iterator
    for all threads. ``following``: what was seen next, once something was.
    """

    offset_us: int | None
    moved_us: int
    untold: Iterator[tuple[Callable[[int], None], int]]
    following: dict[str, _Seen]


class ClockWatch:
    """Notices where a clock was set: its time has moved, by a second or more, against one that never steps.

    A clock without ``steady_us`` is never looked at: it is a test's, or a user's. Nor is one that never steps.
    ``moved``: each is called with the µs that it was set by, at most once.

    Safe between threads, without a lock, so that a signal handler may come between. What was seen is one tuple, and
    leads to what is seen next by one ``setdefault``: of two that notice a step, one counts it. A handler that raises
    ends that look alone. The next look tells those in ``moved`` whose turn had not come; one that was just to be called
    is not told.
    """

    def __init__(self, clock: Clock, *moved: Callable[[int], None]) -> None:
        self._now, self._steady, self._moved = clock.now_us, steady_us(clock), moved
        may_step = hasattr(clock, "steady_us") and type(clock) is not SteadyClock
        offset = clock.now_us() - self._steady() if may_step else None
        self._seen = _Seen(offset, 0, iter(()), {})

    def keep(self) -> int:
        """Look at the clock; return by how much it was set in all so far, a step back counting less than 0.

        What it gains or loses bit by bit is followed, and counts for nothing.
        """
        offset, moved_us, untold, following = self._seen
        if offset is None:
            return 0
        nearest = self._now() - self._steady()
        if abs(nearest - offset) > CLOSE_US:  # the thread may have stood still in between
            before, now, after = self._steady(), self._now(), self._steady()
            nearest = min(max(offset, now - after), now - before)
            if nearest != offset:
                by = nearest - offset
                if abs(by) >= STEP_US:
                    moved_us, untold = moved_us + by, chain(untold, zip(self._moved, repeat(by)))
                self._seen = following.setdefault("seen", _Seen(nearest, moved_us, untold, {}))
                _, moved_us, untold, _ = self._seen
        for follow, by in untold:
            follow(by)
        return moved_us


def seconds_until(at_us: int | None, now_us: int) -> float:
    """Return how long to sleep until ``at_us``; an hour at most."""
    if at_us is None:
        return LONGEST_SLEEP_S
    return min(max(at_us - now_us, 0) / 1e6, LONGEST_SLEEP_S)
