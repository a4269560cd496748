"""The goals: what a figure is to be, beside which other of the same run. A goal whose figures lack is not measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.benchmarks import cost, faces, load, loops, size, tokens
from tests.benchmarks.figures import Figure
from tests.benchmarks.limiters import (
    AIOMCACHE,
    FIXED,
    GETS_CAS,
    IN_PROCESS,
    INCR,
    MOVING_MEMORY,
    NEKKAR,
    NEKKAR_ASYNC,
    NEKKAR_ASYNC_MEMORY,
    NEKKAR_MEMORY,
    PAIR_IN_TASK,
    PYRATE_REDIS,
    SPACED,
)
from tests.benchmarks.token_limiters import NEKKAR_REDIS, TOKEN_THROTTLE


@dataclass(frozen=True, slots=True)
class Verdict:
    """A goal, what was found (None: not measured), and the bound that it is to keep."""

    goal: str
    found: float | None
    bound: float
    at_least: bool = False

    @property
    def is_met(self) -> bool | None:
        if self.found is None:
            return None
        return self.found >= self.bound if self.at_least else self.found <= self.bound

    @property
    def word(self) -> str:
        """What to say of it: a goal that is missed, with by how much of its bound."""
        if self.found is None:
            return "not measured"
        ratio = self.found / self.bound if self.bound else 0.0
        return "met" if self.is_met else f"missed: {ratio:.2f} × the bound"


class Table:
    """Figures by what and who."""

    def __init__(self, figures: list[Figure]) -> None:
        self._values = {(figure.what, figure.who): figure.value for figure in figures}

    def of(self, what: str, who: str) -> float:
        """Return a figure; KeyError where it was not measured."""
        return self._values[what, who]

    def all_of(self, what: str) -> list[float]:
        """Return all figures under a heading."""
        return [value for (heading, _), value in self._values.items() if heading == what]

    def in_memory(self, what: str) -> float:
        """Return the least figure of the peers in memory."""
        peers = [each.name for each in IN_PROCESS if each is not NEKKAR_MEMORY]
        return min(value for (heading, who), value in self._values.items() if heading == what and who in peers)

    def peers(self, what: str) -> list[float]:
        """Return the figures of all peers."""
        found = [
            value
            for (heading, who), value in self._values.items()
            if heading == what and not who.startswith(("nekkar", "floor"))
        ]
        if not found:
            raise KeyError(what)
        return found


def verdicts(figures: list[Figure]) -> list[Verdict]:
    """Judge each goal by the figures of one run."""
    table = Table(figures)
    of, peers, in_memory = table.of, table.peers, table.in_memory
    me, task, memory = NEKKAR.name, NEKKAR_ASYNC.name, NEKKAR_MEMORY.name
    bare = faces.SEEN.format(10)
    held = task, NEKKAR_REDIS.name
    usable = load.PERIOD / (load.PERIOD + 0.05)

    def over(what: str, mine: str, other: str) -> Callable[[], float]:
        return lambda: of(what, mine) / of(what, other)

    def beyond_httpx(who: str) -> float:
        return of(faces.TRANSPORT_ASYNC, who) - of(faces.TRANSPORT_ASYNC, "floor: httpx")

    goals: list[tuple[str, float, bool, Callable[[], float]]] = [
        ("memcached, hot: times a gets+cas pair", 1.25, False, over(cost.HOT, me, GETS_CAS.name)),
        ("memcached, cold: times a gets+cas pair", 1.25, False, over(cost.COLD, me, GETS_CAS.name)),
        ("memcached, hot: times an incr", 1.3, False, over(cost.HOT, me, INCR.name)),
        ("memcached, cold: times an incr", 1.3, False, over(cost.COLD, me, INCR.name)),
        ("async memcached, hot: times aiomcache's gets+cas", 1.3, False, over(cost.HOT_ASYNC, task, AIOMCACHE.name)),
        ("async memcached, cold: times aiomcache's gets+cas", 1.3, False, over(cost.COLD_ASYNC, task, AIOMCACHE.name)),
        ("async memcached, cold: times a bare gets+cas", 1.3, False, over(cost.COLD_ASYNC, task, PAIR_IN_TASK.name)),
        (
            "async memcached, beside work of 1 ms: times a bare gets+cas",
            1.3,
            False,
            over(cost.BUSY_ASYNC, task, PAIR_IN_TASK.name),
        ),
        ("memory, cold: times the best peer", 1.1, False, lambda: of(cost.COLD, memory) / in_memory(cost.COLD)),
        ("memcached, cold: Python calls of an admission", 90, False, lambda: of(cost.PYTHON_CALLS, me)),
        ("memory, cold: Python calls of an admission", 60, False, lambda: of(cost.PYTHON_CALLS, memory)),
        *(
            (
                f"event loops, {work_ms} ms of work, {processes} process(es): least share used",
                least,
                True,
                lambda work_ms=work_ms, processes=processes: min(table.all_of(loops.USED.format(work_ms, processes))),
            )
            for work_ms, least in ((1, 0.97), (3, 0.9))
            for processes in (1, 4)
        ),
        ("spacing for 2,000 a second, 4 processes: used", 0.97, True, lambda: of(load.SPACING, SPACED.name)),
        ("64 threads: times limits' fixed window", 3, True, over(load.THREADS.format(64), me, FIXED.name)),
        ("64 threads: p99 by that of limits' fixed window", 1, False, over(load.P99.format(64), me, FIXED.name)),
        (
            "32 processes: times the best peer",
            1.2,
            True,
            lambda: of(load.FORKS.format(32), me) / max(peers(load.FORKS.format(32))),
        ),
        ("binding limit: cache commands per admission", 3, False, lambda: of(load.COMMANDS, me)),
        ("binding limit: used, by what the margin leaves", 0.99, True, lambda: of(load.USED, me) / usable),
        ("binding limit: worst window of 100", 100, False, lambda: of(load.WORST, me)),
        ("binding limit: CPU by that of PyrateLimiter on Redis", 1, False, over(load.CPU, me, PYRATE_REDIS.name)),
        ("tokens: worst window of 10,000 tokens", 10_000, False, lambda: max(of(tokens.WORST, each) for each in held)),
        ("tokens: used, by an ideal limiter's", 0.95, True, lambda: min(of(tokens.USED, each) for each in held)),
        ("tokens: cache commands per call", 4, False, lambda: max(of(tokens.COMMANDS, each) for each in held)),
        ("tokens: CPU by that of token-throttle", 0.2, False, over(tokens.CPU, held[1], TOKEN_THROTTLE.name)),
        ("memory: times limits' moving window", 0.6, False, over(cost.HOT, memory, MOVING_MEMORY.name)),
        (
            "memory, async: times asyncio.sleep(0), of which it has one",
            3,
            False,
            over(cost.HOT_ASYNC, NEKKAR_ASYNC_MEMORY.name, cost.SLEEP_0),
        ),
        *(
            (f"{calls:,} calls: kB in the cache", 8, False, lambda n=calls: of(size.BYTES.format(n), me) / 1024)
            for calls in (10_000, 100_000)
        ),
        *(
            (
                f"{calls:,} calls: an admission, times that behind 100",
                1.5,
                False,
                lambda n=calls: of(size.OF_LOG.format(n), me) / of(size.OF_LOG.format(100), me),
            )
            for calls in (10_000, 100_000)
        ),
        ("rules: µs for a URL seen before", 3, False, lambda: of(bare, "nekkar")),
        (
            "rules: a new URL, times urlsplit",
            3,
            False,
            lambda: of(faces.NEW.format(10), "nekkar") / of("a new URL", "floor: urlsplit"),
        ),
        (
            "rules: 10,000, times 10",
            3,
            False,
            lambda: of(faces.NEW.format(10_000), "nekkar") / of(faces.NEW.format(10), "nekkar"),
        ),
        ("import nekkar: times dataclasses, logging, typing", 1.5, False, over(faces.IMPORT, "nekkar", faces.STDLIB)),
        (
            "10,000 tasks: kB each beyond a bare waiting task",
            1.5,
            False,
            lambda: of(size.TASK_BYTES, f"{task}, {size.BESIDE}") / 1024,
        ),
        (
            "adapter: µs over requests",
            25,
            False,
            lambda: of(faces.ADAPTER, "nekkar") - of(faces.ADAPTER, "floor: requests"),
        ),
        (
            "transport: µs over httpx",
            15,
            False,
            lambda: of(faces.TRANSPORT, "nekkar") - of(faces.TRANSPORT, "floor: httpx"),
        ),
        (
            "transport in a task: over a bare httpx call, by httpx-limiter's",
            1.4,
            False,
            lambda: beyond_httpx("nekkar") / beyond_httpx(faces.HTTPX_LIMITER),
        ),
    ]
    return [Verdict(goal, _found(find), bound, at_least) for goal, bound, at_least, find in goals]


def _found(find: Callable[[], float]) -> float | None:
    try:
        return find()
    except (KeyError, ValueError):  # min of none
        return None
