"""Retry-After: how long a service asks its callers to stay away, read from the header's text.

- Seconds, whole or with a fraction; or a date, in any of HTTP's three forms (RFC 9110, 10.2.3 and 5.6.7).
- A date counts from the answer's own ``Date``, where it has one: the service's clock may differ from ours.
- What can't be meant is no wait: not a number, negative, a date over a minute past. A date less past is a wait of 0.

Pure, and raises for no text whatever.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from nekkar.core.quota import SECOND

LONG_PAST_US = 60 * SECOND
MOST_DIGITS = 18

_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]*)?")


def wait_us(text: str, now_us: int, date: str | None = None) -> int | None:
    """Return the microseconds that ``Retry-After`` asks for, None where it can't be read; ``date``: of its answer."""
    seconds = number(text)
    if seconds is not None:
        return round(seconds * SECOND)
    until = date_us(text)
    return None if until is None else left_us(until, now_us, date)


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
        return unix_us(parsedate_to_datetime(text))
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def unix_us(instant: datetime) -> int:
    """Return an instant as Unix time in microseconds; without a zone it is UTC's."""
    aware = instant if instant.tzinfo else instant.replace(tzinfo=UTC)
    return round(aware.timestamp() * SECOND)
