"""Redis and Valkey: the contract of a cache over each kind of client, then what it does when its server fails."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import pickle
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
import redis.cluster
import valkey
import valkey.asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry

import nekkar
from nekkar.core.cache import BaseCache, SwapCache, from_url
from nekkar.core.errors import CacheError, ConfigurationError, CorruptLog, WaitTooLong
from nekkar.redis import RedisCache
from nekkar.testing import CacheConformance
from tests.integration.proxy import proxy
from tests.integration.proxy import redis as by_resp
from tests.support.internals.caches import idle_in, pool_of, socket_of
from tests.support.internals.redis import COUNT, DESCENT, _after, client_of
from tests.support.internals.redis import cache as cache_module
from tests.support.internals.shared import cache_key
from tests.support.processes import increment, increment_together, started
from tests.support.servers import RedisServer, free_port, redis_server, tcp_server

HOST = "127.0.0.1"
KINDS = ("host", "url", "valkey", "client", "valkey client", "cluster", "valkey cluster")

_numbers = count(1)
_spawn = multiprocessing.get_context("spawn")
threads_and_forks = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisServer]:
    with cluster_of_one() as running:
        yield running


@contextmanager
def cluster_of_one() -> Iterator[RedisServer]:
    """Run a cluster of one node for a while."""
    bus = str(free_port())  # by default 10,000 above the other, which may be no port
    with redis_server("--save", "", "--cluster-enabled", "yes", "--cluster-port", bus) as running:
        assert running.ask("CLUSTER ADDSLOTSRANGE 0 16383") == "+OK"
        deadline = time.monotonic() + 30
        while "cluster_state:ok" not in running.ask("CLUSTER INFO"):
            assert time.monotonic() < deadline, "the cluster does not come up"
            time.sleep(0.02)
        yield running


@pytest.fixture
def key() -> str:
    """A key of the test's own."""
    return f"key-{next(_numbers)}"


def made(kind: str, port: int, timeout: float = 30.0) -> RedisCache:
    """Return a cache of one kind of address or client."""
    makers: dict[str, Callable[[], Any]] = {
        "host": lambda: RedisCache(HOST, port, timeout=timeout),
        "url": lambda: RedisCache(f"redis://{HOST}:{port}/0?timeout={timeout:g}"),
        "valkey": lambda: RedisCache(f"valkey://{HOST}:{port}/0", timeout=timeout),
        "client": lambda: RedisCache(redis.Redis(HOST, port, decode_responses=True), timeout=timeout),
        "valkey client": lambda: RedisCache(valkey.Valkey(HOST, port, decode_responses=True), timeout=timeout),
        "cluster": lambda: RedisCache(redis.cluster.RedisCluster(HOST, port, socket_timeout=timeout)),
        "valkey cluster": lambda: RedisCache(valkey.cluster.ValkeyCluster(HOST, port, socket_timeout=timeout)),
    }
    cache = makers[kind]()
    assert isinstance(cache, RedisCache)
    return cache


@pytest.fixture
def cache(request: pytest.FixtureRequest) -> RedisCache:
    """A cache of the kind that the test was parametrized with, or of a host."""
    kind = getattr(request, "param", "host")
    running: RedisServer = request.getfixturevalue("cluster" if "cluster" in kind else "server")
    return made(kind, running.port)


everywhere = pytest.mark.parametrize("cache", KINDS, indirect=True)


# The contract of a cache: the whole suite over a server and over a cluster, then what differs from client to client.


class TestServer(CacheConformance):
    """A server by its host and port."""

    @pytest.fixture(autouse=True)
    def _on_a_server(self, server: RedisServer) -> None:
        self.port = server.port

    def make_cache(self) -> BaseCache:
        return made("host", self.port)

    def make_unreachable(self) -> BaseCache:
        return RedisCache(HOST, free_port())


class TestCluster(CacheConformance):
    """A cluster, by its own client: each command finds its node."""

    test_a_cache_that_is_away_says_so = None  # type: ignore[assignment]  # its client asks the cluster when it is made

    @pytest.fixture(autouse=True)
    def _on_a_cluster(self, cluster: RedisServer) -> None:
        self.port = cluster.port

    def make_cache(self) -> BaseCache:
        return made("cluster", self.port)


@everywhere
def test_what_each_kind_of_client_stores_comes_back_as_it_went(cache: RedisCache, key: str) -> None:
    """Texts and bytes of all sorts, whatever the key, the protocol and the client's decoding."""
    for name in (key, f"{key} 時間\r\n"):
        for text in ("", " spaces\tand\r\n+OK\r\n$-1", "naïve, 時間, 🕰", "\x00\x7f", "x" * 100_000):
            cache.delete(name)
            assert cache.get(name) is None
            assert cache.add(name, text)
            assert not cache.add(name, "other")
            assert cache.gets(name)[0] == text.encode()
            cache.set(name, "other")
            cache.set(name, text)
            assert cache.get(name) == text
        raw = bytes(range(256))
        assert cache.cas(name, raw, cache.gets(name)[1], 60)
        assert cache.gets(name)[0] == raw


def test_what_is_set_over_a_swap_does_not_expire(cache: RedisCache, server: RedisServer, key: str) -> None:
    """Set is unconditional, and leaves no expiry of what was there."""
    assert cache.cas(key, b"swapped", cache.gets(key)[1], 1)
    cache.set(key, "set")
    assert server.ask(f"TTL {key}") == ":-1"


@everywhere
def test_it_is_a_base_cache_that_swaps(cache: RedisCache) -> None:
    """Any limiter takes it, and swaps natively."""
    kinds: tuple[Any, ...] = (BaseCache, SwapCache)
    assert all(isinstance(cache, kind) for kind in kinds)


@everywhere
def test_a_token_is_good_for_one_swap_and_a_swap_gives_the_next(cache: RedisCache, key: str) -> None:
    """The token that a swap returns is the one that a read would: the next swap needs no read."""
    cache.set(key, "one")
    _, token = cache.gets(key)
    second: Any = cache.cas(key, b"two", token, 3600)
    assert second == cache.gets(key)[1]
    assert cache.cas(key, b"three", token, 3600) is None
    third = cache.cas(key, b"three", second, 3600)
    assert third
    assert cache.cas(key, b"four", second, 3600) is None
    assert cache.gets(key) == (b"three", third)


def test_three_processes_that_swap_lose_no_increment(cache: RedisCache, server: RedisServer, key: str) -> None:
    """The same between processes, each with the cache as it was pickled to it, while the scripts are flushed."""
    begin, flushes = _spawn.Barrier(4), 0
    with closing(_spawn.Queue()) as results:
        task = (cache, key, begin, results)
        workers = [_spawn.Process(target=increment_together, args=task) for _ in range(3)]
        with started(workers):
            begin.wait(120)
            while results.qsize() < 3 and all(worker.exitcode in (None, 0) for worker in workers):
                assert server.ask("SCRIPT FLUSH") == "+OK"
                flushes += 1
            conflicts = sum(results.get(timeout=10) for _ in workers)
    assert cache.gets(key)[0] == b"%d" % (3 * 150)
    assert conflicts > 0
    assert flushes > 1


@pytest.mark.parametrize("cache", ["host", "cluster"], indirect=True)
def test_a_value_lives_its_ttl_and_no_longer(cache: RedisCache, key: str) -> None:
    """One of a second goes, and its token with it; those past 2^31 seconds, and past what Redis counts, stay."""
    for ttl in (86_400, 2**31, 2**33, 10**12, 10**15, 2**62, 10**30):
        token: Any = cache.cas(f"{key}-{ttl}", b"long", cache.gets(f"{key}-{ttl}")[1], ttl)
        assert cache.cas(f"{key}-{ttl}", b"longer", token, ttl)
        assert cache.gets(f"{key}-{ttl}")[0] == b"longer"
    token = cache.cas(key, b"short", cache.gets(key)[1], 1)
    deadline = time.monotonic() + 30
    while cache.gets(key)[0]:
        assert time.monotonic() < deadline, "a value of 1 s is still there"
        time.sleep(0.05)
    assert cache.cas(key, b"late", token, 3600) is None
    assert cache.add(key, "anew")


def test_ttls_reach_the_server_in_seconds(cache: RedisCache, server: RedisServer, key: str) -> None:
    """A limit of 100 years is kept for 100 years."""
    for ttl in (60, 100 * 365 * 86_400):
        cache.cas(key, b"value", cache.gets(key)[1], ttl)
        assert ttl - 30 <= int(server.ask(f"TTL {key}").removeprefix(":")) <= ttl


@everywhere
def test_a_limit_is_kept_on_it(cache: RedisCache, key: str) -> None:
    """Five of five, and no sixth, for all who share it; others' text under a limit's key is a corrupt log."""
    limits = [nekkar.Nekkar(cache)(key, "5/min") for _ in range(2)]
    for number in range(5):
        limits[number % 2].acquire(max_wait=0)
    for limit in limits:
        with pytest.raises(WaitTooLong):
            limit.acquire(max_wait=0)
    cache.set(cache_key(key), "not a log")
    with pytest.raises(CorruptLog, match=key):
        nekkar.Nekkar(cache)(key, 10).acquire()


# What is stored, and by whom.


@pytest.mark.parametrize("foreign", ["", "short", "x" * 100])
def test_what_another_program_stored_is_refused_not_guessed_at(
    cache: RedisCache, server: RedisServer, key: str, foreign: str
) -> None:
    """CorruptLog names the server, the key and the remedy, and the value stays as it is."""
    server.ask(f'SET {key} "{foreign}"')
    for read in (cache.get, cache.gets):
        with pytest.raises(CorruptLog, match=rf"{HOST}:{server.port}/0: key '{key}' .* delete the key"):
            read(key)
    assert cache.cas(key, b"value", (b"", b""), 60) is None or not foreign
    cache.delete(key)
    assert cache.get(key) is None


def test_bytes_that_are_no_text_are_a_corrupt_log_to_who_asks_for_text(cache: RedisCache, key: str) -> None:
    """As in every cache; to who asks for bytes they are as good as any."""
    assert cache.cas(key, b"\xff\xfe", cache.gets(key)[1], 60)
    with pytest.raises(CorruptLog, match=rf"{HOST}:\d+/0: key '{key}' holds b'\\xff\\xfe', .* delete the key$"):
        cache.get(key)
    assert cache.gets(key)[0] == b"\xff\xfe"


@everywhere
def test_a_key_of_another_type_is_an_error(cache: RedisCache, key: str) -> None:
    """A list is no log: CorruptLog on every read and swap."""
    client_of(cache).execute_command("RPUSH", key, "a")
    for command in (cache.get, cache.gets, lambda key: cache.cas(key, b"v", (b"", b""), 60)):
        with pytest.raises(CorruptLog, match=r"WRONGTYPE.*delete the key"):
            command(key)


def test_a_script_that_was_flushed_is_nobodys_concern(server: RedisServer, key: str) -> None:
    """A script goes as its text: each command is one, whatever the server has forgotten."""
    cache = made("host", server.port)
    token: Any = cache.cas(key, b"0", cache.gets(key)[1], 60)
    server.ask("CONFIG RESETSTAT")
    for number in range(10):
        server.ask("SCRIPT FLUSH")
        token = cache.cas(key, b"%d" % number, token, 60)
        assert token
    told = server.ask("INFO commandstats")
    assert "cmdstat_eval:calls=10," in told
    assert "cmdstat_evalsha" not in told


# A server that goes away.


def test_a_token_is_not_good_on_a_server_that_restarted_or_was_flushed(key: str) -> None:
    """Neither where the key is gone, nor where somebody set it again, as often as before and to the same bytes."""
    with redis_server() as server:
        for lose in ("restart", "flush"):
            cache = made("host", server.port)
            cache.set(key, "value")
            token = cache.gets(key)[1]
            if lose == "restart":
                server.stop()
                server.start()
            else:
                server.ask("FLUSHALL")
            assert cache.gets(key)[0] is None
            assert cache.cas(key, b"stale", token, 60) is None
            made("host", server.port).set(key, "value")
            assert cache.cas(key, b"stale", token, 60) is None
            assert cache.get(key) == "value"
            cache.delete(key)


@pytest.mark.parametrize("kind", ["host", "valkey"])
def test_reads_after_a_restart_work_at_once(kind: str) -> None:
    """They meet a kept connection that is dead, and are asked again on a fresh one; then swaps work too."""
    with redis_server() as server:
        cache = made(kind, server.port)
        reads: list[Callable[[], Any]] = [lambda: cache.get("key"), lambda: cache.gets("key")[0]]
        for read in reads:
            cache.set("key", "lost with the server")
            server.stop()
            server.start()
            assert read() is None
            assert cache.cas("key", b"new", cache.gets("key")[1], 60)
        server.stop()
        server.start()
        assert cache.tell_time(lambda: 0)


def _snapshot_then_more(server: RedisServer, cache: RedisCache) -> Any:
    """Save one state of a key, swap two more times, and let the server come back with the first."""
    token: Any = cache.cas("key", b"saved", cache.gets("key")[1], 600)
    assert server.ask("SAVE") == "+OK"
    for value in (b"unsaved", b"unsaved too"):
        token = cache.cas("key", value, token, 600)
    server.stop()
    server.start()
    return token


def test_an_older_state_that_comes_back_is_no_value_to_who_saw_a_later_one() -> None:
    """It reads as lost, and is replaced by a swap; a newcomer, who can't know, reads it."""
    with redis_server() as server:
        survivor, newcomer = made("host", server.port), made("host", server.port)
        old = _snapshot_then_more(server, survivor)
        for _ in range(2):
            assert survivor.gets("key")[0] is None
        assert survivor.cas("key", b"stale", old, 600) is None
        value, token = newcomer.gets("key")
        assert value == b"saved"
        recovered = survivor.cas("key", b"recovered", survivor.gets("key")[1], 600)
        assert recovered
        assert newcomer.cas("key", b"stale", token, 600) is None
        assert newcomer.gets("key") == survivor.gets("key") == (b"recovered", recovered)
        assert recovered[1][:DESCENT] != old[1][:DESCENT]


def test_an_older_state_that_a_newcomer_wrote_to_is_still_no_value() -> None:
    """Fewer swaps of the same descent, though at other bytes; and the old token does not fit as many swaps on."""
    with redis_server() as server:
        survivor, newcomer = made("host", server.port), made("host", server.port)
        old = _snapshot_then_more(server, survivor)
        token: Any = newcomer.cas("key", b"newcomer's", newcomer.gets("key")[1], 600)
        assert survivor.gets("key")[0] is None
        token = newcomer.cas("key", b"newcomer's again", token, 600)
        assert token
        assert token[1] == old[1][:COUNT], "as many swaps as the survivor saw"
        assert survivor.cas("key", b"stale", old, 600) is None


def test_a_limit_is_not_over_after_an_older_state_came_back() -> None:
    """Two of five calls saved, three not: the survivor admits no sixth in the same minute."""
    with redis_server() as server:
        limit = nekkar.Nekkar(server.url)("limit", "5/min")
        for _ in range(2):
            limit.acquire(max_wait=0)
        assert server.ask("SAVE") == "+OK"
        for _ in range(3):
            limit.acquire(max_wait=0)
        server.stop()
        server.start()
        with pytest.raises(WaitTooLong):
            limit.acquire(max_wait=0)


def test_what_is_remembered_of_versions_is_bounded(cache: RedisCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program with ever new names does not grow with them."""
    monkeypatch.setattr(cache_module, "MOST_SEEN", 10)
    for number in range(35):
        cache.cas(f"bounded-{number}", b"value", (b"", b""), 60)
        assert len(cache._seen) <= 10


@contextmanager
def fake_server(answer: Callable[[list[bytes]], bytes | None]) -> Iterator[int]:
    """Serve an answer for each command; yield the port.

    Greetings are answered. None: say nothing more. An answer that does not end in a line break is cut short:
    the connection is closed behind it.
    """

    def serve(connection: socket.socket, _: int, stop: threading.Event) -> None:
        with connection, connection.makefile("rb") as stream, suppress(OSError, ValueError):
            while head := stream.readline():
                words = [stream.read(int(stream.readline()[1:]) + 2)[:-2] for _ in range(int(head[1:]))]
                reply = b"+OK\r\n" if words[0] in (b"CLIENT", b"SELECT", b"AUTH") else answer(words)
                if reply is None:
                    stop.wait(60)
                    return
                connection.sendall(reply)
                if not reply.endswith(b"\r\n"):
                    return

    with tcp_server(serve) as port:
        yield port


def tagged(words: list[bytes], answer: bytes) -> bytes:
    """Return an answer as the script that ``words`` send gives it: behind the command's own tag."""
    tag = words[3 + int(words[2])]
    return b"$%d\r\n%b%b\r\n" % (len(tag + answer), tag, answer)


def _commands(cache: RedisCache, key: str = "key") -> dict[str, Callable[[], object]]:
    return {
        "get": lambda: cache.get(key),
        "gets": lambda: cache.gets(key),
        "add": lambda: cache.add(key, "value"),
        "set": lambda: cache.set(key, "value"),
        "delete": lambda: cache.delete(key),
        "cas": lambda: cache.cas(key, b"value", (b"", b""), 60),
        "tell_time": lambda: cache.tell_time(lambda: 0),
    }


COMMANDS = ["get", "gets", "add", "set", "delete", "cas", "tell_time"]
WRITES = ["add", "set", "delete", "cas"]
TIMEOUT, PATIENCE = 0.6, 30.0  # where a trial takes a timeout, and where none should come
EAGER = Retry(NoBackoff(), 10)
CLIENTS: dict[str, Callable[[int, float], RedisCache]] = {
    "host": lambda port, timeout: RedisCache(HOST, port, protocol=2, timeout=timeout),
    "valkey": lambda port, timeout: RedisCache(f"valkey://{HOST}:{port}", timeout=timeout),
    "client": lambda port, timeout: RedisCache(redis.Redis(HOST, port, protocol=2, retry=EAGER), timeout=timeout),
    "valkey client": lambda port, timeout: RedisCache(
        valkey.Valkey(HOST, port, retry_on_timeout=True), timeout=timeout
    ),
}
clients = pytest.mark.parametrize("client", CLIENTS)
# Where each trial takes a timeout: every command by one client, and a write by each other.
timed_trials = pytest.mark.parametrize(
    ("client", "command"),
    [("host", command) for command in COMMANDS] + [(client, "cas") for client in list(CLIENTS)[1:]],
)


@timed_trials
def test_a_server_that_accepts_and_never_answers_is_an_error_within_the_timeout(client: str, command: str) -> None:
    """CacheError names the server and the timeout; no retry, nor a client's own timeout, stretches the bound."""
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
        cache = CLIENTS[client](port, TIMEOUT)
        began = time.monotonic()
        with pytest.raises(CacheError, match=rf"{HOST}:{port}/0 did not answer within 0\.6 s; .*longer timeout"):
            _commands(cache)[command]()
        assert time.monotonic() - began < 10 * TIMEOUT


@timed_trials
def test_a_server_that_stops_answering_is_asked_once(client: str, command: str) -> None:
    """On a connection that has worked before, whatever retries the client was given; the connection is closed."""
    asked: list[bytes] = []

    def answer(words: list[bytes]) -> bytes | None:
        asked.append(words[0])
        return tagged(words, b"-") if len(asked) == 1 else None

    with fake_server(answer) as port:
        cache = CLIENTS[client](port, TIMEOUT)
        assert cache.get("key") is None
        began = time.monotonic()
        with pytest.raises(CacheError, match="did not answer"):
            _commands(cache)[command]()
        assert time.monotonic() - began < 10 * TIMEOUT
        assert len(asked) == 2
        assert not pool_of(cache).has_idle


@clients
@pytest.mark.parametrize("command", COMMANDS)
def test_a_write_is_never_sent_twice(client: str, command: str) -> None:
    """Where the server hangs up on it, whether it was done nobody knows: an error; a read is asked once more."""
    asked: list[bytes] = []

    def answer(words: list[bytes]) -> bytes | None:
        asked.append(words[0])
        return tagged(words, b"-") if len(asked) == 1 else b""

    with fake_server(answer) as port:
        cache = CLIENTS[client](port, PATIENCE)
        assert cache.get("key") is None
        with pytest.raises(CacheError, match="see that it runs"):
            _commands(cache)[command]()
    assert len(asked) == (2 if command in WRITES else 3)


@pytest.mark.parametrize("command", [*WRITES, "get", "gets"])
@pytest.mark.parametrize("kind", ["cluster", "valkey cluster"])
def test_a_clusters_client_does_not_send_again_either(
    kind: str, command: str, cluster: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it would of its own accord: a command that names its node is tried once."""
    cache = made(kind, cluster.port)
    asked: list[Any] = []

    def lost(*words: Any, **options: Any) -> None:
        asked.append(words)
        raise cache._library.exceptions.TimeoutError("Timeout reading from socket")

    monkeypatch.setattr(client_of(cache), "_execute_command", lost)
    with pytest.raises(CacheError, match=r"the cluster of .* did not answer"):
        _commands(cache)[command]()
    assert len(asked) == 1


@pytest.mark.parametrize("kind", ["cluster", "valkey cluster"])
def test_a_clusters_answers_prove_whose_they_are_too(kind: str) -> None:
    """Another command's answer, through a wire between: an error, and the idle connections to that node are closed."""
    answers: list[bytes] = []

    def keep(client: socket.socket, answer: bytes) -> None:
        answers.append(answer)
        client.sendall(answer)

    with cluster_of_one() as server, proxy(server.port, ends=by_resp) as wire:
        assert server.ask(f"CONFIG SET cluster-announce-port {wire.port}") == "+OK"
        cache = made(kind, wire.port)
        wire.fault = keep
        cache.set("key", "value")
        wire.fault = lambda client, answer: client.sendall(answers[-1])
        with pytest.raises(CacheError, match=r"key 'key' answered .* not the answer to this command"):
            cache.set("key", "other")
        wire.fault = keep
        known = set(wire.open)
        assert cache.get("key") == "other"
        assert wire.open - known
        client_of(cache).close()  # the client is the user's, and valkey's leaves its connections open


@clients
def test_a_late_answer_is_never_taken_for_the_next_ones(client: str) -> None:
    """A read that timed out leaves its connection; what comes on that later is nobody's."""
    send, asked = threading.Event(), count(1)
    version = _after(b"")

    def answer(words: list[bytes]) -> bytes | None:
        if next(asked) == 1:
            send.wait(60)
            return tagged(words, b"+" + version + b"late")
        return tagged(words, b"+" + version + b"right")

    with fake_server(answer) as port:
        cache = CLIENTS[client](port, TIMEOUT)
        with pytest.raises(CacheError, match="did not answer"):
            cache.get("key")
        send.set()
        assert [cache.get("key") for _ in range(5)] == ["right"] * 5


def right(words: list[bytes]) -> bytes:
    """Answer as an empty Redis does."""
    answers = {b"'GET'": b"-", b"'TIME'": b"5 7"}
    return tagged(words, next((answer for call, answer in answers.items() if call in words[1]), b"OK"))


@clients
@pytest.mark.parametrize("command", COMMANDS)
def test_an_answer_that_comes_twice_is_not_the_next_commands(client: str, command: str) -> None:
    """The same command's neither: a write is an error, its connection closed; a read is asked again on a new one."""
    asked: list[bytes] = []

    def answer(words: list[bytes]) -> bytes:
        asked.append(words[0])
        return right(words) * (2 if len(asked) == 1 else 1)

    with fake_server(answer) as port:
        call = _commands(cache := CLIENTS[client](port, PATIENCE))[command]
        call()
        if command in WRITES:
            with pytest.raises(CacheError, match="not the answer to this command; that connection is closed"):
                call()
            assert not pool_of(cache).has_idle
            assert len(asked) <= 2
        for _ in range(3):
            call()


@clients
@pytest.mark.parametrize("command", COMMANDS)
def test_an_answer_that_its_command_never_gives_is_an_error(client: str, command: str) -> None:
    """Though it bears the command's tag: nothing altered on the way passes for a yes or a no."""
    for altered in (b"", b"7", b"ON", b"OK-", b"5 7 9", b"?"):
        with fake_server(lambda words, altered=altered: tagged(words, altered)) as port:  # type: ignore[misc]
            cache = CLIENTS[client](port, PATIENCE)
            with pytest.raises(CacheError, match="which this command never does; that connection is closed"):
                _commands(cache)[command]()
            assert not pool_of(cache).has_idle


def test_a_version_altered_on_the_way_is_no_version(cache: RedisCache, key: str) -> None:
    """Each of its bytes counts: none is taken for a later state, which would make the true one look older."""
    cache.set(key, "value")
    stored: bytes = client_of(cache).get(key)
    for at in range(24):
        altered = stored[:at] + bytes([stored[at] ^ 1]) + stored[at + 1 :]
        client_of(cache).set(key, altered)
        with pytest.raises(CorruptLog, match="what nekkar did not write"):
            cache.gets(key)
    client_of(cache).set(key, stored)
    assert cache.gets(key)[0] == b"value"


def test_a_name_that_is_not_resolved_in_time_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The libraries' resolver knows no timeout; the command has one. What connects too late is closed."""
    resolved, original, resolvers = threading.Event(), socket.getaddrinfo, list[threading.Thread]()

    def slow(*terms: Any) -> Any:
        resolvers.append(threading.current_thread())
        resolved.wait(30)
        return original(*terms)

    with redis_server() as server, monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", slow)
        for scheme in ("redis", "valkey"):
            cache = RedisCache(f"{scheme}://localhost:{server.port}?timeout=0.2")
            began = time.monotonic()
            with pytest.raises(CacheError, match=r"localhost:.* did not answer within 0\.2 s"):
                cache.get("key")
            assert time.monotonic() - began < 2.0
        resolved.set()
        for resolver in resolvers:
            resolver.join(30)
        assert server.ask("CLIENT LIST").count("id=") == 1


@pytest.mark.parametrize("scheme", ["redis", "valkey"])
def test_an_address_that_hangs_leaves_time_for_the_next(
    scheme: str, server: RedisServer, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a name's addresses one takes half of the time at most."""
    with socket.create_server((HOST, 0), backlog=0) as full, socket.create_connection(full.getsockname()):
        hanging = full.getsockname()
        with socket.socket() as filler:
            filler.setblocking(False)
            filler.connect_ex(hanging)
            found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", each) for each in (hanging, (HOST, server.port))]
            monkeypatch.setattr(socket, "getaddrinfo", lambda *terms: found)
            cache = RedisCache(f"{scheme}://localhost:{server.port}?timeout=2")
            cache.set(key, "value")
            assert cache.get(key) == "value"


def test_where_no_thread_can_be_started_it_connects_all_the_same(
    server: RedisServer, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a function at exit, say."""

    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    cache = made("host", server.port)
    monkeypatch.setattr(threading.Thread, "start", refused)
    cache.set(key, "value")
    assert cache.get(key) == "value"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError, MemoryError, RuntimeError])
def test_a_command_that_raises_anything_leaves_its_connection(
    cache: RedisCache, key: str, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    """Interrupted between question and answer, it discards the connection: the next command gets its own answer."""
    cache.set(key, "mine")
    cache.set(f"{key}-other", "another's")

    def interrupted(connection: Any, until: float, *words: Any) -> None:
        connection.send_command("GET", f"{key}-other")
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(cache_module, "sent", interrupted)
        with pytest.raises(error):
            cache.get(key)
    assert not pool_of(cache).has_idle
    assert [cache.get(key) for _ in range(3)] == ["mine"] * 3


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("client", CLIENTS)
def test_a_refused_connection_is_an_error_that_names_server_and_remedy(client: str, command: str) -> None:
    """CacheError, with what the library said as its cause."""
    port = free_port()
    with pytest.raises(CacheError, match=rf"{HOST}:{port}/0.*see that it runs and can be reached") as caught:
        _commands(CLIENTS[client](port, PATIENCE))[command]()
    assert type(caught.value.__cause__).__name__ == "ConnectionError"


@clients
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "reply", [b"HTTP/1.1 400 Bad Request\r\n", b"$5\r\nval", b"\xff\xfe\r\n", b"\r\n", b":", b"-ERR what\r\n"]
)
def test_an_answer_that_is_none_is_an_error(client: str, command: str, reply: bytes) -> None:
    """What is cut short, refused, or not Redis at all, comes as CacheError and nothing else."""
    with fake_server(lambda _: reply) as port:
        with pytest.raises(CacheError, match=f"{HOST}:{port}") as caught:
            _commands(CLIENTS[client](port, PATIENCE))[command]()
        assert caught.value.__cause__ is not None


@clients
@pytest.mark.parametrize(
    ("reply", "told"),
    [
        ("-READONLY You can't write against a read only replica.", "address of its primary"),
        ("-MOVED 3999 10.0.0.1:6381", "Cluster client"),
        ("-OOM command not allowed when used memory > 'maxmemory'.", "raise its maxmemory"),
        ("-LOADING Redis is loading the dataset in memory", "call again once it is done"),
        ("-NOAUTH Authentication required.", "the password"),
        ("-NOPERM this user has no permissions to run the 'eval' command", "allow this user"),
    ],
)
def test_a_server_that_refuses_is_an_error_that_helps(client: str, reply: str, told: str) -> None:
    """The remedy fits the refusal, for every command."""
    with fake_server(lambda _: reply.encode() + b"\r\n") as port:
        for command in _commands(CLIENTS[client](port, PATIENCE)).values():
            with pytest.raises(CacheError, match=told):
                command()


def test_a_real_replica_and_a_real_full_server_say_what_to_do(key: str) -> None:
    """Inside the script too, whose errors come otherwise than a command's."""
    with redis_server() as server:
        cache = made("host", server.port)
        token: Any = cache.cas(key, b"value", cache.gets(key)[1], 60)
        for setting, told in (("REPLICAOF 127.0.0.1 1", "primary"), ("CONFIG SET maxmemory 1", "raise its maxmemory")):
            assert server.ask(setting) == "+OK"
            with pytest.raises(CacheError, match=told):
                cache.cas(key, b"value", token, 60)
            with pytest.raises(CacheError, match=told):
                cache.set(key, "value")
            assert cache.gets(key)[0] == b"value"
            server.ask("REPLICAOF NO ONE")
        server.ask("CONFIG SET maxmemory 0")
        assert cache.cas(key, b"other", token, 60)


@pytest.mark.parametrize("client", [redis.Redis, valkey.Valkey])
def test_a_user_needs_the_commands_that_the_error_tells_and_no_more(client: Any, key: str) -> None:
    """With one of them too few, the error names them all; with all, everything works."""
    commands = ["get", "getrange", "set", "del", "time", "eval"]
    with redis_server() as server:
        for missing in [*commands, None]:
            allowed = " ".join(f"+{command}" for command in commands if command != missing)
            assert server.ask(f"ACL SETUSER me reset on >secret ~{key}* {allowed}") == "+OK"
            cache = RedisCache(client(HOST, server.port, username="me", password="secret", protocol=2), timeout=30)
            calls = _commands(cache, key)
            refused = list[str]()
            for call in calls.values():
                try:
                    call()
                except CacheError as error:
                    refused.append(str(error))
            assert bool(refused) == bool(missing)
            assert all("allow this user EVAL, GET, GETRANGE, SET, DEL and TIME on these" in told for told in refused)


SECRET = "s3cr3t-p@ss?w/rd"
QUOTED = "s3cr3t-p%40ss%3Fw%2Frd"


def test_a_password_opens_and_is_told_nowhere() -> None:
    """By URL, by argument, by client; right, wrong or left out: neither a repr nor an error holds it."""
    with redis_server("--save", "", "--requirepass", SECRET) as server:
        right = [
            RedisCache(f"redis://:{QUOTED}@{HOST}:{server.port}/0"),
            from_url(f"valkey://default:{QUOTED}@{HOST}:{server.port}/0"),
            RedisCache(HOST, server.port, password=SECRET),
            RedisCache(redis.Redis(HOST, server.port, password=SECRET)),
        ]
        told = [repr(nekkar.Nekkar(cache)) for cache in right]
        for cache in right:
            cache.set("key", "value")
            assert cache.get("key") == "value"
        assert pickle.loads(pickle.dumps(right[0])).get("key") == "value"
        wrong = [
            RedisCache(HOST, server.port),
            RedisCache(f"redis://:{QUOTED}x@{HOST}:{server.port}/0"),
            RedisCache(f"valkey://:{QUOTED}x@{HOST}:{server.port}/0"),
        ]
        for cache in wrong:
            with pytest.raises(CacheError, match="see the user name and the password") as caught:
                cache.get("key")
            told += [repr(cache), str(caught.value), str(caught.value.__cause__)]
    assert not [text for text in told if "s3cr3t" in text]


# Time.


@pytest.mark.parametrize("cache", ["host", "valkey", "client"], indirect=True)
def test_the_servers_clock_is_bracketed(cache: RedisCache) -> None:
    """On this machine, whose clock both read, the server's reading lies between the two, to the microsecond."""
    for _ in range(20):
        told = cache.tell_time(lambda: time.time_ns() // 1000)
        assert told
        before, at, after = told
        assert before <= at <= after + 1
        assert after - before < 1_000_000


def test_connecting_is_not_in_the_bracket(server: RedisServer) -> None:
    """The first reading of one's own clock comes when the connection stands."""
    cache, seen = made("host", server.port), list[bool]()

    def now() -> int:
        seen.append(len(server.ask("CLIENT LIST").splitlines()) > 2)
        return 0

    cache.tell_time(now)
    assert seen == [True, True]


def test_a_cluster_has_no_one_clock(cluster: RedisServer) -> None:
    """Its nodes are machines of their own: None, not one node's time."""
    assert made("cluster", cluster.port).tell_time(lambda: 0) is None


# Forks, threads, copies.


@threads_and_forks
def test_parent_and_child_of_a_fork_swap_side_by_side(cache: RedisCache, key: str) -> None:
    """With connections in the pool at the fork, both go on, and neither reads the other's answers."""
    fork = multiprocessing.get_context("fork")
    assert increment(cache, key, 10) == 0
    child = fork.Process(target=increment, args=(cache, key, 300))
    child.start()
    increment(cache, key, 300)
    child.join(60)
    assert child.exitcode == 0
    increment(cache, key, 10)
    assert cache.gets(key)[0] == b"620"


@pytest.mark.parametrize("cache", ["host", "url", "valkey"], indirect=True)
def test_a_pickled_cache_is_the_same_cache(cache: RedisCache, key: str) -> None:
    """In use or not, it comes back equal in repr, on the same values, with connections of its own."""
    for _ in range(2):
        copy = pickle.loads(pickle.dumps(cache))
        assert repr(copy) == repr(cache)
        copy.set(key, "value")
        assert cache.cas(key, b"swapped", cache.gets(key)[1], 60)
        assert copy.get(key) == "swapped"


@pytest.mark.parametrize("cache", ["client", "valkey client", "cluster"], indirect=True)
def test_a_cache_of_a_client_says_that_it_cannot_be_pickled(cache: RedisCache) -> None:
    """A client holds locks and sockets: the error names the remedy."""
    with pytest.raises(ConfigurationError, match="make it of a URL"):
        pickle.dumps(cache)


def test_of_a_client_only_the_connections_arguments_are_used(server: RedisServer, key: str) -> None:
    """The client's own pool, however small, is left to the client; its settings for decoding play no part."""
    client = redis.Redis(HOST, server.port, db=3, max_connections=1, decode_responses=True, encoding="latin-1")
    taken = client.connection_pool.get_connection()
    try:
        cache = RedisCache(client)
        cache.set(key, "naïve")
        assert cache.get(key) == "naïve"
    finally:
        client.connection_pool.release(taken)
    assert client.exists(key) == 1
    client.close()


def test_a_dropped_cache_closes_its_connections_without_a_word(server: RedisServer) -> None:
    """No ResourceWarning when a cache is collected, and the server has one connection less."""
    cache = made("host", server.port)
    cache.get("key")
    connected = len(server.ask("CLIENT LIST").splitlines())
    del cache
    gc.collect()
    deadline = time.monotonic() + 30
    while len(server.ask("CLIENT LIST").splitlines()) >= connected:
        assert time.monotonic() < deadline, "the connection stays"
        time.sleep(0.02)


def _in_another_process(code: str) -> str:
    root = str(Path(nekkar.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import sys; sys.path.insert(0, {root!r})\n{code}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


# Addresses.


@pytest.mark.parametrize("name", ["redis", "valkey"])
def test_a_library_that_is_missing_is_named_with_how_to_install_it(name: str) -> None:
    """Where the limiter is made, not at its first call; the other library does not need it."""
    code = f"""
sys.modules[{name!r}] = None
import nekkar
try:
    nekkar.Nekkar("{name}://localhost:6379/0")
except nekkar.ConfigurationError as error:
    print(error)
other = {{"redis": "valkey", "valkey": "redis"}}[{name!r}]
nekkar.Nekkar(f"{{other}}://localhost:6379/0")
"""
    assert _in_another_process(code).strip() == f"{name} is not installed; run: pip install 'nekkar[{name}]'"


def test_nothing_is_imported_before_it_is_used() -> None:
    """Neither library by nekkar, nor by the module itself."""
    code = "import nekkar, nekkar.redis\nprint([name for name in ('redis', 'valkey') if name in sys.modules])"
    assert _in_another_process(code).strip() == "[]"


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("redis://h", "h:6379/0"),
        ("redis://h:1/2", "h:1/2"),
        ("REDIS://h:1/", "h:1/0"),
        ("redis://user:pass@h:1/2?timeout=2.5", "h:1/2"),
        ("redis://h?db=4", "h:6379/4"),
        ("redis://[::1]:1/2", "::1:1/2"),
        ("rediss://h:1/2?ssl_cert_reqs=none&timeout=2.5", "h:1/2"),
        ("unix:///path/to/socket?db=2", "/path/to/socket"),
        ("valkey://h:1/2", "h:1/2"),
        ("valkeys://h:1/2", "h:1/2"),
    ],
)
def test_a_url_names_a_cache(url: str, place: str) -> None:
    """As redis-py and valkey read it, and ``?timeout=`` as every cache of nekkar's does."""
    cache = from_url(url)
    assert isinstance(cache, RedisCache)
    assert repr(cache) == f"RedisCache({place!r}, timeout={2.5 if 'timeout' in url else 1:g})"
    expected = {"rediss": "SSLConnection", "valkeys": "SSLConnection", "unix": "UnixDomainSocketConnection"}
    assert cache._class.__name__ == expected.get(url.partition(":")[0], "Connection")


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "redis:///0",
        "redis://:6379",
        "redis://h:0",
        "redis://h:port",
        "redis://h:70000",
        "redis://h/zero",
        "redis://h/0/1",
        "redis://h#x",
        "redis://[::1",
        "redis://h?db=x",
        "redis://h?retries=3",
        "redis://h?socket_timeout=3",
        "redis://h?timeout=soon",
        "redis://h?timeout=",
        "redis://h?timeout=nan",
        "redis://h?timeout=-1",
        "redis://h?timeout=1&timeout=2",
        "unix://",
        "unix:///",
        "redis://:s3cr3t#x@h/0",
        "redis://:s3cr3t/x@h/0",
        "redis://:s3cr3t@h:port/0?password=s3cr3t",
        "unix:///a?password=s3cr3t&db=x",
    ],
)
def test_a_url_that_names_none_is_refused_and_keeps_its_password(url: str) -> None:
    """ConfigurationError when it is written, with what is expected, and without what could be secret."""
    with pytest.raises(ConfigurationError, match=r"give|leave") as caught:
        nekkar.Nekkar(url)
    assert "s3cr3t" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: RedisCache(""), "give a host name, a URL or a client"),
        (lambda: RedisCache("mysql://h"), "give redis://"),
        (lambda: RedisCache("h", 0), "from 1 to 65535"),
        (lambda: RedisCache("h", port="x"), "from 1 to 65535"),  # type: ignore[arg-type]
        (lambda: RedisCache("h", db=-1), "whole number from 0"),
        (lambda: RedisCache("h", db="0"), "whole number from 0"),  # type: ignore[arg-type]
        (lambda: RedisCache("h", socket_timeout=3), "give timeout=SECONDS"),
        (lambda: RedisCache("h", colour="red"), "give those of redis.Redis"),
        (lambda: RedisCache("redis://h", 6380), "give them in it"),
        (lambda: RedisCache("redis://h", timeout=0), "give seconds from 0.001 to 3600"),
        (lambda: RedisCache(timeout=None), "give seconds from 0.001 to 3600"),  # type: ignore[arg-type]
        (lambda: RedisCache(redis.Redis(), password="s3cr3t"), "give it to the client"),
        (lambda: RedisCache(redis.Redis(), db=2), "give them in it"),
        (lambda: RedisCache(None), "must be a URL, a host, or a client"),
        (lambda: RedisCache(redis.Redis), "must be a URL, a host, or a client"),
        (lambda: RedisCache(redis.Redis().pipeline), "must be a URL, a host, or a client"),
        (lambda: RedisCache(object()), "must be a URL, a host, or a client"),
        (lambda: RedisCache(redis.asyncio.Redis()), "give the sync one"),
        (lambda: RedisCache(valkey.asyncio.Valkey()), "give the sync one"),
    ],
)
def test_what_can_work_with_no_server_is_refused_when_written(make: Callable[[], object], told: str) -> None:
    """ConfigurationError names the value and the remedy."""
    with pytest.raises(ConfigurationError, match=told) as caught:
        make()
    assert "s3cr3t" not in str(caught.value)


def test_a_clusters_client_that_would_wait_for_ever_or_decode_is_refused(cluster: RedisServer) -> None:
    """Its connections are its own, so its settings must be right."""
    with pytest.raises(ConfigurationError, match="socket_timeout=1"):
        RedisCache(redis.cluster.RedisCluster(HOST, cluster.port))
    with pytest.raises(ConfigurationError, match="without, logs are bytes"):
        RedisCache(redis.cluster.RedisCluster(HOST, cluster.port, socket_timeout=1, decode_responses=True))


def test_no_connection_is_without_a_timeout(server: RedisServer) -> None:
    """Connecting, reading and writing are bounded on what is really in use, whatever the client has."""
    for cache, seconds in (
        (RedisCache(HOST, server.port), 1.0),
        (RedisCache(redis.Redis(HOST, server.port, socket_timeout=None)), 1.0),
        (RedisCache(valkey.Valkey(HOST, server.port), timeout=2.5), 2.5),
        (from_url(f"redis://{HOST}:{server.port}?timeout=0.75"), 0.75),
    ):
        assert isinstance(cache, RedisCache)
        cache.get("key")
        [connection] = idle_in(pool_of(cache))
        assert connection._sock is connection.stream
        assert socket_of(connection.stream).gettimeout() <= connection.socket_timeout == seconds
        assert connection.socket_connect_timeout == seconds / 2
        assert connection.retry._retries == 0
        assert socket_of(connection.stream).getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


def test_it_works_over_a_unix_socket(tmp_path: Path) -> None:
    """By URL, percent-encoded where need be."""
    with redis_server("--save", "", "--unixsocket", "a socket") as server:
        path = f"{server.folder}/a socket".replace(" ", "%20")
        cache = from_url(f"unix://{path}?db=3&timeout=2")
        cache.set("key", "value")
        assert cache.get("key") == "value"
        server.stop()
        with pytest.raises(CacheError, match="a socket"):
            cache.get("key")
