"""A call under several limits: it starts only while it has a slot in each, all at one instant.

Rules (numbered as in docs/concepts/together.md; 27 is in ``window/exact.py``):

21. One of its limits leads: the call waits in the line of that limit, as any call, and by its time of arrival. At first
    that is the one with the longest wait, as far as is known.
24. Look at all. Before the first caller of a line books, it looks at those of its other limits that bound lately, where
    the newest state is not quite new. Where the periods are unlike, it also looks, at most once a horizon, at the first
    turn ahead that may stay unused: a call in front may move to another limit, and tells nobody (``turn.py``).
25. The scarcest leads. Where a caller could be booked here, and another of its limits would refuse that instant, as
    far as is known, it waits there, and nothing is booked.
26. Way. Its slot is booked so far ahead that the others can be asked for it, where that takes long.
28. Refused. What is booked for it is taken back, by name. The limit that refused leads, for all callers in the line
    that need it too.
29. Start with a slot for the same instant in each. Each must be good, as the slot of any call; where one is not, all
    are taken back. The same holds after a cancellation, an interrupt or an error.

No two states are swapped together. A death between two of the swaps costs the slots that were booked, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from secrets import randbits

from nekkar.core.cost import Hits
from nekkar.core.runtime.effects import QueueSteps, WaitUntil
from nekkar.core.waiting.callers import Caller, Slot, WaitsElsewhere, new_ticket
from nekkar.core.waiting.exact_requests import ExactRequest
from nekkar.core.waiting.wait_queue import WaitQueue
from nekkar.core.window.exact import ExactSlot
from nekkar.core.window.state import MOST_HORIZON_US, LimitState

WAY_PART, MOST_WAY_US = 8, MOST_HORIZON_US * 9 // 10
MOST_MOVES_IN_VAIN, PAUSE_PART = 12, 16


@dataclass(slots=True, eq=False)
class Part:
    """One limit of a call: the line of its process, the call's cost there, and what it asked for.

    ``place``: the owner of the place that is kept for the call; 0: none is.
    """

    line: WaitQueue
    cost: Hits
    request: ExactRequest | None = None
    place: int = 0

    @property
    def now(self) -> int:
        """The time on its clock."""
        return self.line.ledger.clock.now_us()

    @property
    def still(self) -> int:
        """The time on its clock, as if that had never been set."""
        return self.now - self.line.ledger.keep_time()


class JointCall:
    """One call under several limits; ``steps`` is run once.

    ``lead``: the part in whose line it waits. ``rounds``: how often it asked the other limits for a slot.
    ``are_unlike``: the longest periods of its limits differ.
    """

    def __init__(self, lines: Sequence[WaitQueue], costs: Sequence[Hits], max_wait: float | None) -> None:
        self.parts = [Part(line, cost) for line, cost in zip(lines, costs, strict=True)]
        self.max_wait = max_wait
        self.rounds = 0
        self._moves = self._moves_in_vain = 0
        self.are_unlike = len({line.ledger.quota.rates[-1].period_us for line in lines}) > 1
        self.lead = self.parts[0]
        self._slot: Slot | None = None  # of the limit that leads; the others are asked for the same instant

    def steps(self, stale: Sequence[Slot | None] = ()) -> QueueSteps[tuple[list[Slot], int]]:
        """Wait for a slot in each; return them in order, and the µs waited. Raises WaitTooLong and CacheError.

        ``stale``: slots of each on which the call did not start in time. They are returned, and it stands in front.
        """
        ticket = new_ticket(is_front=bool(stale))
        begun = [part.still for part in self.parts]
        self.lead = max(self.parts, key=lambda part: part.line.exact.wait_us(part.cost))  # rule 21
        try:
            for part, slot in zip(self.parts, stale, strict=False):
                if slot:
                    part.line.exact.take_back(slot)
            while True:
                lead = self.lead
                waited = lead.still - begun[self.parts.index(lead)]
                try:
                    slot, waited = yield from lead.line.enter(self._caller(ticket, lead, max(0, waited)))
                except WaitsElsewhere as other:
                    yield from self._settle_down(lead.line)
                    self.lead = self.parts[other.lead]
                    self._moves += 1
                    self._drop(self.lead, at_once=False)
                    yield from self.cancel()
                else:
                    self._report(ticket, waited)
                    return [self._slot_of(part, slot) for part in self.parts], waited
        except GeneratorExit:  # dropped by its driver: nothing more can be asked of the caches
            self._leave()
            raise
        except BaseException:
            self._leave()
            yield from self._write_back()
            raise

    def _settle_down(self, line: WaitQueue) -> QueueSteps[None]:
        """Pause a little where the call was sent to and fro, and each limit would refuse what another has."""
        self._moves_in_vain += 1
        if self._moves_in_vain > MOST_MOVES_IN_VAIN:
            latency, clock, self._moves_in_vain = line.ledger.latency, line.ledger.clock, 0
            yield WaitUntil(clock.now_us() + latency.horizon_us // PAUSE_PART, line.new_event(), clock=clock)

    def _caller(self, ticket: int, lead: Part, waited: int) -> Caller:
        arrived = lead.now - waited
        deadline = None if self.max_wait is None else arrived + round(self.max_wait * 1e6)
        return Caller(ticket, lead.cost, arrived, deadline, self.max_wait, elsewhere=self)

    def _slot_of(self, part: Part, led: Slot) -> Slot:
        if part is self.lead:
            return led
        assert part.request is not None
        assert part.request.slot is not None
        return part.request.slot

    def _report(self, ticket: int, waited: int) -> None:
        """Tell the listeners of the other limits too."""
        for part in self.others:
            if part.request and part.request.slot and part.line.reporter.listening:
                caller = Caller(ticket, part.cost, part.now - waited, None, None)
                part.line.reporter.admitted(caller, part.request.slot, part.now, 0)

    @property
    def others(self) -> list[Part]:
        """All but the one that leads."""
        return [part for part in self.parts if part is not self.lead]

    # What the line of the leading limit needs to know of the others.

    @property
    def lead_us(self) -> int:
        """How far ahead a slot must be booked, so that the others can be asked for it (rule 26)."""
        others = (part.line.ledger.latency for part in self.others)
        us = self.lead.line.ledger.latency.swap_us + sum(one.read_us + one.swap_us for one in others)
        margin = min(part.line.ledger.quota.margin_us for part in self.parts)
        return min(us * 3 // 2, MOST_WAY_US) if us > margin // WAY_PART else 0

    @property
    def horizon_us(self) -> int:
        """The longest horizon that one of its limits asks for (rule 21), or that the way to the others needs."""
        longest = max(part.line.ledger.latency.horizon_us for part in self.parts)
        return min(max(longest, 2 * self.lead_us), MOST_HORIZON_US)

    def look(self) -> QueueSteps[None]:
        """Read the states of the others, where these are not quite new (rule 24)."""
        for part in self.others:
            yield from part.line.exact.look()

    def follow(self, turn_at: int, is_first: bool) -> None:
        """Have places kept in the others for a turn that comes at ``turn_at`` (rule 22).

        ``is_first``: the call is the first of its line.
        """
        if self._moves > (0 if is_first else 1) and (is_first or self.are_unlike):
            for part in self.others:
                part.place = part.place or randbits(64)
                part.line.exact.keep(part.place, part.cost, turn_at + _ahead(part, self.lead))

    def put_places(self) -> QueueSteps[None]:
        """Write the places that are to be kept in the others."""
        for part in self.others:
            yield from part.line.exact.put_places()

    def full(self, expected: dict[object, LimitState], slot: int, now: int) -> WaitsElsewhere | None:
        """Return the way to the limit that would refuse this slot (rule 25).

        ``expected``: the state of each with what callers in front book; a slot that is refused nowhere is added.
        ``now``: when the turn began that has the slot.
        """
        states = dict[object, LimitState]()
        for part in self.others:
            line, ahead_us = part.line, _ahead(part, self.lead)
            if line.exact.is_known(part.cost):
                wanted = ExactSlot(randbits(64), slot + ahead_us, part.cost, part.place)
                state = line.exact.expected(expected.get(line), wanted, self.horizon_us, now + ahead_us)
                if state is None:
                    return WaitsElsewhere(self.parts.index(part))
                states[line] = state
        expected.update(states)
        return None

    def way_to(self, line: WaitQueue) -> WaitsElsewhere | None:
        """Return the error that sends the call to this line; None if it does not need the limit of the line."""
        return next((WaitsElsewhere(index) for index, part in enumerate(self.parts) if part.line is line), None)

    def book(self, slot: Slot) -> QueueSteps[bool]:
        """Book the same instant in each (rule 27); return whether that was in time. Raises WaitsElsewhere (rule 28)."""
        yield from self.cancel()
        self.rounds += 1
        self._moves_in_vain = 0
        lead, self._slot = self.lead, slot
        for part in self.others:
            part.request = ExactRequest(0, slot.at + _ahead(part, lead), part.cost, self.horizon_us, part.place)
            yield from part.line.exact.ask(part.request)
            if part.request.is_late:
                return False
            if part.request.is_refused:
                lead.line.exact.send_to(part.line)
                raise WaitsElsewhere(self.parts.index(part))
        return True

    def is_good(self, slot: Slot) -> bool:
        """Return whether the others have the same slot, and the call may still start on it there (rule 29)."""
        return slot is self._slot and all(
            part.request is not None and part.line.exact.is_good(part.request) for part in self.others
        )

    def starts(self) -> None:
        """Record that the call starts."""
        for part in self.others:
            if part.request:
                part.line.exact.starts(part.request)

    def cancel(self) -> QueueSteps[None]:
        """Give back what is booked in the others (rule 28)."""
        if any(part.request for part in self.parts):
            self._withdraw()
            yield from self._write_back()

    def _drop(self, part: Part, *, at_once: bool) -> None:
        if part.place:
            place, part.place = part.place, 0
            part.line.exact.drop(place, at_once=at_once)

    def _withdraw(self) -> None:
        for part in self.parts:
            if part.request:
                part.line.exact.withdraw(part.request)
                part.request = None

    def drop_places(self) -> None:
        """Give up the places that are kept for it."""
        for part in self.parts:
            self._drop(part, at_once=True)

    def _leave(self) -> None:
        self._withdraw()
        self.drop_places()

    def _write_back(self) -> QueueSteps[None]:
        for part in self.parts:
            yield from part.line.exact.write_back()


def _ahead(part: Part, lead: Part) -> int:
    """Return how far the clock of one limit is ahead of another's."""
    return 0 if part.line.ledger.clock is lead.line.ledger.clock else part.now - lead.now
