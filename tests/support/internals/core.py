"""What the core has beside its packages: quotas, costs, limits of several, and what a limit and a limiter keep."""

from __future__ import annotations

from typing import Any

from nekkar.core import rounds
from nekkar.core.admission import JointAdmission
from nekkar.core.cache import BaseCache
from nekkar.core.clock import ClockWatch, SteadyClock, monotonic, ticks
from nekkar.core.cost import CALLS, Cost, Hits, as_mapping, cost_of, fits, hits_in, is_smaller, items, largest, merged
from nekkar.core.errors import counted, kind_of, plain, shown, shown_url
from nekkar.core.events import Listeners
from nekkar.core.joint import JointLimit
from nekkar.core.limit_core import LimitCore
from nekkar.core.limiter import Admission, Limit, Nekkar
from nekkar.core.quota import MAX_COUNT, MAX_MARGIN, MAX_PERIOD, MIN_PERIOD, SECOND, WHOLE, Quota, Rate, leaving, quota
from nekkar.core.reservation import Reservation
from nekkar.core.rounds import Rounds
from nekkar.core.window.feedback import Feedback


def core_of(limit: Limit) -> LimitCore:
    """Return what all limits of one name share in a process: the ledger and the lines."""
    return limit._core


def lines_of(core: LimitCore) -> Any:
    """Return the lines of a limit's event loops, and that of threads."""
    return core._lines


def limiter_of(limit: Limit) -> Nekkar:
    """Return the limiter that made a limit."""
    return limit._limiter


def cache_of(limiter: Nekkar) -> BaseCache:
    """Return the cache of a limiter."""
    return limiter._cache


def kept_limits(limiter: Nekkar) -> Any:
    """Return the limits that a limiter remembers though nobody holds them, by name."""
    return limiter._kept


def give_feedback(limit: Limit, feedback: Feedback) -> None:
    """Apply what a response says to a limit. Blocks; a cache that is away is logged."""
    limit._apply_feedback(feedback)


def is_good(limit: Limit | JointLimit, admission: Admission) -> bool:
    """Return whether a call may still start on its admission."""
    return limit._is_good(admission)


def exchanged(limit: Limit | JointLimit, admission: Admission, max_wait: float | None = None) -> Admission:
    """Block until a call may start that did not start on its admission in time."""
    return limit._exchange(admission, max_wait)


def least_wait(limit: Limit | JointLimit, admission: Admission) -> float:
    """Return a lower bound, in seconds, of how long an exchange would block."""
    return limit._least_wait(admission)
