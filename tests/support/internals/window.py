"""The pure algorithm: a limit's state, its bytes, and what is booked in it."""

from __future__ import annotations

from nekkar.core.window import alone, booking, checks, codec, entries, exact, hits, order, plan, recovery, state
from nekkar.core.window.alone import booked_alone
from nekkar.core.window.booking import (
    MOST_CREDIT,
    PREFETCH_PART,
    BookingRequest,
    Returned,
    earliest_slot,
    earliest_slot_behind,
    most_credit,
    spaced_after,
    taken_back,
    tidied,
)
from nekkar.core.window.checks import LATEST_US, MOST_HITS
from nekkar.core.window.codec import HEADROOMS, LONGEST_STATE, MAGIC, MOST_BACK_US, VERSION, decode, encode
from nekkar.core.window.codec_reported import REPORTED
from nekkar.core.window.exact import ExactSlot
from nekkar.core.window.feedback import Feedback, ReportedQuota, apply_feedback, lower_rate, window_of, with_hold
from nekkar.core.window.hits import HitLog, column
from nekkar.core.window.plan import CLOCKS_APART_US, PLANNED_AHEAD, Plan, _Planner, next_slot, planned
from nekkar.core.window.recovery import LONG_PERIOD_US, rebuild_after_loss, rebuild_over_newcomer
from nekkar.core.window.rejections import EASES_US, MARGIN_PART, MOST_DOUBLINGS, Rejections
from nekkar.core.window.reported import MOST_REPORTED, ReportedRates
from nekkar.core.window.settlement import Settlement, settled
from nekkar.core.window.state import (
    EXACT_ENTRIES,
    GRID,
    LEAST_HORIZON_US,
    LINGER_US,
    MAX_RATES,
    MAX_TERMS,
    MOST_HORIZON_US,
    MOST_LINGER_US,
    Grant,
    LimitState,
    Place,
    Terms,
)
from nekkar.core.window.timeline import Timeline
