"""``nekkar status``: the status of limits, by one read of the cache for each limit; nothing is written."""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from nekkar.cli.named import limits_named
from nekkar.cli.options import Commands, add_cache, add_command, add_json, open_cache
from nekkar.cli.show import Table, bar, duration, is_rich, show, show_json
from nekkar.core.cache.redaction import redacted
from nekkar.core.cost import CALLS
from nekkar.core.errors import CacheError, ConfigurationError, plain
from nekkar.core.limiter import Limit, Status
from nekkar.rules import RuleTable

LEAST_EVERY = 0.5

_UNITS = {1.0: "second", 60.0: "minute", 3600.0: "hour", 86_400.0: "day"}

_ABOUT = """\
Show how much of each window of each limit is used, the next free slot, whether the limit is held, and the last
slot taken. Reads the cache once a limit (and once more where no rules tell the rate), and changes no limit. To know
memcached's clock it stores, now and then, a key that is gone at once.
"""
_EXIT_CODES = "Exit code: 0 if all limits were read, 1 if the cache is away or has no such limit, 2 for bad usage."


def add_to(commands: Commands) -> None:
    """Add the command to the parser."""
    status = add_command(commands, "status", "how limits stand", _ABOUT, _EXIT_CODES)
    names = "limits; for a template such as user-{user} a name it spells, user-42 (default: all in the rules)"
    status.add_argument("names", nargs="*", metavar="NAME", help=names)
    add_cache(status)
    status.add_argument("--rules", metavar="FILE", help="a rule file that has the limits' rates")
    status.add_argument("--watch", action="store_true", help="show it again and again, until interrupted")
    every = f"seconds between two looks of --watch, {LEAST_EVERY} at least (default: %(default)s)"
    status.add_argument("--every", type=float, default=1.0, metavar="S", help=every)
    add_json(status)
    status.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Show the limits, once or again and again. Blocks."""
    if not options.every >= LEAST_EVERY:
        raise ConfigurationError(f"--every {plain(options.every)} is out of bounds; give {LEAST_EVERY} s or more")
    cache = open_cache(options.cache)
    rules = RuleTable.from_file(options.rules) if options.rules else None
    limits = limits_named(cache, options.names, rules, None)
    title = f"Limits on {redacted(options.cache)}"
    if options.watch:
        return _watch(limits, title, options.every, options.json)
    statuses = [limit.status() for limit in limits]
    if options.json:
        show_json([as_json(status) for status in statuses], sys.stdout)
    else:
        show([table(title, statuses, is_rich(sys.stdout))], sys.stdout)
    return 0


def table(title: str, statuses: Sequence[Status], bars: bool, note: str = "") -> Table:
    """Return a table with a row for each window."""
    rows = [row for status in statuses for row in _rows(status, bars)]
    return Table(title, ("limit", "window", ">used", "", ">left", "next slot", "held", "last slot"), rows, note)


def as_json(status: Status) -> dict[str, Any]:
    """Return a status for JSON; times are Unix time in seconds on the limit's clock."""
    windows = [asdict(window) for window in status.windows]
    times = {"at": status.at, "next_at": status.next_at, "hold_until": status.hold_until, "last_at": status.last_at}
    return {"name": status.name, "windows": windows, **times}


def next_slot(status: Status) -> str:
    """Say when the next slot is free."""
    wait = status.next_at - status.at
    return f"in {duration(wait)}" if wait >= 0.05 else "now"


def _rows(status: Status, bars: bool) -> list[tuple[str, ...]]:
    held = f"for {duration(status.hold_until - status.at)}" if status.hold_until else "-"
    last = "-" if status.last_at is None else f"{duration(status.at - status.last_at)} ago"
    rows = list[tuple[str, ...]]()
    if not status.windows:  # reset and not used since, so the log has no rate
        return [(status.name, "-", "-", "", "-", next_slot(status), held, last)]
    for window in status.windows:
        unit = "" if window.unit == CALLS else f" {window.unit}"
        terms = f"{window.limit}{unit}/{_UNITS.get(window.period, f'{plain(window.period)} s')}"
        use = bar(window.used / window.limit) if bars else ""
        own = (next_slot(status), held, last) if not rows else ("", "", "")
        rows.append(("" if rows else status.name, terms, str(window.used), use, str(window.remaining), *own))
    return rows


def _watch(limits: Sequence[Limit], title: str, every: float, as_lines: bool) -> int:
    """Show the limits again and again; if the cache is away, say so and try again."""
    if not as_lines and is_rich(sys.stdout):
        from rich.live import Live

        with Live(auto_refresh=False, vertical_overflow="visible") as live:
            return _again(lambda: live.update(_look(limits, title, True).rich(live.console), refresh=True), every)
    if as_lines:
        return _again(lambda: show_json([as_json(limit.status()) for limit in limits], sys.stdout), every)
    return _again(lambda: print(_look(limits, title, False).plain(), "", sep="\n", flush=True), every)


def _look(limits: Sequence[Limit], title: str, bars: bool) -> Table:
    statuses, note = list[Status](), ""
    for limit in limits:
        try:
            statuses.append(limit.status())
        except CacheError as error:
            note = str(error)
            break
    return table(title, statuses, bars, note)


def _again(look: Callable[[], object], every: float) -> int:
    try:
        while True:
            look()
            threading.Event().wait(every)
    except KeyboardInterrupt:
        return 0
