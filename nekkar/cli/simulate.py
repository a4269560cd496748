"""``nekkar simulate``: how long a fleet takes for many calls, and which limit it waits for; nothing is called."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from nekkar.cli.named import limit_named
from nekkar.cli.options import Commands, add_command, add_json, needs, seconds
from nekkar.cli.show import Table, duration, is_rich, show, show_json
from nekkar.core.errors import ConfigurationError, counted, shown
from nekkar.core.quota import SECOND, Rate, to_us, whole
from nekkar.plan import Ask, Hold, Start, Tally, Usage, asked, read_calls, read_log, run
from nekkar.rules import RuleTable

MOST_WORKERS = 10_000
MOST_DRAWN = 100_000

_ABOUT = """\
Run a plan on paper: a number of workers make calls, each one at a time and the next as soon as it is free, under the
limits of a rule file. Tells how long it takes, what binds and where the workers wait. No call is made, and no cache
is needed; what a cache and a machine add, some milliseconds a call, is not in it.
"""
_EXIT_CODES = "Exit code: 0 if told, 1 if a call was refused for its max_wait, 2 for bad usage."


def add_to(commands: Commands) -> None:
    """Add the command to the parser."""
    simulate = add_command(commands, "simulate", "how long many calls will take, and why", _ABOUT, _EXIT_CODES)
    simulate.add_argument("--rules", metavar="FILE", required=True, help="the rule file")
    source = simulate.add_mutually_exclusive_group(required=True)
    calls = "what is called, in order, each as 'METHOD URL COUNT'"
    source.add_argument("--calls", nargs="+", metavar="CALLS", help=calls)
    log = (
        "a log of requests in place of --calls: CSV with a head, JSON lines (url, method, latency, cost, body), or HAR"
    )
    source.add_argument("--log", metavar="FILE", help=log)
    simulate.add_argument("--workers", type=int, default=1, metavar="N", help="how many workers (default: 1)")
    latency = "seconds that a call takes, where the log does not tell (default: %(default)s)"
    simulate.add_argument("--latency", type=float, default=0.1, metavar="S", help=latency)
    hold = "what if the service holds a limit, as 'NAME AT DURATION', such as 'github 10s 1m'; may be repeated"
    simulate.add_argument("--hold", action="append", default=[], metavar="HOLD", help=hold)
    simulate.add_argument("--plot", metavar="FILE", help="draw it, as .png, .svg or .pdf")
    add_json(simulate)
    simulate.set_defaults(run=run_plan)


def run_plan(options: argparse.Namespace) -> int:
    """Simulate the calls and print the result."""
    whole(options.workers, "workers", MOST_WORKERS)
    to_us(options.latency, "latency")
    if options.plot:
        _can_draw(options.plot)
    rules = RuleTable.from_file(options.rules)
    calls = read_log(options.log) if options.log else read_calls(options.calls)
    holds = [_hold(text, rules) for text in options.hold]
    asks, tally, drawn = list(asked(calls, rules, options.latency)), Tally(options.workers), list[Start]()
    for start in run(_shown(asks), options.workers, holds):
        tally.add(start)
        if options.plot and len(drawn) < MOST_DRAWN:
            drawn.append(start)
    if options.json:
        show_json(_as_json(tally), sys.stdout)
    else:
        show([_table(tally)], sys.stdout)
    if options.plot:
        _draw(options.plot, tally, asks, drawn, holds)
    return 1 if any(usage.refused for usage in tally.limits.values()) else 0


def _shown(asks: Sequence[Ask]) -> Iterable[Ask]:
    """Yield the calls, with a progress bar on a terminal."""
    if not is_rich(sys.stderr):
        return asks
    from rich.console import Console
    from rich.progress import track

    return track(asks, "simulating", console=Console(stderr=True), transient=True)


def _hold(text: str, rules: RuleTable) -> Hold:
    words = text.rsplit(maxsplit=2)  # a name may have spaces
    if len(words) != 3:
        raise ConfigurationError(f"hold must be 'NAME AT DURATION', such as 'github 10s 1m', got {shown(text)}")
    limit_named(words[0], rules)
    return Hold(words[0], round(seconds(words[1]) * SECOND), round(seconds(words[2]) * SECOND))


def _table(tally: Tally) -> Table:
    share = f"{tally.waiting_share:.0%} of the workers' time is waiting, {tally.calling_share:.0%} calling"
    by = f"{counted(tally.calls, 'call')} by {counted(tally.workers, 'worker')}"
    title = f"{by} {'takes' if tally.calls == 1 else 'take'} {duration(tally.seconds)}; {share}"
    columns = ("limit", ">calls", ">refused", ">that wait", ">mean wait", ">longest wait", "bound by")
    return Table(title, columns, list(_rows(tally)), tally.verdict())


def _rows(tally: Tally) -> Iterator[tuple[str, ...]]:
    for name, usage in sorted(tally.limits.items(), key=lambda item: -item[1].waited):
        mean = duration(usage.waited / usage.waits) if usage.waits else "-"
        longest = duration(usage.longest) if usage.waits else "-"
        counts = (str(usage.calls), str(usage.refused), str(usage.waits))
        yield (name or "(unlimited)", *counts, mean, longest, usage.bound or "-")


def _as_json(tally: Tally) -> dict[str, Any]:
    limits = [_limit_as_json(name, usage) for name, usage in tally.limits.items()]
    shares = {"waiting_share": round(tally.waiting_share, 4), "calling_share": round(tally.calling_share, 4)}
    per_worker = [tally.per_worker[worker] for worker in range(tally.workers)]
    whole_plan = {"calls": tally.calls, "workers": tally.workers, "seconds": round(tally.seconds, 6), **shares}
    return whole_plan | {"binding": tally.binding, "limits": limits, "calls_per_worker": per_worker}


def _limit_as_json(name: str | None, usage: Usage) -> dict[str, Any]:
    counts = {"name": name, "calls": usage.calls, "refused": usage.refused, "waits": usage.waits}
    bounds = {bound: round(waited, 6) for bound, waited in usage.bounds.items()}
    return counts | {"waited": round(usage.waited, 6), "longest": round(usage.longest, 6), "bounds": bounds}


def _can_draw(path: str) -> None:
    needs("plot", "matplotlib")
    from nekkar.plot import check_path

    check_path(path)


def _draw(path: str, tally: Tally, asks: Sequence[Ask], starts: Sequence[Start], holds: Sequence[Hold]) -> None:
    from nekkar.plot import MOST_WINDOWS, Mark, Panel, draw

    terms = {part.name: part.terms.rates for ask in asks for part in ask.parts}
    busiest = sorted(terms, key=lambda name: -tally.limits[name].waited)
    windows: list[tuple[str, Rate]] = [(name, rate) for name in busiest for rate in terms[name]][:MOST_WINDOWS]
    marks = [Mark(one.worker, one.asked / SECOND, one.at / SECOND, one.refused, one.name) for one in starts]
    spans = [(hold.name, hold.at / SECOND, (hold.at + hold.us) / SECOND) for hold in holds]
    draw([Panel("", tally.workers, marks, windows, spans)], _table(tally).title, path)
