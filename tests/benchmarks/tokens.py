"""Requests and tokens under one limit: 4 processes of 16 tasks reserve 200 tokens a call, and use 50 to 150.

``python -m tests.benchmarks.tokens`` is the program of such a crew. What an ideal limiter could use is simulated on the
same calls: it has no delay, and what is in flight counts with it as reserved, as the service must count it.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import count
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from tests.benchmarks.crew import Orders, muster, ordered, told_by
from tests.benchmarks.figures import Figure, Stage
from tests.benchmarks.limiters import POLL_S, fresh
from tests.benchmarks.token_limiters import RESERVED, TOKENS, TOKENS_A_CALL, TOKENS_BY_NAME, sent

CALLS, PERIOD, PROCESSES, TASKS = 100, 2.0, 4, 16
LEAST, MOST = 50, 150  # tokens that a call uses, and ms that it takes
REQUESTS = "tokens: worst window of 100 requests"
WORST, USED = "tokens: worst window of 10,000 tokens", "tokens: used, by an ideal limiter's"
CPU, COMMANDS, ERRORS = "tokens: CPU per call", "tokens: cache commands per call", "tokens: calls that failed"


class Call(NamedTuple):
    """When a call started and was settled (s), and the tokens that it used."""

    start: float
    end: float
    used: int


def tokens(stage: Stage) -> Iterator[Figure]:
    """Each contender, one after another."""
    seconds = 2 * stage.scale.binding_seconds
    best = ideal(seconds)
    for each in stage.here(TOKENS):
        before = stage.commands(each)
        orders = Orders(each.name, stage.servers, fresh(CALLS, PERIOD), PROCESSES, TASKS, seconds)
        told = told_by("tests.benchmarks.tokens", orders)
        calls = sorted(Call(*call) for worker in told for call in worker["calls"])
        commands = sum(worker["sent"] for worker in told) or stage.commands(each) - before
        requests, worst = worst_windows(calls)
        yield Figure(REQUESTS, each.name, requests, "requests")
        yield Figure(WORST, each.name, worst, "tokens")
        if best:
            yield Figure(USED, each.name, _rate(calls, calls[0].start, seconds) / best, "")
        yield Figure(CPU, each.name, sum(worker["cpu"] for worker in told) / len(calls) * 1000, "ms")
        yield Figure(COMMANDS, each.name, commands / len(calls), "")
        yield Figure(ERRORS, each.name, sum(worker["errors"] for worker in told), "")


def worst_windows(calls: list[Call]) -> tuple[int, int]:
    """Return the most requests and tokens in the period up to a call's start; what is in flight counts as reserved."""
    worst, first = (0, 0), 0
    for index, call in enumerate(calls):
        while calls[first].start <= call.start - PERIOD:
            first += 1
        inside = calls[first : index + 1]
        known = sum(each.used if each.end <= call.start else RESERVED for each in inside)
        worst = max(worst[0], len(inside)), max(worst[1], known)
    return worst


def ideal(seconds: float) -> float:
    """Return the tokens a second that a limiter without delay would use of such calls, after the first two periods."""
    draw, numbers = random.Random(1), count()
    now, idle = 0.0, PROCESSES * TASKS
    window: list[list[float]] = []  # start and tokens of each in the period
    flying: list[tuple[float, int, list[float], int]] = []
    calls: list[Call] = []
    while now < seconds:
        window = [each for each in window if each[0] > now - PERIOD]
        while flying and flying[0][0] <= now:
            _, _, held, used = heappop(flying)
            held[1], idle = used, idle + 1
        if idle and len(window) < CALLS and sum(each[1] for each in window) + RESERVED <= CALLS * TOKENS_A_CALL:
            held, end, used = [now, RESERVED], now + draw.uniform(LEAST, MOST) / 1000, draw.randint(LEAST, MOST)
            window.append(held)
            heappush(flying, (end, next(numbers), held, used))
            calls.append(Call(now, end, used))
            idle -= 1
        else:
            leaves = [window[0][0] + PERIOD + 1e-9] if window else []
            now = min([*leaves, *(end for end, *_ in flying[:1])])
    return _rate(calls, 0.0, seconds)


def _rate(calls: list[Call], begin: float, seconds: float) -> float:
    """Return the tokens a second after the first period; bursts at the edges count by half on average."""
    begin, end = begin + PERIOD, begin + seconds - 0.3  # callers stop in the last 0.3 s
    if end <= begin + 2 * PERIOD:
        return 0.0
    parts = (max(0.0, min(1.0, (call.start - begin) / PERIOD, (end - call.start) / PERIOD)) for call in calls)
    return sum(part * call.used for part, call in zip(parts, calls, strict=True)) / (end - begin - PERIOD)


def _worker(orders: Orders, together: Any, told: Connection) -> None:
    asyncio.run(_tasks(orders, together, told))


async def _tasks(orders: Orders, together: Any, told: Connection) -> None:
    reserve = TOKENS_BY_NAME[orders.contender].make(orders.servers, orders.terms)
    settle = await reserve()  # all that is imported or connected late is, before the clock runs
    await settle(0)
    together.wait()
    cpu, end = time.process_time(), time.time() + orders.seconds
    calls: list[Call] = []
    errors = [0]

    async def call() -> None:
        while time.time() < end:
            try:
                held = await reserve()
                start, used = time.time(), random.randint(LEAST, MOST)
                await asyncio.sleep(random.uniform(LEAST, MOST) / 1000)
                calls.append(Call(start, time.time(), used))
                await held(used)
            except Exception:  # that of a peer whose lock is busy, say
                errors[0] += 1
                await asyncio.sleep(POLL_S)

    callers = [asyncio.ensure_future(call()) for _ in range(orders.threads)]
    await asyncio.wait(callers, timeout=orders.seconds + 10)  # one that starves is left behind
    told.send({"calls": calls, "cpu": time.process_time() - cpu, "sent": sent[0], "errors": errors[0]})
    os._exit(0)  # a peer may not let its tasks be cancelled


if __name__ == "__main__":
    muster(ordered(), _worker)
