"""What a service says of a limit in its answers, and what the log makes of it.

Rules:

- What a service asks for never holds its limit for longer than ``most_us``.
- Where less remains than the log thinks, somebody else calls under the same key: the difference is booked as
  foreign hits, which count until the service's reset, at most a period. All hits of this fleet that the service
  may have counted, those on the wire too, are set against what it says; so none is booked twice, and what is not
  seen now is seen in a later answer.
- Where a reset is a window's end, the service counts nothing from before that window. How closely that is known is
  the reset's grain: a second where it is told in whole seconds. No more grace than that: at 60 per 3 s a second of
  grace hid 20 calls of others a window.
- Where nothing remains, and the log does not know why, nobody calls until the reset. For a service that fills bit by
  bit, that is until all is back: sooner would do for one call, but as a hold ends the log may let a burst go.
- What is told belongs to the window of the told period, else to the one whose count is the told limit, else, where
  neither is told, to the shortest that it can fit. What fits no window is of another bucket, and changes nothing.
- A limit that is told with its period, and lower than the window, is kept beside the window for a period (``told.py``).
- A refusal is believed, whatever the log thinks, unless it says itself how long to wait. Where its window goes on
  for longer than the widest margin, it was no matter of the margin: the call refused is none of those counted, and
  where that shows others, no margin is learned.
- A difference that is small beside what remains can wait. Where nothing changes, the log itself is returned.

Pure, as the log is. tests/window/test_feedback.py states the rules as properties.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from nekkar.core.cost import CALLS, cost_of
from nekkar.core.quota import SECOND, Quota, Rate
from nekkar.core.window.rejections import MARGIN_PART, Rejections
from nekkar.core.window.state import LimitState

MATTERS_PART = 64


@dataclass(frozen=True, slots=True)
class ReportedQuota:
    """What remains of a window, as the service tells: ``remaining`` hits of a ``unit``; None for what it does not.

    ``limit``: the window's count. ``period_us``: its length. ``reset_us``: how long until all are back, or up to
    ``grain_us`` less; ``is_window``: all at once, as a window ends, and not bit by bit. ``used``: the hits used, where
    neither what remains nor the limit is told. ``resource``: what the service calls the bucket. ``is_pace``: the limit
    is an average over any time, and not a window.
    """

    remaining: int | None
    limit: int | None = None
    period_us: int | None = None
    reset_us: int | None = None
    is_window: bool = False
    grain_us: int = SECOND
    unit: str = CALLS
    used: int | None = None
    resource: str = ""
    is_pace: bool = False

    def __str__(self) -> str:
        of, unit = "" if self.limit is None else f" of {self.limit}", "" if self.unit == CALLS else f" {self.unit}"
        told = f"{self.remaining}{unit} remaining{of}" if self.used is None else f"{self.used}{unit} used"
        if self.remaining is None and self.used is None:
            told = f"a limit of {self.limit}{unit}"
        return told + (f" per {self.period_us / SECOND:g} s" if self.period_us else "")


@dataclass(frozen=True, slots=True)
class Feedback:
    """What the answer to one call says. ``sent_at``: the call's slot. ``most_us``: the longest pause to obey.

    ``is_refusal``: a 429. ``pause_us``: the pause asked for, None where there is no word of it. ``is_success``: the
    service did what the call asked for.
    """

    sent_at: int
    most_us: int
    is_refusal: bool = False
    pause_us: int | None = None
    budgets: tuple[ReportedQuota, ...] = ()
    is_success: bool = False


def apply_feedback(log: LimitState, quota: Quota, word: Feedback, now: int) -> LimitState:
    """Return the log with what the word, heard now, says of this quota."""
    known, pause, period = log, word.pause_us, quota.rates[0].period_us
    for budget in word.budgets:
        log = _spent(_told(log, quota, budget, word, now), quota, budget, word, now)
    if word.is_refusal and word.sent_at >= known.hold_until:
        refusals = _taught(known, quota, word, now, by_others=log.hits is not known.hits)
        if pause is None:
            refusals = refusals.lengthened(known.hold_until, period)
            pause = refusals.pause(period)
        log = replace(log, rejections=refusals)
    if word.is_success and (ended := log.rejections.ended(word.sent_at, period)) is not log.rejections:
        log = replace(log, rejections=ended)
    return with_hold(log, now + min(pause, word.most_us)) if pause else log


def with_hold(log: LimitState, until: int) -> LimitState:
    """Return the log with no slot before ``until``; a longer hold stays."""
    return log if until <= log.hold_until else replace(log, hold_until=until)


def _taught(log: LimitState, quota: Quota, word: Feedback, now: int, by_others: bool) -> Rejections:
    """Return what a refusal teaches; of the margin nothing where it is others whom the service has counted."""
    period = quota.rates[0].period_us
    refusals = log.rejections.add(word.sent_at, now)
    if by_others or not _came_too_soon(log, quota, word.sent_at):
        return refusals
    return refusals.widen_margin(log.margin(quota, now), word.sent_at, period, now)


def _came_too_soon(log: LimitState, quota: Quota, sent_at: int) -> bool:
    """Whether each window up to a call was kept, one of them so full that the widest margin would have kept it back."""
    widest = quota.rates[0].period_us // MARGIN_PART
    timelines = [(rate, log.hits.of(rate.unit)) for rate in quota.rates]
    kept = all(hits.count_between(sent_at - rate.period_us, sent_at) <= rate.count for rate, hits in timelines)
    return kept and any(
        hits.count_between(sent_at - rate.period_us - widest, sent_at) >= rate.count for rate, hits in timelines
    )


def _spent(log: LimitState, quota: Quota, budget: ReportedQuota, word: Feedback, now: int) -> LimitState:
    """Return the log with what others have used of a window, as far as it matters."""
    rate, margin = lower_rate(budget, quota, word.most_us) or window_of(budget, quota), log.margin(quota, now)
    if rate is None:
        return log
    remaining = budget.remaining if budget.used is None else max(0, rate.count - budget.used)
    if remaining is None:
        return log
    refused, begun = word.is_refusal and not remaining, _begun(budget, rate)
    own = log.hits.of(rate.unit).count_between(word.sent_at - rate.period_us + begun - margin, now + margin)
    own -= refused and rate.unit == CALLS and begun > rate.period_us // MARGIN_PART
    foreign = rate.count - own - remaining
    if budget.reset_us is None:
        # When others used them is not told: in a shorter window, which has a word of its own, they do not count.
        shorter = [one.period_us + margin for one in quota.rates if one.unit == rate.unit and one < rate]
        reset = rate.period_us - min(max(shorter, default=0), rate.period_us)
    else:
        reset = max(budget.reset_us, budget.grain_us)
    is_told = remaining == 0 and budget.reset_us is not None
    if is_told and (foreign > 0 or reset > rate.period_us or (refused and not word.pause_us)):
        log = with_hold(log, now + min(reset, word.most_us))
    if foreign * MATTERS_PART <= remaining:
        return log
    counted_at = now - rate.period_us + min(reset, rate.period_us, word.most_us)
    return replace(log, hits=log.hits.insert([(counted_at, cost_of({rate.unit: foreign}))]))


def _told(log: LimitState, quota: Quota, budget: ReportedQuota, word: Feedback, now: int) -> LimitState:
    """Return the log with a limit that the service tells with its period: kept for a period, where it is lower.

    One that is no lower ends what was told of this window before.
    """
    rate = window_of(budget, quota)
    if rate is None or budget.limit is None or budget.period_us is None:
        return log
    told = log.told.heard(rate, lower_rate(budget, quota, word.most_us), now, word.most_us)
    return log if told is log.told else replace(log, told=told)


def _begun(budget: ReportedQuota, rate: Rate) -> int:
    """Return how much later than a period ago the service's window began, at least."""
    if budget.is_window and budget.reset_us is not None and budget.reset_us <= rate.period_us:
        return max(0, budget.reset_us - budget.grain_us)
    return 0


def unit_of(budget: ReportedQuota, quota: Quota) -> str:
    """Return the unit that a service tells of: the resource, where the quota counts a unit of that name."""
    return budget.resource if budget.resource in quota.units else budget.unit


def lower_rate(budget: ReportedQuota, quota: Quota, most_us: int) -> Rate | None:
    """Return the rate that a service tells with its period, where that is lower than the window that it is told of.

    That is fewer hits in the window's period, or the window's hits in a longer one, up to ``most_us``: at a pace too.
    """
    rate = window_of(budget, quota)
    if rate is None or budget.limit is None or budget.period_us is None:
        return None
    if budget.period_us == rate.period_us and not budget.is_pace:
        return Rate(rate.period_us, budget.limit, rate.unit) if budget.limit < rate.count else None
    period = min(rate.count * budget.period_us // budget.limit, most_us)
    return Rate(period, rate.count, rate.unit) if period > rate.period_us else None


def window_of(budget: ReportedQuota, quota: Quota) -> Rate | None:
    """Return the window that a service tells of; None where it tells of another bucket.

    It is one of the told unit. Several windows may have the told count, or room for what remains. Then it is the
    shortest that the told reset fits; a reset later than each of them ends is of the longest. A pace is told of the
    window that takes longest for a hit.
    """
    unit = unit_of(budget, quota)
    rates = [rate for rate in quota.rates if rate.unit == unit]
    if budget.is_pace:
        return max(rates, key=lambda rate: rate.period_us / rate.count, default=None)
    for rate in rates:
        if rate.period_us == budget.period_us:
            return rate
    is_named = budget.limit is not None or budget.period_us is not None
    told = (budget.used if budget.remaining is None else budget.remaining) or 0
    fits = [one for one in rates if (one.count == budget.limit if is_named else one.count >= told)]
    reset = (budget.reset_us or 0) - budget.grain_us
    return next((one for one in fits if one.period_us >= reset), fits[-1] if fits else None)
