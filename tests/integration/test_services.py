"""Fleets of real processes against strict services of GitHub's, Shopify's and Binance's kind, by their docs.

Each service refuses what is over, by arrival. The windows are short, so that a test is; each margin is 0.3 s, for a
machine so busy that calls arrive late by a part of the period. What an ideal client could use is then the limit in each
period and margin.
"""

from __future__ import annotations

import importlib
import math
import multiprocessing
import random
import re
import statistics
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import httpx2
import pytest

import nekkar.httpx2
import nekkar.requests
from nekkar.core.limiter import Nekkar
from nekkar.rules import Rule, RuleTable
from tests.support.internals.core import core_of
from tests.support.processes import started
from tests.support.servers import Memcached
from tests.support.strict import Arrival, Binance, GitHub, Shopify, Strict, query_cost, throttled
from tests.support.web import running, wait_until

PROCESSES, THREADS, MARGIN = 3, 4, 0.3
WINDOWS = 4
CALLERS = PROCESSES * THREADS
_spawn = multiprocessing.get_context("spawn")


def used(arrivals: list[Arrival], limit: int, period: float) -> float:
    """Return the part of a limit that was used: half of all spans of so many hits are no longer than that tells."""
    spans, start, hits = [], 0, 0
    for arrival in arrivals:
        hits += arrival.cost
        while hits - arrivals[start].cost >= limit:
            hits -= arrivals[start].cost
            start += 1
            spans.append(arrival.at - arrivals[start - 1].at)
    return (period + MARGIN) / statistics.median(spans)


@contextmanager
def fleet(make: Callable[..., Callable[[int], Any]], *arguments: Any) -> Iterator[None]:
    """Run what ``make(*arguments)`` returns, with a thread's number, again and again in the threads of some processes.

    Until the block ends; whatever happens, none of them stays.
    """
    over, barrier = _spawn.Event(), _spawn.Barrier(PROCESSES)
    workers = [
        _spawn.Process(target=_work, args=(over, barrier, partial(make, *arguments)), daemon=True)
        for _ in range(PROCESSES)
    ]
    with started(workers):
        yield
        over.set()


def _work(over: Any, barrier: Any, make: Callable[[], Callable[[int], Any]]) -> None:
    failed: list[BaseException] = []
    call = make()
    barrier.wait(60)

    def loop(number: int) -> None:
        try:
            while not over.is_set():
                call(number)
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=loop, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.exit(bool(failed))


GITHUB = """
[limits]
core = { rate = "50 per 2 seconds", headers = "github", refused = [403], margin = 0.3 }
search = { rate = "8 per 2 seconds", headers = "github", refused = [403], margin = 0.3 }
writes = { rate = "6/second; 10 per 2 seconds", refused = [403], margin = 0.3 }

[[rules]]
url = "*/search/*"
limit = "search"

[[rules]]
url = "*/repos/*"
methods = ["POST", "PATCH", "PUT", "DELETE"]
limit = ["writes", "core"]

[[rules]]
url = "*/repos/*"
limit = "core"
"""


def call_github(url: str, cache: str) -> Callable[[int], None]:
    """Return a call of PyGithub's: one thread reads, two write, one searches."""
    github, connections = importlib.import_module("github"), importlib.import_module("github.Requester")
    limiter, rules = Nekkar(cache), RuleTable.from_dict(tomllib.loads(GITHUB))

    class Limited(connections.HTTPRequestsConnectionClass):  # type: ignore[misc,name-defined]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.session.trust_env = False
            nekkar.requests.limit(self.session, limiter, rules)

    connections.Requester.injectConnectionClasses(Limited, connections.HTTPSRequestsConnectionClass)
    auth = github.Auth.Token("k")
    pace: dict[str, Any] = {"seconds_between_requests": None, "seconds_between_writes": None}
    clients = [github.Github(base_url=url, auth=auth, **pace) for _ in range(THREADS)]

    def call(number: int) -> None:
        if number == 3:
            assert clients[3].search_issues("bug").totalCount == 0
            return
        repository = clients[number].get_repo("octo/hello", lazy=True)
        assert (repository.create_issue("t") if number else repository.get_issue(1)).title == "t"

    return call


class Points:
    """What a query may cost, by its connections, and did cost, by the answer."""

    def estimate(self, request: Any) -> dict[str, int]:
        return {"points": 2 + int(re.findall(r"first: (\d+)", request.json()["query"])[0])}

    def measure(self, response: Any) -> dict[str, int]:
        return query_cost(response)


def call_shopify(url: str, cache: str) -> Callable[[int], None]:
    """Return a query of GraphQL's."""
    limits = {"shop": {"rate": "400 points per 2 seconds", "meter": Points(), "margin": MARGIN}}
    rules = RuleTable([Rule("*/admin/api/*/graphql.json", "shop")], limits)
    client = nekkar.httpx2.limit(httpx2.Client(trust_env=False), Nekkar(cache), rules, refused=throttled)

    def call(number: int) -> None:
        query = {"query": f"{{ products(first: {random.randint(4, 16)}) {{ edges {{ node {{ id }} }} }} }}"}
        assert client.post(f"{url}/admin/api/2026-10/graphql.json", json=query).status_code == 200

    return call


WEIGHT = "100 weight/2 seconds"
BINANCE = """
[limits]
weight = { rate = "100 weight/2 seconds", headers = "binance", refused = [418], margin = 0.3 }

[[rules]]
url = "*/api/v3/depth"
limit = "weight"
cost = { weight = 5 }

[[rules]]
url = "*/api/*"
limit = "weight"
cost = { weight = 2 }
"""


def call_binance(url: str, cache: str, rate: str) -> Callable[[int], None]:
    """Return a call of one weight or another."""
    rules = RuleTable.from_dict(tomllib.loads(BINANCE.replace(WEIGHT, rate)))
    client = nekkar.httpx2.limit(httpx2.Client(trust_env=False), Nekkar(cache), rules)

    def call(number: int) -> None:
        client.get(f"{url}/api/v3/{'depth' if number % 2 else 'time'}")

    return call


def call_core(url: str, cache: str, rate: str) -> Callable[[int], None]:
    """Return a call that GitHub counts as core, without its SDK."""
    limits = {"core": {"rate": rate, "headers": "github", "refused": [403], "margin": MARGIN}}
    client = nekkar.httpx2.limit(httpx2.Client(trust_env=False), Nekkar(cache), RuleTable([Rule("*", "core")], limits))

    def call(number: int) -> None:
        client.get(f"{url}/repos/octo/hello")

    return call


def test_a_fleet_of_pygithub_keeps_each_limit_and_pauses_as_told(server: Memcached) -> None:
    """Never refused, all of it used; what an outside client takes, or does wrong, refuses each caller once at most.

    Of the writes' refusal GitHub says that it is of core: a pause of that holds both up.
    """
    pytest.importorskip("github")
    service = GitHub({"core": (50, 2), "search": (8, 2)}, [(6, 1), (10, 2)], pause=2)
    with running(service), fleet(call_github, service.url, server.url):
        wait_until(lambda: len(service.count("core")) >= 210)  # four periods: a stall of the machine is in one
        core, search, refused = service.count("core"), service.count("search"), service.count(is_refused=True)
        reset = service.seize("core")
        wait_until(lambda: len(since(service.count("core"), reset)) > 20)
        until = service.seize_writes()
        wait_until(lambda: len(since(service.count("writes"), until)) > 2)
    assert refused == []
    assert used(core, 50, 2) >= 0.95
    assert used(search, 8, 2) >= 0.95
    assert len(since(service.count("core", True), 0, reset)) <= CALLERS
    assert 1 <= len(service.count("writes", True)) <= CALLERS
    assert paused(server, service, "core", GITHUB, 2)


def test_a_fleet_uses_the_points_of_shopify_and_pauses_as_told_in_a_200(server: Memcached) -> None:
    """Never throttled, and what queries did not use of their requested cost is used by others."""
    service = Shopify(400, 200)
    with running(service), fleet(call_shopify, service.url, server.url):
        wait_until(lambda: sum(one.cost for one in service.count("points")) >= 1000)
        points, refused = service.count("points"), service.count(is_refused=True)
        service.seize()
        wait_until(lambda: service.count(is_refused=True))
        full = service.count(is_refused=True)[0].at + 1.5  # of 2, but for what flows in until it is throttled
        wait_until(lambda: len(since(service.count("points"), full)) > 20)
    assert refused == []
    assert used(points, 400, 2) >= 0.95
    assert len(service.count(is_refused=True)) <= CALLERS
    assert since(service.count("points"), full - 1.0, full) == []


def test_a_fleet_keeps_the_weight_of_binance_and_pauses_as_told(server: Memcached) -> None:
    """Never refused, all of it used; a ban that an outside client has earned stops all for as long as it says."""
    service = Binance(100, 2, ban=2)
    with running(service), fleet(call_binance, service.url, server.url, WEIGHT):
        wait_until(lambda: sum(one.cost for one in service.count("weight")) >= 230)
        weight, refused = service.count("weight"), service.count(is_refused=True)
        until = service.ban_all()
        wait_until(lambda: len(since(service.count("weight"), until)) > CALLERS)
    assert refused == []
    assert used(weight, 100, 2) >= 0.95
    assert 1 <= len(service.count(is_refused=True)) <= CALLERS
    assert paused(server, service, "weight", BINANCE, 2)


@pytest.mark.parametrize("kind", ["binance", "github"])
def test_a_fleet_leaves_an_outside_client_what_it_takes(kind: str, server: Memcached) -> None:
    """A quarter, as each window begins. A caller is refused once a window at most: by the call it had on the wire.

    For resets are told in whole seconds, of windows of three. A fleet that does not listen has 28 refused in each.
    """
    if kind == "github":
        service: Strict = GitHub({"core": (120, 3, 30)}, [], pause=1)
        work, name, unit, limit = call_core, "core", "calls", 120
    else:
        service, work = Binance(400, 3, ban=1, others=100), call_binance
        name, unit, limit = "weight", "weight", 400
    with running(service), fleet(work, service.url, server.url, f"{limit} {unit} per 3 seconds"):
        wait_until(lambda: service.arrivals)
        first = int(service.arrivals[0].at // 3) + 1
        wait_until(lambda: since(service.count(), 3 * (first + WINDOWS)))
    windows = [(3 * number, 3 * (number + 1)) for number in range(first, first + WINDOWS)]
    taken = [sum(one.cost for one in since(service.count(name), *window)) for window in windows]
    refused = [len(since(service.count(is_refused=True), *window)) for window in windows]
    assert max(refused) <= CALLERS
    # One window may be short, while the fleet's window, which slides, meets those of the service's clock.
    assert sum(taken) >= 0.85 * WINDOWS * (0.75 * limit) * 3 / (3 + MARGIN)


def paused(server: Memcached, service: Strict, name: str, file: str, seconds: float) -> bool:
    """Return whether the last pause of a limit, of so many seconds, held but the calls that were on their way."""
    terms = tomllib.loads(file)["limits"][name]
    limit = Nekkar(server.url)(name, terms["rate"], margin=terms["margin"])
    limit.status()
    state = core_of(limit).ledger.state
    assert state is not None
    begin, end = state.hold_until / 1e6 - seconds, state.hold_until / 1e6
    return len(since(service.arrivals, begin + 0.1, end)) <= CALLERS < len(since(service.arrivals, end))


def since(arrivals: list[Arrival], begin: float, end: float = math.inf) -> list[Arrival]:
    return [arrival for arrival in arrivals if begin <= arrival.at < end]
