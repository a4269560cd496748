"""A limit for each API key: every client passes its headers, no secret shows, and idle tenants are forgotten."""

from __future__ import annotations

import gc
import logging
from functools import partial
from typing import Any
from weakref import ref

import pytest
import requests

from nekkar.core.cache import MemoryCache
from nekkar.core.limiter import Nekkar
from nekkar.requests import NekkarAdapter, RequestWaitTooLong
from nekkar.rules import Rule, RuleTable
from nekkar.testing import FakeClock
from tests.http.test_feedback import Canned
from tests.support.calls import calls
from tests.support.faces import FACES, Face, done, entered
from tests.support.internals.core import core_of, kept_limits
from tests.support.internals.http import HttpLimiter, Route

NAME = "key-{header:Authorization}"
RULES = RuleTable([Rule("*", NAME)], {NAME: {"rate": "2/minute", "max_wait": 0}})
URL = "https://example.com/"
SECRET = "Bearer sk-secret-of-tenant-one"


class OpenCache(MemoryCache):
    """A cache whose keys and values a test may look at."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[object] = []

    def cas(self, key: str, value: bytes, token: int | None, ttl: int) -> int | None:
        self.seen += [key, value]
        return super().cas(key, value, token, ttl)


@pytest.mark.parametrize("face", FACES, ids=str)
def test_each_key_has_a_limit_of_its_own(face: Face, limiter: Nekkar) -> None:
    """httpx and httpx2: a client's own header or a call's; a third call of one key is refused, another's is not."""

    async def body() -> None:
        transport = face.transport(limiter, RULES, face.library.MockTransport(lambda _: face.library.Response(200)))
        async with entered(face.client(transport=transport, headers={"Authorization": SECRET})) as client:
            names = [(await done(client.get(URL))).extensions["nekkar"].name for _ in range(2)]
            with pytest.raises(face.library.TimeoutException):
                await done(client.get(URL))
            other = await done(client.get(URL, headers={"authorization": "Bearer two"}))
        assert len({*names, other.extensions["nekkar"].name}) == 2

    face.run(body)


def test_each_key_has_a_limit_of_its_own_on_requests(limiter: Nekkar) -> None:
    """The same through a session; its ``auth`` counts as the header that it makes."""
    with requests.Session() as session:
        session.mount("https://", NekkarAdapter(limiter, RULES, Canned(200, {})))
        for _ in range(2):
            session.get(URL, headers={"Authorization": SECRET})
        with pytest.raises(RequestWaitTooLong):
            session.get(URL, headers={"Authorization": SECRET})
        session.get(URL, headers={"Authorization": "Bearer two"})
        session.get(URL, auth=("user", "password"))
        session.get(URL)


def test_a_secret_shows_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    """Not in keys, values, names, reprs, logs, errors or explanations; refusals and odd answers included."""
    cache = OpenCache()
    limiter = Nekkar(cache, clock=FakeClock())
    shown: list[object] = [RULES.explain("GET", URL, {"Authorization": SECRET})]
    http = HttpLimiter(limiter, RULES)
    route = http.route("GET", URL, {"Authorization": SECRET})
    assert isinstance(route, Route)
    shown += [http, route, route.limit, route.limit.status()]
    with caplog.at_level(logging.DEBUG, "nekkar"), requests.Session() as session:
        session.headers["Authorization"] = SECRET
        for status, headers in ((429, {"Retry-After": "soon"}), (503, {"Retry-After": "99999"})):
            session.mount("https://", NekkarAdapter(limiter, RULES, Canned(status, headers)))
            try:
                shown.append(vars(session.get(URL))["nekkar"])
            except RequestWaitTooLong as error:
                shown += [error, error.args, error.name, repr(error.__cause__)]
                route.limit.release()
    assert caplog.records
    assert len(shown) > 6
    shown += cache.seen + [record.getMessage() for record in caplog.records]
    for one in shown:
        text = one.decode("latin-1") if isinstance(one, bytes) else f"{one!r} {one}"
        assert "secret" not in text


def test_idle_tenants_are_forgotten() -> None:
    """Twenty thousand keys, two thousand at a time: never are many more remembered than are in use."""
    clock, cache = FakeClock(), MemoryCache()
    limiter = Nekkar(cache, clock=clock)
    http, most, first = HttpLimiter(limiter, RULES), 0, None
    for batch in range(10):
        for number in range(2000):
            route = http.route("GET", URL, {"Authorization": f"{batch}-{number}"})
            assert isinstance(route, Route)
            route.limit.acquire()
            first = first or ref(core_of(route.limit))
        most = max(most, len(kept_limits(limiter)))
        clock.advance(200)
    gc.collect()
    assert most <= 2 * 4000
    assert first is not None
    assert first() is None


def test_many_tenants_cost_hardly_more_than_few() -> None:
    """A call among five hundred keys makes at most one function call in a hundred more than one among ten."""

    def cost(tenants: int) -> int:
        clock = FakeClock()
        http = HttpLimiter(Nekkar(clock=clock), RuleTable([Rule("*", NAME)], {NAME: 10**6}))

        def call(number: int) -> None:
            route: Any = http.route("GET", URL, {"Authorization": f"Bearer {number % tenants}"})
            route.limit.acquire()

        for number in range(2 * tenants):
            call(number)
        clock.advance(1)  # what was booked ahead has passed
        return sum(calls(partial(call, number)) for number in range(100))

    assert cost(500) <= 1.01 * cost(10)
