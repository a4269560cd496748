"""The reporter of one limit in one process: events for listeners, and lines in the log for operators.

Waits of over five seconds are logged at INFO, with at most one line a minute for all calls of the limit; each hold is
logged at WARNING. Nothing is reported under a lock, since a callback may do as it likes.
"""

from __future__ import annotations

import logging

from nekkar.core.cost import CALLS, Hits, as_mapping, hits_in
from nekkar.core.errors import WaitTooLong
from nekkar.core.events import Admitted, Held, Left, Listeners, Refused, Waiting
from nekkar.core.quota import SECOND
from nekkar.core.waiting.callers import Caller, Slot, WaitsElsewhere

LONG_US = 5 * SECOND
MOVED_US = SECOND
LOG_EVERY_US = 60 * SECOND

log = logging.getLogger("nekkar")


class CallReporter:
    """Reports what becomes of the calls of limit ``name``; times are microseconds. Safe between threads."""

    def __init__(self, name: str, listeners: Listeners) -> None:
        self.name, self.listeners = name, listeners
        self.listening = listeners.listening
        self._logged_at = -LOG_EVERY_US

    def waits(self, caller: Caller, until: int, now: int, here: int) -> None:
        """Report that a call waits until then, at least; nothing where that was reported already, or it need not wait.

        ``here``: how many calls wait in its line.
        """
        if until <= now or until < caller.reported_until + MOVED_US:
            return
        caller.reported_until = until
        waited = now - caller.arrived
        if until - caller.arrived > LONG_US:
            self._log_wait("waits", until - now, now, here)
        if self.listening:
            seconds = (now / SECOND, until / SECOND, waited / SECOND)
            self.listeners.tell(Waiting(*self._of(caller.cost), *seconds, caller.ticket, as_mapping(caller.cost)))

    def admitted(self, caller: Caller, slot: Slot, now: int, here: int) -> int:
        """Report that a call starts; return how long it waited."""
        waited = now - caller.arrived
        if waited > LONG_US:
            self._log_wait("waited", waited, now, here)
        if self.listening:
            times = (slot.at / SECOND, waited / SECOND)
            self.listeners.tell(Admitted(*self._of(slot.cost), *times, caller.ticket, as_mapping(slot.cost)))
        return waited

    def prefetched(self, slot: Slot) -> None:
        """Report that a call starts on a prefetched slot."""
        self.listeners.tell(Admitted(*self._of(slot.cost), slot.at / SECOND, 0.0, 0, as_mapping(slot.cost)))

    def ended(self, caller: Caller, error: BaseException, now: int) -> None:
        """Report that a call goes without a slot, and why."""
        if not self.listening or isinstance(error, WaitsElsewhere):
            return
        fields = (*self._of(caller.cost), now / SECOND, max(0, now - caller.arrived) / SECOND)
        call = (caller.ticket, as_mapping(caller.cost))
        if isinstance(error, WaitTooLong):
            self.listeners.tell(Refused(*fields, error.retry_after, error.max_wait, *call))
        else:
            self.listeners.tell(Left(*fields, error, *call))

    def _of(self, cost: Hits) -> tuple[str, int]:
        return self.name, hits_in(cost, CALLS)

    def _log_wait(self, verb: str, wait: int, now: int, here: int) -> None:
        if abs(now - self._logged_at) < LOG_EVERY_US:
            return
        self._logged_at = now
        text = "limit %r: a call %s %.1f s for its slot; %d wait in line here; said once a minute at most"
        log.info(text, self.name, verb, wait / SECOND, here)

    def held(self, until: int, now: int) -> None:
        """Report that the limit is held."""
        log.warning("limit %r is held: no call starts in the next %.1f s", self.name, (until - now) / SECOND)
        if self.listening:
            self.listeners.tell(Held(self.name, now / SECOND, until / SECOND))
