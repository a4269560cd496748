"""memcached's own clock: the right line of its log, read right, or no answer."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from nekkar.core.cache import BaseCache, MemcachedCache, MemoryCache, SqliteCache, TellsTime
from nekkar.core.errors import CacheError
from tests.support.internals.caches import Stream, read_clock, stamp_us
from tests.support.internals.caches import clock as watch
from tests.support.servers import Memcached, free_port, memcached

OTHERS = b"ts=17.5 gid=3 type=item_store key=other status=stored cmd=set ttl=0 clsid=1 cfd=25 size=1\n"
HOST = "127.0.0.1"


def line(key: str, stamp: str = "1795457555.20647") -> bytes:
    """Return the line that memcached logs for a key that was set."""
    return f"ts={stamp} gid=20 type=item_store key={key} status=stored cmd=set ttl=4294967235 clsid=1\n".encode()


class Server:
    """A log as a server sends it: ``answer`` to the watch, then what each touch brings. Its clock counts looks."""

    def __init__(self, answer: bytes, *brings: Callable[[str], bytes]) -> None:
        self.ours, self.watcher = socket.socketpair()
        self.brings, self.keys, self.looks = list(brings), list[str](), 0
        self.ours.sendall(answer)

    def touch(self, key: str) -> None:
        self.keys.append(key)
        if self.brings:
            self.ours.sendall(self.brings.pop(0)(key))

    def now(self) -> int:
        self.looks += 1
        return self.looks

    def read(self, timeout: float = 5.0) -> tuple[int, int, int] | None:
        with self.ours, self.watcher:
            return read_clock(Stream(self.watcher, time.monotonic() + timeout), self.touch, self.now, timeout)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeat an event after a moment."""
    monkeypatch.setattr(watch, "PATIENCE_S", 0.01)


@pytest.mark.parametrize(
    ("text", "us"),
    [
        ("1795457555.20647", 1_795_457_555_020_647),
        ("1795457555.206470", 1_795_457_555_206_470),
        ("1795457555.0", 1_795_457_555_000_000),
        ("1795457555.7", 1_795_457_555_000_007),
        ("1795457555.020647", 1_795_457_555_020_647),
        ("1795457555.999999", 1_795_457_555_999_999),
    ],
)
def test_a_stamp_is_two_integers(text: str, us: int) -> None:
    """The microseconds have no leading zeros: .20647 is 20,647 µs, not 206,470; with zeros they are the same."""
    seconds, _, micros = text.encode().partition(b".")
    assert stamp_us(seconds, micros) == us
    assert Server(b"OK\r\n", lambda key: line(key, text)).read() == (1, us, 2)


def test_the_line_of_ones_own_key_is_taken_among_others() -> None:
    """A busy server logs everybody's events: another's stamp is nobody's business."""
    server = Server(b"OK\r\n", lambda key: OTHERS + line(key + "0") + line(key) + OTHERS)
    assert server.read() == (1, 1_795_457_555_020_647, 2)
    assert len(server.keys) == 1


def test_two_readings_use_two_keys() -> None:
    """Nobody takes another reader's line for its own."""
    keys = [server.keys[0] for server in (Server(b"OK\r\n", line), Server(b"OK\r\n", line)) if server.read()]
    assert keys[0] != keys[1]


def test_a_line_in_pieces_is_read_whole() -> None:
    """However the stream is cut, also inside the stamp, half a line is no line."""

    def piecemeal(key: str) -> bytes:
        whole = OTHERS + line(key)
        threading.Thread(target=send, args=([whole[at : at + 7] for at in range(0, len(whole), 7)],)).start()
        return b""

    def send(pieces: list[bytes]) -> None:
        with suppress(OSError):  # nobody reads on behind the key
            for piece in pieces:
                server.ours.sendall(piece)
                threading.Event().wait(0.001)

    server = Server(b"OK\r\n", piecemeal)
    assert server.read() == (1, 1_795_457_555_020_647, 2)


@pytest.mark.usefixtures("impatient")
def test_an_event_whose_line_was_skipped_is_repeated() -> None:
    """The bracket is that of the event whose line came."""
    server = Server(b"OK\r\n", lambda key: b"[skipped: 9]\n", lambda key: OTHERS, line)
    assert server.read() == (5, 1_795_457_555_020_647, 6)


@pytest.mark.usefixtures("impatient")
def test_a_line_that_comes_late_counts_for_its_own_event() -> None:
    """Not for the one that was caused meanwhile."""
    server = Server(b"OK\r\n", lambda key: b"", lambda key: line(server.keys[0]))
    assert server.read() == (1, 1_795_457_555_020_647, 2)


@pytest.mark.parametrize("refusal", [b"CLIENT_ERROR watch commands not allowed\r\n", b"ERROR\r\n"])
def test_a_server_that_is_not_to_be_watched_can_not_tell(refusal: bytes) -> None:
    """``memcached -W``, or one too old: no event is caused, and no time is told."""
    server = Server(refusal, line)
    assert server.read() is None
    assert server.keys == []


def test_a_server_that_logs_nothing_can_not_tell() -> None:
    """One that takes the watch and then keeps silent, such as a proxy."""
    assert Server(b"OK\r\n").read(timeout=0.05) is None


def test_a_server_too_busy_to_show_the_line_is_an_error_to_retry() -> None:
    """It can tell, but not now: nobody goes by another clock for that."""
    server = Server(b"OK\r\n", *[lambda key: OTHERS] * 50)
    with pytest.raises(CacheError, match="too busy"):
        server.read(timeout=0.05)


def test_a_watcher_too_many_asks_again() -> None:
    """memcached has room for 20; when a fleet starts, they are soon gone."""
    server = Server(b"WATCHER_TOO_MANY log watcher limit reached\r\nOK\r\n", line)
    assert server.read() == (1, 1_795_457_555_020_647, 2)


def test_a_log_with_no_room_for_long_is_an_error_to_retry() -> None:
    """It can tell, but not now."""
    with pytest.raises(CacheError, match="watchers"):
        Server(b"WATCHER_TOO_MANY log watcher limit reached\r\n" * 50, line).read(timeout=0.1)


def test_a_log_that_ends_is_an_error() -> None:
    """The server went away."""
    server = Server(b"OK\r\n")
    server.ours.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionError):
        server.read()


def test_no_answer_at_all_is_a_timeout() -> None:
    """A server that hangs."""
    with pytest.raises(TimeoutError):
        Server(b"").read(timeout=0.02)


# A real memcached.


def wall_us() -> int:
    return time.time_ns() // 1000


@contextmanager
def on_a_socket() -> Iterator[MemcachedCache]:
    """Run a memcached on a Unix socket."""
    with TemporaryDirectory() as folder:
        path = os.path.join(folder, "socket")
        command = ["memcached", "-s", path, *(["-u", "root"] if os.geteuid() == 0 else [])]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 30
            while not os.path.exists(path) and time.monotonic() < deadline:
                time.sleep(0.02)
            yield MemcachedCache(path, timeout=5.0)
        finally:
            process.kill()
            process.wait()


def check_told(cache: MemcachedCache) -> None:
    """Check that a server of this machine tells this machine's time, again and again."""
    for _ in range(5):
        told = cache.tell_time(wall_us)
        assert told is not None
        before, server, after = told
        assert before <= server <= after


def test_memcached_tells_its_clock_within_the_bracket(server: Memcached) -> None:
    """Ours and the server's are one clock here, so the stamp lies between our two looks at it."""
    cache = MemcachedCache(HOST, server.port, timeout=5.0)
    assert isinstance(cache, TellsTime)
    check_told(cache)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets here")
def test_memcached_tells_its_clock_through_a_unix_socket(server: Memcached) -> None:
    """There is no port there to know a connection by."""
    with on_a_socket() as cache:
        check_told(cache)


def test_a_memcached_started_with_W_can_not_tell() -> None:  # noqa: N802 -- the option's name
    """Its refusal is no error: the cache is there, its clock is not."""
    with memcached("-W") as server:
        assert MemcachedCache(HOST, server.port).tell_time(wall_us) is None


def test_sixty_readers_at_once_all_read_it(server: Memcached) -> None:
    """Three times the watchers that memcached has room for: each gets its turn."""
    cache, told = MemcachedCache(HOST, server.port, timeout=20.0), list[bool]()

    def read() -> None:
        reading = cache.tell_time(wall_us)
        told.append(reading is not None and reading[0] <= reading[1] <= reading[2])

    readers = [threading.Thread(target=read) for _ in range(60)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(60)
    assert told == [True] * 60


def test_a_memcached_that_is_away_is_an_error() -> None:
    """No time is guessed."""
    with pytest.raises(CacheError):
        MemcachedCache(HOST, free_port(), timeout=0.5).tell_time(wall_us)


def test_a_reading_leaves_nothing_in_the_cache(server: Memcached) -> None:
    """Its keys are gone as soon as they are set."""
    MemcachedCache(HOST, server.port).tell_time(wall_us)
    assert "nekkar-clock" not in server.ask("lru_crawler metadump all")


@pytest.mark.parametrize("cache", [MemoryCache, SqliteCache])
def test_caches_of_one_machine_have_no_clock_of_their_own(cache: type[BaseCache], tmp_path: Path) -> None:
    """They share the machine's already."""
    assert not issubclass(cache, TellsTime)
