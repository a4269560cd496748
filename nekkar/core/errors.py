"""What can go wrong, and what each error tells.

Every error is a ``NekkarError``. Each names its subject, the value, the bound and the remedy in its
message, carries the data as attributes too, and survives pickling (a multiprocessing pool hands
errors from its workers back pickled).
"""

from __future__ import annotations

from typing import Any

__all__ = ["CacheError", "ConfigurationError", "CorruptLog", "NekkarError", "WaitTooLong"]


def shown(value: object) -> str:
    """Return ``repr(value)``, cut where it is too long for a message."""
    try:
        text = repr(value)
    except ValueError:  # an int of over 4,300 digits has no repr
        text = f"<{type(value).__name__} too large to show>"
    return text if len(text) <= 80 else f"{text[:60]}…{text[-15:]}"


class NekkarError(Exception):
    """The base of all errors that nekkar raises on purpose."""


class ConfigurationError(NekkarError, ValueError):
    """A rate, a rule, a cache or an argument that can't work; raised where it is written, not later."""


class CacheError(NekkarError):
    """The cache did not do its part: away, too slow, or not telling what nekkar wrote.

    No slot was admitted on a guess. The call may be repeated.
    """


class CorruptLog(CacheError):
    """The value under a limit's key is not a hit log: cut short, altered, another program's, or of absurd times.

    It is left as it is: who knows whose it is. ``limit.reset()``, or deleting the key, starts the limit afresh.
    """


class WaitTooLong(NekkarError, TimeoutError):
    """The slot lies further off than the caller would wait. No slot stays booked.

    ``name``: the limit's. ``retry_after``: seconds until a slot is expected, counted from the refusal.
    ``max_wait``: the bound that the caller set, in seconds.
    """

    def __init__(self, name: str, retry_after: float, max_wait: float) -> None:
        super().__init__(
            f"limit {name!r}: the next slot is {retry_after:.3f} s away, and max_wait is {max_wait:g} s;"
            f" retry after {retry_after:.3f} s or allow a longer wait"
        )
        self.name = name
        self.retry_after = retry_after
        self.max_wait = max_wait

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name, self.retry_after, self.max_wait), vars(self)  # with notes, and what adapters add


def missing(module: str, extra: str, error: ModuleNotFoundError) -> ModuleNotFoundError:
    """Return the error of a module that can't be imported without an extra of nekkar's, to be raised from ``error``."""
    return ModuleNotFoundError(
        f"{module} needs {error.name}, which is not installed; run: pip install 'nekkar[{extra}]'",
        name=error.name,
        path=error.path,
    )


def copied(error: CacheError) -> CacheError:
    """Return an error of the same type and words for another thread to raise, with ``error`` as its cause."""
    copy = type(error).__new__(type(error), *error.args)  # whatever the signature of its __init__
    copy.args = error.args
    copy.__dict__.update(error.__dict__)
    copy.__cause__ = error
    return copy
