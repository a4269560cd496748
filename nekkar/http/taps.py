"""Taps of httpx's and httpx2's responses: the stream of a body passes through, and is read on its way.

- The user gets each piece as it came, when it came. What was read ahead comes first, and an error of that in its place.
- ``close`` ends the measuring, once the connection is given back: a response closes its stream at the end of its body.
- This module names no class of either library: each face makes its taps streams of its library.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from nekkar.http.bodies import MOST_AHEAD
from nekkar.http.inspection import Measuring


class Whole:
    """A body that was read before nekkar had it: a mock's, say. It is decoded already."""

    is_whole = True

    def __init__(self, content: bytes) -> None:
        self._content = content

    def tap(self, measuring: Measuring) -> None:
        """Have the body measured."""
        measuring.feed(self._content)

    def read_ahead(self) -> bytes | None:
        """Return the body, None where it is longer than what is read ahead."""
        return self._content if len(self._content) <= MOST_AHEAD else None

    async def read_ahead_async(self) -> bytes | None:
        """Return the body; see ``read_ahead``."""
        return self.read_ahead()


class Tap:
    """What taps of sync and async streams share."""

    is_whole = False

    def __init__(self, stream: Any) -> None:
        self._stream: Any = stream
        self._rest: Any = None  # of the stream, once some of it was read ahead
        self._measuring: Measuring | None = None
        self._ahead: list[bytes] = []
        self._size = 0  # of what was read ahead
        self._error: Exception | None = None

    def tap(self, measuring: Measuring) -> None:
        """Have the body measured as it passes."""
        self._measuring = measuring

    def _pass(self, piece: bytes) -> bytes:
        if self._measuring:
            self._measuring.feed(piece)
        return piece

    def _known(self) -> Iterator[bytes]:
        """Yield what was read ahead, and raise what reading it raised."""
        for piece in self._ahead:
            yield self._pass(piece)
        if self._error:
            raise self._error

    def _is_enough(self, piece: bytes) -> bool:
        """Keep a piece that was read ahead; return whether no more is to be."""
        self._ahead.append(piece)
        self._size += len(piece)
        return self._size > MOST_AHEAD

    def _whole(self) -> bytes | None:
        return b"".join(self._ahead) if self._error is None and self._size <= MOST_AHEAD else None


class SyncTap(Tap):
    """A sync stream that is read on its way."""

    def read_ahead(self) -> bytes | None:
        """Read the body; None where it is longer than 64 kB, or reading it raised. Blocks."""
        self._rest = iter(self._stream)
        try:
            for piece in self._rest:
                if self._is_enough(piece):
                    break
        except Exception as error:
            self._error = error
        return self._whole()

    def __iter__(self) -> Iterator[bytes]:
        yield from self._known()
        for piece in self._stream if self._rest is None else self._rest:
            yield self._pass(piece)

    def close(self) -> None:
        """Close the stream, and settle what it cost."""
        self._stream.close()
        if self._measuring:
            self._measuring.settle()


class AsyncTap(Tap):
    """An async stream that is read on its way."""

    async def read_ahead_async(self) -> bytes | None:
        """Read the body, from a task; see ``SyncTap.read_ahead``."""
        self._rest = aiter(self._stream)
        try:
            async for piece in self._rest:
                if self._is_enough(piece):
                    break
        except Exception as error:
            self._error = error
        return self._whole()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._known():
            yield piece
        async for piece in self._stream if self._rest is None else self._rest:
            yield self._pass(piece)

    async def aclose(self) -> None:
        """Close the stream, and settle what it cost."""
        if hasattr(self._rest, "aclose"):
            await self._rest.aclose()
        await self._stream.aclose()
        if self._measuring:
            await self._measuring.settle_async()
