"""Rules with a list of limits: a request starts under all of them, and what its service says goes to the right one."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any

import pytest
import requests

from nekkar import Nekkar, Rule, RuleTable
from nekkar.requests import NekkarAdapter, RequestWaitTooLong
from nekkar.testing import FakeClock
from tests.support.faces import FACES, Face, done, entered
from tests.support.internals.core import JointAdmission
from tests.support.internals.http import CallOptions, HttpLimiter, Routes
from tests.support.streams import FEW_KINDS, Kind, Reply, StreamServer

URL = "https://api.example.com/search"
ASKED = b'{"messages": [{"role": "user", "content": "Hello?"}], "max_tokens": 5000}'
LIMITS: dict[str, Any] = {
    "search": {"rate": "10/second", "headers": True},
    "account": {"rate": "30 per 3 seconds", "headers": True},
}


def table(limits: Any = LIMITS, **settings: Any) -> RuleTable:
    return RuleTable([Rule("api.example.com", list(limits), **settings)], limits)


def passed(clock: FakeClock, limits: Any = LIMITS, **settings: Any) -> Routes:
    route = HttpLimiter(Nekkar(clock=clock), table(limits, **settings)).route("GET", URL)
    assert isinstance(route, Routes)
    return route


def used(route: Routes) -> list[int]:
    return [status.windows[0].used for status in route.limit.status()]


def held(route: Routes) -> list[float | None]:
    """Return how long each limit is held, from now, in seconds."""
    return [status.hold_until and round(status.hold_until - status.at, 3) for status in route.limit.status()]


class TestRequests:
    """A request under several limits, with each client."""

    def test_requests_tells_each_part(self, clock: FakeClock) -> None:
        """And counts in each."""
        session, limiter = requests.Session(), Nekkar(clock=clock)
        session.mount("https://", NekkarAdapter(limiter, table(), Canned()))
        response = session.get(URL)
        admission = vars(response)["nekkar"]
        assert isinstance(admission, JointAdmission)
        assert [part.name for part in admission.parts] == ["search", "account"]

    def test_the_limit_that_refuses_is_named(self, clock: FakeClock) -> None:
        """In the library's own error."""
        session, limiter = requests.Session(), Nekkar(clock=clock)
        limits = {"wide": "9/second", "narrow": "1/minute"}
        session.mount("https://", NekkarAdapter(limiter, table(limits), Canned(), max_wait=1))
        session.get(URL)
        with pytest.raises(RequestWaitTooLong, match="narrow"):
            session.get(URL)

    @pytest.mark.parametrize("face", FACES, ids=str)
    def test_httpx_counts_in_each(self, face: Face) -> None:
        """Sync and async."""
        limiter = Nekkar(clock=FakeClock())

        async def main() -> list[str]:
            inner = face.library.MockTransport(lambda request: face.library.Response(200))
            async with entered(face.client(transport=face.transport(limiter, table(), inner))) as client:
                response = await done(client.get(URL))
            return [part.name for part in response.extensions["nekkar"].parts]

        assert face.run(main) == ["search", "account"]
        assert limiter("account", "30 per 3 seconds").status().windows[0].used == 1

    def test_the_rule_and_the_limit_say_the_headroom(self, clock: FakeClock) -> None:
        """The rule's comes before each limit's."""
        limits = {"a": {"rate": "10/second", "headroom": 0.5}, "b": "10/second"}
        http = HttpLimiter(Nekkar(clock=clock), table(limits))
        route = http.route("GET", URL)
        assert isinstance(route, Routes)
        assert [limit.headroom for limit in route.limit.limits] == [0.5, 0.0]
        assert passed(clock, limits, headroom=0.2).headroom == 0.2


class TestHearing:
    """What a service says of its limits."""

    def report(self, route: Routes, status: int, headers: Mapping[str, str]) -> None:
        route.report(route.limit.acquire(), status, requests.structures.CaseInsensitiveDict(headers))

    def test_a_count_names_the_limit(self, clock: FakeClock) -> None:
        """What remains of 30 is the account's."""
        route = passed(clock)
        self.report(route, 200, {"X-RateLimit-Limit": "30", "X-RateLimit-Remaining": "5", "X-RateLimit-Reset": "2"})
        assert used(route) == [1, 25]

    def test_a_refusal_pauses_the_limit_of_which_nothing_remains(self, clock: FakeClock) -> None:
        """The other one goes on."""
        route = passed(clock)
        headers = {
            "X-RateLimit-Limit": "30",
            "X-RateLimit-Remaining": "0",
            "X-RateLimit-Reset": "2",
            "Retry-After": "2",
        }
        self.report(route, 429, headers)
        assert held(route) == [None, pytest.approx(2)]

    @pytest.mark.parametrize(
        ("status", "headers", "pauses"),
        [
            (403, {"Retry-After": "7"}, [0, 7]),
            (403, {}, [0, 0]),
            (403, {"X-RateLimit-Limit": "10", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "8"}, [8, 0]),
            (403, {"X-RateLimit-Limit": "30", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "2"}, [0, 2]),
            (529, {"Retry-After": "7"}, [7, 0]),
            (429, {"Retry-After": "7"}, [7, 0]),
            (503, {"Retry-After": "7"}, [7, 0]),
        ],
    )
    def test_a_status_pauses_the_limit_whose_refused_names_it(
        self, clock: FakeClock, status: int, headers: dict[str, str], pauses: list[float]
    ) -> None:
        """And no other, unless the headers say that it is the other of which nothing remains."""
        search, account = {**LIMITS["search"], "refused": [529]}, {**LIMITS["account"], "refused": [403]}
        route = passed(clock, {"search": search, "account": account})
        self.report(route, status, headers)
        assert [wait or 0 for wait in held(route)] == pytest.approx(pauses)

    def test_each_limit_reads_its_own_dialect(self, clock: FakeClock) -> None:
        """That of one is not read for the other."""
        limits = {"a": {"rate": "10/second", "headers": "riot"}, "b": {"rate": "30 per 3 seconds", "headers": True}}
        route = passed(clock, limits)
        told = {"X-App-Rate-Limit": "10:1", "X-App-Rate-Limit-Count": "9:1"}
        self.report(route, 200, told | {"RateLimit-Limit": "30", "RateLimit-Remaining": "5", "RateLimit-Reset": "2"})
        assert used(route) == [9, 25]

    def test_nonsense_is_said_once(self, clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
        """As under one limit."""
        route = passed(clock)
        for _ in range(2):
            self.report(route, 200, {"RateLimit-Limit": "30", "RateLimit-Remaining": "minus one"})
        assert [record.getMessage().count("minus one") for record in caplog.records] == [1]

    def test_a_refusal_that_names_none_pauses_the_first(self, clock: FakeClock) -> None:
        """With or without a wait."""
        route = passed(clock, {"search": "10/second", "account": "30 per 3 seconds"})
        self.report(route, 429, {"Retry-After": "7"})
        assert held(route) == [pytest.approx(7), None]


class Told:
    """A meter that estimates and measures what it is told."""

    def __init__(self, estimate: dict[str, int], measure: Any) -> None:
        self._estimate, self._measure = estimate, measure

    def estimate(self, request: Any) -> dict[str, int]:
        return self._estimate

    def measure(self, response: Any) -> Any:
        return self._measure(response) if callable(self._measure) else self._measure


@pytest.mark.parametrize("kind", FEW_KINDS, ids=str)
class TestMeters:
    """Meters of a request's limits."""

    def counted(self, limiter: Nekkar, rates: dict[str, str]) -> dict[str, dict[str, int]]:
        windows = {name: limiter(name, rate).status().windows for name, rate in rates.items()}
        return {name: {window.unit: window.used for window in each} for name, each in windows.items()}

    def run(self, kind: Kind, streams: StreamServer, rates: dict[str, str], meters: dict[str, Any]) -> list[Any]:
        """Return what is counted before the answer's body is read, and after."""
        limits: dict[str, Any] = {name: {"rate": rate} for name, rate in rates.items()}
        for name, meter in meters.items():
            limits[name]["meter"] = meter
        limiter, rules, seen = Nekkar(clock=FakeClock()), RuleTable([Rule("*", list(rates))], limits), list[Any]()

        async def body() -> None:
            async with kind.sent(limiter, rules, streams.url, body=ASKED) as streamed:
                seen.append(self.counted(limiter, rates))
                await streamed.read()
            seen.append(self.counted(limiter, rates))

        kind.run(body)
        return seen

    def test_one_meter_counts_in_each_limit_that_counts_its_units(self, kind: Kind, streams: StreamServer) -> None:
        """And settles each; the smallest window bounds an estimate."""
        streams.replies = [Reply([b'{"usage": {"prompt_tokens": 30, "completion_tokens": 4}}'])]
        rates = {"calls": "30/10s", "model": "9/10s; 2000 tokens/10s", "account": "20/10s; 9000 tokens/10s"}
        before, after = self.run(kind, streams, rates, {"model": "openai"})
        for seen, tokens in ((before, 2000), (after, 34)):
            both = {"calls": 1, "tokens": tokens}
            assert seen == {"calls": {"calls": 1}, "model": both, "account": both}

    def test_each_limit_is_settled_by_its_own_meter(self, kind: Kind, streams: StreamServer) -> None:
        """Of other units, and of the same; the largest estimate is reserved. One without a meter goes by the first."""
        rates = {"a": "9 tokens/10s", "b": "9 points/10s", "c": "9 points/10s; 9 tokens/10s", "d": "9 points/10s"}
        a, c = Told({"tokens": 5, "points": 3}, {"tokens": 1, "points": 1}), Told({"points": 7, "tokens": 6}, None)
        meters = {"a": a, "b": Told({"points": 4}, {"points": 2}), "c": c}
        before, after = self.run(kind, streams, rates, meters)
        assert before == {"a": {"tokens": 6}, "b": {"points": 7}, "c": {"points": 7, "tokens": 6}, "d": {"points": 7}}
        assert after == {"a": {"tokens": 1}, "b": {"points": 2}, "c": {"points": 7, "tokens": 6}, "d": {"points": 1}}

    def test_a_meter_that_fails_spoils_no_other(self, kind: Kind, streams: StreamServer) -> None:
        """Its limit goes on costing its estimate."""
        failing = Told({"tokens": 5}, lambda response: 1 // 0)
        rates = {"a": "9 tokens/10s", "b": "9 points/10s"}
        _, after = self.run(kind, streams, rates, {"a": failing, "b": Told({"points": 4}, {"points": 2})})
        assert after == {"a": {"tokens": 5}, "b": {"points": 2}}


class Canned(requests.adapters.BaseAdapter):
    """Answers each request."""

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        response = requests.Response()
        response.status_code, response.request, response.url = 200, request, str(request.url)
        return response

    def close(self) -> None:
        """Nothing is open."""


@pytest.mark.parametrize("given", [{"headroom": 0.5}, {}])
def test_a_call_may_leave_headroom_of_its_own(given: dict[str, float]) -> None:
    """It comes before that of its rule."""
    rules = RuleTable([Rule("*", "all", headroom=0.9)], {"all": "10/minute"})
    http = HttpLimiter(Nekkar(), rules)
    route = http.route("GET", "https://api.example.com/")
    assert route is not None
    asked = http.acquire_args(CallOptions.read(given), route, None, lambda _: b"")
    assert asked["headroom"] == given.get("headroom", 0.9)


def test_what_a_rule_gives_is_made_once() -> None:
    """Not at each request: the joint limit too. A limit for each value of a capture is not kept, or idle ones were."""
    limits = {"account": "9/second", "endpoint": "9/minute", "user-{user}": 9}
    rules = [
        Rule("h/both", ["account", "endpoint"]),
        Rule("h/one", "account"),
        Rule("h/{user}", ["user-{user}", "account"]),
    ]
    http = HttpLimiter(Nekkar(), RuleTable(rules, limits))
    kept = [
        http.route("GET", f"https://h/{path}") is http.route("POST", f"https://h/{path}") for path in ("both", "one")
    ]
    assert kept == [True, True]
    assert http.route("GET", "https://h/x") is not http.route("GET", "https://h/x")
    copied = pickle.loads(pickle.dumps(HttpLimiter(Nekkar("memcached://localhost:1"), RuleTable(rules, limits))))
    assert copied.route("GET", "https://h/both").names == ("account", "endpoint")
