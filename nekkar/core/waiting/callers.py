"""The callers of a line, and the order they stand in: by arrival, whatever happened to them since."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import takewhile
from operator import itemgetter
from typing import Any
from weakref import ref

from nekkar.core.errors import WaitTooLong
from nekkar.core.runtime.effects import Event, is_under_way
from nekkar.core.window.booking import Slot

PATIENCE_S = 2.0  # of a booking or a look of another call, before one makes one's own beside it


@dataclass(slots=True, eq=False)
class Caller:
    """One call: ``cost`` hits, by ``deadline`` (µs, or None). It has a slot, an error, or waits for either.

    ``call``: the generator of its way through the line.
    """

    ticket: int
    cost: int
    arrived: int
    deadline: int | None
    max_wait: float | None
    call: ref[Generator[Any, Any, Any]] | None = None
    slot: Slot | None = None
    error: Exception | None = None
    event: Event | None = None
    told_until: int = 0  # what was said of its wait (voice.py)
    logged: bool = False
    has_started: bool = False

    @property
    def is_gone(self) -> bool:
        """Whether the call ended without a word to the others, as interrupts in the midst of its leaving do."""
        return self.call is not None and not is_under_way(self.call)

    def arrive(self, now: int) -> None:
        """Begin to wait."""
        self.arrived = now
        self.deadline = None if self.max_wait is None else now + round(self.max_wait * 1e6)

    def too_long(self, name: str, at: int, now: int) -> WaitTooLong:
        """Return the error for a caller whose slot can't come before ``at``."""
        return WaitTooLong(name, max(0, at - now) / 1e6, self.max_wait or 0.0)


@dataclass(slots=True, eq=False)
class Booking:
    """A booking that ``leader`` has made for all, by ``steps``: ``started`` by a driver, and ``left`` by the leader.

    ``overdue``: when others wait for it no longer (``monotonic``, seconds).
    """

    leader: Caller
    overdue: float
    steps: ref[Generator[Any, Any, Any]] | None = None
    started: bool = False
    left: bool = False

    @property
    def is_over(self) -> bool:
        """Whether nothing will come of it any more, once its leader has left."""
        return not self.started or self.steps is None or not is_under_way(self.steps)


class Order:
    """Callers with slots, by these and by arrival: they start in this order, whichever timer ends first."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Caller]] = []

    def add(self, caller: Caller, slot: Slot) -> None:
        """Take in a caller with its slot; it may leave, or come again with another."""
        heappush(self._heap, (slot.at, caller.ticket, caller))

    def __iter__(self) -> Iterator[Caller]:
        return (entry[2] for entry in sorted(self._heap, key=itemgetter(0, 1)) if _counts(*entry))

    def first(self) -> Caller | None:
        """Return who is to start next."""
        while self._heap:
            if _counts(*self._heap[0]):
                return self._heap[0][2]
            heappop(self._heap)
        return None


def _counts(at: int, ticket: int, caller: Caller) -> bool:
    """Return whether a caller in order still has the slot that it was added with."""
    return caller.slot is not None and caller.slot.at == at and not caller.has_started and not caller.is_gone


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
        return iter(list(self._callers.values()))  # a generator that the collector finalises may leave meanwhile

    def __contains__(self, caller: Caller) -> bool:
        return caller.ticket in self._callers

    @property
    def head(self) -> Caller | None:
        """The caller whose turn it is."""
        return next(iter(self._callers.values()), None)

    def standing(self) -> list[Caller]:
        """Return all, counted anew: an interrupt may have come between a change and its count."""
        callers = list(self)
        self.hits = sum([caller.cost for caller in callers])
        self.bounded = sum([caller.deadline is not None for caller in callers])
        return callers

    def join(self, caller: Caller) -> None:
        """Stand at the end."""
        self._callers[caller.ticket] = caller
        self.hits += caller.cost
        self.bounded += caller.deadline is not None

    def rejoin(self, callers: Sequence[Caller]) -> None:
        """Stand where they stood before: at the front, behind whoever came earlier."""
        last = max(caller.ticket for caller in callers)
        ahead = list(takewhile(lambda ticket: ticket < last, list(self._callers)))
        for caller in callers:
            self.join(caller)
        for ticket in sorted([*ahead, *(caller.ticket for caller in callers)], reverse=True):
            if ticket in self._callers:
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
