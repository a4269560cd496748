"""A limit of several limits, ``endpoint & account``: its calls start only while they have a slot in each.

How that is done, without a swap over several states: ``waiting/together.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from nekkar.core.admission import Admission, JointAdmission, Status
from nekkar.core.cost import CALLS, Hits, cost_of, largest
from nekkar.core.decorator import _Guard
from nekkar.core.errors import ConfigurationError, shown
from nekkar.core.limit import Limit, _reservation
from nekkar.core.quota import Quota, check_max_wait
from nekkar.core.reservation import Reservation
from nekkar.core.runtime.drivers import is_nested, run, run_async
from nekkar.core.runtime.effects import QueueSteps
from nekkar.core.runtime.loops import Loop, this_loop
from nekkar.core.waiting.callers import Slot
from nekkar.core.waiting.together import JointCall
from nekkar.core.waiting.wait_queue import WaitQueue


class JointLimit(_Guard[JointAdmission]):
    """Several limits as one: decorate with it, enter it, or acquire from it. Made by ``a & b``.

    Safe between threads, tasks and event loops, and in a forked child. ``limits``: in the order given.
    """

    def __init__(self, limits: Iterable[Limit]) -> None:
        self.limits = tuple(limits)
        for index, limit in enumerate(self.limits):
            if any(limit._shares_state(other) for other in self.limits[:index]):
                raise ConfigurationError(
                    f"limit {shown(limit.name)} is given twice, in {self.name}; a call is under a limit once: leave one"
                    " out"
                )
        bounds = [limit.max_wait for limit in self.limits if limit.max_wait is not None]
        self._max_wait = min(bounds, default=None)

    @property
    def name(self) -> str:
        """The names of its limits, with ``&`` between."""
        return " & ".join(limit.name for limit in self.limits)

    @property
    def max_wait(self) -> float | None:
        """The longest wait of a call in seconds: the shortest of its limits'; None: without a bound."""
        return self._max_wait

    def __repr__(self) -> str:
        return " & ".join(map(repr, self.limits))

    def __reduce__(self) -> tuple[Any, ...]:
        return JointLimit, (self.limits,)

    def __and__(self, other: Limit | JointLimit) -> JointLimit:
        """Return a limit of these limits and others."""
        return joint(self, other) if isinstance(other, Limit | JointLimit) else NotImplemented

    def acquire(
        self, cost: int | Mapping[str, int] = 1, max_wait: float | None = None, headroom: float | None = None
    ) -> JointAdmission:
        """Block until a call may start under each limit, at most ``max_wait`` seconds (default: the least of theirs).

        Calls count in each limit, other units in those that count them. Raises WaitTooLong, CacheError and
        ConfigurationError, as ``Limit.acquire``, with the name of the limit that refused. Then nothing stays booked in
        any of them.
        """
        return self._acquired(self._call(cost, max_wait, headroom))

    async def acquire_async(
        self, cost: int | Mapping[str, int] = 1, max_wait: float | None = None, headroom: float | None = None
    ) -> JointAdmission:
        """Wait, in a task, until a call may start under each limit; otherwise as ``acquire``.

        A cancelled wait keeps no slot and no place in line.
        """
        return await self._acquired_async(self._call(cost, max_wait, headroom, this_loop()))

    def _quotas(self) -> tuple[Quota, ...]:
        return tuple(limit._core.quota for limit in self.limits)

    def _is_good(self, admission: Admission) -> bool:
        """Return whether a call may still start on its admission, in each limit."""
        return all(limit._is_good(part) for limit, part in self._parts(admission))

    def _exchange(self, admission: Admission, max_wait: float | None = None) -> JointAdmission:
        """Block until a call may start that did not start on its admission in time; see ``Limit._exchange``."""
        return self._acquired(self._again(admission, max_wait))

    async def _exchange_async(self, admission: Admission, max_wait: float | None = None) -> JointAdmission:
        """Wait, in a task, until a call may start that did not start on its admission in time."""
        return await self._acquired_async(self._again(admission, max_wait, this_loop()))

    def _least_wait(self, admission: Admission) -> float:
        """Return a lower bound, in seconds, of how long an exchange would block, as far as this process knows."""
        return max(limit._least_wait(part) for limit, part in self._parts(admission))

    def status(self) -> tuple[Status, ...]:
        """Read how each limit stands; blocks for a cache command each, and raises CacheError where one fails."""
        return tuple(limit.status() for limit in self.limits)

    async def status_async(self) -> tuple[Status, ...]:
        """Read how each limit stands, from a task."""
        return tuple([await limit.status_async() for limit in self.limits])

    def _call(
        self,
        cost: int | Mapping[str, int],
        max_wait: float | None,
        headroom: float | None,
        loop: Loop | None = None,
    ) -> _Call:
        checked = [limit._checked(_part_of(cost, limit), None, headroom) for limit in self.limits]
        if isinstance(cost, Mapping):
            self._check_units(cost)
        parts = [_Part(limit, asked, free) for limit, (asked, _, free) in zip(self.limits, checked, strict=True)]
        return _Call(parts, self._longest(max_wait), loop)

    def _again(self, admission: Admission, max_wait: float | None, loop: Loop | None = None) -> _Call:
        parts = []
        for limit, part in self._parts(admission):
            asked, _, slot = limit._stale(part, None)
            parts.append(_Part(limit, asked, limit._left_free(part), slot))
        return _Call(parts, self._longest(max_wait), loop, is_again=True)

    def _longest(self, max_wait: float | None) -> float | None:
        return self._max_wait if max_wait is None else check_max_wait(max_wait, self.name)

    def _check_units(self, cost: Mapping[str, int]) -> None:
        counted = list(dict.fromkeys(unit for limit in self.limits for unit in (CALLS, *limit._core.quota.units)))
        for unit in cost:
            if unit not in counted:
                raise ConfigurationError(
                    f"limit {shown(self.name)}: cost {shown(cost)}: no limit of these counts {shown(unit)}, but"
                    f" {', '.join(counted)}"
                )

    def _acquired(self, call: _Call) -> JointAdmission:
        return self._admission(*run(call.steps(), self.limits[0]._core.clock))

    async def _acquired_async(self, call: _Call) -> JointAdmission:
        first = self.limits[0]._core
        return self._admission(*await run_async(call.steps(), first.clock, this_loop(), first.ledger.in_process))

    def _admission(self, parts: Sequence[tuple[_Part, Slot]], waited_us: int) -> JointAdmission:
        admissions = tuple(part.limit._admission(slot, waited_us, part.headroom) for part, slot in parts)
        return JointAdmission._of_parts(admissions, _Bookings(admissions))

    def _parts(self, admission: Admission) -> Iterable[tuple[Limit, Admission]]:
        assert isinstance(admission, JointAdmission)
        return zip(self.limits, admission.parts, strict=True)


class _Part(NamedTuple):
    """What a call asks of one limit, and a slot there on which it did not start in time."""

    limit: Limit
    cost: Hits
    headroom: int
    stale: Slot | None = None


class _Call:
    """One call: the limits in which it costs nothing only hold it back, the others book it together."""

    def __init__(
        self, parts: Sequence[_Part], max_wait: float | None, loop: Loop | None, is_again: bool = False
    ) -> None:
        self.parts, self.max_wait, self.is_again = parts, max_wait, is_again
        is_inner = not loop and is_nested()
        self.lines = [_line_of(part, loop, is_inner) for part in parts]

    def steps(self) -> QueueSteps[tuple[list[tuple[_Part, Slot]], int]]:
        """Wait for a slot in each; return them in order, and the µs waited."""
        counted = [index for index, part in enumerate(self.parts) if part.cost]
        slots: dict[int, Slot] = {}
        waited = 0
        for index, (part, line) in enumerate(zip(self.parts, self.lines, strict=True)):
            if not part.cost:
                slots[index], held = yield from part.limit._core.uncounted(self.max_wait, line)
                waited = max(waited, held)
        if counted:
            lines, costs = [self.lines[index] for index in counted], [self.parts[index].cost for index in counted]
            stale = [self.parts[index].stale for index in counted] if self.is_again else ()
            booked, booked_after = yield from JointCall(lines, costs, self.max_wait).steps(stale)
            slots |= dict(zip(counted, booked, strict=True))
            waited += booked_after
        return [(part, slots[index]) for index, part in enumerate(self.parts)], waited


def _line_of(part: _Part, loop: Loop | None, is_inner: bool) -> WaitQueue:
    core = part.limit._core
    if loop:
        return core.loop_line(loop, part.headroom)
    return core.own_line(part.headroom) if is_inner else core.thread_line(part.headroom)


class _Bookings(NamedTuple):
    """What an admission under several limits settles: each unit in the limits that count it."""

    parts: tuple[Admission, ...]

    @property
    def cost(self) -> Hits:
        """What it reserved, in each unit."""
        return largest(cost_of(part.costs) for part in self.parts)

    def settle(self, admission: Admission, units: Mapping[str, Any]) -> None:
        """Settle each part; see ``Admission.settle``."""
        for part, reserved, own in self._settled(admission.name, units):
            reserved.settle(part, own)

    async def settle_async(self, admission: Admission, units: Mapping[str, Any]) -> None:
        """Settle each part, from a task."""
        for part, reserved, own in self._settled(admission.name, units):
            await reserved.settle_async(part, own)

    def _settled(self, name: str, units: Mapping[str, Any]) -> list[tuple[Admission, Reservation, dict[str, Any]]]:
        """Return what goes to which part; ConfigurationError, and nothing changed, where one can't be settled."""
        known = [(part, reserved) for part in self.parts if (reserved := _reservation(part))]
        counted = list(dict.fromkeys(unit for _, reserved in known for unit in reserved.units))
        for unit in units:
            if unit not in counted:
                raise ConfigurationError(f"limit {name!r} does not count {shown(unit)}; settle {', '.join(counted)}")
        parts = []
        for part, reserved in known:
            own = {unit: hits for unit, hits in units.items() if unit in reserved.units}
            reserved.check(part, own)
            parts.append((part, reserved, own))
        return parts


def _part_of(cost: int | Mapping[str, int], limit: Limit) -> int | Mapping[str, int]:
    """Return what a call costs in one of its limits: calls, and the units that it counts."""
    if not isinstance(cost, Mapping):
        return cost
    return {unit: hits for unit, hits in cost.items() if unit == CALLS or unit in limit._core.quota.units}


def joint(*limits: Limit | JointLimit) -> JointLimit:
    """Return one limit of several, in order; those of a joint one come one by one."""
    each: list[Limit] = []
    for limit in limits:
        each += limit.limits if isinstance(limit, JointLimit) else [limit]
    return JointLimit(each)
