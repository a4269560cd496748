"""Rates that a service reported in its headers, lower than the user's own, kept beside those for a while.

- A reported rate is kept for its period after the last response that reported it, at most for the longest hold. This
  end may be up to an eighth early: a response within that time writes nothing, so hardly any response costs a write.
- Only the newest report about a window counts. A report of a rate not below the window ends the earlier one.

Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from nekkar.core.quota import Quota, Rate

MOST_REPORTED = 16
RENEWED_PART = 8


@dataclass(frozen=True, slots=True)
class ReportedRates:
    """``rates``, in order: the period of a window, the rate reported for it, and until when that is kept."""

    rates: tuple[tuple[int, Rate, int], ...] = ()

    @property
    def longest_us(self) -> int:
        """The longest of their periods."""
        return max((rate.period_us for _, rate, _ in self.rates), default=0)

    def with_report(self, window: Rate, lower: Rate | None, now: int, most_us: int) -> ReportedRates:
        """Return the reported rates after a new report about a window.

        ``lower``: the reported rate; None if it is not below the window. It is kept for ``most_us`` at most.
        """
        kept = [row for row in self.rates if row[2] > now]
        known = next((row for row in kept if (row[0], row[1].unit) == (window.period_us, window.unit)), None)
        if lower is None and known is None:
            return self
        keep_us = min(lower.period_us, most_us) if lower else 0
        if known and lower == known[1] and known[2] - now > keep_us - keep_us // RENEWED_PART:
            return self
        others = [row for row in kept if row is not known][: MOST_REPORTED - 1]
        news = [(window.period_us, lower, now + keep_us)] if lower else []
        return ReportedRates(tuple(sorted(others + news)))

    def kept(self, quota: Quota, now: int) -> Quota:
        """Return the quota together with the reported rates that are still in force."""
        lower = [rate for _, rate, until in self.rates if until > now and rate.unit in quota.units]
        return replace(quota, rates=tuple(sorted({*quota.rates, *lower}))) if lower else quota


NOTHING_REPORTED = ReportedRates()
