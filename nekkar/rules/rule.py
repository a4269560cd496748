"""A rule: requests whose URL fits a pattern fall under a limit. And what a table tells of one that matched."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any, Literal

from nekkar.core.errors import ConfigurationError, shown
from nekkar.rules.names import Headers, Template, read_template
from nekkar.rules.patterns import Pattern, Place, captured, read_pattern

_METHOD = re.compile(r"[A-Za-z][A-Za-z_-]*")


@dataclass(frozen=True, slots=True)
class Rule:
    """Requests whose URL fits ``url``, and whose method is among ``methods``, fall under ``limit``.

    ``limit`` is a limit's name, or False for explicitly unlimited. ``methods`` ignores case (None: any) and
    is kept as a sorted tuple. Raises ConfigurationError for what can't be a rule in any table.
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


@dataclass(frozen=True, slots=True)
class Match:
    """The limit that a request falls under: ``limiter(match.name, match.rate_limit, **match.options)``.

    Durations are in seconds, as the table gives them; None (for ``spacing`` 0) is not given.
    """

    name: str
    rule: Rule
    rate_limit: int | str
    period: float | None = None
    spacing: float | str = 0.0
    max_wait: float | None = None
    margin: float | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments that the table gives for this limit, and no others."""
        given = {"period": self.period, "max_wait": self.max_wait, "margin": self.margin}
        options: dict[str, Any] = {option: value for option, value in given.items() if value is not None}
        return options | {"spacing": self.spacing} if self.spacing != 0 else options


@dataclass(frozen=True, slots=True)
class Unnamed:
    """A match whose name depends on the request: on captures of the URL, on headers, or both.

    ``captured``: the URL's captures, once it is known.
    """

    match: Match
    template: Template
    places: tuple[Place, ...]
    captured: dict[str, str] = field(default_factory=dict)

    def found(self, request: Pattern) -> Match | Unnamed:
        """Return the request's match; one that headers name stays unnamed."""
        known = captured(self.places, request)
        if self.template.by_header:
            return replace(self, captured=known)
        return self._match(self.template.fill(known))

    def named(self, headers: Headers | None) -> Match:
        """Return the match of a request with these headers."""
        return self._match(self.template.fill(self.captured | self.template.hashes(headers)))

    def _match(self, name: str) -> Match:
        own = self.match
        return Match(name, own.rule, own.rate_limit, own.period, own.spacing, own.max_wait, own.margin)


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


def check_name(limit: object) -> None:
    """Raise ConfigurationError for what is neither a limit's name nor False."""
    if limit is not False:
        read_template(limit)


def listed(values: object, example: str) -> list[Any]:
    """Return values as a list; ConfigurationError, with what would be one, for what are none."""
    if isinstance(values, str | Mapping) or not isinstance(values, Iterable):
        raise ConfigurationError(f"{shown(values)} is not a list; give one such as {example}")
    return list(values)


def nearest(word: str, words: Iterable[str]) -> str:
    """Return a question with the nearest of some words, or an empty text where none is near."""
    near = get_close_matches(word[:200], words, 1)
    return f"did you mean {near[0]!r}?" if near else ""


def unknown(what: str, word: object, words: Iterable[str], remedy: str) -> str:
    """Say that there is no such thing of that name, with the nearest name, or else the remedy."""
    near = nearest(str(word), words)
    return f"no {what} named {shown(word)}" + (f" ({near})" if near else f"; {remedy}")
