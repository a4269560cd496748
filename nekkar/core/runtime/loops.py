"""An event loop, as far as drivers need one: what its tasks wait on, how they are woken, a thread for what blocks.

asyncio's has its own (``loop_asyncio``), so that a task in line takes little room, and a swap a short way; any other
goes by anyio (``loop_anyio``). Each is imported when such a loop runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary

from nekkar.core.runtime.effects import Event

if TYPE_CHECKING:
    from nekkar.core.runtime.loop_asyncio import AsyncioLoop

THREADS_PER_LOOP = 8


class Loop(Protocol):
    """One running event loop. ``own``: what nekkar keeps for it, which goes with it."""

    own: WeakKeyDictionary[Any, Any]

    @property
    def new_event(self) -> Callable[[], Event]:
        """What makes an event for one task to wait on."""

    @property
    def wake(self) -> Callable[[list[Event]], None]:
        """What sets such events, in the loop or in any thread."""

    def checkpoint(self) -> Awaitable[None]:
        """Let other tasks run, and a cancellation come."""

    def until(self, event: Event) -> Awaitable[object]:
        """Wait until ``event`` is set."""

    def in_thread(self, function: Callable[..., Any], *args: Any, shielded: bool) -> Awaitable[Any]:
        """Call ``function`` in a worker thread, one of a few of nekkar's own: nobody else's work holds it up.

        It runs to its end whatever becomes of the task; ``shielded``: a cancelled scope waits for that too. Where no
        thread can be had, as in an ``atexit`` function, the loop's own runs it, and the loop stands still meanwhile.
        """


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


# A loop keeps what is nekkar's as an attribute, so that both go together. A WeakKeyDictionary would keep each loop that
# was dropped with callers in line: they lead back to it.
_ATTRIBUTE = "_nekkar_loop"


def _asyncio_task() -> Any:
    """Return asyncio's current task; None outside of asyncio, and in a trio loop that runs as asyncio's guest."""
    asyncio = sys.modules.get("asyncio")
    try:
        return asyncio.current_task() if asyncio else None
    except RuntimeError:  # no loop runs here
        return None
