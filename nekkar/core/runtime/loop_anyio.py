"""The event loop of tasks that run under anyio, such as trio's."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, cast
from weakref import WeakKeyDictionary

import anyio
import anyio.lowlevel
import anyio.to_thread

from nekkar.core.clock import UNSET, ticks
from nekkar.core.quota import SECOND
from nekkar.core.runtime.effects import Event
from nekkar.core.runtime.loops import PAUSE_S, THREADS_PER_LOOP, pauses


class AnyioLoop:
    """A running event loop; to be used in its own thread."""

    def __init__(self) -> None:
        self.own: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
        self.new_event: Callable[[], Event] = anyio.Event
        self.wake: Callable[[list[Event]], None] = Waker()
        self._paused_at = 0
        self._limiter = anyio.CapacityLimiter(THREADS_PER_LOOP)

    def checkpoint(self) -> Awaitable[None]:
        """Let other tasks run, and let a pending cancellation arrive."""
        return anyio.lowlevel.checkpoint()

    def until(self, event: Event) -> Awaitable[object]:
        """Wait until ``event`` is set."""
        return cast(anyio.Event, event).wait()

    async def in_thread(self, function: Callable[..., Any], *args: Any, shielded: bool) -> Any:
        """Call ``function`` in a worker thread; it runs to its end even if the task is cancelled."""
        started = False

        def work() -> Any:
            nonlocal started
            started = True
            return function(*args)

        failed: BaseException | None = None
        with anyio.CancelScope(shield=shielded):  # around the group, which raises a cancellation as it ends
            async with anyio.create_task_group() as group:
                group.start_soon(self._give_way)
                try:
                    returned = await anyio.to_thread.run_sync(work, limiter=self._limiter)
                except (anyio.get_cancelled_exc_class(), GeneratorExit):
                    raise
                except BaseException as error:  # raised in the group it would come out as a group of errors
                    failed = error
                group.cancel_scope.cancel()
        if failed is None:
            return returned
        if not started and isinstance(failed, RuntimeError):
            return function(*args)  # no thread can start: the interpreter is ending, or the system has no more threads
        try:
            raise failed
        finally:
            del failed  # which refers to this frame

    async def _give_way(self) -> None:
        """Block the loop for an instant, again and again until cancelled: see ``pauses`` in loops.py.

        Each call in a thread has a task for this. They share the pauses, however many they are.
        """
        for after_s in pauses():
            await anyio.sleep(after_s)
            if ticks() >= self._paused_at + after_s * SECOND / 2:
                UNSET.wait(PAUSE_S)
                self._paused_at = ticks()


class Waker:
    """Sets events of one event loop, from any thread."""

    def __init__(self) -> None:
        from trio.lowlevel import current_trio_token  # anyio, which runs on asyncio or trio, has this only from 4.11

        self._thread = threading.get_ident()
        self._soon = current_trio_token().run_sync_soon

    def __call__(self, events: list[Event]) -> None:
        """Set ``events``: at once in the loop's own thread, else soon; do nothing if the loop has ended."""
        if threading.get_ident() == self._thread:
            _set_all(events)
        else:
            with suppress(RuntimeError):
                self._soon(_set_all, events)


def this_run() -> AnyioLoop:
    """Return the running loop's object; the first call makes it."""
    known = _known.get(None)
    if known is None:
        known = AnyioLoop()
        _known.set(known)
    return known


_known: anyio.lowlevel.RunVar[AnyioLoop | None] = anyio.lowlevel.RunVar("nekkar's loop")


def _set_all(events: list[Event]) -> None:
    for event in events:
        event.set()
