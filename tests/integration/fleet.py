"""A fleet of real processes on one limit: each records when its calls started, so that a kill loses nothing."""

from __future__ import annotations

import multiprocessing
import os
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.process import BaseProcess
from pathlib import Path

from nekkar.core.errors import CacheError
from nekkar.core.limiter import Nekkar

_STAMP = struct.Struct("<q")
_spawn = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Plan:
    """What each process of a fleet does: ``threads`` threads call under one limit for ``seconds``."""

    url: str
    rate: str
    seconds: float
    threads: int = 1
    spacing: float | str = 0.0
    name: str = "fleet"


class Fleet:
    """Processes that run one plan, and what they recorded (microseconds since the epoch)."""

    def __init__(self, plan: Plan, processes: int) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="nekkar-fleet-")
        self.begin = time.time() + 1.5 + 0.15 * processes
        self.files = [Path(self.folder.name, str(index)) for index in range(processes)]
        self.workers: list[BaseProcess] = [
            _spawn.Process(target=_work, args=(plan, self.begin, str(file))) for file in self.files
        ]
        for worker in self.workers:
            worker.start()

    def sleep_until(self, seconds: float) -> None:
        """Sleep until so many seconds after the fleet's begin."""
        time.sleep(max(0.0, self.begin + seconds - time.time()))

    def join(self, timeout: float) -> None:
        """Wait for all; kill, and fail, where one hangs."""
        deadline = time.monotonic() + timeout
        for worker in self.workers:
            worker.join(max(0.1, deadline - time.monotonic()))
        hung = [worker for worker in self.workers if worker.is_alive()]
        for worker in hung:
            worker.kill()
            worker.join()
        assert not hung, f"{len(hung)} workers hung"

    def starts(self) -> list[list[int]]:
        """Return when the calls of each process started."""
        return [
            [stamp for (stamp,) in _STAMP.iter_unpack(file.read_bytes())] if file.exists() else []
            for file in self.files
        ]

    def close(self) -> None:
        for worker in self.workers:
            if worker.is_alive():
                worker.kill()
            worker.join()
        self.folder.cleanup()


@contextmanager
def fleet(plan: Plan, processes: int) -> Iterator[Fleet]:
    """Run a fleet; whatever happens, none of its processes stays."""
    running = Fleet(plan, processes)
    try:
        yield running
    finally:
        running.close()


def longest_silence(starts: list[int], begin: float, end: float) -> float:
    """Return the longest time, in seconds, that a process did not start a call."""
    marks = [round(begin * 1e6), *sorted(starts), round(end * 1e6)]
    return max(after - before for before, after in pairwise(marks)) / 1e6


def _work(plan: Plan, begin: float, file: str) -> None:
    limit = Nekkar(plan.url)(plan.name, plan.rate, spacing=plan.spacing)
    record = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    end = begin + plan.seconds

    def call() -> None:
        os.write(record, _STAMP.pack(time.time_ns() // 1000))

    _until(begin)
    threads = [threading.Thread(target=_loop, args=(limit(call), end)) for _ in range(plan.threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _loop(call: Callable[[], None], end: float) -> None:
    while time.time() < end:
        try:
            call()
        except CacheError:
            time.sleep(0.05)


def _until(instant: float) -> None:
    time.sleep(max(0.0, instant - time.time()))
