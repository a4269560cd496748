"""Event loops: asyncio's own events and threads do what anyio's do, take less, and go with their loop."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
import threading
import time
import tracemalloc
import weakref
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import pytest

from nekkar.core.limiter import Nekkar
from tests.support.internals.core import core_of, lines_of
from tests.support.internals.runtime import (
    THREADS_PER_LOOP,
    AnyioLoop,
    AsyncioLoop,
    TaskEvent,
    this_loop,
    wake_threads,
)
from tests.support.limits import Crowd, WatchedCache

BACKENDS = ["asyncio", "trio"]
PATIENCE = 30.0
LONG = 3600.0
user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")


def run_in(backend: str, main: Callable[[], Awaitable[Any]]) -> Any:
    """Run an async function to its end under asyncio or trio, but not for ever."""

    async def bounded() -> Any:
        with anyio.fail_after(PATIENCE):
            return await main()

    if backend == "trio":
        pytest.importorskip("trio")
    return anyio.run(bounded, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_loop_is_one_and_its_own(backend: str) -> None:
    """All tasks of a loop find the same; another loop has another, and each is what goes with it."""
    found: list[Any] = []

    async def look() -> None:
        found.append(this_loop())

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(look)
            group.start_soon(look)

    run_in(backend, main)
    run_in(backend, main)
    assert found[0] is found[1]
    assert found[2] is found[3]
    assert found[0] is not found[2]
    assert isinstance(found[0], AsyncioLoop if backend == "asyncio" else AnyioLoop)


def test_where_no_loop_runs_there_is_none() -> None:
    """Outside of a loop there is nothing to wait on."""
    with pytest.raises(Exception, match=r"(?i)async"):
        this_loop()


def test_a_guest_is_not_taken_for_its_host() -> None:
    """A trio that runs as a guest of asyncio is a trio: it can't wait on asyncio's futures."""
    trio = pytest.importorskip("trio")

    async def guest() -> Any:
        return await Nekkar()("calls", 5).acquire_async(), this_loop()

    async def host() -> Any:
        ended = asyncio.get_running_loop().create_future()
        run = asyncio.get_running_loop().call_soon_threadsafe
        trio.lowlevel.start_guest_run(guest, run_sync_soon_threadsafe=run, done_callback=ended.set_result)
        return (await asyncio.wait_for(ended, PATIENCE)).unwrap()

    admission, loop = asyncio.run(host())
    assert admission.cost == 1
    assert isinstance(loop, AnyioLoop)


def test_nothing_of_a_loop_is_left() -> None:
    """A loop that is over is forgotten, with its lines, and its worker threads end."""
    limit = Nekkar()("calls", 5)
    left: list[weakref.ref[Any]] = []

    async def main() -> None:
        await limit.acquire_async()
        await this_loop().in_thread(int, shielded=False)
        left.extend([weakref.ref(asyncio.get_running_loop()), weakref.ref(this_loop())])

    before = threading.active_count()
    for _ in range(3):
        asyncio.run(main())
    until = time.monotonic() + PATIENCE
    while threading.active_count() > before and time.monotonic() < until:
        time.sleep(0.001)
    assert threading.active_count() <= before
    gc.collect()  # only now: a thread that ends still refers to what it did
    assert [each() for each in left] == [None] * 6
    assert len(lines_of(core_of(limit))) == 1  # that of threads


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_loop_pauses_until_its_worker_thread_is_done(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the thread gets the interpreter's lock too seldom: tasks that compute without a pause never release it."""
    paused = threading.Semaphore(0)
    monkeypatch.setattr(time, "sleep", lambda seconds: paused.release())

    def sees_pauses() -> bool:
        return all(paused.acquire(timeout=PATIENCE / 3) for _ in range(3))

    async def main() -> bool:
        seen: bool = await this_loop().in_thread(sees_pauses, shielded=False)
        return seen

    assert run_in(backend, main)
    left = paused.acquire(blocking=False), paused.acquire(timeout=0.05), paused.acquire(timeout=0.05)
    assert left.count(True) <= 1  # none after its end


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_loop_pauses_no_more_for_many_threads_than_for_one(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work that is in line for a thread counts as well: where a cache is away it may be hundreds of calls."""
    paused, wait, most = list[float](), time.sleep, 0.05
    monkeypatch.setattr(time, "sleep", lambda seconds: paused.append(seconds))

    async def task() -> None:
        await this_loop().in_thread(wait, most, shielded=False)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(25 * THREADS_PER_LOOP):
                group.start_soon(task)

    begun = time.monotonic()
    run_in(backend, main)
    assert 3 <= len(paused) <= 5 + (time.monotonic() - begun) * 1000 / 4  # at most one in 4 ms, but for the first


@pytest.mark.parametrize("backend", BACKENDS)
def test_shielded_work_returns_its_outcome_to_a_cancelled_task(backend: str) -> None:
    """It ran to its end: the task needs to know how it ended, to give back what it booked."""
    begun, found = threading.Event(), list[int]()

    def work() -> int:
        begun.set()
        time.sleep(0.05)
        return 42

    async def task() -> None:
        found.append(await this_loop().in_thread(work, shielded=True))

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(task)
            while not begun.is_set():
                await anyio.sleep(0.001)
            group.cancel_scope.cancel()

    run_in(backend, main)
    assert found == [42]


@pytest.mark.parametrize("backend", BACKENDS)
def test_calls_that_cost_nothing_wait_for_a_hold_without_a_thread(backend: str) -> None:
    """Else a few of them would keep all worker threads from the loop's other calls, and the process from its end."""
    limiter = Nekkar(WatchedCache(in_process=False))
    held, free = limiter("held", 5, period=LONG), limiter("free", 5, period=LONG)
    held.hold(LONG)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(3 * THREADS_PER_LOOP):
                group.start_soon(held.acquire_async, {"calls": 0})
            await anyio.sleep(0.01)
            assert (await free.acquire_async()).cost == 1
            group.cancel_scope.cancel()

    before = threading.active_count()
    run_in(backend, main)
    gc.collect()
    until = time.monotonic() + PATIENCE
    while backend == "asyncio" and threading.active_count() > before and time.monotonic() < until:
        time.sleep(0.001)
    assert backend == "trio" or threading.active_count() <= before  # trio keeps its idle threads for a while


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_error_in_a_worker_thread_comes_out_as_it_is(backend: str) -> None:
    """Not in a group of errors, and a RuntimeError of the work is not taken for one of the threads."""

    def fails(error: BaseException) -> None:
        raise error

    async def main() -> None:
        for error in (RuntimeError("of the work"), KeyError("a"), KeyboardInterrupt()):
            with pytest.raises(type(error)) as found:
                await this_loop().in_thread(fails, error, shielded=False)
            assert found.value is error

    run_in(backend, main)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning")
def test_nothing_of_a_loop_that_was_dropped_with_callers_in_line_is_left() -> None:
    """Closed under its tasks, without cancelling them: the loop, its line and its worker threads go all the same."""
    cache = WatchedCache(in_process=False)
    limit = Nekkar(cache)("calls", 1, period=LONG)
    limit.acquire()
    before = threading.active_count()

    def drop() -> weakref.ref[Any]:
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda loop, context: None)  # "Task was destroyed but it is pending"
        tasks = [loop.create_task(limit.acquire_async()) for _ in range(3)]
        while limit.status().waiting < 3 or cache.calls < 4:
            loop.run_until_complete(asyncio.sleep(0.001))
        loop.close()
        assert not any(task.done() for task in tasks)
        return weakref.ref(loop)

    left = [drop() for _ in range(3)]
    gc.collect()
    assert [each() for each in left] == [None] * 3
    assert limit.status().waiting == 0
    until = time.monotonic() + PATIENCE
    while threading.active_count() > before and time.monotonic() < until:
        time.sleep(0.001)
    assert threading.active_count() <= before


def test_lines_are_counted_while_others_come() -> None:
    """A status in one thread, while loops begin and end in others: whatever it meets, it is no error."""
    shared, kept = core_of(Nekkar()("calls", 5)), list[Any]()

    def come(*args: Any) -> None:
        kept.append(shared._new_line(threading.Event, wake_threads))

    for _ in range(3):
        come()
    sys.setprofile(come)  # at every call that the count makes
    try:
        counted = shared.waiting
    finally:
        sys.setprofile(None)
    assert counted == 0
    assert len(kept) > 3


# What a task waits on.


def in_asyncio(main: Callable[[], Awaitable[Any]]) -> Any:
    return run_in("asyncio", main)


def test_an_event_that_is_set_is_waited_for_no_more() -> None:
    """Set before or while a task waits, once or twice: the wait ends, and each later one at once."""

    async def main() -> None:
        event = TaskEvent()
        assert not event.is_set()
        asyncio.get_running_loop().call_soon(event.set)
        await event.wait()
        event.set()
        await event.wait()
        await event.within(LONG)
        assert event.is_set()

    in_asyncio(main)


def test_a_wait_that_ended_otherwise_can_be_taken_up_again() -> None:
    """A cancelled wait, and one whose time is over, leave the event as it was."""

    async def main() -> None:
        event = TaskEvent()
        with anyio.move_on_after(0.001) as scope:
            await event.wait()
        assert scope.cancelled_caught
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(event.wait(), 0.001)
        await event.within(0.001)
        assert not event.is_set()
        asyncio.get_running_loop().call_soon(event.set)
        await event.within(LONG)
        assert event.is_set()

    in_asyncio(main)


def test_no_timer_outlives_its_wait() -> None:
    """However a bounded wait ends, its timer is called off."""

    async def main() -> None:
        event = TaskEvent()
        task = asyncio.ensure_future(event.within(LONG))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        asyncio.get_running_loop().call_soon(event.set)
        await event.within(LONG)
        timers = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
        assert [timer for timer in timers if not timer.cancelled() and timer.when() > time.monotonic() + LONG / 2] == []

    in_asyncio(main)


@pytest.mark.parametrize("backend", BACKENDS)
def test_events_of_a_loop_that_is_over_may_be_set(backend: str) -> None:
    """A swap that ends after its loop has nobody to wake, and says nothing."""

    async def main() -> Callable[[], None]:
        loop = this_loop()
        return partial(loop.wake, [loop.new_event()])

    other = Crowd()
    other.add(lambda: run_in(backend, main))
    (wake,) = other.outcomes()
    wake()


def test_a_task_in_line_takes_little_room() -> None:
    """Beyond a bare task that waits, at most 1.5 kB, and 2.5 kB with a deadline."""

    async def room(wait: Callable[[], Any]) -> float:
        gc.collect()
        tracemalloc.start()
        tasks = [asyncio.ensure_future(wait()) for _ in range(500)]
        for _ in range(3):
            await asyncio.sleep(0)
        gc.collect()
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        for task in tasks:
            task.cancel()
        assert [type(end) for end in await asyncio.gather(*tasks, return_exceptions=True)].count(
            asyncio.CancelledError
        ) == len(tasks)
        return held / len(tasks)

    async def least(wait: Callable[[], Any]) -> float:
        return min([await room(wait) for _ in range(3)])  # what others leave in memory meanwhile counts too

    async def main() -> None:
        limit = Nekkar()("calls", 1, period=LONG)
        await limit.acquire_async()
        bare = await least(asyncio.Event().wait)
        assert await least(limit.acquire_async) - bare <= 1536
        assert await least(lambda: limit.acquire_async(max_wait=1000 * LONG)) - bare <= 2560

    in_asyncio(main)


# Work in threads.


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shielded", [False, True])
def test_what_a_thread_returns_or_raises_is_the_tasks(backend: str, shielded: bool) -> None:
    """A result, an error, and the task's context variables."""

    def work(fails: bool) -> str:
        if fails:
            raise KeyError("no")
        return user.get()

    async def main() -> None:
        user.set("somebody")
        assert await this_loop().in_thread(work, False, shielded=shielded) == "somebody"
        with pytest.raises(KeyError, match="no"):
            await this_loop().in_thread(work, True, shielded=shielded)

    run_in(backend, main)


@pytest.mark.parametrize("backend", BACKENDS)
def test_work_of_a_loop_that_is_over_ends_all_the_same(backend: str) -> None:
    """What a cancelled task began runs to its end, even after its loop's, and harms nobody."""
    begun, opened, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        assert opened.wait(PATIENCE)
        ended.set()

    async def in_thread() -> None:
        await this_loop().in_thread(work, shielded=False)

    async def leave() -> None:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(in_thread)
                while not begun.is_set():
                    await anyio.sleep(0)
                scope.cancel()
                if backend == "trio":  # there a task waits for its thread
                    opened.set()

    run_in(backend, leave)
    opened.set()
    assert ended.wait(PATIENCE)


def test_an_end_that_nobody_waits_for_is_no_error() -> None:
    """A cancelled task's work ends in silence, well or not, while its loop runs on."""
    said: list[Any] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
        for fails in (False, True):
            opened, ended = threading.Event(), threading.Event()
            task = asyncio.ensure_future(this_loop().in_thread(work, opened, ended, fails, shielded=False))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            opened.set()
            while not ended.is_set():
                await asyncio.sleep(0)
            await this_loop().in_thread(int, shielded=False)

    def work(opened: threading.Event, ended: threading.Event, fails: bool) -> None:
        assert opened.wait(PATIENCE)
        ended.set()
        if fails:
            raise KeyError("no")

    in_asyncio(main)
    assert said == []


@pytest.mark.parametrize("shielded", [False, True])
def test_work_is_done_once_where_no_thread_can_be_started(shielded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the interpreter ends, or the system has no more threads: in the loop's, even if a thread finds it later."""

    async def main() -> None:
        loop, done, queued = this_loop(), list[int](), list[Any]()
        assert isinstance(loop, AsyncioLoop)

        def submit(*work: Any) -> None:
            queued.append(work)
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(loop._threads, "submit", submit)
        await loop.in_thread(done.append, threading.get_ident(), shielded=shielded)
        for function, *args in queued:
            function(*args)
        assert done == [threading.get_ident()]
        with pytest.raises(KeyError):
            await loop.in_thread({}.__getitem__, 1, shielded=shielded)

    in_asyncio(main)


def test_trios_work_is_done_where_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the loop's own; what the work itself raises comes through, and is not done again."""
    done: list[int] = []

    def fail() -> None:
        done.append(2)
        raise RuntimeError("the work's own")

    async def no_thread(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        with pytest.raises(RuntimeError, match="own"):
            await this_loop().in_thread(fail, shielded=False)
        monkeypatch.setattr(anyio.to_thread, "run_sync", no_thread)
        await this_loop().in_thread(done.append, 1, shielded=False)

    run_in("trio", main)
    assert done == [2, 1]


class SlowMachine:
    """A clock on which time passes as it is looked at, as for a process that is given little of its machine."""

    def __init__(self) -> None:
        self.time, self.looks = 1_700_000_000_000_000, 0

    def now_us(self) -> int:
        self.time, self.looks = self.time + 200, self.looks + 1
        assert self.looks < 20_000, "nobody gets on"
        return self.time

    def sleep_until(self, at_us: int | None, wake: threading.Event) -> None:
        self.time = max(self.time, at_us or 0)

    async def sleep_until_async(self, at_us: int | None, wake: anyio.Event) -> None:
        if at_us is None:
            await wake.wait()
            return
        await anyio.lowlevel.checkpoint()
        self.time = max(self.time, at_us)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_crowd_gets_on_where_not_all_of_it_can_be_woken_in_time(backend: str) -> None:
    """400 tasks get slots at once that are good for 25 ms, a tenth of what waking them all takes: a part starts."""
    limit = Nekkar(clock=SlowMachine())("crowd", 400, period=1.0)
    limit.acquire(cost=400)  # so that all come to stand in line
    started: list[int] = []

    async def call(number: int) -> None:
        await limit.acquire_async()
        started.append(number)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for number in range(400):
                group.start_soon(call, number)

    run_in(backend, main)
    assert sorted(started) == list(range(400))
