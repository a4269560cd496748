"""What crosses between processes arrives as it was: errors, limits, rules, caches, decorated functions."""

from __future__ import annotations

import copy
import importlib
import multiprocessing
import os
import pickle
import pkgutil
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests

import nekkar
from nekkar import Admission, Limit, Match, Nekkar, NekkarError, Rule, RuleTable, Status, WaitTooLong, Window
from nekkar.core.cache import MemcachedCache, MemoryCache, SqliteCache
from nekkar.requests import NekkarAdapter
from nekkar.testing import FakeClock
from tests.support.internals.caches import pool_of, servers_of

IN_TIME = 60.0
METHODS = [method for method in ("spawn", "fork") if method in multiprocessing.get_all_start_methods()]


def pickled(value: Any, protocol: int) -> Any:
    return pickle.loads(pickle.dumps(value, protocol))


COPIES: dict[str, Callable[[Any], Any]] = {"copy": copy.copy, "deepcopy": copy.deepcopy}
for _protocol in range(pickle.HIGHEST_PROTOCOL + 1):
    COPIES[f"pickle {_protocol}"] = partial(pickled, protocol=_protocol)

for _module in pkgutil.walk_packages(nekkar.__path__, "nekkar."):
    if _module.name != "nekkar.__main__":
        with suppress(ImportError):  # an extra that is not installed
            importlib.import_module(_module.name)


def kinds(base: type[NekkarError] = NekkarError) -> list[type[NekkarError]]:
    """Return every error that nekkar defines, from the base down."""
    below = [kind for sub in base.__subclasses__() if sub.__module__.startswith("nekkar.") for kind in kinds(sub)]
    return [base, *dict.fromkeys(below)]


KINDS = kinds()
each_kind = pytest.mark.parametrize("kind", KINDS, ids=[f"{kind.__module__}.{kind.__name__}" for kind in KINDS])
each_copy = pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)


def error_of(kind: type[NekkarError]) -> NekkarError:
    """Return an error of a kind, with what its constructor needs, and an attribute that somebody added."""
    error = kind("some_id", 12.5, 3.0) if issubclass(kind, WaitTooLong) else kind("no answer within 1 s")
    error.note = "added"  # type: ignore[attr-defined]
    return error


def raise_one(kind: type[NekkarError]) -> None:
    raise error_of(kind)


def told(error: BaseException) -> tuple[Any, ...]:
    return type(error), str(error), error.args, vars(error)


def test_the_errors_are_all_there() -> None:
    """The public ones, and the adapters' own."""
    public = {getattr(nekkar, name) for name in nekkar.__all__}
    assert {kind for kind in public if isinstance(kind, type) and issubclass(kind, NekkarError)} < set(KINDS)
    assert len(KINDS) >= 7


@each_kind
@each_copy
def test_an_error_survives_each_way_of_copying(kind: type[NekkarError], copied: Callable[[Any], Any]) -> None:
    """Type, words, arguments and attributes, also those that somebody added to it."""
    assert told(copied(error_of(kind))) == told(error_of(kind))


@each_kind
@each_copy
def test_an_error_survives_with_its_notes_and_none_of_its_cause(
    kind: type[NekkarError], copied: Callable[[Any], Any]
) -> None:
    """A note stays; a cause that can't be pickled stands in nobody's way."""
    error = error_of(kind)
    error.__cause__ = Exception(lambda: None)
    error.add_note("while testing")
    assert copied(error).__notes__ == ["while testing"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_an_error_raised_in_a_pools_worker_arrives_as_itself(method: str) -> None:
    """Through a real Pool, in time: an error that can't be unpickled would leave the pool waiting for ever."""
    with multiprocessing.get_context(method).Pool(1) as pool:
        for kind in KINDS:
            with pytest.raises(NekkarError) as caught:
                pool.apply_async(raise_one, (kind,)).get(IN_TIME)
            assert type(caught.value) is kind
            assert {**vars(caught.value), "__cause__": None} == {**vars(error_of(kind)), "__cause__": None}


# Values.

RULES = [Rule("a.com/users/{user}/*", "user-{user}", methods=["POST", "get"]), Rule("*", "all"), Rule("b.com", False)]
TABLE = RuleTable(RULES[:2], limits={"user-{user}": {"rate": "250/minute", "max_wait": 3}, "all": 5})
WINDOW = Window(10, 1.0, 4, 6)
VALUES = [
    Admission("some_id", 3, 1_700_000_000.25, 0.5),
    WINDOW,
    Status("some_id", (WINDOW, Window(300, 60.0, 4, 296)), 1_700_000_000.0, None, 2),
    *RULES,
    TABLE.match("GET", "https://a.com/users/42/x"),
]


@pytest.mark.parametrize("value", VALUES, ids=[type(value).__name__ for value in VALUES])
@each_copy
def test_a_value_survives_each_way_of_copying(value: Any, copied: Callable[[Any], Any]) -> None:
    """Admissions, windows, statuses, rules and matches come back equal, of their own type."""
    twin = copied(value)
    assert (type(twin), twin, repr(twin)) == (type(value), value, repr(value))


@each_copy
def test_a_table_resolves_as_before(copied: Callable[[Any], Any]) -> None:
    """Rules, limits and every match."""
    twin = copied(TABLE)
    assert (twin.rules, twin.limits) == (TABLE.rules, TABLE.limits)
    for method, url in [("GET", "https://a.com/users/42/x"), ("PUT", "https://a.com/users/42/x"), ("GET", "nonsense")]:
        assert twin.match(method, url) == TABLE.match(method, url)
    assert isinstance(twin.match("GET", "https://a.com/users/42/x"), Match)


# What shares a cache.


def file_limiter(folder: Path) -> Nekkar:
    return Nekkar(SqliteCache(folder / "limits.db", timeout=30.0))


@each_copy
def test_limiters_limits_and_adapters_share_as_before(copied: Callable[[Any], Any], tmp_path: Path) -> None:
    """Two calls per hour are two, whoever makes them: limiter, limit, and a session with an adapter."""
    limiter = file_limiter(tmp_path)
    limit = limiter("some_id", "2/hour", spacing=0.001, max_wait=0.5, margin=0.2)
    rules = RuleTable([Rule("*", "some_id")], {"some_id": {"rate": "2/hour", "spacing": 0.001, "margin": 0.2}})
    session = requests.Session()
    session.mount("http://", NekkarAdapter(limiter, rules, max_wait=0))
    limit.acquire()
    twin: Limit = copied(limit)
    assert (repr(twin), repr(copied(limiter))) == (repr(limit), repr(limiter))
    twin.acquire()
    for refused in (limit, twin, copied(limiter)("some_id", "2/hour", spacing=0.001, max_wait=0, margin=0.2)):
        with pytest.raises(WaitTooLong):
            refused.acquire()
    with pytest.raises(requests.Timeout):
        copied(session).get("http://127.0.0.1:1/")


@each_copy
@pytest.mark.parametrize(
    "cache",
    [SqliteCache("limits.db", timeout=2.5), MemcachedCache("h", 1, timeout=2.5), MemcachedCache("/a.sock")],
    ids=repr,
)
def test_a_cache_of_a_server_or_file_keeps_its_address(cache: Any, copied: Callable[[Any], Any]) -> None:
    """A cache comes back with its address and its timeout, and connections of its own."""
    twin = copied(cache)
    assert (type(twin), repr(twin)) == (type(cache), repr(cache))
    pools = [pool_of(each) if isinstance(each, SqliteCache) else servers_of(each) for each in (cache, twin)]
    assert pools[0] is not pools[1]


@pytest.mark.parametrize("way", ["copy", "deepcopy"])
def test_a_copied_memory_cache_is_the_same_one(way: str) -> None:
    """Inside a process nobody copies a limit into two: a copy of a memory cache, or of what holds it, shares it."""
    cache = MemoryCache()
    assert COPIES[way](cache) is cache
    limit = Nekkar(cache)("some_id", 1, period=3600)
    twin = COPIES[way](limit)
    limit.acquire()
    with pytest.raises(WaitTooLong):
        twin.acquire(max_wait=0)


def test_a_fake_clock_survives_with_its_time() -> None:
    """A limiter on a fake clock can be pickled; the copy's clock tells the same time, and goes its own way."""
    clock = FakeClock(start=100, jump=False)
    twin = pickle.loads(pickle.dumps(clock))
    assert (twin.now_us(), twin._jump) == (100_000_000, False)
    twin.advance(1)
    assert (clock.now, twin.now) == (100, 101)
    assert copy.deepcopy(clock) is clock
    assert isinstance(pickle.loads(pickle.dumps(Nekkar(clock=clock)))("some_id", 5).acquire(), Admission)


# Functions.

_here = Nekkar(f"sqlite:///{os.path.abspath(__file__)}.none/never-opened.db")


@_here("some_id", 5)
def limited(number: int) -> int:
    return number


class Worker:
    @_here("some_id", 5)
    def work(self) -> None:
        """Do nothing."""

    @staticmethod
    @_here("some_id", 5)
    async def work_async() -> None:
        """Do nothing."""


@pytest.mark.parametrize("function", [limited, Worker.work, Worker.work_async], ids=["def", "method", "async"])
@each_copy
def test_a_decorated_function_is_pickled_by_its_name(function: Any, copied: Callable[[Any], Any]) -> None:
    """As any function of a module is: the limit is the one that the module makes where it is loaded."""
    assert copied(function) is function


def call_limited(limit: Limit) -> float:
    return limit(limited.__wrapped__)(1)  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_pools_workers_share_a_limit_that_is_sent_to_them(method: str, tmp_path: Path) -> None:
    """Of five calls in two workers, three are admitted; the refusals arrive with their data."""
    limit = file_limiter(tmp_path)("some_id", "3/hour", max_wait=0)
    with multiprocessing.get_context(method).Pool(2) as pool:
        asked = [pool.apply_async(call_limited, (limit,)) for _ in range(5)]
        for one in asked:
            one.wait(IN_TIME)
        assert sum(one.successful() for one in asked) == 3
        refused = next(one for one in asked if not one.successful())
        with pytest.raises(WaitTooLong) as caught:
            refused.get(IN_TIME)
    assert (caught.value.name, caught.value.max_wait) == ("some_id", 0)
    assert 3000 < caught.value.retry_after <= 3700
