"""Settlements: what a call really used, in place of what it reserved.

Rules:

21. A settlement changes the hits of its call in the epoch of the slot alone, once: it is never sent again after a lost
    answer. In another epoch, or where the hits no longer matter, it changes nothing.
22. Hits given back late mislead a process that recovers a loss: its last copy shows them still, while others have used
    the room. So a recovery trusts no hit that may be given back later than a second after its slot
    (``settles_from``, in recovery.py). In a limit that counts other units, those are all hits. A limit of calls alone
    learns of it by its first settlement that comes so late. Until no copy from before that matters any more, such
    settlements leave the hits where they are.

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
    """Return the state after a settlement; the state itself where nothing changes (rule 21)."""
    # Another process's clock may be a little ahead, and have dropped the hits already: half a second is left for that.
    if settlement.epoch != state.epoch or settlement.slot < now - state.retention_us + SECOND // 2:
        return state
    hits = state.hits
    is_late = now > settlement.slot + MOST_HORIZON_US
    if is_late and not state.settles_from:
        state = replace(state, settles_from=now + state.retention_us)
    for unit, change in settlement.changes:
        if unit != CALLS or change > 0 or not is_late or now >= state.settles_from:  # rule 22
            hits = hits.settle(settlement.slot, unit, change)
    return state if hits is state.hits else replace(state, hits=hits)
