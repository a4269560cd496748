"""What users get from a limit: the admission of a call, and the limit's status. Times are in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from nekkar.core.cost import CALLS, Hits, as_mapping, cost_of, hits_in, merged
from nekkar.core.errors import ConfigurationError

_new, _set = object.__new__, object.__setattr__  # of a frozen value that is being made
_being_settled: dict[int, object] = {}  # by the id of an admission: the mark of the thread that settles it


class Booking(Protocol):
    """A call's booked hits, in the process that booked them: what its admission settles."""

    @property
    def cost(self) -> Hits: ...
    def settle(self, admission: Admission, units: Mapping[str, Any]) -> None: ...
    async def settle_async(self, admission: Admission, units: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True, slots=True)
class Admission:
    """A call's leave to start now.

    ``name``: the limit's. ``cost``: the calls it took. ``at``: the booked slot, Unix time in seconds on
    the limit's clock. ``waited``: seconds from asking to admission. As a context manager, sync or async, it is released
    at the end of the block.
    """

    name: str
    cost: int
    at: float
    waited: float
    _booking: Booking | None = field(default=None, init=False, repr=False, compare=False)
    _costs: Hits | None = field(default=None, init=False, repr=False, compare=False)
    _is_settled: bool = field(default=False, init=False, repr=False, compare=False)

    @classmethod
    def _of(cls, name: str, cost: Hits, at: float, waited: float, booking: Booking) -> Admission:
        """Return the admission of a booking, which can be settled; times in seconds."""
        admission = _new(cls)  # each call makes one: field by field, in half of the time
        _set(admission, "name", name)
        _set(admission, "cost", cost if cost.__class__ is int else hits_in(cost, CALLS))
        _set(admission, "at", at)
        _set(admission, "waited", waited)
        _set(admission, "_booking", booking)
        return admission

    def _after(self, waited: float) -> Admission:
        """Return the admission of the same booking, after a longer wait in seconds."""
        known = self._booking
        return self if known is None else self._of(self.name, known.cost, self.at, waited, known)

    def _settles(self) -> bool:
        """Return whether this is the first settlement: of several threads, one settles.

        Without a lock: a signal handler that settles would wait for its own thread. ``setdefault`` is one step.
        """
        mark = object()
        if _being_settled.setdefault(id(self), mark) is not mark:
            return False
        try:
            is_first = not getattr(self, "_is_settled", False)
            _set(self, "_is_settled", True)
        finally:
            del _being_settled[id(self)]
        return is_first

    @property
    def costs(self) -> dict[str, int]:
        """The hits it took, by unit; calls are among them."""
        known = self._booking.cost if self._booking else self._costs
        return as_mapping(self.cost if known is None else known)

    def settle(self, **units: int) -> None:
        """Replace what the call reserved by what it really used: ``settle(tokens=612)``.

        What was reserved and not used goes back to all who share the limit; what was used beyond it counts against
        later calls. A unit that is not named stays as it was reserved; ``calls`` may be settled too. After a loss, or
        once the hits do not matter any more, nothing changes. Blocks for a swap. Raises ConfigurationError for a unit
        that the limit does not count, for what is not a whole number from 0, for a second settlement, and in a process
        that does not have the admission (forked, or unpickled), and CacheError where the cache does not answer. A
        settlement is never repeated: then the hits count as reserved.
        """
        self._own_booking().settle(self, units)

    async def settle_async(self, **units: int) -> None:
        """Settle from a task; see ``settle``."""
        await self._own_booking().settle_async(self, units)

    def release(self) -> None:
        """Do nothing: a limit counts starts, not ends."""

    async def release_async(self) -> None:
        """Do nothing: a limit counts starts, not ends."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.release_async()

    def _own_booking(self) -> Booking:
        if self._booking is None:
            raise ConfigurationError(
                f"limit {self.name!r}: an admission can be settled only in the process that acquired it, and this is a"
                " copy; settle it there"
            )
        return self._booking

    def __reduce__(self) -> tuple[Any, ...]:
        return _copied, (self.name, self.at, self.waited, self.costs)  # the booking is this process's


def _copied(name: str, at: float, waited: float, costs: dict[str, int]) -> Admission:
    admission = Admission(name, costs[CALLS], at, waited)
    _set(admission, "_costs", cost_of(costs))
    return admission


@dataclass(frozen=True, slots=True)
class JointAdmission(Admission):
    """A call's leave to start now under several limits: ``parts`` has the admission of each, in the order given.

    ``name`` and ``at`` are the first's. A settlement goes to the parts that count the unit.
    """

    parts: tuple[Admission, ...] = ()

    @classmethod
    def _of_parts(cls, parts: tuple[Admission, ...], booking: Booking | None) -> JointAdmission:
        first, costs = parts[0], merged(*(part.costs for part in parts))
        admission = cls(first.name, costs[CALLS], first.at, first.waited, parts)
        _set(admission, "_booking", booking)
        _set(admission, "_costs", cost_of(costs))
        return admission

    def _after(self, waited: float) -> JointAdmission:
        """Return the admission of the same bookings, after a longer wait in seconds."""
        return JointAdmission._of_parts(tuple(part._after(waited) for part in self.parts), self._booking)

    def __reduce__(self) -> tuple[Any, ...]:
        return _copied_parts, (self.parts,)


def _copied_parts(parts: tuple[Admission, ...]) -> JointAdmission:
    return JointAdmission._of_parts(parts, None)


@dataclass(frozen=True, slots=True)
class Window:
    """One window of a limit: ``limit`` calls per ``period`` seconds, with the hits ``used`` and ``remaining``.

    ``unit``: what it counts, ``"calls"`` or another unit. Hits booked for later count as used. ``used`` may exceed
    ``limit`` where others share it with a larger one.
    """

    limit: int
    period: float
    used: int
    remaining: int
    unit: str = CALLS


@dataclass(frozen=True, slots=True)
class Status:
    """How a limit stands, as the cache tells it.

    ``windows``: of this process's terms. ``next_at``: the slot of one more call, behind all that wait, for one hit of
    each unit; Unix time in seconds on the limit's clock. A killed worker's call counts until its turn has passed.
    ``hold_until``: the end of a hold, likewise, or None. ``waiting``: callers of this process that wait now. ``at``:
    when it was read; ``last_at``: the last slot that has come, or None, both likewise.
    """

    name: str
    windows: tuple[Window, ...]
    next_at: float
    hold_until: float | None
    waiting: int
    at: float = field(default=0.0, compare=False)
    last_at: float | None = field(default=None, compare=False)
