"""A turn: one update of the state by a line. It books for all callers of the line, and for all places that fall due.

Rules (numbered as in docs/concepts/line.md):

7. Look a quarter horizon before the turn of the first caller, or before the line's place is ready if that comes first,
   and once a second. Write if one of these holds, else only look: a caller can be granted a slot now; the line has no
   place yet; the cost of its place is not that of its first caller; its place is about to be ready; its place is ready
   over a second later than its turn, since room was freed; or something is to be taken back.

All who wait look once a second, so a hold, a release and a reset take effect within that (rule 18 of faults.md).
"""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial
from itertools import islice, takewhile

from nekkar.core.cost import Hits, cost_of
from nekkar.core.errors import CacheError
from nekkar.core.quota import Quota
from nekkar.core.shared.account import Account
from nekkar.core.waiting.alone import booked_for
from nekkar.core.waiting.assignments import LOOK_EVERY_US, Assignments
from nekkar.core.waiting.callers import Caller, Settling
from nekkar.core.waiting.prefetch import PrefetchedSlots
from nekkar.core.window.booking import (
    BookingRequest,
    Returned,
    earliest_slot_behind,
    most_credit,
    room_for,
    spaced_after,
    tidied,
)
from nekkar.core.window.plan import Plan, planned
from nekkar.core.window.settlement import settled
from nekkar.core.window.state import LimitState, Place

LOOKED_AT = 64  # callers of a line: more hardly start within a horizon
MOST_JOINT = 16  # callers in a turn, where some have other limits: each of those is then to ask for the same instant


class Turn:
    """One update under way: it keeps what it sent, until the swap is known to have won.

    ``look_at``: when the line is to look next. ``has_given_up``: what it was to write is left to the next turn. Its
    methods take the lock of the line.
    """

    def __init__(
        self, ledger: Account, assignments: Assignments, prefetched: PrefetchedSlots, lock: threading.RLock
    ) -> None:
        self.ledger, self.assignments, self.prefetched, self._lock = ledger, assignments, prefetched, lock
        self._must_write = False
        self._sent: list[Returned] = []
        self._settling: list[Settling] = []
        self._kept: list[Place] = []
        self._prefetch: int | None = None
        self._alone: Caller | None = None
        self._waiting = self._tries = self._attempts = 0
        self._begun_at: int | None = None
        self.has_given_up = False
        self.look_at = self.expected_at = self._unsure_at = 0

    def apply(self, state: LimitState, now: int, read_at: int | None, *, is_recovery: bool) -> LimitState | None:
        """Return the state with all granted that is due; None where there is nothing to write."""
        mine = self.assignments
        with self._lock:
            self._tries += 1
            is_plain = self._tries <= 2 and not (is_recovery or self._must_write)
            self._alone = None
            if is_plain and (booked := self._booked_alone(state, now)):
                return booked
            seen_at = self.ledger.read_at if read_at is None else read_at
            if not is_recovery:
                mine.pick_up(state, seen_at, now)
                mine.exact.pick_up(state)
            if self.ledger.is_on:
                self._fail_too_dear()
            self._must_write, mine.must_write = self._must_write or mine.must_write or is_recovery, False
            if read_at is not None and self._takes_long(now):
                self._refuse_overdue(now)
                self.has_given_up = not (mine.queue.head or mine.settling or mine.exact.open)
                self._must_write |= mine.must_write
            if self.has_given_up or not (mine.queue.head or self._must_write or mine.exact.open):
                return None
            self._settling = list(mine.settling)
            for settling in self._settling:
                state = settled(state, settling.settlement, now)
            if (horizon_us := self._joint_horizon_us()) > state.horizon_us:
                state = replace(state, horizon_us=horizon_us)
            plan, request = self._planned(state, now)
            if not self._refuses(state, plan, request, read_at):
                return None
            self._must_write, mine.must_write = self._must_write or mine.must_write, False
            self.expected_at = plan.turn or 0
            elsewhere = mine.queue.head.elsewhere if mine.queue.head else None
            self._unsure_at = plan.unsure_at if elsewhere and elsewhere.are_unlike else 0
            place = state.place_of(mine.owner) if plan.turn else None
            self.look_at = self._next_look(state, min(place.ready, self.expected_at), seen_at) if place else 0
            return plan.state if self._must_write or mine.exact.open or self._is_due(state, plan, now) else None

    def _booked_alone(self, state: LimitState, now: int) -> LimitState | None:
        """Return a state with the only caller booked at once, where nothing else is to be written."""
        only = self.assignments.queue.only
        if only and (booked := booked_for(self.assignments, state, only, now, partial(self._prefetch_for, 1, now))):
            self._alone = only
            return booked
        return None

    def _planned(self, state: LimitState, now: int) -> tuple[Plan, BookingRequest]:
        """Return the plan, and what the line asked for; calls that must wait in another limit are sent there first."""
        while True:
            request = self._request(state, now)
            plan = planned(state, request)
            if not self.assignments.move_full(plan.own_slots, now):
                break
        if plan.is_bound:
            self.assignments.standing.binds(now)
        return plan, request

    def _refuses(self, state: LimitState, plan: Plan, request: BookingRequest, read_at: int | None) -> bool:
        """Refuse the calls whose slots come too late; return False where the state must be read before that.

        Others may have written since this process did: a state that was not read refuses nobody.
        """
        mine, now = self.assignments, request.now
        too_late, refused = self._too_late(state, plan, request), mine.exact.refused(request.exact, plan.state)
        if (too_late or refused) and read_at is None:
            return False
        for caller, at in too_late:
            mine.refuse(caller, at, now)
        if mine.exact.refuse(refused, state, now):
            mine.standing.binds(now)
        return True

    def _prefetch_for(self, callers: int, now: int) -> int:
        """Return how many hits to prefetch; demand is counted once for a turn, however often its swap is lost."""
        if self._prefetch is None:
            self._prefetch = 0 if self.assignments.headroom else self.prefetched.wanted(callers, now)  # rule 32
        return self._prefetch

    def won(self, state: LimitState, sent: int, now: int) -> None:
        """Take up what was granted."""
        mine = self.assignments
        with self._lock:
            self._must_write = False
            if self._alone:
                mine.take_alone(self._alone, state)
                self.prefetched.counted_from = self.look_at = now
                return
            have_left = len(mine.queue) < self._waiting
            mine.were_returned(self._sent)
            mine.were_settled(self._settling)
            mine.pick_up(state, sent, now)
            mine.exact.pick_up(state)
            mine.exact.were_kept(self._kept)
            if have_left and not mine.queue.head:
                mine.return_hand()
            self.prefetched.counted_from = now
            place = state.place_of(mine.owner)
            # The place may have been written for callers that left meanwhile.
            mine.must_write |= place is not None and have_left and not mine.queue.head
            self.look_at = self._next_look(state, place.ready, sent) if place else 0

    def unanswered(self) -> None:
        """Give up the settlements that were sent: sent again they could count twice (rule 33)."""
        with self._lock:
            error = "whether a settlement was counted is not known, since the cache did not answer; it is not repeated"
            self.assignments.were_settled(self._settling, CacheError(f"limit {self.assignments.name!r}: {error}"))

    def ended(self) -> None:
        """Leave to the next turn what this one could not write."""
        with self._lock:
            self.assignments.must_write |= self._must_write

    def _request(self, state: LimitState, now: int) -> BookingRequest:
        mine, ledger = self.assignments, self.ledger
        quota, head = ledger.quota, mine.queue.head
        lead = ledger.latency.lead_us(state.margin_us)
        joint = [caller.elsewhere for caller in islice(mine.queue, LOOKED_AT) if caller.elsewhere]
        joint_lead, is_joint = max((one.lead_us for one in joint), default=0), bool(joint)
        is_far = lead > 0 and not ledger.in_process
        window = quota.rates[-1].period_us + state.margin_us
        credit = min(most_credit(quota, head.cost if head else 1), mine.standing.credit(is_far))
        prefetch = self._prefetch_for(len(mine.queue), now)
        room = 0 if quota.late_us else room_for(state.hits, quota, state.margin(quota, now), now)
        # Where calls are so frequent that slots are prefetched, a place would hold them back.
        may_stand = credit > 0 and not prefetch and self._can_use_grants_ahead(state.horizon_us)
        stands = may_stand and mine.standing.may_stand(now, window, is_far, room)
        self._sent, self._waiting = mine.hand.to_return(), len(mine.queue)
        self._kept = list(mine.exact.kept.values())
        return BookingRequest(
            mine.owner,
            quota,
            list(islice(mine.queue, MOST_JOINT)) if is_joint else mine.queue,
            now,
            # A slot that others grant was not checked against the other limits of a call.
            waiting=sum(1 for _ in takewhile(lambda caller: not caller.elsewhere, mine.queue)),
            lead_us=max(lead, joint_lead),
            credit=credit,
            back_us=mine.standing.back_us(ledger.latency.read_us),
            stands=stands,
            returned=self._sent,
            prefetch=prefetch,
            exact=mine.exact.wanted(),
            kept=self._kept,
            gone=set(mine.exact.gone),
            headroom=mine.headroom,
            gap_us=1 if quota.late_us and not is_far else ledger.latency.horizon_us,
        )

    def _can_use_grants_ahead(self, horizon_us: int) -> bool:
        """Whether the line is one caller, whose next call could use a slot that others grant its place (rule 11)."""
        mine, only = self.assignments, self.assignments.queue.only
        has_headroom = mine.headroom > 0  # rule 32
        if only is None or only.elsewhere or has_headroom or not self.ledger.quota.counts_calls_alone:
            return False
        if only.deadline and only.deadline < only.arrived + horizon_us // 2:
            return False  # a call that waits so briefly can hardly use a slot that was granted ahead
        return not self.ledger.in_process  # else a look costs nothing, so a standing place saves nothing

    def _joint_horizon_us(self) -> int:
        """Return how far ahead the calls under several limits must be booked."""
        mine = self.assignments
        callers = (caller.elsewhere for caller in islice(mine.queue, LOOKED_AT) if caller.elsewhere)
        wanted = [*(one.horizon_us for one in callers), *(one.horizon_us for one in mine.exact.open)]
        return max(wanted, default=0)

    def _is_due(self, state: LimitState, plan: Plan, now: int) -> bool:
        """Whether a plan is to be written for its own sake (rule 7)."""
        mine = self.assignments
        head = mine.queue.head
        if head is None:
            return False
        if plan.turn is None or plan.own_slots:
            return True
        place = state.place_of(mine.owner)
        return (
            place is None
            or place.cost != head.cost
            or now >= place.ready - state.horizon_us // 4
            or place.ready > plan.turn + LOOK_EVERY_US
        )

    def _next_look(self, state: LimitState, turn: int, read_at: int) -> int:
        """Return when the line is to look next, as its turn comes at ``turn`` (rules 7, 18 and 24)."""
        look_at = min(turn - state.horizon_us // 4, read_at + LOOK_EVERY_US)
        return min(look_at, max(self._unsure_at, read_at + state.horizon_us)) if self._unsure_at else look_at

    def _too_late(self, state: LimitState, plan: Plan, request: BookingRequest) -> list[tuple[Caller, int]]:
        """Return the callers whose slot is after their deadline, as the state and the line show, each with the slot."""
        mine, now, too_late = self.assignments, request.now, dict(plan.too_late)
        if not mine.queue.bounded:
            return list(plan.too_late)
        margin, soonest = state.margin(request.quota, now), max(now + request.lead_us, state.hold_until)
        log, ahead, calls = tidied(state, request).hits if request.returned else state.hits, cost_of({}), 1
        for caller in mine.queue:
            if caller in too_late:
                continue
            if caller.deadline is not None:
                spaced = max(soonest, spaced_after(log, request.quota, calls))
                at = earliest_slot_behind(log, ahead, request.part, margin, spaced, caller.cost)
                if at > max(caller.deadline, now + request.lead_us):  # the time of a swap does not count
                    too_late[caller] = at
                    continue
            ahead += caller.cost
            calls += 1
        return list(too_late.items())

    def _takes_long(self, now: int) -> bool:
        """Count an attempt; return whether others won two swaps, and another would end over half a horizon later."""
        self._attempts += 1
        self._begun_at = now if self._begun_at is None else self._begun_at
        return self._attempts > 2 and self._is_over(self._begun_at, now)

    def _is_over(self, since: int, now: int) -> bool:
        latency = self.ledger.latency  # one more swap ends, where it is lost, with the read that tells of it
        return now + latency.read_us + latency.swap_us > since + latency.horizon_us // 2

    def _refuse_overdue(self, now: int) -> None:
        """Refuse the callers whose deadline is past while other processes win each swap: two swaps more are enough."""
        mine = self.assignments
        for caller in list(mine.queue) if mine.queue.bounded else ():
            if caller.deadline is not None and self._is_over(caller.deadline, now):
                mine.refuse(caller, mine.earliest_slot_of(caller), now)

    def _fail_too_dear(self) -> None:
        """Answer the callers whose cost no window holds: the share of an outage has smaller windows."""
        quota, mine = self.assignments.quota, self.assignments
        for caller in [caller for caller in mine.queue if not quota.admits(caller.cost)]:
            mine.fail([caller], _too_dear(caller.cost, quota))
        for request in [request for request in mine.exact.open if not quota.admits(request.cost)]:
            mine.exact.fail(_too_dear(request.cost, quota), [request])


def _too_dear(cost: Hits, quota: Quota) -> CacheError:
    return CacheError(f"cost {cost} is above this process's share while the cache is away: {quota}")
