"""A fault, played once: a fleet and a memcached of its own, a script, and the figures of what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import chain
from random import Random

from tests.integration import outcome as figures
from tests.integration.fleet import Plan, fleet
from tests.integration.outcome import Expect, Outcome
from tests.integration.scripts import Script
from tests.integration.stage import Stage
from tests.integration.surroundings import Surroundings, nothing_else
from tests.support.checks import worst_window
from tests.support.internals.core import Rate, quota
from tests.support.servers import memcached

PROCESSES = 8

Tick = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Fault:
    """What is done to a fleet that follows a plan, in what surroundings, and what it may cost.

    ``long``: too long for the quick set.
    """

    name: str
    plan: Plan
    script: Script
    expect: Expect = field(default_factory=Expect)
    around: Surroundings = nothing_else
    long: bool = False


def play(fault: Fault, seed: int, tick: Tick = lambda seconds: None) -> Outcome:
    """Play a fault once; ``tick`` is told the seconds so far. Blocks for the plan's seconds and some more."""
    draw = Random(seed)
    with memcached() as server, fault.around(server) as url, fleet(replace(fault.plan, url=url), PROCESSES) as running:
        stage = Stage(running, server, draw)
        stage.play(fault.script(draw), tick)
        running.join(60)
        return _measured(stage, quota(fault.plan.rate).rates[0], seed)


def _measured(stage: Stage, rate: Rate, seed: int) -> Outcome:
    running, plan = stage.fleet, stage.fleet.plan
    calls = running.calls()
    each = [[call.start for call in own] for own in calls]
    starts = sorted(chain.from_iterable(each))
    return Outcome(
        seed=seed,
        limit=rate.count,
        calls=len(starts),
        worst=worst_window(starts, rate.period_us),
        used=figures.used(starts, rate, plan.seconds),
        silence=figures.silence(starts, running.begin, plan.seconds),
        starved=_starved(stage, each),
        recovery=_slowest(stage, starts, each, rate),
        kills=len(stage.ended_by_us),
        lost=_lost(stage, len(starts)),
        share=figures.most_while_away(each, _spans_away(stage), rate.period_us),
        late=max((call.late for call in chain.from_iterable(calls)), default=0) / 1e6,
        spared=figures.spared(calls),
        stall=stage.stall,
        growth=stage.growth(),
        undone=stage.undone,
        failed=tuple(stage.failed()),
        endpoint=_endpoint(plan, each),
    )


def _endpoint(plan: Plan, each: list[list[int]]) -> tuple[int, int] | None:
    """Return the worst window of the calls under both limits, and the most that is allowed there."""
    if not plan.endpoint:
        return None
    (rate,) = quota(plan.endpoint).rates
    joint = [start for index, own in enumerate(each) if plan.is_joint(index) for start in own]
    return worst_window(joint, rate.period_us), rate.count


def _starved(stage: Stage, each: list[list[int]]) -> float:
    """Return the longest silence of one worker, of those to whom nothing was done."""
    struck = {victim for _, _, victim in stage.done}
    spared = [own for index, own in enumerate(each[:PROCESSES]) if index not in struck]
    return max((figures.silence(own, stage.fleet.begin, stage.fleet.plan.seconds) for own in spared), default=0.0)


def _slowest(stage: Stage, starts: list[int], each: list[list[int]], rate: Rate) -> float | None:
    """Return the slowest recovery of all; None where one never came."""
    took = [0.0]
    for act, instant, victim in stage.done:
        found: float | None = 0.0
        if act in ("flush", "start server"):
            found = figures.recovery(starts, instant, rate)
        elif act == "thaw":
            found = figures.return_of(each[victim], instant)
        if found is None:
            return None
        took.append(found)
    return max(took)


def _lost(stage: Stage, started: int) -> int | None:
    """Return the slots booked that no call started on; a state that was lost can't tell."""
    if any(act in ("flush", "stop server") for act, _, _ in stage.done):
        return None
    states = stage.states()
    return states[0].hits.total - started if states else None


def _spans_away(stage: Stage) -> list[tuple[int, int]]:
    stops = [instant for act, instant, _ in stage.done if act == "stop server"]
    return list(zip(stops, [instant for act, instant, _ in stage.done if act == "start server"], strict=False))
