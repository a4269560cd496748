"""Errors carry their data, read well, and survive the way between processes."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor

import pytest

from nekkar.core.codec import decode
from nekkar.core.errors import CacheError, ConfigurationError, CorruptLog, NekkarError, WaitTooLong, shown
from nekkar.core.rate import quota

ERRORS = [
    NekkarError("something went wrong"),
    ConfigurationError("rate '5' is not a rate; expected COUNT/UNIT"),
    CacheError("memcached localhost:11211: no answer within 1 s"),
    CorruptLog("cut short at 3 bytes"),
    WaitTooLong("some_id", 12.5, 3.0),
    WaitTooLong("ünïcode 'and quotes'", 0.0, 0.0),
]
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def data(error: BaseException) -> tuple[type, str, tuple[object, ...], dict[str, object]]:
    return type(error), str(error), error.args, vars(error)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("error", ERRORS, ids=str)
def test_pickling_keeps_type_message_and_attributes(error: NekkarError, protocol: int) -> None:
    """An error that crosses between processes arrives as it was raised."""
    assert data(pickle.loads(pickle.dumps(error, protocol))) == data(error)


@pytest.mark.parametrize("error", ERRORS, ids=str)
def test_copies_keep_type_message_and_attributes(error: NekkarError) -> None:
    """An error can be copied, as tools that collect errors do."""
    assert data(copy.copy(error)) == data(error)
    assert data(copy.deepcopy(error)) == data(error)


class AdapterTimeout(WaitTooLong, ConnectionError):
    """As an adapter makes one: also what the users of its library already catch."""


def test_pickling_keeps_the_type_of_an_adapters_subclass() -> None:
    """An error that is also a foreign library's error is still both after pickling."""
    error = pickle.loads(pickle.dumps(AdapterTimeout("some_id", 12.5, 3.0)))
    assert isinstance(error, ConnectionError)
    assert data(error) == data(AdapterTimeout("some_id", 12.5, 3.0))


def test_errors_come_back_from_a_pool_of_processes() -> None:
    """A worker's error reaches its parent whole, raised or returned."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        refused, corrupt = pool.submit(quota, "5/fortnight"), pool.submit(decode, b"nkk")
        returned = pool.submit(WaitTooLong, "some_id", 12.5, 3.0)
        with pytest.raises(ConfigurationError, match="'fortnight'"):
            refused.result()
        with pytest.raises(CorruptLog, match="3 bytes"):
            corrupt.result()
        assert data(returned.result()) == data(WaitTooLong("some_id", 12.5, 3.0))


def test_wait_too_long_tells_who_waits_how_long_and_what_to_do() -> None:
    """A refusal is a TimeoutError with the limit's name, the wait and its bound, as text and as data."""
    error = WaitTooLong("some_id", 12.5, 3.0)
    assert (error.name, error.retry_after, error.max_wait) == ("some_id", 12.5, 3.0)
    assert str(error) == (
        "limit 'some_id': the next slot is 12.500 s away, and max_wait is 3 s;"
        " retry after 12.500 s or allow a longer wait"
    )
    assert isinstance(error, TimeoutError)


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
