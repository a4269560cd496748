"""Retry-After: how long a service asks its callers to stay away, read from the header's text.

- A number of seconds, whole or with a fraction; a duration such as ``1m30s``; or a point in time: an HTTP date in any
  of its three forms (RFC 9110, 10.2.3 and 5.6.7), an RFC 3339 date, or Unix time.
- Of several waits, as where a proxy adds a header of its own, the longest counts.
- From 10^9 on a number is Unix time, in s, ms, µs or ns by its size: no service asks for a wait of 31 years. A number
  too large for that is a wait in seconds, which the caller caps.
- A point in time counts from the answer's own ``Date``, where it has one: the service's clock may differ from ours.
- An invalid value is ignored: not a number, negative, or a time over a minute ago. A more recent time is a wait of 0.

Resets of RateLimit headers are read alike. Pure, and raises for no text whatever.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from nekkar.core.quota import SECOND

LONG_PAST_US = 60 * SECOND
MOST_DIGITS = 24

_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]*)?")
_DURATION = re.compile(r"(?:[0-9]{1,12}(?:\.[0-9]{1,9})?(?:ns|us|µs|ms|[dhms]))+")
_PART = re.compile(r"([0-9.]+)([a-zµ]+)")
_UNITS = {"ns": 0.001, "us": 1, "µs": 1, "ms": 1000, "s": SECOND, "m": 60 * SECOND, "h": 3600 * SECOND}
_UNITS |= {"d": 86_400 * SECOND}
UNIX_FROM, UNIX_END = 10**9, 10**20  # 2001 in seconds, 5138 in nanoseconds
_UNIX = ((10**11, 1), (10**14, 1000), (10**17, 10**6), (UNIX_END, 10**9))  # a number below the first is in 1/second s


def wait_us(text: str, now_us: int, date: str | None = None, unit_us: int = SECOND) -> int | None:
    """Return the microseconds that ``Retry-After`` asks for, None where it can't be read.

    ``date``: of its answer. ``unit_us``: what a number counts.
    """
    spans = [span_us(part, unit_us) for part in text.split(",")]
    if None not in spans:
        return max(span for span in spans if span is not None)
    value = number(text)
    if value is not None and value >= UNIX_END:
        return round(value * unit_us)
    until = point_us(text)
    return None if until is None else left_us(until, now_us, date)


def span_us(text: str, unit_us: int = SECOND) -> int | None:
    """Return a wait that is written as a duration, or as a number of ``unit_us``; None for all else."""
    text = text.strip()
    if _DURATION.fullmatch(text):
        return round(sum(float(value) * _UNITS[unit] for value, unit in _PART.findall(text)))
    value = number(text)
    return round(value * unit_us) if value is not None and value < UNIX_FROM else None


def point_us(text: str) -> int | None:
    """Return a point in time as Unix time in microseconds, None for all else."""
    value = number(text)
    if value is None:
        return date_us(text) or _rfc3339_us(text.strip())
    return next((round(value * SECOND / parts) for end, parts in _UNIX if UNIX_FROM <= value < end), None)


def left_us(until: int, now_us: int, date: str | None) -> int | None:
    """Return how long an instant is off, None where it is long past; by the answer's own ``date`` where it has one."""
    answered = date_us(date) if date else None
    wait = until - (now_us if answered is None else answered)
    return None if wait < -LONG_PAST_US else max(0, wait)


def number(text: str) -> float | None:
    """Return a number that is not negative; one of too many digits is cut, which leaves it large."""
    text = text.strip()
    if not _NUMBER.fullmatch(text):
        return None
    whole, _, fraction = text.partition(".")
    return float(f"{whole.lstrip('0')[:MOST_DIGITS] or 0}.{fraction[:9] or 0}")


def date_us(text: str) -> int | None:
    """Return an HTTP date as Unix time in microseconds."""
    try:
        return _unix_us(parsedate_to_datetime(text))
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _rfc3339_us(text: str) -> int | None:
    try:
        return _unix_us(datetime.fromisoformat(text))
    except (ValueError, OverflowError):
        return None


def _unix_us(instant: datetime) -> int:
    """Return an instant as Unix time in microseconds; without a zone it is UTC's."""
    aware = instant if instant.tzinfo else instant.replace(tzinfo=UTC)
    return round(aware.timestamp() * SECOND)
