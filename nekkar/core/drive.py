"""Drivers: what runs the generators of the ledger and the line, in a thread or in a task.

A generator yields an effect; a driver performs it and sends back what came of it, or throws what was
raised. All of nekkar's decisions are in the generators; all that blocks or awaits is here.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any, TypeVar, cast

from nekkar.core.clock import UNSET, Clock
from nekkar.core.effects import Call, Effects, Event, Pause, Steps, Transact, Wait

if TYPE_CHECKING:
    import anyio

T = TypeVar("T")

THREADS_PER_LOOP = 8


def run(effects: Effects[T], clock: Clock) -> T:
    """Run a line's generator in this thread; blocks."""

    def perform(effect: Transact | Wait) -> Any:
        if isinstance(effect, Wait):
            return clock.sleep_until(effect.until_us, cast(threading.Event, effect.event))
        return run_steps(effect.steps, clock)

    return _drive(effects, perform)


def run_steps(steps: Steps[T], clock: Clock) -> T:
    """Run a ledger's generator in this thread; blocks for as long as its cache calls do."""

    def perform(step: Call | Pause) -> Any:
        if isinstance(step, Call):
            return step.function(*step.args)
        return clock.sleep_until(clock.now_us() + step.us, UNSET)

    return _drive(steps, perform)


async def run_async(effects: Effects[T], clock: Clock, in_process: bool) -> T:
    """Run a line's generator in this task; cache calls run in a worker thread unless ``in_process``."""

    async def perform(effect: Transact | Wait) -> Any:
        if isinstance(effect, Wait):
            return await clock.sleep_until_async(effect.until_us, cast("anyio.Event", effect.event))
        return await run_steps_async(effect.steps, clock, in_process, effect.shielded)

    return await _drive_async(effects, perform)


async def run_steps_async(steps: Steps[T], clock: Clock, in_process: bool, shielded: bool = False) -> T:
    """Run a ledger's generator in a worker thread, or here where its cache answers at once.

    A cancellation does not cut the steps short; ``shielded``: nor does it end the wait for them.
    """
    return run_steps(steps, clock) if in_process else cast(T, await _in_thread(steps, clock, shielded))


class LoopWaker:
    """Sets events of one event loop, from its own thread or from its worker threads."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()

    def __call__(self, events: list[Event]) -> None:
        """Set ``events``; from a worker thread, wait until the loop has done so."""
        import anyio.from_thread

        if threading.get_ident() == self._thread:
            _set_all(events)
        else:
            anyio.from_thread.run_sync(_set_all, events)


def _set_all(events: list[Event]) -> None:
    for event in events:
        event.set()


wake_threads: Callable[[list[Event]], None] = _set_all


async def _in_thread(steps: Steps[Any], clock: Clock, shielded: bool) -> Any:
    import anyio.to_thread

    limiter = of_this_loop("worker threads", lambda: anyio.CapacityLimiter(THREADS_PER_LOOP))  # waits for nobody else's
    with anyio.CancelScope(shield=shielded):
        return await anyio.to_thread.run_sync(run_steps, steps, clock, limiter=limiter)


def of_this_loop(what: str, make: Callable[[], T]) -> T:
    """Return the running event loop's own ``what``, made when first asked for; it goes with the loop."""
    import anyio.lowlevel

    variable = _of_loops.setdefault(what, anyio.lowlevel.RunVar(f"nekkar's {what}"))
    value = variable.get(None)
    if value is None:
        value = make()
        variable.set(value)
    return cast(T, value)


_of_loops: dict[str, Any] = {}


def _drive(generator: Generator[Any, Any, T], perform: Callable[[Any], Any]) -> T:
    try:
        effect = next(generator)
        while True:
            try:
                outcome = perform(effect)
            except BaseException as error:
                effect = generator.throw(error)
            else:
                effect = generator.send(outcome)
    except StopIteration as stop:
        return cast(T, stop.value)
    finally:
        generator.close()


async def _drive_async(generator: Generator[Any, Any, T], perform: Callable[[Any], Awaitable[Any]]) -> T:
    try:
        effect = next(generator)
        while True:
            try:
                outcome = await perform(effect)
            except BaseException as error:
                effect = generator.throw(error)
            else:
                effect = generator.send(outcome)
    except StopIteration as stop:
        return cast(T, stop.value)
    finally:
        generator.close()
