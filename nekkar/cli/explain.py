"""``nekkar explain``: which rule a request falls under, why, and whether it would have to wait now."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from nekkar.cli.named import from_rules
from nekkar.cli.options import Commands, add_cache, add_command, add_json, open_cache
from nekkar.cli.show import duration, is_rich, show, show_json
from nekkar.cli.status import as_json, table
from nekkar.core.errors import ConfigurationError, plain
from nekkar.core.limiter import Nekkar, Status
from nekkar.rules import Explanation, Match, RuleTable
from nekkar.rules.reasons import settings_of
from nekkar.rules.rule import check_request

_ABOUT = """\
Tell which rule a request falls under, and why not one before it, the name and terms of its limit, and, with a
cache, how the limit stands and what would become of the request now. Nothing is sent, and no slot is taken.
"""
_EXIT_CODES = "Exit code: 0 if told, 1 if the cache is away, 2 for bad usage."


def add_to(commands: Commands) -> None:
    """Add the command to the parser."""
    explain = add_command(commands, "explain", "which rule a request falls under, and why", _ABOUT, _EXIT_CODES)
    explain.add_argument("method", metavar="METHOD", help="such as GET")
    explain.add_argument("url", metavar="URL", help="the request's URL")
    explain.add_argument("--rules", metavar="FILE", required=True, help="the rule file")
    header = "a header of the request, for limits that are named by one; may be repeated"
    explain.add_argument("--header", action="append", default=[], metavar="NAME:VALUE", help=header)
    body = "the request's JSON body, for limits that are named by a field of it"
    explain.add_argument("--body", metavar="JSON", help=body)
    add_cache(explain)
    add_json(explain)
    explain.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Explain the request. Blocks for one cache command where there is a cache."""
    check_request(options.method, options.url)
    rules = RuleTable.from_file(options.rules)
    explanation = rules.explain(options.method, options.url, dict(map(_header, options.header)), options.body)
    statuses: list[Status] = []
    if not options.json:
        print(explanation, flush=True)  # before the cache is asked: it may be away
    if explanation.match and options.cache:
        limiter = Nekkar(open_cache(options.cache))
        statuses = [from_rules(limiter, name, rules).status() for name in explanation.match.names]
    if options.json:
        show_json(_as_json(explanation, statuses), sys.stdout)
    elif explanation.match and statuses:
        waits = [match.max_wait for match in explanation.match.parts if match.max_wait is not None]
        last = max(statuses, key=lambda status: status.next_at - status.at)
        print(f"  now: {_outcome(min(waits, default=None), last)}\n", flush=True)
        show([table("", statuses, is_rich(sys.stdout))], sys.stdout)
    return 0


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise ConfigurationError("a --header has no colon (it is not shown, since it may be a secret); give NAME:VALUE")
    return name.strip(), value.strip()


def _outcome(max_wait: float | None, status: Status) -> str:
    """Say how long a call of cost 1 would wait now, for the limit that would let it wait longest."""
    wait = status.next_at - status.at
    why = "the limit is held" if status.hold_until else "the limit is used up"
    if wait < 0.05:
        return "the call would start at once"
    if max_wait is not None and wait > max_wait:
        return f"the call would be refused: {why} for {duration(wait)}, and max_wait is {plain(max_wait)} s"
    return f"the call would wait {duration(wait)}: {why}"


def _as_json(explanation: Explanation, statuses: list[Status]) -> dict[str, Any]:
    """Return the explanation for JSON; with several limits, ``limit`` and ``status`` are of the first."""
    rule: dict[str, Any] | None = None
    if explanation.rule:
        more = {"cost": explanation.rule.cost, "headroom": explanation.rule.headroom}
        rule = {"number": explanation.number, "url": explanation.rule.url, "limit": explanation.rule.limit, **more}
    limits = [_limit_as_json(match) for match in explanation.match.parts] if explanation.match else []
    near = [{"number": miss.number, "url": miss.rule.url, "why_not": list(miss.why_not)} for miss in explanation.near]
    now = list(map(as_json, statuses))
    return {
        "method": explanation.method,
        "url": explanation.url,
        "rule": rule,
        "unmatched": explanation.unmatched,
        "captured": dict(explanation.captured),
        "limit": limits[0] if limits else None,
        "limits": limits,
        "near": near,
        "status": now[0] if now else None,
        "statuses": now,
    }


def _limit_as_json(match: Match) -> dict[str, Any]:
    settings = settings_of(match)
    return {"name": match.name, "rate": settings.pop("rate"), **settings}
