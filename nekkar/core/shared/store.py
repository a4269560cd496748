"""How a ledger reads and swaps its state: natively, or by versions over the four methods of any cache.

By versions: version n of the state lives at a key of its own, and the writer that wins ``add`` for n + 1 has
committed. ``add`` is the only atomic step needed. Rules:

- Two hints say how far the versions are. Commits write them in turn, so a writer that stalls and sets its hint late
  spoils only one of them. A reader starts from the larger hint, or from what it knows itself, and walks on.
- Versions are deleted in order, oldest first, when a later one is AGE old, and never the last but one: what
  is left is a run without gaps. So n is the newest if n + 1 was not there and n, read after it, still was,
  with n - 1 before it.
- A hint that leads nowhere is an error to retry, and never starts a new state. No hint at all means that there is no
  state yet.
- A writer that wins ``add`` looks whether the version before still has the value that it read. If not, the writer had
  stalled until both were deleted, or the cache was emptied, and perhaps filled again: it takes its version back, and
  starts over.
"""

from __future__ import annotations

from base64 import b85decode, b85encode
from typing import Any, Protocol, cast

from nekkar.core.cache import UNREAD, BaseCache, SwapCache
from nekkar.core.clock import Clock
from nekkar.core.errors import CacheError, CorruptLog, is_raised_in
from nekkar.core.quota import SECOND
from nekkar.core.runtime.effects import Backoff, CacheCall, CacheSteps
from nekkar.core.window.codec import LONGEST_STATE

AGE_US = 10 * SECOND
SWEEP_EVERY, SWEEP_MOST = 16, 64
TRIES = 20
TRY_AGAIN_US = SECOND // 100
LONGEST_TEXT = LONGEST_STATE // 4 * 5 + 5  # characters: one group of bytes more than a state has

b85decode(b"")  # its table is made at its first call, which two threads must not be in at once


class Store(Protocol):
    """Where one key's value is read and swapped. ``in_process``: it answers at once, without I/O."""

    in_process: bool

    def read(self, key: str) -> CacheSteps[tuple[bytes | None, Any]]:
        """Return the value (None where there is none) and a token to swap it with."""

    def swap(self, key: str, value: bytes, token: Any, ttl: int) -> CacheSteps[Any]:
        """Write ``value`` if nobody did since ``token``; return the new token, or None. On an error it may be there."""

    def clear(self, key: str) -> CacheSteps[None]:
        """Remove the value, also one that another program wrote."""


def store_of(cache: BaseCache | SwapCache, clock: Clock) -> Store:
    """Return how to swap in ``cache``: natively where it can."""
    return CasStore(cache) if isinstance(cache, SwapCache) else VersionedStore(cache, clock)


class CasStore:
    """A cache that swaps itself."""

    def __init__(self, cache: SwapCache) -> None:
        self.cache, self.in_process = cache, cache.in_process

    def read(self, key: str) -> CacheSteps[tuple[bytes | None, Any]]:
        """Read the value and its token."""
        return cast("tuple[bytes | None, Any]", (yield CacheCall(self.cache.gets, key)))

    def swap(self, key: str, value: bytes, token: Any, ttl: int) -> CacheSteps[Any]:
        """Swap the value; the cache may answer with the new token, or only whether the swap won."""
        won = yield CacheCall(self.cache.cas, key, value, token, ttl)
        return UNREAD if won is True else None if won is False else won

    def clear(self, key: str) -> CacheSteps[None]:
        """Delete the key."""
        yield CacheCall(cast(BaseCache, self.cache).delete, key)


class Version(int):
    """A version's number, with the text that was read there: after a loss the same numbers come again."""

    text: str | None = None


class VersionedStore:
    """Any cache with ``add``, ``get``, ``set`` and ``delete``; one process's view of one key in it."""

    in_process = False

    def __init__(self, cache: BaseCache, clock: Clock) -> None:
        self.cache, self.clock = cache, clock
        self._known = 0
        self._committed: list[tuple[int, int]] = []

    def read(self, key: str) -> CacheSteps[tuple[bytes | None, Version]]:
        """Find the newest version; CacheError where the hints lead nowhere for long."""
        for _ in range(TRIES):
            hints = yield from self._hints(key)
            for start in sorted({self._known, *hints}, reverse=True):
                version, value = yield from self._walk(key, start)
                if value is not None or not (version or hints):
                    self._known = version
                    token = Version(version)
                    token.text = value
                    return _decoded(value) if value else None, token
            self._known = 0
            yield Backoff(TRY_AGAIN_US)
        raise CacheError(
            f"cache key {key!r}: its hints lead to versions {sorted(hints)}, which are gone; if that lasts, delete"
            f" {_hint_key(key, 0)!r} and {_hint_key(key, 1)!r} to start afresh"
        )

    def swap(self, key: str, value: bytes, token: Version, ttl: int) -> CacheSteps[Any]:
        """Commit the next version, which does not expire. UNREAD: the next swap has to read it first."""
        version = token + 1
        if not (yield CacheCall(self.cache.add, _version_key(key, version), b85encode(value).decode())):
            return None
        if token and (yield CacheCall(self.cache.get, _version_key(key, token))) != token.text:
            yield CacheCall(self.cache.delete, _version_key(key, version))
            return None
        self._known = version
        yield CacheCall(self.cache.set, _hint_key(key, version), str(version))
        yield from self._sweep(key, version)
        return UNREAD

    def clear(self, key: str) -> CacheSteps[None]:
        """Delete invalid hints; write an empty version, which counts as no log, after the newest."""
        for turn in range(2):
            text = yield CacheCall(self.cache.get, _hint_key(key, turn))
            if text is not None and not _is_number(text):
                yield CacheCall(self.cache.delete, _hint_key(key, turn))
        _, version = yield from self.read(key)
        yield from self.swap(key, b"", version, 0)

    def _hints(self, key: str) -> CacheSteps[set[int]]:
        hints = set()
        for turn in range(2):
            text = yield CacheCall(self.cache.get, _hint_key(key, turn))
            if text is not None and not _is_number(text):
                raise CorruptLog(f"cache key {_hint_key(key, turn)!r}: not a version's number; delete the key")
            hints |= {int(text)} if text else set()
        return hints

    def _walk(self, key: str, version: int) -> CacheSteps[tuple[int, str | None]]:
        """Walk on from a version to the newest; its value is None if it is gone, or the version before it is."""
        while (yield CacheCall(self.cache.get, _version_key(key, version + 1))) is not None:
            version += 1
        if version == 0:
            return 0, None
        value = yield CacheCall(self.cache.get, _version_key(key, version))
        follows = version == 1 or (yield CacheCall(self.cache.get, _version_key(key, version - 1))) is not None
        return version, value if follows else None

    def _sweep(self, key: str, version: int) -> CacheSteps[None]:
        """At each 16th commit delete some versions before an old one, in order, from where other processes stopped."""
        now = self.clock.now_us()
        self._committed = [(number, at) for number, at in self._committed if number < version] + [(version, now)]
        old = [number for number, at in self._committed if at <= now - AGE_US]
        if not old or version % SWEEP_EVERY:
            return
        text = yield CacheCall(self.cache.get, f"{key}:floor")
        floor = int(text) if _is_number(text) else 1
        end = min(old[-1], floor + SWEEP_MOST)
        for number in range(floor, end):
            yield CacheCall(self.cache.delete, _version_key(key, number))
        if floor < end:
            yield CacheCall(self.cache.set, f"{key}:floor", str(end))
        self._committed = self._committed[len(old) - 1 :]


def _version_key(key: str, version: int) -> str:
    return f"{key}:v{version}"


def _hint_key(key: str, version: int) -> str:
    return f"{key}:head{version % 2}"


def _is_number(text: Any) -> bool:
    return isinstance(text, str) and text.isdecimal() and text.isascii() and len(text) < 19


def _decoded(value: Any) -> bytes:
    """Return the state's bytes; no bytes for other text, which the decoder then refuses."""
    try:
        return b85decode(value[:LONGEST_TEXT])
    except (ValueError, TypeError) as error:
        if not is_raised_in(error, __name__, "base64"):  # a signal handler raised it
            raise
        return b""
