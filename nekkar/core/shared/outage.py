"""An outage of the cache, or of one of its servers: what calls do meanwhile. Its begin and its end are logged.

An outage ends when a limit that had lost the cache in it reaches the cache again. Calls of other limits do not end it:
otherwise one limit that fails by itself would have "cache lost" and "cache back" logged at each call of the others.
"""

from __future__ import annotations

import logging
from typing import Literal

from nekkar.core.errors import CacheError, ConfigurationError, shown
from nekkar.core.events import CacheBack, CacheLost, Listeners
from nekkar.core.runtime.fork_lock import SHARED

OnCacheError = Literal["raise", "open", "local"]
MEANWHILE = {
    "raise": "calls raise CacheError",
    "open": "calls pass unlimited",
    "local": "each process keeps to its local share",
}

log = logging.getLogger("nekkar")


class Outage:
    """Whether the cache of one ``Nekkar`` is away (or its ``server``, of several), and what calls do meanwhile.

    ``number``: of the newest outage. Only a limit that lost the cache in it may end it.
    """

    def __init__(
        self, policy: OnCacheError = "raise", share: float = 1.0, listeners: Listeners | None = None, server: str = ""
    ) -> None:
        self.policy, self.share = _checked(policy, share)
        self._listeners = listeners or Listeners()
        self._server = server
        self.is_on = False
        self.number = 0

    def of(self, server: str) -> Outage:
        """Return one of the same policy for a server of several."""
        return Outage(self.policy, self.share, self._listeners, server)

    def begins(self, error: CacheError) -> int:
        """Say once that the cache is away; return the outage's number."""
        with SHARED:
            said, self.is_on = self.is_on, True
            self.number = number = self.number + (not said)
        if not said:
            log.warning("cache lost: %s; until it is back, %s", error, MEANWHILE[self.policy])
            self._listeners.tell(CacheLost(error))
        return number

    def ends(self, number: int) -> None:
        """Say once that it is back, where the outage of this number is still on."""
        with SHARED:
            ends = self.is_on and self.number == number
            self.is_on = self.is_on and not ends
        if ends:
            log.warning("cache back: limits are shared again%s", self._server and f" on {self._server}")
            self._listeners.tell(CacheBack())


def _checked(policy: OnCacheError, share: float) -> tuple[OnCacheError, float]:
    if policy not in MEANWHILE:
        raise ConfigurationError(f"on_cache_error {shown(policy)} is not known; give 'raise', 'open' or 'local'")
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise ConfigurationError(
            f"local_share must be a number above 0 and up to 1, such as 1/8 for 8 workers, got {shown(share)}"
        )
    return policy, share
