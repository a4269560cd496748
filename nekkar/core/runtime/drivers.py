"""Drivers: they run the generators of the ledger and of the wait queue, in a thread or in a task.

A generator yields an effect; its driver performs it, and sends back the result or throws the exception. All decisions
of nekkar are in the generators; everything that blocks or awaits is here.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar, cast
from weakref import ref

from nekkar.core.clock import UNSET, Clock, nap
from nekkar.core.errors import ConfigurationError
from nekkar.core.runtime.effects import (
    Backoff,
    CacheCall,
    CacheSteps,
    Checkpoint,
    Event,
    QueueSteps,
    RunSteps,
    WaitUntil,
    has_ended,
)
from nekkar.core.runtime.loops import Loop

if TYPE_CHECKING:
    import anyio

T = TypeVar("T")


LOOK_AGAIN_S = 1.0
MOST_NESTED = 32  # limited calls inside each other, well below what Python's stack holds
MOST_INSIDE = 1024  # limited calls inside the cache commands of one booking


class Signal(threading.Event):
    """An event for one thread to wait on, made of a single lock: ``wait`` acquires it, ``set`` releases it.

    ``threading.Event`` has an inner lock, which it takes in Python code. If a signal handler raises at that point, the
    lock stays taken, and ``set`` then blocks the thread that wakes the others. This class has no second lock.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def __repr__(self) -> str:
        return f"<Signal: {'set' if self.is_set() else 'unset'}>"

    def is_set(self) -> bool:
        """Return whether ``set`` was called."""
        return not self._lock.locked()

    def set(self) -> None:
        """Wake the thread that waits; a second time does nothing."""
        with suppress(RuntimeError):  # released already
            self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        """Block until it is set, but for ``timeout`` seconds at most; return False only if these have passed.

        Returns True after LOOK_AGAIN_S even if it is not set, so a lost wake-up costs no more than that: the caller
        looks at its state again.
        """
        longest = LOOK_AGAIN_S if timeout is None else min(timeout, LOOK_AGAIN_S)
        if not self._lock.acquire(timeout=longest):
            return longest == LOOK_AGAIN_S
        self.set()
        return True


class _Thread(threading.local):
    """What a thread runs: the generators of its calls, the outermost first. Some may have ended.

    ``begun``: how many calls it has begun.
    """

    calls: tuple[ref[QueueSteps[Any]], ...] = ()
    begun = 0


_thread = _Thread()


def is_nested() -> bool:
    """Return whether this thread already runs a wait queue's generator.

    Then the call comes from inside another call: from a signal handler, a finaliser, a listener or a log handler.
    """
    return bool(_thread.calls) and bool(_calls_of_this_thread())


def _calls_of_this_thread() -> tuple[ref[QueueSteps[Any]], ...]:
    """Return the calls that this thread makes, but for those that an interrupt ended before they could say so."""
    return tuple(call for call in _thread.calls if not has_ended(call))


def run(effects: QueueSteps[T], clock: Clock) -> T:
    """Run a wait queue's generator in this thread; blocks.

    Raises ConfigurationError inside ``MOST_NESTED`` others: a signal handler that is called faster than its own limited
    call ends would nest until the stack is full.
    """
    outer = _calls_of_this_thread() if _thread.calls else ()
    if len(outer) >= MOST_NESTED:
        effects.close()
        raise ConfigurationError(
            f"{MOST_NESTED} limited calls wait inside each other in one thread: a signal handler, listener or finaliser"
            " makes a limited call, and is called again before that ends; hand the call to another thread"
        )
    _thread.begun += 1
    # The tuple is replaced whole. A signal handler may make calls between any two lines; it leaves what it found.
    _thread.calls = (*outer, ref(effects))
    try:
        return run_steps(effects, clock)
    finally:
        _thread.calls = outer


def run_steps(steps: QueueSteps[T] | CacheSteps[T], clock: Clock) -> T:
    """Run a generator in this thread; blocks for as long as its waits, or its cache calls, do.

    Raises ConfigurationError where ``MOST_INSIDE`` limited calls were made inside its cache calls: where each writes
    the state of the same limit, the steps would start over without end.
    """
    inside = 0
    try:
        effect = next(steps)
        while True:
            outcome: Any = None
            try:
                if isinstance(effect, CacheCall):
                    if inside >= MOST_INSIDE:  # before a command: what was sent has its answer
                        raise _endless(effect, inside)
                    begun = _thread.begun
                    outcome = effect()
                    inside += _thread.begun - begun
                elif isinstance(effect, RunSteps):
                    outcome = run_steps(effect.steps, clock)
                elif isinstance(effect, WaitUntil):
                    (effect.clock or clock).sleep_until(effect.until_us, cast("threading.Event", effect.event))
                elif isinstance(effect, Backoff):
                    UNSET.wait(effect.us / 1e6)  # real time: it is the swaps of others that this lets pass
            except BaseException as error:
                effect = steps.throw(error)
            else:
                effect = steps.send(outcome)
    except StopIteration as stop:
        returned: T = stop.value
        return returned
    finally:
        steps.close()


def _endless(command: CacheCall, calls: int) -> ConfigurationError:
    name = getattr(command.func, "__qualname__", "a command")
    return ConfigurationError(
        f"{calls} limited calls were made inside the cache commands of one booking; {name} would be its next one; never"
        " call a limit in a command of its cache, nor in a signal handler that comes faster than such a command ends"
    )


async def run_async(effects: QueueSteps[T], clock: Clock, loop: Loop, in_process: bool) -> T:
    """Run a wait queue's generator in this task; cache calls run in a worker thread unless ``in_process``.

    This is one coroutine, not several nested ones: thousands of tasks may wait, and each frame and local costs memory.
    """
    try:
        effect = next(effects)
        while True:
            try:
                outcome: Any = await _performed(effect, clock, loop, in_process)
            except BaseException as error:
                effect = effects.throw(error)
            else:
                effect = effects.send(outcome)
    except StopIteration as stop:
        return cast(T, stop.value)
    finally:
        effects.close()


def _performed(effect: RunSteps | WaitUntil | Checkpoint, clock: Clock, loop: Loop, in_process: bool) -> Awaitable[Any]:
    """Return what a task awaits for an effect."""
    if isinstance(effect, RunSteps):
        at_once = in_process if effect.in_process is None else effect.in_process
        return run_steps_async(effect.steps, clock, loop, at_once, effect.shielded)
    if isinstance(effect, Checkpoint):
        return loop.checkpoint()
    event = cast("anyio.Event", effect.event)
    if effect.until_us is not None:
        return (effect.clock or clock).sleep_until_async(effect.until_us, event)
    return nap(LOOK_AGAIN_S, event) if effect.is_watchful else loop.until(event)  # no timer, unless it is watchful


async def run_steps_async(
    steps: CacheSteps[T], clock: Clock, loop: Loop, in_process: bool, shielded: bool = False
) -> T:
    """Run a ledger's generator in a worker thread, or in this thread if ``in_process`` (its cache never blocks).

    A cancellation never stops the steps; ``shielded``: it does not end the wait for them either.
    """
    if in_process:
        return run_steps(steps, clock)
    return cast(T, await loop.in_thread(run_steps, steps, clock, shielded=shielded))


def wake_threads(events: list[Event]) -> None:
    """Set events of threads, in any thread."""
    for event in events:
        event.set()
