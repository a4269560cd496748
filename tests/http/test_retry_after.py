"""Retry-After: what is a wait and what is none, and that no text whatever raises."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.internals.http import date_us, number, wait_us

S = 1_000_000
NOW = 784_111_777 * S  # Sun, 06 Nov 1994 08:49:37 GMT, the standard's own example
YEAR_3000 = 32_503_680_000


@pytest.mark.parametrize(
    ("text", "wait"),
    [
        ("120", 120 * S),
        (" 3 ", 3 * S),
        ("0", 0),
        ("007", 7 * S),
        ("1.5", 1_500_000),
        ("2.", 2 * S),
        ("999999999", 999_999_999 * S),
        ("30s", 30 * S),
        ("1m30s", 90 * S),
        ("500ms", S // 2),
        ("1994-11-06T08:49:40Z", 3 * S),
        ("1994-11-06T10:49:40.5+02:00", 3_500_000),
        ("Sun, 06 Nov 1994 08:49:40 GMT", 3 * S),
        ("Sunday, 06-Nov-94 08:49:40 GMT", 3 * S),
        ("Sun Nov  6 08:49:40 1994", 3 * S),
        ("Sun, 06 Nov 1994 09:49:40 +0100", 3 * S),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0),
        ("Sun, 06 Nov 1994 08:49:07 GMT", 0),  # 30 s past
        ("Sun, 06 Nov 1994 08:00:00 GMT", None),
        ("Thu, 01 Jan 1970 00:00:00 GMT", None),
        ("", None),
        ("-1", None),
        ("+1", None),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("1e3", None),
        ("0x10", None),
        ("3, 5", 5 * S),  # of two headers
        ("60,3s", 60 * S),
        ("3, soon", None),
        ("3,", None),
        ("٣", None),
        ("3 seconds", None),
        ("Sun, 99 Nov 1994 08:49:40 GMT", None),
        ("Sun, 06 Nov 99999 08:49:40 GMT", None),
    ],
)
def test_what_is_a_wait(text: str, wait: int | None) -> None:
    """Seconds and dates are, of several the longest; negative, odd and long past values are not."""
    assert wait_us(text, NOW) == wait


def test_a_date_counts_from_the_answers_own() -> None:
    """A service whose clock is an hour off asks for no hour."""
    assert wait_us("Sun, 06 Nov 1994 09:49:40 GMT", NOW, "Sun, 06 Nov 1994 09:49:37 GMT") == 3 * S
    assert wait_us("Sun, 06 Nov 1994 08:49:40 GMT", NOW, "no date") == 3 * S
    assert wait_us("3", NOW, "Sun, 06 Nov 1994 09:49:37 GMT") == 3 * S


NOW_UNIX = 1_795_000_000


@pytest.mark.parametrize("text", ["1795000002", "1795000002000", "1795000002000000", "1795000002000000000"])
@pytest.mark.parametrize("fraction", ["", ".", ".0", ".25"])
def test_a_point_in_time_is_no_number_of_seconds(text: str, fraction: str) -> None:
    """Unix time in s, ms, µs or ns: 2 s off, not 56 years; by the answer's own ``Date``, where it has one."""
    wait = wait_us(text + fraction, NOW_UNIX * S)
    assert wait is not None
    assert 0 <= wait - 2 * S <= S // 4
    assert wait_us(text, (NOW_UNIX + 3600) * S, "Wed, 18 Nov 2026 11:06:40 GMT") == 2 * S
    assert wait_us(text, (NOW_UNIX + 3600) * S) is None  # long past
    assert wait_us(text, (NOW_UNIX + 30) * S) == 0


def test_a_number_of_milliseconds() -> None:
    """As in ``retry-after-ms``; a point in time is one there too."""
    assert wait_us("1500", NOW_UNIX * S, unit_us=1000) == 1_500_000
    assert wait_us("1795000002000", NOW_UNIX * S, unit_us=1000) == 2 * S
    assert wait_us("2s", NOW_UNIX * S, unit_us=1000) == 2 * S


def test_a_number_too_large_for_any_point_in_time_is_a_long_wait() -> None:
    """It is capped where it is heard."""
    assert (wait_us("1" + 5000 * "0", NOW_UNIX * S) or 0) > 10**20


@given(st.integers(0, 10**9 - 1), st.integers(0, 999_999))
def test_seconds_come_back(seconds: int, micros: int) -> None:
    """To the microsecond, as far as a float is exact."""
    wait = wait_us(f"{seconds}.{micros:06}", NOW)
    assert wait == pytest.approx(seconds * S + micros, rel=1e-15)


@given(st.integers(0, YEAR_3000))
def test_dates_come_back(instant: int) -> None:
    """As the standard library writes them."""
    assert date_us(format_datetime(datetime.fromtimestamp(instant, UTC), usegmt=True)) == instant * S


@given(
    st.text()
    | st.from_regex(r"[0-9]{1,5000}(\.[0-9]*)?")
    | st.from_regex(r"\A\w{3}, [0-9]{1,9} \w{3} [0-9]{1,9} [0-9:]*")
)
def test_no_text_raises(text: str) -> None:
    """Whatever a service sends is a wait, or none."""
    wait, value = wait_us(text, NOW, text), number(text)
    assert wait is None or wait >= 0
    assert value is None or value >= 0
