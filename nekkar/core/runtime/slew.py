"""The time of another machine's clock, between two readings of it: the offset is slewed, as NTP does.

Between readings the time advances by the ticks of this machine (``ticks``: µs that never step). Rules:

- A reading is (before, there, after): what the other clock said between two ticks. It counts as taken in the middle. A
  reading wider than an earlier one only bounds the time: an offset within its own width is ignored. So does a first
  reading over 4 ms wide: this machine's time is kept where the reading does not show it to be wrong.
- Time never steps back. If it is ahead, it runs at half speed until it agrees. So when the other clock steps back, no
  call starts early.
- If it is behind, it catches up at once by as much as drift explains, and by the rest at one part in 1,000: a fifth of
  what a margin of 1/200 allows. If it is behind by a second or more it jumps: two times in one fleet do more harm.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from nekkar.core.quota import SECOND

GOOD_US = SECOND // 250
DRIFT = 10_000  # a quartz clock gains or loses less than one part in 10,000
SLEW_PARTS = 1_000


@dataclass(frozen=True, slots=True)
class Reading:
    """The other clock said ``there`` between the ticks ``before`` and ``after``."""

    before: int
    there: int
    after: int

    @property
    def width(self) -> int:
        """The ticks between before and after; the time is known to half of it."""
        return self.after - self.before

    @property
    def middle(self) -> int:
        """The tick at which the reading counts as taken."""
        return (self.before + self.after) // 2


@dataclass(frozen=True, slots=True)
class SlewedTime:
    """The time was ``at`` at the tick ``since``; since then ``behind`` µs (negative: ahead) are being made up.

    ``read``: the tick of the newest reading. ``width``: the width of the reading that set this time.
    """

    since: int
    at: int
    behind: int
    read: int
    width: int

    def now(self, tick: int) -> int:
        """Return the time at a tick; never less than at an earlier tick."""
        passed = tick - self.since
        if not self.behind:
            return self.at + passed
        made_up = min(self.behind, passed // SLEW_PARTS) if self.behind > 0 else max(self.behind, -passed // 2)
        return self.at + passed + made_up

    def off_by(self, reading: Reading) -> int:
        """Return by how many µs a reading shows this time to be behind (negative: ahead)."""
        off = reading.there - self.now(reading.middle)
        slack = 0 if reading.width <= max(GOOD_US, 2 * self.width) else reading.width // 2
        return max(0, off - slack) if off > 0 else min(0, off + slack)

    def corrected(self, reading: Reading, tick: int) -> SlewedTime:
        """Return the time to follow from ``tick`` on, after a reading."""
        off = self.off_by(reading)
        if not off:
            return replace(self, read=reading.middle)
        at_once = off if off >= SECOND else max(0, min(off, (reading.middle - self.read) // DRIFT))
        return SlewedTime(tick, self.now(tick) + at_once, off - at_once, reading.middle, reading.width)


def set_by(reading: Reading, here: int) -> SlewedTime:
    """Return the time that the first reading sets; ``here``: this machine's own time at its middle.

    A wide reading may be as wrong as it is wide: the way to a far cache and back need not take the same time. So where
    it does not show this machine's time to be wrong, that is kept, and wide readings only bound it.
    """
    if reading.width > GOOD_US and abs(reading.there - here) <= reading.width // 2:
        return SlewedTime(reading.middle, here, 0, reading.middle, 0)
    return SlewedTime(reading.middle, reading.there, 0, reading.middle, reading.width)
