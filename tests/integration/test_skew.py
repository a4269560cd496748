"""Workers whose own clocks are wrong, on a real memcached or Redis: its clock counts, or the skew is told."""

from __future__ import annotations

import logging
import multiprocessing
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path

from nekkar.core.cache import MemcachedCache
from nekkar.core.limiter import Nekkar
from tests.support.checks import worst_window
from tests.support.internals.core import ticks
from tests.support.internals.runtime import ServerClock
from tests.support.servers import Memcached, memcached, redis_server

SECONDS = 12.0
PERIOD_US = 2_000_000
PROCESSES = 8
SKEWS = (30.0, -30.0, 0.4)  # seconds; of the first three workers

_STAMP = struct.Struct("<q")
_spawn = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Task:
    """What a worker does: it calls for ``seconds`` by a clock ``skew`` s off, from half time on ``step`` s more."""

    url: str
    seconds: float
    skew: float
    step: float
    file: str


def work(task: Task, all_here: Barrier) -> None:
    """Call under one limit; starts are recorded by the monotonic clock, which all processes of a machine share."""
    half, time_ns = time.monotonic() + 3600, time.time_ns

    def shifted_ns() -> int:
        return time_ns() + round((task.skew + task.step * (time.monotonic() >= half)) * 1e9)

    time.time_ns, time.time = shifted_ns, lambda: shifted_ns() / 1e9
    logging.getLogger("nekkar").addHandler(logging.FileHandler(f"{task.file}.log"))
    limit = Nekkar(task.url)("skew", "100/2s")
    all_here.wait(60)
    begin = time.monotonic()
    half = begin + task.seconds / 2
    with open(task.file, "ab", buffering=0) as record:
        while time.monotonic() < begin + task.seconds:
            with limit:
                record.write(_STAMP.pack(time.monotonic_ns() // 1000))


def run(
    url: str, skews: Sequence[float], folder: Path, seconds: float = SECONDS, steps: Sequence[float] = ()
) -> tuple[list[list[int]], list[list[str]]]:
    """Run a worker for each skew; return when each one's calls started, and the lines of its log."""
    files = [folder / str(index) for index in range(len(skews))]
    steps, all_here = steps or [0.0] * len(skews), _spawn.Barrier(len(skews))
    tasks = [Task(url, seconds, *which) for which in zip(skews, steps, map(str, files), strict=True)]
    with workers([_spawn.Process(target=work, args=(task, all_here)) for task in tasks]) as processes:
        for process in processes:
            process.join(seconds + 90)
            assert process.exitcode == 0
    starts = [[stamp for (stamp,) in _STAMP.iter_unpack(file.read_bytes())] for file in files]
    return starts, [Path(f"{file}.log").read_text().splitlines() for file in files]


@contextmanager
def workers(processes: list[BaseProcess]) -> Iterator[list[BaseProcess]]:
    """Run processes; whatever happens, none stays."""
    for process in processes:
        process.start()
    try:
        yield processes
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
                process.join()


def check_kept(starts: list[list[int]]) -> None:
    """Check that the limit was never exceeded, was used, and that each worker had its share."""
    together = sorted(chain.from_iterable(starts))
    assert worst_window(together, PERIOD_US) <= 100
    # A clock that steps voids what was booked by it, so some of the limit goes unused.
    assert sum(start < together[0] + SECONDS * 1e6 for start in together) >= 0.75 * 100 * (SECONDS * 1e6 / PERIOD_US)
    share = len(together) / len(starts)  # in a burst the quick get more; none is left out, and none has it all
    assert min(map(len, starts)) >= share / 3
    assert max(map(len, starts)) <= share * 3


def test_skewed_workers_are_never_over_and_get_their_share(server: Memcached, tmp_path: Path) -> None:
    """One of eight 30 s ahead, one 30 s behind, one 0.4 s off: 100 in the worst 2 s, 95 % used, all alike."""
    starts, told = run(server.url, [*SKEWS, *[0.0] * (PROCESSES - len(SKEWS))], tmp_path)
    check_kept(starts)
    assert not any(told)


def test_workers_whose_clocks_step_are_never_over(server: Memcached, tmp_path: Path) -> None:
    """Half are set a second ahead or back in the middle of the run; nothing comes of it."""
    steps = [1.0, -1.0, 1.0, -1.0, *[0.0] * (PROCESSES - 4)]
    starts, told = run(server.url, [0.0] * PROCESSES, tmp_path, steps=steps)
    check_kept(starts)
    assert not any(told)


def test_skewed_and_stepping_workers_on_redis_are_never_over_and_get_their_share(tmp_path: Path) -> None:
    """Both at once: one 30 s ahead, one 30 s behind, one 0.4 s off, two set a second ahead or back on the way."""
    steps = [0.0, 0.0, 0.0, 1.0, -1.0, *[0.0] * (PROCESSES - 5)]
    with redis_server() as server:
        starts, told = run(server.url, [*SKEWS, *[0.0] * (PROCESSES - len(SKEWS))], tmp_path, steps=steps)
    check_kept(starts)
    assert not any(told)


def test_where_the_server_can_not_tell_skew_is_said_once(tmp_path: Path) -> None:
    """``memcached -W``, one worker 3 s ahead: each of the others says so, once."""
    with memcached("-W") as server:
        _, told = run(server.url, [3.0, 0.0, 0.0], tmp_path, seconds=8.0)
    assert told[0] == []
    for lines in told[1:]:
        (line,) = lines
        assert "s ahead of this one" in line


def test_the_clock_is_read_under_heavy_other_load(server: Memcached) -> None:
    """Others set as many keys as the machine gives, all of them logged too: each reading is right, and bracketed."""
    cache, stop = MemcachedCache("127.0.0.1", server.port, timeout=5.0), threading.Event()
    loaders = [threading.Thread(target=load, args=(server.port, stop)) for _ in range(2)]
    for loader in loaders:
        loader.start()
    try:
        while server.commands() < 10_000:
            time.sleep(0.01)
        began, before = time.monotonic(), server.commands()
        for _ in range(10):
            told = cache.tell_time(lambda: time.time_ns() // 1000)
            assert told is not None
            assert told[0] <= told[1] <= told[2]
        clock = ServerClock(cache.tell_time)
        clock.read()
        assert abs(clock.now_us() - time.time_ns() // 1000) < 20_000
        rate = (server.commands() - before) / (time.monotonic() - began)
    finally:
        stop.set()
        for loader in loaders:
            loader.join(30)
    assert rate > 5_000, "that was no load"


def load(port: int, stop: threading.Event) -> None:
    """Set keys, a hundred in each round trip."""
    batch = b"".join(b"set other%d 0 0 8\r\n12345678\r\n" % number for number in range(100))
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        while not stop.is_set():
            connection.sendall(batch)
            answers = b""
            while answers.count(b"STORED") < 100:
                answers += connection.recv(65536)


def test_the_ticks_of_a_machine_are_shared_by_its_processes() -> None:
    """They never step, and go on at the rate of the monotonic clock."""
    before, began = ticks(), time.monotonic_ns() // 1000
    time.sleep(0.05)
    assert abs((ticks() - before) - (time.monotonic_ns() // 1000 - began)) < 20_000
