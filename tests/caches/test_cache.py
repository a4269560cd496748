"""Caches: what each does when its server, its file or its process fails. Their contract: test_conformance.py."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import multiprocessing
import os
import pickle
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

import nekkar
from nekkar.core.cache import BaseCache, MemcachedCache, MemoryCache, SqliteCache, SwapCache, from_url
from nekkar.core.errors import CacheError, ConfigurationError, CorruptLog
from tests.support.internals.caches import (
    LAST_DATE,
    RELATIVE_TTL_MAX,
    Meta,
    Pool,
    _expiry,
    idle_in,
    pool_of,
    redacted,
    servers_of,
    socket_of,
    speak_classic,
)
from tests.support.internals.caches import memory as memory_module
from tests.support.internals.caches import sqlite as sqlite_module
from tests.support.internals.core import SECOND
from tests.support.internals.shared import cache_key
from tests.support.processes import in_child, increment, increment_together, started
from tests.support.servers import Memcached, free_port, memcached, tcp_server

AnyCache = MemoryCache | SqliteCache | MemcachedCache
KINDS = ("memory", "sqlite", "memcached")
DAY = 86_400
HOST = "127.0.0.1"

_numbers = count(1)
_spawn = multiprocessing.get_context("spawn")
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
threads_and_forks = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


@pytest.fixture(scope="module")
def server() -> Iterator[Memcached]:
    with memcached() as running:
        yield running


@pytest.fixture
def key() -> str:
    """A key of the test's own."""
    return f"key-{next(_numbers)}"


@pytest.fixture
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> AnyCache:
    """A cache of the kind that the test was parametrized with, or of each kind in turn."""
    kind = getattr(request, "param", "memory")
    if kind == "memory":
        return MemoryCache()
    if kind == "sqlite":
        return SqliteCache(tmp_path / "cache.db", timeout=30.0)
    running: Memcached = request.getfixturevalue("server")
    return MemcachedCache(HOST, running.port, timeout=30.0)


def on(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("cache", kinds, indirect=True)


everywhere = on(*KINDS)


# Every cache, beyond the contract.


@everywhere
def test_every_cache_is_a_base_cache_that_swaps(cache: AnyCache) -> None:
    """Each is a BaseCache, and a SwapCache too."""
    assert isinstance(cache, BaseCache)
    assert isinstance(cache, SwapCache)


@everywhere
def test_another_programs_text_under_a_limits_key_is_a_corrupt_log(cache: AnyCache, key: str) -> None:
    """It used to be a TypeError where the cache kept the str as it was."""
    cache.set(cache_key(key), "not a log")
    with pytest.raises(CorruptLog, match=key):
        nekkar.Nekkar(cache)(key, 10).acquire()


@everywhere
def test_bytes_that_are_no_text_are_a_corrupt_log_to_who_asks_for_text(cache: AnyCache, key: str) -> None:
    """The error names the cache, the key, what it holds and the remedy. It used to be a UnicodeDecodeError."""
    assert cache.cas(key, b"\xff\xfe", cache.gets(key)[1], 60)
    where = r"memory cache|SQLite file /\S+cache\.db|memcached at 127\.0\.0\.1:\d+"
    with pytest.raises(CorruptLog, match=rf"^({where}): key '{key}' holds b'\\xff\\xfe', .* delete the key$"):
        cache.get(key)


@on("sqlite", "memcached")
def test_four_processes_that_swap_lose_no_increment(cache: AnyCache, key: str) -> None:
    """Between processes, each with the cache as it was pickled to it; and swaps did conflict."""
    added = conflicts = 0
    for _ in range(5):
        begin = _spawn.Barrier(4)
        with closing(_spawn.Queue()) as results:
            task = (cache, key, begin, results)
            with started([_spawn.Process(target=increment_together, args=task) for _ in range(4)]):
                conflicts += sum(results.get(timeout=120) for _ in range(4))
        added += 4 * 150
        if conflicts:
            break
    assert cache.gets(key)[0] == b"%d" % added
    assert conflicts > 0


def test_a_value_lives_its_ttl_and_no_longer(server: Memcached, tmp_path: Path, key: str) -> None:
    """One of a second goes, and its token with it; ttls of days, past 30 days and past 2038 stay."""
    caches: list[AnyCache] = [MemoryCache(), SqliteCache(tmp_path / "cache.db"), MemcachedCache(HOST, server.port)]
    ttls = [DAY, 30 * DAY, 30 * DAY + 1, 31 * DAY, 3650 * DAY, 200 * 365 * DAY]
    tokens: list[Any] = []
    for cache in caches:
        for ttl in ttls:
            assert cache.cas(f"{key}-{ttl}", b"long", cache.gets(f"{key}-{ttl}")[1], ttl)
        assert cache.cas(f"{key}-1", b"short", cache.gets(f"{key}-1")[1], 1)
        assert cache.cas(f"{key}-3", b"short", cache.gets(f"{key}-3")[1], 3)
        tokens.append(cache.gets(f"{key}-3")[1])
    deadline = time.monotonic() + 30
    while any(cache.gets(f"{key}-{ttl}")[0] for cache in caches for ttl in (1, 3)):
        assert time.monotonic() < deadline, "a value of 1 or 3 s is still there"
        time.sleep(0.05)
    for cache, token in zip(caches, tokens, strict=True):
        assert cache.get(f"{key}-1") is None
        assert token is not None
        assert cache.cas(f"{key}-3", b"late", token, 3600) is None
        assert cache.add(f"{key}-3", "anew")
        assert [cache.gets(f"{key}-{ttl}")[0] for ttl in ttls] == [b"long"] * len(ttls)


# Memory.


def test_a_memory_cache_drops_what_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 100,000 names that live a second each, no more than some thousands are kept at any time."""
    now = 0.0
    monkeypatch.setattr(memory_module, "monotonic", lambda: now)
    cache = MemoryCache()
    cache.set("for ever", "kept")
    most = 0
    for number in range(100_000):
        now += 0.01
        assert cache.cas(str(number), b"x", None, 1)
        most = max(most, len(cache._items))
    assert most <= 2000, "those of a second, and of the time until each is looked at again"
    assert cache.gets("99999")[0] == b"x"
    assert cache.get("for ever") == "kept"


def test_a_memory_cache_keeps_all_that_lives() -> None:
    """A sweep takes none of 20,000 living names."""
    cache = MemoryCache()
    for number in range(20_000):
        assert cache.cas(str(number), b"%d" % number, None, 3600)
    assert all(cache.get(str(number)) == str(number) for number in range(20_000))


def test_two_memory_caches_share_nothing() -> None:
    """Each has its own values."""
    first, second = MemoryCache(), MemoryCache()
    first.set("key", "value")
    assert second.get("key") is None


@forks
@threads_and_forks
def test_a_memory_cache_is_not_left_locked_in_a_forked_child() -> None:
    """Whatever other threads do with caches when the process forks, the child can go on."""
    cache, stop = MemoryCache(), threading.Event()

    def hammer() -> None:
        while not stop.is_set():
            cache.set("key", "value")

    threads = [threading.Thread(target=hammer) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            with in_child(lambda: cache.add("child", "value")) as result:
                assert result() == "True"
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert cache.get("child") is None


def test_a_memory_cache_drops_what_is_dead_a_little_at_each_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes of one other key free thousands that were used once, at most 32 each; what never dies stays."""
    now = 1000.0
    monkeypatch.setattr(memory_module, "monotonic", lambda: now)
    cache = MemoryCache()
    cache.set("for ever", "kept")
    for number in range(3000):
        cache.cas(str(number), b"value", None, 60)
    now += 75.0
    most = 0
    for _ in range(100):
        before = len(cache._items)
        cache.cas("busy", b"value", cache.gets("busy")[1], 60)
        most = max(most, before - len(cache._items))
        now += 0.5
    assert set(cache._items) == {"for ever", "busy"}
    assert most <= 32
    for _ in range(1000):  # set and deleted again and again, a key is looked at no more often for it
        cache.set("restless", "value")
        cache.delete("restless")
    assert len(cache._rounds.due) == 3


# SQLite.


def test_sqlite_sweeps_what_is_dead(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Rows of names that are gone do not stay in the file; living ones do."""
    now = 0
    cache = SqliteCache(tmp_path / "cache.db", timeout=30.0)
    monkeypatch.setattr(cache.machine_clock, "now_us", lambda: now * SECOND)
    cache.set("for ever", "kept")
    for number in range(3 * sqlite_module.SWEEP_EVERY):
        now = number
        assert cache.cas(str(number), b"x", None, 10)
    with closing(sqlite3.connect(tmp_path / "cache.db")) as connection:
        [[rows]] = connection.execute("SELECT count(*) FROM nekkar").fetchall()
    assert rows <= sqlite_module.SWEEP_EVERY + 20
    assert cache.get("for ever") == "kept"
    assert cache.gets(str(now))[0] == b"x"


def test_sqlite_writes_ahead(tmp_path: Path) -> None:
    """The file is in WAL mode, so that readers do not wait for writers."""
    SqliteCache(tmp_path / "cache.db").set("key", "value")
    with closing(sqlite3.connect(tmp_path / "cache.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchall() == [("wal",)]


@contextmanager
def locked(file: Path) -> Iterator[sqlite3.Connection]:
    """Hold SQLite's write lock on ``file``."""
    with closing(sqlite3.connect(file, isolation_level=None, check_same_thread=False)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield connection


def test_a_locked_file_is_an_error_within_the_timeout(tmp_path: Path) -> None:
    """While another holds the write lock, writes raise CacheError and reads go on; then writes work again."""
    file = tmp_path / "cache.db"
    cache, fresh = SqliteCache(file, timeout=0.2), SqliteCache(file, timeout=0.2)
    cache.set("key", "value")
    _, token = cache.gets("key")
    writes: list[Callable[[], object]] = [
        lambda: cache.set("key", "other"),
        lambda: cache.add("new", "value"),
        lambda: cache.delete("key"),
        lambda: cache.cas("key", b"other", token, 60),
        lambda: fresh.set("key", "other"),
    ]
    with locked(file):
        for write in writes:
            began = time.monotonic()
            with pytest.raises(CacheError, match=r"cache\.db: .*locked.*0\.2 s.*longer timeout") as caught:
                write()
            assert time.monotonic() - began < 10 * 0.2
            assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
        assert cache.get("key") == "value"
        assert fresh.get("key") == "value"
    assert cache.cas("key", b"other", token, 60) is not None


def test_a_new_file_that_others_are_just_making_is_waited_for(tmp_path: Path) -> None:
    """SQLite reports a switch to WAL as locked at once, without its timeout; the cache tries on until its own."""
    file = tmp_path / "cache.db"
    with locked(file) as other:
        release = threading.Timer(0.3, other.rollback)
        release.start()
        SqliteCache(file, timeout=60.0).set("key", "value")
        release.join()
    with locked(tmp_path / "second.db"), pytest.raises(CacheError, match="locked"):
        SqliteCache(tmp_path / "second.db", timeout=0.1).get("key")


def test_a_file_that_cannot_be_is_an_error_that_names_it(tmp_path: Path) -> None:
    """No folder, a file for a folder, a folder for a file, another program's file: CacheError, cause chained."""
    tmp_path.joinpath("file").write_bytes(b"no database at all, but long enough to be read as one" * 100)
    for path in (tmp_path / "missing" / "a.db", tmp_path / "file" / "a.db", tmp_path, tmp_path / "file"):
        with pytest.raises(CacheError, match=r"see that its folder exists|name another file") as caught:
            SqliteCache(path).get("key")
        assert str(path) in str(caught.value)
        assert isinstance(caught.value.__cause__, sqlite3.Error)
    assert tmp_path.joinpath("file").read_bytes().startswith(b"no database at all")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="everything is writable to root")
def test_a_folder_that_cannot_be_written_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    """CacheError again."""
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    with pytest.raises(CacheError, match="can be written") as caught:
        SqliteCache(folder / "a.db").set("key", "value")
    assert str(folder / "a.db") in str(caught.value)


def test_a_relative_path_stays_where_it_was_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later change of the working folder does not move the cache."""
    monkeypatch.chdir(tmp_path)
    cache = SqliteCache("a.db")
    tmp_path.joinpath("deeper").mkdir()
    monkeypatch.chdir(tmp_path / "deeper")
    cache.set("key", "value")
    assert SqliteCache(tmp_path / "a.db").get("key") == "value"


@pytest.mark.parametrize("path", ["", ":memory:", b"bytes.db", None, 7, "nul\0.db"])
def test_a_path_that_names_no_file_is_refused_when_written(path: Any) -> None:
    """SqliteCache raises ConfigurationError at once."""
    with pytest.raises(ConfigurationError, match=r"names no file|must be a str or a Path"):
        SqliteCache(path)


# memcached.


def _pool(cache: MemcachedCache) -> Pool[Any]:
    [server] = servers_of(cache).values()
    return server.pool


def _connections(cache: MemcachedCache) -> list[Any]:
    return list(idle_in(_pool(cache)))


def _socket(cache: MemcachedCache) -> socket.socket:
    """Return the one connection's real socket."""
    [connection] = _connections(cache)
    found: socket.socket = socket_of(connection.stream)
    return found


@contextmanager
def fake_server(*answers: Callable[[bytes], bytes | None]) -> Iterator[int]:
    """Serve one answer function for each connection, the last for all further ones; yield the port.

    It is called with each command's first line. None: say nothing more. An answer that does not end in a
    line break is cut short: the connection is closed behind it.
    """

    def serve(connection: socket.socket, number: int, stop: threading.Event) -> None:
        answer = answers[min(number, len(answers) - 1)]
        with connection, connection.makefile("rb") as lines, suppress(OSError):
            for line in lines:
                if line.split()[0] in (b"add", b"set", b"cas"):
                    lines.readline()
                reply = b"VERSION fake\r\n" if line == b"version\r\n" else answer(line)
                if reply is None:
                    stop.wait(60)
                    return
                connection.sendall(reply)
                if not reply.endswith(b"\r\n"):
                    return

    with tcp_server(serve) as port:
        yield port


def _commands(cache: MemcachedCache, token: Any = None) -> dict[str, Callable[[], object]]:
    token = token or (_pool(cache).generation, None)
    return {
        "get": lambda: cache.get("key"),
        "gets": lambda: cache.gets("key"),
        "add": lambda: cache.add("key", "value"),
        "set": lambda: cache.set("key", "value"),
        "delete": lambda: cache.delete("key"),
        "cas": lambda: cache.cas("key", b"value", token, 60),
    }


def _to(command: str, reply: bytes) -> Callable[[bytes], bytes]:
    """Answer ``reply`` to everything, but for the read that a swap needs before it."""
    value = b"VALUE key 0 1 7\r\nx\r\nEND\r\n"
    return lambda line: value if command == "cas" and line.startswith(b"gets") else reply


COMMANDS = ["get", "gets", "add", "set", "delete"]  # cas needs a token, so a connection: see where it is used


def test_no_connection_is_without_a_timeout(server: Memcached) -> None:
    """Reading and writing are bounded on what is really in use: by default, by argument, by URL."""
    for cache, seconds in (
        (MemcachedCache(HOST, server.port), 1.0),
        (MemcachedCache(HOST, server.port, timeout=2.5), 2.5),
        (from_url(f"memcached://{HOST}:{server.port}?timeout=0.75"), 0.75),
        (from_url(f"memcached://{HOST}:{server.port}"), 1.0),
    ):
        assert isinstance(cache, MemcachedCache)
        cache.get("key")
        assert 0.5 * seconds < (_socket(cache).gettimeout() or 0) <= seconds  # what was left of the command's time


def test_small_writes_are_sent_at_once(server: Memcached) -> None:
    """TCP_NODELAY is set on the real socket."""
    cache = MemcachedCache(HOST, server.port)
    cache.get("key")
    assert _socket(cache).getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


@pytest.mark.parametrize("command", COMMANDS)
def test_a_server_that_accepts_and_never_answers_is_an_error_within_the_timeout(command: str) -> None:
    """CacheError names the server and the timeout; the wait stays below ten of them."""
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
        cache = MemcachedCache(HOST, port, timeout=0.1)
        began = time.monotonic()
        with pytest.raises(
            CacheError, match=rf"{HOST}:{port} did not answer within 0\.1 s; .*longer timeout"
        ) as caught:
            _commands(cache)[command]()
        assert time.monotonic() - began < 10 * 0.1
        assert isinstance(caught.value.__cause__, TimeoutError)


@pytest.mark.parametrize("command", [*COMMANDS, "cas"])
def test_a_server_that_stops_answering_is_an_error_within_the_timeout(command: str) -> None:
    """The same on a connection that has worked before; a read is not tried a second time."""
    asked: list[bytes] = []

    def answer(line: bytes) -> bytes | None:
        asked.append(line)
        return b"END\r\n" if len(asked) == 1 else None

    with fake_server(answer) as port:
        cache = MemcachedCache(HOST, port, timeout=0.1)
        assert cache.get("key") is None
        began = time.monotonic()
        with pytest.raises(CacheError, match="did not answer") as caught:
            _commands(cache)[command]()
        assert time.monotonic() - began < 10 * 0.1
        assert isinstance(caught.value.__cause__, TimeoutError)
        assert len(asked) == 2
        assert _connections(cache) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_a_refused_connection_is_an_error_that_names_server_and_remedy(command: str) -> None:
    """CacheError, with what the socket said as its cause."""
    port = free_port()
    with pytest.raises(CacheError, match=rf"{HOST}:{port}: .*see that it runs and can be reached") as caught:
        _commands(MemcachedCache(HOST, port))[command]()
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)


def test_a_host_or_socket_that_is_not_there_is_an_error_that_names_it(tmp_path: Path) -> None:
    """CacheError, not the resolver's or the socket's own."""
    for host in ("x" * 70, str(tmp_path / "none.sock"), str(tmp_path / ("long" * 100))):
        with pytest.raises(CacheError, match="see that it runs") as caught:
            MemcachedCache(host).get("key")
        assert host in str(caught.value)
        assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    ("command", "reply"),
    [
        ("get", b"VALUE key 0 5\r\nval"),
        ("gets", b"VALUE key 0 5 7\r\nvalue"),
        ("gets", b"VAL"),
        ("add", b"STO"),
        ("set", b"STORED"),
        ("cas", b"STORED\r"),
        ("delete", b"DELE"),
        ("get", b""),
        ("cas", b""),
    ],
)
def test_an_answer_cut_short_is_an_error(command: str, reply: bytes) -> None:
    """A server that closes in mid-answer is neither a missing key nor a lost swap."""
    assert _connections(_misled(command, reply)) == []


def _misled(command: str, reply: bytes) -> MemcachedCache:
    """Give a cache a wrong answer to a command, and check its error; return the cache."""
    with fake_server(_to(command, reply)) as port:
        cache = MemcachedCache(HOST, port)
        token = cache.gets("key")[1] if command == "cas" else None
        with pytest.raises(CacheError, match=f"{HOST}:{port}") as caught:
            _commands(cache, token)[command]()
        assert caught.value.__cause__ is not None
        return cache


@pytest.mark.parametrize("command", [*COMMANDS[:-1], "cas"])
@pytest.mark.parametrize(
    "reply",
    [
        b"ERROR\r\n",
        b"SERVER_ERROR out of memory storing object\r\n",
        b"CLIENT_ERROR bad data chunk\r\n",
        b"HTTP/1.1 400 Bad Request\r\n",
        b"VALUE another 0 1 7\r\nx\r\nEND\r\n",
        b"VALUE another 0 1\r\nx\r\nEND\r\n",
        b"VALUE key 0 x 7\r\nx\r\nEND\r\n",
        b"VALUE\r\n",
        b"\xff\xfe\r\n",
        b"\r\n",
    ],
)
def test_an_answer_that_is_none_is_an_error(command: str, reply: bytes) -> None:
    """What memcached refuses, and what is not memcached at all, comes as CacheError and nothing else."""
    _misled(command, reply)


def test_a_late_answer_is_never_taken_for_the_next_ones(key: str) -> None:
    """A read that timed out leaves its connection; what comes on that later is nobody's."""
    send = threading.Event()

    def late(line: bytes) -> bytes:
        send.wait(60)
        return b"VALUE key 0 4\r\nlate\r\nEND\r\n"

    with fake_server(late, lambda _: b"VALUE key 0 5\r\nright\r\nEND\r\n") as port:
        cache = MemcachedCache(HOST, port, timeout=0.1)
        with pytest.raises(CacheError, match="did not answer"):
            cache.get("key")
        send.set()
        assert [cache.get("key") for _ in range(5)] == ["right"] * 5


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError, MemoryError, RuntimeError]
)
def test_a_command_that_raises_anything_leaves_its_connection(
    server: Memcached, key: str, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    """Interrupted between question and answer, it discards the connection: the next command gets its own answer."""
    cache = MemcachedCache(HOST, server.port)
    cache.set(key, "mine")
    cache.set(f"{key}-other", "another's")

    def interrupted(connection: Meta, _: str) -> None:
        connection.stream.sendall(f"get {key}-other\r\n".encode())
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Meta, "gets", interrupted)
        with pytest.raises(error):
            cache.get(key)
    assert _connections(cache) == []
    assert [cache.get(key) for _ in range(3)] == ["mine"] * 3


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, ValueError])
def test_a_pool_closes_what_an_error_left_and_all_that_idles(error: type[BaseException]) -> None:
    """The error comes out; a failure to close does not; connections that worked are used again."""
    closed: list[int] = []
    numbers = count(1)

    def close(connection: int) -> None:
        closed.append(connection)
        raise OSError

    pool: Pool[int] = Pool(lambda: next(numbers), close)
    assert pool.run(lambda outer: (outer, pool.run(lambda inner: inner))) == (1, 2)
    assert pool.run(lambda connection: connection) == 1

    def failing(_: int) -> None:
        raise error

    with pytest.raises(error):
        pool.run(failing)
    assert sorted(closed) == [1, 2]
    assert pool.run(lambda connection: connection) == 3


def _unique(server: Memcached, key: str) -> bytes | None:
    """Return the server's own token of ``key``."""
    words = server.ask(f"gets {key}").split()
    return words[4].encode() if len(words) > 4 else None


def _count_up_to(server: Memcached, key: str, unique: bytes) -> None:
    """Write ``key`` until the server's token of it is ``unique``: a fresh server counts from the start again."""
    other = MemcachedCache(HOST, server.port)
    for _ in range(1000):
        other.set(key, "the new server's")
        if _unique(server, key) == unique:
            return
    raise AssertionError("the token did not come up")


def _in_several(cache: MemcachedCache, connections: int) -> None:
    """Read on so many connections at once, so that the pool holds them all."""
    if connections:

        def command(connection: Any) -> None:
            connection.gets("key")
            _in_several(cache, connections - 1)

        [server] = servers_of(cache).values()
        server.write(command)


@pytest.mark.parametrize("connections", [1, 3])
@pytest.mark.parametrize("meanwhile", ["nothing", "a read", "a write"])
def test_a_token_is_not_used_on_a_server_that_restarted(connections: int, meanwhile: str) -> None:
    """The new server's token of the key is the very same number, and still the swap is not done."""
    with memcached() as server:
        cache = MemcachedCache(HOST, server.port)
        _in_several(cache, connections)
        assert len(_connections(cache)) == connections
        for number in range(5):
            cache.set("key", str(number))
        _, token = cache.gets("key")
        server.stop()
        server.start()
        _count_up_to(server, "key", token[1])
        if meanwhile == "a read":
            assert cache.get("key") == "the new server's"
        if meanwhile == "a write":
            with suppress(CacheError):
                cache.set("another-key", "value")
        for _ in range(3):
            with suppress(CacheError):
                assert cache.cas("key", b"stale", token, 60) is None
        assert cache.get("key") == "the new server's"
        assert _unique(server, "key") == token[1]


def test_the_token_of_a_missing_key_is_not_used_on_a_server_that_restarted() -> None:
    """Nothing is created by it: the key may have been written and lost in between."""
    with memcached() as server:
        cache = MemcachedCache(HOST, server.port)
        _, token = cache.gets("key")
        server.stop()
        server.start()
        for _ in range(3):
            with suppress(CacheError):
                assert cache.cas("key", b"stale", token, 60) is None
        assert cache.get("key") is None


def test_a_token_read_while_another_thread_meets_the_new_server_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer came from the old one: that the pool knows the new one by then does not make it good."""
    with memcached() as server:
        cache = MemcachedCache(HOST, server.port)
        for number in range(5):
            cache.set("key", str(number))
        original = Meta.gets
        met, done = threading.Event(), threading.Event()

        def meet(_: Any) -> None:
            met.set()
            assert done.wait(60)

        other = threading.Thread(target=lambda: next(iter(servers_of(cache).values())).write(meet))

        def slow(connection: Meta, key: str) -> Any:
            answer = original(connection, key)
            server.stop()
            server.start()
            _count_up_to(server, "key", answer[1] or b"")
            other.start()
            assert met.wait(60)
            return answer

        with monkeypatch.context() as patch:
            patch.setattr(Meta, "gets", slow)
            _, token = cache.gets("key")
        done.set()
        other.join()
        assert len(_connections(cache)) == 2, "the last, which is used next, knows the new server"
        for _ in range(3):
            with suppress(CacheError):
                assert cache.cas("key", b"stale", token, 60) is None
        assert cache.get("key") == "the new server's"


def test_a_token_read_while_another_thread_connects_is_not_used_on_a_new_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A connection counts as new from when it stands, not from when it was asked for."""
    with memcached() as server:
        cache = MemcachedCache(HOST, server.port)
        MemcachedCache(HOST, server.port).set("key", "the old server's")
        original = Meta.delete
        tokens: list[Any] = []

        def slow(connection: Meta, key: str) -> None:
            if not tokens:
                tokens.append(cache.gets("key")[1])  # as another thread would, while this one is on its way
                server.stop()
                server.start()
                _count_up_to(server, "key", tokens[0][1])
            original(connection, key)

        with monkeypatch.context() as patch, suppress(CacheError):
            patch.setattr(Meta, "delete", slow)
            cache.delete("another")
        for _ in range(3):
            with suppress(CacheError):
                assert cache.cas("key", b"stale", tokens[0], 60) is None
        assert cache.get("key") == "the new server's"


@pytest.mark.parametrize("connections", [1, 3])
def test_a_read_after_a_restart_works_at_once(connections: int) -> None:
    """It meets a kept connection that is dead, and is asked again on a fresh one; then writes work too."""
    with memcached() as server:
        cache = MemcachedCache(HOST, server.port)
        for read in (lambda: cache.get("key"), lambda: cache.gets("key")[0]):
            _in_several(cache, connections)
            cache.set("key", "lost with the server")
            server.stop()
            server.start()
            assert read() is None
            assert len(_connections(cache)) == 1
            value, token = cache.gets("key")
            assert value is None
            assert cache.cas("key", b"new", token, 60) is not None


def test_a_write_is_never_sent_twice() -> None:
    """Whether the first was done nobody knows, so it is an error, on a kept connection too."""
    asked: list[bytes] = []

    def answer(line: bytes) -> bytes:
        asked.append(line)
        return b"END\r\n" if line.startswith(b"get") else b""

    with fake_server(answer) as port:
        cache = MemcachedCache(HOST, port)
        for command in ("add", "set", "delete", "cas"):
            assert cache.get("key") is None
            with pytest.raises(CacheError):
                _commands(cache)[command]()
    assert [line.split()[0] for line in asked] == [b"get", b"add", b"get", b"set", b"get", b"delete", b"get", b"add"]


def test_a_value_too_large_is_an_error_and_the_cache_goes_on(server: Memcached, key: str) -> None:
    """memcached takes a megabyte; a swap of more raises CacheError, and does not count as done."""
    cache = MemcachedCache(HOST, server.port)
    _, token = cache.gets(key)
    with pytest.raises(CacheError, match="too large"):
        cache.cas(key, bytes(2_000_000), token, 60)
    with pytest.raises(CacheError, match="too large"):
        cache.set(key, "x" * 2_000_000)
    assert cache.get(key) is None
    cache.set(key, "small")
    assert cache.get(key) == "small"


def test_ttls_are_sent_as_memcached_reads_them() -> None:
    """Up to 30 days as seconds from now, then as a date by the server's clock; past the last date as 0: never."""
    now = 1_700_000_000
    assert [_expiry(ttl, lambda ttl: None) for ttl in (1, 60, RELATIVE_TTL_MAX)] == [1, 60, RELATIVE_TTL_MAX]
    for ttl in (RELATIVE_TTL_MAX + 1, 365 * DAY):
        assert _expiry(ttl, lambda ttl: now + ttl) == now + ttl
    assert _expiry(LAST_DATE - now + 10, lambda ttl: now + ttl) == 0
    assert _expiry(1000 * 365 * DAY, lambda ttl: now + ttl) == 0


def test_a_server_that_tells_no_time_keeps_what_is_to_live_for_over_30_days() -> None:
    """No date is guessed: by a clock that is far off, the value would be gone at once."""
    assert _expiry(31 * DAY, lambda ttl: None) == 0


@pytest.mark.parametrize("speaks_meta", [True, False])
@pytest.mark.parametrize("off_days", [-4000, -60, 60])
def test_a_machine_whose_clock_is_far_off_writes_what_lives_as_long(
    server: Memcached, key: str, monkeypatch: pytest.MonkeyPatch, off_days: int, speaks_meta: bool
) -> None:
    """A date is by the clock of the very server that keeps the value, whatever this machine's says."""
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + off_days * DAY * 10**9)
    cache = MemcachedCache(HOST, server.port)
    speak_classic(cache, only=not speaks_meta)
    for days in (31, 365):
        assert cache.cas(f"{key}-{days}", b"value", cache.gets(f"{key}-{days}")[1], days * DAY)
        left = server.ask(f"mg {key}-{days} t\r\nthe end").split()[1]
        assert abs(int(left.removeprefix("t")) - days * DAY) < 5


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets here")
def test_memcached_on_a_unix_socket(server: Memcached) -> None:
    """By path and by URL, percent-encoded where need be; its restart is survived as any other."""
    with TemporaryDirectory(prefix="nekkar ") as folder:
        path = os.path.join(folder, "a.sock")
        for _ in range(2):
            with _memcached_at(path):
                cache, same = MemcachedCache(path), from_url(f"memcached://{path.replace(' ', '%20')}?timeout=2")
                assert isinstance(same, MemcachedCache)
                cache.set("key", "value")
                value, token = same.gets("key")
                assert value == b"value"
                assert same.cas("key", b"other", token, 60)
                assert cache.get("key") == "other"
        with pytest.raises(CacheError) as caught:
            cache.get("key")
        assert path in str(caught.value)


@contextmanager
def _memcached_at(path: str) -> Iterator[None]:
    command = ["memcached", "-s", path, *(["-u", "root"] if os.geteuid() == 0 else [])]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while True:
            with suppress(OSError), socket.socket(socket.AF_UNIX) as trial:
                trial.connect(path)
                break
            assert time.monotonic() < deadline, "memcached does not listen"
            time.sleep(0.02)
        yield
    finally:
        process.kill()
        process.wait()


# Forks.


@forks
@on("sqlite", "memcached")
def test_parent_and_child_of_a_fork_swap_side_by_side(cache: AnyCache, key: str) -> None:
    """With connections in the pool at the fork, both go on, and neither reads the other's answers."""
    assert not isinstance(cache, MemoryCache)
    assert increment(cache, key, 10) == 0
    with in_child(lambda: (increment(cache, key, 300), "done")[1]) as result:
        increment(cache, key, 300)
        assert result() == "'done'"
    increment(cache, key, 10)
    assert cache.gets(key)[0] == b"620"


@forks
@on("memcached")
def test_a_child_connects_anew_and_leaves_the_parents_connection(cache: AnyCache, key: str) -> None:
    """The child's socket is not the parent's; the parent's stays the one it was."""
    assert isinstance(cache, MemcachedCache)

    def port() -> object:
        cache.get(key)
        return _socket(cache).getsockname()[1]

    before = port()
    with in_child(port) as result:
        told = result()
        assert told.isdigit()
        assert told != repr(before)
    assert port() == before


@forks
@on("sqlite", "memcached")
def test_a_token_from_before_a_fork_wins_at_most_once(cache: AnyCache, key: str) -> None:
    """Parent and child swap with the same token: never both."""
    cache.set(key, "before")
    _, token = cache.gets(key)
    with in_child(lambda: cache.cas(key, b"child", token, 60)) as result:
        child = result()
    parent = cache.cas(key, b"parent", token, 60)
    assert child == "None" or parent is None
    assert cache.get(key) == ("parent" if parent else "before" if child == "None" else "child")


@forks
def test_a_child_shares_the_sqlite_file_after_its_parent_is_done(tmp_path: Path) -> None:
    """The parent's connections close and others come: all see one file.

    A child that inherited SQLite's account of the parent's locks took none of its own: the last to close
    then removed the log under it, and its writes went nowhere.
    """
    file = tmp_path / "cache.db"
    cache = SqliteCache(file, timeout=30.0)
    cache.set("key", "parent's")
    used, go = multiprocessing.Event(), multiprocessing.Event()

    def child() -> str | None:
        cache.set("key", "child's")
        used.set()
        go.wait(60)
        seen = cache.get("key")
        cache.set("key", "child's again")
        return seen

    with in_child(child) as result:
        assert used.wait(60)
        assert cache.get("key") == "child's"
        pool_of(cache).clear()
        _in_another_process(f"SqliteCache({str(file)!r}).set('key', 'third')")
        go.set()
        assert result() == "'third'"
    assert cache.get("key") == "child's again"


def _in_another_process(code: str, *arguments: str) -> str:
    """Run ``code`` in a new interpreter, warnings on; return what it wrote to both its outputs."""
    root = str(Path(nekkar.__file__).parents[1])
    code = f"from nekkar.core.cache import *\n{code}"
    done = subprocess.run(
        [sys.executable, *arguments, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": root},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


# Ends, copies, addresses.


def test_a_dropped_cache_closes_its_connections_without_a_word(server: Memcached, tmp_path: Path) -> None:
    """No ResourceWarning, neither when a cache is collected nor at the interpreter's end."""
    code = f"""
import gc
def used():
    caches = [MemcachedCache("{HOST}", {server.port}), SqliteCache({str(tmp_path / "a.db")!r})]
    for cache in caches:
        cache.set("key", "value")
    return caches
used()
gc.collect()
kept = used()
"""
    assert _in_another_process(code, "-X", "dev", "-W", "error") == ""


def test_a_collected_cache_is_off_the_server(server: Memcached) -> None:
    """Its connections are closed, not left to the server's patience."""
    cache = MemcachedCache(HOST, server.port)
    cache.get("key")
    connection = _socket(cache)
    del cache
    gc.collect()
    assert connection.fileno() == -1


@on("sqlite", "memcached")
def test_a_pickled_cache_is_the_same_cache(cache: AnyCache, key: str) -> None:
    """In use or not, it comes back equal in repr, on the same values, with connections of its own."""
    for _ in range(2):
        copy: AnyCache = pickle.loads(pickle.dumps(cache))
        assert type(copy) is type(cache)
        assert repr(copy) == repr(cache)
        copy.set(key, "value")
        value, token = cache.gets(key)
        assert value == b"value"
        assert cache.cas(key, b"swapped", token, 60)
        assert copy.get(key) == "swapped"


def test_a_pickled_memory_cache_comes_back_empty_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning for all of them, which names what to use instead."""
    monkeypatch.setattr(memory_module, "_said", False)
    cache = MemoryCache()
    cache.set("key", "value")
    with caplog.at_level(logging.WARNING, "nekkar"):
        copies = [pickle.loads(pickle.dumps(cache)) for _ in range(3)]
    assert all(isinstance(copy, MemoryCache) and copy.get("key") is None for copy in copies)
    assert [copy.add("key", "own") for copy in copies] == [True] * 3
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "memcached or SQLite" in record.getMessage()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("memory:", MemoryCache),
        ("MEMORY:", MemoryCache),
        ("sqlite:///rel.db", lambda: SqliteCache("rel.db")),
        ("sqlite:///folder/rel.db", lambda: SqliteCache("folder/rel.db")),
        ("sqlite:////srv/abs.db", lambda: SqliteCache("/srv/abs.db")),
        ("sqlite:///a%20b%3F.db?timeout=2.5", lambda: SqliteCache("a b?.db", timeout=2.5)),
        ("SQLite:///Rel.db", lambda: SqliteCache("Rel.db")),
        ("memcached://h", lambda: MemcachedCache("h", 11211)),
        ("memcached://h:", lambda: MemcachedCache("h", 11211)),
        ("memcached://h/", lambda: MemcachedCache("h", 11211)),
        ("memcached://h:1", lambda: MemcachedCache("h", 1)),
        ("memcached://h:65535", lambda: MemcachedCache("h", 65_535)),
        ("memcached://cache.example.com:1?timeout=2.5", lambda: MemcachedCache("cache.example.com", 1, timeout=2.5)),
        ("memcached://[::1]:1", lambda: MemcachedCache("::1", 1)),
        ("memcached://[::1]", lambda: MemcachedCache("::1")),
        ("memcached://a,b", lambda: MemcachedCache(servers=["a", "b"])),
        ("memcached://a:1,[::1]:2?timeout=2", lambda: MemcachedCache(servers=[("a", 1), ("::1", 2)], timeout=2)),
        ("memcacheds://a,b:1", lambda: MemcachedCache(servers=["a", ("b", 1)], tls_context=True)),
        ("memcached:///path/to/socket", lambda: MemcachedCache("/path/to/socket")),
        ("memcached:///path/to/a%20socket?timeout=1", lambda: MemcachedCache("/path/to/a socket", timeout=1)),
    ],
)  # fmt: skip
def test_a_url_names_a_cache(url: str, expected: Callable[[], BaseCache]) -> None:
    """The same as made by hand."""
    cache = from_url(url)
    assert type(cache) is type(expected())
    assert repr(cache) == repr(expected())


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("", "use one of memory:"),
        ("localhost:11211", "use one of memory:"),
        ("rel.db", "use one of memory:"),
        ("mysql://h", "use one of memory:"),
        ("redis", "use one of memory:"),
        ("memory:here", "write 'memory:'"),
        ("memory://host", "write 'memory:'"),
        ("memory:?timeout=1", "write 'memory:'"),
        ("sqlite:", "sqlite:///file.db"),
        ("sqlite:rel.db", "sqlite:///file.db"),
        ("sqlite:/srv/abs.db", "sqlite:////folder/file.db"),
        ("sqlite://rel.db", "sqlite:///file.db"),
        ("sqlite://", "sqlite:///file.db"),
        ("sqlite:///", "sqlite:///file.db"),
        ("sqlite:///:memory:", r"use MemoryCache\(\)"),
        ("sqlite:///nul%00.db", "names no file"),
        ("sqlite:///rel.db?timeout=0", "give seconds from 0.001 to 3600"),
        ("sqlite:///rel.db?mode=ro", r"\?timeout=SECONDS"),
        ("sqlite:///rel.db#x", r"\?timeout=SECONDS"),
        ("memcached:", "memcached://host:11211"),
        ("memcached:h:11211", "memcached://host:11211"),
        ("memcached://", "host name or a socket path"),
        ("memcached:///", "host name or a socket path"),
        ("memcached://:11211", "host name or a socket path"),
        ("memcached://h:0", "give a whole number from 1 to 65535"),
        ("memcached://h:70000", "give a whole number from 1 to 65535"),
        ("memcached://h:port", "is not host:port"),
        ("memcached://h:-1", "is not host:port"),
        ("memcached://[::1", "is not host:port"),
        ("memcached://::1", "IPv6 in brackets"),
        ("memcached://[::1]:1x", "is not host:port"),
        ("memcached://a,", "host name or a socket path"),
        ("memcached://a,b:0", "give a whole number from 1 to 65535"),
        ("memcached://a,b,A:11211", "'a:11211' is listed twice"),
        ("memcacheds:///path/to/socket", "takes no TLS"),
        ("memcached://h/path", "no path"),
        ("memcached://user@h", "no user"),
        ("memcached://h?timeout=soon", "timeout is not a number"),
        ("memcached://h?timeout=", "timeout is not a number"),
        ("memcached://h?timeout=nan", "give seconds"),
        ("memcached://h?timeout=inf", "give seconds"),
        ("memcached://h?timeout=-1", "give seconds"),
        ("memcached://h?timeout=1&timeout=2", "once"),
        ("memcached://h?retries=3", r"\?timeout=SECONDS"),
    ],
)
def test_a_url_that_names_none_is_refused_with_what_is_expected(url: str, told: str) -> None:
    """ConfigurationError, which Nekkar raises where the URL is written; it shows what can't be secret of it."""
    with pytest.raises(ConfigurationError, match=told) as caught:
        from_url(url)
    assert f"cache URL {redacted(url)}" in str(caught.value)
    with pytest.raises(ConfigurationError, match=told):
        nekkar.Nekkar(url)


@pytest.mark.parametrize("url", [None, 5, b"memory:", [], {}, 1.5, True, MemoryCache(), Path("a.db")])
def test_a_url_that_is_no_text_is_refused(url: Any) -> None:
    """ConfigurationError, not urllib's own."""
    with pytest.raises(ConfigurationError, match=r"must be a str, got .*; use one of memory:"):
        from_url(url)


@pytest.mark.parametrize(
    "host", ["", "no\0name", "a b", "h:1", "h/0", "redis://h", "me@h", None, 5, b"h", True, ["h"], ("h", 1)]
)
def test_a_host_that_is_none_is_refused(host: Any) -> None:
    """ConfigurationError when the cache is made."""
    with pytest.raises(ConfigurationError, match="host name or a socket path"):
        MemcachedCache(host)


@pytest.mark.parametrize("port", [0, -1, 65_536, 70_000, "x", "11211", None, 1.0, True, math.nan])
def test_a_port_that_is_none_is_refused(port: Any) -> None:
    """ConfigurationError names the bounds."""
    with pytest.raises(ConfigurationError, match=r"memcached port .* from 1 to 65535"):
        MemcachedCache("h", port)


@pytest.mark.parametrize("timeout", [None, 0, 0.0, -1, -0.5, math.nan, math.inf, "1", True, 3601, 1e-9, [], 10**400])
@pytest.mark.parametrize(
    "make", [lambda timeout: MemcachedCache("h", timeout=timeout), lambda timeout: SqliteCache("a.db", timeout=timeout)]
)
def test_a_timeout_that_is_none_is_refused(make: Callable[[Any], BaseCache], timeout: Any) -> None:
    """ConfigurationError names the bounds: no cache can be made to wait for ever."""
    with pytest.raises(ConfigurationError, match=r"timeout .* give seconds from 0\.001 to 3600"):
        make(timeout)


FOREIGN = ("pymemcache", "sqlite3", "requests", "httpx", "httpx2", "anyio", "redis")


def test_nothing_foreign_is_imported_before_it_is_used(server: Memcached, tmp_path: Path) -> None:
    """Neither by nekkar nor by limits on a URL; a memcached of today needs no library at all, SQLite its own."""
    code = f"""
import sys
def loaded():
    print([name for name in {FOREIGN!r} if name in sys.modules])
import nekkar
loaded()
remote = nekkar.Nekkar({server.url!r})
remote("a", 10), nekkar.Nekkar({f"sqlite:///{tmp_path}/a.db"!r})("a", 10), nekkar.Nekkar()("a", 10).acquire()
loaded()
from_url({server.url!r}).get("key")
loaded()
from_url({f"sqlite:///{tmp_path}/a.db"!r}).get("key")
loaded()
"""
    told = _in_another_process(code).splitlines()
    assert told == ["[]", "[]", "[]", "['sqlite3']"]
