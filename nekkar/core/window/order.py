"""The order of turns: which entry of a plan comes next, and at which slot.

Rules 2 and 3 stand in ``plan.py``, 31 in docs/concepts/line.md. Numbered as in docs/concepts/together.md:

23. Kept. The turn of a kept place is the slot that it would have, but not before it is ready. It is not passed over:
    a place behind it goes before it only where that leaves its turn where it was. So others use all the room that comes
    before, and the last of it, before the place is ready, waits for it.

A turn is found in one pass over the entries, and mostly at their head: where not even the smallest cost may go before
the next turn, nobody does. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from nekkar.core.cost import Hits, is_smaller, smallest
from nekkar.core.quota import Quota, leaving
from nekkar.core.window.booking import earliest_slot
from nekkar.core.window.entries import Entry, ExactEntry
from nekkar.core.window.timeline import Timeline


class Order:
    """The entries that want a turn, in order: ``entries``; and ``ahead``, the timeline of all that is planned so far.

    ``soonest``: no slot comes before it, but those that are wanted at one instant.
    """

    def __init__(self, entries: list[Entry], ahead: Timeline, quota: Quota, margin_us: int, soonest: int) -> None:
        self.entries, self.ahead, self.soonest = entries, ahead, soonest
        self._quota, self._margin_us = quota, margin_us
        self._is_guarded = any(entry.headroom or entry.is_kept for entry in entries)
        exact = [entry.ready for entry in entries if isinstance(entry, ExactEntry)] if self._is_guarded else []
        self._earliest = min([soonest, *exact])
        self._least: Hits | None = None

    def add_cost(self, cost: Hits) -> None:
        """Note the cost of an entry that joins later: it may be the smallest."""
        if self._least is not None:
            self._least = smallest((self._least, cost))

    def next(self) -> tuple[Entry, int]:
        """Return the entry whose turn comes next, and its slot."""
        if self._is_guarded:
            return self._next_guarded()
        best, turn = self._first()
        if turn <= self.soonest or best.cost == 1 or self._before(self._least_cost(), best, turn) is None:
            return best, turn
        before: dict[Hits, int | None] = {}
        for entry in self.entries:
            if entry.ready < turn:
                if (at := before.get(entry.cost, 0)) == 0:
                    at = before[entry.cost] = self._before(entry.cost, best, turn)
                if at is not None and entry.ready <= at:
                    return entry, at
        return best, turn

    def slot_of(self, entry: Entry) -> int:
        """Return the slot that an entry would have if it were ready."""
        soonest = min(entry.ready, self.soonest) if isinstance(entry, ExactEntry) else self.soonest
        return self._slot(entry.cost, leaving(self._quota, entry.headroom), soonest)

    def _first(self) -> tuple[Entry, int]:
        """Return the first entry that is ready by its slot, or soon after; else the one ready first (rule 2)."""
        slots: dict[Hits, int] = {}
        best: tuple[Entry, int] | None = None
        for entry in self.entries:
            slot = slots.get(entry.cost)
            if slot is None:
                slot = slots[entry.cost] = self._slot(entry.cost, self._quota, self.soonest)
            if entry.ready <= slot + self._quota.late_us:
                return entry, slot
            if best is None or entry.ready < best[1]:
                best = entry, entry.ready
        assert best is not None
        return best

    def _before(self, cost: Hits, best: Entry, turn: int) -> int | None:
        """Return the slot of a smaller cost before the next turn, where it leaves that where it is (rule 3)."""
        if not is_smaller(cost, best.cost) or (at := self._slot(cost, self._quota, self.soonest)) >= turn:
            return None
        return at if self._slot_behind(at, cost, best) <= turn else None

    def _least_cost(self) -> Hits:
        if self._least is None:
            self._least = smallest([entry.cost for entry in self.entries])
        return self._least

    def _next_guarded(self) -> tuple[Entry, int]:
        """Return the next turn where places leave headroom, or are kept (rules 23 and 31)."""
        soonest = self._slot(self._least_cost(), self._quota, self._earliest)
        slots: dict[tuple[Hits, int], int] = {}
        best: tuple[Entry, int] | None = None
        guarded: list[tuple[Entry, int]] = []
        for entry in self.entries:
            if isinstance(entry, ExactEntry):
                at = self.slot_of(entry)
            elif (at := slots.get((entry.cost, entry.headroom), -1)) < 0:
                at = slots[entry.cost, entry.headroom] = self.slot_of(entry)
            slot = max(at, entry.ready)
            if best is None or (slot < best[1] and self._leaves(guarded, entry, slot)):
                best = entry, slot
                if slot <= soonest:
                    break
            if entry.is_kept or entry.ready <= at:
                guarded.append((entry, slot))
        assert best is not None
        return best

    def _leaves(self, guarded: Sequence[tuple[Entry, int]], entry: Entry, slot: int) -> bool:
        """Whether an entry that goes first leaves all these turns where they are (rules 23 and 31)."""
        return all(slot < turn and self._slot_behind(slot, entry.cost, other) <= turn for other, turn in guarded)

    def _slot(self, cost: Hits, quota: Quota, soonest: int) -> int:
        return earliest_slot(self.ahead, quota, self._margin_us, cost, soonest)

    def _slot_behind(self, at: int, cost: Hits, best: Entry) -> int:
        """Return the slot that ``best`` would have behind ``cost`` hits at ``at``."""
        quota = leaving(self._quota, best.headroom)
        return earliest_slot(self.ahead.plus(at, cost), quota, self._margin_us, best.cost, best.ready)
