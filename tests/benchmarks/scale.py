"""Scale on paper: many processes on one key, by a model of swaps over the real log.

``python -m tests.benchmarks.scale``; ``--long`` adds 10,000 processes, and takes some minutes.

Each process waits for its slot, calls, and books the next: a read, and a swap that fails where another won
meanwhile; then it pauses and tries again, by the real rules (pace.py). A command takes the latency given, half
of it each way; the server takes no time, and processes have no CPU to share: what is left is the conflicts.
A process reads once as it wakes for a slot beyond the horizon, as the line does. No kills, no losses.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from itertools import count
from statistics import mean, median

from tests.support.internals import HORIZON_US, SECOND, HitLog, Pace, crowded, quota

FORGET_EVERY = 100
FAR_US, FAR_SECONDS = 10_000, 120  # from afar all who wait try on and on: the rates settle at once, and take long


@dataclass(frozen=True, slots=True)
class Outcome:
    """``commands`` per admission, share ``used``, ``fairness`` (least share / largest), µs from asking to the slot."""

    commands: float
    used: float
    fairness: float
    median_wait_us: float


class World:
    """So many processes under ``calls`` per ``period`` seconds, each command ``latency_us``."""

    def __init__(self, processes: int, latency_us: int, calls: int, period: float) -> None:
        self.terms = quota(calls, period, 0.0, None)
        self.latency_us, self.horizon_us = latency_us, max(HORIZON_US, 8 * latency_us)
        self.log, self.version, self.commands, self.now = HitLog(1).joined(self.terms, self.horizon_us), 0, 0, 0
        self.told_from = 0
        self.starts: list[int] = []
        self.waits: list[int] = []
        self.shares = [0] * processes
        self.pace = Pace()
        for _ in range(15):
            self.pace.swap_took(latency_us)
        self._order = count()
        self._due: list[tuple[int, int, Iterator[int]]] = []
        for number in range(processes):
            self._wake(random.randrange(2 * latency_us + 1000), self._process(number))

    def run(self, until_us: int) -> Outcome:
        """Run for so long, and tell of the second half: the rush of the beginning is over then."""
        self.told_from = until_us // 2
        while self._due and self.now < until_us:
            self.now, _, process = heappop(self._due)
            for sleep_us in process:
                self._wake(self.now + sleep_us, process)
                break
        starts = sorted(self.starts)
        number = self.terms.rates[0].count
        spans = [after - before for before, after in zip(starts, starts[number:], strict=False)]
        used = self.terms.rates[0].period_us / mean(spans) if spans else 0.0
        calls = max(1, len(starts))
        return Outcome(self.commands / calls, used, min(self.shares) / max(1, *self.shares), median(self.waits or [0]))

    def _wake(self, at: int, process: Iterator[int]) -> None:
        heappush(self._due, (at, next(self._order), process))

    def _process(self, number: int) -> Iterator[int]:
        half = self.latency_us // 2
        back = 0  # the way of the last answer
        while True:
            asked, conflicts = self.now, 0
            while True:
                yield int(random.uniform(0, self.pace.pause_us(self.log.crowd) >> min(conflicts, 3))) + half + back
                version = self.version
                self._command()
                yield self.latency_us
                self._command()
                if version == self.version:
                    break
                conflicts, back = conflicts + 1, half
            if version % FORGET_EVERY == 0:  # what is old changes nothing but the time that a log takes
                self.log = self.log.forget(self.now)
            back, soonest = 0, self.now + half + self.pace.lead_us(self.terms.margin_us)
            at = self.log.earliest(self.terms, 1, soonest)
            self.log = replace(self.log.book(at, 1), crowd=crowded(self.log.crowd, conflicts))
            self.version += 1
            yield max(half, at - self.now - self.horizon_us // 4)
            if at - asked > self.horizon_us:
                self._command()
            yield max(0, at - self.now)
            self._admitted(number, at, at - asked)

    def _command(self) -> None:
        self.commands += self.now >= self.told_from

    def _admitted(self, number: int, at: int, waited: int) -> None:
        if at >= self.told_from:
            self.starts.append(at)
            self.waits.append(waited)
            self.shares[number] += 1


def main() -> None:
    """Print a row for each number of processes, in a data centre (0.5 ms a command) and across regions (80 ms)."""
    random.seed(1)
    calls, period = 100, 2.0
    print(f"{calls} per {period:g} s, one key")
    for latency_us in (500, 80_000):
        for processes in (10, 100, 1_000, 10_000) if "--long" in sys.argv else (10, 100, 1_000):
            seconds = max(30, 6 * processes * period / calls)
            seconds = min(seconds, FAR_SECONDS) if latency_us > FAR_US else seconds
            told = World(processes, latency_us, calls, period).run(round(seconds * SECOND))
            print(
                f"{latency_us / 1000:g} ms, {processes:,} processes: {told.commands:.2f} commands per admission,"
                f" {told.used:.3f} used, fairness {told.fairness:.2f}, {told.median_wait_us / 1e6:.2f} s to admission",
                flush=True,
            )


if __name__ == "__main__":
    main()
