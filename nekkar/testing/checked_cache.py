"""A cache under test: wrong answers and unexpected errors become assertions that explain what nekkar needs."""

from __future__ import annotations

import secrets
from typing import Any, cast

from nekkar.core.cache import BaseCache
from nekkar.core.errors import shown
from nekkar.core.shared.key import cache_key

ATOMIC = "cas to write, as one atomic step, only if nobody wrote or deleted since its token was read"


class CheckedCache:
    """Calls a cache's methods; an error, or an answer of a wrong type, becomes an AssertionError."""

    def __init__(self, cache: BaseCache) -> None:
        self._cache: Any = cache

    def add(self, key: str, value: str) -> bool:
        """Add; the answer must be true or false."""
        return bool(self._asked("add", key, value, need="add to tell whether the key was set now"))

    def get(self, key: str) -> str | None:
        """Get; the answer must be a str or None."""
        value = self._asked("get", key, need="the value as it was set, and None where there is none")
        if value is not None and not isinstance(value, str):
            fault(f"get({key!r}) returned {shown(value)}, of type {type(value).__name__}", "text: decode it to str")
        return cast("str | None", value)

    def set(self, key: str, value: str) -> None:
        """Set."""
        self._asked("set", key, value, need="set to write, whatever was there")

    def delete(self, key: str) -> None:
        """Delete, whether or not there is anything."""
        self._asked("delete", key, need="delete to do nothing, in silence, where the key is not set")

    def gets(self, key: str) -> tuple[bytes | None, Any]:
        """Read with a token; the value must be bytes or None."""
        need = "a pair: the value's bytes, or None where there is none, and a token for cas"
        answer = self._asked("gets", key, need=need)
        if not isinstance(answer, tuple) or len(answer) != 2 or not isinstance(answer[0], bytes | None):
            fault(f"gets({key!r}) returned {shown(answer)}", need)
        return cast("tuple[bytes | None, Any]", answer)

    def cas(self, key: str, value: bytes, token: Any, ttl: int = 3600) -> bool:
        """Swap; return whether it was written: then the answer is a token or True, else None or False."""
        answer = self._asked("cas", key, value, token, ttl, need="cas to tell whether it wrote")
        return answer is not None and answer is not False

    def expect(self, key: str, value: str | None, after: str, need: str = "the value as it was set") -> None:
        """Check that get returns ``value``; ``after`` says what was done before."""
        if (found := self.get(key)) != value:
            fault(f"after {after}, get({key!r}) returned {shown(found)}, not {shown(value)}", need)

    def expect_bytes(self, key: str, value: bytes | None, after: str, need: str = "the bytes as written") -> None:
        """Check that gets returns ``value``; ``after`` says what was done before."""
        if (found := self.gets(key)[0]) != value:
            fault(f"after {after}, gets({key!r}) returned {shown(found)}, not {shown(value)}", need)

    def swap(self, key: str, value: bytes, ttl: int = 3600) -> None:
        """Swap with a fresh token, which must win."""
        for _ in range(3):  # a value that expires meanwhile makes a swap lose, rightly
            if self.cas(key, value, self.gets(key)[1], ttl):
                return
        fault(f"cas of {key!r} with a fresh token did not write, though nobody else did", "it to write, and tell True")

    def expect_lost(self, key: str, token: Any, after: str) -> None:
        """Check that a swap with ``token`` loses and writes nothing; ``after`` says what was done since its read."""
        before = self.gets(key)[0]
        if self.cas(key, b"late", token):
            fault(f"cas with a token from before a {after} told that it wrote", ATOMIC)
        self.expect_bytes(key, before, f"a cas that lost, after a {after}", ATOMIC)

    def _asked(self, method: str, *args: Any, need: str) -> Any:
        try:
            return getattr(self._cache, method)(*args)
        except Exception as error:
            call = f"{method}({', '.join(map(shown, args))})"
            raised = f"{call} raised {type(error).__name__}: {error}"
            raise AssertionError(complaint(raised, f"{need} (CacheError is for a cache that is away)")) from error


def new_key() -> str:
    """Return a key as nekkar makes them, which nobody else uses."""
    return cache_key(f"conformance-{secrets.token_hex(8)}")


def complaint(wrong: str, need: str) -> str:
    """Return one line: what is wrong with a cache, and what nekkar needs."""
    return f"{wrong}; nekkar needs {need}"


def fault(wrong: str, need: str) -> None:
    """Raise AssertionError that tells a cache's author what is wrong and what nekkar needs."""
    raise AssertionError(complaint(wrong, need))


def skipped(reason: str) -> Exception:
    """Return the exception that skips a test in pytest and in unittest."""
    from unittest import SkipTest

    return SkipTest(reason)
