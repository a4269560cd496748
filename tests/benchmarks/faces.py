"""What the faces cost: an adapter over requests, a transport over httpx, a rule's resolution, and the import."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nekkar
from nekkar.core.limiter import Nekkar
from nekkar.rules import Rule, RuleTable
from tests.benchmarks.figures import Figure, Stage, medians

SEEN, NEW = "a URL seen before, {:,} rules", "a new URL, {:,} rules"
ADAPTER, TRANSPORT, TRANSPORT_ASYNC = "one requests call", "one httpx call", "one httpx call in a task"
IMPORT = "import"
HTTPX_LIMITER = "httpx-limiter on aiolimiter"
STDLIB = "floor: dataclasses, logging, typing"
CALLS = 10_000_000
URL = "https://api.example.com/a"
_fresh = count()


def rules(stage: Stage) -> Iterator[Figure]:
    """Tables of growing size; the URL's rule is the last but one, or a template of the last."""
    took: dict[str, list[float]] = {}
    for _ in range(stage.scale.rounds):
        for number in stage.scale.rules:
            resolve = partial(_table(number).resolve, "GET")
            seen = f"https://h{number - 2}.example.com/a/b?page=1"
            new = [f"https://h{number - 2}.example.com/a/{next(_fresh)}?page=1" for _ in range(stage.scale.calls)]
            resolve(seen)
            took.setdefault(SEEN.format(number), []).append(_each(resolve, [seen] * 1000))
            took.setdefault(NEW.format(number), []).append(_each(resolve, new))
        plain = [f"https://h1.example.com/a/{next(_fresh)}?page=1" for _ in range(stage.scale.calls)]
        took.setdefault("floor", []).append(_each(urlsplit, plain))
    yield from medians({"floor: urlsplit": took.pop("floor")}, "a new URL", "µs")
    for what, samples in took.items():
        yield from medians({"nekkar": samples}, what, "µs")


def _table(number: int) -> RuleTable:
    named = [Rule(f"https://h{index}.example.com/a/*", "one") for index in range(number - 1)]
    return RuleTable(
        [*named, Rule("*.example.com/users/{user}/*", "user-{user}")], limits={"one": 10, "user-{user}": 5}
    )


def http(stage: Stage) -> Iterator[Figure]:
    """Calls that a stub answers at once, with and without a limit on the way."""
    gets = {name: partial(session.get, URL) for name, session in _sessions().items()}
    yield from _compared(stage, gets, ADAPTER)
    gets = {name: partial(client.get, URL) for name, client in _clients().items()}
    yield from _compared(stage, gets, TRANSPORT)
    yield from asyncio.run(_async_clients(stage))


def _limits() -> tuple[Nekkar, RuleTable]:
    return Nekkar(), RuleTable([Rule("api.example.com", "api")], limits={"api": CALLS})


def _sessions() -> dict[str, Any]:
    import requests
    from requests.adapters import HTTPAdapter

    from nekkar.requests import NekkarAdapter

    def answer(_self: Any, request: Any, **_options: Any) -> requests.Response:
        response = requests.Response()
        response.status_code, response.request, response.url, response._content = 200, request, URL, b""
        return response

    stub = type("Stub", (HTTPAdapter,), {"send": answer})
    adapters = {"floor: requests": stub(), "nekkar": NekkarAdapter(*_limits(), stub())}
    if find_spec("requests_ratelimiter"):
        from requests_ratelimiter import LimiterMixin

        adapters["requests-ratelimiter"] = type("Limited", (LimiterMixin, stub), {})(per_minute=CALLS, burst=CALLS)
    sessions = {name: requests.Session() for name in adapters}
    for name, session in sessions.items():
        session.trust_env = False
        session.mount("https://", adapters[name])
    return sessions


def _clients() -> dict[str, Any]:
    import httpx

    from nekkar.httpx import NekkarTransport

    stub = httpx.MockTransport(lambda _request: httpx.Response(200))
    transports = {"floor: httpx": stub, "nekkar": NekkarTransport(*_limits(), stub)}
    return {name: httpx.Client(transport=each) for name, each in transports.items()}


async def _async_clients(stage: Stage) -> list[Figure]:
    import httpx

    from nekkar.httpx import AsyncNekkarTransport

    stub = httpx.MockTransport(lambda _request: httpx.Response(200))
    transports: dict[str, Any] = {"floor: httpx": stub, "nekkar": AsyncNekkarTransport(*_limits(), stub)}
    if find_spec("httpx_limiter") and find_spec("aiolimiter"):
        from httpx_limiter import AsyncRateLimitedTransport, Rate
        from httpx_limiter.aiolimiter import AiolimiterAsyncLimiter

        limiter = AiolimiterAsyncLimiter.create(Rate.create(magnitude=CALLS, duration=60))
        transports[HTTPX_LIMITER] = AsyncRateLimitedTransport(limiter=limiter, transport=stub)
    clients = {name: httpx.AsyncClient(transport=each) for name, each in transports.items()}
    took: dict[str, list[float]] = {name: [] for name in clients}
    for client in clients.values():
        await client.get(URL)
    for _ in range(stage.scale.rounds):
        for name, client in clients.items():
            start = time.perf_counter_ns()
            for _ in range(stage.scale.calls):
                await client.get(URL)
            took[name].append((time.perf_counter_ns() - start) / stage.scale.calls / 1000)
    return list(medians(took, TRANSPORT_ASYNC, "µs"))


def imports(stage: Stage) -> Iterator[Figure]:
    """Fresh interpreters that import one thing each, in turns; what only starting takes is not in it."""
    statements = {
        "nekkar": "import nekkar",
        "nekkar, to its first call": "import nekkar; nekkar.Nekkar()('calls', 5).acquire()",
        STDLIB: "import dataclasses, logging, typing",
    }
    took: dict[str, list[float]] = {name: [] for name in statements}
    for _ in range(stage.scale.imports):
        for name, statement in statements.items():
            took[name].append(_import(statement))
    yield from medians(took, IMPORT, "ms")


def _import(statement: str) -> float:
    code = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    path = {**os.environ, "PYTHONPATH": str(Path(nekkar.__file__).parent.parent)}
    done = subprocess.run([sys.executable, "-S", "-c", code], env=path, capture_output=True, text=True, check=True)
    return float(done.stdout) * 1000


def _compared(stage: Stage, calls: Mapping[str, Callable[[], Any]], what: str) -> Iterator[Figure]:
    took: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(stage.scale.rounds):
        for name, call in calls.items():
            took[name].append(_timed(call, stage.scale.calls))
    yield from medians(took, what, "µs")


def _timed(call: Callable[[], Any], times: int) -> float:
    return _each(lambda _: call(), range(times))


def _each(call: Callable[[Any], Any], values: Any) -> float:
    start = time.perf_counter_ns()
    for value in values:
        call(value)
    return (time.perf_counter_ns() - start) / len(values) / 1000
