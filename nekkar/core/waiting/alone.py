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
    if caller.elsewhere or not _may_book_alone(mine, state, now):
        return None
    return booked_alone(state, mine.owner, mine.ledger.quota, caller.cost, now, prefetch)


def _may_book_alone(mine: Assignments, state: LimitState, now: int) -> bool:
    """Whether nothing but a caller's booking is to be written over a state, nor picked up out of it."""
    ledger = mine.ledger
    hand, is_writing = mine.hand, mine.settling or mine.must_write or mine.exact.is_busy
    if hand.grants or hand.returned or is_writing or mine.headroom:
        return False
    if not ledger.in_process and ledger.latency.lead_us(state.margin_us):
        return False  # its slot would lie ahead
    if mine.standing.has_bound(now, ledger.quota.rates[-1].period_us + state.margin_us):
        return False  # its place may stand
    return hand.has_seen(state)
