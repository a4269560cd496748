"""Events: what a limiter reports to its listeners, as it happens.

- A call that must wait causes ``Waiting``. Every call ends with one of ``Admitted``, ``Refused`` and ``Left``.
  ``call`` is the same number in all of them, unique in the process (0: a call that took a prefetched slot).
- ``cost`` is the calls that it takes, ``costs`` the hits by unit, calls among them.
- ``at`` is Unix time in seconds on the limit's clock; all durations are in seconds.
- A callback runs where the event happens: in the thread, or on the event loop, of its call, before that call starts.
  Events of a hold or an outage run in the thread that noticed it. So a callback must return at once. An exception in it
  is logged, once for each listener, and harms no call.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import get_ident
from types import TracebackType

from nekkar.core.errors import CacheError, ConfigurationError, shown

__all__ = [
    "Admitted",
    "CacheBack",
    "CacheLost",
    "Callback",
    "Event",
    "Held",
    "Left",
    "Listening",
    "Refused",
    "Waiting",
]

log = logging.getLogger("nekkar")


@dataclass(frozen=True, slots=True)
class Waiting:
    """A call waits for its slot, which comes at ``until`` or later; sent again when the slot moves off by a second.

    ``waited``: how long it has waited already.
    """

    name: str
    cost: int
    at: float
    until: float
    waited: float
    call: int
    costs: Mapping[str, int] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class Admitted:
    """A call starts; ``at`` is its slot."""

    name: str
    cost: int
    at: float
    waited: float
    call: int = 0
    costs: Mapping[str, int] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class Refused:
    """A call's slot lay further off than its ``max_wait``: it raises WaitTooLong."""

    name: str
    cost: int
    at: float
    waited: float
    retry_after: float
    max_wait: float
    call: int
    costs: Mapping[str, int] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class Left:
    """A call ended without a slot, by ``error``, such as a CacheError, a cancellation or an interrupt."""

    name: str
    cost: int
    at: float
    waited: float
    error: BaseException
    call: int
    costs: Mapping[str, int] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class Held:
    """This process learned that the limit is held until ``until``; sent again when the rest of the hold has doubled."""

    name: str
    at: float
    until: float


@dataclass(frozen=True, slots=True)
class CacheLost:
    """The cache did not answer; sent once until it is back."""

    error: CacheError


@dataclass(frozen=True, slots=True)
class CacheBack:
    """The cache answers again."""


Event = Waiting | Admitted | Refused | Left | Held | CacheLost | CacheBack
Callback = Callable[[Event], object]


class Listening:
    """One callback that gets a limiter's events, until ``stop()`` or the end of a ``with`` block."""

    def __init__(self, callback: Callback, all_of_them: list[Listening]) -> None:
        self._callback, self._all = callback, all_of_them
        self._failed = False
        self._busy: set[int] = set()  # threads in which it runs

    def stop(self) -> None:
        """Stop listening; a second time does nothing."""
        if self in self._all:
            self._all.remove(self)

    def hear(self, event: Event) -> None:
        """Call the callback, unless it caused the event itself; its first exception is logged."""
        thread = get_ident()
        if thread in self._busy:
            return
        try:
            self._busy.add(thread)
            self._callback(event)
        except Exception:
            said, self._failed = self._failed, True
            if not said:
                log.exception("listener %s failed at %s; said once", _name(self._callback), shown(event))
        finally:
            self._busy.discard(thread)

    def __enter__(self) -> Listening:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


class Listeners:
    """All listeners of one limiter. ``listening`` stays the same list, so a check whether it is empty is cheap."""

    def __init__(self) -> None:
        self.listening: list[Listening] = []

    def add(self, callback: Callback) -> Listening:
        """Call ``callback`` with each event from now on."""
        if not callable(callback):
            raise ConfigurationError(f"listener {shown(callback)} is not callable; give a function of one event")
        self.listening.append(Listening(callback, self.listening))
        return self.listening[-1]

    def tell(self, event: Event) -> None:
        """Pass ``event`` to all listeners."""
        for listening in tuple(self.listening):
            listening.hear(event)


def _name(callback: Callback) -> str:
    """Return the name of a callable. Its repr may hold a secret: that of a partial shows the arguments."""
    return str(getattr(callback, "__qualname__", type(callback).__qualname__))
