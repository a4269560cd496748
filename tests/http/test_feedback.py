"""Hearing: what a service answers pauses its limit for all who share it, whatever the HTTP client. No real waits."""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from requests.adapters import BaseAdapter
from urllib3.util import Retry
from urllib3.util import retry as urllib3_retry

from nekkar import Limit
from nekkar.core.cache import MemoryCache
from nekkar.core.errors import CacheError, ConfigurationError
from nekkar.core.limiter import Nekkar
from nekkar.requests import NekkarAdapter, limit
from nekkar.rules import Rule, RuleTable
from nekkar.testing import FakeClock
from tests.support.faces import FACES, Face, done, entered
from tests.support.internals.core import give_feedback
from tests.support.internals.http import HttpLimiter, Route
from tests.support.internals.window import Feedback
from tests.support.web import TIMEOUT, Site, running, wait_until

RATE = "100/10s"
RULES = RuleTable([Rule("*/free", False), Rule("*", "all")], {"all": RATE})
URL = "https://example.com/"


class FlakyCache(MemoryCache):
    """A cache that can be away; ``calls``: how often it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.is_away, self.calls = False, 0

    def gets(self, key: str) -> tuple[bytes | None, Any]:
        self.calls += 1
        if self.is_away:
            raise CacheError("it is away; wait until it is back")
        return super().gets(key)

    def cas(self, key: str, value: bytes, token: int | None, ttl: int) -> Any:
        self.calls += 1
        if self.is_away:
            raise CacheError("it is away; wait until it is back")
        return super().cas(key, value, token, ttl)


class Canned(BaseAdapter):
    """An adapter that answers by itself, with what it is told."""

    def __init__(self, status: int, headers: dict[str, str]) -> None:
        super().__init__()
        self.status, self.headers = status, headers

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        response = requests.Response()
        response.status_code, response.request, response.url = self.status, request, request.url or ""
        response.headers.update(self.headers)
        response._content = b""
        return response

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def cache() -> FlakyCache:
    return FlakyCache()


@pytest.fixture
def limiter(clock: FakeClock, cache: FlakyCache) -> Nekkar:
    return Nekkar(cache, clock=clock, max_hold=600)


@pytest.fixture
def site() -> Iterator[Site]:
    with running(Site()) as made:
        yield made


def held(limiter: Nekkar) -> float:
    """Return for how many seconds from now the limit is held."""
    until = limiter("all", RATE).status().hold_until
    return 0.0 if until is None else round(until - limiter.now_us() / 1e6, 3)


def answered(limiter: Nekkar, status: int, headers: dict[str, str]) -> requests.Response:
    """Send a request through requests, and have it answered so."""
    with requests.Session() as session:
        session.mount("https://", NekkarAdapter(limiter, RULES, Canned(status, headers)))
        return session.get(URL)


@pytest.mark.parametrize(
    ("status", "headers", "hold"),
    [
        (429, {"Retry-After": "3"}, 3),
        (503, {"Retry-After": "3"}, 3),
        (429, {"retry-after": "0"}, 0),
        (429, {"Retry-After": "1.5"}, 1.5),
        (429, {"Retry-After": "Tue, 24 Nov 2026 10:00:30 GMT", "Date": "Tue, 24 Nov 2026 10:00:00 GMT"}, 30),
        (429, {"Retry-After-Ms": "1500", "Retry-After": "2"}, 1.5),
        (429, {"Retry-After-Ms": "odd", "Retry-After": "2"}, 2),
        (429, {"Retry-After": "1700000002"}, 2),
        (429, {"Retry-After": "1700000002000"}, 2),
        (503, {"Retry-After": "1700000002.500"}, 2.5),
        (429, {"Retry-After-Ms": "1700000002000"}, 2),
        (429, {"Retry-After": "2023-11-14T22:13:22Z"}, 2),
        (429, {"Retry-After": "1m30s"}, 90),
        (429, {"Retry-After-Ms": "-5"}, 10),
        (503, {"Retry-After-Ms": "0"}, 0),
        (429, {}, 10),
        (503, {}, 0),
        (429, {"Retry-After": "-5"}, 10),
        (429, {"Retry-After": "soon"}, 10),
        (503, {"Retry-After": "soon"}, 0),
        (429, {"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}, 10),
        (429, {"Retry-After": "1" + 5000 * "0"}, 600),
        (429, {"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"}, 600),
        (200, {"Retry-After": "3"}, 0),
        (301, {"Retry-After": "3"}, 0),
        (500, {"Retry-After": "3"}, 0),
        (404, {}, 0),
    ],
)
def test_what_holds_and_for_how_long(limiter: Nekkar, status: int, headers: dict[str, str], hold: float) -> None:
    """429, and 503 with a wait; nonsense counts as nothing said, and nothing is over ``max_hold``."""
    assert answered(limiter, status, headers).status_code == status
    assert held(limiter) == hold


REFUSED = RuleTable([Rule("*", "all")], {"all": {"rate": RATE, "refused": [403, 418, 429, 529]}})
NOTHING_LEFT = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "30"}


@pytest.mark.parametrize(
    ("status", "headers", "hold"),
    [
        (403, {"Retry-After": "60"}, 60),
        (418, {"Retry-After": "120"}, 120),
        (529, {"Retry-After": "5"}, 5),
        (403, {"Retry-After-Ms": "1500"}, 1.5),
        (403, NOTHING_LEFT, 30),
        (529, NOTHING_LEFT, 30),
        (403, {"X-RateLimit-Limit": "30", **NOTHING_LEFT}, 30),  # of another bucket
        (403, {"X-RateLimit-Remaining": "4987", "X-RateLimit-Reset": "30"}, 0),
        (403, {}, 0),
        (403, {"Retry-After": "soon"}, 0),
        (529, {}, 0),
        (420, {"Retry-After": "60"}, 0),
        (429, {}, 10),
        (200, {"Retry-After": "60", **NOTHING_LEFT}, 0),
    ],
)
def test_other_statuses_are_refusals_where_the_limit_says_so_and_the_answer_how_long(
    status: int, headers: dict[str, str], hold: float, limiter: Nekkar
) -> None:
    """``refused``: GitHub's 403, Binance's 418, Anthropic's 529. A 403 for a missing permission holds nobody."""
    with requests.Session() as session:
        session.mount("https://", NekkarAdapter(limiter, REFUSED, Canned(status, headers)))
        session.get(URL)
    assert held(limiter) == hold
    assert limiter("all", RATE).status().windows[0].used == 1


@pytest.mark.parametrize(("status", "counts"), [(403, True), (429, True), (529, False)])
def test_a_service_that_is_overloaded_teaches_no_margin(
    status: int, counts: bool, clock: FakeClock, limiter: Nekkar
) -> None:
    """A refusal by 5xx is no word of our pace. One below is, as a 429 is: the window was full, the call came early."""
    rules = RuleTable([Rule("*", "all")], {"all": {"rate": "2/10s", "refused": [403, 529]}})
    with requests.Session() as session:
        answer = Canned(200, {"Retry-After": "1"})
        session.mount("https://", NekkarAdapter(limiter, rules, answer))
        for answer.status in (200, 200, status):
            session.get(URL)
    clock.advance(30)
    begin = clock.now
    for _ in range(3):
        limiter("all", "2/10s").acquire()
    assert clock.now - begin == pytest.approx(10.1 if counts else 10.05, abs=0.01)


@pytest.mark.parametrize("face", FACES, ids=str)
def test_every_face_hears(face: Face, limiter: Nekkar, clock: FakeClock) -> None:
    """httpx and httpx2, sync, asyncio and trio: the answer comes back as it is, and the limit is held."""

    async def body() -> None:
        answer = face.library.Response(429, headers={"Retry-After": "7"}, text="so it is")
        transport = face.library.MockTransport(lambda request: answer)
        async with entered(face.client(transport=face.transport(limiter, RULES, transport))) as client:
            response = await done(client.get(URL))
            assert (response.status_code, response.text) == (429, "so it is")
            assert held(limiter) == 7
            before = clock.now
            await done(client.get(URL))
            assert clock.now - before == pytest.approx(7)
            held_until = limiter("all", RATE).status().hold_until
            await done(client.get(f"{URL}free"))
            assert limiter("all", RATE).status().hold_until == held_until

    face.run(body)


def test_another_process_waits_too(limiter: Nekkar, clock: FakeClock, cache: FlakyCache) -> None:
    """What one heard is in the log, for all who share it."""
    other = Nekkar(cache, clock=clock)("all", RATE)
    other.acquire()
    answered(limiter, 429, {"Retry-After": "5"})
    clock.advance(0.2)
    assert other.acquire().waited == pytest.approx(4.8)


def test_refusals_without_a_wait_hold_twice_as_long_each_time(limiter: Nekkar) -> None:
    """A period, two, four, at most a minute: it is the log that counts, so others go on from there."""
    holds = []
    for _ in range(6):
        answered(limiter, 429, {})
        holds.append(held(limiter))
    assert holds == [10, 20, 40, 60, 60, 60]


@pytest.mark.parametrize(
    ("status", "ends"),
    [(200, True), (204, True), (304, True), (404, True), (400, False), (403, False), (420, False), (500, False)],
)
def test_what_ends_a_row_of_refusals(limiter: Nekkar, status: int, ends: bool) -> None:
    """What the service did, and what it does not have; errors may be refusals by another name."""
    for answer in (429, 429, status, 429):
        answered(limiter, answer, {})
    assert held(limiter) == (10 if ends else 40)


def test_a_success_in_any_process_ends_the_row_for_all(clock: FakeClock, cache: FlakyCache) -> None:
    """One hears three refusals, the other a success: the next pause is a period again."""
    one, other = (Nekkar(cache, clock=clock) for _ in range(2))
    for _ in range(3):
        answered(one, 429, {})
    answered(other, 200, {})
    answered(one, 429, {})
    assert held(one) == 10


def test_the_row_is_ended_in_an_outage_too(clock: FakeClock, cache: FlakyCache) -> None:
    """With ``on_cache_error="local"`` a process goes by its own log."""
    limiter = Nekkar(cache, clock=clock, on_cache_error="local")
    cache.is_away = True
    for status in (429, 429, 200, 429):
        answered(limiter, status, {})
    before = clock.now
    limiter("all", RATE).acquire()
    assert clock.now - before == pytest.approx(10, abs=0.1)


def test_a_row_is_ended_by_one_write(clock: FakeClock, cache: FlakyCache) -> None:
    """Successes cost no command, but for the first after a pause: one swap; a second process reads once at most."""
    limiters = [Nekkar(cache, clock=clock) for _ in range(2)]

    def cost(statuses: list[int]) -> int:
        before = cache.calls
        for status in statuses:
            clock.advance(0.1)  # so seldom that nothing is prefetched: each call costs the same
            for limiter in limiters:
                answered(limiter, status, {})
        return cache.calls - before

    cost([200, 200])
    usual = cost([200] * 20)
    answered(limiters[0], 429, {})
    clock.advance(30)
    assert usual <= cost([200] * 20) <= usual + 3


@pytest.mark.parametrize("refused", [1, 10])
def test_a_few_refusals_without_a_wait_cost_a_period_each(refused: int, clock: FakeClock) -> None:
    """One call in a hundred, or ten: 1,500 calls at 100 per second, and not hours."""
    limiter, draw = Nekkar(clock=clock), random.Random(1)

    class Refusing(Canned):
        def send(self, *args: Any, **kwargs: Any) -> requests.Response:
            self.status = 429 if draw.random() < refused / 100 else 200
            clock.advance(0.001)
            return super().send(*args, **kwargs)

    begin = clock.now
    with requests.Session() as session:
        rules = RuleTable([Rule("*", "all")], {"all": "100/second"})
        session.mount("https://", NekkarAdapter(limiter, rules, Refusing(200, {})))
        count = sum(session.get(URL).status_code == 429 for _ in range(1500))
    assert count >= 10
    assert clock.now - begin <= 15 * 1.25 + 1.2 * count


def test_a_cache_that_is_away_turns_no_answer_into_an_error(
    limiter: Nekkar, cache: FlakyCache, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer comes back as it is; that the fleet does not hear of it is said once."""

    class Away(Canned):
        def send(self, *args: Any, **kwargs: Any) -> requests.Response:
            cache.is_away = True
            return super().send(*args, **kwargs)

    with requests.Session() as session, caplog.at_level(logging.WARNING, "nekkar"):
        session.mount("https://", NekkarAdapter(limiter, RULES, Away(429, {"Retry-After": "3"})))
        for _ in range(3):
            cache.is_away = False
            assert session.get(URL).status_code == 429
    said = [record.getMessage() for record in caplog.records]
    assert [text for text in said if not text.startswith("cache ")] == [
        "limit 'all': what its service said reaches no other process: it is away; wait until it is back"
    ]


@pytest.mark.parametrize("face", FACES, ids=str)
def test_nor_does_it_on_any_other_face(face: Face, limiter: Nekkar, cache: FlakyCache) -> None:
    """httpx and httpx2, sync and async."""

    def answer(request: Any) -> Any:
        cache.is_away = True
        return face.library.Response(429)

    async def body() -> None:
        transport = face.transport(limiter, RULES, face.library.MockTransport(answer))
        async with entered(face.client(transport=transport)) as client:
            assert (await done(client.get(URL))).status_code == 429

    face.run(body)


def test_a_process_alone_keeps_to_a_pause(clock: FakeClock, cache: FlakyCache) -> None:
    """With ``on_cache_error="local"`` and the cache away, this process at least obeys."""
    limiter = Nekkar(cache, clock=clock, on_cache_error="local")
    cache.is_away = True
    answered(limiter, 429, {"Retry-After": "60"})
    before = clock.now
    limiter("all", RATE).acquire()
    assert clock.now - before == pytest.approx(60)


def test_a_process_alone_remembers_what_was_learned(clock: FakeClock, cache: FlakyCache) -> None:
    """Two refusals in a row, then the cache goes: the third pause is twice the second."""
    limiter = Nekkar(cache, clock=clock, on_cache_error="local")
    for _ in range(2):
        answered(limiter, 429, {})
    cache.is_away = True
    before = clock.now
    answered(limiter, 429, {})
    limiter("all", RATE).acquire()
    assert clock.now - before == pytest.approx(20 + 40, abs=0.5)


def test_a_slot_inside_a_pause_is_booked_again(cache: FlakyCache) -> None:
    """A caller that waits for its slot since before the pause looks as it wakes, and starts after the pause."""
    clock = FakeClock(jump=False)
    limit, other = (Nekkar(cache, clock=clock)("all", "1/10s") for _ in range(2))
    begin = clock.now
    limit.acquire()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(limit.acquire)
        wait_until(lambda: limit.status().waiting == 1)
        clock.advance(5)
        give_feedback(other, Feedback(clock.now_us(), 10**9, pause_us=30 * 10**6))
        clock.advance(5.2)  # past its slot
        assert limit.status().waiting == 1
        assert not waiting.done()
        clock.advance(24.8)  # to the end of the pause
        assert waiting.result(TIMEOUT).at >= begin + 35


@pytest.mark.parametrize("face", FACES, ids=str)
def test_an_interrupted_hearing_closes_the_response(
    face: Face, limiter: Nekkar, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody gets the response then, so its connection would be lost."""
    closed: list[str] = []

    class Body(face.library.SyncByteStream, face.library.AsyncByteStream):  # type: ignore[misc, name-defined]
        def close(self) -> None:
            closed.append("closed")

        async def aclose(self) -> None:
            self.close()

    class Interrupted(BaseException):
        """What no handler of errors catches."""

    def interrupt(*args: Any) -> None:
        raise Interrupted

    monkeypatch.setattr(Route, "feedback", interrupt)

    async def body() -> None:
        transport = face.library.MockTransport(lambda request: face.library.Response(429, stream=Body()))
        async with entered(face.client(transport=face.transport(limiter, RULES, transport))) as client:
            with pytest.raises(Interrupted):
                await done(client.get(URL))

    face.run(body)
    assert closed == ["closed"]


def test_each_kind_of_nonsense_is_said_once(limiter: Nekkar, caplog: pytest.LogCaptureFixture) -> None:
    """A warning that names the limit and the value; not one for each answer."""
    with caplog.at_level(logging.WARNING, "nekkar"):
        for _ in range(3):
            answered(limiter, 429, {"Retry-After": "soon"})
            answered(limiter, 503, {"Retry-After": "9999"})
    said = [record.getMessage() for record in caplog.records]
    assert [line for line in said if "Retry-After" in line] == [
        "limit 'all': Retry-After 'soon' is not a time; it is ignored; said once",
        "limit 'all': Retry-After asks for 9999 s; held for max_hold, 600 s; said once",
    ]


def test_an_answer_that_is_no_refusal_costs_no_command(limiter: Nekkar, cache: FlakyCache) -> None:
    """Nor does a refusal that tells nothing new."""
    counts = []
    answered(limiter, 200, {})  # of two swaps in a row the second needs no read
    answered(limiter, 200, {})
    for status, headers in ((200, {}), (404, {}), (503, {}), (429, {"Retry-After": "0"})):
        answered(limiter, status, headers)
        before = cache.calls
        answered(limiter, status, headers)
        counts.append(cache.calls - before)
    assert counts[0] == counts[1] == counts[2] < counts[3]


@given(st.text(), st.sampled_from([429, 503]))
def test_no_header_raises(text: str, status: int) -> None:
    """Whatever a service sends."""
    route = HttpLimiter(Nekkar(clock=FakeClock()), RULES).route("GET", URL)
    assert route is not None
    admission = route.limit.acquire()
    route.report(admission, status, {"retry-after": text, "retry-after-ms": text, "date": text})


# Retries inside an adapter.


def session_of(limiter: Nekkar, retries: Retry) -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    session.mount("http://", NekkarAdapter(limiter, RULES, max_retries=retries))
    return session


def test_a_refusal_that_urllib3_retries_is_heard(limiter: Nekkar, clock: FakeClock, site: Site) -> None:
    """Two 503s with ``Retry-After: 7``, then an answer: two holds, each waited for once, though urllib3 sleeps not."""
    retries = Retry(5, status_forcelist=[503], respect_retry_after_header=False)
    before = clock.now
    with session_of(limiter, retries) as session:
        assert session.get(f"{site.url}/flaky/2/retry-after").status_code == 200
    assert clock.now - before == pytest.approx(14)


def test_urllib3s_own_sleep_and_the_hold_are_one_wait(
    limiter: Nekkar, clock: FakeClock, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sleeps for the 7 s that were asked for; after them the hold is over."""
    sleeps: list[float] = []

    class Time:
        @staticmethod
        def sleep(seconds: float) -> None:
            sleeps.append(seconds)
            clock.advance(seconds)

    monkeypatch.setattr(urllib3_retry, "time", Time)
    before = clock.now
    with session_of(limiter, Retry(5, status_forcelist=[503])) as session:
        assert session.get(f"{site.url}/flaky/1/retry-after").status_code == 200
    assert sleeps == [7]
    assert clock.now - before == pytest.approx(7)


def test_a_refusal_after_the_last_retry_is_heard(limiter: Nekkar, site: Site) -> None:
    """Where urllib3 gives up and requests raises, the fleet still knows."""
    retries = Retry(1, status_forcelist=[503], respect_retry_after_header=False)
    with session_of(limiter, retries) as session, pytest.raises(requests.exceptions.RetryError):
        session.get(f"{site.url}/flaky/9/retry-after")
    assert held(limiter) == 7


def test_an_answer_is_heard_once(limiter: Nekkar, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its pool, and not again as the adapter returns it; without urllib3, as the adapter returns it."""
    words: list[Any] = []
    monkeypatch.setattr(Limit, "_apply_feedback", lambda self, word: words.append(word))
    with limit(requests.Session(), limiter, RULES) as session:
        session.trust_env = False
        assert session.get(f"{site.url}/status/429").status_code == 429
    assert len(words) == 1
    answered(limiter, 429, {})
    assert len(words) == 2


# What remains, where a limit has ``headers`` on.

LISTENING = RuleTable([Rule("*", "all")], {"all": {"rate": RATE, "headers": True}})


def told(limiter: Nekkar, headers: dict[str, str], rules: RuleTable = LISTENING) -> int:
    """Have an answer with these headers; return how many hits the log has then."""
    with requests.Session() as session:
        session.mount("https://", NekkarAdapter(limiter, rules, Canned(200, headers)))
        session.get(URL)
    return limiter("all", RATE).status().windows[0].used


def test_what_others_used_counts_where_the_limit_listens(limiter: Nekkar) -> None:
    """Off by default; on, the log takes over what the service has counted, and no more than that."""
    left = {"X-RateLimit-Limit": "100", "X-RateLimit-Remaining": "60", "X-RateLimit-Reset": "9"}
    assert told(limiter, left, RULES) == 1
    assert told(limiter, left) == 40
    assert told(limiter, left) == 41


@pytest.mark.parametrize(
    "headers",
    [
        {"X-RateLimit-Limit": "30", "X-RateLimit-Remaining": "29", "X-RateLimit-Resource": "search"},
        {"X-RateLimit-Limit": "30", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "50"},
        {"RateLimit": '"search";r=0;t=50', "RateLimit-Policy": '"core";q=100;w=10'},
        {"RateLimit": '"search";r=0;t=50', "RateLimit-Policy": '"search";q=30;w=60'},
        {"RateLimit-Limit": "30, 30;w=60", "RateLimit-Remaining": "0", "RateLimit-Reset": "50"},
        {"X-RateLimit-Limit-Minute": "30", "X-RateLimit-Remaining-Minute": "0"},
    ],
)
def test_what_is_told_of_another_bucket_is_ignored_and_said_once(
    headers: dict[str, str], limiter: Nekkar, caplog: pytest.LogCaptureFixture
) -> None:
    """It counts no call and holds nobody; the line in the log says what to write, were it this limit's."""
    with caplog.at_level(logging.WARNING, "nekkar"):
        assert [told(limiter, headers) for _ in range(3)] == [1, 2, 3]
    assert held(limiter) == 0
    (line,) = map(logging.LogRecord.getMessage, caplog.records)
    assert re.fullmatch(
        r"limit 'all': its service tells '\d+ remaining( of 30)?( per 60 s)?', a bucket other than 100 per 10 s, which"
        r" is ignored; if it is this limit's, write the service's own limit in the rate, and headroom to stay under it;"
        r" said once",
        line,
    )


def test_a_refusal_of_another_bucket_pauses_until_that_buckets_reset(limiter: Nekkar) -> None:
    """It says how long to wait, as ``Retry-After`` would; its numbers are not counted."""
    search = {"X-RateLimit-Limit": "30", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "4"}
    with requests.Session() as session:
        session.mount("https://", NekkarAdapter(limiter, LISTENING, Canned(429, search)))
        session.get(URL)
    assert held(limiter) == 4
    assert limiter("all", RATE).status().windows[0].used == 1


@pytest.mark.parametrize(
    ("headers", "used"),
    [
        ({"RateLimit-Limit": "100;w=10", "RateLimit-Remaining": "40;w=10"}, 60),
        ({"X-RateLimit-Used": "60", "X-RateLimit-Remaining": "40.0", "X-RateLimit-Reset": "9"}, 60),
        ({"X-RateLimit-Remaining": "991, 40", "X-RateLimit-Reset": "300, 9"}, 60),
        ({"RateLimit": '"own";r=40;t=9, "cdn";r=1;t=9', "RateLimit-Policy": '"own";q=100;w=10, "edge";q=9;w=1'}, 60),
        ({"RateLimit": '"all";r=40', "RateLimit-Policy": '"all";q=50;w=10'}, 60),  # a lower limit, with its period
        ({"X-RateLimit-Limit": "100", "X-RateLimit-Remaining": "40", "X-RateLimit-Bucket": "abc"}, 60),
    ],
)
def test_what_is_told_of_this_limit_counts_in_every_form(headers: dict[str, str], used: int, limiter: Nekkar) -> None:
    """With a period beside it, with a fraction, several in one header, beside other buckets."""
    assert told(limiter, headers) == used


def test_odd_waits_in_ms_and_resets_past_max_hold_are_said(limiter: Nekkar, caplog: pytest.LogCaptureFixture) -> None:
    """The first is ignored; the second holds for max_hold."""
    with caplog.at_level(logging.WARNING, "nekkar"):
        for _ in range(2):
            answered(limiter, 503, {"Retry-After-Ms": "-5"})
            told(limiter, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "86400"})
            assert held(limiter) == 600
    assert [line for line in map(logging.LogRecord.getMessage, caplog.records) if "is held" not in line] == [
        "limit 'all': Retry-After '-5' is not a time; it is ignored; said once",
        "limit 'all': nothing remains for 86400 s, says its service; held for max_hold, 600 s, at most; said once",
    ]


def test_a_refusal_pauses_until_the_reset_that_it_tells(limiter: Nekkar) -> None:
    """No ``Retry-After``, nothing left, and a reset in 4 s: that is the wait, and not a period of 10 s."""
    with requests.Session() as session:
        left = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "4"}
        session.mount("https://", NekkarAdapter(limiter, LISTENING, Canned(429, left)))
        session.get(URL)
    assert held(limiter) == 4


@pytest.mark.parametrize("face", FACES, ids=str)
def test_every_face_listens(face: Face, limiter: Nekkar) -> None:
    """httpx and httpx2, sync and async: nothing remains, so nobody calls until the reset."""

    async def body() -> None:
        answer = face.library.Response(200, headers={"RateLimit": '"all";r=0;t=8'})
        transport = face.transport(limiter, LISTENING, face.library.MockTransport(lambda request: answer))
        async with entered(face.client(transport=transport)) as client:
            await done(client.get(URL))
        assert held(limiter) == 8

    face.run(body)


def test_an_answer_that_agrees_costs_no_command(limiter: Nekkar, cache: FlakyCache) -> None:
    """Only a difference that matters is written; reading headers alone touches no cache."""
    counts = []
    for _ in range(3):
        told(limiter, {})
    for headers in ({}, {"X-RateLimit-Remaining": "95"}, {"X-RateLimit-Remaining": "50"}):
        before = cache.calls
        told(limiter, headers)
        counts.append(cache.calls - before)
    assert counts[0] == counts[1] < counts[2]


def test_odd_budgets_are_ignored_and_said_once(limiter: Nekkar, caplog: pytest.LogCaptureFixture) -> None:
    """No limit of 0, nothing below 0, no more left than there is."""
    with caplog.at_level(logging.WARNING, "nekkar"):
        for remaining, total in (("-1", "100"), ("0", "0"), ("5", "1"), ("all", "100")):
            told(limiter, {"X-RateLimit-Remaining": remaining, "X-RateLimit-Limit": total, "X-RateLimit-Reset": "9"})
    assert held(limiter) == 0
    assert limiter("all", RATE).status().windows[0].used == 4
    assert [record.getMessage() for record in caplog.records] == [
        "limit 'all': its service tells '-1 remaining of 100', which is ignored; said once"
    ]


def _three(name: str) -> dict[str, str]:
    return {name.format(part): f"{{{part}}}" for part in ("limit", "remaining", "reset")}


FORMS = {
    "X-RateLimit": _three("X-RateLimit-{}"),
    "X-Rate-Limit": _three("X-Rate-Limit-{}"),
    "draft 3": _three("RateLimit-{}"),
    "draft 7": {"RateLimit": "limit={limit}, remaining={remaining}, reset={reset}"},
    "draft 10": {"RateLimit": '"all";r={remaining};t={reset}', "RateLimit-Policy": '"all";q={limit};w=10'},
    "OpenAI": _three("x-ratelimit-{}-requests"),
    "Anthropic": _three("anthropic-ratelimit-requests-{}"),
}
NINES = 400 * "9"
BAD = [  # a limit, what remains of it, and a reset; then the hits that are booked nevertheless
    ("100", "-1", "5", 0),
    ("-1", "5", "5", 0),
    ("0", "0", "5", 0),
    ("0", "0", "0", 0),
    ("10", "50", "5", 0),
    ("100", NINES, "5", 0),
    (NINES, "0", "5", 0),
    ("many", "few", "soon", 0),
    ("nan", "nan", "nan", 0),
    ("100.5", "0.5", "5", 0),
    ("100", "0", "-1", 99),
    ("100", "0", "soon", 99),
    ("100", "0", "1000000000", 99),  # in 2001
    ("100", "0", NINES, 99),
    ("100", "0", "99999999", 99),  # three years
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("status", [200, 429])
def test_a_bad_header_is_said_once_and_stops_nobody_for_longer_than_max_hold(
    form: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """In every form: -1, 0, absurd, contradictory; a bad reset leaves what remains, for a period or for max_hold."""
    for total, remaining, reset, others in BAD:
        caplog.clear()
        limiter = Nekkar(clock=FakeClock(), max_hold=20)
        headers = {n: v.format(limit=total, remaining=remaining, reset=reset) for n, v in FORMS[form].items()}
        with requests.Session() as session:
            session.mount("https://", NekkarAdapter(limiter, LISTENING, Canned(status, headers)))
            session.get(URL)
            used = limiter("all", RATE).status().windows[0].used
            session.get(URL)
        said = [text for text in map(logging.LogRecord.getMessage, caplog.records) if "its service" in text]
        assert len(said) == 1, (total, remaining, reset)
        assert used == 1 + others
        assert limiter("all", RATE).status().next_at - limiter.now_us() / 1e6 <= 20.1  # the margin


NAMES = ["ratelimit", "ratelimit-policy", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-used"]
NAMES += ["x-ratelimit-reset", "x-ratelimit-remaining-hour", "retry-after", "retry-after-ms", "date"]
HOSTILE = st.dictionaries(
    st.sampled_from(NAMES),
    st.text() | st.from_regex(r'\A[0-9"a-z;=:/,.+TZ -]*\Z') | st.integers(-9, 10**24).map(str),
)


@given(HOSTILE, st.sampled_from([200, 429, 503]))
def test_no_header_raises_or_holds_past_max_hold(headers: dict[str, str], status: int) -> None:
    """Whatever a service sends."""
    limiter = Nekkar(clock=FakeClock(), max_hold=20)
    route = HttpLimiter(limiter, LISTENING).route("GET", URL)
    assert isinstance(route, Route)
    route.report(route.limit.acquire(), status, headers)
    assert route.limit.status().next_at - limiter.now_us() / 1e6 <= 20.1  # the margin


def test_headers_is_a_setting_of_a_limit_in_the_table() -> None:
    """True or false; it is told with the other settings, and is no option of the limit itself."""
    match = LISTENING.match("GET", URL)
    assert match is not None
    assert match.headers
    assert "headers" not in match.options
    assert "headers = True" in str(LISTENING.explain("GET", URL))
    with pytest.raises(ConfigurationError, match=r"limits\['all'\]: headers: no dialect named 'yes'"):
        RuleTable([Rule("*", "all")], {"all": {"rate": 5, "headers": "yes"}})
