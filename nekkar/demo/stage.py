"""``nekkar demo`` on stage: from its options to two fleets, a table, and an exit code.

Whatever happens, the temporary folder and the limit's key are removed, and no process stays.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory
from typing import Any, TextIO
from urllib.parse import quote

from nekkar.core.cache import BaseCache, from_url
from nekkar.core.cache.redaction import redacted
from nekkar.core.errors import CacheError, ConfigurationError, counted, plain
from nekkar.core.quota import SECOND, Rate, quota, to_us, whole
from nekkar.core.shared.key import cache_key
from nekkar.demo.fleet import Outcome, run_fleet
from nekkar.demo.show import LABELS, Result, progress, show
from nekkar.demo.window import most_calls
from nekkar.demo.worker import Answer, Terms
from nekkar.plot import Mark, Panel, draw

MOST_WORKERS = 64
MOST_SECONDS = 600
MOST_CALLS = 100_000


@dataclass(frozen=True, slots=True)
class Plan:
    """What a demo does; ``cache``: a URL, or None for an SQLite file of its own."""

    workers: int
    rate: str
    rates: tuple[Rate, ...]
    seconds: float
    cache: str | None


def read_plan(workers: int, rate: str, seconds: float, cache: str | None) -> Plan:
    """Check the options; ConfigurationError names the one that can't work."""
    whole(workers, "workers", MOST_WORKERS)
    rates = quota(rate).rates
    span_us = to_us(seconds, "seconds", SECOND, MOST_SECONDS * SECOND)
    calls = min(each.count * -(-span_us // each.period_us) for each in rates)
    if calls > MOST_CALLS:
        raise ConfigurationError(
            f"rate {rate!r} allows {counted(calls, 'call')} in {plain(seconds)} s; give a lower rate or fewer seconds,"
            f" for {MOST_CALLS} at most"
        )
    if cache is not None and getattr(from_url(cache), "in_process", False):
        raise ConfigurationError(
            f"cache {redacted(cache)} is not shared by processes; use one such as sqlite:///file.db"
        )
    return Plan(workers, rate, rates, seconds, cache)


def perform(plan: Plan, out: TextIO, err: TextIO, as_json: bool, plot: str | None = None) -> int:
    """Run both fleets, show what came of it, draw it to the file ``plot``, and return the exit code.

    Blocks. Raises CacheError where the cache is away, ChildFailed where the processes can't begin.
    """
    name = f"demo-{token_hex(4)}"  # of its own: a demo a moment ago on the same cache has no part in it
    with _ended_by_sigterm(), _shared_cache(plan.cache, name) as url:
        with progress(err if as_json else out, plan.seconds) as report:
            fleets = []
            for label, terms in zip(LABELS, (Terms(url, name, plan.rate), None), strict=True):
                report(label, 0.0, Outcome())
                fleets.append(run_fleet(plan.workers, plan.rates, plan.seconds, terms, partial(report, label)))
        result = _result(plan, *fleets)
        if as_json:
            print(result.as_json(), file=out, flush=True)
        else:
            show(result, out)
    if plot:
        _draw(plan, result, plot)
    return _verdict(result, err)


def _result(plan: Plan, limited: Outcome, bare: Outcome) -> Result:
    most = most_calls(plan.rates, round(plan.seconds * SECOND))
    where = "an SQLite file in a temporary folder" if plan.cache is None else redacted(plan.cache)
    return Result(plan.workers, plan.rate, plan.seconds, where, most, limited, bare)


def _draw(plan: Plan, result: Result, path: str) -> None:
    panels = []
    for label, outcome in zip(LABELS, (result.limited, result.bare), strict=True):
        marks = [_mark(worker, answer) for worker, answer in outcome.calls]
        title = (
            f"{label}: {counted(outcome.total('accepted'), 'call')} accepted, {outcome.total('refused')} answered 429"
        )
        panels.append(Panel(title, plan.workers, marks, [("accepted", rate) for rate in plan.rates]))
    draw(panels, result.title, path)


def _mark(worker: int, answer: Answer) -> Mark:
    refused = answer.status != 200
    return Mark(worker, answer.asked, answer.asked + answer.waited, refused, None if refused else "accepted")


def _verdict(result: Result, err: TextIO) -> int:
    for label, outcome in zip(LABELS, (result.limited, result.bare), strict=True):
        for failure in outcome.failures:
            print(f"nekkar demo: {label}: {failure}", file=err)
    failed = result.limited.failures or result.bare.failures or result.limited.total("refused")
    return 1 if failed or not result.limited.total("accepted") else 0


@contextmanager
def _shared_cache(given: str | None, name: str) -> Iterator[str]:
    """Give the URL of a cache that answers; afterwards the limit ``name`` is not in it."""
    with ExitStack() as stack:
        url = stack.enter_context(_temporary()) if given is None else given
        cache: BaseCache = from_url(url)
        cache.get(cache_key(name))  # tells at once where it is away; and workers need not all make the file
        try:
            yield url
        finally:
            with suppress(CacheError):
                cache.delete(cache_key(name))


@contextmanager
def _temporary() -> Iterator[str]:
    with TemporaryDirectory(prefix="nekkar-demo-", ignore_cleanup_errors=True) as folder:
        yield f"sqlite:///{quote(str(Path(folder, 'limits.db')))}"


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM unwind the block, so that nothing is left behind."""

    def end(*_: Any) -> None:
        sys.exit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
