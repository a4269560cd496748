"""httpx and httpx2, sync and async, as one: a test written once runs on each.

A test's body is a coroutine function. On a sync face it runs all the same, its calls just don't wait.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
import httpx
import httpx2

import nekkar.httpx
import nekkar.httpx2
from nekkar.core.limiter import Nekkar
from nekkar.rules import RuleTable

T = TypeVar("T")


@dataclass(frozen=True)
class Face:
    """One library, nekkar's module for it, and ``"sync"`` or the event loop to run under."""

    library: Any
    module: Any
    loop: str

    def __str__(self) -> str:
        return f"{self.library.__name__}-{self.loop}"

    @property
    def is_async(self) -> bool:
        return self.loop != "sync"

    @property
    def client(self) -> Any:
        return self.library.AsyncClient if self.is_async else self.library.Client

    @property
    def transport(self) -> Any:
        return getattr(self.module, "AsyncNekkarTransport" if self.is_async else "NekkarTransport")

    @property
    def base(self) -> Any:
        return self.library.AsyncBaseTransport if self.is_async else self.library.BaseTransport

    @property
    def http_transport(self) -> Any:
        return self.library.AsyncHTTPTransport if self.is_async else self.library.HTTPTransport

    def limit(self, client: T, limiter: Nekkar, rules: RuleTable, **options: Any) -> T:
        limited: T = self.module.limit(client, limiter, rules, **options)
        return limited

    def run(self, body: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Run a test's body to its end."""
        return anyio.run(body, *args, backend="trio" if self.loop == "trio" else "asyncio")

    def function(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return what a client of this face can call back: on an async one, a coroutine function."""

        async def called(*args: Any) -> Any:
            return function(*args)

        return called if self.is_async else function

    def body(self, pieces: list[bytes]) -> Any:
        """Return a request's body that is made while it is sent."""

        async def made() -> AsyncIterator[bytes]:
            for piece in pieces:
                yield piece

        return made() if self.is_async else (piece for piece in pieces)


FACES = [
    Face(library, module, loop)
    for library, module in ((httpx, nekkar.httpx), (httpx2, nekkar.httpx2))
    for loop in ("sync", "asyncio", "trio")
]


async def done(outcome: Any) -> Any:
    """Return what a call returns, sync or async."""
    return await outcome if inspect.isawaitable(outcome) else outcome


@asynccontextmanager
async def entered(client: Any) -> AsyncIterator[Any]:
    """Enter and leave a client, sync or async."""
    if hasattr(client, "__aenter__"):
        async with client:
            yield client
    else:
        with client:
            yield client


async def pieces(response: Any) -> list[bytes]:
    """Read a streamed response, piece by piece, and close it."""
    if hasattr(response.stream, "__aiter__") and not hasattr(response.stream, "__iter__"):
        read = [piece async for piece in response.aiter_raw()]
        await response.aclose()
        return read
    read = list(response.iter_raw())
    response.close()
    return read
