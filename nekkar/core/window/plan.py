"""The plan: who gets which slot, worked out from a state by the line that is about to write it.

Rules (numbered as in docs/concepts/line.md):

1. Slot. The earliest instant at which the hit log allows the call, under the caller's own rates and spacing, and under
   the largest margin in use. Hits are only appended.
2. Turns. The next slot goes to the first place, in order, that is ready by the slot that it would have, or soon after a
   close one (``Quota.late_us``); else to the place that is ready first. Each planned slot counts for those behind it.
3. Backfill. Where the next turn is later than now, the first place behind it of a smaller cost may go before it, if
   that leaves this one turn where it was. Only the next turn is protected, so no place starves.
4. Grants. The writer books all turns up to now + horizon: those of its own callers (after each its place goes to the
   tail, for its next caller), and those of each place with credit. The turn of a place without credit is kept free.
   If nobody is ready to use the room before the next turn, it books only as far ahead as its own distance to the cache
   needs: callers that come meanwhile may use that room, but get no slot before a booked hit. For the same reason a
   limit with units is booked up to half of the horizon only: what is settled meanwhile can be used at once.
5. Credit. A grant takes one credit from a place. A place with credit left goes to the tail, ready when its owner is
   back or when the tail has its turn, whichever is later. A place without credit is dropped, and so is one whose owner
   is back only after the turn of the tail, and after the horizon.
6. Own place. The callers that are left keep the place where it stood, or get one at the tail.

12. Lapse. The writer drops the places whose owners did not look when they said they would, a horizon later.
13. Terms. Places carry their rates and spacing. Nobody plans, grants or waits for a place under other terms.

Planned slots that are not due are not stored: the next reader plans again. Pure.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from operator import attrgetter
from typing import Any, NamedTuple

from nekkar.core.cost import Hits, total
from nekkar.core.quota import Quota, leaving
from nekkar.core.window.booking import (
    BookingRequest,
    SlotRequest,
    earliest_slot_behind,
    most_credit,
    prefetchable,
    spaced_after,
    spent,
    tidied,
)
from nekkar.core.window.entries import Entry, ExactEntry, OwnEntry, entries_of, under_other_terms
from nekkar.core.window.exact import ExactSlot, insert_exact, with_places
from nekkar.core.window.order import Order
from nekkar.core.window.state import Grant, LimitState, Place
from nekkar.core.window.timeline import Timeline

PLANNED_AHEAD = 16  # behind more places than this, a bound of the turn does instead of a plan
NOBODY = 0  # the owner of no line
CLOCKS_APART_US = 5000  # a hit so little ahead of now was booked for now, by a clock that differs


class Plan(NamedTuple):
    """What to write. ``turn``: the slot that the first caller left would have; None where each has a slot.

    ``own_slots``: the writer's own callers that got slots, in order, with these. ``too_late``: the callers whose
    deadline is before their slot, with that slot. ``is_bound``: the next call has to wait for room. ``unsure_at``: the
    first turn, of those planned, of a place without credit: its owner may not use it. 0: there is none.
    """

    state: LimitState
    turn: int | None
    own_slots: list[tuple[Any, int]]
    too_late: list[tuple[Any, int]]
    is_bound: bool
    unsure_at: int


def planned(state: LimitState, request: BookingRequest) -> Plan:
    """Grant all that falls due within the horizon, in the order of turns; return what to write."""
    state = with_places(tidied(state, request), request.kept)
    quota = state.reported.kept(request.quota, request.now)
    state, behind = insert_exact(state, request.exact, quota, leaving(quota, request.headroom), request.now)
    return _Planner(state, request, behind).plan()


def next_slot(state: LimitState, quota: Quota, cost: Hits, now: int, headroom: int = 0) -> int:
    """Return the slot that one more call would have, behind all that wait; behind many places, a lower bound of it."""
    plan = planned(state, BookingRequest(NOBODY, quota, [_Call(cost)], now, waiting=1, headroom=headroom))
    return next((grant.slot for grant in plan.state.grants if grant.owner == NOBODY), plan.turn or now)


class _Call(NamedTuple):
    """A call that is only planned, to learn its slot."""

    cost: Hits
    deadline: int | None = None


class _Planner:
    """One plan under way.

    ``booked``: the log with what this write books; ``ahead``: the log with all turns planned so far. ``open``: the
    entries that want a turn in this plan. ``entries``: those that keep a place after it; ``weight``: their hits.
    ``own``: the entry of the writer's first caller. ``others``: places under other terms, which stay as they are.
    """

    def __init__(self, state: LimitState, request: BookingRequest, exact: Sequence[ExactSlot]) -> None:
        self.state, self.request, self.quota = state, request, state.reported.kept(request.quota, request.now)
        self.part = leaving(self.quota, request.headroom)
        self.margin_us = state.margin(request.quota, request.now)
        self.soonest = max(request.now + request.lead_us, state.hold_until)
        self.until = request.now + state.horizon_us
        if not (exact or self.quota.counts_calls_alone):  # settlements give hits back meanwhile
            self.until -= max(0, state.horizon_us // 2 - request.lead_us)
        self.gap_until = request.now + (request.gap_us or state.horizon_us)
        self.booked, self.ahead = Timeline(state.hits), Timeline(state.hits)
        self.slots: list[tuple[int, Hits]] = []
        self.grants: list[Grant] = []
        self.serial = state.serial
        self.callers = iter(request.callers)
        self.caller = next(self.callers, None)
        self.own_slots: list[tuple[Any, int]] = []
        self.too_late: list[tuple[SlotRequest, int]] = []
        # Rule 13: nobody plans, grants or waits for a place under other terms. It keeps its own against all hits.
        strangers = under_other_terms(state.places, request.terms)
        foreign = [place for place in state.places if id(place.terms) in strangers] if strangers else []
        self.others = [place for place in foreign if place.owner != request.owner and place.owner not in request.gone]
        self.open = entries_of(state, request, self.caller.cost if self.caller else None, exact)
        self.own = next((entry for entry in self.open if isinstance(entry, OwnEntry)), None)
        self.entries = [entry for entry in self.open if not isinstance(entry, ExactEntry) or entry.place]
        self.weight = total([entry.cost for entry in self.entries])
        self.order = Order(self.open, self.ahead, self.quota, self.margin_us, self.soonest)
        self.turn: int | None = None
        self.unsure_at = 0

    def plan(self) -> Plan:
        while self.open:
            entry, slot = self.order.next()
            if isinstance(entry, ExactEntry):
                self._book_exact(entry, slot)
                continue
            if entry is self.own and self._is_too_late(slot):
                self._skip_caller(entry, slot)
                continue
            if slot > self.gap_until and self.own is None and self._leaves_gap(entry, slot):
                break
            if slot > self.until:
                if self.own is None:
                    break
                if entry is self.own:
                    self.turn = slot
                    break
                if self.open.index(self.own) > PLANNED_AHEAD:
                    self.turn = self._bound_of_own_turn()
                    break
            self.open.remove(entry)
            self.ahead.add(slot, entry.cost)
            if isinstance(entry, Place) and not entry.credit:  # its turn is kept free, and its owner books it (rule 4)
                self.unsure_at = self.unsure_at or slot
            elif slot <= self.until:
                self._grant(entry, slot)
        self._prefetch()
        is_bound = self._turn_of_tail() > self.soonest
        if self.quota.late_us:  # the next call always has to wait a little: the limit binds if one of these has to
            is_bound = self.turn is not None or any(slot > self.soonest for _, slot in self.own_slots)
        return Plan(self._state(), self.turn, self.own_slots, self.too_late, is_bound, self.unsure_at)

    def _leaves_gap(self, entry: Place | OwnEntry, slot: int) -> bool:
        """Whether a grant at this slot would leave room before it that nobody is ready to use (rule 4)."""
        return isinstance(entry, Place) and entry.credit > 0 and slot > self.order.slot_of(entry)

    def _book_exact(self, entry: ExactEntry, slot: int) -> None:
        """Book an exact slot where its turn comes at that instant (rule 27); else its place stays as it is."""
        self.open.remove(entry)
        if slot == entry.exact.at:
            self.ahead.add(slot, entry.cost)
            self._book(entry.exact.owner, slot, entry.cost)
            if entry.place:
                self.entries.remove(entry)
                self.weight -= entry.cost

    def _bound_of_own_turn(self) -> int:
        assert self.own is not None
        place = self.open.index(self.own)
        before = total(entry.cost for entry in self.open[:place])
        soonest = max(self.soonest, spaced_after(self.ahead, self.quota, place + 1))
        return earliest_slot_behind(self.ahead, before, self.part, self.margin_us, soonest, self.own.cost)

    def _turn_of_tail(self) -> int:
        """Return a bound of the slot of one more call behind all that want one."""
        quota, booked = self.quota, self.booked
        soonest = max(self.soonest, spaced_after(booked, quota, len(self.entries) + 1))
        return earliest_slot_behind(booked, self.weight, quota, self.margin_us, soonest, quota.one_of_each)

    def _is_too_late(self, slot: int) -> bool:
        """Whether the own caller's slot is past its deadline, and not only by a clock that is a little ahead."""
        assert self.caller is not None
        deadline, first = self.caller.deadline, self.request.now + self.request.lead_us
        by_other_clock = slot == self.ahead.last_at and slot <= self.soonest + CLOCKS_APART_US
        return deadline is not None and slot > max(deadline, first) and not by_other_clock

    def _skip_caller(self, entry: OwnEntry, slot: int) -> None:
        assert self.caller is not None
        self.too_late.append((self.caller, slot))
        self._next_caller()
        if self.caller:
            self.weight += self.caller.cost - entry.cost
            entry.cost = self.caller.cost
        else:
            self.own = None
            self.weight -= entry.cost
            self.open.remove(entry)
            self.entries.remove(entry)

    def _next_caller(self) -> None:
        self.caller = next(self.callers, None)
        if self.caller:
            self.order.add_cost(self.caller.cost)

    def _grant(self, entry: Place | OwnEntry, slot: int) -> None:
        self.entries.remove(entry)
        self.weight -= entry.cost
        again: Entry | None = None
        if isinstance(entry, OwnEntry):
            request = self.request
            self._book(request.owner, slot, entry.cost)
            self.own = None
            self.own_slots.append((self.caller, slot))
            self._next_caller()
            if self.caller:
                again = self.own = OwnEntry(self.caller.cost, entry.headroom)
            elif request.stands:
                used = Place(request.owner, entry.cost, slot, request.credit, request.back_us, request.terms)
                again = self._standing(used)
        else:
            self._book(entry.owner, slot, entry.cost)
            if (place := spent(entry)).credit:
                again = self._standing(place._replace(ready=max(slot, place.ready)))
        if again:
            for line in (self.entries, self.open):  # at the tail, but before all with more headroom
                insort(line, again, key=attrgetter("headroom"))
            self.weight += again.cost

    def _standing(self, place: Place) -> Place | None:
        """Return a place, used when it was ready, at the tail (rule 5); None if it is back too late for that."""
        back_at, tail = place.ready + place.back_us, self._turn_of_tail()
        if place.back_us > self.state.horizon_us and back_at > tail:
            return None
        return place._replace(ready=max(back_at, tail))

    def _book(self, owner: int, slot: int, cost: Hits) -> None:
        self.slots.append((slot, cost))
        self.booked.add(slot, cost)
        last = self.grants[-1] if self.grants else None
        if last and last.owner == owner and last.slot == slot:  # made by this very write: one name does for both
            self.grants[-1] = last._replace(cost=last.cost + cost)
            return
        self.serial += 1
        self.grants.append(Grant(self.serial, owner, slot, cost))

    def _prefetch(self) -> None:
        """Book more hits for the writer than its callers need, if all start now and the limit is far from binding."""
        at = self.booked.last_at
        if not (self.request.prefetch and self.own_slots) or at is None or at != self.soonest:
            return
        if self.too_late or self.entries:
            return
        hits = self.state.hits.book(self.slots)
        if more := prefetchable(hits, self.quota, self.margin_us, at, self.request.prefetch):
            self._book(self.request.owner, at, more)

    def _state(self) -> LimitState:
        state = self.state
        places = [place for entry in self.entries if (place := self._place_of(entry))]
        places += self.others
        return replace(
            state,
            hits=state.hits.book(self.slots) if self.slots else state.hits,
            grants=(*state.grants, *self.grants),
            serial=self.serial,
            places=tuple(places),
        )

    def _place_of(self, entry: Entry) -> Place | None:
        """Return the place that an entry keeps; that of the writer's own callers is written anew (rule 6)."""
        if isinstance(entry, Place):
            return entry
        if isinstance(entry, ExactEntry):
            return entry.place
        request = self.request
        credit = min(
            most_credit(self.part, entry.cost), self._waiting_alike(entry.cost) + request.stands * request.credit
        )
        ready = self.soonest if self.turn is None else self.turn
        back_us = request.stands * request.back_us
        return Place(request.owner, entry.cost, ready, credit, back_us, request.terms, headroom=request.headroom)

    def _waiting_alike(self, cost: Hits) -> int:
        """Return how many of the writer's callers can take slots of the first one's cost, one after another."""
        if self.quota.counts_calls_alone:
            return max(0, self.request.waiting - len(self.too_late))
        alike = 1 + sum(1 for _ in takewhile(lambda caller: caller.cost == cost, self.callers))
        return min(alike, self.request.waiting)
