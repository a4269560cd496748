"""Run the same work in several threads at the same time, round by round."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from nekkar.core.clock import monotonic

T = TypeVar("T")

THREADS = 8
PATIENCE = 60.0


def at_once(work: Callable[[int, int], T], rounds: int = 1, threads: int = THREADS) -> list[list[T]]:
    """Return, for each round, the results of ``work(round, thread)`` in all threads, which begin a round together.

    Raises the first error of any thread, and AssertionError if a thread is not done within PATIENCE.
    """
    results: list[dict[int, T]] = [{} for _ in range(rounds)]
    errors: list[BaseException] = []
    begin = threading.Barrier(threads)

    def run(thread: int) -> None:
        try:
            for number in range(rounds):
                begin.wait(PATIENCE)
                results[number][thread] = work(number, thread)
        except BaseException as error:
            errors.append(error)  # the first is the cause; the others only fail at the barrier
            begin.abort()

    done = _all_done([threading.Thread(target=run, args=(thread,), daemon=True) for thread in range(threads)])
    if errors:
        raise errors[0]
    if not done:
        raise AssertionError(f"a thread was not done within {PATIENCE:g} s: the cache blocks without bound")
    return [[found[thread] for thread in range(threads)] for found in results]


def _all_done(threads: list[threading.Thread]) -> bool:
    """Run threads, switching often between them, for PATIENCE at most; return whether all have ended."""
    deadline = monotonic() + PATIENCE
    with _switching_often():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, deadline - monotonic()))
    return not any(thread.is_alive() for thread in threads)


@contextmanager
def _switching_often() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
