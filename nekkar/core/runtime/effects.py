"""The effects that the generators of the ledger and of the wait queue yield to their drivers.

A generator yields an effect, and gets the result sent or the exception thrown. A ledger yields steps: single cache
calls and pauses. A wait queue yields whole runs of such steps, waits and checkpoints.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar
from weakref import ref

from nekkar.core.clock import Clock

T = TypeVar("T")


class Event(Protocol):
    """The event that wakes a waiting caller: of ``threading``, of anyio, or one of nekkar's own."""

    def set(self) -> Any: ...


class CacheCall(partial[Any]):
    """A step: call the cache. ``CacheCall(cache.gets, key)`` is to be called."""

    __slots__ = ()


class Backoff(NamedTuple):
    """A step: let some time pass."""

    us: int


CacheSteps = Generator[CacheCall | Backoff, Any, T]


class RunSteps(NamedTuple):
    """An effect: run these steps to their end, and send their result.

    ``shielded``: the caller is already leaving, and a second cancellation must not end the wait for them.
    ``in_process``: whether their cache answers at once, without I/O; None: the driver's own argument decides.
    """

    steps: CacheSteps[Any]
    shielded: bool = False
    in_process: bool | None = None


class WaitUntil(NamedTuple):
    """An effect: wait until an instant (None: no bound) or until the event is set. The wait may end early.

    ``is_watchful``: wait a second at most, then look whether the caller that this one depends on is still alive. Waits
    of threads always end so; for tasks it is optional, since it costs a timer, and there may be thousands. ``clock``:
    the clock of the instant; None: the driver's.
    """

    until_us: int | None
    event: Event
    is_watchful: bool = False
    clock: Clock | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An effect: let other tasks run, and let a pending cancellation arrive. A thread does nothing."""


QueueSteps = Generator[RunSteps | WaitUntil | Checkpoint, Any, T]


def has_ended(generator: ref[Generator[Any, Any, Any]]) -> bool:
    """Return whether a generator is gone, or has run to its end; one that was never begun has not."""
    known: Any = generator()
    return known is None or known.gi_frame is None


def is_under_way(generator: ref[Generator[Any, Any, Any]]) -> bool:
    """Return whether a generator has begun and not ended.

    This holds however it ended, even if an interrupt cut short its ``finally``.
    """
    known: Any = generator()
    return known is not None and (known.gi_running or known.gi_suspended)
