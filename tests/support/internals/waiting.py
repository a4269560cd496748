"""The callers of one process: their lines, slots and turns."""

from __future__ import annotations

from nekkar.core.waiting import alone, assignments, exact, prefetch, together, turn
from nekkar.core.waiting.assignments import LOOK_EVERY_US, Assignments
from nekkar.core.waiting.callers import Caller, InHand, Slot
from nekkar.core.waiting.hand import Hand
from nekkar.core.waiting.reporter import CallReporter
from nekkar.core.waiting.together import JointCall
from nekkar.core.waiting.turns import Turns
from nekkar.core.waiting.wait_queue import WaitQueue


def turns_of(line: WaitQueue) -> Turns:
    """Return what lets one caller of a line at a time update the state."""
    return line._turns


def assignments_of(line: WaitQueue) -> Assignments:
    """Return which caller of a line has which slot."""
    return line._assignments
