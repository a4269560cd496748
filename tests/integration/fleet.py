"""A fleet of real processes on one limit: each records when its calls started, so that a kill loses nothing.

Starts are read from the monotonic clock, which all processes of a machine share and nobody sets; they are told
in microseconds since the epoch, as the wall clock stood when the fleet was made. Workers come from a fork
server that has all imported, so that one killed is replaced in milliseconds; all begin at once, when all are up.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
import signal
import struct
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple, cast

from nekkar.core.cache import from_url
from nekkar.core.errors import CacheError
from nekkar.core.limiter import Limit, Nekkar
from tests.support.internals.core import JointAdmission, JointLimit, Reservation
from tests.support.internals.shared import OnCacheError
from tests.support.internals.waiting import InHand

DOOM = signal.SIGUSR1
RETRY_AFTER = 0.05
LEAD, LONGEST_START = 0.2, 60.0

_RECORD = struct.Struct("<qi?")
_children = multiprocessing.get_context("forkserver")
_children.set_forkserver_preload(["tests.integration.play"])  # and with it all that a worker needs


class Call(NamedTuple):
    """One call: when it started, how long after its slot, and whether on a spare slot. Microseconds."""

    start: int
    late: int
    spare: bool


@dataclass(frozen=True)
class Plan:
    """What each process of a fleet does: ``threads`` threads call under one limit for ``seconds``.

    ``endpoint``: the rate of a second limit; every other process calls under both, the rest under the first alone.
    """

    url: str
    rate: str
    seconds: float
    threads: int = 1
    spacing: float | str = 0.0
    name: str = "fleet"
    on_cache_error: OnCacheError = "raise"
    local_share: float = 1.0
    endpoint: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its limits."""
        return (self.name, f"{self.name}-endpoint") if self.endpoint else (self.name,)

    def is_joint(self, index: int) -> bool:
        """Whether a worker calls under both limits."""
        return bool(self.endpoint) and index % 2 == 0


class Fleet:
    """Processes that run one plan, and what they recorded (microseconds since the epoch).

    ``workers`` and ``files``: all that ever were, those that took another's place too.
    """

    def __init__(self, plan: Plan, processes: int) -> None:
        self.plan = plan
        self.folder = tempfile.TemporaryDirectory(prefix="nekkar-fleet-")
        self._origin_us = time.time_ns() // 1000 - time.monotonic_ns() // 1000
        self._signal = Path(self.folder.name, "begin")
        self.files: list[Path] = []
        self.workers: list[BaseProcess] = []
        for _ in range(processes):
            self.hire()
        _wait_for(lambda: all(file.exists() for file in self.files))
        self._begin = time.monotonic() + LEAD
        self.begin = self._begin + self._origin_us / 1e6
        _say(self._signal, self._begin)

    def hire(self) -> None:
        """Start one more worker; it calls from the fleet's begin, or from now on, to the fleet's end."""
        file = Path(self.folder.name, str(len(self.files)))
        worker = _children.Process(target=_work, args=(self.plan, len(self.files), str(self._signal), str(file)))
        worker.start()
        self.files.append(file)
        self.workers.append(worker)

    def now(self) -> float:
        """Return the seconds since the fleet's begin."""
        return time.monotonic() - self._begin

    def sleep_until(self, seconds: float) -> None:
        """Sleep until so many seconds after the fleet's begin."""
        time.sleep(max(0.0, seconds - self.now()))

    def has_called(self, index: int) -> bool:
        """Whether a worker has started a call."""
        return self.files[index].exists() and self.files[index].stat().st_size > 0

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

    def calls(self) -> list[list[Call]]:
        """Return the calls of each process."""
        return [self._read(file) if file.exists() else [] for file in self.files]

    def starts(self) -> list[list[int]]:
        """Return when the calls of each process started."""
        return [[call.start for call in own] for own in self.calls()]

    def close(self) -> None:
        for worker in self.workers:
            if worker.is_alive():
                worker.kill()
            worker.join()
        self.folder.cleanup()

    def _read(self, file: Path) -> list[Call]:
        raw = file.read_bytes()
        whole = raw[: len(raw) - len(raw) % _RECORD.size]
        return [Call(start + self._origin_us, late, spare) for start, late, spare in _RECORD.iter_unpack(whole)]


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


def _say(signal: Path, begin: float) -> None:
    """Write when to begin, so that nobody reads a part of it."""
    draft = signal.with_suffix(".draft")
    draft.write_text(repr(begin))
    draft.rename(signal)


def _wait_for(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONGEST_START
    while not reached():
        assert time.monotonic() < deadline, f"a fleet did not come up in {LONGEST_START:g} s"
        time.sleep(0.01)


def _work(plan: Plan, index: int, signal_file: str, file: str) -> None:
    threading.excepthook = _die
    logging.getLogger("nekkar").addHandler(logging.NullHandler())  # an outage is told by each: too much to read
    cache = from_url(plan.url)
    _die_in_a_swap_once_doomed(cache)
    limiter = Nekkar(cache, on_cache_error=plan.on_cache_error, local_share=plan.local_share)
    limit: Limit | JointLimit = limiter(plan.name, plan.rate, spacing=plan.spacing)
    if plan.is_joint(index):
        limit &= limiter(plan.names[1], plan.endpoint)
    record = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    _wait_for(Path(signal_file).exists)
    begin = float(Path(signal_file).read_text())
    end = begin + plan.seconds
    time.sleep(max(0.0, begin - time.monotonic()))
    threads = [threading.Thread(target=_loop, args=(limit, record, end)) for _ in range(plan.threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _loop(limit: Limit | JointLimit, record: int, end: float) -> None:
    """Call again and again; what the call does is to record its start."""
    before: InHand | None = None
    while time.monotonic() < end:
        try:
            admission = limit.acquire()
        except CacheError:
            time.sleep(RETRY_AFTER)
            continue
        start, now = time.monotonic_ns() // 1000, time.time()
        late = min(max(round((now - admission.at) * 1e6), -(2**31)), 2**31 - 1)
        first = admission.parts[0] if isinstance(admission, JointAdmission) else admission
        grant = cast(Reservation, first._booking).slot.source  # prefetched slots are of one grant
        os.write(record, _RECORD.pack(start, late, grant is before))
        before = grant


def _die(args: threading.ExceptHookArgs) -> None:
    """End the process where a caller met anything but CacheError: a fleet with a caller less would seem well."""
    traceback.print_exception(args.exc_value)
    os._exit(1)


def _die_in_a_swap_once_doomed(cache: Any) -> None:
    """From the signal on, die by kill -9 in the next swap: before it is sent, or when it landed, its answer unheard."""
    doomed = threading.Event()
    signal.signal(DOOM, lambda number, frame: doomed.set())
    swap: Callable[..., Any] | None = getattr(cache, "cas", None)
    if swap is None:
        return

    def last(*args: Any) -> Any:
        if doomed.is_set() and random.random() < 0.5:
            os.kill(os.getpid(), signal.SIGKILL)
        outcome = swap(*args)
        if doomed.is_set():
            os.kill(os.getpid(), signal.SIGKILL)
        return outcome

    cache.cas = last
