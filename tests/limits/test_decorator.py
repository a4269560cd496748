"""The decorator and the blocks: whatever is limited stays what it was, and waits where its body would start."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from contextlib import aclosing
from typing import Any

import pytest

from nekkar.core.errors import ConfigurationError, WaitTooLong
from nekkar.core.limiter import Admission, Nekkar
from nekkar.testing import FakeClock
from tests.support.limits import (
    BACKENDS,
    START,
    WatchedCache,
    hits,
    run_in,
    since_start,
)


def test_a_decorated_function_waits_then_runs() -> None:
    """Each call of a decorated function starts at its slot, and returns or raises what the function does."""
    clock = FakeClock()
    started: list[float] = []

    @Nekkar(clock=clock)("calls", 1, period=1.0)
    def call(number: int) -> int:
        started.append(round(clock.now - START, 6))
        return 100 // number

    assert [call(1), call(2)] == [100, 50]
    with pytest.raises(ZeroDivisionError):
        call(0)
    assert started == [0.0, 1.05, 2.1]


def test_a_refused_call_does_not_run() -> None:
    """Where ``acquire`` would raise, the decorated function raises, and its body does not start."""
    runs: list[int] = []
    call = Nekkar(clock=FakeClock())("calls", 1, max_wait=0)(lambda: runs.append(1))
    call()
    with pytest.raises(WaitTooLong):
        call()
    assert runs == [1]


def test_a_decorated_function_keeps_its_name_its_words_and_its_signature() -> None:
    """Decorating changes nothing that tools see of a function."""

    def call(data: bytes, /, times: int = 3, *rest: str, flag: bool = False, **more: object) -> list[str]:
        """Say it again."""
        return [*rest, str((data, times, flag, more))]

    limited = Nekkar()("calls", 100)(call)
    assert (limited.__name__, limited.__qualname__) == (call.__name__, call.__qualname__)
    assert (limited.__doc__, limited.__module__) == ("Say it again.", __name__)
    assert limited.__wrapped__ is call  # type: ignore[attr-defined]
    assert inspect.signature(limited) == inspect.signature(call)
    assert limited(b"x", 5, "a", flag=True, z=1) == call(b"x", 5, "a", flag=True, z=1)


def test_methods_keep_self_class_and_state() -> None:
    """A limit below @classmethod, @staticmethod and @property, and on plain methods, limits all instances as one."""
    limit = Nekkar(clock=FakeClock())("calls", 5, max_wait=0)

    class Counter:
        made = 0

        def __init__(self) -> None:
            self.total = 0

        @limit
        def add(self, number: int) -> int:
            self.total += number
            return self.total

        @classmethod
        @limit
        def make(cls) -> Counter:
            cls.made += 1
            return cls()

        @staticmethod
        @limit
        def double(number: int) -> int:
            return 2 * number

        @property
        @limit
        def doubled(self) -> int:
            return 2 * self.total

    one, two = Counter(), Counter.make()
    assert [one.add(3), two.add(4), one.double(3), one.doubled] == [3, 4, 6, 6]
    assert (one.total, two.total, Counter.made) == (3, 4, 1)
    with pytest.raises(WaitTooLong):
        two.add(1)


def of_class(cls: type[object]) -> str:
    return cls.__name__


@pytest.mark.parametrize(
    "thing",
    [property(len), None, 42, "function", [len], object()],
    ids=lambda thing: type(thing).__name__,
)
def test_what_can_not_be_called_can_not_be_decorated(thing: Any) -> None:
    """The error shows the thing, and says where the limit belongs."""
    limit = Nekkar()("calls", 5)
    with pytest.raises(ConfigurationError, match="not callable; put the limit below @property") as error:
        limit(thing)
    assert repr(thing)[:40] in str(error.value)


def test_static_and_class_methods_stay_what_they_are_above_and_below_the_limit() -> None:
    """In either order, from the class and from an instance, and each call counts once."""
    limit = Nekkar(clock=FakeClock())("calls", 8, max_wait=0)

    class Tool:
        base = 10

        @limit
        @staticmethod
        def double(number: int) -> int:
            return 2 * number

        @staticmethod
        @limit
        def triple(number: int) -> int:
            return 3 * number

        @limit
        @classmethod
        def plus(cls, number: int) -> int:
            return cls.base + number

        @classmethod
        @limit
        def minus(cls, number: int) -> int:
            return cls.base - number

    for tool in (Tool, Tool()):
        assert (tool.double(2), tool.triple(2), tool.plus(2), tool.minus(2)) == (4, 6, 12, 8)
    with pytest.raises(WaitTooLong):
        Tool.double(2)


def test_a_generator_takes_its_slot_at_its_first_item() -> None:
    """Made it has booked nothing; it stays a generator function, and values go in, out and back."""
    limit = Nekkar(clock=FakeClock())("calls", 1, max_wait=0)

    @limit
    def echo(first: str) -> Generator[str, str, str]:
        """Say what was sent."""
        told = yield first
        while told != "end":
            told = yield told
        return "ended"

    assert inspect.isgeneratorfunction(echo)
    assert (echo.__name__, echo.__doc__) == ("echo", "Say what was sent.")
    one, two = echo("a"), echo("b")
    assert (next(one), one.send("x")) == ("a", "x")
    with pytest.raises(StopIteration, match="ended"):
        one.send("end")
    with pytest.raises(WaitTooLong):
        next(two)


def test_an_async_generator_takes_its_slot_at_its_first_item_and_is_closed() -> None:
    """It waits in its task, and whoever leaves early closes what runs inside."""
    limit = Nekkar(clock=FakeClock())("calls", 1, max_wait=0)
    closed = []

    @limit
    async def count() -> AsyncGenerator[int, None]:
        try:
            for number in range(3):
                yield number
        finally:
            closed.append(True)

    async def main() -> None:
        assert inspect.isasyncgenfunction(count)
        async with aclosing(count()) as numbers:
            async for number in numbers:
                assert number == 0
                break
        assert closed == [True]
        with pytest.raises(WaitTooLong):
            await anext(count())

    asyncio.run(main())


@pytest.mark.parametrize("function", [len, functools.partial(int, base=2), str.upper, dict], ids=str)
def test_any_callable_can_be_decorated(function: Callable[..., Any]) -> None:
    """Builtins, partials and classes have no all of a function's metadata, and are limited all the same."""
    limit = Nekkar(clock=FakeClock())("calls", 1, max_wait=0)
    limited = limit(function)
    argument: Any = [] if function in (len, dict) else "11"
    assert limited(argument) == function(argument)
    with pytest.raises(WaitTooLong):
        limited(argument)


def test_a_decorated_coroutine_function_stays_one_and_waits_in_its_task() -> None:
    """Async functions and methods, and partials of them, are limited without blocking the event loop."""
    clock = FakeClock()
    limit = Nekkar(clock=clock)("calls", 1, period=1.0)

    @limit
    async def call(number: int) -> float:
        """Tell when."""
        return round(clock.now - START, 6) + number

    class Service:
        base = 10

        @limit
        async def call(self, number: int) -> float:
            return round(clock.now - START, 6) + self.base + number

    partial = limit(functools.partial(call.__wrapped__, 7))  # type: ignore[attr-defined]
    assert all(inspect.iscoroutinefunction(function) for function in (call, Service.call, Service().call, partial))
    assert (call.__name__, call.__doc__, list(inspect.signature(call).parameters)) == ("call", "Tell when.", ["number"])

    async def main() -> list[float]:
        return [await call(0), await Service().call(0), await call(number=0), await partial()]

    assert asyncio.run(main()) == [0.0, 11.05, 2.1, 10.15]


def test_a_coroutine_takes_its_slot_when_it_is_awaited() -> None:
    """A coroutine that was made but not awaited has booked nothing."""
    cache = WatchedCache()

    @Nekkar(cache, clock=FakeClock())("calls", 1)
    async def call() -> None:
        return None

    coroutine = call()
    assert cache.calls == 0
    asyncio.run(coroutine)
    assert hits(cache) == 1


class AsyncCallable:
    async def __call__(self) -> None:
        return None


async def ticks() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize("function", [AsyncCallable(), ticks], ids=["async __call__", "async generator"])
def test_nothing_async_blocks_the_event_loop(function: Callable[[], Any]) -> None:
    """Whatever is async is limited as async: its wait never blocks the loop."""

    class NoSyncSleep(FakeClock):
        def sleep_until(self, at_us: int | None, wake: threading.Event) -> None:
            raise AssertionError("the event loop was blocked")

    limited = Nekkar(clock=NoSyncSleep())("calls", 1)(function)

    async def use() -> None:
        made = limited()
        if inspect.isawaitable(made):
            await made
        else:
            async for _ in made:
                pass

    async def main() -> None:
        await use()
        await use()

    asyncio.run(main())


def test_a_block_waits_on_entry_and_lets_exceptions_out() -> None:
    """``with limit:`` gives the admission, swallows nothing, and may be entered again and again."""
    clock = FakeClock()
    limit = Nekkar(clock=clock)("calls", 1, period=1.0)
    with limit as admission:
        assert admission == Admission("calls", 1, START, 0.0)
    with pytest.raises(KeyError, match="inside"), limit:
        raise KeyError("inside")
    with limit as third:
        assert since_start(third) == 2_100_000


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_async_block_waits_on_entry_and_lets_exceptions_out(backend: str) -> None:
    """``async with limit:`` does what ``with limit:`` does."""
    limit = Nekkar(clock=FakeClock())("calls", 1, period=1.0)

    async def main() -> Admission:
        with pytest.raises(KeyError, match="inside"):
            async with limit:
                raise KeyError("inside")
        async with limit as admission:
            return admission

    assert since_start(run_in(backend, main)) == 1_050_000


def test_an_admission_tells_name_cost_slot_and_wait() -> None:
    """An admission is a frozen record: the limit's name, the cost, the slot's Unix time, the seconds waited."""
    limit = Nekkar(clock=FakeClock(start=1000.5))("calls", 3, period=2.0, margin=0.5)
    assert limit.acquire(cost=3) == Admission(name="calls", cost=3, at=1000.5, waited=0.0)
    admission = limit.acquire(cost=2, max_wait=5)
    assert admission == Admission(name="calls", cost=2, at=1003.0, waited=2.5)
    with pytest.raises(AttributeError):
        admission.cost = 1  # type: ignore[misc]


def test_threads_and_tasks_of_one_process_share_one_log() -> None:
    """A limit used from threads and from several event loops is still one limit."""
    cache = WatchedCache()
    limit = Nekkar(cache, clock=FakeClock())("calls", 3, max_wait=0)

    async def main() -> None:
        await limit.acquire_async()

    limit.acquire()
    asyncio.run(main())
    asyncio.run(main())
    with pytest.raises(WaitTooLong):
        limit.acquire()
    with pytest.raises(WaitTooLong):
        asyncio.run(main())
    assert hits(cache) == 3
