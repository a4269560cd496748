"""urllib3: connection pools whose every attempt asks first, the first one and each retry, and tells what came back.

urllib3 retries inside a pool's ``urlopen``, and takes a connection for each attempt: there the pool asks, of
what ``asking`` holds for the request that is being sent. Asking blocks until the attempt may start. What came back
goes to what ``hearing`` holds, before urllib3 sleeps and tries again.

- A pool asks before it takes a connection, which could go stale in the wait, or serve somebody else.
- One that blocks hands out few, and to wait for one would make the leave old: it takes the connection first.
- urllib3 takes an OSError for a broken connection and tries again: what asking raises leaves as ``Refused``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ReferenceType, ref

from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import EmptyPoolError
from urllib3.util.connection import is_connection_dropped

if TYPE_CHECKING:
    from urllib3._base_connection import BaseHTTPConnection
    from urllib3.response import BaseHTTPResponse

__all__ = ["Ask", "Hear", "Refused", "ask_first", "asking", "hearing"]

Ask = Callable[[], object]

Hear = Callable[[int, Any], object]  # the status and the headers of an answer

asking: ContextVar[Ask | None] = ContextVar("nekkar's asking", default=None)
hearing: ContextVar[Hear | None] = ContextVar("nekkar's hearing", default=None)


class Refused(EmptyPoolError):
    """The attempt may not start, for the reason ``error``; urllib3 raises it at once, and holds no connection."""

    def __init__(self, error: Exception, pool: HTTPConnectionPool | None = None) -> None:
        super().__init__(pool, str(error))  # type: ignore[arg-type]  # None where it was pickled, as urllib3 does itself
        self.args = (error,)
        self.error = error

    def __str__(self) -> str:
        return str(self.error)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.args


def ask_first(pool: HTTPConnectionPool) -> HTTPConnectionPool:
    """Let each attempt in ``pool`` ask, and tell what came back; return the pool. Twice is as once.

    The pool itself is changed, not the classes that a manager makes pools of: it may be of any class, and be
    in use already. It is held weakly, since urllib3 closes the connections of a pool when the last reference goes.
    """
    pool._get_conn = partial(_get_conn, ref(pool))  # type: ignore[method-assign]
    pool._make_request = partial(_make_request, ref(pool))  # type: ignore[method-assign]
    return pool


def _make_request(held: ReferenceType[HTTPConnectionPool], *args: Any, **kwargs: Any) -> BaseHTTPResponse:
    pool = held()
    assert pool is not None, "whoever calls holds it"
    response = type(pool)._make_request(pool, *args, **kwargs)
    if hear := hearing.get():
        hear(response.status, response.headers)
    return response


def _get_conn(held: ReferenceType[HTTPConnectionPool], timeout: float | None = None) -> BaseHTTPConnection:
    pool = held()
    assert pool is not None, "whoever calls holds it"
    ask, take = asking.get(), partial(type(pool)._get_conn, pool, timeout)
    if ask is None:
        return take()
    if pool.block:
        return _kept(pool, take(), ask)
    _ask(pool, ask)
    return take()


def _kept(pool: HTTPConnectionPool, connection: BaseHTTPConnection, ask: Ask) -> BaseHTTPConnection:
    """Return a connection taken before asking: to the pool where refused, else to the caller, fit for use."""
    try:
        _ask(pool, ask)
    except Refused:
        pool._put_conn(connection)
        raise
    except BaseException:  # an interrupt: urllib3 gives the pool a place for a new one
        connection.close()
        raise
    if is_connection_dropped(connection):
        connection.close()  # connects again when it is used
    return connection


def _ask(pool: HTTPConnectionPool, ask: Ask) -> None:
    try:
        ask()
    except Exception as error:
        raise Refused(error, pool) from error
