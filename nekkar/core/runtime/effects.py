"""What the generators of the ledger and the line ask of their drivers.

A generator yields an effect and is sent what came of it, or thrown what it raised. The ledger's steps
touch the cache; the line's effects run such steps whole, and wait.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

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
    """An effect: wait until an instant (None: no bound) or until the event is set."""

    until_us: int | None
    event: Event


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An effect: let other tasks run, and a cancellation come. A thread goes straight on."""


Effects = Generator[Transact | Wait | Checkpoint, Any, T]
