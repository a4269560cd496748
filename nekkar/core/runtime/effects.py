"""What the generators of the ledger and the line ask of their drivers.

A generator yields an effect and is sent what came of it, or thrown what it raised. The ledger's steps
touch the cache; the line's effects run such steps whole, and wait.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar
from weakref import ref

T = TypeVar("T")


class Event(Protocol):
    """What a waiting caller is woken by: threading's or anyio's event."""

    def set(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class Call:
    """A step: call the cache."""

    function: Callable[..., Any]
    args: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Pause:
    """A step: let some time pass."""

    us: int


Steps = Generator[Call | Pause, Any, T]


@dataclass(frozen=True, slots=True)
class Transact:
    """An effect: run these steps to their end, and send what they return.

    ``shielded``: the caller is leaving, and a cancellation must not cut these short.
    """

    steps: Steps[Any]
    shielded: bool = False


@dataclass(frozen=True, slots=True)
class Wait:
    """An effect: wait until an instant (None: no bound) or until the event is set; it may end early.

    ``watchful``: the wait ends after a second at most, whatever the clock says, to see whether others still do their
    part. In threads every wait does; tasks are many, and each such wait costs one a timer.
    """

    until_us: int | None
    event: Event
    watchful: bool = False


Effects = Generator[Transact | Wait, Any, T]


def is_under_way(generator: ref[Generator[Any, Any, Any]]) -> bool:
    """Return whether a generator has begun and not ended.

    However it ends, this sees it: also where an interrupt cuts short what its ``finally`` would have put right.
    """
    known: Any = generator()
    return known is not None and (known.gi_running or known.gi_suspended)
