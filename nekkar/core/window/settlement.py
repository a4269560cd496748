"""Settlements: what a call really used, in place of what it reserved.

Rules (numbered as in docs/concepts/window.md):

33. A settlement changes the hits of its call once, and only in the epoch in which they were booked. It is never sent
    again after a lost answer. In another epoch, or once the hits are too old to matter, it changes nothing.
34. A hit given back long after its slot misleads a process that rebuilds a lost state: the last copy that it saw still
    has the hit, while others have used the room. So a recovery ignores hits that may be given back more than a second
    after their slot (``settles_from``, in recovery.py). In a limit that counts other units that may be any hit. In a
    limit that counts calls alone, the first such late settlement only sets ``settles_from``. Late settlements give
    nothing back until that instant: by then, copies from before the first one are too old to matter.

Pure.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from nekkar.core.cost import CALLS
from nekkar.core.quota import SECOND
from nekkar.core.window.state import MOST_HORIZON_US, LimitState


class Settlement(NamedTuple):
    """The change of a call's hits, booked at ``slot`` in ``epoch``: (unit, hits) pairs, less than 0 to give back."""

    epoch: int
    slot: int
    changes: tuple[tuple[str, int], ...]


def settled(state: LimitState, settlement: Settlement, now: int) -> LimitState:
    """Return the state after a settlement; the state itself where nothing changes (rule 33)."""
    # Another process's clock may be a little ahead, and have dropped the hits already: half a second is left for that.
    if settlement.epoch != state.epoch or settlement.slot < now - state.retention_us + SECOND // 2:
        return state
    hits = state.hits
    is_late = now > settlement.slot + MOST_HORIZON_US
    if is_late and not state.settles_from:
        state = replace(state, settles_from=now + state.retention_us)
    for unit, change in settlement.changes:
        if unit != CALLS or change > 0 or not is_late or now >= state.settles_from:  # rule 34
            hits = hits.settle(settlement.slot, unit, change)
    return state if hits is state.hits else replace(state, hits=hits)
