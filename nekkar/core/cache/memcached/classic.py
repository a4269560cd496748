"""memcached's classic commands over one connection, by pymemcache: for servers without meta commands.

An answer does not say to which command it belongs, so a repeated or late answer could pass for the next command's: a
second STORED would make a lost swap look won. If bytes arrive before a command is sent, the connection is closed; no
client can detect wrong bytes that arrive later. No answer has the new token of a stored value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from nekkar.core.cache.base import UNREAD, Unread
from nekkar.core.cache.memcached.meta import ProtocolError, ValueTooLong
from nekkar.core.cache.stream import AnswerTooLong, Stream
from nekkar.core.errors import shown
from nekkar.core.window.codec import LONGEST_STATE

if TYPE_CHECKING:
    from pymemcache.client.base import Client

T = TypeVar("T")


class Classic:
    """A connection. A token is the server's own number, as bytes; that of a missing key is None."""

    def __init__(self, stream: Stream, client: Client) -> None:
        self.stream, self._client = stream, client

    def get(self, key: str) -> bytes | None:
        """Return the value of ``key``."""
        found: bytes | None = self._read(self._ready().get, key)
        return found

    def gets(self, key: str) -> tuple[bytes | None, bytes | None]:
        """Return the value of ``key`` and its token."""
        found: tuple[bytes | None, bytes | None] = self._read(self._ready().gets, key)
        return found

    def swap(self, key: str, value: bytes, token: bytes | None, expire: int) -> Unread | None:
        """Store where the token of ``key`` is ``token``; return UNREAD, or None where it is not."""
        client = self._ready()
        if token is None:
            won = client.add(key, value, expire=expire, noreply=False)
        else:
            won = client.cas(key, value, token, expire=expire, noreply=False)
        return UNREAD if won else None

    def set(self, key: str, value: bytes) -> None:
        """Store, whatever is there."""
        if not self._ready().set(key, value, noreply=False):
            raise ProtocolError(f"did not store key {shown(key)}")

    def delete(self, key: str) -> None:
        """Remove ``key`` where it is set."""
        self._ready().delete(key, noreply=False)

    def seconds(self) -> int | None:
        """Return the server's time in whole seconds since the Unix epoch; None where it does not tell."""
        seconds = self._ready().stats().get(b"time")
        return seconds if isinstance(seconds, int) else None

    def close(self) -> None:
        """Close the connection."""
        self.stream.close()

    def _read(self, command: Callable[[str], T], key: str) -> T:
        try:
            return command(key)
        except AnswerTooLong:
            raise ValueTooLong(LONGEST_STATE + 1, key) from None  # pymemcache does not tell its length

    def _ready(self) -> Client:
        if not self.stream.is_quiet():
            raise ProtocolError("sent something before it was asked, or closed the connection")
        return self._client
