"""What the generators of the ledger and the line ask of their drivers.

A generator yields an effect and is sent what came of it, or thrown what it raised. The ledger's steps
touch the cache; the line's effects run such steps whole, and wait.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar
from weakref import ref

from nekkar.core.clock import Clock

T = TypeVar("T")


class Event(Protocol):
    """What a waiting caller is woken by: threading's or anyio's event."""

    def set(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class CacheCall:
    """A step: call the cache."""

    function: Callable[..., Any]
    args: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Backoff:
    """A step: let some time pass."""

    us: int


CacheSteps = Generator[CacheCall | Backoff, Any, T]


@dataclass(frozen=True, slots=True)
class RunSteps:
    """An effect: run these steps to their end, and send what they return.

    ``shielded``: the caller is leaving, and a cancellation must not cut these short. ``in_process``: whether their
    cache answers at once, without I/O; None: as the driver was told.
    """

    steps: CacheSteps[Any]
    shielded: bool = False
    in_process: bool | None = None


@dataclass(frozen=True, slots=True)
class WaitUntil:
    """An effect: wait until an instant (None: no bound) or until the event is set; it may end early.

    ``is_watchful``: the wait ends after a second at most, to see whether others still do their part. In threads every
    wait does; tasks are many, and each such wait costs one a timer. ``clock``: of the instant; None: the driver's.
    """

    until_us: int | None
    event: Event
    is_watchful: bool = False
    clock: Clock | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An effect: let other tasks run, and a cancellation come. A thread goes straight on."""


QueueSteps = Generator[RunSteps | WaitUntil | Checkpoint, Any, T]


def is_under_way(generator: ref[Generator[Any, Any, Any]]) -> bool:
    """Return whether a generator has begun and not ended.

    However it ends, this sees it: also where an interrupt cuts short what its ``finally`` would have put right.
    """
    known: Any = generator()
    return known is not None and (known.gi_running or known.gi_suspended)
