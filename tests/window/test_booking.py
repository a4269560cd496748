"""Slots: what a log answers to those who ask."""

from __future__ import annotations

from tests.support.internals import CLOCKS_APART_US, SECOND, HitLog, Refusal, Slot, booked, quota
from tests.support.simulation import One

NOW = 1_000 * SECOND
TEN = quota(10, 1.0)


def test_a_hit_by_a_clock_a_little_ahead_is_none_to_wait_for() -> None:
    """Who won't wait at all is admitted beside the newest hit, though that lies some ms ahead of its own clock."""
    log = HitLog(1).joined(TEN, 0).book(NOW + CLOCKS_APART_US, 1)
    assert booked(log, TEN, [One(1, deadline=NOW)], NOW, NOW)[1] == [Slot(NOW + CLOCKS_APART_US, 1, 1)]


def test_a_hit_well_ahead_is_one_to_wait_for() -> None:
    """A slot that another booked for later is not now."""
    log = HitLog(1).joined(TEN, 0).book(NOW + CLOCKS_APART_US + 1, 1)
    assert booked(log, TEN, [One(1, deadline=NOW)], NOW, NOW)[1] == [Refusal(NOW + CLOCKS_APART_US + 1)]
