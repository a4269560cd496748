"""What grows with a limit: bytes in the cache, the time of an admission, and what tasks that wait take up."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from secrets import randbits

from nekkar.core.cache import MemcachedCache
from nekkar.core.limiter import Nekkar
from tests.benchmarks.cost import shuffled
from tests.benchmarks.figures import Figure, Stage, medians
from tests.benchmarks.limiters import ASYNC, NEKKAR, SHARED, fresh
from tests.support.internals.core import quota
from tests.support.internals.window import LEAST_HORIZON_US, LimitState, encode

BYTES, OF_LOG = "bytes in the cache, {:,} calls", "one admission, cold, behind {:,} calls"
TASK_BYTES, TASK_THREADS = "bytes per waiting task", "threads of waiting tasks"
TASK_COMMANDS = "cache commands of waiting tasks"
BESIDE = "beyond a bare waiting task"
MOST_OF_PEERS = 10_000


def logs(stage: Stage) -> Iterator[Figure]:
    """nekkar's states of full windows, and admissions behind them; the windows of the peers on Redis, filled."""
    if not stage.only(NEKKAR):
        return
    acquires = {}
    for calls in stage.scale.logs:
        name, cache = f"log{calls}", MemcachedCache("127.0.0.1", stage.memcached.port)
        raw = encode(behind(calls))
        assert cache.cas(f"nekkar:{name}", raw, cache.gets(f"nekkar:{name}")[1], 600) is not None
        yield Figure(BYTES.format(calls), NEKKAR.name, len(raw), "B")
        acquires[OF_LOG.format(calls)] = Nekkar(cache)(name, 2 * calls).acquire
    took: dict[str, list[float]] = {what: [] for what in acquires}
    for _ in range(max(2, stage.scale.cold)):
        time.sleep(0.02)
        for what, acquire in shuffled(acquires):
            start = time.perf_counter_ns()
            acquire()
            took[what].append((time.perf_counter_ns() - start) / 1000)
    for what, samples in took.items():
        yield from medians({NEKKAR.name: samples[1:]}, what, "µs")
    yield from _peers(stage)


def behind(calls: int) -> LimitState:
    """Return a state of so many calls spread evenly over the last minute, thinned as it went."""
    now, terms = time.time_ns() // 1000, quota(2 * calls, None, 0.0, None)
    state, step = LimitState(randbits(63)).with_quota(terms, LEAST_HORIZON_US), 60_000_000 // calls
    for number in range(calls, 0, -1):
        at = now - number * step
        state = replace(state, hits=state.hits.book([(at, 1)])).forget(at)
    return state


def _peers(stage: Stage) -> Iterator[Figure]:
    for each in stage.here(SHARED):
        if each.cache != "redis" or each.library == "redis":
            continue
        for calls in [number for number in stage.scale.logs if number <= MOST_OF_PEERS]:
            terms = fresh(2 * calls)
            admit, before = each.make(stage.servers, terms), _keys(stage)
            for _ in range(calls):
                admit()
            held = sum(
                int(stage.redis.ask(f"MEMORY USAGE {key} SAMPLES 0").strip(":")) for key in _keys(stage) - before
            )
            yield Figure(BYTES.format(calls), each.name, held, "B")


def _keys(stage: Stage) -> set[str]:
    return {line for line in stage.redis.ask("KEYS *").splitlines() if line[:1] not in ("*", "$")}


def tasks(stage: Stage) -> Iterator[Figure]:
    """Tasks that wait for a slot, each set of them in a program of its own."""
    bare = _waiting(stage, "bare")
    yield Figure(TASK_BYTES, "floor: a bare waiting task", bare["bytes"], "B")
    for who, kind in (("nekkar async, memcached", "nekkar"), ("aiolimiter, memory", "aiolimiter")):
        if not any(each.name == who for each in stage.here(ASYNC)):
            continue
        before = stage.memcached.commands()
        found = _waiting(stage, kind)
        yield Figure(TASK_BYTES, f"{who}, {BESIDE}", found["bytes"] - bare["bytes"], "B")
        if kind == "nekkar":
            yield Figure(TASK_THREADS, who, found["threads"], "")
            yield Figure(TASK_COMMANDS, who, stage.memcached.commands() - before, "")


def _waiting(stage: Stage, kind: str) -> dict[str, float]:
    program = [
        sys.executable,
        "-m",
        "tests.benchmarks.waiting",
        kind,
        str(stage.scale.tasks),
        str(stage.memcached.port),
    ]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120, check=True)
    return dict(json.loads(done.stdout))
