"""A worker: one process, one ``requests`` session, calls one after the other until the time is up.

With nekkar or without, it runs the same loop; with it, its session has an adapter mounted. It starts at most
500 calls a second, and sleeps 0.1 s after a 429. What it says down its pipe, in order: READY, an ``Answer`` for
each call, and ``Ended``; whatever goes wrong is in the last.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, cast
from urllib.parse import urljoin

import requests

from nekkar.core.cache import BaseCache, SwapCache, from_url
from nekkar.core.clock import SystemClock
from nekkar.core.errors import WaitTooLong
from nekkar.core.limiter import Nekkar
from nekkar.core.quota import SECOND
from nekkar.demo.server import READY as READY_PATH
from nekkar.requests import NekkarAdapter, options
from nekkar.rules import Rule, RuleTable

READY = "ready"
TIMEOUT = 5.0

_PACE_US = SECOND // 500
_PAUSE_US = SECOND // 10


@dataclass(frozen=True, slots=True)
class Terms:
    """The limit that workers share: the cache's URL, the limit's name and rate."""

    cache: str
    name: str
    rate: str


@dataclass(frozen=True, slots=True)
class Task:
    """Call ``url`` for ``seconds``; under ``terms``, or under no limit."""

    url: str
    seconds: float
    terms: Terms | None


@dataclass(frozen=True, slots=True)
class Answer:
    """A call's answer; ``in_time``: it came before the run's time was up.

    ``asked``: when the call was made, in seconds since the beginning; ``waited``: how long nekkar held it back.
    """

    status: int
    in_time: bool
    asked: float = 0.0
    waited: float = 0.0


@dataclass(frozen=True, slots=True)
class Ended:
    """A worker's last word: operations on the cache so far, and what ended it, if not the time."""

    operations: int
    failure: str | None


class CountingCache(BaseCache):
    """A cache that counts the operations on it; not for several threads."""

    def __init__(self, cache: BaseCache) -> None:
        self._cache, self._swap, self.operations = cache, cast(SwapCache, cache), 0

    @property
    def in_process(self) -> bool:
        return self._swap.in_process

    def add(self, key: str, value: str) -> bool:
        return self._counted().add(key, value)

    def get(self, key: str) -> str | None:
        return self._counted().get(key)

    def set(self, key: str, value: str) -> None:
        self._counted().set(key, value)

    def delete(self, key: str) -> None:
        self._counted().delete(key)

    def gets(self, key: str) -> tuple[bytes | None, Any]:
        self._counted()
        return self._swap.gets(key)

    def cas(self, key: str, value: bytes, token: Any, ttl: int) -> Any:
        self._counted()
        return self._swap.cas(key, value, token, ttl)

    def _counted(self) -> BaseCache:
        self.operations += 1
        return self._cache


def work(pipe: Connection, task: Task) -> None:
    """Do ``task`` from the instant that comes down the pipe (Unix time, microseconds). Blocks until done."""
    cache = None if task.terms is None else CountingCache(from_url(task.terms.cache))
    failure = None
    try:
        with requests.Session() as session:
            _mount(session, task.terms, cache)
            _call_all(pipe, task, session)
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"
    with suppress(OSError):  # nobody listens any more: the parent is gone, and so should this be
        pipe.send(Ended(cache.operations if cache else 0, failure))


def _mount(session: requests.Session, terms: Terms | None, cache: CountingCache | None) -> None:
    """Put the session under the limit, but for the call that only connects."""
    session.trust_env = False  # a proxy has no part in this
    if terms is not None and cache is not None:
        rules = RuleTable([Rule(f"*{READY_PATH}", False), Rule("*", terms.name)], {terms.name: terms.rate})
        session.mount("http://", NekkarAdapter(Nekkar(cache), rules))


def _call_all(pipe: Connection, task: Task, session: requests.Session) -> None:
    session.get(urljoin(task.url, READY_PATH), timeout=TIMEOUT)
    pipe.send(READY)
    begin_us = pipe.recv()
    clock, end_us = SystemClock(), begin_us + round(task.seconds * SECOND)
    _sleep_until(begin_us)
    while (now_us := clock.now_us()) < end_us:
        try:
            with options(max_wait=(end_us - now_us) / SECOND):
                response = session.get(task.url, timeout=TIMEOUT)
        except WaitTooLong:  # the next slot is past the end
            return
        status, admission = response.status_code, getattr(response, "nekkar", None)
        asked = max(0, now_us - begin_us) / SECOND
        pipe.send(Answer(status, clock.now_us() <= end_us, asked, admission.waited if admission else 0.0))
        _sleep_until(min(end_us, clock.now_us() + _PAUSE_US if status == 429 else now_us + _PACE_US))


def _sleep_until(at_us: int) -> None:
    SystemClock().sleep_until(at_us, threading.Event())
