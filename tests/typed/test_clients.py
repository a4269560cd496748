"""What wraps or returns a client of another library has the types of that library."""

from __future__ import annotations

from typing import assert_type

import httpx
import httpx2
import pytest
import requests

import nekkar.httpx
import nekkar.httpx2
import nekkar.requests
from nekkar import Explanation, Match, Nekkar, Rule, RuleTable
from nekkar.core.events import Listening
from nekkar.progress import Progress
from nekkar.testing import FakeClock

limiter = Nekkar(clock=FakeClock())
rules = RuleTable([Rule("api.example.com", "api"), Rule("*", False, methods=["GET"])], limits={"api": "5/second"})


class Session(requests.Session):
    """A session of a user's own."""


class Client(httpx.Client):
    """A client of a user's own."""


def test_limit_returns_the_callers_own_type() -> None:
    """A subclass of a session or client stays one, and its attributes are known."""
    assert_type(nekkar.requests.limit(Session(), limiter, rules), Session).close()
    assert_type(nekkar.httpx.limit(Client(), limiter, rules), Client).close()
    assert_type(nekkar.httpx.limit(httpx.AsyncClient(), limiter, rules, max_wait=3), httpx.AsyncClient)
    assert_type(nekkar.httpx2.limit(httpx2.Client(), limiter, rules), httpx2.Client).close()
    assert_type(nekkar.httpx2.limit(httpx2.AsyncClient(), limiter, rules), httpx2.AsyncClient)


def test_a_client_of_another_library_is_no_client() -> None:
    """A checker says so, before it is run."""
    with pytest.raises(
        ValueError, match=r"must be an httpx\.Client.*got Client of httpx2; nekkar\.httpx2\.limit takes it"
    ):
        nekkar.httpx.limit(httpx2.Client(), limiter, rules)  # type: ignore[type-var]
    with pytest.raises(ValueError, match=r"must be a requests\.Session"):
        nekkar.requests.limit(httpx.Client(), limiter, rules)  # type: ignore[type-var]


def test_adapters_and_transports_go_where_the_library_takes_its_own() -> None:
    """``mount`` and ``transport=`` take them, with the sync one for sync clients and the async one for async."""
    session = requests.Session()
    session.mount("https://", nekkar.requests.NekkarAdapter(limiter, rules, pool_maxsize=3))
    httpx.Client(transport=nekkar.httpx.NekkarTransport(limiter, rules, max_wait=3)).close()
    httpx.AsyncClient(transport=nekkar.httpx.AsyncNekkarTransport(limiter, rules))
    httpx2.Client(transport=nekkar.httpx2.NekkarTransport(limiter, rules, httpx2.HTTPTransport())).close()
    httpx2.AsyncClient(transport=nekkar.httpx2.AsyncNekkarTransport(limiter, rules))

    def mixed() -> httpx.Client:
        return httpx.Client(transport=nekkar.httpx.AsyncNekkarTransport(limiter, rules))  # type: ignore[arg-type]

    assert callable(mixed), "mypy would warn if it took this ignore for useless"


def test_errors_are_of_both_trees() -> None:
    """What handlers of the library catch is nekkar's error too, with its attributes."""

    def caught(one: requests.Timeout, two: httpx.TimeoutException, three: httpx2.TimeoutException) -> None:
        assert {type(error).__name__ for error in (one, two, three)} == {"RequestWaitTooLong"}

    one = nekkar.requests.RequestWaitTooLong("api", 2.0, 1.0)
    two = nekkar.httpx.RequestWaitTooLong("api", 2.0, 1.0)
    three = nekkar.httpx2.RequestWaitTooLong("api", 2.0, 1.0)
    caught(one, two, three)
    assert assert_type([one.retry_after, two.retry_after, three.retry_after], list[float]) == [2.0] * 3


def test_a_table_tells_names_matches_and_reasons() -> None:
    """``resolve`` gives a name or None, ``match`` the settings, ``explain`` why."""
    assert assert_type(rules.resolve("GET", "https://api.example.com/a"), str | None) == "api"
    assert assert_type(rules.match("GET", httpx.URL("https://x.com"), httpx.Headers()), Match | None) is None
    assert assert_type(rules.explain("GET", "https://x.com"), Explanation).number == 1
    assert assert_type(rules.rules, tuple[Rule, ...])[0].url == "api.example.com"


def test_a_listener_is_any_callable() -> None:
    """A progress display is one; what is returned ends it."""
    with assert_type(limiter.listen(Progress()), Listening):
        pass
