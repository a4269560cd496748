"""Whole sessions: ``limit`` and ``options``, what a wrapped adapter still shows, pickling, mocks, and overhead."""

from __future__ import annotations

import asyncio
import copy
import multiprocessing
import pickle
import threading
from collections import OrderedDict
from collections.abc import Callable
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any
from weakref import ref

import pytest
import requests
import responses
from requests.adapters import BaseAdapter, HTTPAdapter
from urllib3.util import Retry

from nekkar.core.cache import MemoryCache, SqliteCache
from nekkar.core.errors import ConfigurationError, CorruptLog, WaitTooLong
from nekkar.core.limiter import Nekkar
from nekkar.requests import NekkarAdapter, RequestCorruptLog, RequestWaitTooLong, limit, options
from nekkar.rules import Rule, RuleTable
from nekkar.testing import FakeClock
from tests.support.calls import calls
from tests.support.servers import Memcached
from tests.support.web import TIMEOUT, Site

RULES = RuleTable([Rule("*/free", False), Rule("*", "all")], {"all": "10/hour"})
URL = "https://example.com/"


class Canned(BaseAdapter):
    """An adapter that answers by itself."""

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        response = requests.Response()
        response.status_code, response.request, response.url = 200, request, request.url or ""
        response._content = b""
        return response

    def close(self) -> None:
        """Nothing is open."""


class Tuned(HTTPAdapter):
    """An adapter with something of its own, which it pickles as requests asks."""

    __attrs__ = [*HTTPAdapter.__attrs__, "token"]  # noqa: RUF012  requests' own
    token = "none"

    def add_headers(self, request: requests.PreparedRequest, **kwargs: Any) -> None:
        request.headers["X-Token"] = self.token


def canned(session: requests.Session) -> requests.Session:
    session.mount("https://", Canned())
    session.mount("http://", Canned())
    return session


def admission(response: requests.Response) -> Any:
    return vars(response)["nekkar"]


# limit.


def test_limit_covers_what_a_session_mounts(session: requests.Session, limiter: Nekkar) -> None:
    """Every prefix, in the order it was; every adapter an HTTPAdapter; the session itself comes back."""
    session.mount("https://api.example.com/v1/", Canned())
    session.mount("file://", Canned())
    prefixes = list(session.adapters)
    assert limit(session, limiter, RULES) is session
    assert list(session.adapters) == prefixes == ["https://api.example.com/v1/", "https://", "http://", "file://"]
    assert {type(adapter) for adapter in session.adapters.values()} == {NekkarAdapter}
    assert isinstance(session.get_adapter(URL), HTTPAdapter)
    assert admission(session.get("https://api.example.com/v1/a")).name == "all"
    assert admission(session.get("file://a/b")).name == "all"


class Mounts(requests.Session):
    """A session of a user's own that mounts its own way."""

    def mount(self, prefix: str | bytes, adapter: BaseAdapter) -> None:
        super().mount(prefix, adapter)
        self.adapters[f"{prefix!s}v2/"] = adapter


LATER: dict[str, Callable[[requests.Session], object]] = {
    "mount": lambda session: session.mount("https://example.com/", Canned()),
    "adapters": lambda session: session.adapters.__setitem__("https://example.com/", Canned()),
    "update": lambda session: session.adapters.update({"https://example.com/": Canned()}),
    "http": lambda session: session.mount("https://example.com/", HTTPAdapter(max_retries=Retry(3))),
}


@pytest.mark.parametrize("kind", [requests.Session, Mounts])
@pytest.mark.parametrize("way", LATER)
def test_a_later_mount_is_limited_too(way: str, kind: type[requests.Session], limiter: Nekkar) -> None:
    """However an adapter comes into a limited session, also that of a session class of a user's own."""
    session = limit(canned(kind()), limiter, RULES, max_wait=7)
    LATER[way](session)
    adapter = session.get_adapter(URL)
    assert (type(adapter), len(session.adapters) > 2) == (NekkarAdapter, True)
    with responses.RequestsMock(assert_all_requests_are_fired=way == "http") as mock:
        mock.get(URL, body="mocked")
        assert admission(session.get(URL)).name == "all"
        with options(cost=10), pytest.raises(RequestWaitTooLong, match="max_wait is 7 s"):
            session.get(URL)
    assert limiter("all", "10/hour").status().windows[0].used == 1


def test_a_later_mount_of_a_limited_adapter_stays_as_it_is(session: requests.Session, limiter: Nekkar) -> None:
    """An adapter with limits of its own keeps these alone, and a session's own may move to another prefix."""
    limit(canned(session), limiter, RULES)
    own = NekkarAdapter(limiter, RULES, Canned())
    session.mount("https://example.com/", own)
    moved = session.get_adapter("https://example.org")
    session.mount("https://example.org/", moved)
    assert (session.get_adapter(URL), session.get_adapter("https://example.org/")) == (own, moved)
    shared = Canned()
    session.mount("https://a.com/", shared)
    session.mount("https://b.com/", shared)
    assert session.get_adapter("https://a.com/") is session.get_adapter("https://b.com/")
    session.get(URL)
    assert limiter("all", "10/hour").status().windows[0].used == 1


@pytest.mark.parametrize("twin", [lambda it: pickle.loads(pickle.dumps(it)), copy.copy, copy.deepcopy])
def test_a_later_mount_of_a_twin_is_limited_too(twin: Callable[[Any], Any], tmp_path: Path) -> None:
    """A session that was pickled or copied limits what it mounts, as the first one does."""
    limiter = Nekkar(SqliteCache(tmp_path / "limits.db", timeout=10))
    session = twin(limit(requests.Session(), limiter, RULES, max_wait=0))
    session.mount("https://example.com/", Canned())
    assert admission(session.get(URL)).name == "all"
    assert limiter("all", "10/hour").status().windows[0].used == 1
    with pytest.raises(ConfigurationError, match="limited already"):
        limit(session, limiter, RULES)


def test_what_can_not_be_limited_is_not_mounted(session: requests.Session, limiter: Nekkar) -> None:
    """It is refused in words; an emptied session is limited still, and once."""
    limit(session, limiter, RULES)
    before = dict(session.adapters)
    with pytest.raises(ConfigurationError, match="adapter str"):
        session.mount("https://example.com/", "no adapter")  # type: ignore[arg-type]
    assert dict(session.adapters) == before
    session.adapters.clear()
    with pytest.raises(ConfigurationError, match="limited already"):
        limit(session, limiter, RULES)


def test_a_second_limit_is_refused(session: requests.Session, limiter: Nekkar) -> None:
    """No call would wait twice; the session stays as it was, and one with an adapter mounted counts too."""
    limit(session, limiter, RULES)
    before = dict(session.adapters)
    with pytest.raises(ConfigurationError, match="limited already"):
        limit(session, limiter, RULES)
    assert dict(session.adapters) == before
    with pytest.raises(ConfigurationError, match="limited already"):
        limit(pickle.loads(pickle.dumps(limit(requests.Session(), Nekkar(), RULES))), limiter, RULES)
    other = requests.Session()
    other.mount("https://api.example.com", NekkarAdapter(limiter, RULES))
    before = dict(other.adapters)
    with pytest.raises(ConfigurationError, match="limited already"):
        limit(other, limiter, RULES)
    assert dict(other.adapters) == before
    with pytest.raises(ConfigurationError, match="limited already"):
        NekkarAdapter(limiter, RULES, session.get_adapter(URL))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"session": None}, "session must be a requests.Session, got None"),
        ({"session": requests}, "session must be a requests.Session, got module"),
        ({"limiter": "memory:"}, "limiter must be a Nekkar, such as Nekkar(), got str"),
        ({"rules": {}}, "rules must be a RuleTable"),
        ({"max_wait": -1}, "max_wait -1"),
    ],
)
def test_a_bad_limit_is_refused_in_words(given: dict[str, Any], told: str) -> None:
    """What can't be limited, or with what, is named; nothing was changed."""
    session = requests.Session()
    before = dict(session.adapters)
    arguments: dict[str, Any] = {"session": session, "limiter": Nekkar(), "rules": RULES} | given
    with pytest.raises(ConfigurationError) as raised:
        limit(**arguments)
    assert told in str(raised.value)
    assert dict(session.adapters) == before


def test_limits_patience_is_that_of_its_adapters(session: requests.Session, limiter: Nekkar) -> None:
    """``max_wait`` of ``limit`` comes before the limits' own."""
    limit(canned(session), limiter, RuleTable([Rule("*", "all")], {"all": {"rate": 1, "max_wait": 90}}), max_wait=2)
    session.get(URL)
    with pytest.raises(RequestWaitTooLong, match="max_wait is 2 s"):
        session.get(URL)


def test_one_adapter_under_two_prefixes_stays_one(session: requests.Session, limiter: Nekkar) -> None:
    """It is wrapped once, so both prefixes go on sharing its connections."""
    shared = HTTPAdapter()
    session.mount("https://", shared)
    session.mount("http://", shared)
    limit(session, limiter, RULES)
    assert len(set(map(id, session.adapters.values()))) == 1


# What a wrapped adapter still shows.


def test_a_wrapped_adapter_is_seen_through(site: Site, session: requests.Session, limiter: Nekkar) -> None:
    """Its attributes are read and set as before, also when the session was limited; and they still work."""
    tuned = Tuned(pool_connections=3, pool_maxsize=7, max_retries=Retry(4))
    session.mount("http://", tuned)
    adapter: Any = limit(session, limiter, RULES).get_adapter(site.url)
    assert (adapter.max_retries.total, adapter._pool_maxsize, adapter.poolmanager) == (4, 7, tuned.poolmanager)
    adapter.token, adapter.max_retries = "abc", Retry(2, status_forcelist=[503])
    assert (tuned.token, tuned.max_retries.total) == ("abc", 2)
    session.get(f"{site.url}/flaky/2", timeout=TIMEOUT)
    assert [dict(hit.headers)["X-Token"] for hit in site.hits] == ["abc"] * 3
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = adapter.no_such_thing
    own: Any = NekkarAdapter(limiter, RULES)
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = own.no_such_thing


def test_a_class_of_ones_own_over_the_adapter_works(site: Site, session: requests.Session, limiter: Nekkar) -> None:
    """``NekkarAdapter`` may be subclassed as ``HTTPAdapter`` is."""

    class Marked(NekkarAdapter):
        def add_headers(self, request: requests.PreparedRequest, **kwargs: Any) -> None:
            request.headers["X-Mark"] = "1"

    session.mount("http://", Marked(limiter, RULES, max_retries=Retry(3, status_forcelist=[503])))
    session.get(f"{site.url}/flaky/2", timeout=TIMEOUT)
    assert [dict(hit.headers)["X-Mark"] for hit in site.hits] == ["1"] * 3
    assert limiter("all", "10/hour").status().windows[0].used == 3


# options.


def test_options_are_the_calls_own(session: requests.Session, limiter: Nekkar) -> None:
    """A cost and a patience for the calls in a block, before those of the adapter; afterwards all is as before."""
    limit(canned(session), limiter, RULES, max_wait=99_999)
    with options(cost=3, max_wait=5):
        assert admission(session.get(URL)).cost == 3
        with options(cost=8), pytest.raises(RequestWaitTooLong, match="max_wait is 5 s"):
            session.get(URL)
        with options(max_wait=0):
            assert admission(session.get(URL)).cost == 3
        assert admission(session.get(URL)).cost == 3
    assert admission(session.get(URL)).cost == 1
    assert admission(session.get(URL)).waited > 3600


def test_options_are_left_by_an_error(session: requests.Session, limiter: Nekkar) -> None:
    """A block that raises leaves nothing behind."""
    limit(canned(session), limiter, RULES)
    with pytest.raises(RuntimeError), options(cost=3):
        raise RuntimeError
    assert admission(session.get(URL)).cost == 1


def test_options_apply_to_each_attempt(site: Site, session: requests.Session, limiter: Nekkar) -> None:
    """Redirects and retries cost what their call costs."""
    session.mount("http://", HTTPAdapter(max_retries=Retry(3, status_forcelist=[503])))
    limit(session, limiter, RULES)
    with options(cost=2):
        session.get(f"{site.url}/flaky/1", timeout=TIMEOUT)
        session.get(f"{site.url}/redirect/1", timeout=TIMEOUT)
    assert limiter("all", "10/hour").status().windows[0].used == 8


def test_options_go_where_contexts_go(session: requests.Session, limiter: Nekkar) -> None:
    """Into ``asyncio.to_thread``, not into other threads and tasks."""
    limit(canned(session), limiter, RULES)
    costs: dict[str, int] = {}

    def call(name: str) -> None:
        costs[name] = admission(session.get(URL)).cost

    async def with_cost(cost: int) -> None:
        with options(cost=cost):
            await asyncio.sleep(0)
            await asyncio.to_thread(call, f"task of {cost}")

    async def main() -> None:
        await asyncio.gather(with_cost(2), with_cost(3), asyncio.to_thread(call, "task"))

    asyncio.run(main())
    with options(cost=4):
        thread = threading.Thread(target=call, args=("thread",))
        thread.start()
        thread.join(TIMEOUT)
    assert costs == {"task of 2": 2, "task of 3": 3, "task": 1, "thread": 1}


@pytest.mark.parametrize(
    ("given", "told"),
    [({"cost": 0}, "cost 0"), ({"cost": 1.5}, "cost 1.5"), ({"max_wait": -1}, "max_wait -1"), ({"max_wait": "5"}, "5")],
)
def test_bad_options_are_refused_in_words(given: dict[str, Any], told: str) -> None:
    """Where they are written, not at the call."""
    with pytest.raises(ConfigurationError, match=told), options(**given):
        pytest.fail("the block should not run")


# Errors.


def test_a_corrupt_log_stays_one() -> None:
    """``except CorruptLog`` and ``except requests.ConnectionError`` both catch it, in another process too."""
    cache = MemoryCache()
    cache.set("nekkar:all", "no log")
    session = limit(canned(requests.Session()), Nekkar(cache), RULES)
    with pytest.raises(CorruptLog) as raised:
        session.get(URL)
    error = pickle.loads(pickle.dumps(raised.value))
    assert isinstance(error, RequestCorruptLog)
    assert isinstance(error, requests.ConnectionError)
    assert str(error) == str(raised.value) != ""
    assert error.request is not None


# Other processes.


def _call(pickled: bytes, url: str, answers: Queue[str]) -> None:
    """Call until refused, in a process of its own."""
    session = pickle.loads(pickled)
    try:
        for number in range(20):
            answers.put(session.get(f"{url}/{number}", timeout=TIMEOUT).text)
        answers.put("never refused")
    except WaitTooLong as error:
        answers.put(type(error).__name__)
    finally:
        session.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@pytest.mark.parametrize(
    "method", [method for method in multiprocessing.get_all_start_methods() if method != "forkserver"]
)
@pytest.mark.parametrize("kind", ["sqlite", "memcached"])
@pytest.mark.parametrize("way", ["limit", "mount"])
def test_a_pickled_session_keeps_its_limits_in_other_processes(
    way: str, kind: str, method: Any, site: Site, server: Memcached, tmp_path: Path
) -> None:
    """Three processes with a session each from one pickle, and this one: together they stay under the limit."""
    cache = server.url if kind == "memcached" else SqliteCache(tmp_path / "limits.db", timeout=10)
    limiter, session = Nekkar(cache), requests.Session()
    session.trust_env = False
    if way == "limit":
        limit(session, limiter, RULES, max_wait=0)
    else:
        session.mount("http://", NekkarAdapter(limiter, RULES, Tuned(max_retries=2), max_wait=0))
    assert session.get(site.url, timeout=TIMEOUT).text == "hello"
    context = multiprocessing.get_context(method)
    answers: Any = context.Queue()
    work = (pickle.dumps(session), site.url, answers)
    workers = [context.Process(target=_call, args=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    told = [answers.get(timeout=TIMEOUT) for _ in range(9 + 3)]
    for worker in workers:
        worker.join(TIMEOUT)
    with pytest.raises(RequestWaitTooLong):
        session.get(site.url, timeout=TIMEOUT)
    session.close()
    assert sorted(told) == ["RequestWaitTooLong"] * 3 + ["hello"] * 9
    assert len(site.hits) == 10


# Mocks.


@responses.activate
def test_an_activated_mock_works_through_limit(session: requests.Session, limiter: Nekkar) -> None:
    """A user's test decorated with ``responses.activate`` sees answers, waits, and refusals."""
    responses.get(URL, json={"a": 1})
    limit(session, limiter, RULES, max_wait=5)
    found = [session.get(URL) for _ in range(10)]
    assert [response.json() for response in found] == [{"a": 1}] * 10
    assert {admission(response).name for response in found} == {"all"}
    with pytest.raises(RequestWaitTooLong):
        session.get(URL)
    responses.assert_call_count(URL, 10)


@pytest.mark.parametrize("way", ["limit", "own", "wrapped", "blocking"])
def test_a_mock_in_a_block_works_with_every_adapter(way: str, session: requests.Session, limiter: Nekkar) -> None:
    """Also what a mock raises comes out, and its retries are answered."""
    adapters: dict[str, Callable[[], Any]] = {
        "limit": lambda: limit(session, limiter, RULES),
        "own": lambda: session.mount("https://", NekkarAdapter(limiter, RULES)),
        "wrapped": lambda: session.mount("https://", NekkarAdapter(limiter, RULES, Tuned())),
        "blocking": lambda: session.mount("https://", NekkarAdapter(limiter, RULES, pool_block=True)),
    }
    adapters[way]()
    with responses.RequestsMock() as mock:
        mock.get(URL, body="mocked")
        mock.get(f"{URL}bad", body=requests.exceptions.SSLError("bad certificate"))
        assert (session.get(URL).text, admission(session.get(URL)).name) == ("mocked", "all")
        with pytest.raises(requests.exceptions.SSLError, match="bad certificate"):
            session.get(f"{URL}bad")
        with pytest.raises(requests.ConnectionError, match="doesn't match any registered mock"):
            session.get(f"{URL}unknown")
    assert limiter("all", "10/hour").status().windows[0].used == 4


def test_adapters_that_are_replaced_as_a_whole_are_limited_too(limiter: Nekkar) -> None:
    """Some programs reset a session so; the limits stay, and so do those of an adapter that has its own."""
    session = limit(requests.Session(), limiter, RULES)
    replacements: list[Any] = [{"https://": Canned()}, OrderedDict({"https://": Canned()})]
    for adapters in replacements:
        session.adapters = adapters
        assert admission(session.get(URL)).name == "all"
    session.adapters.clear()
    session.mount("https://", Canned())
    assert admission(session.get(URL)).name == "all"
    held = ref(session)
    del session
    assert held() is None  # no cycle


# Overhead.


def test_the_adapter_adds_a_fraction_of_a_call() -> None:
    """Rules and adapter make at most 35 function calls, of a session's hundreds, besides those of ``acquire``."""
    limiter = Nekkar(clock=FakeClock())
    names = [f"limit-{number}" for number in range(9)]
    rules = [Rule(f"https://{name}.example.com/v1/*", name) for name in names]
    table = RuleTable([*rules, Rule("https://example.com/*", "all")], {**dict.fromkeys(names, 100), "all": 10**9})
    plain, limited = canned(requests.Session()), limit(canned(requests.Session()), limiter, table)
    plain.trust_env = limited.trust_env = False
    request, all_limit = requests.Request("GET", URL).prepare(), limiter("all", 10**9)
    works: list[Callable[[], object]] = [
        lambda: plain.get_adapter(URL).send(request),
        lambda: limited.get_adapter(URL).send(request),
        lambda: all_limit.acquire(cost=1, max_wait=None),
    ]
    plain_send, limited_send, acquire = (min(calls(work) for _ in range(30)) for work in works)
    assert limited_send - plain_send - acquire <= 35
