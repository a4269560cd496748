"""Which limit a request falls under: rules, tried in order, the first match wins.

- A request that no rule matches is ignored, warned of or refused: see ``unmatched``.
- A rule is a pattern (see ``patterns``), the name of a limit or a list of names, all of which must admit the request,
  and perhaps some methods and a cost. ``limit=False`` is explicitly unlimited.
- A limit's name may hold captures, as in ``user-{user}``, headers, as in ``openai-{header:Authorization}``, and
  fields of the JSON body, as in ``openai-{json:model}``: each value is then a limit of its own (see ``names``). The
  name in the rule is spelled as in ``limits``. A rule whose limit needs a field that the request lacks does not match.
- A table is checked when it is built: an unknown limit, a bad rate, a capture the pattern lacks, a rule
  that an earlier one hides, a template that can spell another limit's name. Errors begin with
  ``rules[3]:`` or ``limits['name']:``, counted from 0, after the file's name if they come from one.
- A look-up takes about the same time in a table of ten rules and of ten thousand. Results are cached by method and
  URL; headers and bodies are not cached.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from functools import lru_cache
from typing import Any, Self

from nekkar.core.errors import ConfigurationError, counted
from nekkar.rules.checks import attempt, check, numbered, raised
from nekkar.rules.dialects import Dialect
from nekkar.rules.fields import Body
from nekkar.rules.files import load, read_table
from nekkar.rules.match import Candidates, Match, PendingMatch, outcome_of
from nekkar.rules.names import Headers
from nekkar.rules.patterns import Pattern, captured, read_request
from nekkar.rules.reasons import Explanation, lacks_fields, near_misses
from nekkar.rules.rule import Rule
from nekkar.rules.unmatched import Unmatched, check_policy

CACHED = 1024
LONGEST_CACHED = 2048

Outcome = Match | PendingMatch | Pattern | None  # None: a rule says unlimited; the request itself: no rule matches


class RuleTable:
    """Rules with the limits that they name, checked as a whole. The first rule that matches wins.

    ``limits``: each a whole number of calls per 60 s, a rate such as ``"250/minute"``, or a dict with ``rate``
    and any of ``period``, ``spacing``, ``max_wait``, ``margin``, ``headers``, ``refused``, ``meter``, ``headroom``.
    ``unmatched``: a request that no rule matches is sent unlimited (``"ignore"``), or with one WARNING for each host
    (``"warn"``), or is refused before it is sent (``"error"``). ``dialects``: response headers of your own, by name,
    each a dict with any of ``limit``, ``remaining``, ``used``, ``reset``, ``period`` (names of headers) and ``unit``,
    or a list of such. Immutable, shared by threads, picklable; equal where all four are.
    Raises ConfigurationError, naming the rule or the limit, for the first fault.
    """

    __slots__ = (
        "_dialects",
        "_find_cached",
        "_index",
        "_outcomes",
        "_templates",
        "_unmatched",
        "dialects",
        "limits",
        "rules",
    )

    def __init__(
        self,
        rules: Iterable[Rule],
        limits: Mapping[str, Any] | None = None,
        *,
        unmatched: str = "warn",
        dialects: Mapping[str, Any] | None = None,
    ) -> None:
        self._unmatched = Unmatched(attempt(raised, "unmatched", check_policy, unmatched))
        parts = check(numbered(rules, raised), limits, raised, dialects)
        self.rules: tuple[Rule, ...] = tuple(parts.rules.values())
        self.limits, self._templates, self._index = parts.settings, parts.templates, parts.index
        self.dialects: dict[str, Any] = deepcopy(dict(dialects or {}))
        self._dialects = parts.dialects
        self._outcomes = [outcome_of(rule, self.limits, self._templates) for rule in self.rules]
        self._find_cached = lru_cache(CACHED)(self._find)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Self:
        """Read a table from a TOML file; raise ConfigurationError, with the file's name, for a bad file. Blocks."""
        content = load(path).content
        try:
            return cls.from_dict(content)
        except ConfigurationError as error:
            raise ConfigurationError(f"{os.fsdecode(path)}: {error}") from None

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> Self:
        """Make a table of what a file would hold: ``{"limits": {name: rate}, "rules": [{"url": …, "limit": …}]}``.

        ``"unmatched"`` and ``"dialects"`` may be given too.
        """
        rules, limits, unmatched, dialects = read_table(mapping, raised)
        return cls(rules.values(), limits, unmatched=unmatched, dialects=dialects)

    @property
    def unmatched(self) -> str:
        """What happens to a request that no rule matches: ``"ignore"``, ``"warn"`` or ``"error"``."""
        return self._unmatched.policy

    @property
    def needs_body(self) -> bool:
        """Whether a limit is named by a field of the request's body, so that ``match`` needs the body."""
        return bool(self._index.by_body)

    def resolve(
        self, method: str | bytes, url: object, headers: Headers | None = None, body: object = None
    ) -> str | None:
        """Return the name of the request's limit, the first of several; None if it is unlimited or no rule matches."""
        match = self.match(method, url, headers, body)
        return match.name if match else None

    def match(
        self, method: str | bytes, url: object, headers: Headers | None = None, body: object = None
    ) -> Match | None:
        """Return the request's limit with its settings, or None if it is unlimited.

        Takes any text as a URL, matching as much of it as can be read; takes time in proportion to its length.
        ``headers``: the request's, for limits that are named by one; names ignore case. ``body``: the request's, in
        bytes, for limits that are named by a field of it; it is read only if such a rule could match.
        """
        found = self._matched(method, url, headers, body)
        return found if isinstance(found, Match) else None

    def route(
        self, method: str | bytes, url: object, headers: Headers | None = None, body: object = None
    ) -> Match | None:
        """Return what ``match`` does, for a request that is about to be sent: act on ``unmatched``.

        Where no rule matches, logs a WARNING (``"warn"``) or raises ConfigurationError (``"error"``).
        """
        found = self._matched(method, url, headers, body)
        if type(found) is Match:
            return found
        if isinstance(found, Pattern):
            self._unmatched.handle(found, self.rules)
            return None
        return found

    def explain(
        self, method: str | bytes, url: object, headers: Headers | None = None, body: object = None
    ) -> Explanation:
        """Tell which rule a request falls under, and which rules before it nearly matched, and why they did not."""
        request, content = read_request(_text(method).upper(), _text(url)), Body(body)
        number, rule, values, lacking = None, None, dict[str, str](), []
        for at in self._covering(request):
            found = self._outcome(at, request)
            named = found.values(headers, content) if isinstance(found, PendingMatch) else {}
            if not isinstance(found, PendingMatch) or named is not None:
                number, rule = at, self.rules[at]
                values = captured(rule.pattern.places(), request) | (named or {})
                break
            fields = [name for _, template in found.parts for name in template.fields if not content.field(name)]
            lacking.append(lacks_fields(at, self.rules[at], list(dict.fromkeys(fields))))
        near = near_misses(self.rules[:number], request, lacking)
        match = self.match(method, url, headers, body)
        return Explanation(_text(method).upper(), _text(url), number, rule, values, match, near, self.unmatched)

    def dialect(self, name: str) -> Dialect:
        """Return the dialect of this name, the table's own or a built-in one."""
        return self._dialects[name]

    def limit_named(self, name: str) -> str | None:
        """Return the key of ``limits`` that a limit's name comes from: the name itself, or a template that can give it.

        ``user-7`` comes from ``user-{user}``. None where no key fits. Two never fit: a table is checked for that.
        """
        spelled = (limit for limit, template in self._templates.items() if template.captures and template.spells(name))
        return name if name in self.limits and not self.is_template(name) else next(spelled, None)

    def is_template(self, limit: str) -> bool:
        """Tell whether a key of ``limits`` has captures, so that it stands for a limit per value."""
        return bool(self._templates[limit].captures)

    def __reduce__(self) -> tuple[Any, ...]:
        return _remade, (type(self), *self._given())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RuleTable):
            return NotImplemented
        return self._given() == other._given()

    def __hash__(self) -> int:
        return hash((self.rules, self.unmatched))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {counted(len(self.rules), 'rule')}, {counted(len(self.limits), 'limit')}>"

    def _given(self) -> tuple[Any, ...]:
        return self.rules, self.limits, self.unmatched, self.dialects

    def _matched(
        self, method: str | bytes, url: object, headers: Headers | None, body: object
    ) -> Match | Pattern | None:
        text, method = url if type(url) is str else _text(url), method if type(method) is str else _text(method)
        found = (self._find_cached if len(text) <= LONGEST_CACHED else self._find)(method, text)
        if type(found) is Match:  # of nearly every request: no more is asked of it
            return found
        if isinstance(found, Candidates):
            return found.chosen(headers, body)
        return found.named(headers) if isinstance(found, PendingMatch) else found

    def _find(self, method: str, url: str) -> Outcome | Candidates:
        """Return the match for a request; where it depends on the body, the candidates."""
        request = read_request(method.upper(), url, self._index.queries)
        number = self._index.first(request)
        if number is None:
            return request
        if number not in self._index.by_body:
            return self._outcome(number, request)
        numbers = list(self._covering(request))
        outcomes: list[Outcome] = [self._outcome(number, request) for number in numbers]
        return Candidates((*outcomes, request) if numbers[-1] in self._index.by_body else tuple(outcomes))

    def _outcome(self, number: int, request: Pattern) -> Outcome:
        outcome = self._outcomes[number]
        return outcome.found(request) if isinstance(outcome, PendingMatch) else outcome

    def _covering(self, request: Pattern) -> Iterator[int]:
        """Yield the rules that cover a request, up to the first that does not depend on the body."""
        number = self._index.first(request)
        while number is not None:
            yield number
            number = self._index.first(request, number) if number in self._index.by_body else None


def _remade(
    kind: type[RuleTable],
    rules: tuple[Rule, ...],
    limits: dict[str, dict[str, Any]],
    unmatched: str,
    dialects: dict[str, Any],
) -> RuleTable:
    return kind(rules, limits, unmatched=unmatched, dialects=dialects)


def _text(url: object) -> str:
    return url.decode("utf-8", "surrogateescape") if isinstance(url, bytes) else str(url)
