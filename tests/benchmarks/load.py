"""Many callers on one key: admissions a second where the limit never binds, and how one that binds is kept."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import mean

from tests.benchmarks.crew import Orders, Record, crew
from tests.benchmarks.figures import Figure, Stage
from tests.benchmarks.limiters import FLOORS, IN_PROCESS, SHARED, SPACED, Contender, fresh
from tests.support.checks import worst_window

NEVER_BINDS = 100_000_000
CALLS, PERIOD, PROCESSES = 100, 2.0, 8  # the limit that binds
THREADS, P99, FORKS = "admissions per second, {} threads", "p99 wait, {} threads", "admissions per second, {} processes"
USED, WORST, FAIR = "binding: share of the limit used", "binding: worst window of 100", "binding: least share / largest"
SPACING = "spacing for 2,000 a second, 4 processes: share used"
CPU, COMMANDS = "binding: CPU per admission", "binding: cache commands per admission"


def threads(stage: Stage) -> Iterator[Figure]:
    """One process, more and more threads."""
    for number in stage.scale.threads:
        for each in stage.here([*SHARED, *IN_PROCESS]):
            records = _run(stage, each, 1, number)
            waits = sorted(records[0].waits)
            yield Figure(THREADS.format(number), each.name, _rate(records), "/s")
            yield Figure(P99.format(number), each.name, waits[len(waits) * 99 // 100] / 1000, "ms")


def processes(stage: Stage) -> Iterator[Figure]:
    """One thread each, more and more processes."""
    for number in stage.scale.processes:
        for each in stage.here([*SHARED, *FLOORS]):
            yield Figure(FORKS.format(number), each.name, _rate(_run(stage, each, number, 1)), "/s")


def binding(stage: Stage) -> Iterator[Figure]:
    """Eight processes under 100 per 2 s."""
    for each in stage.here(SHARED):
        before = stage.commands(each)
        seconds = stage.scale.binding_seconds
        records = crew(Orders(each.name, stage.servers, fresh(CALLS, PERIOD), PROCESSES, 1, seconds, starts=True))
        commands = stage.commands(each) - before
        starts = sorted(start for record in records for start in record.starts)
        shares = [record.calls for record in records]
        yield Figure(WORST, each.name, worst_window(starts, round(PERIOD * 1e6)), "calls")
        yield Figure(FAIR, each.name, min(shares) / max(shares), "")
        yield Figure(CPU, each.name, sum(record.cpu for record in records) / len(starts) * 1000, "ms")
        if each.cache in ("memcached", "redis"):
            yield Figure(COMMANDS, each.name, commands / len(starts), "")
        if len(starts) > CALLS:
            yield Figure(USED, each.name, used(starts), "")


def spacing(stage: Stage) -> Iterator[Figure]:
    """Four processes under a spacing for 2,000 calls a second."""
    for each in stage.here([SPACED]):
        terms = fresh(2000, 1.0)
        records = crew(Orders(each.name, stage.servers, terms, 4, 1, 2 * stage.scale.seconds, starts=True))
        starts = sorted(start for record in records for start in record.starts)
        starts = starts[len(starts) // 4 :]  # all have connected, and read the clock
        yield Figure(SPACING, each.name, (len(starts) - 1) * 500 / (starts[-1] - starts[0]), "")


def used(starts: list[int]) -> float:
    """Return P / mean(t[k + N] − t[k]): 1 where each window follows the one before at once."""
    return PERIOD * 1e6 / mean(after - before for before, after in zip(starts, starts[CALLS:], strict=False))


def _run(stage: Stage, each: Contender, forks: int, number: int) -> list[Record]:
    return crew(Orders(each.name, stage.servers, fresh(NEVER_BINDS), forks, number, stage.scale.seconds))


def _rate(records: list[Record]) -> float:
    return sum(record.calls / record.seconds for record in records)
