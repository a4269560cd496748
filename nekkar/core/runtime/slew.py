"""A course: the time between two readings of another machine's clock.

Between readings the ticks of this machine carry it on (``ticks``: µs that never step). Rules:

- A reading is (before, there, after): the other clock, between two ticks. It counts as its middle. A
  reading that is wider than an earlier one only bounds the time: what its own width explains is ignored.
- Time never steps back. A course that is ahead runs at half speed until it agrees, so a backward step of the other
  clock lets no call start early.
- A course that is behind catches up at once as far as drift explains it, then at one part in 1,000, a fifth of what a
  margin of 1/200 allows. Behind by a second or more, it jumps: two clocks in one fleet do more harm.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from nekkar.core.quota import SECOND

GOOD_US = SECOND // 250
DRIFT = 10_000  # a quartz gains or loses less than one part in this many
HASTE = 1_000


@dataclass(frozen=True, slots=True)
class Reading:
    """The other clock said ``there`` between the ticks ``before`` and ``after``."""

    before: int
    there: int
    after: int

    @property
    def width(self) -> int:
        """How far apart the bracket's ends are: the time is known to half of it."""
        return self.after - self.before

    @property
    def middle(self) -> int:
        """The tick that the reading is taken for."""
        return (self.before + self.after) // 2


@dataclass(frozen=True, slots=True)
class Course:
    """The time was ``at`` at the tick ``since``; ``behind`` µs (negative: ahead) are corrected little by little.

    ``read``: the tick of the newest reading. ``width``: that of the reading on which the course stands.
    """

    since: int
    at: int
    behind: int
    read: int
    width: int

    def now(self, tick: int) -> int:
        """Return the time at a tick; never less than at a tick before."""
        passed = tick - self.since
        if not self.behind:
            return self.at + passed
        made_up = min(self.behind, passed // HASTE) if self.behind > 0 else max(self.behind, -passed // 2)
        return self.at + passed + made_up

    def off_by(self, reading: Reading) -> int:
        """Return how far a reading shows this course behind (ahead: negative), in µs."""
        off = reading.there - self.now(reading.middle)
        slack = 0 if reading.width <= max(GOOD_US, 2 * self.width) else reading.width // 2
        return max(0, off - slack) if off > 0 else min(0, off + slack)

    def corrected(self, reading: Reading, tick: int) -> Course:
        """Return the course to follow from ``tick`` on, after a reading."""
        off = self.off_by(reading)
        if not off:
            return replace(self, read=reading.middle)
        at_once = off if off >= SECOND else max(0, min(off, (reading.middle - self.read) // DRIFT))
        return Course(tick, self.now(tick) + at_once, off - at_once, reading.middle, reading.width)


def begun(reading: Reading) -> Course:
    """Return the course that a first reading sets."""
    return Course(reading.middle, reading.there, 0, reading.middle, reading.width)
