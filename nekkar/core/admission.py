"""What a limit tells its users: the admission of a call, and how the limit stands. Times are in seconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nekkar.core.quota import SECOND

if TYPE_CHECKING:
    from nekkar.core.waiting.callers import Slot


@dataclass(frozen=True, slots=True)
class Admission:
    """A call's leave to start now.

    ``name``: the limit's. ``cost``: the hits it took. ``at``: the booked slot, Unix time in seconds on
    the limit's clock. ``waited``: seconds from asking to admission.
    """

    name: str
    cost: int
    at: float
    waited: float
    _slot: Slot | None = field(default=None, init=False, repr=False, compare=False)

    @classmethod
    def _of(cls, name: str, slot: Slot, waited_us: int) -> Admission:
        """Return the admission of a slot, which ``Limit._exchange`` can give back."""
        admission = cls(name, slot.cost, slot.at / SECOND, waited_us / SECOND)
        object.__setattr__(admission, "_slot", slot)
        return admission

    def __reduce__(self) -> tuple[Any, ...]:
        return Admission, (self.name, self.cost, self.at, self.waited)  # the slot is this process's


@dataclass(frozen=True, slots=True)
class Window:
    """One window of a limit: ``limit`` calls per ``period`` seconds, of which so many are ``used``, ``remaining``.

    Hits booked for later count as used. ``used`` may exceed ``limit`` where others share it with a larger one.
    """

    limit: int
    period: float
    used: int
    remaining: int


@dataclass(frozen=True, slots=True)
class Status:
    """How a limit stands, as the cache tells it.

    ``windows``: of this process's terms. ``next_at``: the next free slot for a call of cost 1, Unix time in
    seconds on the limit's clock. ``hold_until``: the end of a hold, likewise, or None. ``waiting``: callers
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
