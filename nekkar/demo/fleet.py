"""A fleet: worker processes and a fresh strict server, run for some seconds, and what came of it.

All processes are started and connected first; then all begin at one instant, so that the figures are about
the limiter. Everything has a bound in time, and a worker that fails or dies is in the outcome.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from typing import Any

from nekkar.core.clock import SystemClock, monotonic
from nekkar.core.errors import counted, plain
from nekkar.core.quota import SECOND
from nekkar.demo.children import Child, ChildFailed, child
from nekkar.demo.server import serve
from nekkar.demo.window import Rates
from nekkar.demo.worker import TIMEOUT, Answer, Ended, Task, Terms, work

STARTING = 60.0
GRACE = 3 * TIMEOUT

_TICK = 0.1
_LEAD_US = SECOND // 10


@dataclass(frozen=True, slots=True)
class Tally:
    """One worker's calls by their answers; ``in_time``: how many were accepted before the time was up."""

    accepted: int = 0
    refused: int = 0
    other: int = 0
    in_time: int = 0
    operations: int = 0
    failure: str | None = None

    @property
    def calls(self) -> int:
        return self.accepted + self.refused + self.other

    def after(self, message: Answer | Ended) -> Tally:
        """Return the tally with one more message of its worker in it."""
        if isinstance(message, Ended):
            return replace(self, operations=message.operations, failure=message.failure)
        if message.status == 200:
            return replace(self, accepted=self.accepted + 1, in_time=self.in_time + message.in_time)
        if message.status == 429:
            return replace(self, refused=self.refused + 1)
        return replace(self, other=self.other + 1)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a fleet did, worker by worker; ``calls``: at its end, each call with its worker's number from 0."""

    tallies: tuple[Tally, ...] = ()
    calls: tuple[tuple[int, Answer], ...] = ()

    def total(self, what: str) -> int:
        """Return the sum of one of the tallies' figures."""
        return sum(getattr(tally, what) for tally in self.tallies)

    @property
    def failures(self) -> list[str]:
        """Say what went wrong, each thing once, with the number of workers it befell."""
        texts = Counter(tally.failure for tally in self.tallies if tally.failure)
        return [f"{count} of {counted(len(self.tallies), 'worker')} failed: {text}" for text, count in texts.items()]


Report = Callable[[float, Outcome], None]


def run_fleet(workers: int, rates: Rates, seconds: float, terms: Terms | None, report: Report) -> Outcome:
    """Run ``workers`` for ``seconds``, calling ``report(elapsed seconds, outcome so far)`` some times a second.

    Blocks, for no longer than starting takes, ``seconds`` and a grace. Raises ChildFailed where it can't begin.
    """
    with ExitStack() as stack:
        server = stack.enter_context(child("server", serve, rates))
        task = Task(f"http://127.0.0.1:{server.receive(STARTING)}/", seconds, terms)
        crew = [stack.enter_context(child(f"worker {number}", work, task)) for number in range(1, workers + 1)]
        for member in crew:
            _await_ready(member)
        begin_us = SystemClock().now_us() + _LEAD_US
        for member in crew:
            with suppress(OSError):  # what follows reports its death
                member.pipe.send(begin_us)
        return _gather(crew, seconds, report)


def _await_ready(member: Child) -> None:
    message = member.receive(STARTING)
    if isinstance(message, Ended):
        raise ChildFailed(f"the {member.process.name} could not begin: {message.failure}")


def _gather(crew: Sequence[Child], seconds: float, report: Report) -> Outcome:
    """Listen to all workers until each has said its last word, or died, or has had its time."""
    began = monotonic()
    reported = -_TICK
    tallies, calls = [Tally() for _ in crew], list[tuple[int, Answer]]()
    working: dict[Any, int] = {member.pipe: index for index, member in enumerate(crew)}
    while working and (elapsed := monotonic() - began) < seconds + GRACE:
        if elapsed >= reported + _TICK:
            report(min(elapsed, seconds), Outcome(tuple(tallies)))
            reported = elapsed
        for pipe in wait(list(working), _TICK):
            index = working[pipe]
            message = _next(crew[index])
            tallies[index] = tallies[index].after(message)
            if isinstance(message, Ended):
                del working[pipe]
            else:
                calls.append((index, message))
    for index in working.values():
        tallies[index] = replace(tallies[index], failure=f"still at work {plain(GRACE)} s after the end")
    report(seconds, Outcome(tuple(tallies)))
    return Outcome(tuple(tallies), tuple(calls))


def _next(member: Child) -> Any:
    try:
        return member.pipe.recv()
    except (EOFError, OSError):
        return Ended(0, f"the process {member.death()}")
