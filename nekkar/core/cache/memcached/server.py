"""One memcached server: its connections, the deadline of a command, and the errors for its failures.

Rules:

- A command ends within ``timeout``, including connecting and a second try: it has one deadline.
- If a read gets an idle connection that was closed meanwhile, or that has bytes of another answer, it is tried once
  more on a new connection. A write is not: the first try may have been performed.
- A token belongs to one ``generation`` of this server's connections (pool.py), so no token survives a restart.
- The server's time, in seconds, is asked for once per ``generation``: memcached's clock does not step while it runs.
- Meta commands are used if the server's version has them, until it refuses one; classic commands otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from nekkar.core.cache.base import too_long
from nekkar.core.cache.memcached.address import Address
from nekkar.core.cache.memcached.classic import Classic
from nekkar.core.cache.memcached.meta import Meta, ProtocolError, UnknownCommand, ValueTooLong, supports_meta
from nekkar.core.cache.pool import Pool
from nekkar.core.cache.stream import Stream, connect
from nekkar.core.clock import monotonic
from nekkar.core.errors import CacheError, plain

if TYPE_CHECKING:
    import ssl

    from pymemcache.client.base import Client

T = TypeVar("T")
Connection = Meta | Classic


class Server:
    """A server at an address; ``tls``: a context, True for one that trusts what the system trusts, or None."""

    def __init__(self, address: Address, timeout: float, tls: ssl.SSLContext | bool | None) -> None:
        self.address, self.timeout, self._tls = address, timeout, tls
        self._refuses = False
        self._ahead: tuple[int, int | None] = (-1, None)  # the generation, and how far its seconds are ahead of ours
        self.pool: Pool[Connection] = Pool(self._connect, lambda connection: connection.close())

    def read(self, command: Callable[[Connection], T]) -> T:
        """Run a command that may be repeated."""
        until = monotonic() + self.timeout
        kept = self.pool.has_idle
        try:
            return self._run(command, until)
        except CacheError as error:
            cause = error.__cause__
            if not isinstance(cause, UnknownCommand) and (not kept or isinstance(cause, TimeoutError | ValueTooLong)):
                raise
        return self._run(command, until)

    def write(self, command: Callable[[Connection], T]) -> T:
        """Run a command once."""
        return self._run(command, monotonic() + self.timeout)

    def date(self, connection: Connection, seconds: int) -> int | None:
        """Return the server's Unix time ``seconds`` from now; None if it does not tell its time."""
        generation, ahead = self._ahead
        if generation != self.pool.generation:
            generation, seconds_there = self.pool.generation, connection.seconds()
            ahead = None if seconds_there is None else seconds_there - int(monotonic())
            self._ahead = generation, ahead
        return None if ahead is None else int(monotonic()) + ahead + seconds

    def connect(self) -> Stream:
        """Return a new connection outside the pool; raise OSError if it takes longer than the timeout."""
        until = monotonic() + self.timeout
        return connect(self.address, until, self._context())

    def _run(self, command: Callable[[Connection], T], until: float) -> T:
        def timed(connection: Connection) -> T:
            connection.stream.begin(until)
            return command(connection)

        try:
            return self.pool.run(timed, until)
        except ValueTooLong as cause:
            raise too_long(cause.size, f"memcached at {self.address}", cause.key) from cause
        except Exception as cause:
            sentence = self._sentence(cause)
            if sentence is None:
                raise
            raise CacheError(f"memcached at {self.address}{sentence}") from cause

    def _sentence(self, cause: Exception) -> str | None:
        """Return a sentence on the server for an error; None if the error is not the server's."""
        if isinstance(cause, TimeoutError):
            remedy = "see that it runs and can be reached, or allow a longer timeout"
            return f" did not answer within {plain(self.timeout)} s; {remedy}"
        self._refuses |= isinstance(cause, UnknownCommand)
        if isinstance(cause, ProtocolError):
            return f" {cause}; that connection is closed, and the call may be repeated"
        if isinstance(cause, OSError | ValueError | LookupError) or _is_pymemcaches(cause):
            return f": {type(cause).__name__}: {cause}; see that it runs and can be reached"
        return None

    def _connect(self, until: float) -> Connection:
        meta = self._meta(until)
        try:
            version = meta.version()
            if version is None:  # a server that does not know the command may hang up
                meta.close()
                meta = self._meta(until)
            elif supports_meta(version) and not self._refuses:
                return meta
            return Classic(meta.stream, self._client(meta.stream))
        except BaseException:
            meta.close()
            raise

    def _meta(self, until: float) -> Meta:
        return Meta(connect(self.address, until, self._context()))

    def _client(self, stream: Stream) -> Client:
        """Return pymemcache's client on a connection of ours: its own has a timeout for each ``recv`` alone."""
        from pymemcache.client.base import Client  # a slow import, which only old servers need

        client = Client((self.address.host, self.address.port), default_noreply=False, ignore_exc=False)
        client.sock = stream
        return client

    def _context(self) -> ssl.SSLContext | None:
        if self._tls is not True:
            return self._tls or None
        import ssl

        self._tls = ssl.create_default_context()
        return self._tls


def _is_pymemcaches(error: Exception) -> bool:
    from pymemcache.exceptions import MemcacheError

    return isinstance(error, MemcacheError)
