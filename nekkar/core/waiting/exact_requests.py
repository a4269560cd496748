"""Exact requests: calls that have a slot under another limit ask this line for that instant, or for no slot.

Plain state, changed under the lock of the line. Each request is an owner of its own in the state: its slot is found by
its name, whatever answers were lost, and no other caller takes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from secrets import randbits
from typing import TYPE_CHECKING

from nekkar.core.cost import Hits
from nekkar.core.errors import CacheError, copy_error
from nekkar.core.runtime.effects import Event
from nekkar.core.waiting.callers import InHand, Slot
from nekkar.core.window.exact import ExactSlot, is_past
from nekkar.core.window.state import MOST_HORIZON_US, LimitState, Place

if TYPE_CHECKING:
    from nekkar.core.waiting.assignments import Assignments


@dataclass(slots=True, eq=False)
class ExactRequest:
    """A request for a slot of this cost exactly at ``at`` (µs). ``owner``: its name in the state.

    ``ticket``: its caller's. ``horizon_us``: how far ahead its call must be booked. ``place``: the owner of its kept
    place; 0: none. Open until it has a ``slot``, is refused, comes too late or meets an ``error``.
    """

    ticket: int
    at: int
    cost: Hits
    horizon_us: int = 0
    place: int = 0
    owner: int = field(default_factory=lambda: randbits(64))
    slot: Slot | None = None
    error: Exception | None = None
    event: Event | None = None
    is_refused: bool = False
    is_late: bool = False
    is_started: bool = False
    is_withdrawn: bool = False

    @property
    def is_open(self) -> bool:
        """Whether it waits for an answer."""
        return not (self.slot or self.error or self.is_refused or self.is_late or self.is_withdrawn)


class ExactRequests:
    """The requests of one line: the ``open`` ones, and withdrawn ones whose slots may yet be found in the state.

    ``kept``: by owner, the places that the next write is to put or renew. ``gone``: the owners of places that are no
    longer needed, and since when.
    """

    def __init__(self, line: Assignments) -> None:
        self._line = line
        self.open: list[ExactRequest] = []
        self.kept: dict[int, Place] = {}
        self.gone: dict[int, int] = {}
        self._withdrawn: list[ExactRequest] = []

    @property
    def is_busy(self) -> bool:
        """Whether anything is wanted, kept, or to be taken out."""
        return bool(self.open or self.kept or self.gone or self._withdrawn)

    def wanted(self) -> list[ExactSlot]:
        """Return what the next write should book."""
        return [ExactSlot(one.owner, one.at, one.cost, one.place) for one in self.open]

    def pick_up(self, state: LimitState) -> None:
        """Take the slots that requests got out of a state; have those of withdrawn ones taken out of it."""
        if not (self.open or self._withdrawn):
            return
        granted = {grant.owner: InHand(grant, state.epoch, grant.cost) for grant in state.grants}
        for request in [request for request in self.open if request.owner in granted]:
            grant = granted[request.owner]
            request.slot = Slot(grant.grant.slot, grant.grant.cost, grant)
            self._answer(request)
        for request in [request for request in self._withdrawn if request.owner in granted]:
            self._withdrawn.remove(request)
            grant = granted[request.owner]
            self._take_back(Slot(grant.grant.slot, grant.grant.cost, grant))

    def refused(self, asked: Sequence[ExactSlot], planned: LimitState) -> list[ExactRequest]:
        """Return the requests, of those asked for, that get no slot in a state that is planned."""
        wanted, granted = {one.owner for one in asked}, {grant.owner for grant in planned.grants}
        return [one for one in self.open if one.owner in wanted and one.owner not in granted]

    def refuse(self, refused: Sequence[ExactRequest], state: LimitState, now: int) -> bool:
        """Answer requests that get no slot; return whether the limit bound: one of them came in time."""
        for request in refused:
            request.is_late = is_past(request.at, state.margin(self._line.ledger.quota, now), now)
            request.is_refused = not request.is_late
            self._answer(request)
        return any(request.is_refused for request in refused)

    def keep(self, place: Place) -> None:
        """Have a place put, or renewed, that is kept for a call that waits for another limit."""
        if place.owner in self.gone:  # its call has just left, in another thread
            return
        self.kept[place.owner] = place
        self._line.must_write = True

    def drop(self, owner: int, *, at_once: bool) -> None:
        """Have a kept place taken out; the line takes it over where it has none of its own, and callers."""
        now = self._line.ledger.clock.now_us()
        self.kept.pop(owner, None)
        self.gone = {one: since for one, since in self.gone.items() if since > now - 2 * MOST_HORIZON_US}
        self.gone[owner] = now
        self._line.must_write |= at_once

    def were_kept(self, sent: Sequence[Place]) -> None:
        """Take note of the places that a write put."""
        for place in sent:
            if self.kept.get(place.owner) is place:
                del self.kept[place.owner]

    def fail(self, error: CacheError, requests: Sequence[ExactRequest] | None = None) -> None:
        """Answer requests with an error, all of them unless given. Slots that they may have got are to be taken out."""
        for request in list(self.open) if requests is None else requests:
            request.error = copy_error(error)
            self.withdraw(request)
            self._answer(request)

    def withdraw(self, request: ExactRequest) -> None:
        """Have the slot of a request taken out of the state, now or as soon as it is seen there."""
        if request in self.open:
            self.open.remove(request)
        if request.is_withdrawn:
            return
        if request.slot:
            slot, request.slot = request.slot, None
            self._take_back(slot)
        elif request.is_open or request.error:  # what the last write did is not known
            now = self._line.ledger.clock.now_us()
            self._withdrawn = [one for one in self._withdrawn if one.at > now - 2 * MOST_HORIZON_US]
            self._withdrawn.append(request)
            self._line.must_write |= request.is_open
        request.is_withdrawn = True

    def _take_back(self, slot: Slot) -> None:
        self._line.take_back(slot)
        self._line.must_write = True

    def _answer(self, request: ExactRequest) -> None:
        if request in self.open:
            self.open.remove(request)
        self._line.to_wake.append(request)
