"""What a limit tells its users: the admission of a call, and how the limit stands. Times are in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from nekkar.core.cost import CALLS, Hits, as_mapping, cost_of, hits_in
from nekkar.core.errors import ConfigurationError
from nekkar.core.quota import SECOND


class Booking(Protocol):
    """A call's booked hits, in the process that booked them: what its admission settles."""

    @property
    def cost(self) -> Hits: ...
    def settle(self, name: str, units: Mapping[str, Any]) -> None: ...
    async def settle_async(self, name: str, units: Mapping[str, Any]) -> None: ...


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

    @classmethod
    def _of(cls, name: str, booking: Booking, at_us: int, waited_us: int) -> Admission:
        """Return the admission of a booking, which can be settled."""
        admission = cls(name, hits_in(booking.cost, CALLS), at_us / SECOND, waited_us / SECOND)
        object.__setattr__(admission, "_booking", booking)
        object.__setattr__(admission, "_costs", booking.cost)
        return admission

    def _after(self, waited: float) -> Admission:
        """Return the same admission of a call that waited so long, in seconds."""
        admission = Admission(self.name, self.cost, self.at, waited)
        object.__setattr__(admission, "_booking", self._booking)
        object.__setattr__(admission, "_costs", self._costs)
        return admission

    @property
    def costs(self) -> dict[str, int]:
        """The hits it took, by unit; calls are among them."""
        return as_mapping(self.cost if self._costs is None else self._costs)

    def settle(self, **units: int) -> None:
        """Tell what the call really used, in place of what it reserved: ``settle(tokens=612)``.

        What was reserved and not used goes back to all who share the limit; what was used beyond it counts against
        later calls. A unit that is not named stays as it was reserved; ``calls`` may be settled too. After a loss, or
        once the hits do not matter any more, nothing changes. Blocks for a swap. Raises ConfigurationError for a unit
        that the limit does not count, for what is not a whole number from 0, for a second settlement, and in a process
        that does not have the admission (forked, or unpickled), and CacheError where the cache does not answer. A
        settlement is never repeated: then the hits count as reserved.
        """
        self._own_booking().settle(self.name, units)

    async def settle_async(self, **units: int) -> None:
        """Tell what the call really used, from a task; see ``settle``."""
        await self._own_booking().settle_async(self.name, units)

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
    object.__setattr__(admission, "_costs", cost_of(costs))
    return admission


@dataclass(frozen=True, slots=True)
class Window:
    """One window of a limit: ``limit`` calls per ``period`` seconds, of which so many are ``used``, ``remaining``.

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

    ``windows``: of this process's terms. ``next_at``: the next free slot for one hit of each unit, Unix time
    in seconds on the limit's clock. ``hold_until``: the end of a hold, likewise, or None. ``waiting``: callers
    of this process that wait now. ``at``: when it was read; ``last_at``: the last slot that has come, or None, both
    likewise.
    """

    name: str
    windows: tuple[Window, ...]
    next_at: float
    hold_until: float | None
    waiting: int
    at: float = field(default=0.0, compare=False)
    last_at: float | None = field(default=None, compare=False)
