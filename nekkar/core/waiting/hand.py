"""The grants that a line has in hand: picked up out of the state, given to callers part by part, or on their way back.

Plain state, changed under the lock of the line.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from nekkar.core.waiting.callers import InHand
from nekkar.core.window.booking import Returned
from nekkar.core.window.state import Grant, LimitState


class Hand:
    """The grants of one line, ``owner``.

    ``grants``: picked up, with hits that no caller has yet. ``returned``: grants of which hits go back with the next
    write. ``picked_up``: the serial of the last grant taken in ``epoch``.
    """

    def __init__(self, owner: int) -> None:
        self.owner = owner
        self.grants: deque[InHand] = deque()
        self.returned: list[InHand] = []
        self.epoch, self.picked_up = 0, 0

    def pick_up(self, state: LimitState, read_at: int) -> None:
        """Take this line's grants out of a state that was read by a command sent at ``read_at`` (rule 8)."""
        if state.epoch != self.epoch:  # rule 9: slots of another epoch are void, and its names mean nothing
            self.epoch, self.picked_up = state.epoch, 0
            self.clear()
        if state.serial > self.picked_up:
            for grant in state.grants:
                if grant.owner != self.owner or grant.serial <= self.picked_up:
                    continue
                if grant.slot > read_at + state.horizon_us:
                    break  # so far ahead it could be lost unseen: a later look takes it
                self.grants.append(self.take(grant))

    def take(self, grant: Grant) -> InHand:
        """Take one grant of this epoch: the next of the line."""
        self.picked_up = grant.serial
        return InHand(grant, self.epoch)

    def has_seen(self, state: LimitState) -> bool:
        """Whether a state is of this epoch, and has no grant of this line that is still to be picked up."""
        if state.epoch != self.epoch:
            return False
        return state.serial <= self.picked_up or not any(
            grant.owner == self.owner and grant.serial > self.picked_up for grant in state.grants
        )

    def close(self, grant: InHand) -> None:
        """Have what is left of a grant taken out of the state by the next write (rule 10)."""
        grant.is_closed = True
        if grant.epoch == self.epoch and grant.used != grant.grant.cost and grant not in self.returned:
            self.returned.append(grant)

    def close_first(self) -> None:
        """Close the first grant."""
        self.close(self.grants.popleft())

    def clear(self) -> None:
        """Forget all grants: they mean nothing any more."""
        self.grants.clear()
        self.returned.clear()

    def to_return(self) -> list[Returned]:
        """Return what the next write takes out."""
        return [Returned(grant.grant, grant.used) for grant in self.returned]

    def were_returned(self, sent: Sequence[Returned]) -> bool:
        """Forget what a write that won has taken out; return whether more has come back since it was planned."""
        kept = {back.grant.serial: back.keep for back in sent}
        self.returned = [grant for grant in self.returned if kept.get(grant.grant.serial) != grant.used]
        return any(grant.grant.serial in kept for grant in self.returned)
