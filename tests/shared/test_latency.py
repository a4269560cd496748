"""How far ahead slots are booked, and how long a swap waits where others swap too."""

from __future__ import annotations

from tests.support.internals import HORIZON_US, MOST_CROWD, MOST_LEAD_US, MOST_PAUSE_US, SAMPLES, Pace, crowded

MS = 1000
MARGIN = 50 * MS


def steady(read_us: int, swap_us: int) -> Pace:
    pace = Pace()
    for _ in range(SAMPLES):
        pace.read_took(read_us)
        pace.swap_took(swap_us)
    return pace


def test_a_fast_cache_books_now_and_a_tenth_of_a_second_ahead() -> None:
    """A swap that takes little of the margin needs no head start."""
    pace = steady(MS // 5, MS // 5)
    assert pace.lead_us(MARGIN) == 0
    assert pace.horizon_us == HORIZON_US


def test_a_slow_cache_books_a_swap_ahead_and_looks_four_commands_ahead() -> None:
    """At 240 ms a command a fixed horizon would use a part of the limit only."""
    pace = steady(240 * MS, 240 * MS)
    assert pace.lead_us(MARGIN) == 240 * MS
    assert pace.horizon_us == 4 * 480 * MS


def test_one_hiccup_changes_nothing() -> None:
    """Medians: a freeze during one of the first calls, or of many, does not count for much."""
    for pace in (Pace(), steady(MS, MS)):
        pace.read_took(3_000 * MS)
        pace.swap_took(3_000 * MS)
        assert pace.lead_us(MARGIN) == 0
        assert pace.horizon_us == HORIZON_US


def test_late_answers_double_the_lead_within_its_bound_and_answers_in_time_halve_it() -> None:
    """Unbounded, one frozen process would stall the whole fleet for seconds."""
    pace = steady(20 * MS, 20 * MS)
    leads = []
    for _ in range(6):
        pace.booked(late=True)
        leads.append(pace.lead_us(MARGIN))
    assert leads == [40 * MS, 80 * MS, 160 * MS, MOST_LEAD_US, MOST_LEAD_US, MOST_LEAD_US]
    for _ in range(12):
        pace.booked(late=False)
    assert pace.lead_us(MARGIN) == 20 * MS


def test_a_clock_that_steps_back_makes_no_negative_sample() -> None:
    """Durations come from a clock that may step."""
    pace = steady(-5, -5)
    assert (pace.read_us, pace.swap_us) == (0, 0)


def test_pauses_double_with_the_crowd_and_end_at_their_bound() -> None:
    """Nobody pauses in a log that one process uses."""
    pace = steady(MS, MS)
    assert pace.pause_us(0) == 0
    assert pace.pause_us(32) == 3 * MS
    assert [pace.pause_us(crowd) for crowd in range(0, MOST_CROWD, 8)] == sorted(
        pace.pause_us(crowd) for crowd in range(0, MOST_CROWD, 8)
    )
    assert pace.pause_us(MOST_CROWD) == MOST_PAUSE_US


def test_the_crowd_settles_where_conflicts_and_calm_are_even_and_goes_when_they_end() -> None:
    """One conflict in four swaps keeps it; eighty swaps without one end it."""
    crowd = 0
    for swap in range(400):
        crowd = crowded(crowd, conflicts=swap % 4 == 0)
    assert 40 <= crowd <= 80
    for _ in range(80):
        crowd = crowded(crowd, conflicts=0)
    assert crowd == 0
    assert crowded(MOST_CROWD, 500) == MOST_CROWD
