"""Each of 49 public services: its limits as a rule file, and what an answer of its own does to them, the whole way.

The figures are those of the services' documentation, of 2025 and 2026; an account may have others. A comment says what
no rule file can say yet: ``burst`` (what flows in beside a token bucket's burst), ``aligned`` (windows of the calendar)
and ``concurrency`` (calls at once); and what needs Python.
"""

from __future__ import annotations

import json
import logging
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest

from nekkar.core.limiter import Nekkar
from nekkar.httpx2 import NekkarTransport
from nekkar.meters import OpenAI
from nekkar.rules import RuleTable, faults
from nekkar.testing import FakeClock
from tests.support.strict import query_cost, throttled

NOW = 1_700_000_000  # the clock's begin, Tue, 14 Nov 2023 22:13:20 GMT


class Seen(NamedTuple):
    """An answer, and what all who share the limits see then.

    ``held``: the seconds for which each limit of the rule is held. ``used``: of all windows of these limits, in order.
    """

    held: tuple[float, ...]
    used: tuple[int, ...]
    status: int = 200
    headers: Mapping[str, str] = {}
    body: Any = None


class Service(NamedTuple):
    """A service: its rule file, one request, its answers; ``meters`` of its limits and ``refused=`` are Python's."""

    name: str
    file: str
    request: str
    answers: tuple[Seen, ...]
    body: Any = None
    headers: Mapping[str, str] = {}
    meters: Mapping[str, Any] = {}
    refused: Callable[[Any], float | None] | None = None


class Points:
    """A meter of one's own: ``before`` reads the request, ``after`` the answer."""

    def __init__(self, before: Callable[[Any], dict[str, int]], after: Callable[[Any], Any] = lambda _: None) -> None:
        self.estimate, self.measure = before, after


def text(found: str, seconds: float) -> Callable[[Any], float | None]:
    """Return a ``refused=`` that pauses for so long where a body has this text."""
    return lambda response: seconds if found in response.content.decode() else None


# 1 to 8: language models


class Held(OpenAI):
    """Azure counts what was estimated."""

    def measure(self, response: Any) -> None: ...
    def measure_event(self, data: Any) -> None: ...


def gemini_used(response: Any) -> dict[str, int] | None:
    usage = response.json().get("usageMetadata", {})
    return {"input_tokens": usage.get("promptTokenCount", 0)}


def gemini_refused(response: Any) -> float | None:
    found = re.search(rb'"retryDelay":\s*"([0-9.]+)s"', response.content) if response.status_code == 429 else None
    return float(found[1]) if found else None


def bedrock_held(request: Any) -> dict[str, int]:
    return {"tokens": 100 + request.json()["inferenceConfig"]["maxTokens"]}


def bedrock_used(response: Any) -> dict[str, int]:
    usage = response.json().get("usage", {})
    return {"tokens": usage.get("inputTokens", 0) + 5 * usage.get("outputTokens", 0)}


CHAT = {"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": "x" * 400}]}
CHAT_USAGE = {"usage": {"prompt_tokens": 90, "completion_tokens": 10, "total_tokens": 100}}
CONVERSE = {"messages": [{"role": "user", "content": [{"text": "x" * 400}]}], "inferenceConfig": {"maxTokens": 100}}

MODELS = [
    Service(  # burst
        "OpenAI",
        """
        [limits."openai-{json:model}"]
        rate = "500/minute; 10000/day; 150000 tokens/minute"
        headers = "openai"
        meter = "openai"
        [[rules]]
        url = "https://api.openai.com/v1/*"
        limit = "openai-{json:model}"
        methods = ["POST"]
        """,
        "POST https://api.openai.com/v1/chat/completions",
        (
            Seen((0,), (1, 100, 1), body=CHAT_USAGE),
            Seen((0,), (1, 59_900, 1), body=CHAT_USAGE, headers={"x-ratelimit-limit-tokens": "150000",
                 "x-ratelimit-remaining-tokens": "90000", "x-ratelimit-reset-tokens": "24s"}),
            Seen((1.5,), (1, 0, 1), 429, {"retry-after-ms": "1500", "retry-after": "2"}),
        ),
        CHAT,
    ),
    Service(  # aligned
        "Azure OpenAI",
        """
        [limits]
        "azure-{deployment}" = { rate = "5/second; 300/minute; 50000 tokens/minute", headers = "openai" }
        [[rules]]
        url = "https://*.openai.azure.com/openai/deployments/{deployment}/*"
        limit = "azure-{deployment}"
        """,
        "POST https://eu.openai.azure.com/openai/deployments/gpt/chat/completions?api-version=1",
        (Seen((0,), (1, 50, 20_000), headers={"x-ratelimit-remaining-requests": "250",
              "x-ratelimit-remaining-tokens": "30000"}, body=CHAT_USAGE),),
        CHAT,
        meters={"azure-{deployment}": Held()},
    ),
    Service(  # burst; the ramp of a new account
        "Anthropic",
        """
        [limits.claude]
        rate = "50/minute; 30000 input_tokens/minute; 8000 output_tokens/minute"
        headers = "anthropic"
        meter = "anthropic"
        refused = [529]
        [[rules]]
        url = "https://api.anthropic.com/v1/messages"
        limit = "claude"
        """,
        "POST https://api.anthropic.com/v1/messages",
        (
            Seen((0,), (1, 10, 90), body={"usage": {"input_tokens": 80, "cache_creation_input_tokens": 10,
                 "cache_read_input_tokens": 900, "output_tokens": 10}}),
            Seen((10,), (1, 0, 0), 529, {"retry-after": "10"}),
            Seen((20,), (1, 0, 0), 429, {"retry-after": "20"}),
        ),
        CHAT,
    ),
    Service(  # aligned: the day of the Pacific; a rule for each model, whose name is a part of a segment
        "Gemini",
        """
        [limits]
        gemini-flash = "10/minute; 250/day; 250000 input_tokens/minute"
        [[rules]]
        url = "https://generativelanguage.googleapis.com/*/models/gemini-2.5-flash:*"
        limit = "gemini-flash"
        """,
        "POST https://generativelanguage.googleapis.com/v1beta/models/gemini-2.5-flash:generateContent",
        (
            Seen((0,), (1, 12, 1), body={"usageMetadata": {"promptTokenCount": 12, "candidatesTokenCount": 5}}),
            Seen((37,), (1, 0, 1), 429, body={"error": {"status": "RESOURCE_EXHAUSTED", "details": [
                 {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "37s"}]}}),
        ),
        {"contents": [{"parts": [{"text": "x" * 400}]}]},
        meters={"gemini-flash": Points(lambda request: {"input_tokens": len(request.content) // 4 - 12}, gemini_used)},
        refused=gemini_refused,
    ),
    Service(
        "Mistral",
        """
        [limits]
        mistral = { rate = "1/second; 500000 tokens/minute; 1000000000 tokens/month", meter = "openai" }
        [[rules]]
        url = "https://api.mistral.ai/v1/*"
        limit = "mistral"
        """,
        "POST https://api.mistral.ai/v1/chat/completions",
        (Seen((0,), (1, 100, 100), body=CHAT_USAGE), Seen((1,), (1, 0, 0), 429)),
        CHAT,
    ),
    Service(  # burst
        "Groq",
        """
        [limits."groq-{json:model}"]
        rate = "30/minute; 14400/day; 18000 tokens/minute"
        headers = "openai"
        meter = "openai"
        [[rules]]
        url = "https://api.groq.com/openai/v1/*"
        limit = "groq-{json:model}"
        """,
        "POST https://api.groq.com/openai/v1/chat/completions",
        (Seen((0,), (1, 1000, 400), headers={"x-ratelimit-limit-requests": "14400",
              "x-ratelimit-remaining-requests": "14000", "x-ratelimit-reset-requests": "2m59.56s",
              "x-ratelimit-limit-tokens": "18000", "x-ratelimit-remaining-tokens": "17000",
              "x-ratelimit-reset-tokens": "3s"}),),
        CHAT,
    ),
    Service(
        "Cohere",
        """
        [limits]
        cohere-embed = "2000 inputs/minute"
        cohere = "1000/month"
        [[rules]]
        url = "https://api.cohere.com/*/embed"
        limit = ["cohere-embed", "cohere"]
        """,
        "POST https://api.cohere.com/v2/embed",
        (Seen((0, 0), (3, 1)),),
        {"texts": ["a", "b", "c"]},
        meters={"cohere-embed": Points(lambda request: {"inputs": len(request.json()["texts"])})},
    ),
    Service(
        "Amazon Bedrock",
        """
        [limits]
        "bedrock-{region}-{model}" = "200/minute; 200000 tokens/minute"
        [[rules]]
        url = "https://bedrock-runtime.{region}.amazonaws.com/model/{model}/*"
        limit = "bedrock-{region}-{model}"
        """,
        "POST https://bedrock-runtime.eu-west-1.amazonaws.com/model/claude-v1%3A0/converse",
        (
            Seen((0,), (1, 140), body={"usage": {"inputTokens": 90, "outputTokens": 10}}),
            Seen((60,), (1, 0), 429, body={"__type": "ThrottlingException"}),
        ),
        CONVERSE,
        meters={"bedrock-{region}-{model}": Points(bedrock_held, bedrock_used)},
    ),
]  # fmt: skip

# 9 to 18


def instances(request: Any) -> dict[str, int]:
    return {"instances": int(re.findall(r"MaxCount=(\d+)", request.url)[0])}


def ratelimit_cost(response: Any) -> dict[str, int] | None:
    found = response.json()
    return {"graphql": found["data"]["rateLimit"]["cost"] if "data" in found else 0}


GITHUB = """
[limits]
github = { rate = "5000/hour", headers = "github", refused = [403] }
github-points = "900 points/minute"
github-write = "80/minute; 500/hour"
[[rules]]
url = "https://api.github.com"
methods = ["POST", "PATCH", "PUT", "DELETE"]
limit = ["github-write", "github-points", "github"]
cost = { points = 5 }
[[rules]]
url = "https://api.github.com"
limit = ["github-points", "github"]
cost = { points = 1 }
"""
CORE = {"X-RateLimit-Limit": "5000", "X-RateLimit-Used": "10", "X-RateLimit-Resource": "core"}
CORE |= {"X-RateLimit-Reset": f"{NOW + 1800}"}
COST: dict[str, Any] = {"requestedQueryCost": 50, "actualQueryCost": None}
COST |= {"throttleStatus": {"maximumAvailable": 2000, "currentlyAvailable": 40, "restoreRate": 100}}

CLOUDS = [
    Service(  # burst; the action of a POST is in its form, which names no limit
        "AWS EC2",
        """
        [limits]
        ec2-run-instances = "5 per 3 seconds; 1000 instances per 500 seconds"
        [[rules]]
        url = "https://ec2.*.amazonaws.com/?Action=RunInstances"
        limit = "ec2-run-instances"
        """,
        "GET https://ec2.eu-west-1.amazonaws.com/?Action=RunInstances&MaxCount=3",
        (
            Seen((0,), (1, 3), body="<RunInstancesResponse/>"),
            Seen((2,), (1, 3), 503, body="<Response><Code>RequestLimitExceeded</Code></Response>"),
        ),
        meters={"ec2-run-instances": Points(instances)},
        refused=text("RequestLimitExceeded", 2),
    ),
    Service(  # burst
        "AWS ECS",
        """
        [limits]
        "ecs-{header:X-Amz-Target}" = "100 per 5 seconds"
        [[rules]]
        url = "https://ecs.*.amazonaws.com"
        limit = "ecs-{header:X-Amz-Target}"
        """,
        "POST https://ecs.eu-west-1.amazonaws.com/",
        (Seen((1,), (1,), 400, body={"__type": "ThrottlingException"}),),
        {},
        {"X-Amz-Target": "AmazonEC2ContainerServiceV20141113.DescribeClusters"},
        refused=text("ThrottlingException", 1),
    ),
    Service(  # burst
        "Amazon SP-API",
        """
        [limits]
        spapi-orders = { rate = "20 per 20 seconds", headers = "amazon-sp-api" }
        spapi = "100/second"
        [[rules]]
        url = "https://sellingpartnerapi-*.amazon.com/orders/*"
        limit = ["spapi-orders", "spapi"]
        """,
        "GET https://sellingpartnerapi-eu.amazon.com/orders/v0/orders",
        (
            Seen((0, 0), (1, 1), headers={"x-amzn-RateLimit-Limit": "1.0"}),
            Seen((20, 0), (1, 1), 429, {"x-amzn-RateLimit-Limit": "1.0"}),
        ),
    ),
    Service(  # concurrency; seconds of CPU, which no answer tells
        "GitHub REST",
        GITHUB,
        "POST https://api.github.com/repos/octo/hello/issues",
        (
            Seen((0, 0, 0), (1, 1, 5, 1000), 201, CORE | {"X-RateLimit-Remaining": "4000"}),
            Seen((0, 0, 60), (1, 1, 5, 1000), 403, CORE | {"X-RateLimit-Remaining": "4000", "Retry-After": "60"}),
            Seen((0, 0, 1801), (1, 1, 5, 5001), 403, CORE | {"X-RateLimit-Remaining": "0"}),
            Seen((0, 0, 0), (1, 1, 5, 1000), 403, CORE | {"X-RateLimit-Remaining": "4000"}),
        ),
        {},
    ),
    Service(  # concurrency
        "GitHub GraphQL",
        """
        [limits]
        github-graphql = { rate = "2000 graphql/minute; 5000 graphql/hour", headers = "github" }
        [[rules]]
        url = "https://api.github.com/graphql"
        limit = "github-graphql"
        """,
        "POST https://api.github.com/graphql",
        (
            Seen((0,), (7, 1006), headers=CORE | {"X-RateLimit-Resource": "graphql", "X-RateLimit-Remaining": "4000"},
                 body={"data": {"rateLimit": {"cost": 7}}}),
            Seen((1801,), (0, 4999), headers=CORE | {"X-RateLimit-Resource": "graphql", "X-RateLimit-Remaining": "0"},
                 body={"errors": [{"type": "RATE_LIMITED"}]}),
        ),
        {"query": "{ rateLimit { cost } }"},
        meters={"github-graphql": Points(lambda _: {"graphql": 1}, ratelimit_cost)},
    ),
    Service(
        "GitLab",
        """
        [limits]
        gitlab-search = "10/minute"
        gitlab = { rate = "2000/minute", headers = true }
        [[rules]]
        url = "https://gitlab.com/api/v4/search"
        limit = ["gitlab-search", "gitlab"]
        [[rules]]
        url = "https://gitlab.com/api/*"
        limit = "gitlab"
        """,
        "GET https://gitlab.com/api/v4/projects",
        (
            Seen((0,), (500,), headers={"RateLimit-Limit": "2000", "RateLimit-Name": "throttle_authenticated_api",
                 "RateLimit-Observed": "500", "RateLimit-Remaining": "1500", "RateLimit-Reset": f"{NOW + 30}"}),
            Seen((30,), (1,), 429, {"Retry-After": "30"}, "Retry later"),
        ),
    ),
    Service(  # burst
        "Shopify REST",
        """
        [limits]
        "shopify-{shop}" = { rate = "40 per 20 seconds", headers = "shopify" }
        [[rules]]
        url = "https://{shop}.myshopify.com/admin/api/*"
        limit = "shopify-{shop}"
        """,
        "GET https://a.myshopify.com/admin/api/2026-10/orders.json",
        (
            Seen((0,), (32,), headers={"X-Shopify-Shop-Api-Call-Limit": "32/40"}),
            Seen((2,), (40,), 429, {"X-Shopify-Shop-Api-Call-Limit": "40/40", "Retry-After": "2.0"}),
        ),
    ),
    Service(  # burst; the limit that is told in the body
        "Shopify GraphQL",
        """
        [limits]
        "shopify-{shop}" = "2000 points per 20 seconds"
        [[rules]]
        url = "https://{shop}.myshopify.com/admin/api/*/graphql.json"
        limit = "shopify-{shop}"
        """,
        "POST https://a.myshopify.com/admin/api/2026-10/graphql.json",
        (
            Seen((0,), (31,), body={"data": {}, "extensions": {"cost": COST | {"actualQueryCost": 31}}}),
            Seen((19.6,), (0,), body={"errors": [{"extensions": {"code": "THROTTLED"}}], "extensions": {"cost": COST}}),
        ),
        {"query": "{ shop { name } }"},
        meters={"shopify-{shop}": Points(lambda _: {"points": 50}, query_cost)},
        refused=throttled,
    ),
    Service(  # concurrency
        "Stripe",
        """
        [limits]
        "stripe-{resource}" = "25/second"
        stripe = "100/second"
        [[rules]]
        url = "https://api.stripe.com/v1/{resource}/*"
        limit = ["stripe-{resource}", "stripe"]
        """,
        "POST https://api.stripe.com/v1/charges",
        (Seen((1, 0), (1, 1), 429, {"Stripe-Rate-Limited-Reason": "endpoint-rate"}),),
        {},
    ),
    Service(  # burst
        "Slack",
        """
        [limits]
        "channel-{json:channel}" = "1/second"
        "slack-{method}" = "50/minute"
        [[rules]]
        url = "https://slack.com/api/chat.postMessage"
        limit = "channel-{json:channel}"
        [[rules]]
        url = "https://slack.com/api/{method}"
        limit = "slack-{method}"
        """,
        "POST https://slack.com/api/chat.postMessage",
        (Seen((30,), (1,), 429, {"Retry-After": "30"}),),
        {"channel": "C1", "text": "hello"},
    ),
]  # fmt: skip

# 19 to 34


def is_error(response: Any) -> dict[str, int]:
    return {"errors": int(response.status_code in (401, 403, 429))}


DISCORD = {"X-RateLimit-Limit": "5", "X-RateLimit-Bucket": "80c17d2f203122d936070c88c8d10f33"}
DISCORD |= {"X-RateLimit-Reset": f"{NOW + 1.25}", "X-RateLimit-Reset-After": "1.25"}
JIRA = {"X-RateLimit-Limit": "100", "X-RateLimit-Reset": "2023-11-14T22:14Z"}
STRAVA = {"X-RateLimit-Limit": "200,2000", "X-ReadRateLimit-Limit": "100,1000"}

PRODUCTS = [
    Service(  # buckets that the service names in its answers
        "Discord",
        """
        [limits]
        "discord-messages-{channel}" = { rate = "5 per 5 seconds", headers = "discord" }
        discord-global = "50/second"
        discord-errors = "10000 errors per 10 minutes"
        [[rules]]
        url = "https://discord.com/api/*/channels/{channel}/messages"
        limit = ["discord-messages-{channel}", "discord-global", "discord-errors"]
        """,
        "POST https://discord.com/api/v10/channels/42/messages",
        (
            Seen((0, 0, 0), (2, 1, 0), headers=DISCORD | {"X-RateLimit-Remaining": "3"}),
            Seen((1.25, 0, 0), (5, 1, 0), headers=DISCORD | {"X-RateLimit-Remaining": "0"}),
            Seen((1.25, 0, 0), (5, 1, 1), 429, DISCORD | {"X-RateLimit-Remaining": "0", "X-RateLimit-Scope": "user"}),
            Seen((0, 7, 0), (1, 1, 1), 429, {"X-RateLimit-Scope": "global", "Retry-After": "7"}),
            Seen((0, 0, 0), (1, 1, 1), 403),
        ),
        {},
        meters={"discord-errors": Points(lambda _: {"errors": 1}, is_error)},
    ),
    Service(
        "X",
        """
        [limits]
        "x-user-{header:Authorization}" = { rate = "300 per 15 minutes", headers = true }
        x-app = "450 per 15 minutes"
        [[rules]]
        url = "https://api.x.com/2/tweets/search/recent"
        limit = ["x-user-{header:Authorization}", "x-app"]
        """,
        "GET https://api.x.com/2/tweets/search/recent",
        (
            Seen((0, 0), (100, 1), headers={"x-rate-limit-limit": "300", "x-rate-limit-remaining": "200",
                 "x-rate-limit-reset": f"{NOW + 400}"}),
            Seen((401, 0), (301, 1), 429, {"x-rate-limit-limit": "300", "x-rate-limit-remaining": "0",
                 "x-rate-limit-reset": f"{NOW + 400}"}),
        ),
        headers={"Authorization": "Bearer a"},
    ),
    Service(
        "Reddit",
        """
        [limits]
        reddit = { rate = "1000 per 10 minutes", headers = true }
        [[rules]]
        url = "https://oauth.reddit.com"
        limit = "reddit"
        """,
        "GET https://oauth.reddit.com/r/python/new",
        (Seen((0,), (105,), headers={"x-ratelimit-used": "105", "x-ratelimit-remaining": "895.0",
              "x-ratelimit-reset": "300"}),),
    ),
    Service(
        "Spotify",
        """
        [limits]
        spotify = "100 per 30 seconds"
        [[rules]]
        url = "https://api.spotify.com/v1/*"
        limit = "spotify"
        """,
        "GET https://api.spotify.com/v1/me",
        (Seen((9,), (1,), 429, {"Retry-After": "9"}, {"error": {"reason": "QUOTA_EXCEEDED"}}),),
    ),
    Service(
        "Notion",
        """
        [limits]
        "notion-{header:Authorization}" = { rate = "180/minute", refused = [529] }
        notion = "1000/minute"
        [[rules]]
        url = "https://api.notion.com/v1/*"
        limit = ["notion-{header:Authorization}", "notion"]
        """,
        "GET https://api.notion.com/v1/users",
        (
            Seen((45, 0), (1, 1), 429, {"Retry-After": "45"}),
            Seen((10, 0), (1, 1), 529, {"Retry-After": "10"}),
        ),
        headers={"Authorization": "Bearer a"},
    ),
    Service(
        "Airtable",
        """
        [limits]
        "airtable-{base}" = "5/second"
        "token-{header:Authorization}" = "50/second"
        [[rules]]
        url = "https://api.airtable.com/v0/{base}/*"
        limit = ["airtable-{base}", "token-{header:Authorization}"]
        """,
        "GET https://api.airtable.com/v0/app1/table",
        (Seen((30, 0), (1, 1), 429),),
        headers={"Authorization": "Bearer a"},
        refused=lambda response: 30 if response.status_code == 429 else None,
    ),
    Service(  # aligned
        "HubSpot",
        """
        [limits]
        hubspot-search = "5/second"
        hubspot = { rate = "100 per 10 seconds; 250000/day", headers = "hubspot" }
        [[rules]]
        url = "https://api.hubapi.com/crm/v3/objects/*/search"
        limit = ["hubspot-search", "hubspot"]
        [[rules]]
        url = "https://api.hubapi.com"
        limit = "hubspot"
        """,
        "POST https://api.hubapi.com/crm/v3/objects/contacts/search",
        (
            Seen((0, 0), (1, 30, 50_000), headers={"X-HubSpot-RateLimit-Max": "100",
                 "X-HubSpot-RateLimit-Remaining": "70", "X-HubSpot-RateLimit-Interval-Milliseconds": "10000",
                 "X-HubSpot-RateLimit-Daily": "250000", "X-HubSpot-RateLimit-Daily-Remaining": "200000"}),
            Seen((0, 10), (1, 100, 100), 429, {"X-HubSpot-RateLimit-Max": "100", "X-HubSpot-RateLimit-Remaining": "0",
                 "X-HubSpot-RateLimit-Interval-Milliseconds": "10000"}, {"policyName": "TEN_SECONDLY_ROLLING"}),
        ),
        {},
    ),
    Service(  # concurrency, of long calls
        "Salesforce",
        """
        [limits]
        "salesforce-{org}" = { rate = "5000/day", headers = "salesforce" }
        [[rules]]
        url = "https://{org}.my.salesforce.com/services/*"
        limit = "salesforce-{org}"
        """,
        "GET https://acme.my.salesforce.com/services/data/v60.0/limits",
        (
            Seen((0,), (1800,), headers={"Sforce-Limit-Info": "api-usage=1800/5000"}),
            Seen((600,), (1,), 403, body=[{"errorCode": "REQUEST_LIMIT_EXCEEDED"}]),
        ),
        refused=text("REQUEST_LIMIT_EXCEEDED", 600),
    ),
    Service(  # aligned
        "Google Sheets",
        """
        [limits]
        sheets-read = "300/minute"
        "reader-{header:Authorization}" = "60/minute"
        [[rules]]
        url = "https://sheets.googleapis.com/v4/*"
        methods = ["GET"]
        limit = ["sheets-read", "reader-{header:Authorization}"]
        """,
        "GET https://sheets.googleapis.com/v4/spreadsheets/1",
        (Seen((60, 0), (1, 1), 429),),
        headers={"Authorization": "Bearer a"},
    ),
    Service(  # aligned
        "YouTube",
        """
        [limits]
        youtube = "10000 units/day"
        [[rules]]
        url = "https://www.googleapis.com/youtube/v3/search"
        limit = "youtube"
        cost = { units = 100 }
        [[rules]]
        url = "https://www.googleapis.com/youtube/v3/*"
        limit = "youtube"
        cost = { units = 1 }
        """,
        "GET https://www.googleapis.com/youtube/v3/search?q=a",
        (Seen((0,), (100,)), Seen((3600,), (100,), 403, body={"error": {"errors": [{"reason": "quotaExceeded"}]}})),
        refused=text("quotaExceeded", 3600),
    ),
    Service(  # aligned, burst
        "Jira",
        """
        [limits]
        "jira-burst-{site}" = { rate = "100/second", headers = "jira" }
        jira-quota = "65000 points/hour"
        "issue-{issue}" = "20 writes per 2 seconds"
        [[rules]]
        url = "https://{site}.atlassian.net/rest/api/3/issue/{issue}"
        methods = ["PUT"]
        limit = ["jira-burst-{site}", "jira-quota", "issue-{issue}"]
        cost = { points = 1, writes = 1 }
        """,
        "PUT https://acme.atlassian.net/rest/api/3/issue/A-1",
        (
            Seen((0, 0, 0), (1, 1, 1), headers=JIRA | {"X-RateLimit-Remaining": "99", "X-RateLimit-NearLimit": "true"}),
            Seen((0, 600, 0), (1, 1, 1), 429, {"Retry-After": "600", "RateLimit-Reason": "jira-quota-global-based"}),
            Seen((0, 600, 0), (1, 1, 1), 429, {"Retry-After": "600", "RateLimit-Reason": "jira-quota-global-based",
                 "X-RateLimit-Limit": "65000", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "2023-11-14T23:00Z"}),
            Seen((5, 0, 0), (100, 1, 1), 429, JIRA | {"X-RateLimit-Remaining": "0", "Retry-After": "5",
                 "RateLimit-Reason": "jira-burst-based"}),
        ),
        {},
    ),
    Service(
        "Zendesk",
        """
        [limits]
        "export-{sub}" = { rate = "10/minute", headers = "zendesk" }
        "zendesk-{sub}" = { rate = "700/minute", headers = "zendesk" }
        [[rules]]
        url = "https://{sub}.zendesk.com/api/v2/incremental/*"
        limit = ["export-{sub}", "zendesk-{sub}"]
        """,
        "GET https://acme.zendesk.com/api/v2/incremental/tickets.json",
        (
            Seen((0, 0), (1, 91), headers={"X-Rate-Limit": "700", "X-Rate-Limit-Remaining": "609",
                 "RateLimit-Limit": "700", "RateLimit-Remaining": "609", "RateLimit-Reset": "17"}),
            Seen((0, 0), (4, 1), headers={"Zendesk-RateLimit-Incremental-Exports": "total=10; remaining=6; resets=41"}),
            Seen((30, 0), (1, 1), 429, {"Retry-After": "30"}),
        ),
    ),
    Service(  # concurrency: the rate stands in for it
        "Twilio",
        """
        [limits]
        twilio = { rate = "100/second", headers = "twilio" }
        [[rules]]
        url = "https://api.twilio.com"
        limit = "twilio"
        """,
        "POST https://api.twilio.com/2010-04-01/Accounts/A/Messages.json",
        (
            Seen((0,), (1,), headers={"Twilio-Concurrent-Requests": "7"}),
            Seen((1,), (1,), 429, {"Twilio-Concurrent-Requests": "100"}, {"code": 20429}),
        ),
        {},
    ),
    Service(
        "SendGrid",
        """
        [limits]
        sendgrid = { rate = "600/minute", headers = true }
        [[rules]]
        url = "https://api.sendgrid.com/v3/*"
        limit = "sendgrid"
        """,
        "GET https://api.sendgrid.com/v3/stats",
        (
            Seen((0,), (500,), headers={"X-RateLimit-Limit": "600", "X-RateLimit-Remaining": "100",
                 "X-RateLimit-Reset": f"{NOW + 30}"}),
            Seen((31,), (601,), 429, {"X-RateLimit-Limit": "600", "X-RateLimit-Remaining": "0",
                 "X-RateLimit-Reset": f"{NOW + 30}"}),
        ),
    ),
    Service(  # concurrency: the rate stands in for it
        "Mailchimp",
        """
        [limits]
        mailchimp = "10/second"
        [[rules]]
        url = "https://{dc}.api.mailchimp.com/3.0/*"
        limit = "mailchimp"
        """,
        "GET https://us1.api.mailchimp.com/3.0/lists",
        (Seen((1,), (1,), 429), Seen((10,), (1,), 403)),
        refused=lambda response: 10 if response.status_code == 403 else None,
    ),
    Service(  # aligned, so bursts come after a full period
        "Strava",
        """
        [limits]
        strava-read = { rate = "100 per 15 minutes; 1000/day", headers = "strava" }
        strava = { rate = "200 per 15 minutes; 2000/day", headers = "strava" }
        [[rules]]
        url = "https://www.strava.com/api/v3/*"
        methods = ["GET"]
        limit = ["strava-read", "strava"]
        [[rules]]
        url = "https://www.strava.com/api/v3/*"
        limit = "strava"
        """,
        "GET https://www.strava.com/api/v3/athlete",
        (
            Seen((0, 0), (50, 900, 150, 1900), headers=STRAVA | {"X-RateLimit-Usage": "150,1900",
                 "X-ReadRateLimit-Usage": "50,900"}),
            Seen((101, 0), (100, 900, 150, 1900), 429, STRAVA | {"X-RateLimit-Usage": "150,1900",
                 "X-ReadRateLimit-Usage": "101,900"}),
        ),
    ),
]  # fmt: skip

# 35 to 49


def kraken(response: Any) -> float | None:
    errors = " ".join(response.json().get("error", []))
    until = re.search(r"EService:Throttled: (\d+)", errors)
    return max(0.0, int(until[1]) - NOW) if until else 5 if "EAPI:Rate limit exceeded" in errors else None


def esi_tokens(response: Any) -> dict[str, int]:
    return {"tokens": {2: 2, 3: 1, 4: 5}.get(response.status_code // 100, 0)}


def esi_errors(response: Any) -> dict[str, int]:
    return {"errors": int(response.status_code >= 400)}


def wikimedia(response: Any) -> float | None:
    code = told(response).get("error", {}).get("code")
    return float(response.headers.get("Retry-After", 5)) if code in ("maxlag", "ratelimited") else None


def told(response: Any) -> Any:
    try:
        return response.json()
    except ValueError:
        return {}


MORE = [
    Service(
        "NCBI",
        """
        [limits]
        ncbi-key = { rate = "10/second", headers = true }
        ncbi = { rate = "3/second", headers = true }
        [[rules]]
        url = "https://eutils.ncbi.nlm.nih.gov/entrez/*?api_key"
        limit = "ncbi-key"
        [[rules]]
        url = "https://eutils.ncbi.nlm.nih.gov/entrez/*"
        limit = "ncbi"
        """,
        "GET https://eutils.ncbi.nlm.nih.gov/entrez/eutils/esearch.fcgi?db=pubmed",
        (Seen((0,), (2,), headers={"X-RateLimit-Limit": "3", "X-RateLimit-Remaining": "1"}),),
    ),
    Service(  # concurrency
        "arXiv",
        """
        [limits]
        arxiv = "1 per 3 seconds"
        [[rules]]
        url = "https://export.arxiv.org"
        limit = "arxiv"
        """,
        "GET https://export.arxiv.org/api/query?search_query=all:a",
        (Seen((60,), (1,), 503),),
        refused=lambda response: 60 if response.status_code == 503 else None,
    ),
    Service(  # concurrency
        "Nominatim",
        """
        [limits]
        nominatim = "1/second"
        [[rules]]
        url = "https://nominatim.openstreetmap.org"
        limit = "nominatim"
        """,
        "GET https://nominatim.openstreetmap.org/search?q=a",
        (Seen((60,), (1,), 403),),
        refused=lambda response: 60 if response.status_code == 403 else None,
    ),
    Service(
        "Etherscan",
        """
        [limits]
        etherscan = "3/second; 100000/day"
        [[rules]]
        url = "https://api.etherscan.io/v2/api"
        limit = "etherscan"
        """,
        "GET https://api.etherscan.io/v2/api?chainid=1",
        (
            Seen((0,), (1, 1), body={"status": "1", "message": "OK"}),
            Seen((1,), (1, 1), body={"status": "0", "message": "NOTOK", "result": "Max rate limit reached"}),
        ),
        refused=text("Max rate limit reached", 1),
    ),
    Service(  # aligned: its headers are read so
        "Binance",
        """
        [limits]
        weight = { rate = "6000 weight/minute", headers = "binance", refused = [418] }
        orders = { rate = "100 orders per 10 seconds; 200000 orders/day", headers = "binance" }
        requests = "61000 per 5 minutes"
        [[rules]]
        url = "https://api.binance.com/api/v3/order"
        methods = ["POST"]
        limit = ["weight", "orders", "requests"]
        cost = { weight = 1, orders = 1 }
        [[rules]]
        url = "https://api.binance.com/api/v3/depth"
        limit = ["weight", "requests"]
        cost = { weight = 5 }
        [[rules]]
        url = "https://api.binance.com"
        limit = ["weight", "requests"]
        cost = { weight = 2 }
        """,
        "POST https://api.binance.com/api/v3/order?symbol=BTCUSDT",
        (
            Seen((0, 0, 0), (4000, 90, 150_000, 1), headers={"X-MBX-USED-WEIGHT-1M": "4000",
                 "X-MBX-USED-WEIGHT": "4000", "X-MBX-ORDER-COUNT-10S": "90", "X-MBX-ORDER-COUNT-1D": "150000"}),
            Seen((40, 0, 0), (6000, 1, 1, 1), 429, {"X-MBX-USED-WEIGHT-1M": "6001", "Retry-After": "40"}),
            Seen((120, 0, 0), (1, 1, 1, 1), 418, {"Retry-After": "120"}),
        ),
        {},
    ),
    Service(  # burst
        "Coinbase Exchange",
        """
        [limits]
        coinbase-fills = "20 per 2 seconds"
        coinbase = "30 per 2 seconds"
        [[rules]]
        url = "https://api.exchange.coinbase.com/fills"
        limit = ["coinbase-fills", "coinbase"]
        [[rules]]
        url = "https://api.exchange.coinbase.com"
        limit = "coinbase"
        """,
        "GET https://api.exchange.coinbase.com/fills",
        (Seen((2, 0), (1, 1), 429),),
    ),
    Service(  # burst; the price of an order's age
        "Kraken",
        """
        [limits]
        kraken = "15 points per 46 seconds"
        [[rules]]
        url = "https://api.kraken.com/0/private/Ledgers"
        limit = "kraken"
        cost = { points = 2 }
        [[rules]]
        url = "https://api.kraken.com/0/private/*"
        limit = "kraken"
        cost = { points = 1 }
        """,
        "POST https://api.kraken.com/0/private/Ledgers",
        (
            Seen((0,), (2,), body={"error": [], "result": {}}),
            Seen((5,), (2,), body={"error": ["EAPI:Rate limit exceeded"]}),
            Seen((42,), (2,), body={"error": [f"EService:Throttled: {NOW + 42}"]}),
        ),
        {},
        refused=kraken,
    ),
    Service(  # groups that the service names in its answers
        "EVE Online",
        """
        [limits]
        esi-market = { rate = "150 tokens per 15 minutes", headers = "esi" }
        esi-errors = { rate = "100 errors/minute", headers = "esi", refused = [420] }
        [[rules]]
        url = "https://esi.evetech.net/markets/*"
        limit = ["esi-market", "esi-errors"]
        """,
        "GET https://esi.evetech.net/markets/prices",
        (
            Seen((0, 0), (47, 0), headers={"X-Ratelimit-Group": "market", "X-Ratelimit-Limit": "150/15m",
                 "X-Ratelimit-Remaining": "100", "X-Ratelimit-Used": "2"}),
            Seen((55, 0), (150, 1), 429, {"X-Ratelimit-Group": "market", "X-Ratelimit-Limit": "150/15m",
                 "X-Ratelimit-Remaining": "0", "Retry-After": "55"}),
            Seen((0, 43), (5, 100), 420, {"X-ESI-Error-Limit-Remain": "0", "X-ESI-Error-Limit-Reset": "42"}),
            Seen((0, 0), (0, 1), 500),
        ),
        meters={"esi-market": Points(lambda _: {"tokens": 5}, esi_tokens),
                "esi-errors": Points(lambda _: {"errors": 1}, esi_errors)},
    ),
    Service(  # concurrency
        "Wikimedia",
        """
        [limits]
        wikipedia = "10/second"
        [[rules]]
        url = "https://*.wikipedia.org/w/api.php"
        limit = "wikipedia"
        """,
        "GET https://en.wikipedia.org/w/api.php?action=query&maxlag=5",
        (
            Seen((7,), (1,), headers={"Retry-After": "7"}, body={"error": {"code": "maxlag", "lag": 6}}),
            Seen((0,), (1,), body={"query": {}}),
        ),
        refused=wikimedia,
    ),
    Service(
        "Cloudflare",
        """
        [limits]
        "cloudflare-{header:Authorization}" = { rate = "1200 per 5 minutes; 200/second", headers = true }
        [[rules]]
        url = "https://api.cloudflare.com/client/v4/*"
        limit = "cloudflare-{header:Authorization}"
        """,
        "GET https://api.cloudflare.com/client/v4/zones",
        (
            Seen((0,), (1, 1142), headers={"Ratelimit": '"default";r=58;t=30',
                 "Ratelimit-Policy": '"default";q=1200;w=300'}),
            Seen((300,), (1, 1), 429, {"retry-after": "300"}),
        ),
        headers={"Authorization": "Bearer a"},
    ),
    Service(  # concurrency
        "Crossref",
        """
        [limits]
        crossref = { rate = "50/second", headers = "crossref" }
        [[rules]]
        url = "https://api.crossref.org"
        limit = "crossref"
        """,
        "GET https://api.crossref.org/works",
        (Seen((0,), (1,), headers={"X-Rate-Limit-Limit": "50", "X-Rate-Limit-Interval": "1s",
              "X-Concurrency-Limit": "3"}),),
    ),
    Service(
        "Riot",
        """
        [limits]
        "summoner-{region}" = { rate = "2000 per 10 seconds", headers = "riot" }
        "riot-{region}" = { rate = "20/second; 100 per 120 seconds", headers = "riot" }
        [[rules]]
        url = "https://{region}.api.riotgames.com/lol/summoner/*"
        limit = ["summoner-{region}", "riot-{region}"]
        """,
        "GET https://euw1.api.riotgames.com/lol/summoner/v4/summoners/1",
        (
            Seen((0, 0), (500, 1, 40), headers={"X-App-Rate-Limit": "20:1,100:120",
                 "X-App-Rate-Limit-Count": "1:1,40:120", "X-Method-Rate-Limit": "2000:10",
                 "X-Method-Rate-Limit-Count": "500:10"}),
            Seen((0, 12), (1, 1, 100), 429, {"X-App-Rate-Limit": "20:1,100:120", "X-Rate-Limit-Type": "application",
                 "X-App-Rate-Limit-Count": "1:1,101:120", "Retry-After": "12"}),
        ),
    ),
    Service(  # concurrency
        "Microsoft Graph",
        """
        [limits]
        "graph-{mailbox}" = "10000 per 10 minutes; 150000000 bytes per 5 minutes"
        graph = "130000 per 10 seconds"
        [[rules]]
        url = "https://graph.microsoft.com/v1.0/users/{mailbox}/*"
        limit = ["graph-{mailbox}", "graph"]
        """,
        "POST https://graph.microsoft.com/v1.0/users/a@b.c/sendMail",
        (Seen((0, 0), (2, 1, 1), 202), Seen((10, 0), (2, 1, 1), 429, {"Retry-After": "10"})),
        {},
        meters={"graph-{mailbox}": Points(lambda request: {"bytes": len(request.content)})},
    ),
    Service(  # burst
        "NS1",
        """
        [limits]
        ns1 = { rate = "900 per 300 seconds", headers = "ns1" }
        [[rules]]
        url = "https://api.nsone.net/v1/*"
        limit = "ns1"
        """,
        "GET https://api.nsone.net/v1/zones",
        (Seen((0,), (300,), headers={"X-RateLimit-Limit": "900", "X-RateLimit-Remaining": "600",
              "X-RateLimit-Period": "300"}),),
    ),
    Service(
        "Resend",
        """
        [limits]
        resend = { rate = "2/second; 100 emails/day; 3000 emails/month", headers = true }
        [[rules]]
        url = "https://api.resend.com"
        limit = "resend"
        """,
        "POST https://api.resend.com/emails",
        (
            Seen((1,), (2, 2, 2), headers={"ratelimit-limit": "2", "ratelimit-remaining": "0", "ratelimit-reset": "1",
                 "ratelimit-policy": "2;w=1"}),
            Seen((1,), (1, 2, 2), 429, {"retry-after": "1"}),
        ),
        {"to": ["a@example.com", "b@example.com"]},
        meters={"resend": Points(lambda request: {"emails": len(request.json()["to"])})},
    ),
]  # fmt: skip

SERVICES = [*MODELS, *CLOUDS, *PRODUCTS, *MORE]
CASES = [pytest.param(each, seen, id=f"{each.name}-{n}") for each in SERVICES for n, seen in enumerate(each.answers)]


def table_of(service: Service) -> RuleTable:
    """Return the table of a service's file, with its meters, which are Python's."""
    file = tomllib.loads(service.file)
    for name, meter in service.meters.items():
        terms = file["limits"][name]
        file["limits"][name] = {**(terms if isinstance(terms, dict) else {"rate": terms}), "meter": meter}
    return RuleTable.from_dict(file)


def test_there_are_49() -> None:
    """Each once, and each answers at least once."""
    assert len({each.name for each in SERVICES}) == len(SERVICES) == 49
    assert all(each.answers for each in SERVICES)


@pytest.mark.parametrize("service", SERVICES, ids=lambda each: each.name)
def test_its_limits_are_a_rule_file_without_a_fault(service: Service, tmp_path: Path) -> None:
    """The file alone: what ``nekkar check`` says; and its request falls under a rule."""
    path = tmp_path / "limits.toml"
    path.write_text(service.file.replace("\n        ", "\n"), encoding="utf-8")
    assert faults(path) == []
    body = None if service.body is None else json.dumps(service.body).encode()
    method, url = service.request.split()
    assert RuleTable.from_file(path).match(method, url, service.headers, body)


@pytest.mark.parametrize(("service", "seen"), CASES)
def test_what_an_answer_of_a_service_does_to_its_limits(
    service: Service, seen: Seen, caplog: pytest.LogCaptureFixture
) -> None:
    """One call, its answer, and how its limits stand for all who share them; nothing is a fault of the headers."""
    limiter, rules, (method, url) = Nekkar(clock=FakeClock()), table_of(service), service.request.split()
    content = None if service.body is None else json.dumps(service.body).encode()
    answer = seen.body.encode() if isinstance(seen.body, str) else json.dumps(seen.body or {}).encode()
    sent = httpx2.MockTransport(lambda _: httpx2.Response(seen.status, headers=dict(seen.headers), content=answer))
    with (
        caplog.at_level(logging.WARNING, "nekkar"),
        httpx2.Client(transport=NekkarTransport(limiter, rules, sent, refused=service.refused)) as client,
    ):
        response = client.request(method, url, content=content, headers=service.headers)
    assert (response.status_code, response.content) == (seen.status, answer)
    match = rules.match(method, url, service.headers, content)
    assert match
    limits = [limiter(part.name, part.rate_limit, **part.options).status() for part in match.parts]
    held = [0.0 if each.hold_until is None else each.hold_until - limiter.now_us() / 1e6 for each in limits]
    assert [round(seconds, 3) for seconds in held] == list(seen.held)
    assert [window.used for each in limits for window in each.windows] == list(seen.used)
    assert [line for line in caplog.messages if "is held" not in line] == []
