"""How far ahead slots are booked, and how long a swap pauses after one that was lost."""

from __future__ import annotations

import pytest

from tests.support.internals.shared import LEAST_BACKOFF_US, MOST_BACKOFF_US, SAMPLES, CacheLatency
from tests.support.internals.window import LEAST_HORIZON_US, MOST_HORIZON_US

MS = 1000
MARGIN = 50 * MS


def steady(read_us: int, swap_us: int) -> CacheLatency:
    latency = CacheLatency()
    for _ in range(SAMPLES):
        latency.record_read(read_us)
        latency.record_swap(swap_us)
    return latency


def test_a_fast_cache_books_now_and_a_tenth_of_a_second_ahead() -> None:
    """A swap that takes little of the margin needs no lead."""
    latency = steady(MS // 5, MS // 5)
    assert latency.lead_us(MARGIN) == 0
    assert latency.horizon_us == LEAST_HORIZON_US


def test_a_slow_cache_books_a_swap_ahead_and_four_times_a_read_and_a_swap() -> None:
    """At 60 ms a command a fixed horizon would use a part of the limit only."""
    latency = steady(60 * MS, 60 * MS)
    assert latency.lead_us(MARGIN) == 60 * MS
    assert latency.horizon_us == 480 * MS


def test_no_horizon_is_longer_than_a_second() -> None:
    """Whoever recovers from a loss waits for it, without knowing what others measured."""
    assert steady(240 * MS, 240 * MS).horizon_us == MOST_HORIZON_US


def test_one_hiccup_changes_nothing() -> None:
    """Medians: a freeze during one of the first calls, or of many, does not count for much."""
    for latency in (CacheLatency(), steady(MS, MS)):
        latency.record_read(3_000 * MS)
        latency.record_swap(3_000 * MS)
        assert latency.lead_us(MARGIN) == 0
        assert latency.horizon_us == LEAST_HORIZON_US


def test_what_the_clock_took_to_read_is_expected_of_the_first_commands() -> None:
    """A far cache's first slots are booked as far ahead as its later ones; a slow first command changes nothing."""
    latency = CacheLatency()
    latency.expect(60 * MS)
    latency.record_read(3_000 * MS)
    latency.record_swap(3_000 * MS)
    assert latency.lead_us(MARGIN) == 60 * MS
    assert latency.horizon_us == 480 * MS


def test_a_cache_that_gets_faster_is_followed() -> None:
    """Only the last few samples count."""
    latency = steady(60 * MS, 60 * MS)
    for _ in range(SAMPLES):
        latency.record_read(MS)
        latency.record_swap(MS)
    assert (latency.read_us, latency.swap_us, latency.horizon_us) == (MS, MS, LEAST_HORIZON_US)


def test_a_clock_that_steps_back_makes_no_negative_sample() -> None:
    """Durations come from a clock that may step."""
    latency = steady(-5, -5)
    assert (latency.read_us, latency.swap_us) == (0, 0)


@pytest.mark.parametrize("swap_us", [0, MS // 5, MS, 30 * MS])
def test_pauses_grow_with_the_swaps_lost_in_a_row_and_end_at_their_bound(swap_us: int) -> None:
    """Each is random below a bound: some swaps long, and 20 ms at most."""
    latency = steady(swap_us, swap_us)
    for lost in (1, 2, 5, 500):
        bound = min(MOST_BACKOFF_US, max(LEAST_BACKOFF_US, swap_us) * lost)
        pauses = [latency.backoff_us(lost) for _ in range(500)]
        assert max(pauses) <= bound
        assert min(pauses) < bound // 10
        assert max(pauses) > bound // 2
