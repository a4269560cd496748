"""Errors carry their data and read well (that they survive the way between processes: test_pickling)."""

from __future__ import annotations

import pytest

from nekkar.core.errors import CacheError, ConfigurationError, CorruptLog, NekkarError, WaitTooLong, shown


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
