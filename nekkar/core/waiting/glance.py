"""Glances: the one look within a long wait, by which a fleet meets a lost log early.

A lost log is met by whoever looks first, and then a period is waited, since others may have used all that was free.
Where all wait for the next period, nobody looks for as long, and a loss would cost two. So a few of those who wait
share a few looks out among them: whoever waits behind k others, beyond the horizon, looks once, at the k-th term of
the van der Corput sequence to the base 2 (1/2, 1/4, 3/4, 1/8, …) of its wait, which spreads any number evenly.

Seven do so at most, and fewer than one for eight of the limit's calls; never who is first, nor who waits while others
wake, nor for under 3/4 s: a loss met by then is over within the period and a second.

J. G. van der Corput, Verteilungsfunktionen, Proc. Akad. Amsterdam 38, 1935.
"""

from __future__ import annotations

from nekkar.core.errors import CacheError
from nekkar.core.quota import SECOND
from nekkar.core.runtime.effects import Steps
from nekkar.core.shared.ledger import Ledger
from nekkar.core.window.booking import Slot

LONG_WAIT_US = 3 * SECOND // 4
MOST, CALLS_FOR_EACH = 8, 8


def glance_at(ledger: Ledger, slot: Slot, now: int) -> int | None:
    """Return when to look once in the long wait for ``slot``; None: not at all."""
    known = ledger.view.log
    if known is None or ledger.store.in_process or ledger.alone.is_on:
        return None
    wait, start = slot.at - now, max(now + ledger.pace.horizon_us, known.unsure_until)
    before = known.between(start, slot.at) // slot.cost - 1
    if not 0 < before < min(MOST, ledger.quota.max_cost // slot.cost // CALLS_FOR_EACH):
        return None
    somebody_wakes = known.between(start, now + 3 * wait // 4)
    return None if somebody_wakes else now + int(wait * part(before))


def part(number: int) -> float:
    """Return the ``number``th term (from 1) of the van der Corput sequence: its binary digits, mirrored."""
    return int(f"{number:b}"[::-1], 2) / (1 << number.bit_length())


def glance(ledger: Ledger) -> Steps[None]:
    """Look. A cache that is away meanwhile is no error: the caller needs it at its slot, and looks again then.

    One that hangs takes until its timeout: where that is past the slot, the caller books again, as after any late look.
    """
    try:
        yield from ledger.look()
    except CacheError:
        return
