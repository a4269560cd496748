"""A connection of redis-py or valkey whose commands end by one instant, and whose answers prove whose they are.

Rules:

- Every command is a script that gives back one string: a tag that no other command has, then the answer. What
  lacks the tag, or is nothing that its command answers, is a ProtocolError: late, repeated, crossed and garbled
  answers never pass for another. The connection that brought one is of no more use.
- A script goes as its text, which is hardly longer than its hash: no server, flushed or restarted, lacks it.
- The libraries' timeout restarts at each read. Here their connections are over a Stream, whose steps share
  one instant.
- Connecting is many steps, not all with a timeout (a name, its addresses, TLS, a password, a Sentinel's word):
  a thread takes them, and is waited for until that instant.
- A server that does not know AUTH or HELLO repeats in its error what came with it: the password. So of what it says
  while a connection is made, only known phrases are passed on.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum
from itertools import count
from secrets import randbits
from typing import Any, NamedTuple

from nekkar.core.cache.memcached.meta import ProtocolError
from nekkar.core.cache.stream import Stream, run_with_deadline
from nekkar.core.errors import shown

Send = Callable[..., Any]  # sends the words of one command, returns its answer

OK, NOTHING, TOO_LONG, TAG = b"OK", b"-", b"!", 8
# What a library's parser raises, besides its own InvalidResponse, over what no Redis sends.
_UNREADABLE = (ValueError, LookupError, ArithmeticError, TypeError, AttributeError, RecursionError)

# What may be told of an error in connecting: none of it can be a part of what was sent.
_KNOWN_WORDS = re.compile(
    r"\b(?:ASK|CLUSTERDOWN|DENIED|LOADING|MASTERDOWN|MOVED|NOAUTH|NOPERM|NOPROTO|OOM|READONLY|WRONGPASS|WRONGTYPE)\b"
    r"|(?:unknown|wrong number of arguments for) '?(?:AUTH|HELLO|SELECT|CLIENT)?'? ?command|Authentication required"
    r"|invalid username-password pair or user is disabled|invalid username or password"
    r"|without any password configured|no password is set|DB index is out of range|invalid DB index|invalid database"
    r"|max number of clients reached|unsupported protocol version|Connection closed by server|Protocol Error"
    r"|Hash slot not served|executing the script|cannot be connected",
    re.IGNORECASE,
)

_tags = count(randbits(60))  # no two commands of a process have the same, on whatever connection


class Command(NamedTuple):
    """A script, and what it answers."""

    script: str
    answers: re.Pattern[bytes]


GET = Command(  # the longest value; of a longer one only its size, where this user may ask for that
    """local value = redis.call('GETRANGE', KEYS[1], 0, ARGV[2])
if #value > tonumber(ARGV[2]) then
local size = redis.pcall('STRLEN', KEYS[1]) return ARGV[1] .. '!' .. (type(size) == 'number' and size or #value) end
if value == '' then value = redis.call('GET', KEYS[1]) end
return ARGV[1] .. (value and '+' .. value or '-')""",
    re.compile(rb"-|\+.*|!\d+", re.DOTALL),
)
SET = Command("redis.call('SET', KEYS[1], ARGV[2]) return ARGV[1] .. 'OK'", re.compile(OK))
ADD = Command(
    "return ARGV[1] .. (redis.call('SET', KEYS[1], ARGV[2], 'NX') and 'OK' or 'kept')", re.compile(rb"OK|kept")
)
DELETE = Command("redis.call('DEL', KEYS[1]) return ARGV[1] .. 'OK'", re.compile(OK))
TIME = Command("return ARGV[1] .. table.concat(redis.call('TIME'), ' ')", re.compile(rb"\d+ \d+"))
SWAP = Command(  # the version that must stand, the new value, its seconds
    """if redis.call('GETRANGE', KEYS[1], 0, 23) ~= ARGV[2] then return ARGV[1] .. 'lost' end
redis.call('SET', KEYS[1], ARGV[3], 'EX', ARGV[4]) return ARGV[1] .. 'OK'""",
    re.compile(rb"OK|lost"),
)


def ask(send: Send, keys: tuple[str, ...], command: Command, *words: Any) -> bytes:
    """Send a command by ``send``; return its answer. Raises ProtocolError, or what the library does."""
    tag = next(_tags).to_bytes(TAG)
    answer = send("EVAL", command.script, len(keys), *keys, tag, *words)
    if not isinstance(answer, bytes) or answer[:TAG] != tag:
        raise ProtocolError(f"answered {shown(answer)}, which is not the answer to this command")
    answer = answer[TAG:]
    if not command.answers.fullmatch(answer):
        raise ProtocolError(f"answered {shown(answer)}, which this command never does")
    return answer


def sent(connection: Any, until: float, *words: Any) -> Any:
    """Send words on a connection; return the answer, all of which came by ``until``."""
    connection.stream.begin(until)
    connection.send_command(*words)
    return _understood(connection.read_response)


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
            return
        except Exception as error:
            failure = without_words(error)
        except BaseException:
            connection.disconnect()
            raise
        connection.disconnect()
        raise failure  # here, where what the server said is not its context

    run_with_deadline(connect, until)
    return connection


def without_words(error: Exception) -> Exception:
    """Return an error of connecting, less what the server said; whole where no server did, but the system."""
    reason = error if isinstance(error, OSError) else error.__context__
    if isinstance(reason, OSError):
        for one in (reason, error):
            one.__context__ = one.__cause__ = None  # the library may have tried again after what the server said
        return error
    if isinstance(error, _UNREADABLE):
        return ProtocolError(f"sent an invalid answer: {type(error).__name__}")
    if type(error).__module__.partition(".")[0] not in ("redis", "valkey"):
        return error  # one of ours, or of the user's own
    harmless = type(error).__new__(type(error))  # whatever the signature of its __init__
    harmless.__dict__ |= {name: value for name, value in vars(error).items() if isinstance(value, Enum)}  # for its repr
    harmless.args = ("; ".join(dict.fromkeys(_KNOWN_WORDS.findall(str(error)))) or "refused",)
    return harmless


def _understood(step: Callable[[], Any]) -> Any:
    try:
        return step()
    except _UNREADABLE as cause:
        raise ProtocolError(f"sent an invalid answer: {type(cause).__name__}: {cause}") from cause
