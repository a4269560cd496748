"""One worker's refusal pauses the fleet: real processes, each of another HTTP client, and a service that refuses."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from nekkar.core.limiter import Nekkar
from tests.integration.service import OVER, Plan, callers, serving
from tests.support.internals.core import core_of
from tests.support.internals.window import LimitState
from tests.support.servers import Memcached

FACES = ["requests", "httpx", "httpx2", "async"]
S = 1_000_000


class OneRefusal:
    """A service that refuses the ``first``th call, for ``pause`` seconds, and has seen enough ``more`` after that."""

    def __init__(self, first: int, pause: int, more: int) -> None:
        self.first, self.pause, self.more, self.refused_at = first, pause, more, 0
        self.before = self.after = 0

    def __call__(self, at: int) -> tuple[int, dict[str, str]]:
        if self.refused_at:
            self.after += at >= self.refused_at + self.pause * S
            return (OVER if self.after > self.more else 200), {}
        self.before += 1
        if self.before < self.first:
            return 200, {}
        self.refused_at = at
        return 429, {"Retry-After": str(self.pause)}


def test_one_workers_refusal_pauses_the_whole_fleet(server: Memcached) -> None:
    """50 calls a second, evenly; the 60th is refused with ``Retry-After: 3``, and all go on after that.

    From when that is heard, calls booked for the next 100 ms still go; so later than those arrive only such as are on
    the wire, one of each caller at most. If nobody heard, 150 did.
    """
    begin = time.time() + 3
    once = OneRefusal(60, 3, 20)
    with serving(once) as service:
        plan = Plan(server.url, service.url, {"rate": "50/second", "spacing": "even"}, begin, begin + 60)
        with callers(plan, FACES):
            pass
        arrived = service.at(200)
    resumed = _state(server.url, "50/second", spacing="even").hold_until
    heard = resumed - 3 * S
    assert once.refused_at < heard < once.refused_at + 3 * S
    assert len([at for at in arrived if heard + S // 10 < at < resumed]) <= len(FACES)
    assert once.after > 20


def _state(url: str, rate: str, **terms: Any) -> LimitState:
    """Return the state that the fleet has left."""
    limit = Nekkar(url)("all", rate, **terms)
    limit.status()
    state = core_of(limit).ledger.state
    assert state is not None
    return state


class SharedWindow:
    """A service's fixed windows of ``period`` seconds for ``limit`` calls, of which others make ``others`` at once.

    The first call arrives ``into`` seconds after its window's begin; the ``last`` window's end is the test's.
    """

    def __init__(self, limit: int, period: float, others: int, into: float, last: int) -> None:
        self.limit, self.period, self.others, self.into = limit, round(period * S), others, round(into * S)
        self.last = last
        self.begin, self.window, self.used = 0, -1, 0

    def __call__(self, at: int) -> tuple[int, dict[str, str]]:
        self.begin = self.begin or at - self.into
        window, into = divmod(at - self.begin, self.period)
        if window > self.last:
            return OVER, {}
        if window != self.window:
            self.window, self.used = window, self.others
        is_over = self.used >= self.limit
        self.used += not is_over
        left = {"X-RateLimit-Limit": self.limit, "X-RateLimit-Remaining": self.limit - self.used}
        headers = {name: str(value) for name, value in left.items()}
        headers["X-RateLimit-Reset"] = f"{(self.period - into) / S:.3f}"
        return (429, headers | {"Retry-After": "0"}) if is_over else (200, headers)

    def by_window(self, calls: list[int]) -> Counter[int]:
        """Return how many calls fell into each window."""
        return Counter((at - self.begin) // self.period for at in calls)


def test_a_key_shared_with_a_client_outside_stays_within_its_limit(server: Memcached) -> None:
    """60 per 3 s, of which somebody else takes 20 as each window begins: the fleet takes the other 40.

    Refusals say ``Retry-After: 0``, so that it is the headers alone that hold it back. In a window each caller is
    refused once at most, however slow the machine: by the call that it had on the wire, or booked within the horizon,
    when another heard that nothing remains; its own refusal it has heard itself before it calls again. The fleet
    begins late in a window, whose calls could hide those of others in the next; if nobody listened, or not closely,
    20 were refused in each.
    """
    begin = time.time() + 3
    window = SharedWindow(60, 3.0, 20, into=2.2, last=2)
    with serving(window) as service:
        terms = {"rate": "60/3 seconds", "headers": True}
        with callers(Plan(server.url, service.url, terms, begin, begin + 60), FACES):
            pass
        accepted, refused = window.by_window(service.at(200)), window.by_window(service.at(429))
    assert accepted[1] + accepted[2] > 40  # of 80; 20 in each if the others counted twice
    assert max(refused.values(), default=0) <= len(FACES)


class LongerWindow:
    """A service's sliding window of ``limit`` calls that is longer than it says; what it refuses does not count.

    It has seen enough when it has accepted ``more`` calls from ``settled`` seconds after the first on.
    """

    def __init__(self, limit: int, period_us: int, settled: int, more: int) -> None:
        self.limit, self.period_us, self.settled, self.more = limit, period_us, settled * S, more
        self.counted = list[int]()

    def late(self) -> list[int]:
        return [at for at in self.counted if at >= self.counted[0] + self.settled]

    def __call__(self, at: int) -> tuple[int, dict[str, str]]:
        if len(self.late()) > self.more:
            return OVER, {}
        if sum(time > at - self.period_us for time in self.counted) >= self.limit:
            return 429, {}
        self.counted.append(at)
        return 200, {}


def test_a_fleet_learns_the_margin_of_a_service_that_counts_otherwise(server: Memcached) -> None:
    """The service says 60 per 2 s, and counts over 2.15 s: it refuses a few calls, then none; a fifth is lost at most.

    The margin doubles once for each burst of refusals, from 50 ms, however many workers hear it.
    """
    begin = time.time() + 3
    window = LongerWindow(60, 2_150_000, settled=9, more=120)
    with serving(window) as service:
        with callers(Plan(server.url, service.url, "60/2s", begin, begin + 60), FACES):
            pass
        refused, late = service.at(429), window.late()
    assert 1 <= len(refused) <= 30
    assert refused[-1] < late[0]
    assert late[120] - late[0] <= 2 * 2_150_000 / 0.8  # two windows
    assert 100_000 <= _state(server.url, "60/2s").rejections.margin_us <= 400_000
