"""No secret of a user is shown: not in an error, its arguments, its causes, a repr, a log line or on a terminal."""

from __future__ import annotations

import logging
import pickle
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import redis
import redis.cluster
import requests
import valkey
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nekkar import Nekkar, Rule, RuleTable
from nekkar.core.cache import MemcachedCache, SqliteCache, from_url
from nekkar.core.errors import CacheError, ConfigurationError, NekkarError
from nekkar.httpx import NekkarTransport
from nekkar.redis import RedisCache
from nekkar.requests import NekkarAdapter
from nekkar.requests import limit as limit_session
from tests.support.internals.cli import main

SECRET = "s3cr3tpw"
HOST = "127.0.0.1"


def told(error: BaseException | None) -> Iterator[str]:
    """Yield every text of an error: of what it shows, what it holds, and of all that led to it."""
    while error is not None:
        yield from (str(error), repr(error), repr(error.args), repr(vars(error)))
        yield "".join(traceback.format_exception(error, limit=0))
        yield from told(error.__cause__)
        error = error.__context__


def outcome(act: Callable[[], object]) -> str:
    """Return all texts that an act gives: the repr of what it makes, or those of a NekkarError."""
    try:
        return repr(act())
    except NekkarError as error:
        return "\n".join([*told(error), *told(pickle.loads(pickle.dumps(error)))])


# URLs.

WELL_MEANT = [
    f"redis://:{SECRET}@cache:6379/0",
    f"redis://user:{SECRET}@cache/0?timeout=1",
    f"rediss://user:{SECRET}@cache:6380",
    f"valkey://user:{SECRET}@[::1]:6379/1",
    f"valkeys://:{SECRET}@cache",
    f"unix://user:{SECRET}@/run/redis.sock?db=1",
    f"redis://cache:6379/0?password={SECRET}",
    f"redis://cache?username=user&password={SECRET}&db=1",
    f"rediss://cache?ssl_keyfile=key.pem&ssl_password={SECRET}",
    f"memcached://user:{SECRET}@cache:11211",
    f"memcacheds://user:{SECRET}@cache,user:{SECRET}@other:11212",
    f"memcached://cache?password={SECRET}",
    f"sqlite://user:{SECRET}@host/limits.db",
    f"memory://user:{SECRET}@host",
    f"postgres://user:{SECRET}@db/name",
]
SCHEMES = [
    "redis+tls",
    "reddis",
    "rediss+sentinel",
    "Redis",
    "redis ",
    "",
    "http",
    "memcache",
    "redis:redis",
    "valkey s",
]
SIGNS = list("/?#@:,;&=%[] .\\\n\t\0é'\"<>")


@st.composite
def misspelt(draw: st.DrawFn) -> str:
    """A URL in which one thing is wrong, anywhere but inside the secret."""
    url = draw(st.sampled_from(WELL_MEANT))
    begin, end = url.index(SECRET), url.rindex(SECRET) + len(SECRET)
    at = draw(st.integers(0, len(url)).filter(lambda at: at <= begin or at >= end))
    sign = draw(st.sampled_from(SIGNS))
    match draw(st.sampled_from(["insert", "delete", "replace", "scheme", "blanks", "cut", "secret"])):
        case "insert":
            return url[:at] + sign + url[at:]
        case "delete" if at != begin:
            return url[:at] + url[at + 1 :]
        case "replace" if at != begin:
            return url[:at] + sign + url[at + 1 :]
        case "scheme":
            return draw(st.sampled_from(SCHEMES)) + url[url.index(":") :]
        case "blanks":
            return draw(st.sampled_from([" ", "\n", "\t ", "﻿"])) + url + draw(st.sampled_from(["", " ", "\n"]))
        case "cut":
            return url[: max(at, end)]
        case "secret":  # a password that is not percent-encoded
            return url.replace(SECRET, draw(st.sampled_from(SIGNS)) + SECRET + sign + draw(st.sampled_from(["", "12"])))
    return url


@pytest.fixture(scope="module", autouse=True)
def logged() -> Iterator[list[str]]:
    """All that nekkar logs meanwhile."""
    lines = list[str]()

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    handler, log = Kept(), logging.getLogger("nekkar")
    log.addHandler(handler)
    yield lines
    log.removeHandler(handler)
    assert not [line for line in lines if SECRET in line]


@given(misspelt())
@example(f"redis:/:{SECRET}@cache")
@example(f"redis:user:{SECRET}@cache")
@example(f"redis://:{SECRET}@cache:notaport/0")
@example(f"redis://cache:{SECRET}/0")
@example(f"redis://user:12#{SECRET}@cache")
@example(f"redis://user:12?x={SECRET}@cache")
@example(f"memcached://cache?timeout={SECRET}")
@example(f"redis://cache?{SECRET}=1")
@example(f"rediss://cache?ssl_cert_reqs={SECRET}")
@example(f"sqlite:///limits.db?{SECRET}")
@example(f"sqlite:///user:{SECRET}@host/limits.db")
@example(f"memcached:///user:{SECRET}@cache:11211")
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_is_misspelt_in_a_url_the_secret_is_told_nowhere(url: str) -> None:
    """By any way in which a URL can come in, also in the place of a host, a server or a file."""
    makers: list[Callable[[Any], object]] = [Nekkar, from_url, RedisCache, MemcachedCache]
    makers += [SqliteCache] if "://" in url else []  # else it may be the name of a file
    makers += [lambda url: MemcachedCache(servers=[url]), lambda url: MemcachedCache(servers=[(url, 11211)])]
    makers += [lambda url: Nekkar(url.encode()), lambda url: Nekkar({"url": url})]  # type: ignore[arg-type]
    for make in makers:
        assert SECRET not in outcome(partial(make, url)), f"{make}: {url!r}"


def test_a_word_in_the_place_of_a_url_is_not_shown() -> None:
    """It may be the password itself."""
    assert SECRET not in outcome(lambda: Nekkar(SECRET))


@pytest.mark.parametrize("url", [*WELL_MEANT[:12], f"redis:/:{SECRET}@cache", f"reddis://:{SECRET}@cache", SECRET])
def test_a_terminal_shows_no_secret_of_a_caches_url(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Wherever on the command line it stands, and whatever is misspelt around it."""
    monkeypatch.chdir(tmp_path)
    Path("limits.toml").write_text('[limits]\nsearch = "10/second"\n')
    monkeypatch.setenv("NEKKAR_CACHE", "sqlite:///limits.db")
    lines = [["--cahce", url, "status"], ["status", "search", f"--cahce={url}"], [url], ["status", f"--json={url}"]]
    lines += [["simulate", "--workers", url, "--rules", "x", "--calls", "y"], ["status", "--every", url]]
    if "://" in url:  # or it may be any name
        lines += [["status", url], ["check", url], ["status", "--rules", url], ["explain", "GET", "x", "--rules", url]]
    if url.partition(":")[0] not in ("redis", "rediss", "valkey", "valkeys", "unix") or ":/:" in url:
        lines += [
            ["status", "search", "--cache", url],
            ["demo", "--cache", url],
            ["hold", "search", "1s", "--cache", url],
        ]
    for line in lines:
        with suppress(SystemExit):  # of bad usage
            assert main(line) != 0
        output = "".join(capsys.readouterr())
        assert output
        assert SECRET not in output, line


# Values in a wrong place.

RULES = RuleTable([Rule("*", "all")], {"all": "5/second"})
WRONG: list[Callable[[], object]] = [
    lambda: RedisCache("h", SECRET),  # type: ignore[arg-type]
    lambda: RedisCache("h", 6379, SECRET),  # type: ignore[arg-type]
    lambda: RedisCache("redis://h", 6379, SECRET),  # type: ignore[arg-type]
    lambda: RedisCache("h", socket_timeout=SECRET),
    lambda: RedisCache("h", pasword=SECRET),
    lambda: RedisCache(redis.Redis(), password=SECRET),
    lambda: RedisCache(f"redis://h?pasword={SECRET}"),
    lambda: MemcachedCache("h", SECRET),  # type: ignore[arg-type]
    lambda: MemcachedCache("h", tls_context=SECRET),  # type: ignore[arg-type]
    lambda: MemcachedCache(servers=f"u:{SECRET}@h"),
    lambda: MemcachedCache(servers=[f"u:{SECRET}@h"]),
    lambda: MemcachedCache(f"u:{SECRET}@h", servers=["h"]),
    lambda: Nekkar(redis.Redis(password=SECRET)),  # type: ignore[arg-type]
    lambda: NekkarAdapter(f"redis://:{SECRET}@h", RULES),  # type: ignore[arg-type]
    lambda: NekkarAdapter(Nekkar(), f"redis://:{SECRET}@h"),  # type: ignore[arg-type]
    lambda: NekkarAdapter(Nekkar(), RULES, f"http://u:{SECRET}@proxy"),  # type: ignore[arg-type]
    lambda: NekkarTransport(Nekkar(), RULES, f"http://u:{SECRET}@proxy"),  # type: ignore[arg-type]
    lambda: NekkarTransport(Nekkar(), RULES, httpx.HTTPTransport(), proxy=f"http://u:{SECRET}@proxy"),
    lambda: limit_session({"https": f"http://u:{SECRET}@proxy"}, Nekkar(), RULES),  # type: ignore[type-var]
    lambda: RuleTable([Rule(f"htps://u:{SECRET}@h/a", "all")], {"all": 5}),
    lambda: RuleTable([Rule(f"https://u:{SECRET}@h:port/a", "all")], {"all": 5}),
    lambda: RuleTable([Rule("*", "all"), Rule(f"https://h/a?key={SECRET}", "all")], {"all": 5}),
]


@pytest.mark.parametrize("make", WRONG)
def test_a_secret_in_a_wrong_place_is_not_shown(make: Callable[[], object]) -> None:
    """What stands there is refused with what was expected, and without its value."""
    with pytest.raises(ConfigurationError) as caught:
        make()
    assert SECRET not in "\n".join(told(caught.value))


def test_a_listener_that_fails_is_logged_without_its_arguments(caplog: pytest.LogCaptureFixture) -> None:
    """Those of a partial may be a token: it is named by its type."""
    limiter = Nekkar()
    limiter.listen(partial(lambda token, event: event.nothing, SECRET))
    limiter("calls", 5).acquire()
    [line] = [record.getMessage() for record in caplog.records]
    assert "partial" in line
    assert SECRET not in line


def test_an_error_of_a_request_says_nothing_of_its_url_and_headers() -> None:
    """Where a call is refused, only its limit is named."""
    rules = RuleTable([Rule("*", "{header:Authorization}-calls")], {"{header:Authorization}-calls": "1/hour"})
    headers = {"Authorization": f"Bearer {SECRET}"}
    url = f"http://u:{SECRET}@{HOST}:1/a?token={SECRET}"
    session = limit_session(requests.Session(), Nekkar(), rules, max_wait=0)
    client = httpx.Client(
        transport=NekkarTransport(Nekkar(), rules, httpx.MockTransport(lambda _: httpx.Response(200)), max_wait=0)
    )
    for send, library in ((session.get, requests), (client.get, httpx)):
        errors = (requests.ConnectionError, requests.Timeout, httpx.TimeoutException, TypeError)
        for _ in range(2):
            try:
                send(url, headers=headers)
            except errors as error:
                failure = error
        assert isinstance(failure, NekkarError), library
        assert SECRET not in str(failure) + repr(failure) + str(failure.args)


# What a server says.


class Repeats(StreamRequestHandler):
    """A server that knows no command, and says so as Redis does: with the arguments."""

    def handle(self) -> None:
        while head := self.rfile.readline():
            words = [self.rfile.read(int(self.rfile.readline()[1:]) + 2)[:-2] for _ in range(int(head[1:]))]
            name, *rest = (word.decode("latin-1") for word in words)
            arguments = " ".join(f"`{word[:6]}`" if len(word) > 20 else f"`{word}`" for word in rest)
            code = self.server.code  # type: ignore[attr-defined]
            said = f"-{code} unknown command `{name}`, with args beginning with: {arguments} {' '.join(rest)}\r\n"
            self.wfile.write(said.replace("\r", " ").replace("\n", " ").encode() + b"\r\n")


@contextmanager
def repeating(code: str) -> Iterator[int]:
    with ThreadingTCPServer((HOST, 0), Repeats) as server:
        server.daemon_threads, server.code = True, code  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("code", ["ERR", "NOAUTH", "WRONGPASS", "LOADING", "ODD"])
@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("scheme", ["redis", "valkey"])
def test_a_server_that_repeats_the_password_is_not_repeated(scheme: str, protocol: int, code: str) -> None:
    """One that knows no AUTH, or no HELLO, tells what came with it. The error names the server and a remedy."""
    with repeating(code) as port:
        cache = from_url(f"{scheme}://user:{quote(SECRET)}@{HOST}:{port}/0?protocol={protocol}")
        with pytest.raises(CacheError, match=f"{HOST}:{port}/0.*; ") as caught:
            cache.get("key")
    assert SECRET not in "\n".join(told(caught.value))


@pytest.mark.parametrize("library", [redis, valkey], ids=["redis", "valkey"])
def test_nor_is_one_that_an_error_of_a_cluster_repeats(library: Any) -> None:
    """Its client connects inside a command, and its own error comes from there."""
    cache = RedisCache(redis.Redis())
    said = f"unknown command `AUTH`, with args beginning with: `{SECRET}`"
    cause = library.exceptions.ResponseError(said)
    cause.__context__ = library.exceptions.AuthenticationError(said)

    class Cluster:
        def get_node_from_key(self, key: str) -> object:
            raise cause

    cache._client = Cluster()
    cache._failures = (library.exceptions.ResponseError,)
    with pytest.raises(CacheError, match="unknown") as caught:
        cache.get("key")
    assert SECRET not in "\n".join(told(caught.value))
