"""The callers of a line, each in one of four states, and the orders in which they wait and start.

| state | the caller | leads to |
|---|---|---|
| QUEUED | waits in line without a slot | BOOKED when a slot is given to it; LEFT when it is refused or goes away |
| BOOKED | has a slot, and sleeps until it | STARTED at its slot; QUEUED where the slot is void or late; LEFT |
| STARTED | has been admitted | |
| LEFT | was refused, cancelled or interrupted | |
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from heapq import heappop, heappush
from itertools import count, takewhile
from typing import Any, NamedTuple, Protocol
from weakref import ref

from nekkar.core.cost import Hits
from nekkar.core.errors import WaitTooLong
from nekkar.core.runtime.effects import Event, QueueSteps, is_under_way
from nekkar.core.window.settlement import Settlement
from nekkar.core.window.state import Grant, LimitState

_tickets, _front_tickets = count(1), count(-(1 << 40))


def new_ticket(is_front: bool) -> int:
    """Return the ticket of a caller that comes now (``is_front``: in front of all): callers wait in order of these."""
    return next(_front_tickets if is_front else _tickets)


@dataclass(slots=True, eq=False)
class InHand:
    """A grant that a line picked up in ``epoch``; callers ``used`` a part of it. Once closed, the rest can't be used.

    ``pid``: the process that it belongs to.
    """

    grant: Grant
    epoch: int
    used: Hits = 0
    is_closed: bool = False
    pid: int = field(default_factory=os.getpid)

    @property
    def left(self) -> Hits:
        """The hits that callers may still take."""
        return 0 if self.is_closed else self.grant.cost - self.used


class Slot(NamedTuple):
    """``cost`` at ``at`` (µs), out of a grant in hand."""

    at: int
    cost: Hits
    source: InHand


class Elsewhere(Protocol):
    """The other limits of a call, as seen by the line in which its caller waits; see ``together.py``."""

    @property
    def lead_us(self) -> int:
        """How far ahead its slot must be booked, so that the others can be asked for it."""

    @property
    def horizon_us(self) -> int:
        """The longest horizon that one of its limits asks for."""

    @property
    def are_unlike(self) -> bool:
        """Whether the longest periods of its limits differ."""

    def look(self) -> QueueSteps[None]:
        """Read the states of the others, where these are not quite new."""

    def follow(self, turn_at: int, is_first: bool) -> None:
        """Have places kept in the others for a turn that comes at ``turn_at``."""

    def drop_places(self) -> None:
        """Give up the places that are kept in the others."""

    def put_places(self) -> QueueSteps[None]:
        """Write the places that are to be kept in the others."""

    def full(self, expected: dict[object, LimitState], slot: int, now: int) -> WaitsElsewhere | None:
        """Return the way to the limit that would refuse this slot in its ``expected`` state; else add it to that."""

    def way_to(self, line: Any) -> WaitsElsewhere | None:
        """Return the error that sends the call to another line; None if it does not need the limit of that line."""

    def book(self, slot: Slot) -> QueueSteps[bool]:
        """Book the same instant in each; return whether that was in time. Raises WaitsElsewhere where one refuses."""

    def is_good(self, slot: Slot) -> bool:
        """Whether the others have the same slot, and the call may still start on it there."""

    def starts(self) -> None:
        """Take note that it starts."""

    def cancel(self) -> QueueSteps[None]:
        """Give back what is booked in the others."""


class WaitsElsewhere(Exception):
    """The caller must wait in the line of another of its limits (rules 25 and 28): ``lead`` is that one's number."""

    def __init__(self, lead: int) -> None:
        super().__init__(lead)
        self.lead = lead


class State(Enum):
    """What becomes of a caller; see the table above."""

    QUEUED = "queued"
    BOOKED = "booked"
    STARTED = "started"
    LEFT = "left"


@dataclass(slots=True, eq=False)
class Caller:
    """One call of this cost, by ``deadline`` (µs; None: no deadline). ``call``: the generator that runs it.

    ``elsewhere``: its other limits, where it has several.
    """

    ticket: int
    cost: Hits
    arrived: int
    deadline: int | None
    max_wait: float | None
    call: ref[Generator[Any, Any, Any]] | None = None
    state: State = State.QUEUED
    slot: Slot | None = None
    error: Exception | None = None
    event: Event | None = None
    reported_until: int = 0  # the end of its wait, as listeners know it (reporter.py)
    elsewhere: Elsewhere | None = None

    @property
    def is_gone(self) -> bool:
        """Whether the call ended without waking the others, as after an interrupt in the middle of leaving."""
        return self.call is not None and not is_under_way(self.call)

    @property
    def is_out(self) -> bool:
        """Whether it wants no slot any more: it has left, or was answered with an error."""
        return self.state is not State.QUEUED or self.error is not None

    def too_long(self, name: str, at: int, now: int) -> WaitTooLong:
        """Return the error for a caller whose slot can't come before ``at``."""
        return WaitTooLong(name, max(0, at - now) / 1e6, self.max_wait or 0.0)


@dataclass(slots=True, eq=False)
class Settling:
    """A settlement to be written; ``error``: why it was not written, or is not known to be."""

    settlement: Settlement
    is_done: bool = False
    error: Exception | None = None
    event: Event | None = None


class StartOrder:
    """Booked callers by slot, then by arrival: tasks start in this order, whichever timer ends first."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Caller]] = []

    def add(self, caller: Caller, slot: Slot) -> None:
        """Add a caller with its slot; it may leave later, or be added again with another slot."""
        heappush(self._heap, (slot.at, caller.ticket, caller))

    def first(self) -> Caller | None:
        """Return the caller that is to start next."""
        while self._heap:
            at, _, caller = self._heap[0]
            if caller.state is State.BOOKED and caller.slot and caller.slot.at == at and not caller.is_gone:
                return caller
            heappop(self._heap)
        return None


class Queue:
    """Callers without a slot, by ticket; joining at the end and leaving take constant time.

    ``by_ticket``: all, in order. ``hits``: what they ask for in all. ``bounded``: how many of them have a deadline.
    """

    def __init__(self) -> None:
        self.by_ticket = OrderedDict[int, Caller]()
        self.hits: Hits = 0
        self.bounded = 0

    def __len__(self) -> int:
        return len(self.by_ticket)

    def __iter__(self) -> Iterator[Caller]:
        return iter(list(self.by_ticket.values()))  # a finaliser that the collector runs may leave meanwhile

    def __contains__(self, caller: Caller) -> bool:
        return caller.ticket in self.by_ticket

    @property
    def head(self) -> Caller | None:
        """The first caller, whose turn it is to lead."""
        while (first := next(iter(self.by_ticket.values()), None)) and first.is_gone:
            self.leave(first)
        return first

    @property
    def only(self) -> Caller | None:
        """The caller, where there is just one."""
        return next(iter(self.by_ticket.values())) if len(self.by_ticket) == 1 else None

    @property
    def last_ticket(self) -> int:
        """The ticket of the last caller; 0 where nobody stands in line."""
        return next(reversed(self.by_ticket), 0)

    def join(self, caller: Caller) -> None:
        """Stand at the end."""
        self.by_ticket[caller.ticket] = caller
        self.hits += caller.cost
        self.bounded += caller.deadline is not None

    def enter(self, caller: Caller) -> None:
        """Stand where the ticket says: at the end, if nobody here came later."""
        if caller.ticket < self.last_ticket:
            self.rejoin([caller])
        else:
            self.join(caller)

    def rejoin(self, callers: Sequence[Caller]) -> None:
        """Rejoin by arrival: at the front, behind the callers that came earlier."""
        last = max(caller.ticket for caller in callers)
        ahead = list(takewhile(lambda ticket: ticket < last, self.by_ticket))
        for caller in callers:
            if caller.ticket not in self.by_ticket:
                self.join(caller)
        for ticket in sorted([*ahead, *(caller.ticket for caller in callers)], reverse=True):
            self.by_ticket.move_to_end(ticket, last=False)

    def leave(self, caller: Caller) -> None:
        """Leave; does nothing if the caller is not here."""
        if self.by_ticket.pop(caller.ticket, None):
            self.hits -= caller.cost
            self.bounded -= caller.deadline is not None
