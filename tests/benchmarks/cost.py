"""The cost of one admission that does not wait: in a hot loop, and cold, one call each 50 ms.

Contenders take turns, block by block, so that what disturbs the machine disturbs all of them; the median of their
blocks counts. Cold calls come in random order, since the first after a sleep wakes the machine. nekkar's hot loop
is served from prefetched slots (nekkar/core/waiting/prefetch.py), which is what a process that calls often gets; a
cold call is what a process that calls now and then pays.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from tests.benchmarks.figures import Figure, Stage, medians
from tests.benchmarks.limiters import ASYNC, FLOORS, IN_PROCESS, NEKKAR, SHARED, Contender, fresh

T = TypeVar("T")

NEVER_BINDS = 10_000_000
BETWEEN_S = 0.05
WORK_NS = 1_000_000
HOT, COLD = "one admission, hot loop", "one admission, cold"
HOT_ASYNC, COLD_ASYNC = "one admission in a task, hot loop", "one admission in a task, cold"
BUSY_ASYNC = "one admission in a task, beside work of 1 ms"
PYTHON_CALLS, PYTHON_CALLS_ASYNC = (
    "Python calls of one admission, cold",
    "Python calls of one admission in a task, cold",
)
SLEEP_0 = "floor: asyncio.sleep(0)"
SMALL = "nekkar, memcached, a limit of 60"


def sync(stage: Stage) -> Iterator[Figure]:
    """Threads' calls: every contender that shares, the floors, and those of one process."""
    admits = {each.name: _made(stage, each) for each in stage.here([*SHARED, *FLOORS, *IN_PROCESS])}
    if stage.only(NEKKAR):
        admits[SMALL] = _made(stage, NEKKAR, 60)  # too small for spares
    hot: dict[str, list[float]] = {name: [] for name in admits}
    for _ in range(stage.scale.rounds):
        for name, admit in admits.items():
            if name != SMALL:
                hot[name].append(_block(admit, stage.scale.calls))
    del hot[SMALL]
    yield from medians(hot, HOT, "µs")
    cold: dict[str, list[float]] = {name: [] for name in admits}
    for _ in range(stage.scale.cold):
        time.sleep(BETWEEN_S)
        for name, admit in shuffled(admits):
            cold[name].append(_block(admit, 1))
    yield from medians(cold, COLD, "µs")
    yield from medians({name: _python_calls(stage, admit) for name, admit in admits.items()}, PYTHON_CALLS, "")


def tasks(stage: Stage) -> Iterator[Figure]:
    """Tasks' calls."""
    yield from asyncio.run(_tasks(stage))


async def _tasks(stage: Stage) -> list[Figure]:
    admits = {each.name: each.make(stage.servers, fresh(NEVER_BINDS)) for each in stage.here(ASYNC)}
    admits[SLEEP_0] = lambda: asyncio.sleep(0)
    for admit in admits.values():
        await admit()
    hot: dict[str, list[float]] = {name: [] for name in admits}
    for _ in range(stage.scale.rounds):
        for name, admit in admits.items():
            hot[name].append(await _block_async(admit, stage.scale.calls))
    cold: dict[str, list[float]] = {name: [] for name in admits}
    for _ in range(stage.scale.cold):
        await asyncio.sleep(BETWEEN_S)
        for name, admit in shuffled(admits):
            cold[name].append(await _block_async(admit, 1))
    busy: dict[str, list[float]] = {name: [] for name in admits}
    work = asyncio.create_task(_work())
    for _ in range(stage.scale.cold):
        await asyncio.sleep(BETWEEN_S)
        for name, admit in shuffled(admits):
            busy[name].append(await _block_async(admit, 1))
    work.cancel()
    counts: dict[str, list[float]] = {name: [] for name in admits}
    for _ in range(stage.scale.rounds):
        await asyncio.sleep(BETWEEN_S)
        for name, admit in admits.items():
            with _counted(counts[name]):
                await admit()
    figures = [*medians(hot, HOT_ASYNC, "µs"), *medians(cold, COLD_ASYNC, "µs"), *medians(busy, BUSY_ASYNC, "µs")]
    return [*figures, *medians(counts, PYTHON_CALLS_ASYNC, "")]


async def _work() -> None:
    """Keep the event loop at work, a millisecond at a time."""
    while True:
        until = time.perf_counter_ns() + WORK_NS
        while time.perf_counter_ns() < until:
            pass
        await asyncio.sleep(0)


def shuffled(items: dict[str, T]) -> list[tuple[str, T]]:
    """Return items in random order."""
    return random.sample(list(items.items()), len(items))


def _made(stage: Stage, contender: Contender, calls: int = NEVER_BINDS) -> Callable[[], Any]:
    """Return a contender's call, once called: it is connected then, and has its modules."""
    admit = contender.make(stage.servers, fresh(calls))
    admit()
    return admit


def _python_calls(stage: Stage, admit: Callable[[], Any]) -> list[float]:
    counts: list[float] = []
    for _ in range(stage.scale.rounds):
        time.sleep(BETWEEN_S)
        with _counted(counts):
            admit()
    return counts


@contextmanager
def _counted(counts: list[float]) -> Iterator[None]:
    """Count the calls of Python functions in this thread, and add their number to ``counts``."""
    number = 0

    def note(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal number
        number += event == "call"

    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(None)
    counts.append(number - 1)  # less that of leaving this block


def _block(admit: Callable[[], Any], calls: int) -> float:
    start = time.perf_counter_ns()
    for _ in range(calls):
        admit()
    return (time.perf_counter_ns() - start) / calls / 1000


async def _block_async(admit: Callable[[], Awaitable[Any]], calls: int) -> float:
    start = time.perf_counter_ns()
    for _ in range(calls):
        await admit()
    return (time.perf_counter_ns() - start) / calls / 1000
