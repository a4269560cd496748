"""Limiting callables and blocks: each call waits for its slot, then runs, whatever kind of callable it is.

The slot is taken when the body would start: a generator's at its first item, a coroutine's when it is
awaited. A wait never blocks an event loop: what is async waits in its task.
"""

from __future__ import annotations

import functools
import inspect
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Generator, Mapping
from contextlib import aclosing
from typing import Any, Generic, ParamSpec, TypeVar, cast

from nekkar.core.errors import CacheError, ConfigurationError, shown

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A")

UNSETTLED = "limit %r: a call counts as it was reserved, since its settlement could not be written: %s"

log = logging.getLogger("nekkar")


class _Guard(ABC, Generic[A]):
    """What a limit, or several limits as one, do around callables and blocks; ``acquire`` admits each call."""

    @property
    @abstractmethod
    def name(self) -> str: ...
    @abstractmethod
    def acquire(
        self, cost: int | Mapping[str, int] = 1, max_wait: float | None = None, headroom: float | None = None
    ) -> A: ...
    @abstractmethod
    async def acquire_async(
        self, cost: int | Mapping[str, int] = 1, max_wait: float | None = None, headroom: float | None = None
    ) -> A: ...

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorate a callable: each call waits for its slot, then runs.

        Functions, methods, static and class methods, callable objects; coroutine functions wait in their
        task; a generator, sync or async, takes its slot at its first item (what is sent into an async one
        is not passed on). Raises ConfigurationError for what can't be called; the calls raise what
        ``acquire`` raises.
        """
        return cast("Callable[P, R]", _decorated(self, function))

    def metered(
        self, cost: Callable[P, int | Mapping[str, int]], settle: Callable[[Any], Mapping[str, int]] | None = None
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Return a decorator for calls whose cost depends on their arguments, and is settled by their result.

        ``cost``: called with the arguments of each call, returns what it costs. ``settle``: called with the result,
        returns what it used, such as ``{"tokens": 612}``. A call that raises settles nothing: its cost counts whole.
        A settlement that the cache does not take is logged. The calls raise what ``acquire`` raises, too.
        """
        return _metered(self, cost, settle)

    def __enter__(self) -> A:
        return self.acquire()

    def __exit__(self, *exception: object) -> None:
        """Do nothing: a limit counts starts, not ends."""

    async def __aenter__(self) -> A:
        return await self.acquire_async()

    async def __aexit__(self, *exception: object) -> None:
        """Do nothing: a limit counts starts, not ends."""


def _decorated(limit: _Guard[Any], function: Any) -> Any:
    """Return ``function`` limited, a static or class method as what it was; ConfigurationError for no callable."""
    if isinstance(function, staticmethod | classmethod):
        return type(function)(_decorated(limit, function.__func__))
    if not callable(function):
        raise ConfigurationError(
            f"limit {limit.name!r} can't decorate {shown(function)}: it is not callable;"
            " put the limit below @property, next to the function"
        )
    for is_kind, limited in _KINDS:
        if is_kind(function) or is_kind(getattr(type(function), "__call__", None)):  # noqa: B004
            return functools.wraps(function)(limited(limit, function))
    return functools.wraps(function)(_call(limit, function))


def _call(limit: _Guard[Any], function: Callable[..., Any]) -> Callable[..., Any]:
    def limited(*args: Any, **kwargs: Any) -> Any:
        limit.acquire()
        return function(*args, **kwargs)

    return limited


def _coroutine(limit: _Guard[Any], function: Callable[..., Any]) -> Callable[..., Any]:
    async def limited(*args: Any, **kwargs: Any) -> Any:
        await limit.acquire_async()
        return await function(*args, **kwargs)

    return limited


def _generator(limit: _Guard[Any], function: Callable[..., Any]) -> Callable[..., Any]:
    def limited(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        limit.acquire()
        return (yield from function(*args, **kwargs))

    return limited


def _async_generator(limit: _Guard[Any], function: Callable[..., Any]) -> Callable[..., Any]:
    async def limited(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        await limit.acquire_async()
        async with aclosing(function(*args, **kwargs)) as items:
            async for item in items:
                yield item

    return limited


_KINDS: tuple[tuple[Callable[[Any], bool], Callable[[_Guard[Any], Any], Any]], ...] = (
    (inspect.iscoroutinefunction, _coroutine),
    (inspect.isasyncgenfunction, _async_generator),
    (inspect.isgeneratorfunction, _generator),
)


def _metered(
    limit: _Guard[Any], cost: Callable[..., Any], settle: Callable[[Any], Mapping[str, int]] | None
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator: a call costs ``cost(*args, **kwargs)``, and its result is settled by ``settle(result)``."""
    for what, function in (("cost", cost), ("settle", settle or cost)):
        if not callable(function):
            raise ConfigurationError(f"limit {limit.name!r}: {what} {shown(function)} is not callable; give a function")

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        whole = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
        if whole or isinstance(function, staticmethod | classmethod) or not callable(function):
            raise ConfigurationError(
                f"limit {limit.name!r} can't meter {shown(function)}: give a function or a coroutine function; for"
                " others, acquire and settle in their bodies"
            )
        is_async = inspect.iscoroutinefunction(function)
        limited: Any = _metered_coroutine if is_async else _metered_call
        return functools.wraps(function)(limited(limit, function, cost, settle))

    return decorate


def _metered_call(limit: _Guard[Any], function: Any, cost: Any, settle: Any) -> Callable[..., Any]:
    def limited(*args: Any, **kwargs: Any) -> Any:
        admission = limit.acquire(cost(*args, **kwargs))
        result = function(*args, **kwargs)
        if settle:
            used = settle(result)
            try:
                admission.settle(**used)
            except CacheError as error:
                log.warning(UNSETTLED, limit.name, error)
        return result

    return limited


def _metered_coroutine(limit: _Guard[Any], function: Any, cost: Any, settle: Any) -> Callable[..., Any]:
    async def limited(*args: Any, **kwargs: Any) -> Any:
        admission = await limit.acquire_async(cost(*args, **kwargs))
        result = await function(*args, **kwargs)
        if settle:
            used = settle(result)
            try:
                await admission.settle_async(**used)
            except CacheError as error:
                log.warning(UNSETTLED, limit.name, error)
        return result

    return limited
