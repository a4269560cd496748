"""urllib3: each attempt inside an adapter is admitted, exactly once, whichever way it is sent."""

from __future__ import annotations

import gc
import pickle
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from weakref import ref

import pytest
import requests
import responses
import trustme
import urllib3
import urllib3.connection
from requests.adapters import BaseAdapter, HTTPAdapter
from requests.auth import HTTPDigestAuth
from urllib3.util import Retry

from nekkar.core.cache import MemoryCache, SqliteCache
from nekkar.core.errors import CacheError, ConfigurationError, CorruptLog
from nekkar.core.limiter import Admission, Nekkar
from nekkar.requests import NekkarAdapter, RequestCacheError, RequestCorruptLog, RequestWaitTooLong, limit, options
from nekkar.rules import Rule, RuleTable
from nekkar.testing import START_US, FakeClock
from tests.support.internals.http import AttemptRefused, attempts, hook_pool
from tests.support.web import TIMEOUT, Proxy, Site, running, wait_until

RATE = 1000
RULES = RuleTable([Rule("*/free", False), Rule("*", "all")], {"all": RATE})
TWO = RuleTable([Rule("*/free", False), Rule("*", "all")], {"all": {"rate": 2, "period": 10.0, "margin": 0.05}})
RETRY = Retry(5, status_forcelist=[503], backoff_factor=0)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with running(Proxy()) as made:
        yield made


def used(limiter: Nekkar) -> int:
    """Return how many hits were admitted."""
    return limiter("all", RATE).status().windows[0].used


def pool_of(adapter: HTTPAdapter, site: Site) -> Any:
    """Return the pool in which the adapter has its connections to a site."""
    return adapter.get_connection_with_tls_context(requests.Request("GET", site.url).prepare(), verify=True)


def admission(response: requests.Response) -> Any:
    return vars(response)["nekkar"]


class Twice(HTTPAdapter):
    """An adapter with a retry of its own around those of urllib3."""

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        super().send(request, *args, **kwargs).close()
        return super().send(request, *args, **kwargs)


class OwnPools(HTTPAdapter):
    """An adapter that makes its pool manager without asking requests, as recipes for TLS versions do."""

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **_: Any) -> None:
        self.poolmanager = urllib3.PoolManager(num_pools=connections, maxsize=maxsize, block=block)


class Delegate(BaseAdapter):
    """An adapter that is no HTTPAdapter, and has one inside."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = HTTPAdapter()

    def send(self, *args: Any, **kwargs: Any) -> requests.Response:
        return self.inner.send(*args, **kwargs)

    def close(self) -> None:
        self.inner.close()


class Asking:
    """The attempts of a request, of which each calls back as it asks."""

    def __init__(self, ask: Callable[[], object]) -> None:
        self.ask = ask

    def confirm(self) -> float:
        return 0.0

    def report(self, status: int, headers: Any, raw: Any) -> None:
        """Learn nothing."""


Mount = Callable[[requests.Session, Nekkar], object]


def by_limit(session: requests.Session, limiter: Nekkar, adapter: BaseAdapter) -> None:
    session.mount("http://", adapter)
    limit(session, limiter, RULES)


WAYS: dict[str, Mount] = {
    "own": lambda s, n: s.mount("http://", NekkarAdapter(n, RULES, max_retries=RETRY)),
    "wrapped": lambda s, n: s.mount("http://", NekkarAdapter(n, RULES, HTTPAdapter(max_retries=RETRY))),
    "limit": lambda s, n: by_limit(s, n, HTTPAdapter(max_retries=RETRY)),
    "blocking": lambda s, n: by_limit(s, n, HTTPAdapter(max_retries=RETRY, pool_maxsize=1, pool_block=True)),
    "own pools": lambda s, n: by_limit(s, n, OwnPools(max_retries=RETRY)),
    "own blocking pools": lambda s, n: by_limit(s, n, OwnPools(max_retries=RETRY, pool_maxsize=1, pool_block=True)),
}


# Each attempt once.


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("path", "hits"), [("/flaky/3", 4), ("/broken/3", 4), ("/flaky/0", 1), ("/redirect/2", 3)])
def test_admissions_are_as_many_as_hits(
    way: str, path: str, hits: int, site: Site, session: requests.Session, limiter: Nekkar
) -> None:
    """Retries after a status, after a broken connection, redirects: each attempt on the wire takes one slot."""
    WAYS[way](session, limiter)
    assert session.get(site.url + path, timeout=TIMEOUT).text == "hello"
    assert (len(site.hits), used(limiter)) == (hits, hits)


@pytest.mark.parametrize("way", WAYS)
def test_retries_that_run_out_were_all_admitted(
    way: str, site: Site, session: requests.Session, limiter: Nekkar
) -> None:
    """The error is requests' own, and the count is right."""
    WAYS[way](session, limiter)
    with pytest.raises(requests.exceptions.RetryError):
        session.get(f"{site.url}/flaky/99", timeout=TIMEOUT)
    assert (len(site.hits), used(limiter)) == (6, 6)


@pytest.mark.parametrize("sent", [Twice(max_retries=RETRY), Delegate()])
def test_an_adapter_with_a_send_of_its_own_is_counted(
    sent: BaseAdapter, site: Site, session: requests.Session, limiter: Nekkar
) -> None:
    """What is no ``HTTPAdapter.send`` is admitted before it sends; each further attempt in its pools as ever."""
    by_limit(session, limiter, sent)
    path = "/flaky/2" if isinstance(sent, Twice) else "/free-of-trouble"
    assert session.get(site.url + path, timeout=TIMEOUT).text == "hello"
    assert len(site.hits) == used(limiter) == (4 if isinstance(sent, Twice) else 1)


def test_attempts_are_apart_as_the_limit_says(site: Site, session: requests.Session) -> None:
    """A retry waits for its slot as any call; the response carries the last attempt's admission."""
    session.mount("http://", NekkarAdapter(Nekkar(clock=FakeClock()), TWO, max_retries=RETRY))
    response = session.get(f"{site.url}/flaky/4", timeout=TIMEOUT)
    assert admission(response) == Admission("all", 1, START_US / 1e6 + 20.1, 10.05)


def test_retry_after_is_respected_as_before(
    site: Site, session: requests.Session, limiter: Nekkar, monkeypatch: pytest.MonkeyPatch
) -> None:
    """urllib3 sleeps for what the server asks, and then the retry takes its slot."""
    slept: list[tuple[float, int]] = []
    monkeypatch.setattr("urllib3.util.retry.time.sleep", lambda seconds: slept.append((seconds, used(limiter))))
    by_limit(session, limiter, HTTPAdapter(max_retries=RETRY))
    session.get(f"{site.url}/flaky/2/retry-after", timeout=TIMEOUT)
    assert slept == [(7, 1), (7, 2)], "the slot is taken after the sleep, not before"
    assert len(site.hits) == used(limiter) == 3


@pytest.mark.parametrize("way", ["own", "limit", "blocking"])
def test_threads_on_one_session_are_counted(way: str, site: Site, session: requests.Session, limiter: Nekkar) -> None:
    """Ten threads, each with two retries of its own."""
    WAYS[way](session, limiter)
    with ThreadPoolExecutor(10) as pool:
        urls = [f"{site.url}/flaky/2/{number}" for number in range(10)]
        assert [response.text for response in pool.map(lambda url: session.get(url, timeout=TIMEOUT), urls)]
    assert len(site.hits) == used(limiter) == 30


def test_a_digest_after_limit_is_counted(site: Site, session: requests.Session, limiter: Nekkar) -> None:
    """The second step goes out on the response's connection, which is the limited adapter."""
    limit(session, limiter, RULES)
    for _ in range(2):
        session.auth = HTTPDigestAuth("user", "secret")
        assert session.get(f"{site.url}/digest", timeout=TIMEOUT).status_code == 200
    assert len(site.hits) == used(limiter) == 4


@pytest.mark.parametrize(
    "arguments", [{"max_retries": RETRY}, {"adapter": HTTPAdapter(max_retries=RETRY)}], ids=["own", "wrapped"]
)
def test_retries_of_an_unpickled_adapter_are_counted(
    arguments: dict[str, Any], site: Site, session: requests.Session, tmp_path: Path
) -> None:
    """The pools that it makes anew ask as those before."""
    limiter = Nekkar(SqliteCache(tmp_path / "limits.db", timeout=10))
    session.mount("http://", pickle.loads(pickle.dumps(NekkarAdapter(limiter, RULES, **arguments))))
    session.get(f"{site.url}/flaky/3", timeout=TIMEOUT)
    assert len(site.hits) == used(limiter) == 4


def test_pools_in_use_before_are_counted_too(site: Site, session: requests.Session, limiter: Nekkar) -> None:
    """A session that has connections already keeps them, and its retries are admitted from then on."""
    session.mount("http://", HTTPAdapter(max_retries=RETRY))
    session.get(f"{site.url}/flaky/1", timeout=TIMEOUT)
    limit(session, limiter, RULES).get(f"{site.url}/flaky/3/x", timeout=TIMEOUT)
    assert (len(site.hits), used(limiter)) == (6, 4)
    assert {hit.connection for hit in site.hits} == {1}


def test_an_adapter_in_two_sessions_is_limited_in_one(site: Site, session: requests.Session, limiter: Nekkar) -> None:
    """What asks is the session's send: the same adapter mounted elsewhere is as free as it was, before and after."""
    adapter = HTTPAdapter(max_retries=RETRY)
    by_limit(session, limiter, adapter)
    session.get(site.url, timeout=TIMEOUT)
    with requests.Session() as other:
        other.trust_env = False
        other.mount("http://", adapter)
        other.get(f"{site.url}/flaky/2", timeout=TIMEOUT)
    assert (len(site.hits), used(limiter)) == (4, 1)


def test_a_request_inside_another_keeps_to_its_own_limit(
    site: Site, session: requests.Session, limiter: Nekkar
) -> None:
    """A body that is made with a request, limited or not, while another is being sent."""
    by_limit(session, limiter, HTTPAdapter(max_retries=RETRY))

    def body() -> Iterator[bytes]:
        yield session.get(f"{site.url}/free", timeout=TIMEOUT).content
        yield session.get(f"{site.url}/flaky/1", timeout=TIMEOUT).content

    outer = session.post(f"{site.url}/echo", data=body(), timeout=TIMEOUT)
    assert bytes.fromhex(outer.json()["body"]) == b"hellohello"
    assert [hit.path for hit in site.hits] == ["/free", "/flaky/1", "/flaky/1", "/echo"]
    assert used(limiter) == 3


# Proxies.


@pytest.mark.parametrize("from_environment", [False, True])
def test_requests_through_a_proxy_are_counted(
    from_environment: bool, site: Site, proxy: Proxy, limiter: Nekkar, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session's proxies or the environment's, by the request's own URL, retries too."""
    rules = RuleTable([Rule(f"127.0.0.1:{site.server_port}", "all")], {"all": RATE})
    with requests.Session() as session:
        session.trust_env = from_environment
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        if from_environment:
            monkeypatch.setenv("http_proxy", proxy.url)
        else:
            session.proxies["http"] = proxy.url
        session.mount("http://", HTTPAdapter(max_retries=RETRY))
        limit(session, limiter, rules)
        assert session.get(f"{site.url}/flaky/2", timeout=TIMEOUT).text == "hello"
    assert proxy.passed == [f"GET {site.url}/flaky/2"] * 3
    assert len(site.hits) == used(limiter) == 3


# Mocks.


def test_mocked_responses_are_admitted_by_send(session: requests.Session, limiter: Nekkar) -> None:
    """Under the ``responses`` library no pool is asked, so the adapter admits; passed through, no call counts twice."""
    limit(session, limiter, RULES)
    with responses.RequestsMock() as mock:
        mock.get("http://example.com/a", body="mocked")
        assert admission(session.get("http://example.com/a")).name == "all"
    assert used(limiter) == 1


@responses.activate
def test_a_call_let_through_a_mock_is_counted_once(site: Site, session: requests.Session, limiter: Nekkar) -> None:
    """What ``responses`` passes on meets the pool, which knows that it was admitted."""
    by_limit(session, limiter, HTTPAdapter(max_retries=RETRY, pool_block=True))
    responses.add_passthru(site.url)
    session.get(f"{site.url}/flaky/2", timeout=TIMEOUT)
    assert len(site.hits) == used(limiter) == 3


# Refusals.


@pytest.mark.parametrize("block", [False, True])
def test_a_refused_retry_comes_out_as_itself(block: bool, site: Site, session: requests.Session) -> None:
    """It is no ConnectionError, is not retried, and its connection is free for the next call."""
    adapter = NekkarAdapter(
        Nekkar(clock=FakeClock()), TWO, max_wait=5, max_retries=RETRY, pool_maxsize=1, pool_block=block
    )
    session.mount("http://", adapter)
    with pytest.raises(RequestWaitTooLong) as raised:
        session.get(f"{site.url}/flaky/9", timeout=TIMEOUT)
    assert not isinstance(raised.value, requests.ConnectionError)
    assert (raised.value.retry_after, raised.value.max_wait) == (10.05, 5)
    assert type(raised.value.__cause__).__name__ == "WaitTooLong"
    assert raised.value.request is not None
    assert len(site.hits) == 2
    session.get(f"{site.url}/free", timeout=TIMEOUT)
    assert {hit.connection for hit in site.hits} == {1}


@pytest.mark.parametrize("block", [False, True])
def test_a_refused_first_attempt_comes_out_as_itself(block: bool, site: Site, session: requests.Session) -> None:
    """Whether it is refused by send or in the pool."""
    adapter = HTTPAdapter(max_retries=RETRY, pool_maxsize=1, pool_block=block)
    session.mount("http://", NekkarAdapter(Nekkar(clock=FakeClock()), TWO, adapter, max_wait=5))
    for _ in range(2):
        session.get(site.url, timeout=TIMEOUT)
    for _ in range(3):
        with pytest.raises(RequestWaitTooLong):
            session.get(site.url, timeout=TIMEOUT)
    session.get(f"{site.url}/free", timeout=TIMEOUT)
    assert [(hit.path, hit.connection) for hit in site.hits] == [("/", 1), ("/", 1), ("/free", 1)]


class FailsLater(MemoryCache):
    """A memory cache that answers some reads, and then raises."""

    def __init__(self, answers: int, error: Exception) -> None:
        super().__init__()
        self.answers, self.error = answers, error

    def gets(self, key: str) -> tuple[Any, int | None]:
        if self.answers == 0:
            raise self.error
        return super().gets(key)

    def cas(self, key: str, value: bytes, token: int | None, ttl: int) -> Any:
        if self.answers == 0:
            raise self.error
        self.answers -= 1
        return super().cas(key, value, token, ttl)


@pytest.mark.parametrize("answers", [0, 2])
@pytest.mark.parametrize("block", [False, True])
@pytest.mark.parametrize(
    ("error", "kind"), [(CacheError("away"), RequestCacheError), (CorruptLog("cut short"), RequestCorruptLog)]
)
def test_a_cache_error_comes_out_as_itself(
    error: CacheError, kind: type[Exception], block: bool, answers: int, site: Site, session: requests.Session
) -> None:
    """At the first attempt or at a retry: it is not retried, and says what the cache said."""
    limiter = Nekkar(FailsLater(answers, error), clock=FakeClock())
    session.mount("http://", NekkarAdapter(limiter, RULES, max_retries=RETRY, pool_block=block))
    with pytest.raises(type(error), match=str(error)) as raised:
        session.get(f"{site.url}/flaky/9", timeout=TIMEOUT)
    assert type(raised.value) is kind
    assert isinstance(raised.value, requests.ConnectionError)
    assert isinstance(raised.value.__cause__, CacheError)
    assert len(site.hits) == answers


@pytest.mark.parametrize("block", [False, True])
def test_a_cost_that_can_never_be_admitted_is_said(block: bool, site: Site, session: requests.Session) -> None:
    """An error of configuration is no trouble of the connection either."""
    session.mount("http://", NekkarAdapter(Nekkar(), TWO, max_retries=RETRY, pool_block=block))
    with options(cost=3), pytest.raises(ConfigurationError, match="cost 3"):
        session.get(site.url, timeout=TIMEOUT)
    assert site.hits == []


# Connections.


def test_a_slot_is_not_taken_in_the_queue_for_a_connection(
    site: Site, session: requests.Session, limiter: Nekkar
) -> None:
    """Where the pool blocks, a call takes its connection first: a slot taken before would be old when it starts."""
    adapter = HTTPAdapter(pool_maxsize=1, pool_block=True)
    by_limit(session, limiter, adapter)
    connections: Any = pool_of(adapter, site).pool
    with ThreadPoolExecutor(1) as threads:
        with session.get(f"{site.url}/large", stream=True, timeout=TIMEOUT):
            waiting = threads.submit(session.get, site.url, timeout=TIMEOUT)
            wait_until(lambda: connections.not_empty._waiters)
            assert used(limiter) == 1
        assert waiting.result(TIMEOUT).text == "hello"
    assert used(limiter) == 2


class HangsUp(FakeClock):
    """A clock during whose sleeps the server ends idle connections."""

    site: Site

    def sleep_until(self, at_us: int | None, wake: threading.Event) -> None:
        self.site.hang_up()
        super().sleep_until(at_us, wake)


@pytest.mark.parametrize("block", [False, True])
def test_a_connection_that_ends_in_the_wait_is_not_used(block: bool, site: Site, session: requests.Session) -> None:
    """A wait is often longer than a server keeps idle connections; the call goes out on a new one."""
    clock = HangsUp()
    clock.site = site
    rules = RuleTable([Rule("*", "all")], {"all": "1/minute"})
    session.mount("http://", NekkarAdapter(Nekkar(clock=clock), rules, pool_maxsize=1, pool_block=block))
    assert [session.get(site.url, timeout=TIMEOUT).text for _ in range(3)] == ["hello"] * 3
    assert [hit.connection for hit in site.hits] == [1, 2, 3]


class Opening:
    """Connections that take a second to open by a fake clock: the first so many of all that are opened."""

    def __init__(self, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, slow: int = 1, seconds: float = 1.0) -> None:
        self.clock, self.slow, self.seconds, self.opened = clock, slow, seconds, 0
        new = urllib3.connection.HTTPConnection._new_conn

        def connect(connection: Any) -> Any:
            self.opened += 1
            if self.opened <= self.slow:
                clock.advance(self.seconds)
            return new(connection)

        monkeypatch.setattr(urllib3.connection.HTTPConnection, "_new_conn", connect)


SLOW = RuleTable([Rule("*/free", False), Rule("*", "all")], {"all": {"rate": 3, "period": 10.0, "margin": 0.05}})


@pytest.mark.parametrize("block", [False, True])
def test_a_slot_that_goes_stale_while_a_connection_opens_is_exchanged(
    block: bool, site: Site, session: requests.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name server, a connect and a handshake may take long: the request leaves on a slot of that moment."""
    clock = FakeClock()
    Opening(clock, monkeypatch)
    session.mount("http://", NekkarAdapter(Nekkar(clock=clock), SLOW, pool_maxsize=1, pool_block=block))
    responses_ = [session.get(site.url, timeout=TIMEOUT) for _ in range(3)]
    start = START_US / 1e6
    assert [admission(response).at for response in responses_] == [start + 1, start + 1, start + 10.05]
    assert [hit.connection for hit in site.hits] == [1, 1, 1]


def test_an_adapter_inside_may_take_its_time(site: Site, session: requests.Session) -> None:
    """A wrapped adapter that sleeps before it sends, and so lets the slot go stale."""
    clock = FakeClock()

    class Sleeps(HTTPAdapter):
        def send(self, *args: Any, **kwargs: Any) -> requests.Response:
            clock.advance(1)
            return super().send(*args, **kwargs)

    session.mount("http://", NekkarAdapter(Nekkar(clock=clock), SLOW, Sleeps()))
    assert admission(session.get(site.url, timeout=TIMEOUT)).at == START_US / 1e6 + 1


@pytest.mark.parametrize("block", [False, True])
def test_a_slow_tunnel_does_not_age_the_slot(block: bool, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy's CONNECT and the handshakes come before the slot is looked at; the CONNECT counts for nothing."""
    clock, authority = FakeClock(), trustme.CA()
    limiter, tls = Nekkar(clock=clock), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    Opening(clock, monkeypatch)
    with running(Site(tls)) as site, requests.Session() as session, authority.cert_pem.tempfile() as trusted:
        session.trust_env, session.proxies["https"] = False, proxy.url
        session.mount("https://", NekkarAdapter(limiter, SLOW, pool_block=block))
        found = admission(session.get(site.url, timeout=TIMEOUT, verify=trusted))
        assert (found.at, len(site.hits), len(proxy.passed)) == (START_US / 1e6 + 1, 1, 1)
        assert limiter("all", 3, period=10.0, margin=0.05).status().windows[0].used == 2


@pytest.mark.parametrize("block", [False, True])
def test_a_refused_exchange_comes_out_as_itself(
    block: bool, site: Site, session: requests.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both waits count for ``max_wait``; nothing is sent, nothing retried, and the connection is free for others."""
    clock = FakeClock()
    opening = Opening(clock, monkeypatch)
    adapter = NekkarAdapter(Nekkar(clock=clock), TWO, max_wait=5, max_retries=RETRY, pool_maxsize=1, pool_block=block)
    session.mount("http://", adapter)
    with options(cost=2), pytest.raises(RequestWaitTooLong) as raised:
        session.get(site.url, timeout=TIMEOUT)
    assert (raised.value.max_wait, type(raised.value.__cause__).__name__) == (5, "WaitTooLong")
    assert raised.value.request is not None
    for _ in range(3):
        session.get(f"{site.url}/free", timeout=TIMEOUT)
    assert [hit.path for hit in site.hits] == ["/free"] * 3
    assert opening.opened == 1


def test_a_connection_that_ends_in_an_exchange_is_opened_again(
    site: Site, session: requests.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server may close a connection on which nothing comes for long."""
    clock = HangsUp()
    clock.site = site
    opening = Opening(clock, monkeypatch, slow=0)
    rules = RuleTable([Rule("*", "all")], {"all": "2/minute"})
    session.mount("http://", NekkarAdapter(Nekkar(clock=clock), rules, pool_maxsize=1))
    session.get(site.url, timeout=TIMEOUT)
    opening.slow, opening.seconds = 2, 30.0
    site.hang_up()
    assert session.get(site.url, timeout=TIMEOUT).text == "hello"
    assert (len(site.hits), opening.opened >= 2) == (2, True)


def test_a_pool_goes_with_its_session(site: Site, limiter: Nekkar) -> None:
    """urllib3 closes a pool's connections when the last reference to the pool goes: nekkar keeps none."""
    gc.disable()
    try:
        with requests.Session() as session:
            session.trust_env = False
            adapter = HTTPAdapter()
            by_limit(session, limiter, adapter)
            session.get(site.url, timeout=TIMEOUT)
            pool = ref(pool_of(adapter, site))
            assert pool() is not None
        assert pool() is None
        gone = ref(adapter)
        del session, adapter
        assert gone() is None
    finally:
        gc.enable()


def test_a_pool_that_nobody_asks_for_is_as_it_was(site: Site) -> None:
    """Outside a limited send, a pool does what it always did; asking twice for it is as once."""
    with urllib3.HTTPConnectionPool("127.0.0.1", site.server_port) as pool:
        assert hook_pool(hook_pool(pool)) is pool
        assert pool.request("GET", "/", timeout=TIMEOUT).status == 200
        asked: list[str] = []
        token = attempts.set(Asking(lambda: asked.append("once")))
        try:
            pool.request("GET", "/", timeout=TIMEOUT)
        finally:
            attempts.reset(token)
        assert asked == ["once"]


def test_what_asking_raises_leaves_a_pool_as_refused() -> None:
    """urllib3 takes an OSError for a broken connection; this it does not, and connects to nothing."""
    error = TimeoutError("not now")

    def refuse() -> None:
        raise error

    with urllib3.HTTPConnectionPool("127.0.0.1", 1, maxsize=1, block=True) as pool:
        token = attempts.set(Asking(refuse))
        try:
            for _ in range(3):
                with pytest.raises(AttemptRefused, match="not now") as raised:
                    hook_pool(pool).request("GET", "/", retries=5, pool_timeout=0)
                assert raised.value.error is error
                assert raised.value.__cause__ is error
        finally:
            attempts.reset(token)
        assert pool.num_connections == 1


@pytest.mark.parametrize("block", [False, True])
def test_an_interrupted_wait_leaves_the_pool_whole(block: bool, site: Site) -> None:
    """Ctrl-C while an attempt waits is no refusal; the pool has as many connections to give as before."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    with urllib3.HTTPConnectionPool("127.0.0.1", site.server_port, maxsize=1, block=block) as pool:
        hook_pool(pool)
        pool.request("GET", "/", timeout=TIMEOUT)
        token = attempts.set(Asking(interrupt))
        try:
            with pytest.raises(KeyboardInterrupt):
                pool.request("GET", "/")
        finally:
            attempts.reset(token)
        assert pool.request("GET", "/", timeout=TIMEOUT, pool_timeout=0).data == b"hello"
