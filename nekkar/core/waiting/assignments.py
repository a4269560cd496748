"""Assignments: the callers of a line without a slot, the slots without a caller, and what goes back.

Plain state, changed under the lock of the line. Nothing here blocks, calls the cache, or runs code of users.
"""

from __future__ import annotations

from collections.abc import Sequence
from secrets import randbits

from nekkar.core.cost import fits
from nekkar.core.errors import CacheError, copy_error
from nekkar.core.quota import Quota, leaving
from nekkar.core.shared.account import Account
from nekkar.core.waiting.callers import Caller, InHand, Queue, Settling, Slot, StartOrder, State
from nekkar.core.waiting.exact_requests import ExactRequest, ExactRequests
from nekkar.core.waiting.hand import Hand
from nekkar.core.waiting.standing import Standing
from nekkar.core.window.booking import Returned, earliest_slot_behind, spaced_after
from nekkar.core.window.state import LimitState

LOOK_EVERY_US = 1_000_000


class Assignments:
    """The callers of one line, and the grants that the line has.

    ``owner``: the line's name in the state. ``queue``: callers without a slot. ``order``: booked ones, if they are to
    start in order; else None. ``hand``: the line's grants. ``given``: how many slots callers got since prefetching last
    counted them. ``settling``: settlements to go into the next write; ``must_write``: that write is not to wait.
    ``to_wake``: callers for whom something changed.
    """

    def __init__(self, name: str, ledger: Account, in_order: bool, headroom: int = 0) -> None:
        self.name, self.ledger, self.headroom = name, ledger, headroom
        self.owner = randbits(64)
        self.queue, self.order = Queue(), StartOrder() if in_order else None
        self.hand = Hand(self.owner)
        self.given = 0
        self.settling: list[Settling] = []
        self.must_write = False
        self.to_wake: list[Caller | ExactRequest | Settling] = []
        self.exact = ExactRequests(self)
        self.standing = Standing()

    @property
    def quota(self) -> Quota:
        """What its calls may use: all but their headroom."""
        return leaving(self.ledger.quota, self.headroom)

    # Slots come.

    def pick_up(self, state: LimitState, read_at: int, now: int) -> None:
        """Take this line's grants out of a state that was read by a command sent at ``read_at`` (rule 8)."""
        self.hand.pick_up(state, read_at)
        self.match(now)

    def match(self, now: int) -> None:
        """Give the slots in hand to callers, in order. A slot that is late, or does not fit the first, goes back."""
        head = self.queue.head
        hand = self.hand.grants
        while hand and (self.queue.head or not (hand[0].left and self.is_good(hand[0], now))):
            grant, caller = hand[0], self.queue.head
            if not grant.left:
                hand.popleft()
            elif not self.is_good(grant, now):
                if not caller or caller.arrived > self.ledger.quota.good_until(grant.grant.slot):
                    self.standing.was_absent()
                self.hand.close_first()
            elif caller and caller.deadline is not None and grant.grant.slot > max(caller.deadline, now):
                if len(self.queue) > 1:
                    self.refuse(caller, grant.grant.slot, now)
                else:  # a grant of a standing place, for when a call was expected: the next turn may find room sooner
                    self.hand.close_first()
                    self.must_write = True
            elif caller and not fits(caller.cost, grant.left):
                self.hand.close_first()
                self.must_write = True
            elif caller:
                self.give(caller, grant)
        if self.queue.head is not head:
            self.wake_head()

    def give(self, caller: Caller, grant: InHand) -> None:
        """Give a slot. Of callers that start in order only the first is woken: each wakes the next as it starts."""
        grant.used += caller.cost
        self.given += 1
        caller.slot, caller.state = Slot(grant.grant.slot, caller.cost, grant), State.BOOKED
        self.queue.leave(caller)
        if self.order and not caller.elsewhere:  # else once its other limits have the same slot
            self.order.add(caller, caller.slot)
            self.wake_next()
        elif caller.event:  # else it is awake: it leads
            self.to_wake.append(caller)

    def take_alone(self, caller: Caller, state: LimitState) -> None:
        """Take the newest grant of a state, which was booked for this caller alone; it may have left meanwhile."""
        grant = state.grants[-1]
        if self.hand.epoch != state.epoch or grant.serial <= self.hand.picked_up:
            return  # void, or a turn beside this one has seen it and picked it up
        held = self.hand.take(grant)
        if not caller.is_out:
            self.give(caller, held)
        if held.used != grant.cost:
            self.hand.grants.append(held)
            if not held.used and not self.queue:
                self.return_hand()

    # Slots go.

    def is_good(self, grant: InHand, now: int) -> bool:
        """Whether a call may still start on a grant: it is not late, and the newest state confirms it (rule 9)."""
        ledger, slot = self.ledger, grant.grant.slot
        return now <= ledger.quota.good_until(slot) and ledger.replica.confirms(grant.epoch, slot)

    def give_back(self, caller: Caller, now: int) -> None:
        """Take a caller's slot from it: for the next caller if it is good and fits, else for the state (rule 14)."""
        slot, caller.slot = caller.slot, None
        if slot is None:
            return
        grant = slot.source
        grant.used -= slot.cost
        if not (is_good := self.is_good(grant, now)) or grant.is_closed:
            self.hand.close(grant)
            self.must_write |= is_good and caller.elsewhere is None  # a part of it went back before
            return
        if grant not in self.hand.grants:
            self.hand.grants.appendleft(grant)
        self.match(now)
        if grant in self.hand.grants and grant.left and not self.queue.head:
            self.hand.grants.remove(grant)
            self.hand.close(grant)
            self.must_write = True

    def take_back(self, slot: Slot) -> None:
        """Have a slot that no call started on taken out of the state."""
        slot.source.used -= slot.cost
        self.hand.close(slot.source)

    def return_hand(self) -> None:
        """Have all grants in hand taken out of the state: the callers that they were booked for have left."""
        while self.hand.grants:
            self.hand.close_first()
        self.must_write |= bool(self.hand.returned)

    def were_returned(self, sent: Sequence[Returned]) -> None:
        """Forget what a write that won has taken out; what has come back since is to be written too."""
        self.must_write |= self.hand.were_returned(sent)

    def settle(self, settling: Settling) -> None:
        """Have a settlement written at once: there may be calls that wait for what it gives back."""
        self.settling.append(settling)
        self.must_write = True

    def were_settled(self, settled: Sequence[Settling], error: Exception | None = None) -> None:
        """Answer settlements: they were written, or end with an error."""
        for settling in settled:
            if not settling.is_done:
                settling.error, settling.is_done = error and copy_error(error), True
                self.to_wake.append(settling)
        self.settling = [settling for settling in self.settling if not settling.is_done]

    # Callers.

    def arrives_alone(self, caller: Caller, now: int) -> int:
        """Note a caller that comes to an empty line; return when that looks next: now, or when its place is due."""
        ledger, state = self.ledger, self.ledger.state
        place = state.place_of(self.owner) if state and state.places else None
        if place and place.credit and now > ledger.quota.good_until(place.ready):
            self.standing.was_absent()
        self.standing.arrives(now)
        if not (place and state):
            return now
        looks_at = min(place.ready - state.horizon_us // 4, ledger.read_at + LOOK_EVERY_US)
        if ledger.quota.late_us:  # its place may stand although there is room at once
            slot = self.earliest_slot_of(caller)
            if all(other.ready > slot or other is place for other in state.places):
                looks_at = min(looks_at, slot)
        return now if caller.deadline is not None and caller.deadline < looks_at else looks_at

    def earliest_slot_of(self, caller: Caller) -> int:
        """Return a lower bound of the slot of a caller behind all callers in line; 0 before a state was read."""
        state, quota = self.ledger.state, self.quota
        if state is None:
            return 0
        margin, soonest = state.margin(quota, caller.arrived), spaced_after(state.hits, quota, len(self.queue) + 1)
        soonest = max(soonest, state.hold_until)
        return earliest_slot_behind(state.hits, self.queue.hits, quota, margin, soonest, caller.cost)

    def starts(self, caller: Caller, now: int) -> bool:
        """Return whether a booked caller may start now (rule 9). If not, it goes back to where it stood in line.

        So do all callers next in order whose slots are void or late. Woken one by one, many callers on a busy machine
        would book new slots one by one too, and be late for each.
        """
        if caller.state is not State.BOOKED or caller.slot is None:
            return False
        slot = caller.slot
        if self.is_good(slot.source, now) and (caller.elsewhere is None or caller.elsewhere.is_good(slot)):
            caller.state = State.STARTED
            if caller.elsewhere:
                caller.elsewhere.starts()
            self.ledger.started(slot.at, slot.cost)
            self.standing.starts(slot.at, bool(self.queue.by_ticket or self.hand.grants))
            self.wake_next()
            return True
        late = [caller]
        self._requeue(caller, now)
        while self.order and (first := self.order.first()) and first.slot and not self.is_good(first.slot.source, now):
            late.append(first)
            self._requeue(first, now)
        self.queue.rejoin(late)
        self.must_write = self.must_write or bool(self.hand.returned)  # they are to be booked again at once
        self.to_wake += [caller for caller in late if caller.deadline is not None]  # each looks to its deadline
        self.wake_head()
        self.wake_next()
        return False

    def _requeue(self, caller: Caller, now: int) -> None:
        slot, caller.slot, caller.state = caller.slot, None, State.QUEUED
        if slot:
            self.take_back(slot)

    def requeue_all(self, callers: Sequence[Caller]) -> None:
        """Put all booked callers back to where they stood in line: the clock was set, so their slots mean nothing."""
        booked = [caller for caller in callers if caller.state is State.BOOKED]
        for caller in booked:
            caller.slot, caller.state = None, State.QUEUED
        self.hand.clear()
        if booked:
            self.queue.rejoin(booked)
        self.wake_head()

    def leaves(self, caller: Caller, now: int) -> None:
        """Take a caller out, whatever its state. The place of its line is rewritten, or given up (rule 14)."""
        if caller.state is State.QUEUED:
            head = self.queue.head
            self.queue.leave(caller)
            following = self.queue.head
            if caller is head and (following is None or following.cost != caller.cost):
                self._renew_place()
        self.give_back(caller, now)
        caller.state = State.LEFT  # last: an interrupt before it lets the caller leave again
        self.wake_next()
        self.wake_head()

    def move_full(self, slots: Sequence[tuple[Caller, int]], now: int) -> bool:
        """Send each caller to a limit that would refuse its slot, of these in order; return whether one was sent."""
        expected: dict[object, LimitState] = {}
        moved = [
            (caller, full)
            for caller, slot in slots
            if caller.elsewhere and (full := caller.elsewhere.full(expected, slot, now))
        ]
        for caller, full in moved:
            self.fail([caller], full)
        return bool(moved)

    def refuse(self, caller: Caller, at: int, now: int) -> None:
        """Refuse a caller: its slot can't come before ``at``."""
        self.fail([caller], caller.too_long(self.name, at, now))

    def fail(self, callers: Sequence[Caller], error: Exception) -> None:
        """Answer callers with an error; with a copy of a CacheError, since each of them raises it."""
        for caller in callers:
            if caller in self.queue:
                self.queue.leave(caller)
                caller.error = copy_error(error) if isinstance(error, CacheError) else error
                self.to_wake.append(caller)
        if not self.queue.head:
            self._renew_place()
        self.wake_head()

    def _renew_place(self) -> None:
        """Have the place of this line, if it has one, rewritten or taken out by the next write."""
        state = self.ledger.state
        if state and state.place_of(self.owner):
            self.must_write = True

    def wake_head(self) -> None:
        """Have the caller woken whose turn it is to lead."""
        if self.queue.head:
            self.to_wake.append(self.queue.head)

    def wake_next(self) -> None:
        """Have the caller woken whose turn it is to start."""
        if self.order and (first := self.order.first()) and first not in self.to_wake[-1:]:
            self.to_wake.append(first)
