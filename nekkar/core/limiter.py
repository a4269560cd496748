"""The faces of the core: a limiter over one cache, and its limits.

A ``Nekkar`` holds one cache and one clock; calling it with a name and a rate gives a ``Limit``, which
decorates callables, guards ``with`` blocks, and admits single calls. Limits of one name are one limit,
in this process and wherever the cache is shared.
"""

from __future__ import annotations

import functools
import inspect
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, cast

from nekkar.core.cache import BaseCache, MemoryCache, SwapCache, from_url
from nekkar.core.clock import Clock, SystemClock
from nekkar.core.drive import LoopWaker, run, run_async, wake_threads
from nekkar.core.errors import ConfigurationError, shown
from nekkar.core.ledger import Ledger, Slot, cache_key
from nekkar.core.line import Line
from nekkar.core.rate import SECOND, Quota, micros, quota, whole

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Admission:
    """A call's leave to start now.

    ``name``: the limit's. ``cost``: the hits it took. ``at``: the booked slot, Unix time in seconds on
    the limit's clock. ``waited``: seconds from asking to admission.
    """

    name: str
    cost: int
    at: float
    waited: float


class _Shared:
    """What all limits of one name share in one process: the ledger, and a line for threads and each event loop."""

    def __init__(self, name: str, terms: Quota, cache: SwapCache, clock: Clock) -> None:
        self.name, self.quota, self.cache, self.clock = name, terms, cache, clock
        self.ledger = Ledger(cache, cache_key(name), terms, clock)
        self._threads_line = self._new_thread_line()
        self._pid = os.getpid()
        self._loop_lines: Any = None

    def thread_line(self) -> Line:
        """Return the line of this process's threads; a forked child gets one of its own."""
        if self._pid != os.getpid():
            self._threads_line, self._pid = self._new_thread_line(), os.getpid()
        return self._threads_line

    def loop_line(self) -> Line:
        """Return the line of the running event loop."""
        import anyio
        import anyio.lowlevel

        if self._loop_lines is None:
            self._loop_lines = anyio.lowlevel.RunVar(f"nekkar's line for {self.name}")
        line = self._loop_lines.get(None)
        if line is None:
            line = Line(self.name, self.ledger, anyio.Event, LoopWaker())
            self._loop_lines.set(line)
        return cast(Line, line)

    def _new_thread_line(self) -> Line:
        return Line(self.name, self.ledger, threading.Event, wake_threads)


class Limit:
    """A limit by name: decorate with it, enter it, or acquire from it. Made by calling a ``Nekkar``.

    Safe between threads, tasks and event loops, and in a forked child.
    """

    def __init__(self, limiter: Nekkar, shared: _Shared, max_wait: float | None) -> None:
        self._limiter, self._shared, self._max_wait = limiter, shared, max_wait

    @property
    def name(self) -> str:
        """The name under which everything that uses this limit shares it."""
        return self._shared.name

    def __repr__(self) -> str:
        return f"<Limit {self.name!r}: {self._shared.quota}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (self._limiter, self.name, self._shared.quota, self._max_wait)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorate a function or coroutine function: each call waits for its slot, then runs.

        Raises what ``acquire`` raises, in place of the call.
        """
        if not callable(function):
            raise ConfigurationError(
                f"limit {self.name!r} can't decorate {shown(function)}: it is not callable;"
                " put the limit below @classmethod or @property, next to the function"
            )
        if isinstance(function, staticmethod) or _is_async_otherwise(function):
            raise ConfigurationError(
                f"limit {self.name!r} can't decorate {shown(function)}: put the limit below @staticmethod, or inside"
                " what is async but no coroutine function: 'async with limit:'"
            )
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def limited_async(*args: Any, **kwargs: Any) -> Any:
                await self.acquire_async()
                return await function(*args, **kwargs)

            return cast("Callable[P, R]", limited_async)

        @functools.wraps(function)
        def limited(*args: P.args, **kwargs: P.kwargs) -> R:
            self.acquire()
            return function(*args, **kwargs)

        return limited

    def acquire(self, cost: int = 1, max_wait: float | None = None) -> Admission:
        """Block until a call of ``cost`` hits may start, at most ``max_wait`` seconds (default: the limit's).

        Raises WaitTooLong as soon as the slot is known to lie too far off, CacheError where the cache
        does not answer within its timeout, and ConfigurationError for a cost that can never be admitted.
        """
        cost, patience = self._checked(cost, max_wait)
        slot, waited = run(self._shared.thread_line().acquire(cost, patience), self._shared.clock)
        return self._admission(slot, waited)

    async def acquire_async(self, cost: int = 1, max_wait: float | None = None) -> Admission:
        """Wait, in a task, until a call of ``cost`` hits may start; otherwise as ``acquire``.

        A cancelled wait keeps no slot and no place in line.
        """
        import anyio.lowlevel

        cost, patience = self._checked(cost, max_wait)
        await anyio.lowlevel.checkpoint()
        shared = self._shared
        effects = shared.loop_line().acquire(cost, patience)
        slot, waited = await run_async(effects, shared.clock, shared.cache.in_process)
        return self._admission(slot, waited)

    def __enter__(self) -> Admission:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Do nothing: a limit counts starts, not ends."""

    async def __aenter__(self) -> Admission:
        return await self.acquire_async()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Do nothing: a limit counts starts, not ends."""

    def _checked(self, cost: int, max_wait: float | None) -> tuple[int, float | None]:
        if type(cost) is not int or cost != 1:
            cost = whole(cost, f"limit {self.name!r}: cost")
        if cost > self._shared.quota.max_cost:
            raise ConfigurationError(
                f"limit {self.name!r}: cost {cost} can never be admitted under {self._shared.quota};"
                f" give at most {self._shared.quota.max_cost}"
            )
        return cost, self._max_wait if max_wait is None else _patience(max_wait, self.name)

    def _admission(self, slot: Slot, waited_us: int) -> Admission:
        return Admission(self.name, slot.cost, slot.at / SECOND, waited_us / SECOND)


class Nekkar:
    """A rate limiter over one cache; call it to get limits.

    ``cache``: a cache object, a URL (``"memcached://localhost:11211"``, ``"sqlite:///file.db"``,
    ``"memory:"``), or None for this process only. ``clock``: ``"auto"`` or ``"local"`` for the
    machine's clock, or an object with the methods of ``nekkar.core.clock.Clock``.
    Raises ConfigurationError; nothing is connected before the first call.
    """

    def __init__(self, cache: BaseCache | str | None = None, *, clock: Clock | str = "auto") -> None:
        self._cache, self._clock_name = _cache(cache), clock
        self._clock = _clock(clock)
        self._shared: dict[str, _Shared] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Nekkar({self._cache!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _remade, (self._cache, self._clock_name)

    def __call__(
        self,
        name: str,
        rate_limit: int | str,
        *,
        period: float | None = None,
        spacing: float | str = 0.0,
        max_wait: float | None = None,
        margin: float | None = None,
    ) -> Limit:
        """Return the limit ``name``: ``rate_limit`` calls per ``period`` seconds (60 unless given).

        ``rate_limit``: a whole number, or a text such as ``"10/second; 300/minute"`` (and then no
        ``period``). ``spacing``: least seconds between two slots, or ``"even"``. ``max_wait``: the
        longest that a call waits, in seconds; None: as long as it takes. ``margin``: seconds added to
        each window against jitter; the larger of 50 ms and 1/200 of the shortest period, at most 1 s,
        unless given. The same name again must have the same terms, but for ``max_wait``.
        Raises ConfigurationError, naming what was given and what is expected.
        """
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"limit name {shown(name)} is no text; give a non-empty str")
        try:
            terms = quota(rate_limit, period, spacing, margin)
        except ConfigurationError as cause:
            raise ConfigurationError(f"limit {shown(name)}: {cause}") from None
        return self._limit(name, terms, None if max_wait is None else _patience(max_wait, name))

    def _limit(self, name: str, terms: Quota, max_wait: float | None) -> Limit:
        with self._lock:
            shared = self._shared.get(name)
            if shared is None:
                shared = self._shared[name] = _Shared(name, terms, cast(SwapCache, self._cache), self._clock)
        if shared.quota != terms:
            raise ConfigurationError(
                f"limit {shown(name)} is defined already, as {shared.quota.described()}, not {terms.described()};"
                " give both the same terms, or another name"
            )
        return Limit(self, shared, max_wait)


def _is_async_otherwise(function: Callable[..., Any]) -> bool:
    """Whether a wait before calling this would block its event loop: async generators, async ``__call__``."""
    call = getattr(type(function), "__call__", None)  # noqa: B004
    return inspect.isasyncgenfunction(function) or inspect.iscoroutinefunction(call) or inspect.isasyncgenfunction(call)


def _patience(max_wait: Any, name: str) -> float:
    return micros(max_wait, f"limit {shown(name)}: max_wait") / SECOND


def _cache(cache: BaseCache | str | None) -> BaseCache:
    if cache is None:
        return MemoryCache()
    if isinstance(cache, str):
        return from_url(cache)
    if not isinstance(cache, BaseCache):
        raise ConfigurationError(f"cache {shown(cache)} is no BaseCache and no URL; give one of these, or None")
    if not isinstance(cache, SwapCache):
        raise ConfigurationError(f"cache {shown(cache)} can't swap: it lacks gets and cas; see SwapCache")
    return cache


def _clock(clock: Clock | str) -> Clock:
    if clock in ("auto", "local"):
        return SystemClock()
    if isinstance(clock, (str, type)) or not callable(getattr(clock, "now_us", None)):
        raise ConfigurationError(f"clock {shown(clock)} is not known; use 'auto', 'local' or a Clock")
    return clock


def _remade(cache: BaseCache, clock: Clock | str) -> Nekkar:
    return Nekkar(cache, clock=clock)


def _unpickled(limiter: Nekkar, name: str, terms: Quota, max_wait: float | None) -> Limit:
    return limiter._limit(name, terms, max_wait)
