"""Errors carry their data and read well (that they survive the way between processes: test_pickling)."""

from __future__ import annotations

import copy
import json
import pickle
from functools import partial

import pytest
from urllib3 import HTTPConnectionPool

from nekkar.core.errors import CacheError, ConfigurationError, CorruptLog, NekkarError, WaitTooLong
from tests.limits.test_pickling import KINDS
from tests.support.calls import is_proportional
from tests.support.internals.core import counted, kind_of, plain, quota, shown, shown_url
from tests.support.internals.http import AttemptRefused


def test_wait_too_long_tells_who_waits_how_long_and_what_to_do() -> None:
    """A refusal is a TimeoutError with the limit's name, the wait and its bound, as text and as data."""
    error = WaitTooLong("some_id", 12.5, 3.0)
    assert (error.name, error.retry_after, error.max_wait) == ("some_id", 12.5, 3.0)
    assert str(error) == (
        "limit 'some_id': the next slot is 12.500 s away, and max_wait is 3 s;"
        " retry after 12.500 s or allow a longer wait"
    )
    assert isinstance(error, TimeoutError)


def test_wait_too_long_after_a_wait_says_so() -> None:
    """A call whose wait has passed is not told that a slot in time is too far away."""
    assert str(WaitTooLong("some_id", 0.013, 0.5)) == (
        "limit 'some_id': no slot comes within max_wait, 0.5 s; the next is 0.013 s away;"
        " retry after 0.013 s or allow a longer wait"
    )


@pytest.mark.parametrize(
    ("kind", "bases"),
    [
        (ConfigurationError, (NekkarError, ValueError)),
        (CacheError, (NekkarError,)),
        (CorruptLog, (CacheError,)),
        (WaitTooLong, (NekkarError, TimeoutError)),
    ],
)
def test_every_error_can_be_caught_as_what_it_is(kind: type[Exception], bases: tuple[type[Exception], ...]) -> None:
    """All are NekkarErrors; a bad argument is also a ValueError, a long wait also a TimeoutError."""
    assert all(issubclass(kind, base) for base in bases)


def test_long_values_are_cut_in_messages() -> None:
    """A message shows both ends of a long value, and no more than a line of it."""
    text = "a" * 1000 + "tail"
    assert len(shown(text)) <= 80
    assert shown(text).startswith("'aaa")
    assert shown(text).endswith("tail'")


def test_a_number_too_large_for_python_to_print_is_still_shown() -> None:
    """No value is so large that its error can't be told."""
    assert shown(10**5000) == "<int too large to show>"
    assert shown([10**5000]) == "<list too large to show>"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_an_error_is_rebuilt_from_its_arguments(kind: type[NekkarError]) -> None:
    """As task queues do it: they send the class and ``args``, in JSON, and call the one with the other."""
    error = kind("some_id", 12.5, 3.0) if issubclass(kind, WaitTooLong) else kind("no answer within 1 s")
    for rebuilt in (kind(*error.args), kind(*json.loads(json.dumps(error.args)))):
        assert (str(rebuilt), repr(rebuilt), rebuilt.args) == (str(error), repr(error), error.args)
        assert vars(rebuilt) == vars(error)
        assert getattr(rebuilt, "errno", None) is None, "an OSError would take three arguments for its own"


def test_what_urllib3_raises_is_rebuilt_too() -> None:
    """From its cause, which is its argument: the pool stays where it is."""
    with HTTPConnectionPool("127.0.0.1") as pool:
        error = AttemptRefused(WaitTooLong("some_id", 12.5, 3.0), pool)
    for rebuilt in (AttemptRefused(*error.args), pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
        assert str(rebuilt) == str(error) == str(error.error)
        assert rebuilt.error.args == ("some_id", 12.5, 3.0)


@pytest.mark.parametrize(
    ("value", "text"),
    [(5, "5"), (60.0, "60"), (0.05, "0.05"), (2_592_000.0, "2592000"), (1_234_567.5, "1234567.5"), (1e-7, "1e-07")],
)
def test_no_digit_of_a_number_is_lost(value: float, text: str) -> None:
    """Before the point, however many there are: a month is not 2.592e+06 s."""
    assert plain(value) == text


def test_nouns_go_with_their_counts() -> None:
    """One call, and not 1 calls."""
    assert [counted(count, "call") for count in (0, 1, 2)] == ["0 calls", "1 call", "2 calls"]


def test_a_month_is_told_in_full() -> None:
    """In the terms of a limit and in what refuses a call."""
    assert str(quota("5000/month")) == "5000 per 2592000 s"
    assert "max_wait is 1234567 s" in str(WaitTooLong("some_id", 2e6, 1_234_567.0))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("https://me:pw@host/a?token=pw&b=#c", "'https://***@host/a?token=***&b=#c'"),
        (["//me@host", "a?b=c"], "['//***@host', 'a?b=***']"),
        ({"https://me:p/w@host/a": "https://x.y/joe@z.w"}, "{'https://***@host/a': 'https://x.y/joe@z.w'}"),
        ("https://me:p w@host/a b", "'https://***@host/a b'"),
        ("https://joe@z.w:p w@host/a", "'https://***@host/a'"),
        ("https://my user:p' w\"/@x@host", "'https://***@host'"),
        (["https://me:p w@host", "joe@z.w"], "['https://***@host', 'joe@z.w']"),
        ("https://me:12 w@host", "'https://***@host'"),
        ("https://x.y:80/a b@c", "'https://x.y:80/***@c'"),
        ("https://x.y/a b:c@d", "'https://x.y/a b:c@d'"),
        ("https://[::1]:8080/a b@c", "'https://[::1]:8080/a b@c'"),
        ("https://x.y and https://me:pw@host", "'https://x.y and https://***@host'"),
        ("me@host", "'me@host'"),
        ("10/second; 300/minute", "'10/second; 300/minute'"),
    ],
)
def test_a_url_is_shown_without_its_user_and_the_values_of_its_query(value: object, text: str) -> None:
    """They may be passwords and tokens. Everything else is shown as it is."""
    assert shown(value) == text


@pytest.mark.parametrize("part", ["//a:b", "//a b:", "//", "a:", "@", "'", "//a:b@"])
def test_a_long_text_is_shown_in_time_proportional_to_its_length(part: str) -> None:
    assert is_proportional(lambda size: partial(shown, part * size), 300, 30_000)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("https://{host}:80/users/{user}/*", "https://{host}:80/users/{user}/*"),
        ("*.example.com/a", "*.example.com/a"),
        ("https://[::1]:8080/users/@me", "https://[::1]:8080/users/@me"),
        ("https://x.y:80/joe@z.w", "https://x.y:80/***@z.w"),
        ("x.y?a=1", "x.y?a=***"),
        ("https://x.y:port/a", "https://x.y:***/a"),
    ],
)
def test_a_url_is_shown_as_it_is_but_for_what_stands_before_an_at_or_in_place_of_a_port(url: str, text: str) -> None:
    """A host, its port and its path tell what is meant, unless they may be a part of a password."""
    assert shown_url(url) == repr(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("s3cr3t", "str"),
        (b"s3cr3t", "bytes"),
        (5, "int 5"),
        (True, "bool True"),
        (None, "None"),
        (dict, "class dict"),
    ],
)
def test_of_a_value_in_a_wrong_place_its_type_is_shown(value: object, text: str) -> None:
    """And the value where it is a number."""
    assert kind_of(value) == text
