"""Plans: how long a fleet takes for many calls under limits, what binds it, and where it waits; no call is made.

Bottom to top: ``calls`` reads what is to be called, ``fleet`` runs it on paper, ``tally`` adds up.
"""

from nekkar.plan.calls import Call, read_calls, read_log
from nekkar.plan.fleet import Ask, Hold, Start, asked, run
from nekkar.plan.tally import Tally, Usage

__all__ = ["Ask", "Call", "Hold", "Start", "Tally", "Usage", "asked", "read_calls", "read_log", "run"]
