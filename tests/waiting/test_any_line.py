"""An interrupt at any line of a call, or a call inside a call at any line, stops nobody else.

A tracer does at one line after another what a signal handler, or a finaliser that the collector runs, may do between
any two instructions: raise, or make a limited call itself. The tests watch the others: callers that wait are admitted,
callers that come are admitted, and nobody is counted that left.
"""

from __future__ import annotations

import asyncio
import linecache
import os
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from types import FrameType
from typing import Any

import pytest

import nekkar
from nekkar.core.errors import CacheError
from nekkar.core.limiter import Nekkar
from tests.support.internals.core import core_of
from tests.support.internals.runtime import _thread, is_under_way
from tests.support.limits import PATIENCE, Crowd, WatchedCache, eventually, hits

CORE = os.path.join(os.path.dirname(nekkar.__file__), "core")
PURE = os.path.join(CORE, "window")  # what is raised in there is raised at the line that calls it
MOST = 2  # how often a line that comes again is tried again
AT_ONCE = 32  # scenes, each in a thread of its own, which has its own tracer
# CPython runs no signal handler between a lock's acquisition and the block that releases it; only a tracer does.
UNREACHABLE = ("with ", "try:", "finally:", "else:")


@cache
def is_reachable(name: str, number: int) -> bool:
    return not linecache.getline(name, number).strip().startswith(UNREACHABLE)


class AtLine:
    """Does something at the ``at``-th line of the core that this thread runs within; counts the lines.

    ``again``: so many lines later it does it once more.
    """

    def __init__(
        self, at: int, act: Callable[[], object], applies: Callable[[], bool] = lambda: True, again: int = 0
    ) -> None:
        self.when, self.act, self.applies = (at, at + again), act, applies
        self.lines = 0
        self.where = "nowhere"
        self._seen = Counter[tuple[str, int]]()

    def __enter__(self) -> AtLine:
        sys.settrace(self._enter)
        return self

    def __exit__(self, *error: object) -> None:
        sys.settrace(None)

    def _enter(self, frame: FrameType, event: str, arg: Any) -> Any:
        name = frame.f_code.co_filename
        return self._step if name.startswith(CORE) and not name.startswith(PURE) else None

    def _step(self, frame: FrameType, event: str, arg: Any) -> Any:
        place = frame.f_code.co_filename, frame.f_lineno
        if event == "line" and self._seen[place] < MOST and is_reachable(*place) and self.applies():
            self._seen[place] += 1
            self.lines += 1
            if self.lines in self.when:
                self.where = f"{place[0]}:{place[1]}: {linecache.getline(*place).strip()}"
                self.act()
        return self._step


class Stop(Exception):
    """What a signal handler raises to end a call, as Celery's SoftTimeLimitExceeded is."""


def stop() -> None:
    raise Stop


class Scene:
    """A limit, threads that wait for it, and one call to which something happens."""

    def __init__(self, calls: int, period: float, in_process: bool = False, **terms: Any) -> None:
        self.cache = WatchedCache(in_process=in_process)
        self.limiter = Nekkar(self.cache, **terms)
        self.limit = self.limiter("calls", calls, period=period, margin=0.02)
        self.others = Crowd()
        self.admitted = 0

    def acquire(self) -> None:
        self.limit.acquire()
        self.admitted += 1

    def spend(self, calls: int) -> None:
        for _ in range(calls):
            self.acquire()

    def join(self, count: int) -> None:
        """Have so many threads wait."""
        for number in range(count):
            self.others.add(self.limit.acquire)
            eventually(partial(self._has_joined, number))

    def _has_joined(self, number: int) -> bool:
        return self.limit.status().waiting > number or self.others.done > 0


def uncontended() -> Scene:
    """Nobody waits."""
    return Scene(100, 10.0)


def in_process() -> Scene:
    """Nobody waits; the cache answers at once."""
    return Scene(100, 10.0, in_process=True)


def waiting_for_its_slot() -> Scene:
    """The call has a slot and sleeps until it; two threads sleep too."""
    scene = Scene(4, 0.06)
    scene.spend(4)
    scene.join(2)
    return scene


def looking_before_its_slot() -> Scene:
    """The slot lies beyond the horizon: the call looks before it, and is the first to wait."""
    scene = Scene(2, 0.1)
    scene.spend(2)
    return scene


def in_line() -> Scene:
    """A thread has the process's slot beyond the horizon: the call waits in line, as its head, to lead the next."""
    scene = Scene(1, 0.1)
    scene.spend(1)
    scene.join(1)
    return scene


def leading() -> Scene:
    """The call books for two threads that came while it talked to the cache."""
    scene = Scene(100, 0.1)

    def joined(number: int) -> None:
        if sum(map(is_under_way, _thread.calls)) > 1:
            return  # a call inside the call, which may hold the line's lock: nobody can join meanwhile
        scene.cache.before = lambda number: None
        helper = threading.Thread(target=scene.join, args=(2,))
        helper.start()
        helper.join()

    scene.cache.before = joined
    return scene


def alone() -> Scene:
    """The cache is away, and the process keeps to its share."""
    scene = Scene(100, 10.0, on_cache_error="local")

    def away(number: int) -> None:
        raise CacheError("away")

    scene.cache.before = away
    return scene


def prefetched() -> Scene:
    """The call finds a prefetched slot."""
    scene = Scene(100_000, 1.0)
    scene.spend(150)
    return scene


SCENES = [uncontended, in_process, waiting_for_its_slot, looking_before_its_slot, in_line, leading, prefetched, alone]


def traced(call: Callable[[], object], at: int, act: Callable[[], object], again: int = 0) -> AtLine:
    """Make a call, and act at its ``at``-th line."""
    tracer = AtLine(at, act, again=again)
    with suppress(Stop), tracer:
        call()
    return tracer


def is_done(crowd: Crowd) -> bool:
    return crowd.done == len(crowd.futures)


def check_others_go_on(scene: Scene, where: str) -> None:
    """All who wait are admitted, then new callers of which some must wait, and nobody is counted any more."""
    newcomers = Crowd()
    for _ in range(2):
        newcomers.add(scene.limit.acquire)
    for crowd in (newcomers, scene.others):
        eventually(partial(is_done, crowd), f"the admission of others, after {where}")
        assert not [future.exception() for future in crowd.futures if future.exception()], where
    scene.cache.before = lambda number: None
    assert scene.limit.status().waiting == 0, where


def try_each_line(lines: int, try_line: Callable[[int], object]) -> None:
    """Try one line after another, some at once."""
    assert lines > 5, "the tracer must see the call"
    numbers = deque(range(1, lines + 1))

    def work() -> None:
        while numbers:
            with suppress(IndexError):
                try_line(numbers.popleft())

    crowd = Crowd()
    for _ in range(AT_ONCE):
        crowd.add(work)
    assert [error for error in crowd.outcomes() if error] == []


@pytest.mark.parametrize("scene_of", SCENES)
def test_an_interrupt_at_any_line_stops_nobody_else(scene_of: Callable[[], Scene]) -> None:
    """Ctrl-C, Celery's SoftTimeLimitExceeded, an alarm: one exception at one line of one call."""

    def try_line(at: int) -> int:
        scene = scene_of()
        tracer = traced(scene.acquire, at, stop)
        check_others_go_on(scene, tracer.where)
        return tracer.lines

    try_each_line(try_line(0), try_line)


@pytest.mark.parametrize("again", [2, 7])
@pytest.mark.parametrize("scene_of", [in_process, leading])
def test_two_interrupts_in_quick_succession_stop_nobody_else(scene_of: Callable[[], Scene], again: int) -> None:
    """The second comes as the call still cleans up after the first: what it leaves, the others put right."""

    def try_line(at: int) -> int:
        scene = scene_of()
        tracer = traced(scene.acquire, at, stop, again)
        check_others_go_on(scene, tracer.where)
        return tracer.lines

    try_each_line(try_line(-again - 1), try_line)


@pytest.mark.parametrize("scene_of", SCENES)
def test_a_call_inside_a_call_at_any_line_is_admitted_and_stops_nobody(scene_of: Callable[[], Scene]) -> None:
    """A limited call in a signal handler, or in a finaliser: both calls are admitted, each on a slot of its own."""

    def try_line(at: int) -> int:
        scene = scene_of()
        tracer = traced(scene.acquire, at, scene.acquire)
        check_others_go_on(scene, tracer.where)
        spent = scene.admitted + len(scene.others.futures) + 2
        if scene_of in (uncontended, in_process):
            assert hits(scene.cache) >= spent, f"a slot was used twice, after {tracer.where}"
        return tracer.lines

    try_each_line(try_line(0), try_line)


def test_a_limit_made_inside_the_making_of_a_limit_is_made_once() -> None:
    """A finaliser makes the limit that is being made: there is one, and both calls count under it."""

    def try_line(at: int) -> int:
        scene = Scene(100, 10.0)

        def call() -> None:
            scene.limiter("another", 100, period=10.0).acquire()
            scene.admitted += 1

        tracer = traced(call, at, call)
        made = scene.limiter("another", 100, period=10.0)
        assert core_of(made) is core_of(scene.limiter("another", 100, period=10.0))
        assert hits(scene.cache, "another") >= scene.admitted, tracer.where
        return tracer.lines

    try_each_line(try_line(0), try_line)


@pytest.mark.parametrize("spent", [0, 2], ids=["free", "waits"])
def test_an_interrupt_at_any_line_of_a_task_stops_no_other_task(spent: int) -> None:
    """The loop goes on with the other tasks, as it does where the interrupt ends one task alone."""

    async def act_in_task(at: int) -> int:
        cache = WatchedCache(in_process=False)
        limit = Nekkar(cache)("calls", 2 if spent else 100, period=0.1, margin=0.02)
        for _ in range(spent):
            await limit.acquire_async()
        others = [asyncio.create_task(limit.acquire_async()) for _ in range(2)]
        victim = asyncio.create_task(limit.acquire_async())
        tracer = AtLine(at, stop, lambda: asyncio.current_task() is victim)
        with suppress(Stop), tracer:
            await victim
        newcomers = [asyncio.create_task(limit.acquire_async()) for _ in range(2)]
        _, waiting = await asyncio.wait([*others, *newcomers], timeout=PATIENCE)
        assert not waiting, tracer.where
        assert (await limit.status_async()).waiting == 0, tracer.where
        return tracer.lines

    try_each_line(asyncio.run(act_in_task(0)), lambda at: asyncio.run(act_in_task(at)))
