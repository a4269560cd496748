"""``nekkar demo``: see worker processes stay under a strict limit."""

from __future__ import annotations

import argparse
import sys

from nekkar.cli.options import Commands, add_command, needs
from nekkar.plot import check_path

_ABOUT = """\
Run several worker processes against a strict local server that answers 429 past its limit: first with nekkar,
then without. The server keeps an exact sliding window and counts accepted calls alone; a worker that meets a 429
sleeps 0.1 s. Both times the workers begin at one instant and call for the same time.
"""
_EXIT_CODES = "Exit code: 0 if the run with nekkar met no 429, 1 if it did or a worker failed, 2 for bad usage."


def add_to(commands: Commands) -> None:
    """Add the command to the parser."""
    demo = add_command(commands, "demo", "see worker processes stay under a strict limit", _ABOUT, _EXIT_CODES)
    rate = "the server's limit, such as '10/second; 300/minute' (default: %(default)s)"
    cache = "the shared cache, such as memcached://localhost:11211 (default: an SQLite file in a temporary folder)"
    demo.add_argument("--workers", type=int, default=4, metavar="N", help="worker processes (default: %(default)s)")
    demo.add_argument("--rate", default="20/second", help=rate)
    demo.add_argument("--seconds", type=float, default=10.0, metavar="S", help="how long they call (default: 10)")
    demo.add_argument("--cache", metavar="URL", help=cache)
    demo.add_argument("--plot", metavar="FILE", help="draw both runs, as .png, .svg or .pdf")
    demo.add_argument("--json", action="store_true", help="print one JSON object; progress goes to stderr")
    demo.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run both fleets. Blocks."""
    needs("cli", "requests", "rich")
    if options.plot:
        needs("plot", "matplotlib")
        check_path(options.plot)
    from nekkar.demo.stage import perform, read_plan

    plan = read_plan(options.workers, options.rate, options.seconds, options.cache)
    return perform(plan, sys.stdout, sys.stderr, options.json, options.plot)
