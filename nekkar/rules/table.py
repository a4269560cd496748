"""Which limit a request falls under: rules, tried in order, the first match wins.

- A request that no rule matches is unlimited, and ``unmatched`` says whether it is sent: see ``unmatched``.
- A rule is a pattern (see ``patterns``), the name of a limit, and perhaps some methods. ``limit=False`` is
  explicitly unlimited.
- A limit's name may hold captures, as in ``user-{user}``, and headers, as in ``openai-{header:Authorization}``:
  each value is then a limit of its own (see ``names``). The name in the rule is spelled as in ``limits``.
- A table is checked when it is built: an unknown limit, a bad rate, a capture the pattern lacks, a rule
  that an earlier one hides, a template that can spell another limit's name. Errors begin with
  ``rules[3]:`` or ``limits['name']:``, counted from 0, after the file's name if they come from one.
- Looking a request up costs about the same in a table of ten rules and of ten thousand. What was looked up is
  remembered by method and URL; headers are not remembered.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Self

from nekkar.core.errors import ConfigurationError, counted
from nekkar.rules.checks import attempt, check, numbered, raised
from nekkar.rules.files import load, read_table
from nekkar.rules.match import Match, Unnamed
from nekkar.rules.names import Headers, Template
from nekkar.rules.patterns import Pattern, captured, read_request
from nekkar.rules.reasons import Explanation, near_misses
from nekkar.rules.rule import Rule
from nekkar.rules.unmatched import Unmatched, check_policy

CACHED = 1024
LONGEST_CACHED = 2048


class RuleTable:
    """Rules with the limits that they name, checked as a whole. The first rule that matches wins.

    ``limits``: each a whole number of calls per 60 s, a rate such as ``"250/minute"``, or a dict with ``rate``
    and any of ``period``, ``spacing``, ``max_wait``, ``margin``, ``headers``. ``unmatched``: a request that no rule
    matches is sent unlimited (``"ignore"``), or with one WARNING for each host (``"warn"``), or is refused before it
    is sent (``"error"``). Immutable, shared by threads, picklable; equal where all three are.
    Raises ConfigurationError, naming the rule or the limit, for the first fault.
    """

    __slots__ = ("_find_cached", "_index", "_outcomes", "_templates", "_unmatched", "limits", "rules")

    def __init__(
        self, rules: Iterable[Rule], limits: Mapping[str, Any] | None = None, *, unmatched: str = "warn"
    ) -> None:
        self._unmatched = Unmatched(attempt(raised, "unmatched", check_policy, unmatched))
        parts = check(numbered(rules, raised), limits, raised)
        self.rules: tuple[Rule, ...] = tuple(parts.rules.values())
        self.limits, self._templates, self._index = parts.settings, parts.templates, parts.index
        self._outcomes = [_outcome(rule, self.limits, self._templates) for rule in self.rules]
        self._find_cached = lru_cache(CACHED)(self._find)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Self:
        """Read a table from a TOML file; ConfigurationError, with the file's name, for whatever is none. Blocks."""
        content = load(path).content
        try:
            return cls.from_dict(content)
        except ConfigurationError as error:
            raise ConfigurationError(f"{os.fsdecode(path)}: {error}") from None

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> Self:
        """Make a table of what a file would hold: ``{"limits": {name: rate}, "rules": [{"url": …, "limit": …}]}``.

        ``"unmatched"`` may be given too.
        """
        rules, limits, unmatched = read_table(mapping, raised)
        return cls(rules.values(), limits, unmatched=unmatched)

    @property
    def unmatched(self) -> str:
        """What happens to a request that no rule matches: ``"ignore"``, ``"warn"`` or ``"error"``."""
        return self._unmatched.policy

    def resolve(self, method: str | bytes, url: object, headers: Headers | None = None) -> str | None:
        """Return the name of the request's limit, or None if it is unlimited or no rule matches."""
        match = self.match(method, url, headers)
        return match.name if match else None

    def match(self, method: str | bytes, url: object, headers: Headers | None = None) -> Match | None:
        """Return the request's limit with its settings, or None if it is unlimited.

        Takes any URL, and time in proportion to its length; what is no URL falls under what can be read of it.
        ``headers``: the request's, for limits that are named by one; names ignore case.
        """
        found = self._found(method, url)
        if isinstance(found, Unnamed):
            return found.named(headers)
        return found if isinstance(found, Match) else None

    def route(self, method: str | bytes, url: object, headers: Headers | None = None) -> Match | None:
        """Return what ``match`` does, for a request that is about to be sent: act on ``unmatched``.

        Where no rule matches, logs a WARNING (``"warn"``) or raises ConfigurationError (``"error"``).
        """
        found = self._found(method, url)
        if isinstance(found, Pattern):
            self._unmatched.handle(found, self.rules)
            return None
        return found.named(headers) if isinstance(found, Unnamed) else found

    def explain(self, method: str | bytes, url: object, headers: Headers | None = None) -> Explanation:
        """Tell which rule a request falls under, and which rules before it nearly matched, and why they did not."""
        request = read_request(_text(method).upper(), _text(url))
        number = self._index.first(request)
        rule = None if number is None else self.rules[number]
        match = self.match(method, url, headers)
        values = captured(rule.pattern.places(), request) if rule else {}
        if match and match.rule.limit:
            values |= self._templates[match.rule.limit].hashes(headers)
        near = near_misses(self.rules[:number], request)
        return Explanation(_text(method).upper(), _text(url), number, rule, values, match, near, self.unmatched)

    def limit_named(self, name: str) -> str | None:
        """Return which of ``limits`` has this name: itself, or the template, such as ``user-{user}``, that spells it.

        None where none has. No two can, or the table would not have been built.
        """
        spelled = (limit for limit, template in self._templates.items() if template.captures and template.spells(name))
        return name if name in self.limits and not self.is_template(name) else next(spelled, None)

    def is_template(self, limit: str) -> bool:
        """Tell whether a limit of ``limits`` is one for each value of its captures."""
        return bool(self._templates[limit].captures)

    def __reduce__(self) -> tuple[Any, ...]:
        return _remade, (type(self), self.rules, self.limits, self.unmatched)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RuleTable):
            return NotImplemented
        return (self.rules, self.limits, self.unmatched) == (other.rules, other.limits, other.unmatched)

    def __hash__(self) -> int:
        return hash((self.rules, self.unmatched))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {counted(len(self.rules), 'rule')}, {counted(len(self.limits), 'limit')}>"

    def _found(self, method: str | bytes, url: object) -> Match | Unnamed | Pattern | None:
        text = _text(url)
        find = self._find_cached if len(text) <= LONGEST_CACHED else self._find
        return find(_text(method).upper(), text)

    def _find(self, method: str, url: str) -> Match | Unnamed | Pattern | None:
        """Return what a request falls under: None where a rule says unlimited, the request where no rule matches."""
        request = read_request(method, url, self._index.queries)
        number = self._index.first(request)
        if number is None:
            return request
        outcome = self._outcomes[number]
        return outcome.found(request) if isinstance(outcome, Unnamed) else outcome


def _remade(
    kind: type[RuleTable], rules: tuple[Rule, ...], limits: dict[str, dict[str, Any]], unmatched: str
) -> RuleTable:
    return kind(rules, limits, unmatched=unmatched)


def _outcome(rule: Rule, limits: Mapping[str, Any], templates: Mapping[str, Template]) -> Match | Unnamed | None:
    """Return what a rule gives, as far as it is known before a request."""
    if rule.limit is False:
        return None
    settings, template = dict(limits[rule.limit]), templates[rule.limit]
    match = Match(rule.limit, rule, settings.pop("rate"), **settings)
    return Unnamed(match, template, rule.pattern.places()) if template.captures else match


def _text(url: object) -> str:
    return url.decode("utf-8", "surrogateescape") if isinstance(url, bytes) else str(url)
