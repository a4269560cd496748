"""memcached's meta commands over one connection: each answer proves that it belongs to its command.

Each command asks for its key and a unique opaque number to be returned. An answer without them, with a wrong length, or
with bytes after it is a ProtocolError, and so is a line that no memcached writes. So late, repeated, crossed and
garbled answers never pass for another command's. A connection with a bad answer is closed. The answer to a store has
the new token (``c``), so the next swap needs no read.

Protocol: https://docs.memcached.org/protocols/meta/
"""

from __future__ import annotations

import re
from itertools import count
from secrets import randbits

from nekkar.core.cache.stream import Stream
from nekkar.core.errors import counted, is_raised_in, shown
from nekkar.core.window.codec import LONGEST_STATE

OLDEST = (1, 6, 18)  # 1.6.14 returns no opaque on a miss, 1.6.12 a wrong token, others differ
LONGEST_LINE, LONGEST_STATS = 2048, 1 << 16
RECEIVE = 8192

_VERSION = re.compile(rb"(\d{1,4})\.(\d{1,4})\.(\d{1,4})")
_opaques = count(randbits(40))  # unique in this process, over all connections
_CODES = {b"mg": (b"VA", b"EN"), b"ms": (b"HD", b"NS", b"EX", b"NF"), b"md": (b"HD", b"NF")}
Answer = tuple[bytes, dict[bytes, bytes], bytes]


class ProtocolError(Exception):
    """The bytes received are not the answer to the command."""


class ValueTooLong(Exception):
    """A value longer than any log. The rest of it is still on its way, so the connection can't be used again."""

    def __init__(self, size: int, key: str) -> None:
        super().__init__(size, key)
        self.size, self.key = size, key


class UnknownCommand(ProtocolError):
    """The answering program, such as a proxy, does not know the command, whatever version it reports."""


class Meta:
    """A connection. A token is the server's own number, as bytes; that of a missing key is None."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def version(self) -> bytes | None:
        """Return the server's version, by a command that old servers know too; None if it does not know it."""
        self.stream.sendall(b"version\r\n")
        line, _ = self._line()
        if line.startswith((b"ERROR", b"CLIENT_ERROR")):
            return None
        if not line.startswith(b"VERSION "):
            raise ProtocolError(f"answered {shown(line)} to version")
        return line.removeprefix(b"VERSION ")

    def get(self, key: str) -> bytes | None:
        """Return the value of ``key``."""
        return self.gets(key)[0]

    def gets(self, key: str) -> tuple[bytes | None, bytes | None]:
        """Return the value of ``key`` and its token."""
        code, fields, value = self._ask(key, b"mg", b"c v k")
        return (None, None) if code == b"EN" else (value, fields[b"c"])

    def swap(self, key: str, value: bytes, token: bytes | None, expire: int) -> bytes | None:
        """Store where the token of ``key`` is ``token``; return the new one, or None where it is not."""
        flags = b"c T%d ME k" % expire if token is None else b"c T%d C%b k" % (expire, token)
        code, fields, _ = self._ask(key, b"ms", flags, value)
        return fields[b"c"] if code == b"HD" else None

    def set(self, key: str, value: bytes) -> None:
        """Store, whatever is there."""
        code, _, _ = self._ask(key, b"ms", b"c T0 k", value)
        if code != b"HD":
            raise ProtocolError(f"answered {shown(code)} to a set of key {shown(key)}")

    def delete(self, key: str) -> None:
        """Remove ``key`` where it is set."""
        self._ask(key, b"md", b"k")

    def seconds(self) -> int | None:
        """Return the server's time in whole seconds since the Unix epoch; None where it does not tell."""
        self.stream.sendall(b"stats\r\n")
        got = self._next()
        while not got.endswith((b"END\r\n", b"ERROR\r\n")):
            if len(got) > LONGEST_STATS:
                raise ProtocolError("answered without an end to stats")
            got += self._next()
        found = re.search(rb"^STAT time (\d+)\r\n", got, re.MULTILINE)
        return int(found[1]) if found else None

    def close(self) -> None:
        """Close the connection."""
        self.stream.close()

    def _ask(self, key: str, verb: bytes, flags: bytes, data: bytes | None = None) -> Answer:
        """Send one command; return its answer: the code, the fields by their letters, and the value."""
        name, opaque = key.encode(), b"%d" % next(_opaques)
        if data is None:
            self.stream.sendall(b"%b %b %b O%b\r\n" % (verb, name, flags, opaque))
        else:
            self.stream.sendall(b"%b %b %d %b O%b\r\n%b\r\n" % (verb, name, len(data), flags, opaque, data))
        line, rest = self._line()
        if line == b"ERROR":
            raise UnknownCommand(f"answered {shown(line)} to {verb.decode()}")
        code, length, fields = _parsed(line)
        if fields.get(b"O") != opaque or fields.get(b"k") != name or not _fits(verb, code, fields):
            raise ProtocolError(f"answered {shown(line)} to {verb.decode()} of key {shown(key)}")
        if length > LONGEST_STATE + 2:
            raise ValueTooLong(length - 2, key)
        return code, fields, self._behind(length, rest)

    def _line(self) -> tuple[bytes, bytes]:
        """Return the next line, and the bytes received after it."""
        got = self._next()
        while (end := got.find(b"\r\n")) < 0:
            if len(got) > LONGEST_LINE:
                raise ProtocolError(f"answered {shown(got)} without an end of the line")
            got += self._next()
        return got[:end], got[end + 2 :]

    def _behind(self, length: int, got: bytes) -> bytes:
        """Return a value of ``length`` bytes, of which ``got`` has arrived; only a line break may follow it."""
        if len(got) < length:
            parts = bytearray(got)
            while len(parts) < length:
                parts += self._next()
            got = bytes(parts)
        if len(got) != length or not got.endswith(b"\r\n" if length else b""):
            raise ProtocolError(f"sent {shown(got[-100:])} at the end of an answer of {counted(length, 'byte')}")
        return got[:-2]

    def _next(self) -> bytes:
        got = self.stream.recv(RECEIVE)
        if not got:
            raise ProtocolError("closed the connection")
        return got


def supports_meta(version: bytes) -> bool:
    """Return whether a server of this version has the meta commands as nekkar needs them."""
    found = _VERSION.match(version)
    return found is not None and tuple(map(int, found.groups())) >= OLDEST


def _parsed(line: bytes) -> tuple[bytes, int, dict[bytes, bytes]]:
    """Return a line's code, the length of the value after it, and its fields by their letters."""
    code, *words = line.split(b" ")
    try:
        length = int(words.pop(0)) + 2 if code == b"VA" else 0
    except (LookupError, ValueError) as error:
        if not is_raised_in(error, __name__):  # a signal handler raised it
            raise
        raise ProtocolError(f"answered {shown(line)}, a value without its size") from None
    return code, length, {word[:1]: word[1:] for word in words}


def _fits(verb: bytes, code: bytes, fields: dict[bytes, bytes]) -> bool:
    """Return whether the verb has this code, and whether there is a token if the code needs one."""
    tells = verb != b"md" and code in (b"VA", b"HD")
    return code in _CODES[verb] and (not tells or fields.get(b"c", b"").isdigit())
