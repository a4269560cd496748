"""RateLimit headers: how much of its windows a service says is left, read from the headers of an answer.

- ``RateLimit`` and ``RateLimit-Policy``, as in the IETF's drafts from 8 on: ``"api";r=50;t=30`` with
  ``"api";q=100;w=60``; as in draft 7: ``limit=100, remaining=50, reset=30`` with ``100;w=60``.
- One header for each number: ``RateLimit-Limit``, ``-Remaining``, ``-Reset`` (drafts 0 to 6), and with ``X-`` or
  ``X-Rate-Limit`` before them. ``-Used`` or ``-Usage`` serves where ``-Remaining`` is missing, and ``-Period``,
  ``-Interval`` or ``-Window`` tells the period. A name may end in a period (``X-RateLimit-Limit-Hour``) or in
  ``-Requests``, as OpenAI, Anthropic and RapidAPI write it, or in ``-Ms``, ``-Millis`` or ``-Milliseconds``.
- Several counts are of several buckets where each header has as many (``200,2000`` with ``50,1900``). To one count
  alone belongs the first of several limits; the others are policies, as the drafts have it.
- A reset is taken for a window's end, but not in names with ``Requests``: the buckets of OpenAI and Anthropic fill bit
  by bit.
- A limit with a period counts by itself, as a policy does that no item of ``RateLimit`` names. A limit without one
  counts only together with what is left.
- What counts anything but requests (the ``qu`` of a policy) is left out. An item whose name none of the told policies
  has is of another bucket.
- An invalid value is left out, and reported as a fault: not a number, a limit of 0, more left than the limit, a reset
  over a minute ago.

The forms of the values are in ``header_values``, and other services' names for them in ``dialects``.
Pure, and raises for no text whatever.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace

from nekkar.core.quota import SECOND
from nekkar.core.window.feedback import ReportedQuota
from nekkar.http.header_values import (
    NOTHING,
    Count,
    Items,
    bounded,
    count,
    counts,
    grain_us,
    items,
    left_of,
    length_us,
    reset_us,
    window_us,
)

MILLISECOND = SECOND // 1000

_PAIR = re.compile(r"\b(limit|remaining|reset)\s*=\s*([^\s,;]+)")
_NAME = re.compile(
    r"((?:x-)?rate-?limit|anthropic-ratelimit)(-requests)?"
    r"(?:-(limit|remaining|used|usage|reset|period|interval|window))?"
    r"(?:-(requests|second|minute|hour|day|week|month|year))?(-ms|-millis|-milliseconds)?"
)
_KINDS = {"": "limit", "usage": "used", "interval": "period", "window": "period"}  # the others are their own
_MILLIS = re.compile(r".*-(?:ms|millis|milliseconds)", re.DOTALL)

WINDOW = ReportedQuota(None, is_window=True)
BIT_BY_BIT = ReportedQuota(None)


@dataclass(frozen=True, slots=True)
class Reading:
    """The quotas in an answer's headers, those that name another bucket, and the invalid ones.

    ``resources``: the buckets that the headers name, with or without a quota.
    """

    budgets: tuple[ReportedQuota, ...]
    others: tuple[ReportedQuota, ...]
    faults: tuple[str, ...]
    resources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BucketHeaders:
    """The headers of one bucket: texts by role ("limit", "reset", …). ``number_us``: the unit of a number, by role."""

    texts: dict[str, str]
    number_us: dict[str, int]

    def add(self, role: str, name: str, text: str) -> None:
        """Take in a header, unless there is one of this role."""
        if role not in self.texts:
            self.texts[role] = text
            if _MILLIS.fullmatch(name):
                self.number_us[role] = MILLISECOND

    def period_us(self) -> int | None:
        """Return the period that the service reports."""
        return length_us(self.texts.get("period", ""), self.number_us.get("period", SECOND))


def read(headers: Mapping[str, str], now_us: int, date: str | None = None) -> Reading:
    """Return the quotas in the headers (names in lower case) of an answer; ``date``: its ``Date``."""
    texts = {name: bounded(text) for name, text in headers.items()}
    reader = Reader(now_us, date, items(texts.get("ratelimit-policy", "")))
    families: defaultdict[tuple[str, str], BucketHeaders] = defaultdict(lambda: BucketHeaders({}, {}))
    for name, text in texts.items():
        if name == "ratelimit":
            reader.read_field(text)
        elif found := _NAME.fullmatch(name):
            family, before, kind, after = (part or "" for part in found.groups()[:4])
            families[family, after or before[1:]].add(_KINDS.get(kind, kind), name, text)
    for (_, of), told in families.items():
        told.texts.setdefault("period", of)
        if len(told.texts) > 1:
            reader.read_family(told, BIT_BY_BIT if of == "requests" else WINDOW)
    reader.read_policies()
    return reader.reading()


class Reader:
    """Collects the quotas in the headers of one answer."""

    def __init__(self, now_us: int, date: str | None, policies: Items) -> None:
        self._now_us, self._date, self._policies = now_us, date, policies
        self._named = set[str]()  # the items of a field
        self.budgets, self.others, self.faults = list[ReportedQuota](), list[ReportedQuota](), list[str]()
        self.resources = list[str]()

    def reading(self) -> Reading:
        """Return all that was collected, each once."""
        budgets, others = (tuple(dict.fromkeys(found)) for found in (self.budgets, self.others))
        return Reading(budgets, others, tuple(self.faults), tuple(dict.fromkeys(self.resources)))

    def read_field(self, text: str) -> None:
        """Read a ``RateLimit`` field."""
        pairs = dict(_PAIR.findall(text))
        if "remaining" in pairs:
            limit = count(pairs["limit"]) if "limit" in pairs else None
            period = self._policy_us(limit, [])
            self._add(count(pairs["remaining"]), limit, pairs.get("reset"), replace(WINDOW, period_us=period))
            return
        named = {_bare(name): terms for name, terms in self._policies if "q" in terms}
        for name, values in items(text) or [("", {})]:
            self._named.add(_bare(name))
            policy = named.get(_bare(name), {})
            terms = policy | values
            if _is_of_requests(terms):
                limit = count(terms["q"]) if "q" in terms else None
                told = replace(WINDOW, period_us=window_us(terms))
                self._add(count(terms.get("r", NOTHING)), limit, terms.get("t"), told, bool(named) and not policy)

    def read_policies(self) -> None:
        """Read the policies that no item named: a limit that is reported with its period counts by itself."""
        known = {(one.limit, one.period_us) for one in (*self.budgets, *self.others)}
        for name, terms in self._policies:
            limit, period = count(terms.get("q", name)), window_us(terms)
            is_named = _bare(name) in self._named
            if period and _is_of_requests(terms) and not is_named and (limit.calls, period) not in known:
                self._add(Count(NOTHING), limit, None, replace(WINDOW, period_us=period))

    def read_family(self, told: BucketHeaders, kind: ReportedQuota) -> None:
        """Read one header for each number; ``kind``: a quota of the bucket's kind."""
        texts, number_us = told.texts, told.number_us.get("reset", SECOND)
        limits = counts(texts.get("limit"))
        used, remaining = (counts(texts.get(what), is_list=len(limits) > 1) for what in ("used", "remaining"))
        if not remaining and not limits and used:
            self._add_used(used, texts.get("reset"), replace(kind, period_us=told.period_us()), number_us)
            return
        if not remaining and len(used) in (1, len(limits)):
            remaining = [left_of(limit, spent) for limit, spent in zip(limits, used, strict=False)]
        if not remaining:
            remaining = [Count(NOTHING)] * (len(limits) if limits and all(one.period_us for one in limits) else 1)
        if 1 < len(remaining) != len(limits) > 0:
            self.faults.append(f"{texts.get('remaining', NOTHING)} remaining of {texts['limit']}")
            return
        resets = self._resets(texts.get("reset"), len(remaining), number_us)
        for index, left in enumerate(remaining):
            limit = limits[index] if limits else None
            period = told.period_us() or left.period_us or self._policy_us(limit, items(texts.get("limit", "")))
            self._add(left, limit, resets[index], replace(kind, period_us=period), number_us=number_us)

    def _add_used(self, used: list[Count], reset: str | None, kind: ReportedQuota, number_us: int) -> None:
        """Take in what is used of windows whose limit is not told."""
        for spent, until in zip(used, self._resets(reset, len(used), number_us), strict=True):
            if spent.calls is None:
                self.faults.append(f"{spent.text} used")
                continue
            left = None if until is None else reset_us(until, self._now_us, self._date, number_us)
            period = kind.period_us or spent.period_us
            self.budgets.append(
                replace(kind, used=spent.calls, period_us=period, reset_us=left, grain_us=grain_us(until, number_us))
            )

    def _add(
        self, left: Count, limit: Count | None, reset: str | None, kind: ReportedQuota, is_other: bool = False,
        number_us: int = SECOND,
    ) -> None:  # fmt: skip
        """Add what remains of a window, or the fault in it."""
        until = None if reset is None else reset_us(reset, self._now_us, self._date, number_us)
        if reset is not None and until is None:
            self.faults.append(f"a reset of {reset}")
        is_told_alone = left.text == NOTHING and limit is not None and kind.period_us is not None
        if limit and not (limit.calls and limit.is_exact):
            self.faults.append(f"a limit of {limit.text}")
        elif (left.calls is None and not is_told_alone) or (limit and limit.calls and (left.calls or 0) > limit.calls):
            self.faults.append(f"{left.text} remaining" + (f" of {limit.text}" if limit else ""))
        else:
            total = limit.calls if limit else None
            grain = grain_us(reset, number_us)
            budget = replace(kind, remaining=left.calls, limit=total, reset_us=until, grain_us=grain)
            (self.others if is_other else self.budgets).append(budget)

    def _policy_us(self, limit: Count | None, limits: Items) -> int | None:
        """Return the period reported for this limit; None if there is none, or several."""
        if limit is None:
            return None
        if limit.period_us:
            return limit.period_us
        policies = [terms | {"q": terms.get("q", name)} for name, terms in [*limits, *self._policies] if "w" in terms]
        periods = {
            window_us(terms) for terms in policies if count(terms["q"]).calls == limit.calls and _is_of_requests(terms)
        }
        return periods.pop() if len(periods) == 1 else None

    def _resets(self, text: str | None, number: int, number_us: int) -> list[str | None]:
        """Return the resets of several buckets. One may be a date, which has a comma."""
        if text is None or (number == 1 and reset_us(text, self._now_us, self._date, number_us) is not None):
            return [text] * number
        listed: list[str | None] = [name for name, _ in items(text)]
        if len(listed) != number:
            self.faults.append(f"a reset of {text}")
        return listed if len(listed) == number else [None] * number


def _bare(name: str) -> str:
    """Return a name without its quotes, which some services leave out."""
    return name.strip('"')


def _is_of_requests(terms: Mapping[str, str]) -> bool:
    """Whether a policy counts requests, and not bytes or calls at once."""
    return _bare(terms.get("qu", "requests")) == "requests"
