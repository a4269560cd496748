"""A figure: what was measured, of whom, how much. Parts of the suite yield figures; goals and pictures read them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median

from tests.benchmarks.limiters import Contender, Servers
from tests.support.servers import Memcached, RedisServer


@dataclass(frozen=True, slots=True)
class Figure:
    """``value`` of ``who`` in ``unit``, under the heading ``what``."""

    what: str
    who: str
    value: float
    unit: str


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is run: ``rounds`` interleaved, of ``calls`` calls; ``cold`` calls 50 ms apart; ``seconds`` a run."""

    rounds: int = 7
    calls: int = 400
    cold: int = 40
    seconds: float = 1.5
    binding_seconds: float = 10.0
    threads: tuple[int, ...] = (1, 8, 64)
    processes: tuple[int, ...] = (1, 8, 32)
    loops: tuple[str, ...] = ("asyncio", "uvloop", "trio")
    loop_processes: tuple[int, ...] = (1, 4)
    tasks: int = 10_000
    logs: tuple[int, ...] = (100, 1_000, 10_000, 100_000)
    rules: tuple[int, ...] = (10, 100, 1_000, 10_000)
    imports: int = 9


QUICK = Scale(
    rounds=2,
    calls=20,
    cold=2,
    seconds=0.15,
    binding_seconds=0.5,
    threads=(4,),
    processes=(2,),
    loops=("asyncio",),
    loop_processes=(1,),
    tasks=200,
    logs=(100, 2_000),
    rules=(10, 100),
    imports=1,
)


@dataclass(frozen=True, slots=True)
class Stage:
    """What a part runs on. ``only``: the contenders that are installed, and asked for."""

    scale: Scale
    memcached: Memcached
    redis: RedisServer
    folder: str
    only: Callable[[Contender], bool]

    @property
    def servers(self) -> Servers:
        return Servers(self.memcached.port, self.redis.port, self.folder)

    def here(self, contenders: list[Contender]) -> list[Contender]:
        """Return those that take part."""
        return [each for each in contenders if each.is_installed and self.only(each)]

    def commands(self, contender: Contender) -> int:
        """Return how many commands on keys clients have sent so far: on Redis scripts, which is what all send there."""
        if contender.cache == "memcached":
            stats = self.memcached.stats()
            return self.memcached.commands() + sum(int(stats[name]) for name in ("incr_hits", "incr_misses"))
        lines = [
            line.split(":calls=") for line in self.redis.ask("INFO commandstats").splitlines() if ":calls=" in line
        ]
        calls = {name.removeprefix("cmdstat_"): int(rest.partition(",")[0]) for name, rest in lines}
        return calls.get("eval", 0) + calls.get("evalsha", 0)


Part = Callable[[Stage], Iterator[Figure]]


def medians(samples: dict[str, list[float]], what: str, unit: str) -> Iterator[Figure]:
    """Yield the median of each one's samples."""
    for who, values in samples.items():
        yield Figure(what, who, median(values), unit)
