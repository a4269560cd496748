"""What callers ask of a ledger, what it answers, and how a log gives the answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from nekkar.core.errors import CacheError
from nekkar.core.quota import Quota
from nekkar.core.window.state import HitLog


class Ask(Protocol):
    """What a caller wants: ``cost`` hits, by ``deadline`` (µs; None: whenever)."""

    @property
    def cost(self) -> int: ...
    @property
    def deadline(self) -> int | None: ...


@dataclass(frozen=True, slots=True)
class Slot:
    """``cost`` hits booked at ``at`` in the log's ``epoch``."""

    at: int
    cost: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """No slot before ``at``, which is past the deadline; nothing was booked."""

    at: int


SPARE_PART = 64
CLOCKS_APART_US = 5000  # a hit so little ahead of now is one of now, by another clock, and none to wait for

Answer = Slot | Refusal | CacheError


def booked(
    log: HitLog, quota: Quota, asks: Sequence[Ask], soonest: int, horizon: int, spare: int = 0
) -> tuple[HitLog, list[Answer]]:
    """Book for asks in order, from ``soonest`` on; return the log and answers for the first of them.

    There is an answer for each whose slot comes by ``horizon``, and for at least one. Where all had theirs at once,
    and the limit is far from binding, another slot follows, of up to ``spare`` hits.
    """
    answers, has_slot, max_cost = list[Answer](), False, quota.max_cost
    for ask in asks:
        if ask.cost > max_cost:
            over = f"cost {ask.cost} is above this process's share while the cache is away: {quota}"
            answers.append(CacheError(over))
            continue
        at = log.earliest(quota, ask.cost, soonest)
        if _is_too_late(ask, at, log, soonest):
            answers.append(Refusal(at))
            continue
        if at > horizon and has_slot:
            break
        log, has_slot = log.book(at, ask.cost), True
        answers.append(Slot(at, ask.cost, log.epoch))
    if spare and has_slot and log.last == soonest and len(answers) == len(asks) and not quota.spacing_us:
        return _with_spare(log, quota, answers, spare)
    return log, answers


def _is_too_late(ask: Ask, at: int, log: HitLog, soonest: int) -> bool:
    """Return whether a slot is past the deadline, and not only by a clock that is a little ahead of this one."""
    by_a_clock_ahead = at == log.last and at <= soonest + CLOCKS_APART_US
    return ask.deadline is not None and at > max(ask.deadline, soonest) and not by_a_clock_ahead


def _with_spare(log: HitLog, quota: Quota, answers: list[Answer], most: int) -> tuple[HitLog, list[Answer]]:
    """Book up to ``most`` hits more at the log's last, a part of what is free."""
    at = cast(int, log.last)
    spare = min(most, _room(log, quota, at) // SPARE_PART)
    if not spare:
        return log, answers
    return log.book(at, spare), [*answers, Slot(at, spare, log.epoch)]


def _room(log: HitLog, quota: Quota, now: int) -> int:
    """Return how many hits fit into every window that ends ``now``."""
    margin = log.margin(quota, now)
    return min(rate.count - log.since(now - rate.period_us - margin) for rate in quota.rates)
