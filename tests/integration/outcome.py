"""What came of a run: figures over all recorded starts, and which promises they break.

Never over is exact, and has no slack. All else is bounded in time or in capacity, and a machine that is busy
with other things withholds both: bounds in time grow by what the stage itself was woken late, for each of
the three wakes between a fault and a call (a caller's, the server's, the caller's again); capacity is compared
with a calm run of the same machine.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from tests.integration.fleet import Call, longest_silence
from tests.support.checks import worst_window
from tests.support.internals.core import Rate

WAKES = 3
FULL = 0.9
MARGIN_US = 50_000


@dataclass(frozen=True, slots=True)
class Expect:
    """What a fault may cost. Never over is expected of all.

    ``used``: the least part of a calm run's calls. ``silence``: the longest that nobody calls, in seconds.
    ``starved``: the longest that one worker does not, of those to whom nothing is done. ``recovery``: until full
    speed again after the cache is back, or a call of the worker that is, in seconds. ``lost``: slots booked in vain
    for each worker killed. ``late``: seconds from a slot to its start. ``share``: the most calls of one process in a
    window while the cache is away. ``spared``: the least part of all calls on spare slots. ``growth``: KiB of
    memory, and open files, by which a worker may grow.
    """

    used: float = 0.0
    silence: float | None = None
    starved: float | None = None
    recovery: float | None = None
    lost: float | None = None
    late: float | None = None
    share: int | None = None
    spared: float = 0.0
    growth: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The figures of one run.

    ``used``: calls in part of the most that the limit allows. ``lost``: slots booked that no call started on,
    where that is known. ``late``: the latest start after its slot, in seconds. ``failed``: workers that ended by
    themselves before the end. ``undone``: deeds that were to be done and were not. ``endpoint``: the worst window of
    calls under a second limit, and its limit. All else is as in ``Expect``.
    """

    seed: int
    limit: int
    calls: int
    worst: int
    used: float
    silence: float
    starved: float
    recovery: float | None
    kills: int
    lost: int | None
    share: int
    late: float
    spared: float
    stall: float
    growth: tuple[int, int]
    undone: int
    failed: tuple[str, ...]
    endpoint: tuple[int, int] | None = None

    @property
    def is_over(self) -> bool:
        """Whether one of the limits was exceeded."""
        return self.worst > self.limit or bool(self.endpoint and self.endpoint[0] > self.endpoint[1])

    def broken(self, expect: Expect, calm: float) -> list[str]:
        """Say which expectations were not met; ``calm``: what a calm run used."""
        slack = WAKES * self.stall
        found = [*self.failed, *([f"{self.worst} in a window, limit {self.limit}"] if self.worst > self.limit else [])]
        if self.endpoint and self.endpoint[0] > self.endpoint[1]:
            found.append(f"{self.endpoint[0]} in a window of the endpoint, limit {self.endpoint[1]}")
        found += [f"{self.undone} deeds were left undone"] if self.undone else []
        for what in ("silence", "starved", "recovery", "late"):
            took, most = getattr(self, what), getattr(expect, what)
            if most is not None and (took is None or took > most + slack):
                found.append(f"{what} for {took} s, expected {most} s and {slack:.2f} s for a busy machine")
        if self.used < expect.used * calm:
            found.append(f"used {self.used:.1%}, expected {expect.used:.0%} of a calm run's {calm:.1%}")
        if expect.lost is not None and self.lost is not None and self.lost > expect.lost * max(1, self.kills):
            found.append(f"{self.lost} slots lost to {self.kills} kills, expected {expect.lost:g} each")
        if expect.share is not None and self.share > expect.share:
            found.append(f"{self.share} calls of one process in a window while the cache was away")
        if self.spared < expect.spared:
            found.append(f"only {self.spared:.1%} of the calls were on spare slots: nothing was tried")
        if expect.growth and any(grew > most for grew, most in zip(self.growth, expect.growth, strict=True)):
            found.append(f"a worker grew by {self.growth[0]} KiB and {self.growth[1]} open files")
        return found


def recovery(starts: Sequence[int], back: int, rate: Rate) -> float | None:
    """Return the seconds from ``back`` to the first call of a window that is full but for a tenth; None: never."""
    first = bisect_left(starts, back)
    reach, span = int(FULL * rate.count) - 1, rate.period_us + MARGIN_US
    for start, later in zip(starts[first:], starts[first + reach :], strict=False):
        if later - start < span:
            return (start - back) / 1e6
    return None


def return_of(own: Sequence[int], back: int) -> float | None:
    """Return the seconds from ``back`` to a worker's next call."""
    place = bisect_left(own, back)
    return (own[place] - back) / 1e6 if place < len(own) else None


def most_while_away(each: Sequence[Sequence[int]], spans: Sequence[tuple[int, int]], period_us: int) -> int:
    """Return the most calls of one process in a window while the cache was away."""
    inside = [[at for at in own if start <= at < end] for own in each for start, end in spans]
    return max((worst_window(own, period_us) for own in inside), default=0)


def used(starts: Sequence[int], rate: Rate, seconds: float) -> float:
    """Return the calls in ``seconds`` from the first in part of the most: a full window each period and margin."""
    if not starts:
        return 0.0
    windows = seconds * 1e6 / (rate.period_us + MARGIN_US)
    return bisect_left(starts, starts[0] + round(seconds * 1e6)) / (rate.count * windows)


def spared(calls: Sequence[Sequence[Call]]) -> float:
    """Return the part of all calls that were on spare slots."""
    count = sum(map(len, calls))
    return sum(call.spare for call in chain.from_iterable(calls)) / count if count else 0.0


def silence(starts: list[int], begin: float, seconds: float) -> float:
    """Return the longest time, in seconds, in which nobody called, from the first call to the end."""
    first = max(begin, starts[0] / 1e6) if starts else begin
    return longest_silence(starts, first, begin + seconds)
