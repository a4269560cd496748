"""The clock of a cache's server: a fleet on several machines uses it, so its own clocks may be wrong.

Rules:

- The first reading blocks, before anything is booked. Until then only calls during an outage use a time, the
  machine's. The first reading then sets the clock, and those calls notice by ``ClockWatch``.
- Later readings do not block callers: a call or a long sleep that finds one due starts a thread for it. Only a process
  that was idle for long, and so has no slots, waits for the reading.
- Between readings the time advances by the machine's ticks, by the rules of slew.py.
- A reading that fails changes nothing: the ticks go on, and the next cache command reports that the cache is away.
- A server that does not tell its time now may do so later: it was starved, or is restarted with other options. So it is
  asked again, as often as any other. Meanwhile the machine's time is used.
- While the server is away, another one may tell the time (``elsewhere``). Only a process that does not know the time
  well enough asks that one. All others go on with the first server's time, by their ticks.
- One thread reads at a time, but no thread waits long for another, which may be inside a signal handler. Two readings
  at once do no harm.
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
from nekkar.core.runtime.slew import GOOD_US, Reading, SlewedTime, set_by

if TYPE_CHECKING:
    import anyio

READ_EVERY_US, RETRY_US = 30 * SECOND, 5 * SECOND
STALE_US = 120 * SECOND  # past this, drift may be half of what a margin leaves for clocks
ELSEWHERE_US = STALE_US // 2  # sooner than STALE_US, so that no call waits for it
READ_AHEAD_US = 2 * SECOND
TRIES, SILENT_TRIES = 4, 2
ALIKE_PART = 4  # two readings are alike if their widths differ by no more than this part of the narrower
PATIENCE_S = 2.0

log = logging.getLogger("nekkar")

TellTime = Callable[[Callable[[], int]], tuple[int, int, int] | None]


class ServerClock:
    """The clock of a cache's server: read now and then, advanced by this machine's ticks in between.

    ``tell_time``: the method of the cache (``nekkar.core.cache.TellsTime``). If the server does not tell its time, this
    is the machine's own clock, or, with ``insist``, a ConfigurationError. ``elsewhere``: the method to call while
    ``tell_time`` raises CacheError. Thread-safe and fork-safe.
    """

    def __init__(
        self,
        tell_time: TellTime,
        *,
        elsewhere: TellTime | None = None,
        insist: bool = False,
        tick: Callable[[], int] = ticks,
    ) -> None:
        self._tell_time, self._elsewhere, self._insist, self._tick = tell_time, elsewhere, insist, tick
        self.steady_us = tick
        self._machine = SystemClock()
        self._slewed: SlewedTime | None = None
        self.round_trip_us: int | None = None
        self._can_tell = True  # as far as the newest answer shows
        self._is_elsewhere = False  # said once
        self._next = 0
        self._reader: threading.Thread | None = None
        self._lock, self._pid = threading.RLock(), os.getpid()

    def now_us(self) -> int:
        """Return the server's time; the machine's until the first reading."""
        slewed = self._slewed
        return slewed.now(self._tick()) if slewed else self._machine.now_us()

    def is_due(self) -> bool:
        """Whether the server's clock is to be read."""
        return (self._slewed is None and self._can_tell) or self._tick() >= self._next

    def read(self) -> None:
        """Read the server's clock: blocking if its time is not known well enough, else in another thread.

        Only the first reading raises: CacheError, or ConfigurationError if the server does not tell its time.
        """
        slewed = self._slewed
        if not self._is_stale(slewed) if slewed else not self._can_tell:
            self._read_beside()
            return
        with self._alone():
            if self._slewed is None:
                self._read_first()
            elif self.is_due():
                self._read_again()

    def sleep_until(self, at_us: int | None, wake: threading.Event) -> None:
        """Block this thread until ``at_us`` (None: no bound) or until ``wake`` is set."""
        end = self._end(at_us)
        while not wake.wait(self._nap(at_us)) and at_us is not None and self._is_asleep(at_us, end):
            pass

    async def sleep_until_async(self, at_us: int | None, wake: anyio.Event) -> None:
        """Let this task wait until ``at_us`` (None: no bound) or until ``wake`` is set."""
        if at_us is None:  # thousands of tasks may stand in line: without a timer each
            await wake.wait()
            return
        end = self._end(at_us)
        while True:
            await nap(self._nap(at_us), wake)
            if wake.is_set() or not self._is_asleep(at_us, end):
                return

    def _end(self, at_us: int | None) -> int:
        """Return the tick at which a sleep ends even if the clock is set meanwhile; its caller then looks again."""
        return 0 if at_us is None else self._tick() + at_us - self.now_us()

    def _is_asleep(self, at_us: int, end: int) -> bool:
        return self.now_us() < at_us and self._tick() < end

    def _is_stale(self, slewed: SlewedTime) -> bool:
        return self._tick() - slewed.read >= STALE_US

    def _nap(self, at_us: int | None) -> float:
        """Return how many seconds to sleep now: a long sleep stops shortly before its end, to read the clock."""
        if self._slewed and self.is_due():
            self._read_beside()
        now = self.now_us()
        ahead = at_us is not None and at_us - now > 2 * READ_AHEAD_US
        return seconds_until(at_us - READ_AHEAD_US if ahead and at_us else at_us, now)

    def _read_beside(self) -> None:
        """Read in a thread of its own, unless one is reading; two at once do no harm."""
        if not self._reader or not self._reader.is_alive():
            self._reader = threading.Thread(target=self._read_again_alone, name="nekkar clock", daemon=True)
            with suppress(RuntimeError):  # no thread can start while the interpreter ends
                self._reader.start()

    def _read_again_alone(self) -> None:
        with self._alone():
            self._read_again()

    def _read_first(self) -> None:
        reading = self._reading()
        if reading:
            self._slewed = set_by(reading, self._machine.now_us() - self._tick() + reading.middle)
        elif self._insist:
            raise ConfigurationError(
                "clock 'server': the cache's server does not tell its clock (a memcached started with -W does not);"
                " let it, or use 'auto' or 'local'"
            )
        elif self._can_tell:
            log.info("the cache's server does not tell its clock: the machine's is used until it does")
        self._can_tell = reading is not None
        self._next = self._tick() + READ_EVERY_US

    def _read_again(self) -> None:
        self._next = self._tick() + RETRY_US
        with suppress(CacheError):  # the ticks go on; the next cache command reports a cache that is away
            if self._slewed is None:
                self._read_first()
            elif reading := self._reading():
                off = self._slewed.off_by(reading)
                self._slewed = self._slewed.corrected(reading, self._tick())
                self._next = self._tick() + READ_EVERY_US
                if abs(off) >= SECOND:
                    log.warning("the clock of the cache's server stepped by %+.1f s: calls may start early or late"
                                " until all who share it have followed", off / SECOND)  # fmt: skip

    def _reading(self) -> Reading | None:
        """Return the best of a few readings: the first narrow one, else the narrower of two alike, else the narrowest.

        Two alike are as wide as the way is long: a third would be no narrower. None if the server did not tell its time
        when asked twice: a starved server shows its log late.
        """
        best: Reading | None = None
        silent = 0
        for _ in range(TRIES):
            bracket = self._bracket()
            if bracket is None:
                silent += 1
                if best or silent == SILENT_TRIES:
                    break
                continue
            reading, before = Reading(*bracket), best
            best = reading if best is None or reading.width < best.width else best
            if best.width <= GOOD_US or (before and abs(reading.width - before.width) <= best.width // ALIKE_PART):
                break
        if best:
            self.round_trip_us = best.width
        return best

    def _bracket(self) -> tuple[int, int, int] | None:
        try:
            return self._tell_time(self._tick)
        except CacheError as away:
            slewed = self._slewed
            if self._elsewhere is None or (slewed and self._tick() - slewed.read < ELSEWHERE_US):
                raise
            try:
                bracket = self._elsewhere(self._tick)
            except CacheError:
                raise away from None
            if not self._is_elsewhere:
                self._is_elsewhere = True
                log.warning("the server that tells the time is away: another one's clock is used; keep the servers'"
                            " clocks together (NTP), or calls may start early or late: %s", away)  # fmt: skip
            return bracket

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other threads of this process from reading, for PATIENCE_S at most; a forked child has its own lock."""
        if self._pid != os.getpid():
            self._lock, self._pid = threading.RLock(), os.getpid()
        lock, is_mine = self._lock, False
        try:
            is_mine = lock.acquire(timeout=PATIENCE_S)
            yield
        finally:
            if is_mine:
                lock.release()
