"""A rule: requests whose URL fits a pattern fall under a limit."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from nekkar.core.errors import ConfigurationError, shown
from nekkar.rules.names import read_template
from nekkar.rules.patterns import Pattern, read_pattern

_METHOD = re.compile(r"[A-Za-z][A-Za-z_-]*")
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]|data:|blob:")  # the last two stand in a browser's logs


@dataclass(frozen=True, slots=True)
class Rule:
    """Requests whose URL fits ``url``, and whose method is among ``methods``, fall under ``limit``.

    ``url`` is a pattern ``[scheme://]host[:port][/path][?query]``, see ``nekkar.rules.patterns``. ``limit`` is a
    limit's name, or False for explicitly unlimited. ``methods`` ignores case (None: any) and is kept as a sorted tuple.
    Raises ConfigurationError for what can't be a rule in any table.
    """

    url: str
    limit: str | Literal[False]
    methods: Iterable[str] | None = field(default=None, kw_only=True)
    pattern: Pattern = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            methods = read_methods(self.methods)
            check_name(self.limit)
        except ConfigurationError as error:
            raise ConfigurationError(f"url {shown(self.url)}: {error}") from None
        object.__setattr__(self, "pattern", read_pattern(self.url, methods))
        object.__setattr__(self, "methods", methods and tuple(sorted(methods)))


def read_methods(methods: object) -> frozenset[str] | None:
    """Return methods in upper case, None for any; ConfigurationError for what are none."""
    if methods is None:
        return None
    try:
        names = listed(methods, "['GET', 'POST'], or None for any")
    except ConfigurationError as error:
        raise ConfigurationError(f"methods {error}") from None
    if not names:
        raise ConfigurationError("methods is empty, so the rule would never be used; give None for any")
    for name in names:
        if not isinstance(name, str) or not _METHOD.fullmatch(name):
            raise ConfigurationError(f"{shown(name)} in methods is no method; give names such as 'GET'")
    return frozenset(name.upper() for name in names)


def check_request(method: str, url: str) -> None:
    """Raise ConfigurationError for what a person wrote that is not a method and a URL, such as the two in turn.

    Rules take anything, and so would call it unlimited.
    """
    if not _METHOD.fullmatch(method):
        what = "is a URL, not a method" if "://" in method or "." in method or "/" in method else "is not a method"
        raise ConfigurationError(
            f"method {shown(method)} {what}; give METHOD URL, such as GET https://api.example.com/a"
        )
    if not _ABSOLUTE.match(url):
        what = "is a method, not a URL" if url.upper() in _METHODS else "is not a URL with scheme and host"
        raise ConfigurationError(f"url {shown(url)} {what}; give METHOD URL, such as GET https://api.example.com/a")


def check_name(limit: object) -> None:
    """Raise ConfigurationError for what is neither a limit's name nor False."""
    if limit is not False:
        read_template(limit)


def listed(values: object, example: str) -> list[Any]:
    """Return values as a list; ConfigurationError, with what would be one, for what are none."""
    if isinstance(values, str | Mapping) or not isinstance(values, Iterable):
        raise ConfigurationError(f"{shown(values)} is not a list; give one such as {example}")
    return list(values)
