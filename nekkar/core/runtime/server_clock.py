"""The clock of a cache's server: what a fleet on several machines goes by, however wrong its own clocks are.

Rules:

- The first reading blocks, before anything is booked; until then the machine's time is told, and nothing rests on it.
- Later readings run beside the callers, in a thread that ends with them, started where a call or a long sleep finds
  one due. Only a process that did not look for long, and so has no slots, waits for one.
- In between the machine's ticks carry the time on, by the rules of course.py.
- A reading that fails changes nothing: the ticks go on, and a cache that is away is told where it is missed.
- One reads at a time, but nobody waits long for another, whose thread may stand in a signal handler: two do no harm.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from nekkar.core.clock import SystemClock, nap, seconds_until, ticks
from nekkar.core.errors import CacheError, ConfigurationError
from nekkar.core.quota import SECOND
from nekkar.core.runtime.slew import GOOD_US, Course, Reading, begun

if TYPE_CHECKING:
    import anyio

READ_EVERY_US, RETRY_US = 30 * SECOND, 5 * SECOND
STALE_US = 120 * SECOND  # past this, drift may be half of what a margin leaves for clocks
READ_AHEAD_US = 2 * SECOND
TRIES = 4
PATIENCE_S = 2.0

log = logging.getLogger("nekkar")

TellTime = Callable[[Callable[[], int]], tuple[int, int, int] | None]


class ServerClock:
    """The clock of a cache's server: read now and then, and carried on by this machine's ticks in between.

    ``tell_time``: the cache's (``nekkar.core.cache.TellsTime``). Where the server can't tell, this is the
    machine's own clock; with ``insist``, a ConfigurationError. Thread-safe and fork-safe.
    """

    def __init__(self, tell_time: TellTime, *, insist: bool = False, tick: Callable[[], int] = ticks) -> None:
        self._tell_time, self._insist, self._tick = tell_time, insist, tick
        self._machine = SystemClock()
        self._course: Course | None = None
        self._can_tell = True
        self._next = 0
        self._reader: threading.Thread | None = None
        self._lock, self._pid = threading.RLock(), os.getpid()

    def now_us(self) -> int:
        """Return the server's time; the machine's until the first reading."""
        course = self._course
        return course.now(self._tick()) if course else self._machine.now_us()

    def is_due(self) -> bool:
        """Whether the server's clock is to be read."""
        return self._can_tell and (self._course is None or self._tick() >= self._next)

    def read(self) -> None:
        """Read the server's clock: here where its time is not known well enough, else beside its callers.

        Raises CacheError, or ConfigurationError where the server can't tell, at the first reading alone.
        """
        course = self._course
        if course and self._tick() - course.read < STALE_US:
            self._read_beside()
            return
        with self._alone():
            if self._course is None and self._can_tell:
                self._read_first()
            elif self.is_due():
                self._read_again()

    def sleep_until(self, at_us: int | None, wake: threading.Event) -> None:
        """Block this thread until ``at_us`` (None: no bound) or until ``wake`` is set."""
        while not wake.wait(self._nap(at_us)) and at_us is not None and self.now_us() < at_us:
            pass

    async def sleep_until_async(self, at_us: int | None, wake: anyio.Event) -> None:
        """Let this task wait until ``at_us`` (None: no bound) or until ``wake`` is set."""
        if at_us is None:  # thousands of tasks may stand in line: without a timer each
            await wake.wait()
            return
        while True:
            await nap(self._nap(at_us), wake)
            if wake.is_set() or self.now_us() >= at_us:
                return

    def _nap(self, at_us: int | None) -> float:
        """Return how long to sleep at once: a long sleep pauses shortly before its end, to read the clock."""
        if self._course and self.is_due():
            self._read_beside()
        now = self.now_us()
        ahead = at_us is not None and at_us - now > 2 * READ_AHEAD_US
        return seconds_until(at_us - READ_AHEAD_US if ahead and at_us else at_us, now)

    def _read_beside(self) -> None:
        """Read in a thread of its own, one at a time; two at once do no harm."""
        if not self._reader or not self._reader.is_alive():
            self._reader = threading.Thread(target=self._read_again_alone, name="nekkar clock", daemon=True)
            with suppress(RuntimeError):  # no thread can start while the interpreter ends
                self._reader.start()

    def _read_again_alone(self) -> None:
        with self._alone():
            self._read_again()

    def _read_first(self) -> None:
        reading = self._reading()
        self._next = self._tick() + READ_EVERY_US
        if reading:
            self._course = begun(reading)
        elif self._insist:
            raise ConfigurationError(
                "clock 'server': the cache's server does not tell its clock (a memcached started with -W does not);"
                " let it, or use 'auto' or 'local'"
            )
        else:
            self._can_tell = False
            log.info("the cache's server does not tell its clock: the machine's is used")

    def _read_again(self) -> None:
        self._next = self._tick() + RETRY_US
        with suppress(CacheError):  # the ticks go on; a cache that is away is told where it is missed
            if (reading := self._reading()) and self._course:
                off = self._course.off_by(reading)
                self._course = self._course.corrected(reading, self._tick())
                self._next = self._tick() + READ_EVERY_US
                if abs(off) >= SECOND:
                    log.warning("the clock of the cache's server stepped by %+.1f s: calls may start early or late"
                                " until all who share it have followed", off / SECOND)  # fmt: skip

    def _reading(self) -> Reading | None:
        """Return the best of a few readings: the first whose bracket is narrow, else the narrowest."""
        best: Reading | None = None
        for _ in range(TRIES):
            told = self._tell_time(self._tick)
            if told is None:
                break
            reading = Reading(*told)
            best = reading if best is None or reading.width < best.width else best
            if best.width <= GOOD_US:
                break
        return best

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other threads from reading, for PATIENCE_S at most; this process's, since a fork may come meanwhile."""
        if self._pid != os.getpid():
            self._lock, self._pid = threading.RLock(), os.getpid()
        lock, is_mine = self._lock, False
        try:
            is_mine = lock.acquire(timeout=PATIENCE_S)
            yield
        finally:
            if is_mine:
                lock.release()
