"""Recovery: what a process writes where the state is lost, from the last copy that it saw.

Rules (numbered as in docs/concepts/faults.md):

16. A lost state is rebuilt under a new epoch from the copy of a process that had seen it. Other processes may have
    booked since. Assume the worst: they took every free hit, at the latest instant at which they could still start.
    That is 1 s from now, the longest horizon that any process may use, whatever horizon the copy has. Hits that
    may have been taken back since are left out: those younger than that horizon and the margin when the copy was read.
    Where settlements give hits back later than that (rule 34, in settlement.py), all hits of the copy may be gone, and
    others may have used their room: so the free hits are all, whatever the copy shows. All this in each unit.
17. A state that a newcomer began from nothing, met by a process that had seen an older one, is a loss too. What the
    newcomer booked is kept, beside what rule 16 assumes.

For periods over 10 minutes nobody can wait out a full window. There the assumed hits are capped by the busiest span
of the copy that is as long as the time unseen: by twice its hits if none of them was assumed, else by its hits.

Pure.
"""

from __future__ import annotations

from dataclasses import replace

from nekkar.core.cost import cost_of
from nekkar.core.quota import SECOND, Rate
from nekkar.core.window.hits import HitLog
from nekkar.core.window.state import MAX_RATES, MOST_HORIZON_US, LimitState

LONG_PERIOD_US = 600 * SECOND


def rebuild_after_loss(known: LimitState, read_at: int, now: int, epoch: int) -> LimitState:
    """Return what to write in place of a lost state, of which ``known``, read at ``read_at``, is the last copy seen."""
    end = latest_start(known, max(now, read_at))
    unseen = end - read_at

    most = {}
    for rate in known.rates:
        log = known.hits.of(rate.unit)
        often = max(log.most_within(unseen, 0), 2 * log.most_within(unseen, known.assumed_until))
        most[rate] = min(rate.count, often) if rate.period_us > LONG_PERIOD_US else rate.count
    certain = known.hits.each(lambda _, log: log.with_entries(certain_hits(known, log, read_at)))
    state = replace(known, epoch=epoch, is_fresh=False, hits=certain, grants=(), serial=0)
    return assume_taken(state, end, most)


def rebuild_over_newcomer(found: LimitState, known: LimitState, read_at: int, now: int, epoch: int) -> LimitState:
    """Return what to write over ``found``, which a newcomer began; ``known``: the last copy before it (rule 17)."""
    state = rebuild_after_loss(known, read_at, now, epoch)
    owners = {place.owner for place in state.places}
    begun = [(at, cost_of({unit: hits})) for unit, log in found.hits.timelines() for at, hits in log.entries()]
    return replace(
        state,
        hits=state.hits.insert(begun),
        places=state.places + tuple(place for place in found.places if place.owner not in owners),
        hold_until=max(state.hold_until, found.hold_until),
        margin_us=max(state.margin_us, found.margin_us),
        horizon_us=max(state.horizon_us, found.horizon_us),
        spacing_us=max(state.spacing_us, found.spacing_us),
        rates=tuple(sorted({*state.rates, *found.rates})[-MAX_RATES:]),
        rejections=max(state.rejections, found.rejections),
        settles_from=max(state.settles_from, found.settles_from),
    )


def certain_hits(known: LimitState, log: HitLog, read_at: int) -> list[tuple[int, int]]:
    """Return the entries of a unit that nobody can have taken back since: older than any horizon and the margin."""
    return [hit for hit in log.entries() if hit[0] <= read_at - MOST_HORIZON_US - known.margin_us]


def latest_start(known: LimitState, now: int) -> int:
    """Return the last instant at which a call may still start on a slot of the lost state."""
    return max(now + MOST_HORIZON_US, known.hits.last_at or 0)


def assume_taken(state: LimitState, end: int, most: dict[Rate, int]) -> LimitState:
    """Return the state with all hits taken that are free at ``end``, at most ``most`` for each rate (rule 16)."""
    end = max(end, state.hits.last_at or 0)
    blocks: dict[str, int] = {}
    for rate, hits in most.items():
        blocks[rate.unit] = max(blocks.get(rate.unit, 0), min(_free(state, rate, end), hits))
    block = cost_of(blocks)
    return replace(state, hits=state.hits.book([(end, block)]), assumed_until=end) if block else state


def _free(state: LimitState, rate: Rate, end: int) -> int:
    """Return how many hits others could have booked in the window that ends at ``end`` while this process did not look.

    Only what lies within the period counts as taken: the service counts no longer window than that.
    """
    if state.settles_from:
        return rate.count
    return max(0, rate.count - state.hits.of(rate.unit).count_since(end - rate.period_us))
