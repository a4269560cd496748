"""Processes, threads and event loops that come and go: a limit is kept, nothing leaks, nothing hangs or makes noise."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from nekkar import Limit, Nekkar, WaitTooLong
from tests.support.checks import worst_window
from tests.support.internals.core import core_of, lines_of
from tests.support.servers import memcached, redis_server

CACHES = ("memcached", "redis", "sqlite")
WORKERS = 4
PATIENCE = 60.0

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system can't fork")


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A URL of each cache that processes share."""
    with ExitStack() as running:
        server, redis = running.enter_context(memcached()), running.enter_context(redis_server())
        file = tmp_path_factory.mktemp("lifecycle") / "limits.db"
        yield {
            "memcached": server.url,
            "redis": redis.url,
            "sqlite": f"sqlite:///{file}?timeout=10",
        }


def forked(action: Callable[[], bytes]) -> tuple[int, int]:
    """Run an action in a forked child; return its pid, and where its result can be read."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads is what is tried
        pid = os.fork()
    if pid:
        os.close(writer)
        return pid, reader
    try:
        os.write(writer, action())
    finally:
        os._exit(0)


def joined(children: list[tuple[int, int]]) -> list[bytes]:
    """Return what children wrote; kill, and fail, where one hangs."""

    def end() -> None:
        for pid, _ in children:
            os.kill(pid, signal.SIGKILL)

    alarm = threading.Timer(PATIENCE, end)
    alarm.start()
    results = []
    try:
        for pid, reader in children:
            with closing(os.fdopen(reader, "rb")) as pipe:
                results.append(pipe.read())
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        alarm.cancel()
    return results


def starts_of(limit: Limit, seconds: float) -> bytes:
    """Call for a while, by a thread and in an event loop; return the starts."""
    starts: list[int] = []
    end = time.monotonic() + seconds

    def call() -> None:
        while time.monotonic() < end:
            limit.acquire()
            starts.append(time.time_ns() // 1000)

    async def call_async() -> None:
        while time.monotonic() < end:
            await limit.acquire_async()
            starts.append(time.time_ns() // 1000)

    thread = threading.Thread(target=call)
    thread.start()
    asyncio.run(call_async())
    thread.join()
    return b" ".join(b"%d" % start for start in starts)


@forks
@pytest.mark.parametrize("kind", CACHES)
def test_workers_forked_after_the_master_used_a_limit_share_it(urls: dict[str, str], kind: str) -> None:
    """As a preforking server does: threads and loops of four workers, and of their master, are never over together."""
    limit = Nekkar(urls[kind])("prefork", "40/second")
    limit.acquire()
    asyncio.run(limit.acquire_async())
    children = [forked(lambda: starts_of(limit, 2.5)) for _ in range(WORKERS)]
    everything = [[int(start) for start in starts_of(limit, 2.5).split()]]
    everything += [[int(start) for start in result.split()] for result in joined(children)]
    assert all(everything), "a process was never admitted"
    assert worst_window(sorted(start for own in everything for start in own), 1_000_000) <= 40
    assert sum(map(len, everything)) >= 60


@forks
def test_a_fork_while_threads_wait_and_book_leaves_the_child_free(urls: dict[str, str]) -> None:
    """From a thread, again and again, whatever the others do at that moment, on limits new and old."""
    limiter = Nekkar(urls["memcached"], on_cache_error="local")
    stop = threading.Event()

    def busy(number: int) -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            limiter(f"busy-{number}-{turn % 50}", "1000/second").acquire()

    threads = [threading.Thread(target=busy, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    results: list[bytes] = []

    def child() -> bytes:
        return limiter(f"child-{os.getpid()}", 5).acquire(max_wait=30).name.encode()

    forking = threading.Thread(target=lambda: results.extend(joined([forked(child) for _ in range(15)])))
    forking.start()
    forking.join(2 * PATIENCE)
    stop.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(results) == 15
    assert all(result.startswith(b"child-") for result in results)


@forks
def test_a_fork_while_another_thread_defines_limits_leaves_the_child_free_to() -> None:
    """The child finds nothing that is locked for ever, or half made."""
    limiter = Nekkar()
    stop = threading.Event()

    def define() -> None:
        for number in itertools.count():
            limiter(f"another {number}", 5)
            if stop.is_set():
                return

    other = threading.Thread(target=define)
    other.start()
    try:
        results = joined([forked(lambda: limiter("calls", 5).acquire().name.encode()) for _ in range(5)])
    finally:
        stop.set()
        other.join(PATIENCE)
    assert results == [b"calls"] * 5


# Event loops and threads.


def resources(threads: int = 0) -> tuple[int, int]:
    """Return how many threads and open files this process has, once there are no more ``threads`` than that.

    A thread whose loop is gone ends a moment later.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        gc.collect()
        found = threading.active_count(), len(os.listdir("/proc/self/fd"))
        if not threads or found[0] <= threads or time.monotonic() > deadline:
            return found
        time.sleep(0.02)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are counted in /proc")
@pytest.mark.parametrize("kind", CACHES)
def test_event_loops_that_come_and_go_leave_nothing_behind(urls: dict[str, str], kind: str) -> None:
    """A hundred loops, one after another and in threads: no more lines, threads or connections than after ten."""
    limit = Nekkar(urls[kind])("loops", "1000/second")

    async def use() -> None:
        await asyncio.gather(*(limit.acquire_async() for _ in range(3)))

    def loops(count: int) -> None:
        for _ in range(count):
            asyncio.run(use())

    def loops_in_threads(count: int) -> None:
        threads = [threading.Thread(target=loops, args=(1,)) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)

    loops(5)
    loops_in_threads(5)
    before = resources()
    loops(80)
    for _ in range(4):
        loops_in_threads(5)
    after = resources(before[0])
    assert after[0] <= before[0]
    assert after[1] <= before[1] + 8, "connections: as many as commands ran at once, and no more"
    assert len(lines_of(core_of(limit))) <= 2
    assert limit.status().waiting == 0


def test_a_loop_closed_with_callers_in_line_leaves_the_next_one_free(urls: dict[str, str]) -> None:
    """Cancelled, or dropped without a word: the next loop, and threads, are served soon."""
    limit = Nekkar(urls["memcached"])("closed", "4/second", margin=0.05)

    async def leave() -> None:
        tasks = [asyncio.ensure_future(limit.acquire_async()) for _ in range(30)]
        await asyncio.sleep(0.3)
        assert any(task.done() for task in tasks)
        assert limit.status().waiting > 20

    for _ in range(3):
        asyncio.run(leave())
        gc.collect()
        assert limit.status().waiting == 0
        began = time.monotonic()
        asyncio.run(limit.acquire_async(max_wait=20))
        limit.acquire(max_wait=20)
        assert time.monotonic() - began < 15


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning")
def test_a_loop_that_is_stopped_and_dropped_holds_up_nobody() -> None:
    """Its tasks are never cancelled, only collected; who comes later, in a thread or another loop, goes on."""
    limit = Nekkar()("dropped", "5/second", margin=0.05)
    loop = asyncio.new_event_loop()
    tasks = [loop.create_task(limit.acquire_async()) for _ in range(20)]
    loop.run_until_complete(asyncio.sleep(0.1))
    loop.call_exception_handler = lambda context: None  # type: ignore[method-assign]  # "Task was destroyed"
    loop.close()
    del tasks, loop
    gc.collect()
    assert limit.acquire(max_wait=10).name == "dropped"
    assert asyncio.run(limit.acquire_async(max_wait=10)).name == "dropped"


# The end of the interpreter.


ENDINGS = {
    "a daemon thread waits": """
        threading.Thread(target=limit.acquire, daemon=True).start()
        time.sleep(0.3)
    """,
    "many daemon threads wait": """
        for _ in range(30):
            threading.Thread(target=limit.acquire, daemon=True).start()
        time.sleep(0.3)
    """,
    "atexit calls": """
        other = limiter("other", 5)
        atexit.register(lambda: other.acquire(max_wait=5))
    """,
    "a loop in atexit calls": """
        other = limiter("other", 5)
        atexit.register(lambda: asyncio.run(other.acquire_async(max_wait=5)))
    """,
    "a loop in atexit calls, after others did": """
        other = limiter("other", 5)
        asyncio.run(other.acquire_async(max_wait=5))
        atexit.register(lambda: asyncio.run(other.acquire_async(max_wait=5)))
    """,
    "atexit is refused": """
        def at_exit():
            try:
                limit.acquire(max_wait=0.2)
            except WaitTooLong:
                print("refused")
        atexit.register(at_exit)
    """,
    "a task is pending": """
        async def main():
            asyncio.ensure_future(limit.acquire_async())
            await asyncio.sleep(0.3)
        asyncio.run(main())
    """,
    "a loop in a daemon thread": """
        threading.Thread(target=lambda: asyncio.run(limit.acquire_async()), daemon=True).start()
        time.sleep(0.5)
    """,
    "a main thread that raises SystemExit as others wait": """
        threading.Thread(target=limit.acquire, daemon=True).start()
        time.sleep(0.3)
        sys.exit(0)
    """,
}


@pytest.mark.parametrize("kind", ["memory", "memcached"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_process_with_callers_in_line_ends_in_time_and_in_silence(
    urls: dict[str, str], kind: str, ending: str
) -> None:
    """The window is full for an hour: whoever waits is left, with no traceback and exit code 0."""
    url = urls.get(kind, "memory:")
    lines = [line.removeprefix("        ") for line in ENDINGS[ending].splitlines()]
    program = "\n".join([
        "import asyncio, atexit, sys, threading, time",
        "from nekkar import Nekkar, WaitTooLong",
        f"limiter = Nekkar({url!r})",
        f"limit = limiter('end of {os.getpid()} {ending}', '1/hour')",
        "limit.acquire()",
        *lines,
    ])  # fmt: skip
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout == ("refused\n" if ending == "atexit is refused" else "")
    assert time.monotonic() - began < 20


def test_a_call_refused_at_once_needs_no_time() -> None:
    """What the endings above rely on: with the window full for an hour, ``max_wait`` is a refusal."""
    limit = Nekkar()("full", "1/hour")
    limit.acquire()
    with pytest.raises(WaitTooLong):
        limit.acquire(max_wait=0.2)
