"""A limit: what decorates callables, guards ``with`` blocks, admits single calls, and tells how it stands."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast
from weakref import WeakValueDictionary

from nekkar.core.admission import Admission, Status, Window
from nekkar.core.cache import BaseCache
from nekkar.core.clock import Clock
from nekkar.core.decorator import decorated
from nekkar.core.errors import CacheError, ConfigurationError
from nekkar.core.events import Listeners
from nekkar.core.quota import SECOND, Quota, micros, patience, whole
from nekkar.core.runtime.drivers import run, run_async, run_steps, run_steps_async, wake_threads
from nekkar.core.runtime.effects import Event, Steps
from nekkar.core.runtime.loops import Loop, this_loop
from nekkar.core.shared.fallback import Outage
from nekkar.core.shared.key import cache_key
from nekkar.core.shared.ledger import Ledger
from nekkar.core.shared.store import store_of
from nekkar.core.waiting.reporter import Voice
from nekkar.core.waiting.wait_queue import Line
from nekkar.core.window.booking import Slot
from nekkar.core.window.feedback import Word
from nekkar.core.window.state import HitLog

if TYPE_CHECKING:
    from nekkar.core.limiter import Nekkar

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class Shared:
    """What all limits of one name share in one process: the ledger, and a line for threads and each event loop."""

    def __init__(
        self, name: str, terms: Quota, cache: BaseCache, clock: Clock, outage: Outage, listeners: Listeners
    ) -> None:
        self.name, self.quota, self.clock = name, terms, clock
        self.voice, self._listening = Voice(name, listeners), listeners.listening
        self.ledger = Ledger(store_of(cache, clock), cache_key(name), terms, clock, outage)
        self.ledger.view.on_hold = self.voice.held
        self._last_spared: tuple[Slot | None, Any] = (None, None)
        self._begin()

    @property
    def waiting(self) -> int:
        """How many callers of this process wait, in line or for their slot."""
        return sum(len(line.callers) for line in self._own_lines())

    def is_idle(self, now: int) -> bool:
        """Whether nobody waits, and nothing is remembered that still matters."""
        known, alone = self.ledger.view.log, self.ledger.alone
        is_dead = known is None or known.dies_at <= now
        return not self.waiting and is_dead and not (alone.is_on and alone.log.dies_at > now)

    def thread_line(self) -> Line:
        """Return the line of this process's threads."""
        self._follow_fork()
        return self._threads_line

    def loop_line(self, loop: Loop) -> Line:
        """Return the line of an event loop."""
        self._follow_fork()
        line = loop.own.get(self)
        if line is None:
            line = loop.own[self] = self._new_line(loop.new_event, loop.wake, in_order=True)
        return cast(Line, line)

    def status(self, log: HitLog, now: int) -> Status:
        """Return how the limit stands by a log read at ``now``."""
        spare = sum(line.spares.left for line in self._own_lines())
        used = [(rate, max(0, log.since(now - rate.period_us) - spare)) for rate in self.quota.rates]
        windows = [Window(rate.count, rate.period_us / SECOND, hits, max(0, rate.count - hits)) for rate, hits in used]
        held = log.hold_until / SECOND if log.hold_until > now else None
        next_at = log.earliest(self.quota, 1, now) / SECOND
        last = next((time / SECOND for time, _ in reversed(log.hits()) if time <= now), None)
        return Status(self.name, tuple(windows), next_at, held, self.waiting, now / SECOND, last)

    def spared(self, slot: Slot) -> Admission:
        """Return the admission of a spare slot: that of the one before, where they are of one batch."""
        known = self._last_spared
        if known[0] is not slot:
            self._last_spared = known = (slot, Admission(self.name, slot.cost, slot.at / SECOND, 0.0))
        if self._listening:
            self.voice.spared(slot)
        return cast(Admission, known[1])

    def _new_line(
        self, new_event: Callable[[], Event], wake: Callable[[list[Event]], None], in_order: bool = False
    ) -> Line:
        line = Line(self.voice, self.ledger, new_event, wake, in_order)
        self._lines[id(line)] = line
        return line

    def _own_lines(self) -> list[Line]:
        """Return the lines of this process, whatever other threads and their event loops add and drop meanwhile."""
        self._follow_fork()
        return [line for known in self._lines.valuerefs() if (line := known())]

    def _begin(self) -> None:
        self._lines: WeakValueDictionary[int, Line] = WeakValueDictionary()
        self._threads_line = self._new_line(threading.Event, wake_threads)
        self._pid = os.getpid()

    def _follow_fork(self) -> None:
        """In a forked child, begin with lines of its own."""
        if self._pid != os.getpid():
            self._begin()


class Limit:
    """A limit by name: decorate with it, enter it, or acquire from it. Made by calling a ``Nekkar``.

    Safe between threads, tasks and event loops, and in a forked child.
    """

    def __init__(self, limiter: Nekkar, shared: Shared, max_wait: float | None) -> None:
        self._limiter, self._shared, self._max_wait = limiter, shared, max_wait

    @property
    def name(self) -> str:
        """The name under which everything that uses this limit shares it."""
        return self._shared.name

    def __repr__(self) -> str:
        return f"<Limit {self.name!r}: {self._shared.quota}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self._limiter, self.name, self._shared.quota, self._max_wait)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorate a callable: each call waits for its slot, then runs.

        Functions, methods, static and class methods, callable objects; coroutine functions wait in their
        task; a generator, sync or async, takes its slot at its first item (what is sent into an async one
        is not passed on). Raises ConfigurationError for what can't be called; the calls raise what
        ``acquire`` raises.
        """
        return cast("Callable[P, R]", decorated(self, function))

    def acquire(self, cost: int = 1, max_wait: float | None = None) -> Admission:
        """Block until a call of ``cost`` hits may start, at most ``max_wait`` seconds (default: the limit's).

        Raises WaitTooLong as soon as the slot is known to lie too far off, CacheError where the cache
        does not answer within its timeout, and ConfigurationError for a cost that can never be admitted.
        """
        cost, longest = self._checked(cost, max_wait)
        line = self._shared.thread_line()
        if cost == 1 and (spare := line.spares.take()):
            return self._shared.spared(spare)
        slot, waited = run(line.acquire(cost, longest), self._shared.clock)
        return self._admission(slot, waited)

    async def acquire_async(self, cost: int = 1, max_wait: float | None = None) -> Admission:
        """Wait, in a task, until a call of ``cost`` hits may start; otherwise as ``acquire``.

        A cancelled wait keeps no slot and no place in line.
        """
        cost, longest = self._checked(cost, max_wait)
        shared, loop = self._shared, this_loop()
        line = shared.loop_line(loop)
        if cost == 1 and (spare := line.spares.take()):
            is_good = False
            try:
                await loop.checkpoint()
                is_good = line.spares.is_good(spare)
            finally:
                if not is_good:
                    line.spares.put_back(spare)
            if is_good:
                return shared.spared(spare)
        in_process = shared.ledger.store.in_process
        slot, waited = await run_async(line.acquire(cost, longest), shared.clock, loop, in_process)
        return self._admission(slot, waited)

    def __enter__(self) -> Admission:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Do nothing: a limit counts starts, not ends."""

    async def __aenter__(self) -> Admission:
        return await self.acquire_async()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Do nothing: a limit counts starts, not ends."""

    def status(self) -> Status:
        """Read how the limit stands; blocks for one cache command, and raises CacheError where that fails."""
        return self._shared.status(*self._run(self._shared.ledger.current()))

    async def status_async(self) -> Status:
        """Read how the limit stands, from a task."""
        return self._shared.status(*await self._run_async(self._shared.ledger.current()))

    def hold(self, seconds: float) -> None:
        """Let nobody who shares this limit start a call for so long from now; a longer hold stays.

        Calls due within the horizon (100 ms) start all the same. Blocks for a swap; raises CacheError.
        """
        self._run(self._shared.ledger.hold(self._held(seconds)))

    async def hold_async(self, seconds: float) -> None:
        """Hold the limit, from a task; see ``hold``."""
        await self._run_async(self._shared.ledger.hold(self._held(seconds)))

    def release(self) -> None:
        """End a hold; callers that wait for its end already keep their slots. Blocks for a swap; raises CacheError."""
        self._run(self._shared.ledger.release())

    async def release_async(self) -> None:
        """End a hold, from a task; see ``release``."""
        await self._run_async(self._shared.ledger.release())

    def reset(self) -> None:
        """Start the limit afresh for all who share it, whatever value it has. Blocks for a swap; raises CacheError."""
        self._run(self._shared.ledger.reset())

    async def reset_async(self) -> None:
        """Start the limit afresh, from a task; see ``reset``."""
        await self._run_async(self._shared.ledger.reset())

    def hear(self, word: Word) -> None:
        """Let all who share the limit know what its service said; blocks for a swap where that is news.

        Raises nothing where the cache does not answer: that is logged, once.
        """
        if self._is_news(word):
            self._run(self._hearing(word))

    async def hear_async(self, word: Word) -> None:
        """Hear, from a task; see ``hear``. A cancellation does not end the wait."""
        if self._is_news(word):
            await self._run_async(self._hearing(word), shielded=True)

    def _is_news(self, word: Word) -> bool:
        return self._shared.ledger.view.is_news(word, self._shared.quota, self._shared.clock.now_us())

    def _hearing(self, word: Word) -> Steps[None]:
        try:
            yield from self._shared.ledger.hear(word)
        except CacheError as error:
            said = "limit %r: what its service said reaches no other process: %s"
            self._limiter.once.warn("unheard", said, self.name, error)

    def _run(self, steps: Steps[T]) -> T:
        return run_steps(steps, self._shared.clock)

    async def _run_async(self, steps: Steps[T], shielded: bool = False) -> T:
        in_process = self._shared.ledger.store.in_process
        return await run_steps_async(steps, self._shared.clock, this_loop(), in_process, shielded)

    def _held(self, seconds: float) -> int:
        return micros(seconds, f"limit {self.name!r}: hold", 1)

    def _checked(self, cost: int, max_wait: float | None) -> tuple[int, float | None]:
        if type(cost) is int and cost == 1 and max_wait is None:
            return 1, self._max_wait
        if type(cost) is not int or cost != 1:
            cost = whole(cost, f"limit {self.name!r}: cost")
        if cost > self._shared.quota.max_cost:
            raise ConfigurationError(
                f"limit {self.name!r}: cost {cost} can never be admitted under {self._shared.quota};"
                f" give at most {self._shared.quota.max_cost}"
            )
        return cost, self._max_wait if max_wait is None else patience(max_wait, self.name)

    def _admission(self, slot: Slot, waited_us: int) -> Admission:
        self._limiter._forget_idle(slot.at)
        return Admission(self.name, slot.cost, slot.at / SECOND, waited_us / SECOND)


def _again(limiter: Nekkar, name: str, terms: Quota, max_wait: float | None) -> Limit:
    return limiter.limit_of(name, terms, max_wait)
