"""Real services' answers, as they come, and what becomes of the limit: how long it is held, and how much is left."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import pytest
from requests.structures import CaseInsensitiveDict

from nekkar.core.limiter import Nekkar
from nekkar.rules import Rule, RuleTable
from nekkar.testing import FakeClock
from tests.support.internals.core import quota
from tests.support.internals.http import HttpLimiter, Route

URL = "https://api.example.com/"
NOW = 1_700_000_000  # the clock's begin, Tue, 14 Nov 2023 22:13:20 GMT


class Answer(NamedTuple):
    """An answer to the one call of a limit: for how long it holds, and what then is used of each window."""

    service: str
    settings: dict[str, Any]
    status: int
    headers: dict[str, str]
    hold: float
    used: tuple[int, ...]
    warns: bool = False


def limit(rate: str, headers: bool | str = True, *refused: int) -> dict[str, Any]:
    return {"rate": rate, "headers": headers, "refused": list(refused)}


LLM = "500/minute; 150000 tokens/minute"
OPENAI = {
    "x-ratelimit-limit-requests": "500",
    "x-ratelimit-remaining-requests": "499",
    "x-ratelimit-reset-requests": "120ms",
    "x-ratelimit-limit-tokens": "150000",
}
GITHUB = {"X-RateLimit-Limit": "5000", "X-RateLimit-Reset": f"{NOW + 1800}", "X-RateLimit-Resource": "core"}

ANSWERS = [
    Answer(
        "OpenAI, tokens used by others",
        limit(LLM, "openai"),
        200,
        {**OPENAI, "x-ratelimit-remaining-tokens": "50000", "x-ratelimit-reset-tokens": "40s"},
        0,
        (1, 100_000),
    ),
    Answer(
        "OpenAI, no token left",
        limit(LLM, "openai"),
        429,
        {**OPENAI, "x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6s", "retry-after-ms": "1500"},
        1.5,
        (1, 150_000),
    ),
    Answer(
        "Azure OpenAI, what remains alone",
        limit("300/minute; 50000 tokens/minute", "openai"),
        200,
        {"x-ratelimit-remaining-requests": "250", "x-ratelimit-remaining-tokens": "30000"},
        0,
        (50, 20_000),
    ),
    Answer(
        "Groq, requests of the day",
        limit("30/minute; 14400/day; 18000 tokens/minute", "openai"),
        200,
        {
            "x-ratelimit-limit-requests": "14400",
            "x-ratelimit-remaining-requests": "14000",
            "x-ratelimit-reset-requests": "2m59.56s",
            "x-ratelimit-limit-tokens": "18000",
            "x-ratelimit-remaining-tokens": "17000",
            "x-ratelimit-reset-tokens": "3s",
        },
        0,
        (1, 1000, 400),
    ),
    Answer(
        "Anthropic, input tokens used by others",
        limit("50/minute; 30000 input_tokens/minute; 8000 output_tokens/minute", "anthropic"),
        200,
        {
            "anthropic-ratelimit-requests-limit": "50",
            "anthropic-ratelimit-requests-remaining": "49",
            "anthropic-ratelimit-tokens-limit": "38000",
            "anthropic-ratelimit-tokens-remaining": "28000",
            "anthropic-ratelimit-input-tokens-limit": "30000",
            "anthropic-ratelimit-input-tokens-remaining": "20000",
            "anthropic-ratelimit-input-tokens-reset": "2023-11-14T22:13:50Z",
            "anthropic-ratelimit-output-tokens-limit": "8000",
            "anthropic-ratelimit-output-tokens-remaining": "8000",
        },
        0,
        (1, 0, 10_000),
    ),
    Answer("Anthropic, overloaded", limit(LLM, "anthropic", 529), 529, {"retry-after": "10"}, 10, (1, 0)),
    Answer("Notion, overloaded", limit("180/minute", False, 529), 529, {"Retry-After": "10"}, 10, (1,)),
    Answer(
        "Amazon SP-API, a slower pace",
        limit("20 per 40 seconds", "amazon-sp-api"),
        200,
        {"x-amzn-RateLimit-Limit": "0.25"},
        0,
        (1,),
        warns=True,
    ),
    Answer(
        "Amazon SP-API, our pace",
        limit("1/minute", "amazon-sp-api"),
        200,
        {"x-amzn-RateLimit-Limit": "0.0167"},
        0,
        (1,),
    ),
    Answer(
        "GitHub, the primary limit",
        limit("5000/hour", "github", 403),
        403,
        {**GITHUB, "X-RateLimit-Remaining": "0"},
        1801,  # to the end of that second
        (5001,),  # those of others, and the call that was refused
    ),
    Answer(
        "GitHub, the secondary limit",
        limit("5000/hour", "github", 403),
        403,
        {**GITHUB, "X-RateLimit-Remaining": "4999", "Retry-After": "60"},
        60,
        (1,),
    ),
    Answer(
        "GitHub, a missing permission",
        limit("5000/hour", "github", 403),
        403,
        {**GITHUB, "X-RateLimit-Remaining": "4999"},
        0,
        (1,),
    ),
    Answer(
        "GitHub, search under the core limit",
        limit("5000/hour", "github"),
        200,
        {"X-RateLimit-Limit": "30", "X-RateLimit-Remaining": "20", "X-RateLimit-Resource": "search"},
        0,
        (1,),
        warns=True,
    ),
    Answer(
        "GitHub, search as a unit",
        limit("5000/hour; 30 search/minute", "github"),
        200,
        {"X-RateLimit-Limit": "30", "X-RateLimit-Remaining": "20", "X-RateLimit-Resource": "search"},
        0,
        (10, 1),
    ),
    Answer("Shopify", limit("40 per 20 seconds", "shopify"), 200, {"X-Shopify-Shop-Api-Call-Limit": "39/40"}, 0, (39,)),
    Answer(
        "Discord, the last of a bucket",
        limit("5 per 5 seconds", "discord"),
        200,
        {"X-RateLimit-Limit": "5", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset-After": "1.25"},
        1.25,
        (5,),
    ),
    Answer(
        "Reddit, a fraction",
        limit("1000 per 10 minutes"),
        200,
        {"X-Ratelimit-Used": "5", "X-Ratelimit-Remaining": "895.0", "X-Ratelimit-Reset": "300"},
        0,
        (105,),
    ),
    Answer(
        "HubSpot",
        limit("100 per 10 seconds; 250000/day", "hubspot"),
        200,
        {
            "X-HubSpot-RateLimit-Max": "100",
            "X-HubSpot-RateLimit-Remaining": "70",
            "X-HubSpot-RateLimit-Interval-Milliseconds": "10000",
            "X-HubSpot-RateLimit-Daily": "250000",
            "X-HubSpot-RateLimit-Daily-Remaining": "200000",
        },
        0,
        (30, 50_000),
    ),
    Answer(
        "HubSpot, a smaller plan",
        limit("190 per 10 seconds", "hubspot"),
        200,
        {"X-HubSpot-RateLimit-Max": "100", "X-HubSpot-RateLimit-Interval-Milliseconds": "10000"},
        0,
        (91,),
        warns=True,
    ),
    Answer(
        "Salesforce", limit("5000/day", "salesforce"), 200, {"Sforce-Limit-Info": "api-usage=1800/5000"}, 0, (1800,)
    ),
    Answer(
        "Jira",
        limit("350/minute", "jira"),
        429,
        {
            "X-RateLimit-Limit": "350",
            "X-RateLimit-Remaining": "0",
            "X-RateLimit-Reset": "2023-11-14T22:14Z",
            "RateLimit-Reason": "jira-burst-based",
        },
        41,
        (351,),
    ),
    Answer(
        "Zendesk",
        limit("700/minute", "zendesk"),
        200,
        {"X-Rate-Limit": "700", "X-Rate-Limit-Remaining": "609", "RateLimit-Reset": "17"},
        0,
        (91,),
    ),
    Answer("Twilio", limit("100/second", "twilio"), 200, {"Twilio-Concurrent-Requests": "7"}, 0, (1,)),
    Answer(
        "Strava",
        limit("200 per 15 minutes; 2000/day", "strava"),
        200,
        {"X-RateLimit-Limit": "200,2000", "X-RateLimit-Usage": "150,1900"},
        0,
        (150, 1900),
    ),
    Answer(
        "Binance, weight as calls",
        limit("6000/minute", "binance"),
        200,
        {"X-MBX-USED-WEIGHT-1M": "4000", "X-MBX-USED-WEIGHT": "4000"},
        0,
        (4000,),
    ),
    Answer(
        "Binance, weight as a unit",
        limit("6000 weight/minute; 100 orders per 10 seconds", "binance"),
        200,
        {"X-MBX-USED-WEIGHT-1M": "4000", "X-MBX-ORDER-COUNT-10S": "90"},
        0,
        (90, 4000),
    ),
    Answer("Binance, banned", limit("6000/minute", "binance", 418), 418, {"Retry-After": "120"}, 120, (1,)),
    Answer(
        "EVE Online",
        limit("150 tokens per 15 minutes", "esi"),
        200,
        {"X-Ratelimit-Group": "market", "X-Ratelimit-Limit": "150/15m", "X-Ratelimit-Remaining": "100"},
        0,
        (50,),
    ),
    Answer(
        "EVE Online, too many errors",
        limit("100/second", "esi", 420),
        420,
        {"X-ESI-Error-Limit-Remain": "0", "X-ESI-Error-Limit-Reset": "42"},
        42,
        (1,),
    ),
    Answer(
        "Crossref, a lower limit",
        limit("50/second", "crossref"),
        200,
        {"X-Rate-Limit-Limit": "10", "X-Rate-Limit-Interval": "1s"},
        0,
        (41,),
        warns=True,
    ),
    Answer(
        "Riot",
        limit("20/second; 100 per 120 seconds", "riot"),
        200,
        {"X-App-Rate-Limit": "20:1,100:120", "X-App-Rate-Limit-Count": "1:1,40:120"},
        0,
        (1, 40),
    ),
    Answer(
        "NS1",
        limit("900 per 300 seconds", "ns1"),
        200,
        {"X-RateLimit-Limit": "900", "X-RateLimit-Remaining": "600", "X-RateLimit-Period": "300"},
        0,
        (300,),
    ),
    Answer(
        "Cloudflare, names differ",
        limit("1200 per 5 minutes; 200/second"),
        200,
        {"RateLimit": '"other";r=58;t=2', "RateLimit-Policy": '"default";q=1200;w=300'},
        0,
        (1, 1),
        warns=True,
    ),
]


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: answer.service)
def test_what_a_services_answer_does_to_its_limit(answer: Answer, caplog: pytest.LogCaptureFixture) -> None:
    """One call, its answer, and how the limit stands for all who share it."""
    limiter = Nekkar(clock=FakeClock())
    route = HttpLimiter(limiter, RuleTable([Rule("*", "api")], {"api": answer.settings})).route("GET", URL)
    assert isinstance(route, Route)
    cost = dict.fromkeys(quota(answer.settings["rate"]).units, 0) | {"calls": 1}
    with caplog.at_level(logging.WARNING, "nekkar"):
        route.report(route.limit.acquire(cost=cost), answer.status, CaseInsensitiveDict(answer.headers))
    status = route.limit.status()
    held = 0.0 if status.hold_until is None else status.hold_until - limiter.now_us() / 1e6
    assert round(held, 3) == answer.hold
    assert tuple(window.used for window in status.windows) == answer.used
    told = [record for record in caplog.records if "is held" not in record.getMessage()]
    assert len(told) == answer.warns
