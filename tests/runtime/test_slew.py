"""Slewed time: between readings of another clock it runs on, never back, and an offset is made up little by little."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.internals.core import SECOND
from tests.support.internals.runtime import DRIFT, GOOD_US, SLEW_PARTS, Reading, SlewedTime, set_by

EPOCH = 1_790_000_000 * SECOND
NARROW = 100


def reading(tick: int, there: int, width: int = NARROW) -> Reading:
    """Return a reading taken around a tick."""
    return Reading(tick - width // 2, there, tick + width // 2)


def slewed(at: int = EPOCH, width: int = NARROW) -> SlewedTime:
    """Return the time that a reading at tick 0 sets."""
    return set_by(reading(0, at, width), 0)


def test_a_course_begins_at_its_first_reading_and_runs_with_the_ticks() -> None:
    """The bracket's middle is the instant of the reading."""
    begins = set_by(Reading(1000, EPOCH, 1200), 0)
    assert [begins.now(tick) - EPOCH for tick in (1100, 1101, 2100)] == [0, 1, 1000]


def test_a_reading_that_agrees_changes_nothing_but_its_age() -> None:
    """Time goes on as before."""
    before = slewed()
    after = before.corrected(reading(30 * SECOND, EPOCH + 30 * SECOND), 31 * SECOND)
    assert after.now(40 * SECOND) == before.now(40 * SECOND)
    assert after.read == 30 * SECOND


@pytest.mark.parametrize("off", [1, 500, 3_000, 50_000, 900_000])
def test_what_a_course_is_behind_by_is_made_up_slowly_and_wholly(off: int) -> None:
    """At once only what drift explains; then one part in 1,000, so that no window is cut by more than its margin."""
    read = 30 * SECOND
    after = slewed().corrected(reading(read, EPOCH + read + off), read)
    assert after.now(read) - (EPOCH + read) == min(off, read // DRIFT)
    for tick in range(read, read + 20 * SECOND, SECOND):
        assert after.now(tick + SECOND) - after.now(tick) <= SECOND + SECOND // SLEW_PARTS
    end = read + SLEW_PARTS * off
    assert after.now(end) == EPOCH + end + off
    assert after.now(end + SECOND) == EPOCH + end + SECOND + off


@pytest.mark.parametrize("off", [1, 500, 3_000, 900_000, 30 * SECOND])
def test_a_backward_step_lets_nobody_start_early(off: int) -> None:
    """Time goes on at half speed until the other clock has caught up; it never stands nor steps back."""
    read = 30 * SECOND
    after = slewed().corrected(reading(read, EPOCH + read - off), read)
    assert after.now(read) == EPOCH + read
    assert after.now(read + off) == pytest.approx(EPOCH + read + off // 2, abs=1)
    assert after.now(read + 2 * off) == EPOCH + read + off
    assert after.now(read + 3 * off) == EPOCH + read + 2 * off


@pytest.mark.parametrize("off", [SECOND, 3600 * SECOND])
def test_a_course_behind_by_a_second_or_more_jumps(off: int) -> None:
    """A server that came back with another clock: two clocks in one fleet would do more harm."""
    read = 30 * SECOND
    assert slewed().corrected(reading(read, EPOCH + read + off), read).now(read) == EPOCH + read + off


def test_the_drift_of_hours_is_made_up_at_once() -> None:
    """A process idle for six hours is off by as much as its quartz went, and right again with its next call."""
    read = 6 * 3600 * SECOND
    after = slewed().corrected(reading(read, EPOCH + read + 900_000), read)
    assert after.now(read) == EPOCH + read + 900_000


def test_a_wide_reading_proves_only_what_lies_outside_of_it() -> None:
    """A pause between the two looks at the ticks moves nobody's clock, unless it was wrong by more."""
    read, width = 30 * SECOND, 200_000
    begins = slewed()
    assert begins.off_by(reading(read, EPOCH + read + width // 2, width)) == 0
    assert begins.off_by(reading(read, EPOCH + read + width // 2 + 7, width)) == 7
    assert begins.off_by(reading(read, EPOCH + read - width // 2 - 7, width)) == -7


def test_where_all_readings_are_wide_their_middle_is_taken() -> None:
    """A cache far away: the way there takes as long as the way back."""
    begins = slewed(width=200_000)
    assert begins.off_by(reading(SECOND, EPOCH + SECOND + 5_000, 200_000)) == 5_000
    assert slewed().off_by(reading(SECOND, EPOCH + SECOND + 500, GOOD_US)) == 500


@given(st.integers(0, SECOND), st.integers(0, SECOND), st.integers(-SECOND, SECOND))
def test_a_wide_reading_does_not_put_off_a_machine_that_it_does_not_show_to_be_wrong(
    there: int, back: int, wrong: int
) -> None:
    """The way to a far cache and back may take unlike times: the middle of a reading is then as wrong as it is wide."""
    here, said = EPOCH + there + wrong, EPOCH + there  # the server's time, read ``there`` after the question
    taken = Reading(0, said, there + back)
    begins = set_by(taken, here + taken.middle - there)
    if taken.width <= GOOD_US:
        assert begins.now(taken.middle) == said
    elif abs(said - here - taken.middle + there) <= taken.width // 2:
        assert begins.now(there) == here
        assert begins.off_by(taken) == 0
    else:
        assert begins.now(taken.middle) == said


STEPS = st.integers(-3 * SECOND, 3 * SECOND) | st.integers(-(10**10), 10**10) | st.integers(-100, 100)


@given(st.lists(st.tuples(st.integers(0, 60 * SECOND), STEPS, st.integers(0, SECOND)), max_size=12), st.randoms())
def test_time_never_steps_back_whatever_the_other_clock_does(readings: list[tuple[int, int, int]], rng) -> None:  # type: ignore[no-untyped-def]
    """Readings at any time, of any clock, however wide: the times told ascend."""
    now, tick, told = slewed(), 0, list[int]()
    for wait, step, width in readings:
        for _ in range(8):
            tick += rng.randint(0, wait // 8 + 1)
            told.append(now.now(tick))
        now = now.corrected(reading(tick, now.now(tick) + step, width), tick)
        told.append(now.now(tick))
    assert all(before <= after for before, after in pairwise(told))
