"""The simulation of a plan."""

from __future__ import annotations

from nekkar.plan import Ask, Call, Hold, Start, Tally, asked, read_calls, read_log, run
from nekkar.plan.calls import _READERS
