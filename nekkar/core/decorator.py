"""Decorating: each call waits for its slot, then runs, whatever kind of callable it is.

The slot is taken when the body would start: a generator's at its first item, a coroutine's when it is
awaited. A wait never blocks an event loop: what is async waits in its task.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import aclosing
from typing import Any, Protocol

from nekkar.core.errors import ConfigurationError, shown


class Admitting(Protocol):
    """What admits a call: a limit."""

    @property
    def name(self) -> str: ...
    def acquire(self) -> Any: ...
    async def acquire_async(self) -> Any: ...


def decorated(limit: Admitting, function: Any) -> Any:
    """Return ``function`` limited, a static or class method as what it was; ConfigurationError for no callable."""
    if isinstance(function, staticmethod | classmethod):
        return type(function)(decorated(limit, function.__func__))
    if not callable(function):
        raise ConfigurationError(
            f"limit {limit.name!r} can't decorate {shown(function)}: it is not callable;"
            " put the limit below @property, next to the function"
        )
    for is_kind, limited in _KINDS:
        if is_kind(function) or is_kind(getattr(type(function), "__call__", None)):  # noqa: B004
            return functools.wraps(function)(limited(limit, function))
    return functools.wraps(function)(_call(limit, function))


def _call(limit: Admitting, function: Callable[..., Any]) -> Callable[..., Any]:
    def limited(*args: Any, **kwargs: Any) -> Any:
        limit.acquire()
        return function(*args, **kwargs)

    return limited


def _coroutine(limit: Admitting, function: Callable[..., Any]) -> Callable[..., Any]:
    async def limited(*args: Any, **kwargs: Any) -> Any:
        await limit.acquire_async()
        return await function(*args, **kwargs)

    return limited


def _generator(limit: Admitting, function: Callable[..., Any]) -> Callable[..., Any]:
    def limited(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        limit.acquire()
        return (yield from function(*args, **kwargs))

    return limited


def _async_generator(limit: Admitting, function: Callable[..., Any]) -> Callable[..., Any]:
    async def limited(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        await limit.acquire_async()
        async with aclosing(function(*args, **kwargs)) as items:
            async for item in items:
                yield item

    return limited


_KINDS: tuple[tuple[Callable[[Any], bool], Callable[[Admitting, Any], Any]], ...] = (
    (inspect.iscoroutinefunction, _coroutine),
    (inspect.isasyncgenfunction, _async_generator),
    (inspect.isgeneratorfunction, _generator),
)
