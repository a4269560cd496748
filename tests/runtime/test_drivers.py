"""The drivers: results and errors pass through, generators are closed, and nothing is left half done."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest

from nekkar.core.clock import SystemClock
from nekkar.testing import FakeClock
from tests.support.internals.runtime import (
    THREADS_PER_LOOP,
    Backoff,
    CacheCall,
    CacheSteps,
    Event,
    QueueSteps,
    RunSteps,
    WaitUntil,
    run,
    run_async,
    run_steps,
    this_loop,
    wake_threads,
)
from tests.support.limits import Crowd

PATIENCE = 30.0
BACKENDS = ["asyncio", "trio"]
Driver = Callable[[QueueSteps[Any], FakeClock], Any]


def run_in(backend: str, main: Callable[[], Awaitable[Any]]) -> Any:
    """Run an async function to its end under asyncio or trio."""
    if backend == "trio":
        pytest.importorskip("trio")
    return anyio.run(main, backend=backend)


def new_event() -> Event:
    """Return what a task of the running loop waits on."""
    return this_loop().new_event()


def async_driver(backend: str, in_process: bool) -> Driver:
    def drive(effects: QueueSteps[Any], clock: FakeClock) -> Any:
        async def main() -> Any:
            return await run_async(effects, clock, this_loop(), in_process)

        return run_in(backend, main)

    return drive


@pytest.fixture(params=["threads", "asyncio", "asyncio in process", "trio", "trio in process"])
def drive(request: pytest.FixtureRequest) -> Driver:
    """Each way to run a line's generator."""
    if request.param == "threads":
        return run
    backend, _, where = request.param.partition(" ")
    return async_driver(backend, where == "in process")


@pytest.fixture
def event(request: pytest.FixtureRequest) -> Callable[[], Event]:
    """What makes events for the driver in use."""
    return threading.Event if "threads" in request.node.name else new_event


def steps(*functions: Callable[[], Any], closed: list[str] | None = None) -> CacheSteps[list[Any]]:
    """CacheCall each function, and return what they returned."""
    try:
        results = []
        for function in functions:
            result = yield CacheCall(function)
            results.append(result)
        return results
    finally:
        if closed is not None:
            closed.append("steps")


def fail(error: BaseException) -> Callable[[], Any]:
    def raise_it() -> Any:
        raise error

    return raise_it


# Results, errors, ends: all drivers alike.


def test_results_pass_through(drive: Driver, event: Callable[[], Event]) -> None:
    """A generator is sent what its calls return, and its own result is the driver's."""
    clock = FakeClock(start=100)

    def effects() -> QueueSteps[tuple[Any, ...]]:
        first = yield RunSteps(steps(lambda: 1, lambda: "two"))
        nothing = yield WaitUntil(160_000_000, event())
        second = yield RunSteps(steps())
        return first, nothing, second

    assert drive(effects(), clock) == ([1, "two"], None, [])
    assert clock.now == 160


def test_a_generator_that_asks_for_nothing_just_returns(drive: Driver) -> None:
    """No effect is needed for a result."""

    def effects() -> QueueSteps[int]:
        yield from ()
        return 7

    assert drive(effects(), FakeClock()) == 7


def test_calls_are_made_with_their_arguments(drive: Driver) -> None:
    """A call's arguments reach its function."""

    def body() -> CacheSteps[Any]:
        return (yield CacheCall(divmod, 17, 5))

    def effects() -> QueueSteps[Any]:
        return (yield RunSteps(body()))

    assert drive(effects(), FakeClock()) == (3, 2)


@pytest.mark.parametrize("error", [ValueError("no"), KeyError("key"), TimeoutError()], ids=repr)
def test_errors_are_thrown_in_where_they_belong(drive: Driver, error: Exception) -> None:
    """What a call raises is raised at the yield in the steps, then at that of the effects, then by the driver."""
    seen: list[tuple[str, BaseException]] = []

    def body() -> CacheSteps[None]:
        try:
            yield CacheCall(fail(error))
        except Exception as raised:
            seen.append(("steps", raised))
            raise

    def effects() -> QueueSteps[None]:
        try:
            yield RunSteps(body())
        except Exception as raised:
            seen.append(("effects", raised))
            raise

    with pytest.raises(type(error)) as raised:
        drive(effects(), FakeClock())
    assert raised.value is error
    assert seen == [("steps", error), ("effects", error)]


def test_a_generator_that_handles_an_error_goes_on(drive: Driver, event: Callable[[], Event]) -> None:
    """An error that a generator catches does not end it; what it yields next is performed."""
    clock = FakeClock(start=100)

    def body() -> CacheSteps[str]:
        try:
            yield CacheCall(fail(ValueError("no")))
        except ValueError:
            return str((yield CacheCall(lambda: "saved")))
        return "missed"

    def effects() -> QueueSteps[str]:
        try:
            yield RunSteps(steps(fail(KeyError("no"))))
        except KeyError:
            yield WaitUntil(101_000_000, event())
        return str((yield RunSteps(body())))

    assert drive(effects(), clock) == "saved"
    assert clock.now == 101


def test_an_error_of_the_generators_own_comes_out(drive: Driver) -> None:
    """What a generator raises by itself is what the driver raises; another error keeps its context."""

    def effects() -> QueueSteps[None]:
        try:
            yield RunSteps(steps(fail(ValueError("first"))))
        except ValueError as cause:
            raise KeyError("second") from cause

    with pytest.raises(KeyError, match="second") as raised:
        drive(effects(), FakeClock())
    assert isinstance(raised.value.__cause__, ValueError)


def test_steps_and_effects_are_closed_whatever_happens(drive: Driver) -> None:
    """After the driver returned or raised, both generators have run their ``finally``."""
    for function in (lambda: 1, fail(ValueError("no"))):
        closed: list[str] = []

        def effects(function: Callable[[], Any], closed: list[str]) -> QueueSteps[None]:
            try:
                yield RunSteps(steps(function, closed=closed))
            finally:
                closed.append("effects")

        generator = effects(function, closed)
        with suppress(ValueError):
            drive(generator, FakeClock())
        assert closed == ["steps", "effects"]
        with pytest.raises(StopIteration):
            next(generator)


def test_a_generator_that_is_over_can_not_be_run_again(drive: Driver) -> None:
    """A driver runs a generator from its start to its end; run again, it has nothing to give."""
    generator = (effect for effect in list[Any]())
    assert drive(generator, FakeClock()) is None
    assert drive(generator, FakeClock()) is None


def test_a_pause_takes_real_time(drive: Driver) -> None:
    """A clock that stands still, as one of a user's tests may, holds up no pause after a lost swap."""
    clock, begun = FakeClock(start=100, jump=False), time.monotonic()

    def body() -> CacheSteps[None]:
        yield Backoff(250)
        yield Backoff(0)

    def effects() -> QueueSteps[None]:
        yield RunSteps(body())

    drive(effects(), clock)
    assert clock.now_us() == 100_000_000
    assert time.monotonic() - begun >= 0.00025


# Threads.


def test_an_interrupt_passes_through_a_threads_generators() -> None:
    """Ctrl-C in a call or a sleep is thrown into the generators, which may clean up by further effects."""
    cleaned: list[str] = []

    class Interrupted(FakeClock):
        def sleep_until(self, at_us: int | None, wake: threading.Event) -> None:
            raise KeyboardInterrupt

    def effects(first: RunSteps | WaitUntil) -> QueueSteps[None]:
        try:
            yield first
        except KeyboardInterrupt:
            yield RunSteps(steps(lambda: cleaned.append("cleaned")))
            raise

    for first in (RunSteps(steps(fail(KeyboardInterrupt()))), WaitUntil(None, threading.Event())):
        with pytest.raises(KeyboardInterrupt):
            run(effects(first), Interrupted())
    assert cleaned == ["cleaned", "cleaned"]


def test_steps_run_alone() -> None:
    """A ledger's steps can be run without a line."""
    assert run_steps(steps(lambda: 1, lambda: 2), FakeClock()) == [1, 2]


def test_waking_threads_sets_all_events() -> None:
    """Each of the events is set, from whatever thread."""
    events = [threading.Event() for _ in range(3)]
    wake_threads(list[Event](events))
    assert all(event.is_set() for event in events)


# Tasks.


@pytest.mark.parametrize("backend", BACKENDS)
def test_cache_calls_of_tasks_run_in_a_worker_thread_unless_in_process(backend: str) -> None:
    """I/O never runs in the event loop's thread; what answers at once needs no other."""

    async def main() -> None:
        def effects() -> QueueSteps[Any]:
            return (yield RunSteps(steps(threading.get_ident)))

        here = threading.get_ident()
        assert await run_async(effects(), FakeClock(), this_loop(), in_process=True) == [here]
        assert await run_async(effects(), FakeClock(), this_loop(), in_process=False) != [here]

    run_in(backend, main)


@pytest.mark.parametrize("backend", BACKENDS)
def test_worker_threads_are_nekkars_own_and_few(backend: str) -> None:
    """Other users of worker threads can't make nekkar wait, and it uses a few at most."""
    lock, running, most = threading.Lock(), 0, 0
    full = threading.Barrier(THREADS_PER_LOOP)

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        full.wait(PATIENCE)
        with lock:
            running -= 1

    def effects() -> QueueSteps[Any]:
        yield RunSteps(steps(work))

    async def main() -> None:
        others = anyio.to_thread.current_default_thread_limiter()
        borrowers = [object() for _ in range(int(others.total_tokens))]
        for borrower in borrowers:
            others.acquire_on_behalf_of_nowait(borrower)
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                for _ in range(3 * THREADS_PER_LOOP):
                    group.start_soon(run_async, effects(), FakeClock(), this_loop(), False)
        for borrower in borrowers:
            others.release_on_behalf_of(borrower)

    run_in(backend, main)
    assert most == THREADS_PER_LOOP


class Gate:
    """A call that another thread holds up."""

    def __init__(self) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()
        self.done: list[str] = []

    def steps(self) -> Iterator[Any]:
        def pass_through() -> None:
            self.entered.set()
            assert self.opened.wait(PATIENCE)

        yield CacheCall(pass_through)
        yield CacheCall(self.done.append, "second call")


def test_steps_run_to_their_end_though_their_task_is_cancelled() -> None:
    """A task cancelled in the middle of a swap leaves at once; the swap goes on in its thread, and ends whole."""
    gate = Gate()
    outcome: list[str] = []

    def effects() -> QueueSteps[None]:
        try:
            yield RunSteps(gate.steps())  # type: ignore[arg-type]
        except asyncio.CancelledError:
            outcome.append("cancelled")
            raise

    async def main() -> None:
        task = asyncio.create_task(run_async(effects(), FakeClock(), this_loop(), in_process=False))
        while not gate.entered.is_set():
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (outcome, gate.done) == (["cancelled"], [])
        gate.opened.set()
        with anyio.fail_after(PATIENCE):
            while not gate.done:
                await asyncio.sleep(0)

    asyncio.run(main())


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_shielded_transaction_is_waited_for_in_a_cancelled_scope(backend: str) -> None:
    """Who leaves for a cancellation may still give back what it holds, though its scope cancels every await."""
    returned: list[str] = []

    def effects() -> QueueSteps[None]:
        try:
            yield WaitUntil(None, new_event())
        finally:
            yield RunSteps(steps(lambda: returned.append("given back")), shielded=True)

    async def main() -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await run_async(effects(), SystemClock(), this_loop(), in_process=False)
        assert scope.cancelled_caught
        assert returned == ["given back"]

    run_in(backend, main)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_cancelled_task_closes_its_generator(backend: str) -> None:
    """Cancellation is thrown in, and the generator has ended when the task has."""
    ends: list[str] = []

    def effects() -> QueueSteps[None]:
        try:
            yield WaitUntil(None, new_event())
        except BaseException as error:
            ends.append(type(error).__name__)
            raise
        finally:
            ends.append("closed")

    async def main() -> None:
        generator = effects()
        with anyio.move_on_after(0.01):
            await run_async(generator, SystemClock(), this_loop(), in_process=True)
        assert ends[0] in ("CancelledError", "Cancelled")
        assert ends[1:] == ["closed"]

    run_in(backend, main)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_loops_events_are_set_from_any_thread(backend: str) -> None:
    """At once in the loop's own thread, and by the loop where another thread asks for it: a worker's, or a user's."""

    async def main() -> None:
        loop = this_loop()
        events = [loop.new_event() for _ in range(6)]
        loop.wake(events[:2])
        assert [event.is_set() for event in events] == [True] * 2 + [False] * 4  # type: ignore[attr-defined]
        await loop.in_thread(loop.wake, events[2:4], shielded=False)
        other = Crowd()
        other.add(partial(loop.wake, events[4:]))
        assert other.outcomes() == [None]
        for event in events:
            await loop.until(event)

    run_in(backend, main)
