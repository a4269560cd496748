"""The checks of a table as a whole: rules against limits, against each other, and limits against each other.

Every fault goes to ``report(where, what)``. A table is built with a ``report`` that raises the first fault; a file is
checked with one that collects all. ``where`` is ``rules[3]`` or ``limits['name']``, counted from 0. After a fault that
was collected, the checks go on with the valid parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nekkar.core.errors import ConfigurationError, shown, shown_url
from nekkar.core.quota import Quota
from nekkar.rules.costs import faults_of_cost
from nekkar.rules.dialects import BUILT_IN, Dialect, read_dialects
from nekkar.rules.names import Template, clashes, read_template
from nekkar.rules.nearest import Known
from nekkar.rules.routes import Index
from nekkar.rules.rule import Rule, listed
from nekkar.rules.settings import check_settings, rate_of
from nekkar.rules.unmatched import POLICIES

Report = Callable[[str, str], None]

MISPLACED = "is a key of the whole file; put it at the top, above the first table"


@dataclass(slots=True)
class Parts:
    """What a table is made of, its rules by number."""

    rules: Mapping[int, Rule]
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    templates: dict[str, Template] = field(default_factory=dict)
    quotas: dict[str, Quota] = field(default_factory=dict)
    index: Index = field(default_factory=Index)
    dialects: Mapping[str, Dialect] = field(default_factory=lambda: BUILT_IN)


def raised(where: str, what: str) -> None:
    """Raise a fault."""
    raise ConfigurationError(f"{where}: {what}" if where else what)


def numbered(rules: object, report: Report) -> dict[int, Rule]:
    """Return rules by number; report anything that is not a rule."""
    values = attempt(report, "rules", listed, rules, "[Rule(url, limit), ...]") or []
    for number, value in enumerate(values):
        if not isinstance(value, Rule):
            report(f"rules[{number}]", f"{shown(value)} is not a Rule; give Rule(url, limit)")
    return dict(enumerate(values))


def check(rules: Mapping[int, Rule], limits: object, report: Report, dialects: object = None) -> Parts:
    """Check a whole table, and return its valid parts."""
    parts = Parts(rules)
    if dialects is not None:
        parts.dialects = read_dialects(dialects, report)
    _check_limits(limits, parts, report)
    known = Known(parts.settings)
    for number, rule in rules.items():
        _check_rule(number, rule, parts, known, report)
    _check_names(parts, report)
    return parts


def attempt(report: Report, where: str, read: Callable[..., Any], *given: Any) -> Any:
    """Return ``read(*given)``; where that raises ConfigurationError, report it and return None."""
    try:
        return read(*given)
    except ConfigurationError as error:
        report(where, str(error))
        return None


def _check_limits(limits: object, parts: Parts, report: Report) -> None:
    if limits is not None and not isinstance(limits, Mapping):
        report("limits", f"{shown(limits)} is not a mapping; give one such as {{'github': '5000/hour'}}")
        return
    for name, value in (limits or {}).items():
        where = where_limit(name)
        if name == "unmatched" and isinstance(value, str) and value in POLICIES:
            report(where, MISPLACED)
            continue
        template = attempt(report, where, read_template, name)
        parts.settings[name] = dict(value) if isinstance(value, Mapping) else {"rate": value}
        for fault in check_settings(parts.settings[name], parts.dialects):
            report(where, fault)
        if quota := rate_of(parts.settings[name]):
            parts.quotas[name] = quota
        if template:
            parts.templates[name] = template


def where_limit(name: object) -> str:
    """Return how a fault names a limit."""
    return f"limits[{shown(name)}]"


def _check_rule(number: int, rule: Rule, parts: Parts, known: Known, report: Report) -> None:
    """Check a rule against the limits and the rules before it, and add it to the index."""
    where = f"rules[{number}]"
    check_limit(where, rule.limit, known, report)
    templates = [parts.templates[name] for name in rule.limits if name in parts.templates]
    for template in templates:
        _check_captures(where, rule, template, report)
    quotas = {name: parts.quotas[name] for name in rule.limits if name in parts.quotas}
    if rule.cost is not None and len(quotas) == len(rule.limits) > 0:
        for fault in faults_of_cost(rule.cost, quotas):
            report(where, fault)
    earlier = parts.index.first(rule.pattern, skip_by_body=True)
    if earlier is not None:
        report(
            where,
            f"url {shown_url(rule.url)} is wholly covered by rules[{earlier}], {shown_url(parts.rules[earlier].url)},"
            " and would never be used; put it first, or leave it out",
        )
    parts.index.add(number, rule.pattern, by_body=any(template.fields for template in templates))


def check_limit(where: str, limit: object, limits: Known, report: Report) -> None:
    """Report each of a rule's limits that is not defined."""
    for name in limit if isinstance(limit, list | tuple) else (limit,):
        if isinstance(name, str) and name not in limits.names:
            report(where, limits.unknown("limit", name, "give it a rate in limits"))


def _check_captures(where: str, rule: Rule, template: Template, report: Report) -> None:
    known = Known(dict.fromkeys(rule.pattern.captures()))
    for capture in template.from_url:
        if capture not in known.names:
            remedy = known.nearest(capture) or f"write {{{capture}}} for a host label or path segment of the url"
            what = f"limit {shown(template.text)} asks for {{{capture}}}, which the url does not capture"
            report(where, f"url {shown_url(rule.url)}: {what}; {remedy}")


def _check_names(parts: Parts, report: Report) -> None:
    users: dict[str, int] = {}
    for number, rule in parts.rules.items():
        for name in rule.limits:
            users.setdefault(name, number)
    for template, other in clashes(parts.templates.values()):
        first = users.get(template)
        user = "" if first is None else f" (used by rules[{first}], {shown_url(parts.rules[first].url)})"
        report(
            where_limit(template),
            f"can spell the name of another limit, {shown(other)}; rename one so that they differ before the first"
            f" brace{user}",
        )
