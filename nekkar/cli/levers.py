"""``nekkar hold``, ``release`` and ``reset``: operate a limit for all who share it, after a confirmation."""

from __future__ import annotations

import argparse
import sys

from nekkar.cli.named import limits_named
from nekkar.cli.options import Commands, add_cache, add_command, add_json, open_cache, seconds
from nekkar.cli.show import duration, is_rich, show, show_json
from nekkar.cli.status import as_json, table
from nekkar.core.cache import BaseCache
from nekkar.core.cache.redaction import redacted
from nekkar.core.errors import ConfigurationError, CorruptLog
from nekkar.core.limiter import Limit, Nekkar
from nekkar.core.quota import Quota
from nekkar.rules import RuleTable

_HOLD = """\
Let no call of a limit start for a time, in any process, but for those due in the next 100 ms. A
longer hold stays.
"""
_RELEASE = "End a hold of a limit. Callers that wait for its end already keep their slots; later ones start at once."
_RESET = """\
Start a limit afresh, as though never used: the calls of the last period count no more, so the service may see up
to twice the limit.
"""
_EXIT_CODES = "Exit code: 0 if done, 1 if not confirmed or the cache is away, 2 for bad usage."


def add_to(commands: Commands) -> None:
    """Add the three commands to the parser."""
    summaries = {"hold": "let no call start for a while", "release": "end a hold", "reset": "start a limit afresh"}
    for name, about in (("hold", _HOLD), ("release", _RELEASE), ("reset", _RESET)):
        lever = add_command(commands, name, summaries[name], about, _EXIT_CODES)
        lever.add_argument("name", metavar="NAME", help="the limit's name")
        if name == "hold":
            lever.add_argument("duration", metavar="DURATION", help="such as 30s, 5m or 1h30m")
        add_cache(lever)
        lever.add_argument("--rules", metavar="FILE", help="a rule file that has the limit's rate")
        lever.add_argument("--rate", help="the limit's rate, such as 10/second (default: the one in use)")
        lever.add_argument("--yes", action="store_true", help="do not ask")
        add_json(lever)
        lever.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Ask for confirmation, operate the limit, and show its status. Blocks."""
    if options.rules and options.rate:
        raise ConfigurationError("--rules and --rate both tell the rate; give one")
    held = seconds(options.duration) if options.command == "hold" else 0.0
    cache = open_cache(options.cache)
    rules = RuleTable.from_file(options.rules) if options.rules else None
    limit = _limit(options, cache, rules)
    if not options.yes and not _confirmed(options, held):
        print(f"nekkar {options.command}: nothing was changed", file=sys.stderr)
        return 1
    _pull(options.command, limit, held)
    status = limit.status()
    if options.json:
        show_json(as_json(status), sys.stdout)
    else:
        show([table(f"After {options.command}", [status], is_rich(sys.stdout))], sys.stdout)
    return 0


def _limit(options: argparse.Namespace, cache: BaseCache, rules: RuleTable | None) -> Limit:
    """Return the limit. A reset needs no rate: it also replaces a corrupt value, which can't tell one."""
    try:
        (limit,) = limits_named(cache, [options.name], rules, options.rate)
        return limit
    except CorruptLog:
        if options.command != "reset":
            raise
        return Nekkar(cache)._limit_of(options.name, Quota((), 0, 0), None)


def _pull(command: str, limit: Limit, held: float) -> None:
    if command == "hold":
        limit.hold(held)
    elif command == "release":
        limit.release()
    else:
        limit.reset()


def _confirmed(options: argparse.Namespace, held: float) -> bool:
    """Ask on the terminal; raise ConfigurationError where there is no terminal."""
    if not sys.stdin.isatty():
        raise ConfigurationError("can't ask for confirmation without a terminal; give --yes")
    lasting = f" for {duration(held)}" if held else ""
    what = f"{options.command} limit {options.name!r}{lasting}, for all who share {redacted(options.cache)}"
    print(f"{what}? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
