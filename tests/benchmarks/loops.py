"""Tasks under a limit that binds, each with work of its own after its slot: how much of the limit they use.

``python -m tests.benchmarks.loops LOOP URL NAME SECONDS WORK_MS`` is one process: it prints a line once it is ready,
reads one, has its tasks stand in line, and prints when each started (Unix µs).
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from statistics import mean

import anyio

from nekkar.core.limiter import Nekkar
from tests.benchmarks.figures import Figure, Stage
from tests.benchmarks.limiters import NEKKAR, fresh, url_of

CALLS, PERIOD, MARGIN = 100, 1.0, 0.05
CACHES = ("memcached", "redis", "sqlite")
USED = "event loop, {} ms of work a call, {} process(es): share used"


def loops(stage: Stage) -> Iterator[Figure]:
    """Each loop on each cache with 1 ms of work; with 3 ms on memcached."""
    if not stage.only(NEKKAR):
        return
    for work_ms, caches in ((1, CACHES), (3, CACHES[:1])):
        for processes in stage.scale.loop_processes:
            for loop in (each for each in stage.scale.loops if each == "asyncio" or find_spec(each)):
                for cache in (each for each in caches if each != "redis" or find_spec("redis")):
                    starts = _starts(stage, loop, cache, processes, work_ms)
                    used = _used(starts, 2 * stage.scale.seconds)
                    yield Figure(USED.format(work_ms, processes), f"nekkar, {cache}, {loop}", used, "")


def _starts(stage: Stage, loop: str, cache: str, processes: int, work_ms: int) -> list[int]:
    url, name = url_of(cache, stage.servers), fresh(CALLS, PERIOD).name
    program = [sys.executable, "-m", "tests.benchmarks.loops", loop, url, name, str(2 * stage.scale.seconds)]
    crew = [
        subprocess.Popen([*program, str(work_ms)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    try:
        for each in crew:
            assert each.stdout
            assert each.stdout.readline() == "ready\n"
        told = [_told(each, 60 + 4 * stage.scale.seconds) for each in crew]
        return sorted(start for answer in told for start in json.loads(answer()))
    finally:
        for each in crew:
            each.kill()
            each.wait()


def _told(process: subprocess.Popen[str], limit: float) -> Callable[[], str]:
    """Tell a process to begin; return what returns what it printed."""
    assert process.stdin
    process.stdin.write("begin\n")
    process.stdin.flush()
    return lambda: process.communicate(timeout=limit)[0]


def _used(starts: list[int], seconds: float) -> float:
    """Return the share used of what the margin leaves: 1 where each window follows the one before at once."""
    if len(starts) <= CALLS:  # not one window in all the time
        return len(starts) / CALLS * (PERIOD + MARGIN) / seconds
    return (PERIOD + MARGIN) * 1e6 / mean(after - before for before, after in zip(starts, starts[CALLS:], strict=False))


async def _main(url: str, name: str, seconds: float, work_ms: float) -> None:
    limit, starts = Nekkar(url)(name, CALLS, period=PERIOD), list[int]()

    async def job() -> None:
        await limit.acquire_async()
        starts.append(time.time_ns() // 1000)
        end = time.perf_counter() + work_ms / 1000
        while time.perf_counter() < end:
            pass

    with anyio.move_on_after(seconds):
        async with anyio.create_task_group() as crowd:
            for _ in range(round(CALLS * (seconds / PERIOD + 2))):
                crowd.start_soon(job)
    print(json.dumps(starts), flush=True)


def _run(loop: str, url: str, name: str, seconds: str, work_ms: str) -> None:
    options = {"use_uvloop": True} if loop == "uvloop" else {}
    backend = "trio" if loop == "trio" else "asyncio"
    anyio.run(_main, url, name, float(seconds), float(work_ms), backend=backend, backend_options=options)


if __name__ == "__main__":
    print("ready", flush=True)
    sys.stdin.readline()
    _run(*sys.argv[1:])
