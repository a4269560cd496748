"""What a limit's log shows of those who share it, and somebody should know: each said once in a process."""

from __future__ import annotations

import logging

from nekkar.core.log import HitLog
from nekkar.core.rate import SECOND, Quota

SKEW_US = SECOND

log = logging.getLogger("nekkar")


class Notices:
    """What was said already of one limit."""

    def __init__(self, key: str, quota: Quota) -> None:
        self.key, self.quota = key, quota
        self._said_limits = self._said_skew = False

    def look(self, found: HitLog, now: int) -> None:
        """Say what is odd about a log that had been read by ``now``."""
        others = sorted(set(found.windows) - set(self.quota.rates))
        if others and not self._said_limits:
            self._said_limits = True
            elsewhere = "; ".join(map(str, others))
            log.warning("cache key %r has other limits elsewhere: %s, and %s here", self.key, elsewhere, self.quota)
        ahead = found.written_at - now
        if ahead >= SKEW_US and not self._said_skew:
            self._said_skew = True
            log.warning(
                "cache key %r was written by a clock %.1f s ahead of this one, so its limit may be exceeded or starve:"
                " see that all who share it keep the same time (NTP), and the same clock= setting",
                *(self.key, ahead / SECOND),
            )
