"""A connection with one deadline for a whole command: connecting, sending and the complete answer.

A socket's own timeout starts anew at each ``recv``, so a server that sends its answer byte by byte could block its
caller for ever. Here each step gets only the time left. Rules:

- If a host has several addresses (``localhost`` often has ``::1`` and ``127.0.0.1``), each is tried, within its share
  of the time left.
- ``getaddrinfo`` has no timeout: names are resolved in a thread, which is waited for until the deadline. A resolver
  that hangs keeps that thread until it gives up; a numeric address needs no thread.
- If this process itself was stopped or starved past the deadline, the server is not to blame: an answer that has
  arrived is still read, but none is waited for.
- An answer has a maximum length, so that a server, or whatever answers in its place, can't fill this process's memory.
- Nagle's algorithm is off, and a command is one send, so small writes never wait for each other.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar

from nekkar.core.cache.memcached.address import Address
from nekkar.core.clock import monotonic
from nekkar.core.window.codec import LONGEST_STATE

if TYPE_CHECKING:
    import ssl

LEAST_PART = 0.9
LONGEST_ANSWER = LONGEST_STATE + (1 << 16)

T = TypeVar("T")
_Target = tuple[int, int, Any]  # family, protocol, address


class AnswerTooLong(OSError):
    """An answer is longer than any that nekkar expects."""


class Stream:
    """A connected socket, with the methods that clients use. ``until``: the command's deadline (monotonic)."""

    __slots__ = ("_allowed", "_room", "_socket", "until")

    def __init__(self, connected: socket.socket, until: float) -> None:
        self._socket, self.until = connected, until
        self._allowed = -1.0  # not known
        self._room = LONGEST_ANSWER

    def begin(self, until: float) -> None:
        """Begin a command, which ends by ``until``."""
        self.until, self._room = until, LONGEST_ANSWER

    def sendall(self, data: bytes) -> None:
        """Send all of ``data``; TimeoutError where that is not done by ``until``."""
        left = memoryview(data)
        while left:
            self._allow(_left(self.until))
            left = left[self._socket.send(left) :]

    def recv(self, size: int) -> bytes:
        """Return up to ``size`` bytes, b"" at the end; TimeoutError where none came by ``until``, AnswerTooLong."""
        got = self._received(self._socket.recv, size)
        self._take(len(got))
        return got

    def recv_into(self, buffer: bytearray) -> int:
        """Receive into ``buffer``, as ``recv`` does; return how many bytes."""
        count = self._received(self._socket.recv_into, buffer)
        self._take(count)
        return count

    def is_quiet(self) -> bool:
        """Return whether nothing has arrived; before a command, whatever has arrived can't be its answer."""
        self._socket.setblocking(False)
        self._allowed = 0.0
        try:
            self._socket.recv(1)
        except OSError as error:
            return _is_empty(error)
        return False

    def shutdown(self, how: int) -> None:
        """End the connection, even if others hold it too."""
        self._socket.shutdown(how)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _take(self, count: int) -> None:
        self._room -= count
        if self._room < 0:
            raise AnswerTooLong(f"over {LONGEST_ANSWER:,} bytes came as one answer")

    def _received(self, receive: Callable[[Any], T], into: Any) -> T:
        while True:
            left = max(0.0, self.until - monotonic())
            self._allow(left)
            try:
                return receive(into)
            except OSError as error:
                if isinstance(error, TimeoutError) and left:
                    continue  # the socket was set to wait a part less
                if _is_empty(error):
                    raise TimeoutError("timed out") from None
                raise

    def _allow(self, left: float) -> None:
        """Set the socket's timeout to the time left, or keep one that is a little shorter: setting is a system call."""
        if not left * LEAST_PART <= self._allowed <= left:
            self._allowed = left * (1 + LEAST_PART) / 2
            self._socket.settimeout(self._allowed)


def connect(address: Address, until: float, tls: ssl.SSLContext | None) -> Stream:
    """Return a stream to ``address``, with TLS where a context is given; OSError where that fails by ``until``."""
    targets = _targets(address, until)
    failed: OSError = OSError("no address")
    for index, target in enumerate(targets):
        share = monotonic() + _left(until) / (len(targets) - index)
        try:
            return Stream(_connected(target, share, tls, address.host), until)
        except OSError as error:
            failed = error
    raise failed


def _connected(target: _Target, until: float, tls: ssl.SSLContext | None, host: str) -> socket.socket:
    family, protocol, address = target
    connection = socket.socket(family, socket.SOCK_STREAM, protocol)
    try:
        if protocol == socket.IPPROTO_TCP:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(_left(until))
        connection.connect(address)
        if tls:
            secured = tls.wrap_socket(connection, server_hostname=host, do_handshake_on_connect=False)
            connection = secured
            secured.settimeout(_left(until))
            secured.do_handshake()
    except BaseException:
        connection.close()
        raise
    return connection


def _targets(address: Address, until: float) -> list[_Target]:
    if address.port is None:
        return [(socket.AF_UNIX, 0, address.host)]
    try:
        found = _resolved(address, socket.AI_NUMERICHOST)
    except OSError:
        found = _resolved_by(address, until)
    return [(family, protocol, sockaddr) for family, _, protocol, _, sockaddr in found]


def _resolved(address: Address, flags: int = 0) -> list[Any]:
    return socket.getaddrinfo(
        address.host, address.port, socket.AF_UNSPEC, socket.SOCK_STREAM, socket.IPPROTO_TCP, flags
    )


def _resolved_by(address: Address, until: float) -> list[Any]:
    try:
        return run_with_deadline(lambda: _resolved(address), until)
    except TimeoutError:
        raise TimeoutError(f"the name {address.host!r} was not resolved in time") from None


def run_with_deadline(work: Callable[[], T], until: float) -> T:
    """Return what ``work`` returns, done in a thread; TimeoutError where it is not done by ``until``.

    Where no thread can be started, as in an ``atexit`` function, ``work`` is done here, however long it takes.
    """
    outcome: SimpleQueue[tuple[T] | BaseException] = SimpleQueue()

    def done() -> None:
        try:
            outcome.put((work(),))
        except BaseException as error:
            outcome.put(error)

    try:
        Thread(target=done, name="nekkar-connecting", daemon=True).start()
    except RuntimeError:
        done()
    try:
        found = outcome.get(timeout=_left(until))
    except Empty:
        raise TimeoutError("timed out") from None
    if isinstance(found, BaseException):
        raise found
    return found[0]


def _is_empty(error: OSError) -> bool:
    """Return whether an error says that there is nothing to read on a socket that does not block."""
    return isinstance(error, BlockingIOError) or type(error).__name__ == "SSLWantReadError"


def _left(until: float) -> float:
    left = until - monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left
