"""A limit: it decorates callables, guards ``with`` blocks, admits single calls, and reports its status."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from nekkar.core.admission import Admission, Status
from nekkar.core.cost import Hits, cost_of
from nekkar.core.decorator import _Guard
from nekkar.core.errors import CacheError
from nekkar.core.limit_core import LimitCore
from nekkar.core.quota import SECOND, WHOLE, Quota, check_max_wait, read_cost, read_headroom, to_us
from nekkar.core.reservation import Reservation
from nekkar.core.runtime.drivers import is_nested, run, run_async, run_steps, run_steps_async
from nekkar.core.runtime.effects import CacheSteps
from nekkar.core.runtime.loops import this_loop
from nekkar.core.waiting.callers import Slot
from nekkar.core.window.feedback import Feedback

if TYPE_CHECKING:
    from nekkar.core.joint import JointLimit
    from nekkar.core.limiter import Nekkar

T = TypeVar("T")


class Limit(_Guard[Admission]):
    """A limit by name: decorate with it, enter it, or acquire from it. Made by calling a ``Nekkar``.

    Safe between threads, tasks and event loops, and in a forked child.
    """

    def __init__(self, limiter: Nekkar, core: LimitCore, max_wait: float | None, headroom: int = 0) -> None:
        self._limiter, self._core, self._max_wait, self._headroom = limiter, core, max_wait, headroom

    @property
    def name(self) -> str:
        """The name under which everything that uses this limit shares it."""
        return self._core.name

    @property
    def max_wait(self) -> float | None:
        """The longest wait of a call in seconds, where the call gives none of its own; None: without a bound."""
        return self._max_wait

    @property
    def headroom(self) -> float:
        """The part of each window that its calls leave free, where a call says nothing else."""
        return self._headroom / WHOLE

    def __repr__(self) -> str:
        return f"<Limit {self.name!r}: {self._core.quota}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self._limiter, self.name, self._core.quota, self._max_wait, self._headroom)

    def __and__(self, other: Limit | JointLimit) -> JointLimit:
        """Return a limit of both: a call starts only while it has a slot in each.

        Raises ConfigurationError where it is the same limit twice.
        """
        from nekkar.core.joint import JointLimit, joint

        return joint(self, other) if isinstance(other, Limit | JointLimit) else NotImplemented

    def acquire(
        self, cost: int | Mapping[str, int] = 1, max_wait: float | None = None, headroom: float | None = None
    ) -> Admission:
        """Block until a call of this cost may start, at most ``max_wait`` seconds (default: the limit's).

        ``cost``: a whole number of calls, or a mapping of units to hits, such as ``{"tokens": 1200}``: that is one call
        and 1,200 tokens. ``headroom``: the part of each window that the call leaves free, from 0 to below 1 (default:
        the limit's). It yields to all calls with less. Raises WaitTooLong as soon as the slot is known to lie too far
        off, CacheError where the cache does not answer within its timeout, and ConfigurationError for a cost that can
        never be admitted, for a unit that the limit does not count, and for one that it counts and the cost does not
        give.
        """
        asked, longest, free = self._checked(cost, max_wait, headroom)
        # A call inside another call of its thread has a line of its own: on common lines two threads could each wait
        # for the lock that the other one's outer call holds.
        line = self._core.own_line(free) if is_nested() else self._core.thread_line(free)
        if asked == 1 and line.prefetched.hand and (slot := line.prefetched.take()):
            return self._prefetched(slot)
        steps = line.acquire(asked, longest) if asked else self._core.uncounted(longest, line)
        return self._admission(*run(steps, self._core.clock), free)

    async def acquire_async(
        self, cost: int | Mapping[str, int] = 1, max_wait: float | None = None, headroom: float | None = None
    ) -> Admission:
        """Wait, in a task, until a call of this cost may start; otherwise as ``acquire``.

        A cancelled wait keeps no slot and no place in line.
        """
        asked, longest, free = self._checked(cost, max_wait, headroom)
        core, loop = self._core, this_loop()
        line = core.loop_line(loop, free)
        if asked == 1 and line.prefetched.left:
            await loop.checkpoint()  # before the slot is taken: a cancellation here loses none
            if slot := line.prefetched.take():
                return self._prefetched(slot)
        steps = line.acquire(asked, longest) if asked else core.uncounted(longest, line)
        taken = await run_async(steps, core.clock, loop, core.ledger.in_process)
        return self._admission(*taken, free)

    def _is_good(self, admission: Admission) -> bool:
        """Return whether a call may still start on its admission: until half of the margin after its slot.

        For a call that waits for something else between its admission and its start, such as a connection.
        """
        reserved = _reservation(admission)
        return reserved is None or reserved.is_good()

    def _exchange(self, admission: Admission, max_wait: float | None = None) -> Admission:
        """Block until a call may start that did not start on its admission in time; otherwise as ``acquire``.

        It stands in front of the line. Its old slot goes back if it is at most a horizon (100 ms) old; an older one is
        spent. An admission may be exchanged once.
        """
        free = self._left_free(admission)
        steps = self._core.thread_line(free).acquire(*self._stale(admission, max_wait))
        return self._admission(*run(steps, self._core.clock), free)

    async def _exchange_async(self, admission: Admission, max_wait: float | None = None) -> Admission:
        """Wait, in a task, until a call may start that did not start on its admission in time; see ``_exchange``."""
        core, loop, free = self._core, this_loop(), self._left_free(admission)
        steps = core.loop_line(loop, free).acquire(*self._stale(admission, max_wait))
        return self._admission(*await run_async(steps, core.clock, loop, core.ledger.in_process), free)

    def _left_free(self, admission: Admission) -> int:
        reserved = _reservation(admission)
        return reserved.headroom if reserved else self._headroom

    def _stale(self, admission: Admission, max_wait: float | None) -> tuple[Hits, float | None, Slot | None]:
        reserved = _reservation(admission)
        longest = self._max_wait if max_wait is None else check_max_wait(max_wait, self.name)
        return cost_of(admission.costs), longest, reserved.slot if reserved else None

    def _least_wait(self, admission: Admission) -> float:
        """Return a lower bound, in seconds, of how long an exchange would block, as far as this process knows."""
        reserved = _reservation(admission)
        return self._core.least_wait(cost_of(admission.costs), reserved.slot if reserved else None)

    def status(self) -> Status:
        """Read how the limit stands; blocks for one cache command, and raises CacheError where that fails."""
        return self._core.status(*self._run(self._core.ledger.peek()))

    async def status_async(self) -> Status:
        """Read how the limit stands, from a task."""
        return self._core.status(*await self._run_async(self._core.ledger.peek()))

    def hold(self, seconds: float) -> None:
        """Let no call of this limit start for ``seconds``, in any process; a longer hold stays, 0 does nothing.

        Calls due within the horizon (100 ms) start all the same. Blocks for a swap; raises CacheError.
        """
        if us := self._held(seconds):
            self._run(self._core.hold(us))

    async def hold_async(self, seconds: float) -> None:
        """Hold the limit, from a task; see ``hold``."""
        if us := self._held(seconds):
            await self._run_async(self._core.hold(us))

    def release(self) -> None:
        """End a hold; callers that wait start within about a second. Blocks for a swap; raises CacheError."""
        self._run(self._core.release())

    async def release_async(self) -> None:
        """End a hold, from a task; see ``release``."""
        await self._run_async(self._core.release())

    def reset(self) -> None:
        """Start the limit afresh for all who share it, whatever value it has. Blocks for a swap; raises CacheError."""
        self._run(self._core.reset())

    async def reset_async(self) -> None:
        """Start the limit afresh, from a task; see ``reset``."""
        await self._run_async(self._core.reset())

    def _apply_feedback(self, feedback: Feedback) -> None:
        """Apply feedback of the service to the shared state; blocks for a swap if it changes anything.

        Raises nothing if the cache is away: that is logged once.
        """
        if self._core.is_news(feedback):
            self._run(self._feedback_steps(feedback))

    async def _apply_feedback_async(self, feedback: Feedback) -> None:
        """Apply it from a task; see ``_apply_feedback``. A cancellation does not end the wait."""
        if self._core.is_news(feedback):
            await self._run_async(self._feedback_steps(feedback), shielded=True)

    def _feedback_steps(self, feedback: Feedback) -> CacheSteps[None]:
        try:
            yield from self._core.apply_feedback(feedback)
        except CacheError as error:
            said = "limit %r: what its service said reaches no other process: %s"
            self._limiter.once.warn("unshared", said, self.name, error)

    def _quotas(self) -> tuple[Quota, ...]:
        return (self._core.quota,)

    def _shares_state(self, other: Limit) -> bool:
        """Whether both are one limit: the same name in the same cache."""
        return self.name == other.name and self._limiter._cache is other._limiter._cache

    def _run(self, steps: CacheSteps[T]) -> T:
        return run_steps(steps, self._core.clock)

    async def _run_async(self, steps: CacheSteps[T], shielded: bool = False) -> T:
        in_process = self._core.ledger.in_process
        return await run_steps_async(steps, self._core.clock, this_loop(), in_process, shielded)

    def _held(self, seconds: float) -> int:
        return to_us(seconds, f"limit {self.name!r}: hold")

    def _checked(
        self, cost: int | Mapping[str, int], max_wait: float | None, headroom: float | None = None
    ) -> tuple[Hits, float | None, int]:
        """Return what a call costs, how long it waits at most, and what it leaves free."""
        quota, free = self._core.quota, self._headroom
        if headroom is not None:
            free = read_headroom(headroom, f"limit {self.name!r}: headroom")
        is_plain = type(cost) is int and cost == 1 and quota.counts_calls_alone and not free
        asked = 1 if is_plain else read_cost(cost, quota, self.name, free)
        return asked, self._max_wait if max_wait is None else check_max_wait(max_wait, self.name), free

    def _prefetched(self, slot: Slot) -> Admission:
        if self._core.reporter.listening:
            self._core.reporter.prefetched(slot)
        return Admission._of(self.name, slot.cost, slot.at / SECOND, 0.0, Reservation(self._core, slot))

    def _admission(self, slot: Slot, waited_us: int, headroom: int = 0) -> Admission:
        self._limiter._forget_idle(slot.at)
        booking, waited = Reservation(self._core, slot, headroom), waited_us / SECOND
        return Admission._of(self._core.name, slot.cost, slot.at / SECOND, waited, booking)


def _reservation(admission: Admission) -> Reservation | None:
    return cast("Reservation | None", admission._booking)


def _again(limiter: Nekkar, name: str, terms: Quota, max_wait: float | None, headroom: int) -> Limit:
    return limiter._limit_of(name, terms, max_wait, headroom)
