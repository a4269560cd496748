"""Real processes under two limits at once, against a service that counts both: neither is over, and one is used up."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
import time
from collections import deque
from typing import Any

import requests

from nekkar.core.limiter import Nekkar
from nekkar.requests import NekkarAdapter
from nekkar.rules import Rule, RuleTable
from tests.support.processes import run_to_end
from tests.support.servers import Memcached
from tests.support.web import Answering, Listener, running

ENDPOINT, ACCOUNT = (10, 1.0), (30, 3.0)  # calls in so many seconds
LIMITS = {"endpoint": "10/second", "account": "30 per 3 seconds"}
RULES = RuleTable([Rule("*/search", ["endpoint", "account"]), Rule("*/other", "account")], LIMITS)
SECONDS, JOINT, SINGLE, THREADS = 10.0, 4, 2, 3


class StrictHandler(Answering):
    """Answers a call, or refuses it."""

    server: StrictService

    def do_GET(self) -> None:  # noqa: N802  as http.server asks
        self.answer(self.server.count(self.path), {}, b"")


class StrictService(Listener):
    """Counts calls of an endpoint, and all calls of the account; ``calls``: when each came, and of which path."""

    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(StrictHandler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.calls: list[tuple[float, str]] = []
        self.refused: list[str] = []
        self._lock = threading.Lock()
        self._windows = (deque[float](), deque[float]())

    def count(self, path: str) -> int:
        """Count a call that arrives now; return the status of the answer."""
        with self._lock:
            now = time.monotonic()
            under = zip(self._windows, (ENDPOINT, ACCOUNT), strict=True)
            windows = list(under)[0 if path == "/search" else 1 :]
            for window, (most, period) in windows:
                while window and window[0] <= now - period:
                    window.popleft()
                if len(window) >= most:
                    self.refused.append(f"{path}: {most} calls in {period} s already")
                    return 429
            for window, _ in windows:
                window.append(now)
            self.calls.append((now, path))
            return 200


def work(url: str, cache: str, path: str, ready: Any) -> None:
    """Call in some threads until the time is over; begin once all are ``ready``."""
    limiter = Nekkar(cache)
    ready.wait(60)
    ends = time.monotonic() + SECONDS

    def call() -> None:
        with requests.Session() as session:
            session.trust_env = False
            session.mount("http://", NekkarAdapter(limiter, RULES))
            while time.monotonic() < ends:
                session.get(url + path, timeout=30)

    threads = [threading.Thread(target=call) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_a_fleet_under_two_limits_is_refused_nothing_and_uses_the_one_that_binds(server: Memcached) -> None:
    """Four processes call an endpoint in an account, two others the account alone, which binds."""
    context = multiprocessing.get_context("spawn")
    paths = ["/search"] * JOINT + ["/other"] * SINGLE
    with running(StrictService()) as service:
        ready = context.Barrier(len(paths))
        workers = [
            context.Process(target=work, args=(service.url, server.url, path, ready), daemon=True) for path in paths
        ]
        run_to_end(workers)
    assert service.refused == []
    begin = service.calls[0][0]
    whole = [path for at, path in service.calls if at < begin + 3 * 3.05 - 0.05]  # three of the account's windows
    assert len(whole) >= 0.95 * 90
    assert whole.count("/search") >= 15


def test_hundreds_of_tasks_under_two_like_limits_all_start() -> None:
    """However long a turn takes to look at all of them: none is sent to and fro for ever."""
    limiter = Nekkar()
    limit = limiter("calls", "150/second") & limiter("jobs", "151/second")

    async def main() -> None:
        await asyncio.wait_for(asyncio.gather(*(limit.acquire_async() for _ in range(300))), 30)

    asyncio.run(main())
    assert [status.waiting for status in limit.status()] == [0, 0]
