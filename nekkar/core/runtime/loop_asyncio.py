"""asyncio's event loop: a task in line waits on one future, and blocking work goes to a pool of threads and back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from typing import Any, cast
from weakref import WeakKeyDictionary

from nekkar.core.runtime.effects import Event
from nekkar.core.runtime.loops import THREADS_PER_LOOP


class Bell:
    """What one task waits on: an ``anyio.Event`` that is lighter, and can be waited on for so long ``within``."""

    __slots__ = ("_is_set", "rung")

    def __init__(self) -> None:
        self._is_set = False
        self.rung: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def set(self) -> None:
        """Wake the task; in its loop's thread."""
        self._is_set = True
        self._ring()

    def is_set(self) -> bool:
        """Whether it was set."""
        return self._is_set

    async def wait(self) -> None:
        """Wait until it is set."""
        await self._unrung()

    async def within(self, seconds: float) -> None:
        """Wait until it is set, so long at most."""
        timer = self.rung.get_loop().call_later(seconds, self._ring)
        try:
            await self._unrung()
        finally:
            timer.cancel()

    def _ring(self) -> None:
        if not self.rung.done():
            self.rung.set_result(None)

    def _unrung(self) -> asyncio.Future[None]:
        """Return the future; a new one after a wait that was cancelled, or over."""
        if self.rung.done() and not self._is_set:
            self.rung = self.rung.get_loop().create_future()
        return self.rung


class AsyncioLoop:
    """A running loop of asyncio; knows it by nothing that would keep it alive."""

    new_event = Bell

    def __init__(self) -> None:
        self.own: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
        self._threads = ThreadPoolExecutor(THREADS_PER_LOOP, "nekkar")

    @staticmethod
    def wake(events: list[Event]) -> None:
        """Set ``events``, all of one loop: here where it runs in this thread, else there."""
        bells = cast("list[Bell]", events)
        loop = bells[0].rung.get_loop()
        if loop is asyncio._get_running_loop():
            _ring(bells)
        else:
            _tell(loop, _ring, bells)

    def checkpoint(self) -> Awaitable[None]:
        """Let other tasks run, and a cancellation come."""
        return asyncio.sleep(0)

    def until(self, event: Event) -> Awaitable[object]:
        """Wait until ``event``, which nobody waited on yet, is set: no coroutine stands between task and future."""
        return cast(Bell, event).rung

    async def in_thread(self, function: Callable[..., Any], *args: Any, shielded: bool) -> Any:
        """Call ``function`` in a worker thread; it runs to its end whatever becomes of the task."""
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._threads.submit(copy_context().run, _work, done, function, args)
        if not shielded:
            return await done
        import anyio

        with anyio.CancelScope(shield=True):
            return await done


def _ring(bells: list[Bell]) -> None:
    for bell in bells:
        bell.set()


def _work(done: asyncio.Future[Any], function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        outcome = done.set_result, function(*args)
    except BaseException as error:
        outcome = done.set_exception, error
    _tell(done.get_loop(), _settle, done, *outcome)


def _settle(done: asyncio.Future[Any], settle: Callable[[Any], None], outcome: Any) -> None:
    if not done.done():
        settle(outcome)


def _tell(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *args: Any) -> None:
    """Have a loop call ``function``; one that is closed has nobody left to tell."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(function, *args)
