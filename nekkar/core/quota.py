"""Rates and quotas: from ``"500/minute; 150000 tokens/minute"`` to values.

A rate is a whole number of calls, or of hits in another unit, per period. A quota is the rates that one limit must keep
at once, with the spacing between its slots and the margin of its windows. All times inside are integer microseconds.
The notation extends that of the ``limits`` package: ``COUNT [UNIT] / [MULTIPLE] PERIOD``, or ``per`` for the slash;
several rates are separated by ``;``, ``,`` or ``|``. Without a unit, and with ``calls`` or ``requests``, a rate counts
the calls themselves; any other word is a unit of its own, such as ``tokens``.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, SupportsIndex

from nekkar.core.cost import CALLS, Hits, cost_of, fits
from nekkar.core.errors import ConfigurationError, CostNotGiven, plain, shown

SECOND = 1_000_000
WHOLE = 10_000  # of a headroom: it is counted in hundredths of a percent
MAX_COUNT = 10**9
MIN_PERIOD = SECOND // 1000
MAX_PERIOD = 100 * 365 * 86_400 * SECOND
MIN_MARGIN = SECOND // 1000
MAX_MARGIN = 3600 * SECOND

_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400, "week": 604_800}
_SECONDS |= {"month": 30 * 86_400, "year": 365 * 86_400}
_SHORT = {"s": "second", "sec": "second", "min": "minute", "h": "hour", "hr": "hour", "d": "day", "w": "week"}
_UNITS = _SECONDS | {short: _SECONDS[long] for short, long in _SHORT.items()}
_UNITS |= {f"{unit}s": seconds for unit, seconds in _UNITS.items() if len(unit) > 1}
LONGEST_UNIT = 64  # characters
_RATE = re.compile(
    r"([0-9]+)(?:\s+(?!per\b)([a-z_][a-z0-9_]*))?\s*(?:/|(?<=\s)per\s)\s*([0-9]+)?\s*([a-z]+)(?:\s+(.+))?",
    re.IGNORECASE | re.ASCII,
)
_OF_CALLS = {"call", "calls", "request", "requests"}
_NOT_YET = ("burst", "aligned")
_EXPECTED = (
    "expected COUNT/PERIOD or COUNT UNIT/PERIOD such as '10/second', '5 per 2 hours' or '150000 tokens/minute', several"
    " separated by ';'"
)


@dataclass(frozen=True, slots=True, order=True)
class Rate:
    """At most ``count`` calls, or hits in another ``unit``, in any ``period_us`` microseconds."""

    period_us: int
    count: int
    unit: str = CALLS

    def __str__(self) -> str:
        unit = "" if self.unit == CALLS else f" {self.unit}"
        return f"{self.count}{unit} per {plain(self.period_us / SECOND)} s"


@dataclass(frozen=True)
class Quota:
    """What one limit keeps: every rate at once, least spacing between slots, the windows' margin.

    Windows are booked ``period_us + margin_us`` long; a slot is good for half the margin.
    """

    rates: tuple[Rate, ...]
    spacing_us: int
    margin_us: int

    @cached_property
    def units(self) -> tuple[str, ...]:
        """The units that it counts, calls first."""
        return tuple(sorted({rate.unit for rate in self.rates}, key=lambda unit: (unit != CALLS, unit)))

    @cached_property
    def counts_calls_alone(self) -> bool:
        """Whether it counts no other unit."""
        return self.units == (CALLS,)

    def good_until(self, slot: int) -> int:
        """Return until when a call may start on its slot; the other half of the margin is for the way there."""
        return slot + self.margin_us // 2

    def most(self, unit: str) -> int:
        """Return the most hits of a unit that every window can hold at all."""
        return min((rate.count for rate in self.rates if rate.unit == unit), default=MAX_COUNT)

    @cached_property
    def largest_cost(self) -> Hits:
        """The largest cost that every window can hold at all, in every unit that it counts."""
        return cost_of({unit: self.most(unit) for unit in self.units})

    @cached_property
    def one_of_each(self) -> Hits:
        """One hit in each unit that it counts."""
        return cost_of(dict.fromkeys(self.units, 1))

    @cached_property
    def late_us(self) -> int:
        """How long after a slot its call may come, for the slot to be granted ahead (rule 2).

        A quarter of the margin, 12.5 ms at most, where slots are spaced by less than an eighth of that; else 0.
        """
        late_us = min(self.margin_us // 4, SECOND // 80)  # workers may have margins of their own
        return late_us if 0 < self.spacing_us < late_us // 8 else 0

    def admits(self, cost: Hits) -> bool:
        """Return whether every window can hold a cost at all."""
        return fits(cost, self.largest_cost)

    def __str__(self) -> str:
        return "; ".join(map(str, self.rates))

    def described(self) -> str:
        """Return all terms in words."""
        return f"{self} with spacing {plain(self.spacing_us / SECOND)} s and margin {plain(self.margin_us / SECOND)} s"


def quota(
    rate_limit: int | str,
    period: float | None = None,
    spacing: float | str = 0.0,
    margin: float | None = None,
) -> Quota:
    """Read a limit as users write it; durations in seconds.

    Raises ConfigurationError, with the text and what was expected, for an invalid quota.
    """
    try:
        hash((rate_limit, period, spacing, margin))
    except TypeError:  # never a quota; a tuple of lists claims to be Hashable
        return _quota.__wrapped__(rate_limit, period, spacing, margin)
    return _quota(rate_limit, period, spacing, margin)


@lru_cache(maxsize=1024, typed=True)
def _quota(rate_limit: int | str, period: float | None, spacing: float | str, margin: float | None) -> Quota:
    rates = _rates(rate_limit, period)
    return Quota(rates, _spacing_us(spacing, rates), _margin_us(margin, rates))


def whole(value: SupportsIndex, what: str, most: int = MAX_COUNT, least: int = 1) -> int:
    """Return ``value`` as an int from ``least`` to ``most``, or raise ConfigurationError naming ``what``."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise ConfigurationError(
            f"{what} {shown(value)} is not a whole number; give an int from {least} to {most}"
        ) from None
    if not least <= number <= most:
        raise ConfigurationError(f"{what} {shown(value)} is out of bounds; give a whole number from {least} to {most}")
    return number


def to_us(value: Any, what: str, least_us: int = 0, most_us: int = MAX_PERIOD) -> int:
    """Return seconds as microseconds, rounded up, within bounds; ConfigurationError otherwise."""
    bounds = f"give seconds from {plain(least_us / SECOND)} to {plain(most_us / SECOND)}"
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise ConfigurationError(f"{what} {shown(value)} is not a number of seconds; {bounds}")
    if not least_us <= value * SECOND <= most_us:
        raise ConfigurationError(f"{what} {shown(value)} is out of bounds; {bounds}")
    return math.ceil(round(value * SECOND, 3))


def check_max_wait(max_wait: Any, name: str) -> float:
    """Return the seconds that a call of limit ``name`` waits at most; raise ConfigurationError for others."""
    return to_us(max_wait, f"limit {shown(name)}: max_wait") / SECOND


def leaving(quota: Quota, headroom: int) -> Quota:
    """Return the quota that calls with this headroom (in parts of ``WHOLE``) may use: whole hits of each window."""
    return _leaving(quota, headroom) if headroom else quota


@lru_cache(maxsize=1024)
def _leaving(quota: Quota, headroom: int) -> Quota:
    rates = tuple(replace(rate, count=rate.count * (WHOLE - headroom) // WHOLE) for rate in quota.rates)
    return Quota(rates, quota.spacing_us, quota.margin_us)


def read_headroom(headroom: Any, what: str) -> int:
    """Return a headroom, from 0 to below 1, in parts of ``WHOLE``, rounded up; ConfigurationError otherwise."""
    is_number = isinstance(headroom, int | float) and not isinstance(headroom, bool)
    if not is_number or not 0 <= headroom < 1:
        raise ConfigurationError(
            f"{what} {shown(headroom)} is out of bounds; give a number from 0 to below 1; 0.2 leaves a fifth free"
        )
    return min(math.ceil(round(float(headroom) * WHOLE, 6)), WHOLE - 1)


def read_cost(cost: Any, quota: Quota, name: str, headroom: int = 0) -> Hits:
    """Return what a call of limit ``name`` costs: a whole number of calls, or a mapping of units to hits.

    Raises ConfigurationError for a unit that the quota does not count, for one that it counts and ``cost`` does not
    give (but for calls: 1), and for a cost that no window holds. Calls that the quota does not count are left out.
    """
    what = f"limit {shown(name)}: cost"
    if not isinstance(cost, Mapping):
        costs = {CALLS: whole(cost, what)}
    else:
        for unit in cost:
            if unit != CALLS and unit not in quota.units:
                raise ConfigurationError(
                    f"{what} {shown(cost)}: {shown(unit)} is not counted; {quota} counts {', '.join(quota.units)}"
                )
        costs = {CALLS: 1} | {unit: whole(hits, f"{what} in {unit}", least=0) for unit, hits in cost.items()}
    for unit in quota.units:
        if unit not in costs:
            counts = f"which {quota} counts; give a mapping with {', '.join(quota.units)}"
            raise CostNotGiven(f"{what} {shown(cost)} does not give {unit}, {counts}")
    asked = cost_of({unit: costs[unit] for unit in quota.units})
    part = leaving(quota, headroom)
    if not part.admits(asked):
        left = f" with headroom {plain(headroom / WHOLE)}" if headroom else ""
        raise ConfigurationError(
            f"{what} {asked} can never be admitted under {quota}{left}; give at most {part.largest_cost}"
        )
    return asked


def _rates(rate_limit: int | str, period: float | None) -> tuple[Rate, ...]:
    if not isinstance(rate_limit, str):
        count = whole(rate_limit, "rate_limit")
        return (Rate(to_us(60.0 if period is None else period, "period", MIN_PERIOD), count),)
    if period is not None:
        raise ConfigurationError(
            f"rate_limit {shown(rate_limit)} names its own period, so period={shown(period)} can't be given too;"
            " leave one out"
        )
    parts = re.split(r"[;,|]", rate_limit)
    return tuple(sorted({_rate(part.strip(), rate_limit) for part in parts}))


def _rate(part: str, text: str) -> Rate:
    found = _RATE.fullmatch(part)
    if not found:
        where = f"{shown(part)} in rate {shown(text)}" if part != text else f"rate {shown(text)}"
        raise ConfigurationError(f"{where} is not a rate; {_EXPECTED}")
    count, unit, multiple, period, rest = found.groups()
    if rest:
        _check_rest(rest, text)
    if period.lower() not in _UNITS:
        hint = "'m' could be minute or month: write 'min' or 'month'" if period.lower() == "m" else "use one of"
        known = "" if period.lower() == "m" else " s, min, hour, day, week, month, year"
        raise ConfigurationError(f"period {period!r} in rate {shown(text)} is not known; {hint}{known}")
    period_us = _digits(multiple or "1", f"the multiple in rate {shown(text)}:") * _UNITS[period.lower()] * SECOND
    if period_us > MAX_PERIOD:
        raise ConfigurationError(f"the period in rate {shown(text)} is over 100 years; give a shorter one")
    return Rate(period_us, _digits(count, f"the count in rate {shown(text)}:"), _unit(unit, text))


def _unit(given: str | None, text: str) -> str:
    """Return the unit that a rate counts."""
    if given is None or given.lower() in _OF_CALLS:
        return CALLS
    if len(given) > LONGEST_UNIT:
        raise ConfigurationError(f"unit {shown(given)} in rate {shown(text)} is over {LONGEST_UNIT} characters long")
    return given


def _check_rest(rest: str, text: str) -> None:
    """Refuse what stands behind the period of a rate."""
    word = rest.split()[0].lower()
    if word in _NOT_YET:
        raise ConfigurationError(f"{word!r} in rate {shown(text)} is not supported yet; leave it out")
    raise ConfigurationError(f"{shown(rest)} in rate {shown(text)} is not known; {_EXPECTED}")


def _digits(text: str, what: str) -> int:
    """Read a run of ASCII digits; a run too long to be in bounds is never converted."""
    digits = text.lstrip("0")
    if len(digits) > 10:
        raise ConfigurationError(f"{what} {shown(text)} is out of bounds; give a whole number from 1 to {MAX_COUNT}")
    return whole(int(digits or "0"), what)


def _spacing_us(spacing: float | str, rates: tuple[Rate, ...]) -> int:
    if spacing == "even":
        gaps = [-(-rate.period_us // rate.count) for rate in rates if rate.unit == CALLS]
        if not gaps:
            raise ConfigurationError("spacing 'even' goes by the windows of calls, and the rate has none; give seconds")
        return max(gaps)
    if isinstance(spacing, str):
        raise ConfigurationError(f"spacing {shown(spacing)} is not known; give seconds, or 'even'")
    return to_us(spacing, "spacing")


def _margin_us(margin: float | None, rates: tuple[Rate, ...]) -> int:
    """Default to the larger of 50 ms and P/200, at most 1 s, P being the shortest period."""
    if margin is not None:
        return to_us(margin, "margin", MIN_MARGIN, MAX_MARGIN)
    return min(max(SECOND // 20, rates[0].period_us // 200), SECOND)
