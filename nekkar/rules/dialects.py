"""Dialects: the names of the response headers in which a service reports its limits; built in, or given in a table.

A dialect is one or more buckets. A bucket names the headers of the limit, the remaining or used hits, the reset and the
period of one quota; ``nekkar.http.ratelimit_headers`` reads their values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nekkar.core.cost import CALLS
from nekkar.core.errors import ConfigurationError, shown
from nekkar.rules.nearest import unknown

HEADERS = ("limit", "remaining", "used", "reset", "period")
KEYS = (*HEADERS, "unit")
OF_CALLS = ("call", "calls", "request", "requests")
SUFFIX = "*"  # ends a header's name: any suffix fits; as period or resource: the value is that suffix

_HEADER = re.compile(r"[A-Za-z0-9!#$%&'+.^_`|~-]+")
_UNIT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_EXAMPLE = "{'limit': 'X-Limit', 'remaining': 'X-Left', 'reset': 'X-Reset'}"
Report = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class Bucket:
    """The names, in lower case, of the headers of one bucket; empty where the service has no such header.

    ``units``: the bucket counts the first of these that the limit counts. ``resource``: the header that names the
    bucket. ``is_window``: all hits come back together at the reset, not one by one before it. ``is_on_clock``: the
    service reports no reset; its windows begin at full minutes, hours and so on; they have the reported period, or
    ``lengths``, in seconds, in the order in which the limits are listed. ``is_pace``: the reported limit is an average
    in calls per second, which fits windows of any length.
    """

    limit: str = ""
    remaining: str = ""
    used: str = ""
    reset: str = ""
    period: str = ""
    units: tuple[str, ...] = (CALLS,)
    resource: str = ""
    is_window: bool = True
    is_on_clock: bool = False
    lengths: tuple[int, ...] = ()
    is_pace: bool = False


Dialect = tuple[Bucket, ...]


def _named(prefix: str, suffix: str = "", units: tuple[str, ...] = (CALLS,), **more: Any) -> Bucket:
    """Return a bucket whose headers for limit, remaining and reset differ in that word alone."""
    words: dict[str, Any] = {word: f"{prefix}{word}{suffix}" for word in ("limit", "remaining", "reset")}
    return Bucket(**words, units=units, **more)


_STRAVA = (900, 86_400)

BUILT_IN: Mapping[str, Dialect] = {
    "github": (_named("x-ratelimit-", used="x-ratelimit-used", resource="x-ratelimit-resource"),),
    "openai": (
        _named("x-ratelimit-", "-requests", is_window=False),
        _named("x-ratelimit-", "-tokens", ("tokens",), is_window=False),
    ),
    "anthropic": tuple(
        _named(f"anthropic-ratelimit-{word}-", "", (unit,), is_window=False)
        for word, unit in (
            ("requests", CALLS),
            ("tokens", "tokens"),
            ("input-tokens", "input_tokens"),
            ("output-tokens", "output_tokens"),
        )
    ),
    "amazon-sp-api": (Bucket(limit="x-amzn-ratelimit-limit", is_pace=True),),
    "shopify": (Bucket(limit="x-shopify-shop-api-call-limit", used="x-shopify-shop-api-call-limit", is_window=False),),
    "discord": (
        Bucket(
            limit="x-ratelimit-limit",
            remaining="x-ratelimit-remaining",
            reset="x-ratelimit-reset-after",
            resource="x-ratelimit-scope",
        ),
    ),
    "hubspot": (
        Bucket(
            limit="x-hubspot-ratelimit-max",
            remaining="x-hubspot-ratelimit-remaining",
            period="x-hubspot-ratelimit-interval-milliseconds",
            is_window=False,
        ),
        Bucket(limit="x-hubspot-ratelimit-daily", remaining="x-hubspot-ratelimit-daily-remaining"),
    ),
    "salesforce": (Bucket(limit="sforce-limit-info", used="sforce-limit-info", is_window=False),),
    "jira": (_named("x-ratelimit-", resource="ratelimit-reason"),),
    "zendesk": (
        Bucket(limit="x-rate-limit", remaining="x-rate-limit-remaining", reset="ratelimit-reset"),
        Bucket(
            limit="zendesk-ratelimit-*",
            remaining="zendesk-ratelimit-*",
            reset="zendesk-ratelimit-*",
            resource=SUFFIX,
        ),
    ),
    "twilio": (Bucket(used="twilio-concurrent-requests", units=("calls at once",)),),
    "strava": (
        Bucket(limit="x-ratelimit-limit", used="x-ratelimit-usage", is_on_clock=True, lengths=_STRAVA),
        Bucket(limit="x-readratelimit-limit", used="x-readratelimit-usage", is_on_clock=True, lengths=_STRAVA),
    ),
    "binance": (
        Bucket(used="x-mbx-used-weight-*", period=SUFFIX, units=("weight", CALLS), is_on_clock=True),
        Bucket(used="x-mbx-order-count-*", period=SUFFIX, units=("orders", CALLS), is_on_clock=True),
    ),
    "esi": (
        Bucket(
            limit="x-ratelimit-limit",
            remaining="x-ratelimit-remaining",
            resource="x-ratelimit-group",
            units=("tokens", CALLS),
            is_window=False,
        ),
        Bucket(remaining="x-esi-error-limit-remain", reset="x-esi-error-limit-reset", units=("errors",)),
    ),
    "crossref": (Bucket(limit="x-rate-limit-limit", period="x-rate-limit-interval"),),
    "riot": (
        Bucket(limit="x-app-rate-limit", used="x-app-rate-limit-count", resource="x-rate-limit-type"),
        Bucket(limit="x-method-rate-limit", used="x-method-rate-limit-count", resource="x-rate-limit-type"),
    ),
    "ns1": (
        Bucket(
            limit="x-ratelimit-limit",
            remaining="x-ratelimit-remaining",
            period="x-ratelimit-period",
            is_window=False,
        ),
    ),
}


def read_dialects(given: object, report: Report) -> dict[str, Dialect]:
    """Return the built-in and the given dialects by name; a given one replaces a built-in one. Report faults."""
    known = dict(BUILT_IN)
    if given is not None and not isinstance(given, Mapping):
        report("dialects", f"{shown(given)} is not a mapping; give one such as {{'example': {_EXAMPLE}}}")
        return known
    for name, tables in (given or {}).items():
        where = where_dialect(name)
        if not isinstance(name, str) or not name:
            report(where, f"dialect {shown(name)} is not a name; give a str")
            continue
        known[name] = ()
        several = isinstance(tables, list | tuple)
        for number, table in enumerate(tables if several else (tables,)):
            found = list(_faults_of(table))
            for fault in found:
                report(f"{where}[{number}]" if several else where, fault)
            if not found:
                known[name] += (_bucket(table),)
        if several and not tables:
            report(where, f"has no table; give one such as {_EXAMPLE}")
    return known


def where_dialect(name: object) -> str:
    """Return how a fault names a dialect."""
    return f"dialects[{shown(name)}]"


def check_headers(headers: object, known: Mapping[str, Dialect]) -> None:
    """Raise ConfigurationError unless ``headers`` is true, false or the name of a known dialect."""
    if isinstance(headers, bool):
        return
    names = ", ".join(known)
    if isinstance(headers, str):
        if headers in known:
            return
        what = unknown("dialect", headers, known, "")
        raise ConfigurationError(f"headers: {what.rstrip('; ')}; give true, or one of {names}")
    raise ConfigurationError(
        f"headers {shown(headers)} are not known; give true for RateLimit headers, or a dialect: {names}"
    )


def _faults_of(table: object) -> Iterator[str]:
    if not isinstance(table, Mapping):
        yield f"{shown(table)} is not a table; give one such as {_EXAMPLE}"
        return
    for key, value in table.items():
        if key not in KEYS:
            yield unknown("key", key, KEYS, f"give {', '.join(KEYS)}")
        elif key == "unit":
            if not isinstance(value, str) or not _UNIT.fullmatch(value):
                yield f"unit {shown(value)} is not an identifier; give one such as 'tokens'"
        elif not isinstance(value, str) or not _HEADER.fullmatch(value):
            yield f"{key} {shown(value)} is not the name of a header; give one such as 'X-RateLimit-{key.title()}'"
    if not any(key in table for key in ("limit", "remaining", "used")):
        yield f"names no header for limit, remaining or used; give one, as in {_EXAMPLE}"


def _bucket(table: Mapping[str, str]) -> Bucket:
    names: dict[str, Any] = {key: table[key].lower() for key in HEADERS if key in table}
    unit = table.get("unit", CALLS)
    return Bucket(**names, units=(CALLS if unit.lower() in OF_CALLS else unit,))
