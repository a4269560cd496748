"""urllib3: connection pools whose every attempt waits for its slot, and whose every answer is reported.

urllib3 retries inside a pool's ``urlopen``. For each attempt it takes a connection, opens it, and sends; an answer is
reported before urllib3 sleeps and tries again. The request that is being sent says what happens at each of these
steps: see ``Attempts``.

- A pool asks before it takes a connection, which could go stale in the wait, or serve somebody else.
- A pool that blocks hands out few, and waiting for one would make the slot stale: it takes the connection first.
- It confirms once the connection is open, since a name server, a handshake or a proxy may have taken long. A server
  may have closed the connection in the wait for a new slot: then it is opened again.
- urllib3 takes an OSError for a broken connection and tries again. So an error of asking is an ``AttemptRefused``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from weakref import ReferenceType, ref

from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import EmptyPoolError
from urllib3.util.connection import is_connection_dropped

if TYPE_CHECKING:
    from urllib3._base_connection import BaseHTTPConnection
    from urllib3.response import BaseHTTPResponse

T = TypeVar("T")

__all__ = ["AttemptRefused", "Attempts", "attempts", "hook_pool"]


class Attempts(Protocol):
    """The attempts of one request."""

    def ask(self) -> object:
        """Block until the next attempt may start."""

    def confirm(self) -> float:
        """Block until the attempt may start now, its connection being open; return the seconds waited."""

    def report(self, status: int, headers: Any, raw: Any) -> object:
        """Take the answer to the attempt, whose body was not read yet."""


attempts: ContextVar[Attempts | None] = ContextVar("nekkar's attempts", default=None)


class AttemptRefused(EmptyPoolError):
    """The attempt may not start, for the reason ``error``; urllib3 raises it at once, and holds no connection."""

    def __init__(self, error: Exception, pool: HTTPConnectionPool | None = None) -> None:
        super().__init__(pool, str(error))  # type: ignore[arg-type]  # None where it was pickled, as urllib3 does itself
        self.args = (error,)
        self.error = error

    def __str__(self) -> str:
        return str(self.error)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.args


def hook_pool(pool: HTTPConnectionPool) -> HTTPConnectionPool:
    """Let each attempt in ``pool`` ask, and tell what came back; return the pool. Twice is as once.

    The pool itself is changed, not the classes that a manager makes pools of: it may be of any class, and be
    in use already. It is held weakly, since urllib3 closes the connections of a pool when the last reference goes.
    """
    pool._get_conn = partial(_get_conn, ref(pool))  # type: ignore[method-assign]
    pool._validate_conn = partial(_validate_conn, ref(pool))  # type: ignore[method-assign]
    pool._make_request = partial(_make_request, ref(pool))  # type: ignore[method-assign]
    return pool


def _get_conn(held: ReferenceType[HTTPConnectionPool], timeout: float | None = None) -> BaseHTTPConnection:
    pool = _pool(held)
    request, take = attempts.get(), partial(type(pool)._get_conn, pool, timeout)
    if request is None:
        return take()
    if not pool.block:
        _refusable(pool, request.ask)
        return take()
    connection = take()
    with _returned_if_refused(pool, connection):
        _refusable(pool, request.ask)
    if is_connection_dropped(connection):
        connection.close()  # connects again when it is used
    return connection


def _validate_conn(held: ReferenceType[HTTPConnectionPool], connection: BaseHTTPConnection) -> None:
    """Open the connection, as urllib3 does at this point for HTTPS alone, and confirm the attempt."""
    pool, request = _pool(held), attempts.get()
    type(pool)._validate_conn(pool, connection)
    if request is None:
        return
    is_tunnel = bool(getattr(connection, "_tunnel_host", None))
    while True:
        if getattr(connection, "sock", None) is None:
            connection.connect()
        with _returned_if_refused(pool, connection):
            waited = _refusable(pool, request.confirm)
        if not waited or not is_connection_dropped(connection):
            return
        connection.close()
        if is_tunnel:
            pool._prepare_proxy(connection)


def _make_request(held: ReferenceType[HTTPConnectionPool], *args: Any, **kwargs: Any) -> BaseHTTPResponse:
    pool = _pool(held)
    response = type(pool)._make_request(pool, *args, **kwargs)
    if request := attempts.get():
        request.report(response.status, response.headers, response)
    return response


def _pool(held: ReferenceType[HTTPConnectionPool]) -> HTTPConnectionPool:
    pool = held()
    assert pool is not None, "the caller holds the pool"
    return pool


def _refusable(pool: HTTPConnectionPool, step: Callable[[], T]) -> T:
    try:
        return step()
    except Exception as error:
        raise AttemptRefused(error, pool) from error


@contextmanager
def _returned_if_refused(pool: HTTPConnectionPool, connection: BaseHTTPConnection) -> Iterator[None]:
    """Give the connection of a refused attempt back: urllib3 thinks that an ``AttemptRefused`` has none."""
    try:
        yield
    except AttemptRefused:
        pool._put_conn(connection)
        raise
    except BaseException:  # an interrupt: urllib3 gives the pool a place for a new one
        connection.close()
        raise
