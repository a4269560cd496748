"""The interface of a cache: ``BaseCache``, and what a cache may do beyond it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import Enum
from typing import Any, Final, Protocol, runtime_checkable

from nekkar.core.errors import CorruptLog, shown
from nekkar.core.window.codec import LONGEST_STATE


class BaseCache(ABC):
    """Four methods over ``str`` keys and values; nothing expires. Thread-safe.

    Each blocks for a bounded time and raises CacheError when the cache did not answer.
    """

    @abstractmethod
    def add(self, key: str, value: str) -> bool:
        """Set ``key`` only if it is not set already, as one atomic step; return whether it was set now."""

    @abstractmethod
    def get(self, key: str) -> str | None:
        """Return the value of ``key``, or None where there is none."""

    @abstractmethod
    def set(self, key: str, value: str) -> None:
        """Set ``key`` to ``value``, whatever was there."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove ``key``; nothing happens where it is not set."""


def text(value: Any, where: str, key: str) -> str:
    """Return a stored value as text; raise CorruptLog if it is not UTF-8, so nekkar did not write it."""
    try:
        return str(value, "utf-8")
    except (UnicodeDecodeError, TypeError):
        raise CorruptLog(
            f"{where}: key {shown(key)} holds {shown(value)}, which is not UTF-8 text; delete the key"
        ) from None


def too_long(size: int, where: str, key: str) -> CorruptLog:
    """Return the error for a value of ``size`` bytes, longer than any log; the caller need not read all of it."""
    return CorruptLog(
        f"{where}: key {shown(key)} holds {size:,} bytes, and a limit's log has at most {LONGEST_STATE:,};"
        " delete the key, or call reset() of the limit"
    )


class Unread(Enum):
    """The token of a value just written by a cache that can't tell its token. No swap wins with it: read first."""

    UNREAD = "unread"


UNREAD: Final = Unread.UNREAD


@runtime_checkable
class SwapCache(Protocol):
    """A cache that can compare and swap. ``in_process``: it answers at once, without I/O."""

    in_process: bool

    def gets(self, key: str) -> tuple[bytes | None, Any]:
        """Return the value of ``key`` (None where there is none) and a token for ``cas``."""

    def cas(self, key: str, value: bytes, token: Any, ttl: int) -> Any:
        """Write ``value`` for ``ttl`` seconds if ``key`` is as when ``token`` was read.

        Return the new token, with which the next ``cas`` needs no read; UNREAD if the cache can't tell it. Return None
        if somebody else wrote in between. After an error the value may or may not have been written.
        """


@runtime_checkable
class TellsTime(Protocol):
    """A cache whose server tells the time of its clock, so that all processes which share it use that clock."""

    def tell_time(self, now: Callable[[], int]) -> tuple[int, int, int] | None:
        """Return (before, server, after): the server's clock in µs since the epoch, bracketed by ``now()`` in µs.

        None where this server can't tell. Blocks for at most the cache's timeout; raises CacheError where it is away.
        """
