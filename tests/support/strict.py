"""Strict services on this machine: they count by arrival, refuse all that is over, and tell it as real services do.

An outside client takes what ``seize`` takes: the fleet learns of it by a refusal alone.
"""

from __future__ import annotations

import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import urlsplit

from tests.support.web import Answering, Listener

JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class Arrival:
    """A call as its service saw it: when it came, of which bucket, what it cost, whether it was refused."""

    at: float
    bucket: str
    cost: int
    is_refused: bool


@dataclass
class FixedWindow:
    """``limit`` hits in each window of ``period`` seconds; windows begin on the clock, as many services' do.

    ``others``: the hits of an outside client as each window begins.
    """

    limit: int
    period: float
    others: int = 0
    number: int = 0
    used: int = 0

    def left(self, now: float) -> int:
        number = int(now // self.period)
        if number != self.number:
            self.number, self.used = number, self.others
        return self.limit - self.used

    def take(self, now: float, cost: int) -> bool:
        is_free = self.left(now) >= cost
        self.used += cost * is_free
        return is_free

    @property
    def reset(self) -> float:
        return (self.number + 1) * self.period


@dataclass
class Leaking:
    """A bucket of ``limit`` points that fills by ``rate`` a second."""

    limit: int
    rate: float
    points: float = field(init=False)
    at: float = 0.0

    def __post_init__(self) -> None:
        self.points = self.limit

    def left(self, now: float) -> float:
        self.points = min(self.limit, self.points + (now - self.at) * self.rate)
        self.at = now
        return self.points

    def take(self, now: float, cost: float) -> bool:
        is_free = self.left(now) >= cost
        self.points -= cost * is_free
        return is_free


class Strict(Listener):
    """What all services share: ``arrivals``, in order, and a lock for their buckets."""

    request_queue_size = 128

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.arrivals: list[Arrival] = []
        self.lock = threading.Lock()

    def count(self, bucket: str = "", is_refused: bool = False) -> list[Arrival]:
        """Return what arrived in one bucket, or in any, and was refused or not."""
        with self.lock:
            found = [one for one in self.arrivals if one.bucket == bucket] if bucket else self.arrivals
            return [one for one in found if one.is_refused == is_refused]


class GitHubHandler(Answering):
    """Answers issues and searches; tells what remains of the resource, to the second, as GitHub does."""

    server: GitHub

    def do_GET(self) -> None:  # noqa: N802  as http.server asks
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path, is_write = urlsplit(self.path).path, self.command != "GET"
        resource = "search" if path.startswith("/search/") else "core"
        status, headers, told = self.server.admit(resource, is_write)
        if status == 200 and resource == "search":
            told = {"total_count": 0, "incomplete_results": False, "items": []}
        self.answer(201 if is_write and status == 200 else status, JSON | headers, json.dumps(told).encode())

    do_POST = do_PATCH = do_GET  # noqa: N815  as http.server asks


class GitHub(Strict):
    """Resources of so many calls, and writes, whose limit no header tells: 403 with ``Retry-After``."""

    def __init__(self, resources: dict[str, tuple[Any, ...]], writes: list[tuple[int, float]], pause: int) -> None:
        super().__init__(GitHubHandler)
        self.resources = {name: FixedWindow(*terms) for name, terms in resources.items()}
        self.writes, self.pause = [FixedWindow(*terms) for terms in writes], pause
        self.paused_until = 0.0

    def admit(self, resource: str, is_write: bool) -> tuple[int, dict[str, str], dict[str, Any]]:
        """Decide about a call that arrives now."""
        with self.lock:
            now, window = time.time(), self.resources[resource]
            is_full = window.left(now) < 1
            is_abuse = is_write and (now < self.paused_until or any(one.left(now) < 1 for one in self.writes))
            taken = [] if is_full or is_abuse else [window, *(self.writes if is_write else [])]
            for one in taken:
                one.take(now, 1)
            for bucket in [resource, *(["writes"] if is_write else [])]:
                self.arrivals.append(Arrival(now, bucket, 1, not taken))
            headers = {
                "X-RateLimit-Limit": str(window.limit),
                "X-RateLimit-Remaining": str(window.left(now)),
                "X-RateLimit-Used": str(window.used),
                "X-RateLimit-Reset": str(-int(-window.reset // 1)),
                "X-RateLimit-Resource": resource,
            }
            if is_full:
                return 403, headers, {"message": "API rate limit exceeded for user ID 1."}
            if is_abuse:
                headers["Retry-After"] = str(self.pause)
                return 403, headers, {"message": "You have exceeded a secondary rate limit. Please wait."}
            return 200, headers, {"id": 1, "number": 1, "title": "t"}

    def seize(self, resource: str) -> float:
        """Let an outside client take all that is left of a resource; return until when."""
        with self.lock:
            now, window = time.time(), self.resources[resource]
            window.take(now, window.left(now))
            return window.reset

    def seize_writes(self) -> float:
        """Let an outside client write too much: no write for a while; return until when."""
        with self.lock:
            self.paused_until = time.time() + self.pause
            return self.paused_until


class ShopifyHandler(Answering):
    """Answers queries of GraphQL with their cost, held as requested and settled as it was."""

    server: Shopify

    def do_POST(self) -> None:  # noqa: N802  as http.server asks
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        requested = 2 + int(re.findall(r"first: (\d+)", asked["query"])[0])
        self.answer(200, JSON, json.dumps(self.server.run(requested)).encode())


class Shopify(Strict):
    """A bucket of points that leaks; a query costs a part of what it asks for. ``seconds``: of a query."""

    def __init__(self, limit: int, rate: int) -> None:
        super().__init__(ShopifyHandler)
        self.bucket = Leaking(limit, rate)

    def run(self, requested: int) -> dict[str, Any]:
        """Run a query, or throttle it."""
        with self.lock:
            now = time.time()
            is_free, actual = self.bucket.take(now, requested), requested - requested // 4
            self.arrivals.append(Arrival(now, "points", actual, not is_free))
            if not is_free:
                error = {"message": "Throttled", "extensions": {"code": "THROTTLED"}}
                return {"errors": [error], "extensions": self._cost(now, requested, None)}
        time.sleep(0.005)  # while it is held
        with self.lock:
            self.bucket.points += requested - actual
            return {"data": {}, "extensions": self._cost(time.time(), requested, actual)}

    def seize(self) -> None:
        """Let an outside client take all points that are left."""
        with self.lock:
            self.bucket.take(now := time.time(), self.bucket.left(now))

    def _cost(self, now: float, requested: int, actual: int | None) -> dict[str, Any]:
        status = {
            "maximumAvailable": self.bucket.limit,
            "currentlyAvailable": int(self.bucket.left(now)),
            "restoreRate": self.bucket.rate,
        }
        return {"cost": {"requestedQueryCost": requested, "actualQueryCost": actual, "throttleStatus": status}}


def query_cost(response: Any) -> dict[str, int]:
    """Return what a query of Shopify's did cost, by the answer."""
    found = response.json()
    return {"points": 0} if "errors" in found else {"points": found["extensions"]["cost"]["actualQueryCost"]}


def throttled(response: Any) -> float | None:
    """Return how long until Shopify's bucket is full again, where a 200 says that a query was throttled."""
    found = response.json()
    if any(error.get("extensions", {}).get("code") == "THROTTLED" for error in found.get("errors") or []):
        bucket = found["extensions"]["cost"]["throttleStatus"]
        return float((bucket["maximumAvailable"] - bucket["currentlyAvailable"]) / bucket["restoreRate"])
    return None


class BinanceHandler(Answering):
    """Answers by weight, told as what is used of the window."""

    server: Binance

    def do_GET(self) -> None:  # noqa: N802  as http.server asks
        status, headers = self.server.weigh(5 if "/depth" in self.path else 2)
        self.answer(status, JSON | headers, b"{}")


class Binance(Strict):
    """So much weight in each window on the clock; 429 with ``Retry-After``, then a ban by 418."""

    def __init__(self, limit: int, period: int, ban: int, others: int = 0) -> None:
        super().__init__(BinanceHandler)
        self.window, self.period, self.ban = FixedWindow(limit, period, others), period, ban
        self.banned_until = 0.0

    def weigh(self, weight: int) -> tuple[int, dict[str, str]]:
        """Decide about a call that arrives now."""
        with self.lock:
            now = time.time()
            is_banned = now < self.banned_until
            is_free = not is_banned and self.window.take(now, weight)
            self.arrivals.append(Arrival(now, "weight", weight, not is_free))
            used = {f"X-MBX-USED-WEIGHT-{self.period}S": str(self.window.used)}
            if is_free:
                return 200, used
            until = self.banned_until if is_banned else self.window.reset
            return 418 if is_banned else 429, {"Retry-After": str(-int((now - until) // 1))} | used

    def ban_all(self) -> float:
        """Let an outside client be banned, and all calls of this address with it; return until when."""
        with self.lock:
            self.banned_until = time.time() + self.ban
            return self.banned_until
