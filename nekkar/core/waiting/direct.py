"""The direct way: a call that comes alone is booked by one swap over the last write of this process, without a read.

Most calls of a limit that does not bind come so: nobody waits, there is room, and nobody else writes. It is the first
try of a turn, in a straight line. Where the swap is lost or not answered, its caller stands in line for a whole turn.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import Any
from weakref import ref

from nekkar.core.errors import CacheError
from nekkar.core.runtime.effects import CacheSteps
from nekkar.core.shared.account import Account
from nekkar.core.waiting.alone import booked_for
from nekkar.core.waiting.assignments import Assignments
from nekkar.core.waiting.callers import Caller
from nekkar.core.waiting.prefetch import PrefetchedSlots
from nekkar.core.waiting.turns import Turns, TurnUnderWay
from nekkar.core.window.state import LimitState


class DirectWay:
    """Books for the callers of one line that come alone."""

    def __init__(
        self,
        ledger: Account,
        assignments: Assignments,
        turns: Turns,
        prefetched: PrefetchedSlots,
        lock: threading.RLock,
    ) -> None:
        self._ledger, self._assignments, self._turns = ledger, assignments, turns
        self._prefetched, self._lock = prefetched, lock

    def steps(self, caller: Caller, callers: set[Caller]) -> CacheSteps[None] | None:
        """Return the steps that book for a caller that comes alone; None where it must stand in line.

        ``callers``: all that wait now. The caller is one of them then.
        """
        if callers:
            return None
        mine, now = self._assignments, caller.arrived
        with self._lock:
            callers.add(caller)
            written = None if self._turns.under_way or mine.queue.by_ticket else self._ledger.last_write()
            if written is None:
                return None
            state, token = written
            if (booked := booked_for(mine, state, caller, now, partial(self._prefetched.wanted, 1, now))) is None:
                return None
            mine.standing.arrives(now)
            under_way = self._turns.under_way = self._turns.alone(caller.ticket)
            steps = self._book(caller, booked, token, under_way)
            under_way.steps = ref(steps)
            return steps

    def _book(self, caller: Caller, booked: LimitState, token: Any, under_way: TurnUnderWay) -> CacheSteps[None]:
        mine, is_answered = self._assignments, True
        try:
            answered = yield from self._ledger.write_over(booked, token)
        except CacheError:
            answered, is_answered = None, False
        with self._lock:
            if answered:
                mine.take_alone(caller, booked)
                self._prefetched.counted_from = answered
            if caller.slot is None and not caller.is_out:
                mine.queue.enter(caller)
        if answered and not mine.must_write:
            self._turns.end(under_way, answered)
        else:
            yield from self._turns.take(under_way, is_answered)
