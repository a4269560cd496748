"""A call that comes alone: whether it may be booked in one step (``window/alone.py``)."""

from __future__ import annotations

from collections.abc import Callable

from nekkar.core.waiting.assignments import Assignments
from nekkar.core.waiting.callers import Caller
from nekkar.core.window.alone import booked_alone
from nekkar.core.window.state import LimitState


def booked_for(
    mine: Assignments, state: LimitState, caller: Caller, now: int, prefetch: Callable[[], int]
) -> LimitState | None:
    """Return a state with its caller booked at once, where nobody comes first and nothing else is to be written.

    ``prefetch`` returns how many hits more the line could use.
    """
    ledger, hand = mine.ledger, mine.hand
    if caller.elsewhere or mine.headroom or mine.settling or mine.must_write or mine.exact.is_busy:
        return None  # something else is to be written
    if hand.grants or hand.returned or not hand.has_seen(state):
        return None  # a slot is there, or is to go back
    if not ledger.in_process and ledger.latency.lead_us(state.margin_us):
        return None  # its slot would lie ahead
    if mine.standing.has_bound(now, ledger.quota.rates[-1].period_us + state.margin_us):
        return None  # its place may stand
    return booked_alone(state, mine.owner, ledger.quota, caller.cost, now, prefetch)
