"""Warnings about the other processes that share a limit, as its state shows them; each is logged once in a process.

Differing terms are logged once for each limit; differing clocks, which concern the machine, once for all limits.
"""

from __future__ import annotations

import logging

from nekkar.core.quota import SECOND, Quota
from nekkar.core.window.state import LimitState

SKEW_US = SECOND

log = logging.getLogger("nekkar")


class Notices:
    """What was logged already about one limit."""

    def __init__(self, key: str, quota: Quota) -> None:
        self.key, self.quota = key, quota
        self._said = False

    def look(self, found: LimitState, now: int) -> None:
        """Warn about what is odd in a state that was read before ``now``."""
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
