"""What can go wrong, and what each error tells.

Every error is a ``NekkarError``. Rules:

- A message names its subject, the value, the bound and the remedy; the data are attributes too.
- ``type(error)(*error.args)`` is the same error, and ``args`` are strings and numbers: task queues (Celery, taskiq)
  send those as JSON and rebuild the error from them. Multiprocessing pools pickle it.
- No message holds a secret. A value goes into it through one of three functions: ``shown`` for what a user names or
  counts, ``kind_of`` for an object in a wrong place, which may be anything, and ``redacted`` (core/cache/redaction.py)
  for the URL of a cache.
"""

from __future__ import annotations

import re
from typing import Any

__all__ = ["CacheError", "ConfigurationError", "CorruptLog", "NekkarError", "WaitTooLong"]

# In a repr, from behind its scheme to a blank or a quote; but behind a ":" in place of a port, which a password may
# follow, to the last "@", if there is one. A quote that ends a text in a list or a dict has a sign behind it.
_URL = re.compile(r"//(?:[^/?#'\"\[]{0,250}:(?!//)(?:[^'\"]|['\"](?![,:)\]}])){0,250}@)?[^\s'\"]*")
_SCHEME = re.compile(r"(?:[\w.+-]*:)?//")
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^\s/?#:@\\%]+)(?::\d{1,5})?(?=[/?#]|\Z)")  # and perhaps a port
_AT = re.compile(r"(?<!/)(?:@|%40)")  # but for the first character of a segment, as in /users/@me
_QUERY_VALUE = re.compile(r"([?&;][^=&;#\s'\"]*=)[^&;#\s'\"]+")


def shown(value: object) -> str:
    """Return ``repr(value)``, cut where it is too long for a message.

    Of a URL in it the user info and the values of its query are left out: they may be passwords and tokens.
    """
    try:
        text = repr(value)
    except ValueError:  # an int of over 4,300 digits has no repr
        text = f"<{type(value).__name__} too large to show>"
    text = _QUERY_VALUE.sub(r"\1***", _URL.sub(lambda url: without_user_info(url[0]), text))
    return text if len(text) <= 80 else f"{text[:60]}…{text[-15:]}"


def shown_url(url: object) -> str:
    """Return the URL of a request or of a rule as ``shown`` does; it is one, even where its scheme is missing."""
    return shown(without_user_info(url) if isinstance(url, str) else url)


def without_user_info(url: str) -> str:
    """Return a URL without a password, however it is misspelt.

    A password may have any character, and the scheme, a slash or the "@" may be missing. So all before the last "@" is
    left out, but for what can only be a host with its port; and what stands in place of a port. Behind "//" and a host
    with a dot, an "@" is a part of the path.
    """
    scheme = found[0] if (found := _SCHEME.match(url)) else ""
    rest = url[len(scheme) :]
    host = found[0] if (found := _HOST.match(rest)) else ""
    if scheme and "." in host and ":" not in host:
        return url
    if ends := [at.start() for at in _AT.finditer(rest)]:
        return f"{scheme}{host}{'/' if host else ''}***{rest[ends[-1] :]}"
    before, colon, after = rest.partition(":")
    if host or not colon or not scheme or set(before) & set("/?#["):
        return url
    return f"{scheme}{before}:***{after[len(re.split('[/?#]', after)[0]) :]}"


def plain(number: float) -> str:
    """Return a number with all its digits before the point, and up to six after it: ``:g`` has six in all."""
    text = f"{number:.6f}".rstrip("0").rstrip(".")
    return text if float(text) == number or abs(number) >= 1e-6 else f"{number:g}"


def counted(count: int, what: str) -> str:
    """Return a count and its noun, such as "1 call" or "2 calls"."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def kind_of(value: object) -> str:
    """Return the type of a value in a wrong place, such as ``str``; with the value if it is a number or None."""
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"class {value.__name__}"
    return f"{type(value).__name__} {shown(value)}" if isinstance(value, int | float) else type(value).__name__


def is_raised_in(error: BaseException, *modules: str) -> bool:
    """Return whether each frame of an error's traceback, from where it was caught, is in these modules or packages.

    A signal handler may raise the same kind of error between any two of their steps. Written in Python, it has a frame
    in a module of its own.
    """
    step = error.__traceback__
    while step and f"{step.tb_frame.f_globals.get('__name__')}.".startswith(tuple(f"{name}." for name in modules)):
        step = step.tb_next
    return step is None


class NekkarError(Exception):
    """The base of all errors that nekkar raises on purpose."""


class ConfigurationError(NekkarError, ValueError):
    """A rate, a rule, a cache or an argument that can't work; raised where it is written, not later."""


class CostNotGiven(ConfigurationError):
    """A call whose cost nothing gives in a unit that its limit counts. Not public: users catch ConfigurationError."""


class CacheError(NekkarError):
    """The cache did not do its part: away, too slow, or not telling what nekkar wrote.

    No slot was admitted on a guess. The call may be repeated.
    """


class CorruptLog(CacheError):
    """The value under a limit's key is not a valid state: cut short, altered, another program's, or with absurd times.

    It is left unchanged, since it may belong to another program. ``limit.reset()``, or deleting the key, starts the
    limit afresh.
    """


class WaitTooLong(NekkarError, TimeoutError):
    """The slot is further away than ``max_wait``. No slot stays booked.

    ``name``: the limit's. ``retry_after``: seconds until a slot is expected, counted from the refusal.
    ``max_wait``: the bound that the caller set, in seconds.
    """

    def __init__(self, name: str, retry_after: float, max_wait: float) -> None:
        self.args = name, retry_after, max_wait  # not by super(): OSError takes three for an errno, a text and a file
        self.name = name
        self.retry_after = retry_after
        self.max_wait = max_wait

    def __str__(self) -> str:
        away, longest = f"{self.retry_after:.3f} s", f"{plain(self.max_wait)} s"
        if self.retry_after > self.max_wait:
            what = f"the next slot is {away} away, and max_wait is {longest}"
        else:  # refused after a part of its wait, or at its end: other processes were faster
            what = f"no slot comes within max_wait, {longest}; the next is {away} away"
        return f"limit {self.name!r}: {what}; retry after {away} or allow a longer wait"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name, self.retry_after, self.max_wait), vars(self)  # with notes, and what adapters add


def missing(module: str, extra: str, error: ModuleNotFoundError) -> ModuleNotFoundError:
    """Return the error of a module that can't be imported without an extra of nekkar's, to be raised from ``error``."""
    return ModuleNotFoundError(
        f"{module} needs {error.name}, which is not installed; run: pip install 'nekkar[{extra}]'",
        name=error.name,
        path=error.path,
    )


def copy_error(error: Exception) -> Exception:
    """Return an error of the same type and words for another thread to raise, with ``error`` as its cause."""
    copy = type(error).__new__(type(error), *error.args)  # whatever the signature of its __init__
    copy.args = error.args
    copy.__dict__.update(error.__dict__)
    copy.__cause__ = error
    return copy
