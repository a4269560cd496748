"""``refused=``: a function of the response tells a refusal that stands in a body; the user gets it as it came."""

from __future__ import annotations

import gzip
import json
import logging
import pickle
import zlib
from collections.abc import Callable
from typing import Any

import pytest
import requests
import responses
from urllib3.util import Retry

import nekkar.httpx
from nekkar.core.errors import ConfigurationError
from nekkar.core.limiter import Nekkar
from nekkar.meters import Response
from nekkar.requests import NekkarAdapter
from nekkar.rules import Rule, RuleTable
from nekkar.testing import FakeClock
from tests.support.faces import FACES, Face, done, entered
from tests.support.internals.http import MOST_AHEAD
from tests.support.streams import EVENTS, FEW_KINDS, FREE, JSON, KINDS, Kind, Reply, StreamServer
from tests.support.web import TIMEOUT

RATE = "100/10s"
RULES = RuleTable([Rule("*", "all")], {"all": RATE})
SHUT = json.dumps({"errors": [{"extensions": {"code": "THROTTLED"}}]}).encode()


def held(limiter: Nekkar) -> float:
    """Return for how long the limit is held."""
    until = limiter("all", RATE).status().hold_until
    return 0.0 if until is None else round(until - limiter.now_us() / 1e6, 3)


def throttled(response: Response) -> float | None:
    """Return 2 s for Shopify's refusal, which stands inside a 200."""
    errors = response.json().get("errors") or [{}]
    return 2.0 if errors[0].get("extensions", {}).get("code") == "THROTTLED" else None


def noted(seen: list[Response], answer: object = None) -> Callable[[Response], Any]:
    """Return a function that keeps what it sees."""

    def refused(response: Response) -> Any:
        seen.append(response)
        return answer

    return refused


kinds = pytest.mark.parametrize("kind", KINDS, ids=str)
few_kinds = pytest.mark.parametrize("kind", FEW_KINDS, ids=str)


# What the limit learns.


@kinds
@pytest.mark.parametrize("status", [200, 400, 403, 503])
def test_a_refusal_in_a_body_pauses_the_limit(kind: Kind, streams: StreamServer, limiter: Nekkar, status: int) -> None:
    """Whatever the status; and the user gets it as it came."""
    streams.replies = [Reply([SHUT[:9], SHUT[9:]], status)]

    async def body() -> None:
        async with kind.sent(limiter, RULES, streams.url, refused=throttled) as streamed:
            assert held(limiter) == 2
            assert (streamed.status, await streamed.read()) == (status, [SHUT[:9], SHUT[9:]])
            assert streamed.admission.name == "all"

    kind.run(body)


@kinds
def test_what_it_tells_comes_before_any_header(kind: Kind, streams: StreamServer, limiter: Nekkar) -> None:
    """Its seconds hold, not those of Retry-After."""
    streams.replies = [Reply([SHUT], 429, JSON | {"Retry-After": "60"})]

    async def body() -> None:
        async with kind.sent(limiter, RULES, streams.url, refused=throttled):
            assert held(limiter) == 2

    kind.run(body)


@kinds
def test_none_is_by_the_usual_rules(kind: Kind, streams: StreamServer, limiter: Nekkar) -> None:
    """A 429 with a Retry-After pauses the limit; a 200 does not."""
    streams.replies = [Reply([b"{}"]), Reply([b"{}"], 429, JSON | {"Retry-After": "60"})]

    async def body() -> None:
        async with kind.sent(limiter, RULES, streams.url, refused=throttled):
            assert held(limiter) == 0
        async with kind.sent(limiter, RULES, streams.url, refused=throttled):
            assert held(limiter) == 60

    kind.run(body)


@kinds
def test_no_seconds_are_a_refusal_that_pauses_for_none(kind: Kind, streams: StreamServer, limiter: Nekkar) -> None:
    """0 is a number of seconds: a 429 with a Retry-After holds nothing then."""
    streams.replies = [Reply([b"{}"], 429, JSON | {"Retry-After": "60"})]

    async def body() -> None:
        async with kind.sent(limiter, RULES, streams.url, refused=lambda response: 0):
            assert held(limiter) == 0

    kind.run(body)


@pytest.mark.parametrize("answer", [True, "2", -1, float("nan"), [2], 2j, {}], ids=repr)
def test_anything_else_is_none_and_said_once(
    answer: object, streams: StreamServer, limiter: Nekkar, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault in the function costs nobody a call."""
    streams.replies = [Reply([b"{}"], 429, JSON | {"Retry-After": "7"})]
    session = requests.Session()
    session.trust_env = False
    session.mount("http://", NekkarAdapter(limiter, RULES, refused=noted([], answer)))
    for _ in range(3):
        assert session.get(streams.url).status_code == 429
    assert held(limiter) == 7
    said = [record.getMessage() for record in caplog.records if "refused=" in record.getMessage()]
    assert len(said) == 1
    assert "'all'" in said[0]
    assert "must return None or a number of seconds" in said[0]


@kinds
def test_an_exception_is_none_and_said_once(
    kind: Kind, streams: StreamServer, limiter: Nekkar, caplog: pytest.LogCaptureFixture
) -> None:
    """With its traceback, so that it can be found; it never comes into the call."""
    streams.replies = [Reply([b"no JSON at all"], 429, JSON | {"Retry-After": "7"})]

    async def body() -> None:
        for _ in range(2):
            async with kind.sent(limiter, RULES, streams.url, refused=throttled) as streamed:
                assert await streamed.read() == [b"no JSON at all"]

    kind.run(body)
    assert held(limiter) == 7
    said = [record for record in caplog.records if "refused=" in record.getMessage()]
    assert len(said) == 1
    assert said[0].levelno == logging.WARNING
    assert said[0].exc_info


def test_a_pause_is_at_most_max_hold(streams: StreamServer, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the function returns, and said once."""
    limiter = Nekkar(clock=FakeClock(), max_hold=20)
    for seconds in (10**400, 10.0**30, float("inf")):
        with nekkar.requests.limit(requests.Session(), limiter, RULES, refused=noted([], seconds)) as session:
            session.trust_env = False
            session.get(streams.url)
        assert held(limiter) == 20
    assert sum("max_hold" in record.getMessage() for record in caplog.records) == 1


def test_what_can_not_be_asked_is_an_error_at_once() -> None:
    """A coroutine function would never be awaited."""

    async def later(response: Response) -> float | None:
        return None

    for refused in (30, "yes", later):
        with pytest.raises(ConfigurationError, match=r"refused .* plain function"):
            NekkarAdapter(Nekkar(), RULES, refused=refused)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match=r"refused .* plain function"):
            nekkar.httpx.NekkarTransport(Nekkar(), RULES, refused=refused)  # type: ignore[arg-type]


# What it sees.


ENCODED: dict[str, tuple[bytes, bytes]] = {
    "gzip": (gzip.compress(SHUT), SHUT),
    "x-gzip": (gzip.compress(SHUT), SHUT),
    "deflate": (zlib.compress(SHUT), SHUT),
    "Deflate": (zlib.compress(SHUT, wbits=-15), SHUT),
    "identity": (SHUT, SHUT),
    "br": (b"\x0b\x02\x80hello\x03", b""),
    "gzip, gzip": (gzip.compress(gzip.compress(SHUT)), b""),
    "GZIP": (b"not gzip", b""),
}


@few_kinds
@pytest.mark.parametrize("encoding", ENCODED)
@pytest.mark.parametrize("how", ["chunked", "length", "closed"])
def test_it_sees_the_decoded_body(kind: Kind, encoding: str, how: str, streams: StreamServer, limiter: Nekkar) -> None:
    """Of gzip and deflate; nothing of what can't be decoded. The user gets it encoded, in its pieces."""
    encoded, plain = ENCODED[encoding]
    streams.replies = [Reply([encoded[:3], encoded[3:]], 418, JSON | {"Content-Encoding": encoding}, how)]
    seen: list[Response] = []

    async def body() -> None:
        async with kind.sent(limiter, RULES, streams.url, refused=noted(seen)) as streamed:
            assert b"".join(await streamed.read()) == encoded

    kind.run(body)
    assert [(each.status_code, each.content) for each in seen] == [(418, plain)]
    assert seen[0].headers["content-encoding"] == encoding
    assert seen[0].headers.get("CONTENT-TYPE") == "application/json"


@few_kinds
@pytest.mark.parametrize("how", ["chunked", "length", "closed"])
@pytest.mark.parametrize("size", [0, 1, MOST_AHEAD - 1, MOST_AHEAD, MOST_AHEAD + 1, 5 * MOST_AHEAD])
def test_it_sees_up_to_64_kb(kind: Kind, how: str, size: int, streams: StreamServer, limiter: Nekkar) -> None:
    """And nothing of a longer body, of which the user gets all."""
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    pieces = [content[at : at + 50_000] for at in range(0, size, 50_000)]
    streams.replies = [Reply(pieces, how=how)]
    seen: list[Response] = []

    async def body() -> None:
        async with kind.sent(limiter, RULES, streams.url, refused=noted(seen)) as streamed:
            assert b"".join(await streamed.read()) == content

    kind.run(body)
    assert [each.content for each in seen] == [content if size <= MOST_AHEAD else b""]


@kinds
@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.parametrize("status", [200, 204, 304])
def test_an_answer_without_a_body_is_not_waited_for(
    kind: Kind, method: str, status: int, streams: StreamServer, limiter: Nekkar
) -> None:
    """Whatever length its headers promise, and the connection serves the next request."""
    has_body = method == "GET" and status == 200
    headers = JSON if has_body else JSON | {"Content-Length": "70"} if method == "HEAD" else {}
    streams.replies = [Reply([b"{}"] if has_body else [], status, headers, "length" if method == "GET" else "none")]
    seen: list[Response] = []

    async def body() -> None:
        async with kind.client(limiter, RULES, refused=noted(seen)) as client:
            for _ in range(2):
                streamed = await kind.send(client, streams.url, None, method)
                assert b"".join(await streamed.read()) == (b"{}" if has_body else b"")
                await done(streamed.close())

    kind.run(body)
    assert len(seen) == 2
    assert len(streams.connections) == 1


@kinds
def test_an_event_stream_is_not_read_ahead(kind: Kind, streams: StreamServer, limiter: Nekkar) -> None:
    """Its first event reaches the user before the server sends the second."""
    events = [b"data: 1\n\n", b"data: 2\n\n"]
    streams.replies = [Reply(events, headers=EVENTS, is_paced=True)]
    seen: list[Response] = []

    async def body() -> None:
        async with kind.sent(limiter, RULES, streams.url, refused=noted(seen)) as streamed:
            assert not streams.go.is_set()
            got = []
            async for piece in streamed.pieces():
                got.append(piece)
                streams.go.set()
            assert got == events

    kind.run(body)
    assert [each.content for each in seen] == [b""]


@kinds
def test_a_long_body_is_not_waited_for(kind: Kind, streams: StreamServer, limiter: Nekkar) -> None:
    """Once 64 kB have come, the response is handed on, while the server still sends."""
    pieces = [b"x" * (MOST_AHEAD + 1), b"rest"]
    streams.replies = [Reply(pieces, is_paced=True)]

    async def body() -> None:
        async with kind.sent(limiter, RULES, streams.url, refused=noted([])) as streamed:
            assert not streams.go.is_set()
            size = 0
            async for piece in streamed.pieces():
                size += len(piece)
                streams.go.set()
            assert size == MOST_AHEAD + 5

    kind.run(body)


# What the user gets.


REPLIES: dict[str, Reply] = {
    "in chunks": Reply([b"one", b"two", b"three"]),
    "in many chunks": Reply([b"x"] * 500),
    "with a length": Reply([b"one", b"two"], how="length"),
    "to the end": Reply([b"one", b"two"], how="closed"),
    "empty": Reply([], how="length"),
    "empty in chunks": Reply([]),
    "long": Reply([b"x\n" * 20_000] * 3),
    "cut short": Reply([b"one"], how="length", promised=10),
    "cut short in chunks": Reply([b"one"], promised=10),
    "gzip": Reply(
        [gzip.compress(b"squeezed" * 99)[:20], gzip.compress(b"squeezed" * 99)[20:]],
        headers={"Content-Encoding": "gzip"},
    ),
    "garbled": Reply([b"no gzip"], headers={"Content-Encoding": "gzip"}),
}


async def outcome(kind: Kind, limiter: Nekkar, rules: RuleTable, url: str, **options: Any) -> tuple[list[bytes], Any]:
    """Return the pieces that the user gets, and the error that ends them."""
    got: list[bytes] = []
    async with kind.sent(limiter, rules, url, **options) as streamed:
        try:
            async for piece in streamed.pieces():
                got.append(piece)  # noqa: PERF401  what came before an error counts
        except Exception as error:
            return got, (type(error), str(error))
    return got, None


@kinds
@pytest.mark.parametrize("case", [name for name in REPLIES if "chunks" in name or "length" in name or "short" in name])
def test_the_pieces_are_those_that_came(kind: Kind, case: str, streams: StreamServer, limiter: Nekkar) -> None:
    """As without a limit; and the error that ends a body comes in its place."""
    streams.replies = [REPLIES[case]]

    async def body() -> None:
        plain = await outcome(kind, limiter, FREE, streams.url)
        limited = await outcome(kind, limiter, RULES, streams.url, refused=noted([]))
        assert b"".join(limited[0]) == b"".join(plain[0])
        assert limited[1] == plain[1]
        if "chunks" in case and kind.face is None:
            assert limited == plain

    kind.run(body)


USES: dict[str, Callable[[requests.Response], Any]] = {
    "content": lambda r: r.content,
    "text": lambda r: r.text,
    "iter_content": lambda r: list(r.iter_content(7)),
    "iter_content of pieces": lambda r: list(r.iter_content(None)),
    "iter_lines": lambda r: list(r.iter_lines()),
    "raw.read": lambda r: r.raw.read(),
    "raw.read decoded": lambda r: r.raw.read(decode_content=True),
    "raw.read in parts": lambda r: [r.raw.read(2), r.raw.read(2), r.raw.read()],
    "raw.read1": lambda r: r.raw.read1() and None,
    "raw.stream": lambda r: list(r.raw.stream(4)),
    "raw.readinto": lambda r: r.raw.readinto(bytearray(2)),
    "raw.readline": lambda r: r.raw.readline(),
    "raw.data": lambda r: r.raw.data,
    "raw.drain_conn": lambda r: r.raw.drain_conn(),
    "raw.isclosed": lambda r: (r.raw.closed, r.content, r.raw.closed),
    "raw.tell": lambda r: (r.raw.tell(), r.content, r.raw.tell()),
    "raw.fileno": lambda r: type(r.raw.fileno()),
    "close": lambda r: r.close(),
    "raw.close": lambda r: (r.raw.close(), r.raw.closed),
    "raw.release_conn": lambda r: (r.content, r.raw.release_conn()),
}


def used(session: requests.Session, url: str, use: Callable[[requests.Response], Any]) -> Any:
    """Return what a use of a response gives or raises."""
    response = session.get(url, stream=True, timeout=TIMEOUT)
    try:
        return use(response)
    except Exception as error:
        return type(error), str(error).partition(" at 0x")[0]
    finally:
        response.close()


@pytest.mark.parametrize("case", REPLIES)
@pytest.mark.parametrize("use", USES)
def test_a_response_of_requests_is_as_it_was(case: str, use: str, streams: StreamServer, limiter: Nekkar) -> None:
    """Whatever reads it; and its connection serves the next request where it did before."""
    streams.replies = [REPLIES[case]]
    with requests.Session() as plain, requests.Session() as session:
        plain.trust_env = session.trust_env = False
        nekkar.requests.limit(session, limiter, RULES, refused=noted([]))
        expected = [used(plain, streams.url, USES[use]) for _ in range(2)]
        connections = len(streams.connections)
        assert [used(session, streams.url, USES[use]) for _ in range(2)] == expected
        if use not in ("close", "raw.read1"):  # a body read ahead need not be cut off; read1 may read all of it
            assert len(streams.connections) == 2 * connections


def test_an_attempt_that_urllib3_retries_is_asked_of_too(streams: StreamServer, limiter: Nekkar) -> None:
    """It sees each attempt's body, and what it tells holds before the next attempt."""
    streams.replies = [Reply([SHUT], 503), Reply([b"{}"])]
    seen: list[Response] = []

    def refused(response: Response) -> float | None:
        seen.append(response)
        return throttled(response)

    session = requests.Session()
    session.trust_env = False
    retry = Retry(3, status_forcelist=[503], backoff_factor=0, respect_retry_after_header=False)
    session.mount("http://", NekkarAdapter(limiter, RULES, max_retries=retry, refused=refused))
    before = limiter.now_us()
    assert session.get(streams.url).json() == {}
    assert [each.content for each in seen] == [SHUT, b"{}"]
    assert limiter.now_us() - before >= 2_000_000


# Answers that nobody sent.


@pytest.mark.parametrize("face", FACES, ids=str)
def test_a_mocks_answer_is_seen(face: Face, limiter: Nekkar) -> None:
    """It was read before nekkar had it, and is decoded already."""
    seen: list[Response] = []
    squeezed = gzip.compress(SHUT)

    async def body() -> None:
        answer = face.library.Response(200, content=squeezed, headers={"Content-Encoding": "gzip"})
        inner = face.library.MockTransport(face.function(lambda request: answer))
        transport = face.transport(limiter, RULES, inner, refused=noted(seen, 3))
        async with entered(face.client(transport=transport)) as client:
            response = await done(client.get("http://example.com/"))
            assert response.content == SHUT

    face.run(body)
    assert [each.content for each in seen] == [SHUT]
    assert held(limiter) == 3


@responses.activate
def test_a_mock_of_requests_is_seen(limiter: Nekkar) -> None:
    """The library responses answers inside the adapter."""
    responses.add(responses.GET, "http://example.com/", body=SHUT)
    seen: list[Response] = []
    with nekkar.requests.limit(requests.Session(), limiter, RULES, refused=noted(seen, 3)) as session:
        assert session.get("http://example.com/").content == SHUT
    assert [each.content for each in seen] == [SHUT]
    assert held(limiter) == 3


def test_a_session_with_a_function_of_a_module_pickles(limiter: Nekkar) -> None:
    """As it did without one."""
    session = requests.Session()
    session.mount("http://", NekkarAdapter(limiter, RULES, refused=throttled))
    again: Any = pickle.loads(pickle.dumps(session))
    assert again.adapters["http://"]._http.refused is throttled
