"""requests: each request waits for its slot, on a real local server; errors are what requests' users catch."""

from __future__ import annotations

import pickle
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
import responses
from requests.adapters import BaseAdapter, HTTPAdapter
from requests.auth import HTTPDigestAuth

from nekkar.core.cache import MemoryCache, SqliteCache
from nekkar.core.errors import CacheError, ConfigurationError, NekkarError, WaitTooLong
from nekkar.core.limiter import Admission, Nekkar
from nekkar.requests import NekkarAdapter, RequestCacheError, RequestWaitTooLong
from nekkar.rules import Rule, RuleTable
from nekkar.testing import START_US, FakeClock
from tests.support.web import TIMEOUT, Site, running

START = START_US / 1e6
EVERYTHING = RuleTable([Rule("*", "all")], {"all": {"rate": 2, "period": 10.0, "margin": 0.05}})


@pytest.fixture
def server() -> Iterator[Site]:
    with running(Site()) as made:
        yield made


def admission(response: requests.Response) -> Any:
    """Return what the adapter put on a response as ``response.nekkar``."""
    return vars(response)["nekkar"]


def url_of(error: requests.RequestException) -> Any:
    """Return the URL of the request that an error carries."""
    assert error.request is not None
    return error.request.url


def mounted(session: requests.Session, adapter: NekkarAdapter) -> requests.Session:
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


@dataclass
class Recorder(BaseAdapter):
    """An adapter that sends nothing, and remembers what it was told to do."""

    sent: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)
    closed: int = 0
    error: Exception | None = None

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        self.sent.append((request, args, kwargs))
        if self.error:
            raise self.error
        response = requests.Response()
        response.status_code, response.request, response.url = 200, request, request.url or ""
        return response

    def close(self) -> None:
        self.closed += 1


# What is limited.


def test_requests_wait_for_their_slot(server: Site, session: requests.Session, clock: FakeClock) -> None:
    """Each request on a limited URL takes a slot; the response carries its admission."""
    mounted(session, NekkarAdapter(Nekkar(clock=clock), EVERYTHING))
    admissions = [admission(session.get(f"{server.url}/{number}", timeout=TIMEOUT)) for number in range(3)]
    assert admissions == [
        Admission("all", 1, START, 0.0),
        Admission("all", 1, START, 0.0),
        Admission("all", 1, START + 10.05, 10.05),
    ]
    assert server.asked == [("GET", "/0"), ("GET", "/1"), ("GET", "/2")]


def test_a_url_without_a_rule_is_not_limited(server: Site, session: requests.Session, clock: FakeClock) -> None:
    """No match, or a rule of False, means no wait, no cache, and an admission of None."""
    rules = RuleTable(
        [Rule("*/free", False), Rule("127.0.0.1/limited", "one", methods=["GET"])],
        {"one": 1},
    )
    mounted(session, NekkarAdapter(Nekkar(clock=clock), rules, max_wait=0))
    for path in ("/free", "/other"):
        assert [admission(session.get(server.url + path, timeout=TIMEOUT)) for _ in range(3)] == [None] * 3
    assert admission(session.get(f"{server.url}/limited", timeout=TIMEOUT)).name == "one"
    assert admission(session.post(f"{server.url}/limited", data=b"x", timeout=TIMEOUT)) is None
    with pytest.raises(WaitTooLong):
        session.get(f"{server.url}/limited", timeout=TIMEOUT)
    assert clock.now == START


def test_captures_make_a_limit_each(server: Site, session: requests.Session, clock: FakeClock) -> None:
    """A captured segment is part of the limit's name: one user's calls do not hold up another's."""
    rules = RuleTable([Rule("*/users/{user}/*", "user-{user}")], {"user-{user}": {"rate": 1, "max_wait": 0}})
    mounted(session, NekkarAdapter(Nekkar(clock=clock), rules))
    names = [admission(session.get(f"{server.url}/users/{user}/x", timeout=TIMEOUT)).name for user in ("ann", "bob")]
    assert names == ["user-ann", "user-bob"]
    with pytest.raises(RequestWaitTooLong, match="user-ann"):
        session.get(f"{server.url}/users/ann/y", timeout=TIMEOUT)


def test_all_settings_of_a_limit_apply(session: requests.Session, clock: FakeClock) -> None:
    """Spacing, period, margin and max_wait of the table are those of the limit."""
    settings = {"rate": 10, "period": 5.0, "spacing": 0.5, "margin": 0.25, "max_wait": 0.4}
    mounted(session, NekkarAdapter(Nekkar(clock=clock), RuleTable([Rule("*", "all")], {"all": settings}), Recorder()))
    session.get("http://example.com/")
    with pytest.raises(RequestWaitTooLong) as refusal:
        session.get("http://example.com/")
    assert (refusal.value.retry_after, refusal.value.max_wait) == (0.5, 0.4)


def test_each_hop_of_a_redirect_takes_a_slot(server: Site, session: requests.Session, clock: FakeClock) -> None:
    """Redirects are requests of their own: three hops, three admissions."""
    mounted(session, NekkarAdapter(Nekkar(clock=clock), EVERYTHING))
    response = session.get(f"{server.url}/redirect/2", timeout=TIMEOUT)
    assert [admission(hop).at - START for hop in [*response.history, response]] == pytest.approx([0, 0, 10.05])
    assert [path for _, path in server.asked] == ["/redirect/2", "/redirect/1", "/redirect/0"]


def test_each_step_of_an_authentication_takes_a_slot(server: Site, session: requests.Session, clock: FakeClock) -> None:
    """The request that a challenge asks for waits as any other."""
    mounted(session, NekkarAdapter(Nekkar(clock=clock), EVERYTHING))
    for _ in range(2):
        session.auth = HTTPDigestAuth("user", "secret")
        assert session.get(f"{server.url}/digest", timeout=TIMEOUT).status_code == 200
    assert len(server.asked) == 4
    assert clock.now == START + 10.05


def test_a_refused_hop_is_not_sent(server: Site, session: requests.Session, clock: FakeClock) -> None:
    """Where a redirect's slot lies too far off, the redirect is not followed."""
    mounted(session, NekkarAdapter(Nekkar(clock=clock), EVERYTHING, max_wait=5))
    with pytest.raises(RequestWaitTooLong) as refusal:
        session.get(f"{server.url}/redirect/5", timeout=TIMEOUT)
    assert len(server.asked) == 2
    assert url_of(refusal.value) == f"{server.url}/redirect/3"


def test_the_adapters_max_wait_comes_before_the_limits(session: requests.Session, clock: FakeClock) -> None:
    """An adapter may be more patient than a limit, or less."""
    patient = RuleTable([Rule("*", "all")], {"all": {"rate": 1, "period": 10, "max_wait": 60}})
    hasty = RuleTable([Rule("*", "all")], {"all": {"rate": 1, "period": 10, "max_wait": 0}})
    mounted(session, NekkarAdapter(Nekkar(clock=clock), patient, Recorder(), max_wait=0))
    session.get("http://example.com/")
    with pytest.raises(RequestWaitTooLong):
        session.get("http://example.com/")
    mounted(session, NekkarAdapter(Nekkar(clock=clock), hasty, Recorder(), max_wait=60))
    session.get("http://example.com/")
    assert admission(session.get("http://example.com/")).waited == 10.05


def test_sessions_with_one_limiter_share_its_limits(clock: FakeClock) -> None:
    """A limiter's limits hold over all adapters that were given it, and over its other faces."""
    limiter = Nekkar(clock=clock)
    for _ in range(2):
        mounted(requests.Session(), NekkarAdapter(limiter, EVERYTHING, Recorder())).get("http://example.com/")
    with pytest.raises(WaitTooLong):
        limiter("all", 2, period=10.0, margin=0.05).acquire(max_wait=0)


def test_threads_share_one_session(server: Site, session: requests.Session) -> None:
    """Twenty threads on one session: as many are let through as the limit holds, the rest are refused."""
    rules = RuleTable([Rule("*", "all")], {"all": {"rate": "7/hour", "max_wait": 0}})
    mounted(session, NekkarAdapter(Nekkar(clock=FakeClock(jump=False)), rules))
    together, outcomes = threading.Barrier(20), list[str]()

    def call() -> None:
        together.wait(TIMEOUT)
        try:
            outcomes.append(str(session.get(f"{server.url}/", timeout=TIMEOUT).status_code))
        except requests.Timeout as error:
            outcomes.append(type(error).__name__)

    threads = [threading.Thread(target=call) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert sorted(outcomes) == ["200"] * 7 + ["RequestWaitTooLong"] * 13
    assert len(server.asked) == 7


def test_mocked_responses_are_limited_too(clock: FakeClock) -> None:
    """Under the ``responses`` library a program's tests see the same limits and admissions."""
    with responses.RequestsMock() as mock, requests.Session() as session:
        mock.add(responses.GET, "https://api.example.com/a", json={"a": 1})
        mounted(session, NekkarAdapter(Nekkar(clock=clock), EVERYTHING))
        found = [session.get("https://api.example.com/a") for _ in range(3)]
        assert [response.json() for response in found] == [{"a": 1}] * 3
        assert [admission(response).waited for response in found] == [0.0, 0.0, 10.05]
        assert len(mock.calls) == 3


# What passes through untouched.


def test_statuses_pass_through(server: Site, session: requests.Session, clock: FakeClock) -> None:
    """An HTTP error is a response as ever, with its headers and its admission."""
    mounted(session, NekkarAdapter(Nekkar(clock=clock), EVERYTHING))
    for status in (404, 429, 503):
        response = session.get(f"{server.url}/status/{status}", timeout=TIMEOUT)
        assert (response.status_code, response.headers["Retry-After"]) == (status, "7")
        assert isinstance(admission(response), Admission)
        with pytest.raises(requests.HTTPError):
            response.raise_for_status()


def test_streams_pass_through(server: Site, session: requests.Session, clock: FakeClock) -> None:
    """A streamed response is not read ahead."""
    mounted(session, NekkarAdapter(Nekkar(clock=clock), EVERYTHING))
    with session.get(f"{server.url}/large", stream=True, timeout=TIMEOUT) as response:
        assert response.raw.tell() == 0
        assert next(response.iter_content(1000)) == b"x" * 1000
        assert 0 < response.raw.tell() < 100_000


def test_a_server_that_is_away_gives_requests_own_error(session: requests.Session, clock: FakeClock) -> None:
    """What sending raises comes out as it is, and is no error of nekkar's."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        mounted(session, NekkarAdapter(Nekkar(clock=clock), EVERYTHING))
        with pytest.raises(requests.ConnectionError) as raised:
            session.get(f"http://127.0.0.1:{held.getsockname()[1]}/", timeout=TIMEOUT)
    assert not isinstance(raised.value, NekkarError)


def test_the_wait_is_outside_the_http_timeout(server: Site, session: requests.Session) -> None:
    """A request may wait for its slot far longer than for its answer."""
    rules = RuleTable([Rule("*", "all")], {"all": {"rate": 1, "period": 1.2}})
    mounted(session, NekkarAdapter(Nekkar(), rules))
    session.get(server.url, timeout=TIMEOUT)
    began = time.monotonic()
    response = session.get(server.url, timeout=1.0)
    assert admission(response).waited > 1.0
    assert time.monotonic() - began > 1.0


# Errors.


def test_a_refusal_is_a_timeout_of_requests(session: requests.Session, clock: FakeClock) -> None:
    """``except requests.Timeout`` catches it, and so do WaitTooLong and TimeoutError; nothing was sent."""
    recorder = Recorder()
    mounted(session, NekkarAdapter(Nekkar(clock=clock), EVERYTHING, recorder, max_wait=3))
    session.get("http://example.com/1")
    session.get("http://example.com/2")
    with pytest.raises(requests.Timeout) as raised:
        session.get("http://example.com/3")
    error = raised.value
    assert isinstance(error, RequestWaitTooLong)
    assert isinstance(error, WaitTooLong)
    assert isinstance(error, TimeoutError)
    assert isinstance(error, requests.RequestException)
    assert (error.name, error.retry_after, error.max_wait) == ("all", 10.05, 3)
    assert (url_of(error), error.response) == ("http://example.com/3", None)
    assert "retry after 10.050 s" in str(error)
    assert isinstance(error.__cause__, WaitTooLong)
    assert len(recorder.sent) == 2


class BrokenCache(MemoryCache):
    def gets(self, key: str) -> tuple[Any, int | None]:
        raise CacheError("memcached localhost:11211: no answer within 1 s; is it running?")


def test_a_cache_that_is_away_is_a_connection_error_of_requests(session: requests.Session) -> None:
    """``except requests.ConnectionError`` catches it, and so does CacheError; nothing was sent."""
    recorder = Recorder()
    mounted(session, NekkarAdapter(Nekkar(BrokenCache()), EVERYTHING, recorder))
    with pytest.raises(requests.ConnectionError) as raised:
        session.get("http://example.com/")
    error = raised.value
    assert isinstance(error, RequestCacheError)
    assert isinstance(error, CacheError)
    assert url_of(error) == "http://example.com/"
    assert str(error) == "memcached localhost:11211: no answer within 1 s; is it running?"
    assert isinstance(error.__cause__, CacheError)
    assert recorder.sent == []


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_errors_pickle(protocol: int) -> None:
    """Both errors come back from another process with type, message and data."""
    request = requests.Request("GET", "http://example.com/a").prepare()
    refused = pickle.loads(pickle.dumps(RequestWaitTooLong("all", 1.5, 0.5, request), protocol))
    assert (type(refused), refused.name, refused.retry_after, refused.max_wait) == (RequestWaitTooLong, "all", 1.5, 0.5)
    assert str(refused) == str(RequestWaitTooLong("all", 1.5, 0.5))
    broken = pickle.loads(pickle.dumps(RequestCacheError("gone", request=request), protocol))
    assert (type(broken), str(broken), url_of(broken)) == (RequestCacheError, "gone", "http://example.com/a")


def test_a_pickled_refusal_keeps_its_request() -> None:
    """As with requests' own errors, ``error.request`` survives pickling."""
    request = requests.Request("GET", "http://example.com/a").prepare()
    refused = pickle.loads(pickle.dumps(RequestWaitTooLong("all", 1.5, 0.5, request)))
    assert url_of(refused) == "http://example.com/a"


# The adapter itself.


def test_a_wrapped_adapter_sends_and_is_closed(session: requests.Session, clock: FakeClock) -> None:
    """The adapter given gets the request with all arguments, after the wait, and the session's close."""
    recorder = Recorder()
    mounted(session, NekkarAdapter(Nekkar(clock=clock), EVERYTHING, recorder))
    for _ in range(3):
        session.get("https://example.com/a", timeout=(1, 2), verify=False, stream=True, cert="c", proxies={"a": "b"})
    request, args, kwargs = recorder.sent[-1]
    assert request.url == "https://example.com/a"
    assert args == ()
    assert (kwargs["timeout"], kwargs["verify"], kwargs["stream"], kwargs["cert"]) == ((1, 2), False, True, "c")
    assert kwargs["proxies"]["a"] == "b"
    assert clock.now == START + 10.05
    session.close()
    assert recorder.closed == 2, "it is mounted twice"


def test_what_a_wrapped_adapter_raises_comes_out(session: requests.Session, clock: FakeClock) -> None:
    """An error of sending is not touched."""
    error = requests.exceptions.SSLError("bad certificate")
    mounted(session, NekkarAdapter(Nekkar(clock=clock), EVERYTHING, Recorder(error=error)))
    with pytest.raises(requests.exceptions.SSLError) as raised:
        session.get("https://example.com/")
    assert raised.value is error


def test_arguments_make_an_http_adapter(server: Site, session: requests.Session, clock: FakeClock) -> None:
    """What ``HTTPAdapter`` takes, the adapter takes, and it is one."""
    adapter = NekkarAdapter(Nekkar(clock=clock), EVERYTHING, pool_connections=3, pool_maxsize=4, max_retries=5)
    assert isinstance(adapter, HTTPAdapter)
    assert adapter.max_retries.total == 5
    mounted(session, adapter)
    assert session.get(server.url, timeout=TIMEOUT).text == "hello"
    assert adapter.poolmanager.connection_pool_kw["maxsize"] == 4
    session.close()


LIMITER = Nekkar()
BAD: list[tuple[dict[str, Any], str, str]] = [
    # what is given; what of it the message shows; what the message says was expected
    ({"adapter": HTTPAdapter(), "max_retries": 3}, "max_retries", "not both"),
    ({"adapter": HTTPAdapter(), "pool_maxsize": 3, "pool_block": True}, "pool_maxsize, pool_block", "not both"),
    ({"adapter": "http://"}, "adapter str:", "an adapter"),
    ({"adapter": HTTPAdapter}, "HTTPAdapter", "an adapter"),
    ({"limiter": None}, "None", "Nekkar()"),
    ({"limiter": "memory:"}, "got str", "Nekkar()"),
    ({"limiter": Nekkar}, "Nekkar", "Nekkar()"),
    ({"limiter": LIMITER("a", 1)}, "got Limit", "Nekkar()"),
    ({"rules": None}, "None", "RuleTable("),
    ({"rules": [Rule("*", "a")]}, "got list", "RuleTable("),
    ({"rules": {"*": 100}}, "got dict", "RuleTable("),
    ({"max_wait": -1}, "max_wait -1", "give seconds"),
    ({"max_wait": "5"}, "'5'", "give seconds"),
    ({"max_wait": True}, "True", "give seconds"),
    ({"max_wait": float("inf")}, "inf", "give seconds"),
]


@pytest.mark.parametrize(("given", "told", "expected"), BAD, ids=lambda value: str(value)[:40])
def test_a_bad_adapter_is_refused_in_words(given: dict[str, Any], told: str, expected: str) -> None:
    """What an adapter can't be made of is named where it is made."""
    arguments: dict[str, Any] = {"limiter": LIMITER, "rules": EVERYTHING} | given
    with pytest.raises(ConfigurationError) as error:
        NekkarAdapter(**arguments)
    assert told in str(error.value)
    assert expected in str(error.value)


def test_a_pickled_session_keeps_its_limits(tmp_path: Path) -> None:
    """A session sent to another process is still limited, by the same file, with rules and patience."""
    limiter = Nekkar(SqliteCache(tmp_path / "limits.db", timeout=10))
    rules = RuleTable([Rule("*", "all")], {"all": "2/hour"})
    session = mounted(requests.Session(), NekkarAdapter(limiter, rules, Recorder(), max_wait=0))
    session.get("http://example.com/")
    twin = pickle.loads(pickle.dumps(session))
    twin.get("http://example.com/")
    for each in (session, twin):
        with pytest.raises(RequestWaitTooLong, match="'all'"):
            each.get("http://example.com/")


def test_a_pickled_adapter_of_its_own_making_still_sends(server: Site, tmp_path: Path) -> None:
    """The HTTP arguments survive pickling with the limits."""
    limiter = Nekkar(SqliteCache(tmp_path / "limits.db", timeout=10))
    rules = RuleTable([Rule("*", "all")], {"all": "2/hour"})
    adapter = pickle.loads(pickle.dumps(NekkarAdapter(limiter, rules, max_wait=0, max_retries=5)))
    assert adapter.max_retries.total == 5
    with mounted(requests.Session(), adapter) as session:
        session.trust_env = False
        assert admission(session.get(server.url, timeout=TIMEOUT)).name == "all"
        session.get(server.url, timeout=TIMEOUT)
        with pytest.raises(requests.Timeout):
            session.get(server.url, timeout=TIMEOUT)
