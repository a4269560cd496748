"""A match: the limits that a request falls under, with their settings, named by what the request holds."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from nekkar.rules.costs import Cost
from nekkar.rules.fields import Body
from nekkar.rules.names import Headers, Template
from nekkar.rules.patterns import CapturePlace, Pattern, captured
from nekkar.rules.rule import Rule


@dataclass(frozen=True, slots=True)
class Match:
    """The limit that a request falls under: ``limiter(match.name, match.rate_limit, **match.options)``.

    Durations are in seconds, as the table gives them; None (0 for ``spacing``) means that the table gives none.
    ``headers``: whether to read rate limit headers of responses, or the name of the dialect to read them by.
    ``refused``: the statuses that are refusals beside 429 and 503. ``meter``: the meter of the limit, or its name.
    ``own_headroom``: the headroom that the table gives for the limit. These four are not options of the limit itself.
    ``limit``: the name as the table's ``limits`` spells it. ``also``: the further limits of a rule that names several,
    in the rule's order.
    """

    name: str
    rule: Rule
    rate_limit: int | str
    period: float | None = None
    spacing: float | str = 0.0
    max_wait: float | None = None
    margin: float | None = None
    headers: bool | str = False
    refused: tuple[int, ...] = ()
    meter: Any = None
    own_headroom: float | None = None
    limit: str = field(default="", compare=False)
    also: tuple[Match, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all limits that must admit the request, in the rule's order."""
        return (self.name, *(match.name for match in self.also))

    @property
    def parts(self) -> tuple[Match, ...]:
        """A match for each of these limits, this one first."""
        return (self, *self.also)

    @property
    def cost(self) -> Cost | None:
        """The rule's cost: a number of calls, or hits by unit; None where the rule has none."""
        return self.rule.cost

    @property
    def headroom(self) -> float | None:
        """The part of each window that the rule's requests leave free; None where the rule has no headroom."""
        return self.rule.headroom

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments that the table gives for this limit, and no others."""
        given = {"period": self.period, "max_wait": self.max_wait, "margin": self.margin}
        options: dict[str, Any] = {option: value for option, value in given.items() if value is not None}
        return options | {"spacing": self.spacing} if self.spacing != 0 else options


@dataclass(frozen=True, slots=True)
class PendingMatch:
    """A match whose limits' names are still to be filled in, from captures of the URL, headers or fields of the body.

    ``by_url``: the URL is enough to fill them in. ``captured``: the values captured in the URL, once it is known.
    """

    parts: tuple[tuple[Match, Template], ...]
    places: tuple[CapturePlace, ...]
    by_url: bool
    captured: dict[str, str] = field(default_factory=dict)

    def found(self, request: Pattern) -> Match | PendingMatch:
        """Fill in what the URL gives. Where headers or the body are needed too, the result is still pending."""
        known = captured(self.places, request)
        return self._match(known) if self.by_url else replace(self, captured=known)

    def named(self, headers: Headers | None, body: Body | None = None) -> Match | None:
        """Fill in the names from headers and body; return None where the body lacks a field that a name needs."""
        values = self.values(headers, body)
        return None if values is None else self._match(values)

    def values(self, headers: Headers | None, body: Body | None) -> dict[str, str] | None:
        """Return the value of each capture by name; None where the body lacks a field."""
        values = dict(self.captured)
        for _, template in self.parts:
            if template.by_header:
                values |= template.hashes(headers)
            if template.fields:
                fields = template.fields_of(body or Body())
                if fields is None:
                    return None
                values |= fields
        return values

    def _match(self, values: dict[str, str]) -> Match:
        (own, template), *others = self.parts
        also = tuple([_named(own, template.fill(values)) for own, template in others]) if others else ()
        return _named(own, template.fill(values), also)


def _named(own: Match, name: str, also: tuple[Match, ...] = ()) -> Match:
    """Return a copy of a match under another name; ``dataclasses.replace`` is slower."""
    return Match(
        name, own.rule, own.rate_limit, own.period, own.spacing, own.max_wait, own.margin, own.headers, own.refused,
        own.meter, own.own_headroom, own.limit, also,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Candidates:
    """The rules that may apply to a request, in the table's order: each but the last needs a field of the body."""

    outcomes: tuple[Match | PendingMatch | Pattern | None, ...]

    def chosen(self, headers: Headers | None, content: object) -> Match | Pattern | None:
        """Return the first one whose fields the body has; the body is parsed once."""
        body, match = Body(content), None
        for outcome in self.outcomes:
            if not isinstance(outcome, PendingMatch):
                return outcome
            match = outcome.named(headers, body)
            if match:
                break
        return match


def outcome_of(
    rule: Rule, limits: dict[str, dict[str, Any]], templates: dict[str, Template]
) -> Match | PendingMatch | None:
    """Return a rule's match, as far as it is known before a request; None for a rule that says unlimited."""
    if not rule.limits:
        return None
    parts = tuple((_of_settings(name, rule, limits[name]), templates[name]) for name in rule.limits)
    if any(template.captures for _, template in parts):
        by_url = not any(template.by_header or template.fields for _, template in parts)
        return PendingMatch(parts, rule.pattern.places(), by_url)
    first, *others = (match for match, _ in parts)
    return replace(first, also=tuple(others))


def _of_settings(name: str, rule: Rule, settings: dict[str, Any]) -> Match:
    given = dict(settings)
    given["refused"] = tuple(sorted(set(given.get("refused", ()))))
    given["own_headroom"] = given.pop("headroom", None)
    return Match(name, rule, given.pop("rate"), **given, limit=name)
