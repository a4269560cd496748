"""The plan of a call that comes alone: no line waits, and there is room for it now, and for another call behind it.

It is what ``plan.py`` would plan, in one step (test_alone.py states it as a property): most calls of a limit that does
not bind come alone. Pure.
"""

from __future__ import annotations

from collections.abc import Callable

from nekkar.core.cost import Hits
from nekkar.core.quota import Quota
from nekkar.core.window.booking import earliest_slot, prefetchable, with_recent_grants
from nekkar.core.window.state import Grant, LimitState


def booked_alone(
    state: LimitState, owner: int, quota: Quota, cost: Hits, now: int, prefetch: Callable[[], int] = lambda: 0
) -> LimitState | None:
    """Return the state with a call of ``owner`` booked at ``now``; None where it is not alone, or has to wait.

    ``prefetch`` returns how many hits more the owner could use; it is asked only where the call is booked. The newest
    grant is the owner's.
    """
    if state.places or state.reported.rates or quota.spacing_us or state.hold_until > now:
        return None
    # Where the next call has to wait, the limit binds: that is for a whole plan to find, and for its line to note.
    with_next = cost + quota.one_of_each
    if not quota.admits(with_next):
        return None
    margin_us, kept = state.margin(quota, now), state.forget(now)
    hits = kept.hits
    if earliest_slot(hits, quota, margin_us, with_next, now) > now:
        return None
    hits = hits.add(now, cost)
    if (wanted := prefetch()) and (more := prefetchable(hits, quota, margin_us, now, wanted)):
        hits, cost = hits.add(now, more), cost + more
    grant = Grant(state.serial + 1, owner, now, cost)
    return kept.with_bookings(hits, (*with_recent_grants(kept, now), grant), grant.serial, now)
