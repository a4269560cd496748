"""A rule: requests whose URL fits a pattern fall under a limit, or under several at once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from nekkar.core.errors import ConfigurationError, shown, shown_url
from nekkar.rules.costs import Cost, read_cost, read_headroom
from nekkar.rules.names import read_template
from nekkar.rules.patterns import Pattern, read_pattern

_METHOD = re.compile(r"[A-Za-z][A-Za-z_-]*")
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]|data:|blob:")  # a HAR file of a browser has the last two


@dataclass(frozen=True, slots=True, repr=False)
class Rule:
    """Requests whose URL fits ``url``, and whose method is among ``methods``, fall under ``limit``.

    ``url`` is a pattern ``[scheme://]host[:port][/path][?query]``, see ``nekkar.rules.patterns``. ``limit`` is a
    limit's name, a list of names (all must admit the request; kept as a tuple), or False for explicitly unlimited.
    ``methods`` ignores case (None: any) and is kept as a sorted tuple. ``cost``: what a request costs, a whole number
    of calls or a mapping of units to hits; a cost given with the call overrides it. ``headroom``: from 0 to below 1,
    the part of each window that such a request leaves free; it overrides the limit's own.
    Raises ConfigurationError for values that are invalid in any table.
    """

    url: str
    limit: str | Iterable[str] | Literal[False]
    methods: Iterable[str] | None = field(default=None, kw_only=True)
    cost: Cost | None = field(default=None, kw_only=True, hash=False)
    headroom: float | None = field(default=None, kw_only=True)
    pattern: Pattern = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            methods = read_methods(self.methods)
            limit = read_limit(self.limit)
            cost = None if self.cost is None else read_cost(self.cost)
            headroom = None if self.headroom is None else read_headroom(self.headroom)
        except ConfigurationError as error:
            raise ConfigurationError(f"url {shown_url(self.url)}: {error}") from None
        object.__setattr__(self, "pattern", read_pattern(self.url, methods))
        object.__setattr__(self, "methods", methods and tuple(sorted(methods)))
        object.__setattr__(self, "limit", limit)
        object.__setattr__(self, "cost", cost)
        object.__setattr__(self, "headroom", headroom)

    def __repr__(self) -> str:
        more = {name: getattr(self, name) for name in ("cost", "headroom")}
        given = {"url": self.url, "limit": self.limit, "methods": self.methods}
        given |= {name: value for name, value in more.items() if value is not None}
        return f"Rule({', '.join(f'{name}={value!r}' for name, value in given.items())})"

    @property
    def limits(self) -> tuple[str, ...]:
        """The limits as the table's ``limits`` spells them; none where ``limit`` is False."""
        return names_of(self.limit)


def read_methods(methods: object) -> frozenset[str] | None:
    """Return methods in upper case, None for any method; raise ConfigurationError for invalid ones."""
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
            raise ConfigurationError(f"{shown(name)} in methods is not a method; give names such as 'GET'")
    return frozenset(name.upper() for name in names)


def check_request(method: str, url: str) -> None:
    """Raise ConfigurationError unless a person wrote a method and a URL; the two may be in the wrong order.

    A rule table takes any text, and would call such a request unlimited.
    """
    if not _METHOD.fullmatch(method):
        what = "is a URL, not a method" if "://" in method or "." in method or "/" in method else "is not a method"
        raise ConfigurationError(
            f"method {shown_url(method)} {what}; give METHOD URL, such as GET https://api.example.com/a"
        )
    if not _ABSOLUTE.match(url):
        what = "is a method, not a URL" if url.upper() in _METHODS else "is not a URL with scheme and host"
        raise ConfigurationError(f"url {shown_url(url)} {what}; give METHOD URL, such as GET https://api.example.com/a")


def read_limit(limit: object) -> str | tuple[str, ...] | Literal[False]:
    """Return a rule's limit, a list of names as a tuple; raise ConfigurationError for others."""
    if limit is False:
        return False
    if isinstance(limit, str | Mapping) or not isinstance(limit, Iterable):
        return read_template(limit).text
    names = tuple(read_template(name).text for name in limit) if not isinstance(limit, bytes) else ()
    if not names:
        raise ConfigurationError(f"limit {shown(limit)} names no limit; give a name, or False for none")
    if twice := next((name for at, name in enumerate(names) if name in names[:at]), None):
        raise ConfigurationError(f"limit {shown(list(names))} names {shown(twice)} twice; leave one out")
    return names


def names_of(limit: Any) -> tuple[str, ...]:
    """Return the names in a rule's limit."""
    return () if limit is False else (limit,) if isinstance(limit, str) else tuple(limit)


def listed(values: object, example: str) -> list[Any]:
    """Return values as a list; raise ConfigurationError, with ``example``, for others."""
    if isinstance(values, str | Mapping) or not isinstance(values, Iterable):
        raise ConfigurationError(f"{shown(values)} is not a list; give one such as {example}")
    return list(values)
