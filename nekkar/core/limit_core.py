"""What all limits of one name share in one process: the ledger, and a line for its threads and for each event loop."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast
from weakref import WeakValueDictionary

from nekkar.core.admission import Admission, Status, Window
from nekkar.core.cache import BaseCache
from nekkar.core.clock import Clock
from nekkar.core.events import Listeners
from nekkar.core.quota import SECOND, Quota
from nekkar.core.runtime.drivers import Signal, wake_threads
from nekkar.core.runtime.effects import CacheSteps, Event
from nekkar.core.runtime.loops import Loop
from nekkar.core.shared.fallback import Fallback
from nekkar.core.shared.key import cache_key
from nekkar.core.shared.ledger import Ledger
from nekkar.core.shared.outage import Outage
from nekkar.core.shared.store import store_of
from nekkar.core.waiting.callers import Slot
from nekkar.core.waiting.reporter import CallReporter
from nekkar.core.waiting.wait_queue import WaitQueue
from nekkar.core.window.booking import earliest_slot, earliest_slot_behind
from nekkar.core.window.feedback import Feedback, apply_feedback, with_hold
from nekkar.core.window.state import LimitState


class LimitCore:
    """The limit ``name`` in this process. Safe between threads; a forked child begins with lines of its own."""

    def __init__(
        self, name: str, quota: Quota, cache: BaseCache, clock: Clock, outage: Outage, listeners: Listeners
    ) -> None:
        self.name, self.quota, self.clock = name, quota, clock
        self.reporter, self._listening = CallReporter(name, listeners), listeners.listening
        self.ledger = Ledger(store_of(cache, clock), cache_key(name), quota, clock)
        self.ledger.replica.on_hold = self.reporter.held
        self.accounts = Fallback(self.ledger, outage)
        self._last_prefetched: tuple[Any, Any] = (None, None)
        self._row_ended_at = 0  # the newest refusal whose row a success in this process has ended
        self._begin()

    @property
    def waiting(self) -> int:
        """How many callers of this process wait, in line or for their slot."""
        return sum(line.here for line in self._own_lines())

    def is_idle(self, now: int) -> bool:
        """Whether nobody waits, and nothing is remembered that still matters."""
        known = self.accounts.state
        return not self.waiting and (known is None or known.matters_until <= now)

    def thread_line(self) -> WaitQueue:
        """Return the line of this process's threads."""
        self._follow_fork()
        return self._threads_line

    def own_line(self) -> WaitQueue:
        """Return a line for one call alone, made inside another call of its thread: it must not wait for that one."""
        return self._new_line(Signal, wake_threads)

    def loop_line(self, loop: Loop) -> WaitQueue:
        """Return the line of an event loop."""
        self._follow_fork()
        line = loop.own.get(self)
        if line is None:
            line = loop.own[self] = self._new_line(loop.new_event, loop.wake, in_order=True)
        return cast(WaitQueue, line)

    def status(self, state: LimitState, now: int) -> Status:
        """Return how the limit stands by a state read at ``now``."""
        prefetched = sum(line.prefetched.left for line in self._own_lines())
        hits = state.hits
        used = [(rate, max(0, hits.count_since(now - rate.period_us) - prefetched)) for rate in self.quota.rates]
        windows = [
            Window(rate.count, rate.period_us / SECOND, count, max(0, rate.count - count)) for rate, count in used
        ]
        held = state.hold_until / SECOND if state.hold_until > now else None
        soonest = max(now, state.hold_until, hits.last_at or 0)  # hits are appended
        ahead = sum(place.cost for place in state.places)
        next_at = earliest_slot_behind(hits, ahead, self.quota, state.margin(self.quota, now), soonest) / SECOND
        last = next((time / SECOND for time, _ in reversed(hits.entries()) if time <= now), None)
        return Status(self.name, tuple(windows), next_at, held, self.waiting, now / SECOND, last)

    def prefetched(self, slot: Slot) -> Admission:
        """Return the admission of a prefetched slot: that of the one before, where they are of one grant."""
        known = self._last_prefetched
        if known[0] is not slot.source:
            self._last_prefetched = known = (slot.source, Admission._of(self.name, slot, 0))
        if self._listening:
            self.reporter.prefetched(slot)
        return cast(Admission, known[1])

    def least_wait(self, cost: int, stale: Slot | None) -> float:
        """Return a lower bound of the wait for another slot, in seconds; 0 where the stale one can be given back."""
        state, now = self.accounts.state, self.clock.now_us()
        if state is None or (stale and now <= stale.at + state.horizon_us):
            return 0.0
        soonest = max(now, state.hold_until)
        return (earliest_slot(state.hits, self.accounts.quota, state.margin_us, cost, soonest) - now) / SECOND

    def is_in_a_row(self) -> bool:
        """Whether the newest refusals stand in a row that no success in this process has ended."""
        known = self.accounts.state
        return known is not None and known.rejections.row > 0 and known.rejections.at != self._row_ended_at

    def is_news(self, feedback: Feedback) -> bool:
        """Whether what a service said changes the state, as far as is known here; of many successes, one does."""
        known = self.accounts.state
        if known is None:
            return True
        is_news = apply_feedback(known, self.quota, self._heard(feedback), self.clock.now_us()) is not known
        if is_news and feedback.is_success:
            self._row_ended_at = known.rejections.at
        return is_news

    # Steps that change the limit for all who share it. Each raises CacheError where the cache does not answer.

    def hold(self, us: int) -> CacheSteps[None]:
        """Let no slot be given for so long from now; a longer hold stays."""
        yield from self._edit(self.ledger.edit(lambda state, now: with_hold(state, now + us)))

    def release(self) -> CacheSteps[None]:
        """End a hold."""
        yield from self._edit(self.ledger.edit(lambda state, now: replace(state, hold_until=0)))

    def reset(self) -> CacheSteps[None]:
        """Start afresh, whatever value is there."""
        yield from self._edit(self.ledger.reset())

    def hear(self, feedback: Feedback) -> CacheSteps[None]:
        """Put into the state what a service said; while the cache is away, this process alone keeps to it."""

        def heard(state: LimitState, now: int) -> LimitState:
            return apply_feedback(state, self.accounts.quota, self._heard(feedback), now)

        yield from self._edit(self.accounts.edit(heard))

    def _heard(self, feedback: Feedback) -> Feedback:
        """Return what is to be applied: while the cache is away, what others use counts in the shared state alone."""
        return replace(feedback, budgets=()) if self.accounts.is_on else feedback

    def _edit(self, steps: CacheSteps[None]) -> CacheSteps[None]:
        yield from steps
        for line in self._own_lines():
            line.look_soon()

    # Lines.

    def _new_line(
        self, new_event: Callable[[], Event], wake: Callable[[list[Event]], None], in_order: bool = False
    ) -> WaitQueue:
        line = WaitQueue(self.reporter, self.accounts, new_event, wake, in_order)
        self._lines[id(line)] = line
        return line

    def _own_lines(self) -> list[WaitQueue]:
        """Return the lines of this process, whatever other threads and their event loops add and drop meanwhile."""
        self._follow_fork()
        return [line for known in self._lines.valuerefs() if (line := known())]

    def _begin(self) -> None:
        self._lines: WeakValueDictionary[int, WaitQueue] = WeakValueDictionary()
        self._threads_line = self._new_line(Signal, wake_threads)
        self._pid = os.getpid()

    def _follow_fork(self) -> None:
        if self._pid != os.getpid():
            self._begin()
