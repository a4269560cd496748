"""What a line does with a slot that it was granted: it takes it in time, and starts on it only where it still holds."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import pytest

from nekkar.core.cache import MemoryCache
from nekkar.core.limiter import Nekkar
from nekkar.testing import FakeClock
from tests.support.internals.core import core_of
from tests.support.internals.shared import Ledger
from tests.support.internals.waiting import Assignments, Caller, assignments_of
from tests.support.internals.window import Grant, LimitState

MS = 1000


class Granted(NamedTuple):
    """A line with a caller, and a state that grants it a slot in ``after`` microseconds."""

    ledger: Ledger
    line: Assignments
    caller: Caller
    state: LimitState
    now: int

    def knows(self, state: LimitState) -> None:
        """Let the process read a state now."""
        self.ledger.replica.record(state, self.ledger.replica.next_number(), self.now)

    def picks_up(self, read_at: int) -> bool:
        """Return whether the caller has the slot, after the state was read at a time."""
        self.line.pick_up(self.state, read_at, self.now)
        return self.caller.slot is not None


def granted(after: int) -> Granted:
    clock = FakeClock(jump=False)
    limit = Nekkar(MemoryCache(), clock=clock)("calls", 5, period=10)
    limit.acquire()
    core = core_of(limit)
    line, now = assignments_of(core.thread_line()), clock.now_us()
    caller = Caller(1 << 40, 1, now, None, None)
    line.queue.join(caller)
    known = core.ledger.state
    assert known is not None
    grant = Grant(known.serial + 1, line.owner, now + after, 1)
    state = replace(known, hits=known.hits.add(now + after, 1), grants=(*known.grants, grant), serial=grant.serial)
    found = Granted(core.ledger, line, caller, state, now)
    found.knows(state)
    return found


def test_a_slot_is_taken_only_out_of_a_state_that_was_read_within_a_horizon_of_it() -> None:
    """So far ahead it could be lost unseen, with the state."""
    far = granted(150 * MS)
    assert far.state.horizon_us == 100 * MS
    assert not far.picks_up(far.now)
    assert far.picks_up(far.now + 50 * MS)


@pytest.mark.parametrize("change", ["another epoch", "a hold", "nothing"])
def test_a_call_starts_on_its_slot_only_where_the_newest_state_confirms_it(change: str) -> None:
    """A slot of another epoch is counted nowhere, and in a hold nobody starts."""
    near = granted(20 * MS)
    assert near.picks_up(near.now)
    slot = near.caller.slot
    assert slot is not None
    if change == "another epoch":
        near.knows(replace(near.state, epoch=near.state.epoch + 1))
    if change == "a hold":
        near.knows(replace(near.state, hold_until=slot.at + 1))
    assert near.line.starts(near.caller, slot.at) is (change == "nothing")
    assert (near.caller in near.line.queue) is (change != "nothing")
