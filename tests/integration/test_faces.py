"""Every face at once: one rule file, one memcached, one strict server, and not one call refused by it."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import anyio
import pytest
import requests

import nekkar.requests
from nekkar import Nekkar, RuleTable, WaitTooLong
from tests.support.internals.core import Rate, quota
from tests.support.internals.demo import READY, serve
from tests.support.servers import Memcached

SECONDS = 8.0
RATE, COUNT, PERIOD = "100 per 2 seconds", 100, 2.0
RULES = f"""
[limits]
api = "{RATE}"

[[rules]]
url = "http://127.0.0.1{READY}"
limit = false

[[rules]]
url = "http://127.0.0.1/*"
limit = "api"
"""
FACES = ["mount", "limit", "httpx", "httpx", "httpx2", "httpx2", "decorated", "decorated"]
spawn = multiprocessing.get_context("spawn")


class Worker:
    """What one process does: calls again and again through one face, and counts the answers."""

    def __init__(self, url: str, cache: str, rules: str, end: float) -> None:
        self.url, self.end = url, end
        self.limiter, self.rules = Nekkar(cache), RuleTable.from_file(rules)
        self.statuses: list[int] = []

    @property
    def left(self) -> float:
        return max(0.0, self.end - time.time())

    def calls(self, get: Callable[[float], int]) -> None:
        """Call until the next slot lies past the end."""
        while self.left:
            try:
                self.statuses.append(get(self.left))
            except WaitTooLong:
                return

    def requests(self, how: str) -> None:
        with requests.Session() as session:
            if how == "mount":
                session.mount("http://", nekkar.requests.NekkarAdapter(self.limiter, self.rules))
            elif how == "limit":
                nekkar.requests.limit(session, self.limiter, self.rules)

            def get(max_wait: float) -> int:
                with nekkar.requests.options(max_wait=max_wait):
                    return session.get(self.url, timeout=10).status_code

            limit = self.limiter("api", RATE)

            def get_decorated(max_wait: float) -> int:
                limit.acquire(max_wait=max_wait)
                return session.get(self.url, timeout=10).status_code

            self.calls(get_decorated if how == "decorated" else get)

    def httpx(self, library: str) -> None:
        httpx, face = import_module(library), import_module(f"nekkar.{library}")
        with face.limit(httpx.Client(), self.limiter, self.rules) as client:

            def get(max_wait: float) -> int:
                asked = {"nekkar": {"max_wait": max_wait}}
                return int(client.get(self.url, timeout=10, extensions=asked).status_code)

            self.calls(get)

    async def httpx_async(self, library: str) -> None:
        httpx, face = import_module(library), import_module(f"nekkar.{library}")
        async with (
            face.limit(httpx.AsyncClient(), self.limiter, self.rules) as client,
            anyio.create_task_group() as group,
        ):
            for _ in range(3):
                group.start_soon(self.calls_async, client)

    async def calls_async(self, client: Any) -> None:
        while self.left:
            try:
                asked = {"nekkar": {"max_wait": self.left}}
                self.statuses.append((await client.get(self.url, timeout=10, extensions=asked)).status_code)
            except WaitTooLong:
                return


def work(number: int, url: str, cache: str, rules: str, barrier: Any, answers: Any) -> None:
    """Be one process of the fleet; its face is told by its number."""
    face = FACES[number]
    requests.get(url + READY, timeout=10)
    barrier.wait(60)
    worker = Worker(url, cache, rules, time.time() + SECONDS)
    if face in ("httpx", "httpx2") and FACES.index(face) == number:
        worker.httpx(face)
    elif face in ("httpx", "httpx2"):
        anyio.run(worker.httpx_async, face, backend="asyncio" if face == "httpx" else "trio")
    else:
        worker.requests(face)
    answers.put((number, worker.statuses))


@pytest.mark.timeout(120)
def test_all_faces_share_one_limit_and_the_service_refuses_none(server: Memcached, tmp_path: Path) -> None:
    """requests, httpx and httpx2, sync and async, and a decorated call: the limit is used, and no call is refused.

    But for one in a hundred, where a machine is so busy that a call is longer on its way than half the margin.
    """
    rules = tmp_path / "limits.toml"
    rules.write_text(RULES)
    pipe, far = spawn.Pipe()
    service = spawn.Process(target=serve, args=(far, [Rate(round(PERIOD * 1e6), COUNT)]), daemon=True)
    service.start()
    url = f"http://127.0.0.1:{pipe.recv()}"
    barrier, answers = spawn.Barrier(len(FACES)), spawn.SimpleQueue()
    args = (url, server.url, str(rules), barrier, answers)
    workers = [spawn.Process(target=work, args=(number, *args), daemon=True) for number in range(len(FACES))]
    try:
        for worker in workers:
            worker.start()
        statuses = dict(answers.get() for _ in workers)
    finally:
        for process in [*workers, service]:
            process.kill()
            process.join()
    every = [status for face in statuses.values() for status in face]
    assert every.count(429) <= len(every) // 100
    assert set(every) <= {200, 429}
    assert all(statuses.values())
    windows = SECONDS / (PERIOD + quota(RATE).margin_us / 1e6)
    assert len(every) >= 0.97 * COUNT * int(windows)
