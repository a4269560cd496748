"""Retry-After: what is a wait and what is none, and that no text whatever raises."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.internals import date_us, number, wait_us

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
        ("3, 5", None),
        ("٣", None),
        ("3 seconds", None),
        ("Sun, 99 Nov 1994 08:49:40 GMT", None),
        ("Sun, 06 Nov 99999 08:49:40 GMT", None),
    ],
)
def test_what_is_a_wait(text: str, wait: int | None) -> None:
    """Seconds and dates are; negative, odd and long past values are not."""
    assert wait_us(text, NOW) == wait


def test_a_date_counts_from_the_answers_own() -> None:
    """A service whose clock is an hour off asks for no hour."""
    assert wait_us("Sun, 06 Nov 1994 09:49:40 GMT", NOW, "Sun, 06 Nov 1994 09:49:37 GMT") == 3 * S
    assert wait_us("Sun, 06 Nov 1994 08:49:40 GMT", NOW, "no date") == 3 * S
    assert wait_us("3", NOW, "Sun, 06 Nov 1994 09:49:37 GMT") == 3 * S


@given(st.integers(0, 10**15), st.integers(0, 999_999))
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
