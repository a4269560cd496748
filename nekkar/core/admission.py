"""What a limit tells its users: the admission of a call, and how the limit stands. Times are in seconds."""

from __future__ import annotations

from dataclasses import dataclass, field


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
