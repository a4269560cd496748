"""Bad, hostile and huge headers and bodies, through real clients: nothing raises, holds for long, or takes long."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nekkar.core.limiter import Nekkar
from nekkar.rules import Rule, RuleTable
from nekkar.testing import FakeClock
from tests.support.calls import counted
from tests.support.internals.rules import BUILT_IN
from tests.support.streams import FEW_KINDS, FREE, KINDS, Kind, Reply, StreamServer
from tests.support.web import running

MAX_HOLD = 20
RATES = {"one": "50/10s; 900 tokens/10s", "two": "60/second; 80 per 10 seconds; 900 weight/10s"}
NAMES = sorted({name.replace("*", "1m") for dialect in BUILT_IN.values() for bucket in dialect
                for name in (bucket.limit, bucket.remaining, bucket.used, bucket.reset, bucket.period, bucket.resource)
                if name.strip("*")})  # fmt: skip
NAMES += ["RateLimit", "RateLimit-Policy", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"]
NAMES += ["Retry-After", "Retry-After-Ms", "Date", "Content-Type", "X-RateLimit-Remaining-Hour"]
ODD = [
    "",
    "-1",
    "0",
    "9" * 400,
    "nan",
    "1e999",
    "0/0",
    "1m30s",
    "1:0,2:0",
    '"a";r=-1;t=9',
    ",,,;;==",
    "2026-13-45T99:99Z",
]
TEXTS = (
    st.sampled_from(ODD)
    | st.integers(-9, 10**24).map(str)
    | st.from_regex(r'\A[0-9"a-z;=:/,.+TZ -]{0,60}\Z')
    | st.text(st.characters(min_codepoint=33, max_codepoint=255, exclude_characters="\x7f\x85\xa0"), max_size=60)
)
BODIES = (
    st.binary(max_size=200)
    | st.sampled_from(
        [b"[" * 20_000, b"1" * 5_000, b'{"usage": {"prompt_tokens": -1}}', b'{"usage": {"prompt_tokens": 1e99}}']
    )
    | st.integers().map(lambda count: b'{"usage": {"prompt_tokens": %d, "completion_tokens": 7}}' % count)
    | st.binary(max_size=60).map(lambda data: b"data: %b\n\n" % data)
)


def table(headers: Any) -> RuleTable:
    limits: dict[str, Any] = {
        name: {"rate": rate, "headers": headers, "refused": [403]} for name, rate in RATES.items()
    }
    limits["one"]["meter"] = "openai"
    return RuleTable([Rule("*", ["one", "two"])], limits)


TABLES = [table(headers) for headers in (True, *BUILT_IN)]


def refused(response: Any) -> Any:
    """Look for more than what is there, as a user's function may."""
    return response.json()["errors"][0]["seconds"]


@pytest.fixture(scope="module")
def server() -> Iterator[StreamServer]:
    with running(StreamServer()) as served:
        yield served


async def outcome(kind: Kind, limiter: Nekkar, rules: RuleTable, url: str, **options: Any) -> Any:
    """Return what a user gets of a call: its answer, or the error's class."""
    try:
        async with kind.sent(limiter, rules, url, **options) as streamed:
            return streamed.status, b"".join(await streamed.read())
    except Exception as error:
        return type(error)


@pytest.mark.parametrize("kind", FEW_KINDS, ids=str)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    headers=st.lists(st.tuples(st.sampled_from(NAMES), TEXTS), max_size=8),
    body=BODIES,
    promised=st.sampled_from([0, 0, 10]),
    status=st.sampled_from([200, 403, 429, 503]),
    rules=st.sampled_from(TABLES),
)
def test_whatever_a_service_sends_the_call_is_as_without_a_limit_and_no_hold_too_long(
    kind: Kind, server: StreamServer, headers: list[tuple[str, str]], body: bytes, promised: int, status: int,
    rules: RuleTable,
) -> None:  # fmt: skip
    """Under two limits that listen in a dialect, a meter and a function; what is held ends within ``max_hold``.

    Headers come twice perhaps, and a body may break off.
    """
    limiter = Nekkar(clock=FakeClock(), max_hold=MAX_HOLD)
    server.replies = [Reply([body], status, {}, promised=promised, more=headers)]

    async def both() -> None:
        plain = await outcome(kind, limiter, FREE, server.url)
        assert await outcome(kind, limiter, rules, server.url, refused=refused) == plain

    kind.run(both)
    for name, rate in RATES.items():
        assert limiter(name, rate).status().next_at - limiter.now_us() / 1e6 <= MAX_HOLD + 0.1  # the margin


HUGE = dict.fromkeys(NAMES[:12], "9;" * 900) | {"RateLimit-Policy": '"a";q=1,' * 200, "RateLimit": '"a";r=1,' * 200}


@pytest.mark.parametrize("kind", KINDS[:2], ids=str)
def test_huge_headers_cost_hardly_more_than_none(kind: Kind, server: StreamServer) -> None:
    """At most one and a half times the function calls of the same call that is answered without them."""
    made: dict[bool, list[int]] = {True: [], False: []}

    async def body() -> None:
        async with kind.client(Nekkar(clock=FakeClock(), max_hold=MAX_HOLD), TABLES[0]) as client:
            for number in range(20):
                server.replies = [Reply([b"{}"], 200, HUGE if number % 2 else {})]
                with counted() as calls:
                    await (await kind.send(client, server.url)).read()
                made[number % 2 == 1].append(calls.number)

    kind.run(body)
    assert min(made[True]) <= 1.5 * min(made[False])
