"""asyncio's event loop: a waiting task waits on one future, and blocking work runs in a pool of threads."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

from nekkar.core.clock import UNSET
from nekkar.core.runtime.effects import Event
from nekkar.core.runtime.loops import PAUSE_S, THREADS_PER_LOOP, pauses

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

_Work = tuple[Callable[..., Any], tuple[Any, ...]]


class TaskEvent:
    """An event for one task to wait on: lighter than ``anyio.Event``, and with a timed wait (``within``)."""

    __slots__ = ("_is_set", "future")

    def __init__(self) -> None:
        self._is_set = False
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def set(self) -> None:
        """Wake the task; call it in the loop's own thread."""
        self._is_set = True
        self._finish()

    def is_set(self) -> bool:
        """Whether it was set."""
        return self._is_set

    async def wait(self) -> None:
        """Wait until it is set."""
        await self._unfinished()

    async def within(self, seconds: float) -> None:
        """Wait until it is set, at most for a number of seconds."""
        timer = self.future.get_loop().call_later(seconds, self._finish)
        try:
            await self._unfinished()
        finally:
            timer.cancel()

    def _finish(self) -> None:
        if not self.future.done():
            self.future.set_result(None)

    def _unfinished(self) -> asyncio.Future[None]:
        """Return the future to wait on; a new one if the last wait was cancelled or timed out."""
        if self.future.done() and not self._is_set:
            self.future = self.future.get_loop().create_future()
        return self.future


class AsyncioLoop:
    """A running loop of asyncio; it is stored as an attribute of that loop.

    ``is_inherited``: the loop was made before a fork. Parent and child share the socket by which threads wake the loop,
    so one may take the other's wake-ups. In such a loop blocking work runs in the loop's own thread.
    """

    new_event = TaskEvent

    def __init__(self, is_inherited: bool = False) -> None:
        self.own: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
        self.pid = os.getpid()
        self._threads = None if is_inherited else _new_threads()
        self._submitted: list[Future[None]] = []

    @staticmethod
    def wake(events: list[Event]) -> None:
        """Set ``events``, all of one loop: directly in the loop's own thread, else by a callback in it."""
        mine = cast("list[TaskEvent]", events)
        loop = mine[0].future.get_loop()
        if loop is asyncio._get_running_loop():
            _set_all(mine)
        else:
            _schedule(loop, _set_all, mine)

    def checkpoint(self) -> Awaitable[None]:
        """Let other tasks run, and let a pending cancellation arrive."""
        return asyncio.sleep(0)

    def until(self, event: Event) -> Awaitable[object]:
        """Wait until ``event`` is set. It must be new: then its future is awaited without a coroutine between."""
        return cast(TaskEvent, event).future

    async def in_thread(self, function: Callable[..., Any], *args: Any, shielded: bool) -> Any:
        """Call ``function`` in a worker thread; it runs to its end even if the task is cancelled."""
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        work = [(function, args)]
        if not self._submits(done, work):
            if not shielded:
                await self.checkpoint()
            return function(*args)
        if not shielded:
            return await done
        import anyio

        with anyio.CancelScope(shield=True):
            return await done

    def _submits(self, done: asyncio.Future[Any], work: list[_Work]) -> bool:
        """Return whether a thread takes the work; an executor that can't start a thread may still have queued it."""
        if self._threads is None:
            return False
        try:
            submitted = self._threads.submit(copy_context().run, _do, done, work)
        except RuntimeError:  # the interpreter is ending, or the system has no more threads
            return not _taken(work)
        if not self._submitted:
            after = pauses()
            done.get_loop().call_later(next(after), self._give_way, done.get_loop(), after)
        self._submitted.append(submitted)
        return True

    def _give_way(self, loop: asyncio.AbstractEventLoop, after: Iterator[float]) -> None:
        """Block the loop for an instant, again and again until all work is done: see ``pauses`` in loops.py."""
        self._submitted = [submitted for submitted in self._submitted if not submitted.done()]
        if self._submitted:
            UNSET.wait(PAUSE_S)
            loop.call_later(next(after), self._give_way, loop, after)


def _new_threads() -> ThreadPoolExecutor | None:
    try:
        from concurrent.futures import ThreadPoolExecutor
    except RuntimeError:  # not imported before the interpreter began to end
        return None
    return ThreadPoolExecutor(THREADS_PER_LOOP, "nekkar")


def _set_all(events: list[TaskEvent]) -> None:
    for event in events:
        event.set()


def _taken(work: list[_Work]) -> _Work | None:
    """Return the work, to the first caller only."""
    try:
        return work.pop()
    except IndexError:
        return None


def _do(done: asyncio.Future[Any], work: list[_Work]) -> None:
    if not (taken := _taken(work)):
        return
    function, args = taken
    try:
        outcome = done.set_result, function(*args)
    except BaseException as error:
        outcome = done.set_exception, error
    _schedule(done.get_loop(), _settle, done, *outcome)


def _settle(done: asyncio.Future[Any], settle: Callable[[Any], None], outcome: Any) -> None:
    if not done.done():
        settle(outcome)


def _schedule(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *args: Any) -> None:
    """Schedule ``function`` in a loop; do nothing if the loop is closed."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(function, *args)
