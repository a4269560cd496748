"""memcached: several servers, one deadline for a command, answers that must prove whose they are, TLS, old servers."""

from __future__ import annotations

import pickle
import random
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import pytest

from nekkar import CacheError, ConfigurationError, Nekkar
from nekkar.core.cache import UNREAD, MemcachedCache, MemoryCache, SqliteCache, from_url
from tests.integration.proxy import Closed, Proxy, delay, proxy
from tests.support.handlers import outcomes
from tests.support.internals.caches import (
    CLOCK_KEY,
    Classic,
    Meta,
    Stream,
    address,
    idle_in,
    meta,
    pick_server,
    servers_of,
    socket_of,
)
from tests.support.internals.caches import stream as stream_module
from tests.support.servers import Memcached, free_port, memcached

HOST = "127.0.0.1"
CERTIFICATE = Path(__file__).parents[1] / "integration" / "localhost.pem"
AnyCache = MemoryCache | SqliteCache | MemcachedCache


@pytest.fixture(scope="module")
def server() -> Iterator[Memcached]:
    with memcached() as running:
        yield running


@pytest.fixture(params=["memory", "sqlite", "memcached", "classic"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AnyCache]:
    if request.param == "memory":
        yield MemoryCache()
    elif request.param == "sqlite":
        yield SqliteCache(tmp_path / "cache.db", timeout=30.0)
    else:
        running: Memcached = request.getfixturevalue("server")
        running.ask("flush_all")
        with proxy(running.port) as way:
            if request.param == "classic":
                way.refuse = before_meta
            yield MemcachedCache(HOST, way.port, timeout=30.0)


def before_meta(request: bytes) -> bytes | None:
    """Answer as a memcached of 2019 does to what it does not know."""
    return b"VERSION 1.5.22\r\n" if request == b"version\r\n" else b"ERROR\r\n" if request[:1] == b"m" else None


# A swap tells its token.


def test_a_swap_that_won_tells_the_token_for_the_next(cache: AnyCache) -> None:
    """A chain of swaps needs one read; another's write ends it. Where no token can be told, it is UNREAD."""
    _, token = cache.gets("key")
    for value in (b"one", b"two", b"three"):
        token = cache.cas("key", value, token, 60)
        assert token is not None
        if token is UNREAD:
            token = cache.gets("key")[1]
    assert cache.gets("key")[0] == b"three"
    cache.set("key", "another's")
    assert cache.cas("key", b"four", token, 60) is None
    assert cache.get("key") == "another's"


def test_no_swap_wins_with_unread(cache: AnyCache) -> None:
    """Neither on a missing key nor on one that is there."""
    assert cache.cas("key", b"value", UNREAD, 60) is None
    assert cache.get("key") is None
    cache.set("key", "value")
    assert cache.cas("key", b"other", UNREAD, 60) is None
    assert cache.get("key") == "value"
    assert pickle.loads(pickle.dumps(UNREAD)) is UNREAD


@pytest.mark.parametrize("cache", ["classic"], indirect=True)
def test_a_classic_server_cannot_tell_the_token(cache: MemcachedCache) -> None:
    """It says UNREAD, for a new key and for an old one."""
    assert cache.cas("key", b"one", cache.gets("key")[1], 60) is UNREAD
    assert cache.cas("key", b"two", cache.gets("key")[1], 60) is UNREAD


# Old servers.


def speaks(cache: MemcachedCache) -> type[Meta | Classic]:
    cache.get("key")
    [running] = servers_of(cache).values()
    [connection] = idle_in(running.pool)
    return type(connection)


REFUSALS: dict[str, Callable[[bytes], bytes | None]] = {
    "an old version": before_meta,
    "no version known": lambda request: b"ERROR\r\n" if request[:2] in (b"ve", b"mg", b"ms", b"md") else None,
    "a new version without meta": lambda request: b"ERROR\r\n" if request[:2] in (b"mg", b"ms", b"md") else None,
    "a version of something else": lambda request: b"VERSION mcrouter 36\r\n" if request[:2] == b"ve" else None,
    "meta that tells no opaque on a miss": lambda request: b"VERSION 1.6.14\r\n" if request[:2] == b"ve" else None,
}


@pytest.mark.parametrize("refuse", REFUSALS.values(), ids=REFUSALS)
def test_a_server_that_does_not_speak_meta_is_spoken_to_classically(
    refuse: Callable[[bytes], bytes | None], server: Memcached
) -> None:
    """All methods work, and a limit is kept."""
    server.ask("flush_all")
    with proxy(server.port) as way:
        way.refuse = refuse
        cache = MemcachedCache(HOST, way.port)
        assert speaks(cache) is Classic
        assert cache.add("key", "one")
        assert not cache.add("key", "two")
        cache.set("key", "three")
        value, token = cache.gets("key")
        assert value == b"three"
        assert cache.cas("key", b"four", token, 60)
        assert cache.cas("key", b"five", token, 60) is None
        cache.delete("key")
        assert cache.get("key") is None
        limit = Nekkar(cache, clock="local")("classic", "3/minute")  # the proxy passes no log on
        assert [limit.acquire(max_wait=0).cost for _ in range(3)] == [1, 1, 1]
        assert limit.status().windows[0].remaining == 0


def test_who_hangs_up_on_a_version_it_does_not_know_is_met_again(server: Memcached) -> None:
    """Some proxies do: they are asked on a new connection what they do know."""

    def hang_up(client: socket.socket, answer: bytes) -> None:
        client.sendall(b"ERROR\r\n")
        raise Closed

    with proxy(server.port) as way:
        way.fault, way.only = hang_up, b"version"
        assert speaks(MemcachedCache(HOST, way.port)) is Classic


def test_what_is_no_answer_to_version_is_an_error(server: Memcached) -> None:
    """It may be another command's, left on the way; the next try finds out what the server is."""
    with proxy(server.port) as way:
        cache = MemcachedCache(HOST, way.port)
        way.refuse = lambda request: b"STORED\r\n" if request == b"version\r\n" else None
        with pytest.raises(CacheError, match="answered b'STORED' to version"):
            cache.get("key")
        way.refuse = lambda request: None
        assert speaks(cache) is Meta


def test_a_server_of_today_is_spoken_to_by_meta_commands(server: Memcached) -> None:
    """And so is one at the path of a socket or behind a proxy that passes all on."""
    assert speaks(MemcachedCache(HOST, server.port)) is Meta


@pytest.mark.parametrize("cache", ["classic"], indirect=True)
def test_what_came_before_it_was_asked_for_is_no_classic_answer(cache: MemcachedCache, monkeypatch: Any) -> None:
    """A second STORED, left on the connection, does not make a lost swap look won."""
    _, token = cache.gets("key")
    assert cache.cas("key", b"mine", token, 60) is UNREAD
    [running] = servers_of(cache).values()
    [connection] = idle_in(running.pool)
    connection.stream.sendall(b"set stray 0 0 1\r\nx\r\n")
    socket_of(connection.stream).settimeout(30)
    assert socket_of(connection.stream).recv(1, socket.MSG_PEEK) == b"S"
    with pytest.raises(CacheError, match="before it was asked"):
        cache.cas("key", b"again", token, 60)
    assert cache.get("key") == "mine"


class Waits:
    """A socket that notes for how long it is set to wait."""

    def __init__(self) -> None:
        self.set: list[float] = []

    def settimeout(self, seconds: float) -> None:
        self.set.append(seconds)

    def send(self, data: bytes) -> int:
        return len(data)

    def recv(self, size: int) -> bytes:
        return b"x"[:size]


def test_a_socket_is_set_to_wait_once_for_many_commands_and_never_beyond_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each setting is a system call; but an answer that dribbles in gets what is left, less and less."""
    now, waits = [100.0], Waits()
    monkeypatch.setattr(stream_module, "monotonic", lambda: now[0])
    stream: Any = Stream(cast(Any, waits), 0.0)
    for _ in range(50):
        now[0] += 10
        stream.until = now[0] + 2
        stream.sendall(b"command")
        now[0] += 0.05
        stream.recv(1)
    assert len(waits.set) == 1
    while now[0] < stream.until - 0.001:
        stream.recv(1)
        assert 0.9 * (stream.until - now[0]) <= waits.set[-1] <= stream.until - now[0]
        now[0] += 0.01
    now[0] = stream.until
    stream.recv(1)
    assert waits.set[-1] == 0.0  # what is here already, and nothing else
    with pytest.raises(TimeoutError):
        stream.sendall(b"command")


def test_nobody_gives_up_before_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket that was set to wait a part less is asked again: a clock is read from a log up to the last moment."""
    now, waits = [100.0], Waits()

    def silent(size: int) -> bytes:
        now[0] += waits.set[-1]
        raise TimeoutError

    monkeypatch.setattr(stream_module, "monotonic", lambda: now[0])
    monkeypatch.setattr(waits, "recv", silent)
    stream: Any = Stream(cast(Any, waits), 102.0)
    with pytest.raises(TimeoutError):
        stream.recv(1)
    assert now[0] == pytest.approx(102.0)
    assert len(waits.set) < 20


def test_a_server_without_tokens_is_an_error() -> None:
    """``memcached -C`` tells 0 for every token, and takes 0 for no condition: each swap would win."""
    with memcached("-C") as running, proxy(running.port) as way:
        for way.refuse in (before_meta, lambda request: None):
            cache = MemcachedCache(HOST, way.port)
            cache.set("key", "value")
            with pytest.raises(CacheError, match="without -C"):
                cache.cas("key", b"other", cache.gets("key")[1], 60)
            assert cache.get("key") == "value"


# Answers that are none.


@contextmanager
def answering(answer: Callable[[bytes], list[bytes]], host: str = HOST) -> Iterator[int]:
    """Serve what speaks meta, and then answers each command by these pieces, 50 ms apart; b"" closes."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while request := connection.recv(1 << 20):
                if request == b"version\r\n":
                    connection.sendall(b"VERSION 1.6.18\r\n")
                else:
                    for piece in answer(request):
                        if not piece:
                            return
                        connection.sendall(piece)
                        time.sleep(0.05)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server((host, 0), family=family) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def answer(line: bytes) -> Callable[[bytes], list[bytes]]:
    """Answer so, with the opaque of the command in place of ``@``."""
    return lambda request: [line.replace(b"@", next(word for word in request.split() if word[:1] == b"O"))]


def to_stores(line: bytes) -> Callable[[bytes], list[bytes]]:
    """Answer so to stores alone; to reads that nothing is there."""
    return lambda request: answer(line if request[:2] == b"ms" else b"EN kkey @\r\n")(request)


def gets(cache: MemcachedCache) -> object:
    return cache.gets("key")


def swaps(cache: MemcachedCache) -> object:
    return cache.cas("key", b"value", cache.gets("key")[1], 60)


BAD = [
    (gets, b"EN\r\n"),
    (gets, b"EN kkey\r\n"),
    (gets, b"EN kkey O1\r\n"),
    (gets, b"EN kother @\r\n"),
    (gets, b"VA 1 c7 kkey O1\r\nx\r\n"),
    (gets, b"VA 1 c7 kother @\r\nx\r\n"),
    (gets, b"VA 1 kkey @\r\nx\r\n"),
    (gets, b"VA 1 cx kkey @\r\nx\r\n"),
    (gets, b"VA kkey c7 @\r\nx\r\n"),
    (gets, b"VA -3 c7 kkey @\r\nx\r\n"),
    (gets, b"VA 1 c7 kkey @\r\nxy\r\n"),
    (gets, b"VA 0 c7 kkey @\r\nx\r\n"),
    (gets, b"VA 1 c7 kkey @\r\nx\r\nVA 1 c7 kkey @\r\nx\r\n"),
    (gets, b"EN kkey @\r\nEN kkey @\r\n"),
    (gets, b"HD c7 kkey @\r\n"),
    (gets, b"\xff\x00\r\n"),
    (gets, b"\r\n"),
    (gets, b"x" * 10_000),
    (gets, b"HTTP/1.1 400 Bad Request\r\n"),
    (gets, b"SERVER_ERROR out of memory\r\n"),
    (swaps, b"HD kkey @\r\n"),
    (swaps, b"HD c8 kkey O1\r\n"),
    (swaps, b"HD c8 kother @\r\n"),
    (swaps, b"HD c8 kkey @\r\nHD c8 kkey @\r\n"),
    (swaps, b"EX c0 kkey O1\r\n"),
    (swaps, b"STORED\r\n"),
    (swaps, b"EN kkey @\r\n"),
    (swaps, b"CLIENT_ERROR bad data chunk\r\n"),
]


@pytest.mark.parametrize(("ask", "line"), BAD)
def test_an_answer_that_is_not_the_commands_is_an_error(ask: Callable[[MemcachedCache], object], line: bytes) -> None:
    """CacheError says from where and what came; the connection is closed."""
    with answering((answer if ask is gets else to_stores)(line)) as port:
        cache = MemcachedCache(HOST, port, timeout=5.0)
        with pytest.raises(CacheError, match=f"memcached at {HOST}:{port} (answered|sent)") as caught:
            ask(cache)
        [running] = servers_of(cache).values()
        assert not running.pool.has_idle
        assert len(str(caught.value)) < 400


def test_what_a_signal_handler_raises_where_an_answer_is_read_stays_what_it_is() -> None:
    """At any line: it says nothing about the answer."""
    error = ValueError("mine")
    raised = outcomes(lambda: meta._parsed(b"VA 1 c7 kkey"), error, meta.__file__)
    assert len(raised) >= 4
    assert all(each is error for each in raised)


def test_the_answers_of_the_tests_above_are_taken_when_they_are_right() -> None:
    """So that what they show is not an artefact of the fake server."""
    with answering(answer(b"VA 1 c7 kkey @\r\nx\r\n")) as port:
        assert MemcachedCache(HOST, port).gets("key") == (b"x", (1, b"7"))
    with answering(answer(b"EN kkey @\r\n")) as port:
        assert MemcachedCache(HOST, port).gets("key") == (None, (1, None))
    with answering(to_stores(b"HD c8 kkey @\r\n")) as port:
        assert swaps(MemcachedCache(HOST, port)) == (1, b"8")
    for lost in (b"NS", b"EX", b"NF"):
        with answering(to_stores(lost + b" c0 kkey @\r\n")) as port:
            assert swaps(MemcachedCache(HOST, port)) is None


def test_a_second_answer_never_passes_for_the_next_commands(server: Memcached) -> None:
    """It comes after the first was taken, when the next command is already on its way: HD for a swap that lost."""
    with proxy(server.port) as way:
        cache = MemcachedCache(HOST, way.port)
        cache.set("key", "value")
        _, token = cache.gets("key")
        way.refuse = lambda request: b"HD c9 kkey O17\r\n" if request.startswith(b"ms") else None
        with pytest.raises(CacheError, match="answered b'HD c9 kkey O17' to ms of key 'key'"):
            cache.cas("key", b"other", token, 60)
        assert cache.get("key") == "value"


def test_a_read_that_meets_anothers_answer_on_a_kept_connection_is_asked_again(server: Memcached) -> None:
    """On a new one, and then it is right; a write in its place is an error, and never sent twice."""
    cache = MemcachedCache(HOST, server.port)
    cache.set("key", "value")
    [running] = servers_of(cache).values()
    for stray in (b"mg stray v k O5\r\n", b"get key\r\n"):
        [connection] = idle_in(running.pool)
        connection.stream.sendall(stray)
        assert cache.get("key") == "value"
    [connection] = idle_in(running.pool)
    connection.stream.sendall(b"mn\r\n")
    with pytest.raises(CacheError, match="answered b'MN' to ms"):
        cache.set("key", "other")


@pytest.mark.parametrize(
    "key", ["", "a b", "a\r\nflush_all", "a\tb", "x" * 251, "naïve", "\x00", "\x7f", "\ud800", 7, b"key"]
)
def test_a_key_that_memcached_would_refuse_is_refused_here(key: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """ConfigurationError names it and the bounds, and nothing is sent, nor even connected."""
    monkeypatch.setattr(socket, "socket", None)
    cache = MemcachedCache()
    commands: list[Callable[[], object]] = [
        lambda: cache.get(key),
        lambda: cache.gets(key),
        lambda: cache.add(key, "value"),
        lambda: cache.set(key, "value"),
        lambda: cache.delete(key),
        lambda: cache.cas(key, b"value", (0, None), 60),
    ]
    for command in commands:
        with pytest.raises(ConfigurationError, match=r"memcached key .*(without spaces|give 1 to)"):
            command()


def test_the_longest_key_works(server: Memcached) -> None:
    """250 characters, which are any that print."""
    cache = MemcachedCache(HOST, server.port)
    key = "!~:{}\"'%" + "x" * 242
    cache.set(key, "value")
    assert cache.get(key) == "value"


# One deadline.


def timed(call: Callable[[], object], told: str) -> float:
    began = time.monotonic()
    with pytest.raises(CacheError, match=told) as caught:
        call()
    assert isinstance(caught.value.__cause__, TimeoutError)
    return time.monotonic() - began


@pytest.mark.parametrize("ask", [gets, swaps])
def test_a_server_that_dribbles_its_answer_is_an_error_within_the_timeout(ask: Callable[[Any], object]) -> None:
    """40 bytes at 50 ms each would take 2 s, and no wait is longer than 50 ms: the command ends after 0.2 s."""
    with answering(lambda asked: [b"V"] * 40 if asked[:2] == b"ms" or ask is gets else to_stores(b"")(asked)) as port:
        cache = MemcachedCache(HOST, port, timeout=0.2)
        assert timed(lambda: ask(cache), r"did not answer within 0\.2 s") < 1.0


def test_an_answer_that_came_while_this_process_stood_still_counts() -> None:
    """Stopped, or collecting garbage, for longer than the timeout: what is here is read, and no more awaited."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        stream = Stream(ours, until=time.monotonic() - 1.0)
        theirs.sendall(b"here")
        assert stream.recv(64) == b"here"
        with pytest.raises(TimeoutError):
            stream.recv(64)
        theirs.close()
        assert stream.recv(64) == b""


def test_connecting_and_asking_share_one_deadline(server: Memcached) -> None:
    """With 0.6 s for each answer a first command (version, read) is over its 1 s, a later one is not."""
    with proxy(server.port) as way:
        cache = MemcachedCache(HOST, way.port, timeout=1.0)
        cache.get("key")
        way.fault = delay(0.6)
        cache.get("key")
        fresh = MemcachedCache(HOST, way.port, timeout=1.0)
        timed(lambda: fresh.get("key"), "did not answer")


def test_a_server_that_does_not_read_is_an_error_within_the_timeout() -> None:
    """A value that fills the buffers on the way is given up like an answer that does not come."""

    def deaf(request: bytes) -> list[bytes]:
        time.sleep(2)
        return [b""]

    with answering(deaf) as port:
        cache = MemcachedCache(HOST, port, timeout=0.3)
        assert timed(lambda: cache.set("key", "x" * 30_000_000), "did not answer") < 2.0


def test_a_name_that_is_not_resolved_in_time_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The resolver knows no timeout; the command has one all the same."""
    hang, original = threading.Event(), socket.getaddrinfo

    def resolver(host: str, port: int, family: int, kind: int, protocol: int, flags: int) -> Any:
        if flags & socket.AI_NUMERICHOST:
            return original(host, port, family, kind, protocol, flags)
        hang.wait(30)
        raise socket.gaierror("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    cache = MemcachedCache("cache.invalid", timeout=0.2)
    assert timed(lambda: cache.get("key"), r"cache\.invalid:11211 did not answer within 0\.2 s") < 2.0
    hang.set()


def test_each_address_of_a_name_is_tried(server: Memcached, monkeypatch: pytest.MonkeyPatch) -> None:
    """localhost is often ::1 first, where a memcached on 127.0.0.1 does not listen; one that hangs takes its share."""
    with socket.create_server((HOST, 0), backlog=0) as full, socket.create_connection(full.getsockname()):
        hanging, refusing = full.getsockname(), (HOST, free_port())
        found = [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", sockaddr)
                 for sockaddr in (refusing, hanging, (HOST, server.port))]  # fmt: skip
        with socket.socket() as filler:
            filler.setblocking(False)
            filler.connect_ex(hanging)
            monkeypatch.setattr(socket, "getaddrinfo", lambda *terms: found)
            cache = MemcachedCache("localhost", server.port, timeout=2.0)
            cache.set("key", "value")
            assert cache.get("key") == "value"


def test_a_command_is_one_send(server: Memcached, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two small writes would wait for each other; head and value go together. A new connection asks one thing more."""
    sent: list[bytes] = []
    original = Stream.sendall

    def counted(stream: Stream, data: bytes) -> None:
        sent.append(data)
        original(stream, data)

    cache = MemcachedCache(HOST, server.port)
    monkeypatch.setattr(Stream, "sendall", counted)
    _, token = cache.gets("key")
    cache.cas("key", b"value", token, 60)
    cache.add("key", "value")
    cache.set("key", "value")
    cache.delete("key")
    assert [data[:2] for data in sent] == [b"ve", b"mg", b"ms", b"ms", b"ms", b"md"]
    assert all(data.endswith(b"\r\n") for data in sent)


# Several servers.

SERVERS: list[Any] = ["h1:11211", "h2", ("h3", 11211), "[::1]:11211", "/run/memcached.sock"]
GOLDEN = ["h1:11211", "/run/memcached.sock", "[::1]:11211", "h3:11211", "h2:11211"]  # of nekkar:0, nekkar:1, …


def test_a_keys_server_is_the_same_everywhere() -> None:
    """In every process, on every Python, in any order of the list: these were chosen once and stay."""
    found = [address(each) for each in SERVERS]
    for _ in range(20):
        random.shuffle(found)
        chosen = [str(pick_server(found, f"nekkar:{number}")) for number in range(5)]
        assert chosen == GOLDEN
    chosen = [str(pick_server([address("H1"), address("h2")], str(number))).lower() for number in range(10)]
    assert chosen == [str(pick_server([address("h2"), address("h1")], str(number))) for number in range(10)]


def test_keys_spread_evenly_and_only_those_of_a_server_taken_away_move() -> None:
    """Of 10,000 keys each of five has its fifth, give or take; without one, its keys alone move, to all others."""
    found = [address(each) for each in SERVERS]
    keys = [f"nekkar:{number}" for number in range(10_000)]
    before = {key: pick_server(found, key) for key in keys}
    shares = Counter(before.values())
    assert all(1800 <= shares[each] <= 2200 for each in found)
    after = {key: pick_server(found[1:], key) for key in keys}
    moved = [key for key in keys if before[key] != after[key]]
    assert {before[key] for key in moved} == {found[0]}
    assert len(moved) == shares[found[0]]
    assert all(Counter(after[key] for key in moved)[each] > 300 for each in found[1:])


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("h", "h:11211"),
        ("h:1", "h:1"),
        (("h", 1), "h:1"),
        (["h", 1], "h:1"),
        ("[::1]", "[::1]:11211"),
        ("[::1]:1", "[::1]:1"),
        (("::1", 1), "[::1]:1"),
        ("/a/socket", "/a/socket"),
        ("unix:/a/socket", "/a/socket"),
    ],
)
def test_servers_are_named_as_pymemcache_names_them(spec: Any, told: str) -> None:
    """The same server by any of its names is the same address."""
    assert str(address(spec)) == told
    assert address(str(address(spec))) == address(spec)


@pytest.mark.parametrize(
    ("servers", "told"),
    [
        ([], "must be a list of servers"),
        ("h1,h2", "must be a list of servers"),
        (7, "must be a list of servers"),
        ([7], "got int 7"),
        ([None], "got None"),
        (["h", "h:11211"], "'h:11211' is listed twice"),
        (["h", "H"], "is listed twice"),
        (["::1"], "IPv6 in brackets"),
        (["h:x"], "is not host:port"),
        (["a b"], "is not host:port"),
        (["h:0"], "from 1 to 65535"),
        ([("h", "11211")], "from 1 to 65535"),
        ([("", 1)], "host name or a socket path"),
        ([""], "host name or a socket path"),
    ],
)
def test_servers_that_are_none_are_refused_when_written(servers: Any, told: str) -> None:
    """ConfigurationError names the value and what is expected."""
    with pytest.raises(ConfigurationError, match=told):
        MemcachedCache(servers=servers)


def test_a_host_beside_servers_is_refused() -> None:
    """One of them would be forgotten."""
    with pytest.raises(ConfigurationError, match="put it into the list"):
        MemcachedCache("h1", servers=["h2"])


def keys_of(cache: MemcachedCache) -> dict[int, str]:
    """Return a key for each server, by its port."""
    found: dict[int, str] = {}
    for number in range(1000):
        found.setdefault(cache._server_of(f"key-{number}").address.port or 0, f"key-{number}")
    return found


def test_a_dead_server_is_an_error_for_its_keys_alone(server: Memcached) -> None:
    """Nobody else takes them over, and all others go on; back again, it serves them."""
    with memcached() as other:
        cache = MemcachedCache(servers=[(HOST, server.port), (HOST, other.port)])
        key, lost = keys_of(cache)[server.port], keys_of(cache)[other.port]
        for each in (key, lost):
            cache.set(each, "value")
        assert server.ask(f"get {key}").startswith("VALUE")
        assert other.ask(f"get {lost}").startswith("VALUE")
        other.stop()
        for _ in range(2):
            assert cache.get(key) == "value"
            with pytest.raises(CacheError, match=f"{HOST}:{other.port}"):
                cache.get(lost)
        assert server.ask(f"get {lost}") == "END\r\n"
        other.start()
        assert cache.get(lost) is None


def test_a_token_does_not_outlive_its_own_servers_restart_and_others_do() -> None:
    """Each server's connections have a generation of their own."""
    with memcached() as one, memcached() as two:
        cache = MemcachedCache(servers=[(HOST, one.port), (HOST, two.port)])
        kept, lost = keys_of(cache)[one.port], keys_of(cache)[two.port]
        tokens = {key: cache.cas(key, b"value", cache.gets(key)[1], 60) for key in (kept, lost)}
        two.stop()
        two.start()
        MemcachedCache(HOST, two.port).set(lost, "the new server's")  # under the very same number
        assert two.ask(f"gets {lost}").split()[4].encode() == tokens[lost][1]
        for _ in range(3):
            with suppress(CacheError):
                assert cache.cas(lost, b"stale", tokens[lost], 60) is None
        assert cache.get(lost) == "the new server's"
        assert cache.cas(kept, b"next", tokens[kept], 60) is not None


def test_a_limit_is_shared_by_lists_in_any_order() -> None:
    """Two processes that write the same servers the other way round meet in one window."""
    with memcached() as one, memcached() as two:
        urls = [f"memcached://{HOST}:{a.port},{HOST}:{b.port}?timeout=5" for a, b in ((one, two), (two, one))]
        limiters = [Nekkar(url) for url in urls]
        for number in range(8):
            first, second = (limiter(f"limit-{number}", "2/minute") for limiter in limiters)
            first.acquire(max_wait=0)
            second.acquire(max_wait=0)
            assert first.status().windows[0].used == 2
        assert all(int(each.stats()["curr_items"]) > 0 for each in (one, two))


def test_the_limits_of_servers_that_are_up_start_while_the_one_that_tells_the_time_is_away() -> None:
    """A new process takes the next server's clock, the same in every process; limits of the one that is away fail."""
    with memcached() as one, memcached() as two:
        cache = MemcachedCache(servers=[(HOST, one.port), (HOST, two.port)], timeout=5.0)
        timer = one if cache.server_of(CLOCK_KEY) == f"{HOST}:{one.port}" else two
        keys = {cache.server_of(f"nekkar:limit-{number}") == f"{HOST}:{timer.port}": number for number in range(30)}
        timer.stop()
        limiter = Nekkar(cache)
        assert abs(limiter(f"limit-{keys[False]}", "2/minute").acquire().at - time.time()) < 20
        with pytest.raises(CacheError, match=str(timer.port)):
            limiter(f"limit-{keys[True]}", "2/minute").acquire()
        timer.start()
        limiter(f"limit-{keys[True]}", "2/minute").acquire()


def test_one_server_has_no_other_that_tells_the_time() -> None:
    """Its own error is told."""
    port = free_port()
    with pytest.raises(CacheError, match=f"memcached at {HOST}:{port}: ConnectionRefused"):
        Nekkar(f"memcached://{HOST}:{port}")("calls", 2).acquire()


def test_an_ipv6_server_is_reached_by_its_url() -> None:
    """In brackets, with its port."""
    with answering(answer(b"VA 1 c7 kkey @\r\nx\r\n"), "::1") as port:
        cache = from_url(f"memcached://[::1]:{port}")
        assert cache.get("key") == "x"
        assert repr(cache) == f"MemcachedCache('::1', {port}, timeout=1)"


def test_several_servers_survive_pickling() -> None:
    """And their repr makes the same cache again."""
    cache = MemcachedCache(servers=SERVERS, timeout=2.5)
    assert repr(pickle.loads(pickle.dumps(cache))) == repr(cache) == repr(eval(repr(cache)))


# TLS.


@pytest.fixture
def secured(server: Memcached) -> Iterator[Proxy]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    with proxy(server.port, context) as running:
        yield running


def test_a_cache_over_tls(secured: Proxy) -> None:
    """By a context of one's own; large values too."""
    cache = MemcachedCache(HOST, secured.port, tls_context=ssl.create_default_context(cafile=CERTIFICATE), timeout=10)
    cache.set("key", "x" * 500_000)
    assert cache.get("key") == "x" * 500_000
    assert cache.cas("key", b"other", cache.gets("key")[1], 60)


def test_a_url_of_memcacheds_trusts_what_the_system_trusts(secured: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing else: an unknown certificate is a CacheError that says so. It survives pickling."""
    url = f"memcacheds://localhost:{secured.port}?timeout=10"
    with pytest.raises(CacheError, match="CERTIFICATE_VERIFY_FAILED"):
        from_url(url).get("key")
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    cache = from_url(url)
    cache.set("key", "value")
    assert pickle.loads(pickle.dumps(cache)).get("key") == "value"


def test_a_server_that_does_not_speak_tls_is_an_error_in_time(server: Memcached) -> None:
    """Whether it says something else or nothing at all."""
    context = ssl.create_default_context()
    with pytest.raises(CacheError, match=f"{HOST}:{server.port}"):
        MemcachedCache(HOST, server.port, tls_context=context).get("key")
    with socket.create_server((HOST, 0)) as silent:
        cache = MemcachedCache(HOST, silent.getsockname()[1], tls_context=context, timeout=0.2)
        assert timed(lambda: cache.get("key"), "did not answer") < 2.0


def test_a_cache_with_a_context_of_ones_own_says_that_it_cannot_be_pickled() -> None:
    """ConfigurationError names what to do instead; a socket with TLS is refused as well."""
    with pytest.raises(ConfigurationError, match="tls_context=True"):
        pickle.dumps(MemcachedCache(tls_context=ssl.create_default_context()))
    with pytest.raises(ConfigurationError, match="takes no TLS"):
        MemcachedCache("/a/socket", tls_context=True)
