"""What a limit's log shows of those who share it, and somebody should know: said once in a process.

Other terms are said once for each limit; clocks that differ are the machines' matter, and said once for all.
"""

from __future__ import annotations

import logging

from nekkar.core.quota import SECOND, Quota
from nekkar.core.window.state import LimitState

SKEW_US = SECOND

log = logging.getLogger("nekkar")


class Notices:
    """What was said already of one limit."""

    def __init__(self, key: str, quota: Quota) -> None:
        self.key, self.quota = key, quota
        self._said = False

    def look(self, found: LimitState, now: int) -> None:
        """Say what is odd about a log that had been read by ``now``."""
        others = sorted(set(found.rates) - set(self.quota.rates)) if not self._said else []
        if others:
            self._said = True
            elsewhere = "; ".join(map(str, others))
            text = "cache key %r has other limits elsewhere: %s, and %s here; each keeps its own, so give all the same"
            log.warning(text, self.key, elsewhere, self.quota)
        if found.written_at - now >= SKEW_US:
            _say_skew(self.key, found.written_at - now)


def _say_skew(key: str, ahead_us: int) -> None:
    global _said_skew
    if not _said_skew:
        _said_skew = True
        log.warning("cache key %r was written by a clock %.1f s ahead of this one, so its limit may be exceeded or"
                    " starve: see that all who share it keep the same time (NTP), and the same clock= setting",
                    key, ahead_us / SECOND)  # fmt: skip


_said_skew = False
