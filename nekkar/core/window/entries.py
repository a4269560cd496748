"""The entries of a plan: everything that wants a turn, in order, as seen by the line that is about to write.

An entry is a place under the line's own terms, the first of the line's callers, or a slot that a call wants at one
instant alone. Most are places of the state, taken as they are, since there may be a thousand of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter

from nekkar.core.cost import Hits
from nekkar.core.window.booking import BookingRequest
from nekkar.core.window.exact import ExactSlot
from nekkar.core.window.state import LimitState, Place, Terms


@dataclass(slots=True, eq=False)
class OwnEntry:
    """The first of the line's own callers, which costs ``cost``. It is awake, so it is ready for any slot."""

    cost: Hits
    headroom: int
    ready: int = 0
    is_kept: bool = False


@dataclass(slots=True, eq=False)
class ExactEntry:
    """A slot that a call wants at one instant; ``place``: the place that was kept for it, if any."""

    exact: ExactSlot
    headroom: int
    place: Place | None
    is_kept: bool = True

    @property
    def ready(self) -> int:
        return self.exact.at

    @property
    def cost(self) -> Hits:
        return self.exact.cost


Entry = Place | OwnEntry | ExactEntry


def entries_of(
    state: LimitState, request: BookingRequest, cost: Hits | None, exact: Sequence[ExactSlot]
) -> list[Entry]:
    """Return the entries in order. ``cost``: of the writer's first caller; None if it has no callers.

    The caller stands where the place of its line stands, or else a place that was kept for it, or else at the tail
    (rule 6). So does an exact slot. Entries with headroom come behind all with less.
    """
    own, strangers = request.owner, under_other_terms(state.places, request.terms)  # rule 13
    if request.gone and state.place_of(own) is None:
        own = next((place.owner for place in state.places if place.owner in request.gone), own)
    places: Sequence[Place] = state.places
    if strangers:
        places = [place for place in places if place.owner == own or id(place.terms) not in strangers]
    kept = {place.owner: place for place in places if place.owner not in request.gone} if exact else {}
    wanted = [(one.place or one.owner, one) for one in exact]
    # By the owner of a place: the entry that stands there instead of the place, or None for no entry at all.
    instead: dict[int, Entry | None] = {
        owner: ExactEntry(one, request.headroom, kept[owner]) for owner, one in wanted if owner in kept
    }
    instead |= dict.fromkeys(request.gone)
    instead[own] = mine = None if cost is None else OwnEntry(cost, request.headroom)
    entries = [entry for place in places if (entry := instead.get(place.owner, place)) is not None]
    if mine and mine not in entries:
        entries.append(mine)
    entries += [ExactEntry(one, request.headroom, None) for owner, one in wanted if owner not in kept]
    return in_order_of_headroom(entries)


def in_order_of_headroom(entries: list[Entry]) -> list[Entry]:
    """Return the entries, those that leave more free behind the others (rule 31)."""
    return sorted(entries, key=attrgetter("headroom")) if any(entry.headroom for entry in entries) else entries


def under_other_terms(places: Iterable[Place], terms: Terms) -> set[int]:
    """Return the ids of all terms of ``places`` that are not equal to ``terms``; most places share one value."""
    different = {id(place.terms): place.terms for place in places}
    return {key for key, each in different.items() if each != terms}
