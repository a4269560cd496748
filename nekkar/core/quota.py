"""Rates and quotas: from ``"10/second; 300/minute"`` to values.

A rate is a whole number of calls per period; a quota is the rates that one limit must keep at once,
with the spacing between its slots and the margin of its windows. All times inside are integer
microseconds. The notation is that of the ``limits`` package: ``COUNT / [MULTIPLE] UNIT`` or
``COUNT per [MULTIPLE] UNIT``, several of them parted by ``;``, ``,`` or ``|``.
"""

from __future__ import annotations

import math
import operator
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, SupportsIndex

from nekkar.core.errors import ConfigurationError, plain, shown

SECOND = 1_000_000
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
_RATE = re.compile(r"([0-9]+)\s*(?:/|\s+per\s+)\s*([0-9]+)?\s*([a-z]+)", re.IGNORECASE)
_EXPECTED = "expected COUNT/UNIT such as '10/second', '300/minute' or '5 per 2 hours', several parted by ';'"


@dataclass(frozen=True, slots=True, order=True)
class Rate:
    """At most ``count`` calls in any ``period_us`` microseconds."""

    period_us: int
    count: int

    def __str__(self) -> str:
        return f"{self.count} per {plain(self.period_us / SECOND)} s"


@dataclass(frozen=True, slots=True)
class Quota:
    """What one limit keeps: every rate at once, least spacing between slots, the windows' margin.

    Windows are booked ``period_us + margin_us`` long; a slot is good for half the margin.
    """

    rates: tuple[Rate, ...]
    spacing_us: int
    margin_us: int

    @property
    def max_cost(self) -> int:
        """The largest cost that every window can hold at all."""
        return min(rate.count for rate in self.rates)

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

    Raises ConfigurationError, with the text and what was expected, for whatever is no quota.
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


def whole(value: SupportsIndex, what: str, most: int = MAX_COUNT) -> int:
    """Return ``value`` as an int from 1 to ``most``, or raise ConfigurationError naming ``what``."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise ConfigurationError(f"{what} {shown(value)} is not a whole number; give an int from 1 to {most}") from None
    if not 1 <= number <= most:
        raise ConfigurationError(f"{what} {shown(value)} is out of bounds; give a whole number from 1 to {most}")
    return number


def micros(value: Any, what: str, least_us: int = 0, most_us: int = MAX_PERIOD) -> int:
    """Return seconds as microseconds, rounded up, within bounds; ConfigurationError otherwise."""
    bounds = f"give seconds from {plain(least_us / SECOND)} to {plain(most_us / SECOND)}"
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise ConfigurationError(f"{what} {shown(value)} is not a number of seconds; {bounds}")
    if not least_us <= value * SECOND <= most_us:
        raise ConfigurationError(f"{what} {shown(value)} is out of bounds; {bounds}")
    return math.ceil(round(value * SECOND, 3))


def patience(max_wait: Any, name: str) -> float:
    """Return the seconds that a call of limit ``name`` waits at most; ConfigurationError for what are none."""
    return micros(max_wait, f"limit {shown(name)}: max_wait") / SECOND


def _rates(rate_limit: int | str, period: float | None) -> tuple[Rate, ...]:
    if not isinstance(rate_limit, str):
        count = whole(rate_limit, "rate_limit")
        return (Rate(micros(60.0 if period is None else period, "period", MIN_PERIOD), count),)
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
    count, multiple, unit = found.groups()
    if unit.lower() not in _UNITS:
        hint = "'m' could be minute or month: write 'min' or 'month'" if unit.lower() == "m" else "use one of"
        known = "" if unit.lower() == "m" else " s, min, hour, day, week, month, year"
        raise ConfigurationError(f"unit {unit!r} in rate {shown(text)} is not known; {hint}{known}")
    period_us = _digits(multiple or "1", f"the multiple in rate {shown(text)}:") * _UNITS[unit.lower()] * SECOND
    if period_us > MAX_PERIOD:
        raise ConfigurationError(f"the period in rate {shown(text)} is over 100 years; give a shorter one")
    return Rate(period_us, _digits(count, f"the count in rate {shown(text)}:"))


def _digits(text: str, what: str) -> int:
    """Read a run of ASCII digits; a run too long to be in bounds is never converted."""
    digits = text.lstrip("0")
    if len(digits) > 10:
        raise ConfigurationError(f"{what} {shown(text)} is out of bounds; give a whole number from 1 to {MAX_COUNT}")
    return whole(int(digits or "0"), what)


def _spacing_us(spacing: float | str, rates: tuple[Rate, ...]) -> int:
    if spacing == "even":
        return max(-(-rate.period_us // rate.count) for rate in rates)
    if isinstance(spacing, str):
        raise ConfigurationError(f"spacing {shown(spacing)} is not known; give seconds, or 'even'")
    return micros(spacing, "spacing")


def _margin_us(margin: float | None, rates: tuple[Rate, ...]) -> int:
    """Default to the larger of 50 ms and P/200, at most 1 s, P being the shortest period."""
    if margin is not None:
        return micros(margin, "margin", MIN_MARGIN, MAX_MARGIN)
    return min(max(SECOND // 20, rates[0].period_us // 200), SECOND)
