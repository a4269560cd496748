"""Why a request falls under a rule, and why not under the rules before it that nearly matched.

A rule nearly matches if its host and path fit and something else does not; if all but its path fits; or if all
but its host fits, and the hosts are much alike. Of many, the closest few are told.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import takewhile

from nekkar.core.errors import shown
from nekkar.rules.match import Match
from nekkar.rules.patterns import Glob, Part, Pattern, covers
from nekkar.rules.rule import Rule

CLOSEST = 5
ALIKE = 0.8
LONGEST_HOST = 253


@dataclass(frozen=True, slots=True)
class NearMiss:
    """A rule that nearly matched, its number from 0, and each part that did not."""

    number: int
    rule: Rule
    why_not: tuple[str, ...]

    def __str__(self) -> str:
        return f"rules[{self.number}], {shown(self.rule.url)}: {'; '.join(self.why_not)}"


@dataclass(frozen=True, slots=True)
class Explanation:
    """Which rule a request falls under, and why not one before it. ``str()`` tells it in lines of text.

    ``number``, from 0, and ``rule``: None where none matched. ``captured``: by name, a header's value hashed.
    ``match``: the limit with its settings, None for unlimited. ``near``: in the table's order.
    """

    method: str
    url: str
    number: int | None
    rule: Rule | None
    captured: Mapping[str, str]
    match: Match | None
    near: tuple[NearMiss, ...]

    def __str__(self) -> str:
        return "\n".join((f"{self.method} {shown(self.url)}", *(f"  {line}" for line in self._lines())))

    def _lines(self) -> Iterator[str]:
        if self.rule is None:
            yield "no rule matches: unlimited"
        else:
            methods = f" for {', '.join(self.rule.methods)}" if self.rule.methods else ""
            yield f"matches rules[{self.number}], {shown(self.rule.url)}{methods}"
        yield from (f"captured {{{name}}} = {shown(value)}" for name, value in self.captured.items())
        if self.match:
            template = f", from {shown(self.match.rule.limit)}" if self.match.name != self.match.rule.limit else ""
            settings = {"rate": self.match.rate_limit, **self.match.options}
            settings |= {"headers": True} if self.match.headers else {}
            yield f"limit {shown(self.match.name)}{template}"
            yield "settings " + ", ".join(f"{name} = {value!r}" for name, value in settings.items())
        elif self.rule:
            yield "explicitly unlimited (limit = false)"
        yield from (f"not {miss}" for miss in self.near)


def near_misses(rules: Iterable[Rule], request: Pattern) -> tuple[NearMiss, ...]:
    """Return the closest of the rules that nearly matched a request, in the table's order."""
    misses = [
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


def _why_not(wide: Pattern, request: Pattern) -> Iterator[str]:
    """Yield each part of a pattern that does not cover a request's, with both."""
    if wide.methods and request.methods and not request.methods <= wide.methods:
        yield f"method {', '.join(request.methods)} is not {' or '.join(sorted(wide.methods))}"
    if wide.scheme not in ("", request.scheme):
        yield f"scheme {shown(request.scheme)} is not {shown(wide.scheme)}"
    if not _fit(wide.host, wide.subdomains, request.host, 1):
        yield f"host {shown(_host(request))} is not {shown(_host(wide))}"
    if wide.port not in (None, request.port):
        yield f"port {request.port} is not {wide.port}"
    if not _fit(wide.path, wide.deep, request.path, 0):
        yield f"path {shown(_path(request))} is not {shown(_path(wide))}"
    valued = {name for name, value in wide.query if value is not None}
    for name, value in sorted(wide.query - request.query, key=str):
        if value is not None or name not in valued:
            yield f"query lacks {shown(name if value is None else f'{name}={value}')}"


def _fit(wide: tuple[Part, ...], more: bool, parts: tuple[Part, ...], least: int) -> bool:
    """Tell whether parts are the wide ones, followed, where ``more``, by at least so many others."""
    long_enough = len(parts) >= len(wide) + least if more else len(parts) == len(wide)
    return long_enough and all(map(covers, wide, parts))


def _distance(miss: NearMiss, request: Pattern) -> tuple[int, int, float]:
    """Return how far a rule is from matching: by parts, then by the path's first segments, then by the host."""
    wide = miss.rule.pattern
    shared = len(list(takewhile(bool, map(covers, wide.path, request.path))))
    return len(miss.why_not), -shared, -_likeness(_host(wide), _host(request))


def _alike(one: str, other: str) -> bool:
    """Tell whether two hosts could be meant to be the same, or one a part of the other's domain."""
    ends = one.removeprefix("*."), other.removeprefix("*.")
    related = any(f".{inner}".endswith(f".{outer}") for inner, outer in (ends, ends[::-1]))
    return related or _likeness(one, other) >= ALIKE


def _likeness(one: str, other: str) -> float:
    """Return from 0 to 1 how like two hosts are; what is too long for a host is like none."""
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
