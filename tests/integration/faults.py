"""The table of faults, each played on a fleet of real processes and a real memcached.

``python -m tests.integration.faults`` plays each once and prints what came of it; ``--long`` plays each ten times,
and kills 200 workers; ``--only`` picks some, ``--seed`` repeats a run, ``--soak`` does everything at random for so
many minutes. One after another: a machine has few cores. test_faults.py plays the quick set with the tests.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from random import randrange

from tests.integration.fleet import Plan
from tests.integration.outcome import Expect
from tests.integration.play import PROCESSES, Fault, play
from tests.integration.report import Results, progress, show
from tests.integration.scripts import at_random, flushes, freeze, kills, nothing, restarts, together
from tests.integration.surroundings import busy_machine, slow_cache

MARGIN = 0.05
PERIOD = 2.0 + MARGIN
SECONDS = 5 * PERIOD
SETTING_UP = 2.0
SILENCE = 2.0 + 0.5
# A loss is met by a look, once a second; then others may start for one second more, and a period is waited.
RETURN = PERIOD + 2.0
STARVED = 2 * PERIOD + 0.5

BINDING = Plan("", "100/2s", SECONDS)
THREADS = replace(BINDING, threads=4)
# So far away, and with a heavy tail, a slot is often learned of too late, and one process may wait for all of the run.
MANY = replace(BINDING, threads=32, seconds=12 * PERIOD)
LOSSES = replace(BINDING, seconds=8 * PERIOD)
LOCAL = replace(BINDING, on_cache_error="local", local_share=1 / PROCESSES)
TWO = replace(THREADS, endpoint="30/s")
HOT = Plan("", "20000/2s", SECONDS)
HOT_LOSSES = replace(HOT, seconds=7 * PERIOD)
SPARED = Expect(spared=0.1)

CALM = Fault("nothing", BINDING, nothing, Expect(silence=SILENCE))
FAULTS = (
    CALM,
    # A process that dies has slots in hand for its four threads, or a place with a credit of eight.
    Fault("kills", THREADS, kills(8, 0.5, 8.5, each=3), Expect(used=0.85, silence=SILENCE, lost=12)),
    Fault(
        "200 kills",
        replace(BINDING, seconds=20 * PERIOD),
        kills(200, 0.5, 38.0, each=10),
        Expect(silence=SILENCE, lost=2),
        long=True,
    ),
    Fault("freeze", THREADS, freeze(1.2, 5.0), Expect(used=0.9, recovery=RETURN, late=MARGIN)),
    Fault("flushes", LOSSES, flushes(1.0, 7.5), Expect(used=0.65, recovery=RETURN)),
    Fault("restarts", LOSSES, restarts(0.5, 1.0, 8.0), Expect(used=0.55, recovery=RETURN)),
    Fault("two limits, kills", TWO, kills(8, 0.5, 8.5, each=3), Expect(used=0.85, silence=SILENCE)),
    Fault(
        "two limits, freeze and restart",
        replace(TWO, seconds=6 * PERIOD),
        together(freeze(0.5, 2.0), restarts(0.5, 5.0)),
        Expect(used=0.6, recovery=RETURN),
    ),
    Fault("outage, local shares", LOCAL, restarts(4.0, 1.0), Expect(used=0.5, share=100 // PROCESSES)),
    Fault("hot, nothing", HOT, nothing, SPARED),
    Fault("hot, kills", HOT, kills(8, 0.5, 8.5, each=3), SPARED),
    Fault("hot, freeze", HOT, freeze(1.2, 5.0), SPARED),
    Fault(
        "hot, flush and restart",
        HOT_LOSSES,
        together(flushes(1.5), restarts(0.5, 7.5)),  # a loss during the recovery of another begins it anew
        replace(SPARED, recovery=RETURN),
    ),
    Fault("64 busy processes", THREADS, nothing, Expect(starved=STARVED), busy_machine(64)),
    Fault("cache 20 ms away", THREADS, nothing, Expect(used=0.9, starved=STARVED), slow_cache(0.02)),
    Fault("cache 200 ms away", MANY, nothing, Expect(used=0.85), slow_cache(0.2)),
    Fault("all at random", replace(THREADS, seconds=10 * PERIOD), at_random(1.0, 16.0, 1.5)),
)


def soak(minutes: float) -> Fault:
    """Return everything at random for so many minutes."""
    seconds = 60.0 * minutes
    return Fault(
        "soak", replace(THREADS, seconds=seconds), at_random(5.0, seconds - 5.0, 3.0), Expect(growth=(4096, 4))
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Play, show progress and the table; return 1 where a promise was broken."""
    given = _parser().parse_args(arguments)
    chosen = [fault for fault in FAULTS if fault.name in given.only] if given.only else list(FAULTS)
    chosen = [fault for fault in chosen if given.long or given.only or not fault.long]
    runs = [fault for fault in chosen for _ in range(given.runs or (10 if given.long and not fault.long else 1))]
    results, broken = _play_all([soak(given.soak)] if given.soak else runs, given.seed)
    show(results, sys.stdout)
    print(*broken, sep="\n")
    return 1 if broken else 0


def _play_all(runs: Sequence[Fault], seed: int | None) -> tuple[Results, list[str]]:
    results: Results = {}
    broken: list[str] = []
    calm, over = 0.97, 0.0
    with progress(sys.stderr, sum(fault.plan.seconds + SETTING_UP for fault in runs)) as report:
        for fault in runs:
            drawn = randrange(1_000_000) if seed is None else seed
            outcome = play(fault, drawn, lambda at, name=fault.name, so_far=over: report(name, so_far + at))  # type: ignore[misc]
            over += fault.plan.seconds + SETTING_UP
            calm = outcome.used if fault is CALM else calm
            results.setdefault(fault.name, []).append(outcome)
            broken += [f"{fault.name}, seed {drawn}: {what}" for what in outcome.broken(fault.expect, calm)]
    return results, broken


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.integration.faults", description=__doc__)
    parser.add_argument("--long", action="store_true", help="each fault ten times, and 200 kills")
    parser.add_argument("--runs", type=int, help="how often to play each fault")
    parser.add_argument("--only", action="append", default=[], metavar="FAULT", help="play this one; may be repeated")
    parser.add_argument("--seed", type=int, help="draw as that run did; without it, a new seed each run")
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="everything at random, for so long")
    return parser


if __name__ == "__main__":
    sys.exit(main())
