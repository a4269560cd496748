"""A service on this machine that answers by a policy and records its calls, and real processes that call it.

Once it answers ``OVER`` to a caller, that one calls no more: so a service ends a test when it has seen enough.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from multiprocessing.process import BaseProcess
from typing import Any

import httpx
import httpx2
import requests

import nekkar.httpx
import nekkar.httpx2
import nekkar.requests
from nekkar.core.limiter import Nekkar
from nekkar.rules import Rule, RuleTable
from tests.support.web import Listener, running

Answer = tuple[int, dict[str, str]]
Policy = Callable[[int], Answer]  # from when a call arrived, in µs, to its status and headers; one at a time

OVER = 410

_spawn = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class Call:
    """A call that arrived ``at``, in µs since the epoch, and its answer's status."""

    at: int
    status: int
    path: str


class Service(Listener):
    """A service on a free port; ``calls``: what arrived, in order."""

    request_queue_size = 64

    def __init__(self, policy: Policy) -> None:
        super().__init__(_Handler)
        self.policy, self.calls, self._lock = policy, list[Call](), threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def answer(self, path: str) -> Answer:
        """Decide about a call that arrives now."""
        with self._lock:
            at = time.time_ns() // 1000
            answer = self.policy(at)
            self.calls.append(Call(at, answer[0], path))
            return answer

    def at(self, status: int) -> list[int]:
        """Return when the calls of one answer arrived."""
        return [call.at for call in self.calls if call.status == status]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Service

    def do_GET(self) -> None:
        status, headers = self.server.answer(self.path)
        self.send_response(status)
        for name, value in ({"Content-Length": "0"} | headers).items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class's name
        """Say nothing."""


@contextmanager
def serving(policy: Policy) -> Iterator[Service]:
    """Run a service in a thread."""
    with running(Service(policy)) as service:
        yield service


@dataclass(frozen=True, slots=True)
class Plan:
    """What each process does: call ``url`` under ``terms``, over ``cache``, until ``until``, in so many ``threads``."""

    cache: str
    url: str
    terms: str | dict[str, Any]
    begin: float
    until: float
    threads: int = 1


@contextmanager
def callers(plan: Plan, faces: list[str]) -> Iterator[list[BaseProcess]]:
    """Run a process for each face; whatever happens, none of them stays."""
    workers: list[BaseProcess] = [_spawn.Process(target=_work, args=(face, plan)) for face in faces]
    with ExitStack() as stack:
        for worker in workers:
            worker.start()
            stack.callback(_end, worker)
        yield workers
        for worker in workers:
            worker.join(max(1.0, plan.until - time.time() + 30))
            assert worker.exitcode == 0


def _end(worker: BaseProcess) -> None:
    if worker.is_alive():
        worker.kill()
    worker.join()


def _work(face: str, plan: Plan) -> None:
    limiter, rules = Nekkar(plan.cache), RuleTable([Rule("*", "all")], {"all": plan.terms})
    time.sleep(max(0.0, plan.begin - time.time()))
    if face == "async":
        asyncio.run(_call_async(limiter, rules, plan))
        return
    threads = [threading.Thread(target=_call, args=(face, limiter, rules, plan)) for _ in range(plan.threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _call(face: str, limiter: Nekkar, rules: RuleTable, plan: Plan) -> None:
    with _client(face, limiter, rules) as client:
        while (left := plan.until - time.time()) > 0:
            options = {} if face == "requests" else {"extensions": {"nekkar": {"max_wait": left}}}
            with suppress(TimeoutError), nekkar.requests.options(max_wait=left):
                if client.get(plan.url, **options).status_code == OVER:
                    return


def _client(face: str, limiter: Nekkar, rules: RuleTable) -> Any:
    if face == "requests":
        session = requests.Session()
        session.trust_env = False
        return nekkar.requests.limit(session, limiter, rules)
    if face == "httpx":
        return nekkar.httpx.limit(httpx.Client(trust_env=False), limiter, rules)
    return nekkar.httpx2.limit(httpx2.Client(trust_env=False), limiter, rules)


async def _call_async(limiter: Nekkar, rules: RuleTable, plan: Plan) -> None:
    async with nekkar.httpx2.limit(httpx2.AsyncClient(trust_env=False), limiter, rules) as client:
        while (left := plan.until - time.time()) > 0:
            with suppress(TimeoutError):
                if (await client.get(plan.url, extensions={"nekkar": {"max_wait": left}})).status_code == OVER:
                    return
