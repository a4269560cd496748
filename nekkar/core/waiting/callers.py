"""The callers of a line, and the order they stand in: by arrival, whatever happened to them since."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import takewhile

from nekkar.core.clock import ticks
from nekkar.core.errors import WaitTooLong
from nekkar.core.runtime.effects import Event
from nekkar.core.window.booking import Slot


@dataclass(slots=True, eq=False)
class Caller:
    """One call: ``cost`` hits, by ``deadline`` (µs, or None). It has a slot, an error, or waits for either.

    ``ticked``: the machine's ticks at its arrival, where the limit's clock was still to be read then.
    """

    ticket: int
    cost: int
    arrived: int
    deadline: int | None
    max_wait: float | None
    ticked: int | None = None
    slot: Slot | None = None
    error: Exception | None = None
    event: Event | None = None
    told_until: int = 0  # what was said of its wait (voice.py)
    has_started: bool = False

    def settle(self, now: int) -> None:
        """Count the arrival and the deadline on the limit's clock, which may have been read since."""
        if self.ticked is not None:
            shift = now - (ticks() - self.ticked) - self.arrived
            self.arrived += shift
            self.deadline = None if self.deadline is None else self.deadline + shift

    def too_long(self, name: str, at: int, now: int) -> WaitTooLong:
        """Return the error for a caller whose slot can't come before ``at``."""
        return WaitTooLong(name, max(0, at - now) / 1e6, self.max_wait or 0.0)


def arriving(ticket: int, cost: int, max_wait: float | None, now: int, clock_is_due: bool) -> Caller:
    """Return a caller that arrives ``now``, by a limit's clock that may have to be read first."""
    deadline = None if max_wait is None else now + round(max_wait * 1e6)
    return Caller(ticket, cost, now, deadline, max_wait, ticks() if clock_is_due else None)


@dataclass(slots=True, eq=False)
class Booking:
    """What ``leader`` has its steps made for: ``started`` by a driver, and ``left`` by the leader."""

    leader: Caller
    started: bool = False
    left: bool = False


class Order:
    """Callers with slots, by these and by arrival: they start in this order, whichever timer ends first."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Caller]] = []

    def add(self, caller: Caller, slot: Slot) -> None:
        """Take in a caller with its slot; it may leave, or come again with another."""
        heappush(self._heap, (slot.at, caller.ticket, caller))

    def first(self) -> Caller | None:
        """Return who is to start next."""
        while self._heap:
            at, _, caller = self._heap[0]
            if caller.slot and caller.slot.at == at and not caller.has_started:
                return caller
            heappop(self._heap)
        return None


class Queue:
    """Callers without a slot, by ticket; joining at the end and leaving take constant time.

    ``hits``: what they ask for in all. ``bounded``: how many of them have a deadline.
    """

    def __init__(self) -> None:
        self._callers: OrderedDict[int, Caller] = OrderedDict()
        self.hits = self.bounded = 0

    def __len__(self) -> int:
        return len(self._callers)

    def __iter__(self) -> Iterator[Caller]:
        return iter(self._callers.values())

    def __contains__(self, caller: Caller) -> bool:
        return caller.ticket in self._callers

    @property
    def head(self) -> Caller | None:
        """The caller whose turn it is."""
        return next(iter(self._callers.values()), None)

    def join(self, caller: Caller) -> None:
        """Stand at the end."""
        self._callers[caller.ticket] = caller
        self.hits += caller.cost
        self.bounded += caller.deadline is not None

    def rejoin(self, callers: Sequence[Caller]) -> None:
        """Stand where they stood before: at the front, behind whoever came earlier."""
        last = max(caller.ticket for caller in callers)
        ahead = list(takewhile(lambda ticket: ticket < last, self._callers))
        for caller in callers:
            self.join(caller)
        for ticket in sorted([*ahead, *(caller.ticket for caller in callers)], reverse=True):
            self._callers.move_to_end(ticket, last=False)

    def hopeless(self, no_slot_before: Callable[[int, int, int], int]) -> list[tuple[Caller, int]]:
        """Return the callers whose slot can't come before their deadline, and when it could.

        ``no_slot_before``: the bound for a cost behind so many hits of so many calls.
        """
        found: list[tuple[Caller, int]] = []
        hits = calls = 0
        for caller in self if self.bounded else ():
            at = no_slot_before(caller.cost, hits, calls) if caller.deadline is not None else 0
            if at > (caller.deadline or 0):
                found.append((caller, at))
            else:
                hits, calls = hits + caller.cost, calls + 1
        return found

    def leave(self, caller: Caller) -> None:
        """Step out; nothing happens where the caller does not stand here."""
        if self._callers.pop(caller.ticket, None):
            self.hits -= caller.cost
            self.bounded -= caller.deadline is not None
