"""The core: one exact rate limit, shared through a cache. It knows nothing of HTTP.

Reading order, about 20 minutes:

1. ``quota.py``     What a limit is: rates, spacing, margin. ``cost.py``: what a call takes of it, in each unit.
2. ``window/``      The algorithm, pure. Start with ``hits.py``: hit n comes at least a period after hit n − N. Then
                    ``state.py`` (what is shared), ``plan.py`` (who gets which slot), ``recovery.py`` (after a loss).
3. ``shared/``      One limit's state in one cache: ``ledger.py`` reads it, changes it, swaps it, in one loop.
                    ``fallback.py`` stands before it, for the time that the cache is away.
4. ``waiting/``     The callers of one process: ``wait_queue.py`` leads a caller, ``turn.py`` one update of the state,
                    ``direct.py`` a call that comes alone, ``together.py`` a call under several limits.
5. ``runtime/``     How the generators of 3 and 4 are run in threads and tasks; clocks.
6. ``limit_core.py``, ``decorator.py``, ``limit.py``, ``joint.py``, ``limiter.py``   What users hold.
   ``cache/``: the backends.

One call: Limit.acquire -> WaitQueue.acquire -> [first in line] Turns.lead -> Fallback.update -> Ledger.update
          -> Turn.apply -> planned() -> store.swap -> cache.cas -> [grants picked up] -> sleep until the slot -> start.
A call that comes alone, where nobody else writes, takes the direct way (``waiting/direct.py``): one swap, and no read.
A turn is handed to the driver whole (``RunSteps``): once begun it finishes, even if its caller is cancelled.

Words: slot: the instant at which a call may start. hit: a slot that is booked. line: the callers of one process (of one
event loop, one headroom) that wait for a limit. place: the entry of a line that waits, in the state's queue of lines.
grant: hits with the name of the line that may use them. horizon: how far ahead slots are booked (100 ms, up to 1 s with
a far cache). margin: what each window is longer than its period. epoch: the identity of a state; a new one after a loss
makes older slots void. hold: no slot before this instant.

The rules by number: docs/concepts/line.md (1 to 14, 30 to 32), faults.md (15 to 18, 20), together.md (21 to 29),
window.md (33, 34). Each is named at the lines that keep it. A file's own rules, where it has any, have no numbers.
"""
