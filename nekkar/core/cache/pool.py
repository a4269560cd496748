"""Connections of one process to one cache: each is taken for one command, and put back if the command succeeded.

Rules:

- If a command raises anything, its connection is closed: an answer may still be on its way, and the next command would
  take it for its own.
- ``generation`` changes with each new connection. After a restart of the server all connections are new. So a token
  read in an earlier generation may be from before a restart, and is never used. Look the generation up before the read.
- Connections do not survive a fork: the child starts with none, and does not close the parent's.
- A pool that is garbage collected closes its connections.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Any, Generic, TypeVar
from weakref import finalize

C = TypeVar("C")
T = TypeVar("T")

_left_to_the_parent: list[Any] = []  # kept, since closing some (SQLite's) would disturb the parent


class Pool(Generic[C]):
    """A stack of idle connections, safe between threads. What ``connect`` returns is connected."""

    def __init__(self, connect: Callable[..., C], close: Callable[[C], None]) -> None:
        self._connect, self._close = connect, close
        self._connections = count(1)
        self.generation = 0
        self._begin()

    def run(self, command: Callable[[C], T], *terms: Any) -> T:
        """Run ``command`` on a connection, new ones made on ``terms``; where it raises, the connection is closed."""
        connection = self._take(terms)
        try:
            result = command(connection)
        except BaseException:
            self.clear()
            with suppress(Exception):
                self._close(connection)
            raise
        self._idle.append(connection)
        return result

    @property
    def has_idle(self) -> bool:
        """Whether the next command would run on a connection made earlier."""
        return bool(self._idle)

    def clear(self) -> None:
        """Close all idle connections: what broke one may have broken them all."""
        _close_all(self._idle, self._close, self._pid)

    def _begin(self) -> None:
        self._idle: deque[C] = deque()
        self._pid = os.getpid()
        finalize(self, _close_all, self._idle, self._close, self._pid)

    def _take(self, terms: tuple[Any, ...]) -> C:
        if self._pid != os.getpid():
            _left_to_the_parent.append(self._idle)
            self._begin()
        try:
            return self._idle.pop()
        except IndexError:
            connection = self._connect(*terms)
            self.generation = next(self._connections)
            return connection


def _close_all(idle: deque[C], close: Callable[[C], None], pid: int) -> None:
    if pid != os.getpid():
        _left_to_the_parent.append(idle)
        return
    while True:
        try:
            connection = idle.pop()
        except IndexError:
            return
        with suppress(Exception):
            close(connection)
