"""The time of a line: a clock that is set moves the arrivals and the deadlines of its callers, not their waits."""

from __future__ import annotations

import threading

from nekkar.core.clock import STEP_US
from nekkar.core.quota import SECOND
from nekkar.core.shared.account import Account
from nekkar.core.waiting.assignments import Assignments
from nekkar.core.waiting.callers import Caller
from nekkar.core.waiting.turns import Turns


class TimeKeeper:
    """Keeps the times of the callers of one line to a clock that may be set."""

    def __init__(
        self, ledger: Account, assignments: Assignments, turns: Turns, callers: set[Caller], lock: threading.RLock
    ) -> None:
        self._ledger, self._assignments, self._turns = ledger, assignments, turns
        self._callers, self._lock = callers, lock
        self._moved_us = ledger.keep_time()

    def keep(self) -> None:
        """Follow a clock that was set: waits are as long as before, and slots are booked again."""
        moved_us = self._ledger.keep_time()
        if moved_us != self._moved_us:
            with self._lock:
                by, self._moved_us = moved_us - self._moved_us, moved_us
                self._turns.look_at = self._ledger.clock.now_us()
                self._shift(by)
                self._assignments.requeue_all(list(self._callers))

    def follow(self, by: int) -> None:
        """Follow a clock just read, before anything is booked by its time."""
        if abs(by) >= STEP_US:
            self.keep()
        elif abs(by) >= SECOND // 1000:
            with self._lock:
                self._shift(by)

    def _shift(self, by: int) -> None:
        for caller in self._callers:
            caller.arrived += by
            caller.deadline = None if caller.deadline is None else caller.deadline + by
