"""The command line: ``nekkar demo``.

Nothing but the parser is imported before a command runs, so that ``--help`` and ``--version`` need no extra.
Exit codes: 0 all well; 1 the command did not get what it wanted; 2 bad usage; 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from nekkar.core.errors import ConfigurationError, NekkarError

_DEMO = """\
Run several worker processes against a strict local server that answers 429 past its limit: first with nekkar,
then without. The server keeps an exact sliding window and counts accepted calls alone; a worker that meets a 429
sleeps 0.1 s. Both times the workers begin at one instant and call for the same time.
"""
_EXIT_CODES = "Exit code: 0 if the run with nekkar met no 429, 1 if it did or a worker failed, 2 for bad usage."


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (default: the process's own) and return its exit code.

    Blocks until the command is done. Raises SystemExit where argparse does: for help and bad usage.
    """
    options = _parser().parse_args(argv)
    try:
        return _demo(options)
    except ConfigurationError as error:
        return _said(f"nekkar demo: {error}", 2)
    except NekkarError as error:
        return _said(f"nekkar demo: {error}", 1)
    except KeyboardInterrupt:
        return _said("nekkar demo: interrupted", 130)
    except BrokenPipeError:  # whoever read the output has gone; nor can Python's own last flush reach it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nekkar", description="One exact rate limit shared by a whole fleet.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"nekkar {_version()}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    summary = "see worker processes stay under a strict limit"
    _add_options(commands.add_parser("demo", help=summary, description=_DEMO, epilog=_EXIT_CODES, allow_abbrev=False))
    return parser


def _add_options(demo: argparse.ArgumentParser) -> None:
    rate = "the server's limit, such as '10/second; 300/minute' (default: %(default)s)"
    cache = "the shared cache, such as memcached://localhost:11211 (default: an SQLite file in a temporary folder)"
    demo.add_argument("--workers", type=int, default=4, metavar="N", help="worker processes (default: %(default)s)")
    demo.add_argument("--rate", default="20/second", help=rate)
    demo.add_argument("--seconds", type=float, default=10.0, metavar="S", help="how long they call (default: 10)")
    demo.add_argument("--cache", metavar="URL", help=cache)
    demo.add_argument("--json", action="store_true", help="print one JSON object; progress goes to stderr")


def _demo(options: argparse.Namespace) -> int:
    missing = [name for name in ("requests", "rich") if find_spec(name) is None]
    if missing:
        return _said(f"nekkar demo: needs {' and '.join(missing)}; install them: pip install 'nekkar[cli]'", 2)
    from nekkar.demo.stage import perform, read_plan

    plan = read_plan(options.workers, options.rate, options.seconds, options.cache)
    return perform(plan, sys.stdout, sys.stderr, options.json)


def _said(text: str, code: int) -> int:
    print(text, file=sys.stderr)
    return code


def _version() -> str:
    try:
        return version("nekkar")
    except PackageNotFoundError:
        return "(not installed, so its version is not known)"
