"""What a service reports about a limit in its responses, and how the log changes.

Rules:

- No response holds the limit for longer than ``most_us``.
- Where less remains than the log shows, other clients call under the same key. The difference is booked as foreign
  hits, which count until the service's reset, for a period at most. All hits of this fleet that the service may have
  counted, also those on the wire, are subtracted first. So no hit is booked twice; a difference that is hidden by them
  shows in a later response.
- If the reset is the end of a window, the service counts nothing from before that window. The window's start is known
  as closely as the reset is reported, its grain: a second for whole seconds. Own hits count from that much earlier, and
  no more: at 60 per 3 s, a whole second for every reset hid 20 calls of others in each window.
- A reset in whole seconds may be rounded down. So what is used counts to the end of that second, where that is a small
  part of the period. Without it a caller was refused at the edge of each window.
- If nothing remains, and the log does not show why, the limit is held until the reset. For a service that refills
  bit by bit, that is until the bucket is full. One call could start sooner, but the end of a hold may start a burst.
- A report belongs to the window with the reported period; else to the one whose count is the reported limit; else, if
  it has neither, to the shortest window that it can fit. A report that fits no window is about another bucket: ignored.
- A reported limit that has a period, and is lower than the window, is kept beside the window for a period
  (``reported.py``).
- A 429 with nothing remaining holds the limit until the reported reset, even if the log shows room, unless it carries
  Retry-After, which then decides. If the service's window goes on for longer than the widest margin, jitter
  can't explain the 429. Then other clients are counted (without the rejected call), and no margin is learned.
- A difference that is small beside what remains can wait. If nothing changes, the log itself is returned.

Pure, as the log is. tests/window/test_feedback.py states the rules as properties.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from nekkar.core.cost import CALLS, cost_of
from nekkar.core.quota import SECOND, Quota, Rate
from nekkar.core.window.rejections import MARGIN_PART, Rejections
from nekkar.core.window.state import LimitState

MATTERS_PART = 64
WHOLE_PART = 20  # of a period: a whole second may be added where it is no more than this, so 95 % stay in use


@dataclass(frozen=True, slots=True)
class ReportedQuota:
    """What a service reports about one of its quotas; None is a value that it does not report.

    ``remaining``: hits of a ``unit``. ``limit``: the hits of a whole window. ``period_us``: its length. ``reset_us``:
    the time until all hits are free again, or up to ``grain_us`` less. ``is_window``: they come back all at once, as a
    window ends, and not one by one. ``used``: the hits used, from services that report neither ``remaining`` nor
    ``limit``. ``resource``: the service's name for the bucket. ``is_pace``: the limit is an average, not a window's.
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
        text = f"{self.remaining}{unit} remaining{of}" if self.used is None else f"{self.used}{unit} used"
        if self.remaining is None and self.used is None:
            text = f"a limit of {self.limit}{unit}"
        return text + (f" per {self.period_us / SECOND:g} s" if self.period_us else "")


@dataclass(frozen=True, slots=True)
class Feedback:
    """What the response to one call says about its limit.

    ``sent_at``: the call's slot. ``most_us``: the longest pause to obey. ``is_refusal``: a 429. ``pause_us``: the
    requested pause, None without one. ``budgets``: the reported quotas. ``is_success``: the service did what the call
    requested.
    """

    sent_at: int
    most_us: int
    is_refusal: bool = False
    pause_us: int | None = None
    budgets: tuple[ReportedQuota, ...] = ()
    is_success: bool = False


def apply_feedback(log: LimitState, quota: Quota, feedback: Feedback, now: int) -> LimitState:
    """Return the log after feedback that was received now, under this quota."""
    known, pause, period = log, feedback.pause_us, quota.rates[0].period_us
    for budget in sorted(feedback.budgets, key=lambda one: _period_us(one, quota)):
        log = _with_foreign_hits(_with_reported_rate(log, quota, budget, feedback, now), quota, budget, feedback, now)
    if feedback.is_refusal and feedback.sent_at >= known.hold_until:
        refusals = _with_rejection(known, quota, feedback, now, by_others=log.hits is not known.hits)
        if pause is None:
            refusals = refusals.lengthened(known.hold_until, period)
            pause = refusals.pause(period)
        log = replace(log, rejections=refusals)
    if feedback.is_success and (ended := log.rejections.ended(feedback.sent_at, period)) is not log.rejections:
        log = replace(log, rejections=ended)
    return with_hold(log, now + min(pause, feedback.most_us)) if pause else log


def _period_us(budget: ReportedQuota, quota: Quota) -> int:
    """Return the period of the window that a report is about.

    Reports about shorter windows come first: what others used of those counts in the longer ones too.
    """
    rate = window_of(budget, quota)
    return rate.period_us if rate else 0


def with_hold(log: LimitState, until: int) -> LimitState:
    """Return the log with no slot before ``until``; a longer hold stays."""
    return log if until <= log.hold_until else replace(log, hold_until=until)


def _with_rejection(log: LimitState, quota: Quota, feedback: Feedback, now: int, by_others: bool) -> Rejections:
    """Return the rejections after one more; it widens the margin, unless other clients used the quota."""
    period = quota.rates[0].period_us
    refusals = log.rejections.add(feedback.sent_at, now)
    if by_others or not _came_too_soon(log, quota, feedback.sent_at):
        return refusals
    return refusals.widen_margin(log.margin(quota, now), feedback.sent_at, period, now)


def _came_too_soon(log: LimitState, quota: Quota, sent_at: int) -> bool:
    """Whether jitter may explain a 429: our windows were kept, but with the widest margin one of them was full."""
    widest = quota.rates[0].period_us // MARGIN_PART
    timelines = [(rate, log.hits.of(rate.unit)) for rate in quota.rates]
    kept = all(hits.count_between(sent_at - rate.period_us, sent_at) <= rate.count for rate, hits in timelines)
    return kept and any(
        hits.count_between(sent_at - rate.period_us - widest, sent_at) >= rate.count for rate, hits in timelines
    )


def _with_foreign_hits(
    log: LimitState, quota: Quota, budget: ReportedQuota, feedback: Feedback, now: int
) -> LimitState:
    """Return the log with the hits of other clients in a window, where the report shows enough of them to matter."""
    rate, margin = lower_rate(budget, quota, feedback.most_us) or window_of(budget, quota), log.margin(quota, now)
    if rate is None:
        return log
    remaining = budget.remaining if budget.used is None else max(0, rate.count - budget.used)
    if remaining is None:
        return log
    refused, start_us = feedback.is_refusal and not remaining, _window_start_us(budget, rate)
    own = log.hits.of(rate.unit).count_between(feedback.sent_at - rate.period_us + start_us - margin, now + margin)
    # If the window goes on for longer than any margin, jitter can't explain the 429: its call was not counted.
    own -= refused and rate.unit == CALLS and start_us > rate.period_us // MARGIN_PART
    foreign = rate.count - own - remaining
    if budget.reset_us is None:
        # Nobody knows when others used them. They must not count in a shorter window, which has reports of its own.
        shorter = [one.period_us + margin for one in quota.rates if one.unit == rate.unit and one < rate]
        reset = rate.period_us - min(max(shorter, default=0), rate.period_us)
    else:
        reset = until_reset(budget, rate)
    is_told = remaining == 0 and budget.reset_us is not None and not (refused and feedback.pause_us)
    if is_told and (foreign > 0 or reset > rate.period_us or refused):
        log = with_hold(log, now + min(reset, feedback.most_us))
    if foreign * MATTERS_PART <= remaining:  # none, or so few that they can wait
        return log
    counted_at = now - rate.period_us + min(reset, rate.period_us, feedback.most_us)
    return replace(log, hits=log.hits.insert([(counted_at, cost_of({rate.unit: foreign}))]))


def _with_reported_rate(
    log: LimitState, quota: Quota, budget: ReportedQuota, feedback: Feedback, now: int
) -> LimitState:
    """Return the log with a reported limit that has a period, if it is lower than the window: kept for its period.

    A limit that is not lower ends an earlier report about this window.
    """
    rate = window_of(budget, quota)
    if rate is None or budget.limit is None or budget.period_us is None:
        return log
    reported = log.reported.with_report(rate, lower_rate(budget, quota, feedback.most_us), now, feedback.most_us)
    return log if reported is log.reported else replace(log, reported=reported)


def _window_start_us(budget: ReportedQuota, rate: Rate) -> int:
    """Return by how much, at least, the service's window started later than one period ago, in µs."""
    if budget.is_window and budget.reset_us is not None and budget.reset_us <= rate.period_us:
        return max(0, budget.reset_us - budget.grain_us)
    return 0


def until_reset(budget: ReportedQuota, rate: Rate | None) -> int:
    """Return how long until a window ends, in µs. Some services round a reset in whole seconds down."""
    is_rounded = budget.is_window and budget.grain_us == SECOND
    is_cheap = rate is not None and rate.period_us >= SECOND * WHOLE_PART
    return max((budget.reset_us or 0) + (SECOND if is_rounded and is_cheap else 0), budget.grain_us)


def unit_of(budget: ReportedQuota, quota: Quota) -> str:
    """Return the unit of a reported quota: its resource if our quota counts a unit of that name, else its unit."""
    return budget.resource if budget.resource in quota.units else budget.unit


def lower_rate(budget: ReportedQuota, quota: Quota, most_us: int) -> Rate | None:
    """Return the rate of a reported limit with a period, if it is lower than our window; None otherwise.

    It has fewer hits in the same period, or, for another period or a pace, the same hits in a longer period, which is
    ``most_us`` at most.
    """
    rate = window_of(budget, quota)
    if rate is None or budget.limit is None or budget.period_us is None:
        return None
    if budget.period_us == rate.period_us and not budget.is_pace:
        return Rate(rate.period_us, budget.limit, rate.unit) if budget.limit < rate.count else None
    period = min(rate.count * budget.period_us // budget.limit, most_us)
    return Rate(period, rate.count, rate.unit) if period > rate.period_us else None


def window_of(budget: ReportedQuota, quota: Quota) -> Rate | None:
    """Return our window that a reported quota is about; None if it is about another bucket.

    Only windows of the reported unit count. Several of them may have the reported limit, or enough hits for what is
    reported. Then it is the shortest one that does not end before the reported reset, else the longest. A pace is about
    the window with the lowest rate.
    """
    unit = unit_of(budget, quota)
    rates = [rate for rate in quota.rates if rate.unit == unit]
    if budget.is_pace:
        return max(rates, key=lambda rate: rate.period_us / rate.count, default=None)
    for rate in rates:
        if rate.period_us == budget.period_us:
            return rate
    is_named = budget.limit is not None or budget.period_us is not None
    reported = (budget.used if budget.remaining is None else budget.remaining) or 0
    fits = [one for one in rates if (one.count == budget.limit if is_named else one.count >= reported)]
    reset = (budget.reset_us or 0) - budget.grain_us
    return next((one for one in fits if one.period_us >= reset), fits[-1] if fits else None)
