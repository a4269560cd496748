"""Rejections: what a limit's log remembers of the 429s of its service, and the margin that they teach.

Rules:

- A refusal is heard by many at once. A call that was let go before the pause that the last refusal brought
  tells nothing new; nor does one let go within a period of the last widening ask for a wider margin still.
- Where the service does not say how long to wait, the pause is a period, and twice as long as the one before
  for a refusal in the first period after it.
- A refusal of a call that the log shows within the limit means that the service counts otherwise: jitter, a
  window of its own. Then the margin doubles, up to a quarter of the period, and in an hour without refusals
  it goes back. Only where a wider margin would have held the call back: else the service counts somebody else.

Pure, as the log is: times are integer microseconds, and every function returns a new value.
"""

from __future__ import annotations

from dataclasses import dataclass

from nekkar.core.quota import SECOND

EASES_US = 3600 * SECOND
MARGIN_PART = 4
MOST_DOUBLINGS = 40


@dataclass(frozen=True, slots=True, order=True)
class Rejections:
    """``at``: when the newest that told something was heard (0: none ever). ``row``: how many came before it in a row.

    ``margin_us``: the margin learned, as it was then; ``widened_at``: when it last doubled.
    """

    at: int = 0
    row: int = 0
    margin_us: int = 0
    widened_at: int = 0

    def margin(self, now: int) -> int:
        """Return what is left of the learned margin: all of it at once, nothing after an hour."""
        left = min(EASES_US, EASES_US - (now - self.at))
        return self.margin_us * left // EASES_US if left > 0 else 0

    def add(self, sent_at: int, held_until: int, period_us: int, now: int) -> Rejections:
        """Count a refusal, heard now: of a call let go at ``sent_at``, after a pause up to ``held_until``."""
        row = min(self.row + 1, MOST_DOUBLINGS) if self.at and sent_at < held_until + period_us else 0
        return Rejections(now, row, self.margin(now), self.widened_at)

    def widen_margin(self, margin_us: int, sent_at: int, period_us: int) -> Rejections:
        """Double the margin in use, for a call that came too soon with it; not twice within a period."""
        most = period_us // MARGIN_PART
        if margin_us >= most or sent_at < self.widened_at + period_us:
            return self
        return Rejections(self.at, self.row, min(2 * margin_us, most), self.at)

    def pause(self, period_us: int) -> int:
        """Return how long to pause where the service does not say."""
        return period_us << self.row


NONE = Rejections()
