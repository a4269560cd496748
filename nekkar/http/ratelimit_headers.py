"""RateLimit headers: how much of its windows a service says is left, read from the headers of an answer.

- ``RateLimit`` and ``RateLimit-Policy``, as in the IETF's drafts from 8 on: ``"api";r=50;t=30`` with
  ``"api";q=100;w=60``; as in draft 7: ``limit=100, remaining=50, reset=30`` with ``100;w=60``.
- One header for each number: ``RateLimit-Limit``, ``-Remaining``, ``-Reset`` (drafts 0 to 6), and with ``X-`` or
  ``X-Rate-Limit`` before them. ``-Used`` or ``-Usage`` serves where ``-Remaining`` is missing, and ``-Period``,
  ``-Interval`` or ``-Window`` tells the period. A name may end in a period (``X-RateLimit-Limit-Hour``) or in
  ``-Requests``, as OpenAI, Anthropic and RapidAPI write it.
- A count may have a fraction (of a call that is left in part, nothing is left), and its period: ``40;w=21600``,
  ``150/15m`` or ``20:1``. Several counts are of several buckets where each header has as many (``200,2000`` with
  ``50,1900``). To one count alone belongs the first of several limits; the others are policies, as the drafts have it.
- A reset is what ``Retry-After`` may be: seconds, a duration, a point in time. It is taken for a window's end, but not
  in names with ``Requests``: the buckets of OpenAI and Anthropic fill bit by bit.
- A duration is known as closely as its last digit tells, to a second or a ms; a point in time to a second.
- What counts anything but requests (the ``qu`` of a policy) is left out. An item whose name none of the told policies
  has is of another bucket.
- What can't be meant is left out, and told as a fault: not a number, a limit of 0, more left than the limit, a limit
  or a reset without a word of what is left, a reset over a minute past.

Pure, and raises for no text whatever.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from nekkar.core.quota import SECOND
from nekkar.core.window.feedback import ReportedQuota
from nekkar.http.retry_after import left_us, point_us, span_us

# Atomic groups: a text that nearly fits takes no exponential time.
_WORD = r'(?>"(?:[^"\\]|\\.)*"|:[A-Za-z0-9+/=]*:|[^\s;,="]+)'
_ITEM = re.compile(rf"\s*({_WORD})((?:\s*;\s*[a-z*][\w.*-]*(?:={_WORD}?)?)*)\s*(?:,|\Z)", re.ASCII)
_PARAMETER = re.compile(rf";\s*([a-z*][\w.*-]*)(?:=({_WORD})?)?", re.ASCII)
_PAIR = re.compile(r"\b(limit|remaining|reset)\s*=\s*([^\s,;]+)")
_COUNT = re.compile(r"([0-9]{1,15})(?:\.([0-9]{0,9}))?(?::([0-9]{1,12})|/([0-9]{0,9})([a-z]+))?")
_GROUPED = re.compile(r"[0-9]{1,3}(?:,[0-9]{3})+")
_NAME = re.compile(
    r"((?:x-)?rate-?limit|anthropic-ratelimit)(-requests)?"
    r"(?:-(limit|remaining|used|usage|reset|period|interval|window))?"
    r"(?:-(requests|second|minute|hour|day|week|month|year))?"
)
_KINDS = {"": "limit", "usage": "used", "interval": "period", "window": "period"}  # the others are their own
_UNITS = {"s": 1, "sec": 1, "second": 1, "m": 60, "min": 60, "minute": 60, "h": 3600, "hr": 3600, "hour": 3600}
_UNITS |= {"d": 86_400, "day": 86_400, "w": 604_800, "week": 604_800, "month": 30 * 86_400, "year": 365 * 86_400}
NOTHING = "nothing"
MOST_TEXT, MOST_ITEMS = 2000, 32  # characters and members of one header
TOO_LONG = f"over {MOST_TEXT} characters"  # a text that can't be read, in place of one that takes long to
_GRAINS = (SECOND, SECOND // 10, SECOND // 100, SECOND // 1000)

_Items = list[tuple[str, dict[str, str]]]


@dataclass(frozen=True, slots=True)
class Reading:
    """What the headers of an answer tell, what of it is said to be of another bucket, and what can't be meant."""

    budgets: tuple[ReportedQuota, ...]
    others: tuple[ReportedQuota, ...]
    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Count:
    """A count as its header spells it. ``calls``: None where it can't be read; ``is_exact``: they are all of it."""

    text: str
    calls: int | None = None
    is_exact: bool = True
    period_us: int | None = None


def read(headers: Mapping[str, str], now_us: int, date: str | None = None) -> Reading:
    """Return what the headers (names in lower case) of an answer tell; ``date``: its ``Date``."""
    texts = {name: text if len(text) <= MOST_TEXT else TOO_LONG for name, text in headers.items()}
    reader = _Reader(now_us, date, _items(texts.get("ratelimit-policy", "")))
    families: defaultdict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for name, text in texts.items():
        if name == "ratelimit":
            reader.read_field(text)
        elif found := _NAME.fullmatch(name):
            family, before, kind, after = (part or "" for part in found.groups())
            families[family, after or before[1:]].setdefault(_KINDS.get(kind, kind), text)
    for (_, of), told in families.items():
        period = _length_us(told.pop("period", of))
        if told:
            reader.read_family(told, period, is_window=of != "requests")
    return Reading(tuple(dict.fromkeys(reader.budgets)), tuple(dict.fromkeys(reader.others)), tuple(reader.faults))


class _Reader:
    """Collects what the headers of one answer tell."""

    def __init__(self, now_us: int, date: str | None, policies: _Items) -> None:
        self._now_us, self._date, self._policies = now_us, date, policies
        self.budgets, self.others, self.faults = list[ReportedQuota](), list[ReportedQuota](), list[str]()

    def read_field(self, text: str) -> None:
        """Read a ``RateLimit`` field."""
        pairs = dict(_PAIR.findall(text))
        if "remaining" in pairs:
            limit = _count(pairs["limit"]) if "limit" in pairs else None
            self._add(_count(pairs["remaining"]), limit, pairs.get("reset"), self._policy_us(limit, []))
            return
        named = {_bare(name): terms for name, terms in self._policies if "q" in terms}
        for name, values in _items(text) or [("", {})]:
            policy = named.get(_bare(name), {})
            terms = policy | values
            if _is_of_requests(terms):
                limit = _count(terms["q"]) if "q" in terms else None
                is_other = bool(named) and not policy
                self._add(_count(terms.get("r", NOTHING)), limit, terms.get("t"), _window_us(terms), is_other=is_other)

    def read_family(self, told: Mapping[str, str], period_us: int | None, is_window: bool) -> None:
        """Read one header for each number; ``told``: their texts, by what they tell."""
        limits = _counts(told.get("limit"))
        used, remaining = (_counts(told.get(what), is_list=len(limits) > 1) for what in ("used", "remaining"))
        if not remaining and len(used) in (1, len(limits)):
            remaining = [_left(limit, spent) for limit, spent in zip(limits, used, strict=False)]
        remaining = remaining or [_Count(NOTHING)]
        if 1 < len(remaining) != len(limits) > 0:
            self.faults.append(f"{told.get('remaining', NOTHING)} remaining of {told['limit']}")
            return
        resets = self._resets(told.get("reset"), len(remaining))
        for index, left in enumerate(remaining):
            limit = limits[index] if limits else None
            period = period_us or left.period_us or self._policy_us(limit, _items(told.get("limit", "")))
            self._add(left, limit, resets[index], period, is_window)

    def _add(
        self, left: _Count, limit: _Count | None, reset: str | None, period_us: int | None,
        is_window: bool = True, is_other: bool = False,
    ) -> None:  # fmt: skip
        """Take in what remains of a window, or say what of it can't be meant."""
        until = None if reset is None else reset_us(reset, self._now_us, self._date)
        if reset is not None and until is None:
            self.faults.append(f"a reset of {reset}")
        if limit and not (limit.calls and limit.is_exact):
            self.faults.append(f"a limit of {limit.text}")
        elif left.calls is None or (limit and limit.calls and left.calls > limit.calls):
            self.faults.append(f"{left.text} remaining" + (f" of {limit.text}" if limit else ""))
        else:
            total = limit.calls if limit else None
            budget = ReportedQuota(left.calls, total, period_us, until, is_window, _grain_us(reset))
            (self.others if is_other else self.budgets).append(budget)

    def _policy_us(self, limit: _Count | None, limits: _Items) -> int | None:
        """Return the period that is told for this limit; None where none is, or several are."""
        if limit is None:
            return None
        if limit.period_us:
            return limit.period_us
        policies = [terms | {"q": terms.get("q", name)} for name, terms in [*limits, *self._policies] if "w" in terms]
        periods = {
            _window_us(terms)
            for terms in policies
            if _count(terms["q"]).calls == limit.calls and _is_of_requests(terms)
        }
        return periods.pop() if len(periods) == 1 else None

    def _resets(self, text: str | None, count: int) -> list[str | None]:
        """Return the resets of so many buckets. One may be a date, which has a comma."""
        if text is None or (count == 1 and reset_us(text, self._now_us, self._date) is not None):
            return [text] * count
        listed: list[str | None] = [name for name, _ in _items(text)]
        if len(listed) != count:
            self.faults.append(f"a reset of {text}")
        return listed if len(listed) == count else [None] * count


def reset_us(text: str, now_us: int, date: str | None = None) -> int | None:
    """Return how many µs from now a reset is, None where it can't be read, or is long past; ``date``: of its answer."""
    span = span_us(text)
    if span is not None:
        return span
    at = point_us(text)
    return None if at is None else left_us(at, now_us, date)


def _items(text: str) -> _Items:
    """Return the members of a structured list, with their parameters; nothing where it is none."""
    items: _Items = []
    at = 0
    while at < len(text):
        found = _ITEM.match(text, at)
        if not found or len(items) == MOST_ITEMS:
            return []
        items.append((found[1], dict(_PARAMETER.findall(found[2]))))
        at = found.end()
    return items


def _counts(text: str | None, is_list: bool = False) -> list[_Count]:
    """Return the counts that a header lists, none where it was not sent; ``is_list``: it stands beside such a list."""
    if text is None:
        return []
    if _GROUPED.fullmatch(text) and not is_list:
        return [_Count(text)]  # 4,987: one number or two?
    return [_count(name, _window_us(terms)) for name, terms in _items(text)] or [_Count(text)]


def _count(text: str, period_us: int | None = None) -> _Count:
    """Return a count such as ``40``, ``40.0``, ``150/15m`` or ``20:1``."""
    found = _COUNT.fullmatch(text.lower())
    if not found:
        return _Count(text)
    calls, fraction, seconds, times, unit = found.groups("")
    if seconds or unit:
        period_us = int(seconds) * SECOND if seconds else _unit_us(unit, int(times or 1))
        if not period_us:
            return _Count(text)
    return _Count(text, int(calls), not fraction.strip("0"), period_us)


def _left(limit: _Count, used: _Count) -> _Count:
    """Return what remains, where a service tells what is used instead."""
    if limit.calls is None or used.calls is None:
        return _Count(f"{used.text} used, and nothing")
    return _Count(f"{limit.text} less {used.text}", max(0, limit.calls - used.calls), True, used.period_us)


def _window_us(terms: Mapping[str, str]) -> int | None:
    """Return the period that parameters tell, in whole seconds."""
    return _length_us(terms["w"]) if terms.get("w", "").isdecimal() else None


def _length_us(text: str) -> int | None:
    """Return a period that is told as a duration, or in seconds, or as a unit's name."""
    return span_us(text) or _unit_us(text.strip().lower())


def _unit_us(unit: str, times: int = 1) -> int | None:
    name = unit.removesuffix("s") if len(unit) > 2 else unit
    return _UNITS[name] * times * SECOND or None if name in _UNITS else None


def _bare(name: str) -> str:
    """Return a name without its quotes, which some services leave out."""
    return name.strip('"')


def _is_of_requests(terms: Mapping[str, str]) -> bool:
    """Whether a policy counts requests, and not bytes or calls at once."""
    return _bare(terms.get("qu", "requests")) == "requests"


def _grain_us(text: str | None) -> int:
    """Return how closely a reset is told. A point in time is one beside a clock, or a ``Date``, of whole seconds."""
    span = (None if text is None else span_us(text)) or 0
    return next((grain for grain in _GRAINS if span % grain == 0), _GRAINS[-1])
