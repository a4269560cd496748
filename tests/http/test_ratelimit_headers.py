"""Budgets: what services write in RateLimit headers, what is made of it, and that no text whatever raises."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.internals.http import MOST_TEXT, read, reset_us
from tests.support.internals.window import ReportedQuota

S = 1_000_000


def window(
    remaining: int | None, limit: int | None = None, period_us: int | None = None, reset_us: int | None = None
) -> ReportedQuota:
    """A budget whose reset is a window's end."""
    return ReportedQuota(remaining, limit, period_us, reset_us, is_window=True)


NOW = 1_795_000_000 * S  # Wed, 18 Nov 2026 11:06:40 GMT
DATE = "Wed, 18 Nov 2026 11:06:40 GMT"

# What services send, in lower case: GitHub, the IETF's drafts 10, 8, 7 and 3, OpenAI, Anthropic, Discord, X, GitLab.
REAL = [
    (
        {
            "x-ratelimit-limit": "5000",
            "x-ratelimit-remaining": "4987",
            "x-ratelimit-reset": "1795003600",
            "x-ratelimit-used": "13",
            "x-ratelimit-resource": "core",
        },
        [window(4987, 5000, None, 3600 * S)],
    ),
    (
        {"ratelimit": '"default";r=50;t=30', "ratelimit-policy": '"default";q=100;w=60'},
        [window(50, 100, 60 * S, 30 * S)],
    ),
    (
        {
            "ratelimit": '"burst, too";r=0;t=5,"daily";r=20;pk=:cHNk:;t=4000',
            "ratelimit-policy": '"burst, too";q=10;w=1;qu="requests", "daily";q=1000;w=86400',
        },
        [window(0, 10, S, 5 * S), window(20, 1000, 86_400 * S, 4000 * S)],
    ),
    ({"ratelimit": "default;r=50;t=30"}, [window(50, None, None, 30 * S)]),
    (
        {"ratelimit": "limit=100, remaining=50, reset=5", "ratelimit-policy": "100;w=60"},
        [window(50, 100, 60 * S, 5 * S)],
    ),
    (
        {"ratelimit-limit": "10, 10;w=1, 50;w=60", "ratelimit-remaining": "9", "ratelimit-reset": "1"},
        [window(9, 10, S, S)],
    ),
    (
        {"ratelimit-limit": "100", "ratelimit-policy": "100;w=60", "ratelimit-remaining": "9", "ratelimit-reset": "0"},
        [window(9, 100, 60 * S, 0)],
    ),
    (
        {
            "x-ratelimit-limit-requests": "60",
            "x-ratelimit-limit-tokens": "150000",
            "x-ratelimit-remaining-requests": "59",
            "x-ratelimit-remaining-tokens": "149984",
            "x-ratelimit-reset-requests": "1s",
            "x-ratelimit-reset-tokens": "6m0s",
        },
        [ReportedQuota(59, 60, None, S)],
    ),
    (
        {
            "anthropic-ratelimit-requests-limit": "50",
            "anthropic-ratelimit-requests-remaining": "0",
            "anthropic-ratelimit-requests-reset": "2026-11-18T11:07:10Z",
            "anthropic-ratelimit-tokens-remaining": "0",
        },
        [ReportedQuota(0, 50, None, 30 * S)],
    ),
    (
        {"x-ratelimit-limit": "5", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "1795000001.25"},
        [window(0, 5, None, 1_250_000)],
    ),
    ({"x-rate-limit-limit": "15", "x-rate-limit-remaining": "7"}, [window(7, 15)]),
    (
        {
            "ratelimit-limit": "60",
            "ratelimit-remaining": "59",
            "ratelimit-reset": "1795000060",
            "ratelimit-resettime": DATE,
        },
        [window(59, 60, None, 60 * S)],
    ),
    ({"x-ratelimit-remaining": "9", "ratelimit-remaining": "9"}, [window(9)]),
    ({}, []),
    # Docker Hub, Reddit, a proxy and the service behind it, Kong, EVE Online, NS1, Zendesk, Strava, RapidAPI, GitLab.
    (
        {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "40;w=21600", "docker-ratelimit-source": "1.2.3.4"},
        [window(40, 100, 21_600 * S)],
    ),
    (
        {"x-ratelimit-used": "60", "x-ratelimit-remaining": "40.0", "x-ratelimit-reset": "300"},
        [window(40, None, None, 300 * S)],
    ),
    (
        {"x-ratelimit-used": "9, 2", "x-ratelimit-remaining": "991, 40", "x-ratelimit-reset": "300, 20"},
        [window(991, None, None, 300 * S), window(40, None, None, 20 * S)],
    ),
    (
        {
            "x-ratelimit-limit-hour": "100",
            "x-ratelimit-remaining-hour": "40",
            "x-ratelimit-limit-second": "5",
            "x-ratelimit-remaining-second": "4",
            "ratelimit-limit": "5",
            "ratelimit-remaining": "4",
            "ratelimit-reset": "1",
        },
        [window(40, 100, 3600 * S), window(4, 5, S), window(4, 5, None, S)],
    ),
    (
        {"x-ratelimit-group": "market", "x-ratelimit-limit": "150/15m", "x-ratelimit-remaining": "148"},
        [window(148, 150, 900 * S)],
    ),
    (
        {"x-ratelimit-limit": "900", "x-ratelimit-remaining": "899", "x-ratelimit-period": "300"},
        [window(899, 900, 300 * S)],
    ),
    ({"x-rate-limit": "700", "x-rate-limit-remaining": "699"}, [window(699, 700)]),
    (
        {"x-ratelimit-limit": "200,2000", "x-ratelimit-usage": "150,1900", "x-readratelimit-limit": "100,1000"},
        [window(50, 200), window(100, 2000)],
    ),
    (
        {"x-ratelimit-limit": "20:1,100:120", "x-ratelimit-remaining": "19, 80"},
        [window(19, 20, S), window(80, 100, 120 * S)],
    ),
    ({"x-ratelimit-requests-limit": "500", "x-ratelimit-requests-remaining": "499"}, [ReportedQuota(499, 500)]),
    (
        {"ratelimit-limit": "2000", "ratelimit-observed": "8", "ratelimit-remaining": "1992", "ratelimit-name": "api"},
        [window(1992, 2000)],
    ),
    (
        {"x-ratelimit-remaining": "1, 2", "x-ratelimit-reset": "2026-11-18T11:06:45Z, 1795000009"},
        [window(1, None, None, 5 * S), window(2, None, None, 9 * S)],
    ),
    (
        {"x-ratelimit-remaining": "1", "x-ratelimit-reset": "Wed, 18 Nov 2026 11:06:45 GMT"},
        [window(1, None, None, 5 * S)],
    ),
    (
        {"x-ratelimit-limit": "100,1000", "x-ratelimit-remaining": "50,877"},
        [window(50, 100), window(877, 1000)],
    ),
    ({"x-rate-limit-limit": "50", "x-rate-limit-interval": "1s"}, [window(None, 50, S)]),
    (
        {
            "x-ratelimit-limit": "9",
            "x-ratelimit-remaining": "5",
            "x-ratelimit-interval-milliseconds": "10000",
            "x-ratelimit-reset-ms": "2500",
        },
        [ReportedQuota(5, 9, 10 * S, 2_500_000, True, S // 1000)],
    ),
    # What the drafts say besides.
    (
        {"ratelimit": '"peruser";r=50;t=30', "ratelimit-policy": '"peruser";q=100;w=60;pk=:cHsdsRa894==:'},
        [window(50, 100, 60 * S, 30 * S)],
    ),
    ({"ratelimit": '"sliding";q=12;r=6;t=1'}, [window(6, 12, None, S)]),
    ({"ratelimit": "default;r=5", "ratelimit-policy": '"default";q=10;w=1;qu=requests'}, [window(5, 10, S)]),
    (
        {"ratelimit": '"a";r=5, "b";r=6', "ratelimit-policy": '"a";q=9;qu="content-bytes", "b";q=9;comment=";r=1, x"'},
        [window(6, 9)],
    ),
    (
        {"ratelimit": "limit=10, remaining=9, reset=50", "ratelimit-policy": "10;w=1, 10;w=60"},
        [window(9, 10, None, 50 * S), window(None, 10, S), window(None, 10, 60 * S)],
    ),
    ({"ratelimit-policy": '"a";q=5;w=10, "b";q=9;w=60;qu="bytes", "c";q=7'}, [window(None, 5, 10 * S)]),
    (
        {"ratelimit": '"a";r=3;t=4', "ratelimit-policy": '"a";q=5;w=10, "day";q=50;w=86400'},
        [window(3, 5, 10 * S, 4 * S), window(None, 50, 86400 * S)],
    ),
    (
        {"ratelimit-limit": '100, 100;w=60;burst=1000;comment="sliding, window", 5000;w=3600', "ratelimit-used": "1"},
        [window(99, 100, 60 * S)],
    ),
]


@pytest.mark.parametrize(("headers", "budgets"), REAL)
def test_what_services_send_is_read(headers: dict[str, str], budgets: list[ReportedQuota]) -> None:
    """Each form gives what remains, of how many, in how long a window, and how long until all are back."""
    reading = read(headers, NOW)
    assert reading.budgets == tuple(budgets)
    assert reading.faults == ()
    assert reading.others == ()


@pytest.mark.parametrize(
    ("headers", "others"),
    [
        ({"ratelimit": '"cdn";r=3;t=4', "ratelimit-policy": '"own";q=10;w=1'}, [window(3, None, None, 4 * S)]),
        ({"ratelimit": '"own";r=9, cdn;q=5;r=3', "ratelimit-policy": '"own";q=10;w=1'}, [window(3, 5)]),
        ({"ratelimit": '"cdn";r=3', "ratelimit-policy": "10;w=1"}, []),  # a policy without a name
    ],
)
def test_an_item_that_no_told_policy_names_is_of_another_bucket(
    headers: dict[str, str], others: list[ReportedQuota]
) -> None:
    """Two layers of a service tell each its own; what one says is not counted for the other."""
    assert read(headers, NOW).others == tuple(others)


@pytest.mark.parametrize(
    "headers",
    [
        {"x-ratelimit-remaining": "39/40"},  # used or remaining?
        {"x-ratelimit-remaining": "39/40 apples"},
        {"x-ratelimit-limit": "150/15 moons", "x-ratelimit-remaining": "1"},
        {"x-ratelimit-limit": "150/15ms", "x-ratelimit-remaining": "1"},
        {"x-ratelimit-limit": "100", "x-ratelimit-remaining": "991, 40"},  # whose limit?
        {"x-ratelimit-limit": "100, 200, 300", "x-ratelimit-remaining": "9, 40"},
        {"x-ratelimit-limit": "100.5", "x-ratelimit-remaining": "9"},
        {"x-ratelimit-remaining": "4,987"},  # one number, or two?
        {"x-ratelimit-limit": "1,000", "x-ratelimit-remaining": "1"},
        {"x-ratelimit-limit": "5,000", "x-ratelimit-remaining": "4,987"},
        {"x-ratelimit-limit": "100", "x-ratelimit-remaining": "7" + 2000 * " "},
    ],
)
def test_what_could_be_meant_in_two_ways_is_a_fault(headers: dict[str, str]) -> None:
    """Nothing is guessed."""
    reading = read(headers, NOW)
    assert (reading.budgets, len(reading.faults)) == ((), 1)


@pytest.mark.parametrize(
    ("remaining", "limit", "reset", "budget", "faults"),
    [
        ("-1", "100", "5", None, 1),
        ("5", "0", "5", None, 1),
        ("0", "0", "0", None, 1),
        ("5", "-1", "5", None, 1),
        ("50", "10", "5", None, 1),
        ("unlimited", "100", "5", None, 1),
        ("", "100", "5", None, 1),
        ("5", "many", "5", None, 1),
        ("5", "100", "-5", window(5, 100), 1),
        ("5", "100", "soon", window(5, 100), 1),
        ("5", "100", "1000000000", window(5, 100), 1),  # in 2001
        ("5", "100", "9" * 400, window(5, 100), 1),
        ("9" * 5000, "100", "5", None, 1),
        ("5", "100", "", window(5, 100), 1),
    ],
)
def test_nonsense_is_a_fault(remaining: str, limit: str, reset: str, budget: ReportedQuota | None, faults: int) -> None:
    """What is negative, zero, contradictory or no number is left out and told; an odd reset goes alone."""
    headers = {"x-ratelimit-remaining": remaining, "x-ratelimit-limit": limit, "x-ratelimit-reset": reset}
    reading = read(headers, NOW)
    assert reading.budgets == ((budget,) if budget else ())
    assert len(reading.faults) == faults


@pytest.mark.parametrize(
    "headers",
    [
        {"x-ratelimit-limit": "100"},
        {"x-ratelimit-limit": "100", "x-ratelimit-reset": "5"},
        {"ratelimit-reset": "5"},
        {"ratelimit": '"all";t=5'},
        {"ratelimit": "limit=100, reset=5"},
        {"ratelimit": "; ;"},
    ],
)
def test_a_limit_without_a_word_of_what_is_left_is_a_fault(headers: dict[str, str]) -> None:
    """Nothing can be made of it, and who listens should know."""
    reading = read(headers, NOW)
    assert reading.budgets == ()
    assert len(reading.faults) == 1
    assert "nothing remaining" in reading.faults[0]


@pytest.mark.parametrize(
    ("text", "us"),
    [
        ("30", 30 * S),
        ("0.5", S // 2),
        ("20ms", 20_000),
        ("6m0s", 360 * S),
        ("1h2m3.5s", 3_723_500_000),
        ("1d", 86_400 * S),
        ("1795000010", 10 * S),
        ("1795000010123", 10_123_000),
        ("1794999990", 0),
        ("1794990000", None),
        ("Wed, 18 Nov 2026 11:06:45 GMT", 5 * S),
        ("2026-11-18T11:06:45Z", 5 * S),
        ("2026-11-18T12:06:45.5+01:00", 5_500_000),
        ("2026-11-18T11:06:45", 5 * S),
        ("-5", None),
        ("5 apples", None),
        ("10x", None),
        ("1s 2s", None),
    ],
)
def test_resets_in_every_form(text: str, us: int | None) -> None:
    """Seconds, durations, Unix time in s and ms, dates of HTTP and of RFC 3339."""
    assert reset_us(text, NOW) == us


@pytest.mark.parametrize(
    ("text", "grain"),
    [
        ("30", S),
        ("30.0", S),
        ("6m0s", S),
        ("2.5", S // 10),
        ("8.64s", S // 100),
        ("22ms", S // 1000),
        ("1.2345678", S // 1000),
        ("0", S),
        ("1795000010", S),
        ("1795000010.25", S),
        ("1795000010123", S),
        (DATE, S),
        ("soon", S),
    ],
)
def test_how_closely_a_reset_is_told(text: str, grain: int) -> None:
    """A duration to its last digit, a millisecond at best; points in time stand beside a ``Date`` of whole seconds."""
    headers = {"x-ratelimit-remaining": "1", "x-ratelimit-reset": text}
    assert [budget.grain_us for budget in read(headers, NOW + 5, DATE).budgets] == [grain]


def test_a_point_in_time_counts_from_the_answers_own_date() -> None:
    """A service's clock an hour ahead adds no hour."""
    headers = {"x-ratelimit-remaining": "1", "x-ratelimit-reset": "1795000030"}
    assert read(headers, NOW - 3600 * S, DATE).budgets[0].reset_us == 30 * S


NAMES = st.sampled_from(sorted({name for headers, _ in REAL for name in headers}))
ODD = st.text() | st.from_regex(r'("[a-z]*";[rtqw]=-?[0-9]{1,400}[,;]?){1,3}') | st.from_regex(r"\A[0-9hms.µ:TZ+-]*\Z")
WHOLES = st.integers(0, 10**14)


@given(st.dictionaries(NAMES, ODD, max_size=6), ODD)
def test_no_text_raises(headers: dict[str, str], date: str) -> None:
    """Whatever a service sends: budgets that make sense, or none."""
    for budget in read(headers, NOW, date).budgets:
        assert budget.remaining is None or budget.remaining >= 0
        assert budget.limit is None or budget.limit >= max(1, budget.remaining or 0)
        assert budget.reset_us is None or budget.reset_us >= 0


@given(WHOLES, WHOLES, st.integers(0, 10**8))
def test_numbers_come_back(remaining: int, more: int, reset: int) -> None:
    """Of any size, in any form."""
    limit = remaining + more + 1
    plain = {"ratelimit-remaining": f"{remaining}", "ratelimit-limit": f"{limit}", "ratelimit-reset": f"{reset}"}
    items = {"ratelimit": f'"x";r={remaining};t={reset}', "ratelimit-policy": f'"x";q={limit};w=7'}
    assert read(plain, NOW).budgets == (window(remaining, limit, None, reset * S),)
    assert read(items, NOW).budgets == (window(remaining, limit, 7 * S, reset * S),)


def test_a_long_header_takes_no_long_time() -> None:
    """A hundred thousand characters that nearly fit are read or refused at once; it would be minutes if not linear."""
    names = ("ratelimit", "ratelimit-policy", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset")
    for part in ('"', "a;", " ", 'a;r="\\', "\\", "1h", "a;r=1 ", "a;r=:1:;", 'a;r="";', "a,", ":", "1/"):
        for count in (10**5, MOST_TEXT // len(part) - 1):
            for end in ("", "!", '"'):
                read(dict.fromkeys(names, part * count + end), 0)
