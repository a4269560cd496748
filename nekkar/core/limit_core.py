"""What all limits of one name share in one process: the ledger, and a line for its threads and for each event loop."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast
from weakref import WeakValueDictionary

from nekkar.core.admission import Status, Window
from nekkar.core.cache import BaseCache
from nekkar.core.clock import Clock
from nekkar.core.cost import CALLS, Hits
from nekkar.core.errors import WaitTooLong
from nekkar.core.events import Listeners
from nekkar.core.quota import SECOND, Quota, Rate
from nekkar.core.runtime.drivers import Signal, is_nested, wake_threads
from nekkar.core.runtime.effects import CacheSteps, Event, QueueSteps, RunSteps, WaitUntil
from nekkar.core.runtime.loops import Loop
from nekkar.core.shared.fallback import Fallback
from nekkar.core.shared.key import cache_key
from nekkar.core.shared.ledger import Ledger
from nekkar.core.shared.outage import Outage
from nekkar.core.shared.store import store_of
from nekkar.core.waiting.callers import InHand, Slot
from nekkar.core.waiting.reporter import CallReporter
from nekkar.core.waiting.wait_queue import WaitQueue, Wake
from nekkar.core.window.feedback import Feedback, apply_feedback, with_hold
from nekkar.core.window.hits import HitLog
from nekkar.core.window.plan import next_slot
from nekkar.core.window.state import Grant, LimitState


@dataclass(eq=False)
class _HeldBack:
    """A call that costs nothing, and waits for the end of a hold."""

    event: Event
    wake: Wake


class LimitCore:
    """The limit ``name`` in this process. Safe between threads; a forked child begins with lines of its own."""

    def __init__(
        self, name: str, quota: Quota, cache: BaseCache, clock: Clock, outage: Outage, listeners: Listeners
    ) -> None:
        self.name, self.quota, self.clock = name, quota, clock
        self.reporter = CallReporter(name, listeners)
        self.ledger = Ledger(store_of(cache, clock), cache_key(name), quota, clock)
        self.ledger.replica.on_hold = self.reporter.held
        self.accounts = Fallback(self.ledger, outage)
        self._row_ended_at = 0  # the slot of the last 429 of the newest row that a success in this process has ended
        self._begin()

    @property
    def waiting(self) -> int:
        """How many callers of this process wait, in line or for their slot."""
        return sum(line.here for line in self._own_lines())

    def is_idle(self, now: int) -> bool:
        """Whether nobody waits, and nothing is remembered that still matters."""
        known = self.accounts.state
        return not self.waiting and (known is None or known.matters_until <= now)

    def thread_line(self, headroom: int = 0) -> WaitQueue:
        """Return the line of this process's threads, for calls with this headroom."""
        self._follow_fork()
        if not headroom:
            return self._threads_line
        line = self._headroom_lines.get(headroom)
        return line or self._headroom_lines.setdefault(headroom, self.own_line(headroom))

    def own_line(self, headroom: int = 0) -> WaitQueue:
        """Return a line for a single call, made inside another call of its thread: it must not wait for that call."""
        return self._new_line(Signal, wake_threads, headroom=headroom)

    def loop_line(self, loop: Loop, headroom: int = 0) -> WaitQueue:
        """Return the line of an event loop, for calls with this headroom."""
        self._follow_fork()
        lines = loop.own.get(self)
        if lines is None:
            lines = loop.own[self] = {}
        if headroom not in lines:
            lines[headroom] = self._new_line(loop.new_event, loop.wake, in_order=True, headroom=headroom)
        return cast(WaitQueue, lines[headroom])

    def status(self, state: LimitState, now: int) -> Status:
        """Return how the limit stands by a state read at ``now``."""
        quota, hits = state.reported.kept(self.quota, now), state.hits
        windows = tuple(self._window(hits, rate, _least(rate, quota), now) for rate in self.quota.rates)
        held = state.hold_until / SECOND if state.hold_until > now else None
        # Behind many places it is a bound, which may lie before the last hit, where no slot can.
        next_at = max(next_slot(state, self.quota, quota.one_of_each, now), hits.last_at or 0) / SECOND
        last = next((time / SECOND for time, _ in reversed(hits.entries()) if time <= now), None)
        return Status(self.name, windows, next_at, held, self.waiting, now / SECOND, last)

    def _window(self, hits: HitLog, rate: Rate, most: int, now: int) -> Window:
        """Return how a window stands. If its service reported a lower limit, hits over ``most`` count as used."""
        used = hits.of(rate.unit).count_since(now - rate.period_us)
        if rate.unit == CALLS:
            used = max(0, used - sum(line.prefetched.left for line in self._own_lines()))
        remaining = max(0, most - used)
        return Window(rate.count, rate.period_us / SECOND, max(used, rate.count - remaining), remaining, rate.unit)

    def least_wait(self, cost: Hits, stale: Slot | None) -> float:
        """Return a lower bound of the wait for another slot, in seconds; 0 where the stale one can be given back."""
        state, now = self.accounts.state, self.clock.now_us()
        if state is None or (stale and now <= stale.at + state.horizon_us):
            return 0.0
        in_front = replace(state, places=())
        return (next_slot(in_front, self.accounts.quota, cost, now) - now) / SECOND

    def is_in_a_row(self) -> bool:
        """Whether the newest 429s are a row that no success in this process has ended."""
        known = self.accounts.state
        return known is not None and known.rejections.row > 0 and known.rejections.at != self._row_ended_at

    def is_news(self, feedback: Feedback) -> bool:
        """Whether feedback changes the state, as far as is known here; of many successes, only the first does."""
        known = self.accounts.state
        if known is None:
            return True
        is_news = apply_feedback(known, self.quota, self._applicable(feedback), self.clock.now_us()) is not known
        if is_news and feedback.is_success:
            self._row_ended_at = known.rejections.at
        return is_news

    def uncounted(self, max_wait: float | None, line: WaitQueue) -> QueueSteps[tuple[Slot, int]]:
        """Wait while the limit is held, for a call that costs nothing: it takes no slot, and has no place in line."""
        yield RunSteps(self.accounts.sync_clock(), in_process=self.accounts.in_process)
        begun = self.clock.now_us()
        while True:
            held_back = self._held_back(line)  # before the state is read: what changes it after that ends the wait
            yield RunSteps(self.accounts.edit(lambda state, now: state), in_process=self.accounts.in_process)
            state, now = self.accounts.state, self.clock.now_us()
            held = state.hold_until if state else 0
            if held <= now:
                slot = Slot(now, 0, InHand(Grant(0, 0, now, 0), 0, is_closed=True))
                if self.reporter.listening:
                    self.reporter.prefetched(slot)
                return slot, now - begun
            if max_wait is not None and held > begun + max_wait * SECOND:
                raise WaitTooLong(self.name, (held - now) / SECOND, max_wait)
            yield WaitUntil(min(held, now + SECOND), held_back.event, clock=self.clock)

    # Steps that change the limit for all who share it: they see it within a second (rule 18). Each raises CacheError.

    def hold(self, us: int) -> CacheSteps[None]:
        """Let no call have a slot in the next ``us`` µs; a longer hold stays."""
        yield from self._edit(self.ledger.edit(lambda state, now: with_hold(state, now + us)))

    def release(self) -> CacheSteps[None]:
        """End a hold."""
        yield from self._edit(self.ledger.edit(lambda state, now: replace(state, hold_until=0)))

    def reset(self) -> CacheSteps[None]:
        """Start afresh, whatever value is there."""
        yield from self._edit(self.ledger.reset())

    def apply_feedback(self, feedback: Feedback) -> CacheSteps[None]:
        """Apply feedback of the service to the shared state; while the cache is away, to this process's own state."""

        def changed(state: LimitState, now: int) -> LimitState:
            return apply_feedback(state, self.accounts.quota, self._applicable(feedback), now)

        yield from self._edit(self.accounts.edit(changed))

    def _applicable(self, feedback: Feedback) -> Feedback:
        """Return the feedback to apply: while the cache is away, without quotas, which count the whole fleet's use."""
        return replace(feedback, budgets=()) if self.accounts.is_on else feedback

    def _edit(self, steps: CacheSteps[None]) -> CacheSteps[None]:
        yield from steps
        for line in self._own_lines():
            line.look_soon()
        for known in self._calls_held_back.valuerefs():
            if held_back := known():
                held_back.wake([held_back.event])

    # Lines.

    def settling_line(self) -> WaitQueue:
        """Return the line that writes the settlements of this thread."""
        return self.own_line() if is_nested() else self.thread_line()

    def look_soon(self, other: WaitQueue) -> None:
        """Have all lines of this process look, but for ``other``, which has just changed the state."""
        for line in self._own_lines():
            if line is not other and line.waiting:
                line.look_soon()

    def _new_line(
        self,
        new_event: Callable[[], Event],
        wake: Wake,
        in_order: bool = False,
        headroom: int = 0,
    ) -> WaitQueue:
        line = WaitQueue(self.reporter, self.accounts, new_event, wake, in_order, headroom)
        self._lines[id(line)] = line
        return line

    def _own_lines(self) -> list[WaitQueue]:
        """Return the lines of this process; other threads and event loops may add and drop some meanwhile."""
        self._follow_fork()
        return [line for known in self._lines.valuerefs() if (line := known())]

    def _held_back(self, line: WaitQueue) -> _HeldBack:
        """Return what a call waits on that stands in no line, to be woken until it is dropped."""
        held_back = _HeldBack(line.new_event(), line.wake)
        self._calls_held_back[id(held_back)] = held_back
        return held_back

    def _begin(self) -> None:
        self._lines: WeakValueDictionary[int, WaitQueue] = WeakValueDictionary()
        self._calls_held_back: WeakValueDictionary[int, _HeldBack] = WeakValueDictionary()
        self._threads_line = self._new_line(Signal, wake_threads)
        self._headroom_lines: dict[int, WaitQueue] = {}
        self._pid = os.getpid()

    def _follow_fork(self) -> None:
        if self._pid != os.getpid():
            self._begin()


def _least(window: Rate, quota: Quota) -> int:
    """Return the least count of the quota's windows of this unit and period."""
    return min(rate.count for rate in quota.rates if (rate.unit, rate.period_us) == (window.unit, window.period_us))
