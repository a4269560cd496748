"""What people see: progress, and a table at the end; rich on a terminal, plain lines elsewhere.

The figures are the same on both, and in the JSON object.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO

from nekkar.core.errors import counted, plain
from nekkar.demo.fleet import Outcome
from nekkar.tables import Table
from nekkar.tables import show as show_tables

LABELS = ("with nekkar", "without")
WIDTH = 26
WITH_BAR = 72  # in fewer columns of a terminal the figures alone have room
LABEL_AND_TOLD = ("{task.description:<11}", "{task.fields[told]}")

Report = Callable[[str, float, Outcome], None]
Row = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Result:
    """Both outcomes, and what they are measured by: ``most`` calls are accepted from anybody in ``seconds``."""

    workers: int
    rate: str
    seconds: float
    cache: str
    most: int
    limited: Outcome
    bare: Outcome

    @property
    def title(self) -> str:
        return f"{counted(self.workers, 'worker')}, {plain(self.seconds)} s, a strict limit of {self.rate}"

    @property
    def note(self) -> str:
        return (
            f"Share: calls accepted in {plain(self.seconds)} s, of the {self.most} that the limit lets any client make."
            "\n"
            f"Cache: {self.cache}.\nWithout nekkar, a worker sleeps 0.1 s after a 429."
        )

    @property
    def rows(self) -> list[Row]:
        """Return the table's rows; the row of other answers only where there are some."""
        both = (self.limited, self.bare)
        rows = [
            _row("calls", [str(outcome.total("calls")) for outcome in both]),
            _row("accepted", [str(outcome.total("accepted")) for outcome in both]),
            _row("429s", [str(outcome.total("refused")) for outcome in both]),
            _row("other answers", [str(outcome.total("other")) for outcome in both]),
            _row("share of the limit used", [f"{self.share(outcome):.1%}" for outcome in both]),
            _row("calls per worker", [_per_worker(outcome) for outcome in both]),
            _row("cache operations per call", [_per_call(outcome) for outcome in both]),
        ]
        return [row for row in rows if row != ("other answers", "0", "0")]

    def share(self, outcome: Outcome) -> float:
        """Return the calls accepted in time as a part of the most that anybody could have had."""
        return outcome.total("in_time") / self.most

    def as_json(self) -> str:
        """Return everything as one JSON object on one line."""
        terms = {"workers": self.workers, "rate": self.rate, "seconds": self.seconds, "cache": self.cache}
        runs = {"with_nekkar": self._run(self.limited), "without": self._run(self.bare)}
        return json.dumps(terms | {"most_calls": self.most} | runs)

    def _run(self, outcome: Outcome) -> dict[str, Any]:
        operations, calls = outcome.total("operations"), outcome.total("calls")
        return {
            "calls": calls,
            "accepted": outcome.total("accepted"),
            "refused": outcome.total("refused"),
            "other": outcome.total("other"),
            "share": round(self.share(outcome), 4),
            "calls_per_worker": [tally.calls for tally in outcome.tallies],
            "cache_operations": operations,
            "cache_operations_per_call": round(operations / calls, 2) if operations and calls else None,
            "failures": outcome.failures,
        }


def show(result: Result, stream: TextIO) -> None:
    """Print the table and its note."""
    color = "red" if result.limited.total("refused") else "green"
    columns = ("", *(f">{label}" for label in LABELS))
    print(file=stream)
    show_tables([Table(result.title, columns, result.rows, result.note, {LABELS[0]: color})], stream)


@contextmanager
def progress(stream: TextIO, seconds: float) -> Iterator[Report]:
    """Give a function that shows a run's label, its seconds so far and its outcome so far."""
    if stream.isatty():
        with _bars(stream, seconds) as report:
            yield report
    else:
        yield _lines(stream, seconds)


def _row(title: str, values: Sequence[str]) -> Row:
    return title, values[0], values[1]


def _per_worker(outcome: Outcome) -> str:
    calls = [tally.calls for tally in outcome.tallies]
    each = "  ".join(map(str, calls))
    return each if len(each) <= WIDTH - 4 else f"{min(calls)} to {max(calls)}"


def _per_call(outcome: Outcome) -> str:
    operations, calls = outcome.total("operations"), outcome.total("calls")
    return f"{operations / calls:.1f}" if operations and calls else "-"


def _told(outcome: Outcome) -> str:
    return f"{counted(outcome.total('calls'), 'call')}, {outcome.total('refused')} answered 429"


def _lines(stream: TextIO, seconds: float) -> Report:
    """Print a line for each fifth of a run."""
    told: set[tuple[str, int]] = set()

    def report(label: str, elapsed: float, outcome: Outcome) -> None:
        fifth = int(elapsed / seconds * 5)
        if fifth and (label, fifth) not in told:
            told.add((label, fifth))
            print(f"{label}: {elapsed:.1f} of {plain(seconds)} s, {_told(outcome)}", file=stream, flush=True)

    return report


@contextmanager
def _bars(stream: TextIO, seconds: float) -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn
    from rich.table import Column

    label, told = (TextColumn(text, table_column=Column(overflow="fold")) for text in LABEL_AND_TOLD)
    console = Console(file=stream, highlight=False)
    columns = (label, BarColumn(24), told) if console.width >= WITH_BAR else (label, told)
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console, refresh_per_second=8) as shown:

        def report(label: str, elapsed: float, outcome: Outcome) -> None:
            if label not in tasks:
                tasks[label] = shown.add_task(label, total=seconds, told="")
            told = _told(outcome) if outcome.tallies else "workers are starting"
            shown.update(tasks[label], completed=elapsed, told=told)

        yield report
