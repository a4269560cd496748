"""Recovery after a loss: whatever others booked unseen, no window is over, and the limit goes on after a period."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.checks import each_hit
from tests.support.internals.core import Quota, Rate, quota
from tests.support.internals.window import (
    LONG_PERIOD_US,
    MAX_RATES,
    MOST_HORIZON_US,
    Grant,
    HitLog,
    LimitState,
    Place,
    Rejections,
    earliest_slot,
    rebuild_after_loss,
    rebuild_over_newcomer,
)
from tests.window.drawing import (
    DAY,
    HORIZON,
    NOW,
    S,
    check_kept,
    new_state,
    next_slots,
    sequences,
    slot_of,
)

YOUNG = MOST_HORIZON_US  # hits younger than this and the margin may have been taken back since

FLEET = ["book", "book", "book", "book late", "wait", "wait", "take back", "look", "loss", "loss"]


@settings(deadline=None, max_examples=600)
@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 5)), min_size=1, max_size=3),
    sequences(st.tuples(st.sampled_from(FLEET), st.integers(0, 40)), 40),
    st.sampled_from([HORIZON, MOST_HORIZON_US]),
    st.sampled_from([S, 7 * S, HORIZON]),
)
def test_after_any_loss_the_survivor_and_all_others_keep_every_window(
    windows: list[tuple[int, int]], actions: list[tuple[str, int]], horizon: int, scale: int
) -> None:
    """Others book, take back and start as they like while the survivor does not look; then the state is lost."""
    rates = tuple(sorted({Rate(period * scale, count) for period, count in windows}))
    limit = Quota(rates, 0, 50_000)
    state, now = new_state(limit, horizon=HORIZON), NOW
    known, read_at, slots = state, now, list[tuple[int, int]]()
    for action, number in actions:
        cost = 1 + number % limit.most("calls")
        if action == "wait":
            now += number * scale // 8
        elif action == "look":
            known, read_at = state, now
        elif action in ("book", "book late"):
            soonest = now + (horizon if action == "book late" else 0)
            at = slot_of(state, limit, cost, soonest)
            if at <= now + horizon:  # nobody books further ahead
                state = replace(state, hits=state.hits.book([(at, cost)]))
                slots.append((at, cost))
        elif action == "take back":
            young = [slot for slot in slots if slot[0] >= now - MOST_HORIZON_US]
            if young:
                slot = young[number % len(young)]
                slots.remove(slot)
                state = replace(state, hits=state.hits.remove(*slot))
        else:
            state = rebuild_after_loss(known, read_at, now, state.epoch + 1)
            known, read_at = state, now
    check_kept(each_hit(slots), limit)


@dataclass(frozen=True)
class Loss:
    """A survivor's last look, and what it finds missing when it looks again."""

    limit: Quota
    known: LimitState
    read_at: int
    now: int

    def others(self, *instants: int) -> list[tuple[int, int]]:
        """Return all hits if the others took back what they could, and took all that was free at these instants."""
        hits = self.known.hits
        for at, cost in hits.entries():
            if at > self.read_at - YOUNG - self.known.margin_us:
                hits = hits.remove(at, cost)
        for instant in instants:
            while earliest_slot(hits, self.limit, self.limit.margin_us, 1, instant) == instant:
                hits = hits.book([(instant, 1)])
        return hits.entries()

    def survivors(self, count: int) -> list[tuple[int, int]]:
        rebuilt = rebuild_after_loss(self.known, self.read_at, self.now, 2)
        return [(at, 1) for at in next_slots(rebuilt.hits, self.limit, self.now, count)]


UNSEEN = [0, 1, HORIZON, S, 29 * S, 31 * S, 59 * S, 60 * S, 61 * S, 90 * S, 600 * S]


@pytest.mark.parametrize("rate", ["1/minute", "100/minute", "20/second; 100/minute", "7/10 minutes"])
@pytest.mark.parametrize("used", [0, 1, 5])
@pytest.mark.parametrize("age", [0, HORIZON, YOUNG, 2 * YOUNG, 5 * S])
def test_the_survivor_counts_all_that_others_could_have_taken(rate: str, used: int, age: int) -> None:
    """Others took all that was free, at the last instant, or the first, or in parts: no window is over."""
    limit = quota(rate)
    state = new_state(limit, *[(NOW, min(used, limit.most("calls")))] if used else [])
    read_at = NOW + age
    for unseen in UNSEEN:
        loss = Loss(limit, state, read_at, read_at + unseen)
        last = loss.now + MOST_HORIZON_US
        survivors = loss.survivors(150)
        for instants in [(last,), (loss.now,), (read_at,), (read_at, last), (read_at, read_at + unseen // 2, last)]:
            check_kept(each_hit(loss.others(*instants) + survivors), limit)


def test_calls_unseen_late_in_the_window_are_not_counted_as_early_ones() -> None:
    """99 calls of 100 at 29 s of the minute, unseen: after a loss at 60 s no window holds 198."""
    limit = quota(100, 60)
    loss = Loss(limit, new_state(limit, (NOW, 1)), NOW + S, NOW + 60 * S)
    taken = [(NOW + 29 * S, 1)] * 99
    check_kept(each_hit(loss.known.hits.entries() + taken + loss.survivors(300)), limit)


def test_hits_that_may_have_been_taken_back_since_are_not_certain() -> None:
    """A hit seen within the longest horizon and the margin of its time is counted late, not where it was seen."""
    limit = quota(2, 60)
    known = new_state(limit, (NOW, 1))
    read_at = NOW + YOUNG + limit.margin_us - 1
    rebuilt = rebuild_after_loss(known, read_at, read_at + S, 2)
    assert rebuilt.hits.entries() == [(read_at + S + MOST_HORIZON_US, 2)]
    rebuilt = rebuild_after_loss(known, read_at + 1, read_at + 1 + S, 2)
    assert rebuilt.hits.entries() == [(NOW, 1), (read_at + 1 + S + MOST_HORIZON_US, 1)]


@pytest.mark.parametrize("horizon", [0, HORIZON, 600_000])
def test_others_may_book_further_ahead_than_the_copy_tells(horizon: int) -> None:
    """The cache got slower since, and a writer's horizon grew: the block comes at the end of the longest one."""
    known = new_state(quota(5, 60), horizon=horizon)
    assert rebuild_after_loss(known, NOW, NOW + S, 2).hits.last_at == NOW + S + MOST_HORIZON_US


def test_a_hit_seen_further_ahead_than_any_horizon_is_not_overtaken() -> None:
    """What a service told of others may lie ahead: what is assumed comes no earlier than that."""
    known = new_state(quota(5, 60), (NOW + 20 * S, 1))
    assert rebuild_after_loss(known, NOW, NOW + S, 2).hits.entries() == [(NOW + 20 * S, 5)]


@pytest.mark.parametrize("margin", [S // 20, S, 20 * S, 58 * S])
@pytest.mark.parametrize("age", [60 * S, 61 * S, 75 * S])
def test_hits_older_than_the_period_take_no_room_after_a_loss_however_large_the_margin(margin: int, age: int) -> None:
    """A larger margin came into use a moment ago. Others still booked with a smaller one, a period after their last."""
    limit = quota(100, 60)
    known = replace(new_state(limit, (NOW, 100)), margin_us=margin)
    rebuilt = rebuild_after_loss(known, NOW + age, NOW + age, 2)
    assert rebuilt.hits.entries() == [(NOW, 100), (NOW + age + MOST_HORIZON_US, 100)]


@pytest.mark.parametrize("used", [0, 1, 50, 100])
def test_a_loss_costs_at_most_a_period(used: int) -> None:
    """Whatever was assumed, a period and the margin after the block all of the limit is there again."""
    limit = quota(100, 60)
    known = new_state(limit, *[(NOW, used)] if used else [])
    now = NOW + 10 * S
    rebuilt = rebuild_after_loss(known, NOW + 2 * S, now, 2)
    assert rebuilt.epoch == 2
    assert slot_of(rebuilt, limit, 100, now) <= now + MOST_HORIZON_US + 60 * S + limit.margin_us


def test_a_lost_state_of_an_idle_long_window_blocks_no_more_than_was_seen() -> None:
    """In a window over ten minutes the block is at most twice the most hits of a span as long as unseen."""
    limit = quota("5000/hour")
    assert limit.rates[0].period_us > LONG_PERIOD_US
    known = new_state(limit, *((NOW + index * S, 1) for index in range(100)))
    read_at = NOW + 99 * S
    rebuilt = rebuild_after_loss(known, read_at, read_at + 10 * S, 2)
    certain = [hit for hit in known.hits.entries() if hit[0] <= read_at - YOUNG - known.margin_us]
    end = read_at + 10 * S + MOST_HORIZON_US
    assert rebuilt.hits.entries() == [*certain, (end, 22)]
    assert slot_of(rebuilt, limit, 1, read_at + 10 * S) == end


def test_after_a_second_loss_assumed_hits_take_no_room() -> None:
    """Whoever did not know them may have called instead; hits booked since are certain."""
    limit, end = quota(10, 60), NOW + 4 * S + MOST_HORIZON_US
    once = rebuild_after_loss(new_state(limit, (NOW, 4)), NOW + 3 * S, NOW + 4 * S, 2)
    assert once.hits.entries() == [(NOW, 4), (end, 6)]
    assert once.assumed_until == end
    later = replace(once, hits=once.hits.book([(end + 61 * S, 1)]))
    again = rebuild_after_loss(later, end + 65 * S, end + 66 * S, 3)
    assert again.hits.entries() == [*later.hits.entries(), (end + 66 * S + MOST_HORIZON_US, 9)]


def test_in_a_long_window_losses_do_not_add_up() -> None:
    """There assumed hits do take room, and one loss after another assumes no more each time."""
    limit = quota("5000/hour")
    state = new_state(limit, (NOW, 10))
    added = []
    for loss in range(1, 31):
        now = NOW + loss * 60 * S
        before = state.hits.total
        state = replace(state, hits=state.hits.book([(now - 10 * S, 1)]))
        state = rebuild_after_loss(state, now - 5 * S, now, loss + 1)
        added.append(state.hits.total - before)
    assert added == [21] * 30
    small = new_state(quota("100/hour"), (NOW, 60))
    for loss in range(1, 6):
        small = rebuild_after_loss(small, NOW + loss * 10 * S, NOW + loss * 10 * S + S, loss + 1)
    assert small.hits.total == 100


PLACES = (Place(7, 1, NOW + S, 1, 0, (quota(3, 60).rates, 0)), Place(8, 2, NOW + 2 * S, 0, 0, (quota(3, 60).rates, 0)))


def test_recovery_keeps_the_hold_the_places_and_the_terms() -> None:
    """A hold outlives a loss, and so do those who wait, the rates, margin, spacing and what refusals taught."""
    limit = quota("5/second; 10/minute", spacing=0.1)
    learned = Rejections(NOW, 2, 90_000, NOW)
    known = replace(new_state(limit, (NOW, 1)), hold_until=NOW + 30 * S, places=PLACES, rejections=learned)
    rebuilt = rebuild_after_loss(known, NOW + S, NOW + 2 * S, 2)
    for name in ("hold_until", "places", "rates", "margin_us", "spacing_us", "horizon_us", "rejections"):
        assert getattr(rebuilt, name) == getattr(known, name)


def test_no_grant_of_the_lost_epoch_is_left() -> None:
    """Who held one finds another epoch, and asks again: the hits may have been taken by others."""
    known = replace(new_state(quota(3, 60), (NOW, 1)), is_fresh=True, serial=9, grants=(Grant(9, 7, NOW, 1),))
    rebuilt = rebuild_after_loss(known, NOW, NOW, 2)
    assert (rebuilt.grants, rebuilt.serial, rebuilt.epoch, rebuilt.is_fresh) == ((), 0, 2, False)


@pytest.mark.parametrize("horizon", [HORIZON, 0])
@pytest.mark.parametrize("back", [0, 1, HORIZON, S, 30 * S, DAY])
def test_recovery_stands_a_clock_that_stepped_back_since_the_look(back: int, horizon: int) -> None:
    """A loss met at an instant before the last look counts from the look: never early, never a crash."""
    limit = quota(3, 60)
    known = new_state(limit, (NOW, 1), horizon=horizon)
    read_at = NOW + 10 * S
    taken = [(read_at, 2)]
    rebuilt = rebuild_after_loss(known, read_at, read_at - back, 2)
    slots = next_slots(rebuilt.hits, limit, read_at - back, 9)
    check_kept(each_hit([(NOW, 1), *taken, *((at, 1) for at in slots)]), limit)


# A state that a newcomer began.


def newcomers(limit: Quota, *hits: tuple[int, int]) -> LimitState:
    return replace(new_state(limit, *hits), epoch=9, is_fresh=True)


def test_over_a_newcomers_state_the_worst_is_assumed_beside_what_it_booked() -> None:
    """Both its hits and those that the survivor is sure of count, and all that was free beside the latter."""
    limit = quota(5, 60)
    known, now = new_state(limit, (NOW, 2)), NOW + 10 * S
    rebuilt = rebuild_over_newcomer(newcomers(limit, (NOW + 9 * S, 1)), known, NOW + 5 * S, now, 2)
    assert rebuilt.hits.entries() == [(NOW, 2), (NOW + 9 * S, 1), (now + MOST_HORIZON_US, 3)]
    assert (rebuilt.epoch, rebuilt.is_fresh) == (2, False)


@settings(deadline=None, max_examples=200)
@given(
    sequences(st.tuples(st.integers(0, 40), st.integers(1, 3)), 12),
    sequences(st.tuples(st.integers(0, 40), st.integers(1, 3)), 12),
    st.integers(0, 80),
)
def test_what_a_newcomer_booked_admits_no_more_than_a_loss_would(
    before: list[tuple[int, int]], after: list[tuple[int, int]], unseen: int
) -> None:
    """Over its state no slot of the survivors is earlier than over none; and none of its own hits is left out."""
    limit, hits, at = quota("3/s; 6/3s"), HitLog(), NOW
    for gap, cost in before:
        at = earliest_slot(hits, limit, limit.margin_us, cost, at + gap * S // 10)
        hits = hits.book([(at, cost)])
    read_at = now = at + S
    now += unseen * S // 10
    known, booked, begun = replace(new_state(limit), hits=hits), HitLog(), read_at
    for gap, cost in after:
        begun = earliest_slot(booked, limit, limit.margin_us, cost, begun + gap * S // 10)
        booked = booked.book([(begun, cost)])
    found = replace(newcomers(limit), hits=booked)
    rebuilt = rebuild_over_newcomer(found, known, read_at, now, 2)
    lost = rebuild_after_loss(known, read_at, now, 2)
    for late, soon in zip(next_slots(rebuilt.hits, limit, now, 20), next_slots(lost.hits, limit, now, 20), strict=True):
        assert late >= soon
    slots = [(slot, 1) for slot in next_slots(rebuilt.hits, limit, now, 20)]
    check_kept(each_hit(booked.entries() + slots), limit)


def test_over_a_newcomers_state_all_who_wait_stand_and_the_stricter_of_the_rest_counts() -> None:
    """The survivor's places come first, each line has one; the longer hold, the larger margin, spacing and horizon."""
    mine, others = quota("5/second", margin=0.2), quota("9/minute", spacing=0.3, margin=0.1)
    known = replace(new_state(mine), places=PLACES, hold_until=NOW + S, rejections=Rejections(NOW, 1))
    newer = PLACES[0]._replace(ready=NOW + 9 * S), PLACES[0]._replace(owner=11)
    found = replace(newcomers(others), places=newer, hold_until=NOW + 2 * S, rejections=Rejections(NOW + 5, 0))
    rebuilt = rebuild_over_newcomer(found, known, NOW, NOW, 2)
    assert rebuilt.places == (*PLACES, newer[1])
    assert (rebuilt.hold_until, rebuilt.rejections) == (NOW + 2 * S, Rejections(NOW + 5, 0))
    assert (rebuilt.margin_us, rebuilt.spacing_us) == (200_000, 300_000)
    assert rebuilt.rates == (*mine.rates, *others.rates)
    assert rebuild_over_newcomer(found, replace(known, hold_until=NOW + DAY), NOW, NOW, 2).hold_until == NOW + DAY


def test_over_a_newcomers_state_the_rates_are_no_more_than_sixteen() -> None:
    """The longest ones, as in any state."""
    known, found = new_state(quota(5, 1)), newcomers(quota(5, 1))
    for seconds in range(2, 14):
        known = known.with_quota(quota(5, seconds), HORIZON)
        found = found.with_quota(quota(5, seconds + 50), HORIZON)
    rebuilt = rebuild_over_newcomer(found, known, NOW, NOW, 2)
    assert len(rebuilt.rates) == MAX_RATES
    assert rebuilt.rates[-1] == Rate(63 * S, 5)
