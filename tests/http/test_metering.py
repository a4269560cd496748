"""Metering: calls reserve what they may cost and settle what they did cost, through each client; nobody sees it."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
import requests
import responses
from urllib3.util import Retry

import nekkar.requests
from nekkar.core.cache import MemoryCache
from nekkar.core.errors import CacheError, ConfigurationError
from nekkar.core.limiter import Nekkar
from nekkar.meters import OpenAI
from nekkar.requests import NekkarAdapter
from nekkar.rules import Rule, RuleTable
from nekkar.testing import FakeClock
from tests.support.faces import FACES, Face, done, entered
from tests.support.internals.http import MOST_MEASURED, RequestView, ResponseView
from tests.support.streams import EVENTS, FEW_KINDS, FREE, JSON, KINDS, Kind, Reply, StreamServer
from tests.support.web import TIMEOUT

RATE = "100/10s; 10000 tokens/10s"
ASKED = json.dumps({"messages": [{"role": "user", "content": "x" * 400}], "max_tokens": 900}).encode()
RESERVED = 1000
USAGE = {"prompt_tokens": 90, "completion_tokens": 10}
TOLD = json.dumps({"choices": [], "usage": USAGE}).encode()
USED = 100


def table(meter: Any = "openai", rate: str = RATE) -> RuleTable:
    return RuleTable([Rule("*/free", False), Rule("*", "llm")], {"llm": {"rate": rate, "meter": meter}})


RULES = table()


def event(data: Any) -> bytes:
    return b"data: %s\n\n" % json.dumps(data).encode()


STREAM = [event({"choices": [1], "usage": None}), event({"choices": [], "usage": USAGE}), b"data: [DONE]\n\n"]


def used(limiter: Nekkar, unit: str = "tokens", rate: str = RATE) -> int:
    """Return how many hits of a unit count."""
    return next(window.used for window in limiter("llm", rate).status().windows if window.unit == unit)


kinds = pytest.mark.parametrize("kind", KINDS, ids=str)
few_kinds = pytest.mark.parametrize("kind", FEW_KINDS, ids=str)


class Own:
    """A meter of a user's own; each method does what it is told."""

    def __init__(self, estimate: Any = None, measure: Any = None) -> None:
        self.asked: list[RequestView] = []
        self.seen: list[ResponseView] = []
        self._estimate, self._measure = estimate, measure

    def estimate(self, request: RequestView) -> Any:
        self.asked.append(request)
        return self._estimate(request) if callable(self._estimate) else self._estimate

    def measure(self, response: ResponseView) -> Any:
        self.seen.append(response)
        return self._measure(response) if callable(self._measure) else self._measure


class OwnStream(Own):
    """One that is asked of the events of a stream too."""

    def __init__(self, **told: Any) -> None:
        super().__init__({"tokens": RESERVED})
        self.events: list[Any] = []
        self._told = told

    def measure_event(self, data: dict[str, Any]) -> Any:
        self.events.append(data)
        told = self._told["event"]
        return told(data) if callable(told) else told


def fails(*_: Any) -> Any:
    raise KeyError("a fault of the meter")


# The estimate is reserved, what was measured settles it.


@kinds
@pytest.mark.parametrize("how", ["chunked", "length", "closed"])
def test_a_call_reserves_its_estimate_until_its_body_has_passed(
    kind: Kind, how: str, streams: StreamServer, limiter: Nekkar
) -> None:
    """Then it has cost what the answer tells, and the rest is free again. One call counts as one."""
    streams.replies = [Reply([TOLD[:5], TOLD[5:]], how=how)]

    async def body() -> None:
        async with kind.client(limiter, RULES) as client:
            streamed = await kind.send(client, streams.url, ASKED)
            assert used(limiter) == RESERVED
            assert streamed.admission.costs == {"calls": 1, "tokens": RESERVED}
            assert b"".join(await streamed.read()) == TOLD
            await done(streamed.close())
            assert used(limiter) == USED
            assert used(limiter, "calls") == 1

    kind.run(body)


@kinds
@pytest.mark.parametrize("encoding", ["gzip", "identity"])
def test_a_stream_costs_what_its_last_usage_tells(
    kind: Kind, encoding: str, streams: StreamServer, limiter: Nekkar
) -> None:
    """The first event reaches the user before the server sends the second, and each piece as it came."""
    pieces = STREAM
    if encoding == "gzip":
        whole = gzip.compress(b"".join(STREAM))
        pieces = [whole[:30], whole[30:]]
    streams.replies = [Reply(pieces, headers=EVENTS | {"Content-Encoding": encoding}, is_paced=True)]

    async def body() -> None:
        async with kind.client(limiter, RULES) as client:
            streamed = await kind.send(client, streams.url, ASKED)
            got = []
            async for piece in streamed.pieces():
                got.append(piece)
                assert used(limiter) == RESERVED or streams.go.is_set()
                streams.go.set()
            await done(streamed.close())
            assert (got if encoding == "identity" else [b"".join(got)]) == (
                pieces if encoding == "identity" else [b"".join(pieces)]
            )
            assert used(limiter) == USED

    kind.run(body)


# httpx leaves a stream's generators where a loop over it is left, of which trio warns.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <async_generator object:Warning")
@kinds
def test_a_stream_that_is_closed_early_counts_as_told_so_far(
    kind: Kind, streams: StreamServer, limiter: Nekkar
) -> None:
    """Its last usage counts, as SDKs close a stream at its last event; without one the estimate does."""
    streams.replies = [Reply([*STREAM[:2], STREAM[2]], headers=EVENTS), Reply([STREAM[0], STREAM[1]], headers=EVENTS)]
    streams.go.set()

    async def body() -> None:
        async with kind.client(limiter, RULES) as client:
            streamed = await kind.send(client, streams.url, ASKED)
            found = b""
            async for piece in streamed.pieces():
                found += piece
                if b"prompt_tokens" in found:
                    break
            await done(streamed.close())
            assert used(limiter) == USED
            streamed = await kind.send(client, streams.url, ASKED)
            await done(streamed.close())
            assert used(limiter) == USED + RESERVED

    kind.run(body)


@kinds
def test_a_body_that_is_cut_short_costs_its_estimate(kind: Kind, streams: StreamServer, limiter: Nekkar) -> None:
    """And the user gets the error that it is without a limit."""
    streams.replies = [Reply([TOLD], promised=10)]

    async def body() -> None:
        errors = []
        for rules in (FREE, table(OpenAI())):
            async with kind.client(limiter, rules) as client:
                streamed = await kind.send(client, streams.url, ASKED)
                with pytest.raises(Exception, match=r".") as raised:
                    await streamed.read()
                errors.append((raised.type, str(raised.value)))
                await done(streamed.close())
        assert errors[0] == errors[1]

    streams.replies = [Reply([TOLD[:20]], promised=10)]
    kind.run(body)
    assert used(limiter) == RESERVED


@kinds
@pytest.mark.parametrize("status", [400, 429, 500])
def test_an_error_costs_a_call_and_no_tokens(kind: Kind, status: int, streams: StreamServer, limiter: Nekkar) -> None:
    """In whatever its body is encoded."""
    streams.replies = [Reply([b"\x0b\x02\x80"], status, JSON | {"Content-Encoding": "br"}, "length")]

    async def body() -> None:
        async with kind.sent(limiter, RULES, streams.url, body=ASKED) as streamed:
            assert await streamed.read() == [b"\x0b\x02\x80"]
        assert (used(limiter), used(limiter, "calls")) == (0, 1)

    kind.run(body)


@few_kinds
@pytest.mark.parametrize("use", ["json", "content", "text"])
def test_a_plain_call_is_settled_as_it_returns(kind: Kind, use: str, streams: StreamServer, limiter: Nekkar) -> None:
    """Nobody needs to close anything."""
    streams.replies = [Reply([gzip.compress(TOLD)], headers=JSON | {"Content-Encoding": "gzip"}, how="length")]

    async def body() -> None:
        async with kind.client(limiter, RULES) as client:
            response = await done(
                client.post(streams.url, data=ASKED) if not kind.face else client.post(streams.url, content=ASKED)
            )
            assert used(limiter) == USED
            found = getattr(response, use)
            assert found() if callable(found) else found

    kind.run(body)


READS: dict[str, Callable[[requests.Response], Any]] = {
    "iter_content": lambda r: list(r.iter_content(7)),
    "iter_lines": lambda r: list(r.iter_lines()),
    "raw.read": lambda r: r.raw.read(),
    "raw.read in parts": lambda r: [r.raw.read(20), r.raw.read()],
    "raw.read decoded": lambda r: r.raw.read(decode_content=True),
    "raw.stream": lambda r: list(r.raw.stream(9)),
    "raw.readlines": lambda r: r.raw.readlines(),
    "raw.drain_conn": lambda r: r.raw.drain_conn(),
    "a block": lambda r: r.__exit__(),
}


@pytest.mark.parametrize("how", ["chunked", "length", "closed"])
@pytest.mark.parametrize("read", READS)
def test_whatever_reads_a_response_of_requests(how: str, read: str, streams: StreamServer, limiter: Nekkar) -> None:
    """Its body is measured as it passes, once."""
    streams.replies = [Reply([TOLD[:9], TOLD[9:]], how=how)]
    with nekkar.requests.limit(requests.Session(), limiter, RULES) as session:
        session.trust_env = False
        response = session.post(streams.url, ASKED, stream=True, timeout=TIMEOUT)
        READS[read](response)
        response.close()
        assert used(limiter) == (RESERVED if read == "a block" else USED)


def test_each_attempt_that_urllib3_makes_is_measured(streams: StreamServer, limiter: Nekkar) -> None:
    """One that it retries is read to its end by urllib3, and costs no tokens."""
    streams.replies = [Reply([b'{"error": 1}'], 500), Reply([b'{"error": 1}'], 500), Reply([TOLD])]
    session = requests.Session()
    session.trust_env = False
    retry = Retry(3, status_forcelist=[500], backoff_factor=0, allowed_methods=None)
    session.mount("http://", NekkarAdapter(limiter, RULES, max_retries=retry))
    assert session.post(streams.url, ASKED).json()["usage"]
    assert (used(limiter), used(limiter, "calls")) == (USED, 3)


def test_what_is_dropped_is_not_measured_and_not_kept(streams: StreamServer, limiter: Nekkar) -> None:
    """A response that nobody reads or closes costs its estimate, and its connection ends with it."""
    import weakref

    with nekkar.requests.limit(requests.Session(), limiter, RULES) as session:
        session.trust_env = False
        held = weakref.ref(session.post(streams.url, ASKED, stream=True, timeout=TIMEOUT).raw)
        assert held() is None
    assert used(limiter) == RESERVED


# What a meter is asked, and what of its words counts.


@few_kinds
def test_a_meter_sees_the_request_and_the_answer(kind: Kind, streams: StreamServer, limiter: Nekkar) -> None:
    """The same with every client."""
    meter = Own({"tokens": 30}, {"tokens": 20})
    streams.replies = [Reply([gzip.compress(TOLD)], 201, JSON | {"Content-Encoding": "gzip"})]

    async def body() -> None:
        async with kind.sent(limiter, table(meter), f"{streams.url}/echo?a=1", body=ASKED) as streamed:
            await streamed.read()
        assert used(limiter) == 20

    kind.run(body)
    (asked,), (seen,) = meter.asked, meter.seen
    assert (asked.method, asked.url, asked.content) == ("POST", f"{streams.url}/echo?a=1", ASKED)
    assert asked.json() == json.loads(ASKED)
    assert asked.headers["user-agent"]
    assert (seen.status_code, seen.content, seen.json()) == (201, TOLD, json.loads(TOLD))
    assert seen.headers["CONTENT-TYPE"] == "application/json"


@kinds
def test_a_request_that_is_a_stream_is_not_read(kind: Kind, streams: StreamServer, limiter: Nekkar) -> None:
    """The meter sees no body, and the server gets all of it."""
    meter = Own({"tokens": 30})
    made = kind.face.body([b"one", b"two"]) if kind.face else iter([b"one", b"two"])

    async def body() -> None:
        async with kind.sent(limiter, table(meter), streams.url, body=made) as streamed:
            await streamed.read()

    kind.run(body)
    assert [each.content for each in meter.asked] == [b""]
    assert streams.bodies[0].replace(b"|", b"") == b"onetwo"


WORDS: dict[str, tuple[Any, Any, int]] = {
    "a unit that is not counted": ({"tokens": 30, "points": 9}, {"points": 9, "tokens": 20}, 20),
    "only one that is not counted": ({"points": 9}, {"points": 9}, 0),
    "an estimate above the window": ({"tokens": 10**12}, None, 10_000),
    "a measure above the window": ({"tokens": 30}, {"tokens": 10**12}, 10_000),
    "nothing": ({}, None, 0),
    "no measure": ({"tokens": 30}, None, 30),
    "less": ({"tokens": 30}, {"tokens": 0}, 0),
    "an estimate that raises": (fails, {"tokens": 20}, 20),
    "an estimate that is none": (None, {"tokens": 20}, 20),
    "an estimate that is no mapping": ([("tokens", 3)], None, 0),
    "an estimate of no number": ({"tokens": "30"}, None, 0),
    "a negative estimate": ({"tokens": -30}, None, 0),
    "a measure that raises": ({"tokens": 30}, fails, 30),
    "a measure that is no mapping": ({"tokens": 30}, 20, 30),
    "a measure of a fraction": ({"tokens": 30}, {"tokens": 1.5}, 30),
    "a negative measure": ({"tokens": 30}, {"tokens": -1}, 30),
}


FAULTS = {case for case in WORDS if case.startswith(("a negative", "a measure of")) or "raises" in case}
FAULTS |= {"an estimate that is no mapping", "an estimate of no number", "a measure that is no mapping"}


@pytest.mark.parametrize("case", WORDS)
@pytest.mark.parametrize("kind", FEW_KINDS, ids=str)
def test_what_a_meter_tells_counts_as_far_as_it_can(
    kind: Kind, case: str, streams: StreamServer, limiter: Nekkar, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault of a meter is said once, with its traceback, and never comes into a call."""
    estimate, measure, expected = WORDS[case]
    rules = table(Own(estimate, measure))

    async def body() -> None:
        for number in (1, 2) if expected < 10_000 else (1,):
            async with kind.sent(limiter, rules, streams.url, body=ASKED) as streamed:
                await streamed.read()
            assert used(limiter) == number * expected

    kind.run(body)
    said = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(said) == (case in FAULTS)
    assert all(record.exc_info and "'llm'" in record.getMessage() for record in said)


@kinds
def test_of_a_stream_the_last_event_that_tells_counts(kind: Kind, streams: StreamServer, limiter: Nekkar) -> None:
    """What is no JSON object is not shown, and the body is not either."""
    meter = OwnStream(event=lambda data: {"tokens": data["n"]} if data.get("n") else None)
    streams.replies = [Reply([event({"n": 5}), event({"n": 7}), event({"m": 9}), event([1])], headers=EVENTS)]

    async def body() -> None:
        async with kind.sent(limiter, table(meter), streams.url, body=ASKED) as streamed:
            await streamed.read()
        assert used(limiter) == 7

    kind.run(body)
    assert (meter.events, meter.seen) == ([{"n": 5}, {"n": 7}, {"m": 9}], [])


def test_an_event_that_a_meter_fails_at_tells_nothing(
    streams: StreamServer, limiter: Nekkar, caplog: pytest.LogCaptureFixture
) -> None:
    """The others do."""
    meter = OwnStream(event=lambda data: {"tokens": data["n"]})
    streams.replies = [Reply([event({"n": 5}), event({}), event({})], headers=EVENTS)]
    with nekkar.requests.limit(requests.Session(), limiter, table(meter)) as session:
        session.trust_env = False
        session.post(streams.url, ASKED)
    assert used(limiter) == 5
    assert sum("measure_event" in record.getMessage() for record in caplog.records) == 1


@few_kinds
def test_a_meter_without_events_sees_nothing_of_a_stream(kind: Kind, streams: StreamServer, limiter: Nekkar) -> None:
    """Not even its end; but an error's status, without a body."""
    meter = Own({"tokens": 30}, {"tokens": 20})
    streams.replies = [Reply(STREAM, headers=EVENTS), Reply(STREAM, 500, EVENTS)]

    async def body() -> None:
        for expected in (30, 50):
            async with kind.sent(limiter, table(meter), streams.url, body=ASKED) as streamed:
                assert b"".join(await streamed.read()) == b"".join(STREAM)
            assert used(limiter) == expected

    kind.run(body)
    assert [(seen.status_code, seen.content) for seen in meter.seen] == [(500, b"")]


UNREADABLE = {
    "br": Reply([b"\x0b\x02\x80hello\x03"], headers=JSON | {"Content-Encoding": "br"}),
    "garbled": Reply([b"no gzip"], headers=JSON | {"Content-Encoding": "gzip"}),
    "huge": Reply([b"[" + b"1," * 100_000 + b"1]"] * 50, how="length"),
    "a bomb": Reply([gzip.compress(bytes(MOST_MEASURED + 1))], headers=JSON | {"Content-Encoding": "gzip"}),
    "deep": Reply([b"[" * 200_000]),
    "a huge event": Reply([b"data: " + b"x" * MOST_MEASURED, b"x", b"\n\n"], headers=EVENTS),
}


@few_kinds
@pytest.mark.parametrize("case", UNREADABLE)
def test_what_can_not_be_read_costs_its_estimate(kind: Kind, case: str, streams: StreamServer, limiter: Nekkar) -> None:
    """And comes to the user as it came."""
    streams.replies = [UNREADABLE[case]]

    async def body() -> None:
        async with kind.sent(limiter, RULES, streams.url, body=ASKED) as streamed:
            assert b"".join(await streamed.read()) == b"".join(UNREADABLE[case].pieces)
        assert used(limiter) == RESERVED

    kind.run(body)


# Costs of a call, of its rule, of its meter.


@pytest.mark.parametrize(
    ("cost", "costs", "left"),
    [
        (3, {"calls": 3, "tokens": RESERVED}, USED),
        ({"tokens": 50}, {"calls": 1, "tokens": 50}, USED),
        ({"calls": 0}, {"calls": 0, "tokens": RESERVED}, USED),
    ],
)
def test_the_cost_of_a_call_comes_before_its_meters(
    cost: Any, costs: dict[str, int], left: int, streams: StreamServer, limiter: Nekkar
) -> None:
    """Unit by unit; what was measured settles it all the same."""
    streams.replies = [Reply([TOLD])]
    with nekkar.requests.limit(requests.Session(), limiter, RULES) as session:
        session.trust_env = False
        with nekkar.requests.options(cost=cost):
            response: Any = session.post(streams.url, ASKED)
        assert response.nekkar.costs == costs
        assert used(limiter) == left


@few_kinds
def test_the_cost_of_a_rule_comes_between(kind: Kind, streams: StreamServer, limiter: Nekkar) -> None:
    """Before the meter's, after the call's, unit by unit; and without a meter it is the cost."""
    limits = {"llm": {"rate": RATE, "meter": "openai"}}
    streams.replies = [Reply([b"{}"])]

    async def body() -> None:
        for cost, costs in (({"tokens": 77}, {"calls": 1, "tokens": 77}), (2, {"calls": 2, "tokens": RESERVED})):
            rules = RuleTable([Rule("*", "llm", cost=cost)], limits)
            async with kind.sent(limiter, rules, streams.url, body=ASKED) as streamed:
                assert streamed.admission.costs == costs
        rules = RuleTable([Rule("*", "llm", cost={"tokens": 77})], {"llm": RATE})
        async with kind.sent(limiter, rules, streams.url, body=ASKED) as streamed:
            assert streamed.admission.costs == {"calls": 1, "tokens": 77}

    kind.run(body)


@kinds
def test_a_limit_for_each_model_is_found_in_the_body(kind: Kind, streams: StreamServer, limiter: Nekkar) -> None:
    """A request without a model, or whose body is a stream, falls under the next rule."""
    rules = RuleTable(
        [Rule("*", "openai-{json:model}"), Rule("*", "other")], {"openai-{json:model}": "5/minute", "other": "5/minute"}
    )
    made = kind.face.body([b'{"model": "x"}']) if kind.face else iter([b'{"model": "x"}'])
    names = []

    async def body() -> None:
        async with kind.client(limiter, rules) as client:
            for content in (b'{"model": "gpt-5"}', b"{}", None, made):
                streamed = await kind.send(client, streams.url, content)
                names.append(streamed.admission.name)
                await done(streamed.close())

    kind.run(body)
    assert names == ["openai-gpt-5", "other", "other", "other"]


@pytest.mark.parametrize("face", FACES, ids=str)
def test_httpx_takes_a_cost_by_units(face: Face, streams: StreamServer, limiter: Nekkar) -> None:
    """In the extensions of a call."""
    streams.replies = [Reply([TOLD])]

    async def body() -> None:
        client = face.limit(face.client(trust_env=False, verify=False), limiter, RULES)
        async with entered(client):
            extensions = {"nekkar": {"cost": {"tokens": 50}}}
            response = await done(client.post(streams.url, content=ASKED, extensions=extensions))
            assert response.extensions["nekkar"].costs == {"calls": 1, "tokens": 50}
            wrong = {"nekkar": {"cost": {"points": 50}}}
            with pytest.raises(ConfigurationError, match="points"):
                await done(client.post(streams.url, content=ASKED, extensions=wrong))
        assert used(limiter) == USED

    face.run(body)
    assert len(streams.seen) == 1


@few_kinds
@pytest.mark.parametrize(
    ("cost", "is_said"),
    [(None, True), ({"calls": 1}, True), ({"tokens": 0, "points": 1}, False), ({"points": 1}, False)],
)
def test_a_unit_that_nothing_gives_is_an_error_that_names_the_ways(
    kind: Kind, cost: Any, is_said: bool, streams: StreamServer, limiter: Nekkar
) -> None:
    """Neither the call, its rule nor a meter gives the tokens: nothing is sent. Another fault has another remedy."""
    rules = RuleTable([Rule("*", "llm", cost={"calls": 1})], {"llm": RATE})

    async def body() -> None:
        given = {"cost": cost} if cost else {}
        async with kind.client(limiter, rules) as client:
            how = {"extensions": {"nekkar": given}} if kind.face else {}
            with nekkar.requests.options(**given), pytest.raises(ConfigurationError) as raised:
                await done(client.get(streams.url, **how))
        assert ("give the limit a meter, or its rule a cost" in str(raised.value)) is is_said

    kind.run(body)
    assert streams.seen == []


@kinds
def test_who_settles_by_hand_first_settles(kind: Kind, streams: StreamServer, limiter: Nekkar) -> None:
    """The meter then does nothing, and says nothing."""
    streams.replies = [Reply([TOLD])]

    async def body() -> None:
        async with kind.client(limiter, RULES) as client:
            streamed = await kind.send(client, streams.url, ASKED)
            admission = streamed.admission
            is_async = kind.face is not None and kind.face.is_async
            await done(admission.settle_async(tokens=7) if is_async else admission.settle(tokens=7))
            assert used(limiter) == 7
            await streamed.read()
            await done(streamed.close())
            assert used(limiter) == 7

    kind.run(body)


class FlakyCache(MemoryCache):
    """A cache that can be away."""

    is_away = False

    def gets(self, key: str) -> tuple[bytes | None, Any]:
        if self.is_away:
            raise CacheError("it is away; wait until it is back")
        return super().gets(key)

    def cas(self, key: str, value: bytes, token: Any, ttl: int) -> Any:
        if self.is_away:
            raise CacheError("it is away; wait until it is back")
        return super().cas(key, value, token, ttl)


@kinds
def test_a_cache_that_is_away_costs_no_call_its_answer(
    kind: Kind, streams: StreamServer, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, once, and the call costs its estimate."""
    cache = FlakyCache()
    limiter = Nekkar(cache, clock=FakeClock())
    streams.replies = [Reply([TOLD])]

    async def body() -> None:
        async with kind.client(limiter, RULES) as client:
            for _ in range(2):
                streamed = await kind.send(client, streams.url, ASKED)
                cache.is_away = True
                assert b"".join(await streamed.read()) == TOLD
                await done(streamed.close())
                cache.is_away = False

    kind.run(body)
    assert used(limiter) == 2 * RESERVED
    assert sum("not settled" in record.getMessage() for record in caplog.records) == 1


# Answers that nobody sent.


@pytest.mark.parametrize("face", FACES, ids=str)
def test_a_mocks_answer_is_measured(face: Face, limiter: Nekkar) -> None:
    """It was read before nekkar had it."""

    async def body() -> None:
        answer = face.library.Response(200, content=gzip.compress(TOLD), headers={"Content-Encoding": "gzip"})
        inner = face.library.MockTransport(face.function(lambda request: answer))
        async with entered(face.client(transport=face.transport(limiter, RULES, inner))) as client:
            assert (await done(client.post("http://example.com/", content=ASKED))).content == TOLD
        assert used(limiter) == USED

    face.run(body)


@responses.activate
def test_a_mock_of_requests_is_measured(limiter: Nekkar) -> None:
    """The library responses answers inside the adapter."""
    responses.add(responses.POST, "http://example.com/", body=TOLD)
    with nekkar.requests.limit(requests.Session(), limiter, RULES) as session:
        assert session.post("http://example.com/", ASKED).content == TOLD
    assert used(limiter) == USED


def test_freed_tokens_are_used_by_others(streams: StreamServer, limiter: Nekkar) -> None:
    """100 calls of 1,000 tokens reserved and 100 used fit into 10 s; without settling 10 would."""
    streams.replies = [Reply([TOLD])]
    before = limiter.now_us()
    with nekkar.requests.limit(requests.Session(), limiter, RULES) as session:
        session.trust_env = False
        for _ in range(91):
            session.post(streams.url, ASKED)
    assert limiter.now_us() - before < 10_000_000
    assert used(limiter) == 9100


def test_a_cancelled_stream_costs_its_estimate_and_harms_nobody(streams: StreamServer, limiter: Nekkar) -> None:
    """The connection is given up, and the next call goes on."""
    kind = next(each for each in KINDS if str(each) == "httpx-asyncio")
    streams.replies = [Reply(STREAM, headers=EVENTS, is_paced=True), Reply([TOLD])]

    async def body() -> None:
        async with kind.client(limiter, RULES) as client:
            reading = asyncio.ensure_future(client.post(streams.url, content=ASKED))
            while not streams.bodies:
                await asyncio.sleep(0.01)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            streams.go.set()
            assert used(limiter) == RESERVED
            await client.post(streams.url, content=ASKED)
            assert used(limiter) == RESERVED + USED

    kind.run(body)
