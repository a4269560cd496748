"""A match: the limit that a request falls under, with its settings, named by what the request holds."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from nekkar.rules.names import Headers, Template
from nekkar.rules.patterns import Pattern, Place, captured
from nekkar.rules.rule import Rule


@dataclass(frozen=True, slots=True)
class Match:
    """The limit that a request falls under: ``limiter(match.name, match.rate_limit, **match.options)``.

    Durations are in seconds, as the table gives them; None (for ``spacing`` 0) is not given. ``headers``: whether
    what the service's answers say of its limits counts; no option of the limit itself.
    """

    name: str
    rule: Rule
    rate_limit: int | str
    period: float | None = None
    spacing: float | str = 0.0
    max_wait: float | None = None
    margin: float | None = None
    headers: bool = False

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
        return Match(name, own.rule, own.rate_limit, own.period, own.spacing, own.max_wait, own.margin, own.headers)
