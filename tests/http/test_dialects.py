"""Dialects: what the headers of real services tell, whose it is, and that no header raises. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nekkar.rules import RuleTable
from tests.support.calls import calls, is_proportional
from tests.support.internals.core import quota
from tests.support.internals.http import MOST_HEADERS, MOST_TEXT, limit_of, quota_report, refusing, shared_out, told_by
from tests.support.internals.rules import BUILT_IN
from tests.support.internals.window import ReportedQuota, window_of

MS, S = 1000, 1_000_000
NOW = 1_795_000_000 * S  # Wed, 18 Nov 2026 11:06:40 GMT
DAY = 86_400 * S


class Given(dict[str, str]):
    """Headers whose names ignore case."""

    def get(self, name: str, default: Any = None) -> Any:
        return next((value for key, value in self.items() if key.lower() == name.lower()), default)


def told(dialect: str, headers: dict[str, str], rate: str = "1/second") -> tuple[ReportedQuota, ...]:
    """Return what headers tell to a limit of this rate, in a dialect that is built in."""
    reading = told_by(Given(headers), BUILT_IN[dialect], quota(rate).units, NOW)
    assert reading.faults == ()
    return reading.budgets


def bits(remaining: int | None, limit: int | None = None, reset_us: int | None = None, **more: Any) -> ReportedQuota:
    """What is told of a bucket that fills bit by bit."""
    return ReportedQuota(remaining, limit, None, reset_us, **more)


def window(remaining: int | None, limit: int | None = None, reset_us: int | None = None, **more: Any) -> ReportedQuota:
    """What is told of a window."""
    return ReportedQuota(remaining, limit, more.pop("period_us", None), reset_us, is_window=True, **more)


TOKENS = "500/minute; 150000 tokens/minute; 80000 input_tokens/minute; 20000 output_tokens/minute"

# Service, its headers, and what they tell.
SERVICES = [
    (
        "github",
        {
            "X-RateLimit-Limit": "5000",
            "X-RateLimit-Remaining": "4987",
            "X-RateLimit-Reset": "1795003600",
            "X-RateLimit-Used": "13",
            "X-RateLimit-Resource": "core",
        },
        [window(4987, 5000, 3600 * S, resource="core")],
    ),
    (
        "openai",
        {
            "x-ratelimit-limit-requests": "500",
            "x-ratelimit-remaining-requests": "499",
            "x-ratelimit-reset-requests": "120ms",
            "x-ratelimit-limit-tokens": "150000",
            "x-ratelimit-remaining-tokens": "149000",
            "x-ratelimit-reset-tokens": "6m0s",
        },
        [
            bits(499, 500, 120 * MS, grain_us=10 * MS),
            bits(149_000, 150_000, 360 * S, unit="tokens"),
        ],
    ),
    (  # Azure
        "openai",
        {"x-ratelimit-remaining-requests": "299", "x-ratelimit-remaining-tokens": "49800"},
        [bits(299), bits(49_800, unit="tokens")],
    ),
    (  # Groq: the requests of a day, the tokens of a minute
        "openai",
        {
            "x-ratelimit-limit-requests": "14400",
            "x-ratelimit-remaining-requests": "14000",
            "x-ratelimit-reset-requests": "2m59.56s",
            "x-ratelimit-limit-tokens": "18000",
            "x-ratelimit-remaining-tokens": "17997",
            "x-ratelimit-reset-tokens": "7.66s",
        },
        [
            bits(14_000, 14_400, 179_560 * MS, grain_us=10 * MS),
            bits(17_997, 18_000, 7_660 * MS, grain_us=10 * MS, unit="tokens"),
        ],
    ),
    (
        "anthropic",
        {
            "anthropic-ratelimit-requests-limit": "50",
            "anthropic-ratelimit-requests-remaining": "49",
            "anthropic-ratelimit-requests-reset": "2026-11-18T11:07:10Z",
            "anthropic-ratelimit-tokens-limit": "40000",
            "anthropic-ratelimit-tokens-remaining": "39000",
            "anthropic-ratelimit-input-tokens-limit": "30000",
            "anthropic-ratelimit-input-tokens-remaining": "0",
            "anthropic-ratelimit-input-tokens-reset": "2026-11-18T11:06:50Z",
            "anthropic-ratelimit-output-tokens-limit": "8000",
            "anthropic-ratelimit-output-tokens-remaining": "8000",
        },
        [
            bits(49, 50, 30 * S),
            bits(39_000, 40_000, unit="tokens"),
            bits(0, 30_000, 10 * S, unit="input_tokens"),
            bits(8000, 8000, unit="output_tokens"),
        ],
    ),
    (
        "amazon-sp-api",
        {"x-amzn-RateLimit-Limit": "0.0167"},
        [ReportedQuota(None, 1, 59_701_493, is_pace=True)],
    ),
    ("amazon-sp-api", {"x-amzn-RateLimit-Limit": "2"}, [ReportedQuota(None, 1, S // 2, is_pace=True)]),
    ("shopify", {"X-Shopify-Shop-Api-Call-Limit": "32/40"}, [bits(8, 40)]),
    (
        "discord",
        {
            "X-RateLimit-Limit": "5",
            "X-RateLimit-Remaining": "0",
            "X-RateLimit-Reset": "1795000001.200",
            "X-RateLimit-Reset-After": "1.25",
            "X-RateLimit-Bucket": "80c17d2f203122d936070c88c8d10f33",
            "X-RateLimit-Scope": "user",
        },
        [window(0, 5, 1250 * MS, grain_us=10 * MS, resource="user")],
    ),
    (
        "hubspot",
        {
            "X-HubSpot-RateLimit-Max": "100",
            "X-HubSpot-RateLimit-Remaining": "88",
            "X-HubSpot-RateLimit-Interval-Milliseconds": "10000",
            "X-HubSpot-RateLimit-Daily": "250000",
            "X-HubSpot-RateLimit-Daily-Remaining": "249912",
            "X-HubSpot-RateLimit-Secondly": "10",
        },
        [ReportedQuota(88, 100, 10 * S), window(249_912, 250_000)],
    ),
    ("salesforce", {"Sforce-Limit-Info": "api-usage=18/5000"}, [bits(4982, 5000)]),
    (
        "salesforce",
        {"Sforce-Limit-Info": "api-usage=25/5000; per-app-api-usage=17/250(appName=sample-app)"},
        [bits(4975, 5000)],
    ),
    (
        "jira",
        {
            "X-RateLimit-Limit": "350",
            "X-RateLimit-Remaining": "0",
            "X-RateLimit-Reset": "2026-11-18T11:08Z",
            "RateLimit-Reason": "jira-burst-based",
        },
        [window(0, 350, 80 * S, resource="jira-burst-based")],
    ),
    (
        "zendesk",
        {
            "X-Rate-Limit": "700",
            "X-Rate-Limit-Remaining": "609",
            "RateLimit-Reset": "17",
            "Zendesk-RateLimit-Tickets-Index": "total=100; remaining=99; resets=41",
        },
        [window(609, 700, 17 * S), window(99, 100, 41 * S, resource="tickets-index")],
    ),
    (
        "twilio",
        {"Twilio-Concurrent-Requests": "7"},
        [ReportedQuota(None, used=7, is_window=True, unit="calls at once")],
    ),
    (
        "strava",
        {
            "X-RateLimit-Limit": "200,2000",
            "X-RateLimit-Usage": "150,1900",
            "X-ReadRateLimit-Limit": "100,1000",
            "X-ReadRateLimit-Usage": "100,1000",
        },
        [
            window(50, 200, 500 * S),
            window(100, 2000, 46_400 * S),
            window(0, 100, 500 * S),
            window(0, 1000, 46_400 * S),
        ],
    ),
    (
        "binance",
        {"X-MBX-USED-WEIGHT": "40", "X-MBX-USED-WEIGHT-1M": "40", "X-MBX-ORDER-COUNT-10S": "3"},
        [
            window(None, used=40, period_us=60 * S, reset_us=20 * S),
            window(None, used=3, period_us=10 * S, reset_us=10 * S),
        ],
    ),
    (
        "esi",
        {
            "X-Ratelimit-Group": "market",
            "X-Ratelimit-Limit": "150/15m",
            "X-Ratelimit-Remaining": "148",
            "X-Ratelimit-Used": "2",
        },
        [ReportedQuota(148, 150, 900 * S, resource="market")],
    ),
    (
        "esi",
        {"X-ESI-Error-Limit-Remain": "0", "X-ESI-Error-Limit-Reset": "42"},
        [window(0, reset_us=42 * S, unit="errors")],
    ),
    (
        "crossref",
        {"X-Rate-Limit-Limit": "50", "X-Rate-Limit-Interval": "1s", "X-Concurrency-Limit": "3"},
        [window(None, 50, period_us=S)],
    ),
    (
        "riot",
        {
            "X-App-Rate-Limit": "20:1,100:120",
            "X-App-Rate-Limit-Count": "1:1,40:120",
            "X-Method-Rate-Limit": "2000:10",
            "X-Method-Rate-Limit-Count": "4:10",
        },
        [
            window(19, 20, period_us=S),
            window(60, 100, period_us=120 * S),
            window(1996, 2000, period_us=10 * S),
        ],
    ),
    (
        "ns1",
        {"X-RateLimit-Limit": "900", "X-RateLimit-Remaining": "899", "X-RateLimit-Period": "300"},
        [ReportedQuota(899, 900, 300 * S)],
    ),
]


@pytest.mark.parametrize(("dialect", "headers", "budgets"), SERVICES)
def test_what_a_service_tells_is_read(dialect: str, headers: dict[str, str], budgets: list[ReportedQuota]) -> None:
    """In the words of each: what remains, of how many, of which unit and bucket, and until when."""
    assert told(dialect, headers) == tuple(budgets)


def test_there_is_an_answer_of_each_dialect() -> None:
    """None is built in that nobody has seen."""
    assert {dialect for dialect, _, _ in SERVICES} == set(BUILT_IN)


@pytest.mark.parametrize("dialect", BUILT_IN)
def test_an_answer_without_such_headers_tells_nothing(dialect: str) -> None:
    """And is no fault."""
    headers = Given({"Content-Type": "text/plain", "Date": "Wed, 18 Nov 2026 11:06:40 GMT"})
    assert told_by(headers, BUILT_IN[dialect], ("calls",), NOW).budgets == ()
    assert told_by(headers, BUILT_IN[dialect], ("calls",), NOW).faults == ()


def test_a_unit_is_the_one_that_the_limit_counts() -> None:
    """Binance's weight is a unit of its own, or calls of that cost."""
    headers = {"X-MBX-USED-WEIGHT-1M": "40"}
    assert [one.unit for one in told("binance", headers, "6000/minute")] == ["calls"]
    assert [one.unit for one in told("binance", headers, "6000 weight/minute")] == ["weight"]


@pytest.mark.parametrize(
    ("date", "left"), [("Tue, 14 Nov 2023 22:13:20 GMT", 40), ("Tue, 14 Nov 2023 22:13:00 GMT", 60)]
)
def test_a_window_on_the_clock_ends_by_the_clock_of_its_service(date: str, left: int) -> None:
    """Binance's minute: by the ``Date`` of the answer, whatever the time here."""
    headers = {"X-MBX-USED-WEIGHT-1M": "40", "Date": date}
    assert [one.reset_us for one in told("binance", headers, "6000/minute")] == [left * S]


OWN = {
    "plain": {"limit": "X-L", "remaining": "X-R", "reset": "X-T", "period": "X-P"},
    "used": {"used": "X-U"},
    "ratio": {"remaining": "X-R", "unit": "points"},
    "millis": {"remaining": "X-R", "reset": "X-Reset-Ms", "period": "X-Interval-Millis"},
    "two": [{"remaining": "X-R"}, {"remaining": "X-R2", "unit": "tokens"}],
    "github": {"remaining": "X-Own"},
}
TABLE = RuleTable([], dialects=OWN)


@pytest.mark.parametrize(
    ("dialect", "headers", "budgets"),
    [
        ("plain", {"x-l": "9", "X-r": "5.5", "x-T": "30", "x-p": "1m30s"}, [window(5, 9, 30 * S, period_us=90 * S)]),
        ("plain", {"X-L": "9", "X-R": "5", "X-P": "minute"}, [window(5, 9, period_us=60 * S)]),
        ("plain", {"X-L": "9", "X-P": "60"}, [window(None, 9, period_us=60 * S)]),
        ("plain", {"X-R": "5", "X-T": "2026-11-18T11:07Z"}, [window(5, reset_us=20 * S)]),
        ("plain", {"X-R": "5", "X-T": "1795000030123"}, [window(5, reset_us=30_123 * MS)]),
        ("plain", {"X-L": "9/15m", "X-R": "5"}, [window(5, 9, period_us=900 * S)]),
        ("plain", {"X-L": "limit=9; remaining=5", "X-R": "limit=9; remaining=5"}, [window(5, 9)]),
        ("used", {"X-U": "39/40"}, [window(1, 40)]),
        ("used", {"X-U": "39.5/40"}, [window(0, 40)]),
        ("used", {"X-U": "7"}, [window(None, used=7)]),
        ("ratio", {"X-R": "39/40"}, [window(39, 40, unit="points")]),
        ("millis", {"X-R": "5", "X-Reset-Ms": "1500"}, [window(5, reset_us=1500 * MS, grain_us=MS)]),
        ("millis", {"X-R": "5", "X-Reset-Ms": "1795000001500"}, [window(5, reset_us=1500 * MS)]),
        ("millis", {"X-R": "5", "X-Interval-Millis": "500"}, [window(5, period_us=S // 2)]),
        ("two", {"X-R2": "8", "X-R": "5"}, [window(5), window(8, unit="tokens")]),
        ("github", {"X-Own": "5", "X-RateLimit-Remaining": "1"}, [window(5)]),
    ],
)
def test_a_dialect_of_ones_own_is_read(dialect: str, headers: dict[str, str], budgets: list[ReportedQuota]) -> None:
    """In all forms; one with the name of a built-in one takes its place."""
    reading = told_by(Given(headers), TABLE.dialect(dialect), ("calls", "tokens", "points"), NOW)
    assert reading.budgets == tuple(budgets)
    assert reading.faults == ()


@pytest.mark.parametrize(
    ("dialect", "headers"),
    [
        ("shopify", {"X-Shopify-Shop-Api-Call-Limit": "many"}),
        ("shopify", {"X-Shopify-Shop-Api-Call-Limit": "41/0"}),
        ("amazon-sp-api", {"x-amzn-RateLimit-Limit": "-1"}),
        ("amazon-sp-api", {"x-amzn-RateLimit-Limit": "0.0"}),
        ("amazon-sp-api", {"x-amzn-RateLimit-Limit": "9" * 400}),
        ("binance", {"X-MBX-USED-WEIGHT-1M": "-4"}),
        ("salesforce", {"Sforce-Limit-Info": "api-usage=a/b"}),
        ("zendesk", {"Zendesk-RateLimit-Tickets": "total=0; remaining=0"}),
        ("riot", {"X-App-Rate-Limit": "20:0", "X-App-Rate-Limit-Count": "1:0"}),
        ("github", {"X-RateLimit-Remaining": "9" * (MOST_TEXT + 1)}),
    ],
)
def test_nonsense_is_a_fault(dialect: str, headers: dict[str, str]) -> None:
    """Nothing is guessed from it."""
    reading = told_by(Given(headers), BUILT_IN[dialect], ("calls",), NOW)
    assert (reading.budgets, len(reading.faults)) == ((), 1)


NAMES = st.sampled_from(sorted({name for _, headers, _ in SERVICES for name in headers}))
ODD = (
    st.text()
    | st.from_regex(r"\A[0-9:/=;, .a-z*-]*\Z")
    | st.sampled_from([v for _, h, _ in SERVICES for v in h.values()])
)


@given(st.sampled_from(sorted(BUILT_IN)), st.dictionaries(NAMES, ODD, max_size=6))
def test_no_header_raises(dialect: str, headers: dict[str, str]) -> None:
    """Whatever a service sends: what makes sense, or nothing."""
    terms = quota(TOKENS)
    for budget in told_by(Given(headers), BUILT_IN[dialect], terms.units, NOW).budgets:
        assert budget.remaining is None or budget.remaining >= 0
        assert budget.limit is None or budget.limit >= max(1, budget.remaining or 0)
        assert budget.period_us is None or budget.period_us > 0
        window_of(budget, terms)
        assert str(budget)


@pytest.mark.parametrize("part", ['"', "a;", "a=", "a =", "a= ", "1/", "1:", "1,", "=", " ", "total=1;"])
def test_a_long_header_takes_time_proportional_to_its_length(part: str) -> None:
    """What is longer than any that is read is refused with the same few calls."""
    names = {name for bucket in (bucket for dialect in BUILT_IN.values() for bucket in dialect)
             for name in (bucket.limit, bucket.remaining, bucket.used, bucket.reset, bucket.period)}  # fmt: skip

    def reading(size: int) -> Callable[[], None]:
        text = (part * size)[:size]
        headers = Given(dict.fromkeys((name.replace("*", "1m") for name in names if name), text))

        def read() -> None:
            for dialect in BUILT_IN.values():
                told_by(headers, dialect, ("calls",), NOW)

        return read

    assert is_proportional(reading, MOST_TEXT // 100, MOST_TEXT)
    assert calls(reading(10**6)) == calls(reading(MOST_TEXT + 1))


def test_ten_thousand_headers_with_one_beginning_are_read_in_part() -> None:
    many = Given({f"x-mbx-used-weight-{n}m": "1" for n in range(10_000)})
    assert len(told_by(many, BUILT_IN["binance"], ("calls",), NOW).budgets) <= 32


MANY = 3800  # about as many as h11, and so httpx, takes


@pytest.mark.parametrize("name", ["x-unrelated-{}", "x-ratelimit-{}", "x-mbx-used-weight-{}m"])
@pytest.mark.parametrize("dialect", [None, *BUILT_IN.values()], ids=["standard", *BUILT_IN])
def test_thousands_of_headers_take_no_more_steps_than_the_most_that_are_read(dialect: Any, name: str) -> None:
    def reading(size: int) -> Callable[[], object]:
        headers = httpx.Headers([(name.format(number), "1") for number in range(size)])
        assert headers.encoding == "ascii"  # found once: httpx itself asks for it too
        return lambda: told_by(headers, dialect, ("calls",), NOW)

    most = reading(MOST_HEADERS)
    most()  # what is kept of a bucket is made
    assert calls(reading(MANY)) <= calls(most)


@pytest.mark.parametrize("kind", [httpx.Headers, Given])
def test_headers_are_read_behind_as_many_as_any_client_takes(kind: Any) -> None:
    """http.client refuses an answer with over 100 headers."""
    headers = {f"X-Other-{number}": "1" for number in range(96)}
    headers |= {"X-RateLimit-Limit": "9", "X-RateLimit-Remaining": "7", "X-RateLimit-Reset": "30", "Date": "none"}
    for dialect in (None, BUILT_IN["github"]):
        assert [(told.limit, told.remaining) for told in told_by(kind(headers), dialect, ("calls",), NOW).budgets] == [
            (9, 7)
        ]


def test_values_of_one_name_are_one_list_in_every_dialect() -> None:
    """httpx keeps the lines of a header apart, and each in bytes as it came."""
    lines = [(b"X-RateLimit-LIMIT", b"200"), (b"X-RateLimit-Remaining", b"50"), (b"x-ratelimit-limit", b"2000"),
             (b"x-ratelimit-remaining", b"1900")]  # fmt: skip
    for dialect in (None, BUILT_IN["github"]):
        budgets = told_by(httpx.Headers(lines), dialect, ("calls",), NOW).budgets
        assert [(told.limit, told.remaining) for told in budgets] == [(200, 50), (2000, 1900)]


# Whose is it?


def test_what_is_of_another_bucket_or_unit_is_kept_apart() -> None:
    """GitHub's search under its core limit; a unit that the limit does not count is left out without a word."""
    core = quota("5000/hour")
    reading = told_by(
        Given({"X-RateLimit-Limit": "30", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "60"}),
        BUILT_IN["github"], core.units, NOW,
    )  # fmt: skip
    assert quota_report(reading, core).budgets == ()
    assert [one.limit for one in quota_report(reading, core).others] == [30]
    assert quota_report(reading, core).pause_us(core) == 60 * S
    errors = told_by(
        Given({"X-ESI-Error-Limit-Remain": "0", "X-ESI-Error-Limit-Reset": "42"}), BUILT_IN["esi"], (), NOW
    )
    assert quota_report(errors, core).others == ()
    assert quota_report(errors, core).pause_us(core) == 42 * S


def test_a_window_that_is_told_in_full_is_not_lowered_by_another_of_its_period() -> None:
    """Riot's method may have a lower limit than the application in the same period."""
    headers = {
        "X-App-Rate-Limit": "100:120",
        "X-App-Rate-Limit-Count": "40:120",
        "X-Method-Rate-Limit": "50:120",
        "X-Method-Rate-Limit-Count": "40:120",
    }
    terms = quota("100 per 120 seconds")
    shares = quota_report(told_by(Given(headers), BUILT_IN["riot"], terms.units, NOW), terms)
    assert [one.limit for one in shares.budgets] == [100]
    assert [one.limit for one in shares.others] == [50]


LIMITS = [
    ("github-search", quota("30/minute")),
    ("github", quota("5000/hour")),
    ("github-graphql", quota("5000 points/hour")),
    ("tokens-{user}", quota("100 tokens/minute")),
]


@pytest.mark.parametrize(
    ("one", "number"),
    [
        (ReportedQuota(1, 5000, 3600 * S), 1),
        (ReportedQuota(1, 5000), 1),
        (ReportedQuota(1, 30), 0),
        (ReportedQuota(1, 77, resource="search"), 0),
        (ReportedQuota(1, 5000, unit="points"), 2),
        (ReportedQuota(1, 77, unit="points"), 2),
        (ReportedQuota(1, unit="tokens"), 3),
        (ReportedQuota(1, 77), 0),
        (ReportedQuota(1, 77, resource="user"), 0),  # a capture is no word of a name
        (ReportedQuota(1, 77, resource="github"), 0),
    ],
)
def test_of_several_limits_the_one_hears_that_its_header_names(one: ReportedQuota, number: int) -> None:
    """By its count, its resource, its unit; else the first."""
    assert limit_of(one, LIMITS) == number


def test_what_is_told_is_shared_out() -> None:
    """Each limit hears of its own windows."""
    headers = {"X-App-Rate-Limit": "20:1,100:120", "X-App-Rate-Limit-Count": "1:1,40:120",
               "X-Method-Rate-Limit": "2000:10", "X-Method-Rate-Limit-Count": "4:10"}  # fmt: skip
    limits = [("riot-method", quota("2000 per 10 s")), ("riot", quota("20/s; 100 per 120 s"))]
    shares = shared_out(told_by(Given(headers), BUILT_IN["riot"], ("calls",), NOW), limits)
    assert [[one.limit for one in share.budgets] for share in shares] == [[2000], [20, 100]]
    assert all(share.others == () for share in shares)


def test_a_refusal_is_of_the_limit_of_which_nothing_remains() -> None:
    """Else of the one that the answer names, else of the first, of those for which its status is a refusal."""
    limits = [("discord-channel", quota("5 per 5 s")), ("discord-global", quota("50/s"))]

    def refused(of: tuple[int, ...] = (0, 1), **headers: str) -> int:
        named = {f"X-RateLimit-{name}": value for name, value in headers.items()}
        return refusing([told_by(Given(named), BUILT_IN["discord"], ("calls",), NOW)], limits, of)

    assert refused(Limit="5", Remaining="0") == 0
    assert refused(Limit="50", Remaining="0") == 1
    assert refused(Limit="5", Remaining="3", Scope="global") == 1
    assert refused() == 0
    assert refused(Scope="global") == 1
    assert refused((1,)) == 1
    assert refused((1,), Limit="5", Remaining="3", Scope="channel") == 1
    assert refused((1,), Limit="5", Remaining="0") == 0
