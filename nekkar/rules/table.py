"""Which limit a request falls under: rules, tried in order, the first match wins, no match is unlimited.

- A rule is a pattern (see ``patterns``), the name of a limit, and perhaps some methods. ``limit=False`` is
  explicitly unlimited.
- A limit's name may hold captures, as in ``user-{user}``: each value is then a limit of its own. The name in
  the rule is spelled as in ``limits``.
- A table is checked when it is built: an unknown limit, a bad rate, a capture the pattern lacks, a rule
  that an earlier one hides, a template that can spell another limit's name. Errors begin with
  ``rules[3]:`` or ``limits['name']:``, counted from 0.
- Looking a request up costs about the same in a table of ten rules and of ten thousand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, Literal

from nekkar.core.errors import ConfigurationError, shown
from nekkar.core.rate import micros, quota
from nekkar.rules.names import Template, clash, read_template
from nekkar.rules.patterns import Pattern, read_pattern, read_request
from nekkar.rules.routes import Index

CACHED = 1024
LONGEST_CACHED = 2048

_METHOD = re.compile(r"[A-Za-z][A-Za-z_-]*")
_SETTINGS = ("rate", "period", "spacing", "max_wait", "margin")


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
        methods = None if self.methods is None else _methods(self.methods, f"url {shown(self.url)}")
        object.__setattr__(self, "pattern", read_pattern(self.url, methods))
        object.__setattr__(self, "methods", methods and tuple(sorted(methods)))
        if self.limit is not False:
            _template(self.limit, f"url {shown(self.url)}")


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


class RuleTable:
    """Rules with the limits that they name, checked as a whole.

    ``limits``: each a whole number of calls per 60 s, a rate such as ``"250/minute"``, or a dict with ``rate``
    and any of ``period``, ``spacing``, ``max_wait``, ``margin``. Immutable, shared by threads, picklable.
    """

    __slots__ = ("_find_cached", "_index", "_templates", "limits", "rules")

    def __init__(self, rules: Iterable[Rule], limits: Mapping[str, Any] | None = None) -> None:
        self.rules: tuple[Rule, ...] = tuple(_listed(rules, "rules", "[Rule(url, limit), ...]"))
        self.limits = {name: _settings(name, value) for name, value in _mapped(limits).items()}
        self._templates = {name: _template(name, f"limits[{shown(name)}]") for name in self.limits}
        self._index = Index()
        for number, rule in enumerate(self.rules):
            self._add(number, rule)
        self._check_names()
        self._find_cached = lru_cache(CACHED)(self._find)

    def resolve(self, method: str, url: object) -> str | None:
        """Return the name of the request's limit, or None if it is unlimited."""
        match = self.match(method, url)
        return match.name if match else None

    def match(self, method: str, url: object) -> Match | None:
        """Return the request's limit with its settings, or None if it is unlimited.

        Takes any URL, and time in proportion to its length; what is no URL falls under what can be read of it.
        """
        text = url.decode("utf-8", "surrogateescape") if isinstance(url, bytes) else str(url)
        find = self._find_cached if len(text) <= LONGEST_CACHED else self._find
        return find(str(method).upper(), text)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.rules, self.limits)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self.rules)} rules, {len(self.limits)} limits>"

    def _find(self, method: str, url: str) -> Match | None:
        request = read_request(method, url)
        number = self._index.first(request)
        if number is None or not (limit := self.rules[number].limit):
            return None
        rule, settings = self.rules[number], self.limits[limit]
        name = self._templates[limit].fill(rule.pattern.captured(request))
        options = {option: value for option, value in settings.items() if option != "rate"}
        return Match(name, rule, settings["rate"], **options)

    def _add(self, number: int, rule: Rule) -> None:
        """Check a rule against the limits and the rules before it, and add it."""
        if not isinstance(rule, Rule):
            raise ConfigurationError(f"rules[{number}]: {shown(rule)} is not a Rule; give Rule(url, limit)")
        subject = f"rules[{number}]: url {shown(rule.url)}"
        self._check_limit(rule, subject)
        earlier = self._index.first(rule.pattern)
        if earlier is not None:
            raise ConfigurationError(
                f"{subject} is wholly covered by rules[{earlier}], {shown(self.rules[earlier].url)}, and would"
                " never be used; put it first, or leave it out"
            )
        self._index.add(rule.pattern)

    def _check_limit(self, rule: Rule, subject: str) -> None:
        if rule.limit is False:
            return
        if rule.limit not in self.limits:
            hint = _nearest(rule.limit, self.limits) or "give it a rate in limits"
            raise ConfigurationError(f"{subject}: limit {shown(rule.limit)} is not defined; {hint}")
        known = rule.pattern.captures()
        for capture in self._templates[rule.limit].captures:
            if capture not in known:
                hint = _nearest(capture, known) or f"write {{{capture}}} for a host label or path segment of the url"
                what = f"limit {shown(rule.limit)} asks for {{{capture}}}, which the url does not capture"
                raise ConfigurationError(f"{subject}: {what}; {hint}")

    def _check_names(self) -> None:
        if pair := clash(self._templates.values()):
            template, other = pair
            users = (number for number, rule in enumerate(self.rules) if rule.limit == template)
            where = next((f" (used by rules[{number}], {shown(self.rules[number].url)})" for number in users), "")
            raise ConfigurationError(
                f"limits[{shown(template)}]: can spell the name of another limit, {shown(other)}; rename one so that"
                f" they differ before the first brace{where}"
            )


def _listed(values: object, subject: str, example: str) -> list[Any]:
    if isinstance(values, str | Mapping) or not isinstance(values, Iterable):
        raise ConfigurationError(f"{subject}: {shown(values)} is not a list; give one such as {example}")
    return list(values)


def _mapped(limits: object) -> Mapping[Any, Any]:
    if limits is not None and not isinstance(limits, Mapping):
        raise ConfigurationError(
            f"limits: {shown(limits)} is not a mapping; give one such as {{'github': '5000/hour'}}"
        )
    return limits or {}


def _methods(methods: object, subject: str) -> frozenset[str]:
    """Return methods in upper case, or raise ConfigurationError."""
    names = _listed(methods, f"{subject}: methods", "['GET', 'POST'], or None for any")
    if not names:
        raise ConfigurationError(f"{subject}: methods is empty, so the rule would never be used; give None for any")
    for name in names:
        if not isinstance(name, str) or not _METHOD.fullmatch(name):
            raise ConfigurationError(f"{subject}: {shown(name)} in methods is no method; give names such as 'GET'")
    return frozenset(name.upper() for name in names)


def _settings(name: str, value: Any) -> dict[str, Any]:
    """Check a limit's value; return it as a dict with ``rate`` and whatever else it gives."""
    settings = dict(value) if isinstance(value, Mapping) else {"rate": value}
    try:
        for setting in settings:
            if setting not in _SETTINGS:
                hint = _nearest(str(setting), _SETTINGS) or f"give {', '.join(_SETTINGS)}"
                raise ConfigurationError(f"setting {shown(setting)} is not known; {hint}")
        if "rate" not in settings:
            raise ConfigurationError(f"{shown(value)} has no rate; give one such as {{'rate': '250/minute'}}")
        quota(settings["rate"], settings.get("period"), settings.get("spacing", 0.0), settings.get("margin"))
        if settings.get("max_wait") is not None:
            micros(settings["max_wait"], "max_wait")
    except ConfigurationError as error:
        raise ConfigurationError(f"limits[{shown(name)}]: {error}") from None
    return settings


def _template(name: object, subject: str) -> Template:
    try:
        return read_template(name)
    except ConfigurationError as error:
        raise ConfigurationError(f"{subject}: {error}") from None


def _nearest(word: str, words: Iterable[str]) -> str:
    """Return a question with the nearest of some words, or an empty text where none is near."""
    near = get_close_matches(word, words, 1)
    return f"did you mean {near[0]!r}?" if near else ""
