"""Limits in other processes: pickled, spawned, forked."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from nekkar.core.cache import SqliteCache
from nekkar.core.errors import WaitTooLong
from nekkar.core.limiter import Limit, Nekkar
from nekkar.testing import FakeClock
from tests.support.internals.core import core_of, limiter_of
from tests.support.limits import (
    PATIENCE,
    Crowd,
    WatchedCache,
    hits,
    since_start,
    waiting,
)


def test_a_limit_over_a_file_pickles(tmp_path: Path) -> None:
    """A limiter and a limit come back from pickling with the same file, terms and patience."""
    limiter = Nekkar(SqliteCache(tmp_path / "limits.db", timeout=7))
    limit = limiter("calls", "3/hour", spacing=0.01, max_wait=0.5, margin=0.2)
    limit.acquire()
    twin = pickle.loads(pickle.dumps(limit))
    assert (twin.name, repr(twin)) == (limit.name, repr(limit))
    assert repr(limiter_of(twin)) == repr(limiter)
    twin.acquire()
    other = pickle.loads(pickle.dumps(limiter))("calls", "3/hour", spacing=0.01, max_wait=0, margin=0.2)
    other.acquire(max_wait=1)
    for each in (limit, twin, other):
        with pytest.raises(WaitTooLong) as refusal:
            each.acquire()
        assert refusal.value.max_wait in (0.5, 0)


def test_limits_pickled_together_stay_together(tmp_path: Path) -> None:
    """Two limits of one limiter, pickled as one, still share their limiter and their line."""
    limiter = Nekkar(f"sqlite:///{tmp_path}/limits.db")
    one, two, made = pickle.loads(pickle.dumps((limiter("calls", 5), limiter("calls", 5, max_wait=1), limiter)))
    assert limiter_of(one) is limiter_of(two) is made
    assert core_of(one) is core_of(two) is core_of(made("calls", 5))


def acquire_elsewhere(limit: Limit, times: int) -> list[str]:
    """Acquire in another process; return what came of it."""
    outcomes = []
    for _ in range(times):
        try:
            outcomes.append(limit.acquire(max_wait=0).name)
        except WaitTooLong as refusal:
            outcomes.append(type(refusal).__name__)
    return outcomes


def test_a_spawned_process_uses_the_limit_it_is_given(tmp_path: Path) -> None:
    """A limit sent to a worker process counts there what was used here, and the other way round."""
    limit = Nekkar(SqliteCache(tmp_path / "limits.db", timeout=10))("calls", "3/hour")
    limit.acquire()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(acquire_elsewhere, (limit, 3)) == ["calls", "calls", "WaitTooLong"]
    with pytest.raises(WaitTooLong):
        limit.acquire(max_wait=0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system can't fork")
def test_a_forked_child_starts_with_an_empty_line() -> None:
    """A fork in the middle of the parent's booking leaves the child free to book, and the parent undisturbed."""
    cache = WatchedCache()
    limit = Nekkar(cache, clock=FakeClock(jump=False))("calls", 100)
    in_call, go_on = threading.Event(), threading.Event()

    def gate(number: int) -> None:
        in_call.set()
        assert go_on.wait(PATIENCE)

    cache.before = gate
    crowd = Crowd()
    crowd.line_up(limit, 3, lambda number: waiting(limit) == number + 1)
    assert in_call.wait(PATIENCE)
    child = fork(lambda: use_in_child(limit, cache))
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert waiting(limit) == 3
    go_on.set()
    assert all(since_start(admission) == 0 for admission in crowd.outcomes())
    assert hits(cache) == 3


def use_in_child(limit: Limit, cache: WatchedCache) -> bool:
    cache.before = lambda number: None
    before = waiting(limit)
    limit.acquire(max_wait=0)
    return before == 0 and hits(cache) == 1


def fork(action: Callable[[], bool]) -> int:
    """Run an action in a forked child, which ends with status 0 where it returned True; return its pid."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads is what is tested
        child = os.fork()
    if child:
        return child
    status = 1
    try:
        status = 0 if action() else 2
    finally:
        os._exit(status)
