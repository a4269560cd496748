"""The entries of a plan: all that want a turn, in order, as the line sees them that is about to write.

Those are the places under its own terms, the line's own callers, and slots that are wanted at one instant alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

from nekkar.core.cost import Hits
from nekkar.core.window.booking import Ask
from nekkar.core.window.exact import ExactSlot
from nekkar.core.window.state import LimitState, Place


@dataclass(slots=True, eq=False)
class Entry:
    """A place while it is planned. The writer's own (``is_own``) is awake, so it has no promise to keep.

    ``exact``: the slot that its owner wants, or none. ``headroom``: what it leaves free of each window.
    """

    place: Place
    ready: int
    cost: Hits
    is_own: bool = False
    is_granted: bool = False
    exact: ExactSlot | None = None
    headroom: int = 0

    @property
    def is_kept(self) -> bool:
        """Whether it is not passed over."""
        return self.exact is not None or self.place.is_kept


def entries_of(state: LimitState, ask: Ask, cost: Hits | None, exact: Sequence[ExactSlot]) -> list[Entry]:
    """Return the entries in order. ``cost``: of the writer's first caller, None where it has no callers.

    A caller stands where its line's place stands, or one that was kept for it, or at the tail. So does an exact slot.
    Those with headroom come behind all with less.
    """
    wanted = {one.place or one.owner: one for one in exact}
    owners = [place.owner for place in state.places]
    own = ask.owner
    if ask.gone and own not in owners:
        own = next((owner for owner in owners if owner in ask.gone), own)
    entries: list[Entry] = []
    for place in state.places:
        if place.owner == own:
            if cost is not None:
                place = place._replace(is_kept=False)
                entries.append(Entry(place, 0, cost, is_own=True, headroom=ask.headroom))
        elif place.owner in ask.gone or place.terms != ask.terms:
            continue
        elif one := wanted.pop(place.owner, None):
            entries.append(Entry(place, one.at, one.cost, exact=one, headroom=ask.headroom))
        else:
            entries.append(Entry(place, place.ready, place.cost, headroom=place.headroom))
    if cost is not None and not any(entry.is_own for entry in entries):
        place = Place(ask.owner, 0, 0, 0, 0, ask.terms)
        entries.append(Entry(place, 0, cost, is_own=True, headroom=ask.headroom))
    for one in wanted.values():
        place = Place(one.owner, 0, 0, 0, 0, ask.terms)
        entries.append(Entry(place, one.at, one.cost, exact=one, headroom=ask.headroom))
    return sorted(entries, key=attrgetter("headroom"))
