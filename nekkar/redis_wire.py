"""A connection of redis-py or valkey whose commands end by one instant, and whose answers prove whose they are.

Rules:

- Every command is a script that gives back, before its answer, a number that no other command has. An answer
  that lacks it, or that its command never gives, is a BadAnswer: late, repeated, crossed and garbled answers
  never pass for another. A command's own error has the number too. The connection is of no more use.
- A script goes as its text, which is hardly longer than its hash: no server, flushed or restarted, lacks it.
- The libraries' timeout starts anew at each read. Here their connections are over a Stream, whose steps share
  one instant.
- Connecting is many steps, not all with a timeout (a name, its addresses, TLS, a password, a Sentinel's word):
  a thread takes them, and is waited for until that instant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from secrets import randbits
from typing import Any, NamedTuple

from nekkar.core.cache.meta import BadAnswer
from nekkar.core.cache.stream import Stream, awaited
from nekkar.core.errors import shown

Send = Callable[..., Any]  # sends the words of one command, returns its answer

OK, LOST = b"OK", b"lost"
# What a library's parser raises, besides errors of its own, over what no Redis sends.
_NO_ANSWER = (ValueError, LookupError, ArithmeticError, TypeError, AttributeError, RecursionError)

_tags = count(randbits(40))  # no two commands of a process have the same, on whatever connection


class Command(NamedTuple):
    """A script, and whether an answer is one that it gives."""

    script: str
    gives: Callable[[Any], bool]


def _tagged(call: str, gives: Callable[[Any], bool], before: str = "") -> Command:
    return Command(f"{before}return {{ARGV[1], redis.pcall({call})}}", gives)


def _is_time(answer: Any) -> bool:
    if not isinstance(answer, list) or len(answer) != 2:
        return False
    return all(isinstance(part, bytes) and part.isdigit() for part in answer)


GET = _tagged("'GET', KEYS[1]", lambda answer: answer is None or isinstance(answer, bytes))
SET = _tagged("'SET', KEYS[1], ARGV[2]", lambda answer: answer == OK)
ADD = _tagged("'SET', KEYS[1], ARGV[2], 'NX'", lambda answer: answer in (OK, None))
DELETE = _tagged("'DEL', KEYS[1]", lambda answer: answer in (0, 1))
TIME = _tagged("'TIME'", _is_time)
SWAP = _tagged(  # the version that must stand, the new value, its seconds
    "'SET', KEYS[1], ARGV[3], 'EX', ARGV[4]",
    lambda answer: answer in (OK, LOST),
    "if redis.call('GETRANGE', KEYS[1], 0, 23) ~= ARGV[2] then return {ARGV[1], 'lost'} end ",
)


def ask(send: Send, keys: tuple[str, ...], command: Command, *words: Any) -> Any:
    """Send a command by ``send``; return its answer, checked. Raises BadAnswer, or what the library does."""
    tag = b"%d" % next(_tags)
    answer = send("EVAL", command.script, len(keys), *keys, tag, *words)
    if not isinstance(answer, list) or len(answer) != 2 or answer[0] != tag:
        raise BadAnswer(f"answered {shown(answer)}, which is not the answer to this command")
    if isinstance(answer[1], Exception):
        raise answer[1]
    if not command.gives(answer[1]):
        raise BadAnswer(f"answered {shown(answer[1])}, which this command never gives")
    return answer[1]


def sent(connection: Any, until: float, *words: Any) -> Any:
    """Send words on a connection; return the answer, all of which came by ``until``."""
    connection.stream.until = until
    connection.send_command(*words)
    with _understood():
        return connection.read_response()


def bounded(kind: Any) -> Any:
    """Return a class of connections like ``kind``, each over a ``stream`` whose steps end by ``until``."""

    def _connect(connection: Any) -> Stream:
        connection.stream = Stream(kind._connect(connection), connection.until)
        stream: Stream = connection.stream
        return stream

    return type(kind.__name__, (kind,), {"_connect": _connect, "until": 0.0})


def connected(kind: Any, settings: dict[str, Any], until: float) -> Any:
    """Return a connection of a bounded ``kind``, ready for commands by ``until``."""
    connection = kind(**settings)
    connection.until = until

    def connect() -> None:
        try:
            connection.connect()
        except BaseException:
            connection.disconnect()
            raise

    with _understood():
        awaited(connect, until)
    return connection


@contextmanager
def _understood() -> Iterator[None]:
    try:
        yield
    except Exception as cause:
        if isinstance(cause, _NO_ANSWER) or type(cause).__name__ == "InvalidResponse":
            raise BadAnswer(f"sent what is no answer: {type(cause).__name__}: {cause}") from cause
        raise
