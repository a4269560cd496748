"""Why a request falls under a rule, and why not under the rules before it that nearly matched.

A rule nearly matches if its host and path fit and something else does not; if all but its path fits; or if all
but its host fits, and the hosts are similar. Where many do, only the closest are listed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from heapq import nsmallest
from itertools import takewhile
from typing import Any

from nekkar.core.errors import shown, shown_url, without_user_info
from nekkar.rules.match import Match
from nekkar.rules.patterns import Glob, Part, Pattern, covers
from nekkar.rules.rule import Rule

CLOSEST = 5
LIKELIEST = 50
ALIKE = 0.8
LONGEST_HOST = 253

_WEIGHTS = {"host": 5, "path": 5}  # each weighs more than all the others of a rule
_OUTCOMES = {"ignore": "unlimited", "warn": "unlimited, with a warning for its host", "error": "refused"}


@dataclass(frozen=True, slots=True)
class NearMiss:
    """A rule that nearly matched, its number from 0, and each part that did not."""

    number: int
    rule: Rule
    why_not: tuple[str, ...]

    def __str__(self) -> str:
        return f"rules[{self.number}], {without_user_info(self.rule.url)!r}: {'; '.join(self.why_not)}"


@dataclass(frozen=True, slots=True)
class Explanation:
    """Which rule a request falls under, and why not one before it. ``str()`` tells it in lines of text.

    ``number``, from 0, and ``rule``: None where none matched. ``captured``: by name, a header's value hashed.
    ``match``: the limit with its settings, None for unlimited. ``near``: the rules that nearly matched, in the table's
    order. ``unmatched``: what the table does with a request that no rule matches.
    """

    method: str
    url: str
    number: int | None
    rule: Rule | None
    captured: Mapping[str, str]
    match: Match | None
    near: tuple[NearMiss, ...]
    unmatched: str = "warn"

    def __str__(self) -> str:
        return "\n".join((f"{self.method} {shown_url(self.url)}", *(f"  {line}" for line in self._lines())))

    def _lines(self) -> Iterator[str]:
        if self.rule is None:
            yield f"no rule matches: {_OUTCOMES[self.unmatched]} (unmatched = {self.unmatched!r})"
        else:
            methods = f" for {', '.join(self.rule.methods)}" if self.rule.methods else ""
            yield f"matches rules[{self.number}], {shown_url(self.rule.url)}{methods}"
        yield from (f"captured {{{name}}} = {shown(value)}" for name, value in self.captured.items())
        if self.match:
            for part in self.match.parts:
                yield f"limit {shown(part.name)}" + (f", from {shown(part.limit)}" if part.name != part.limit else "")
                yield "settings " + ", ".join(f"{name} = {value!r}" for name, value in settings_of(part).items())
            if self.match.cost is not None:
                yield f"cost {self.match.cost!r}"
            if self.match.headroom is not None:
                yield f"headroom {self.match.headroom!r}"
        elif self.rule:
            yield "explicitly unlimited (limit = false)"
        yield from (f"not {miss}" for miss in self.near)


def settings_of(match: Match) -> dict[str, Any]:
    """Return the settings that a table gives for a limit."""
    more = {"headers": match.headers, "refused": list(match.refused), "meter": match.meter}
    given = {name: value for name, value in more.items() if value}
    if match.own_headroom is not None:
        given["headroom"] = match.own_headroom
    return {"rate": match.rate_limit, **match.options, **given}


def lacks_fields(number: int, rule: Rule, fields: Sequence[str]) -> NearMiss:
    """Return a miss of a rule whose pattern fits: the body lacks fields that name the rule's limit."""
    return NearMiss(number, rule, tuple(f"the JSON body has no field {shown(field)}" for field in fields))


def nearest_rule(rules: Sequence[Rule], request: Pattern) -> tuple[int, list[str]] | None:
    """Return the number of the rule nearest to a request that no rule matches, and the parts that differ.

    None where there are no rules. All rules are compared part by part, but only for the nearest few are the hosts
    compared letter by letter: a table of 10,000 rules takes some tens of milliseconds.
    """
    few = nsmallest(LIKELIEST, range(len(rules)), key=lambda number: _rough_distance(rules[number].pattern, request))
    host = _host(request)
    best = min(
        few,
        key=lambda at: (*_rough_distance(rules[at].pattern, request)[:2], -_likeness(_host(rules[at].pattern), host)),
        default=None,
    )
    return None if best is None else (best, list(_unmet(rules[best].pattern, request)))


def near_misses(rules: Iterable[Rule], request: Pattern, lacking: Sequence[NearMiss] = ()) -> tuple[NearMiss, ...]:
    """Return the closest of the rules that nearly matched a request, in the table's order.

    ``lacking``: misses of rules whose pattern fits (see ``lacks_fields``).
    """
    misses = [*lacking] + [
        NearMiss(number, rule, tuple(_why_not(rule.pattern, request)))
        for number, rule in enumerate(rules)
        if _is_near(rule.pattern, request)
    ]
    closest = sorted(misses, key=lambda miss: _distance(miss, request))
    return tuple(sorted(closest[:CLOSEST], key=lambda miss: miss.number))


def _is_near(wide: Pattern, request: Pattern) -> bool:
    host = _fit(wide.host, wide.subdomains, request.host, 1)
    path = _fit(wide.path, wide.deep, request.path, 0)
    if host and path:
        return not wide.covers_rest(request)
    return wide.covers_rest(request) and (host or (path and _alike(_host(wide), _host(request))))


def _rough_distance(wide: Pattern, request: Pattern) -> tuple[int, int, int]:
    """Return how far a rule is from matching: by parts, by the path's first segments, by the host's last labels."""
    segments = sum(1 for _ in takewhile(bool, map(covers, wide.path, request.path)))
    labels = sum(1 for _ in takewhile(bool, map(covers, wide.host, request.host)))
    return sum(_WEIGHTS.get(part, 1) for part in _unmet(wide, request)), -segments, -labels


def _unmet(wide: Pattern, request: Pattern) -> Iterator[str]:
    """Yield the name of each part of a pattern that does not cover a request's."""
    if wide.methods and not (request.methods and request.methods <= wide.methods):
        yield "methods"
    if wide.scheme not in ("", request.scheme):
        yield "scheme"
    if not _fit(wide.host, wide.subdomains, request.host, 1):
        yield "host"
    if wide.port not in (None, request.port):
        yield "port"
    if not _fit(wide.path, wide.deep, request.path, 0):
        yield "path"
    if not wide.query <= request.query:
        yield "query"


def _why_not(wide: Pattern, request: Pattern) -> Iterator[str]:
    """Yield a sentence for each part of a pattern that does not cover the request's part."""
    if wide.methods and request.methods and not request.methods <= wide.methods:
        yield f"method {', '.join(request.methods)} is not {' or '.join(sorted(wide.methods))}"
    if wide.scheme not in ("", request.scheme):
        yield f"scheme {shown(request.scheme)} is not {shown(wide.scheme)}"
    if not _fit(wide.host, wide.subdomains, request.host, 1):
        yield f"host {shown(_host(request))} is not {shown(_host(wide))}"
    if wide.port not in (None, request.port):
        yield f"port {request.port} is not {wide.port}"
    if not _fit(wide.path, wide.deep, request.path, 0):
        yield f"path {shown_url(_path(request))} is not {shown_url(_path(wide))}"
    valued = {name for name, value in wide.query if value is not None}
    for name, value in sorted(wide.query - request.query, key=str):
        if value is not None or name not in valued:
            yield f"query lacks {shown(name if value is None else f'{name}={value}')}"


def _fit(wide: tuple[Part, ...], more: bool, parts: tuple[Part, ...], least: int) -> bool:
    """Tell whether ``wide`` covers parts one by one; where ``more``, at least ``least`` further parts must follow."""
    long_enough = len(parts) >= len(wide) + least if more else len(parts) == len(wide)
    return long_enough and all(map(covers, wide, parts))


def _distance(miss: NearMiss, request: Pattern) -> tuple[int, int, float]:
    """Return how far a rule is from matching: by parts, then by the path's first segments, then by the host."""
    wide = miss.rule.pattern
    shared = len(list(takewhile(bool, map(covers, wide.path, request.path))))
    return len(miss.why_not), -shared, -_likeness(_host(wide), _host(request))


def _alike(one: str, other: str) -> bool:
    """Tell whether two hosts are similar (one may be a typing error), or one is a subdomain of the other."""
    ends = one.removeprefix("*."), other.removeprefix("*.")
    related = any(f".{inner}".endswith(f".{outer}") for inner, outer in (ends, ends[::-1]))
    return related or _likeness(one, other) >= ALIKE


def _likeness(one: str, other: str) -> float:
    """Return how similar two hosts are, from 0 to 1; 0 for a text that is too long for a host."""
    if max(len(one), len(other)) > LONGEST_HOST:
        return 0
    return SequenceMatcher(None, one, other).ratio()


def _host(pattern: Pattern) -> str:
    return ".".join((*("*" for _ in range(pattern.subdomains)), *map(_text, reversed(pattern.host))))


def _path(pattern: Pattern) -> str:
    return "".join(f"/{part}" for part in (*map(_text, pattern.path), *("*" for _ in range(pattern.deep))))


def _text(part: Part) -> str:
    if isinstance(part, Glob):
        return f"{{{part.name}}}" if part.name else "*".join(part.pieces)
    return part
