"""The interface of an event loop that drivers need: events for its tasks, waking them, threads for blocking work.

asyncio has an implementation of its own (``loop_asyncio``), in which a waiting task takes less memory and a swap less
time; any other loop uses anyio (``loop_anyio``). Each is imported when such a loop first runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary

from nekkar.core.runtime.effects import Event

if TYPE_CHECKING:
    from nekkar.core.runtime.loop_asyncio import AsyncioLoop

THREADS_PER_LOOP = 8
PAUSE_S, FIRST_PAUSE_S, LAST_PAUSE_S = 0.0003, 0.002, 0.008


class Loop(Protocol):
    """One running event loop. ``own``: nekkar's data for this loop, dropped together with it."""

    own: WeakKeyDictionary[Any, Any]

    @property
    def new_event(self) -> Callable[[], Event]:
        """The function that makes an event for one task to wait on."""

    @property
    def wake(self) -> Callable[[list[Event]], None]:
        """The function that sets such events; it may be called in any thread."""

    def checkpoint(self) -> Awaitable[None]:
        """Let other tasks run, and let a pending cancellation arrive."""

    def until(self, event: Event) -> Awaitable[object]:
        """Wait until ``event`` is set."""

    def in_thread(self, function: Callable[..., Any], *args: Any, shielded: bool) -> Awaitable[Any]:
        """Call ``function`` in one of a few worker threads of nekkar's own, which no other work can occupy.

        It runs to its end even if the task is cancelled; ``shielded``: then the task waits for that end. If no thread
        can be started, as in an ``atexit`` function, it runs in the loop's own thread and blocks the loop.
        """


def pauses() -> Iterator[float]:
    """Yield the seconds to each pause of a loop that waits for a worker thread, without end.

    In a pause the loop blocks for ``PAUSE_S``, so that the thread can run. Beside tasks that always compute it may
    not get the interpreter's lock (the GIL) for seconds: the loop releases the lock in each of its rounds, but takes it
    again before the thread has woken; and a thread demands the lock only where nobody released it for 5 ms
    (``sys.getswitchinterval``).
    """
    after_s = FIRST_PAUSE_S
    while True:
        yield after_s
        after_s = min(2 * after_s, LAST_PAUSE_S)


def this_loop() -> Loop:
    """Return the running event loop."""
    task = _asyncio_task()
    if task is None:
        from nekkar.core.runtime.loop_anyio import this_run

        return this_run()
    native = task.get_loop()
    known: AsyncioLoop | None = getattr(native, _ATTRIBUTE, None)
    if known is None or known.pid != os.getpid():
        from nekkar.core.runtime.loop_asyncio import AsyncioLoop

        known = AsyncioLoop(is_inherited=known is not None)
        setattr(native, _ATTRIBUTE, known)
    return known


# An attribute of the loop, so that both are dropped together. A WeakKeyDictionary would keep a loop alive that was
# dropped while callers waited in it: its values refer to the loop.
_ATTRIBUTE = "_nekkar_loop"


def _asyncio_task() -> Any:
    """Return asyncio's current task; None outside of asyncio, and in a trio loop that runs as asyncio's guest."""
    asyncio = sys.modules.get("asyncio")
    try:
        return asyncio.current_task() if asyncio else None
    except RuntimeError:  # no loop runs here
        return None
