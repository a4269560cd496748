"""Rejections: what a limit's log remembers of the 429s of its service, and the margin that they teach.

Rules:

- One overrun makes the service reject many calls. A 429 for a call that started before the pause of the previous 429
  is ignored. The margin widens at most once per period.
- Where the service does not say how long to wait, the pause is one period. It doubles with each further 429 in a row,
  up to a minute, or one period if that is longer.
- A success ends the row. One call of the burst after a pause may be rejected before the others are answered. So a
  success of the same burst as the newest 429 ends the row too.
- A 429 for a call that the log shows within the limit means that the service counts differently: by jitter, or by a
  window of its own. Then the margin doubles, up to a quarter of the period, and goes back over an hour without
  a 429. It stays as it is where a wider margin would not have held the call back: then other clients used the quota.

Pure, as the log is: times are integer microseconds, and every function returns a new value.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from nekkar.core.quota import SECOND

EASES_US = 3600 * SECOND
MARGIN_PART = 4
MOST_DOUBLINGS = 40
LONGEST_UNASKED_US = 60 * SECOND


@dataclass(frozen=True, slots=True, order=True)
class Rejections:
    """What the 429s of a service taught. ``at``: the slot of the newest rejected call that was not ignored (0: never).

    ``row``: how many 429s that named no wait came in a row since the last success. ``margin_us``: the learned margin
    when it last doubled, at ``widened_at``.
    """

    at: int = 0
    row: int = 0
    margin_us: int = 0
    widened_at: int = 0

    def margin(self, now: int) -> int:
        """Return what is left of the learned margin: all of it at once, nothing after an hour."""
        left = min(EASES_US, EASES_US - (now - self.at))
        return self.margin_us * left // EASES_US if left > 0 else 0

    def add(self, sent_at: int, now: int) -> Rejections:
        """Count a 429, received now, for a call that started at ``sent_at``."""
        return Rejections(sent_at, self.row, self.margin(now), self.widened_at)

    def widen_margin(self, margin_us: int, sent_at: int, period_us: int, now: int) -> Rejections:
        """Double the margin in use, after a 429 for a call that kept it; not twice within a period."""
        most = period_us // MARGIN_PART
        if margin_us >= most or sent_at < self.widened_at + period_us:
            return self
        return Rejections(self.at, self.row, min(2 * margin_us, most), now)

    def lengthened(self, held_until: int, period_us: int) -> Rejections:
        """Count the newest 429 into the row: the service did not say how long to wait.

        ``held_until``: the end of the pause before it. If it comes more than a period after that, it begins a new row.
        """
        row = min(self.row + 1, MOST_DOUBLINGS) if self.at < held_until + period_us else 1
        return replace(self, row=row)

    def ended(self, sent_at: int, period_us: int) -> Rejections:
        """End the row, for a success of a call that started at ``sent_at``; a call from before the row changes nothing.

        A pause of a period or more, in which no call started, comes before the newest rejected call. So a call that
        started at most half a period before that one started after the pause too.
        """
        return self if not self.row or sent_at < self.at - period_us // 2 else replace(self, row=0)

    def pause(self, period_us: int) -> int:
        """Return how long to pause where the service does not say."""
        return min(period_us << max(0, self.row - 1), max(period_us, LONGEST_UNASKED_US))


NONE = Rejections()
