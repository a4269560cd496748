"""Budgets: how much of its windows a service says is left, read from the RateLimit headers of an answer.

- ``RateLimit`` and ``RateLimit-Policy``, as in the IETF's drafts: ``"api";r=50;t=30`` with ``"api";q=100;w=60``, and
  before that ``limit=100, remaining=50, reset=30`` with ``100;w=60``.
- In three headers: ``RateLimit-Limit``, ``-Remaining``, ``-Reset``, with ``X-`` before them too; of requests (not of
  tokens) as OpenAI and Anthropic write them.
- A reset is in seconds, a duration such as ``6m0s``, Unix time in s or ms, an HTTP date, or RFC 3339's. A point in
  time counts from the answer's own ``Date``, where it has one.
  It is taken for a window's end, but for OpenAI and Anthropic, whose buckets fill bit by bit.
- A duration is known as closely as its last digit tells, to a second or a ms; a point in time to a second.
- What can't be meant is left out, and told as a fault: no number, a limit of 0, more left than the limit, a limit
  or a reset without a word of what is left, a reset over a minute past.

Pure, and raises for no text whatever.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from nekkar.core.quota import SECOND
from nekkar.core.window.feedback import Budget
from nekkar.http.retry_after import date_us, left_us, number, unix_us

_WORD = r'"(?:[^"\\]|\\.)*"|[^\s;,="]+'
_ITEM = re.compile(rf"\s*({_WORD})((?:\s*;\s*[a-z*][\w.*-]*(?:=(?:{_WORD})?)?)*)\s*(?:,|\Z)", re.ASCII)
_PARAMETER = re.compile(r";\s*([qwrt])=([^\s;,]*)")
_PAIR = re.compile(r"\b(limit|remaining|reset)\s*=\s*([^\s,;]+)")
_WHOLE = re.compile(r"[0-9]{1,15}")
_DURATION = re.compile(r"(?:[0-9]{1,12}(?:\.[0-9]{1,9})?(?:ns|us|µs|ms|[dhms]))+")
_PART = re.compile(r"([0-9.]+)([a-zµ]+)")
_UNITS = {"ns": 0.001, "us": 1, "µs": 1, "ms": 1000, "s": SECOND, "m": 60 * SECOND, "h": 3600 * SECOND}
_UNITS |= {"d": 86_400 * SECOND}
NOTHING = "nothing"
_UNIX_S, _UNIX_MS, _UNIX_END = 10**9, 10**11, 10**14
_GRAINS = (SECOND, SECOND // 10, SECOND // 100, SECOND // 1000)

_WINDOWS = [
    (f"{before}-limit", f"{before}-remaining", f"{before}-reset")
    for before in ("ratelimit", "x-ratelimit", "x-rate-limit")
]
_BUCKETS = [
    ("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
    (
        "anthropic-ratelimit-requests-limit",
        "anthropic-ratelimit-requests-remaining",
        "anthropic-ratelimit-requests-reset",
    ),
]


@dataclass(frozen=True, slots=True)
class Reading:
    """What the headers of an answer tell, and what of them can't be meant."""

    budgets: tuple[Budget, ...]
    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Told:
    """One budget as text; a part is None where it is not told. ``policy``: what may tell the period."""

    remaining: str
    limit: str | None
    reset: str | None
    policy: str
    is_window: bool = True


def read(headers: Mapping[str, str], now_us: int, date: str | None = None) -> Reading:
    """Return what the headers (names in lower case) of an answer tell; ``date``: its ``Date``."""
    budgets: list[Budget] = []
    faults: list[str] = []
    for told in _all_told(headers):
        budget = _budget(told, now_us, date, faults)
        budgets += [budget] if budget else []
    return Reading(tuple(dict.fromkeys(budgets)), tuple(faults))


def _all_told(headers: Mapping[str, str]) -> Iterator[_Told]:
    policy = headers.get("ratelimit-policy", "")
    if text := headers.get("ratelimit"):
        pairs = dict(_PAIR.findall(text))
        if "remaining" in pairs:
            yield _Told(pairs["remaining"], pairs.get("limit"), pairs.get("reset"), policy)
        else:
            quotas = {name: values.get("q") for name, values in _items(policy)}
            for name, values in list(_items(text)) or [("", {})]:
                yield _Told(values.get("r", NOTHING), quotas.get(name), values.get("t"), policy)
    for names in _WINDOWS + _BUCKETS:
        limit, remaining, reset = map(headers.get, names)
        if (limit, remaining, reset) != (None, None, None):
            first = limit.partition(",")[0].partition(";")[0] if limit else limit
            left = NOTHING if remaining is None else remaining
            yield _Told(left, first, reset, f"{limit or ''}, {policy}", names in _WINDOWS)


def _items(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the members of a structured list, with those of their parameters that matter here."""
    at = 0
    while found := _ITEM.match(text, at):
        yield found[1], dict(_PARAMETER.findall(found[2]))
        at = found.end()


def _budget(told: _Told, now_us: int, date: str | None, faults: list[str]) -> Budget | None:
    remaining, limit = whole(told.remaining), None if told.limit is None else whole(told.limit)
    reset = None if told.reset is None else reset_us(told.reset, now_us, date)
    if told.reset is not None and reset is None:
        faults.append(f"a reset of {told.reset}")
    if told.limit is not None and not limit:
        faults.append(f"a limit of {told.limit}")
    elif remaining is None or (limit is not None and remaining > limit):
        faults.append(f"{told.remaining} remaining" + (f" of {told.limit}" if limit else ""))
    else:
        return Budget(remaining, limit, _period_us(limit, told.policy), reset, told.is_window, _grain_us(told.reset))
    return None


def _period_us(limit: int | None, policy: str) -> int | None:
    """Return the length of the window that has this limit, where a policy such as ``100;w=60`` tells it."""
    for name, values in _items(policy):
        if limit is not None and whole(values.get("q", name)) == limit and "w" in values:
            return whole(values["w"], SECOND)
    return None


def whole(text: str, times: int = 1) -> int | None:
    """Return a whole number that is not negative, so many times; None for whatever is none."""
    return int(text) * times if _WHOLE.fullmatch(text := text.strip()) else None


def reset_us(text: str, now_us: int, date: str | None = None) -> int | None:
    """Return how many µs from now a reset is, None where it can't be read, or is long past; ``date``: of its answer."""
    span = _span_us(text)
    if span is not None:
        return span
    at = _point_us(text)
    return None if at is None else left_us(at, now_us, date)


def _grain_us(text: str | None) -> int:
    """Return how closely a reset is told. A point in time is one beside a clock, or a ``Date``, of whole seconds."""
    span = (None if text is None else _span_us(text)) or 0
    return next((grain for grain in _GRAINS if span % grain == 0), _GRAINS[-1])


def _span_us(text: str) -> int | None:
    """Return a reset that is told as a duration, or in seconds."""
    text = text.strip()
    if _DURATION.fullmatch(text):
        return round(sum(float(value) * _UNITS[unit] for value, unit in _PART.findall(text)))
    value = number(text)
    return round(value * SECOND) if value is not None and value < _UNIX_S else None


def _point_us(text: str) -> int | None:
    """Return a reset that is told as a point in time."""
    value = number(text)
    if value is None:
        return date_us(text) or _rfc3339_us(text.strip())
    return round(value * SECOND / (1 if value < _UNIX_MS else 1000)) if value < _UNIX_END else None


def _rfc3339_us(text: str) -> int | None:
    try:
        return unix_us(datetime.fromisoformat(text))
    except (ValueError, OverflowError):
        return None
