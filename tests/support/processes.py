"""Processes that a test starts: each ends by itself, in time, and none stays."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any

PATIENCE = 60.0  # seconds in which a process must end


@contextmanager
def started(workers: Sequence[BaseProcess], longest: float = PATIENCE) -> Iterator[None]:
    """Run processes beside a block; at its end each must end by itself, with 0, in ``longest`` seconds."""
    try:
        for worker in workers:
            worker.start()
        yield
        for worker in workers:
            worker.join(longest)
            assert worker.exitcode == 0, f"{worker.name}: {worker.exitcode}"
    finally:
        for worker in workers:
            if worker.pid is not None:
                worker.kill()
                worker.join()


def run_to_end(workers: Sequence[BaseProcess], longest: float = PATIENCE) -> None:
    """Run processes; each must end by itself, with 0, in ``longest`` seconds."""
    with started(workers, longest):
        pass


@contextmanager
def in_child(action: Callable[[], object]) -> Iterator[Callable[[], str]]:
    """Do something in a forked child, killed after a minute; yield what waits for the repr of its result or error."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads is what is tested
        child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(int(PATIENCE))
        try:
            outcome = repr(action())
        except BaseException as error:
            outcome = repr(error)
        os.write(writer, outcome.encode())
        os._exit(0)
    os.close(writer)
    waited = False

    def result() -> str:
        nonlocal waited
        with open(reader, "rb", closefd=False) as pipe:
            outcome = pipe.read().decode()
        os.waitpid(child, 0)
        waited = True
        return outcome

    try:
        yield result
    finally:
        if not waited:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        os.close(reader)


def done_in_child(action: Callable[[], object]) -> str:
    """Do something in a forked child; return the repr of its result or error."""
    with in_child(action) as result:
        return result()


def increment(cache: Any, key: str, times: int) -> int:
    """Add one ``times`` times by swaps; return how many swaps lost."""
    lost = 0
    for _ in range(times):
        while True:
            value, token = cache.gets(key)
            if cache.cas(key, b"%d" % (int(value or 0) + 1), token, 3600):
                break
            lost += 1
    return lost


def increment_together(cache: Any, key: str, begin: Any, results: Any) -> None:
    """Add 150 by swaps once all have come to the barrier; put into a queue how many swaps lost."""
    begin.wait(120)
    results.put(increment(cache, key, 150))
