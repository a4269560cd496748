"""A call that comes alone: whether it may be booked in one step (``window/alone.py``), and what it is given then."""

from __future__ import annotations

from collections.abc import Callable

from nekkar.core.waiting.assignments import Assignments
from nekkar.core.waiting.callers import Caller, InHand
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
    busy = mine.hand or mine.returned or mine.settling or mine.must_write or mine.exact.is_busy or mine.headroom
    if busy or state.epoch != mine.epoch:
        return False
    if not ledger.in_process and ledger.latency.lead_us(state.margin_us):
        return False  # its slot would lie ahead
    if mine.standing.has_bound(now, ledger.quota.rates[-1].period_us + state.margin_us):
        return False  # its place may stand
    if state.serial > mine.picked_up:
        for grant in state.grants:
            if grant.owner == mine.owner and grant.serial > mine.picked_up:
                return False
    return True


def take_alone(mine: Assignments, caller: Caller, state: LimitState) -> None:
    """Take the newest grant of a state, which was booked for this caller alone; it may have left meanwhile."""
    grant = state.grants[-1]
    if mine.epoch != state.epoch or grant.serial <= mine.picked_up:
        return  # void, or a turn beside this one has seen it and picked it up
    mine.picked_up = grant.serial
    held = InHand(grant, state.epoch)
    if not caller.is_out:
        mine.give(caller, held)
    if held.used != grant.cost:
        mine.hand.append(held)
        if not held.used and not mine.queue:
            mine.return_hand()
