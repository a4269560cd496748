"""The checks of ``gets`` and ``cas``; each takes several caches that share their keys."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from nekkar.core.errors import shown
from nekkar.testing.checked_cache import ATOMIC, CheckedCache, fault, new_key
from nekkar.testing.threads import THREADS, at_once

BYTES = [b"x", b"\x00\xff", b"line\r\nEND\r\n", bytes(range(256)) * 400]
DAY = 86_400


def bytes_come_back(caches: list[CheckedCache]) -> None:
    """Swap each of BYTES in, and set a text."""
    cache, key = caches[0], new_key()
    for value in BYTES:
        cache.swap(key, value)
        cache.expect_bytes(key, value, "cas")
    cache.set(key, "naïve")
    cache.expect_bytes(key, "naïve".encode(), "set")


def missing_key_is_created_once(caches: list[CheckedCache]) -> None:
    """Create by cas twice, and by cas after an add."""
    cache, key = caches[0], new_key()
    value, token = cache.gets(key)
    if value is not None:
        fault(f"gets({key!r}) of a key never set returned {shown(value)}", "None and a token")
    if not cache.cas(key, b"created", token):
        fault("cas with the token of a missing key did not write, though nobody else had", "True: it creates")
    cache.expect_lost(key, token, "cas")
    other = new_key()
    _, token = cache.gets(other)
    cache.add(other, "there")
    cache.expect_lost(other, token, "add")


def token_loses_after_any_change(caches: list[CheckedCache]) -> None:
    """Change a key in each way there is."""
    cache = caches[0]
    changes: dict[str, Callable[[str], object]] = {
        "cas": lambda key: cache.swap(key, b"two"),
        "cas of the same bytes": lambda key: cache.swap(key, b"one"),
        "set": lambda key: cache.set(key, "two"),
        "delete": cache.delete,
    }
    for change, make in changes.items():
        key = new_key()
        cache.swap(key, b"one")
        _, token = cache.gets(key)
        make(key)
        cache.expect_lost(key, token, change)


def key_made_again_is_another(caches: list[CheckedCache]) -> None:
    """Delete a key and write its bytes again, in each way there is."""
    cache = caches[0]
    writes: dict[str, Callable[[str], object]] = {
        "add": lambda key: cache.add(key, "one"),
        "set": lambda key: cache.set(key, "one"),
        "cas": lambda key: cache.swap(key, b"one"),
    }
    for write, make in writes.items():
        key = new_key()
        cache.swap(key, b"one")
        _, token = cache.gets(key)
        cache.delete(key)
        make(key)
        cache.expect_lost(key, token, f"delete, and {write} of the same bytes")


def one_of_many_wins(caches: list[CheckedCache]) -> None:
    """Race threads with one token for each of 100 keys, first missing ones, then the same as they are now."""
    keys = [new_key() for _ in range(100)]
    for turn in ("create", "change"):
        tokens = [caches[0].gets(key)[1] for key in keys]

        def swap(number: int, thread: int, turn: str = turn, tokens: list[Any] = tokens) -> bool:
            return caches[thread].cas(keys[number], f"{turn} {thread}".encode(), tokens[number])

        for key, won in zip(keys, at_once(swap, len(keys)), strict=True):
            if sum(won) != 1:
                fault(f"{sum(won)} of {THREADS} threads with one token got True, or a new token, from cas", ATOMIC)
            caches[0].expect_bytes(key, f"{turn} {won.index(True)}".encode(), "the one cas that told True", ATOMIC)


def none_is_lost(caches: list[CheckedCache]) -> None:
    """Count up in many threads, 50 times each."""
    key = new_key()

    def count(_: int, thread: int) -> None:
        written = False
        while not written:
            value, token = caches[thread].gets(key)
            threading.Event().wait(1e-4)  # lets another thread in, where the cache itself never waits
            written = caches[thread].cas(key, b"%d" % (int(value or 0) + 1), token)

    at_once(count, 50)
    caches[0].expect_bytes(key, b"%d" % (50 * THREADS), f"{50 * THREADS} swaps that each added one", ATOMIC)


def value_lives_its_ttl(caches: list[CheckedCache]) -> None:
    """Look at short values after a while, and at long ones at once."""
    cache, short, renewed = caches[0], new_key(), new_key()
    cache.swap(short, b"short", 10)
    cache.swap(renewed, b"dying", 2)
    cache.swap(renewed, b"renewed", DAY)
    threading.Event().wait(2.2)
    need = "each value for its ttl in seconds at least, counted from the last cas"
    cache.expect_bytes(short, b"short", "2.2 s of a ttl of 10", need)
    cache.expect_bytes(renewed, b"renewed", "a cas with a ttl of a day over one of 2 s", need)
    for ttl in (DAY, 30 * DAY, 30 * DAY + 1, 400 * DAY, 36_500 * DAY):
        key = new_key()
        cache.swap(key, b"long", ttl)
        cache.expect_bytes(key, b"long", f"cas with a ttl of {ttl} s", f"{need}; is a long one read as a date?")
