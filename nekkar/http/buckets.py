"""Which limit and window a reported quota belongs to, or whether it is about a bucket that no limit counts.

- A quota belongs to the window with the reported unit and period, else to the one with the reported count, see
  ``window_of``. If one window has both, a quota that shares only the period of a window is about another bucket.
- Of several limits, the one with such a window gets the quota: by its count, else by the resource, which has words in
  common with its name, else by its unit; else the first limit.
- A quota of a unit that the limit does not count is dropped silently. A quota that fits no window is about another
  bucket.

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from nekkar.core.quota import Quota
from nekkar.core.window.feedback import ReportedQuota, unit_of, until_reset, window_of
from nekkar.http.ratelimit_headers import Reading

Limits = Sequence[tuple[str, Quota]]  # the names of some limits, as the rules spell them, and what they keep

_CAPTURE = re.compile(r"\{[^}]*\}")
_WORD = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True, slots=True)
class QuotaReport:
    """The quotas that a response reports, sorted for one limit.

    ``budgets``: quotas of the limit's windows. ``others``: of other buckets. ``uncounted``: in units that the limit
    does not count. ``faults``: invalid values.
    """

    budgets: tuple[ReportedQuota, ...] = ()
    others: tuple[ReportedQuota, ...] = ()
    uncounted: tuple[ReportedQuota, ...] = ()
    faults: tuple[str, ...] = ()

    def pause_us(self, quota: Quota) -> int | None:
        """Return how long until all empty buckets are free again: those of the limit's quota, or the others if none."""
        return longest_reset(self.budgets, quota) or longest_reset((*self.others, *self.uncounted))


def quota_report(reading: Reading, quota: Quota) -> QuotaReport:
    """Return the quotas of a response, sorted for one limit."""
    counted = [told for told in reading.budgets if unit_of(told, quota) in quota.units]
    windows = {told: window_of(told, quota) for told in counted}
    exact = {window for told, window in windows.items() if window and _is_exact(told, quota)}
    own = tuple(told for told, window in windows.items() if window and (window not in exact or _is_exact(told, quota)))
    others = (*reading.others, *(told for told in counted if told not in own))
    uncounted = tuple(told for told in reading.budgets if told not in windows)
    return QuotaReport(own, others, uncounted, reading.faults)


def shared_out(reading: Reading, limits: Limits) -> tuple[QuotaReport, ...]:
    """Return the quotas of an answer for each of several limits, in their order."""
    if len(limits) == 1:
        return (quota_report(reading, limits[0][1]),)
    shares: list[list[ReportedQuota]] = [[] for _ in limits]
    for told in reading.budgets:
        shares[limit_of(told, limits)].append(told)
    return tuple(
        quota_report(Reading(tuple(share), *(((), ()) if number else (reading.others, reading.faults))), quota)
        for number, (share, (_, quota)) in enumerate(zip(shares, limits, strict=True))
    )


def limit_of(told: ReportedQuota, limits: Limits) -> int:
    """Return the number of the limit, of several, that gets a quota."""
    for fits in (_is_exact, _has_count):
        if found := [number for number, (_, quota) in enumerate(limits) if fits(told, quota)]:
            named = _named(told.resource, [limits[number][0] for number in found], found)
            return found[0] if named is None else named
    named = _named(told.resource, [name for name, _ in limits], range(len(limits)))
    if named is not None:
        return named
    return next((number for number, (_, quota) in enumerate(limits) if unit_of(told, quota) in quota.units), 0)


def refusing(readings: Collection[Reading], limits: Limits, named: Sequence[int]) -> int:
    """Return the number of the limit, of several, that a refusal belongs to.

    That is the limit whose bucket is empty (of several empty ones, the one with the last reset). Else it is one of
    ``named``, the numbers of the limits for which the status is a refusal: the one that the answer's resource names,
    else the first.
    """
    budgets = [told for reading in readings for told in reading.budgets]
    empty = [told for told in budgets if told.remaining == 0]
    if empty:
        return limit_of(max(empty, key=lambda told: told.reset_us or 0), limits)
    resources = [resource for reading in readings for resource in reading.resources]
    resources += [told.resource for told in budgets if told.resource]
    names = [limits[number][0] for number in named]
    found = (_named(resource, names, named) for resource in resources)
    return next((number for number in found if number is not None), named[0])


def longest_reset(budgets: Iterable[ReportedQuota], quota: Quota | None = None) -> int | None:
    """Return how long until the last of the windows of which nothing remains is free again, in µs.

    ``quota``: whose windows they are, so that the second that a reset may lack is known.
    """
    empty = (one for one in budgets if one.remaining == 0 and one.reset_us)
    return max((until_reset(one, window_of(one, quota) if quota else None) for one in empty), default=None)


def _is_exact(told: ReportedQuota, quota: Quota) -> bool:
    return told.period_us is not None and any(
        (rate.unit, rate.period_us, rate.count) == (unit_of(told, quota), told.period_us, told.limit)
        for rate in quota.rates
    )


def _has_count(told: ReportedQuota, quota: Quota) -> bool:
    return any((rate.unit, rate.count) == (unit_of(told, quota), told.limit) for rate in quota.rates)


def _named(resource: str, names: Sequence[str], numbers: Sequence[int]) -> int | None:
    """Return the number of the one name that has the most words in common with a resource; None where none has."""
    words = set(_WORD.findall(resource.lower()))
    common = [len(words & set(_WORD.findall(_CAPTURE.sub(" ", name).lower()))) for name in names]
    most = max(common, default=0)
    return numbers[common.index(most)] if most and common.count(most) == 1 else None
